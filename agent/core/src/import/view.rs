//! The requests of one family that rules accept, as far as a policy can say so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::literals::{Literal, literals};
use crate::import::managed;
use crate::import::networks::elsewhere;
use crate::import::rule::{At, ImportedRule, ImportedRules, Interval, Test};
use crate::import::space::Space;
use crate::import::space::axes::LO;
use crate::import::space::diagram::PacketSet;
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Hook, Verdict};
use crate::net::port::TCP;
use crate::policy::icmp;

/// Requests of one family. A request is the first packet of a connection, or one that is not
/// tracked, with the usual TTL and flags, to an address of this host.
pub(in crate::import) struct View<'s, 'r> {
    pub space: &'s mut Space<'r>,
    pub family: Family,
    /// Every request to this host, except on `lo`.
    pub requests: PacketSet,
    /// ICMP messages without a connection that the rules do not accept.
    pub unheard: PacketSet,
    /// Requests that the rules do not accept, here or behind a published port, by the original
    /// destination port.
    pub refused: PacketSet,
    /// First packets of connections through this host.
    pub transit: PacketSet,
    /// Those that the rules do not accept.
    pub stopped: PacketSet,
    /// Requests that peers, overlays and trusted interfaces cover: by interface and source.
    pub covered: PacketSet,
    /// Packets that each line accepts, requests among them, in the order of lines.
    pub lines: BTreeMap<At, PacketSet>,
    /// The rules by their lines.
    pub by_line: Arc<BTreeMap<At, &'r ImportedRule>>,
    /// The positive sources in the rules, in the order of lines.
    pub literals: Arc<Vec<Literal<'r>>>,
    /// Interface patterns in the rules.
    pub patterns: Arc<Vec<InterfacePattern>>,
    /// Lines that another program manages.
    managed: Arc<BTreeSet<At>>,
}

impl<'s, 'r> View<'s, 'r> {
    pub(in crate::import) fn new(space: &'s mut Space<'r>) -> Self {
        let family = space.family;
        let requests = requests(space, &[CtState::New, CtState::Untracked]);
        let accepted = space.input.walked.accepted;
        let messages = self::requests(space, &[CtState::Invalid]);
        let unheard = space.d.without(messages, accepted);
        let mut refused = space.d.without(requests, accepted);
        let behind = refused_behind(space);
        refused = space.d.or(refused, behind);
        let transit = transit(space);
        let passed = space.forward.walked.accepted;
        let stopped = space.d.without(transit, passed);
        let mut lines: BTreeMap<At, PacketSet> = BTreeMap::new();
        let decided = space.input.walked.decided.iter();
        let checks = reverse_path_checks(space.rules);
        let decided = decided.filter(|each| !checks.contains(&each.at));
        for each in decided.filter(|each| each.verdict == Verdict::Accept) {
            let region = space.d.open();
            let accepts_requests = space.d.meets(each.packets, requests);
            space.d.close(region, &mut ());
            if accepts_requests {
                let all = lines.entry(each.at).or_default();
                *all = space.d.or(*all, each.packets);
            }
        }
        let rules = space.rules;
        let chains = rules.filter.iter();
        let managed = chains.filter(|(name, _)| managed::by(name).is_some());
        let managed = managed.flat_map(|(_, chain)| chain.rules.iter().map(|rule| rule.at));
        let all = rules.filter.values().flat_map(|chain| &chain.rules);
        Self {
            family,
            requests,
            unheard,
            refused,
            transit,
            stopped,
            covered: PacketSet::NONE,
            lines,
            by_line: Arc::new(all.clone().map(|rule| (rule.at, rule)).collect()),
            literals: Arc::new(literals(rules)),
            patterns: Arc::new(patterns(all.clone(), rules)),
            managed: Arc::new(managed.collect()),
            space,
        }
    }

