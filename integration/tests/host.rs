//! What rtnetlink says of a host is read as `ip` shows it, and changes of it are announced.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use peerwall::host;
use peerwall::kernel::links::{Interests, Links};
use peerwall_core::net::host::{Host as Network, RT_TABLE_MAIN, Route};
use peerwall_integration::net::{bridge, enslave, wire};
use peerwall_integration::ns::{Host, world};

/// Routes of a large network.
const MANY: usize = 10_000;

/// Two hosts: `a` is the one that is read, and has eth0 and eth1.
fn pair() -> (Host, Host) {
    let (a, b) = (Host::new("a"), Host::new("b"));
    wire(
        &a,
        "eth0",
        &["192.0.2.1/24", "2001:db8::1/64"],
        &b,
        "eth0",
        &["192.0.2.2/24"],
    );
    wire(&a, "eth1", &["198.51.100.1/24"], &b, "eth1", &[]);
    (a, b)
}

fn in_words(routes: &[Route], destination: &str) -> Vec<String> {
    let named = routes
        .iter()
        .filter(|route| route.destination.to_string() == destination);
    named
        .map(|route| {
            let via = route
                .gateway
                .map_or_else(String::new, |via| format!(" via {via}"));
            format!("{}{via} table {}", route.interface, route.table)
        })
        .collect()
}

#[test]
fn routes_are_read_as_they_are_set() {
    world(|| {
        let (a, _b) = pair();
        a.sh("ip route add default via 192.0.2.254 metric 5
              ip route add default via 198.51.100.254 metric 9
              ip route add 10.244.1.0/24 via 192.0.2.7
              ip route add 10.244.2.0/24 nexthop via 192.0.2.8 nexthop via 198.51.100.8
              ip route add 10.244.3.0/24 via inet6 2001:db8::7 dev eth0
              ip route add blackhole 10.244.4.0/24
              ip route add unreachable 10.244.5.0/24
              ip route add 10.1.0.0/16 dev eth1 table 1000
              ip -6 route add 2001:db8:1::/64 nexthop via 2001:db8::8 dev eth0 \
                  nexthop via 2001:db8::9 dev eth0");
        let network = a.run(|| host::read().unwrap());
        for (destination, want) in [
            (
                "0.0.0.0/0",
                &[
                    "eth0 via 192.0.2.254 table 254",
                    "eth1 via 198.51.100.254 table 254",
                ][..],
            ),
            ("10.244.1.0/24", &["eth0 via 192.0.2.7 table 254"]),
            (
                "10.244.2.0/24",
                &[
                    "eth0 via 192.0.2.8 table 254",
                    "eth1 via 198.51.100.8 table 254",
                ],
            ),
            ("10.244.3.0/24", &["eth0 via 2001:db8::7 table 254"]),
            ("10.244.4.0/24", &[]),
            ("10.244.5.0/24", &[]),
            ("10.1.0.0/16", &["eth1 table 1000"]),
            ("192.0.2.0/24", &["eth0 table 254"]),
            ("192.0.2.1/32", &[]),
            (
                "2001:db8:1::/64",
                &[
                    "eth0 via 2001:db8::8 table 254",
                    "eth0 via 2001:db8::9 table 254",
                ],
            ),
        ] {
            assert_eq!(
                in_words(&network.routes, destination),
                want,
                "{destination}"
            );
        }
        let default = network.route_to("203.0.113.1".parse().unwrap()).unwrap();
        assert_eq!(default.interface, "eth0", "the lower metric is preferred");
    });
}

#[test]
fn interfaces_and_neighbours_are_read_as_they_are_set() {
    world(|| {
        let (a, _b) = pair();
        bridge(&a, "cni0", &["10.244.0.1/24"]);
        wire(&a, "veth0", &[], &a, "veth1", &[]);
        enslave(&a, "veth0", "cni0");
        a.sh(
            "ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev eth0 nud permanent
              ip neigh add 192.0.2.8 dev eth0 nud failed
              ip neigh add 2001:db8::7 lladdr 02:00:00:00:00:08 dev eth0 nud stale",
        );
        let network = a.run(|| host::read().unwrap());
        let cni0 = network.interface("cni0").unwrap();
        assert_eq!(cni0.kind.as_deref(), Some("bridge"));
        assert_eq!(cni0.addresses[0].to_string(), "10.244.0.1/24");
        let veth = network.interface("veth0").unwrap();
        assert_eq!(veth.master, Some(cni0.index));
        assert_eq!(veth.kind.as_deref(), Some("veth"));
        let eth0 = network.interface("eth0").unwrap();
        assert!(eth0.addresses.contains(&"2001:db8::1/64".parse().unwrap()));
        let mac = |network: &Network, address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let mut all = network.neighbours.iter();
            all.find(|each| each.address == address)
                .map(|each| (each.interface.clone(), each.mac))
        };
        let eth0 = || "eth0".to_owned();
        assert_eq!(
            mac(&network, "192.0.2.7"),
            Some((eth0(), [2, 0, 0, 0, 0, 7]))
        );
        assert_eq!(
            mac(&network, "2001:db8::7"),
            Some((eth0(), [2, 0, 0, 0, 0, 8]))
        );
        assert_eq!(mac(&network, "192.0.2.8"), None);
    });
}

