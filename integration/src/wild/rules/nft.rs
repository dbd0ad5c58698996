//! Files for nft.

use super::{NETS_V4, NETS_V6};
use crate::random::Random;

/// Sets and maps: name, what is declared of it, and elements that it can have. None of them
/// overlap.
const SETS: [(&str, &str, &[&str]); 12] = [
    (
        "set hosts4",
        "type ipv4_addr;",
        &["10.1.2.3", "198.51.100.77", "0.0.0.0", "255.255.255.255"],
    ),
    (
        "set nets4",
        "type ipv4_addr; flags interval;",
        &[
            "10.0.0.0/8",
            "0.0.0.0/8",
            "198.51.100.70-198.51.100.80",
            "224.0.0.0/4",
            "192.168.1.5",
        ],
    ),
    (
        "set nets6",
        "type ipv6_addr; flags interval;",
        &["fd00::/8", "::", "fe80::/10", "ff00::/8", "2001:db8:77::1"],
    ),
    (
        "set services",
        "type inet_service; flags interval;",
        &["22", "53", "0", "80-443", "1024-65535"],
    ),
    (
        "set pairs",
        "type ipv4_addr . inet_service; flags interval;",
        &["10.0.0.0/8 . 22", "198.51.100.77 . 80-90", "0.0.0.0/1 . 53"],
    ),
    ("set protocols", "type inet_proto;", &["tcp", "udp", "47"]),
    ("set links", "type ifname;", &["eth0", "cni0", "lo"]),
    (
        "set prefixes",
        "type ifname; flags interval;",
        &["\"eth*\"", "cni0"],
    ),
    (
        "set timed",
        "type ipv4_addr; flags timeout;",
        &["10.1.2.3 timeout 1h", "192.168.1.5"],
    ),
    (
        "map sources",
        "type ipv4_addr : verdict; flags interval;",
        &[
            "10.0.0.0/8 : accept",
            "198.51.100.77 : drop",
            "127.0.0.0/8 : jump user",
            "0.0.0.0 : return",
        ],
    ),
    (
        "map ports",
        "type inet_proto . inet_service : verdict;",
        &[
            "tcp . 22 : accept",
            "udp . 53 : accept",
            "tcp . 80 : jump user",
            "tcp . 443 : drop",
        ],
    ),
    (
        "map ways",
        "type ifname : verdict;",
        &["eth0 : jump user", "cni0 : accept", "eth1 : goto user"],
    ),
];

/// Declarations of all sets and maps, each with some of its elements.
fn sets(random: &mut Random) -> String {
    let mut out = "  set seen { type ipv4_addr; flags dynamic; size 128; }\n".to_owned();
    for (name, declared, elements) in SETS {
        let elements = elements.iter().filter(|_| random.chance(60));
        let elements: Vec<&str> = elements.copied().collect();
        out += &match elements.is_empty() {
            true => format!("  {name} {{ {declared} }}\n"),
            false => format!(
                "  {name} {{ {declared} elements = {{ {} }}; }}\n",
                elements.join(", ")
            ),
        };
    }
    out
}

/// One expression with a set.
fn set_match(random: &mut Random) -> String {
    let not = if random.chance(25) { "!= " } else { "" };
    let text = random.of(&[
        "ip saddr @hosts4",
        "ip daddr @hosts4",
        "ip saddr @nets4",
        "ip daddr @nets4",
        "ip6 saddr @nets6",
        "ip6 daddr @nets6",
        "tcp dport @services",
        "udp dport @services",
        "udp sport @services",
        "th dport @services",
        "ip saddr . tcp dport @pairs",
        "ip daddr . udp dport @pairs",
        "meta l4proto @protocols",
        "ip protocol @protocols",
        "iifname @links",
        "iifname @prefixes",
        "oifname @links",
        "ip saddr @timed",
        "ip saddr @seen",
    ]);
    text.replace('@', &format!("{not}@"))
}

/// A statement that decides nothing now. Rates are those that these packets never reach.
fn statement(random: &mut Random) -> &'static str {
    random.of(&[
        "counter",
        "log prefix \"x: \"",
        "meta mark set 1",
        "ct mark set 1",
        "add @seen { ip saddr }",
        "update @seen { ip saddr timeout 1m }",
        "limit rate 1000000/second burst 10000 packets",
        "meta priority set 0:1",
    ])
}

