//! Parsing of addresses in a policy, with suggestions for mistakes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{Family, bounds, overlap, short, short_v4, short_v6};

/// Error of an invalid address or prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    /// Message.
    pub message: String,
    /// Suggested fix, if there is one.
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

/// Parses an address or prefix that can be the source of a packet from another host.
///
/// # Errors
/// [`AddressError`] for text that is not an address, has host bits set, or can never be such a
/// source.
pub fn parse_source(text: &str) -> Result<IpNet, AddressError> {
    let net = parse_net(text)?;
    let refuse = |what: &str| {
        Err(AddressError::new(format!("`{text}` {what}"))
            .help("write the source address of a machine, like 192.0.2.7"))
    };
    if net.prefix_len() == 0 {
        return Ok(net);
    }
    match net.addr() {
        a if a.is_multicast() => refuse("is multicast, which is never the source of a packet"),
        a if a.is_loopback() => refuse(
            "is loopback, which is always accepted on lo and never arrives on another interface",
        ),
        a if a.is_unspecified() && net.prefix_len() == net.max_prefix_len() => {
            refuse("is the unspecified address; for every source, write \"any\" in `from`")
        }
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(v4) => Err(AddressError::new(format!(
                "`{text}` is an IPv4-mapped address, which no other host has"
            ))
            .help(format!("write {v4}"))),
            None => Ok(net),
        },
        IpAddr::V4(_) => Ok(net),
    }
}

/// Parses an address or prefix that another host can dial.
///
/// # Errors
/// [`AddressError`] for text that is not an address, has host bits set, or is loopback.
pub fn parse_target(text: &str) -> Result<IpNet, AddressError> {
    let net = parse_net(text)?;
    match net.addr().is_loopback() {
        true => Err(AddressError::new(format!(
            "`{text}` is loopback, which other hosts cannot dial"
        ))
        .help("remove it")),
        false => Ok(net),
    }
}

fn parse_net(text: &str) -> Result<IpNet, AddressError> {
    // Fast path for long lists.
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    if text.trim() != text || text.is_empty() {
        return Err(AddressError::new(format!("`{text}` is not an address"))
            .help("remove the spaces around it"));
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
                "write {} for the whole network, or {address} for one host",
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
            err.help("host names are not resolved; write the addresses")
        }
        _ => err.help("like 192.0.2.7, 192.0.2.0/28 or 2001:db8::/64"),
    })
}

fn mask_error(text: &str, address: IpAddr, mask: Ipv4Addr) -> AddressError {
    let err = AddressError::new(format!("`{text}` has a netmask instead of a prefix length"));
    match ipnet::ipv4_mask_to_prefix(mask) {
        Ok(len) => err.help(format!("write {address}/{len}")),
        Err(_) => err.help("write a prefix length; this mask is not contiguous"),
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
        9 => err.help("this range needs more than eight prefixes; check that it is intended"),
        _ => err.help(format!("write {}", nets.join(", "))),
    }
}

/// Checks that pods can have the addresses of these networks. Each error has the index of its
/// network.
///
/// 240.0.0.0/4 is accepted, because clusters use it for pods and Linux routes it.
///
/// # Errors
/// [`AddressError`] for every network that pods cannot have, that is larger than any pod network,
/// or that makes the networks of one family cover more than a quarter of all addresses.
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
        // Reported once, for the network that exceeds the limit.
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

/// Returns the reason why a network cannot be a pod network, if there is one.
fn no_pods(net: IpNet) -> Option<AddressError> {
    if net.prefix_len() == 0 {
        let err = AddressError::new("an overlay cannot contain every address");
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
    // Clusters use up to a /8 of IPv4, as 10.0.0.0/8. Kubernetes assigns a /64 to each node from at
    // most a /48; registries allocate nothing that is shorter than /16. Of the unique local
    // addresses, fd00::/8 is the counterpart to 10.0.0.0/8.
    let shortest = match net {
        IpNet::V4(_) => 8,
        IpNet::V6(net) if net.network().is_unique_local() => 8,
        IpNet::V6(_) => 16,
    };
    (net.prefix_len() < shortest).then(|| {
        let message = format!("{net} is too large for a pod network");
        AddressError::new(message).help(format!("the maximum is a /{shortest}; {POD_NETWORK}"))
    })
}

/// Networks of addresses that no pod can have.
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
