//! Rules: matches, statements and verdicts.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::port::PortRange;
use crate::policy::Rate;

/// A rule: matches, then statements in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Matches. The rule applies only if all of them match.
    pub matches: Vec<Match>,
    /// `update @… { ip saddr limit rate … }`: packets above the rate of their source do not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<Meter>,
    /// `ct label set …`: marks the connection's original destination as an address of this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub label: bool,
    /// `limit rate`: packets above the rate do not match.
    pub limit: Option<Rate>,
    /// `log prefix … group …`
    pub log: Option<LogTo>,
    /// `counter name …`
    pub counter: Option<String>,
    /// Verdict; `None` continues with the next rule.
    pub action: Option<Action>,
    /// Part of the policy that the rule implements.
    pub comment: Option<String>,
}

impl Rule {
    /// Reports whether the rule logs packets and does nothing else: without it, every packet has
    /// the same verdict.
    pub fn only_logs(&self) -> bool {
        self.log.is_some()
            && self.action.is_none()
            && self.counter.is_none()
            && self.meter.is_none()
            && !self.label
    }
}

/// A rate limit for each source address. Requires a preceding [`Match::Family`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Name of the set of source addresses.
    pub set: String,
    /// Family of the addresses.
    pub family: Family,
    /// Rate for each source.
    pub rate: Rate,
}

/// Bit of the conntrack label (`ct label`) that [`Rule::label`] sets and [`Match::DialledHere`]
/// tests.
///
/// This is the highest bit: no other tool on a node is known to use it. Marks are used by many
/// tools.
pub const LABEL_BIT: u8 = 127;

/// Log destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTo {
    /// NFLOG group.
    pub group: u16,
    /// Text before each log message.
    pub prefix: String,
}

/// Verdict of a rule.
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
    /// `jump`: continues after this rule if the chain returns no verdict.
    Jump(String),
    /// `goto`: does not return.
    Goto(String),
}

/// Ports in a match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ports {
    /// One port or a range.
    Range(PortRange),
    /// Name of a set of ports.
    Set(String),
}

/// ICMP types in a match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IcmpKinds {
    /// One type.
    One(u8),
    /// Name of a set of types.
    Set(String),
}

/// Bits of `ct state` (`NF_CT_STATE_BIT()` in
/// `include/uapi/linux/netfilter/nf_conntrack_common.h`).
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
    /// Every state with its bit and name, in nft's print order.
    pub const NAMES: [(u32, &'static str); 5] = [
        (1, "invalid"),
        (2, "established"),
        (4, "related"),
        (8, "new"),
        (64, "untracked"),
    ];

    /// Returns the names of these states.
    pub fn names(self) -> Vec<&'static str> {
        let known = Self::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0);
        known.map(|(_, name)| *name).collect()
    }
}

/// A condition on a packet.
///
/// [`Match::Family`] and [`Match::Protocol`] always precede the matches that need them, so that
/// each match compiles to the same expressions everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Match {
    /// `ct state …`: any of these states
    CtState(CtStates),
    /// `ct status dnat`
    Dnat,
    /// `ct status ! dnat`
    NotDnat,
    /// `ct label …`: the original destination is an address of this host (see [`Rule::label`])
    DialledHere,
    /// `fib daddr type local`: the destination is an address of this host
    Local,
    /// `iif "lo"`: by index, which is 1 in every namespace. A match by name misbehaves in some
    /// chains.
    Loopback,
    /// `iifname …` or `iifname != …`
    Interface {
        /// Interface name or pattern.
        pattern: InterfacePattern,
        /// Whether the match is negated.
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
    /// `ct original ip daddr @…`: original destination address, before DNAT; after
    /// [`Match::Family`]
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
    /// `ct original proto-dst …`: original destination port, before DNAT
    DialledPort(Ports),
    /// `icmp type …` or `icmpv6 type …`, after [`Match::Family`] and [`Match::Protocol`]
    Icmp(IcmpKinds),
    /// `ip6 hoplimit …`, after [`Match::Family`]
    HopLimit(u8),
    /// `ip ttl …`, after [`Match::Family`]
    Ttl(u8),
    /// `fib saddr . iif oif exists` or `missing`: whether the route to the source uses the input
    /// interface
    ReversePath {
        /// Whether such a route must exist.
        exists: bool,
    },
}

impl Match {
    /// Returns the name of the set that the match looks up.
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

    /// Returns the interfaces that the match tests.
    pub fn interface(&self) -> Option<&InterfacePattern> {
        if let Self::Interface { pattern, .. } = self {
            return Some(pattern);
        }
        None
    }
}

impl Match {
    /// Returns the family if this is a [`Match::Family`].
    pub fn family(&self) -> Option<Family> {
        if let Self::Family(family) = self {
            return Some(*family);
        }
        None
    }

    /// Returns the protocol number if this is a [`Match::Protocol`].
    pub fn protocol(&self) -> Option<u8> {
        if let Self::Protocol(number) = self {
            return Some(*number);
        }
        None
    }
}