    /// Returns what is said of the same rules over sets of other diagrams: they are empty at first.
    pub(in crate::import) fn of_slice<'p>(&self, space: &'p mut Space<'r>) -> View<'p, 'r> {
        View {
            space,
            family: self.family,
            requests: PacketSet::NONE,
            unheard: PacketSet::NONE,
            refused: PacketSet::NONE,
            transit: PacketSet::NONE,
            stopped: PacketSet::NONE,
            covered: PacketSet::NONE,
            lines: BTreeMap::new(),
            by_line: Arc::clone(&self.by_line),
            literals: Arc::clone(&self.literals),
            patterns: Arc::clone(&self.patterns),
            managed: Arc::clone(&self.managed),
        }
    }

    /// Runs work whose sets are not needed afterwards, except [`covered`](Self::covered): its
    /// result contains none, and it stores none.
    pub(in crate::import) fn briefly<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let region = self.space.d.open();
        let result = work(self);
        self.space.d.close(region, &mut self.covered);
        result
    }

    /// Reports whether another program manages a line.
    pub(in crate::import) fn is_managed(&self, at: At) -> bool {
        self.managed.contains(&at)
    }

    /// Reports whether the rules accept all of these requests, and there are some.
    pub(in crate::import) fn accepts(&mut self, packets: PacketSet) -> bool {
        let packets = self.space.d.and(packets, self.requests);
        !packets.is_none() && !self.space.d.meets(packets, self.refused)
    }

    /// Like [`accepts`](Self::accepts), without the requests that are covered.
    pub(in crate::import) fn accepts_rest(&mut self, packets: PacketSet) -> bool {
        let packets = self.space.d.without(packets, self.covered);
        let packets = self.space.d.and(packets, self.requests);
        !self.space.d.meets(packets, self.refused)
    }

    /// Reports whether the rules forward all of these first packets.
    pub(in crate::import) fn passes(&mut self, packets: PacketSet) -> bool {
        !self.space.d.meets(packets, self.stopped)
    }

    pub(in crate::import) fn is_covered(&mut self, packets: PacketSet) -> bool {
        let packets = self.space.d.and(packets, self.requests);
        self.space.d.is_within(packets, self.covered)
    }

    pub(in crate::import) fn cover(&mut self, packets: PacketSet) {
        self.covered = self.space.d.or(self.covered, packets);
    }

    pub(in crate::import) fn from(&mut self, span: Interval) -> PacketSet {
        self.space.axes.sources(&mut self.space.d, &[span])
    }

    /// Reports whether a span contains a source of some request.
    pub(in crate::import) fn is_source(&mut self, span: Interval) -> bool {
        let from = self.from(span);
        self.space.d.meets(from, self.requests)
    }

    /// Returns requests on interfaces of this class.
    pub(in crate::import) fn on_class(&mut self, index: u64) -> PacketSet {
        self.space
            .d
            .in_runs(self.space.axes.interface, &[(index, index)])
    }

    /// Returns the classes of interfaces except `lo`, with an example of each.
    pub(in crate::import) fn interfaces(&self) -> Vec<(u64, String)> {
        let classes = (0..).zip(self.space.axes.interfaces.iter().cloned());
        classes.filter(|(_, name)| name != LO).collect()
    }

    /// The class of interfaces that no rule names, if there is one.
    pub(in crate::import) fn unnamed_interface(&mut self) -> PacketSet {
        let last = self.space.axes.interface.len - 1;
        self.on_class(last)
    }

    /// Reports whether new packets of these sources on an interface are forwarded to hosts that no
    /// rule names.
    pub(in crate::import) fn passes_out(
        &mut self,
        interface: &InterfacePattern,
        sources: PacketSet,
    ) -> bool {
        let elsewhere = addr::number(elsewhere(self.family));
        let there = self
            .space
            .axes
            .destinations(&mut self.space.d, &[(elsewhere, elsewhere)]);
        let last = self.space.axes.out.len - 1;
        let out = self.space.d.in_runs(self.space.axes.out, &[(last, last)]);
        let on = self.space.on(std::slice::from_ref(interface));
        let parts = [there, out, on, sources, self.transit];
        let packets = parts
            .into_iter()
            .fold(PacketSet::ALL, |all, part| self.space.d.and(all, part));
        !packets.is_none() && self.passes(packets)
    }

    /// Returns first packets that some line forwards which no program manages.
    pub(in crate::import) fn forwarded(&mut self) -> PacketSet {
        let mut found = PacketSet::NONE;
        for each in &self.space.forward.walked.decided {
            if each.verdict == Verdict::Accept && !self.managed.contains(&each.at) {
                let region = self.space.d.open();
                let part = self.space.d.and(each.packets, self.transit);
                found = self.space.d.or(found, part);
                self.space.d.close(region, &mut found);
            }
        }
        found
    }
}

fn patterns<'r>(
    rules: impl Iterator<Item = &'r ImportedRule>,
    all: &'r ImportedRules,
) -> Vec<InterfacePattern> {
    let mut found: Vec<InterfacePattern> = Vec::new();
    let behind = crate::import::networks::masqueraded(all).into_iter();
    let behind = behind.map(|(_, pattern, _)| pattern);
    // Also those of connections to published ports.
    let nat = all.nat.values().flat_map(|chain| &chain.rules);
    let named = rules.chain(nat).flat_map(ImportedRule::all_interfaces);
    let mut seen = std::collections::BTreeSet::new();
    for pattern in named.chain(behind) {
        let is_lo = pattern.exact() == Some(LO);
        if !is_lo && seen.insert(pattern.clone()) {
            found.push(pattern);
        }
    }
    found
}

/// Returns the lines that accept by the reverse path alone, if packets pass other chains too: they
/// say nothing about services.
fn reverse_path_checks(rules: &ImportedRules) -> BTreeSet<At> {
    let is_check = |rule: &&ImportedRule| {
        let mut conditions = rule.conditions.iter();
        rule.conditions.len() == 1 && conditions.all(|c| matches!(c.test, Test::ReversePath(_)))
    };
    let all = rules.filter.values().flat_map(|chain| &chain.rules);
    let several = rules.paths.input.len() > 1;
    let found = all.filter(|rule| several && is_check(rule));
    found.map(|rule| rule.at).collect()
}

