use super::*;
use crate::policy::load::{NoFiles, load};
use crate::ruleset::compile::compile;

fn ruleset(text: &str) -> Ruleset {
    let text = format!("version = 1\n{text}");
    compile(
        &load("policy.toml", &text, &NoFiles)
            .policy
            .expect("it is right"),
    )
    .0
}

fn connection(source: &str, destination: &str, dialled: u16, port: u16) -> Connection {
    Connection {
        source: source.parse().expect("an address"),
        transport: Transport::Ports {
            protocol: port::TCP,
            source: 40_000,
            destination: port,
        },
        dialled,
        dialled_address: match dialled == port {
            true => destination.parse().expect("an address"),
            false => "198.51.100.1".parse().expect("an address"),
        },
        is_dnat: dialled != port,
        destination: destination.parse().expect("an address"),
    }
}

fn refused_of(judgement: Judgement) -> Option<Refused> {
    match judgement {
        Judgement::Refused(refused) => Some(refused),
        Judgement::Admitted | Judgement::Unsure(_) => None,
    }
}

#[test]
fn the_interface_that_is_used_decides_and_none_other() {
    let trusted = "[interfaces]\ntrusted = [\"lan0\", \"lan1\"]\n";
    let bound = r#"
        [[allow]]
        name = "web"
        ports = ["80/tcp"]
        from = "any"
        interfaces = ["lan0"]
    "#;
    let open = r#"
        [[allow]]
        name = "web"
        ports = ["80/tcp"]
        from = "any"
    "#;
    let place = HostAddresses {
        addresses: vec!["198.51.100.1".parse().expect("an address")],
        interfaces: ["lo", "eth0", "lan0", "lan1"].map(String::from).to_vec(),
    };
    let web = connection("203.0.113.9", "198.51.100.1", 80, 80);
    for (name, old, new, ways, want) in [
        (
            "a trusted interface elsewhere",
            format!("{trusted}{open}"),
            trusted.to_owned(),
            vec!["eth0"],
            "ends",
        ),
        (
            "an allow of another interface",
            open.to_owned(),
            bound.to_owned(),
            vec!["eth0"],
            "ends",
        ),
        (
            "by the trusted one",
            format!("{trusted}{open}"),
            trusted.to_owned(),
            vec!["lan1"],
            "stays",
        ),
        (
            "by the allowed one",
            open.to_owned(),
            bound.to_owned(),
            vec!["lan0"],
            "stays",
        ),
        (
            "no longer trusted",
            trusted.to_owned(),
            bound.to_owned(),
            vec!["lan1"],
            "ends",
        ),
        (
            "of several, all refused",
            open.to_owned(),
            bound.to_owned(),
            vec!["eth0", "lan1"],
            "ends",
        ),
        (
            "of several, one admitted",
            open.to_owned(),
            bound.to_owned(),
            vec!["eth0", "lan0"],
            "unsure",
        ),
        (
            "not known",
            open.to_owned(),
            bound.to_owned(),
            vec![],
            "unsure",
        ),
        (
            "not known, but irrelevant",
            open.to_owned(),
            String::new(),
            vec![],
            "ends",
        ),
        (
            "neither admits it there",
            trusted.to_owned(),
            trusted.to_owned(),
            vec!["eth0"],
            "refused",
        ),
    ] {
        let (old, new) = (ruleset(&old), ruleset(&new));
        let judge = Judge::new(Some(&old), &new, place.clone());
        let ways = || ways.into_iter().map(str::to_owned).collect();
        let found = match judge.judge(&web, ways) {
            Judgement::Admitted => "stays",
            Judgement::Unsure(_) => "unsure",
            Judgement::Refused(refused) if refused.was_admitted => "ends",
            Judgement::Refused(_) => "refused",
        };
        assert_eq!(found, want, "{name}");
    }
    // The routes are not read if the interface is irrelevant.
    let (old, new) = (ruleset(open), ruleset(""));
    let judge = Judge::new(Some(&old), &new, place);
    judge.judge(&web, || panic!("the route was read"));
}

#[test]
fn protocols_without_ports_are_judged_too() {
    let open = r#"
        [peers]
        a = "192.0.2.1"
        [[allow]]
        name = "vpn"
        ports = ["esp", "gre", "ipip", "ospf", "vrrp"]
        from = "any"
        [icmp]
        ping = "any"
    "#;
    let shut = r#"
        [peers]
        a = "192.0.2.1"
        [icmp]
        ping = "peers"
    "#;
    let (old, new) = (
        ruleset(open),
        ruleset(&shut.replace("\"peers\"", "\"192.0.2.1\"")),
    );
    let place = HostAddresses {
        addresses: vec!["198.51.100.1".parse().expect("an address")],
        interfaces: vec!["eth0".into()],
    };
    let judge = Judge::new(Some(&old), &new, place);
    for (transport, what) in [
        (Transport::Other(50), "esp"),
        (Transport::Other(4), "ipip"),
        (Transport::Other(47), "gre"),
        (Transport::Other(89), "ospf"),
        (Transport::Other(112), "vrrp"),
        (Transport::Icmp { kind: 8, code: 0 }, "icmp echo-request"),
    ] {
        let of = |source: &str| Connection {
            transport,
            ..connection(source, "198.51.100.1", 0, 0)
        };
        let found = refused_of(judge.judge(&of("203.0.113.9"), || vec!["eth0".into()]));
        let found = found.unwrap_or_else(|| panic!("{what} is not refused"));
        assert!(found.was_admitted && found.dialled == what, "{found:?}");
        let stays = judge.judge(&of("192.0.2.1"), || vec!["eth0".into()]);
        assert_eq!(stays, Judgement::Admitted, "{what} of a peer");
    }
    let odd = Connection {
        transport: Transport::Other(99),
        ..connection("203.0.113.9", "198.51.100.1", 0, 0)
    };
    let found = refused_of(judge.judge(&odd, Vec::new)).expect("neither ruleset admits it");
    assert!(!found.was_admitted && found.dialled == "protocol 99");
}

