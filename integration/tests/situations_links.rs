//! What comes from the link: redirects, router advertisements, frames that only cross a bridge, and
//! guests.

use std::net::{Ipv6Addr, UdpSocket};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use peerwall_integration::net::{bridge, enslave, wire};
use peerwall_integration::ns::{Host, world};
use peerwall_integration::probe;
use peerwall_integration::situation::{
    By, Lan, apply, cni0, datagram, expect, icmp, mac, mac_of, pod, reaches, send, send_datagram,
};

const POLICY: &str = r#"
    [peers]
    peer = ["192.0.2.12", "2001:db8:49::12"]
    [overlay.flannel]
    backend = "vxlan"
    subnets = ["10.244.0.0/16", "2001:db8:244::/48"]
    [[allow]]
    name = "ssh"
    ports = ["22/tcp"]
    from = "any"
"#;

/// Whether a redirect that quotes an open flow of the host moves its route to the stranger.
fn is_redirected(host: &Host, stranger: &Host, v6: bool) -> bool {
    let (own, far, target) = match v6 {
        false => ("192.0.2.11", "198.51.100.9", "192.0.2.99"),
        true => ("2001:db8:49::11", "2001:db8:51::9", "fe80::99"),
    };
    let any = if v6 { "[::]:4000" } else { "0.0.0.0:4000" };
    // The flow, so that connection tracking and the kernel know what the redirect is about.
    let socket = host.run(|| UdpSocket::bind(any)).expect("the port is free");
    // Without this, the kernel does not find the route that a redirect of IPv6 is about.
    setsockopt(&socket, BindToDevice, &"eth0".into()).expect("eth0 is there");
    let quoted = datagram(own, far, 53, b"?").ip_bytes();
    let redirect = match v6 {
        false => icmp("192.0.2.12", own, [5, 1], 64, [192, 0, 2, 99], &quoted),
        true => {
            let octets = |text: &str| text.parse::<Ipv6Addr>().expect("an address").octets();
            let payload = [&octets(target)[..], &octets(far), &redirected(&quoted)].concat();
            icmp("fe80::12", own, [137, 0], 255, [0; 4], &payload)
        }
    };
    let family = if v6 { "-6" } else { "-4" };
    // The first makes the kernel look for the new router, the next one moves the route.
    (0..4).any(|_| {
        let _ = socket.send_to(b"?", (far, 53));
        send(stranger, "eth0", mac(11), &redirect);
        std::thread::sleep(Duration::from_millis(100));
        let route = host.sh(&format!("ip {family} route get {far}"));
        route.contains(&format!("via {target}"))
    })
}

/// The option of a redirect that quotes a packet (RFC 4861 section 4.6.3), padded to units of 8
/// bytes.
fn redirected(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.resize(packet.len().next_multiple_of(8), 0);
    let units = u8::try_from(packet.len() / 8 + 1).expect("a short packet");
    [&[4, units, 0, 0, 0, 0, 0, 0][..], &packet].concat()
}

/// A host with its router on the LAN, and a stranger who wants to be it.
fn routed() -> (Lan, [Host; 3]) {
    let lan = Lan::new();
    let hosts = [
        lan.join("host", 11),
        lan.join("router", 12),
        lan.join("stranger", 99),
    ];
    hosts[1].sh("ip -6 address add fe80::12/64 dev eth0 nodad");
    hosts[2].sh("ip -6 address add fe80::99/64 dev eth0 nodad");
    let host = &hosts[0];
    host.sh("ip route add default via 192.0.2.12; ip -6 route add default via fe80::12 dev eth0");
    for (key, value) in [
        ("net.ipv4.conf.all.accept_redirects", "1"),
        ("net.ipv4.conf.eth0.accept_redirects", "1"),
        ("net.ipv4.conf.all.secure_redirects", "0"),
        ("net.ipv4.conf.eth0.secure_redirects", "0"),
        ("net.ipv6.conf.eth0.accept_redirects", "1"),
    ] {
        host.sysctl(key, value);
    }
    (lan, hosts)
}

fn redirects(by: By) {
    let (_lan, [host, _router, stranger]) = routed();
    apply(&host, by, POLICY);
    for v6 in [false, true] {
        assert!(!is_redirected(&host, &stranger, v6), "v6: {v6}");
    }
    apply(
        &host,
        by,
        &format!("{POLICY}[icmp]\nv4 = [\"redirect\"]\nv6 = [\"nd-redirect\"]\n"),
    );
    for v6 in [false, true] {
        assert!(is_redirected(&host, &stranger, v6), "listed, v6: {v6}");
    }
}

#[test]
fn redirects_move_no_route() {
    world(|| {
        redirects(By::Nft);
    });
}

#[test]
fn redirects_move_no_route_by_iptables() {
    world(|| {
        redirects(By::Iptables);
    });
}

