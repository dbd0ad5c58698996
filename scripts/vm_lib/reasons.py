"""Known reasons of failures on kernels: patterns of kernel, check and detail, and the reason.

A failure without a reason here is reported as unexplained, and makes scripts/kernels fail. A reason for a
limit of the kernel says since which version it is gone; a reason for a bug names the bug.
"""

import re

# Kernel, check or test, detail of the failure, reason.
REASONS = [
    (
        r"^(5\.10|6\.1)\b",
        r"^(owner$|agent::repair::what_is_owned_)",
        r"another process can delete|got_in",
        "Table flags `owner` and `persist` together need Linux 6.9. Before, the agent repairs the table "
        "instead.",
    ),
    (
        r"^5\.10",
        r"^(routed overlay$|cases::0[34]-|import::rules_and_imported_policies_)",
        r"fib saddr \. iif oif missing.*EOPNOTSUPP",
        "Before 5.19, Linux refuses `fib saddr . iif oif` in the input and forward hooks, and iptables cannot "
        "express such overlays. `apply` says so in 4 lines, and changes nothing.",
    ),
    (
        r"^5\.10",
        r"^trace::a_trace_leaves_nothing_",
        r"the table of a killed trace is still there",
        "Before 5.12, the kernel does not delete the table of a `trace` that was killed; the next one does.",
    ),
    (
        r"without-nf_tables",
        r"^(load|render|traffic|owner|agent|restart|trial|revocation|routed|iptables-nft|import)",
        r"",
        "The check needs nf_tables. By iptables-legacy, peerwall does its work: see that row, and the units.",
    ),
    (
        r"without-nf_tables",
        r"^(explain --live|doctor)$",
        r"iptables-nft .*exit status 4",
        "The check loads rules by iptables-nft, which needs nf_tables.",
    ),
    (
        r"without-nf_tables",
        r"^(test|verify|trace)$",
        r"this kernel has no nf_tables",
        "`test --kernel`, `apply --verify kernel` and `trace` need nf_tables (`CONFIG_NF_TABLES`). Without it, "
        "they change nothing, and say that this kernel has no nf_tables.",
    ),
    (
        r"without-ip_tables",
        r"^(iptables-legacy|explain --live|doctor)$",
        r"iptables-legacy",
        "The check needs iptables-legacy, which is not there.",
    ),
    (
        r"^6\.1-without-ip_tables",
        r"^iptables-nft$",
        r"Extension icmp revision 0 not supported",
        "In Linux 6.1, the match of ICMP types is in the module ip_tables, also for iptables-nft. `apply` names "
        "it, and changes nothing. The backend nft, which is the default, does not need it.",
    ),
]

# How the results without modules are to be read.
LACKS = [
    "Without `nft_log`, `nft_limit`, `nfnetlink_log` or `xt_limit`: log rules are left out, or "
    "iptables is used. Every rule filters.",
    "Without `xt_set`, or one of the types of ipsets: each address has a rule, as without `ip_set`.",
    "An option that other, accepted rules need too is not named: the kernel has it.",
    "Without `xt_conntrack` or `ip_tables` beside nf_tables, the kernel cannot filter as the policy says: "
    "refusing is right.",
]


def reason(kernel, check, detail):
    for of_kernel, of_check, of_detail, text in REASONS:
        if re.search(of_kernel, kernel) and re.search(of_check, check) and re.search(of_detail, detail):
            return text
    return None
