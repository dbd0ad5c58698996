//! The language: what is written, and what it means.

use std::collections::BTreeMap;

use peerwall_core::diagnostic::{Diagnostic, Severity};
use peerwall_core::net::link::Link;
use peerwall_core::net::packet::{CtState, Hook, Packet, Transport};
use peerwall_core::net::port::{PortRange, TCP};
use peerwall_core::policy::load::{Files, Loaded, ReadError, Text, load};
use peerwall_core::policy::{Discovery, Overlay, OverlayBackend, Tunnel};
use peerwall_core::ruleset::compile::compile;

/// Files in a map.
struct Map(BTreeMap<&'static str, &'static str>);

impl Files for Map {
    fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
        match self.0.get(path) {
            Some(text) => Ok(found(path, text)),
            None => Err(ReadError::Wrong(format!(
                "cannot read {path}: No such file or directory"
            ))),
        }
    }
    fn glob(&self, pattern: &str, _: &str) -> Result<Vec<String>, ReadError> {
        let start = pattern.trim_end_matches("*.toml");
        let names = self.0.keys().filter(|name| name.starts_with(start));
        Ok(names.map(|name| (*name).to_owned()).collect())
    }
}

fn found(name: &str, text: &str) -> Text {
    Text {
        name: name.to_owned(),
        text: text.to_owned(),
        doubts: Vec::new(),
    }
}

fn read(text: &str, files: &[(&'static str, &'static str)]) -> Loaded {
    load("policy.toml", text, &Map(files.iter().copied().collect()))
}

fn warnings(text: &str) -> Vec<String> {
    let loaded = read(text, &[]);
    assert!(
        loaded.policy.is_some(),
        "{}",
        loaded.sources.render(&loaded.diagnostics, false)
    );
    let warnings = loaded
        .diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Warning);
    warnings.map(|d| d.message.clone()).collect()
}

#[test]
fn the_pod_network_is_discovered_from_flannels_own_file() {
    let text = r#"
        version = 1
        [overlay.f]
        backend = "vxlan"
        discover = "subnet.env"
    "#;
    let env = "FLANNEL_NETWORK=10.244.0.0/16\n\
        FLANNEL_SUBNET=10.244.1.1/24\n\
        FLANNEL_IPV6_NETWORK=2001:db8:42::/56\n\
        FLANNEL_MTU=1450\n\
        FLANNEL_IPMASQ=true\n";
    let loaded = read(text, &[("subnet.env", env)]);
    let policy = loaded.policy.unwrap();
    let subnets: Vec<String> = policy.overlays[0]
        .subnets
        .iter()
        .map(|s| s.net.to_string())
        .collect();
    assert_eq!(subnets, ["10.244.0.0/16", "2001:db8:42::/56"]);
}

#[test]
fn what_discovery_finds_is_checked_where_it_stands() {
    let text = r#"
        version = 1
        [overlay.f]
        backend = "vxlan"
        discover = "subnet.env"
    "#;
    for (env, place, message) in [
        (
            "X=1\nFLANNEL_NETWORK=10.244.0.1/16\n",
            "subnet.env:2:17",
            "host bits",
        ),
        ("FLANNEL_NETWORK=\n", "subnet.env:1:17", "not an address"),
        ("FLANNEL_MTU=1450\n", "policy.toml:4:12", "no pod network"),
        (
            "FLANNEL_NETWORK=10.0.0.0/8,10.1.0.0/16\n",
            "subnet.env:1:28",
            "overlap",
        ),
    ] {
        let loaded = read(text, &[("subnet.env", env)]);
        let shown = loaded.sources.render(&loaded.diagnostics, false);
        assert!(
            loaded.policy.is_none() && shown.contains(place) && shown.contains(message),
            "{env}: {shown}"
        );
    }
}

/// A host on which flannel has been before, or is to come.
struct Node {
    files: Map,
    last_good: Option<&'static str>,
    waits: bool,
    links: Vec<Link>,
}