#[test]
fn a_pod_is_no_router() {
    world(|| {
        let lan = Lan::new();
        let node = lan.join("node", 11);
        cni0(&node, 1);
        let pod = pod(&node, 1, 5);
        for key in ["accept_ra", "accept_ra_defrtr"] {
            node.sysctl(&format!("net.ipv6.conf.cni0.{key}"), "2");
        }
        pod.sh("ip -6 address add fe80::5/64 dev eth0 nodad");
        let to = mac_of(&node, "cni0");
        let advertises = || {
            // Hop limit 64, a router for 1800 s (RFC 4861 section 4.2); reachable time and
            // retransmission follow.
            let advert = icmp("fe80::5", "ff02::1", [134, 0], 255, [64, 0, 7, 8], &[0; 8]);
            send(&pod, "eth0", to, &advert);
            std::thread::sleep(Duration::from_millis(150));
            node.sh("ip -6 route show default").contains("via fe80::5")
        };
        apply(&node, By::Nft, POLICY);
        assert!(!advertises(), "a pod is the node's router");
        node.sh("nft delete table inet peerwall");
        assert!(advertises(), "without rules");
    });
}

/// A node whose `eth0` is on a bridge with a VM beside it, as it sees frames with `br_netfilter`.
struct Virtual {
    lan: Lan,
    node: Host,
    vm: Host,
    client: Host,
    peer: Host,
    pods: [Host; 2],
}

impl Virtual {
    fn new() -> Self {
        let lan = Lan::new();
        let (client, peer) = (lan.join("client", 50), lan.join("peer", 12));
        let node = Host::new("node");
        bridge(&node, "br0", &["192.0.2.11/24", "2001:db8:49::11/64"]);
        lan.plug(&node, "11", &[]);
        enslave(&node, "eth0", "br0");
        let vm = Host::new("vm");
        wire(
            &vm,
            "eth0",
            &["192.0.2.80/24", "2001:db8:49::80/64"],
            &node,
            "tap0",
            &[],
        );
        enslave(&node, "tap0", "br0");
        cni0(&node, 1);
        for key in ["iptables", "ip6tables"] {
            node.sysctl(&format!("net.bridge.bridge-nf-call-{key}"), "1");
        }
        let pods = [pod(&node, 1, 5), pod(&node, 1, 6)];
        for host in [&node, &vm, &client, &pods[1]] {
            for port in [22, 80] {
                probe::tcp_server(host, &format!("[::]:{port}"));
            }
        }
        Self {
            lan,
            node,
            vm,
            client,
            peer,
            pods,
        }
    }

    fn expect(&self, what: &str) {
        for (vm, client, node, pod) in [
            ("192.0.2.80", "192.0.2.50", "192.0.2.11", "10.244.1.6"),
            (
                "[2001:db8:49::80]",
                "[2001:db8:49::50]",
                "[2001:db8:49::11]",
                "[2001:db8:244:1::6]",
            ),
        ] {
            let at = |address: &str, port: u16| format!("{address}:{port}");
            expect(
                what,
                &[
                    ("LAN to VM", &self.client, &at(vm, 80), true),
                    ("VM to LAN", &self.vm, &at(client, 80), true),
                    ("peer to VM", &self.peer, &at(vm, 80), true),
                    // Neighbour discovery between pods crosses a bridge as well.
                    ("pod to pod", &self.pods[0], &at(pod, 80), true),
                    ("LAN to the node", &self.client, &at(node, 80), false),
                    ("LAN to the node's ssh", &self.client, &at(node, 22), true),
                    ("VM to the node", &self.vm, &at(node, 80), false),
                ],
            );
        }
    }
}

fn virtual_machines(by: By) {
    let host = Virtual::new();
    assert!(
        reaches(&host.client, "192.0.2.80:80", true),
        "without rules"
    );
    apply(&host.node, by, POLICY);
    host.expect("as one writes it");
    apply(
        &host.node,
        by,
        &format!("{POLICY}[interfaces]\nbridged = [\"br0\"]\n"),
    );
    host.expect("written");
    // Routed in and out by the bridge is not the same: not to pods, nor in a pod's name to a peer,
    // where it would arrive masqueraded.
    apply(&host.node, by, POLICY);
    host.client.sh("ip route add 10.244.0.0/16 via 192.0.2.11");
    assert!(
        !reaches(&host.client, "10.244.1.6:80", false),
        "a stranger reaches a pod"
    );
    let nat = if by == By::Nft { "nft" } else { "legacy" };
    host.node.sh(&format!(
        "iptables-{nat} -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE"
    ));
    let arrived = probe::udp_server(&host.peer, "0.0.0.0:8472");
    let node = mac_of(&host.node, "br0");
    let forge = || {
        send(
            &host.client,
            "eth0",
            node,
            &datagram("172.17.0.9", "192.0.2.12", 8472, b"?"),
        )
    };
    let came = peerwall_integration::situation::arrives(&arrived, false, forge);
    assert!(!came, "masqueraded to a peer");
    send_datagram(&host.client, "192.0.2.11:8472", b"?");
    drop(host.lan);
}

