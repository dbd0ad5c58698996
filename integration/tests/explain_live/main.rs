//! `peerwall explain --live` against the kernel: rules of nftables, iptables-nft and
//! iptables-legacy by chance, with DNAT, beside a policy. What is decided must be the fate of
//! packets.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]
#![expect(clippy::print_stdout, reason = "figures of a campaign")]

mod generate;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use peerwall::host::live::Here;
use peerwall::host::rules;
use peerwall_core::explain::live::follow;
use peerwall_core::net::packet::{Packet, Transport, Verdict};
use peerwall_core::net::port::TCP;
use peerwall_integration::net::wire;
use peerwall_integration::ns::{Host, world};
use peerwall_integration::probe::PATIENCE;
use peerwall_integration::random::Random;
use peerwall_integration::raw::{self, Body, Frame, TcpFlags};
use peerwall_integration::situation::mac_of;
use peerwall_integration::wild::rules::{self as wild, Language};

use generate::{DNATS, native, packets, saved};

const POLICY: &str = r#"version = 1
[peers]
peer = ["192.0.2.12", "2001:db8:49::12"]
[overlay.pods]
backend = "vxlan"
subnets = ["10.244.0.0/16"]
interfaces = ["cni0", "flannel.1"]
[[allow]]
name = "web"
ports = ["80/tcp", "53/udp"]
from = "any"
[[allow]]
name = "pods"
ports = ["8080/tcp"]
from = "192.0.2.0/24"
to = ["host", "10.244.1.0/24"]
"#;

/// Counts packets when they arrive, and when nothing can drop them any more, by source port.
const JUDGE: &str = "table inet judge {
  set came { type inet_service; flags dynamic; size 65535; }
  set passed { type inet_service; flags dynamic; size 65535; }
  chain first { type filter hook prerouting priority -1000; th sport 20000-29999 add @came { th sport }; }
  chain input { type filter hook input priority 1000; th sport 20000-29999 add @passed { th sport }; }
  chain post { type filter hook postrouting priority 1000; th sport 20000-29999 add @passed { th sport }; }
}";

/// Loads rules without the lines that are refused.
fn load(node: &Host, (language, flavour): (Language, &str), text: &str) {
    let path = Path::new("/run").join(format!("rules.{}", language.extension()));
    let command = language.command(flavour, &path);
    wild::load(node, &command, &path, text).unwrap_or_else(|why| panic!("{why}"));
}

/// Adds rules of DNAT to one or several engines.
fn load_dnats(random: &mut Random, node: &Host) {
    for (native, words) in DNATS {
        match random.below(4) {
            0 => drop(node.sh(&format!(
                "nft 'table ip n {{ chain pre {{ type nat hook prerouting priority -100; }}; }}'; \
                 nft add rule ip n pre {native}"
            ))),
            1 => drop(node.sh(&format!("iptables-nft -t nat -A PREROUTING {words}"))),
            2 => drop(node.sh(&format!("iptables-legacy -t nat -A PREROUTING {words}"))),
            _ => {}
        }
    }
}

fn frame(packet: &Packet, node_mac: [u8; 6]) -> Vec<u8> {
    let Transport::Ports {
        protocol,
        source,
        destination,
    } = packet.transport
    else {
        panic!("{packet:?} has no ports");
    };
    let body = match protocol {
        TCP => Body::Tcp {
            source,
            destination,
            flags: TcpFlags::Syn,
        },
        _ => Body::Udp {
            source,
            destination,
            payload: b"x".to_vec(),
        },
    };
    Frame {
        source_mac: packet.mac.unwrap(),
        destination_mac: node_mac,
        source: packet.source,
        destination: packet.destination,
        hop_limit: packet.hop_limit,
        body,
    }
    .bytes()
}

/// Returns the source ports in a set of the judge.
fn ports(node: &Host, set: &str) -> BTreeSet<u16> {
    let text = node.sh(&format!("nft list set inet judge {set}"));
    let words = text.split(|c: char| !c.is_ascii_digit());
    words
        .filter_map(|word| word.parse().ok())
        .filter(|port| (20_000..30_000).contains(port))
        .collect()
}

/// Sends packets, and returns the source ports of those that passed.
fn sent(node: &Host, far: &Host, packets: &[Packet]) -> BTreeSet<u16> {
    let mac = mac_of(node, "eth0");
    let frames: Vec<Vec<u8>> = packets.iter().map(|packet| frame(packet, mac)).collect();
    far.run(|| {
        frames
            .iter()
            .for_each(|frame| raw::send("f0", frame).unwrap())
    });
    let until = Instant::now() + PATIENCE;
    while ports(node, "came").len() < packets.len() {
        assert!(Instant::now() < until, "some packets never came");
        std::thread::sleep(Duration::from_millis(5));
    }
    // A packet is at its end before the next one is taken from the wire.
    std::thread::sleep(Duration::from_millis(20));
    ports(node, "passed")
}

