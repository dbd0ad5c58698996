//! Equivalence classes of packets. Rules treat all packets of a class alike, so one packet of each
//! class determines what the rules do.

use std::net::IpAddr;

use super::rule::{Interval, is_icmp};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Transport};
use crate::policy::icmp;

/// An equivalence class: all numbers contained in exactly the same input spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    /// The numbers, in ascending order.
    pub spans: Vec<Interval>,
}

/// Divides the numbers from 0 to `max` into classes by spans.
pub(super) fn classes(max: u128, spans: &[Interval]) -> Vec<Class> {
    // Each span toggles its own random number at its ends: equal sums mean equal sets of spans.
    let mut toggles: Vec<(u128, u64)> = Vec::new();
    let mut unique: Vec<Interval> = spans.to_vec();
    unique.sort_unstable();
    unique.dedup();
    for (index, (first, last)) in unique.iter().enumerate() {
        let id = scramble(index as u64 + 1);
        toggles.push((*first, id));
        if *last < max {
            toggles.push((last + 1, id));
        }
    }
    toggles.sort_unstable();
    let mut found: std::collections::BTreeMap<u64, usize> = std::collections::BTreeMap::new();
    let mut out: Vec<Class> = Vec::new();
    let (mut start, mut sum) = (0u128, 0u64);
    let mut put = |sum: u64, span: Interval| {
        let index = *found.entry(sum).or_insert_with(|| {
            out.push(Class { spans: Vec::new() });
            out.len() - 1
        });
        if let Some(class) = out.get_mut(index) {
            class.spans.push(span);
        }
    };
    for (at, id) in toggles {
        if at > start {
            put(sum, (start, at - 1));
            start = at;
        }
        sum ^= id;
    }
    put(sum, (start, max));
    out
}

/// Spreads small numbers over 64 bits (splitmix64), so that sums of them do not collide.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An equivalence class of source addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceClass {
    /// All addresses of the class.
    pub spans: Vec<Interval>,
    /// An address of the class that can be the source of a packet.
    pub example: IpAddr,
}

/// A documentation-range address that real rules are unlikely to mention (RFC 5737, RFC 3849).
pub(super) fn stranger(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([198, 51, 100, 77]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xfff0, 0, 0, 0, 0, 0x77]),
    }
}

/// Returns the highest address as a number.
pub(super) fn max(family: Family) -> u128 {
    match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    }
}

/// Returns the classes of possible source addresses.
pub(super) fn sources(family: Family, spans: &[Interval]) -> Vec<SourceClass> {
    let likely = addr::number(stranger(family));
    let classes = classes(max(family), spans);
    let mut found: Vec<SourceClass> = Vec::new();
    for class in classes {
        let inside = |number: u128| class.spans.iter().any(|(a, b)| (*a..=*b).contains(&number));
        let ends = class.spans.iter().flat_map(|(first, last)| [*first, *last]);
        let mut candidates = std::iter::once(likely).filter(|n| inside(*n)).chain(ends);
        let example = candidates
            .find(|number| is_source(addr::address(family, *number)))
            .map(|number| addr::address(family, number));
        if let Some(example) = example {
            found.push(SourceClass {
                spans: class.spans,
                example,
            });
        }
    }
    found
}

/// Returns one address of each class of destinations; `likely` represents its own class.
pub(super) fn destinations(family: Family, spans: &[Interval], likely: IpAddr) -> Vec<IpAddr> {
    let likely = addr::number(likely);
    let example = |class: Class| {
        let inside = class.spans.iter().any(|(a, b)| (*a..=*b).contains(&likely));
        match inside {
            true => Some(likely),
            // The first address of a network does not belong to a host.
            false => class
                .spans
                .first()
                .map(|(a, b)| if b - a > 1 { a + 1 } else { *a }),
        }
    };
    classes(max(family), spans)
        .into_iter()
        .filter_map(example)
        .map(|number| addr::address(family, number))
        .collect()
}

/// Reports whether a packet from another host can have this source address.
fn is_source(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(a) => a.octets()[0] == 0 || a.octets()[0] >= 224,
        IpAddr::V6(a) => {
            a.is_unspecified() || a.to_ipv4_mapped().is_some() || a.is_unicast_link_local()
        }
    };
    !special && !address.is_multicast() && !address.is_loopback()
}

