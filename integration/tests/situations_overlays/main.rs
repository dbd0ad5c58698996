//! Pods: which way they may come, whom they may pretend to be, and who may reach a tunnel.

mod tunnels;

use peerwall_integration::net::{FlannelNode, flannel};
use peerwall_integration::ns::{Host, world};
use peerwall_integration::probe;
use peerwall_integration::raw::Frame;
use peerwall_integration::situation::{
    By, Lan, apply, arrives, cni0, datagram, expect, mac, mac_of, pod, reaches, send, send_datagram,
};

/// Two nodes with a pod each, and a stranger.
struct Cluster {
    lan: Lan,
    nodes: [Host; 2],
    pods: [Host; 2],
    stranger: Host,
}

const PEERS: &str = r#"
    [peers]
    nodes = ["192.0.2.11", "192.0.2.12", "2001:db8:49::11", "2001:db8:49::12"]
"#;

impl Cluster {
    /// Without any way for pods between the nodes.
    fn new() -> Self {
        let lan = Lan::new();
        let nodes = [lan.join("node-1", 11), lan.join("node-2", 12)];
        let stranger = lan.join("stranger", 99);
        cni0(&nodes[0], 1);
        cni0(&nodes[1], 2);
        let pods = [pod(&nodes[0], 1, 5), pod(&nodes[1], 2, 5)];
        for host in nodes.iter().chain(&pods) {
            probe::tcp_server(host, "[::]:8080");
        }
        Self {
            lan,
            nodes,
            pods,
            stranger,
        }
    }

    /// As flannel's host-gw and `DirectRouting` do, both families.
    fn route(&self) {
        for (here, there) in [(0, 1), (1, 0)] {
            let (subnet, number) = (there + 1, there + 11);
            self.nodes[here].sh(&format!(
                "ip route add 10.244.{subnet}.0/24 via 192.0.2.{number}; \
                 ip -6 route add 2001:db8:244:{subnet}::/64 via 2001:db8:49::{number}"
            ));
        }
    }

    fn tunnel(&self) {
        let [one, two] = &self.nodes;
        let node = |host, underlay, subnet| FlannelNode {
            host,
            underlay,
            subnet,
        };
        flannel(
            &[node(one, "192.0.2.11", 1), node(two, "192.0.2.12", 2)],
            "eth0",
        );
    }

    /// flannel's second device, for IPv6 by the IPv6 addresses of the nodes.
    fn tunnel_of_v6(&self) {
        for (here, there) in [(0, 1), (1, 0)] {
            let (own, other) = (here + 1, there + 1);
            self.nodes[here].sh(&format!(
                "ip link add flannel-v6.1 type vxlan id 1 dev eth0 \
                     local 2001:db8:49::1{own} dstport 8472 nolearning udp6zerocsumrx &&
                 ip link set flannel-v6.1 address 02:f6:a0:00:00:0{own} &&
                 ip -6 address add 2001:db8:244:{own}::/128 dev flannel-v6.1 nodad &&
                 ip link set flannel-v6.1 up &&
                 ip -6 neighbour add 2001:db8:244:{other}:: lladdr 02:f6:a0:00:00:0{other} \
                     dev flannel-v6.1 nud permanent &&
                 bridge fdb add 02:f6:a0:00:00:0{other} dev flannel-v6.1 \
                     dst 2001:db8:49::1{other} self permanent &&
                 ip -6 route add 2001:db8:244:{other}::/64 via 2001:db8:244:{other}:: dev flannel-v6.1 onlink"
            ));
        }
    }

    fn apply(&self, by: By, policy: &str) {
        for node in &self.nodes {
            apply(node, by, &format!("{PEERS}{policy}"));
        }
    }

