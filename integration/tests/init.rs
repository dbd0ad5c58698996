//! `peerwall init`: the policy that it writes fits the host that it is written on.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::process::{Child, Stdio};

use peerwall_integration::ns::{Host, world};

/// A node with flannel and Docker.
const NODE: &str = "
    ip link add eth0 type veth peer name eth0-far
    ip address add 192.0.2.7/24 dev eth0
    ip link set eth0 up && ip link set eth0-far up
    ip link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.7 dev eth0 nolearning
    ip link set flannel.1 up
    bridge fdb append 02:00:00:00:00:08 dev flannel.1 dst 192.0.2.8
    bridge fdb append 02:00:00:00:00:09 dev flannel.1 dst 192.0.2.9
    ip link add cni0 type bridge && ip address add 10.244.1.1/24 dev cni0
    ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0
    mkdir -p /run/flannel
    printf 'FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n' \
        >/run/flannel/subnet.env
";
const LISTENERS: &str = "
import socket, sys
kinds = {'tcp': socket.SOCK_STREAM, 'udp': socket.SOCK_DGRAM}
held = []
for word in sys.argv[1:]:
    kind, address, port = word.split(',')
    held.append(socket.socket(socket.AF_INET, kinds[kind]))
    held[-1].bind((address, int(port)))
    if kind == 'tcp':
        held[-1].listen()
print('ready', flush=True)
sys.stdin.read()
";

/// Programs that listen until this is dropped.
struct Listening(Child);

