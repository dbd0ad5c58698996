//! Elements of sets.

use std::net::IpAddr;

use ipnet::IpNet;

use super::sets::{Building, is_of};
use crate::import::rule::Interval;
use crate::net::addr::{self, Family};

/// An element: addresses, and ports in sets that have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    /// Addresses.
    pub span: Interval,
    /// Protocol and ports.
    pub port: Option<(u8, (u16, u16))>,
    /// Whether it is an exception (`nomatch`).
    pub is_exception: bool,
}

impl Element {
    fn new(span: Interval) -> Self {
        Self {
            span,
            port: None,
            is_exception: false,
        }
    }

    /// Reports whether an element has every address of this many bits.
    pub(super) fn is_everything(&self, bits: u32) -> bool {
        let last = u128::MAX >> (128 - bits);
        self.span == (0, last)
    }

    /// Reports whether an element replaces another.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        (self.span, self.port) == (other.span, other.port)
    }

    /// Returns the parts of the element outside of another.
    pub(super) fn without(&self, gone: &Self) -> Vec<Self> {
        if self.port != gone.port {
            return vec![self.clone()];
        }
        let spans = subtract(&[self.span], gone.span);
        let part = |span| Self {
            span,
            ..self.clone()
        };
        spans.into_iter().map(part).collect()
    }
}

/// Removes an interval from others.
fn subtract(spans: &[Interval], (first, last): Interval) -> Vec<Interval> {
    let mut out = Vec::new();
    for (start, end) in spans.iter().copied() {
        if last < start || end < first {
            out.push((start, end));
            continue;
        }
        if start < first {
            out.push((start, first - 1));
        }
        if last < end {
            out.push((last + 1, end));
        }
    }
    out
}

/// Parses the text of an element. A range of networks is as many elements.
pub(super) fn elements(set: &Building, text: &str) -> Result<Vec<Element>, String> {
    if set.kind == "bitmap:port" {
        let (first, last) = port_range(text).ok_or_else(|| format!("`{text}` is not a port"))?;
        let span = (u128::from(first), u128::from(last));
        return within(set, text, vec![Element::new(span)]);
    }
    let (hosts, port) = match set.kind.contains(",port") {
        true => {
            let (hosts, port) = text
                .split_once(',')
                .ok_or_else(|| format!("`{text}` has no port"))?;
            (hosts, Some(ports(port)?))
        }
        false => (text, None),
    };
    let element = |span| Element {
        port,
        ..Element::new(span)
    };
    let found = spans(set, hosts)?.into_iter().map(element).collect();
    within(set, text, found)
}

/// Checks that elements are in the range of a bitmap, as the kernel does.
fn within(set: &Building, text: &str, found: Vec<Element>) -> Result<Vec<Element>, String> {
    let Some((first, last)) = set.range else {
        return Ok(found);
    };
    let is_inside = |each: &Element| first <= each.span.0 && each.span.1 <= last;
    match found.iter().all(is_inside) {
        true => Ok(found),
        false => Err(format!("`{text}` is outside the range of the set")),
    }
}

fn spans(set: &Building, text: &str) -> Result<Vec<Interval>, String> {
    let wrong = || format!("`{text}` is not an IPv{} address", set.family.digit());
    let host = |text: &str| text.parse().ok().filter(|host| is_of(set.family, *host));
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = host(first).zip(host(last)).ok_or_else(wrong)?;
        let (first, last) = (addr::number(first), addr::number(last));
        if first > last {
            return Err(format!("`{text}` ends before it starts"));
        }
        return match set.kind.contains("net") {
            true => Ok(networks(set.family, first, last)),
            false => Ok(masked(set, (first, last))),
        };
    }
    let net = match text.split_once('/') {
        Some(_) => text.parse::<IpNet>().ok(),
        None => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    let net = net
        .filter(|net| is_of(set.family, net.addr()))
        .ok_or_else(wrong)?;
    Ok(masked(set, addr::bounds(net.trunc())))
}