/// An equivalence class of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// Kind of the request.
    pub kind: ServiceKind,
    /// Packets of the class with different source ports.
    pub transports: Vec<Transport>,
}

/// Kind of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ServiceKind {
    /// Ports of a protocol.
    Ports(u8, Vec<(u16, u16)>),
    /// An ICMP type and code.
    Icmp(u8, u8),
    /// A protocol without ports.
    Protocol(u8),
    /// Every other protocol.
    OtherProtocols,
}

/// Values in the conditions of a family's rules.
#[derive(Debug, Clone, Default)]
pub(super) struct Mentioned {
    pub sources: Vec<Interval>,
    pub destinations: Vec<Interval>,
    /// Source ports by protocol; `None` if the rule has no protocol.
    pub source_ports: Vec<(Option<u8>, (u16, u16))>,
    pub destination_ports: Vec<(Option<u8>, (u16, u16))>,
    pub protocols: Vec<u8>,
    pub icmp: Vec<(u8, Option<u8>)>,
    pub interfaces_in: Vec<InterfacePattern>,
    pub interfaces_out: Vec<InterfacePattern>,
    pub untracked: bool,
}

/// A source port that rules are unlikely to mention.
pub(super) const SOURCE_PORT: u16 = 40_000;
/// A protocol number for experimentation and testing (RFC 3692).
const SOME_PROTOCOL: u8 = 253;

/// Returns the classes of requests.
pub(super) fn services(family: Family, mentioned: &Mentioned) -> Vec<Service> {
    let mut with_ports = vec![crate::net::port::TCP, crate::net::port::UDP];
    let mut without: Vec<u8> = Vec::new();
    for protocol in &mentioned.protocols {
        let list = match crate::net::port::has_ports(*protocol) {
            true => &mut with_ports,
            false => &mut without,
        };
        if !list.contains(protocol) && !is_icmp(family, *protocol) {
            list.push(*protocol);
        }
    }
    let mut found = Vec::new();
    for protocol in with_ports {
        let sources = port_classes(protocol, &mentioned.source_ports);
        for class in port_classes(protocol, &mentioned.destination_ports) {
            let Some((destination, _)) = class.first().copied() else {
                continue;
            };
            let transports = sources.iter().map(|from| Transport::Ports {
                protocol,
                source: source_port(from),
                destination,
            });
            found.push(Service {
                transports: transports.collect(),
                kind: ServiceKind::Ports(protocol, class),
            });
        }
    }
    for (kind, code) in icmp_kinds(family, mentioned) {
        found.push(Service {
            kind: ServiceKind::Icmp(kind, code),
            transports: vec![Transport::Icmp { kind, code }],
        });
    }
    for protocol in &without {
        found.push(Service {
            kind: ServiceKind::Protocol(*protocol),
            transports: vec![Transport::Other(*protocol)],
        });
    }
    found.push(Service {
        kind: ServiceKind::OtherProtocols,
        transports: vec![Transport::Other(SOME_PROTOCOL)],
    });
    found
}

fn source_port(class: &[(u16, u16)]) -> u16 {
    let likely = class.iter().any(|(a, b)| (*a..=*b).contains(&SOURCE_PORT));
    match (likely, class.first()) {
        (true, _) | (_, None) => SOURCE_PORT,
        (false, Some((first, _))) => *first,
    }
}

/// Returns the classes of ports, without port 0, which no packet has.
fn port_classes(protocol: u8, mentioned: &[(Option<u8>, (u16, u16))]) -> Vec<Vec<(u16, u16)>> {
    let spans: Vec<Interval> = mentioned
        .iter()
        .filter(|(of, _)| of.is_none_or(|of| of == protocol))
        .map(|(_, (first, last))| (u128::from(*first), u128::from(*last)))
        .chain([(0, 0)])
        .collect();
    let narrow = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
    classes(u128::from(u16::MAX), &spans)
        .into_iter()
        .map(|class| {
            let spans = class.spans.iter().map(|(a, b)| (narrow(*a), narrow(*b)));
            spans.filter(|span| *span != (0, 0)).collect::<Vec<_>>()
        })
        .filter(|spans| !spans.is_empty())
        .collect()
}

