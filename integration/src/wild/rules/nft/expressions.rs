//! Expressions.

use super::super::{NETS_V4, NETS_V6};
use crate::random::Random;

/// One expression of nft.
pub(super) fn nft_match(random: &mut Random, is_input: bool) -> String {
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
    match random.below(41) {
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
        37 => random
            .of(&[
                "ct zone 0",
                "ct helper \"ftp\"",
                "ct label 1",
                "ct bytes < 1000000",
                "ct packets > 1000",
                "ct id 0",
                "ct event new",
                "ct original packets > 1000",
                "ct reply ip saddr 203.0.113.10",
                "ct mark and 1 == 0",
                "meta mark & 1 == 1",
                "meta secmark 0",
                "meta rtclassid 0",
                "meta random < 4294967295",
                "meta ibrname \"br0\"",
                "meta sdif 0",
                "meta cgroup 0",
                "meta priority none",
                "osf ttl loose name \"Linux\"",
                "socket mark 0",
                "socket wildcard 0",
                "numgen inc mod 2 0",
                "symhash mod 2 < 2",
                "jhash ip saddr mod 4 seed 7 < 4",
            ])
            .to_owned(),
        38 => random
            .of(&[
                "ah spi 0",
                "esp spi < 1000",
                "comp cpi 0",
                "dccp type request",
                "sctp vtag 0",
                "sctp chunk init exists",
                "igmp type membership-query",
                "mh type binding-refresh-request",
                "ip6 flowlabel 0",
                "ip id 0",
                "ip6 length > 60",
                "frag more-fragments 1",
                "frag frag-off 0",
                "hbh nexthdr tcp",
                "rt type 0",
                "vlan id 5",
                "ether type ip6",
                "meta protocol { ip, arp }",
                "ip option lsrr exists",
                "tcp option sack-perm exists",
                "icmp sequence 0",
                "icmp mtu 1280",
                "ip protocol . ip saddr { tcp . 10.1.2.3 }",
            ])
            .to_owned(),
        39 => random
            .of(&[
                "ip saddr & 0.0.0.255 == 0.0.0.3",
                "ip saddr & 255.0.0.0 != 10.0.0.0",
                "ip6 saddr & ffff:: == 2001::",
                "tcp dport & 0xff == 22",
                "tcp dport != { 22, 80 }",
                "th sport 53",
                "ip saddr != { 10.0.0.0/8, 192.168.0.0/16 }",
                "ip daddr . ip saddr { 203.0.113.10 . 10.0.0.0/8 }",
                "iifname { \"eth*\", \"cni0\" }",
                "iifname \"eth0\" . ip saddr { 10.0.0.0/8 }",
                "meta iif . meta oif { \"lo\" . \"lo\" }",
                "tcp dport 1-1023 tcp sport 1024-65535",
                "ip saddr 10.0.0.0/8 ip saddr != 10.1.2.0/24",
                "ip saddr 10.1.2.3-10.1.3.9",
                "ip6 saddr 2001:db8::-2001:db8:77::5",
                "tcp dport >= 1024",
                "tcp dport < 1024",
                "ip saddr > 198.51.100.0",
            ])
            .to_owned(),
        35 => format!("@nh,72,8 {not}{}", random.of(&["6", "17"])),
        36 => format!("@th,16,16 {not}{}", random.of(&["22", "53"])),
        _ => String::new(),
    }
}
