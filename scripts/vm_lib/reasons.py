"""Known reasons of failures on kernels: patterns of kernel, check and detail, and the reason.

A failure without a reason here is reported as unexplained, and makes scripts/kernels fail. A reason for a
limit of the kernel says since which version it is gone; a reason for a bug names the bug.
"""

import re

# Kernel, check or test, detail of the failure, reason.
REASONS = [
    (
        r"^(5\.10|6\.1)\b",
        r"^owner$",
        r"another process can delete",
        "Table flags `owner` and `persist` together need Linux 6.9. Before, the agent repairs the table "
        "instead.",
    ),
    (
        r"^(5\.10|6\.1)\b",
        r"^restart keeps rules$",
        r"the table that is there cannot be owned",
        "Versions before 6dea830 have a bug: where the kernel has no table owners, every start of the agent "
        "rebuilds the table, in one transaction.",
    ),
    (
        r"^5\.10",
        r"^routed overlay$",
        r"fib saddr \. iif oif missing.*EOPNOTSUPP",
        "Linux 5.10 refuses `fib saddr . iif oif` in the input and forward hooks; 6.1 accepts it. iptables "
        "cannot "
        "express such overlays either.",
    ),
    (
        r"without-nf_tables",
        r"^(load|render|traffic|owner|agent|restart|trial|revocation|routed|iptables-nft|import)",
        r"",
        "The check needs nf_tables. By iptables-legacy, peerwall does its work: see that row, and the units.",
    ),
]

# How the results without modules are to be read.
LACKS = [
    "Without `nft_log`, `nft_limit` or `nfnetlink_log`: versions that refuse the whole policy have a bug, "
    "fixed since 2a455f2. Only log rules and limits need these modules.",
    "Without `xt_limit`: versions before 5e95569 refuse the whole policy for want of the rate of its log rules.",
    "Without `xt_set`, or one of the types of ipsets: versions before 6dea830 refuse the policy; since then each "
    "address has a rule, as without `ip_set`.",
    "Versions before 747e0cd name every option that a refused rule uses, not only those that may be missing.",
    "Without `xt_conntrack` or `ip_tables` beside nf_tables, the kernel cannot filter as the policy says: "
    "refusing is right.",
]


def reason(kernel, check, detail):
    for of_kernel, of_check, of_detail, text in REASONS:
        if re.search(of_kernel, kernel) and re.search(of_check, check) and re.search(of_detail, detail):
            return text
    return None
