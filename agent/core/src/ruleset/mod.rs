//! A ruleset as a value: what the table `inet peerwall` holds, in one canonical spelling.
//!
//! Two rulesets that are equal are the same table. What the kernel adds (handles, packet counts) is
//! in [`observed`](crate::nft::observed); where a rule comes from is in
//! [`Origins`](crate::ruleset::compile::Origins).

pub mod compile;
pub mod eval;
pub mod expect;
pub mod render;
pub mod revoke;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::Hook;
use crate::net::port::PortRange;
use crate::policy::Rate;
use crate::policy::reason::Reason;

/// The table's name; its family is `inet`.
pub const TABLE: &str = "peerwall";

/// Everything in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// Names of the counters.
    pub counters: BTreeSet<String>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains: hooks first, then what they use, by name.
    pub chains: Vec<Chain>,
}

/// What the elements of a set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyType {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `inet_service`: ports.
    Port,
    /// `icmp_type`
    IcmpType,
    /// `icmpv6_type`
    Icmpv6Type,
    /// `ether_addr`
    Ether,
}

impl KeyType {
    /// Every type.
    pub const ALL: [Self; 6] = [
        Self::Ipv4,
        Self::Ipv6,
        Self::Port,
        Self::IcmpType,
        Self::Icmpv6Type,
        Self::Ether,
    ];

    /// The type of addresses of a family.
    pub fn address(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4,
            Family::V6 => Self::Ipv6,
        }
    }

    /// The type of ICMP types of a family.
    pub fn icmp(family: Family) -> Self {
        match family {
            Family::V4 => Self::IcmpType,
            Family::V6 => Self::Icmpv6Type,
        }
    }

    /// Its name in nft.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Port => "inet_service",
            Self::IcmpType => "icmp_type",
            Self::Icmpv6Type => "icmpv6_type",
            Self::Ether => "ether_addr",
        }
    }

    /// nft's number for it (`enum datatypes` in nftables `include/datatype.h`). The kernel keeps it
    /// for nft, which prints keys by it.
    pub fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Port => 13,
            Self::IcmpType => 14,
            Self::Icmpv6Type => 29,
            Self::Ether => 9,
        }
    }

    /// Length of a key in bytes.
    pub fn len_bytes(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
            Self::Port => 2,
            Self::IcmpType | Self::Icmpv6Type => 1,
            Self::Ether => 6,
        }
    }

    /// Largest value of a key.
    pub fn max(self) -> u128 {
        u128::MAX >> (128 - 8 * self.len_bytes())
    }
}

/// A named set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// What its elements are.
    pub key: KeyType,
    /// Whether elements are intervals (`flags interval`) or single values.
    pub interval: bool,
    /// Whether it is a meter: rules add source addresses to it, each with a rate of its own
    /// ([`Rule::meter`]); it has no elements of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub meter: bool,
    /// The elements, ascending and disjoint.
    pub elements: Vec<Element>,
}

/// Source addresses that a meter can hold at a time; while it is full, further sources are denied.
pub const METER_SIZE: u32 = 65_535;
/// How long a meter keeps a source that opens no connection, in seconds.
pub const METER_TIMEOUT_SECONDS: u32 = 60;

/// An element: one value, or an interval of them.
///
/// Kept as `[first]`, `[first, last]` or `[first, last, comment]`: there can be very many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// First value.
    pub first: u128,
    /// Last value.
    pub last: u128,
    /// Whose it is.
    pub comment: Option<Box<str>>,
}

impl Element {
    /// One value without a comment.
    pub fn one(value: u128) -> Self {
        Self {
            first: value,
            last: value,
            comment: None,
        }
    }
}

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.comment {
            None if self.first == self.last => [self.first].serialize(serializer),
            None => [self.first, self.last].serialize(serializer),
            Some(comment) => (self.first, self.last, comment).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;

        impl<'de> Visitor<'de> for Parts {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[first], [first, last] or [first, last, comment]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Element, A::Error> {
                let first = parts.next_element()?;
                let first = first.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                Ok(Element {
                    first,
                    last: parts.next_element()?.unwrap_or(first),
                    comment: parts.next_element()?,
                })
            }
        }

        deserializer.deserialize_seq(Parts)
    }
}