#[derive(Debug, Default)]
struct Counts {
    accepted: usize,
    denied: usize,
    undecided: usize,
    /// The same with rules of all kinds that iptables and nft know.
    undecided_with_any: usize,
    translated: usize,
}

fn try_rules(node: &Host, far: &Host, seed: u64, counts: &mut Counts) {
    let mut random = Random::new(seed);
    node.sh("nft flush ruleset; iptables-legacy-restore </dev/null; \
             for t in filter mangle raw security nat; do for i in iptables ip6tables; do \
             $i-legacy -t $t -F; $i-legacy -t $t -X; done; done; \
             for c in INPUT FORWARD; do iptables-legacy -P $c ACCEPT; done; \
             for c in PREROUTING INPUT FORWARD POSTROUTING; do \
             iptables-legacy -t mangle -P $c ACCEPT; done; \
             iptables-legacy -t raw -P PREROUTING ACCEPT; \
             for c in INPUT FORWARD; do iptables-legacy -t security -P $c ACCEPT; done; \
             conntrack -F 2>/dev/null || true");
    node.sh(&format!("nft -f - <<'END'\n{JUDGE}\nEND"));
    if random.chance(60) {
        node.peerwall_ok(&["apply", "/run/policy.toml"]);
    }
    for name in ["a", "b"] {
        if random.chance(50) {
            let text = native(&mut random, name);
            load(node, (Language::Nft, ""), &text);
        }
    }
    let mut is_of_any_kind = false;
    if random.chance(30) {
        is_of_any_kind = true;
        let text = wild::file(&mut random, Language::Nft);
        let text = text.replacen(" filter {", " wild {", 1);
        load(node, (Language::Nft, ""), &text);
    }
    for engine in ["nft", "legacy"] {
        match random.below(4) {
            0 => {
                fs::write("/run/rules.v4", saved(&mut random)).unwrap();
                node.sh(&format!("iptables-{engine}-restore </run/rules.v4"));
            }
            1 => {
                is_of_any_kind = true;
                let text = wild::file(&mut random, Language::Iptables);
                load(node, (Language::Iptables, engine), &text);
            }
            _ => {}
        }
    }
    load_dnats(&mut random, node);
    let packets = packets(&mut random, 40);
    let found: Vec<_> = node.run(|| {
        let rules = rules::read().unwrap();
        let mut here = Here::new();
        packets
            .iter()
            .map(|packet| follow(&rules, packet, &mut here))
            .collect()
    });
    let passed = sent(node, far, &packets);
    for (packet, found) in packets.iter().zip(found) {
        let Transport::Ports { source, .. } = packet.transport else {
            continue;
        };
        let passed = passed.contains(&source);
        match &found.ways[..] {
            [(_, journey)] if found.is_complete => {
                let accepts = journey.verdict == Verdict::Accept;
                let rules = || node.sh("nft list ruleset; iptables-legacy-save");
                assert_eq!(
                    accepts,
                    passed,
                    "seed {seed}: {packet:?}\n{journey:#?}\n{}",
                    rules()
                );
                *if accepts {
                    &mut counts.accepted
                } else {
                    &mut counts.denied
                } += 1;
                counts.translated += usize::from(journey.packet.dialled.is_some());
            }
            // Both outcomes are told, so the true one is among them.
            [_, _] if is_of_any_kind => counts.undecided_with_any += 1,
            [_, _] => counts.undecided += 1,
            ways => panic!("seed {seed}: {packet:?} {ways:#?}"),
        }
    }
}

#[test]
fn what_is_decided_about_all_loaded_rules_is_the_fate_of_packets() {
    world(|| {
        let number = |name: &str, other| std::env::var(name).map_or(other, |n| n.parse().unwrap());
        let (first, count) = (number("PEERWALL_SEED", 1), number("PEERWALL_RULESETS", 10));
        let (node, far) = (Host::new("node"), Host::new("far"));
        far.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        wire(
            &node,
            "eth0",
            &["192.0.2.11/24", "2001:db8:49::11/64"],
            &far,
            "f0",
            &[],
        );
        wire(
            &node,
            "cni0",
            &["10.244.1.1/24", "2001:db8:244:1::1/64"],
            &far,
            "f1",
            &[],
        );
        node.sysctl("net.ipv4.ip_forward", "1");
        node.sysctl("net.ipv6.conf.all.forwarding", "1");
        node.sh("ip route add 198.51.100.0/24 via 192.0.2.1");
        node.sh("ip -6 route add 2001:db8:5::/48 via 2001:db8:49::1");
        fs::write("/run/policy.toml", POLICY).unwrap();
        let mut counts = Counts::default();
        for seed in first..first + count {
            try_rules(&node, &far, seed, &mut counts);
        }
        println!("{counts:?}");
        assert!(
            counts.accepted > 0 && counts.denied > 0 && counts.translated > 0,
            "{counts:?}"
        );
        let all = counts.accepted + counts.denied + counts.undecided;
        assert!(counts.undecided * 100 < all, "{counts:?}");
    });
}

