//! Addresses as numbers, prefixes and text.

mod parse;
mod set;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use parse::{AddressError, check_pods, parse_source, parse_target};
pub use set::{AddrSet, FamilySet, Span};

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns `4` or `6`, the suffix of set names.
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// Returns the length of an address in bits.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// Converts an address to a number, 0 up to 2³²−1 or 2¹²⁸−1.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// Converts a number to an address. For [`Family::V4`], the upper 96 bits are ignored.
pub fn address(family: Family, number: u128) -> IpAddr {
    match family {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the upper bits are ignored"
        )]
        Family::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// Returns the prefix with this first and last address, if there is one.
pub fn prefix(family: Family, first: u128, last: u128) -> Option<IpNet> {
    let size = last.checked_sub(first)?;
    let host_bits = match size.checked_add(1) {
        None => 128,
        Some(n) if n.is_power_of_two() => n.trailing_zeros(),
        Some(_) => return None,
    };
    let len = u32::from(family.bits()).checked_sub(host_bits)?;
    let net = IpNet::new(address(family, first), u8::try_from(len).ok()?).ok()?;
    (number(net.network()) == first).then_some(net)
}

/// Returns the first and last number of a prefix.
pub fn bounds(net: IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => (
            u128::from(u32::from(net.network())),
            u128::from(u32::from(net.broadcast())),
        ),
        IpNet::V6(net) => (u128::from(net.network()), u128::from(net.broadcast())),
    }
}

/// Reports whether a pod could have this address: private (RFC 1918, RFC 4193) or shared (RFC 6598)
/// space.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Returns whether two prefixes have an address in common.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Returns the prefixes that cover `net` without `holes`.
pub fn subtract(net: IpNet, holes: &[IpNet]) -> Vec<IpNet> {
    let hit: Vec<IpNet> = holes
        .iter()
        .copied()
        .filter(|hole| overlap(net, *hole))
        .collect();
    if hit.is_empty() {
        return vec![net];
    }
    if hit.iter().any(|hole| hole.contains(&net)) {
        return Vec::new();
    }
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| subtract(half, &hit)).collect()
}

fn short_v4(net: Ipv4Net) -> String {
    short(IpNet::V4(net))
}

fn short_v6(net: Ipv6Net) -> String {
    short(IpNet::V6(net))
}