#[test]
fn what_only_widens_is_known_without_asking() {
    let base = r#"
        [peers]
        a = ["192.0.2.1", "192.0.2.2", "2001:db8::/64", "198.51.100.0/24"]
        [overlay.f]
        backend = "vxlan"
        subnets = ["10.244.0.0/16"]
    "#;
    let with = |from: &str, to: &str| ruleset(&base.replace(from, to));
    let old = ruleset(base);
    for (new, widens) in [
        (old.clone(), true),
        (with("\"192.0.2.2\"", "\"192.0.2.2\", \"192.0.2.3\""), true),
        (with("198.51.100.0/24", "198.51.0.0/16"), true),
        (with("198.51.100.0/24", "198.51.100.0/25"), false),
        (with("\"192.0.2.2\", ", ""), false),
        (with("192.0.2.2", "192.0.2.3"), false),
        (with("2001:db8::/64", "2001:db9::/64"), false),
        // More pods: their addresses are now dropped elsewhere.
        (
            with("\"10.244.0.0/16\"", "\"10.244.0.0/16\", \"10.245.0.0/16\""),
            false,
        ),
        (
            ruleset(&format!(
                r#"
                    {base}
                    [[allow]]
                    name = "ssh"
                    ports = ["22/tcp"]
                    from = "any"
                "#
            )),
            false,
        ),
    ] {
        assert_eq!(only_widens(&old, &new), widens);
    }
}

#[test]
fn just_what_the_old_admitted_and_the_new_refuses_ends() {
    let old = ruleset(
        r#"
            [peers]
            a = "192.0.2.1"
            b = "192.0.2.2"
            [overlay.f]
            backend = "vxlan"
            subnets = ["10.244.0.0/16"]
            [[allow]]
            name = "ssh"
            ports = ["22/tcp"]
            from = "any"
            [[allow]]
            name = "web"
            ports = ["8080/tcp"]
            from = "any"
        "#,
    );
    let new = ruleset(
        r#"
            [peers]
            a = "192.0.2.1"
            [overlay.f]
            backend = "vxlan"
            subnets = ["10.244.0.0/16"]
            [[allow]]
            name = "ssh"
            ports = ["22/tcp"]
            from = "any"
        "#,
    );
    let place = HostAddresses {
        addresses: vec!["198.51.100.1".parse().expect("an address")],
        interfaces: ["lo", "eth0", "flannel.1", "veth1", "veth2"]
            .map(String::from)
            .to_vec(),
    };
    let host = "198.51.100.1";
    let judge = Judge::new(Some(&old), &new, place.clone());
    let by = |name: &str| vec![name.to_owned()];
    let refused = judge.judge(&connection("192.0.2.2", host, 9100, 9100), || by("eth0"));
    assert_eq!(
        refused_of(refused).map(|r| r.to_string()).as_deref(),
        Some("b (192.0.2.2) to this host, 9100/tcp (input-default)")
    );
    for (name, connection, ends) in [
        (
            "of a removed peer",
            connection("192.0.2.2", host, 9100, 9100),
            true,
        ),
        (
            "of a removed peer, through this host",
            connection("192.0.2.2", "10.244.1.2", 9100, 9100),
            true,
        ),
        (
            "of a removed peer, to an open port",
            connection("192.0.2.2", host, 22, 22),
            false,
        ),
        (
            "of a remaining peer",
            connection("192.0.2.1", host, 9100, 9100),
            false,
        ),
        (
            "of a pod",
            connection("10.244.1.2", host, 10250, 10250),
            false,
        ),
        (
            "to a published port that is closed",
            connection("203.0.113.9", "10.244.1.2", 8080, 80),
            true,
        ),
        (
            "that neither admits",
            connection("203.0.113.9", host, 25, 25),
            false,
        ),
        (
            "that this host opened",
            connection(host, "192.0.2.2", 443, 443),
            false,
        ),
    ] {
        let way = match connection.source.to_string().starts_with("10.244.") {
            true => "flannel.1",
            false => "eth0",
        };
        let found = refused_of(judge.judge(&connection, || by(way)));
        assert_eq!(
            found.as_ref().is_some_and(|r| r.was_admitted),
            ends,
            "{name}: {found:?}"
        );
        let listed = ends || name == "that neither admits";
        assert_eq!(found.is_some(), listed, "{name}: {found:?}");
        // Without an old ruleset, no connection was admitted.
        let first = Judge::new(None, &new, place.clone()).judge(&connection, || by(way));
        let first = refused_of(first);
        assert_eq!(first.is_some(), listed, "{name}");
        assert!(first.is_none_or(|refused| !refused.was_admitted), "{name}");
    }
}