    /// Pods reach each other and the other node, in these families.
    fn expect_pods(&self, what: &str, families: &[&str]) {
        let [one, two] = &self.pods;
        for family in families {
            let (pod, node) = match *family {
                "v4" => ("10.244.2.5", "192.0.2.12"),
                _ => ("[2001:db8:244:2::5]", "[2001:db8:49::12]"),
            };
            let back = if *family == "v4" {
                "10.244.1.5"
            } else {
                "[2001:db8:244:1::5]"
            };
            let (to_pod, to_node, back) = (
                format!("{pod}:8080"),
                format!("{node}:8080"),
                format!("{back}:8080"),
            );
            expect(
                &format!("{what}, {family}"),
                &[
                    ("pod to pod", one, &to_pod, true),
                    ("pod to pod, the other way", two, &back, true),
                    ("node to pod", &self.nodes[0], &to_pod, true),
                    ("stranger to pod", &self.stranger, &to_pod, false),
                    ("stranger to node", &self.stranger, &to_node, false),
                ],
            );
        }
    }

    /// The stranger sends node 1 a datagram in the name of `source`.
    fn forge(&self, source: &str) {
        send(
            &self.stranger,
            "eth0",
            mac(11),
            &datagram(source, "192.0.2.11", 9999, b"?"),
        );
    }
}

fn host_gw(by: By, policy: &str) {
    let cluster = Cluster::new();
    cluster.route();
    for node in &cluster.nodes {
        node.sh("ip route add default via 192.0.2.99");
    }
    let forged = probe::udp_server(&cluster.nodes[0], "0.0.0.0:9999");
    assert!(
        arrives(&forged, true, || cluster.forge("10.244.77.7")),
        "without rules"
    );
    cluster.apply(by, policy);
    cluster.expect_pods(policy, &["v4", "v6"]);
    // A default route leads to every address, and says nothing of pods.
    for source in ["10.244.77.7", "10.244.1.77"] {
        assert!(
            !arrives(&forged, false, || cluster.forge(source)),
            "{policy}: {source}"
        );
    }
}

const SUBNETS: &str = "subnets = [\"10.244.0.0/16\", \"2001:db8:244::/48\"]\n";

#[test]
fn pods_by_route_are_those_that_the_kernel_routes() {
    world(|| {
        host_gw(
            By::Nft,
            &format!("[overlay.flannel]\nbackend = \"host-gw\"\n{SUBNETS}"),
        );
    });
}

#[test]
fn pods_by_route_beside_a_tunnel_are_those_that_the_kernel_routes() {
    world(|| {
        host_gw(
            By::Nft,
            &format!(
                r#"
                    [overlay.flannel]
                    backend = "vxlan"
                    direct = true
                    {SUBNETS}
                "#
            ),
        );
    });
}

#[test]
fn a_lan_that_is_named_as_the_pods_is_believed_only_by_route() {
    world(|| {
        host_gw(
            By::Nft,
            &format!(
                r#"
                    [overlay.flannel]
                    backend = "vxlan"
                    interfaces = ["flannel.1", "cni0", "eth0"]
                    {SUBNETS}
                "#
            ),
        );
    });
}

#[test]
fn pods_by_route_by_iptables() {
    world(|| {
        host_gw(
            By::Iptables,
            &format!(
                r#"
                    [overlay.flannel]
                    backend = "vxlan"
                    direct = true
                    {SUBNETS}
                "#
            ),
        );
    });
}

fn dual_stack(by: By) {
    let cluster = Cluster::new();
    cluster.tunnel();
    cluster.tunnel_of_v6();
    cluster.apply(
        by,
        &format!("[overlay.flannel]\nbackend = \"vxlan\"\n{SUBNETS}"),
    );
    cluster.expect_pods("flannel with both families", &["v4", "v6"]);
    // Written for IPv4 alone, as people do; the device of IPv6 is meant as well.
    cluster.apply(
        by,
        &format!(
            r#"
                [overlay.flannel]
                backend = "vxlan"
                interfaces = ["flannel.1", "cni0"]
                {SUBNETS}
            "#
        ),
    );
    cluster.expect_pods("flannel.1 is written", &["v4", "v6"]);
}