#[test]
fn ten_thousand_routes_are_read_at_once() {
    world(|| {
        let (a, _b) = pair();
        let mut batch = String::new();
        for each in 0..MANY {
            writeln!(
                batch,
                "route add 10.{}.{}.0/24 via 192.0.2.7",
                each / 256,
                each % 256
            )
            .unwrap();
        }
        std::fs::write("/run/batch", batch).unwrap();
        a.sh("ip -batch /run/batch");
        let network = a.run(|| host::read().unwrap());
        let main = |route: &&Route| route.table == RT_TABLE_MAIN && route.gateway.is_some();
        assert_eq!(network.routes.iter().filter(main).count(), MANY);
    });
}

/// Whether each command is news for who follows `interests`.
fn listen(interests: &Interests, commands: &[(&str, bool)]) {
    let (a, _b) = pair();
    a.run(|| {
        a.sh("ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev eth0 nud reachable");
        // Addresses are news once more when nobody else turned out to have them.
        a.sh("while ip -6 address show tentative | grep -q inet6; do sleep 0.1; done");
        let mut links = Links::open(interests.clone()).unwrap();
        // So are their routes, a moment later.
        loop {
            std::thread::sleep(Duration::from_millis(300));
            if !links.drain() {
                break;
            }
        }
        for (command, news) in commands {
            a.sh(command);
            assert_eq!(links.drain(), *news, "{command}");
        }
    });
}

#[test]
fn only_what_a_policy_depends_on_is_news() {
    world(|| {
        listen(
            &Interests {
                names: vec!["flannel.1".into()],
                addresses: true,
                routes: true,
                neighbours: true,
            },
            &[
                ("ip link add br0 type bridge", false),
                ("ip link add flannel.1 type bridge", true),
                ("ip addr add 192.0.2.9/24 dev eth0", true),
                (
                    "ip addr change 192.0.2.9/24 dev eth0 valid_lft 900 preferred_lft 800",
                    false,
                ),
                ("ip addr del 192.0.2.9/24 dev eth0", true),
                ("ip route add 10.244.1.0/24 via 192.0.2.7", true),
                ("ip route add blackhole 10.244.2.0/24", false),
                ("ip route del 10.244.1.0/24", true),
                (
                    "ip neigh change 192.0.2.7 lladdr 02:00:00:00:00:07 dev eth0 nud stale",
                    false,
                ),
                (
                    "ip neigh change 192.0.2.7 lladdr 02:00:00:00:00:08 dev eth0 nud stale",
                    true,
                ),
                ("ip neigh del 192.0.2.7 dev eth0", false),
                (
                    "ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:08 dev eth0 nud stale",
                    false,
                ),
            ],
        );
    });
}

#[test]
fn what_a_policy_does_not_depend_on_is_no_news() {
    world(|| {
        listen(
            &Interests {
                names: vec!["flannel.1".into()],
                ..Interests::default()
            },
            &[
                ("ip addr add 192.0.2.9/24 dev eth0", false),
                ("ip route add 10.244.1.0/24 via 192.0.2.7", false),
                (
                    "ip neigh add 192.0.2.8 lladdr 02:00:00:00:00:08 dev eth0 nud stale",
                    false,
                ),
            ],
        );
    });
}