impl Files for Node {
    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        self.files.read(path, relative_to)
    }
    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError> {
        self.files.glob(pattern, relative_to)
    }
    fn last_good(&self, path: &str, _: &str) -> Result<Option<Text>, ReadError> {
        Ok(self.last_good.map(|text| found(path, text)))
    }
    fn waits(&self) -> bool {
        self.waits
    }
    fn link(&self, name: &str) -> Result<Option<Link>, ReadError> {
        Ok(self.links.iter().find(|link| link.name == name).cloned())
    }
}

/// A host on which flannel has written these files.
fn node(files: &[(&'static str, &'static str)], links: Vec<Link>) -> Node {
    Node {
        files: Map(files.iter().copied().collect()),
        last_good: None,
        waits: false,
        links,
    }
}

fn interfaces(overlay: &Overlay) -> Vec<String> {
    let patterns = overlay.interfaces.iter();
    patterns.map(ToString::to_string).collect()
}

fn vxlan(name: &str, port: u16) -> Link {
    Link {
        name: name.into(),
        kind: "vxlan".into(),
        port: Some(port),
        vni: Some(1),
        local: None,
    }
}

/// What is read, and the warnings.
fn on(node: &Node, text: &str) -> (Overlay, Vec<Diagnostic>) {
    let loaded = load("policy.toml", text, node);
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    let policy = loaded.policy.unwrap_or_else(|| panic!("{shown}"));
    (policy.overlays[0].clone(), loaded.diagnostics)
}

#[test]
fn what_was_discovered_last_is_kept_and_what_never_was_is_waited_for() {
    const ENV: &str = "FLANNEL_NETWORK=10.244.0.0/16\n";
    let text = r#"
        version = 1
        [peers]
        p = "192.0.2.1"
        [overlay.f]
        backend = "vxlan"
        discover = ["subnet.env", "net-conf.json"]
        [[expect]]
        from = "f"
        verdict = "accept"
    "#;
    let subnets = |overlay: &Overlay| -> Vec<String> {
        overlay.subnets.iter().map(|s| s.net.to_string()).collect()
    };
    let mut node = Node {
        files: Map(BTreeMap::new()),
        last_good: None,
        waits: true,
        links: Vec::new(),
    };
    assert!(
        load("policy.toml", text, &node)
            .policy
            .is_some_and(|policy| policy.expects.is_empty())
    );
    let (overlay, told) = on(&node, text);
    assert!(matches!(&overlay.discovery, Discovery::Awaited(paths) if paths.len() == 2));
    assert!(
        overlay.subnets.is_empty()
            && told.len() == 1
            && told[0].message.contains("cannot read subnet.env"),
        "{told:?}"
    );

    // The configuration is there before flannel has a lease.
    node.files.0.insert(
        "net-conf.json",
        "{\"Network\": \"10.0.0.0/8\", \"Backend\": {\"Type\": \"udp\", \"Port\": 4789}}",
    );
    let (overlay, told) = on(&node, text);
    assert_eq!(subnets(&overlay), ["10.0.0.0/8"]);
    assert_eq!(overlay.tunnel, Some(Tunnel::Udp(PortRange::one(4789))));
    assert!(
        told.len() == 1 && told[0].message.contains("flannel's backend is udp"),
        "{told:?}"
    );

    node.files.0.insert("subnet.env", ENV);
    let (overlay, told) = on(&node, text);
    assert_eq!(subnets(&overlay), ["10.244.0.0/16"]);
    assert!(
        told.is_empty() && matches!(overlay.discovery, Discovery::Found(_)),
        "{told:?}"
    );

    for broken in [None, Some(""), Some("FLANNEL_NETWORK=10.2\n"), Some("{")] {
        node.files = Map(broken
            .map(|text| ("subnet.env", text))
            .into_iter()
            .collect());
        node.last_good = Some(ENV);
        let (overlay, told) = on(&node, text);
        assert_eq!(subnets(&overlay), ["10.244.0.0/16"], "{broken:?}");
        let help = told[0].help.clone().unwrap_or_default();
        assert!(
            help.contains("still used: 10.244.0.0/16"),
            "{broken:?}: {told:?}"
        );
        assert!(matches!(overlay.discovery, Discovery::Kept(_)));
    }
    node.last_good = None;
    node.waits = false;
    assert!(load("policy.toml", text, &node).policy.is_none());

    node.files = Map([(
        "subnet.env",
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\n",
    )]
    .into());
    let (_, told) = on(&node, text);
    assert!(
        told[0].message.contains("10.42.1.0/24, are outside"),
        "{told:?}"
    );
}

