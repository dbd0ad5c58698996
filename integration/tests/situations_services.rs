//! Addresses of services: who may dial them, in whichever way kube-proxy makes them; and loopback
//! addresses, which nobody may dial from outside.

use peerwall_integration::ns::{Host, world};
use peerwall_integration::probe;
use peerwall_integration::situation::{
    By, Lan, apply, arrives, cni0, datagram, expect, mac, pod, reaches, remove, send,
};

const SERVICE: &str = "10.96.0.50";

/// How kube-proxy or kube-router makes services.
#[derive(Clone, Copy, PartialEq)]
enum Proxy {
    Nftables,
    Iptables(&'static str),
    /// There is neither IPVS nor a dummy device here. What counts is that the addresses are this
    /// host's, on this interface; it listens there itself.
    OwnAddress(&'static str),
}

/// The interface of kube-proxy in IPVS mode.
const IPVS: Proxy = Proxy::OwnAddress("kube-ipvs0");

/// A node with a pod behind a service and a NodePort, a peer and a stranger, who knows the way to
/// services.
struct Node {
    lan: Lan,
    node: Host,
    peer: Host,
    stranger: Host,
    pod: Host,
}

impl Node {
    fn new(proxy: Proxy) -> Self {
        let lan = Lan::new();
        let (node, peer, stranger) = (
            lan.join("node", 11),
            lan.join("peer", 12),
            lan.join("stranger", 99),
        );
        cni0(&node, 1);
        let pod = pod(&node, 1, 5);
        node.sh("ip route add default via 192.0.2.12");
        for host in [&peer, &stranger] {
            host.sh("ip route add 10.96.0.0/12 via 192.0.2.11");
        }
        probe::tcp_server(&pod, "0.0.0.0:8443");
        probe::tcp_server(&node, "0.0.0.0:443");
        kube_proxy(&node, proxy);
        Self {
            lan,
            node,
            peer,
            stranger,
            pod,
        }
    }

    /// The service answers whom it should, and nobody else.
    fn expect(&self, what: &str, proxy: Proxy, named: bool) {
        let service = &format!("{SERVICE}:443");
        let (from_pod, to_node) = (&self.pod, "192.0.2.11:443");
        expect(
            what,
            &[
                ("this host's own port", &self.stranger, to_node, true),
                ("service", &self.stranger, service, named),
                ("peer to service", &self.peer, service, true),
                ("pod to service", from_pod, service, true),
            ],
        );
        if !matches!(proxy, Proxy::OwnAddress(_)) {
            let port = "192.0.2.11:30443";
            expect(
                what,
                &[
                    ("NodePort", &self.stranger, port, named),
                    ("peer to NodePort", &self.peer, port, true),
                ],
            );
        }
    }
}

fn kube_proxy(node: &Host, proxy: Proxy) {
    match proxy {
        Proxy::Nftables => {
            let rules = "table ip kube-proxy {
                chain pod { meta l4proto tcp meta mark set meta mark or 0x4000 dnat to 10.244.1.5:8443; }
                chain services {
                    ip daddr 10.96.0.50 tcp dport 443 jump pod
                    fib daddr type local tcp dport 30443 jump pod
                }
                chain prerouting { type nat hook prerouting priority dstnat; jump services; }
                chain output { type nat hook output priority -100; jump services; }
                chain postrouting {
                    type nat hook postrouting priority srcnat
                    meta mark and 0x4000 != 0 masquerade
                }
            }";
            node.sh(&format!("nft '{rules}'"));
        }
        Proxy::Iptables(suffix) => {
            for rule in [
                "-N SERVICES",
                "-A PREROUTING -j SERVICES",
                "-A OUTPUT -j SERVICES",
                "-A SERVICES -d 10.96.0.50 -p tcp --dport 443 -j MARK --set-xmark 0x4000/0x4000",
                "-A SERVICES -d 10.96.0.50 -p tcp --dport 443 -j DNAT --to-destination 10.244.1.5:8443",
                "-A SERVICES -m addrtype --dst-type LOCAL -p tcp --dport 30443 -j MARK --set-xmark \
                 0x4000/0x4000",
                "-A SERVICES -m addrtype --dst-type LOCAL -p tcp --dport 30443 -j DNAT \
                 --to-destination 10.244.1.5:8443",
                "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
            ] {
                node.sh(&format!("iptables-{suffix} -t nat {rule}"));
            }
        }
        Proxy::OwnAddress(name) => {
            node.sh(&format!(
                "ip link add {name} type bridge; ip address add 10.96.0.50/32 dev {name}"
            ));
        }
    }
}

const POLICY: &str = r#"
    [peers]
    peer = "192.0.2.12"
    [overlay.flannel]
    backend = "vxlan"
    subnets = ["10.244.0.0/16"]
    [[allow]]
    name = "https"
    ports = ["443/tcp"]
    from = "any"
"#;
const NAMED: &str = r#"
    [[allow]]
    name = "service"
    ports = ["443/tcp"]
    from = "any"
    to = ["10.96.0.50"]
    [[allow]]
    name = "nodeport"
    ports = ["30443/tcp"]
    from = "any"
"#;

fn services(proxy: Proxy, by: By) {
    let node = Node::new(proxy);
    assert!(
        reaches(&node.stranger, &format!("{SERVICE}:443"), true),
        "without rules"
    );
    apply(&node.node, by, POLICY);
    node.expect("nobody named the service", proxy, false);
    apply(&node.node, by, &format!("{POLICY}{NAMED}"));
    node.expect("it is named", proxy, true);
}

#[test]
fn a_service_of_kube_proxy_in_nftables_is_not_this_host() {
    world(|| {
        services(Proxy::Nftables, By::Nft);
    });
}

#[test]
fn a_service_of_kube_proxy_in_iptables_is_not_this_host() {
    world(|| {
        services(Proxy::Iptables("nft"), By::Nft);
    });
}

#[test]
fn a_service_of_kube_proxy_with_ipvs_is_not_this_host() {
    world(|| {
        services(IPVS, By::Nft);
    });
}

#[test]
fn a_service_of_kube_router_is_not_this_host() {
    world(|| {
        services(Proxy::OwnAddress("kube-dummy-if"), By::Nft);
    });
}

#[test]
fn a_service_is_not_this_host_by_iptables_either() {
    world(|| {
        services(Proxy::Iptables("legacy"), By::Iptables);
    });
}

#[test]
fn a_service_with_ipvs_is_not_this_host_by_iptables_either() {
    world(|| {
        services(IPVS, By::Iptables);
    });
}

#[test]
fn what_is_dialled_counts_from_the_first_packet_after_a_boot() {
    world(|| {
        let node = Node::new(Proxy::Nftables);
        apply(&node.node, By::Nft, POLICY);
        // A reboot: the rules are gone, and nothing else is known yet.
        node.node.sh("nft delete table inet peerwall");
        assert!(
            reaches(&node.stranger, &format!("{SERVICE}:443"), true),
            "without rules"
        );
        node.node.peerwall_ok(&["boot"]);
        node.expect("after a boot", Proxy::Nftables, false);
    });
}

#[test]
fn an_address_that_comes_after_apply_is_this_host() {
    world(|| {
        let node = Node::new(Proxy::Nftables);
        apply(&node.node, By::Nft, &format!("{POLICY}{NAMED}"));
        let open = |address: &str| {
            expect(
                address,
                &[
                    ("own port", &node.stranger, &format!("{address}:443"), true),
                    (
                        "NodePort",
                        &node.stranger,
                        &format!("{address}:30443"),
                        true,
                    ),
                ],
            );
        };
        open("192.0.2.11");
        node.node
            .sysctl("net.ipv4.conf.eth0.promote_secondaries", "1");
        // Another lease, and a virtual address that moves here.
        node.node.sh(
            "ip address add 192.0.2.77/32 dev eth0; ip address add 192.0.2.42/24 dev eth0; \
            ip address del 192.0.2.11/24 dev eth0",
        );
        open("192.0.2.77");
        open("192.0.2.42");
        drop(node.lan);
    });
}

/// Nobody dials a loopback address from outside, although `route_localnet` makes the kernel deliver
/// it and an allow covers its port: neither a server's nor one that Docker publishes there.
fn loopback(by: By) {
    let node = Node::new(IPVS);
    let own = probe::udp_server(&node.node, "127.0.0.1:9999");
    let published = probe::udp_server(&node.pod, "0.0.0.0:53");
    node.node.sysctl("net.ipv4.conf.all.route_localnet", "1");
    let nat = match by {
        By::Nft => "iptables-nft",
        By::Iptables => "iptables-legacy",
    };
    node.node.sh(&format!(
        "{nat} -t nat -A PREROUTING -d 127.0.0.1/32 -p udp --dport 8053 -j DNAT \
        --to-destination 10.244.1.5:53"
    ));
    let knock = |source: &str, port: u16| {
        send(
            &node.stranger,
            "eth0",
            mac(11),
            &datagram(source, "127.0.0.1", port, b"?"),
        );
    };
    assert!(
        arrives(&own, true, || knock("192.0.2.99", 9999)),
        "without rules"
    );
    assert!(
        arrives(&published, true, || knock("192.0.2.98", 8053)),
        "without rules"
    );
    apply(
        &node.node,
        by,
        &format!(
            r#"
                {POLICY}
                [[allow]]
                name = "knock"
                ports = ["9999/udp", "8053/udp"]
                from = "any"
            "#
        ),
    );
    node.node.try_sh("conntrack -F");
    for source in ["192.0.2.97", "192.0.2.12", "127.0.0.1", "10.244.1.5"] {
        for (port, count) in [(9999, &own), (8053, &published)] {
            let came = arrives(count, false, || knock(source, port));
            assert!(!came, "from {source} to 127.0.0.1:{port}");
        }
    }
    // This host itself may.
    assert!(probe::udp(&node.node, "127.0.0.1:9999", probe::PATIENCE));
    remove(&node.node, by);
    drop((node.lan, node.peer));
}

#[test]
fn nobody_dials_loopback_from_outside() {
    world(|| {
        loopback(By::Nft);
    });
}

#[test]
fn nobody_dials_loopback_from_outside_by_iptables() {
    world(|| {
        loopback(By::Iptables);
    });
}
