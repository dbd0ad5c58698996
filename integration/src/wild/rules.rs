//! Files of rules of a few lines, with matches of all kinds that iptables-restore and nft know for
//! single packets.

use crate::random::Random;

/// A language of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// iptables-restore.
    Iptables,
    /// ip6tables-restore.
    Ip6tables,
    /// nft.
    Nft,
}

impl Language {
    /// The end of a file's name.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Iptables => "v4",
            Self::Ip6tables => "v6",
            Self::Nft => "nft",
        }
    }
}

const PROTOCOLS: [&str; 10] = [
    "tcp", "udp", "udplite", "sctp", "dccp", "esp", "ah", "47", "2", "112",
];
const NETS_V4: [&str; 14] = [
    "10.0.0.0/8",
    "192.168.1.0/24",
    "198.51.100.77",
    "198.51.100.64/26",
    "0.0.0.0",
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255",
    "203.0.113.10",
    "203.0.113.255",
    "10.244.0.0/16",
];
const NETS_V6: [&str; 12] = [
    "2001:db8::/32",
    "2001:db8:77::1",
    "2001:db8::10",
    "fc00::/7",
    "fe80::/10",
    "fe80::1",
    "ff00::/8",
    "ff02::1",
    "::",
    "::1",
    "::ffff:0:0/96",
    "fd00:244::/32",
];
const PORTS: [&str; 10] = [
    "22", "53", "67", "68", "80", "443", "0", "1024:65535", "0:1023", "8000:8080",
];
const FLAGS: [&str; 7] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ALL"];
const STATES: [&str; 7] = [
    "NEW",
    "ESTABLISHED",
    "RELATED",
    "INVALID",
    "NEW,ESTABLISHED",
    "ESTABLISHED,RELATED",
    "UNTRACKED",
];
const TYPES: [&str; 6] = ["LOCAL", "UNICAST", "BROADCAST", "MULTICAST", "ANYCAST", "UNSPEC"];
const INTERFACES: [&str; 6] = ["eth0", "eth1", "cni0", "flannel.1", "eth+", "tun0"];

/// Maybe a negation.
fn not(random: &mut Random) -> &'static str {
    if random.chance(20) { "! " } else { "" }
}

fn flags(random: &mut Random) -> String {
    let some = |random: &mut Random| {
        let count = 1 + random.below(3);
        let all: Vec<&str> = (0..count).map(|_| random.of(&FLAGS[..6])).collect();
        all.join(",")
    };
    let mask = if random.chance(40) { "ALL".to_owned() } else { some(random) };
    let set = if random.chance(20) { "NONE".to_owned() } else { some(random) };
    format!("{mask} {set}")
}

