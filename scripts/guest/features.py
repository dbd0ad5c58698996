"""Checks of the commands that answer questions about rules and packets, and of members from outside.

What each command says is compared with what real packets experience.
"""

import json
import os
import time

from world import HOST, PEER, PEERWALL, SMALL, STRANGER, Failure, Lan, Net, must, sh, shorten

EXPECTS = f"""
[[expect]]
from = "{PEER}"
port = "9999/tcp"
verdict = "accept"
[[expect]]
from = "{STRANGER}"
port = "9999/tcp"
verdict = "drop"
[[expect]]
from = "{STRANGER}"
port = "22/tcp"
verdict = "accept"
"""
WRONG = f"""
[[expect]]
from = "{STRANGER}"
port = "9998/tcp"
verdict = "accept"
"""


def test():
    net = Net("test")
    path = net.policy(SMALL + EXPECTS)
    said = net.must(f"{PEERWALL} test --kernel --json {path}", seconds=120)
    if '"kernel"' not in said:
        raise Failure(f"the kernel was not asked\n{shorten(said)}")
    net.must(f"{PEERWALL} test --kernel {net.policy(SMALL + WRONG)}", 1, 120)
    net.remove()


def verify():
    """A policy whose expectation the kernel does not meet changes nothing."""
    net = Net("verify")
    path = net.policy(SMALL + EXPECTS)
    net.must(f"{PEERWALL} apply --verify kernel {path}", seconds=120)
    net.must(f"{PEERWALL} plan {path}")
    wrong = net.policy(SMALL.replace(PEER, "10.9.0.77") + WRONG, "wrong.toml")
    rc, said = net.sh(f"{PEERWALL} apply --verify kernel {wrong}", 120)
    if rc == 0 or net.sh("sh -c 'nft list table inet peerwall | grep -q 10.9.0.77'")[0] == 0:
        raise Failure(f"a policy with a wrong expectation was applied\n{shorten(said)}")
    net.must(f"{PEERWALL} plan {path}")
    net.remove()


def loaded():
    """A LAN whose host has the policy loaded."""
    lan = Lan()
    path = lan.host.policy(SMALL)
    lan.host.must(f"{PEERWALL} apply {path}")
    return lan, path


def agree(lan, options, cases):
    """Compares `explain` with connections: each case has a sender, its address, and a port."""
    for sender, address, port in cases:
        is_open = sender.sh(f"nc -z -w 2 {HOST} {port}")[0] == 0
        words = f"--from {address} --to {HOST} --port {port}/tcp --interface eth0"
        rc, said = lan.host.sh(f"{PEERWALL} explain {options} {words}", 90)
        if rc != (0 if is_open else 1):
            reality = "open" if is_open else "closed"
            raise Failure(f"{address} to port {port} is {reality}; explain {options}: {rc}\n{shorten(said)}")


def explain():
    lan, path = loaded()
    try:
        cases = [(lan.peer, PEER, 9999), (lan.stranger, STRANGER, 22), (lan.stranger, STRANGER, 9999)]
        agree(lan, f"--policy {path}", cases)
    finally:
        lan.remove()


def explain_live():
    """Also with rules of other programs before and behind peerwall's."""
    lan, path = loaded()
    try:
        options = f"--live --policy {path}"
        cases = [(lan.peer, PEER, 9999), (lan.stranger, STRANGER, 22), (lan.stranger, STRANGER, 9999)]
        agree(lan, options, cases)
        for tool in ("iptables-nft", "iptables-legacy"):
            lan.host.must(f"{tool} -I INPUT -s {STRANGER} -p tcp --dport 22 -j DROP")
            agree(lan, options, cases)
            lan.host.must(f"{tool} -D INPUT 1")
        lan.host.must("iptables-nft -t nat -A PREROUTING -p tcp --dport 2222 -j REDIRECT --to-ports 22")
        agree(lan, options, [(lan.stranger, STRANGER, 2222), (lan.peer, PEER, 2222)])
    finally:
        lan.remove()


def trace():
    lan, path = loaded()
    try:
        for sender, address, port, wanted, text in (
            (lan.stranger, STRANGER, 9999, 1, "input-default"),
            (lan.peer, PEER, 9999, 0, "@peers4"),
        ):
            before = len(lan.host.log())
            process = lan.host.start(
                f"{PEERWALL} trace --policy {path} --from {address} --port {port}/tcp --for 30s"
            )
            try:
                lan.host.until("sh -c 'nft list tables | grep -q peerwall-trace-'")
            except Failure as error:
                raise Failure(f"{error}\n{shorten(lan.host.log()[before:])}") from error
            sender.sh(f"nc -z -w 2 {HOST} {port}")
            rc, said = process.wait(60), lan.host.log()[before:]
            if rc != wanted or text not in said:
                raise Failure(f"port {port}, {address}: status {rc}, not {wanted}\n{shorten(said, 30)}")
        left = lan.host.must("nft list tables")
        if "peerwall-trace-" in left:
            raise Failure(f"a table of a trace is left\n{left}")
    finally:
        lan.remove()


