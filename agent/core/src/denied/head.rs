//! Reads the headers at the start of a packet.

use std::net::IpAddr;

use peerwall_proto::netlink::attr::{ipv4, ipv6, port, u16_from_network};

use crate::net::packet::Transport;
use crate::net::port::{ICMP, ICMPV6, TCP, has_ports};

/// Extension headers of IPv6 that precede another header: hop-by-hop options, routing, destination
/// options, mobility, HIP and shim6 (IANA, "IPv6 Extension Header Types").
const EXTENSIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];
/// Fragment header of IPv6.
const FRAGMENT: u8 = 44;
/// Authentication header, whose length has another unit (RFC 4302).
const AUTHENTICATION: u8 = 51;
/// Maximum number of extension headers that are read.
const EXTENSIONS_MAX: usize = 8;

/// Headers of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Number of the protocol after the IP header and its extensions.
    pub protocol: u8,
    /// Header of that protocol; `None` for a later fragment, and if the packet ends before it.
    pub transport: Option<Transport>,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Whether a TCP packet opens a connection: SYN without ACK, FIN and RST.
    pub syn: bool,
}

/// Reads the headers of a packet; `None` if it is neither IPv4 nor IPv6, or ends before its
/// addresses.
pub fn parse(bytes: &[u8]) -> Option<Head> {
    match bytes.first()? >> 4 {
        4 => parse_v4(bytes),
        6 => parse_v6(bytes),
        _ => None,
    }
}

fn parse_v4(bytes: &[u8]) -> Option<Head> {
    let header_bytes = usize::from(bytes.first()? & 0x0f) * 4;
    let fragment_offset = u16_from_network(bytes.get(6..8)?)? & 0x1fff;
    let protocol = *bytes.get(9)?;
    let body = match fragment_offset {
        0 if header_bytes >= 20 => bytes.get(header_bytes..),
        _ => None,
    };
    Some(Head {
        source: ipv4(bytes.get(12..16)?)?,
        destination: ipv4(bytes.get(16..20)?)?,
        protocol,
        transport: body.and_then(|body| transport(protocol, ICMP, body)),
        hop_limit: *bytes.get(8)?,
        syn: body.is_some_and(|body| is_syn(protocol, body)),
    })
}

fn parse_v6(bytes: &[u8]) -> Option<Head> {
    let (protocol, body) = after_extensions(*bytes.get(6)?, bytes.get(40..)?);
    Some(Head {
        source: ipv6(bytes.get(8..24)?)?,
        destination: ipv6(bytes.get(24..40)?)?,
        protocol,
        transport: body.and_then(|body| transport(protocol, ICMPV6, body)),
        hop_limit: *bytes.get(7)?,
        syn: body.is_some_and(|body| is_syn(protocol, body)),
    })
}

/// Skips extension headers. Returns the protocol after them, and its bytes unless the packet is a
/// later fragment or ends before them.
fn after_extensions(first: u8, mut rest: &[u8]) -> (u8, Option<&[u8]>) {
    let mut protocol = first;
    for _ in 0..EXTENSIONS_MAX {
        let units = rest.get(1).copied().map_or(0, usize::from);
        let len_bytes = match protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (units + 2) * 4,
            _ if EXTENSIONS.contains(&protocol) => (units + 1) * 8,
            _ => return (protocol, Some(rest)),
        };
        let Some(next) = rest.first().copied() else {
            return (protocol, None);
        };
        let offset = rest.get(2..4).and_then(u16_from_network).unwrap_or(0) >> 3;
        if protocol == FRAGMENT && offset != 0 {
            return (next, None);
        }
        match rest.get(len_bytes..) {
            Some(after) => (protocol, rest) = (next, after),
            None => return (next, None),
        }
    }
    (protocol, None)
}

fn transport(protocol: u8, icmp: u8, body: &[u8]) -> Option<Transport> {
    if has_ports(protocol) {
        return Some(Transport::Ports {
            protocol,
            source: port(body.get(..2)?)?,
            destination: port(body.get(2..4)?)?,
        });
    }
    if protocol == icmp {
        return Some(Transport::Icmp {
            kind: *body.first()?,
            code: *body.get(1)?,
        });
    }
    Some(Transport::Other(protocol))
}

