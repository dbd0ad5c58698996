//! Tunnels, ports and interfaces of each overlay backend.

use super::*;

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
