//! Numbers of the names that nft prints: protocols, ICMP types and codes, flags.
//!
//! Tables: `icmp_type_tbl` and others in nftables' `src/proto.c`, `ct_state_tbl` in `src/ct.c`.

use crate::net::addr::Family;
use crate::net::packet::CtState;
use crate::net::protocol;
use crate::policy::icmp;

/// Names of `/etc/protocols` that nft prints and policies do not have.
const PROTOCOLS: [(&str, u8); 34] = [
    ("ip", 0),
    ("hopopt", 0),
    ("ggp", 3),
    ("st", 5),
    ("egp", 8),
    ("igp", 9),
    ("pup", 12),
    ("hmp", 20),
    ("xns-idp", 22),
    ("rdp", 27),
    ("iso-tp4", 29),
    ("xtp", 36),
    ("ddp", 37),
    ("idpr-cmtp", 38),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("idrp", 45),
    ("rsvp", 46),
    ("skip", 57),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("rspf", 73),
    ("vmtp", 81),
    ("eigrp", 88),
    ("ax.25", 93),
    // IP-in-IP is 4 for the kernel, and `ipencap` there.
    ("ipip", 94),
    ("etherip", 97),
    ("encap", 98),
    ("pim", 103),
    ("ipcomp", 108),
    ("isis", 124),
    ("mobility-header", 135),
    ("udplite", 136),
    ("hip", 139),
];

/// Finds the number of a protocol.
pub(super) fn protocol(name: &str) -> Option<u8> {
    let listed = PROTOCOLS.iter().find(|(known, _)| *known == name);
    listed
        .map(|(_, number)| *number)
        .or_else(|| protocol::by_name(name))
        .or_else(|| (name == "comp").then_some(108))
}

/// ICMPv6 types that nft knows and a policy has no name for.
const MORE_ICMPV6_TYPES: [(&str, u8); 2] =
    [("mld-listener-reduction", 132), ("router-renumbering", 138)];

const ICMP_CODES: [(&str, u8); 8] = [
    ("net-unreachable", 0),
    ("host-unreachable", 1),
    ("prot-unreachable", 2),
    ("port-unreachable", 3),
    ("frag-needed", 4),
    ("net-prohibited", 9),
    ("host-prohibited", 10),
    ("admin-prohibited", 13),
];

const ICMPV6_CODES: [(&str, u8); 6] = [
    ("no-route", 0),
    ("admin-prohibited", 1),
    ("addr-unreachable", 3),
    ("port-unreachable", 4),
    ("policy-fail", 5),
    ("reject-route", 6),
];

fn by_name(table: &[(&str, u8)], name: &str) -> Option<u8> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number)
}

/// Finds the number of an ICMP type.
pub(super) fn icmp_type(family: Family, name: &str) -> Option<u8> {
    let more: &[(&str, u8)] = match family {
        Family::V4 => &[],
        Family::V6 => &MORE_ICMPV6_TYPES,
    };
    icmp::by_name(family, name).or_else(|| by_name(more, name))
}

/// Finds the number of an ICMP code. nft prints the names of unreachable codes for every type.
pub(super) fn icmp_code(family: Family, name: &str) -> Option<u8> {
    match family {
        Family::V4 => by_name(&ICMP_CODES, name),
        Family::V6 => by_name(&ICMPV6_CODES, name),
    }
}

/// Finds the bit of a TCP flag (RFC 9293 section 3.1, RFC 3168 section 6.1).
pub(super) fn tcp_flag(name: &str) -> Option<u64> {
    let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"];
    let found = names.iter().position(|known| *known == name)?;
    Some(1 << found)
}

/// The bit of packets that conntrack rejects, and of those that it has not seen.
pub(super) const INVALID: u64 = 1;
/// The bit of packets that rules exempt from conntrack.
pub(super) const UNTRACKED: u64 = 64;
/// Conntrack states and their bits (`NF_CT_STATE_BIT` in
/// `include/uapi/linux/netfilter/nf_conntrack_common.h`).
pub(super) const STATES: [(&str, CtState, u64); 5] = [
    ("invalid", CtState::Invalid, INVALID),
    ("established", CtState::Established, 2),
    ("related", CtState::Related, 4),
    ("new", CtState::New, 8),
    ("untracked", CtState::Untracked, UNTRACKED),
];

/// Finds the bit of a conntrack state.
pub(super) fn state(name: &str) -> Option<u64> {
    let found = STATES.iter().find(|(known, ..)| *known == name);
    found.map(|(.., bit)| *bit)
}

/// `IPS_DST_NAT`
pub(super) const DNAT: u64 = 1 << 5;

/// Finds the bit of a conntrack status (`enum ip_conntrack_status`).
pub(super) fn status(name: &str) -> Option<u64> {
    Some(match name {
        "expected" => 1,
        "seen-reply" => 1 << 1,
        "assured" => 1 << 2,
        "confirmed" => 1 << 3,
        "snat" => 1 << 4,
        "dnat" => DNAT,
        "dying" => 1 << 9,
        _ => return None,
    })
}
