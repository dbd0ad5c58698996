"""The situations of scripts/boot-test. Each returns what it observed, or raises `Wrong`."""

import time

from . import checks, kernels
from .boot import NODE, POLICY, silence
from .checks import until, want
from .common import CACHE, Problem, say

# A second policy, which can be recognized by a port that nothing listens at.
TRIED = POLICY.replace("22/tcp", '22/tcp", "9997/tcp')
SITUATIONS = {}


class Situation:
    """`run` brings it about and returns the probes; the checks that follow are the same for all."""

    def __init__(self, run, title, image="bookworm", **expected):
        self.run, self.title, self.image, self.expected = run, title, image, expected


def situation(title, **expected):
    """Registers a function. `undo` follows it; `peer` tells whether peers pass at the end, and
    `says` what `status` must contain. With `whole`, it makes all checks and returns the result."""

    def register(function):
        SITUATIONS[function.__name__.replace("_", "-")] = Situation(function, title, **expected)
        return function

    return register


def run(lab, name):
    """Runs one situation. Everything that fails is a result."""
    chosen = SITUATIONS[name]
    say(f"{name}: {chosen.title}")
    result = {"title": chosen.title, "good": True, "why": ""}
    lab.seen = None
    try:
        probes = chosen.run(lab)
        if chosen.expected.get("whole"):
            return {**result, **probes}
        result["units"] = lab.units()
        result["headline"], result["status_seconds"] = lab.headline()
        result["backend"] = lab.backend()
        keep(result, probes)
        shown = lab.node.run("timeout 100 peerwall status 2>&1")[1].decode()
        result["shown"] = shown
        for text in chosen.expected.get("says", ()):
            want(text in shown, f"`status` does not say {text!r}\n{shown}")
        check(lab, probes, chosen.expected)
        if probes and probes["stranger"]["answered"]:
            spans = ", ".join(f"{last - first:.1f} s" for first, last in probes["stranger"]["spans"])
            result["limit"] = f"open for {spans}: {chosen.expected['limit']}"
    except Problem as wrong:
        if "probes" not in result:
            keep(result, lab.seen)
        result.update(good=False, why=f"{wrong}\n{journal(lab)}")
    finally:
        undo(lab, chosen.expected.get("undo"))
    return result


def keep(result, probes):
    if probes:
        result["probes"] = probes
        result["silence"] = f"{silence(probes):.1f} s" if len(probes["peer"]["spans"]) > 1 else ""


def journal(lab):
    try:
        return lab.node.run("journalctl -b -u 'peerwall*' -o short-monotonic --no-pager -n 25", 30)[
            1
        ].decode()
    except (Problem, OSError, TimeoutError):
        return ""


def undo(lab, command):
    if command:
        try:
            command(lab) if callable(command) else lab.node.run(command, 60)
        except (Problem, OSError, TimeoutError) as problem:
            say(f"undo: {problem}")


def check(lab, probes, expected):
    """The stranger was never answered, reaches ssh, and the peer passes."""
    if probes and not expected.get("limit"):
        checks.never_answered(probes, "meanwhile")
    checks.ports(lab)
    lab.probe(4)
    time.sleep(6)
    after = lab.probed()
    checks.never_answered(after, "at the end")
    passes = expected.get("peer", True)
    want(
        bool(after["peer"]["answered"]) == passes,
        f"the peer is {'not ' if passes else ''}answered at the end",
    )
    if "lost" in expected:
        checks.few_lost(probes, "meanwhile", expected["lost"])


def has_tried(lab):
    return lab.node.run("nft list table inet peerwall | grep -q 9997")[0] == 0


def try_out(lab, seconds):
    """Another policy on trial, from a session of its own."""
    lab.write("/etc/peerwall/tried.toml", TRIED)
    lab.node.sh(
        f"systemd-run --scope --quiet peerwall apply --force --confirm {seconds}s /etc/peerwall/tried.toml"
    )
    want(has_tried(lab), "the trial is not loaded")


@situation("reboot")
def reboot(lab):
    probes = lab.reboot()
    # Services and sockets with default dependencies start after the rules are loaded.
    times = lab.node.sh(
        "systemctl show -p ActiveEnterTimestampMonotonic --value peerwall-boot.service sysinit.target"
    )
    loaded, sysinit = (int(time) for time in times.split())
    want(loaded <= sysinit, "sysinit.target was reached before peerwall-boot.service ended")
    return probes