#[test]
fn the_tunnels_port_is_discovered_or_compared() {
    const ENV: (&str, &str) = ("subnet.env", "FLANNEL_NETWORK=10.244.0.0/16\n");
    let host = node(&[ENV], vec![vxlan("flannel.1", 4789)]);
    let head = r#"
        version = 1
        [peers]
        p = "192.0.2.1"
        [overlay.f]
    "#;
    for (rest, port, warns) in [
        (
            "backend = \"vxlan\"\ndiscover = \"subnet.env\"\n",
            4789,
            None,
        ),
        (
            "backend = \"vxlan\"\nport = 4789\nsubnets = \"10.244.0.0/16\"\n",
            4789,
            None,
        ),
        (
            "backend = \"vxlan\"\nsubnets = \"10.244.0.0/16\"\n",
            8472,
            Some("uses UDP port 4789"),
        ),
        (
            "backend = \"vxlan\"\nport = 8473\ndiscover = \"subnet.env\"\n",
            8473,
            Some("uses UDP port 4789"),
        ),
        (
            "backend = \"udp\"\ninterfaces = \"flannel.1\"\nsubnets = \"10.244.0.0/16\"\n",
            8285,
            Some("is a vxlan tunnel"),
        ),
    ] {
        let (overlay, told) = on(&host, &format!("{head}{rest}"));
        assert_eq!(
            overlay.tunnel,
            Some(Tunnel::Udp(PortRange::one(port))),
            "{rest}"
        );
        match warns {
            None => assert!(told.is_empty(), "{rest}: {told:?}"),
            Some(warns) => assert!(
                told.len() == 1 && told[0].message.contains(warns),
                "{rest}: {told:?}"
            ),
        }
    }
    // Another interface is another policy.
    let digest = |port| {
        let text = format!("{head}backend = \"vxlan\"\ndiscover = \"subnet.env\"\n");
        let host = node(&[ENV], vec![vxlan("flannel.1", port)]);
        let sources = load("policy.toml", &text, &host).sources;
        sources
            .all()
            .map(|(name, text)| format!("{name}{text}"))
            .collect::<String>()
    };
    assert_ne!(digest(1), digest(2));
}