/// One expression of nft.
fn nft_match(random: &mut Random, is_input: bool) -> String {
    let not = if random.chance(20) { "!= " } else { "" };
    let port = random.of(&[
        "22",
        "53",
        "67",
        "80",
        "0",
        "1024-65535",
        "{ 22, 80, 443 }",
        "{ 0-1023, 8080 }",
    ]);
    let v4 = random.of(&NETS_V4);
    let v6 = random.of(&NETS_V6);
    match random.below(40) {
        0..3 => format!("ip saddr {not}{v4}"),
        3..5 => format!("ip6 saddr {not}{v6}"),
        5 => format!("ip daddr {not}{v4}"),
        6 => format!("ip6 daddr {not}{v6}"),
        7 => format!(
            "iifname {not}\"{}\"",
            random.of(&["eth0", "eth1", "cni0", "eth*"])
        ),
        8 if !is_input => format!("oifname {not}\"{}\"", random.of(&["eth0", "eth1", "cni0"])),
        9..12 => format!("tcp dport {not}{port}"),
        12 => format!("udp dport {not}{port}"),
        13 => format!(
            "{} {not}{port}",
            random.of(&[
                "tcp sport",
                "udp sport",
                "th dport",
                "sctp dport",
                "udplite dport"
            ])
        ),
        14 => format!(
            "meta l4proto {not}{}",
            random.of(&[
                "tcp",
                "udp",
                "{ tcp, udp }",
                "icmp",
                "ipv6-icmp",
                "esp",
                "47"
            ])
        ),
        15 => format!(
            "ip protocol {not}{}",
            random.of(&["tcp", "udp", "icmp", "igmp", "{ 47, 50 }"])
        ),
        16 => format!(
            "ip6 nexthdr {not}{}",
            random.of(&["tcp", "udp", "ipv6-icmp", "44", "0"])
        ),
        17 => random
            .of(&[
                "tcp flags syn",
                "tcp flags & (fin|syn|rst|ack) == syn",
                "tcp flags ack",
                "tcp flags & (syn|fin) == 0x0",
                "tcp flags != syn",
                "tcp flags ecn",
                "tcp flags & (syn|ack) != syn",
                "tcp flags { syn, syn | ack }",
            ])
            .to_owned(),
        18 | 19 => format!(
            "ct state {not}{}",
            random.of(&[
                "new",
                "invalid",
                "established",
                "related",
                "{ new, untracked }",
                "established,related"
            ])
        ),
        20 => format!(
            "fib {} type {not}{}",
            random.of(&["daddr", "saddr", "daddr . iif"]),
            random.of(&[
                "local",
                "broadcast",
                "multicast",
                "unicast",
                "anycast",
                "{ local, broadcast }"
            ])
        ),
        21 => format!(
            "meta pkttype {not}{}",
            random.of(&["host", "broadcast", "multicast", "unicast"])
        ),
        22 => random
            .of(&[
                "ip ttl 64",
                "ip ttl 1",
                "ip ttl > 64",
                "ip ttl <= 2",
                "ip6 hoplimit 255",
                "ip6 hoplimit < 64",
                "ip6 hoplimit 1",
            ])
            .to_owned(),
        23 => random
            .of(&[
                "ip length 40",
                "ip length < 60",
                "meta length > 60",
                "ip6 length 20",
                "udp length 8",
                "udp length > 20",
            ])
            .to_owned(),
        24 => random
            .of(&[
                "ip dscp 0",
                "ip dscp ef",
                "ip6 dscp != 0",
                "ip ecn 0",
                "ip ecn != 3",
                "ip6 ecn 1",
            ])
            .to_owned(),
        25 => random
            .of(&[
                "ip frag-off & 0x1fff != 0",
                "ip frag-off & 0x3fff == 0",
                "exthdr frag exists",
                "exthdr frag missing",
                "exthdr hbh exists",
                "exthdr dst exists",
                "exthdr rt exists",
                "ip option ra exists",
                "ip option rr missing",
                "ip hdrlength 5",
            ])
            .to_owned(),
        26 => format!(
            "icmp type {not}{}",
            random.of(&[
                "echo-request",
                "{ echo-request, destination-unreachable }",
                "0",
                "13",
                "3"
            ])
        ),
        27 => format!(
            "icmpv6 type {not}{}",
            random.of(&[
                "echo-request",
                "nd-neighbor-solicit",
                "{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }",
                "1",
                "133",
                "143"
            ])
        ),
        28 => random
            .of(&[
                "icmp code 0",
                "icmp code 4",
                "icmpv6 code 0",
                "icmp id 1",
                "icmpv6 mtu 1280",
            ])
            .to_owned(),
        29 => "ether saddr 02:00:00:00:00:fe".to_owned(),
        30 => random
            .of(&[
                "meta nfproto ipv4",
                "meta nfproto ipv6",
                "meta protocol ip",
                "meta protocol ip6",
                "ct l3proto ipv4",
                "ct protocol tcp",
                "ct direction original",
                "ct direction reply",
            ])
            .to_owned(),
        31 => random
            .of(&[
                "ct mark 0",
                "meta mark 0",
                "meta mark 1",
                "ct status snat",
                "ct status assured",
                "ct original ip saddr 10.1.2.3",
                "ct original proto-dst 22",
                "ct expiration > 1s",
            ])
            .to_owned(),
        32 => random
            .of(&[
                "ip saddr . tcp dport { 10.1.2.3 . 22, 198.51.100.77 . 80 }",
                "iifname . tcp dport { \"eth0\" . 22 }",
                "ip6 saddr . udp dport { fd00::5 . 53 }",
                "ip saddr . ip daddr { 10.1.2.3 . 203.0.113.10 }",
                "meta l4proto . th dport { tcp . 22, udp . 53 }",
            ])
            .to_owned(),
        33 => random
            .of(&[
                "ip version 4",
                "ip6 version 6",
                "ip checksum 0",
                "tcp option maxseg exists",
                "tcp option maxseg missing",
                "tcp window 0",
                "tcp doff 5",
                "tcp urgptr 0",
                "tcp ackseq 0",
                "udp checksum 0",
            ])
            .to_owned(),
        34 => random
            .of(&[
                "fib saddr . iif oif missing",
                "fib saddr . iif oif eth0",
                "fib saddr oif exists",
                "meta skuid 0",
                "socket transparent 1",
                "meta iiftype ether",
                "iif lo",
                "iiftype loopback",
                "meta cpu 0",
                "meta day \"Sunday\"",
            ])
            .to_owned(),
        35 => format!("@nh,72,8 {not}{}", random.of(&["6", "17"])),
        36 => format!("@th,16,16 {not}{}", random.of(&["22", "53"])),
        _ => String::new(),
    }
}

