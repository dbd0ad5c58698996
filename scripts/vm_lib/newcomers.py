"""Situations of scripts/boot-test in which peerwall is new: a fresh Debian, a root without a libc, cloud-init."""

import os
import re
import tempfile
import time

from . import checks, image, machine
from .boot import POLICY, silence
from .checks import until, want
from .common import make_disk
from .neighbours import IMAGE
from .situations import situation


def as_before(lab):
    lab.boot_again()
    lab.setup()


@situation(
    "a fresh Debian: `apt install`, `init`, `apply --confirm` and `confirm` by ssh, reboot; it names no peer",
    peer=False,
    undo=as_before,
)
def fresh(lab):
    lab.boot_again()
    lab.ssh("apt-get install -y /payload/peerwall_*.deb >/dev/null && peerwall init", 300)
    lab.ssh("peerwall apply --confirm 120s")
    lab.probe()
    lab.ssh("peerwall confirm && systemctl enable -q --now peerwall-boot.service peerwall.service")
    lab.wait_for_agent()
    checks.never_answered(lab.probed(), "after `apply`")
    return lab.reboot()


USER_DATA = """#cloud-config
write_files:
  - path: /etc/peerwall/policy.toml
    owner: root:root
    permissions: "0600"
    content: |
{policy}
runcmd:
  - dpkg -i /payload/peerwall_*.deb /payload/peerwall-restore-units_*.deb
  - systemctl enable --now iptables-restore.service ip6tables-restore.service
"""


@situation(
    "a cloud-config writes the policy, installs the packages, and enables the units of the old names; a second boot",
    image=IMAGE,
    undo=as_before,
)
def cloud_config(lab):
    lab.boot_again()
    indented = "".join(f"      {line}\n" for line in POLICY.splitlines())
    seed = "/var/lib/cloud/seed/nocloud"
    lab.write(f"{seed}/user-data", USER_DATA.format(policy=indented.rstrip("\n")))
    lab.write(f"{seed}/meta-data", "instance-id: node\n")
    # The node has its network already.
    lab.write(
        "/etc/cloud/cloud.cfg.d/99-test.cfg", "datasource_list: [NoCloud]\nnetwork: {config: disabled}\n"
    )
    lab.node.sh("rm /etc/cloud/cloud-init.disabled; sync")
    lab.node.reboot()
    # It reports problems of its own with status 1.
    lab.node.run("cloud-init status --wait --long", 300)
    lab.wait_for_agent()
    probes = lab.reboot()
    lab.node.sh("systemctl is-active iptables-restore.service ip6tables-restore.service")
    return probes


RC = """#!/bin/busybox sh
# The only script of a root without a libc: at the first boot it applies the policy by hand.
export PATH=/bin:/usr/sbin
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
exec >/dev/console 2>&1
say() { echo "vm.$*"; }
network() {
    ip link set lo up
    ip addr add 192.0.2.1/24 dev eth0
    ip link set eth0 up
    for port in 22 9998 9999; do
        nc -ll -p $port -e /bin/cat &
    done
}
if [ ! -d /var/lib/peerwall ]; then
    chown -R 0:0 /etc /var /usr/sbin
    network
    say step open
    sleep 15
    peerwall apply --confirm 120s || say failed apply
    say step applied
    sleep 8
    peerwall confirm || say failed confirm
    sync
    say step confirmed
    sleep 3
    reboot -f
fi
peerwall boot || say failed boot
network
peerwall run &
sleep 8
peerwall status | while read -r line; do say status "$line"; done
say step again
"""


def make_busybox_root():
    path = image.image_path("busybox")
    with tempfile.TemporaryDirectory(dir=image.IMAGES) as root:
        for name in (
            "bin",
            "sbin",
            "dev",
            "proc",
            "sys",
            "run",
            "root",
            "payload",
            "usr/sbin",
            "usr/lib/modules",
        ):
            os.makedirs(f"{root}/{name}")
        for name in ("etc/peerwall", "var/lib", "tmp"):
            os.makedirs(f"{root}/{name}")
        os.symlink("usr/lib", f"{root}/lib")
        os.symlink("/bin/busybox", f"{root}/sbin/init")
        os.symlink("/bin/busybox", f"{root}/sbin/modprobe")
        os.symlink("/payload/busybox", f"{root}/bin/busybox")
        os.symlink("/payload/peerwall", f"{root}/usr/sbin/peerwall")
        for name, text, mode in (
            ("etc/inittab", "::sysinit:/etc/rc\n::respawn:/bin/sleep 1000\n", 0o644),
            ("etc/rc", RC, 0o755),
            ("etc/peerwall/policy.toml", POLICY, 0o600),
        ):
            with open(f"{root}/{name}", "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(f"{root}/{name}", mode)
        make_disk(path, root, 64, ("-L", "root"))


def wait_for(guest, step, seconds=240):
    """Waits until the script says that it is there, and returns the console's text."""

    def said():
        return guest.console.read_text(errors="replace") if guest.console.exists() else ""

    def missing():
        return f"no step {step!r}; the console:\n{said()[-1500:]}"

    until(lambda: re.search(rf"^vm\.(step {step}|failed)\b", said(), re.M), missing, seconds)
    want("vm.failed" not in said(), missing())
    return said()


@situation("the static program in a root with busybox and no libc; TCP probes", whole=True)
def no_libc(lab):
    """Has no agent for commands: everything is in its script, and what it says is on its console."""
    make_busybox_root()
    lab.node.stop()
    guest = machine.Machine("boot-busybox")
    try:
        guest.boot(lab.kernel, lab.folder, wire="lab:a", append="rw", from_image="busybox", wait=False)
        wait_for(guest, "open")
        lab.probe(kind="tcp")
        time.sleep(6)
        checks.both_answered(lab.probed())
        wait_for(guest, "applied")
        lab.probe(kind="tcp")
        text = wait_for(guest, "again")
        time.sleep(3)
        checks.ports(lab)
        probes = lab.probed()
        checks.never_answered(probes, "after `apply`")
        want(
            len(probes["peer"]["spans"]) > 1,
            f"the peer is not answered before and after the reboot: {probes}",
        )
    finally:
        guest.remove()
        lab.boot_node()
    status = re.findall(r"^vm\.status (.*?)\r?$", text, re.M)
    want(status and status[0].startswith("in sync"), f"status: {status}")
    backend = next((line.split()[1].rstrip(";") for line in status if line.startswith("backend:")), "")
    return {
        "probes": probes,
        "silence": f"{silence(probes):.1f} s",
        "headline": status[0],
        "backend": backend,
        "units": "",
    }