/// k3s#8794, k3s#12538, flannel#1822: IPv6 has a VXLAN device of its own.
#[test]
fn the_tunnel_of_ipv6_is_part_of_a_dual_stack_overlay() {
    const ENV: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_IPV6_NETWORK=2001:db8:244::/56\n";
    let both = vec![vxlan("flannel-v6.1", 4789), vxlan("flannel.1", 4789)];
    let host = node(&[("subnet.env", ENV)], both);
    let head = r#"
        version = 1
        [peers]
        p = "192.0.2.1"
        [overlay.f]
    "#;
    let dual = "subnets = [\"10.244.0.0/16\", \"2001:db8:244::/56\"]\n";
    for (name, rest, want) in [
        (
            "discovered",
            "backend = \"vxlan\"\ndiscover = \"subnet.env\"\n".to_owned(),
            &["flannel.1", "flannel-v6.1", "cni0", "cali*"][..],
        ),
        (
            "written, as the README has it",
            format!(
                "backend = \"vxlan\"\nport = 4789\ninterfaces = [\"flannel.1\", \"cni0\"]\n{dual}"
            ),
            &["flannel.1", "cni0", "flannel-v6.1"],
        ),
        (
            "both written",
            format!(
                "backend = \"vxlan\"\nport = 4789\ninterfaces = [\"flannel-v6.1\", \"flannel.1\"]\n{dual}"
            ),
            &["flannel-v6.1", "flannel.1"],
        ),
        (
            "a prefix",
            format!("backend = \"vxlan\"\ninterfaces = [\"flannel.*\"]\n{dual}"),
            &["flannel.*", "flannel-v6.*"],
        ),
        (
            "IPv4 only",
            "backend = \"vxlan\"\nport = 4789\ninterfaces = [\"flannel.1\"]\nsubnets = \"10.244.0.0/16\"\n"
                .to_owned(),
            &["flannel.1"],
        ),
        (
            "WireGuard",
            format!("backend = \"wireguard\"\ninterfaces = [\"flannel-wg\"]\n{dual}"),
            &["flannel-wg", "flannel-wg-v6"],
        ),
        (
            "not flannel's name",
            format!("backend = \"vxlan\"\ninterfaces = [\"vxlan.calico\"]\n{dual}"),
            &["vxlan.calico"],
        ),
    ] {
        let (overlay, told) = on(&host, &format!("{head}{rest}"));
        assert_eq!(interfaces(&overlay), want, "{name}");
        assert!(told.is_empty(), "{name}: {told:?}");
        if want.contains(&"flannel.1") {
            assert_eq!(
                overlay.tunnel,
                Some(Tunnel::Udp(PortRange::one(4789))),
                "{name}"
            );
            let link = overlay.link.map(|link| link.name);
            assert_eq!(link.as_deref(), Some("flannel.1"), "{name}");
        }
    }
    let text = format!("{head}backend = \"vxlan\"\ndiscover = \"subnet.env\"\n");
    let v6 = "FLANNEL_IPV6_NETWORK=2001:db8:244::/56\n";
    let host = node(&[("subnet.env", v6)], vec![vxlan("flannel-v6.1", 4790)]);
    let (overlay, told) = on(&host, &text);
    assert_eq!(overlay.tunnel, Some(Tunnel::Udp(PortRange::one(4790))));
    assert!(told.is_empty(), "{told:?}");

    let differ = vec![vxlan("flannel-v6.1", 4790), vxlan("flannel.1", 4789)];
    let host = node(&[("subnet.env", ENV)], differ);
    let (overlay, told) = on(&host, &text);
    assert_eq!(overlay.tunnel, Some(Tunnel::Udp(PortRange::one(4789))));
    let message = "flannel-v6.1 uses UDP port 4790, but flannel.1 uses 4789";
    assert!(
        told.len() == 1 && told[0].message.contains(message),
        "{told:?}"
    );
}

/// rke2-charts#462, kubo-release#320: clusters with Windows nodes have VNI 4096 and port 4789.
#[test]
fn the_vni_of_net_conf_names_the_default_interfaces() {
    let text = r#"
        version = 1
        [peers]
        p = "192.0.2.1"
        [overlay.f]
        backend = "vxlan"
        discover = "net-conf.json"
    "#;
    for (vni, want) in [
        (
            "4096",
            &["flannel.4096", "flannel-v6.4096", "cni0", "cali*"][..],
        ),
        // flannel-v6.10000 would be longer than a name can be.
        ("10000", &["flannel.10000", "cni0", "cali*"]),
    ] {
        let conf = format!(
            r#"{{"Network": "10.244.0.0/16", "Backend": {{"Type": "vxlan", "VNI": {vni}, "Port": 4789}}}}"#
        );
        let host = node(&[("net-conf.json", conf.leak())], Vec::new());
        let (overlay, told) = on(&host, text);
        assert_eq!(interfaces(&overlay), want, "{vni}");
        assert_eq!(
            overlay.tunnel,
            Some(Tunnel::Udp(PortRange::one(4789))),
            "{vni}"
        );
        assert!(told.is_empty(), "{told:?}");
    }
}

