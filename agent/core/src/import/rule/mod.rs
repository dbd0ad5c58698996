//! The meaning of rules in an iptables-save file: conditions and targets instead of words.
//!
//! Words: `iptables(8)` and `iptables-extensions(8)`. An unknown word becomes [`Test::Unknown`],
//! which evaluation never lets widen a rule.

mod delete;
mod graph;
mod marks;
mod matches;
mod names;
mod numbers;
mod options;
mod sets;
mod table;
mod targets;
mod values;
mod words;

use std::collections::BTreeMap;

use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::CtState;
pub(super) use graph::reached;
pub use marks::{KnownMark, MarkChange, MarkTest};
pub(super) use marks::{MarkEffect, keep_followed, keep_marks};
pub use sets::{AddressPort, ImportedSet, ImportedSets};
pub(super) use table::{Problems, TableOrigin, chains};
pub(super) use values::{ACK, RST, SYN, has_ports};

/// A line in one of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Index of the input.
    pub input: usize,
    /// Line number, from 1.
    pub line: usize,
}

/// First and last number.
pub type Interval = (u128, u128);

/// The place of a rule, and the sets that it may name.
struct RuleContext<'r> {
    family: Family,
    table: &'r str,
    chain: &'r str,
    at: At,
    sets: &'r ImportedSets,
    /// Whether rules of the table use connection tracking, which reassembles packets.
    tracks: bool,
}

/// One condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it is negated (`!`).
    pub negated: bool,
    /// The test.
    pub test: Test,
}

/// The test of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Source address in one of these.
    Source(Vec<Interval>),
    /// Destination address in one of these.
    Destination(Vec<Interval>),
    /// Incoming interface, one of these.
    In(Vec<InterfacePattern>),
    /// Outgoing interface, one of these.
    Out(Vec<InterfacePattern>),
    /// Protocol, one of these.
    Protocol(Vec<u8>),
    /// Source port in one of these.
    SourcePorts(Vec<(u16, u16)>),
    /// Destination port in one of these.
    DestinationPorts(Vec<(u16, u16)>),
    /// Either port in one of these.
    EitherPort(Vec<(u16, u16)>),
    /// Exactly the flags in the second byte are set, of those in the first.
    TcpFlags(u8, u8),
    /// One of these conntrack states, or a translated destination.
    State {
        /// The states.
        states: Vec<CtState>,
        /// Whether `DNAT` is among the states.
        dnat: bool,
    },
    /// Original destination port.
    Dialled(u16, u16),
    /// Original destination address in one of these.
    DialledAddress(Vec<Interval>),
    /// ICMP type, and code if given, one of these.
    Icmp(Vec<(u8, Option<u8>)>),
    /// TTL or hop limit: minimum and maximum.
    HopLimit(u8, u8),
    /// Type of the destination (`addrtype --dst-type`).
    To(AddressKind),
    /// Type of the source (`addrtype --src-type`).
    From(AddressKind),
    /// All conditions of one of these lists.
    Any(Vec<Vec<Condition>>),
    /// True while a rate or number is not exceeded (`true`), or once it is (`false`).
    Rate(bool, String),
    /// Constant: true or false.
    Always(bool),
    /// Bits of the mark, which a rule of the table nat sets, and the words of the test.
    Mark(MarkTest, String),
    /// The route to the source leaves through the input interface, or if not strict, there is one.
    ReversePath(bool),
    /// Unknown words, or words that need more than the packet.
    Unknown(String),
}

/// Kinds of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// An address of this host.
    Local,
    /// Broadcast.
    Broadcast,
    /// Multicast.
    Multicast,
}

