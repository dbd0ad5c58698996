//! What happens to open connections: when rules are loaded first, when they change, and when a
//! trial ends.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use peerwall_core::net::port::{TCP, UDP};
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::{
    Agent, at, echo, listeners, lives, open, track, tracked, wait_for,
};
use peerwall_integration::traffic::Three;

/// How rules are loaded: backend, and whether by an agent.
const WAYS: [(&str, bool); 4] = [
    ("nft", false),
    ("nft", true),
    ("iptables", false),
    ("iptables", true),
];
const SSH: &str = r#"
    [[allow]]
    name = "ssh"
    ports = ["22/tcp"]
    from = "any"
"#;
const NOBODY: &str = "[peers]\nother = \"10.9.9.9\"\n";

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("version = 1\n{text}")).unwrap();
    path
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Applies a policy and returns what is printed. Each call comes from another ssh connection.
fn apply(host: &Host, backend: &str, policy: &Path, more: &[&str]) -> String {
    let mut command = host.command(peerwall_bin());
    command.args(["apply", "--backend", backend]).args(more);
    command
        .arg(policy)
        .env("SSH_CONNECTION", "10.9.9.9 4000 10.9.9.8 22");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

#[test]
fn no_listener_is_ever_lost() {
    world(|| {
        for (backend, with_agent) in WAYS {
            let name = format!("{backend}{with_agent}");
            let host = Three::named(&name).host;
            let folder = tempfile::tempdir().unwrap();
            let wide = r#"
                [[allow]]
                name = "all"
                from = "any"
            "#;
            let path = write(folder.path(), "policy.toml", wide);
            for address in [
                "[::]:22",
                "0.0.0.0:23",
                "192.0.2.1:24",
                "[2001:db8::1]:24",
                "127.0.0.1:25",
            ] {
                echo(&host, address);
            }
            let before = listeners(&host);
            assert_eq!(before.len(), 5, "{before:?}");
            apply(&host, backend, &path, &[]);
            let _agent = with_agent
                .then(|| Agent::start(&host, &path, &["--backend", backend, "--no-follow"]));
            // In every state, to every listener, from a client that is gone.
            let mut entries = Vec::new();
            for (port, state) in [22, 23, 24, 25]
                .into_iter()
                .flat_map(|port| (0..=9).map(move |state| (port, state)))
            {
                let from = 40_000 + u16::from(state);
                for (client, server) in [
                    ("198.51.100.2", "192.0.2.1"),
                    ("2001:db8:1::2", "2001:db8::1"),
                ] {
                    entries.push(((TCP, at(client, from), at(server, port)), state));
                    entries.push((
                        (
                            UDP,
                            at(client, from),
                            at(server, port + 100 * u16::from(state)),
                        ),
                        state,
                    ));
                }
            }
            track(&host, &entries);
            write(folder.path(), "policy.toml", NOBODY);
            let plan =
                said(&host.peerwall(&["plan", "--backend", backend, path.to_str().unwrap()]));
            // Open are SYN_RECV, ESTABLISHED, FIN_WAIT and CLOSE_WAIT, on two families and four
            // ports.
            assert!(
                plan.contains(" of 198.51.100.2 to this host, 22/tcp (input-default)"),
                "{plan}"
            );
            assert!(
                plan.contains("  4 of 2001:db8:1::2 to this host, 25/tcp"),
                "{plan}"
            );
            let text = apply(&host, backend, &path, &[]);
            assert_eq!(listeners(&host), before, "{name}: {text}");
            let left = tracked(&host);
            assert!(
                entries.iter().all(|(entry, _)| !left.contains(entry)),
                "{name}: {left:?}"
            );
            assert!(
                text.contains("ended 112 open connections"),
                "{name}: {text}"
            );
        }
    });
}

#[test]
fn a_trusted_interface_does_not_switch_revocation_off() {
    world(|| {
        for (backend, with_agent) in WAYS {
            let Three {
                host,
                friend,
                stranger,
            } = Three::named(&format!("{backend}{with_agent}"));
            let folder = tempfile::tempdir().unwrap();
            let trusted = "[interfaces]\ntrusted = [\"eth0\"]\n";
            let web = r#"
                [[allow]]
                name = "web"
                ports = ["8080/tcp"]
                from = "any"
            "#;
            let path = write(folder.path(), "policy.toml", &format!("{trusted}{web}"));
            echo(&host, "[::]:8080");
            host.sh("ip route add 203.0.113.0/24 nexthop via 192.0.2.2 nexthop via 198.51.100.2");
            apply(&host, backend, &path, &[]);
            let _agent = with_agent
                .then(|| Agent::start(&host, &path, &["--backend", backend, "--no-follow"]));
            for narrowed in [
                trusted.to_owned(),
                format!("{web}interfaces = [\"eth0\"]\n"),
                format!("{trusted}{web}interfaces = [\"wg*\"]\n"),
            ] {
                write(folder.path(), "policy.toml", &format!("{trusted}{web}"));
                apply(&host, backend, &path, &[]);
                let mut stays = [
                    open(&friend, "192.0.2.1:8080"),
                    open(&friend, "[2001:db8::1]:8080"),
                ];
                let mut ends = [
                    open(&stranger, "198.51.100.1:8080"),
                    open(&stranger, "[2001:db8:1::1]:8080"),
                    open(&stranger, "198.51.100.1:8080"),
                ];
                assert!(stays.iter_mut().chain(&mut ends).all(lives));
                // By which interface this one comes, nobody knows.
                let unknown = (TCP, at("203.0.113.7", 40_000), at("192.0.2.1", 8080));
                track(&host, &[(unknown, 3)]);
                write(folder.path(), "policy.toml", &narrowed);
                let plan =
                    said(&host.peerwall(&["plan", "--backend", backend, path.to_str().unwrap()]));
                assert!(
                    plan.contains("3 open connections would end:")
                        && plan.contains(
                            "1 open \
                    connection would stay open, because the policy admits such connections by some \
                    interfaces only"
                        ),
                    "{plan}"
                );
                let text = apply(&host, backend, &path, &[]);
                assert!(
                    text.contains("ended 3 open connections")
                        && text.contains("1 of 203.0.113.7 to this host"),
                    "{text}"
                );
                assert!(stays.iter_mut().all(lives), "{backend}: {text}");
                assert!(!ends.iter_mut().any(lives), "{backend}: {text}");
                assert!(tracked(&host).contains(&unknown));
                write(folder.path(), "policy.toml", NOBODY);
                apply(&host, backend, &path, &["--end-refused"]);
                assert!(!tracked(&host).contains(&unknown));
            }
        }
    });
}

#[test]
fn every_way_back_ends_what_only_the_trial_let_in() {
    world(|| {
        for (backend, with_agent) in WAYS {
            let Three {
                host,
                friend,
                stranger,
            } = Three::named(&format!("{backend}{with_agent}"));
            let folder = tempfile::tempdir().unwrap();
            let friends = "[peers]\nfriend = [\"192.0.2.2\", \"2001:db8::2\"]\n";
            let path = write(folder.path(), "policy.toml", friends);
            let trial = write(
                folder.path(),
                "trial.toml",
                &friends.replace("\"192.0.2.2\"", "\"192.0.2.2\", \"198.51.100.2\""),
            );
            let second = write(
                folder.path(),
                "second.toml",
                &friends.replace("\"192.0.2.2\"", "\"192.0.2.2\", \"10.0.0.1\""),
            );
            echo(&host, "[::]:9100");
            apply(&host, backend, &path, &[]);
            let mut agent = with_agent
                .then(|| Agent::start(&host, &path, &["--backend", backend, "--no-follow"]));
            for way in ["expires", "rollback", "refused", "killed", "history"] {
                if way == "history" && with_agent {
                    continue;
                }
                let name = format!("{backend}, agent {with_agent}, {way}");
                let mut stays = open(&friend, "192.0.2.1:9100");
                let confirm = [
                    "--confirm",
                    if matches!(way, "expires" | "killed") {
                        "3s"
                    } else {
                        "60s"
                    },
                ];
                apply(
                    &host,
                    backend,
                    &trial,
                    if way == "history" { &[] } else { &confirm },
                );
                let mut ends = open(&stranger, "198.51.100.1:9100");
                assert!(lives(&mut ends) && lives(&mut stays), "{name}");
                match way {
                    "expires" => {}
                    // Only on purpose: a second trial does not end the first.
                    "refused" => {
                        let output = host.peerwall(&[
                            "apply",
                            "--backend",
                            backend,
                            "--confirm",
                            "60s",
                            second.to_str().unwrap(),
                        ]);
                        assert_eq!(output.status.code(), Some(2), "{name}: {}", said(&output));
                        assert!(
                            said(&output).contains("on trial") && lives(&mut ends),
                            "{name}: {}",
                            said(&output)
                        );
                        host.peerwall_ok(&["rollback"]);
                    }
                    "killed" => drop(agent.take()),
                    _ => drop(host.peerwall_ok(&["rollback"])),
                }
                wait_for(&name, || !lives(&mut ends.try_clone().unwrap()));
                assert!(lives(&mut stays), "{name}");
            }
        }
    });
}

/// Connections that a host has opened, with what the other side speaks by.
fn outgoing(host: &Host, server: &Host) -> Vec<(TcpStream, TcpStream)> {
    let to = [
        "198.51.100.2:5432",
        "[2001:db8:1::2]:5432",
        "[::ffff:198.51.100.2]:5433",
    ];
    let listen = [
        "198.51.100.2:5432",
        "[2001:db8:1::2]:5432",
        "198.51.100.2:5433",
    ];
    listen
        .iter()
        .zip(to)
        .map(|(listen, to)| {
            let listener = server.run(|| TcpListener::bind(listen).unwrap());
            let ours = open(host, to);
            (ours, listener.accept().unwrap().0)
        })
        .collect()
}

#[test]
fn the_first_load_keeps_what_this_host_opened_and_ends_what_it_refuses() {
    world(|| {
        for (index, (way, denied)) in ["apply", "agent", "boot"]
            .iter()
            .flat_map(|way| [(*way, "drop"), (*way, "reject")])
            .enumerate()
        {
            for backend in ["nft", "iptables"] {
                let Three { host, stranger, .. } = Three::named(&format!("{backend}{index}"));
                let name = format!("{way}, {denied}, {backend}");
                let folder = tempfile::tempdir().unwrap();
                let text = format!(
                    r#"
                        {NOBODY}{SSH}
                        [options]
                        denied = "{denied}"
                        backend = "{backend}"
                    "#
                );
                let path = write(folder.path(), "policy.toml", &text);
                let mut own = outgoing(&host, &stranger);
                let udp = host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
                let other = stranger.run(|| UdpSocket::bind("198.51.100.2:6000").unwrap());
                udp.connect("198.51.100.2:6000").unwrap();
                for (address, port) in [("[::]", 22), ("[::]", 8080)] {
                    echo(&host, &format!("{address}:{port}"));
                }
                let mut to_ssh = open(&stranger, "198.51.100.1:22");
                let mut refused = [
                    open(&stranger, "198.51.100.1:8080"),
                    open(&stranger, "[2001:db8:1::1]:8080"),
                ];
                // The listener of this one is gone.
                let (mut accepted, mut orphan) = {
                    let listener = host.run(|| TcpListener::bind("198.51.100.1:8081").unwrap());
                    let client = open(&stranger, "198.51.100.1:8081");
                    (listener.accept().unwrap().0, client)
                };
                accepted
                    .set_read_timeout(Some(Duration::from_millis(500)))
                    .unwrap();
                let plan = said(&host.peerwall(&["plan", path.to_str().unwrap()]));
                assert!(
                    plan.contains("3 open connections would end:"),
                    "{name}: {plan}"
                );
                let _agent = (*way == *"agent").then(|| Agent::start(&host, &path, &[]));
                match way {
                    "apply" => drop(host.peerwall_ok(&["apply", path.to_str().unwrap()])),
                    "boot" => drop(host.peerwall_ok(&["boot", path.to_str().unwrap()])),
                    _ => {}
                }
                // The other side speaks first.
                for (ours, theirs) in &mut own {
                    theirs.write_all(b"!").unwrap();
                    assert!(
                        ours.read(&mut [0; 4]).is_ok_and(|len| len == 1),
                        "{name}: {ours:?}"
                    );
                }
                udp.set_read_timeout(Some(Duration::from_millis(500)))
                    .unwrap();
                other
                    .send_to(b"!", ("198.51.100.1", udp.local_addr().unwrap().port()))
                    .unwrap();
                assert!(udp.recv(&mut [0; 4]).is_ok(), "{name}: UDP");
                assert!(lives(&mut to_ssh), "{name}");
                assert!(!refused.iter_mut().any(lives), "{name}");
                let _ = orphan.write_all(b"?");
                assert!(
                    !accepted.read(&mut [0; 4]).is_ok_and(|len| len > 0),
                    "{name}"
                );
                assert_eq!(listeners(&host).len(), 2, "{name}");
            }
        }
    });
}

#[test]
fn what_neither_policy_admits_is_left_and_can_be_ended() {
    world(|| {
        for (backend, with_agent) in WAYS {
            let Three { host, stranger, .. } = Three::named(&format!("{backend}{with_agent}"));
            let folder = tempfile::tempdir().unwrap();
            let keep = format!("{NOBODY}[options]\nrevoke = \"keep\"\n");
            let path = write(folder.path(), "policy.toml", &keep);
            echo(&host, "198.51.100.1:8080");
            host.sh("nft add table ip t; nft 'add chain ip t c \
                { type filter hook input priority 0; }'; nft add rule ip t c ct state new accept");
            let mut older = open(&stranger, "198.51.100.1:8080");
            assert!(lives(&mut older));
            let left = "not ended, although the policy refuses new connections like this: 1 open connection:";
            let text = apply(&host, backend, &path, &[]);
            assert!(
                text.contains(left) && text.contains("apply --end-refused") && lives(&mut older),
                "{text}"
            );
            let _agent = with_agent
                .then(|| Agent::start(&host, &path, &["--backend", backend, "--no-follow"]));
            write(folder.path(), "policy.toml", &format!("{NOBODY}{SSH}"));
            let text = apply(&host, backend, &path, &[]);
            assert!(
                text.contains(left)
                    && text.contains("1 of 198.51.100.2 to this host, 8080/tcp (input-default)"),
                "{text}"
            );
            assert!(lives(&mut older));
            // The caller's own connection stays whatever is asked for.
            let mut command = host.command(peerwall_bin());
            let client = older.local_addr().unwrap();
            command
                .args(["apply", "--backend", backend, "--force", "--end-refused"])
                .arg(&path);
            command.env(
                "SSH_CONNECTION",
                format!("198.51.100.2 {} 198.51.100.1 8080", client.port()),
            );
            let output = command.output().unwrap();
            assert!(
                output.status.success() && lives(&mut older),
                "{}",
                said(&output)
            );
            let text = apply(&host, backend, &path, &["--end-refused"]);
            assert!(
                text.contains("ended 1 open connection,") && !lives(&mut older),
                "{text}"
            );
        }
    });
}