#[test]
fn flannel_with_both_families() {
    world(|| {
        dual_stack(By::Nft);
    });
}

#[test]
fn flannel_with_both_families_by_iptables() {
    world(|| {
        dual_stack(By::Iptables);
    });
}

#[test]
fn pods_are_not_believed_to_be_peers() {
    world(|| {
        let cluster = Cluster::new();
        let arrived = probe::udp_server(&cluster.nodes[0], "0.0.0.0:9999");
        let gateway = mac_of(&cluster.nodes[0], "cni0");
        let forge = || {
            send(
                &cluster.pods[0],
                "eth0",
                gateway,
                &datagram("192.0.2.12", "192.0.2.11", 9999, b"?"),
            )
        };
        assert!(arrives(&arrived, true, forge), "without rules");
        cluster.apply(
            By::Nft,
            &format!("[overlay.flannel]\nbackend = \"vxlan\"\n{SUBNETS}"),
        );
        cluster.nodes[0].try_sh("conntrack -F");
        assert!(!arrives(&arrived, false, forge));
        // The peer itself is.
        assert!(arrives(&arrived, true, || send_datagram(
            &cluster.nodes[1],
            "192.0.2.11:9999",
            b"?"
        )));
    });
}

#[test]
fn pods_that_are_not_masqueraded_come_from_the_machines_of_peers() {
    world(|| {
        let cluster = Cluster::new();
        // As k3s does for IPv6: a pod's packet to another node leaves its own node unchanged.
        cluster.nodes[0].sh("ip -6 route add 2001:db8:244:2::/64 via 2001:db8:49::12 table 7");
        cluster.nodes[0].sh("ip -6 rule add from 2001:db8:49::11 table 7");
        let to_node = "[2001:db8:49::11]:8080";
        assert!(reaches(&cluster.pods[1], to_node, true), "without rules");
        let policy = format!("[overlay.flannel]\nbackend = \"vxlan\"\n{SUBNETS}");
        cluster.apply(By::Nft, &policy);
        assert!(
            !reaches(&cluster.pods[1], to_node, false),
            "an overlay's address by the LAN"
        );
        cluster.apply(
            By::Nft,
            &policy.replace("subnets", "unmasqueraded = true\nsubnets"),
        );
        assert!(reaches(&cluster.pods[1], to_node, true));
        let forged = probe::udp_server(&cluster.nodes[0], "[::]:9999");
        let forge = || {
            send(
                &cluster.stranger,
                "eth0",
                mac(11),
                &datagram("2001:db8:244:2::5", "2001:db8:49::11", 9999, b"?"),
            )
        };
        assert!(!arrives(&forged, false, forge), "from another machine");
    });
}

#[test]
fn answers_to_pods_may_come_by_another_node() {
    world(|| {
        let cluster = Cluster::new();
        cluster.tunnel();
        let server = cluster.lan.join("server", 60);
        probe::tcp_server(&server, "0.0.0.0:443");
        // The server knows one way to all pods, which is node 2; the question came by node 1.
        server.sh("ip route add 10.244.0.0/16 via 192.0.2.12");
        let allow = |more: &str| {
            format!(
                r#"
                    [overlay.flannel]
                    backend = "vxlan"
                    subnets = ["10.244.0.0/16"]
                    {more}
                "#
            )
        };
        let asks = |want| reaches(&cluster.pods[0], "192.0.2.60:443", want);
        assert!(asks(true), "without rules");
        cluster.apply(By::Nft, &allow(""));
        assert!(!asks(false), "an answer without a question");
        let answers = r#"
            [[allow]]
            name = "answers"
            from = ["192.0.2.60"]
            from_ports = ["443/tcp"]
            to = ["flannel"]
        "#;
        cluster.apply(By::Nft, &allow(answers));
        assert!(asks(true));
        assert!(
            !reaches(&server, "10.244.1.5:8080", false),
            "from another port"
        );
    });
}
