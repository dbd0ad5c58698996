//! Sets and maps with names.

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
pub(super) fn sets(random: &mut Random) -> String {
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
pub(super) fn set_match(random: &mut Random) -> String {
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