impl Set {
    /// Whether it holds this value.
    pub fn contains(&self, value: u128) -> bool {
        self.find(value).is_some()
    }

    /// Whether it holds all that the other does. Elements that only together hold one of the other's are
    /// taken for too little.
    pub fn covers(&self, other: &Self) -> bool {
        let mut own = self.elements.iter().peekable();
        self.key == other.key
            && other.elements.iter().all(|element| {
                while own.next_if(|own| own.last < element.first).is_some() {}
                own.peek()
                    .is_some_and(|own| own.first <= element.first && element.last <= own.last)
            })
    }

    /// The element that holds this value.
    pub fn find(&self, value: u128) -> Option<&Element> {
        let after = self.elements.partition_point(|e| e.first <= value);
        let before = self.elements[..after].last();
        before.filter(|element| element.last >= value)
    }
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter it; `None` for a regular chain.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// The netfilter hook of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainHook {
    /// `NF_INET_PRE_ROUTING`: everything that arrives, before DNAT and before the routing decision.
    Prerouting,
    /// `NF_INET_LOCAL_IN`: for this host.
    Input,
    /// `NF_INET_FORWARD`: through this host.
    Forward,
}

impl ChainHook {
    /// Its name in nft.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
        }
    }
}

impl From<Hook> for ChainHook {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Input => Self::Input,
            Hook::Forward => Self::Forward,
        }
    }
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The hook. The type is always `filter`.
    pub hook: ChainHook,
    /// Order among chains at the hook; lower is earlier.
    pub priority: i32,
    /// Verdict at the chain's end.
    pub policy: ChainPolicy,
}

/// Verdict at a base chain's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainPolicy {
    /// `accept`
    Accept,
    /// `drop`
    Drop,
}

/// A rule: all of the matches, then the rest in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// All of them must match.
    pub matches: Vec<Match>,
    /// `update @… { ip saddr limit rate … }`: the rule does not match what exceeds the rate of its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<Meter>,
    /// `ct label set …`: the connection was dialled at an address of this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub label: bool,
    /// `limit rate`: beyond it the rule does not match.
    pub limit: Option<Rate>,
    /// `log prefix … group …`
    pub log: Option<LogTo>,
    /// `counter name …`
    pub counter: Option<String>,
    /// What becomes of the packet; `None` to go on with the next rule.
    pub action: Option<Action>,
    /// What of the policy it is for.
    pub comment: Option<String>,
}

/// A rate for each source address, after [`Match::Family`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Name of the set that keeps the sources.
    pub set: String,
    /// Family of the addresses.
    pub family: Family,
    /// The rate.
    pub rate: Rate,
}

/// The bit of a connection's label (`ct label`) that [`Rule::label`] sets and [`Match::DialledHere`] asks
/// for. The highest, which no other tool on a node is known to use; marks are everybody's.
pub const LABEL_BIT: u8 = 127;

/// Where to log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTo {
    /// NFLOG group.
    pub group: u16,
    /// Text before each message.
    pub prefix: String,
}

/// What becomes of a packet that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// `accept`
    Accept,
    /// `drop`
    Drop,
    /// `reject with tcp reset`
    RejectTcpReset,
    /// `reject with icmpx admin-prohibited`
    RejectAdminProhibited,
    /// `jump`: go on behind this rule if the chain has no verdict.
    Jump(String),
    /// `goto`: do not come back.
    Goto(String),
}

/// Ports to match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ports {
    /// A port, or a range.
    Range(PortRange),
    /// What is in this set.
    Set(String),
}

/// ICMP types to match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IcmpKinds {
    /// This one.
    One(u8),
    /// What is in this set.
    Set(String),
}

