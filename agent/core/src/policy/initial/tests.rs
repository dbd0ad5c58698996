use super::*;
use crate::net::port::UDP;
use crate::policy::load::{NoFiles, load};

fn facts() -> HostFacts {
    let net = |text: &str| text.parse().unwrap();
    HostFacts {
        addresses: vec![
            ("lo".into(), net("127.0.0.1/8")),
            ("eth0".into(), net("192.0.2.7/24")),
            ("eth0".into(), net("fe80::1/64")),
            ("docker0".into(), net("172.17.0.1/16")),
        ],
        interfaces: ["lo", "eth0", "docker0", "br-0a1b2c", "br-9d8e7f"]
            .map(str::to_owned)
            .to_vec(),
        ssh_ports: [22, 2222].into(),
        has_ssh: true,
        caller: Some([198, 51, 100, 9].into()),
        listeners: vec![
            listener(TCP, 22, Some("sshd")),
            listener(TCP, 53, Some("named")),
            listener(UDP, 53, Some("named")),
            listener(TCP, 10250, Some("kubelet")),
            listener(UDP, 8472, None),
        ],
        ..HostFacts::default()
    }
}

fn listener(protocol: u8, port: u16, process: Option<&str>) -> Listener {
    Listener {
        protocol,
        port,
        process: process.map(str::to_owned),
    }
}

fn loaded(text: &str) -> crate::policy::Policy {
    let loaded = load("policy.toml", text, &NoFiles);
    let said = loaded.sources.render(&loaded.diagnostics, false);
    loaded.policy.unwrap_or_else(|| panic!("{said}\n{text}"))
}

#[test]
fn what_is_found_is_in_the_policy() {
    let text = initial(&facts());
    let policy = loaded(&text);
    assert_eq!(policy.allows.len(), 1, "{text}");
    assert_eq!(policy.guests.len(), 2, "docker0 and br-*: {text}");
    for line in [
        "# This host is 192.0.2.7/24 on eth0.\n",
        "ports = [\"22/tcp\", \"2222/tcp\"]\n",
        "# ports = [\"53/tcp\", \"53/udp\"]\n",
        "# Port 10250: kubelet.\n",
        "from = \"198.51.100.9\"\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(
        !text.contains("fe80") && !text.contains("172.17.0.1"),
        "{text}"
    );
}

#[test]
fn every_offer_is_valid_once_its_comment_is_removed() {
    let text = initial(&facts());
    let (head, offers) = text.split_once("# entry to open one").unwrap();
    let (_, offers) = offers.split_once('\n').unwrap();
    let is_entry = |line: &&str| {
        ["# [[", "# name", "# ports", "# from"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let entries: Vec<&str> = offers
        .lines()
        .filter(is_entry)
        .map(|line| &line[2..])
        .collect();
    let policy = loaded(&format!("{head}\n{}\n", entries.join("\n")));
    assert_eq!(policy.allows.len(), 4, "ssh and three offers");
}

#[test]
fn nodes_of_the_tunnel_are_peers() {
    let mut facts = facts();
    facts
        .interfaces
        .extend(["flannel.1".to_owned(), "cni0".to_owned()]);
    facts.nodes = [[192, 0, 2, 8].into(), "2001:db8::8".parse().unwrap()].into();
    facts.flannel = Some((
        "/run/flannel/subnet.env".into(),
        vec!["10.244.0.0/16".parse().unwrap()],
    ));
    let text = initial(&facts);
    for line in ["node-192-0-2-8 = \"192.0.2.8\"\n", "backend  = \"vxlan\"\n"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("8472"), "{text}");
    let files = text.replace(
        "discover = \"/run/flannel/subnet.env\"",
        "subnets = [\"10.244.0.0/16\"]",
    );
    assert_eq!(loaded(&files).peers.len(), 2);
    assert!(!text.contains("interfaces = ["), "the default: {text}");
    facts.interfaces = vec!["flannel.7".into()];
    let text = initial(&facts);
    assert!(
        text.contains("interfaces = [\"flannel.7\", \"cni0\", \"cali*\"]"),
        "{text}"
    );
}

#[test]
fn strange_names_end_no_comment() {
    let mut facts = facts();
    facts.listeners = vec![listener(TCP, 80, Some("a\nversion = 2\r\u{1b}[31m"))];
    facts.interfaces.push("docker\"]\n".into());
    facts
        .addresses
        .push(("e\nx".into(), "192.0.2.9/24".parse().unwrap()));
    let text = initial(&facts);
    assert!(text.contains("# Port 80: a?version = 2??[31m.\n"), "{text}");
    let loaded = load("policy.toml", &text, &NoFiles);
    assert!(
        loaded.diagnostics.len() <= 1,
        "the interface's name at most: {text}"
    );
}

#[test]
fn routes_outside_of_a_tunnel_are_part_of_the_overlay() {
    for (interface, is_direct, want) in [
        ("flannel.1", true, true),
        ("flannel.ipip", true, true),
        ("flannel.1", false, false),
        // They are the only way with host-gw, and WireGuard has no DirectRouting.
        ("eth0", true, false),
        ("flannel-wg", true, false),
    ] {
        let facts = HostFacts {
            interfaces: vec![interface.into()],
            flannel: Some(("/run/env".into(), vec!["10.244.0.0/16".parse().unwrap()])),
            nodes: [[192, 0, 2, 8].into()].into(),
            is_direct,
            ..HostFacts::default()
        };
        let text = initial(&facts);
        let subnets = "subnets = [\"10.244.0.0/16\"]";
        let policy = loaded(&text.replace("discover = \"/run/env\"", subnets));
        assert_eq!(text.contains("direct   = true"), want, "{interface}");
        assert_eq!(policy.peers.len(), 1, "{text}");
    }
}

#[test]
fn nodes_behind_flannel_wg_have_to_be_named() {
    let mut facts = facts();
    let note = "Where flannel's WireGuard tunnel leads is not known.";
    facts.interfaces.push("flannel-wg".into());
    assert!(!initial(&facts).contains(note), "no flannel");
    facts.flannel = Some(("/run/env".into(), vec!["10.244.0.0/16".parse().unwrap()]));
    assert!(initial(&facts).contains(note));
    facts.nodes = [[192, 0, 2, 8].into()].into();
    assert!(!initial(&facts).contains(note), "they are known");
}

#[test]
fn machines_behind_a_tunnel_are_offered_and_not_trusted() {
    let mut facts = facts();
    facts.tunnels = vec![Tunnel {
        interface: "wg\n0".into(),
        routes: ["10.8.0.2/32", "fd00::2/128", "10.9.0.0/24"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
    }];
    let text = initial(&facts);
    let policy = loaded(&text);
    assert!(policy.peers.is_empty() && policy.trusted.is_empty());
    assert!(text.contains("# It leads to 10.9.0.0/24.\n"), "{text}");
    assert!(text.contains("# trusted = [\"wg?0\"]\n"), "{text}");
    let taken = text.replace("# node-", "node-");
    assert_eq!(loaded(&taken).peers.len(), 2, "{taken}");
}
