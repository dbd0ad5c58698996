//! Parses values of options: addresses, protocols, ports, flags and ICMP types.

use ipnet::IpNet;

use super::{Interval, Test};
use crate::net::addr::{self, Family};
use crate::net::port::{self, ICMP, ICMPV6};
use crate::net::protocol;

/// Words that cannot be read, and what to write.
pub(super) type WordError = (String, &'static str);

pub(super) fn address(text: &str, family: Family) -> Result<Interval, WordError> {
    let wrong = |help| {
        (
            format!("`{text}` is not an IPv{} address", family.digit()),
            help,
        )
    };
    let (host, len) = match text.split_once('/') {
        Some((host, len)) => (host, Some(len)),
        None => (text, None),
    };
    let host: std::net::IpAddr = host.parse().ok().ok_or_else(|| {
        wrong("host names are not looked up; write addresses, or files of the right family")
    })?;
    if Family::of(host) != family {
        return Err(wrong(
            "is this a file of the other family? see --v4 and --v6",
        ));
    }
    let len = match len {
        None => family.bits(),
        Some(len) => match (len.parse::<u8>(), len.parse::<std::net::Ipv4Addr>()) {
            (Ok(len), _) => len,
            (Err(_), Ok(mask)) => ipnet::ipv4_mask_to_prefix(mask)
                .ok()
                .ok_or_else(|| wrong("the mask must consist of leading ones"))?,
            (Err(_), Err(_)) => return Err(wrong("write it like 192.0.2.0/24")),
        },
    };
    let net = IpNet::new(host, len)
        .ok()
        .ok_or_else(|| wrong("the prefix is longer than the address"))?;
    // iptables also ignores host bits.
    Ok(addr::bounds(net.trunc()))
}

/// Parses a protocol; `None` matches all of them.
pub(super) fn protocol(name: &str) -> Result<Option<u8>, WordError> {
    let name = name.to_ascii_lowercase();
    let number = protocol::by_name(&name).or_else(|| name.parse().ok());
    match (name.as_str(), number) {
        ("all", _) | (_, Some(0)) => Ok(None),
        (_, Some(number)) => Ok(Some(number)),
        (_, None) => Err((
            format!("`{name}` is not a protocol"),
            "write its number; see /etc/protocols",
        )),
    }
}

/// Common service names, from `/etc/services`.
const SERVICES: [(&str, u16); 22] = [
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("http", 80),
    ("www", 80),
    ("pop3", 110),
    ("sunrpc", 111),
    ("ntp", 123),
    ("imap2", 143),
    ("imap", 143),
    ("snmp", 161),
    ("https", 443),
    ("submissions", 465),
    ("submission", 587),
    ("imaps", 993),
    ("pop3s", 995),
    ("mysql", 3306),
    ("postgresql", 5432),
];

pub(super) fn port_range(text: &str) -> Result<(u16, u16), WordError> {
    let one = |text: &str, open: u16| -> Result<u16, WordError> {
        let service = SERVICES.iter().find(|(name, _)| *name == text);
        match (text.is_empty(), service, text.parse()) {
            (true, _, _) => Ok(open),
            (_, Some((_, port)), _) => Ok(*port),
            (_, None, Ok(port)) => Ok(port),
            (_, None, Err(_)) => Err((
                format!("`{text}` is not a port"),
                "write a number from 0 to 65535; only common service names are known",
            )),
        }
    };
    let (first, last) = match text.split_once(':') {
        Some((first, last)) => (one(first, 0)?, one(last, u16::MAX)?),
        None => (one(text, 0)?, one(text, 0)?),
    };
    match first <= last {
        true => Ok((first, last)),
        false => Err((
            format!("`{text}` ends before it starts"),
            "write it like 8000:8100",
        )),
    }
}

/// TCP flag bits (RFC 9293 section 3.1).
pub(in crate::import) const SYN: u8 = 0x02;

pub(in crate::import) const RST: u8 = 0x04;

pub(in crate::import) const ACK: u8 = 0x10;

pub(super) fn tcp_flags(text: &str) -> Result<u8, WordError> {
    let mut bits = 0;
    for name in text.split(',') {
        bits |= match name {
            "FIN" => 0x01,
            "SYN" => SYN,
            "RST" => RST,
            "PSH" => 0x08,
            "ACK" => ACK,
            "URG" => 0x20,
            "ALL" => 0x3f,
            "NONE" => 0,
            other => {
                return Err((
                    format!("`{other}` is not a TCP flag"),
                    "the flags are FIN, SYN, RST, PSH, ACK, URG, ALL and NONE",
                ));
            }
        };
    }
    Ok(bits)
}

/// Parses iptables' common names of ICMP types and codes (`icmp_codes` in
/// `extensions/libxt_icmp.h`).
pub(super) fn icmp_name(family: Family, name: &str) -> Option<Test> {
    let (kind, code) = match (family, name) {
        (Family::V4, "echo-reply" | "pong") => (0, None),
        (Family::V4, "destination-unreachable") => (3, None),
        (Family::V4, "network-unreachable") => (3, Some(0)),
        (Family::V4, "host-unreachable") => (3, Some(1)),
        (Family::V4, "protocol-unreachable") => (3, Some(2)),
        (Family::V4, "port-unreachable") => (3, Some(3)),
        (Family::V4, "fragmentation-needed") => (3, Some(4)),
        (Family::V4, "source-quench") => (4, None),
        (Family::V4, "redirect") => (5, None),
        (Family::V4, "echo-request" | "ping") => (8, None),
        (Family::V4, "router-advertisement") => (9, None),
        (Family::V4, "router-solicitation") => (10, None),
        (Family::V4, "time-exceeded" | "ttl-exceeded") => (11, None),
        (Family::V4, "parameter-problem") => (12, None),
        (Family::V4, "timestamp-request") => (13, None),
        (Family::V4, "timestamp-reply") => (14, None),
        (Family::V4, "address-mask-request") => (17, None),
        (Family::V4, "address-mask-reply") => (18, None),
        (Family::V6, "destination-unreachable") => (1, None),
        (Family::V6, "packet-too-big") => (2, None),
        (Family::V6, "time-exceeded" | "ttl-exceeded") => (3, None),
        (Family::V6, "parameter-problem") => (4, None),
        (Family::V6, "echo-request" | "ping") => (128, None),
        (Family::V6, "echo-reply" | "pong") => (129, None),
        (Family::V6, "router-solicitation") => (133, None),
        (Family::V6, "router-advertisement") => (134, None),
        (Family::V6, "neighbour-solicitation" | "neighbor-solicitation") => (135, None),
        (Family::V6, "neighbour-advertisement" | "neighbor-advertisement") => (136, None),
        (Family::V6, "redirect") => (137, None),
        _ => return None,
    };
    Some(Test::Icmp(vec![(kind, code)]))
}

/// Reports whether this protocol is the family's ICMP.
pub(in crate::import) fn is_icmp(family: Family, protocol: u8) -> bool {
    matches!(
        (family, protocol),
        (Family::V4, ICMP) | (Family::V6, ICMPV6)
    )
}

/// Reports whether iptables can match ports of a protocol.
pub(in crate::import) fn has_ports(protocol: u8) -> bool {
    port::has_ports(protocol)
}
