//! What a compiled policy does to sets of packets, like `nft_do_chain()` of nf_tables.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Space;
use super::axes::{Axes, LO};
use super::diagram::{Diagrams, Labels, PacketSet, Run};
use super::mentioned::{elements, icmp_kinds, port_ranges, spans};
use super::place::{Place, Published};
use super::region::Sets;
use super::slices::fitting;
use crate::import::rule::Interval;
use crate::net::addr;
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Hook, Verdict};
use crate::policy::reason::Reason;
use crate::ruleset::{
    Action, Chain, ChainHook, ChainPolicy, CtStates, KeyType, Match, Rule, Ruleset, Set,
    counter_reason,
};

/// The verdicts of a policy on all packets.
#[derive(Debug, Clone)]
pub(in crate::import) struct Ruled {
    /// Packets that are accepted.
    pub accepted: PacketSet,
    /// For each packet, the index of its decision.
    pub labels: Labels,
    /// Verdicts with their reasons.
    pub decisions: Vec<(Verdict, Reason)>,
}

impl Sets for Ruled {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        self.accepted.each_root(visit);
        self.labels.each_root(visit);
    }
}

/// Number of rules after which the sets that are no longer needed are freed.
const BLOCK: usize = 256;
/// Maximum nesting of jumps (`NFT_JUMP_STACK_SIZE`).
const JUMPS_MAX: usize = 16;

/// A compiled policy, divided by slices.
#[derive(Debug)]
pub(in crate::import) struct SlicedPolicy<'p> {
    ruleset: &'p Ruleset,
    /// Values of the sources in each set.
    sources: HashMap<&'p str, Vec<Run>>,
    /// The slices; empty if the sources are not divided.
    slices: Vec<Run>,
    /// For each slice, the rules of each chain that concern it.
    rules: Vec<HashMap<&'p str, Vec<&'p Rule>>>,
}

impl<'p> SlicedPolicy<'p> {
    pub(in crate::import) fn new(space: &Space<'_>, ruleset: &'p Ruleset) -> Self {
        let axes = &space.axes;
        let runs = |set: &'p Set| axes.source_runs(&spans(set).collect::<Vec<_>>());
        let sets = ruleset.sets.iter();
        let sets = sets.filter(|(_, set)| set.key == KeyType::address(axes.family));
        let mut policy = Self {
            ruleset,
            sources: sets.map(|(name, set)| (name.as_str(), runs(set))).collect(),
            slices: space.slices.iter().filter_map(|slice| slice.run).collect(),
            rules: Vec::new(),
        };
        policy.rules = vec![HashMap::new(); policy.slices.len().max(1)];
        for chain in &ruleset.chains {
            for rule in &chain.rules {
                let runs = rule
                    .matches
                    .iter()
                    .filter_map(|each| policy.runs(axes, each));
                let fits = fitting(&policy.slices, runs);
                let numbers: Vec<usize> = match fits {
                    Some(fits) if !policy.slices.is_empty() => fits.into_iter().collect(),
                    _ => (0..policy.rules.len()).collect(),
                };
                for number in numbers {
                    if let Some(chains) = policy.rules.get_mut(number) {
                        chains.entry(chain.name.as_str()).or_default().push(rule);
                    }
                }
            }
        }
        policy
    }

    /// Returns the sources of a match for sources.
    fn runs(&self, axes: &Axes, each: &Match) -> Option<Cow<'_, [Run]>> {
        if let Match::Source { family, set } = each {
            let known = self.sources.get(set.as_str());
            let known = known.filter(|_| *family == axes.family);
            return Some(Cow::Borrowed(known.map_or(&[], Vec::as_slice)));
        }
        if let Match::SourceNet(net) = each {
            let is_known = addr::Family::of(net.addr()) == axes.family;
            let spans: Vec<Interval> = is_known.then(|| addr::bounds(*net)).into_iter().collect();
            return Some(Cow::Owned(axes.source_runs(&spans)));
        }
        None
    }

    /// Returns the rules of a chain that concern a slice.
    fn rules(&self, slice: Option<Run>, chain: &Chain) -> &[&'p Rule] {
        let number = self.slices.iter().position(|run| Some(*run) == slice);
        let chains = self.rules.get(number.unwrap_or(0));
        let rules = chains.and_then(|chains| chains.get(chain.name.as_str()));
        rules.map_or(&[], Vec::as_slice)
    }
}

