//! Packets, byte by byte.

#![expect(
    clippy::big_endian_bytes,
    reason = "headers of the Internet protocols are in network byte order"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::named::Named;
use super::twins::{OWN_V4, OWN_V6, THROUGH_V4, THROUGH_V6};
use crate::random::Random;
use crate::setup::{HOST_MAC, WIRE_MAC};

/// A packet: a frame, or the frames of its fragments.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Index of the interface that it comes to.
    pub wire: usize,
    /// Frames, in the order of their sending.
    pub frames: Vec<Vec<u8>>,
    /// Number of the packet.
    pub number: u16,
    /// Whether it is of IPv6.
    pub is_v6: bool,
    /// Whether an address is no other link's: link-local (RFC 4291, section 2.5.6), or none.
    pub is_on_link: bool,
    /// Whether it is sent to port 0, which a policy cannot name.
    pub is_to_port_0: bool,
    /// Whether its transport header is not whole: iptables drops it where a match needs more.
    pub is_cut: bool,
    /// Whether a fragment of it is missing, so that connection tracking keeps the rest back.
    pub is_in_part: bool,
    /// Whether it is of TCP and to several hosts, which no program receives.
    pub is_tcp_to_many: bool,
    /// What was chosen for it.
    pub words: String,
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// The authentication header, RFC 4302.
const AH: u8 = 51;
const UDPLITE: u8 = 136;
const SCTP: u8 = 132;
/// Protocols that have no reader of their own here.
const OTHERS: [u8; 10] = [2, 4, 33, 41, 47, 50, 51, 89, 112, 253];
/// Types of ICMP.
const KINDS_V4: [u8; 11] = [0, 3, 5, 8, 9, 10, 11, 12, 13, 17, 200];
/// Types of ICMPv6.
const KINDS_V6: [u8; 16] = [
    1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143, 200,
];
/// Extension headers: next header number, and bytes behind its own first one.
const EXTENSIONS: [(u8, [u8; 7]); 3] = [
    // Hop-by-hop and destination options: one PadN of four bytes.
    (0, [0, 1, 4, 0, 0, 0, 0]),
    (60, [0, 1, 4, 0, 0, 0, 0]),
    // Routing of type 2 without segments left (RFC 6275 has 24 bytes; this is what fits).
    (43, [0, 3, 0, 0, 0, 0, 0]),
];

/// Ones' complement sum of 16-bit words (RFC 1071).
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(0).to_be_bytes();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let start = [from.octets(), to.octets()].concat();
            [start, vec![0, protocol], length[2..].to_vec()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let start = [from.octets(), to.octets()].concat();
            [start, length.to_vec(), vec![0, 0, 0, protocol]].concat()
        }
        _ => Vec::new(),
    }
}

/// Whether an address is of several hosts, or of none.
fn is_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let is_broadcast = address.octets()[3] == 255;
            address.is_multicast() || is_broadcast || address.is_unspecified()
        }
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// What is behind the IP header, with its protocol.
fn body(random: &mut Random, named: &Named, from: IpAddr, to: IpAddr) -> (u8, Vec<u8>, String) {
    let is_v6 = from.is_ipv6();
    let any = |random: &mut Random| 1024 + u16::try_from(random.below(60_000)).unwrap_or(0);
    let source = match random.chance(25) {
        true => named.number(random),
        false => any(random),
    };
    let destination = named.number(random);
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    let payload = vec![0x55; [0, 0, 1, 8, 40, 300][random.below(6)]];
    let (protocol, at, mut bytes, words) = match random.below(20) {
        0..8 => {
            let flags = match random.below(4) {
                0 => 1_u16 << random.below(9),
                1 => u16::try_from(random.below(512)).unwrap_or(0),
                _ => 2,
            };
            let offset = (5 << 12) | flags;
            let mut bytes = ports;
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]);
            bytes.extend(offset.to_be_bytes());
            bytes.extend([4, 0, 0, 0, 0, 0]);
            let words = format!("tcp {source}>{destination} flags {flags:#x}");
            (TCP, Some(16), bytes, words)
        }
        8..13 => {
            let length = u16::try_from(8 + payload.len()).unwrap_or(8);
            let bytes = [ports, length.to_be_bytes().to_vec(), vec![0, 0]].concat();
            (UDP, Some(6), bytes, format!("udp {source}>{destination}"))
        }
        13..16 => {
            let kind = match (is_v6, random.chance(20)) {
                (_, true) => named.number(random).to_be_bytes()[1],
                (false, false) => KINDS_V4[random.below(KINDS_V4.len())],
                (true, false) => KINDS_V6[random.below(KINDS_V6.len())],
            };
            let code = [0, 0, 0, 1, 4][random.below(5)];
            let [high, low] = any(random).to_be_bytes();
            let bytes = vec![kind, code, 0, 0, high, low, 0, 1];
            let protocol = if is_v6 { ICMPV6 } else { ICMP };
            (protocol, Some(2), bytes, format!("icmp {kind}/{code}"))
        }
        16 => {
            let bytes = [ports, vec![0; 4]].concat();
            (UDPLITE, Some(6), bytes, format!("udplite >{destination}"))
        }
        17 => {
            // An INIT chunk (RFC 9260, section 3.3.2); its CRC is wrong.
            let chunk = [1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1];
            let bytes = [ports, vec![0; 8], chunk.to_vec()].concat();
            (SCTP, None, bytes, format!("sctp >{destination}"))
        }
        _ => {
            let protocol = OTHERS[random.below(OTHERS.len())];
            (protocol, None, vec![0; 24], format!("protocol {protocol}"))
        }
    };
    bytes.extend(payload);
    if let Some(at) = at {
        // ICMP's has no pseudo header.
        let pseudo = match protocol {
            ICMP => Vec::new(),
            _ => pseudo_header(from, to, protocol, bytes.len()),
        };
        // What reads ICMP also reads its checksum, so that the verdict changes nothing.
        let is_icmp = [ICMP, ICMPV6].contains(&protocol);
        let wrong = u16::from(!is_icmp && random.chance(3));
        let sum = checksum(&[&pseudo, &bytes]).wrapping_add(wrong);
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    // iptables drops what is too short for a match of its own, whatever the rules say.
    if protocol != ICMPV6 && random.chance(2) {
        bytes.truncate(random.below(12));
    }
    (protocol, bytes, words)
}

