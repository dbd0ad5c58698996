//! Addresses and sets of addresses.
//!
//! A policy's list of addresses becomes single hosts (for hash sets) and disjoint prefixes (for
//! interval sets): the kernel refuses overlapping intervals, and cannot take a contained one away
//! again.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `4` or `6`, as it stands at the end of set names.
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// An address as a number, 0 up to 2³²−1 or 2¹²⁸−1.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// The address of a number. For [`Family::V4`] the upper 96 bits are cut off.
pub fn address(family: Family, number: u128) -> IpAddr {
    match family {
        #[expect(clippy::cast_possible_truncation, reason = "that is what it says")]
        Family::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// A prefix from first and last address, if they make one.
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

/// First and last number of a prefix.
pub fn bounds(net: IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => (
            u128::from(u32::from(net.network())),
            u128::from(u32::from(net.broadcast())),
        ),
        IpNet::V6(net) => (u128::from(net.network()), u128::from(net.broadcast())),
    }
}

/// Whether two prefixes have an address in common.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The prefixes of `net` without those of `holes`.
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

/// Why a text is not an address or prefix, and what would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    /// What is wrong.
    pub message: String,
    /// What would do, if it can be guessed.
    pub help: Option<String>,
}

impl AddressError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// Reads an address or a prefix that can be the source of a packet from elsewhere.
///
/// # Errors
/// [`AddressError`] for what is no address, has host bits set, or can never be such a source.
pub fn parse_source(text: &str) -> Result<IpNet, AddressError> {
    let net = parse_net(text)?;
    let refuse = |what: &str| {
        Err(AddressError::new(format!("`{text}` {what}"))
            .help("write the address that a machine sends from, like 192.0.2.7"))
    };
    if net.prefix_len() == 0 {
        return Ok(net);
    }
    match net.addr() {
        a if a.is_multicast() => refuse("is multicast, which is never the source of a packet"),
        a if a.is_loopback() => {
            refuse("is loopback, which is always accepted and never arrives from elsewhere")
        }
        a if a.is_unspecified() && net.prefix_len() == net.max_prefix_len() => {
            refuse("is the unspecified address; everybody is \"any\" in `from`")
        }
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(v4) => Err(AddressError::new(format!(
                "`{text}` is an IPv4-mapped address, which is never seen in a packet"
            ))
            .help(format!("write {v4}"))),
            None => Ok(net),
        },
        IpAddr::V4(_) => Ok(net),
    }
}

/// Checks that networks can be pods' addresses. Each error names the index of the network.
///
/// 240.0.0.0/4 is accepted, since clusters use it for pods and Linux routes it.
///
/// # Errors
/// [`AddressError`] for every network that no pod can have, that is wider than any pod network, or with which
/// the networks of one family cover more than a quarter of all addresses.
pub fn check_pods(nets: &[IpNet]) -> Result<(), Vec<(usize, AddressError)>> {
    let mut wrong = Vec::new();
    let mut covered = [0u128; 2];
    for (index, net) in nets.iter().enumerate() {
        if let Some(err) = no_pods(*net) {
            wrong.push((index, err));
            continue;
        }
        let family = Family::of(net.addr());
        let (total, quarter) = match family {
            Family::V4 => (&mut covered[0], 1u128 << 30),
            Family::V6 => (&mut covered[1], 1u128 << 126),
        };
        let before = *total;
        let (first, last) = bounds(*net);
        *total = total.saturating_add(last - first).saturating_add(1);
        // Once, for the network that exceeds it.
        if *total > quarter && before <= quarter {
            let message = format!(
                "these networks cover more than a quarter of all IPv{} addresses",
                family.digit()
            );
            wrong.push((index, AddressError::new(message).help(POD_NETWORK)));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong),
    }
}

const POD_NETWORK: &str = "list the cluster's pod networks only, like 10.244.0.0/16";

/// Why no pod network can be this one.
fn no_pods(net: IpNet) -> Option<AddressError> {
    if net.prefix_len() == 0 {
        let err = AddressError::new("an overlay cannot have every address");
        return Some(err.help(POD_NETWORK));
    }
    let reserved = RESERVED.iter().find_map(|(text, what)| {
        let reserved: IpNet = text.parse().ok()?;
        overlap(reserved, net).then_some((reserved, *what))
    });
    if let Some((reserved, what)) = reserved {
        let (net, reserved) = (short(net), short(reserved));
        let message = match net == reserved {
            true => format!("{net} cannot be a pod network: {what}"),
            false => format!("{net} cannot be a pod network: it overlaps {reserved}, {what}"),
        };
        return Some(AddressError::new(message).help(POD_NETWORK));
    }
    // Clusters use up to a /8 of IPv4, as 10.0.0.0/8. Kubernetes assigns a /64 to each node from at most a
    // /48; registries allocate nothing that is shorter than /16. Of the unique local addresses, fd00::/8
    // is the counterpart to 10.0.0.0/8.
    let shortest = match net {
        IpNet::V4(_) => 8,
        IpNet::V6(net) if net.network().is_unique_local() => 8,
        IpNet::V6(_) => 16,
    };
    (net.prefix_len() < shortest).then(|| {
        let message = format!("{net} is too large for a pod network");
        AddressError::new(message).help(format!(
            "the largest that is accepted here is a /{shortest}; {POD_NETWORK}"
        ))
    })
}

