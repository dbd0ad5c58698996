"""The directory that guests have as /payload: the program, the integration tests, and what runs in guests."""

import json
import os
import shutil
import subprocess

from .common import CACHE, GUEST, REPOSITORY, Problem, need, run, say

PAYLOAD = CACHE / "payload"
# Those that show what a kernel can do. The other ones test the program more than the kernel.
BINARIES = """
    cases story safety fallback differential agent import
    plan foreign host lockout revocation open_connections backend
    testing trace explain_live doctor members temporary unread_sets
""".split()
TARGET = "x86_64-unknown-linux-musl"
# Tests are optimized, because an emulated processor is slow. Their assertions stay.
PROFILE = {
    "CARGO_PROFILE_DEV_DEBUG": "0",
    "CARGO_PROFILE_DEV_OPT_LEVEL": "1",
    "CARGO_PROFILE_TEST_DEBUG": "0",
    "CARGO_PROFILE_TEST_OPT_LEVEL": "1",
}
# What the tests read of the sources.
SOURCES = [
    "integration",
    "policy.toml",
    "agent/core/tests/malformed",
    "agent/systemd",
    "agent/package",
    "contrib",
    "scripts",
    "docs",
    "README.md",
    "CHANGELOG.md",
    "Cargo.toml",
]


def payload(with_tests=True):
    """Builds everything statically, so that it runs in every guest, and returns the directory."""
    PAYLOAD.mkdir(parents=True, exist_ok=True)
    need("musl-gcc")
    changed = False
    # Each on its own, as scripts/package builds them.
    for name, features in (("peerwall", ["--features", "top"]), ("peerwall-sources", [])):
        built = build(["build", "--release", "-p", name, *features])
        changed |= copy(built[name], PAYLOAD / name)
    if with_tests:
        (PAYLOAD / "tests").mkdir(exist_ok=True)
        chosen = [word for binary in BINARIES for word in ("--test", binary)]
        built = build(["test", "--no-run", "-p", "peerwall-integration", *chosen])
        for binary in BINARIES:
            changed |= copy(built[binary], PAYLOAD / "tests" / binary)
    changed |= export()
    # The tests find their files by the path that they were built at.
    (PAYLOAD / "repository").write_text(f"{REPOSITORY}\n")
    if changed:
        PAYLOAD.with_name("payload.img").unlink(missing_ok=True)
    return PAYLOAD


def build(words):
    """Runs cargo, and returns the programs by the names of their targets."""
    say(f"cargo {' '.join(words)}")
    environment = {**os.environ, **PROFILE}
    done = subprocess.run(
        ["cargo", *words, "--quiet", "--locked", "--target", TARGET, "--message-format=json"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Problem(
            f"cargo failed. Is the target there? rustup target add {TARGET}; other tools: scripts/deps"
        )
    found = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            kinds = message["target"]["kind"]
            if "test" in kinds or message["target"]["name"] not in found:
                found[message["target"]["name"]] = message["executable"]
    return found


def copy(source, target):
    """Copies a program without its symbols, if it is newer. Returns whether it was."""
    if target.exists() and target.stat().st_mtime >= os.stat(source).st_mtime:
        return False
    run("strip", "-o", target, source)
    return True


def export():
    """Copies sources and what runs in guests. Returns whether something changed."""
    new = PAYLOAD / "sources.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    names = run(
        "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCES, cwd=REPOSITORY
    )
    subprocess.run(
        ["tar", "--null", "-T", "-", "-cf", new / "x.tar"], cwd=REPOSITORY, input=names.encode(), check=True
    )
    subprocess.run(["tar", "-xf", "x.tar"], cwd=new, check=True)
    (new / "x.tar").unlink()
    changed = replace(new, PAYLOAD / "sources")
    shutil.copytree(GUEST, PAYLOAD / "guest.new", dirs_exist_ok=True)
    return replace(PAYLOAD / "guest.new", PAYLOAD / "guest") or changed


def replace(new, old):
    """Replaces a directory by a new one, if they differ."""
    same = subprocess.run(
        ["diff", "-rq", new, old], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    if same.returncode == 0:
        shutil.rmtree(new)
        return False
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)
    return True
