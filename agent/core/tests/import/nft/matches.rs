//! Matches of the table of cases.

use serde_json::{Value, json};

use super::statements::Case;
use super::{ct, field, matched, meta};

pub(super) fn matches() -> Vec<Case> {
    let accept = json!({"accept": null});
    let flags = json!({"&": [field("tcp", "flags"), ["fin", "syn", "rst", "ack"]]});
    let one =
        |op: &str, left: Value, right: Value| vec![matched(op, &left, &right), accept.clone()];
    vec![
        (
            "ip saddr 10.1.2.3",
            one("==", field("ip", "saddr"), json!("10.1.2.3")),
            &["Source([(167838211, 167838211)]) Accept"],
            &[],
        ),
        (
            "ip saddr != @lan",
            one("!=", field("ip", "saddr"), json!("@lan")),
            &["!Source([(167838211, 167838211), (168361984, 168427519)]) Accept"],
            &[],
        ),
        (
            "ip6 daddr ::1",
            one("==", field("ip6", "daddr"), json!("::1")),
            &[],
            &["Destination([(1, 1)]) Accept"],
        ),
        (
            "tcp dport implies tcp",
            one("==", field("tcp", "dport"), json!("@ports")),
            &["Protocol([6]) DestinationPorts([(22, 22), (80, 90)]) Accept"],
            &["Protocol([6]) DestinationPorts([(22, 22), (80, 90)]) Accept"],
        ),
        (
            "tcp dport != 22 is about tcp",
            one("!=", field("tcp", "dport"), json!(22)),
            &["Protocol([6]) !DestinationPorts([(22, 22)]) Accept"],
            &["Protocol([6]) !DestinationPorts([(22, 22)]) Accept"],
        ),
        (
            "udp sport > 1023",
            one(">", field("udp", "sport"), json!(1023)),
            &["Protocol([17]) SourcePorts([(1024, 65535)]) Accept"],
            &["Protocol([17]) SourcePorts([(1024, 65535)]) Accept"],
        ),
        (
            "tcp dport > 65535 matches nothing",
            one(">", field("tcp", "dport"), json!(65535)),
            &["Protocol([6]) DestinationPorts([]) Accept"],
            &["Protocol([6]) DestinationPorts([]) Accept"],
        ),
        (
            "ip ttl <= 3",
            one("<=", field("ip", "ttl"), json!(3)),
            &["HopLimit(0, 3) Accept"],
            &[],
        ),
        (
            "meta nfproto ipv6",
            one("==", meta("nfproto"), json!("ipv6")),
            &[],
            &["Accept"],
        ),
        (
            "meta protocol != ip6",
            one("!=", meta("protocol"), json!("ip6")),
            &["Accept"],
            &[],
        ),
        (
            "icmp of the other family",
            one(
                "==",
                meta("l4proto"),
                json!({"set": ["icmp", "ipv6-icmp", "tcp"]}),
            ),
            &["Protocol([1, 6]) Accept"],
            &["Protocol([58, 6]) Accept"],
        ),
        (
            "icmp type echo-request",
            one("==", field("icmp", "type"), json!("echo-request")),
            &["Protocol([1]) Icmp([(8, None)]) Accept"],
            &[],
        ),
        (
            "icmpv6 type . code",
            one(
                "==",
                json!({"concat": [field("icmpv6", "type"), field("icmpv6", "code")]}),
                json!({"set": [{"concat": ["packet-too-big", 0]}]}),
            ),
            &[],
            &[
                "Protocol([58]) Any([[Condition { negated: false, test: Icmp([(2, Some(0))]) }]]) Accept",
            ],
        ),
        (
            "ct state established,related",
            one("in", ct("state"), json!(["established", "related"])),
            &["State { states: [Established, Related], dnat: false } Accept"],
            &["State { states: [Established, Related], dnat: false } Accept"],
        ),
        (
            "ct state ! new",
            one("!", ct("state"), json!("new")),
            &["State { states: [Invalid, Established, Related, Untracked], dnat: false } Accept"],
            &["State { states: [Invalid, Established, Related, Untracked], dnat: false } Accept"],
        ),
        (
            "ct state == new | untracked is never met",
            one("==", ct("state"), json!({"|": ["new", "untracked"]})),
            &["State { states: [], dnat: false } Accept"],
            &["State { states: [], dnat: false } Accept"],
        ),
        (
            "ct status dnat",
            one("in", ct("status"), json!("dnat")),
            &["State { states: [], dnat: true } Accept"],
            &["State { states: [], dnat: true } Accept"],
        ),
        (
            "tcp flags syn / fin,syn,rst,ack",
            one("==", flags.clone(), json!("syn")),
            &["Protocol([6]) TcpFlags(23, 2) Accept"],
            &["Protocol([6]) TcpFlags(23, 2) Accept"],
        ),
        (
            "tcp flags != syn / fin,syn,rst,ack",
            one("!=", flags, json!("syn")),
            &["Protocol([6]) !TcpFlags(23, 2) Accept"],
            &["Protocol([6]) !TcpFlags(23, 2) Accept"],
        ),
        (
            "tcp flags fin,syn: any of them",
            one("in", field("tcp", "flags"), json!(["fin", "syn"])),
            &["Protocol([6]) !TcpFlags(3, 0) Accept"],
            &["Protocol([6]) !TcpFlags(3, 0) Accept"],
        ),
        (
            "tcp flags == syn: no others",
            one("==", field("tcp", "flags"), json!("syn")),
            &["Protocol([6]) TcpFlags(255, 2) Accept"],
            &["Protocol([6]) TcpFlags(255, 2) Accept"],
        ),
        (
            "iifname and iif",
            one("==", meta("iifname"), json!({"set": ["eth*", "lo"]})),
            &["In([Prefix(\"eth\"), Exact(\"lo\")]) Accept"],
            &["In([Prefix(\"eth\"), Exact(\"lo\")]) Accept"],
        ),
        (
            "fib daddr type local",
            one(
                "==",
                json!({"fib": {"result": "type", "flags": ["daddr"]}}),
                json!("local"),
            ),
            &["To(Local) Accept"],
            &["To(Local) Accept"],
        ),
        (
            "without conntrack, there may be later fragments",
            one(
                "!=",
                json!({"&": [field("ip", "frag-off"), 8191]}),
                json!(0),
            ),
            &["Unknown(\"ip frag-off & 8191 != 0\") Accept"],
            &[],
        ),
        (
            "original port",
            one(
                "==",
                json!({"ct": {"key": "proto-dst", "dir": "original"}}),
                json!(80),
            ),
            &["Dialled(80, 80) Accept"],
            &["Dialled(80, 80) Accept"],
        ),
        (
            "original address of IPv4",
            one(
                "==",
                json!({"ct": {"key": "ip daddr", "dir": "original"}}),
                json!("0.0.0.9"),
            ),
            &["DialledAddress([(9, 9)]) Accept"],
            &[],
        ),
    ]
}