/// flannel#1142, flannel#1520
#[test]
fn direct_routing_is_discovered_or_written() {
    const ON: &str =
        r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true}}"#;
    const OFF: &str =
        r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": false}}"#;
    const WIREGUARD: &str =
        r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "wireguard", "DirectRouting": true}}"#;
    let discover = "discover = \"net-conf.json\"\n";
    for (conf, backend, rest, want, warns) in [
        (ON, "vxlan", discover, true, None),
        (OFF, "vxlan", discover, false, None),
        // flannel reads the key for vxlan and ipip only.
        (WIREGUARD, "wireguard", discover, false, None),
        (
            OFF,
            "vxlan",
            "discover = \"net-conf.json\"\ndirect = true\n",
            true,
            None,
        ),
        (
            ON,
            "vxlan",
            "discover = \"net-conf.json\"\ndirect = false\n",
            false,
            Some("these packets are dropped"),
        ),
        (ON, "vxlan", "subnets = \"10.244.0.0/16\"\n", false, None),
        (
            ON,
            "ipip",
            "subnets = \"10.244.0.0/16\"\ndirect = true\n",
            true,
            None,
        ),
        (
            ON,
            "host-gw",
            discover,
            false,
            Some("flannel's backend is vxlan"),
        ),
    ] {
        let host = node(&[("net-conf.json", conf)], Vec::new());
        let text = format!(
            r#"
                version = 1
                [peers]
                p = "192.0.2.1"
                [overlay.f]
                backend = "{backend}"
                {rest}
            "#
        );
        let (overlay, told) = on(&host, &text);
        assert_eq!(overlay.direct, want, "{conf} {text}");
        let told: Vec<&str> = told.iter().map(|d| d.message.as_str()).collect();
        match warns {
            None => assert!(told.is_empty(), "{text}: {told:?}"),
            Some(warns) => assert!(
                told.len() == 1 && told[0].contains(warns),
                "{text}: {told:?}"
            ),
        }
    }
}

/// k3s-io/docs#215: 51821 is flannel's only with IPv6; another WireGuard may use it.
#[test]
fn wireguard_reserves_the_ports_that_flannel_uses() {
    let range = |first, last| Some(Tunnel::Udp(PortRange { first, last }));
    let head = r#"
        version = 1
        [peers]
        p = "192.0.2.1"
        [overlay.f]
        backend = "wireguard"
    "#;
    let dual =
        r#""EnableIPv6": true, "Network": "10.244.0.0/16", "IPv6Network": "2001:db8:244::/56""#;
    for (name, rest, backend, want, warns) in [
        (
            "IPv4",
            "subnets = \"10.244.0.0/16\"",
            "",
            range(51820, 51820),
            0,
        ),
        (
            "IPv6",
            "subnets = \"2001:db8:244::/56\"",
            "",
            range(51821, 51821),
            0,
        ),
        (
            "both",
            "subnets = [\"10.244.0.0/16\", \"2001:db8:244::/56\"]",
            "",
            range(51820, 51821),
            0,
        ),
        (
            "port",
            "port = 51900\nsubnets = [\"10.244.0.0/16\", \"2001:db8:244::/56\"]",
            "",
            range(51900, 51900),
            0,
        ),
        ("found", "discover = \"c\"", "", range(51820, 51821), 0),
        (
            "found, separate",
            "discover = \"c\"",
            ", \"Mode\": \"separate\", \"ListenPort\": 51831, \"ListenPortV6\": 51830",
            range(51830, 51831),
            0,
        ),
        (
            "found, one device",
            "discover = \"c\"",
            ", \"Mode\": \"auto\", \"ListenPort\": 51830",
            range(51830, 51830),
            0,
        ),
        (
            "found, one device of mode ipv6",
            "discover = \"c\"",
            ", \"Mode\": \"ipv6\"",
            range(51820, 51820),
            0,
        ),
        (
            "found, apart",
            "discover = \"c\"",
            ", \"ListenPortV6\": 51900",
            range(51820, 51900),
            1,
        ),
        (
            "apart, as the warning's help wants it",
            "port = 51820\ndiscover = \"c\"",
            ", \"ListenPortV6\": 51900",
            range(51820, 51820),
            0,
        ),
    ] {
        let conf = format!("{{{dual}, \"Backend\": {{\"Type\": \"wireguard\"{backend}}}}}");
        let host = node(&[("c", conf.leak())], Vec::new());
        let (overlay, told) = on(&host, &format!("{head}{rest}\n"));
        assert_eq!(overlay.tunnel, want, "{name}");
        assert_eq!(told.len(), warns, "{name}: {told:?}");
    }
}

