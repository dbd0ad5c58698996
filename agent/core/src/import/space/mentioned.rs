//! Values that rules and rulesets mention. Packets differ in these values only.

use std::collections::BTreeSet;

use crate::import::rule::{Condition, ImportedChains, ImportedRules, Interval, Test};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::port::{ICMP, ICMPV6, UDP};
use crate::ruleset::{IcmpKinds, KeyType, Match, Ports, Ruleset, Set};

/// Values that tell packets apart.
#[derive(Debug, Clone, Default)]
pub(in crate::import) struct Mentioned {
    pub sources: Vec<Interval>,
    pub destinations: Vec<Interval>,
    pub source_ports: Vec<(u16, u16)>,
    pub ports: Vec<(u16, u16)>,
    pub protocols: BTreeSet<u8>,
    pub icmp: Vec<(u8, Option<u8>)>,
    pub hop_limits: Vec<(u8, u8)>,
    pub interfaces: BTreeSet<InterfacePattern>,
    pub outs: BTreeSet<InterfacePattern>,
    /// Whether packets of any kind may be untracked.
    pub is_untracked: bool,
    /// Whether a rule matches kinds of sources.
    pub kinds_of_source: bool,
}

impl Mentioned {
    /// Returns the values of the table filter, and of rules that exempt packets from connection
    /// tracking.
    pub(in crate::import) fn new(rules: &ImportedRules) -> Self {
        let mut mentioned = Self::default();
        mentioned.add_rules(&rules.filter);
        mentioned.add_conditions(rules.untracked.iter().flatten());
        // Without such rules, a rule for untracked packets says that there are some.
        mentioned.is_untracked &= rules.untracked.is_empty();
        mentioned
    }

    /// Adds the values of rules.
    pub(in crate::import) fn add_rules(&mut self, chains: &ImportedChains) {
        let rules = chains.values().flat_map(|chain| &chain.rules);
        self.add_conditions(rules.flat_map(|rule| &rule.conditions));
    }

    fn add_conditions<'c>(&mut self, conditions: impl IntoIterator<Item = &'c Condition>) {
        for condition in conditions {
            self.add_condition(condition);
        }
    }

    fn add_condition(&mut self, condition: &Condition) {
        match &condition.test {
            Test::Source(spans) => self.sources.extend(spans),
            Test::Destination(spans) | Test::DialledAddress(spans) => {
                self.destinations.extend(spans)
            }
            Test::In(patterns) => self.interfaces.extend(patterns.iter().cloned()),
            Test::Out(patterns) => self.outs.extend(patterns.iter().cloned()),
            Test::Protocol(numbers) => self.protocols.extend(numbers),
            Test::SourcePorts(ranges) => self.source_ports.extend(ranges),
            Test::DestinationPorts(ranges) => self.ports.extend(ranges),
            Test::EitherPort(ranges) => {
                self.source_ports.extend(ranges);
                self.ports.extend(ranges);
            }
            Test::Dialled(first, last) => self.ports.push((*first, *last)),
            Test::Icmp(kinds) => self.icmp.extend(kinds),
            Test::HopLimit(first, last) => self.hop_limits.push((*first, *last)),
            Test::State { states, .. } => {
                self.is_untracked |= states.contains(&crate::net::packet::CtState::Untracked);
            }
            Test::Any(lists) => {
                for each in lists.iter().flatten() {
                    self.add_condition(each);
                }
            }
            Test::From(_) => self.kinds_of_source = true,
            Test::TcpFlags(..)
            | Test::To(_)
            | Test::Rate(..)
            | Test::Always(_)
            | Test::Mark(..)
            | Test::ReversePath(_)
            | Test::Unknown(_) => {}
        }
    }

    /// Adds the values of a compiled policy.
    pub(in crate::import) fn add_ruleset(&mut self, ruleset: &Ruleset, family: Family) {
        let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
        for each in rules.flat_map(|rule| &rule.matches) {
            self.add_match(each, ruleset, family);
        }
        // The safe core has rules for DHCP.
        self.protocols.insert(UDP);
    }

    fn add_match(&mut self, each: &Match, ruleset: &Ruleset, family: Family) {
        let addresses = |name: &str| {
            let set = ruleset.sets.get(name);
            let set = set.filter(|set| set.key == KeyType::address(family));
            set.into_iter().flat_map(spans)
        };
        let bounds =
            |net: &ipnet::IpNet| (Family::of(net.addr()) == family).then(|| addr::bounds(*net));
        match each {
            Match::Source { set, .. } => self.sources.extend(addresses(set)),
            Match::SourceNet(net) => self.sources.extend(bounds(net)),
            Match::Destination(net) => self.destinations.extend(bounds(net)),
            Match::DestinationIn { set, .. } | Match::DialledAddress { set, .. } => {
                self.destinations.extend(addresses(set));
            }
            Match::Interface { pattern, .. } => drop(self.interfaces.insert(pattern.clone())),
            Match::OutInterface(pattern) => drop(self.outs.insert(pattern.clone())),
            // The other family's ICMP is no protocol of its own.
            Match::Protocol(ICMP | ICMPV6) => {}
            Match::Protocol(number) => drop(self.protocols.insert(*number)),
            Match::SourcePort(ports) => self.source_ports.extend(port_ranges(ports, ruleset)),
            Match::DestinationPort(ports) | Match::DialledPort(ports) => {
                self.ports.extend(port_ranges(ports, ruleset));
            }
            Match::Icmp(kinds) => {
                self.icmp.extend(
                    icmp_kinds(kinds, ruleset)
                        .into_iter()
                        .map(|kind| (kind, None)),
                );
            }
            Match::HopLimit(limit) | Match::Ttl(limit) => self.hop_limits.push((*limit, *limit)),
            Match::CtState(_)
            | Match::Dnat
            | Match::NotDnat
            | Match::DialledHere
            | Match::Local
            | Match::Loopback
            | Match::Family(_)
            | Match::SourceMac(_)
            | Match::TcpSyn
            | Match::ReversePath { .. } => {}
        }
    }
}

/// Returns the elements of a set.
pub(super) fn spans(set: &Set) -> impl Iterator<Item = Interval> {
    set.elements
        .iter()
        .map(|element| (element.first, element.last))
}

/// Returns the elements of a set of this type.
pub(super) fn elements(ruleset: &Ruleset, name: &str, key: KeyType) -> Vec<Interval> {
    let set = ruleset.sets.get(name).filter(|set| set.key == key);
    set.into_iter().flat_map(spans).collect()
}

/// Returns the ports of a match.
pub(super) fn port_ranges(ports: &Ports, ruleset: &Ruleset) -> Vec<(u16, u16)> {
    let narrow = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
    match ports {
        Ports::Range(range) => vec![(range.first, range.last)],
        Ports::Set(name) => elements(ruleset, name, KeyType::Port)
            .into_iter()
            .map(|(first, last)| (narrow(first), narrow(last)))
            .collect(),
    }
}

/// Returns the ICMP types of a match.
pub(super) fn icmp_kinds(kinds: &IcmpKinds, ruleset: &Ruleset) -> Vec<u8> {
    match kinds {
        IcmpKinds::One(kind) => vec![*kind],
        IcmpKinds::Set(name) => [KeyType::IcmpType, KeyType::Icmpv6Type]
            .into_iter()
            .flat_map(|key| elements(ruleset, name, key))
            .flat_map(|(first, last)| first..=last)
            .filter_map(|kind| u8::try_from(kind).ok())
            .collect(),
    }
}
