//! Address sets as ipsets, which make the cost of a packet independent of the number of peers.
//!
//! A set is filled under a temporary name and then swapped in, so that it is never incomplete.
//! `hash:net` has no prefix of length 0; it is written as two halves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use ipnet::IpNet;
use peerwall_proto::ipset::{SetLine, line};

use crate::net::addr::{self, Family};
use crate::ruleset::{KeyType, Ruleset, Set};

/// Prefix of the names of peerwall's sets.
const OURS: &str = "peerwall-";
/// Temporary name of a set that is being filled.
const SWAP: &str = "peerwall-swap";
/// Maximum length of a name in bytes (`IPSET_MAXNAMELEN` in
/// `include/uapi/linux/netfilter/ipset/ip_set.h`, without the NUL).
const NAME_MAX_BYTES: usize = 31;
/// Default capacity of a set. peerwall's sets have at least twice their initial size.
const MAXELEM_MIN: usize = 65_536;

/// A set of peerwall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpSet {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Whether the elements are networks (`hash:net`) rather than hosts (`hash:ip`).
    pub nets: bool,
    /// Elements.
    pub elements: BTreeSet<IpNet>,
}

/// Sets by name.
pub type IpSets = BTreeMap<String, IpSet>;

/// Returns the ipset name of a ruleset's set. Long names are truncated and get a hash.
pub fn name(set: &str) -> String {
    let whole = format!("{OURS}{set}");
    if whole.len() <= NAME_MAX_BYTES {
        return whole;
    }
    // FNV-1a. It only needs to be stable.
    let hash = set.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{}-{hash:08x}", &whole[..NAME_MAX_BYTES - 9])
}

/// Reports whether a set becomes an ipset: it must have at least `from` addresses.
pub fn is_ipset(set: &Set, from: usize) -> bool {
    matches!(set.key, KeyType::Ipv4 | KeyType::Ipv6) && set.elements.len() >= from
}

/// Returns the sets of a ruleset that become ipsets.
pub fn wanted(ruleset: &Ruleset, from: usize) -> IpSets {
    let sets = ruleset.sets.iter().filter(|(_, set)| is_ipset(set, from));
    sets.map(|(set_name, set)| (name(set_name), ipset(set)))
        .collect()
}

fn ipset(set: &Set) -> IpSet {
    let family = match set.key {
        KeyType::Ipv6 => Family::V6,
        KeyType::Ipv4
        | KeyType::Port
        | KeyType::IcmpType
        | KeyType::Icmpv6Type
        | KeyType::Ether => Family::V4,
    };
    let nets = set
        .elements
        .iter()
        .filter_map(|e| addr::prefix(family, e.first, e.last));
    IpSet {
        family,
        nets: set.interval,
        elements: nets.flat_map(halves).collect(),
    }
}

fn halves(net: IpNet) -> Vec<IpNet> {
    match net.prefix_len() {
        0 => net.subnets(1).map(Iterator::collect).unwrap_or_default(),
        _ => vec![net],
    }
}

/// A line of `ipset save` about a set of peerwall that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableLine(pub String);

impl fmt::Display for UnreadableLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read `{}`", self.0)
    }
}

impl std::error::Error for UnreadableLine {}

/// Parses peerwall's sets in the output of `ipset save`, and skips all others.
///
/// # Errors
/// [`UnreadableLine`] if a line about one of peerwall's sets cannot be parsed.
pub fn parse(text: &str) -> Result<IpSets, UnreadableLine> {
    let mut sets = IpSets::new();
    for text in text.lines() {
        match line(text) {
            SetLine::Create {
                name,
                kind,
                options,
            } if name.starts_with(OURS) => {
                let v6 = options.windows(2).any(|pair| pair == ["family", "inet6"]);
                let set = IpSet {
                    family: if v6 { Family::V6 } else { Family::V4 },
                    nets: kind == "hash:net",
                    elements: BTreeSet::new(),
                };
                sets.insert(name.to_owned(), set);
            }
            SetLine::Add { name, element, .. } if name.starts_with(OURS) => {
                match (sets.get_mut(name), net(element)) {
                    (Some(set), Some(net)) => set.elements.insert(net),
                    _ => return Err(UnreadableLine(text.to_owned())),
                };
            }
            SetLine::Create { .. } | SetLine::Add { .. } => {}
            SetLine::Delete { .. } | SetLine::Flush(_) | SetLine::Destroy(_) => {}
            SetLine::Rename(..) | SetLine::Swap(..) | SetLine::Blank | SetLine::Other => {}
        }
    }
    Ok(sets)
}

/// Parses an element that is an address or a network.
pub(crate) fn net(element: &str) -> Option<IpNet> {
    let host = || element.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    element.parse::<IpNet>().ok().or_else(host)
}

