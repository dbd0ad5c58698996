"""The situation of scripts/boot-test with an initramfs of initramfs-tools that brings up the network."""

import copy
import pathlib
import tempfile

from .boot import NODE
from .checks import want
from .newcomers import as_before
from .situations import situation

PACKAGES = ["initramfs-tools-core", "klibc-utils", "libklibc", "cpio", "logsave"]
HOME = "/etc/initramfs-tools"
# As the scripts of dropbear-initramfs do.
NETWORK = """#!/bin/sh
[ "$1" != prereqs ] || exit 0
. /scripts/functions
configure_networking
"""
FSTAB = """/dev/disk/by-id/virtio-modules /usr/lib/modules ext4 ro 0 0
/dev/disk/by-id/virtio-payload /payload ext4 ro 0 0
"""
SETTINGS = "MODULES=list\nCOMPRESS=gzip\n"
MODULES = "virtio_pci virtio_blk virtio_net virtio_console virtio_rng ext4"


def make(lab, folder, name):
    """Makes an initramfs in the node, and returns a kernel with it."""
    lab.node.sh(f"mkinitramfs -o /root/{name} $(uname -r)", 600)
    lab.node.get(f"/root/{name}", pathlib.Path(folder))
    kernel = copy.copy(lab.kernel)
    kernel.initrd = pathlib.Path(folder) / name
    return kernel


@situation(
    "an initramfs of initramfs-tools brings up the network, a service without default dependencies "
    "listens, and contrib's hook is installed",
    undo=as_before,
)
def initramfs_hook(lab):
    lab.node.sh(f"dpkg -i {' '.join(f'/payload/{name}_*.deb' for name in PACKAGES)} >/dev/null")
    lab.write(f"{HOME}/conf.d/test", SETTINGS)
    lab.write(f"/boot/config-{lab.kernel.version()}", (lab.kernel.path / "config").read_text())
    lab.write(f"{HOME}/scripts/init-premount/network", NETWORK)
    lab.node.sh(f"""
        chmod 755 {HOME}/scripts/init-premount/network
        printf '%s\\n' {MODULES} >{HOME}/modules
        cat >>/etc/fstab <<'END'\n{FSTAB}END
    """)
    append = f"root=LABEL=root ip={NODE}::::node:eth0:off"
    with tempfile.TemporaryDirectory() as folder:
        without = make(lab, folder, "without")
        source = "/payload/sources/contrib/initramfs"
        lab.node.sh(f"""
            install -m 755 {source}/hook {HOME}/hooks/peerwall
            install -m 755 {source}/init-top {HOME}/scripts/init-top/peerwall
        """)
        hooked = make(lab, folder, "hooked")
        probes = lab.reboot(append, without)
        want(probes["stranger"]["answered"], "the node is not open without the hook: this shows nothing")
        probes = lab.reboot(append, hooked)
    said = lab.node.sh("dmesg | grep -i peerwall || true")
    want("loaded" in said, f"the kernel's log has no line of peerwall in the initramfs: {said}")
    return probes
