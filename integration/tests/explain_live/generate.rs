//! Rules and packets by chance.

use std::fmt::Write as _;
use std::net::IpAddr;

use peerwall_core::net::packet::{Hook, Packet, Transport};
use peerwall_core::net::port::{TCP, UDP};
use peerwall_integration::random::Random;

const SETS: &str = "
  set nets { type ipv4_addr; flags interval; elements = { 192.0.2.64/26, 198.51.100.7, 203.0.113.0/24 }; }
  set hosts { type ipv4_addr; elements = { 192.0.2.12, 198.51.100.7 }; }
  set nets6 { type ipv6_addr; flags interval; elements = { 2001:db8:5::/48, 2001:db8:49::12 }; }
  set ports { type inet_service; flags interval; elements = { 22, 79-90, 443 }; }
  set pairs { type ipv4_addr . inet_service; flags interval;
    elements = { 192.0.2.0/24 . 22, 198.51.100.7 . 80-443 }; }
  set links { type ifname . inet_proto; elements = { \"eth0\" . tcp, \"cni0\" . udp }; }
  set met { type ipv4_addr; flags dynamic; size 1000; }
  map verdicts { type inet_service : verdict; elements = { 22 : accept, 80 : drop, 443 : jump c1 }; }
  map ways { type ipv4_addr : verdict; flags interval;
    elements = { 192.0.2.12 : goto c2, 198.51.100.0/24 : return, * : continue }; }
  map marks { type inet_service : mark; elements = { 22 : 0x5, 80 : 0x11, 53 : 0x4000 }; }
";

const MATCHES: [&str; 56] = [
    "ip saddr 192.0.2.12",
    "ip saddr 192.0.2.0/24",
    "ip saddr != 198.51.100.0/25",
    "ip saddr { 192.0.2.12, 203.0.113.0/28 }",
    "ip saddr 192.0.2.5-192.0.2.90",
    "ip saddr @nets",
    "ip saddr != @hosts",
    "ip saddr & 255.255.0.255 == 192.0.0.12",
    "ip daddr 10.244.0.0/16",
    "ip daddr != { 10.0.0.0/8, 172.16.0.0/12 }",
    "ip6 saddr 2001:db8:49::/64",
    "ip6 saddr @nets6",
    "tcp dport 80",
    "tcp dport != 22",
    "tcp dport { 22, 80-90, 443 }",
    "tcp dport @ports",
    "tcp dport > 79",
    "tcp sport 20000-20999",
    "udp dport 53",
    "udp dport @ports",
    "meta l4proto tcp",
    "meta l4proto { tcp, udp } th dport 53",
    "meta l4proto . th dport { tcp . 80, udp . 53 }",
    "ip protocol udp",
    "ip6 nexthdr tcp",
    "ct state new",
    "ct state established,related",
    "ct state { new, invalid }",
    "ct state vmap { established : accept, new : continue }",
    "ct status dnat",
    "ct original proto-dst 8080",
    "ct original ip daddr 192.0.2.11",
    "ct direction original",
    "ct mark 0",
    "ct mark 0x5",
    "iifname eth0",
    "iifname != eth0",
    "iifname \"e*\"",
    "iif cni0",
    "oifname cni0",
    "oifname != \"cni*\"",
    "iifname . meta l4proto @links",
    "meta nfproto ipv4",
    "meta protocol ip6",
    "tcp flags syn",
    "tcp flags & (fin|syn|rst|ack) == syn",
    "ip ttl 64",
    "fib daddr type local",
    "fib daddr type != { local, broadcast }",
    "fib saddr . iif oif exists",
    "fib saddr . iif oif missing",
    "meta pkttype host",
    "meta mark 0x5",
    "meta mark & 0x4000 == 0x4000",
    "meta skuid 0",
    "ip frag-off & 0x1fff != 0",
];

const STATEMENTS: [&str; 12] = [
    "counter",
    "meta mark set 0x5",
    "meta mark set meta mark or 0x4000",
    "meta mark set tcp dport map @marks",
    "ct mark set meta mark",
    "ct mark set 0x5",
    "add @met { ip saddr }",
    "limit rate 100000/second burst 1000 packets",
    "limit rate over 100000/second burst 1000 packets",
    "quota over 100 mbytes",
    "ip saddr vmap @ways",
    "tcp dport vmap @verdicts",
];

const VERDICTS: [&str; 8] = [
    "accept", "drop", "return", "reject", "continue", "jump c1", "goto c2", "jump c2",
];

/// A rule of nftables.
fn native_rule(random: &mut Random, in_chain: bool) -> String {
    let mut words: Vec<&str> = Vec::new();
    for _ in 0..random.below(3) {
        words.push(random.of(&MATCHES));
    }
    if random.chance(25) {
        words.push(random.of(&STATEMENTS));
    }
    if random.chance(1) {
        words.push("numgen random mod 2 0");
    }
    let verdicts = if in_chain {
        &VERDICTS[..5]
    } else {
        &VERDICTS[..]
    };
    words.push(random.of(verdicts));
    let rule = words.join(" ");
    match in_chain && (rule.contains("@verdicts") || rule.contains("@ways")) {
        true => "counter".to_owned(),
        false => rule,
    }
}

/// A table of nftables, one rule a line.
pub(crate) fn native(random: &mut Random, name: &str) -> String {
    let family = random.of(&["inet", "inet", "ip"]);
    let mut text = format!("table {family} {name} {{{SETS}");
    for chain in ["c1", "c2"] {
        writeln!(text, " chain {chain} {{").unwrap();
        for _ in 0..random.below(4) {
            writeln!(text, "{}", native_rule(random, true)).unwrap();
        }
        text += " }\n";
    }
    for (chain, hook, percent) in [
        ("pre", "prerouting", 50),
        ("in", "input", 80),
        ("fwd", "forward", 80),
        ("post", "postrouting", 30),
    ] {
        if !random.chance(percent) {
            continue;
        }
        let priority = random.of(&["-300", "-150", "-5", "5", "120"]);
        let policy = if random.chance(20) { "drop" } else { "accept" };
        writeln!(text, " chain {chain} {{").unwrap();
        writeln!(
            text,
            "type filter hook {hook} priority {priority}; policy {policy};"
        )
        .unwrap();
        for _ in 0..=random.below(4) {
            writeln!(text, "{}", native_rule(random, false)).unwrap();
        }
        text += " }\n";
    }
    text + "}\n"
}

const WORDS: [&str; 24] = [
    "-s 192.0.2.12",
    "! -s 192.0.2.0/24",
    "-s 198.51.100.0/24",
    "-d 10.244.0.0/16",
    "! -d 192.0.2.11",
    "-i eth0",
    "! -i eth+",
    "-i cni0",
    "-p tcp",
    "-p udp --dport 53",
    "-p tcp --dport 80",
    "-p tcp ! --dport 22",
    "-p tcp --dport 20:100",
    "-p tcp -m multiport --dports 22,80,443",
    "-p tcp --syn",
    "-p tcp --tcp-flags SYN,ACK SYN",
    "-m conntrack --ctstate NEW",
    "-m conntrack --ctstate RELATED,ESTABLISHED",
    "-m conntrack --ctstate DNAT",
    "-m mark --mark 0x5",
    "-m mark --mark 0x4000/0x4000",
    "-m addrtype --dst-type LOCAL",
    "-m limit --limit 9000/sec --limit-burst 1000",
    "-m iprange --src-range 192.0.2.10-192.0.2.20",
];

const TARGETS: [&str; 10] = [
    "ACCEPT",
    "DROP",
    "RETURN",
    "ONE",
    "TWO",
    "MARK --set-mark 0x5",
    "MARK --or-mark 0x4000",
    "ACCEPT",
    "DROP",
    "LOG",
];

/// Rules of iptables, as input of iptables-restore.
pub(crate) fn saved(random: &mut Random) -> String {
    let mut text = String::new();
    for (table, chains, percent) in [
        ("filter", &["INPUT", "FORWARD"][..], 100),
        (
            "mangle",
            &["PREROUTING", "INPUT", "FORWARD", "POSTROUTING"][..],
            40,
        ),
        ("raw", &["PREROUTING"][..], 30),
        ("security", &["INPUT", "FORWARD"][..], 20),
    ] {
        if !random.chance(percent) {
            continue;
        }
        writeln!(text, "*{table}\n:ONE - [0:0]\n:TWO - [0:0]").unwrap();
        for chain in chains {
            let policy = if random.chance(15) { "DROP" } else { "ACCEPT" };
            writeln!(text, ":{chain} {policy} [0:0]").unwrap();
        }
        let all = chains.iter().chain(&["ONE", "TWO"]);
        for chain in all {
            for _ in 0..random.below(4) {
                let words = rule_words(random, table, chain);
                writeln!(text, "-A {chain} {words}").unwrap();
            }
        }
        text += "COMMIT\n";
    }
    text
}

fn rule_words(random: &mut Random, table: &str, chain: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for _ in 0..random.below(3) {
        let next = random.of(&WORDS);
        let option = |words: &str| words.trim_start_matches("! ")[..2].to_owned();
        let is_there = words.iter().any(|other| option(other) == option(next));
        let has_in = ["INPUT", "FORWARD", "PREROUTING"].contains(&chain);
        if (!is_there || option(next) == "-m") && (has_in || !next.contains("-i ")) {
            words.push(next);
        }
    }
    let mut target = random.of(&TARGETS);
    if (target.starts_with("MARK") && table != "mangle")
        || (chain == "TWO" && ["ONE", "TWO"].contains(&target))
        || (chain == "ONE" && target == "ONE")
    {
        target = "RETURN";
    }
    format!("{} -j {target}", words.join(" "))
}

/// Rules of DNAT, for nftables and for iptables.
pub(crate) const DNATS: [(&str, &str); 4] = [
    (
        "tcp dport 8080 dnat ip to 10.244.1.5:80",
        "-p tcp --dport 8080 -j DNAT --to-destination 10.244.1.5:80",
    ),
    (
        "udp dport 5300 dnat ip to 10.244.1.5:53",
        "-p udp --dport 5300 -j DNAT --to-destination 10.244.1.5:53",
    ),
    (
        "tcp dport 8081 redirect to :80",
        "-p tcp --dport 8081 -j REDIRECT --to-ports 80",
    ),
    (
        "ip daddr 192.0.2.11 tcp dport 443 dnat ip to 192.0.2.11:22",
        "-d 192.0.2.11 -p tcp --dport 443 -j DNAT --to-destination 192.0.2.11:22",
    ),
];

/// Packets by chance, each with its own source port.
pub(crate) fn packets(random: &mut Random, count: u16) -> Vec<Packet> {
    let some = |port: u16| {
        let is_v6 = random.chance(20);
        let (source, own, pod) = match is_v6 {
            true => (
                random.of(&["2001:db8:49::12", "2001:db8:49::99", "2001:db8:5::7"]),
                "2001:db8:49::11",
                "2001:db8:244:1::5",
            ),
            false => (
                random.of(&["192.0.2.12", "192.0.2.99", "198.51.100.7", "203.0.113.9"]),
                "192.0.2.11",
                "10.244.1.5",
            ),
        };
        let to = if random.chance(65) { own } else { pod };
        let protocol = if random.chance(70) { TCP } else { UDP };
        let ports = [22, 80, 443, 53, 9100, 8080, 8081, 5300];
        let transport = Transport::Ports {
            protocol,
            source: port,
            destination: ports[random.below(ports.len())],
        };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut packet = Packet::new(Hook::Input, "eth0", address(source), address(to), transport);
        packet.mac = Some([2, 0, 0, 0, 0, 9]);
        packet
    };
    (20_000..20_000 + count).map(some).collect()
}