/// Addresses that no pod can have.
const RESERVED: [(&str, &str); 9] = [
    ("0.0.0.0/8", "\"this network\" (RFC 1122)"),
    ("127.0.0.0/8", "the loopback addresses"),
    ("169.254.0.0/16", "the link-local addresses"),
    ("224.0.0.0/4", "the multicast addresses"),
    ("255.255.255.255/32", "the broadcast address"),
    ("::/127", "the unspecified and the loopback address"),
    ("::ffff:0.0.0.0/96", "the IPv4-mapped addresses"),
    ("fe80::/10", "the link-local addresses"),
    ("ff00::/8", "the multicast addresses"),
];

/// Reads an address or a prefix that can be dialled from elsewhere.
///
/// # Errors
/// [`AddressError`] for what is no address, has host bits set, or is loopback.
pub fn parse_target(text: &str) -> Result<IpNet, AddressError> {
    let net = parse_net(text)?;
    match net.addr().is_loopback() {
        true => Err(AddressError::new(format!(
            "`{text}` is loopback, which nobody can dial from elsewhere"
        ))
        .help("leave it out")),
        false => Ok(net),
    }
}

fn parse_net(text: &str) -> Result<IpNet, AddressError> {
    // What most are, in lists of very many.
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    if text.trim() != text || text.is_empty() {
        return Err(AddressError::new(format!("`{text}` is not an address"))
            .help("write it without spaces around it"));
    }
    if let Some((first, last)) = text.split_once('-')
        && first.trim().parse::<IpAddr>().is_ok()
    {
        return Err(range_error(text, first.trim(), last.trim()));
    }
    if let Some((address, zone)) = text.split_once('%') {
        return Err(
            AddressError::new(format!("`{text}` has a zone")).help(format!(
                "write {address} and limit it with `interfaces = [\"{zone}\"]`"
            )),
        );
    }
    let Some((address, len)) = text.split_once('/') else {
        return parse_ip(text).map(IpNet::from);
    };
    let address = parse_ip(address)?;
    let max = Family::of(address).bits();
    let len = match (len.parse::<u8>(), len.parse::<Ipv4Addr>()) {
        (Ok(n), _) if n <= max && (len == "0" || !len.starts_with(['0', '+'])) => n,
        (_, Ok(mask)) => return Err(mask_error(text, address, mask)),
        _ => {
            return Err(AddressError::new(format!(
                "`/{len}` is not a prefix length of an IPv{} address",
                Family::of(address).digit()
            ))
            .help(format!("a number from 0 to {max}")));
        }
    };
    let net = IpNet::new(address, len)
        .map_err(|err: ipnet::PrefixLenError| AddressError::new(err.to_string()))?;
    if net.network() != address {
        return Err(
            AddressError::new(format!("`{text}` has host bits set")).help(format!(
                "for the whole network write {}, for the one host {address}",
                net.trunc()
            )),
        );
    }
    Ok(net)
}

fn parse_ip(text: &str) -> Result<IpAddr, AddressError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address);
    }
    let err = AddressError::new(format!("`{text}` is not an IP address"));
    let octets: Vec<&str> = text.split('.').collect();
    let numeric = octets
        .iter()
        .all(|o| !o.is_empty() && o.bytes().all(|b| b.is_ascii_digit()));
    Err(match (numeric, octets.len()) {
        (true, 4) if octets.iter().any(|o| o.len() > 1 && o.starts_with('0')) => {
            err.help("a leading zero could mean octal; write the number without it")
        }
        (true, 4) => err.help("each of its four numbers is at most 255"),
        (true, n) if n < 4 => {
            err.help("an IPv4 address has four numbers; a network ends in /LENGTH")
        }
        _ if text.bytes().any(|b| b.is_ascii_alphabetic()) && !text.contains(':') => {
            err.help("host names are not looked up; write its addresses")
        }
        _ => err.help("like 192.0.2.7, 192.0.2.0/28 or 2001:db8::/64"),
    })
}