/// Bits of `ct state` (`NF_CT_STATE_BIT()` in `include/uapi/linux/netfilter/nf_conntrack_common.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CtStates(pub u32);

impl CtStates {
    /// `invalid`
    pub const INVALID: Self = Self(1);
    /// `established`
    pub const ESTABLISHED: Self = Self(2);
    /// `related`
    pub const RELATED: Self = Self(4);
    /// `invalid,untracked`
    pub const WITHOUT_CONNECTION: Self = Self(1 | 64);
    /// `established,related`
    pub const KNOWN: Self = Self(2 | 4);
    /// Every state with its bit and name, in the order in which nft prints them.
    pub const NAMES: [(u32, &'static str); 5] = [
        (1, "invalid"),
        (2, "established"),
        (4, "related"),
        (8, "new"),
        (64, "untracked"),
    ];

    /// Names of the states that are in it.
    pub fn names(self) -> Vec<&'static str> {
        let known = Self::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0);
        known.map(|(_, name)| *name).collect()
    }
}

/// One condition on a packet.
///
/// [`Match::Family`] and [`Match::Protocol`] are always there before what needs them, so that each
/// match is the same expressions wherever it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Match {
    /// `ct state …`: one of these.
    CtState(CtStates),
    /// `ct status dnat`
    Dnat,
    /// `ct status ! dnat`
    NotDnat,
    /// `ct label …`: dialled at an address of this host, as [`Rule::label`] says
    DialledHere,
    /// `fib daddr type local`: the destination is an address of this host
    Local,
    /// `iif "lo"`: by index, which is 1 in every namespace; by name misbehaves in some chains.
    Loopback,
    /// `iifname …`, or `iifname != …`
    Interface {
        /// Which interfaces.
        pattern: InterfacePattern,
        /// Any but those.
        negated: bool,
    },
    /// `meta nfproto …`
    Family(Family),
    /// `ip saddr @…`, after [`Match::Family`]
    Source {
        /// Family of the address.
        family: Family,
        /// Name of the set.
        set: String,
    },
    /// `ip saddr …`, after [`Match::Family`]
    SourceNet(IpNet),
    /// `ip6 daddr …`, after [`Match::Family`]
    Destination(IpNet),
    /// `ip daddr @…`, after [`Match::Family`]
    DestinationIn {
        /// Family of the address.
        family: Family,
        /// Name of the set.
        set: String,
    },
    /// `ct original ip daddr @…`: the address as it was dialled, before DNAT; after [`Match::Family`]
    DialledAddress {
        /// Family of the address.
        family: Family,
        /// Name of the set.
        set: String,
    },
    /// `ether saddr @…`
    SourceMac(String),
    /// `oifname …`
    OutInterface(InterfacePattern),
    /// `tcp flags syn / fin,syn,rst,ack`, after [`Match::Protocol`]
    TcpSyn,
    /// `meta l4proto …`
    Protocol(u8),
    /// `th sport …`, after [`Match::Protocol`]
    SourcePort(Ports),
    /// `th dport …`, after [`Match::Protocol`]
    DestinationPort(Ports),
    /// `ct original proto-dst …`: the port as it was dialled, before DNAT
    DialledPort(Ports),
    /// `icmp type …` or `icmpv6 type …`, after [`Match::Family`] and [`Match::Protocol`]
    Icmp(IcmpKinds),
    /// `ip6 hoplimit …`, after [`Match::Family`]
    HopLimit(u8),
    /// `ip ttl …`, after [`Match::Family`]
    Ttl(u8),
    /// `fib saddr . iif oif exists` or `missing`: does the way back leave by where it came in
    ReversePath {
        /// Whether it must.
        exists: bool,
    },
}

