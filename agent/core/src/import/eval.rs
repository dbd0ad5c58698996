//! Evaluates a packet against iptables rules, like `ipt_do_table()` in
//! `net/ipv4/netfilter/ip_tables.c`.
//!
//! Conditions that a packet cannot decide never widen a rule: a rule with an unknown word neither
//! accepts nor drops, because it can remain beside peerwall, where its drops still apply. Rates
//! count as not exceeded.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::managed;
use super::rule::{
    self, AddressKind, At, Condition, ImportedChain, ImportedRule, ImportedRules, KnownMark, Test,
    Verb,
};
use super::space::axes::LO;
use crate::net::addr;
use crate::net::packet::{CtState, Hook, Packet, Transport, Verdict};
use crate::net::port::TCP;

/// A packet and its output interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The packet.
    pub packet: Packet,
    /// Output interface, at the forward hook.
    pub out: Option<String>,
    /// Whether the destination is this host.
    pub to_this_host: bool,
    /// What is known of the mark.
    pub mark: KnownMark,
}

/// Verdict on a packet, and the line that determined it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Verdict.
    pub verdict: Verdict,
    /// Line of the deciding rule; `None` if there is none.
    pub by: Option<At>,
}

/// Maximum nesting of jumps; packets beyond it count as dropped. nf_tables has 16
/// (`NFT_JUMP_STACK_SIZE`).
const DEPTH_MAX: usize = 256;

/// Treatment of drops in chains that other programs manage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAs {
    /// Drop, as in the kernel.
    Kernel,
    /// Ignore: these programs continue to drop beside peerwall, regardless of the policy.
    BesidePeerwall,
}

/// The filter table for one source address, without rules for other sources.
pub struct RulesForSource<'r> {
    paths: &'r rule::Paths,
    untracked: &'r [Vec<Condition>],
    reading: ReadAs,
    /// Nesting of jumps.
    depth: Cell<usize>,
    chains: BTreeMap<&'r str, (&'r ImportedChain, Vec<&'r ImportedRule>)>,
}

/// Result of a rule.
enum RuleStep {
    /// Continue with the next rule.
    Next,
    /// Return to the calling chain.
    Back,
    /// Verdict of this line.
    End(Verdict, At),
}

impl ImportedRules {
    /// Reduces the filter table to the rules for this source address.
    pub fn narrow(&self, source: IpAddr, reading: ReadAs) -> RulesForSource<'_> {
        narrow(self, source, reading)
    }
}

/// Reduces the filter table to the rules for one source address.
fn narrow(rules: &ImportedRules, source: IpAddr, reading: ReadAs) -> RulesForSource<'_> {
    let fits = |rule: &&ImportedRule| {
        rule.conditions.iter().all(|c| {
            c.sources()
                .is_none_or(|spans| within(spans, source) != c.negated)
        })
    };
    let chains = rules.filter.iter().map(|(name, chain)| {
        let rules = chain.rules.iter().filter(fits).collect();
        (name.as_str(), (chain, rules))
    });
    RulesForSource {
        paths: &rules.paths,
        untracked: &rules.untracked,
        reading,
        depth: Cell::new(0),
        chains: chains.collect(),
    }
}

fn within(spans: &[rule::Interval], address: IpAddr) -> bool {
    let number = addr::number(address);
    spans
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&number))
}

