//! The lock-out guard: what `apply` refuses, and what it must not refuse, by how the ssh connection
//! arrives.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::{Agent, open, wait_for};
use peerwall_integration::traffic::Three;

/// An ssh connection of the stranger, which arrives by `eth1`, and policies for it.
struct Situation {
    name: &'static str,
    /// What the host needs.
    setup: &'static str,
    /// Where the server listens, if anywhere, and what the client dials.
    server: &'static str,
    dialled: &'static str,
    /// Policies that let it in again.
    good: &'static [&'static str],
    /// Policies that do not.
    bad: &'static [&'static str],
}

const ALLOW_22: &str = r#"
    [[allow]]
    name = "a"
    ports = ["22/tcp"]
    from = "any"
"#;
const ALLOW_2222: &str = r#"
    [[allow]]
    name = "a"
    ports = ["2222/tcp"]
    from = "any"
"#;
const BY_ETH0: &str = r#"
    [[allow]]
    name = "a"
    ports = ["22/tcp"]
    from = "any"
    interfaces = ["eth0"]
"#;
const BY_ETH1: &str = r#"
    [[allow]]
    name = "a"
    ports = ["22/tcp"]
    from = "any"
    interfaces = ["eth1"]
"#;
const TRUST_ETH0: &str = "[interfaces]\ntrusted = [\"eth0\"]\n";
const TRUST_ETH1: &str = "[interfaces]\ntrusted = [\"eth1\"]\n";
const PEER_V4: &str = "[peers]\nstranger = \"198.51.100.2\"\n";
const PEER_V6: &str = "[peers]\nstranger = \"2001:db8:1::2\"\n";
const OTHER: &str = "[peers]\nother = \"10.9.9.9\"\n";

const SITUATIONS: [Situation; 9] = [
    Situation {
        name: "plain",
        setup: "true",
        server: "0.0.0.0:22",
        dialled: "198.51.100.1:22",
        good: &[ALLOW_22, BY_ETH1, TRUST_ETH1, PEER_V4],
        bad: &[ALLOW_2222, BY_ETH0, TRUST_ETH0, OTHER],
    },
    Situation {
        name: "a dual-stack server, by IPv4",
        setup: "true",
        server: "[::]:22",
        dialled: "198.51.100.1:22",
        good: &[ALLOW_22, BY_ETH1, PEER_V4],
        bad: &[PEER_V6, BY_ETH0, OTHER],
    },
    Situation {
        name: "redirected from another port",
        setup: "nft 'table ip nat {
            chain p { type nat hook prerouting priority dstnat; tcp dport 2222 redirect to :22; }
        }'",
        server: "0.0.0.0:22",
        dialled: "198.51.100.1:2222",
        good: &[ALLOW_2222, PEER_V4, TRUST_ETH1],
        bad: &[ALLOW_22, BY_ETH1, TRUST_ETH0],
    },
    Situation {
        name: "sent to another address and port of this host",
        setup: "nft 'table ip nat {
            chain p { type nat hook prerouting priority dstnat; tcp dport 2222 dnat to 192.0.2.1:22; }
        }'",
        server: "192.0.2.1:22",
        dialled: "198.51.100.1:2222",
        good: &[ALLOW_2222, PEER_V4, TRUST_ETH1],
        bad: &[ALLOW_22, BY_ETH0, TRUST_ETH0],
    },
    Situation {
        name: "redirected, by IPv6",
        setup: "nft 'table ip6 nat {
            chain p { type nat hook prerouting priority dstnat; tcp dport 2222 redirect to :22; }
        }'",
        server: "[::]:22",
        dialled: "[2001:db8:1::1]:2222",
        good: &[ALLOW_2222, PEER_V6],
        bad: &[ALLOW_22, PEER_V4],
    },
    Situation {
        name: "the server's address is on lo",
        setup: "ip address add 203.0.113.1/32 dev lo",
        server: "203.0.113.1:22",
        dialled: "203.0.113.1:22",
        good: &[ALLOW_22, BY_ETH1, TRUST_ETH1],
        bad: &[BY_ETH0, TRUST_ETH0, OTHER],
    },
    Situation {
        name: "the server's address is on lo, by IPv6",
        setup: "ip address add 2001:db8:9::1/128 dev lo nodad",
        server: "[2001:db8:9::1]:22",
        dialled: "[2001:db8:9::1]:22",
        good: &[ALLOW_22, BY_ETH1, PEER_V6],
        bad: &[BY_ETH0, TRUST_ETH0, OTHER],
    },
    Situation {
        name: "the server's address is on another interface",
        setup: "true",
        server: "192.0.2.1:22",
        dialled: "192.0.2.1:22",
        good: &[ALLOW_22, BY_ETH1, TRUST_ETH1],
        bad: &[BY_ETH0, TRUST_ETH0, OTHER],
    },
    Situation {
        name: "both networks have a route to the client, one is used",
        setup: "ip route add 198.51.100.0/24 dev eth0 metric 500",
        server: "0.0.0.0:22",
        dialled: "198.51.100.1:22",
        good: &[BY_ETH1],
        bad: &[BY_ETH0],
    },
];

/// Applies a policy as the user of this ssh connection; returns whether it was refused for that.
fn is_refused(host: &Host, policy: &str, ssh: &str, name: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    let text = format!(
        r#"
            version = 1
            {policy}
            [options]
            revoke = "keep"
        "#
    );
    fs::write(&path, text).unwrap();
    let mut command = host.command(peerwall_bin());
    command.args(["apply", "--backend", "nft"]).arg(&path);
    let output = command.env("SSH_CONNECTION", ssh).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => {
            host.peerwall_ok(&["remove"]);
            false
        }
        code => {
            assert!(
                code == Some(2) && said.contains("block your ssh session"),
                "{name}: {said}"
            );
            true
        }
    }
}