/// Matches of one line.
fn iptables_matches(random: &mut Random, is_v6: bool, is_input: bool) -> String {
    let nets: &[&str] = if is_v6 { &NETS_V6 } else { &NETS_V4 };
    let mut out = String::new();
    let protocol = random.chance(60).then(|| match random.below(10) {
        0..4 => "tcp",
        4..6 => "udp",
        6 if is_v6 => "ipv6-icmp",
        6 => "icmp",
        _ => random.of(&PROTOCOLS),
    });
    if let Some(protocol) = protocol {
        let is_negated = random.chance(8);
        let bang = if is_negated { "! " } else { "" };
        out += &format!(" {bang}-p {protocol}");
        let has_ports = ["tcp", "udp", "udplite", "sctp", "dccp"].contains(&protocol);
        if has_ports && !is_negated {
            let side = random.of(&["d", "d", "d", "s"]);
            let port = random.of(&PORTS);
            let bang = not(random);
            match random.below(6) {
                0..3 if protocol != "udplite" => {
                    out += &format!(" {bang}--{side}port {port}");
                }
                3 => out += &format!(" -m multiport {bang}--{side}ports 22,{port},9000"),
                _ => {}
            }
        }
        if protocol == "tcp" && !is_negated && random.chance(30) {
            let bang = not(random);
            match random.below(4) {
                0 => out += &format!(" {bang}--syn"),
                1 => out += &format!(" {bang}--tcp-option {}", 2 + random.below(3)),
                _ => out += &format!(" {bang}--tcp-flags {}", flags(random)),
            }
        }
        if protocol == "icmp" && !is_negated && random.chance(70) {
            let kind = random.of(&["8", "3", "3/4", "0", "13", "any", "255/255", "8/0", "5"]);
            out += &format!(" {}--icmp-type {kind}", not(random));
        }
        if protocol == "ipv6-icmp" && !is_negated && random.chance(70) {
            let kind = random.of(&["128", "1", "2", "133", "135", "136", "3/0", "143", "130"]);
            out += &format!(" {}--icmpv6-type {kind}", not(random));
        }
    }
    for _ in 0..random.below(3) {
        let bang = not(random);
        let net = random.of(nets);
        let one = match random.below(22) {
            0..4 => format!(" {bang}-s {net}"),
            4..6 => format!(" {bang}-d {net}"),
            6..8 => format!(" {bang}-i {}", random.of(&INTERFACES)),
            8 if !is_input => format!(" {bang}-o {}", random.of(&INTERFACES)),
            9 | 10 => format!(" -m conntrack {bang}--ctstate {}", random.of(&STATES)),
            11 => format!(
                " -m addrtype {bang}--{}-type {}",
                random.of(&["src", "dst", "dst"]),
                random.of(&TYPES)
            ),
            12 => format!(
                " -m pkttype {bang}--pkt-type {}",
                random.of(&["unicast", "broadcast", "multicast"])
            ),
            13 => {
                let word = if is_v6 { "hl --hl-" } else { "ttl --ttl-" };
                format!(" -m {word}{} {}", random.of(&["eq", "lt", "gt"]), random.of(&["1", "64", "255", "2"]))
            }
            14 => format!(" -m length {bang}--length {}", random.of(&["40", "0:60", "61:", "48"])),
            15 => format!(" -m dscp {bang}--dscp {}", random.of(&["0", "46", "10", "4"])),
            16 => format!(" -m ecn {bang}--ecn-ip-ect {}", random.below(4)),
            17 => format!(" -m tos {bang}--tos {}", random.of(&["0x10", "0x00/0xff", "0xb8"])),
            18 if !is_v6 => format!(" {bang}-f"),
            18 => random
                .of(&[
                    " -m ipv6header --header frag --soft",
                    " -m ipv6header --header dst --soft",
                    " -m ipv6header --header none",
                    " -m frag --fragmore",
                    " -m frag --fragfirst",
                    " -m hbh --hbh-len 8",
                    " -m rt --rt-type 0",
                    " -m ipv6header --header hop-by-hop",
                ])
                .to_owned(),
            19 => format!(" -m mac {bang}--mac-source {}", random.of(&["02:00:00:00:00:fe", "02:00:00:00:00:01"])),
            20 if is_v6 => format!(" -m iprange {bang}--src-range fd00::1-fd00::9"),
            20 => format!(" -m iprange {bang}--src-range {}", random.of(&["10.1.2.0-10.1.2.9", "0.0.0.0-9.255.255.255"])),
            _ => random
                .of(&[
                    " -m mark --mark 0",
                    " -m mark --mark 1",
                    " -m conntrack --ctproto 6",
                    " -m conntrack --ctdir ORIGINAL",
                    " -m conntrack --ctdir REPLY",
                    " -m conntrack --ctstatus SEEN_REPLY",
                    " -m conntrack ! --ctstatus CONFIRMED",
                    " -m conntrack --ctorigdstport 22",
                    " -m conntrack --ctstate DNAT",
                    " -m socket",
                    " -m rpfilter",
                    " -m rpfilter --invert",
                    " -m connmark --mark 0",
                    " -m physdev --physdev-is-bridged",
                    " -m state --state NEW",
                ])
                .to_owned(),
        };
        out += &one;
    }
    out
}

