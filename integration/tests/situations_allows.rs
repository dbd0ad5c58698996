//! What an allow can say beside ports: how often, from which ports, and which protocol from which
//! link.

use std::sync::atomic::Ordering;

use peerwall_integration::ns::{Host, world};
use peerwall_integration::probe;
use peerwall_integration::raw::{Body, Frame};
use peerwall_integration::situation::{By, Lan, apply, arrives, counted, datagram, send};

const PEERS: &str = "[peers]\npeer = \"192.0.2.12\"\n";

/// How many of twenty connections are answered.
fn answered(from: &Host, to: &str) -> usize {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| probe::tcp(from, to, probe::IMPATIENCE)))
            .collect();
        running
            .into_iter()
            .filter_map(|each| each.join().ok().flatten())
            .count()
    })
}

fn limit(by: By) {
    let lan = Lan::new();
    let (node, one, two) = (
        lan.join("node", 11),
        lan.join("one", 98),
        lan.join("two", 99),
    );
    probe::tcp_server(&node, "[::]:80");
    let allow = r#"
        [[allow]]
        name = "web"
        ports = ["80/tcp"]
        from = "any"
        limit = "1/minute burst 5"
    "#;
    apply(&node, by, &format!("{PEERS}{allow}"));
    for to in ["192.0.2.11:80", "[2001:db8:49::11]:80"] {
        assert_eq!(answered(&one, to), 5, "{to}");
        // One source's share does not count against another's.
        assert_eq!(answered(&two, to), 5, "{to}");
    }
}

#[test]
fn a_limit_is_for_each_source() {
    world(|| {
        limit(By::Nft);
    });
}

#[test]
fn a_limit_is_for_each_source_by_iptables() {
    world(|| {
        limit(By::Iptables);
    });
}

/// Sends from a port, and says whether it is answered.
fn asks(from: &Host, port: u16, to: &str) -> bool {
    from.run(|| {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", port)).expect("the port is free");
        let wait = socket.set_read_timeout(Some(probe::IMPATIENCE));
        wait.expect("a time");
        socket.send_to(b"?", to).is_ok() && socket.recv(&mut [0; 8]).is_ok()
    })
}

fn source_ports(by: By) {
    let lan = Lan::new();
    let (node, stranger) = (lan.join("node", 11), lan.join("stranger", 99));
    probe::udp_server(&node, "0.0.0.0:2000");
    probe::udp_server(&node, "0.0.0.0:2001");
    let allow = r#"
        [[allow]]
        name = "ntp"
        ports = ["2000/udp"]
        from_ports = ["123/udp", "1000-1010/udp"]
        from = "any"
    "#;
    apply(&node, by, &format!("{PEERS}{allow}"));
    for (port, to, want) in [
        (123, "192.0.2.11:2000", true),
        (1010, "192.0.2.11:2000", true),
        (1011, "192.0.2.11:2000", false),
        (123, "192.0.2.11:2001", false),
    ] {
        assert_eq!(asks(&stranger, port, to), want, "from {port} to {to}");
    }
}

#[test]
fn an_allow_can_ask_for_the_source_port() {
    world(|| {
        source_ports(By::Nft);
    });
}

#[test]
fn an_allow_can_ask_for_the_source_port_by_iptables() {
    world(|| {
        source_ports(By::Iptables);
    });
}

/// An advertisement of VRRP, version 3 (RFC 9568 section 5).
fn vrrp(source: &str, group: &str) -> Frame {
    Frame {
        hop_limit: 255,
        body: Body::Other {
            protocol: 112,
            payload: vec![0x31, 1, 100, 1, 0, 100, 0, 0],
        },
        ..datagram(source, group, 0, &[])
    }
}

#[test]
fn the_recipe_for_vrrp_is_enough_for_both_families() {
    world(|| {
        let lan = Lan::new();
        let (node, router, elsewhere) = (
            lan.join("node", 11),
            lan.join("router", 60),
            Host::new("elsewhere"),
        );
        peerwall_integration::net::wire(&node, "eth1", &[], &elsewhere, "eth0", &[]);
        let policy = |allow: &str| format!("{PEERS}{allow}");
        let advertise = |from: &Host, source: &str, group: &str, mac| {
            let before = counted(&node, "input.allow.vrrp");
            send(from, "eth0", mac, &vrrp(source, group));
            std::thread::sleep(probe::IMPATIENCE);
            counted(&node, "input.allow.vrrp") > before
        };
        let v4 = ("192.0.2.60", "224.0.0.18", [0x01, 0, 0x5e, 0, 0, 0x12]);
        let v6 = ("fe80::60", "ff02::12", [0x33, 0x33, 0, 0, 0, 0x12]);
        // The routers' own addresses, and link-local ones of IPv6, on this interface.
        apply(
            &node,
            By::Nft,
            &policy(
                r#"
                    [[allow]]
                    name = "vrrp"
                    ports = ["vrrp"]
                    from = ["192.0.2.60", "fe80::/10"]
                    interfaces = ["eth0"]
                "#,
            ),
        );
        node.run(join_groups);
        assert!(advertise(&router, v4.0, v4.1, v4.2), "IPv4");
        assert!(advertise(&router, v6.0, v6.1, v6.2), "IPv6");
        assert!(
            !advertise(&elsewhere, v6.0, v6.1, v6.2),
            "on another interface"
        );
        assert!(
            !advertise(&router, "192.0.2.99", v4.1, v4.2),
            "from another machine"
        );
        assert!(
            !advertise(&router, "2001:db8:49::99", v6.1, v6.2),
            "from afar"
        );
        // Nothing else comes with it.
        let other = probe::udp_server(&node, "[::]:9999");
        let knock = || {
            send(
                &router,
                "eth0",
                peerwall_integration::situation::mac(11),
                &datagram("192.0.2.60", "192.0.2.11", 9999, b"?"),
            )
        };
        assert!(!arrives(&other, false, knock));
        assert_eq!(other.load(Ordering::SeqCst), 0);
    });
}

/// Joins the groups of VRRP until the world ends.
fn join_groups() {
    let v4 = std::net::UdpSocket::bind("0.0.0.0:0").expect("there is a port");
    let group = std::net::Ipv4Addr::new(224, 0, 0, 18);
    let own = std::net::Ipv4Addr::new(192, 0, 2, 11);
    v4.join_multicast_v4(&group, &own).expect("eth0 is there");
    let v6 = std::net::UdpSocket::bind("[::]:0").expect("there is a port");
    let group = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
    for index in 1..64 {
        // Whichever are there.
        let _ = v6.join_multicast_v6(&group, index);
    }
    std::mem::forget((v4, v6));
}
