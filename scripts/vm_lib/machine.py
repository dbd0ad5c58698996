"""Guests: started, stopped, and told to run commands."""

import base64
import json
import os
import select
import signal
import socket
import subprocess
import time

from . import image, kernels
from .common import CACHE, Problem, find, make_disk, need, run, say

MACHINES = CACHE / "machines"
# How long a guest may take until it obeys. Emulation on a busy machine is slow.
BOOT_SECONDS = 600
CHUNK_BYTES = 24576


def accelerator(kernel):
    """Returns `kvm` if a guest really boots with it, else `tcg`. PEERWALL_VM_ACCEL overrides it.

    Some machines have a /dev/kvm on which only kernels boot that were built for it."""
    chosen = os.environ.get("PEERWALL_VM_ACCEL")
    if chosen:
        return chosen
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    known = CACHE / "accelerator"
    if not known.exists():
        probe = [
            *qemu("kvm", "probe", 512),
            "-no-reboot",
            "-kernel",
            kernel.vmlinuz,
            "-initrd",
            kernel.initrd,
            "-append",
            "console=ttyS0 panic=-1 vm.probe",
            "-serial",
            "stdio",
        ]
        try:
            shown = subprocess.run(
                probe,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=20,
                check=False,
            ).stdout
        except subprocess.TimeoutExpired as error:
            shown = error.stdout or b""
        known.write_text("kvm" if b"vm.probe: booted" in shown else "tcg")
        say(f"accelerator: {known.read_text()}")
    return known.read_text()


def qemu(accel, name, memory_mib):
    cpu = (
        ["-enable-kvm", "-cpu", "host"]
        if accel == "kvm"
        else ["-accel", "tcg,tb-size=256", "-cpu", "Nehalem"]
    )
    return [
        find("qemu-system-x86_64"),
        *cpu,
        "-m",
        str(memory_mib),
        "-smp",
        "1",
        "-nodefaults",
        "-display",
        "none",
        "-name",
        f"peerwall-{name}",
    ]


