//! Rules: matches, statements and verdicts.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::port::PortRange;
use crate::policy::Rate;

/// A rule: matches, and then statements in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Matches, of which all must hold.
    pub matches: Vec<Match>,
    /// `update @… { ip saddr limit rate … }`: the rule does not match packets beyond their source's
    /// rate.
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
    /// Verdict; `None` to continue with the next rule.
    pub action: Option<Action>,
    /// Part of the policy that it is for.
    pub comment: Option<String>,
}

/// A rate for each source address, after [`Match::Family`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Name of the set of sources.
    pub set: String,
    /// Family of the addresses.
    pub family: Family,
    /// The rate.
    pub rate: Rate,
}

/// The bit of a connection's label (`ct label`) that [`Rule::label`] sets and
/// [`Match::DialledHere`] tests. The highest, which no other tool on a node is known to use; marks
/// are used by many.
pub const LABEL_BIT: u8 = 127;

/// Where to log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTo {
    /// NFLOG group.
    pub group: u16,
    /// Text before each message.
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
    /// `jump`: continue after this rule if the chain has no verdict.
    Jump(String),
    /// `goto`: do not return.
    Goto(String),
}

/// Ports to match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ports {
    /// A port, or a range.
    Range(PortRange),
    /// The elements of this set.
    Set(String),
}

/// ICMP types to match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IcmpKinds {
    /// One type.
    One(u8),
    /// The elements of this set.
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
    /// Every state with its bit and name, in the order in which nft prints them.
    pub const NAMES: [(u32, &'static str); 5] = [
        (1, "invalid"),
        (2, "established"),
        (4, "related"),
        (8, "new"),
        (64, "untracked"),
    ];

    /// Returns the names of its states.
    pub fn names(self) -> Vec<&'static str> {
        let known = Self::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0);
        known.map(|(_, name)| *name).collect()
    }
}

/// One condition on a packet.
///
/// [`Match::Family`] and [`Match::Protocol`] always precede the matches that need them, so that
/// each match has the same expressions everywhere.
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
        /// The interfaces.
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
    /// `ct original ip daddr @…`: the address as it was dialled, before DNAT; after
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
    /// `ct original proto-dst …`: the port as it was dialled, before DNAT
    DialledPort(Ports),
    /// `icmp type …` or `icmpv6 type …`, after [`Match::Family`] and [`Match::Protocol`]
    Icmp(IcmpKinds),
    /// `ip6 hoplimit …`, after [`Match::Family`]
    HopLimit(u8),
    /// `ip ttl …`, after [`Match::Family`]
    Ttl(u8),
    /// `fib saddr . iif oif exists` or `missing`: whether the reverse path leaves by the incoming
    /// interface
    ReversePath {
        /// Whether it must (`exists`).
        exists: bool,
    },
}

impl Match {
    /// Returns the name of the set that it looks up, if any.
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

    /// Returns the interfaces that it tests, if any.
    pub fn interface(&self) -> Option<&InterfacePattern> {
        if let Self::Interface { pattern, .. } = self {
            return Some(pattern);
        }
        None
    }
}

impl Match {
    /// Returns the family of a [`Match::Family`].
    pub fn family(&self) -> Option<Family> {
        if let Self::Family(family) = self {
            return Some(*family);
        }
        None
    }

    /// Returns the number of a [`Match::Protocol`].
    pub fn protocol(&self) -> Option<u8> {
        if let Self::Protocol(number) = self {
            return Some(*number);
        }
        None
    }
}