/// `SSH_CONNECTION` as the server has it.
fn ssh_connection(accepted: &TcpStream) -> String {
    let (client, server) = (
        accepted.peer_addr().unwrap(),
        accepted.local_addr().unwrap(),
    );
    format!(
        "{} {} {} {}",
        client.ip().to_canonical(),
        client.port(),
        server.ip().to_canonical(),
        server.port()
    )
}

#[test]
fn bad_policies_are_refused_and_good_ones_are_not() {
    world(|| {
        for (index, situation) in SITUATIONS.iter().enumerate() {
            let Three { host, stranger, .. } = Three::named(&format!("s{index}"));
            stranger.sh("ip route add default via 198.51.100.1 && ip -6 route add default via 2001:db8:1::1");
            host.sh(situation.setup);
            let listener = host.run(|| TcpListener::bind(situation.server).unwrap());
            let _client = open(&stranger, situation.dialled);
            let ssh = ssh_connection(&listener.accept().unwrap().0);
            for (policies, want) in [(situation.good, false), (situation.bad, true)] {
                for policy in policies {
                    let name = format!("{}, {ssh}, with {policy}", situation.name);
                    assert_eq!(is_refused(&host, policy, &ssh, &name), want, "{name}");
                }
            }
        }
    });
}

#[test]
fn a_link_local_connection_arrives_by_the_interface_of_its_zone() {
    world(|| {
        let host = Three::new().host;
        for (interface, policy, want) in [
            ("eth0", BY_ETH0, false),
            ("eth0", BY_ETH1, true),
            ("eth1", BY_ETH1, false),
            ("eth1", TRUST_ETH0, true),
        ] {
            let own = host.sh(&format!("ip -6 -o address show dev {interface} scope link"));
            let own = own
                .split_whitespace()
                .nth(3)
                .unwrap()
                .split('/')
                .next()
                .unwrap()
                .to_owned();
            let ssh = format!("fe80::1234%{interface} 50000 {own}%{interface} 22");
            assert_eq!(
                is_refused(&host, policy, &ssh, interface),
                want,
                "{ssh} with {policy}"
            );
        }
    });
}

#[test]
fn the_agent_asks_the_same() {
    world(|| {
        let Three { host, stranger, .. } = Three::new();
        host.sh(SITUATIONS[2].setup);
        let listener = host.run(|| TcpListener::bind("0.0.0.0:22").unwrap());
        let _client = open(&stranger, "198.51.100.1:2222");
        let ssh = ssh_connection(&listener.accept().unwrap().0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let write = |policy: &str| {
            fs::write(
                &path,
                format!(
                    r#"
                        version = 1
                        {policy}
                        [options]
                        revoke = "keep"
                    "#
                ),
            )
            .unwrap()
        };
        write(ALLOW_2222);
        let _agent = Agent::start(&host, &path, &["--no-follow"]);
        for (policy, want) in [(ALLOW_22, 2), (PEER_V4, 0), (BY_ETH1, 2), (ALLOW_2222, 0)] {
            write(policy);
            let mut command = host.command(peerwall_bin());
            let output = command
                .arg("reload")
                .env("SSH_CONNECTION", &ssh)
                .output()
                .unwrap();
            assert_eq!(
                output.status.code(),
                Some(want),
                "{policy}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    });
}

#[test]
fn an_agent_does_not_follow_a_policy_that_locks_everybody_out() {
    world(|| {
        let Three { host, stranger, .. } = Three::new();
        let listener = host.run(|| TcpListener::bind("0.0.0.0:22").unwrap());
        let client = open(&stranger, "198.51.100.1:22");
        let accepted = listener.accept().unwrap().0;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let write = |policy: &str| {
            let text = format!(
                r#"
                    version = 1
                    {policy}
                    [options]
                    revoke = "keep"
                "#
            );
            fs::write(folder.path().join("new"), text).unwrap();
            fs::rename(folder.path().join("new"), &path).unwrap();
        };
        write(ALLOW_22);
        // With the capabilities of its unit: it cannot look into the processes of others.
        let mut agent = host.command("setpriv");
        agent
            .args(["--bounding-set=-all,+net_admin,+net_raw", "--"])
            .arg(peerwall_bin());
        let mut agent = agent
            .arg("run")
            .arg(&path)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let status = || host.peerwall(&["status"]);
        let headline = || {
            let said = String::from_utf8(status().stdout).unwrap();
            said.lines().next().unwrap_or_default().to_owned()
        };
        let in_sync = format!("in sync with {}", path.display());
        wait_for("the first apply", || headline() == in_sync);
        write(OTHER);
        let refused = format!(
            "not applied: {}: this policy would block every current ssh session to this host",
            path.display()
        );
        wait_for("the refusal", || headline().starts_with(&refused));
        assert!(
            host.sh("nft list chain inet peerwall input")
                .contains("dport 22"),
            "the old one stays"
        );
        assert!(
            String::from_utf8(status().stdout)
                .unwrap()
                .contains("reload --force")
        );
        // `--force` overrides it.
        host.peerwall_ok(&["reload", "--force"]);
        assert_eq!(headline(), in_sync);
        // With nobody there, there is nobody to lock out.
        write(ALLOW_22);
        wait_for("a policy that lets them in", || {
            headline() == in_sync
                && host
                    .sh("nft list chain inet peerwall input")
                    .contains("dport 22")
        });
        drop((client, accepted));
        write(OTHER);
        wait_for("the policy", || {
            headline() == in_sync
                && !host
                    .sh("nft list chain inet peerwall input")
                    .contains("dport 22")
        });
        agent.kill().unwrap();
        agent.wait().unwrap();
    });
}