/// The help of a warning, taken at its word, leaves no warning.
#[test]
fn help_that_says_what_to_write_is_right() {
    const DIRECT: &str =
        r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true}}"#;
    const UDP: &str = "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"udp\"}}";
    let host = node(
        &[("direct.json", DIRECT), ("udp.json", UDP)],
        vec![vxlan("flannel.1", 8472), vxlan("flannel.7", 4789)],
    );
    for (rest, direct) in [
        ("backend = \"host-gw\"\ndiscover = \"direct.json\"\n", true),
        ("backend = \"vxlan\"\ndiscover = \"udp.json\"\n", false),
        (
            "backend = \"host-gw\"\ninterfaces = [\"flannel.1\"]\nsubnets = \"10.244.0.0/16\"\n",
            true,
        ),
        (
            "backend = \"udp\"\ninterfaces = [\"flannel.1\"]\nsubnets = \"10.244.0.0/16\"\n",
            false,
        ),
        (
            "backend = \"vxlan\"\ninterfaces = [\"flannel.7\"]\nsubnets = \"10.244.0.0/16\"\n",
            false,
        ),
    ] {
        let text = format!(
            r#"
                version = 1
                [peers]
                p = "192.0.2.1"
                [overlay.f]
                {rest}
            "#
        );
        let (_, told) = on(&host, &text);
        let help = told[0].help.clone().unwrap_or_default();
        let mut text: String = text
            .lines()
            .filter(|line| !(line.starts_with("backend") && help.contains("backend = ")))
            .map(|line| format!("{line}\n"))
            .collect();
        for key in ["backend = ", "direct = ", "port = "] {
            if let Some((_, value)) = help.split_once(key) {
                let end = value.find([' ', ',', ';']).unwrap_or(value.len());
                text += &format!("{key}{}\n", &value[..end]);
            }
        }
        let (overlay, told) = on(&host, &text);
        assert!(told.is_empty(), "{rest}{help}: {told:?}");
        assert_eq!(overlay.direct, direct, "{rest}{help}");
    }
}

#[test]
fn each_backend_has_its_tunnel_and_its_interfaces() {
    let one = |first| Some(Tunnel::Udp(PortRange::one(first)));
    for (name, backend, tunnel, interface) in [
        ("vxlan", OverlayBackend::Vxlan, one(8472), "flannel.1"),
        (
            "wireguard",
            OverlayBackend::Wireguard,
            one(51820),
            "flannel-wg",
        ),
        ("udp", OverlayBackend::Udp, one(8285), "flannel0"),
        (
            "ipip",
            OverlayBackend::Ipip,
            Some(Tunnel::Protocol(4)),
            "flannel.ipip",
        ),
        ("host-gw", OverlayBackend::HostGw, None, "cni0"),
        ("none", OverlayBackend::None, None, "cni0"),
    ] {
        let text = format!(
            r#"
                version = 1
                [overlay.f]
                backend = "{name}"
                subnets = "10.244.0.0/16"
            "#
        );
        let policy = read(&text, &[]).policy.unwrap();
        let overlay = &policy.overlays[0];
        assert_eq!(
            (overlay.backend, overlay.tunnel),
            (backend, tunnel),
            "{name}"
        );
        assert_eq!(overlay.interfaces[0].to_string(), interface, "{name}");
    }
}

