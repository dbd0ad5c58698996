"""Kernels of Debian's archive: downloaded and unpacked, never installed on this machine."""

import fnmatch
import gzip
import os
import re
import shutil
import subprocess
import tempfile

from .common import CACHE, GUEST, Problem, find, make_disk, need, run, say

KERNELS = CACHE / "kernels"
MIRROR = os.environ.get("PEERWALL_VM_MIRROR", "http://deb.debian.org/debian")
SUITES = ["bullseye-security", "bookworm", "bookworm-security", "trixie-security", "trixie-backports", "sid"]
# Loaded by the initramfs, before the modules' disk is mounted.
EARLY = ["virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng", "ext4"]
# Directories of modules that guests use; the rest of a kernel's modules drives hardware.
KEPT = [
    "arch",
    "crypto",
    "lib",
    "net",
    "block",
    "fs/ext4",
    "fs/jbd2",
    "fs/overlayfs",
    "fs/fuse",
    "fs/autofs",
    "fs/configfs",
    "fs/nls",
    "fs/squashfs",
    "drivers/block",
    "drivers/char",
    "drivers/virtio",
    "drivers/crypto",
    "drivers/net/bonding",
    "drivers/net/vxlan",
    "drivers/net/wireguard",
    "drivers/net/ipvlan",
    "drivers/net/team",
    "drivers/vhost",
]


class Kernel:
    """A kernel for guests: a directory with vmlinuz, initrd, modules.img, config and lib/modules."""

    def __init__(self, name):
        self.name, self.path = name, KERNELS / name
        self.vmlinuz, self.initrd, self.modules = (
            self.path / part for part in ("vmlinuz", "initrd", "modules.img")
        )

    def is_ready(self):
        return self.modules.exists() and self.initrd.exists()

    def version(self):
        return next((self.path / "lib/modules").iterdir()).name

    def package(self):
        return (self.path / "package").read_text().strip()


def variant_name(version, without):
    words = [re.sub(r"[^a-zA-Z0-9_]+", "", pattern) for pattern in without]
    return "-without-".join([version, *words])


def kernel(version, without=(), name=None, refresh=False):
    """Returns the kernel, which is made if it is not in the cache. `without` are patterns of module names."""
    made = Kernel(name or variant_name(version, without))
    if made.is_ready() and not refresh:
        return made
    need("busybox", "cpio", "depmod", "mkfs.ext4")
    if without:
        of = kernel(version)
        shutil.rmtree(made.path, ignore_errors=True)
        made.path.mkdir(parents=True)
        # Hard links: removing one keeps the other.
        run("cp", "-al", of.path / "lib", of.vmlinuz, of.path / "config", of.path / "package", made.path)
        removed = remove_modules(made, without)
        say(f"kernel {made.name}: removed {', '.join(removed)}")
    else:
        unpack(made, download(version))
    finish(made)
    say(f"kernel {made.name}: {made.version()}")
    return made


def apt(*words):
    """Runs apt with lists and settings of its own, so that it does not concern this machine's packages."""
    settings = apt_settings()
    if settings.stat().st_mtime > (settings.parent / "lists/updated").stat().st_mtime:
        say("reading the archive's lists of packages")
        run_apt(settings, "apt-get", "update", "-qq")
        (settings.parent / "lists/updated").touch()
    return run_apt(settings, *words)


def run_apt(settings, *words):
    debs = CACHE / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    return run(*words, cwd=debs, env={**os.environ, "APT_CONFIG": str(settings), "LC_ALL": "C"})


def apt_settings():
    """Writes the settings if they differ, and returns their file."""
    home = CACHE / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "state", "empty"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    lines = []
    for suite in SUITES:
        at = f"{MIRROR}-security" if suite.endswith("-security") else MIRROR
        lines.append(f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {at} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": home / "empty",
        "Dir::Etc::preferencesparts": home / "empty",
        "Dir::State": home / "state",
        "Dir::State::lists": home / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": home / "cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
    }
    text = "".join(f'{key} "{value}";\n' for key, value in settings.items())
    if not (home / "lists/updated").exists():
        (home / "lists/updated").touch()
        os.utime(home / "lists/updated", (0, 0))
    for name, wanted in (("sources.list", "".join(lines)), ("apt.conf", text)):
        path = home / name
        if not path.exists() or path.read_text() != wanted:
            path.write_text(wanted)
            os.utime(home / "lists/updated", (0, 0))
    return home / "apt.conf"


def available():
    """Versions of the archive by name: `6.1`, `6.1-cloud`, …; the newest of each, with its metapackage."""
    found = {}
    for kind in ("", "-cloud"):
        table = apt("apt-cache", "madison", f"linux-image{kind}-amd64")
        for row in table.splitlines():
            version = row.split("|")[1].strip()
            name = ".".join(version.split(".")[:2]) + kind
            if name not in found or run_compare(version, found[name][1]):
                found[name] = (f"linux-image{kind}-amd64", version)
    return found