impl RulesForSource<'_> {
    /// Evaluates a packet. One that rules may exempt from connection tracking must be accepted in
    /// that state, too.
    pub fn judge(&self, probe: &Probe) -> Outcome {
        if probe.packet.state != CtState::Untracked && self.may_exempt(probe) {
            let mut exempt = probe.clone();
            exempt.packet.state = CtState::Untracked;
            let outcome = self.pass(&exempt);
            if outcome.verdict != Verdict::Accept {
                return outcome;
            }
        }
        self.pass(probe)
    }

    fn may_exempt(&self, probe: &Probe) -> bool {
        let is_met = |condition: &Condition| {
            // Before connection tracking, no packet has a state.
            let is_stateless = !matches!(condition.test, Test::State { .. });
            !is_stateless || !is_known(condition, probe) || holds(condition, probe)
        };
        let mut all = self.untracked.iter();
        all.any(|conditions| conditions.iter().all(is_met))
    }

    fn pass(&self, probe: &Probe) -> Outcome {
        let path = match probe.packet.hook {
            Hook::Input => &self.paths.input,
            Hook::Forward => &self.paths.forward,
        };
        let mut outcome = Outcome {
            verdict: Verdict::Accept,
            by: None,
        };
        for name in path {
            outcome = self.judge_by(name, probe);
            if outcome.verdict != Verdict::Accept {
                break;
            }
        }
        outcome
    }

    fn judge_by(&self, name: &str, probe: &Probe) -> Outcome {
        if let Some((verdict, at)) = self.run(name, probe) {
            return Outcome {
                verdict,
                by: Some(at),
            };
        }
        let chain = self.chains.get(name).map(|(chain, _)| *chain);
        let accepts = chain.and_then(|chain| chain.accepts).unwrap_or(true);
        Outcome {
            verdict: if accepts {
                Verdict::Accept
            } else {
                Verdict::Drop
            },
            by: chain.and_then(|chain| chain.at),
        }
    }

    fn run(&self, name: &str, probe: &Probe) -> Option<(Verdict, At)> {
        self.run_from(name, 0, probe)
    }

    fn descend(&self, name: &str, probe: &Probe) -> Option<(Verdict, At)> {
        self.depth.set(self.depth.get() + 1);
        let found = self.run(name, probe);
        self.depth.set(self.depth.get() - 1);
        found
    }

    /// Evaluates a chain; `None` at its end.
    fn run_from(&self, name: &str, from: usize, probe: &Probe) -> Option<(Verdict, At)> {
        let (_, rules) = self.chains.get(name)?;
        for (index, rule) in rules.iter().enumerate().skip(from) {
            match self.step(name, index, rule, probe) {
                RuleStep::Next => {}
                RuleStep::Back => return None,
                RuleStep::End(verdict, at) => return Some((verdict, at)),
            }
        }
        None
    }

    /// The packet may leave the chain at this rule: later ones do not accept it.
    fn perhaps_back(&self, chain: &str, index: usize, probe: &Probe) -> RuleStep {
        match self.run_from(chain, index + 1, probe) {
            Some((verdict, at)) if verdict != Verdict::Accept => RuleStep::End(verdict, at),
            Some(_) | None => RuleStep::Back,
        }
    }

    fn step(&self, chain: &str, index: usize, rule: &ImportedRule, probe: &Probe) -> RuleStep {
        // Known conditions first: if one of them fails, unknown conditions are irrelevant.
        let known = |c: &&Condition| is_known(c, probe);
        if !rule
            .conditions
            .iter()
            .filter(known)
            .all(|c| holds(c, probe))
        {
            return RuleStep::Next;
        }
        let uncertain = !rule.conditions.iter().all(|c| is_known(c, probe));
        match &rule.target {
            Verb::Continue(_)
            | Verb::Mark(..)
            | Verb::Untrack(_)
            | Verb::Dnat(..)
            | Verb::DnatSomewhere(_)
            | Verb::Masquerade => RuleStep::Next,
            Verb::Accept | Verb::Drop | Verb::Reject | Verb::Unknown(_) if uncertain => {
                RuleStep::Next
            }
            Verb::Accept => RuleStep::End(Verdict::Accept, rule.at),
            // The managing program continues to drop these packets.
            Verb::Drop | Verb::Reject
                if self.reading == ReadAs::BesidePeerwall
                    && managed::by(chain).is_some_and(|m| m.keeps_drops) =>
            {
                RuleStep::Next
            }
            Verb::Drop | Verb::Unknown(_) => RuleStep::End(Verdict::Drop, rule.at),
            Verb::Reject => RuleStep::End(Verdict::Reject, rule.at),
            // It is unknown whether the rest of the chain applies, so it may only narrow the
            // result.
            Verb::Return if uncertain => self.perhaps_back(chain, index, probe),
            Verb::Return => RuleStep::Back,
            Verb::Goto(to) if uncertain => match self.descend(to, probe) {
                Some(_) => RuleStep::Next,
                None => self.perhaps_back(chain, index, probe),
            },
            // Accept only packets that are accepted with and without this chain.
            Verb::Jump(_) if uncertain => RuleStep::Next,
            Verb::Jump(_) | Verb::Goto(_) if self.depth.get() >= DEPTH_MAX => {
                RuleStep::End(Verdict::Drop, rule.at)
            }
            Verb::Jump(to) => match self.descend(to, probe) {
                Some((verdict, at)) => RuleStep::End(verdict, at),
                None => RuleStep::Next,
            },
            Verb::Goto(to) => match self.descend(to, probe) {
                Some((verdict, at)) => RuleStep::End(verdict, at),
                None => RuleStep::Back,
            },
        }
    }
}

/// Reports whether a packet decides a condition.
pub(crate) fn is_known(condition: &Condition, probe: &Probe) -> bool {
    if let Test::Mark(test, _) = condition.test {
        return probe.mark.meets(test).is_some();
    }
    if condition.test == Test::ReversePath(false) {
        return has_reverse_path(probe);
    }
    !matches!(condition.test, Test::Unknown(_))
}

/// Packets on `lo` always have it (`nft_fib4_eval()` in `net/ipv4/netfilter/nft_fib_ipv4.c`).
fn has_reverse_path(probe: &Probe) -> bool {
    probe.packet.reverse_path || probe.packet.interface == LO
}