#[test]
fn what_is_suspicious_is_a_warning_and_no_error() {
    for (text, want) in [
        ("version = 1\n", "lets nobody in"),
        (
            r#"
                version = 1
                [peers]
                a = ["192.0.2.1", "192.0.2.1"]
            "#,
            "`192.0.2.1` is listed twice",
        ),
        (
            r#"
                version = 1
                [peers]
                a = "192.0.2.1"
                [[allow]]
                name = "w"
                ports = ["80/tcp"]
                from = "a"
            "#,
            "is a peer and may do this anyway",
        ),
        (
            r#"
                version = 1
                [[allow]]
                name = "w"
                from = "any"
            "#,
            "opens every port to everybody",
        ),
        (
            r#"
                version = 1
                [[allow]]
                name = "v"
                ports = ["80-90/tcp"]
                from = "any"
                [[allow]]
                name = "w"
                ports = ["81/tcp"]
                from = "192.0.2.1"
            "#,
            "allow `w` can never match",
        ),
        (
            r#"
                version = 1
                [overlay.f]
                backend = "none"
                subnets = "10.244.0.0/16"
                [[allow]]
                name = "w"
                ports = ["80/tcp"]
                from = "10.244.1.0/24"
            "#,
            "part of overlay `f`",
        ),
        (
            r"
                version = 1
                [icmp]
                core = false
            ",
            "safe core of ICMP is off",
        ),
        (
            r"
                version = 1
                [options]
                hook_priority = 0
            ",
            "priority 0 is everybody's",
        ),
    ] {
        let got = warnings(text);
        assert!(got.iter().any(|w| w.contains(want)), "{text}: {got:?}");
    }
    assert_eq!(
        warnings(include_str!("../../../policy.toml")),
        [""; 0],
        "the example has none"
    );
}

#[test]
fn a_list_of_peers_has_lines_comments_and_places() {
    let text = "version = 1\npeers_files = [\"peers.txt\"]\n";
    let loaded = read(
        text,
        &[(
            "peers.txt",
            "# ours\n192.0.2.1\r\n  192.0.2.0/28  # a network\n\n2001:db8::1",
        )],
    );
    assert_eq!(loaded.policy.unwrap().peer_count(), 3);
    let loaded = read(text, &[("peers.txt", "192.0.2.1\n  10.0.0.1/8 # x\n")]);
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    assert!(shown.contains("peers.txt:2:3"), "{shown}");
    let loaded = read(text, &[("peers.txt", "# nobody\n")]);
    assert!(
        loaded.has_errors(),
        "a list that names nobody means nothing"
    );
}

#[test]
fn included_files_are_merged_and_cannot_set_twice_what_is_there_once() {
    let main = r#"
        version = 1
        include = ["d/*.toml"]
        [options]
        denied = "reject"
    "#;
    let loaded = read(
        main,
        &[
            ("d/a.toml", "[peers]\na = \"192.0.2.1\"\n"),
            ("d/b.toml", "[options]\ndenied = \"drop\"\n"),
        ],
    );
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    assert!(
        shown.contains("`options` is set twice") && shown.contains("d/b.toml:1:2"),
        "{shown}"
    );
    let loaded = read(main, &[("d/a.toml", "[peers]\na = \"192.0.2.1\"\n")]);
    assert_eq!(loaded.policy.unwrap().peers.len(), 1);
    let loaded = read(main, &[("d/a.toml", "include = [\"x\"]\n")]);
    assert!(loaded.has_errors());
}