/// Target of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Counts or logs. Evaluation continues with the next rule.
    Continue(String),
    /// Marks. Evaluation continues, too.
    Mark(MarkChange, String),
    /// Exempts from connection tracking. Evaluation continues, too.
    Untrack(String),
    /// Accepts.
    Accept,
    /// Drops.
    Drop,
    /// Rejects.
    Reject,
    /// Returns to the calling chain; applies the policy in a built-in chain.
    Return,
    /// Continues in this chain, then after this rule.
    Jump(String),
    /// Continues in this chain and does not return.
    Goto(String),
    /// Translates the destination to one of these addresses and ports (`DNAT`), or to one of these
    /// ports of the host (`REDIRECT`).
    Dnat(Option<Interval>, Option<(u16, u16)>),
    /// Translates the destination to one that is not known, with these words.
    DnatSomewhere(String),
    /// Translates the source.
    Masquerade,
    /// An unknown target. Packets count as dropped.
    Unknown(String),
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedRule {
    /// Its line.
    pub at: At,
    /// Conditions. The rule applies only if all are met.
    pub conditions: Vec<Condition>,
    /// Target.
    pub target: Verb,
    /// `-m comment`
    pub comment: Option<String>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedChain {
    /// Whether packets at the end of the chain are accepted; `None` for user-defined chains.
    pub accepts: Option<bool>,
    /// Line of the declaration.
    pub at: Option<At>,
    /// Rules, in order.
    pub rules: Vec<ImportedRule>,
}

/// Chains of one table, by name.
pub type ImportedChains = BTreeMap<String, ImportedChain>;

/// The relevant tables of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedRules {
    /// Family.
    pub family: Family,
    /// Filter table.
    pub filter: ImportedChains,
    /// NAT table.
    pub nat: ImportedChains,
    /// Conditions of the rules that may exempt arriving packets from connection tracking.
    pub untracked: Vec<Vec<Condition>>,
    /// The base chains that packets traverse.
    pub paths: Paths,
}

/// Names of the base chains that packets traverse, in order. Each of them must accept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Packets to this host, in the filter table.
    pub input: Vec<String>,
    /// Packets through this host, in the filter table.
    pub forward: Vec<String>,
    /// Packets that arrive, in the NAT table of each source of rules. The order of the sources is
    /// unknown, so each is read as if it were alone.
    pub prerouting: Vec<Vec<String>>,
    /// Packets of this host, in the filter table.
    pub output: Vec<String>,
}

impl ImportedRules {
    /// Reports whether they refuse packets that none of the rules names.
    pub(super) fn deny(&self) -> bool {
        let is_denial = |rule: &ImportedRule| {
            let is_for_all = rule.conditions.is_empty();
            is_for_all && matches!(rule.target, Verb::Drop | Verb::Reject)
        };
        let mut chains = self.filter.values();
        chains.any(|chain| chain.accepts == Some(false) || chain.rules.iter().any(is_denial))
    }

    /// Adds the chains of another file, which packets pass after these.
    pub(super) fn extend(&mut self, other: Self) {
        self.filter.extend(other.filter);
        self.nat.extend(other.nat);
        self.untracked.extend(other.untracked);
        self.paths.input.extend(other.paths.input);
        self.paths.forward.extend(other.paths.forward);
        self.paths.prerouting.extend(other.paths.prerouting);
        self.paths.output.extend(other.paths.output);
    }
}

/// Returns the conditions of rules that may exempt packets of a base chain from connection
/// tracking. Those of jumps to them are left out, and so are those of other programs, which
/// accept themselves what they exempt.
pub(super) fn untracked(chains: &ImportedChains, start: &str) -> Vec<Vec<Condition>> {
    let reached = reached(chains, start).into_iter();
    let reached = reached.filter(|name| super::managed::by(name).is_none());
    let rules = reached
        .filter_map(|name| chains.get(name))
        .flat_map(|chain| &chain.rules);
    rules
        .filter(|rule| matches!(rule.target, Verb::Untrack(_)))
        .map(|rule| rule.conditions.clone())
        .collect()
}

/// Gives chains other names, also where rules jump to them.
pub(super) fn renamed(chains: ImportedChains, name: &dyn Fn(&str) -> String) -> ImportedChains {
    let rename = |(own, mut chain): (String, ImportedChain)| {
        for rule in &mut chain.rules {
            if let Verb::Jump(to) | Verb::Goto(to) = &mut rule.target {
                *to = name(to);
            }
        }
        (name(&own), chain)
    };
    chains.into_iter().map(rename).collect()
}

impl Paths {
    /// Returns the built-in chains of iptables.
    pub fn of_iptables() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            input: one("INPUT"),
            forward: one("FORWARD"),
            prerouting: vec![one("PREROUTING")],
            output: one("OUTPUT"),
        }
    }
}

impl Condition {
    /// Returns the sources in the condition, negated or not.
    pub fn sources(&self) -> Option<&[Interval]> {
        if let Test::Source(spans) = &self.test {
            return Some(spans);
        }
        None
    }

    /// Returns the destinations in the condition, negated or not.
    pub fn destinations(&self) -> Option<&[Interval]> {
        if let Test::Destination(spans) = &self.test {
            return Some(spans);
        }
        None
    }