impl Listening {
    fn start(host: &Host, sockets: &[&str]) -> Self {
        let mut child = host
            .command("python3")
            .args(["-c", LISTENERS])
            .args(sockets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Self(child)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Lines that are no comments.
fn active(text: &str) -> Vec<&str> {
    let is_active = |line: &&str| !line.is_empty() && !line.starts_with('#');
    text.lines().filter(is_active).collect()
}

#[test]
fn the_policy_lists_what_is_on_the_host() {
    world(|| {
        let host = Host::new("node");
        host.sh(NODE);
        let sockets = [
            "tcp,0.0.0.0,22",
            "tcp,0.0.0.0,80",
            "udp,0.0.0.0,53",
            "tcp,127.0.0.1,99",
        ];
        let _listening = Listening::start(&host, &sockets);
        let text = host.peerwall_ok(&["init", "-"]);
        assert_eq!(
            active(&text),
            [
                "version = 1",
                "[peers]",
                "node-192-0-2-8 = \"192.0.2.8\"",
                "node-192-0-2-9 = \"192.0.2.9\"",
                "[overlay.flannel]",
                "backend  = \"vxlan\"",
                "discover = \"/run/flannel/subnet.env\"",
                "[interfaces]",
                "guests = [\"docker0\"]",
                "[[allow]]",
                "name  = \"ssh\"",
                "ports = [\"22/tcp\"]",
                "from  = \"any\"",
            ]
        );
        for (port, is_offered) in [
            ("80/tcp", true),
            ("53/udp", true),
            ("99/tcp", false),
            ("8472", false),
        ] {
            assert_eq!(text.contains(port), is_offered, "{port}\n{text}");
        }
        assert!(text.contains("# Port 80: python3"), "{text}");
    });
}

/// A node of flannel whose routes lead to the other nodes.
const ROUTED: &str = "
    ip link add eth0 type veth peer name eth0-far
    ip address add 192.0.2.7/24 dev eth0
    ip address add 2001:db8:49::7/64 dev eth0 nodad
    ip link set eth0 up && ip link set eth0-far up
    ip route add default via 192.0.2.1
    ip link add cni0 type bridge && ip address add 10.244.1.1/24 dev cni0 && ip link set cni0 up
    ip route add 10.244.2.0/24 via 192.0.2.8
    ip route add 10.244.3.0/24 via 192.0.2.9
    ip route add 2001:db8:244:2::/64 via 2001:db8:49::8
    ip route add 10.244.200.0/24 via 192.0.2.1
    ip route add 10.96.0.0/12 via 192.0.2.66
    mkdir -p /run/flannel
    printf 'FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_IPV6_NETWORK=2001:db8:244::/48\n' \
        >/run/flannel/subnet.env
";
const ROUTED_PEERS: [&str; 3] = [
    "node-192-0-2-8 = \"192.0.2.8\"",
    "node-192-0-2-9 = \"192.0.2.9\"",
    "node-2001-db8-49--8 = \"2001:db8:49::8\"",
];

#[test]
fn nodes_of_host_gw_are_found_by_the_routes_to_their_pods() {
    world(|| {
        let host = Host::new("node");
        host.sh(ROUTED);
        let text = host.peerwall_ok(&["init", "-"]);
        let active = active(&text);
        assert_eq!(&active[2..5], ROUTED_PEERS, "{text}");
        assert!(active.contains(&"backend  = \"host-gw\""), "{text}");
        assert!(!text.contains("direct"), "{text}");
        std::fs::write("/run/policy.toml", text).unwrap();
        host.peerwall_ok(&["apply", "/run/policy.toml"]);
    });
}

#[test]
fn direct_routing_beside_a_tunnel_is_in_the_policy() {
    world(|| {
        let host = Host::new("node");
        host.sh(ROUTED);
        host.sh(
            "ip link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.7 dev eth0 nolearning
            ip link set flannel.1 up
            ip route add 10.244.4.0/24 via 10.244.4.0 dev flannel.1 onlink
            bridge fdb append 02:00:00:00:00:04 dev flannel.1 dst 203.0.113.4",
        );
        let text = host.peerwall_ok(&["init", "-"]);
        let active = active(&text);
        let lines = [
            "node-203-0-113-4 = \"203.0.113.4\"",
            "backend  = \"vxlan\"",
            "direct   = true",
        ];
        for line in ROUTED_PEERS.iter().chain(&lines) {
            assert!(active.contains(line), "{line}\n{text}");
        }
        std::fs::write("/run/policy.toml", text).unwrap();
        host.peerwall_ok(&["check", "/run/policy.toml"]);
    });
}

#[test]
fn machines_behind_a_wireguard_tunnel_are_offered() {
    world(|| {
        let host = Host::new("node");
        // The kernel may lack WireGuard, and may refuse a tun device to an ordinary user.
        host.sh(
            "ip link add wg0 type vxlan id 7 dstport 51820 && ip link set wg0 up
            ip address add 10.8.0.1/32 dev wg0
            ip route add 10.8.0.2/32 dev wg0
            ip route add 10.9.0.0/24 dev wg0",
        );
        let text = host.peerwall_ok(&["init", "-"]);
        assert_eq!(active(&text), ["version = 1", "[peers]"], "{text}");
        for line in [
            "# node-10-8-0-2 = \"10.8.0.2\"\n",
            "# trusted = [\"wg0\"]\n",
            "10.9.0.0/24",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    });
}

#[test]
fn the_policy_can_be_applied_as_it_is() {
    world(|| {
        let host = Host::new("node");
        host.sh(NODE);
        let said = host.peerwall_ok(&["init", "/run/policy.toml"]);
        assert!(
            said.contains("peerwall apply --confirm 60s /run/policy.toml"),
            "{said}"
        );
        host.peerwall_ok(&["check", "/run/policy.toml"]);
        host.peerwall_ok(&["apply", "/run/policy.toml"]);
        let loaded = host.sh("nft list table inet peerwall");
        assert!(loaded.contains("192.0.2.9"), "{loaded}");
        assert_eq!(host.sh("stat -c %a /run/policy.toml").trim(), "644");
    });
}

#[test]
fn a_plain_host_without_ssh_gets_an_empty_policy() {
    world(|| {
        let text = Host::new("plain").peerwall_ok(&["init", "-"]);
        assert_eq!(active(&text), ["version = 1", "[peers]"]);
    });
}

#[test]
fn a_file_that_exists_is_never_overwritten() {
    world(|| {
        let host = Host::new("plain");
        host.sh("echo old >/run/old && ln -s /run/nowhere /run/link && mkfifo /run/fifo");
        for (path, why) in [
            ("/run/old", "/run/old exists"),
            ("/run/link", "/run/link exists"),
            ("/run/fifo", "/run/fifo exists"),
            ("/run", "/run exists"),
            ("/run/none/policy.toml", "its directory does not exist"),
        ] {
            let output = host.peerwall(&["init", path]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(why), "{said}");
        }
        assert_eq!(
            host.sh("cat /run/old; ls /run/nowhere 2>&1 || true")
                .lines()
                .next(),
            Some("old")
        );
        assert!(fs::metadata("/run/nowhere").is_err());
        let full = host.sh(
            "mkdir /run/full && mount -t tmpfs -o size=4k none /run/full && \
             head -c 4096 /dev/zero >/run/full/zero || true; ls /run/full",
        );
        assert_eq!(full.trim(), "zero");
        let output = host.peerwall(&["init", "/run/full/policy.toml"]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(
            host.sh("ls /run/full").trim(),
            "zero",
            "no empty file is left"
        );
    });
}
