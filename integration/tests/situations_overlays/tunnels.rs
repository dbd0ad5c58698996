//! Packets to the port of a tunnel, and packets inside of it.

use super::*;

/// A pod's datagram to the pod of node 2, as it is in a VXLAN packet.
fn inner() -> Frame {
    Frame {
        source_mac: [0x02, 0xf1, 0xa0, 0, 0, 1],
        destination_mac: [0x02, 0xf1, 0xa0, 0, 0, 2],
        ..datagram("10.244.1.77", "10.244.2.5", 9999, b"injected")
    }
}

/// What a pod of node 1 and an ordinary user of node 2 can try at a tunnel.
fn inject(by: By, policy: &str) {
    let cluster = Cluster::new();
    cluster.tunnel();
    let nat = if by == By::Nft { "nft" } else { "legacy" };
    cluster.nodes[0].sh(&format!(
        "iptables-{nat} -t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE"
    ));
    let arrived = probe::udp_server(&cluster.pods[1], "0.0.0.0:9999");
    let payload = inner().in_vxlan(1);
    let by_masquerade = || send_datagram(&cluster.pods[0], "192.0.2.12:8472", &payload);
    let by_loopback = || send_datagram(&cluster.nodes[1], "192.0.2.12:8472", &payload);
    let from_lan = || send_datagram(&cluster.stranger, "192.0.2.12:8472", &payload);
    for (what, sends) in [
        ("from a pod by masquerade", &by_masquerade as &dyn Fn()),
        ("by loopback", &by_loopback),
        ("from the LAN", &from_lan),
    ] {
        assert!(arrives(&arrived, true, sends), "{what}, without rules");
    }
    cluster.apply(by, policy);
    for node in &cluster.nodes {
        node.try_sh("conntrack -F");
    }
    for (what, sends) in [
        ("from a pod by masquerade", &by_masquerade as &dyn Fn()),
        ("by loopback", &by_loopback),
        ("from the LAN", &from_lan),
    ] {
        assert!(!arrives(&arrived, false, sends), "{policy}: {what}");
    }
    // What the tunnel is for works.
    expect(
        policy,
        &[("pod to pod", &cluster.pods[0], "10.244.2.5:8080", true)],
    );
}

const VXLAN: &str = r#"
    [overlay.flannel]
    backend = "vxlan"
    subnets = ["10.244.0.0/16"]
    [[allow]]
    name = "udp"
    ports = ["8000-9000/udp"]
    from = "any"
"#;

#[test]
fn nobody_but_peers_reaches_a_tunnel() {
    world(|| {
        inject(By::Nft, VXLAN);
    });
}

#[test]
fn nobody_but_peers_reaches_a_tunnel_by_iptables() {
    world(|| {
        inject(By::Iptables, VXLAN);
    });
}

#[test]
fn a_tunnel_is_guarded_whatever_the_policy_calls_the_backend() {
    world(|| {
        let by_another_name = VXLAN.replace(
            "\"vxlan\"",
            "\"host-gw\"\ninterfaces = [\"flannel.1\", \"cni0\"]",
        );
        inject(By::Nft, &by_another_name);
    });
}

#[test]
fn containers_of_an_overlay_without_tunnel_reach_no_tunnel() {
    world(|| {
        // The pods of node 1 are those of an overlay of their own there, as Docker's are.
        let cluster = Cluster::new();
        cluster.tunnel();
        cluster.nodes[0]
            .sh("iptables-nft -t nat -A POSTROUTING -s 10.244.1.0/24 -o eth0 -j MASQUERADE");
        let arrived = probe::udp_server(&cluster.pods[1], "0.0.0.0:9999");
        let payload = inner().in_vxlan(1);
        let sends = || send_datagram(&cluster.pods[0], "192.0.2.12:8472", &payload);
        assert!(arrives(&arrived, true, sends), "without rules");
        let docker = r#"
            [overlay.flannel]
            backend = "vxlan"
            subnets = ["10.244.2.0/24"]
            interfaces = ["flannel.1"]
            [overlay.docker]
            backend = "none"
            subnets = ["10.244.1.0/24"]
            interfaces = ["cni0"]
        "#;
        apply(&cluster.nodes[0], By::Nft, &format!("{PEERS}{docker}"));
        apply(&cluster.nodes[1], By::Nft, &format!("{PEERS}{VXLAN}"));
        cluster.nodes[0].try_sh("conntrack -F");
        cluster.nodes[1].try_sh("conntrack -F");
        assert!(!arrives(&arrived, false, sends));
        assert!(
            reaches(&cluster.pods[0], "192.0.2.12:8080", true),
            "the rest goes out"
        );
    });
}

#[test]
fn wireguard_takes_packets_from_those_that_are_named() {
    world(|| {
        let lan = Lan::new();
        let (node, stranger, roaming) = (
            lan.join("node", 11),
            lan.join("stranger", 99),
            lan.join("roaming", 98),
        );
        let arrived = probe::udp_server(&node, "0.0.0.0:51820");
        let policy = |more: &str| {
            format!(
                r#"
                    {PEERS}
                    [overlay.wg]
                    backend = "wireguard"
                    subnets = ["10.244.0.0/16"]
                    {more}
                    [[allow]]
                    name = "all"
                    ports = ["51820/udp"]
                    from = "any"
                "#
            )
        };
        apply(&node, By::Nft, &policy(""));
        let from = |host: &Host, want| {
            node.try_sh("conntrack -F");
            arrives(&arrived, want, || {
                send_datagram(host, "192.0.2.11:51820", b"?")
            })
        };
        assert!(!from(&roaming, false), "an allow does not open a tunnel");
        apply(&node, By::Nft, &policy("tunnel_from = [\"192.0.2.98\"]\n"));
        assert!(from(&roaming, true));
        assert!(!from(&stranger, false));
        apply(&node, By::Nft, &policy("tunnel_from = \"any\"\n"));
        assert!(from(&stranger, true));
    });
}
