"""The guests' root: Debian with systemd, made by mmdebstrap. Guests write to overlays of it."""

import os
import subprocess
import tempfile

from .common import CACHE, GUEST, Problem, find, make_disk, need, run, say

IMAGES = CACHE / "images"
MIRROR = os.environ.get("PEERWALL_VM_MIRROR", "http://deb.debian.org/debian")
PACKAGES = """
    systemd systemd-sysv udev dbus kmod procps psmisc util-linux e2fsprogs
    openssh-server openssh-client iproute2 ifupdown iputils-ping nftables iptables ipset conntrack
    netcat-openbsd tcpdump strace python3 python3-prometheus-client less tmux dnsmasq-base isc-dhcp-client
    binutils
""".split()
# Free space of the root, for what guests write.
SPARE_MIB = 700
FILES = {
    "etc/fstab": "LABEL=root / ext4 rw,errors=remount-ro 0 1\n",
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost guest\n::1 localhost\n",
    "etc/machine-id": "",
    "etc/network/interfaces": "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n",
    # Nothing to wait for, and no name server.
    "etc/resolv.conf": "",
    # Where it is installed, a situation enables it.
    "etc/cloud/cloud-init.disabled": "",
}


def image_path(name):
    return IMAGES / f"{name}.raw"


def image(name="bookworm", suite="bookworm", packages=(), refresh=False, masked=()):
    """Returns the image, which is made if it is not in the cache. `masked` units do not start."""
    path = image_path(name)
    if path.exists() and not refresh:
        return path
    need("mmdebstrap", "mkfs.ext4")
    IMAGES.mkdir(parents=True, exist_ok=True)
    tar = bootstrap(path.with_suffix(".tar"), suite, packages)
    with tempfile.TemporaryDirectory(dir=IMAGES) as folder:
        add_files(folder, masked)
        finish(tar, folder, path)
    tar.unlink()
    return path


def bootstrap(tar, suite, packages):
    """Downloads and unpacks the packages. The archive stays if a later step fails."""
    if tar.exists():
        return tar
    new = tar.with_name(f"new-{tar.name}")
    say(f"image: Debian {suite}, {len(PACKAGES) + len(packages)} packages")
    lists = [f"deb {MIRROR} {suite} main", f"deb {MIRROR}-security {suite}-security main"]
    made = subprocess.run(
        [
            find("mmdebstrap"),
            "--quiet",
            "--variant=minbase",
            f"--include={','.join([*PACKAGES, *packages])}",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            suite,
            new,
            *lists,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise Problem(
            f"mmdebstrap failed. Without root it needs the package uidmap, and lines for this user in "
            f"/etc/subuid and /etc/subgid:\n{made.stdout[-2000:]}"
        )
    new.rename(tar)
    return tar


def add_files(folder, masked):
    """What is added to the packages, as a tree."""
    for name, text in FILES.items():
        target = os.path.join(folder, "added", name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)
    added = os.path.join(folder, "added")
    for name in (
        "payload",
        "usr/lib/modules",
        "usr/local/lib/peerwall-vm",
        "var/log/journal",
        "etc/systemd/system/sysinit.target.wants",
        "etc/systemd/system/getty.target.wants",
    ):
        os.makedirs(os.path.join(added, name), exist_ok=True)
    for name, target, mode in (
        ("agent", "usr/local/lib/peerwall-vm/agent", 0o755),
        ("agent.service", "etc/systemd/system/guest-agent.service", 0o644),
    ):
        with open(os.path.join(added, target), "wb") as file:
            file.write((GUEST / name).read_bytes())
        os.chmod(os.path.join(added, target), mode)
    os.symlink(
        "../guest-agent.service",
        os.path.join(added, "etc/systemd/system/sysinit.target.wants/guest-agent.service"),
    )
    # Timers that work in the background make measurements of time useless.
    for unit in (
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "fstrim.timer",
        "systemd-firstboot.service",
        *masked,
    ):
        os.symlink("/dev/null", os.path.join(added, "etc/systemd/system", unit))
    make_ssh_key(added)


def make_ssh_key(added):
    """A key for ssh between guests, and from this machine to one; only for test guests."""
    key = CACHE / "ssh-key"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    folder = os.path.join(added, "root/.ssh")
    os.makedirs(folder)
    for name, target in ((key.with_suffix(".pub"), "authorized_keys"), (key, "id_ed25519")):
        with open(os.path.join(folder, target), "wb") as file:
            file.write(name.read_bytes())
        os.chmod(os.path.join(folder, target), 0o600)
    os.chmod(folder, 0o700)


def finish(tar, folder, path):
    """Makes the disk. An ordinary user needs a user namespace, so that files keep their owners."""
    script = f"""
        set -e
        mkdir root
        tar --extract --file {tar} --directory root --exclude ./dev/*
        cp -a --no-preserve=ownership added/. root/
        rm -f root/var/cache/apt/archives/*.deb root/var/lib/apt/lists/*_*
        rm -f root/etc/ssh/ssh_host_*
        ssh-keygen -A -f root >/dev/null
    """
    if os.geteuid() == 0:
        run("bash", "-c", script, cwd=folder)
        make_disk(path, os.path.join(folder, "root"), SPARE_MIB, ("-L", "root"))
        return
    # In the same namespace, because the owners are those of it.
    new = path.with_suffix(".new")
    script += f"""
        size=$(($(du -sm root | cut -f1) * 12 / 10 + {SPARE_MIB}))
        truncate -s "${{size}}M" {new}
        PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -m 0 -L root -d root {new}
        rm -rf root
    """
    run("unshare", "--map-auto", "--map-root-user", "bash", "-c", script, cwd=folder)
    new.rename(path)