/// Evaluates a compiled policy on all packets at a place.
pub(in crate::import) fn ruled(
    d: &mut Diagrams,
    place: &Place<'_>,
    policy: &SlicedPolicy<'_>,
    packets: PacketSet,
) -> Ruled {
    let mut pass = Pass {
        d,
        place,
        ruleset: policy.ruleset,
        policy,
        is_before: true,
        marked: PacketSet::NONE,
        ruled: Ruled {
            accepted: PacketSet::NONE,
            labels: Labels::NONE,
            decisions: Vec::new(),
        },
        known: HashMap::new(),
    };
    let arrived = pass.base(ChainHook::Prerouting, packets);
    pass.is_before = false;
    pass.ruled.accepted = pass.base(place.hook.into(), arrived);
    pass.ruled
}

struct Pass<'p> {
    d: &'p mut Diagrams,
    place: &'p Place<'p>,
    ruleset: &'p Ruleset,
    policy: &'p SlicedPolicy<'p>,
    /// Whether packets are as they were before DNAT.
    is_before: bool,
    /// Packets whose connection has the label.
    marked: PacketSet,
    ruled: Ruled,
    /// Indices of decisions.
    known: HashMap<(Verdict, Reason), usize>,
}

impl Pass<'_> {
    /// Returns the packets that a base chain accepts.
    fn base(&mut self, hook: ChainHook, packets: PacketSet) -> PacketSet {
        let base = |chain: &&Chain| chain.base.is_some_and(|base| base.hook == hook);
        let ruleset = self.ruleset;
        let Some(chain) = ruleset.chains.iter().find(base) else {
            return packets;
        };
        let rest = self.chain(chain, packets, None, 0);
        let verdict = match chain.base.map(|base| base.policy) {
            Some(ChainPolicy::Accept) | None => Verdict::Accept,
            Some(ChainPolicy::Drop) => Verdict::Drop,
        };
        self.decide(rest, verdict, None);
        // Each packet that entered has the label of its decision here.
        let decisions = &self.ruled.decisions;
        let is_accept = |label: u32| {
            let decision = decisions.get(label as usize);
            decision.is_some_and(|(verdict, _)| *verdict == Verdict::Accept)
        };
        let accepted = self.d.labelled_by(self.ruled.labels, &is_accept);
        self.d.and(accepted, packets)
    }

    /// Returns the packets that reach the end of a chain.
    fn chain(
        &mut self,
        chain: &Chain,
        mut packets: PacketSet,
        counter: Option<&str>,
        depth: usize,
    ) -> PacketSet {
        let mut returned = PacketSet::NONE;
        let policy = self.policy;
        for rules in policy.rules(self.place.slice, chain).chunks(BLOCK) {
            let region = self.d.open();
            for rule in rules {
                if packets.is_none() {
                    break;
                }
                self.rule(rule, (&mut packets, &mut returned), counter, depth);
            }
            let here = (&mut packets, &mut returned);
            let mut kept = (here, (&mut self.marked, &mut self.ruled));
            self.d.close(region, &mut kept);
        }
        self.d.or(packets, returned)
    }

    /// Applies a rule to the packets that reach it.
    fn rule(
        &mut self,
        rule: &Rule,
        (packets, returned): (&mut PacketSet, &mut PacketSet),
        counter: Option<&str>,
        depth: usize,
    ) {
        let matched = self.matched(rule, *packets);
        if matched.is_none() {
            return;
        }
        if rule.label {
            let tracked = self.tracked();
            let marked = self.d.and(matched, tracked);
            self.marked = self.d.or(self.marked, marked);
        }
        let counter = rule.counter.as_deref().or(counter);
        let verdict = match &rule.action {
            None => return,
            Some(Action::Accept) => Verdict::Accept,
            Some(Action::Drop) => Verdict::Drop,
            Some(Action::RejectTcpReset | Action::RejectAdminProhibited) => Verdict::Reject,
            Some(Action::Jump(to) | Action::Goto(to)) => {
                *packets = self.d.without(*packets, matched);
                let back = match self.ruleset.chain(to).filter(|_| depth < JUMPS_MAX) {
                    Some(inner) => self.chain(inner, matched, counter, depth + 1),
                    None => matched,
                };
                match rule.action {
                    Some(Action::Goto(_)) => *returned = self.d.or(*returned, back),
                    _ => *packets = self.d.or(*packets, back),
                }
                return;
            }
        };
        *packets = self.d.without(*packets, matched);
        self.decide(matched, verdict, counter);
    }

    fn decide(&mut self, packets: PacketSet, verdict: Verdict, counter: Option<&str>) {
        if packets.is_none() {
            return;
        }
        let default = match self.place.hook {
            Hook::Input => Reason::InputDefault,
            Hook::Forward => Reason::ForwardDefault,
        };
        let reason = counter.and_then(counter_reason);
        let reason = reason.map_or(default, |(_, reason)| reason);
        let decision = (verdict, reason);
        let next = self.ruled.decisions.len();
        let index = *self.known.entry(decision.clone()).or_insert(next);
        if index == next {
            self.ruled.decisions.push(decision);
        }
        let label = u32::try_from(index).unwrap_or(0);
        self.ruled.labels = self.d.label(packets, label, self.ruled.labels);
    }

    fn matched(&mut self, rule: &Rule, packets: PacketSet) -> PacketSet {
        let is_first = |each: &&Match| matches!(each, Match::Source { .. } | Match::SourceNet(_));
        let mut matched = PacketSet::ALL;
        // The first axis last: sets of the other ones are small.
        let others = rule.matches.iter().filter(|each| !is_first(each));
        for each in others.chain(rule.matches.iter().filter(is_first)) {
            let met = self.test(each);
            matched = self.d.and(matched, met);
            if matched.is_none() {
                return matched;
            }
        }
        self.d.and(packets, matched)
    }

    fn tracked(&mut self) -> PacketSet {
        let known = [CtState::New, CtState::Established, CtState::Related];
        self.place.axes.states(self.d, &known)
    }

    fn test(&mut self, each: &Match) -> PacketSet {
        let (place, ruleset) = (self.place, self.ruleset);
        let axes = place.axes;
        let family = axes.family;
        let bounds = |net: &ipnet::IpNet| {
            let net = Some(net).filter(|net| addr::Family::of(net.addr()) == family);
            net.map(|net| addr::bounds(*net))
                .into_iter()
                .collect::<Vec<_>>()
        };
        let addresses = |set: &str| elements(ruleset, set, KeyType::address(family));
        let d = &mut *self.d;
        match each {
            Match::CtState(states) => states_of(*states, self.place, d),
            Match::Dnat | Match::NotDnat | Match::DialledHere | Match::Local => self.dnat(each),
            Match::Loopback => axes.interfaces(d, &[InterfacePattern::Exact(LO.into())]),
            Match::OutInterface(_) if place.hook == Hook::Input => PacketSet::NONE,
            Match::OutInterface(pattern) => axes.outs(d, std::slice::from_ref(pattern)),
            // No policy of an import has Ethernet addresses.
            Match::SourceMac(_) => PacketSet::NONE,
            Match::Source { .. } | Match::SourceNet(_) => {
                let runs = self.policy.runs(axes, each).unwrap_or_default();
                place.sources(d, &runs)
            }
            Match::DestinationIn { family: of, set } if *of == family => {
                self.destination(&addresses(set))
            }
            Match::DialledAddress { family: of, set } if *of == family => {
                let spans = addresses(set);
                let now = axes.destinations(d, &spans);
                let found = place.originally(d, now, |port| is_to(port, &spans));
                let tracked = self.tracked();
                self.d.and(found, tracked)
            }
            Match::DestinationIn { .. } | Match::DialledAddress { .. } => PacketSet::NONE,
            Match::Destination(net) => self.destination(&bounds(net)),
            Match::TcpSyn => axes.flags(d, 0x17, 0x02),
            Match::Interface { pattern, negated } => {
                let on = axes.interfaces(d, std::slice::from_ref(pattern));
                match negated {
                    true => d.not(on),
                    false => on,
                }
            }
            Match::Family(of) if *of == family => PacketSet::ALL,
            Match::Family(_) => PacketSet::NONE,
            Match::Protocol(wanted) => axes.protocols(d, |number| number == *wanted),
            Match::SourcePort(ports) => axes.sent_from(d, &port_ranges(ports, ruleset)),
            Match::DestinationPort(ports) => {
                self.port(&port_ranges(ports, ruleset), self.is_before)
            }
            Match::DialledPort(ports) => {
                let found = self.port(&port_ranges(ports, ruleset), true);
                let tracked = self.tracked();
                self.d.and(found, tracked)
            }
            Match::Icmp(kinds) => {
                let kinds = icmp_kinds(kinds, ruleset).into_iter();
                let kinds: Vec<_> = kinds.map(|kind| (kind, None)).collect();
                axes.icmp(d, &kinds)
            }
            Match::HopLimit(limit) | Match::Ttl(limit) => axes.hop_limits(d, *limit, *limit),
            Match::ReversePath { exists } => {
                let value = u64::from(*exists);
                d.in_runs(axes.reverse_path, &[(value, value)])
            }
        }
    }

    fn dnat(&mut self, each: &Match) -> PacketSet {
        let direct = match self.is_before {
            true => PacketSet::ALL,
            false => self.place.axes.direct(self.d),
        };
        let redirected = self.d.not(direct);
        if *each == Match::Dnat {
            return redirected;
        }
        if *each == Match::NotDnat {
            let tracked = self.tracked();
            return self.d.and(direct, tracked);
        }
        if *each == Match::DialledHere {
            return self.marked;
        }
        // Connections are redirected from addresses of this host.
        match self.place.hook {
            Hook::Input => PacketSet::ALL,
            Hook::Forward => {
                let direct = self.place.axes.direct(self.d);
                self.d.not(direct)
            }
        }
    }

    fn destination(&mut self, spans: &[Interval]) -> PacketSet {
        let now = self.place.axes.destinations(self.d, spans);
        match self.is_before {
            true => self
                .place
                .originally(self.d, now, |port| is_to(port, spans)),
            false => now,
        }
    }

    fn port(&mut self, ranges: &[(u16, u16)], original: bool) -> PacketSet {
        let now = self.place.axes.sent_to(self.d, ranges);
        let is_in = |port: &Published| port.is_dialled_in(ranges);
        match original {
            true => self.place.originally(self.d, now, is_in),
            false => now,
        }
    }
}

fn is_to(port: &Published, spans: &[Interval]) -> bool {
    let number = port.address.map(addr::number);
    number.is_some_and(|number| spans.iter().any(|(a, b)| (*a..=*b).contains(&number)))
}

fn states_of(states: CtStates, place: &Place<'_>, d: &mut Diagrams) -> PacketSet {
    let bits = [
        (1, CtState::Invalid),
        (2, CtState::Established),
        (4, CtState::Related),
        (8, CtState::New),
        (64, CtState::Untracked),
    ];
    let states = bits.into_iter().filter(|(bit, _)| states.0 & bit != 0);
    let states: Vec<CtState> = states.map(|(_, state)| state).collect();
    place.axes.states(d, &states)
}
