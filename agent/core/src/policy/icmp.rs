//! ICMP types: names, and the safe core.

use crate::net::addr::Family;

/// ICMPv4 types by their names in nft (`icmp_type_tbl` in nftables `src/proto.c`).
const V4: [(&str, u8); 15] = [
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("info-request", 15),
    ("info-reply", 16),
    ("address-mask-request", 17),
    ("address-mask-reply", 18),
];

/// ICMPv6 types by their names in nft (`icmp6_type_tbl`).
const V6: [(&str, u8); 17] = [
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("mld-listener-query", 130),
    ("mld-listener-report", 131),
    ("mld-listener-done", 132),
    ("nd-router-solicit", 133),
    ("nd-router-advert", 134),
    ("nd-neighbor-solicit", 135),
    ("nd-neighbor-advert", 136),
    ("nd-redirect", 137),
    ("ind-neighbor-solicit", 141),
    ("ind-neighbor-advert", 142),
    ("mld2-listener-report", 143),
];

/// Returns the errors that connections need, to this host and through it.
///
/// IPv4 (RFC 1812 section 5.2.7, RFC 1191): destination-unreachable with fragmentation-needed,
/// time-exceeded, parameter-problem. IPv6 (RFC 4890 sections 4.3.1 and 4.4.1):
/// destination-unreachable, packet-too-big, time-exceeded, parameter-problem.
pub fn errors(family: Family) -> &'static [u8] {
    match family {
        Family::V4 => &[3, 11, 12],
        Family::V6 => &[1, 2, 3, 4],
    }
}

/// Types of neighbour and router discovery (RFC 4890 section 4.4.1), without redirect (137), for
/// which section 4.4.4 requires a decision (`[icmp] v6`). RFC 4861 requires a hop limit of 255,
/// which cannot come from beyond the link.
pub const NEIGHBOUR_DISCOVERY: &[u8] = &[133, 134, 135, 136, 141, 142];
/// Hop limit that proves that a packet comes from this link (RFC 4861 section 6.1.1 and others).
pub const HOP_LIMIT_ON_LINK: u8 = 255;

/// Types of multicast listener discovery (RFC 4890 section 4.4.1). The hop limit is 1 (RFC 2710
/// section 3, RFC 3810 section 5), so routers do not forward them.
pub const LISTENER_DISCOVERY: &[u8] = &[130, 131, 132, 143];
/// Hop limit of multicast listener discovery.
pub const HOP_LIMIT_LISTENER: u8 = 1;

/// Returns the type of a redirect: another first hop for a destination (RFC 792, RFC 4861 section
/// 4.5). Its sender can take over a route.
pub fn redirect(family: Family) -> u8 {
    match family {
        Family::V4 => 5,
        Family::V6 => 137,
    }
}

/// Type of a router advertisement of ICMPv6 (RFC 4861 section 4.2).
pub const ROUTER_ADVERTISEMENT: u8 = 134;

/// Types of multicast listener reports, which a host sends from `::` until it has an address (RFC
/// 3590 section 4).
pub const LISTENER_REPORTS: &[u8] = &[131, 132, 143];

/// Returns the type of an echo request.
pub fn echo_request(family: Family) -> u8 {
    match family {
        Family::V4 => 8,
        Family::V6 => 128,
    }
}

fn table(family: Family) -> &'static [(&'static str, u8)] {
    match family {
        Family::V4 => &V4,
        Family::V6 => &V6,
    }
}

/// Finds a type by its name.
pub fn by_name(family: Family, name: &str) -> Option<u8> {
    table(family)
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, number)| *number)
}

/// Returns the name of a type in nft, if there is one.
pub fn name(family: Family, number: u8) -> Option<&'static str> {
    table(family)
        .iter()
        .find(|(_, n)| *n == number)
        .map(|(name, _)| *name)
}

/// Returns all names.
pub fn names(family: Family) -> impl Iterator<Item = &'static str> {
    table(family).iter().map(|(name, _)| *name)
}
