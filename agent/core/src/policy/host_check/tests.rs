use super::*;
use crate::net::host::Interface;
use crate::policy::load::{NoFiles, load};

/// Parses interfaces from `name kind address…`, and routes from `destination interface [gateway]`.
fn host(interfaces: &[&str], routes: &[&str]) -> Host {
    let mut host = Host::default();
    for (index, text) in interfaces.iter().enumerate() {
        let mut words = text.split(' ');
        let name = words.next().unwrap().to_owned();
        let kind = words.next().unwrap();
        host.interfaces.push(Interface {
            index: index as u32 + 1,
            name,
            kind: (kind != "-").then(|| kind.to_owned()),
            addresses: words.map(|word| word.parse().unwrap()).collect(),
            ..Interface::default()
        });
    }
    for text in routes {
        let words: Vec<&str> = text.split(' ').collect();
        host.routes.push(Route {
            destination: words[0].parse().unwrap(),
            interface: words[1].to_owned(),
            gateway: words.get(2).map(|word| word.parse().unwrap()),
            table: RT_TABLE_MAIN,
        });
    }
    host
}

fn policy(overlay: &str) -> Policy {
    let text = format!(
        r#"
            version = 1
            [peers]
            w2 = "192.0.2.12"
            [overlay.o]
            subnets = ["10.244.0.0/16"]
            {overlay}
        "#
    );
    let loaded = load("policy.toml", &text, &NoFiles);
    loaded
        .policy
        .unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
}

const ETH0: &str = "eth0 - 192.0.2.11/24";
const FLANNEL: &str = "flannel.1 vxlan 10.244.1.0/32";
const CNI0: &str = "cni0 bridge 10.244.1.1/24";
const LAN: &str = "192.0.2.0/24 eth0";
const VXLAN: &str = "backend = \"vxlan\"";
const HOST_GW: &str = "backend = \"host-gw\"";