def doctor():
    lan, path = loaded()
    try:
        lan.host.must("iptables-nft -A INPUT -p tcp --dport 4 -j ACCEPT")
        lan.host.must("iptables-legacy -A OUTPUT -p tcp --dport 4 -j ACCEPT")
        # A host without an agent has at least one finding.
        said = lan.host.must(f"{PEERWALL} doctor --hooks {path}", 1)
        for wanted in ("inet peerwall input", "ip filter INPUT", "legacy"):
            if wanted not in said:
                raise Failure(f"`doctor --hooks` does not list {wanted}\n{shorten(said, 60)}")
    finally:
        lan.remove()


def exposed():
    lan, path = loaded()
    try:
        found = json.loads(lan.host.must(f"sh -c '{PEERWALL} exposed --json {path} 2>/dev/null'"))
        text = json.dumps(found)
        shown = lan.host.must(f"{PEERWALL} exposed {path}")
        lines = {port: [line for line in shown.splitlines() if f"{port}/tcp" in line] for port in (22, 9999)}
        if not lines[22] or not lines[9999] or "nc" not in text:
            raise Failure(f"a listening program is missing\n{shorten(shown, 30)}")
        if any("closed" in line for line in lines[22]) or not all("closed" in line for line in lines[9999]):
            raise Failure(f"port 22 is open to all, and 9999 is not\n{shorten(shown, 30)}")
    finally:
        lan.remove()


MEMBERS = """version = 1
[peers]
own = "198.51.100.1"
[peers_from.cluster]
kind   = "kubernetes"
server = ["http://127.0.0.1:6443"]
token  = "cluster-token"
within = ["10.0.0.0/16"]
[[allow]]
name  = "ssh"
ports = ["22/tcp"]
from  = "any"
"""
DROP_IN = "/run/systemd/system/peerwall-sources.service.d/test.conf"
TOKEN, NODES = "/etc/peerwall/cluster-token", "/run/nodes.json"


def write(path, text, mode=0o600):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(f"{path}.new", mode)
    os.rename(f"{path}.new", path)


JOURNAL = "journalctl -b -u 'peerwall*' -o cat --no-pager -n 12"


def until(command, seconds=90):
    """Waits for longer than a source pauses after failures, which is up to 30 s, and a server starts."""
    end = time.monotonic() + seconds
    while sh(command)[0] != 0:
        if time.monotonic() > end:
            said = sh(f"peerwall sources; {JOURNAL}")[1]
            raise Failure(f"not within {seconds} s: {command}\n{shorten(said, 30)}")
        time.sleep(0.3)


def systemctl(words):
    """Runs systemctl, for longer than systemd waits for two units: it then says which one hung."""
    rc, said = sh(f"systemctl daemon-reload; systemctl {words}", 240)
    if rc != 0:
        raise Failure(f"systemctl {words}: exit status {rc}\n{shorten(said)}\n{shorten(sh(JOURNAL)[1])}")


def confine(address):
    """The drop-in of the unit's own comment: a credential, and the one address that it may reach."""
    lines = f"IPAddressDeny=any\nIPAddressAllow={address}\nLoadCredential=cluster-token:{TOKEN}\n"
    write(DROP_IN, f"[Service]\n{lines}", 0o644)
    systemctl("restart peerwall-sources.service")


def sources():
    """The unit under systemd: a user of its own, a credential that root alone can read, one address."""
    must(f"/payload/sources/scripts/install --binary {PEERWALL} --sources /payload/peerwall-sources")
    write("/etc/peerwall/policy.toml", MEMBERS)
    write(TOKEN, "first\n")
    write(NODES, json.dumps({"worker-1": "10.0.0.5"}))
    # Few addresses have no ipset, where the kernel lacks nf_tables.
    has = "{ nft list set inet peerwall peers4 || iptables-legacy-save; } 2>/dev/null | grep -qF"
    try:
        must("systemd-run --quiet --unit api-server /payload/guest/api-server 6443 first")
        systemctl("start peerwall-boot.service peerwall.service")
        confine("127.0.0.1")
        until(f"{has} 10.0.0.5")
        user = must("ps -o user= -C peerwall-sources").strip()
        if user in ("", "root"):
            raise Failure(f"it runs as {user!r}")
        write(NODES, json.dumps({"worker-1": "10.0.0.5", "worker-2": "10.0.0.6"}))
        until(f"{has} 10.0.0.6")
        # Another token: the credential is a copy from the start of the unit.
        must("systemctl stop api-server")
        must("systemd-run --quiet --unit api-server /payload/guest/api-server 6443 second")
        until("peerwall sources | grep -q 401")
        write(TOKEN, "second\n")
        systemctl("restart peerwall-sources.service")
        write(NODES, json.dumps({"worker-1": "10.0.0.5", "worker-2": "10.0.0.6", "worker-3": "10.0.0.7"}))
        until(f"{has} 10.0.0.7")
        # Only another address is allowed: nothing arrives, and all members stay.
        confine("127.0.0.9")
        until("peerwall sources | grep -q 'error: '")
        for address in ("10.0.0.5", "10.0.0.6", "10.0.0.7"):
            must(f"{has} {address}")
    finally:
        sh("systemctl stop peerwall-sources peerwall peerwall-boot api-server; peerwall remove")
        sh(f"rm -rf /etc/peerwall /var/lib/peerwall /run/peerwall {DROP_IN}; systemctl daemon-reload")


FEATURES = {
    "test": test,
    "verify": verify,
    "explain": explain,
    "explain --live": explain_live,
    "trace": trace,
    "doctor": doctor,
    "exposed": exposed,
    "sources": sources,
}