class Machine:
    """A guest with a name. Its disk stays when it is stopped."""

    def __init__(self, name):
        self.name, self.path = name, MACHINES / name
        self.console, self.disk = self.path / "console.log", self.path / "disk.qcow2"
        self.socket = None

    def pid(self):
        """The process of its qemu, if it runs."""
        try:
            pid = int((self.path / "pid").read_text())
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if f"peerwall-{self.name}".encode() in words else None

    def boot(
        self,
        kernel,
        payload=None,
        keep=False,
        memory_mib=1024,
        append="",
        wire=None,
        forward=None,
        from_image="bookworm",
        wait=True,
        noreboot=False,
    ):
        """Starts it. `wire` is `NAME:a` or `NAME:b`: a card at one end of a cable between two guests."""
        need("qemu-system-x86_64", "qemu-img")
        if self.pid():
            raise Problem(f"{self.name} is running; stop it first")
        base = image.image_path(from_image)
        if not base.exists():
            raise Problem(f"image {from_image} does not exist: run scripts/vm image")
        self.path.mkdir(parents=True, exist_ok=True)
        if not (keep and self.disk.exists()):
            self.disk.unlink(missing_ok=True)
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", self.disk)
        command = qemu(accelerator(kernel), self.name, memory_mib)
        command += [
            "-kernel",
            kernel.vmlinuz,
            "-initrd",
            kernel.initrd,
            "-append",
            f"console=ttyS0 panic=-1 net.ifnames=0 mitigations=off nokaslr {append}".strip(),
        ]
        # Short, because the path of a socket is limited to 107 bytes.
        command += [
            "-serial",
            "file:console.log",
            "-qmp",
            "unix:qmp.sock,server=on,wait=off",
            "-device",
            "virtio-serial-pci",
            "-chardev",
            "socket,id=agent,path=agent.sock,server=on,wait=off",
            "-device",
            "virtserialport,chardev=agent,name=peerwall",
            "-device",
            "virtio-rng-pci",
        ]
        command += disk("root", self.disk, "qcow2") + disk("modules", kernel.modules, "raw", ",readonly=on")
        if payload:
            command += disk("payload", payload_disk(payload), "raw", ",readonly=on")
        command += network(wire, forward)
        if noreboot:
            command.append("-no-reboot")
        for name in ("agent.sock", "qmp.sock", "console.log"):
            (self.path / name).unlink(missing_ok=True)
        self.start([str(word) for word in command])
        if wait:
            self.wait()

    def start(self, command):
        with open(self.path / "qemu.log", "wb") as log:
            process = subprocess.Popen(
                ["nice", "-n", "5", *command],
                cwd=self.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.path / "pid").write_text(f"{process.pid}\n")
        time.sleep(0.3)
        if process.poll() is not None:
            raise Problem(f"{self.name}: qemu ended:\n{(self.path / 'qemu.log').read_text().strip()}")

    def wait(self, seconds=BOOT_SECONDS):
        """Waits until it obeys, and returns the id of its boot."""
        if not self.pid():
            raise Problem(f"{self.name} is not running: scripts/vm boot {self.name}")
        try:
            return self.ping(seconds)
        except (TimeoutError, Problem, OSError) as error:
            why = f"does not answer after {seconds} s" if self.pid() else "ended"
            last = self.console.read_text(errors="replace").splitlines()[-15:]
            raise Problem(
                f"{self.name} {why}; its console ({self.console}) ends with:\n" + "\n".join(last)
            ) from error

    def connect(self, deadline):
        if self.socket:
            return
        while True:
            # By the directory's descriptor, because the path of a socket is limited to 107 bytes.
            folder = os.open(self.path, os.O_PATH)
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(f"/proc/self/fd/{folder}/agent.sock")
                self.socket, self.received = link, b""
                return
            except OSError as error:
                link.close()
                if not self.pid():
                    raise Problem(f"{self.name} ended") from error
                if time.monotonic() > deadline:
                    raise TimeoutError from error
                time.sleep(0.1)
            finally:
                os.close(folder)

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def send(self, ident, **message):
        self.socket.settimeout(60)
        self.socket.sendall(json.dumps({"id": ident, **message}).encode() + b"\n")

    def messages(self, ident, seconds):
        """Messages with this id that arrive within the time."""
        end = time.monotonic() + seconds
        while True:
            *lines, self.received = self.received.split(b"\n")
            for number, line in enumerate(lines):
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                if message.get("id") == ident:
                    self.received = b"\n".join([*lines[number + 1 :], self.received])
                    yield message
                    break
            else:
                left = end - time.monotonic()
                if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                    return
                data = self.socket.recv(1 << 20)
                if not data:
                    self.close()
                    raise Problem(f"{self.name} ended")
                self.received += data

    def ping(self, seconds):
        deadline = time.monotonic() + seconds
        self.connect(deadline)
        while time.monotonic() < deadline:
            ident = new_id()
            self.send(ident, ping=True)
            for message in self.messages(ident, 2):
                return message["pong"]
        raise TimeoutError

    def run(self, command, seconds=600, stdin=b"", output=None):
        """Runs a shell command in the guest. Returns its exit status (124: no time left) and its output."""
        self.wait()
        ident = new_id()
        self.send(ident, run=command, limit=seconds)
        for start in range(0, len(stdin), CHUNK_BYTES):
            self.send(ident, **{"in": base64.b64encode(stdin[start : start + CHUNK_BYTES]).decode()})
        self.send(ident, end=True)
        kept = []
        for message in self.messages(ident, seconds + 30):
            if "rc" in message:
                return message["rc"] if message["rc"] >= 0 else 128 - message["rc"], b"".join(kept)
            data = base64.b64decode(message["out"])
            if output:
                output(data)
            else:
                kept.append(data)
        return 124, b"".join(kept)

    def sh(self, command, seconds=600):
        """Runs a shell command that must succeed, and returns its output."""
        rc, out = self.run(command, seconds)
        text = out.decode(errors="replace")
        if rc != 0:
            raise Problem(f"{self.name}: {command}: exit status {rc}\n{text.strip()}")
        return text

    def put(self, source, target):
        """Copies a file or directory into the guest's directory."""
        packed = subprocess.run(
            ["tar", "-C", source.parent, "-cz", "--owner=0", "--group=0", source.name],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        rc, out = self.run(f"mkdir -p '{target}' && tar -C '{target}' -xz", stdin=packed)
        if rc != 0:
            raise Problem(f"{self.name}: {target}: {out.decode(errors='replace').strip()}")

    def get(self, source, target):
        """Copies a file or directory of the guest into a directory here."""
        target.mkdir(parents=True, exist_ok=True)
        rc, out = self.run(f"cd \"$(dirname '{source}')\" && tar -czh \"$(basename '{source}')\" 2>/dev/null")
        if rc != 0:
            raise Problem(f"{self.name}: cannot read {source}")
        subprocess.run(["tar", "-C", target, "-xz"], input=out, check=True)

    def reboot(self, command="systemctl reboot --no-block", wait=True):
        """Reboots it, and waits until it obeys again."""
        before = self.wait()
        self.run(command, 30)
        deadline = time.monotonic() + BOOT_SECONDS
        while wait:
            try:
                if self.ping(5) != before:
                    return
            except TimeoutError:
                pass
            if time.monotonic() > deadline:
                raise Problem(f"{self.name} did not reboot; its console: {self.console}")
            time.sleep(1)

    def qmp(self, command):
        """Runs a command of qemu's monitor."""
        folder = os.open(self.path, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(f"/proc/self/fd/{folder}/qmp.sock")
            os.close(folder)
            file = link.makefile("rw")
            file.readline()
            for name in ("qmp_capabilities", command):
                file.write(json.dumps({"execute": name}) + "\n")
                file.flush()
                while "event" in json.loads(file.readline()):
                    pass

    def stop(self, hard=False, seconds=60):
        """Shuts it down; after the time, or at once if `hard`, ends its qemu."""
        pid = self.pid()
        if pid and not hard:
            try:
                self.ping(10)
                self.run("systemctl poweroff --no-block", 10)
            except (Problem, OSError, TimeoutError):
                seconds = 0
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and self.pid():
                time.sleep(0.2)
        self.close()
        if self.pid():
            os.kill(self.pid(), signal.SIGKILL)
        reap(pid)
        (self.path / "pid").unlink(missing_ok=True)

    def remove(self):
        """Stops it, and deletes its disk."""
        self.stop(hard=True)
        self.disk.unlink(missing_ok=True)


def reap(pid):
    """Ends the zombie, if the guest was started by this process."""
    try:
        os.waitpid(pid or -1, 0 if pid else os.WNOHANG)
    except ChildProcessError:
        pass


def new_id():
    return int.from_bytes(os.urandom(6), "big")


def disk(serial, path, kind, more=""):
    return [
        "-drive",
        f"if=none,id={serial},file={path},format={kind}{more}",
        "-device",
        f"virtio-blk-pci,drive={serial},serial={serial}",
    ]


def network(wire, forward):
    words = []
    # Numbers of devices follow this order: eth0 leads to this machine if both are there.
    if forward:
        # `restrict`: the guest cannot reach anything by this card.
        words += [
            "-netdev",
            f"user,id=user,restrict=on,hostfwd=tcp:127.0.0.1:{forward}-:22",
            "-device",
            "virtio-net-pci,netdev=user,mac=52:54:00:00:01:01",
        ]
    if wire:
        name, _, end = wire.partition(":")
        if end not in ("a", "b"):
            raise Problem(f"--wire {wire}: write NAME:a in one guest and NAME:b in the other")
        here, there = (f"../wire-{name}-{side}" for side in (end, "b" if end == "a" else "a"))
        (MACHINES / f"wire-{name}-{end}").unlink(missing_ok=True)
        words += [
            "-netdev",
            f"dgram,id=wire,local.type=unix,local.path={here},remote.type=unix,remote.path={there}",
            "-device",
            f"virtio-net-pci,netdev=wire,mac=52:54:00:00:02:0{end}",
        ]
    return words


def payload_disk(folder):
    """The disk of a directory, made again if something in it is newer."""
    path = folder.with_name(folder.name + ".img")
    is_new = path.exists() and not run("find", folder, "-newer", path, "-print", "-quit").strip()
    if not is_new:
        make_disk(path, folder)
    return path


def kernel_of(word):
    """A kernel in the cache by its name, or a version."""
    known = kernels.Kernel(word)
    return known if known.is_ready() else kernels.kernel(word)