/// Formats a prefix, without the length for a single host.
pub fn short(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pod_networks_are_plausible() {
        let nets = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        for fine in [
            &["10.0.0.0/8"][..],
            &["10.244.0.0/16", "fd00:10:244::/56"],
            &["fd00::/8", "100.64.0.0/10"],
            // Class E, which GKE documents for pods.
            &["240.0.0.0/8"],
            &["2001:db8::/32"],
        ] {
            assert_eq!(check_pods(&nets(fine)), Ok(()), "{fine:?}");
        }
        for (net, wants) in [
            ("0.0.0.0/0", "every address"),
            ("::/0", "every address"),
            ("0.0.0.0/1", "0.0.0.0/8"),
            ("128.0.0.0/1", "169.254.0.0/16"),
            ("0.1.0.0/16", "0.0.0.0/8"),
            ("127.1.0.0/16", "127.0.0.0/8"),
            ("169.254.0.0/16", "link-local"),
            ("224.0.0.0/8", "224.0.0.0/4"),
            ("255.255.255.0/24", "broadcast"),
            ("32.0.0.0/3", "too large"),
            ("10.0.0.0/7", "too large"),
            ("::/64", "unspecified"),
            ("::ffff:10.0.0.0/104", "IPv4-mapped"),
            ("fe80::/64", "fe80::/10"),
            ("ff05::/16", "ff00::/8"),
            ("2000::/3", "too large"),
            ("2000::/15", "too large"),
            ("fc00::/7", "too large"),
        ] {
            let wrong = check_pods(&nets(&[net, "10.244.0.0/16"])).expect_err(net);
            assert_eq!(wrong.len(), 1, "{net}");
            assert_eq!(wrong[0].0, 0, "{net}");
            assert!(wrong[0].1.message.contains(wants), "{net}: {}", wrong[0].1);
        }
        let many: Vec<IpNet> = (11u8..=75)
            .map(|n| IpNet::new(Ipv4Addr::new(n, 0, 0, 0).into(), 8).unwrap())
            .collect();
        assert_eq!(check_pods(&many[..64]), Ok(()));
        let wrong = check_pods(&many).unwrap_err();
        assert_eq!(wrong.len(), 1);
        assert_eq!(wrong[0].0, 64);
        assert!(wrong[0].1.message.contains("quarter"), "{}", wrong[0].1);
    }

    #[test]
    fn every_wrong_address_is_refused_with_what_would_do() {
        for (text, message, help) in [
            ("10.0.0.1/24", "host bits", "10.0.0.0/24"),
            ("10.0.0.0/255.255.255.0", "netmask", "10.0.0.0/24"),
            ("10.0.0.0/33", "prefix length", "0 to 32"),
            ("2001:db8::/129", "prefix length", "0 to 128"),
            ("10.0.0", "not an IP address", "four numbers"),
            ("10.0.0.256", "not an IP address", "at most 255"),
            ("010.0.0.1", "not an IP address", "leading zero"),
            ("10.0.0.4-10.0.0.7", "prefixes", "10.0.0.4/30"),
            ("10.0.0.1-10.0.0.2", "prefixes", "10.0.0.1, 10.0.0.2"),
            ("fe80::1%eth0", "zone", "interfaces = [\"eth0\"]"),
            ("::ffff:192.0.2.1", "IPv4-mapped", "192.0.2.1"),
            ("worker-1.example", "not an IP address", "host names"),
            ("224.0.0.1", "multicast", ""),
            ("ff02::1", "multicast", ""),
            ("127.0.0.1", "loopback", ""),
            ("0.0.0.0", "unspecified", ""),
            (" 10.0.0.1", "not an address", "spaces"),
            ("", "not an address", ""),
        ] {
            let err = parse_source(text).expect_err(text).to_string();
            assert!(err.contains(message) && err.contains(help), "{text}: {err}");
        }
    }

    #[test]
    fn holes_are_cut_out_of_a_prefix() {
        let nets = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        for (net, holes, left) in [
            ("10.0.0.0/8", vec![], vec!["10.0.0.0/8"]),
            ("10.0.0.0/8", vec!["11.0.0.0/8"], vec!["10.0.0.0/8"]),
            ("10.0.0.0/8", vec!["0.0.0.0/0"], vec![]),
            (
                "10.0.0.0/30",
                vec!["10.0.0.1/32"],
                vec!["10.0.0.0/32", "10.0.0.2/31"],
            ),
            ("10.0.0.0/8", vec!["2001:db8::/32"], vec!["10.0.0.0/8"]),
            (
                "fd00::/126",
                vec!["fd00::/127", "fd00::3/128"],
                vec!["fd00::2/128"],
            ),
        ] {
            let found = subtract(net.parse().unwrap(), &nets(&holes));
            assert_eq!(found, nets(&left), "{net} without {holes:?}");
        }
    }

    #[test]
    fn whole_families_and_single_hosts_are_fine() {
        for text in [
            "0.0.0.0/0",
            "::/0",
            "192.0.2.1",
            "192.0.2.1/32",
            "2001:db8::1/128",
        ] {
            assert!(parse_source(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_prefix_comes_back_from_its_bounds() {
        for text in [
            "0.0.0.0/0",
            "::/0",
            "10.0.0.0/8",
            "192.0.2.1/32",
            "255.255.255.254/31",
            "8000::/1",
        ] {
            let net: IpNet = text.parse().unwrap();
            let (first, last) = bounds(net);
            let family = Family::of(net.addr());
            assert_eq!(prefix(family, first, last), Some(net), "{text}");
        }
        assert_eq!(prefix(Family::V4, 1, 2), None, "unaligned");
        assert_eq!(prefix(Family::V4, 0, 2), None, "three addresses");
    }

    #[test]
    fn the_first_name_stays_and_the_larger_prefix() {
        let list = [
            ("10.0.0.1", Some("a")),
            ("10.0.0.1", Some("b")),
            ("10.0.0.2", None),
            ("10.0.0.2", Some("c")),
            ("10.1.1.0/24", Some("d")),
            ("10.1.0.0/16", None),
            ("10.1.0.0/16", Some("e")),
        ];
        let set: AddrSet = list
            .iter()
            .map(|(net, name)| (parse_source(net).unwrap(), *name))
            .collect();
        let names = |spans: &[Span]| -> Vec<String> {
            let name = |span: &Span| span.name.as_deref().unwrap_or_default().to_owned();
            spans.iter().map(name).collect()
        };
        assert_eq!(names(&set.v4.hosts), ["a", "c"]);
        assert_eq!(names(&set.v4.nets), ["e"]);
    }

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in_and_its_prefixes_are_disjoint(
            nets in prop::collection::vec((any::<u32>(), 20u8..=32), 0..40),
            probe in any::<u32>(), pick in any::<prop::sample::Index>(),
        ) {
            let nets: Vec<IpNet> = nets.into_iter().map(|(a, len)| {
                IpNet::new(IpAddr::V4(Ipv4Addr::from(a & 0x0000_ffff)), len).unwrap().trunc()
            }).collect();
            let set: AddrSet = nets.iter().map(|net| (*net, None)).collect();
            let list: Vec<_> = set.v4.nets.iter().map(|span| (span.first, span.last)).collect();
            prop_assert!(list.windows(2).all(|w| w[0].1 < w[1].0), "{list:?}");
            let near = match nets.is_empty() {
                true => IpAddr::V4(Ipv4Addr::from(probe)),
                false => nets[pick.index(nets.len())].addr(),
            };
            for probe in [near, IpAddr::V4(Ipv4Addr::from(probe & 0xffff))] {
                let want = nets.iter().any(|n| n.contains(&probe));
                prop_assert_eq!(set.contains(probe), want);
            }
        }
    }
}