#[expect(clippy::type_complexity, reason = "a table of cases")]
#[test]
fn what_does_not_fit_is_warned_of() {
    let cases: &[(&str, &str, &[&str], &[&str], &[(&str, &str)])] = &[
        (
            "flannel as it is",
            VXLAN,
            &[ETH0, FLANNEL, CNI0],
            &[
                LAN,
                "10.244.1.0/24 cni0",
                "10.244.2.0/24 flannel.1 10.244.2.0",
            ],
            &[],
        ),
        ("no pod yet", VXLAN, &[ETH0, FLANNEL], &[LAN], &[]),
        (
            "no flannel",
            VXLAN,
            &[ETH0],
            &[LAN],
            &[(
                "no interface `flannel.1` or `flannel-v6.1` or `cni0` or `cali*` on this host now",
                "ip link",
            )],
        ),
        (
            "a misspelt interface",
            "backend = \"vxlan\"\ninterfaces = [\"flanel.1\", \"cni0\"]",
            &[ETH0, FLANNEL, CNI0],
            &[LAN, "10.244.2.0/24 flannel.1 10.244.2.0"],
            &[
                ("no interface `flanel.1` on", "ip link"),
                (
                    "10.244.1.0 on flannel.1 is in",
                    "interfaces = [\"cni0\", \"flannel.1\"]",
                ),
            ],
        ),
        (
            "canal: pods by routes of their own",
            "backend = \"vxlan\"\ninterfaces = [\"flannel.1\", \"cni0\"]",
            &[ETH0, FLANNEL, "cali1 veth", "cali2 veth"],
            &["10.244.1.5/32 cali1", "10.244.1.6/32 cali2"],
            &[(
                "leave by cali*,",
                "interfaces = [\"flannel.1\", \"cni0\", \"cali*\"]",
            )],
        ),
        (
            "canal, and the policy says so",
            "backend = \"vxlan\"\ninterfaces = [\"flannel.1\", \"cali*\"]",
            &[ETH0, FLANNEL, "cali1 veth"],
            &["10.244.1.5/32 cali1", "10.244.2.0/24 flannel.1 10.244.2.0"],
            &[],
        ),
        (
            "another VNI",
            VXLAN,
            &[ETH0, "flannel.4096 vxlan 10.244.1.0/32", CNI0],
            &["10.244.2.0/24 flannel.4096 10.244.2.0"],
            &[(
                "10.244.1.0 on flannel.4096 is in",
                "`interfaces = [\"cni0\", \"cali*\", \"flannel.4096\"]`",
            )],
        ),
        (
            "DirectRouting",
            VXLAN,
            &[ETH0, FLANNEL, CNI0],
            &[LAN, "10.244.2.0/24 eth0 192.0.2.12"],
            &[(
                "leave by eth0, which its `interfaces` do not list (the first is 10.244.2.0/24 via \
                 192.0.2.12)",
                "direct = true",
            )],
        ),
        (
            "DirectRouting, and the policy says so",
            "backend = \"vxlan\"\ndirect = true",
            &[ETH0, FLANNEL, CNI0],
            &[LAN, "10.244.2.0/24 eth0 192.0.2.12"],
            &[],
        ),
        (
            "no tunnel, and only its own interfaces",
            "backend = \"none\"\ninterfaces = [\"cni0\"]",
            &[ETH0, CNI0],
            &[LAN, "10.244.2.0/24 eth0 192.0.2.12"],
            &[("leave by eth0,", "underlay = [\"eth0\"]")],
        ),
        (
            "host-gw",
            HOST_GW,
            &[ETH0, CNI0],
            &[LAN, "10.244.2.0/24 eth0 192.0.2.12"],
            &[],
        ),
        (
            "host-gw by an interface without peers",
            HOST_GW,
            &[ETH0, "eth1 -", CNI0],
            &[LAN, "10.244.2.0/24 eth1 198.51.100.2"],
            &[("leave by eth1,", "underlay = [\"eth1\"]")],
        ),
        (
            "peers by a default route",
            HOST_GW,
            &["eth1 -", CNI0],
            &[
                "0.0.0.0/0 eth1 198.51.100.1",
                "10.244.2.0/24 eth1 198.51.100.2",
            ],
            &[],
        ),
        ("host-gw without pods here", HOST_GW, &[ETH0], &[LAN], &[]),
        (
            "the LAN is in the overlay",
            VXLAN,
            &["eth0 - 10.244.50.11/24", FLANNEL, CNI0],
            &["10.244.50.0/24 eth0"],
            &[(
                "10.244.50.11 on eth0 is in overlay `o`",
                "packets from 10.244.50.0/24",
            )],
        ),
        (
            "another bridge",
            VXLAN,
            &[ETH0, FLANNEL, "cbr0 bridge 10.244.1.1/24"],
            &["10.244.1.0/24 cbr0"],
            &[(
                "10.244.1.1 on cbr0 is in",
                "interfaces = [\"flannel.1\", \"flannel-v6.1\", \"cni0\", \"cali*\", \"cbr0\"]",
            )],
        ),
        (
            "trusted interfaces need not be listed",
            "backend = \"vxlan\"\n[interfaces]\ntrusted = [\"cbr*\"]",
            &[ETH0, FLANNEL, "cbr0 bridge 10.244.1.1/24"],
            &["10.244.1.0/24 cbr0"],
            &[],
        ),
        (
            "an allow for an interface that is not there",
            r#"
                backend = "vxlan"
                [[allow]]
                name = "x"
                ports = ["80/tcp"]
                from = "any"
                interfaces = ["eht0", "wg*"]
            "#,
            &[ETH0, FLANNEL],
            &[],
            &[(
                "allow `x`: no interface `eht0` or `wg*` on this host now",
                "ip link",
            )],
        ),
        (
            "wider and other routes are nobody's business",
            VXLAN,
            &[ETH0, FLANNEL],
            &["10.0.0.0/8 eth0 192.0.2.1", "10.96.0.0/12 eth0"],
            &[],
        ),
    ];
    for (name, overlay, interfaces, routes, want) in cases {
        let found = compare(&policy(overlay), &host(interfaces, routes), &[]);
        let texts: Vec<String> = found.iter().map(|d| d.message.clone()).collect();
        assert_eq!(found.len(), want.len(), "{name}: {texts:#?}");
        for (found, (message, help)) in found.iter().zip(*want) {
            assert!(found.message.contains(message), "{name}: {}", found.message);
            let given = found.help.as_deref().unwrap_or_default();
            assert!(given.contains(help), "{name}: {given}");
        }
    }
}

#[test]
fn an_administrator_within_an_overlay_is_named() {
    let administrators = [
        "10.244.50.99".parse().unwrap(),
        "192.0.2.99".parse().unwrap(),
    ];
    let found = compare(
        &policy(VXLAN),
        &host(&[ETH0, FLANNEL], &[LAN]),
        &administrators,
    );
    assert_eq!(found.len(), 1);
    assert!(
        found[0]
            .message
            .starts_with("10.244.50.99, the address of an SSH client")
    );
}

#[test]
fn ten_thousand_routes_and_peers_are_not_compared_one_by_one() {
    let mut host = host(&[ETH0, CNI0], &[LAN]);
    for n in 0..10_000_u32 {
        host.routes.push(Route {
            destination: format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap(),
            interface: "eth0".into(),
            gateway: Some("192.0.2.12".parse().unwrap()),
            table: RT_TABLE_MAIN,
        });
    }
    let mut policy = policy("backend = \"host-gw\"");
    policy.overlays[0].subnets[0].net = "10.0.0.0/8".parse().unwrap();
    let peer = policy.peers[0].clone();
    policy.peers = vec![peer; 10_000];
    assert_eq!(compare(&policy, &host, &[]), []);
}
