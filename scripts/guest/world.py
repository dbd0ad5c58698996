"""Network namespaces of a guest for checks of peerwall, and how commands run in them."""

import os
import signal
import subprocess
import time

PEERWALL = "/payload/peerwall"
WORK = "/var/tmp/promises"
PEER, STRANGER, HOST = "10.9.0.2", "10.9.0.3", "10.9.0.1"
SMALL = f"""version = 1
[peers]
friend = ["{PEER}", "2001:db8:9::2"]
[[allow]]
name  = "ssh"
ports = ["22/tcp"]
from  = "any"
"""
class Failure(Exception):
    pass


def sh(command, seconds=60, **environment):
    """Runs a command, and returns its status and output."""
    done = subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        out = done.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, signal.SIGKILL)
        return 124, done.communicate()[0].decode(errors="replace")
    return done.returncode, out.decode(errors="replace")


def must(command, wanted=0, seconds=60):
    rc, out = sh(command, seconds)
    if rc != wanted:
        raise Failure(f"{command}: exit status {rc}, not {wanted}\n{shorten(out)}")
    return out


def shorten(text, lines=12):
    kept = [line[:240] for line in text.strip().splitlines()]
    return "\n".join(kept[:lines] + ([f"… {len(kept) - lines} more lines"] if len(kept) > lines else []))


class Net:
    """A network namespace with run and state directories of its own."""

    count = 0

    def __init__(self, name):
        Net.count += 1
        self.name = f"{name}{Net.count}"
        sh(f"ip netns add {self.name}; ip -n {self.name} link set lo up")
        self.path = f"{WORK}/{self.name}"
        for part in ("run", "state"):
            os.makedirs(f"{self.path}/{part}", mode=0o700)

    def prefix(self):
        return f"PEERWALL_RUN={self.path}/run PEERWALL_STATE={self.path}/state ip netns exec {self.name}"

    def sh(self, command, seconds=60):
        return sh(f"{self.prefix()} {command}", seconds)

    def must(self, command, wanted=0, seconds=60):
        return must(f"{self.prefix()} {command}", wanted, seconds)

    def policy(self, text, name="policy.toml"):
        path = f"{self.path}/{name}"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o600)
        return path

    def start(self, command):
        """Starts a process that `remove` ends."""
        log = open(f"{self.path}/log", "ab")
        words = ["ip", "netns", "exec", self.name, *command.split()]
        environment = {
            **os.environ,
            "PEERWALL_RUN": f"{self.path}/run",
            "PEERWALL_STATE": f"{self.path}/state",
        }
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def log(self):
        with open(f"{self.path}/log", encoding="utf-8", errors="replace") as file:
            return file.read()

    def until(self, command, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.sh(command)[0] == 0:
                return
            time.sleep(0.2)
        raise Failure(f"not within {seconds} s: {command}\n{shorten(self.sh(command)[1])}")

    def remove(self):
        sh(f"ip netns pids {self.name} | xargs -r kill -9; ip netns del {self.name}")


class Lan:
    """A host, a peer and a stranger at one bridge, and servers at ports 22 and 9999 of the host."""

    def __init__(self):
        self.switch, self.host, self.peer, self.stranger = Net("sw"), Net("host"), Net("peer"), Net("strange")
        must(f"ip -n {self.switch.name} link add br0 type bridge && ip -n {self.switch.name} link set br0 up")
        for number, net in enumerate((self.host, self.peer, self.stranger), 1):
            must(
                f"ip -n {self.switch.name} link add p{number} type veth peer name eth0 netns {net.name} &&"
                f"ip -n {self.switch.name} link set p{number} master br0 up &&"
                f"ip -n {net.name} addr add 10.9.0.{number}/24 dev eth0 &&"
                f"ip -n {net.name} addr add 2001:db8:9::{number}/64 dev eth0 nodad &&"
                f"ip -n {net.name} link set eth0 up"
            )
        for port in (22, 9999):
            self.host.start(f"nc -lk {port}")
            self.host.start(f"nc -6 -lk {port}")
        self.host.until("sh -c 'test $(ss -Hltn | wc -l) -ge 4'")

    def check(self):
        reached = [
            (self.peer, HOST, 9999, True),
            (self.stranger, HOST, 22, True),
            (self.stranger, HOST, 9999, False),
            (self.peer, "2001:db8:9::1", 9999, True),
            (self.stranger, "2001:db8:9::1", 9999, False),
        ]
        for net, address, port, wanted in reached:
            is_open = net.sh(f"nc -z -w 2 {address} {port}")[0] == 0
            if is_open != wanted:
                raise Failure(f"{net.name} to {address} port {port}: {'open' if is_open else 'closed'}")

    def remove(self):
        for net in (self.host, self.peer, self.stranger, self.switch):
            net.remove()