    /// Returns the input interfaces, unless negated.
    pub fn interfaces(&self) -> Option<&[InterfacePattern]> {
        if let Test::In(patterns) = &self.test {
            return Some(patterns.as_slice()).filter(|_| !self.negated);
        }
        None
    }

    /// Returns the output interfaces, negated or not.
    pub fn outs(&self) -> Option<&[InterfacePattern]> {
        if let Test::Out(patterns) = &self.test {
            return Some(patterns);
        }
        None
    }

    /// Returns the protocol if it is the only one, unless negated.
    pub fn protocol(&self) -> Option<u8> {
        if let Test::Protocol(numbers) = &self.test {
            return match numbers[..] {
                [number] if !self.negated => Some(number),
                _ => None,
            };
        }
        None
    }
}

impl Verb {
    /// Reports whether it translates destinations.
    pub fn redirects(&self) -> bool {
        matches!(self, Self::Dnat(..) | Self::DnatSomewhere(_))
    }

    /// Returns the chain of a jump or goto.
    pub fn chain(&self) -> Option<&str> {
        if let Self::Jump(to) | Self::Goto(to) = self {
            return Some(to);
        }
        None
    }

    /// Reports whether it accepts or drops packets.
    pub fn decides(&self) -> bool {
        matches!(
            self,
            Self::Accept | Self::Drop | Self::Reject | Self::Unknown(_)
        )
    }
}

impl ImportedRule {
    /// Returns the sources that are not negated.
    pub fn sources(&self) -> impl Iterator<Item = &Interval> {
        let positive = self.conditions.iter().filter(|c| !c.negated);
        positive.filter_map(Condition::sources).flatten()
    }

    /// Returns the sources, negated or not.
    pub fn all_sources(&self) -> impl Iterator<Item = Interval> {
        let sources = self.conditions.iter().filter_map(Condition::sources);
        sources.flatten().copied()
    }

    /// Returns the input interfaces, negated or not, also those in lists of conditions.
    pub fn all_interfaces(&self) -> Vec<InterfacePattern> {
        let mut found = Vec::new();
        let mut rest: Vec<&Condition> = self.conditions.iter().rev().collect();
        while let Some(condition) = rest.pop() {
            if let Test::In(patterns) = &condition.test {
                found.extend(patterns.iter().cloned());
            } else if let Test::Any(lists) = &condition.test {
                rest.extend(lists.iter().flatten().rev());
            }
        }
        found
    }

    /// Returns the input interfaces that are not negated.
    pub fn interfaces(&self) -> impl Iterator<Item = &InterfacePattern> {
        let listed = self.conditions.iter().filter_map(Condition::interfaces);
        listed.flatten()
    }

    /// Reports whether a condition names redirected connections, or their original destinations.
    pub fn names_dnat(&self) -> bool {
        let is_dialled = |test: &Test| matches!(test, Test::Dialled(..) | Test::DialledAddress(_));
        let mut conditions = self.conditions.iter();
        conditions.any(|condition| !condition.negated && is_dialled(&condition.test))
            || self.accepts_dnat()
    }

    /// Reports whether a condition is about the state of redirected connections.
    pub fn accepts_dnat(&self) -> bool {
        let is_dnat = |test: &Test| matches!(test, Test::State { dnat: true, .. });
        let mut conditions = self.conditions.iter();
        conditions.any(|condition| !condition.negated && is_dnat(&condition.test))
    }

    /// Reports whether a condition names ICMP echo requests.
    pub fn names_echo_request(&self) -> bool {
        self.conditions.iter().any(|condition| {
            let Test::Icmp(kinds) = &condition.test else {
                return false;
            };
            !condition.negated && kinds.iter().any(|(kind, _)| matches!(kind, 8 | 128))
        })
    }

    /// Reports whether a condition is about the TTL or hop limit.
    pub fn tests_hop_limit(&self) -> bool {
        let mut tests = self.conditions.iter().map(|condition| &condition.test);
        tests.any(|test| matches!(test, Test::HopLimit(..)))
    }

    /// Returns the unknown words, in order.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().filter_map(|c| {
            if let Test::Unknown(words) = &c.test {
                return Some(words.as_str());
            }
            None
        })
    }

    /// Returns the rates, which a policy cannot express.
    pub fn rates(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().filter_map(|c| {
            if let Test::Rate(_, words) = &c.test {
                return Some(words.as_str());
            }
            None
        })
    }
}