fn is_syn(protocol: u8, body: &[u8]) -> bool {
    /// FIN, SYN, RST and ACK (RFC 9293).
    const MASK: u8 = 0x17;
    const SYN: u8 = 0x02;
    protocol == TCP && body.get(13).is_some_and(|flags| flags & MASK == SYN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::port::UDP;

    fn v4(protocol: u8, fragment: [u8; 2], options: usize, body: &[u8]) -> Vec<u8> {
        let ihl = 5 + u8::try_from(options).unwrap();
        let mut bytes = vec![0x40 | ihl, 0, 0, 0, 0, 0, fragment[0], fragment[1]];
        bytes.extend([63, protocol, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1]);
        bytes.extend(vec![1; options * 4]);
        bytes.extend(body);
        bytes
    }

    fn v6(next: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 62];
        for last in [7, 1] {
            bytes.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        bytes.extend(body);
        bytes
    }

    /// Ports 4000 and 80, with flags of TCP.
    fn tcp(flags: u8) -> Vec<u8> {
        let mut body = vec![0x0f, 0xa0, 0, 80];
        body.extend([0; 8]);
        body.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        body
    }

    fn ports(protocol: u8) -> Option<Transport> {
        Some(Transport::Ports {
            protocol,
            source: 4000,
            destination: 80,
        })
    }

    #[test]
    fn headers_are_found_behind_options_and_extensions() {
        const PORTS: [u8; 4] = [0x0f, 0xa0, 0, 80];
        let echo = |kind| Some(Transport::Icmp { kind, code: 0 });
        let with = |header: &[u8], body: &[u8]| [header, body].concat();
        let hop = [UDP, 0, 0, 0, 0, 0, 0, 0];
        let long = [UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let authentication = [UDP, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        let first = [UDP, 0, 0, 1, 0, 0, 0, 9];
        let later = [UDP, 0, 0, 9, 0, 0, 0, 9];
        for (name, bytes, protocol, transport, syn) in [
            ("tcp", v4(TCP, [0, 0], 0, &tcp(2)), TCP, ports(TCP), true),
            (
                "syn and ack",
                v4(TCP, [0, 0], 0, &tcp(18)),
                TCP,
                ports(TCP),
                false,
            ),
            (
                "options",
                v4(TCP, [0x40, 0], 2, &tcp(2)),
                TCP,
                ports(TCP),
                true,
            ),
            (
                "first fragment",
                v4(UDP, [0x20, 0], 0, &PORTS),
                UDP,
                ports(UDP),
                false,
            ),
            (
                "later fragment",
                v4(TCP, [0, 1], 0, &tcp(2)),
                TCP,
                None,
                false,
            ),
            ("icmp", v4(ICMP, [0, 0], 0, &[8, 0]), ICMP, echo(8), false),
            ("cut", v4(UDP, [0, 0], 0, &[1, 2, 3]), UDP, None, false),
            ("sctp", v4(132, [0, 0], 0, &PORTS), 132, ports(132), false),
            (
                "gre",
                v4(47, [0, 0], 0, &[]),
                47,
                Some(Transport::Other(47)),
                false,
            ),
            ("tcp over IPv6", v6(TCP, &tcp(2)), TCP, ports(TCP), true),
            ("icmpv6", v6(ICMPV6, &[128, 0]), ICMPV6, echo(128), false),
            (
                "hop-by-hop",
                v6(0, &with(&hop, &PORTS)),
                UDP,
                ports(UDP),
                false,
            ),
            (
                "two units",
                v6(60, &with(&long, &PORTS)),
                UDP,
                ports(UDP),
                false,
            ),
            (
                "authenticated",
                v6(51, &with(&authentication, &PORTS)),
                UDP,
                ports(UDP),
                false,
            ),
            (
                "first of IPv6",
                v6(44, &with(&first, &PORTS)),
                UDP,
                ports(UDP),
                false,
            ),
            (
                "later of IPv6",
                v6(44, &with(&later, &PORTS)),
                UDP,
                None,
                false,
            ),
            ("extension cut", v6(60, &long[..9]), UDP, None, false),
            ("nothing follows", v6(60, &[]), 60, None, false),
            (
                "no next header",
                v6(59, &[]),
                59,
                Some(Transport::Other(59)),
                false,
            ),
        ] {
            let head = parse(&bytes).unwrap();
            let found = (head.protocol, head.transport, head.syn);
            assert_eq!(found, (protocol, transport, syn), "{name}");
            let (source, limit) = match bytes[0] >> 4 {
                4 => ("198.51.100.7", 63),
                _ => ("2001:db8::7", 62),
            };
            assert_eq!(
                (head.source, head.hop_limit),
                (source.parse().unwrap(), limit)
            );
        }
    }

    #[test]
    fn what_is_no_packet_is_not_read() {
        for (name, bytes) in [
            ("empty", Vec::new()),
            ("arp", vec![0, 1, 8, 0]),
            (
                "IPv4 without addresses",
                v4(TCP, [0, 0], 0, &[])[..19].to_vec(),
            ),
            ("IPv6 without addresses", v6(TCP, &[])[..39].to_vec()),
        ] {
            assert_eq!(parse(&bytes), None, "{name}");
        }
    }

    #[test]
    fn extensions_without_end_are_given_up() {
        let body = [0, 0, 0, 0, 0, 0, 0, 0].repeat(100);
        assert_eq!(parse(&v6(0, &body)).unwrap().transport, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            version in prop::sample::select(vec![0x45, 0x4f, 0x60, 0x00]),
            bytes in prop::collection::vec(any::<u8>(), 0..128),
            next in prop::sample::select(vec![0u8, 43, 44, 51, 60, 6, 17, 58]),
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = version; }
            if let Some(byte) = bytes.get_mut(6) { *byte = next; }
            let _ = parse(&bytes);
        }
    }
}
