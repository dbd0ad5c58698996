//! Random rulesets: the evaluator and the kernel agree on packets, and imported policies accept no
//! packet that the rules refuse, unless the report says so.

use std::net::IpAddr;
use std::path::Path;

use peerwall::import::nft::listing;
use peerwall_core::import::eval::Probe;
use peerwall_core::import::{File, probes, rules};
use peerwall_core::net::packet::{CtState, Dialled, Hook, Transport};
use peerwall_core::net::port::{TCP, UDP};
use peerwall_integration::case::{HOST_V4, HOST_V6};
use peerwall_integration::imported::Imported;
use peerwall_integration::ns::world;
use peerwall_integration::random::Random;
use peerwall_integration::target::Target;

use super::{Counts, count_early, load, sample, try_packets, unload};

const SETS: &str = "
  set nets { type ipv4_addr; flags interval; elements = { 198.51.100.0/24, 203.0.113.5-203.0.113.9 }; }
  set hosts { type ipv4_addr; elements = { 198.51.100.7, 192.0.2.77 }; }
  set nets6 { type ipv6_addr; flags interval; elements = { 2001:db8:5::/48, fe80::/10 }; }
  set ports { type inet_service; flags interval; elements = { 22, 80-90, 443 }; }
  set pairs { type ipv4_addr . inet_service; flags interval;
    elements = { 198.51.100.0/24 . 22, 203.0.113.5 . 80-443 }; }
  set links { type ifname . inet_proto; elements = { \"eth0\" . tcp, \"eth1\" . udp }; }
  set empty { type inet_service; }
  map verdicts { type inet_service : verdict; elements = { 22 : accept, 80 : drop, 443 : continue }; }
  map ways { type ipv4_addr : verdict; flags interval;
    elements = { 198.51.100.7 : accept, 203.0.113.0/24 : return, * : continue }; }
";

const MATCHES: [&str; 66] = [
    "ip saddr 198.51.100.7",
    "ip saddr 198.51.100.0/24",
    "ip saddr != 203.0.113.0/28",
    "ip saddr { 198.51.100.7, 203.0.113.0/28 }",
    "ip saddr 203.0.113.5-203.0.113.9",
    "ip saddr @nets",
    "ip saddr != @hosts",
    "ip daddr 192.0.2.0/24",
    "ip daddr != { 10.0.0.0/8, 172.16.0.0/12 }",
    "ip6 saddr 2001:db8:5::/48",
    "ip6 saddr != @nets6",
    "ip6 saddr { 2001:db8:5::7, fe80::/10 }",
    "ip6 daddr != 2001:db8:77::/48",
    "tcp dport 22",
    "tcp dport != 22",
    "tcp dport { 22, 80-90, 443 }",
    "tcp dport != { 22, 443 }",
    "tcp dport @ports",
    "tcp dport @empty",
    "tcp dport > 79",
    "tcp dport <= 443",
    "tcp sport 1024-65535",
    "udp dport 53",
    "udp dport @ports",
    "udp sport . udp dport { 123 . 53, 68 . 67 }",
    "meta l4proto tcp",
    "meta l4proto != tcp",
    "meta l4proto { tcp, udp } th dport 53",
    "meta l4proto { icmp, ipv6-icmp }",
    "meta l4proto . th dport { tcp . 22, udp . 53 }",
    "ip protocol icmp",
    "ip protocol != udp",
    "ip6 nexthdr tcp",
    "icmp type echo-request",
    "icmp type != { echo-request, echo-reply }",
    "icmp code 0",
    "icmp type destination-unreachable icmp code { port-unreachable, 4 }",
    "icmp type . icmp code { echo-request . 0, destination-unreachable . 1 }",
    "icmpv6 type { echo-request, nd-neighbor-solicit }",
    "icmpv6 type != packet-too-big",
    "ct state new",
    "ct state established,related",
    "ct state { new, invalid }",
    "ct state != established",
    "ct state invalid,untracked",
    "ct status dnat",
    "ct original proto-dst 8080",
    "iifname eth0",
    "iifname != eth0",
    "iifname { \"eth*\", \"wg0\" }",
    "iif eth1",
    "oifname eth1",
    "oifname != \"eth*\"",
    "iifname . meta l4proto @links",
    "meta nfproto ipv4",
    "meta nfproto != ipv4",
    "meta protocol ip6",
    "tcp flags syn",
    "tcp flags & (fin|syn|rst|ack) == syn",
    "tcp flags & (fin|syn|rst|ack) != syn",
    "tcp flags { syn, ack, syn|ack }",
    "ip ttl > 5",
    "ip6 hoplimit 255",
    "fib daddr type local",
    "fib daddr type != { local, broadcast }",
    "meta pkttype host",
];

const MORE: [&str; 8] = [
    "ip saddr . tcp dport @pairs",
    "ip saddr . iifname { 198.51.100.7 . eth0, 203.0.113.0/24 . eth1 }",
    "limit rate 5/second",
    "limit rate over 5/second",
    "meta mark 0x1",
    "ip frag-off & 0x1fff != 0",
    "counter",
    "tcp flags != syn",
];

const VERDICTS: [&str; 5] = ["accept", "drop", "return", "reject", "continue"];

const MAPS: [&str; 7] = [
    "tcp dport vmap @verdicts",
    "ip saddr vmap @ways",
    "udp dport vmap { 53 : A, 67-68 : B, * : continue }",
    "ct state vmap { established : A, related : accept, invalid : B }",
    "iifname vmap { eth0 : A, eth1 : B }",
    "meta nfproto vmap { ipv4 : A, ipv6 : B }",
    "ip saddr . tcp dport vmap { 198.51.100.7 . 22 : A, 203.0.113.5 . 80 : B }",
];

const CHAINS: usize = 3;

/// A verdict; chains call only later ones.
fn verdict(random: &mut Random, chain: usize) -> String {
    if chain < CHAINS && random.chance(35) {
        let to = chain + random.below(CHAINS - chain);
        return format!("{} c{to}", random.of(&["jump", "goto"]));
    }
    random.of(&VERDICTS).to_owned()
}

fn rule(random: &mut Random, chain: usize) -> String {
    let mut words: Vec<String> = Vec::new();
    for _ in 0..random.below(3) {
        let list = if random.chance(12) {
            &MORE[..]
        } else {
            &MATCHES[..]
        };
        words.push(random.of(list).to_owned());
    }
    let last = match random.chance(20) {
        true => {
            let (a, b) = (verdict(random, chain), verdict(random, chain));
            let map = random.of(&MAPS);
            map.replace(": A", &format!(": {a}"))
                .replace(": B", &format!(": {b}"))
        }
        false => verdict(random, chain),
    };
    words.push(last);
    words.join(" ")
}

/// A ruleset, one rule a line.
fn ruleset(random: &mut Random) -> String {
    let family = random.of(&["inet", "inet", "inet", "ip", "ip6"]);
    let mut text = format!("table {family} t {{{SETS}");
    let mut add = |random: &mut Random, name: &str, base: &str, chain: usize| {
        text += &format!(" chain {name} {{\n{base}\n");
        for _ in 0..=random.below(5) {
            text += &format!("{}\n", rule(random, chain));
        }
        text += " }\n";
    };
    for chain in (0..CHAINS).rev() {
        add(random, &format!("c{chain}"), "", chain + 1);
    }
    for (name, hook, percent) in [
        ("input", "input", 100),
        ("second", "input", 25),
        ("forward", "forward", 70),
        ("pre", "prerouting", 40),
    ] {
        let policy = random.of(&["accept", "drop"]);
        let priority = random.of(&["-300", "-150", "-50", "0", "10"]);
        let base = format!("type filter hook {hook} priority {priority}; policy {policy};");
        if random.chance(percent) {
            add(random, name, &base, 0);
        }
    }
    text += "}\n";
    if random.chance(50) {
        text += "table inet n { chain pre { type nat hook prerouting priority -100\n\
                 tcp sport 7 tcp dport 9 redirect to :22\n}\n}\n";
    }
    text
}

/// Lists a ruleset, without the rules that nft refuses: contradictions, for example.
fn loaded(mut text: String) -> (String, String) {
    loop {
        let err = match listing("random", &text) {
            Ok(listed) => return (text, listed),
            Err(err) => err.to_string(),
        };
        let number = |line: &str| {
            line.strip_prefix("random:")?
                .split(':')
                .next()?
                .parse()
                .ok()
        };
        let wrong: Vec<usize> = err.lines().filter_map(number).collect();
        assert!(!wrong.is_empty(), "{err}\n{text}");
        let lines = text.lines().enumerate();
        let kept = lines.map(|(at, line)| match wrong.contains(&(at + 1)) {
            true => "\n".to_owned(),
            false => format!("{line}\n"),
        });
        text = kept.collect();
    }
}

/// Lets some packets belong to connections, and some be redirected, if rules redirect any.
fn varied(mut probes: Vec<Probe>, redirects: bool) -> Vec<Probe> {
    for (index, probe) in probes.iter_mut().enumerate() {
        let packet = &mut probe.packet;
        let Transport::Ports { protocol, .. } = packet.transport else {
            continue;
        };
        if packet.state != CtState::New || ![TCP, UDP].contains(&protocol) {
            continue;
        }
        match index % 4 {
            1 => packet.state = CtState::Established,
            2 if redirects && packet.hook == Hook::Input => {
                packet.dialled = Some(Dialled {
                    address: packet.destination,
                    port: 8080,
                });
            }
            _ => {}
        }
    }
    probes
}

fn try_ruleset(target: &mut Target, other: &mut Target, seed: u64) -> Counts {
    let mut random = Random::new(seed);
    let (text, listed) = loaded(ruleset(&mut random));
    let file = File {
        name: "random".to_owned(),
        text: listed,
        family: None,
    };
    let families = rules(std::slice::from_ref(&file));
    let families = families.unwrap_or_else(|err| panic!("{seed}: {err:?}\n{text}"));
    let imported = Imported::load(other, &format!("seed {seed}\n{text}"), file);
    load(target, Path::new("/"), &text, &families);
    let host = [HOST_V4, HOST_V6].map(|address| address.parse::<IpAddr>().unwrap().into());
    let mut counts = Counts::default();
    for rules in &families {
        let mut all = probes(rules, &host);
        // Different packets of similar rulesets.
        let start = random.below(all.len().max(1));
        all.rotate_left(start);
        let tried = varied(sample(all, 14), text.contains("redirect"));
        for probe in &tried {
            target.add_interface(&probe.packet.interface);
        }
        let name = format!("seed {seed}\n{text}");
        counts += try_packets(target, &name, rules, &tried);
        imported.try_packets(other, rules, &tried);
    }
    unload(target);
    counts
}

#[test]
fn random_rulesets_and_their_policies_do_on_the_kernel_what_was_compared() {
    world(|| {
        let number = |name: &str, other| std::env::var(name).map_or(other, |n| n.parse().unwrap());
        let (first, count) = (number("PEERWALL_SEED", 1), number("PEERWALL_RULESETS", 20));
        let mut target = Target::new();
        count_early(&target);
        let mut other = Target::named("other");
        for name in ["eth0", "eth1", "wg0"] {
            target.add_interface(name);
        }
        let mut counts = Counts::default();
        for seed in first..first + count {
            counts += try_ruleset(&mut target, &mut other, seed);
        }
        println!("{counts:?}");
        let decided = counts.accepted.min(counts.refused);
        assert!(decided > counts.unknown && decided > 0, "{counts:?}");
    });
}
