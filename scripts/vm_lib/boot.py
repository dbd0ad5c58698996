"""The node and the outsider of scripts/boot-test, and what they observe."""

import json
import shlex
import time

from . import checks, machine, pages
from .common import CACHE, REPOSITORY, Problem, run, say

RESULTS = CACHE / "results" / "boot"
PAGE = REPOSITORY / "docs" / "boot.md"
NODE, PEER, STRANGER = "192.0.2.1", "192.0.2.2", "192.0.2.3"
PROBES = "/run/probes.json"
POLICY = f"""version = 1
[peers]
friend = "{PEER}"
[[allow]]
name  = "ssh"
ports = ["22/tcp"]
from  = "any"
"""
NETWORK = f"""auto eth0
iface eth0 inet static
    address {NODE}/24
"""


class Lab:
    """Two guests at one cable. `image` is the node's."""

    def __init__(self, kernel, folder, image="bookworm"):
        self.kernel, self.folder, self.image = kernel, folder, image
        self.node, self.outsider = machine.Machine("boot-node"), machine.Machine("boot-outsider")
        self.seen = None

    def start(self):
        self.outsider.boot(self.kernel, self.folder, memory_mib=384, wire="lab:b", wait=False)
        self.boot_node(keep=False)
        self.outsider.sh(
            f"ip link set eth0 up; ip addr add {PEER}/24 dev eth0; ip addr add {STRANGER}/24 dev eth0"
        )
        self.setup()

    def boot_node(self, kernel=None, append="", keep=True):
        kernel = kernel or self.kernel
        # The images have no profiles of AppArmor, without which Docker starts no container.
        append = f"apparmor=0 {append}".strip()
        self.node.boot(kernel, self.folder, keep, wire="lab:a", append=append, from_image=self.image)

    def boot_again(self):
        """A new node, as it was installed: its network, and a service that a stranger must not reach."""
        self.node.stop(hard=True)
        self.boot_node(keep=False)
        self.serve()

    def setup(self):
        """Makes the node: network, service, peerwall's package."""
        self.serve()
        self.write("/etc/peerwall/policy.toml", POLICY)
        package = next(self.folder.glob("peerwall_*.deb")).name
        self.node.sh(f"dpkg -i /payload/{package} >/dev/null")
        self.node.sh("peerwall apply && systemctl enable -q --now peerwall-boot.service peerwall.service")
        self.wait_for_agent()

    def serve(self):
        self.write("/etc/network/interfaces.d/node", NETWORK)
        self.node.sh("""
            set -e
            install -m 755 /payload/guest/echo /usr/local/lib/peerwall-vm/echo
            install -m 644 /payload/guest/echo.service /etc/systemd/system/
            systemctl enable -q echo.service
            systemctl start echo.service
            systemctl restart networking.service
        """)
        # Shows that the probes arrive if nothing stops them.
        self.probe()
        time.sleep(4)
        checks.both_answered(self.probed())

    def reset(self):
        """As after the setup: policy, state, network, units."""
        self.write("/etc/peerwall/policy.toml", POLICY)
        self.node.sh("""
            systemctl unmask -q peerwall.service peerwall-boot.service
            systemctl enable -q peerwall.service peerwall-boot.service
            systemctl stop peerwall.service
            rm -rf /var/lib/peerwall
            peerwall apply --force
            systemctl restart peerwall-boot.service peerwall.service
        """)
        self.wait_for_agent()

    def write(self, path, text):
        """Writes a file that only root can read, as policies are."""
        rc, out = self.node.run(
            f"umask 077; mkdir -p $(dirname {path}); rm -f {path}; cat >{path}; sync", stdin=text.encode()
        )
        if rc != 0:
            raise Problem(f"node: {path}: {out.decode()}")

    def wait_for_agent(self):
        self.node.sh(
            "for i in $(seq 100); do peerwall status >/dev/null 2>&1 && exit; sleep 0.3; done; peerwall status"
        )

    def probe(self, seconds=900, kind=""):
        """Starts to probe, in the background."""
        words = f"{seconds} {PROBES} {kind}"
        self.outsider.sh(f"rm -f {PROBES}*; setsid /payload/guest/probe {words} >/dev/null 2>&1 &")

    def probed(self):
        """Ends the probes, and returns what was answered."""
        text = self.outsider.sh(
            f"touch {PROBES}.stop; for i in $(seq 100); do test -e {PROBES} && break; sleep 0.1; "
            f"done; cat {PROBES}"
        )
        self.seen = json.loads(text)
        return self.seen

    def reaches(self, port, address=NODE, by=STRANGER):
        """Whether a stranger reaches a port of the node."""
        return self.outsider.run(f"nc -z -w 3 -s {by} {address} {port}", 20)[0] == 0

    def ssh(self, command, seconds=90):
        """Runs a command by a new ssh connection of the peer's, and returns its output."""
        options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o ConnectTimeout=20 -o LogLevel=ERROR"
        words = f"{options} -b {PEER} root@{NODE} {shlex.quote(command)}"
        return self.outsider.sh(f"ssh {words} </dev/null", seconds)

    def reboot(self, append=None, kernel=None, settle=3):
        """Reboots the node while the outsider probes, and returns what was answered.

        With a kernel or words for it, the node is shut down and started again."""
        self.probe()
        if append is None and kernel is None:
            self.node.reboot()
        else:
            self.node.stop()
            self.boot_node(kernel, append or "")
        self.node.run("systemctl is-system-running --wait", 120)
        time.sleep(settle)
        return self.probed()

    def units(self):
        """State and result of the units, in words."""
        said = []
        for unit in ("peerwall-boot", "peerwall"):
            state = (
                self.node.run(f"systemctl show -p ActiveState -p Result --value {unit}")[1].decode().split()
            )
            said.append(f"{unit}: {' '.join(word for word in state if word != 'success')}")
        return ", ".join(said)

    def headline(self):
        """The first line of `peerwall status`, and how long it took."""
        start = time.monotonic()
        out = self.node.run("timeout 100 peerwall status 2>/dev/null | head -1")[1].decode().strip()
        return out, time.monotonic() - start

    def backend(self):
        found = self.node.run(r"""timeout 100 peerwall status --json 2>/dev/null |
            sed -n 's/^  "backend": "\(.*\)",$/\1/p' """)[1].decode()
        return found.strip()

    def stop(self):
        for guest in (self.node, self.outsider):
            guest.stop(hard=True)
            guest.remove()