fn icmp_kinds(family: Family, mentioned: &Mentioned) -> Vec<(u8, u8)> {
    let mut kinds: Vec<(u8, u8)> = match family {
        Family::V4 => [0, 3, 5, 8, 11, 12, 13].map(|kind| (kind, 0)).to_vec(),
        Family::V6 => [
            1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143,
        ]
        .map(|kind| (kind, 0))
        .to_vec(),
    };
    for (kind, code) in &mentioned.icmp {
        kinds.push((*kind, 0));
        if let Some(code) = code {
            kinds.push((*kind, *code));
            kinds.push((*kind, code.saturating_add(1)));
        }
    }
    // A type that no rule mentions.
    kinds.push((253, 0));
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// Returns the states that a packet can have (`nf_conntrack_proto_*.c`).
pub(super) fn states(family: Family, transport: Transport, untracked: bool) -> &'static [CtState] {
    use CtState::{Established, Invalid, New, Related, Untracked};
    match transport {
        Transport::Ports { .. } if untracked => &[New, Established, Related, Invalid, Untracked],
        Transport::Ports { .. } => &[New, Established, Related, Invalid],
        Transport::Other(_) => &[New, Established],
        Transport::Icmp { kind, .. } => match (family, kind) {
            (Family::V4, 8 | 13 | 15 | 17) | (Family::V6, 128) => &[New, Established],
            (Family::V4, 0 | 14 | 16 | 18) | (Family::V6, 129) => &[Established, Invalid],
            (Family::V6, 130..=137 | 143) => &[Untracked],
            _ if icmp::errors(family).contains(&kind) => &[Related, Invalid],
            _ => &[Invalid],
        },
    }
}

/// Reports whether an ICMP type is always a reply.
pub(super) fn is_reply(family: Family, kind: u8) -> bool {
    matches!(
        (family, kind),
        (Family::V4, 0 | 14 | 16 | 18) | (Family::V6, 129)
    )
}

/// Returns the usual hop limit of a packet of this kind.
pub(super) fn hop_limit(family: Family, transport: Transport) -> u8 {
    match (family, transport) {
        (Family::V6, Transport::Icmp { kind, .. })
            if icmp::NEIGHBOUR_DISCOVERY.contains(&kind) || kind == 137 =>
        {
            icmp::HOP_LIMIT_ON_LINK
        }
        (Family::V6, Transport::Icmp { kind, .. }) if icmp::LISTENER_DISCOVERY.contains(&kind) => {
            icmp::HOP_LIMIT_LISTENER
        }
        _ => 64,
    }
}

/// Returns one interface for each way in which patterns can match. The last one matches none, if
/// such a name exists.
pub(super) fn interfaces(patterns: &[InterfacePattern]) -> Vec<String> {
    let fits = |name: &str| -> Vec<bool> { patterns.iter().map(|p| p.matches(name)).collect() };
    let mut found: Vec<String> = Vec::new();
    let examples = patterns.iter().map(InterfacePattern::example);
    let other = ["eth0", "ens3", "other0", "zz0"]
        .into_iter()
        .map(str::to_owned)
        .find(|name| !fits(name).contains(&true));
    for name in examples.chain(other) {
        if !found.iter().any(|old| fits(old) == fits(&name)) {
            found.push(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_the_same_spans_are_one_class() {
        for (name, spans, want) in [
            ("no spans", vec![], vec![vec![(0, 99)]]),
            (
                "one span in the middle",
                vec![(10, 19)],
                vec![vec![(0, 9), (20, 99)], vec![(10, 19)]],
            ),
            ("all", vec![(0, 99)], vec![vec![(0, 99)]]),
            (
                "one span twice",
                vec![(0, 9), (0, 9)],
                vec![vec![(0, 9)], vec![(10, 99)]],
            ),
            (
                "one span within another",
                vec![(0, 49), (10, 10)],
                vec![vec![(0, 9), (11, 49)], vec![(10, 10)], vec![(50, 99)]],
            ),
        ] {
            let got: Vec<Vec<Interval>> =
                classes(99, &spans).into_iter().map(|c| c.spans).collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn there_is_an_interface_of_each_kind_and_one_of_none() {
        let patterns = [
            InterfacePattern::Prefix("eth".into()),
            InterfacePattern::Exact("eth1".into()),
            InterfacePattern::Exact("lo".into()),
        ];
        assert_eq!(interfaces(&patterns), ["eth0", "eth1", "lo", "ens3"]);
    }
}
