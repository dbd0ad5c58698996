//! The example policy on a host with some programs, as text of each format.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::*;
use crate::import::meaning::{access, redirected_access};
use crate::net::packet::{Hook, Packet, Transport};
use crate::policy::load::{NoFiles, load};
use crate::ruleset::compile::compile;

/// Programs of a node: port, process, unit and address.
const PROGRAMS: [(u16, &str, &str, &str); 4] = [
    (22, "sshd", "ssh.service", "::"),
    (2379, "etcd", "etcd.service", "129.21.49.48"),
    (9100, "node_exporter", "node-exporter.service", "::"),
    (10250, "kubelet", "kubelet.service", "::"),
];

fn socket((port, process, unit, address): (u16, &str, &str, &str)) -> Socket {
    Socket {
        listener: Listener {
            protocol: TCP,
            port,
            process: Some(process.to_owned()),
        },
        addresses: BTreeSet::from([address.parse().unwrap()]),
        owner: owner(&format!("/system.slice/{unit}")),
    }
}

fn publication(port: u16, to: &str, publisher: Publisher) -> Publication {
    let address: IpAddr = "129.21.49.48".parse().unwrap();
    let transport = Transport::Ports {
        protocol: TCP,
        source: 40_000,
        destination: port,
    };
    let stranger = "198.51.100.77".parse().unwrap();
    Publication {
        protocol: TCP,
        ports: PortRange::one(port),
        address,
        is_local: true,
        to: BTreeSet::from([to.parse().unwrap()]),
        hook: Hook::Forward,
        out: Some("cni0".to_owned()),
        publisher,
        rule: "ip nat PREROUTING".to_owned(),
        packet: Packet::new(Hook::Input, "eth0", stranger, address, transport),
    }
}

fn example(more: &[(u16, &str, &str, &str)]) -> Exposure {
    let policy = load(
        "policy.toml",
        include_str!("../../../../policy.toml"),
        &NoFiles,
    );
    let policy = policy.policy.unwrap();
    let (ruleset, _) = compile(&policy);
    let sockets: Vec<Socket> = PROGRAMS.iter().chain(more).copied().map(socket).collect();
    let asked: Vec<(u8, u16)> = sockets
        .iter()
        .map(|each| (each.listener.protocol, each.listener.port))
        .collect();
    let published = [
        publication(8080, "172.17.0.2:80", Publisher::Docker),
        publication(30080, "10.244.1.2:80", Publisher::KubeProxy),
    ];
    let ends: Vec<Redirected> = published.iter().filter_map(redirected).collect();
    let admitted = redirected_access(&ruleset, &ends);
    let judged = published.into_iter().zip(admitted);
    let judged = judged.map(|(each, from)| (each, from, None)).collect();
    let access = access(&ruleset, &asked);
    let dropped = vec![None; sockets.len()];
    let path = "/etc/peerwall/policy.toml".to_owned();
    Exposure::new(&policy, path, access, &sockets, dropped, judged)
}

/// Compares with a file, or writes it with `PEERWALL_BLESS=1`.
#[expect(clippy::disallowed_methods, reason = "a test reads its golden file")]
fn golden(name: &str, text: &str) {
    let path = format!("{}/../../{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("PEERWALL_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}");
}

#[test]
fn the_map_of_the_example_is_the_one_in_docs() {
    let found = example(&[]);
    golden("docs/exposed.svg", &svg(&found));
    golden("agent/core/src/exposed/golden/example.dot", &dot(&found));
    golden(
        "agent/core/src/exposed/golden/example.mermaid",
        &mermaid(&found),
    );
    golden("agent/core/src/exposed/golden/example.html", &html(&found));
}

#[test]
fn states_are_said_in_words() {
    let found = example(&[]);
    let rows = found.rows();
    let words: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row.port.as_str(), row.words.as_str()))
        .collect();
    assert_eq!(
        words,
        [
            ("22/tcp", "listens on every address, reached"),
            ("2379/tcp", "listens on 129.21.49.48, closed"),
            ("9100/tcp", "listens on every address, closed"),
            ("10250/tcp", "listens on every address, closed"),
            ("8080/tcp", "published by Docker, closed"),
            ("30080/tcp", "published by kube-proxy, closed"),
        ]
    );
}

#[test]
fn foreign_names_are_text_in_every_format() {
    for name in [
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "'; drop",
        "a\nb\r\u{2028}c",
        "\u{202e}desrever\u{2066}",
        "]\"]; --> x[\"",
        "\\\" -> x \\",
        "-->",
        "&lt;script&gt;",
    ] {
        let found = example(&[(7, name, "x.service", "::")]);
        let plain = example(&[(7, "plain", "x.service", "::")]);
        let (page, picture) = (html(&found), svg(&found));
        for (text, like) in [(&page, html(&plain)), (&picture, svg(&plain))] {
            // The same tags and attributes as with a plain name.
            let shape = |text: &str| [text.matches('<').count(), text.matches('"').count()];
            assert_eq!(shape(text), shape(&like), "{name}");
            assert_eq!(text.lines().count(), like.lines().count(), "{name}");
        }
        for (text, like) in [
            (dot(&found), dot(&plain)),
            (mermaid(&found), mermaid(&plain)),
        ] {
            assert_eq!(text.lines().count(), like.lines().count(), "{name}");
            let quotes = |text: &str| {
                text.replace("\\\\", "")
                    .replace("\\\"", "")
                    .matches('"')
                    .count()
            };
            assert_eq!(quotes(&text), quotes(&like), "{name}: {text}");
        }
        for text in [page, picture, dot(&found), mermaid(&found)] {
            let is_hidden = |c: char| ('\u{2028}'..='\u{202e}').contains(&c) || c == '\u{2066}';
            assert!(!text.contains(is_hidden), "{name}");
        }
    }
}
