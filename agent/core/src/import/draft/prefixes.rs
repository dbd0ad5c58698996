//! Converts spans of addresses to prefixes.

use ipnet::IpNet;

use super::PREFIXES_MAX;
use crate::import::rule::Interval;
use crate::net::addr::{self, Family};

/// Covers spans with the minimum number of prefixes.
pub(in crate::import) fn prefixes(family: Family, spans: &[Interval]) -> Vec<IpNet> {
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

/// Returns the part of a prefix that can be a source; `None` if there is none. A large prefix may
/// contain addresses that cannot.
pub(super) fn usable(net: IpNet) -> Option<IpNet> {
    match net {
        IpNet::V4(v4) if v4.network().is_multicast() => {
            let rest: ipnet::Ipv4Net = "240.0.0.0/4".parse().ok()?;
            v4.contains(&rest).then_some(rest.into())
        }
        IpNet::V4(v4) => {
            let first = v4.network();
            let is_special = first.is_loopback() || first.octets()[0] == 0 || first.is_broadcast();
            (!is_special || v4.prefix_len() < 8).then_some(net)
        }
        IpNet::V6(v6) => {
            let first = v6.network();
            let is_special = first.is_multicast()
                || first.to_ipv4_mapped().is_some()
                || (v6.prefix_len() > 96 && first.segments()[..5] == [0; 5]);
            (!is_special).then_some(net)
        }
    }
}

pub(super) fn whole(family: Family) -> IpNet {
    let zero = addr::address(family, 0);
    IpNet::new_assert(zero, 0)
}

/// Joins adjacent spans.
pub(in crate::import) fn joined(mut spans: Vec<Interval>) -> Vec<Interval> {
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
