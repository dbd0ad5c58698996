"""Places, and how programs are run."""

import os
import pathlib
import shutil
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
GUEST = REPOSITORY / "scripts" / "guest"
# Everything that these scripts create. Nothing else is changed, except that packages are installed.
CACHE = pathlib.Path(os.environ.get("PEERWALL_VM") or REPOSITORY / "target" / "vm").resolve()

# Debian's package of each program.
PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "mkfs.ext4": "e2fsprogs",
    # For the cryptography of peerwall-sources.
    "musl-gcc": "musl-tools",
}


class Problem(Exception):
    """What went wrong, and what to do: printed without a traceback."""


def say(text):
    print(f"vm: {text}", file=sys.stderr, flush=True)


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def need(*programs):
    """Installs what is missing, which needs root or sudo without a password."""
    # Twice: apt may remove a package of another release that does not go with a new one.
    for _ in range(2):
        missing = [PACKAGES[program] for program in programs if not find(program)]
        if missing:
            install(missing)


def install(missing):
    names = " ".join(missing)
    if not find("apt-get"):
        raise Problem(f"missing: {names} (Debian's names of packages); install them and try again")
    say(f"installing {names}")
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    command = [
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-qq",
        "--no-install-recommends",
    ]
    subprocess.run([*sudo, "apt-get", "update", "-qq"], check=False)
    done = subprocess.run(
        [*sudo, *command, *missing], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise Problem(f"apt-get cannot install {names}:\n{done.stdout.strip()}")


def run(*command, **options):
    """Runs a program and returns what it printed."""
    words = [str(word) for word in command]
    words[0] = find(words[0]) or words[0]
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, **options
        )
    except FileNotFoundError as error:
        raise Problem(f"{error.filename}: no such program") from error
    if done.returncode != 0:
        raise Problem(f"{' '.join(words)}: exit status {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def build():
    """The last commit that changed the program."""
    return run("git", "log", "-1", "--format=%h", "--", "agent", "proto", cwd=REPOSITORY).strip()


def make_disk(path, folder, spare_mib=16, options=("-O", "^has_journal")):
    """Makes an ext4 image of a directory."""
    need("mkfs.ext4")
    size_kib = int(run("du", "-sk", "--apparent-size", folder).split()[0]) * 12 // 10
    files = int(run("sh", "-c", 'find "$1" | wc -l', "sh", folder))
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with open(new, "wb") as file:
        file.truncate((size_kib + files * 2) * 1024 + (spare_mib << 20))
    run("mkfs.ext4", "-q", "-m", "0", "-N", files + 4096, *options, "-d", folder, new)
    new.rename(path)
