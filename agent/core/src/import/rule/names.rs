//! Names of services, protocols and ICMP types.

use crate::net::addr::Family;

/// `NAME PORT PROTOCOLS`, one service a line.
const SERVICES: &str = include_str!("services.txt");
/// `NAME NUMBER`, one protocol a line.
const PROTOCOLS: &str = include_str!("protocols.txt");

fn rows(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().filter(|line| !line.starts_with('#'))
}

/// Finds the port of a service. Without a protocol, every service of that name counts, as for
/// `getaddrinfo(3)`.
pub(super) fn service(name: &str, protocol: Option<char>) -> Option<u16> {
    rows(SERVICES).find_map(|line| {
        let mut words = line.split(' ');
        let (found, port, protocols) = (words.next()?, words.next()?, words.next()?);
        let fits = found == name && protocol.is_none_or(|letter| protocols.contains(letter));
        fits.then(|| port.parse().ok())?
    })
}

/// Finds the number of a protocol.
pub(super) fn protocol(name: &str) -> Option<u8> {
    rows(PROTOCOLS).find_map(|line| {
        let (found, number) = line.split_once(' ')?;
        (found == name).then(|| number.parse().ok())?
    })
}

/// An ICMP type, and the code if the name has one.
pub(super) type IcmpKind = (u8, Option<u8>);

/// Names of ICMP types, as `iptables -p icmp -h` lists them (`icmp_codes` in
/// `extensions/libxt_icmp.h`).
pub(super) const ICMP_NAMES: &[(&str, IcmpKind)] = &[
    ("echo-reply", (0, None)),
    ("pong", (0, None)),
    ("destination-unreachable", (3, None)),
    ("network-unreachable", (3, Some(0))),
    ("host-unreachable", (3, Some(1))),
    ("protocol-unreachable", (3, Some(2))),
    ("port-unreachable", (3, Some(3))),
    ("fragmentation-needed", (3, Some(4))),
    ("source-route-failed", (3, Some(5))),
    ("network-unknown", (3, Some(6))),
    ("host-unknown", (3, Some(7))),
    ("network-prohibited", (3, Some(9))),
    ("host-prohibited", (3, Some(10))),
    ("TOS-network-unreachable", (3, Some(11))),
    ("TOS-host-unreachable", (3, Some(12))),
    ("communication-prohibited", (3, Some(13))),
    ("host-precedence-violation", (3, Some(14))),
    ("precedence-cutoff", (3, Some(15))),
    ("source-quench", (4, None)),
    ("redirect", (5, None)),
    ("network-redirect", (5, Some(0))),
    ("host-redirect", (5, Some(1))),
    ("TOS-network-redirect", (5, Some(2))),
    ("TOS-host-redirect", (5, Some(3))),
    ("echo-request", (8, None)),
    ("ping", (8, None)),
    ("router-advertisement", (9, None)),
    ("router-solicitation", (10, None)),
    ("time-exceeded", (11, None)),
    ("ttl-exceeded", (11, None)),
    ("ttl-zero-during-transit", (11, Some(0))),
    ("ttl-zero-during-reassembly", (11, Some(1))),
    ("parameter-problem", (12, None)),
    ("ip-header-bad", (12, Some(0))),
    ("required-option-missing", (12, Some(1))),
    ("timestamp-request", (13, None)),
    ("timestamp-reply", (14, None)),
    ("address-mask-request", (17, None)),
    ("address-mask-reply", (18, None)),
];