def package(folder):
    """Builds the package of the program in the payload, with the units as they are now."""
    say("package")
    output = CACHE / "packages"
    run(REPOSITORY / "scripts/package", "--binary", folder / "peerwall", "--output", output, "deb")
    for path in output.glob("peerwall*_*.deb"):
        (folder / path.name).write_bytes(path.read_bytes())


def save(name, result):
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1))


HEAD = """# Boots

Written by `scripts/boot-test` on {date}: a node with peerwall's package, and an outsider that sends
UDP probes every 40 ms to a service of the node, as a peer and as a stranger, through shutdown and
boot. The service and the probes work before and after everything else: on the open node, strangers
are answered. Guests: Debian 12, systemd 252, kernel {kernel} unless the situation says otherwise,
{accelerator}. Other programs are those of Debian 12. Beside them, the outsider
probes while they and peerwall are started, reloaded and restarted, and through a reboot, whose
probes are counted; what must pass and what must not is checked after each step.

Cells are probes answered, of those sent. "Silence" is the longest time without an answer to the
peer: for a reboot, from the network's end to its return. Afterwards, in every situation, a stranger
must reach the port of ssh and no other one, and the peer must pass unless the situation says
otherwise. "Tested" is the date, and the last commit that changed the program.

"""


TAIL = """
## Before systemd

If an initramfs brings up the network (`ip=`, a root on NFS, unlocking disks by ssh), the network is
up before any unit can load rules. Services and sockets with default dependencies start after
`peerwall-boot.service`; only those without, and what runs in the initramfs itself, can be reached
before. [contrib](../contrib/README.md#initramfs-tools) has a hook for initramfs-tools that loads
the confirmed ruleset in the initramfs. With dracut, nothing was tried.
"""


HEADS = ["stranger", "peer", "silence", "backend", "`status` afterwards", "result", "tested"]


def page(order):
    """Writes the page, from titles by names. Returns the situations that did not end as they must."""
    old = pages.Old(PAGE)
    found = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    if not found:
        raise Problem(f"no results in {RESULTS}")
    rows, failed = [], []
    for name, title in order.items():
        if name in found:
            rows.append([title, *cells(found[name])])
            if not found[name]["good"]:
                failed.append((name, found[name]["why"]))
        elif title in old.rows("situation"):
            rows.append([title, *(old.cell("situation", title, head) for head in HEADS)])
    latest = max(found.values(), key=lambda result: result["date"])
    text = HEAD.format(**latest) + pages.table(["situation", *HEADS], rows) + TAIL
    pages.write(PAGE, text)
    return failed


def cells(one):
    """What one situation showed, in the order of the heads."""
    seen = one.get("probes")
    return [
        *(f"{seen[who]['answered']} of {seen[who]['sent']}" if seen else "" for who in ("stranger", "peer")),
        one.get("silence", ""),
        one.get("backend", ""),
        shorten(one.get("headline", "")),
        verdict(one),
        f"{one['date']} {one['commit']}",
    ]


def shorten(text, columns=120):
    return text if len(text) <= columns else f"{text[:columns].rsplit(' ', 1)[0]} …"


def verdict(one):
    """The result, with units that are not active."""
    said = "as it must" if one["good"] else f"**wrong: {pages.first_line(one['why'])}**"
    said = one.get("limit", said)
    inactive = [unit for unit in one.get("units", "").split(", ") if unit and not unit.endswith(" active")]
    return "; ".join([said, *inactive])


def silence(probes):
    """The longest time without an answer to the peer, from its last span on or within it."""
    spans = probes["peer"]["spans"]
    return max((later[0] - earlier[1] for earlier, later in zip(spans, spans[1:])), default=0.0)