#[test]
fn frames_between_a_lan_and_virtual_machines_go_on() {
    world(|| {
        virtual_machines(By::Nft);
    });
}

#[test]
fn frames_between_a_lan_and_virtual_machines_go_on_by_iptables() {
    world(|| {
        virtual_machines(By::Iptables);
    });
}

/// dnsmasq, killed when it goes out of scope.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(host: &Host) -> Self {
        let mut command = host.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--interface=lxdbr0",
            "--bind-interfaces",
            "--except-interface=lo",
            "--dhcp-range=10.0.3.2,10.0.3.254,1h",
            "--dhcp-range=2001:db8:3::100,2001:db8:3::200,64,1h",
            "--enable-ra",
            "--dhcp-leasefile=/run/leases",
            "--pid-file=/run/dnsmasq.pid",
            "--no-resolv",
            "--no-ping",
        ]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("dnsmasq is installed (scripts/deps)"))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a guest gets a lease of this host's DHCP server.
fn has_lease(guest: &Host, family: &str) -> bool {
    guest.sh("ip address flush dev eth0 scope global");
    let command = format!(
        "rm -f /run/lease; touch /run/lease; timeout 8 dhclient {family} \
         -1 -v -d -lf /run/lease -pf /run/dhclient.pid -sf /bin/true eth0 2>&1 & sleep 0; \
         for i in $(seq 70); do grep -q '^lease\\|iaaddr' /run/lease && break; sleep 0.1; done; \
         kill $! 2>/dev/null; grep -c '^lease\\|iaaddr' /run/lease"
    );
    let output = guest.try_sh(&command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().last().is_some_and(|count| count != "0")
}

/// Whether the host's DNS server answers a guest, be it with a refusal.
fn asks_dns(guest: &Host) -> bool {
    // One question, for the address of `a` (RFC 1035 section 4.1).
    let question = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
    guest.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("there is a port");
        let wait = socket.set_read_timeout(Some(probe::PATIENCE));
        wait.expect("a time");
        socket.send_to(&question, "10.0.3.1:53").is_ok() && socket.recv(&mut [0; 64]).is_ok()
    })
}

/// A host with a network of guests of its own, for which it serves DHCP and DNS.
fn guests(policy: &str, trusts: bool) {
    let lan = Lan::new();
    let (host, peer, outside) = (
        lan.join("host", 11),
        lan.join("peer", 12),
        lan.join("outside", 60),
    );
    bridge(&host, "lxdbr0", &["10.0.3.1/24", "2001:db8:3::1/64"]);
    host.sysctl("net.ipv4.ip_forward", "1");
    host.sysctl("net.ipv6.conf.all.forwarding", "1");
    host.sh("nft 'table ip lxd {
            chain post {
                type nat hook postrouting priority srcnat
                ip saddr 10.0.3.0/24 ip daddr != 10.0.3.0/24 masquerade
            }
        }'");
    let guest = Host::new("guest");
    wire(&guest, "eth0", &[], &host, "tap0", &[]);
    enslave(&host, "tap0", "lxdbr0");
    for server in [&host, &peer, &outside] {
        probe::tcp_server(server, "0.0.0.0:8080");
    }
    apply(&host, By::Nft, policy);
    let _dnsmasq = Dnsmasq::start(&host);
    for family in ["-4", "-6"] {
        assert!(
            has_lease(&guest, family),
            "no lease with {family}\n{policy}"
        );
    }
    guest.sh("ip address replace 10.0.3.77/24 dev eth0; ip route replace default via 10.0.3.1");
    expect(
        policy,
        &[
            ("guest to the Internet", &guest, "192.0.2.60:8080", true),
            ("guest to this host", &guest, "10.0.3.1:8080", trusts),
            ("guest to a peer", &guest, "192.0.2.12:8080", trusts),
        ],
    );
    assert!(asks_dns(&guest), "{policy}");
}

#[test]
fn guests_go_out_and_have_dhcp_and_dns() {
    world(|| {
        guests(
            &format!("{POLICY}[interfaces]\nguests = [\"lxdbr0\"]\n"),
            false,
        );
    });
}

#[test]
fn guests_as_an_overlay_have_dhcp_too() {
    world(|| {
        guests(
            &format!(
                r#"
                    {POLICY}
                    [overlay.lxd]
                    backend = "none"
                    subnets = ["10.0.3.0/24", "2001:db8:3::/64"]
                    interfaces = ["lxdbr0"]
                "#
            ),
            true,
        );
    });
}