# With default dependencies, as services of distributions are.
ORDINARY_UNIT = """[Unit]
Description=answers probes (test)
[Service]
ExecStart=/usr/local/lib/peerwall-vm/echo
Restart=always
[Install]
WantedBy=multi-user.target
"""


def ordinary_again(lab):
    """The node as before, without an address from the initramfs."""
    lab.node.run("systemctl disable -q ordinary.service; systemctl enable -q echo.service; sync")
    lab.node.stop()
    lab.boot_node()


@situation("the network is up before systemd, by an initramfs", undo=ordinary_again)
def early_network(lab):
    lab.write("/etc/systemd/system/ordinary.service", ORDINARY_UNIT)
    lab.node.sh(
        "chmod 644 /etc/systemd/system/ordinary.service; systemctl disable -q echo.service; "
        "systemctl enable -q ordinary.service"
    )
    return lab.reboot(append=f"vm.address={NODE}/24")


@situation(
    "the same, and a service without default dependencies listens",
    undo=ordinary_again,
    limit="an initramfs that brings up the network must load rules itself",
)
def early_network_and_service(lab):
    return lab.reboot(append=f"vm.address={NODE}/24")


def with_nf_tables(lab):
    lab.node.stop()
    lab.boot_node()


@situation("a kernel without nf_tables", undo=with_nf_tables)
def no_nf_tables(lab):
    bare = kernels.kernel("6.1", ["nf_tables", "nft_*"], "6.1-without-nf_tables")
    probes = lab.reboot(kernel=bare)
    want(
        "6.1" in lab.node.sh("uname -r") and lab.node.run("modprobe nf_tables")[0] != 0, "nf_tables is there"
    )
    return probes


@situation(
    "the root is read-only", undo="mount -o remount,rw /; sed -i 's/ ro / rw,errors=remount-ro /' /etc/fstab"
)
def read_only_root(lab):
    lab.node.sh("sed -i 's/ rw,errors=remount-ro / ro /' /etc/fstab; sync")
    probes = lab.reboot()
    want(lab.node.run("touch /x")[0] != 0, "the root is writable")
    return probes


@situation("the root is full", undo="rm -f /fill /fill2 /x; sync")
def full_root(lab):
    lab.node.sh(
        "fallocate -l $(($(df --output=avail -B1 / | tail -1) - 65536)) /fill; "
        "dd if=/dev/zero of=/fill2 bs=4k status=none; sync || true"
    )
    probes = lab.reboot()
    want(lab.node.run("dd if=/dev/zero of=/x bs=64k count=4 status=none")[0] != 0, "the root is not full")
    return probes


@situation("the policy is missing")
def policy_missing(lab):
    lab.node.sh("rm /etc/peerwall/policy.toml")
    return lab.reboot()


@situation("the policy has an error")
def policy_broken(lab):
    lab.node.sh("echo 'nonsense = ' >>/etc/peerwall/policy.toml")
    return lab.reboot()


@situation("everyone can write the policy, and it was changed")
def policy_writable(lab):
    lab.write("/etc/peerwall/tried.toml", TRIED)
    lab.node.sh(
        "chmod 666 /etc/peerwall/tried.toml; mv /etc/peerwall/tried.toml /etc/peerwall/policy.toml; sync"
    )
    probes = lab.reboot()
    want(not has_tried(lab), "the policy that everyone can write is loaded")
    return probes


@situation("the state directory is damaged")
def state_damaged(lab):
    lab.node.sh("for file in $(find /var/lib/peerwall -type f); do echo damaged >$file; done")
    return lab.reboot()


@situation("policy and state are lost: only ssh stays open", peer=False)
def all_lost(lab):
    lab.node.sh("rm -rf /etc/peerwall/policy.toml /var/lib/peerwall")
    return lab.reboot()


@situation("reboot while a trial waits for its confirmation")
def trial_and_reboot(lab):
    try_out(lab, 600)
    probes = lab.reboot()
    want(not has_tried(lab), "the trial that nobody confirmed is loaded")
    return probes


@situation("power loss while a trial waits for its confirmation")
def trial_and_power_loss(lab):
    try_out(lab, 600)
    lab.probe()
    lab.node.stop(hard=True)
    lab.boot_node()
    lab.node.run("systemctl is-system-running --wait", 120)
    want(not has_tried(lab), "the trial that nobody confirmed is loaded")
    return lab.probed()


