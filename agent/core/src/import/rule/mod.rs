//! What the rules of an iptables-save file mean: conditions and targets instead of words.
//!
//! Words: `iptables(8)` and `iptables-extensions(8)`. A word that is not known here stays in the rule
//! as [`Test::Unknown`]; what that does is decided by whoever evaluates, and never widens a rule.

mod graph;
mod table;
mod targets;
mod values;
mod words;

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::CtState;
pub(super) use graph::reached;
pub(super) use table::chains;
pub(super) use values::{ACK, RST, SYN, has_ports, is_icmp};

/// A line of one of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Which input.
    pub input: usize,
    /// Its line, from 1.
    pub line: usize,
}

/// Numbers from first to last.
pub type Span = (u128, u128);

/// Sets of `ipset save`, by name: addresses and networks.
pub type IpSets = BTreeMap<String, Vec<IpNet>>;

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it is the other way around: `!`.
    pub negated: bool,
    /// What is looked at.
    pub test: Test,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Source address in one of these.
    Source(Vec<Span>),
    /// Destination address in one of these.
    Destination(Vec<Span>),
    /// Came in by.
    In(InterfacePattern),
    /// Goes out by.
    Out(InterfacePattern),
    /// Of this protocol.
    Protocol(u8),
    /// Source port in one of these.
    SourcePorts(Vec<(u16, u16)>),
    /// Destination port in one of these.
    DestinationPorts(Vec<(u16, u16)>),
    /// Either port in one of these.
    EitherPort(Vec<(u16, u16)>),
    /// Of the TCP flags in the first byte exactly those in the second are set.
    TcpFlags(u8, u8),
    /// One of these states of connection tracking, or rewritten by DNAT.
    State {
        /// The states.
        states: Vec<CtState>,
        /// `DNAT`.
        dnat: bool,
    },
    /// The port that was dialled.
    Dialled(u16, u16),
    /// ICMP type, and code if one is asked for.
    Icmp(u8, Option<u8>),
    /// TTL or hop limit: from, to.
    HopLimit(u8, u8),
    /// What the destination is to this host (`addrtype --dst-type`).
    To(Kind),
    /// Holds as long as a rate or number is not exceeded (true), or once it is (false).
    Rate(bool, String),
    /// Always, or never.
    Always(bool),
    /// Words that are not known, or whose answer is not in the packet.
    Unknown(String),
}

/// Kinds of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An address of this host.
    Local,
    /// Everybody on the link.
    Broadcast,
    /// A group.
    Multicast,
}

/// What happens to a packet that a rule fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Counted, logged or marked; it goes on with the next rule.
    Continue(String),
    /// Accepted.
    Accept,
    /// Dropped.
    Drop,
    /// Refused.
    Reject,
    /// Back to where the chain was jumped to from; in one of the kernel's own chains: its policy.
    Return,
    /// On in this chain, and then here again.
    Jump(String),
    /// On in this chain, and not here again.
    Goto(String),
    /// Rewritten to this address and port (`DNAT`), or this port of the host (`REDIRECT`).
    Dnat(Option<IpNet>, Option<u16>),
    /// Source rewritten.
    Masquerade,
    /// A target that is not known. The packet is taken for lost.
    Unknown(String),
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub at: At,
    /// All of these must hold.
    pub conditions: Vec<Condition>,
    /// Then this happens.
    pub target: Target,
    /// `-m comment`
    pub comment: Option<String>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Whether packets that reach its end are accepted; `None` for chains of one's own.
    pub accepts: Option<bool>,
    /// Where it is declared.
    pub at: Option<At>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// Chains of one table, by name.
pub type Chains = BTreeMap<String, Chain>;

/// The tables of one family that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The filter table.
    pub filter: Chains,
    /// The nat table.
    pub nat: Chains,
}

impl Condition {
    /// Sources that it names, whether it is for them or for all others.
    pub fn sources(&self) -> Option<&[Span]> {
        if let Test::Source(spans) = &self.test {
            return Some(spans);
        }
        None
    }

    /// Destinations that it names, whether it is for them or for all others.
    pub fn destinations(&self) -> Option<&[Span]> {
        if let Test::Destination(spans) = &self.test {
            return Some(spans);
        }
        None
    }

    /// The interface that it is for, by which packets come in.
    pub fn interface(&self) -> Option<&InterfacePattern> {
        if let Test::In(pattern) = &self.test {
            return Some(pattern).filter(|_| !self.negated);
        }
        None
    }

    /// The interface that it names, by which packets go out.
    pub fn out(&self) -> Option<&InterfacePattern> {
        if let Test::Out(pattern) = &self.test {
            return Some(pattern);
        }
        None
    }

    /// The protocol that it is for.
    pub fn protocol(&self) -> Option<u8> {
        if let Test::Protocol(number) = self.test {
            return Some(number).filter(|_| !self.negated);
        }
        None
    }
}

impl Target {
    /// The chain that it leads to.
    pub fn chain(&self) -> Option<&str> {
        if let Self::Jump(to) | Self::Goto(to) = self {
            return Some(to);
        }
        None
    }
}

impl Rule {
    /// Sources that it is for.
    pub fn sources(&self) -> impl Iterator<Item = &Span> {
        let positive = self.conditions.iter().filter(|c| !c.negated);
        positive.filter_map(Condition::sources).flatten()
    }

    /// Interfaces that it is for, by which packets come in.
    pub fn interfaces(&self) -> impl Iterator<Item = &InterfacePattern> {
        self.conditions.iter().filter_map(Condition::interface)
    }

    /// Words that are not known, in the order of the rule.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().filter_map(|c| {
            if let Test::Unknown(words) = &c.test {
                return Some(words.as_str());
            }
            None
        })
    }

    /// Rates that a policy cannot say.
    pub fn rates(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().filter_map(|c| {
            if let Test::Rate(_, words) = &c.test {
                return Some(words.as_str());
            }
            None
        })
    }
}