fn iptables(random: &mut Random, is_v6: bool) -> String {
    let policy = |random: &mut Random| if random.chance(75) { "DROP" } else { "ACCEPT" };
    let mut out = String::new();
    if random.chance(8) {
        let line = iptables_matches(random, is_v6, true);
        let target = random.of(&["DROP", "ACCEPT", "CT --notrack", "RETURN"]);
        out += &format!("*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING{line} -j {target}\nCOMMIT\n");
    }
    out += &format!(
        "*filter\n:INPUT {} [0:0]\n:FORWARD {} [0:0]\n:OUTPUT ACCEPT [0:0]\n:user - [0:0]\n",
        policy(random),
        policy(random)
    );
    if random.chance(50) {
        out += "-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    }
    for _ in 0..1 + random.below(6) {
        let chain = random.of(&["INPUT", "INPUT", "INPUT", "FORWARD", "FORWARD", "user", "user"]);
        let matches = iptables_matches(random, is_v6, chain != "FORWARD");
        let target = match random.below(20) {
            0..10 => "-j ACCEPT",
            10..14 => "-j DROP",
            14 => "-j REJECT",
            15..17 => "-j RETURN",
            _ if chain == "user" => "-j ACCEPT",
            17 => "-g user",
            _ => "-j user",
        };
        out += &format!("-A {chain}{matches} {target}\n");
    }
    out + "COMMIT\n"
}

/// One expression of nft.
fn nft_match(random: &mut Random, is_input: bool) -> String {
    let not = if random.chance(20) { "!= " } else { "" };
    let port = random.of(&["22", "53", "67", "80", "0", "1024-65535", "{ 22, 80, 443 }", "{ 0-1023, 8080 }"]);
    let v4 = random.of(&NETS_V4);
    let v6 = random.of(&NETS_V6);
    match random.below(40) {
        0..3 => format!("ip saddr {not}{v4}"),
        3..5 => format!("ip6 saddr {not}{v6}"),
        5 => format!("ip daddr {not}{v4}"),
        6 => format!("ip6 daddr {not}{v6}"),
        7 => format!("iifname {not}\"{}\"", random.of(&["eth0", "eth1", "cni0", "eth*"])),
        8 if !is_input => format!("oifname {not}\"{}\"", random.of(&["eth0", "eth1", "cni0"])),
        9..12 => format!("tcp dport {not}{port}"),
        12 => format!("udp dport {not}{port}"),
        13 => format!("{} {not}{port}", random.of(&["tcp sport", "udp sport", "th dport", "sctp dport", "udplite dport"])),
        14 => format!("meta l4proto {not}{}", random.of(&["tcp", "udp", "{ tcp, udp }", "icmp", "ipv6-icmp", "esp", "47"])),
        15 => format!("ip protocol {not}{}", random.of(&["tcp", "udp", "icmp", "igmp", "{ 47, 50 }"])),
        16 => format!("ip6 nexthdr {not}{}", random.of(&["tcp", "udp", "ipv6-icmp", "44", "0"])),
        17 => random.of(&["tcp flags syn", "tcp flags & (fin|syn|rst|ack) == syn", "tcp flags ack", "tcp flags & (syn|fin) == 0x0", "tcp flags != syn", "tcp flags ecn", "tcp flags & (syn|ack) != syn", "tcp flags { syn, syn | ack }"]).to_owned(),
        18 | 19 => format!("ct state {not}{}", random.of(&["new", "invalid", "established", "related", "{ new, untracked }", "established,related"])),
        20 => format!("fib {} type {not}{}", random.of(&["daddr", "saddr", "daddr . iif"]), random.of(&["local", "broadcast", "multicast", "unicast", "anycast", "{ local, broadcast }"])),
        21 => format!("meta pkttype {not}{}", random.of(&["host", "broadcast", "multicast", "unicast"])),
        22 => random.of(&["ip ttl 64", "ip ttl 1", "ip ttl > 64", "ip ttl <= 2", "ip6 hoplimit 255", "ip6 hoplimit < 64", "ip6 hoplimit 1"]).to_owned(),
        23 => random.of(&["ip length 40", "ip length < 60", "meta length > 60", "ip6 length 20", "udp length 8", "udp length > 20"]).to_owned(),
        24 => random.of(&["ip dscp 0", "ip dscp ef", "ip6 dscp != 0", "ip ecn 0", "ip ecn != 3", "ip6 ecn 1"]).to_owned(),
        25 => random.of(&["ip frag-off & 0x1fff != 0", "ip frag-off & 0x3fff == 0", "exthdr frag exists", "exthdr frag missing", "exthdr hbh exists", "exthdr dst exists", "exthdr rt exists", "ip option ra exists", "ip option rr missing", "ip hdrlength 5"]).to_owned(),
        26 => format!("icmp type {not}{}", random.of(&["echo-request", "{ echo-request, destination-unreachable }", "0", "13", "3"])),
        27 => format!("icmpv6 type {not}{}", random.of(&["echo-request", "nd-neighbor-solicit", "{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }", "1", "133", "143"])),
        28 => random.of(&["icmp code 0", "icmp code 4", "icmpv6 code 0", "icmp id 1", "icmpv6 mtu 1280"]).to_owned(),
        29 => "ether saddr 02:00:00:00:00:fe".to_owned(),
        30 => random.of(&["meta nfproto ipv4", "meta nfproto ipv6", "meta protocol ip", "meta protocol ip6", "ct l3proto ipv4", "ct protocol tcp", "ct direction original", "ct direction reply"]).to_owned(),
        31 => random.of(&["ct mark 0", "meta mark 0", "meta mark 1", "ct status snat", "ct status assured", "ct original ip saddr 10.1.2.3", "ct original proto-dst 22", "ct expiration > 1s"]).to_owned(),
        32 => random.of(&["ip saddr . tcp dport { 10.1.2.3 . 22, 198.51.100.77 . 80 }", "iifname . tcp dport { \"eth0\" . 22 }", "ip6 saddr . udp dport { fd00::5 . 53 }", "ip saddr . ip daddr { 10.1.2.3 . 203.0.113.10 }", "meta l4proto . th dport { tcp . 22, udp . 53 }"]).to_owned(),
        33 => random.of(&["ip version 4", "ip6 version 6", "ip checksum 0", "tcp option maxseg exists", "tcp option maxseg missing", "tcp window 0", "tcp doff 5", "tcp urgptr 0", "tcp ackseq 0", "udp checksum 0"]).to_owned(),
        34 => random.of(&["fib saddr . iif oif missing", "fib saddr . iif oif eth0", "fib saddr oif exists", "meta skuid 0", "socket transparent 1", "meta iiftype ether", "iif lo", "iiftype loopback", "meta cpu 0", "meta day \"Sunday\""]).to_owned(),
        35 => format!("@nh,72,8 {not}{}", random.of(&["6", "17"])),
        36 => format!("@th,16,16 {not}{}", random.of(&["22", "53"])),
        _ => String::new(),
    }
}

fn nft(random: &mut Random) -> String {
    let policy = |random: &mut Random| if random.chance(75) { "drop" } else { "accept" };
    let family = random.of(&["inet", "inet", "inet", "ip", "ip6"]);
    let mut chains = [String::new(), String::new(), String::new()];
    if random.chance(50) {
        chains[0] += "    iif lo accept\n    ct state established,related accept\n";
    }
    for _ in 0..1 + random.below(6) {
        let at = [0, 0, 0, 1, 1, 2, 2][random.below(7)];
        let count = random.below(4);
        let matches: Vec<String> = (0..count).map(|_| nft_match(random, at != 1)).collect();
        let target = match random.below(24) {
            0..10 => "accept",
            10..14 => "drop",
            14 => "reject",
            15..17 => "return",
            17 => "tcp dport vmap { 22 : accept, 80 : drop }",
            18 => "ip saddr vmap { 10.1.2.3 : drop, 10.0.0.0/8 : accept, 0.0.0.0/8 : accept }",
            19 => "ct state vmap { invalid : drop, new : accept }",
            20 => "meta l4proto vmap { icmp : accept, tcp : continue, 47 : accept }",
            _ if at == 2 => "accept",
            21 => "goto user",
            _ => "jump user",
        };
        chains[at] += &format!("    {} {target}\n", matches.join(" "));
    }
    let [input, forward, user] = chains;
    let mut out = format!("table {family} filter {{\n  chain user {{\n{user}  }}\n");
    let (first, second) = (policy(random), policy(random));
    out += &format!("  chain input {{\n    type filter hook input priority {}; policy {first};\n{input}  }}\n", random.of(&["0", "0", "0", "filter", "-10", "10", "-450"]));
    out += &format!("  chain forward {{\n    type filter hook forward priority 0; policy {second};\n{forward}  }}\n}}\n");
    out
}

/// Makes a file.
pub fn file(random: &mut Random, language: Language) -> String {
    match language {
        Language::Iptables => iptables(random, false),
        Language::Ip6tables => iptables(random, true),
        Language::Nft => nft(random),
    }
}
