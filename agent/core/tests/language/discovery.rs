//! What flannel writes is read, checked and remembered.

use super::*;

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
        ("FLANNEL_MTU=1450\n", "policy.toml:5:20", "no pod network"),
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
            .is_some_and(|policy| policy.expects[0].awaits == ["f"])
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