@situation("a trial of a policy in root's home directory", undo="rm -f /root/tried.toml")
def trial_of_home(lab):
    lab.write("/root/tried.toml", TRIED)
    lab.probe()
    rc, out = lab.node.run(
        "systemd-run --scope --quiet peerwall apply --force --confirm 600s /root/tried.toml", 60
    )
    want(rc == 0, f"`apply --confirm /root/tried.toml` failed: {out.decode().strip()}")
    want(has_tried(lab), "the trial is not loaded")
    lab.node.sh("peerwall rollback")
    want(not has_tried(lab), "the trial is still loaded")
    return lab.probed()


@situation("`systemctl stop peerwall` while a trial waits")
def trial_and_stop(lab):
    try_out(lab, 600)
    lab.probe()
    lab.node.sh("systemctl stop peerwall.service")
    want(not has_tried(lab), "the trial is still loaded")
    return lab.probed()


@situation("the clock is set back a year while a trial waits", undo="date -s '+1 year' >/dev/null")
def trial_and_clock(lab):
    try_out(lab, 15)
    lab.probe()
    lab.node.sh("date -s '-1 year' >/dev/null")
    until(lambda: not has_tried(lab), "a trial of 15 s is loaded after a minute", 60)
    return lab.probed()


@situation("a hung agent, until the watchdog restarts it")
def hung_agent(lab):
    lab.probe()
    before = lab.node.sh("systemctl show -p MainPID --value peerwall").strip()
    lab.node.sh(f"kill -STOP {before}")
    _, seconds = lab.headline()
    lab.node.sh(
        f"for i in $(seq 600); do p=$(systemctl show -p MainPID --value peerwall); [ $p != 0 ] && "
        f"[ $p != {before} ] && systemctl -q is-active peerwall && exit 0; sleep 0.3; done; exit 1",
        300,
    )
    lab.wait_for_agent()
    probes = lab.probed()
    want(seconds < 20, f"`status` of a hung agent took {seconds:.0f} s")
    return probes


@situation("kill -9 of the agent, five times", lost=60)
def killed_agent(lab):
    lab.probe()
    for _ in range(5):
        lab.node.sh(
            "systemctl kill --signal KILL peerwall.service; sleep 2; nft list table inet peerwall >/dev/null"
        )
    lab.wait_for_agent()
    return lab.probed()


@situation("restart, reload, stop and start of the units", lost=60)
def verbs(lab):
    lab.probe()
    for verb in (
        "restart peerwall",
        "reload peerwall",
        "stop peerwall",
        "start peerwall",
        "restart peerwall-boot",
        "stop peerwall-boot",
        "start peerwall-boot peerwall",
    ):
        lab.node.sh(f"systemctl {verb}; sleep 0.5; nft list table inet peerwall >/dev/null")
    lab.wait_for_agent()
    return lab.probed()


@situation("the package is installed again, as in an upgrade", lost=60)
def upgrade(lab):
    lab.probe()
    lab.node.sh("dpkg -i /payload/peerwall_*.deb && nft list table inet peerwall >/dev/null")
    lab.wait_for_agent()
    return lab.probed()


@situation(
    "nftables.service, which flushes all rules, is enabled too", undo="systemctl disable -q nftables.service"
)
def nftables_service(lab):
    lab.node.sh("systemctl enable -q nftables.service")
    probes = lab.reboot()
    shown = lab.node.run("peerwall status 2>&1")[1].decode()
    want("nftables.service" in shown, f"`status` does not name nftables.service\n{shown}")
    return probes


@situation(
    "nftables.service is restarted under traffic",
    undo="systemctl stop nftables.service",
    lost=60,
    limit="before Linux 6.9 no process can lock the table, and the agent loads it again",
)
def nftables_restarted(lab):
    lab.probe()
    lab.node.sh("for i in 1 2 3; do systemctl restart nftables.service; sleep 2; done")
    lab.wait_for_agent()
    return lab.probed()


def fetch_packages(folder, more=()):
    """Debian's packages that situations install on the node."""
    names = ["netfilter-persistent", "iptables-persistent", *more]
    wanted = [name for name in names if not list(folder.glob(f"{name}_*.deb"))]
    if not wanted:
        return
    kernels.apt("apt-get", "download", "-qq", *(f"{name}/bookworm" for name in wanted))
    for name in wanted:
        for path in (CACHE / "debs").glob(f"{name}_*.deb"):
            path.rename(folder / path.name)