/// Widens addresses to the networks of `netmask`, which the kernel compares instead.
fn masked(set: &Building, span: Interval) -> Vec<Interval> {
    let Some(length) = set.netmask.filter(|_| !set.kind.contains("net")) else {
        return vec![span];
    };
    let widen = |number: u128| {
        let net = IpNet::new(addr::address(set.family, number), length);
        net.map_or((number, number), |net| addr::bounds(net.trunc()))
    };
    vec![(widen(span.0).0, widen(span.1).1)]
}

/// Splits a range into networks.
fn networks(family: Family, first: u128, last: u128) -> Vec<Interval> {
    let mut out = Vec::new();
    let mut next = Some(first);
    while let Some(start) = next.filter(|start| *start <= last) {
        let bits = u32::from(family.bits());
        let mut size = start.trailing_zeros().min(bits);
        let end = |size: u32| match 1_u128.checked_shl(size) {
            Some(count) => start + (count - 1),
            None => u128::MAX,
        };
        while size > 0 && end(size) > last {
            size -= 1;
        }
        out.push((start, end(size)));
        next = end(size).checked_add(1);
    }
    out
}

/// Parses `tcp:80`, `udp:1000-2000` or `80`, which is of TCP.
fn ports(text: &str) -> Result<(u8, (u16, u16)), String> {
    let (protocol, ports) = text.split_once(':').unwrap_or(("tcp", text));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" | "6" => 6,
        "udp" | "17" => 17,
        "sctp" | "132" => 132,
        _ => return Err(format!("`{text}` is not a port of TCP, UDP or SCTP")),
    };
    let range = port_range(ports).ok_or_else(|| format!("`{text}` is not a port"))?;
    Ok((protocol, range))
}

/// Parses `80` or `80-90`.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// Turns elements into the content of a set.
pub(super) mod sort_out {
    use super::super::sets::Building;
    use super::subtract;
    use crate::import::rule::{AddressPort, ImportedSet, Interval};
    use crate::net::addr::Family;

    /// Content of a set of addresses. The smallest network that contains an address decides.
    pub(in super::super) fn addresses(set: &Building) -> ImportedSet {
        let size = |span: &Interval| span.1 - span.0;
        let mut spans: Vec<Interval> = Vec::new();
        if set.elements.iter().any(|element| element.is_exception) {
            let mut elements: Vec<_> = set.elements.iter().collect();
            elements.sort_by_key(|element| std::cmp::Reverse(size(&element.span)));
            for element in elements {
                spans = subtract(&spans, element.span);
                spans.extend((!element.is_exception).then_some(element.span));
            }
        } else {
            spans.extend(set.elements.iter().map(|element| element.span));
        }
        let none = Vec::new();
        let (v4, v6) = match set.family {
            Family::V4 => (spans, none),
            Family::V6 => (none, spans),
        };
        ImportedSet::Addresses {
            family: Some(set.family),
            v4,
            v6,
        }
    }

    /// Content of a set of ports.
    pub(in super::super) fn ports(set: &Building) -> ImportedSet {
        let number = |number: u128| u16::try_from(number).ok();
        let ranges = set.elements.iter().filter_map(|element| {
            let (first, last) = element.span;
            number(first).zip(number(last))
        });
        ImportedSet::Ports(ranges.collect())
    }

    /// Content of a set of addresses with ports.
    pub(in super::super) fn address_ports(set: &Building) -> ImportedSet {
        if set.elements.iter().any(|element| element.is_exception) {
            return ImportedSet::Unknown("it has ports and exceptions".into());
        }
        let elements = set.elements.iter().filter_map(|element| {
            let (protocol, ports) = element.port?;
            let addresses = element.span;
            Some(AddressPort {
                addresses,
                protocol,
                ports,
            })
        });
        ImportedSet::AddressPorts(set.family, elements.collect())
    }
}