/// Header fields that rules can look at.
struct Header {
    from: IpAddr,
    to: IpAddr,
    hop_limit: u8,
    class: u8,
    number: u16,
}

impl Header {
    /// One packet, or one fragment of it. The offset is in units of 8 bytes.
    fn v4(&self, protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (self.from, self.to) else {
            return Vec::new();
        };
        let header = 20 + options.len();
        let length = u16::try_from(header + payload.len()).unwrap_or(0);
        let words = u8::try_from(header / 4).unwrap_or(5);
        let mut out = vec![0x40 | words, self.class];
        out.extend(length.to_be_bytes());
        out.extend(self.number.to_be_bytes());
        out.extend(fragment.to_be_bytes());
        out.extend([self.hop_limit, protocol, 0, 0]);
        out.extend(from.octets());
        out.extend(to.octets());
        out.extend(options);
        let sum = checksum(&[&out]).to_be_bytes();
        out[10..12].copy_from_slice(&sum);
        out.extend(payload);
        out
    }

    fn v6(&self, next: u8, payload: &[u8]) -> Vec<u8> {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (self.from, self.to) else {
            return Vec::new();
        };
        let first = (6 << 28) | (u32::from(self.class) << 20) | u32::from(self.number);
        let mut out = first.to_be_bytes().to_vec();
        out.extend(u16::try_from(payload.len()).unwrap_or(0).to_be_bytes());
        out.extend([next, self.hop_limit]);
        out.extend(from.octets());
        out.extend(to.octets());
        out.extend(payload);
        out
    }
}

/// Where bytes are cut into fragments: at a multiple of 8.
fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    (bytes.len() > 8).then(|| bytes.split_at(8))
}

/// What is kept of two fragments.
fn kept(random: &mut Random, both: [Vec<u8>; 2]) -> (Vec<Vec<u8>>, &'static str) {
    let [first, second] = both;
    match random.below(6) {
        0 => (vec![first], "first fragment"),
        1 => (vec![second], "second fragment"),
        2 => (vec![second, first], "fragments backwards"),
        _ => (vec![first, second], "fragments"),
    }
}

fn packets_v4(
    random: &mut Random,
    header: &Header,
    protocol: u8,
    bytes: &[u8],
) -> (Vec<Vec<u8>>, &'static str) {
    let options: &[u8] = match random.below(30) {
        // Router alert; record route with room for one; no-operations.
        0 => &[148, 4, 0, 0],
        1 => &[7, 7, 4, 0, 0, 0, 0, 0],
        2 => &[1, 1, 1, 0],
        _ => &[],
    };
    let flag = if random.chance(40) { 0x4000 } else { 0 };
    match cut(bytes).filter(|_| random.chance(7)) {
        Some((start, rest)) => {
            let both = [
                header.v4(protocol, options, 0x2000, start),
                header.v4(protocol, options, 1, rest),
            ];
            kept(random, both)
        }
        None => (vec![header.v4(protocol, options, flag, bytes)], ""),
    }
}

fn packets_v6(
    random: &mut Random,
    header: &Header,
    protocol: u8,
    bytes: &[u8],
) -> (Vec<Vec<u8>>, &'static str) {
    if random.chance(8) {
        let (next, rest) = EXTENSIONS[random.below(EXTENSIONS.len())];
        let extension = [vec![protocol], rest.to_vec(), bytes.to_vec()].concat();
        return (vec![header.v6(next, &extension)], "extension header");
    }
    match cut(bytes).filter(|_| random.chance(7)) {
        Some((start, rest)) => {
            let id = [
                0,
                0,
                header.number.to_be_bytes()[0],
                header.number.to_be_bytes()[1],
            ];
            let one = |offset: u16, part: &[u8]| {
                let head = [
                    vec![protocol, 0],
                    offset.to_be_bytes().to_vec(),
                    id.to_vec(),
                ];
                header.v6(44, &[head.concat(), part.to_vec()].concat())
            };
            let both = [one(1, start), one(8, rest)];
            kept(random, both)
        }
        None => (vec![header.v6(protocol, bytes)], ""),
    }
}