/// Makes a file.
pub(super) fn file(random: &mut Random) -> String {
    let policy = |random: &mut Random| if random.chance(75) { "drop" } else { "accept" };
    let family = random.of(&["inet", "inet", "inet", "ip", "ip6"]);
    let mut chains = [String::new(), String::new(), String::new()];
    if random.chance(50) {
        chains[0] += "    iif lo accept\n    ct state established,related accept\n";
    }
    for _ in 0..1 + random.below(6) {
        let at = [0, 0, 0, 1, 1, 2, 2][random.below(7)];
        let count = random.below(4);
        let one = |random: &mut Random| match random.below(10) {
            0 | 1 => set_match(random),
            2 => statement(random).to_owned(),
            _ => nft_match(random, at != 1),
        };
        let matches: Vec<String> = (0..count).map(|_| one(random)).collect();
        let target = match random.below(30) {
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
            22 | 23 => "ip saddr vmap @sources",
            24 => "meta l4proto . th dport vmap @ports",
            25 => "iifname vmap @ways",
            26 => "limit rate over 1000000/second burst 10000 packets drop",
            27 => "ct count over 1000 drop",
            _ => "jump user",
        };
        chains[at] += &format!("    {} {target}\n", matches.join(" "));
    }
    // What the lines above drop shows most where much is accepted behind them.
    for chain in &mut chains[..2] {
        if random.chance(35) {
            let some = random.of(&["", "meta l4proto udp", "udp dport 53", "iifname \"eth0\""]);
            *chain += &format!("    {some} accept\n");
        }
    }
    let [input, forward, user] = chains;
    let mut out = format!(
        "table {family} filter {{\n{}  chain user {{\n{user}  }}\n",
        sets(random)
    );
    let (first, second) = (policy(random), policy(random));
    out += &format!(
        "  chain input {{\n    type filter hook input priority {}; policy {first};\n{input}  }}\n",
        random.of(&["0", "0", "0", "filter", "-10", "10", "-450"])
    );
    out += &format!(
        "  chain forward {{\n    type filter hook forward priority 0; policy {second};\n{forward}  }}\n"
    );
    if random.chance(15) {
        let (priority, third) = (random.of(&["20", "-5"]), policy(random));
        let one = nft_match(random, true);
        let verdict = random.of(&["accept", "drop"]);
        out += &format!(
            "  chain more {{\n    type filter hook input priority {priority}; policy {third};\n    \
             {one} {verdict}\n  }}\n"
        );
    }
    if random.chance(15) {
        let (one, verdict) = (nft_match(random, true), random.of(&["notrack", "drop"]));
        out += &format!(
            "  chain early {{\n    type filter hook prerouting priority -300;\n    {one} {verdict}\n  \
             }}\n"
        );
    }
    out + "}\n"
}
