//! Converts spans of addresses to prefixes.

use ipnet::IpNet;

use super::PREFIXES_MAX;
use crate::import::rule::Interval;
use crate::net::addr::{self, Family};

/// Covers spans with the minimum number of prefixes.
pub(super) fn prefixes(family: Family, spans: &[Interval]) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for (first, last) in spans {
        let subnets = match (addr::address(family, *first), addr::address(family, *last)) {
            (std::net::IpAddr::V4(a), std::net::IpAddr::V4(b)) => {
                ipnet::IpSubnets::from(ipnet::Ipv4Subnets::new(a, b, 0))
            }
            (std::net::IpAddr::V6(a), std::net::IpAddr::V6(b)) => {
                ipnet::IpSubnets::from(ipnet::Ipv6Subnets::new(a, b, 0))
            }
            // Both are of `family`.
            _ => continue,
        };
        nets.extend(subnets.take(PREFIXES_MAX + 1));
    }
    nets
}

/// Removes multicast addresses, which are at the end of both families and never a source.
pub(super) fn possible(family: Family, spans: Vec<Interval>) -> Vec<Interval> {
    let last_possible = match family {
        Family::V4 => addr::number(std::net::IpAddr::from([223, 255, 255, 255])),
        Family::V6 => (0xff00_u128 << 112) - 1,
    };
    spans
        .into_iter()
        .filter(|(first, _)| *first <= last_possible)
        .map(|(first, last)| (first, last.min(last_possible)))
        .collect()
}

/// Joins adjacent spans.
pub(super) fn joined(mut spans: Vec<Interval>) -> Vec<Interval> {
    spans.sort_unstable();
    let mut out: Vec<Interval> = Vec::new();
    for (first, last) in spans {
        match out.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => {
                previous.1 = previous.1.max(last)
            }
            _ => out.push((first, last)),
        }
    }
    out
}