#[test]
fn who_drops_a_packet_is_told_by_name() {
    world(|| {
        let (node, far) = (Host::new("node"), Host::new("far"));
        wire(
            &node,
            "eth0",
            &["192.0.2.11/24"],
            &far,
            "f0",
            &["192.0.2.12/24"],
        );
        wire(&node, "cni0", &["10.244.1.1/24"], &far, "f1", &[]);
        node.sysctl("net.ipv4.ip_forward", "1");
        fs::write("/run/policy.toml", POLICY).unwrap();
        node.peerwall_ok(&["apply", "/run/policy.toml"]);
        node.sh("iptables-legacy -P FORWARD DROP; \
             iptables-legacy -t nat -A PREROUTING -p tcp --dport 8088 \
             -j DNAT --to-destination 10.244.1.5:80; \
             nft 'table inet x { chain i { type filter hook input priority 5; }; }'; \
             nft add rule inet x i tcp dport 53 drop comment '\"no dns\"'; \
             nft add rule inet x i tcp dport 80 numgen random mod 2 0 drop; \
             iptables-nft -A INPUT -p tcp --dport 22 -j REJECT");
        let policy = "(/run/policy.toml:3)";
        for (question, code, wanted) in [
            (
                "--from 192.0.2.12 --to 192.0.2.11 --port 8088/tcp",
                1,
                vec![
                    "denied: accepted by peerwall (peers, /run/policy.toml:3), then dropped by \
                     ip filter FORWARD (iptables-legacy), policy drop\n",
                    "  packet  80/tcp from 192.0.2.12 on eth0 to 10.244.1.5 (sent to 192.0.2.11 \
                     port 8088) by cni0, through this host",
                    "  to      prerouting: 10.244.1.5:80, by ip nat PREROUTING (iptables-legacy)",
                    "  do      iptables-legacy -P FORWARD ACCEPT",
                ],
            ),
            (
                "--from 192.0.2.12 --to 192.0.2.11 --port 53/tcp",
                1,
                vec![
                    "then dropped by inet x i (nftables), no dns",
                    policy,
                    "nft -a list chain inet x i",
                ],
            ),
            (
                "--from 192.0.2.12 --to 192.0.2.11 --port 22/tcp",
                1,
                vec![
                    "  rejects input: ip filter INPUT (iptables-nft), -A INPUT -p tcp -m tcp --dport 22",
                ],
            ),
            (
                "--from 192.0.2.12 --to 192.0.2.11 --port 80/tcp",
                1,
                vec![
                    "undecided: it depends on a number by chance or in turns\n",
                    "Accepted, if a number by chance or in turns does not match:",
                    "Denied, if a number by chance or in turns matches:",
                ],
            ),
            (
                "--from 192.0.2.99 --to 192.0.2.11 --port 9100/tcp",
                1,
                vec![
                    "denied: to this host, not allowed by the policy (input-default)\n",
                    "[[allow]]",
                ],
            ),
            (
                "--from 192.0.2.12 --to 192.0.2.11 --port 9100/tcp",
                0,
                vec!["accepted: no chain on the packet's way drops it\n", policy],
            ),
            (
                "--from 192.0.2.12 --to 203.0.113.5 --port 80/tcp",
                1,
                vec!["denied: this host has no route to 203.0.113.5\n"],
            ),
            (
                "--from 192.0.2.11 --to 192.0.2.11 --port 80/tcp --interface eth0",
                1,
                vec!["denied: 192.0.2.11 cannot be a source on eth0\n"],
            ),
        ] {
            let words = "explain --live --policy /run/policy.toml".split(' ');
            let words: Vec<&str> = words.chain(question.split(' ')).collect();
            let output = node.peerwall(&words);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(code), "{question}\n{text}");
            for wanted in wanted {
                assert!(text.contains(wanted), "{question}: no {wanted}\n{text}");
            }
        }
        // Without --live, the policy's verdict is on the packet after the host's DNAT.
        let question =
            "explain --policy /run/policy.toml --from 192.0.2.12 --to 192.0.2.11 --port 8088/tcp";
        let text = node.peerwall_ok(&question.split_whitespace().collect::<Vec<_>>());
        assert!(
            text.contains("to 10.244.1.5 (sent to 192.0.2.11 port 8088)"),
            "{text}"
        );
        assert!(
            text.contains("ip nat PREROUTING (iptables-legacy)"),
            "{text}"
        );
        // What a packet without a route back meets.
        node.sysctl("net.ipv4.conf.eth0.rp_filter", "1");
        node.sh("ip route add 198.51.100.0/24 dev cni0");
        let question = "explain --live --policy /run/policy.toml --interface eth0 \
                        --from 198.51.100.7 --to 192.0.2.11";
        let output = node.peerwall(&question.split_whitespace().collect::<Vec<_>>());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("its rp_filter is strict"), "{text}");
    });
}