/// Returns input for `ipset restore` that creates or changes sets; `None` if they need no change.
/// Unwanted sets remain, because rules may still use them.
pub fn restore(wanted: &IpSets, seen: &IpSets) -> Option<String> {
    let mut out = String::new();
    for (name, set) in wanted
        .iter()
        .filter(|(name, set)| seen.get(*name) != Some(*set))
    {
        if seen.contains_key(SWAP) && out.is_empty() {
            let _ = writeln!(out, "destroy {SWAP}");
        }
        write_set(&mut out, set);
        match seen.contains_key(name) {
            true => {
                let _ = writeln!(out, "swap {SWAP} {name}\ndestroy {SWAP}");
            }
            false => {
                let _ = writeln!(out, "rename {SWAP} {name}");
            }
        }
    }
    (!out.is_empty()).then_some(out)
}

fn write_set(out: &mut String, set: &IpSet) {
    let kind = if set.nets { "hash:net" } else { "hash:ip" };
    let family = match set.family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    let most = set.elements.len().saturating_mul(2).max(MAXELEM_MIN);
    let _ = writeln!(out, "create {SWAP} {kind} family {family} maxelem {most}");
    for element in &set.elements {
        let _ = writeln!(out, "add {SWAP} {}", addr::short(*element));
    }
}

/// Returns input for `ipset restore` that destroys unwanted sets; `None` if there are none.
pub fn destroy(wanted: &IpSets, seen: &IpSets) -> Option<String> {
    let stale = seen.keys().filter(|name| !wanted.contains_key(*name));
    let text: String = stale.map(|name| format!("destroy {name}\n")).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> IpSet {
        IpSet {
            family: Family::V4,
            nets: false,
            elements: list
                .iter()
                .map(|text| text.parse::<std::net::IpAddr>().unwrap().into())
                .collect(),
        }
    }

    #[test]
    fn what_ipset_saves_is_read_back_and_others_are_not() {
        // ipset 7.17: ipset create …; ipset add …; ipset save
        let text = "create peerwall-peers4 hash:ip family inet hashsize 1024 maxelem 65536 \
            bucketsize 12 initval 0xb1e7b5d9\n\
            add peerwall-peers4 192.0.2.1\n\
            add peerwall-peers4 192.0.2.2\n\
            create KUBE-LOOP-BACK hash:ip,port,ip family inet hashsize 1024 maxelem 65536\n\
            add KUBE-LOOP-BACK 10.0.0.1,tcp:80,10.0.0.1\n";
        let sets = parse(text).unwrap();
        assert_eq!(sets.len(), 1);
        assert_eq!(sets["peerwall-peers4"], hosts(&["192.0.2.1", "192.0.2.2"]));
        assert!(parse("add peerwall-peers4 192.0.2.1\n").is_err());
    }

    #[test]
    fn a_set_is_swapped_in_and_one_that_is_right_is_left() {
        let wanted = IpSets::from([("peerwall-a".to_owned(), hosts(&["192.0.2.1"]))]);
        let create =
            "create peerwall-swap hash:ip family inet maxelem 65536\nadd peerwall-swap 192.0.2.1\n";
        assert_eq!(
            restore(&wanted, &IpSets::new()),
            Some(format!("{create}rename peerwall-swap peerwall-a\n"))
        );
        let old = IpSets::from([
            ("peerwall-a".to_owned(), hosts(&["192.0.2.9"])),
            ("peerwall-b".to_owned(), hosts(&[])),
        ]);
        assert_eq!(
            restore(&wanted, &old),
            Some(format!(
                "{create}swap peerwall-swap peerwall-a\ndestroy peerwall-swap\n"
            ))
        );
        assert_eq!(
            destroy(&wanted, &old),
            Some("destroy peerwall-b\n".to_owned())
        );
        assert_eq!(restore(&wanted, &wanted), None);
        assert_eq!(destroy(&wanted, &wanted), None);
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let (a, b) = (
            name("group-a-very-long-name-indeed-ip4"),
            name("group-a-very-long-name-indeed-ip6"),
        );
        assert!(
            a.len() <= NAME_MAX_BYTES && b.len() <= NAME_MAX_BYTES && a != b,
            "{a} {b}"
        );
        assert_eq!(name("peers4"), "peerwall-peers4");
    }

    #[test]
    fn everybody_is_two_halves() {
        let whole: IpNet = "0.0.0.0/0".parse().unwrap();
        let texts: Vec<String> = halves(whole).iter().map(IpNet::to_string).collect();
        assert_eq!(texts, ["0.0.0.0/1", "128.0.0.0/1"]);
    }
}