/// Reports whether an address is of the type broadcast, as far as it does not depend on the host's
/// networks (`__inet_dev_addr_type()`, net/ipv4/fib_frontend.c).
fn is_broadcast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_broadcast() || address.is_unspecified(),
        IpAddr::V6(_) => false,
    }
}

/// Reports whether a packet meets a condition.
pub(crate) fn holds(condition: &Condition, probe: &Probe) -> bool {
    let packet = &probe.packet;
    let found = match &condition.test {
        Test::Source(spans) => within(spans, packet.source),
        Test::Destination(spans) => within(spans, packet.destination),
        Test::In(patterns) => patterns.iter().any(|p| p.matches(&packet.interface)),
        // A packet to this host has no output interface; iptables compares the empty name.
        Test::Out(patterns) => {
            let out = probe.out.as_deref().unwrap_or_default();
            patterns.iter().any(|p| p.matches(out))
        }
        Test::Protocol(numbers) => numbers.contains(&packet.protocol()),
        Test::SourcePorts(ranges) => ports(packet).is_some_and(|(port, _)| in_any(ranges, port)),
        Test::DestinationPorts(ranges) => {
            ports(packet).is_some_and(|(_, port)| in_any(ranges, port))
        }
        Test::EitherPort(ranges) => {
            ports(packet).is_some_and(|(a, b)| in_any(ranges, a) || in_any(ranges, b))
        }
        Test::TcpFlags(mask, wanted) => {
            tcp_flags(packet).is_some_and(|flags| flags & mask == *wanted)
        }
        Test::State { states, dnat } => {
            states.contains(&packet.state) || (*dnat && packet.dialled.is_some())
        }
        Test::Dialled(first, last) => {
            let dialled = packet.dialled.map(|dialled| dialled.port);
            let dialled = dialled.or(ports(packet).map(|(_, port)| port));
            dialled.is_some_and(|port| (*first..=*last).contains(&port))
        }
        Test::DialledAddress(spans) => {
            let dialled = packet.dialled.map(|dialled| dialled.address);
            within(spans, dialled.unwrap_or(packet.destination))
        }
        Test::Icmp(kinds) => match packet.transport {
            Transport::Icmp { kind, code } => kinds
                .iter()
                .any(|(k, c)| *k == kind && c.is_none_or(|c| c == code)),
            Transport::Ports { .. } | Transport::Other(_) => false,
        },
        Test::HopLimit(first, last) => (*first..=*last).contains(&packet.hop_limit),
        Test::To(AddressKind::Local) => probe.to_this_host,
        Test::To(AddressKind::Broadcast) => is_broadcast(packet.destination),
        Test::To(AddressKind::Multicast) => packet.destination.is_multicast(),
        Test::From(AddressKind::Local) => false,
        Test::From(AddressKind::Broadcast) => is_broadcast(packet.source),
        Test::From(AddressKind::Multicast) => packet.source.is_multicast(),
        Test::Any(lists) => lists
            .iter()
            .any(|list| list.iter().all(|each| holds(each, probe))),
        Test::Rate(holds, _) | Test::Always(holds) => *holds,
        Test::ReversePath(_) => has_reverse_path(probe),
        Test::Mark(test, _) => probe.mark.meets(*test).unwrap_or(false),
        Test::Unknown(_) => return false,
    };
    // A negated condition also needs the protocol's header.
    let test = &condition.test;
    let of_ports = matches!(
        test,
        Test::SourcePorts(_) | Test::DestinationPorts(_) | Test::EitherPort(_)
    );
    let of_tcp = matches!(test, Test::TcpFlags(..));
    let of_icmp = matches!(test, Test::Icmp(..));
    let has_header = (!of_ports || ports(packet).is_some())
        && (!of_tcp || tcp_flags(packet).is_some())
        && (!of_icmp || matches!(packet.transport, Transport::Icmp { .. }));
    has_header && found != condition.negated
}

fn in_any(ranges: &[(u16, u16)], port: u16) -> bool {
    ranges
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&port))
}

fn ports(packet: &Packet) -> Option<(u16, u16)> {
    match packet.transport {
        Transport::Ports {
            protocol,
            source,
            destination,
        } if rule::has_ports(protocol) => Some((source, destination)),
        Transport::Ports { .. } | Transport::Icmp { .. } | Transport::Other(_) => None,
    }
}

/// Returns the flags of a first packet (SYN), of a later one (ACK), or of an invalid one (SYN and
/// RST).
fn tcp_flags(packet: &Packet) -> Option<u8> {
    let Transport::Ports { protocol: TCP, .. } = packet.transport else {
        return None;
    };
    Some(match packet.state {
        CtState::New | CtState::Related | CtState::Untracked => rule::SYN,
        CtState::Established => rule::ACK,
        CtState::Invalid => rule::SYN | rule::RST,
    })
}
