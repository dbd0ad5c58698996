"""Situations of scripts/boot-test that migrate by docs/migrate-from-iptables-restore.md, with its commands."""

from . import checks
from .checks import want
from .situations import situation

RULES = """*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -s 192.0.2.2/32 -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""
RULES6 = RULES.replace("-A INPUT -s 192.0.2.2/32 -j ACCEPT\n", "-A INPUT -p ipv6-icmp -j ACCEPT\n")


def without_peerwall(lab):
    """The node before the migration."""
    lab.node.sh(
        "systemctl disable -q --now peerwall.service peerwall-boot.service; peerwall remove; "
        "rm -rf /etc/peerwall/* /var/lib/peerwall"
    )


def migrate(lab, files, stop):
    """The steps of the page on the migration, with its commands."""
    v4, v6 = files
    lab.node.sh(
        f"peerwall import {v4} {v6} >/root/imported.toml 2>/root/report && peerwall check /root/imported.toml"
    )
    lab.node.sh(
        "install -D -m 600 /root/imported.toml /etc/peerwall/policy.toml && "
        "systemd-run --scope --quiet peerwall apply --force --confirm 60s && "
        "systemd-run --scope --quiet peerwall confirm && "
        "systemctl enable -q --now peerwall-boot.service peerwall.service"
    )
    lab.node.sh(stop + f"; mv {v4} {v4}.old; mv {v6} {v6}.old")
    lab.node.sh(f"/payload/sources/scripts/remove-old-rules --v4 {v4}.old --v6 {v6}.old")


@situation(
    "migration from netfilter-persistent, and a reboot",
    undo="dpkg --purge iptables-persistent netfilter-persistent >/dev/null 2>&1",
)
def from_netfilter_persistent(lab):
    without_peerwall(lab)
    lab.write("/etc/iptables/rules.v4", RULES)
    lab.write("/etc/iptables/rules.v6", RULES6)
    lab.node.sh(
        "DEBIAN_FRONTEND=noninteractive dpkg -i /payload/netfilter-persistent_*.deb "
        "/payload/iptables-persistent_*.deb >/dev/null 2>&1; systemctl restart netfilter-persistent.service; "
        "iptables -S INPUT | grep -q 'P INPUT DROP'"
    )
    lab.probe()
    migrate(
        lab,
        ("/etc/iptables/rules.v4", "/etc/iptables/rules.v6"),
        "systemctl disable -q netfilter-persistent.service",
    )
    return rebooted(lab, most_lost=60)


def rebooted(lab, most_lost=None):
    """Ends the probes of the migration, reboots, and returns the probes of the reboot."""
    first = lab.probed()
    checks.never_answered(first, "during the migration")
    if most_lost is not None:
        checks.few_lost(first, "during the migration", most_lost)
    probes = lab.reboot()
    want("P INPUT ACCEPT" in lab.node.sh("iptables -S INPUT"), "the old rules are back after the reboot")
    return probes


RESTORE_UNIT = """[Unit]
Description=Load saved rules
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target
Wants=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/{program} {file}
[Install]
WantedBy=basic.target
"""


@situation(
    "migration from iptables-restore.service written by hand, and a reboot",
    undo="systemctl disable -q iptables-restore.service ip6tables-restore.service; "
    "/payload/sources/scripts/uninstall; rm -f /etc/systemd/system/ip*tables-restore.service*; "
    "systemctl daemon-reload; dpkg -i /payload/peerwall_*.deb",
)
def from_restore_units(lab):
    without_peerwall(lab)
    for family, rules in (("", RULES), ("6", RULES6)):
        file = f"/var/lib/ip{family}tables/rules-save"
        lab.write(file, rules)
        lab.write(
            f"/etc/systemd/system/ip{family}tables-restore.service",
            RESTORE_UNIT.format(program=f"ip{family}tables-restore", file=file),
        )
    lab.node.sh(
        "systemctl daemon-reload; systemctl enable -q --now iptables-restore.service ip6tables-restore.service"
    )
    lab.probe()
    # The page installs by this script, not by a package.
    install = "/payload/sources/scripts/install --binary /payload/peerwall >/dev/null"
    lab.node.sh(f"dpkg --purge peerwall >/dev/null 2>&1; {install}")
    migrate(
        lab, ("/var/lib/iptables/rules-save", "/var/lib/ip6tables/rules-save"), f"{install} --restore-units"
    )
    probes = rebooted(lab)
    want(
        lab.node.run("systemctl is-active iptables-restore.service")[0] == 0,
        "the unit of the old name is not active",
    )
    return probes