impl Match {
    /// The name of the set that it asks, if it does.
    pub fn set(&self) -> Option<&str> {
        match self {
            Self::Source { set, .. }
            | Self::DestinationIn { set, .. }
            | Self::DialledAddress { set, .. }
            | Self::SourceMac(set)
            | Self::SourcePort(Ports::Set(set))
            | Self::DestinationPort(Ports::Set(set))
            | Self::DialledPort(Ports::Set(set))
            | Self::Icmp(IcmpKinds::Set(set)) => Some(set),
            Self::CtState(_)
            | Self::Dnat
            | Self::NotDnat
            | Self::DialledHere
            | Self::Local
            | Self::Loopback
            | Self::Interface { .. }
            | Self::OutInterface(_)
            | Self::Family(_)
            | Self::SourceNet(_)
            | Self::Destination(_)
            | Self::Protocol(_)
            | Self::TcpSyn
            | Self::SourcePort(Ports::Range(_))
            | Self::DestinationPort(Ports::Range(_))
            | Self::DialledPort(Ports::Range(_))
            | Self::Icmp(IcmpKinds::One(_))
            | Self::HopLimit(_)
            | Self::Ttl(_)
            | Self::ReversePath { .. } => None,
        }
    }

    /// The interfaces that it asks about, if it does.
    pub fn interface(&self) -> Option<&InterfacePattern> {
        if let Self::Interface { pattern, .. } = self {
            return Some(pattern);
        }
        None
    }
}

impl Match {
    /// The family of a [`Match::Family`].
    pub fn family(&self) -> Option<Family> {
        if let Self::Family(family) = self {
            return Some(*family);
        }
        None
    }

    /// The number of a [`Match::Protocol`].
    pub fn protocol(&self) -> Option<u8> {
        if let Self::Protocol(number) = self {
            return Some(*number);
        }
        None
    }
}

/// Order of chains: hooks first, then what they use.
fn chain_rank(name: &str) -> u8 {
    match name {
        PREROUTING => 0,
        INPUT => 1,
        FORWARD => 2,
        PUBLISHED => 3,
        _ => 4,
    }
}

/// Base chain of the prerouting hook.
pub const PREROUTING: &str = "prerouting";
/// Base chain of the input hook.
pub const INPUT: &str = "input";
/// Base chain of the forward hook.
pub const FORWARD: &str = "forward";
/// Connections that were DNATed, judged by the port that was dialled.
pub const PUBLISHED: &str = "published";

impl Ruleset {
    /// Brings chains into canonical order; to be called by whoever builds one.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        self.chains
            .sort_by(|a, b| (chain_rank(&a.name), &a.name).cmp(&(chain_rank(&b.name), &b.name)));
        self
    }

    /// The chain of this name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// Number of elements in all sets.
    pub fn element_count(&self) -> usize {
        self.sets.values().map(|set| set.elements.len()).sum()
    }
}

/// The counter of a reason in a chain. Denials have one counter for both hooks.
pub fn counter_name(chain: &str, reason: &Reason) -> String {
    format!("{chain}.{reason}")
}

/// Chain and reason of a counter; the chain is `None` for denials.
pub fn counter_reason(name: &str) -> Option<(Option<&str>, Reason)> {
    if let Some((chain, reason)) = name.split_once('.')
        && [INPUT, FORWARD, PUBLISHED].contains(&chain)
    {
        return Some((Some(chain), Reason::parse(reason)?));
    }
    Some((None, Reason::parse(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_kept_short_and_come_back() {
        let of = |first, last, comment: Option<&str>| Element {
            first,
            last,
            comment: comment.map(Box::from),
        };
        for (element, text) in [
            (of(7, 7, None), "[7]"),
            (of(7, 9, None), "[7,9]"),
            (of(7, 7, Some("a")), "[7,7,\"a\"]"),
            (
                of(u128::MAX, u128::MAX, None),
                "[340282366920938463463374607431768211455]",
            ),
        ] {
            assert_eq!(serde_json::to_string(&element).ok().as_deref(), Some(text));
            assert_eq!(serde_json::from_str(text).ok(), Some(element));
        }
        for text in ["[]", "7", "[7,8,9]", "[7,8,\"a\",1]", "[-1]"] {
            assert!(serde_json::from_str::<Element>(text).is_err(), "{text}");
        }
    }
}