/// Returns packets with the usual TTL and flags, and with a route back.
fn usual(space: &mut Space<'_>) -> PacketSet {
    let (axes, d) = (&space.axes, &mut space.d);
    let mut limit = axes.hop_limits(d, 64, 64);
    if space.family == Family::V6 {
        let kinds = |kinds: &[u8]| kinds.iter().map(|kind| (*kind, None)).collect::<Vec<_>>();
        let on_link = [icmp::NEIGHBOUR_DISCOVERY, &[137]].concat();
        for (kinds, value) in [
            (kinds(&on_link), icmp::HOP_LIMIT_ON_LINK),
            (kinds(icmp::LISTENER_DISCOVERY), icmp::HOP_LIMIT_LISTENER),
        ] {
            let kinds = axes.icmp(d, &kinds);
            let exactly = axes.hop_limits(d, value, value);
            let these = d.and(kinds, exactly);
            let others = d.without(limit, kinds);
            limit = d.or(these, others);
        }
    }
    let tcp = axes.protocols(d, |number| number == TCP);
    let syn = axes.flags(d, 0x3f, 0x02);
    let no_tcp = d.not(tcp);
    let flags = d.or(syn, no_tcp);
    let flags = d.and(limit, flags);
    let back = d.in_runs(axes.reverse_path, &[(1, 1)]);
    d.and(flags, back)
}

/// Returns the usual first packets to this host in one of these states, and ICMP messages.
fn requests(space: &mut Space<'_>, states: &[CtState]) -> PacketSet {
    let usual = usual(space);
    let valid = space.site(Hook::Input).valid;
    let own = space.own.clone();
    let (axes, d) = (&space.axes, &mut space.d);
    let first: &[CtState] = match space.rules.untracked.is_empty() {
        true => &[CtState::New],
        false => &[CtState::New, CtState::Untracked],
    };
    let first = axes.states(d, first);
    let icmp = axes.protocols(d, |number| number == axes.icmp_protocol());
    let states = axes.states(d, states);
    let kinds = d.or(first, icmp);
    let lo = axes.interfaces(d, &[InterfacePattern::Exact(LO.into())]);
    let outside = d.not(lo);
    let own = axes.destinations(d, &own);
    let parts = [valid, usual, kinds, states, outside, axes.direct(d), own];
    parts
        .into_iter()
        .fold(PacketSet::ALL, |all, part| d.and(all, part))
}

fn transit(space: &mut Space<'_>) -> PacketSet {
    let usual = usual(space);
    let valid = space.site(Hook::Forward).valid;
    let (axes, d) = (&space.axes, &mut space.d);
    let parts = [
        valid,
        usual,
        axes.direct(d),
        axes.states(d, &[CtState::New]),
    ];
    parts
        .into_iter()
        .fold(PacketSet::ALL, |all, part| d.and(all, part))
}

/// Returns the first packets to a published port that the rules accept, as their source, interface
/// and output interface have it.
pub(in crate::import) fn behind(space: &mut Space<'_>, index: usize) -> (PacketSet, PacketSet) {
    let Some(port) = space.redirections.published.get(index).copied() else {
        return (PacketSet::NONE, PacketSet::NONE);
    };
    let usual = usual(space);
    let site = space.site(port.hook).clone();
    let these = space.axes.published(&mut space.d, index + 1);
    let parts = [these, usual, site.valid];
    let all = parts
        .into_iter()
        .fold(PacketSet::ALL, |all, part| space.d.and(all, part));
    let accepted = space.d.and(all, site.walked.accepted);
    (all, accepted)
}

/// Returns requests to published ports that the rules do not accept behind them.
fn refused_behind(space: &mut Space<'_>) -> PacketSet {
    let mut found = PacketSet::NONE;
    for index in 0..space.redirections.published.len() {
        let Some(port) = space.redirections.published.get(index).copied() else {
            continue;
        };
        let (all, accepted) = behind(space, index);
        let (axes, d) = (&space.axes, &mut space.d);
        let refused = d.without(all, accepted);
        let mut refused = d.project(refused, &[axes.source, axes.interface]);
        let protocol = axes.protocols(d, |number| number == port.protocol);
        let dialled = axes.sent_to(d, &[port.dialled]);
        let new = axes.states(d, &[CtState::New]);
        for part in [protocol, dialled, new] {
            refused = d.and(refused, part);
        }
        if let Some(address) = port.address {
            let number = addr::number(address);
            let to = axes.destinations(d, &[(number, number)]);
            refused = d.and(refused, to);
        }
        found = d.or(found, refused);
    }
    found
}

/// A documentation-range address that real rules are unlikely to mention (RFC 5737, RFC 3849).
pub(in crate::import) fn stranger(family: Family) -> std::net::IpAddr {
    match family {
        Family::V4 => std::net::IpAddr::from([198, 51, 100, 77]),
        Family::V6 => std::net::IpAddr::from([0x2001, 0xdb8, 0xfff0, 0, 0, 0, 0, 0x77]),
    }
}