/// What `check`, `plan`, `apply` and `status` print and answer about a policy.
fn say(host: &Host, policy: &str) -> Vec<(&'static str, String, serde_json::Value)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, policy).unwrap();
    let path = path.to_str().unwrap();
    let mut said = Vec::new();
    for command in ["check", "plan", "apply", "status"] {
        let words = host.peerwall(&[command, path]);
        let json = host.peerwall(&[command, path, "--json"]);
        said.push((
            command,
            String::from_utf8_lossy(&words.stderr).into_owned(),
            serde_json::from_slice(&json.stdout).unwrap(),
        ));
    }
    said
}

#[test]
fn what_does_not_fit_the_host_is_said_by_every_command() {
    world(|| {
        let (a, _b) = pair();
        bridge(&a, "flannel.1", &["10.244.0.0/32"]);
        wire(&a, "lxc0", &[], &a, "veth1", &[]);
        a.sh("ip route add 10.244.0.5/32 dev lxc0
              ip route add 10.244.1.0/24 via 192.0.2.2");
        a.sysctl("net.ipv4.conf.eth0.route_localnet", "1");
        let policy = r#"
            version = 1
            [peers]
            w2 = "192.0.2.2"
            all = "::/0"
            [overlay.canal]
            backend = "vxlan"
            subnets = ["10.244.0.0/16"]
        "#;
        for (command, words, json) in say(&a, policy) {
            for (what, help) in [
                (
                    "leave by lxc*, which",
                    r#"`interfaces = ["flannel.1", "flannel-v6.1", "cni0", "cali*", "lxc*"]`"#,
                ),
                ("leave by eth0, which", "`direct = true`"),
            ] {
                assert!(words.contains(what), "{command}: {what}\n{words}");
                assert!(words.contains(help), "{command}: {help}\n{words}");
                let list = &json["diagnostics"];
                assert!(list.to_string().contains(what), "{command}: {what}\n{json}");
            }
            // A policy's own warnings are not repeated where it is only looked at.
            let repeats = words.contains("::/0 covers every address");
            assert_eq!(repeats, command != "status", "{command}\n{words}");
            let is_told = words.contains("route_localnet is 1 for eth0");
            assert_eq!(is_told, command == "check", "{command}\n{words}");
        }
    });
}

#[test]
fn nothing_is_said_where_the_policy_fits_the_host() {
    world(|| {
        let (a, _b) = pair();
        bridge(&a, "flannel.1", &["10.244.0.0/32"]);
        bridge(&a, "cni0", &["10.244.0.1/24"]);
        a.sh("ip route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink");
        let policy = r#"
            version = 1
            [peers]
            w2 = "192.0.2.2"
            [overlay.flannel]
            backend = "vxlan"
            subnets = ["10.244.0.0/16"]
        "#;
        for (command, words, _) in say(&a, policy) {
            assert!(!words.contains("warning:"), "{command}\n{words}");
        }
    });
}

#[test]
fn the_agent_reads_the_host_as_apply_does() {
    world(|| {
        let host = peerwall_integration::ns::Host::new("host");
        bridge(&host, "kube-ipvs0", &["10.96.0.1/32"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(
            &path,
            r#"
                version = 1
                [peers]
                p = "192.0.2.9"
                [[allow]]
                name = "ssh"
                ports = ["22/tcp"]
                from = "any"
            "#,
        )
        .unwrap();
        let mut command = host.command(peerwall_integration::ns::peerwall_bin());
        let mut agent = command
            .arg("run")
            .arg(&path)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let start = std::time::Instant::now();
        let services = || {
            host.try_sh("nft list set inet peerwall services-ip4 | grep 10.96.0.1")
                .status
                .success()
        };
        while !services() && start.elapsed().as_secs() < 10 {
            std::thread::sleep(Duration::from_millis(50));
        }
        let status = host.peerwall(&["status", path.to_str().unwrap()]);
        agent.kill().unwrap();
        agent.wait().unwrap();
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.starts_with("in sync"), "{status}");
    });
}
