"""Situations of scripts/boot-test beside other programs of Debian's archive that change rules."""

import shutil

from . import checks, image
from .boot import PEER, POLICY, STRANGER
from .checks import until, want
from .common import find
from .situations import situation

IMAGE = "neighbours"
PACKAGES = """
    firewalld ufw fail2ban python3-systemd docker.io podman crun netavark aardvark-dns keepalived
    libvirt-daemon-system libvirt-clients libvirt-daemon-config-network cloud-init
""".split()
# Installed, and started only by the situation that needs them.
UNITS = """
    firewalld.service ufw.service fail2ban.service
    docker.service docker.socket containerd.service
    podman.service podman.socket podman-restart.service podman-auto-update.timer podman-auto-update.service
    keepalived.service
    libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirt-guests.service
    virtlogd.service virtlogd.socket virtlogd-admin.socket
    virtlockd.service virtlockd.socket virtlockd-admin.socket
""".split()
# Each has these rules in force at its end, and strangers reach 8080, which is published, but not 8081.
CONTAINERS = """
[interfaces]
guests = ["docker0", "podman*", "cni-podman*"]
[[allow]]
name  = "web"
ports = ["8080/tcp"]
from  = "any"
"""
BOX = "mkdir -p /root/box/bin; cp /payload/busybox /root/box/bin/; tar -C /root/box -c . | {} import - box"
SERVE = "{} run -d --restart always --name {} -p {}:80 box /bin/busybox httpd -f -p 80"


def make_image():
    image.image(IMAGE, packages=PACKAGES, masked=UNITS)


def add_to(folder):
    """What runs in containers, and where there is no libc."""
    if not (folder / "busybox").exists():
        shutil.copy(find("busybox"), folder / "busybox")


def start(lab, *units):
    names = " ".join(units)
    lab.node.sh(f"systemctl unmask -q {names} && systemctl enable -q {names} && systemctl start {names}", 300)


def ends(*units):
    """What undoes `start`."""
    names = " ".join(units)
    return f"systemctl stop {names}; systemctl disable -q {names}; systemctl mask -q {names}"


def through(lab, commands, check):
    """Runs the commands while the outsider probes, then reboots; each time `check` must hold."""
    lab.probe()
    for command in commands:
        lab.node.sh(command, 300)
        check(command)
    checks.never_answered(lab.probed(), "before the reboot")
    probes = lab.reboot()
    check("the reboot")
    return probes


def nothing_more(_):
    pass


@situation(
    "firewalld, which drops everything but ssh, is started beside peerwall",
    image=IMAGE,
    peer=False,
    says=["firewalld"],
    undo=ends("firewalld.service"),
)
def firewalld(lab):
    start(lab, "firewalld.service")
    again = ["firewall-cmd --reload", "systemctl restart firewalld", "systemctl restart peerwall"]
    probes = through(lab, again, nothing_more)
    # It loads its rules after systemd regards it as started.
    until(lambda: lab.node.run("firewall-cmd --state")[0] == 0, "firewalld does not finish its start")
    # Until then the peer was answered, and a later probe may have the port of one of these connections.
    lab.node.sh("conntrack -F 2>/dev/null")
    return probes


@situation(
    "ufw, which drops everything but ssh, is enabled beside peerwall",
    image=IMAGE,
    peer=False,
    says=["ufw"],
    undo=f"ufw disable; {ends('ufw.service')}",
)
def ufw(lab):
    start(lab, "ufw.service")
    lab.node.sh("ufw allow 22/tcp && ufw --force enable")
    again = ["ufw reload", "systemctl restart ufw", "systemctl restart peerwall"]
    return through(lab, again, nothing_more)


JAIL = """[DEFAULT]
banaction = nftables
[sshd]
enabled = true
backend = systemd
"""


@situation("fail2ban bans a stranger", image=IMAGE, undo=ends("fail2ban.service"))
def fail2ban(lab):
    lab.write("/etc/fail2ban/jail.local", JAIL)
    start(lab, "fail2ban.service")
    until(lambda: lab.node.run("fail2ban-client status sshd")[0] == 0, "fail2ban does not start")

    def is_banned(after):
        until(lambda: not lab.reaches(22), f"{after}: the banned stranger reaches ssh")
        want(lab.reaches(22, by=PEER), f"{after}: the peer does not reach ssh")

    again = [
        f"fail2ban-client set sshd banip {STRANGER}",
        "systemctl restart peerwall",
        "systemctl restart fail2ban",
        "fail2ban-client reload",
    ]
    probes = through(lab, again, is_banned)
    lab.node.sh(f"fail2ban-client set sshd unbanip {STRANGER}")
    return probes


def published(lab):
    """Checks published ports, which containers may open some time after a command."""

    def check(after):
        until(lambda: lab.reaches(8080), f"{after}: a stranger does not reach the port that is allowed")
        until(lambda: lab.reaches(8081, by=PEER), f"{after}: the peer does not reach a published port")
        want(not lab.reaches(8081), f"{after}: a stranger reaches a published port that is not allowed")

    return check


