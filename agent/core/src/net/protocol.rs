//! Protocols over IP: numbers, and their names in policies, nft and iptables.

/// `IPPROTO_ICMP`
pub const ICMP: u8 = 1;
/// `IPPROTO_TCP`
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`
pub const UDP: u8 = 17;
/// `IPPROTO_DCCP`
pub const DCCP: u8 = 33;
/// `IPPROTO_ICMPV6`
pub const ICMPV6: u8 = 58;
/// `IPPROTO_SCTP`
pub const SCTP: u8 = 132;

/// Protocol with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// Number from IANA's "Assigned Internet Protocol Numbers".
    pub number: u8,
    /// Name in policies and nft.
    pub name: &'static str,
    /// Other names, from Debian's `/etc/protocols`, which iptables prints, and from iptables.
    pub aliases: &'static [&'static str],
    /// Whether the header starts with two ports.
    pub has_ports: bool,
    /// Whether `ports` of a policy accepts the name. ICMP has its own section.
    pub in_ports: bool,
}

/// Protocols with names, in the order of the policy reference.
pub const ALL: &[Protocol] = &[
    with_ports(TCP, "tcp"),
    with_ports(UDP, "udp"),
    with_ports(SCTP, "sctp"),
    with_ports(DCCP, "dccp"),
    whole(50, "esp", &["ipv6-crypt"]),
    whole(51, "ah", &["ipv6-auth"]),
    whole(47, "gre", &[]),
    whole(4, "ipip", &["ipencap"]),
    whole(41, "ipv6", &[]),
    whole(112, "vrrp", &["carp"]),
    whole(89, "ospf", &["ospfigp"]),
    whole(115, "l2tp", &[]),
    whole(2, "igmp", &[]),
    icmp(ICMP, "icmp", &[]),
    icmp(ICMPV6, "ipv6-icmp", &["icmpv6", "icmp6"]),
];

const fn with_ports(number: u8, name: &'static str) -> Protocol {
    Protocol {
        has_ports: true,
        ..whole(number, name, &[])
    }
}

const fn whole(number: u8, name: &'static str, aliases: &'static [&'static str]) -> Protocol {
    Protocol {
        number,
        name,
        aliases,
        has_ports: false,
        in_ports: true,
    }
}

const fn icmp(number: u8, name: &'static str, aliases: &'static [&'static str]) -> Protocol {
    Protocol {
        in_ports: false,
        ..whole(number, name, aliases)
    }
}

/// Finds a protocol by its number.
pub fn known(number: u8) -> Option<&'static Protocol> {
    ALL.iter().find(|each| each.number == number)
}

/// Finds the number of a protocol by any of its names.
pub fn by_name(name: &str) -> Option<u8> {
    let is_named = |each: &&Protocol| each.name == name || each.aliases.contains(&name);
    ALL.iter().find(is_named).map(|each| each.number)
}

/// Returns whether the header of a protocol starts with two ports.
pub fn has_ports(number: u8) -> bool {
    known(number).is_some_and(|each| each.has_ports)
}

/// Returns the name of ICMP or of a protocol with ports, which nft and iptables print alike; `None`
/// for other protocols, which are written as numbers.
pub fn with_matches(number: u8) -> Option<&'static str> {
    let found = known(number).filter(|each| each.has_ports || !each.in_ports);
    found.map(|each| each.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_number_is_there_once() {
        let mut names = std::collections::BTreeSet::new();
        let mut numbers = std::collections::BTreeSet::new();
        for each in ALL {
            assert!(numbers.insert(each.number), "{}", each.number);
            for name in [each.name].iter().chain(each.aliases) {
                assert!(names.insert(*name), "{name}");
                assert_eq!(by_name(name), Some(each.number));
            }
        }
    }
}
