//! Addresses that packets for this host go to.

use super::axes::net;
use crate::import::Facts;
use crate::import::rule::Interval;
use crate::net::addr::{self, Family};

/// Returns the addresses that a host can have, except loopback ones.
pub(in crate::import) fn own_addresses(family: Family, facts: &Facts) -> Vec<Interval> {
    let of_family = |address: &std::net::IpAddr| Family::of(*address) == family;
    let known: Vec<Interval> = facts
        .addresses
        .iter()
        .map(ipnet::IpNet::addr)
        .filter(of_family)
        .filter(|address| !address.is_loopback())
        .map(|address| (addr::number(address), addr::number(address)))
        .collect();
    if !known.is_empty() {
        return known;
    }
    match family {
        Family::V4 => vec![
            (net("1.0.0.0/32").0, net("126.255.255.255/32").0),
            (net("128.0.0.0/32").0, net("223.255.255.255/32").0),
        ],
        Family::V6 => vec![
            (net("::2/128").0, net("::fffe:ffff:ffff/128").0),
            (
                net("::1:0:0:0/128").0,
                net("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128").0,
            ),
        ],
    }
}

/// Returns the addresses of the type broadcast: those of this host's networks, and the two of
/// everybody (`__inet_dev_addr_type()`, net/ipv4/fib_frontend.c).
pub(in crate::import) fn broadcasts(family: Family, facts: &Facts) -> Vec<Interval> {
    let mut found = Vec::new();
    if family == Family::V4 {
        found.extend([net("255.255.255.255/32"), net("0.0.0.0/32")]);
        let nets = facts
            .addresses
            .iter()
            .filter(|net| Family::of(net.addr()) == family);
        for net in nets.filter(|net| net.prefix_len() < 31) {
            let (_, last) = addr::bounds(*net);
            found.push((last, last));
        }
    }
    found
}

/// Returns the addresses of this host as a router of its networks (RFC 4291, section 2.6.1), which
/// Linux takes for its own if it forwards.
pub(in crate::import) fn anycasts(family: Family, facts: &Facts) -> Vec<Interval> {
    const SHARED_MAX: u8 = 126;
    let nets = facts.addresses.iter().filter(|net| {
        let is_shared = net.prefix_len() <= SHARED_MAX && !net.addr().is_loopback();
        family == Family::V6 && Family::of(net.addr()) == family && is_shared
    });
    let mut found: Vec<Interval> = nets
        .map(|net| addr::bounds(*net).0)
        .map(|first| (first, first))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

pub(super) fn multicast(family: Family) -> Interval {
    match family {
        Family::V4 => net("224.0.0.0/4"),
        Family::V6 => net("ff00::/8"),
    }
}

pub(super) fn loopback(family: Family) -> Interval {
    match family {
        Family::V4 => net("127.0.0.0/8"),
        Family::V6 => net("::1/128"),
    }
}