fn mask_error(text: &str, address: IpAddr, mask: Ipv4Addr) -> AddressError {
    let err = AddressError::new(format!("`{text}` has a netmask instead of a prefix length"));
    match ipnet::ipv4_mask_to_prefix(mask) {
        Ok(len) => err.help(format!("write {address}/{len}")),
        Err(_) => err.help("and that mask is not one of leading ones"),
    }
}

fn range_error(text: &str, first: &str, last: &str) -> AddressError {
    let err = AddressError::new(format!("`{text}`: ranges are written as prefixes"));
    let nets: Vec<String> = match (first.parse(), last.parse()) {
        (Ok(IpAddr::V4(a)), Ok(IpAddr::V4(b))) if a <= b => ipnet::Ipv4Subnets::new(a, b, 0)
            .map(short_v4)
            .take(9)
            .collect(),
        (Ok(IpAddr::V6(a)), Ok(IpAddr::V6(b))) if a <= b => ipnet::Ipv6Subnets::new(a, b, 0)
            .map(short_v6)
            .take(9)
            .collect(),
        _ => return err.help("like 192.0.2.0/28"),
    };
    match nets.len() {
        9 => err.help("this one needs more than eight; is it meant?"),
        _ => err.help(format!("these are the same: {}", nets.join(", "))),
    }
}

fn short_v4(net: Ipv4Net) -> String {
    short(IpNet::V4(net))
}

fn short_v6(net: Ipv6Net) -> String {
    short(IpNet::V6(net))
}

/// A prefix as people write it: one host without its length.
pub fn short(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

/// Consecutive addresses of one family, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub first: u128,
    /// The last.
    pub last: u128,
    /// Whose they are.
    pub name: Option<Box<str>>,
}

/// Addresses of one family, in canonical form: hosts, and prefixes none of which is in another, both
/// ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FamilySet {
    /// Single addresses.
    pub hosts: Vec<Span>,
    /// Prefixes of more than one address.
    pub nets: Vec<Span>,
}

/// A set of addresses of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddrSet {
    /// IPv4.
    pub v4: FamilySet,
    /// IPv6.
    pub v6: FamilySet,
}

impl AddrSet {
    /// The part of one family.
    pub fn family(&self, family: Family) -> &FamilySet {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Whether it holds this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family(Family::of(address)).contains(number(address))
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        Family::BOTH.iter().all(|f| {
            let set = self.family(*f);
            set.hosts.is_empty() && set.nets.is_empty()
        })
    }
}

/// From prefixes, with whose they are. Where names compete, the first stays; a prefix within another
/// disappears.
impl<'n> FromIterator<(IpNet, Option<&'n str>)> for AddrSet {
    fn from_iter<I: IntoIterator<Item = (IpNet, Option<&'n str>)>>(prefixes: I) -> Self {
        let mut set = Self::default();
        for (net, name) in prefixes {
            let part = match net {
                IpNet::V4(_) => &mut set.v4,
                IpNet::V6(_) => &mut set.v6,
            };
            let (first, last) = bounds(net);
            let span = Span {
                first,
                last,
                name: name.map(Box::from),
            };
            match first == last {
                true => part.hosts.push(span),
                false => part.nets.push(span),
            }
        }
        for part in [&mut set.v4, &mut set.v6] {
            canonical(&mut part.hosts);
            canonical(&mut part.nets);
        }
        set
    }
}

/// Sorts spans that are nested or apart, and leaves the outermost.
fn canonical(spans: &mut Vec<Span>) {
    // Of those that start together, the largest is in front; of those that are the same, the first.
    spans.sort_by_key(|span| (span.first, u128::MAX - span.last));
    spans.dedup_by(|next, kept| {
        if (next.first, next.last) == (kept.first, kept.last) && kept.name.is_none() {
            kept.name = next.name.take();
        }
        next.last <= kept.last
    });
}

impl FamilySet {
    fn contains(&self, number: u128) -> bool {
        [&self.hosts, &self.nets].iter().any(|spans| {
            let after = spans.partition_point(|span| span.first <= number);
            spans[..after]
                .last()
                .is_some_and(|span| span.last >= number)
        })
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
            let name = |span: &Span| span.name.clone().map(String::from).unwrap_or_default();
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
            let near = if nets.is_empty() { IpAddr::V4(Ipv4Addr::from(probe)) } else { nets[pick.index(nets.len())].addr() };
            for probe in [near, IpAddr::V4(Ipv4Addr::from(probe & 0xffff))] {
                let want = nets.iter().any(|n| n.contains(&probe));
                prop_assert_eq!(set.contains(probe), want);
            }
        }
    }
}