@situation(
    "Docker publishes two ports; strangers may use one",
    image=IMAGE,
    undo=f"docker rm -f open closed; {ends('docker.service', 'docker.socket', 'containerd.service')}",
)
def docker(lab):
    lab.write("/etc/peerwall/policy.toml", POLICY + CONTAINERS)
    start(lab, "containerd.service", "docker.socket", "docker.service")
    lab.node.sh(BOX.format("docker"))
    lab.node.sh(SERVE.format("docker", "open", 8080) + " && " + SERVE.format("docker", "closed", 8081), 300)
    again = ["true", "systemctl restart docker", "systemctl reload docker", "systemctl restart peerwall"]
    return through(lab, again, published(lab))


@situation(
    "Podman publishes two ports; strangers may use one",
    image=IMAGE,
    undo=f"podman rm -f open closed; {ends('podman-restart.service')}",
)
def podman(lab):
    lab.write("/etc/peerwall/policy.toml", POLICY + CONTAINERS)
    start(lab, "podman-restart.service")
    lab.node.sh(BOX.format("podman"))
    lab.node.sh(SERVE.format("podman", "open", 8080) + " && " + SERVE.format("podman", "closed", 8081), 300)
    again = ["true", "podman restart --all", "podman network reload --all", "systemctl restart peerwall"]
    return through(lab, again, published(lab))


SHARED = "192.0.2.10"
LISTEN = "ss -Hltn sport = :9999 | grep -q . || setsid nc -lk 9999 >/dev/null 2>&1 </dev/null &"
VRRP = f"""vrrp_instance shared {{
    interface eth0
    state MASTER
    virtual_router_id 51
    priority 100
    virtual_ipaddress {{
        {SHARED}/24
    }}
}}
"""


@situation("keepalived adds an address", image=IMAGE, undo=ends("keepalived.service"))
def keepalived(lab):
    lab.write("/etc/keepalived/keepalived.conf", VRRP)
    start(lab, "keepalived.service")

    def check(after):
        lab.node.sh(LISTEN)
        until(lambda: lab.reaches(22, SHARED), f"{after}: a stranger does not reach ssh at the address")
        until(lambda: lab.reaches(9999, SHARED, PEER), f"{after}: the peer does not reach the address")
        want(not lab.reaches(9999, SHARED), f"{after}: a stranger reaches a closed port at the address")

    again = ["true"]
    again += [
        f"systemctl {words}" for words in ("restart keepalived", "reload keepalived", "restart peerwall")
    ]
    return through(lab, again, check)


# A namespace at libvirt's bridge, as a virtual machine is.
GUEST = """
    ip link del vm0 2>/dev/null; ip netns del vm 2>/dev/null
    ip netns add vm && ip link add vm0 type veth peer name eth0 netns vm &&
    ip link set vm0 master virbr0 up &&
    ip netns exec vm timeout 60 dhclient -1 -sf /usr/local/sbin/vm-lease -lf /run/vm.lease -pf /run/vm.pid eth0
"""
LEASE = """#!/bin/sh
case "$reason" in
PREINIT) ip link set eth0 up ;;
BOUND) ip addr add "$new_ip_address/24" dev eth0 ;;
esac
"""
LIBVIRT = [unit for unit in UNITS if unit.startswith(("libvirtd.", "libvirtd-", "virtlogd", "virtlockd"))]


@situation(
    "libvirt's dnsmasq serves virtual machines",
    image=IMAGE,
    undo=f"ip netns del vm; virsh -c network:///system net-destroy default; {ends(*LIBVIRT)}",
)
def libvirt(lab):
    lab.write("/etc/peerwall/policy.toml", POLICY + '[interfaces]\nguests = ["virbr0"]\n')
    lab.write("/usr/local/sbin/vm-lease", LEASE)
    lab.node.sh("chmod 755 /usr/local/sbin/vm-lease")
    lab.node.sh(f"systemctl unmask -q {' '.join(LIBVIRT)}")
    start(lab, "libvirtd.service")
    lab.node.sh(
        "virsh -c network:///system net-autostart default; virsh -c network:///system net-start default || "
        "virsh -c network:///system net-list | grep -q default"
    )

    def check(after):
        until(lambda: lab.node.run("ip link show virbr0")[0] == 0, f"{after}: no virbr0")
        lab.node.sh(LISTEN)
        rc, out = lab.node.run(GUEST, 90)
        want(rc == 0, f"{after}: a virtual machine gets no address: {out.decode()}")
        for port, wanted in ((53, 0), (9999, 1)):
            rc = lab.node.run(f"ip netns exec vm nc -z -w 3 192.168.122.1 {port}")[0]
            want(rc == wanted, f"{after}: port {port} of the host: exit status {rc} in the virtual machine")

    again = ["true", "systemctl restart libvirtd", "systemctl restart peerwall"]
    return through(lab, again, check)