/// Order is meaning: each pair of neighbours in docs/policy.md's table, with a packet that both
/// fit.
#[test]
fn the_first_that_fits_decides() {
    let text = "version = 1\n[peers]\npeer = \"10.1.0.0/16\"\n[interfaces]\ntrusted = [\"wg0\"]\n\
        [overlay.f]\nbackend = \"vxlan\"\nsubnets = \"10.244.0.0/16\"\n[icmp]\nping = \"any\"\n\
        [[allow]]\nname = \"all\"\nfrom = \"any\"\n";
    let policy = read(text, &[]).policy.unwrap();
    let (ruleset, _) = compile(&policy);
    let tcp = Transport::Ports {
        protocol: TCP,
        source: 40_000,
        destination: 80,
    };
    let vxlan = Transport::Ports {
        protocol: 17,
        source: 40_000,
        destination: 8472,
    };
    let ping = Transport::Icmp { kind: 8, code: 0 };
    let error = Transport::Icmp { kind: 3, code: 4 };
    for (name, interface, source, transport, state, want) in [
        (
            "established before spoof",
            "eth0",
            "10.244.0.1",
            tcp,
            CtState::Established,
            "established",
        ),
        (
            "trusted before spoof",
            "wg0",
            "10.244.0.1",
            tcp,
            CtState::New,
            "trusted",
        ),
        (
            "spoof before peers",
            "eth0",
            "10.244.0.1",
            tcp,
            CtState::New,
            "overlay-spoof",
        ),
        (
            "spoof before ICMP",
            "eth0",
            "10.244.0.1",
            error,
            CtState::New,
            "overlay-spoof",
        ),
        (
            "peers before injection",
            "eth0",
            "10.1.0.1",
            vxlan,
            CtState::New,
            "peers",
        ),
        (
            "pods before peers",
            "cni0",
            "10.1.0.1",
            tcp,
            CtState::New,
            "peer-spoof",
        ),
        (
            "a tunnel guarded before overlays",
            "cni0",
            "10.244.0.1",
            vxlan,
            CtState::New,
            "overlay-inject",
        ),
        (
            "a tunnel guarded before loopback",
            "lo",
            "192.0.2.254",
            vxlan,
            CtState::New,
            "overlay-inject",
        ),
        (
            "loopback from outside before all",
            "wg0",
            "127.0.0.1",
            tcp,
            CtState::New,
            "loopback-spoof",
        ),
        (
            "overlays before invalid",
            "cni0",
            "10.244.0.1",
            tcp,
            CtState::Invalid,
            "overlay.f",
        ),
        (
            "peers before invalid",
            "eth0",
            "10.1.0.1",
            tcp,
            CtState::Invalid,
            "peers",
        ),
        (
            "injection before allows",
            "eth0",
            "192.0.2.1",
            vxlan,
            CtState::New,
            "overlay-inject",
        ),
        (
            "ICMP before invalid",
            "eth0",
            "192.0.2.1",
            error,
            CtState::Invalid,
            "icmp",
        ),
        (
            "ping before allows",
            "eth0",
            "192.0.2.1",
            ping,
            CtState::New,
            "ping",
        ),
        (
            "invalid before allows",
            "eth0",
            "192.0.2.1",
            tcp,
            CtState::Invalid,
            "invalid",
        ),
        (
            "allows before the rest",
            "eth0",
            "192.0.2.1",
            tcp,
            CtState::New,
            "allow.all",
        ),
    ] {
        let (source, destination) = (source.parse().unwrap(), "192.0.2.254".parse().unwrap());
        let packet = Packet {
            state,
            reverse_path: false,
            ..Packet::new(Hook::Input, interface, source, destination, transport)
        };
        assert_eq!(
            policy.verdict(&packet).reason.to_string(),
            want,
            "{name}: the policy"
        );
        assert_eq!(
            ruleset.eval(&packet).reason().unwrap().to_string(),
            want,
            "{name}: the ruleset"
        );
    }
}

#[test]
fn the_backend_can_be_chosen_by_the_policy() {
    use peerwall_core::policy::BackendChoice;
    for (text, wanted) in [
        ("", BackendChoice::Auto),
        ("[options]\nbackend = \"auto\"\n", BackendChoice::Auto),
        ("[options]\nbackend = \"nft\"\n", BackendChoice::Nft),
        (
            "[options]\nbackend = \"iptables\"\n",
            BackendChoice::Iptables,
        ),
    ] {
        let policy = read(&format!("version = 1\n{text}"), &[]).policy.unwrap();
        assert_eq!(policy.options.backend, wanted, "{text}");
    }
    assert!(read("version = 1\n[options]\nbackend = \"ebtables\"\n", &[]).has_errors());
}