/// Names of ICMPv6 types, as `ip6tables -p icmpv6 -h` lists them.
pub(super) const ICMPV6_NAMES: &[(&str, IcmpKind)] = &[
    ("destination-unreachable", (1, None)),
    ("no-route", (1, Some(0))),
    ("communication-prohibited", (1, Some(1))),
    ("beyond-scope", (1, Some(2))),
    ("address-unreachable", (1, Some(3))),
    ("port-unreachable", (1, Some(4))),
    ("failed-policy", (1, Some(5))),
    ("reject-route", (1, Some(6))),
    ("packet-too-big", (2, None)),
    ("time-exceeded", (3, None)),
    ("ttl-exceeded", (3, None)),
    ("ttl-zero-during-transit", (3, Some(0))),
    ("ttl-zero-during-reassembly", (3, Some(1))),
    ("parameter-problem", (4, None)),
    ("bad-header", (4, Some(0))),
    ("unknown-header-type", (4, Some(1))),
    ("unknown-option", (4, Some(2))),
    ("echo-request", (128, None)),
    ("ping", (128, None)),
    ("echo-reply", (129, None)),
    ("pong", (129, None)),
    ("router-solicitation", (133, None)),
    ("router-advertisement", (134, None)),
    ("neighbour-solicitation", (135, None)),
    ("neighbor-solicitation", (135, None)),
    ("neighbour-advertisement", (136, None)),
    ("neighbor-advertisement", (136, None)),
    ("redirect", (137, None)),
];

/// Finds the one ICMP type whose name starts with this text, in any case. iptables refuses a prefix
/// of several names.
pub(super) fn icmp(family: Family, text: &str) -> Option<IcmpKind> {
    let names = match family {
        Family::V4 => ICMP_NAMES,
        Family::V6 => ICMPV6_NAMES,
    };
    only(names, text)
}

/// Finds the value of the one name that starts with this text, in any case.
pub(super) fn only<T: Copy>(names: &[(&str, T)], text: &str) -> Option<T> {
    let mut found = names.iter().filter(|(name, _)| starts(name, text));
    let first = found.next();
    first
        .filter(|_| found.next().is_none())
        .map(|(_, value)| *value)
}

/// Finds the value of the first name that starts with this text, in any case.
pub(super) fn first<T: Copy>(names: &[(&str, T)], text: &str) -> Option<T> {
    let found = names.iter().find(|(name, _)| starts(name, text));
    found.filter(|_| !text.is_empty()).map(|(_, value)| *value)
}

fn starts(name: &str, text: &str) -> bool {
    name.get(..text.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_numbers() {
        for (name, protocol, wanted) in [
            ("ssh", Some('t'), Some(22)),
            ("auth", Some('t'), Some(113)),
            ("ident", Some('t'), Some(113)),
            ("ssmtp", Some('t'), Some(465)),
            ("tftp", Some('u'), Some(69)),
            ("tftp", Some('t'), None),
            ("tftp", None, Some(69)),
            ("SSH", None, None),
            ("", None, None),
        ] {
            assert_eq!(service(name, protocol), wanted, "{name}");
        }
        for (name, wanted) in [
            ("pim", Some(103)),
            ("ipip", Some(94)),
            ("icmpv6", Some(58)),
            ("x", None),
        ] {
            assert_eq!(super::protocol(name), wanted, "{name}");
        }
    }

    #[test]
    fn tables_are_sorted_and_complete() {
        for table in [SERVICES, PROTOCOLS] {
            let names: Vec<&str> = rows(table)
                .filter_map(|line| line.split(' ').next())
                .collect();
            assert!(names.is_sorted(), "{names:?}");
            assert!(names.len() > 50);
        }
        for line in rows(SERVICES) {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(
                matches!(words[..], [_, port, kinds] if port.parse::<u16>().is_ok()
                && kinds.chars().all(|kind| "tus".contains(kind))),
                "{line}"
            );
        }
        for line in rows(PROTOCOLS) {
            let number = line.split_once(' ').map(|(_, number)| number.parse::<u8>());
            assert!(matches!(number, Some(Ok(_))), "{line}");
        }
    }

    #[test]
    fn a_prefix_of_one_icmp_name_is_that_name() {
        for (family, text, wanted) in [
            (Family::V4, "host-prohibited", Some((3, Some(10)))),
            (Family::V4, "Echo-Req", Some((8, None))),
            (Family::V4, "echo", None),
            (Family::V4, "", None),
            (Family::V6, "packet", Some((2, None))),
            (Family::V6, "host-prohibited", None),
        ] {
            assert_eq!(icmp(family, text), wanted, "{text}");
        }
    }
}