/// Where it goes: to the host, to all, or through.
fn destination(random: &mut Random, named: &Named, is_v6: bool) -> IpAddr {
    let of = |all: &[&str], random: &mut Random| all[random.below(all.len())].to_owned();
    let text = match (random.below(10), is_v6) {
        (0..5, false) => of(&OWN_V4, random),
        (0..5, true) => of(&OWN_V6, random),
        (5..8, false) => of(&THROUGH_V4, random),
        (5..8, true) => of(&THROUGH_V6, random),
        _ => return named.some_address(random, is_v6),
    };
    text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

fn destination_mac(random: &mut Random, to: IpAddr) -> [u8; 6] {
    let kind = match to {
        IpAddr::V4(to) if to.is_broadcast() || to.octets()[3] == 255 => 1,
        IpAddr::V4(to) if to.is_multicast() => 2,
        IpAddr::V6(to) if to.is_multicast() => 3,
        IpAddr::V4(_) | IpAddr::V6(_) => 0,
    };
    // A frame for all with a packet for one is no rule's business but those of frame types.
    let kind = if random.chance(4) {
        random.below(4)
    } else {
        kind
    };
    let low = match to {
        IpAddr::V4(to) => to.octets(),
        IpAddr::V6(to) => {
            let [.., a, b, c, d] = to.octets();
            [a, b, c, d]
        }
    };
    match kind {
        1 => [0xff; 6],
        2 => [0x01, 0, 0x5e, low[1] & 0x7f, low[2], low[3]],
        3 => [0x33, 0x33, low[0], low[1], low[2], low[3]],
        _ => HOST_MAC,
    }
}

/// Makes one, near to what the rules name.
pub fn packet(
    random: &mut Random,
    named: &Named,
    wires: usize,
    is_v6: bool,
    number: u16,
) -> Packet {
    let to = destination(random, named, is_v6);
    let from = match (random.below(10), is_v6) {
        (0, false) => IpAddr::V4(Ipv4Addr::new(
            198,
            51,
            100,
            60 + number.to_be_bytes()[1] / 4,
        )),
        (0, true) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, number)),
        (1, false) => OWN_V4[random.below(OWN_V4.len())].parse().unwrap_or(to),
        (1, true) => OWN_V6[random.below(OWN_V6.len())].parse().unwrap_or(to),
        _ => named.some_address(random, is_v6),
    };
    let (protocol, bytes, mut words) = body(random, named, from, to);
    let is_link_icmp = protocol == ICMPV6 && bytes.first().is_some_and(|kind| *kind > 129);
    let header = Header {
        from,
        to,
        hop_limit: match random.below(12) {
            0..3 => [1, 2, 254][random.below(3)],
            3 => named.number(random).to_be_bytes()[1].max(1),
            4 => 255,
            _ if is_link_icmp => 255,
            _ => 64,
        },
        class: [0, 0, 0, 0, 0xb8, 0x10, 1, 2, 3, 0x28][random.below(10)],
        number,
    };
    let (packets, how) = match is_v6 {
        false => packets_v4(random, &header, protocol, &bytes),
        true => packets_v6(random, &header, protocol, &bytes),
    };
    let mac = destination_mac(random, to);
    let ether_type = if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    let start = [mac.to_vec(), WIRE_MAC.to_vec(), ether_type.to_vec()].concat();
    let frames = packets
        .iter()
        .map(|bytes| [start.as_slice(), bytes].concat());
    let has_ports = [TCP, UDP, UDPLITE, SCTP].contains(&protocol);
    let header_length = match (protocol, bytes.as_slice()) {
        (TCP, _) => 20,
        (UDP | UDPLITE | ICMP, _) => 8,
        // The authentication header gives its length in words of 4 bytes, and what is behind it may
        // be an extension header too.
        (AH, [next, words, ..]) => match EXTENSIONS.iter().any(|(number, _)| number == next) {
            true => usize::MAX,
            false => (usize::from(*words) + 2) * 4,
        },
        // SCTP and DCCP (RFC 4340).
        _ => 12,
    };
    let is_to_port_0 = has_ports && bytes.get(2..4) == Some(&[0, 0]);
    words = format!(
        "{words} {from} > {to} hops {} class {:#x} {how} {} bytes, frame for {:02x}",
        header.hop_limit,
        header.class,
        bytes.len(),
        mac[0],
    );
    Packet {
        wire: random.below(wires),
        frames: frames.collect(),
        number,
        is_v6,
        is_to_port_0,
        is_in_part: how.ends_with("fragment"),
        is_tcp_to_many: protocol == TCP && is_many(to),
        is_cut: bytes.len() < header_length,
        is_on_link: [from, to].iter().any(|address| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unspecified(),
        }),
        words,
    }
}