def run_compare(version, other):
    return subprocess.run(["dpkg", "--compare-versions", version, "gt", other], check=False).returncode == 0


def newest():
    """The name of the archive's newest kernel."""
    names = [name for name in available() if not name.endswith("-cloud")]
    return max(names, key=lambda name: [int(part) for part in name.split(".")])


def download(version):
    """Downloads the packages of a kernel, and returns their files."""
    kernels = available()
    if version not in kernels:
        raise Problem(f"Debian's archive has no kernel {version}; it has {', '.join(sorted(kernels))}")
    meta, exact = kernels[version]
    say(f"downloading kernel {version} ({exact})")
    depends = re.search(r"^Depends: (.*)$", apt("apt-cache", "show", f"{meta}={exact}"), re.M)
    image = re.search(r"linux-image-[0-9][^ ,]*", depends[1])[0]
    # Newer kernels are in parts: the image depends on a binary and modules.
    parts = re.search(r"^Depends: (.*)$", apt("apt-cache", "show", image), re.M)[1]
    packages = re.findall(r"linux-(?:base|binary|modules)-[0-9][^ ,]*", parts) or [image]
    apt("apt-get", "download", "-qq", *packages)
    files = []
    for package in packages:
        of_package = (CACHE / "debs").glob(f"{package}_*.deb")
        files.append(max(of_package, key=lambda path: path.stat().st_mtime))
    return files


def unpack(made, debs):
    """Unpacks kernel and modules, without modules that no guest uses."""
    shutil.rmtree(made.path, ignore_errors=True)
    work = made.path / "unpacked"
    work.mkdir(parents=True)
    for deb in debs:
        run("dpkg-deb", "-x", deb, work)
    shutil.copy(next(path for path in work.rglob("vmlinuz*") if path.is_file()), made.vmlinuz)
    for config in [*work.rglob("config-*"), *work.rglob("modules/*/config")]:
        shutil.copy(config, made.path / "config")
    (made.path / "package").write_text(" ".join(deb.name for deb in debs) + "\n")
    for tree in work.rglob("lib/modules"):
        shutil.copytree(tree, made.path / "lib/modules", symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(work)
    for deb in debs:
        deb.unlink()
    root = made.path / "lib/modules" / made.version() / "kernel"
    for path in list(root.rglob("*.ko*")):
        inside = str(path.relative_to(root))
        if path.parent not in (root / "drivers/net", root / "fs") and not any(
            fnmatch.fnmatch(inside, f"{kept}/*") for kept in KEPT
        ):
            path.unlink()


def module_of(path):
    return path.name.split(".ko")[0].replace("-", "_")


def remove_modules(made, patterns):
    """Removes the modules whose names match, and returns them."""
    removed = []
    for path in sorted((made.path / "lib/modules").rglob("*.ko*")):
        if any(fnmatch.fnmatchcase(module_of(path), pattern.replace("-", "_")) for pattern in patterns):
            removed.append(module_of(path))
            path.unlink()
    for pattern in patterns:
        if not fnmatch.filter(removed, pattern.replace("-", "_")):
            raise Problem(
                f"kernel {made.name}: no module matches {pattern}; is it built in? see {made.path}/config"
            )
    return removed


def finish(made):
    """Makes what depends on the modules: their index, the initramfs and the disk."""
    root = made.path / "lib/modules" / made.version()
    for path in root.glob("modules.*"):
        if path.name not in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            path.unlink()
    run("depmod", "-b", made.path, made.version())
    make_initrd(made)
    make_disk(made.modules, made.path / "lib/modules")


def make_initrd(made):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("bin", "modules", "proc", "sys", "dev", "root"):
            os.mkdir(f"{folder}/{name}")
        busybox = find("busybox")
        if b"ld-linux" in open(busybox, "rb").read(4096):
            raise Problem("busybox is not static: install busybox-static")
        shutil.copy(busybox, f"{folder}/bin/busybox")
        shutil.copy(GUEST / "init", f"{folder}/init")
        for number, path in enumerate(early_modules(made)):
            # busybox's insmod does not decompress.
            target = f"{folder}/modules/{number:03}-{module_of(path)}.ko"
            with open(target, "wb") as file:
                tool = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}.get(path.suffix)
                subprocess.run([tool, "-dc", path] if tool else ["cat", path], stdout=file, check=True)
        archive = subprocess.run(
            "find . | cpio -o -H newc --quiet", shell=True, cwd=folder, check=True, stdout=subprocess.PIPE
        ).stdout
        made.initrd.write_bytes(gzip.compress(archive, 1))


def early_modules(made):
    """Files of the modules that the initramfs loads, in order."""
    files = []
    for module in EARLY:
        shown = subprocess.run(
            [find("modprobe"), "-d", made.path, "-S", made.version(), "--show-depends", module],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        # A module that is built in has no file.
        for line in shown.stdout.splitlines():
            word, *rest = line.split()
            if word == "insmod" and rest[0] not in files:
                files.append(rest[0])
    return [made.path.__class__(path) for path in files]
