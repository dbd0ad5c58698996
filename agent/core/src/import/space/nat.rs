//! Ports that the NAT table publishes, and the packets that it redirects.

use std::collections::BTreeSet;

use super::axes::{Axes, highest};
use super::diagram::{Diagrams, PacketSet};
use super::place::{Place, Published};
use super::region::Sets;
use super::slices::whole;
use super::walk::Walk;
use crate::import::managed;
use crate::import::rule::{
    At, ImportedChain, ImportedChains, ImportedRules, Interval, MarkTest, Test, Verb,
};
use crate::net::addr;
use crate::net::packet::{CtState, Hook};
use crate::net::port::has_ports;

/// Maximum number of ports or ranges of ports of one rule that are told apart.
const PORTS_MAX: usize = 1024;

/// The redirections of a host.
#[derive(Debug, Clone, Default)]
pub(in crate::import) struct Redirections {
    pub published: Vec<Published>,
    /// Sources and interfaces of the connections to each published port.
    pub guards: Vec<PacketSet>,
    /// Packets to this host that are redirected.
    pub diverted: PacketSet,
    /// Packets to published ports that certainly meet tests of their marks.
    pub marked: Vec<(MarkTest, PacketSet)>,
    /// Sources and interfaces of such connections to each published port, for each test.
    flows: Vec<Vec<PacketSet>>,
}

impl Redirections {
    /// Finds the packets that meet tests of their marks, once the published ports are counted.
    pub(super) fn mark(&mut self, d: &mut Diagrams, axes: &Axes) {
        for (index, flows) in std::mem::take(&mut self.flows).into_iter().enumerate() {
            let here = axes.published(d, index + 1);
            for ((_, all), flows) in self.marked.iter_mut().zip(flows) {
                let these = d.and(flows, here);
                *all = d.or(*all, these);
            }
        }
    }
}

impl Sets for Redirections {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        (&mut self.guards, &mut self.diverted).each_root(visit);
        for (_, packets) in &mut self.marked {
            packets.each_root(visit);
        }
    }
}

/// Returns the rules of the NAT table that redirect packets to this host. Cluster service addresses
/// do not belong to a host.
pub(in crate::import) fn redirecting(rules: &ImportedRules) -> ImportedChains {
    let mut found = ImportedChains::new();
    let bases = rules.paths.prerouting.iter().flatten();
    let mut to_see: Vec<&str> = bases.map(String::as_str).collect();
    while let Some(name) = to_see.pop() {
        let Some(chain) = rules.nat.get(name).filter(|_| !found.contains_key(name)) else {
            continue;
        };
        let is_for_host = |rule: &&crate::import::rule::ImportedRule| {
            let mut to = rule
                .conditions
                .iter()
                .filter(|condition| !condition.negated);
            !to.any(|condition| {
                condition.destinations().is_some_and(|spans| {
                    !spans.iter().any(|(first, last)| first != last)
                        && managed::is_service(rules.family, spans)
                })
            })
        };
        let kept = chain.rules.iter().filter(is_for_host);
        let kept = ImportedChain {
            rules: kept.cloned().collect(),
            ..chain.clone()
        };
        to_see.extend(
            chain
                .rules
                .iter()
                .filter(is_for_host)
                .filter_map(|rule| rule.target.chain()),
        );
        found.insert(name.to_owned(), kept);
    }
    let redirects = |chain: &ImportedChain| chain.rules.iter().any(|rule| rule.target.redirects());
    match found.values().any(redirects) {
        true => found,
        false => ImportedChains::new(),
    }
}

/// Finds the published ports.
pub(in crate::import) fn redirections(
    d: &mut Diagrams,
    place: &Place<'_>,
    rules: &ImportedRules,
    chains: &ImportedChains,
) -> Redirections {
    let axes = place.axes;
    let mut found = Redirections::default();
    if chains.is_empty() {
        return found;
    }
    let valid = place.valid(d, false);
    let new = axes.states(d, &[CtState::New]);
    let lo = axes.interfaces(
        d,
        &[crate::net::interface::InterfacePattern::Exact("lo".into())],
    );
    let own = axes.destinations(d, &place.own);
    let mut packets = d.and(valid, new);
    packets = d.and(packets, own);
    packets = d.without(packets, lo);
    let all = whole(chains);
    let tests = mark_tests(rules);
    found.marked = tests.iter().map(|test| (*test, PacketSet::NONE)).collect();
    let mut translated = Vec::new();
    let mut stay = packets;
    let mut marked: Vec<Vec<PacketSet>> = vec![Vec::new(); tests.len()];
    for path in &rules.paths.prerouting {
        let walked = Walk::of_nat(d, place, &all).through(path, packets);
        translated.extend(walked.translated);
        stay = d.and(stay, walked.accepted);
        for (test, marked) in tests.iter().zip(&mut marked) {
            let walk = Walk::of_nat(d, place, &all).marking(*test);
            marked.extend(walk.through(path, packets).marked);
        }
    }
    found.diverted = diverted(d, axes, stay, &translated);
    for (index, (at, packets)) in translated.into_iter().enumerate() {
        if packets.is_none() {
            continue;
        }
        let Some(destination) = destination(chains, place, at) else {
            continue;
        };
        let marked = marked.iter().filter_map(|of| of.get(index).copied());
        let marked: Vec<PacketSet> = marked.collect();
        let packets = Translated {
            at,
            packets,
            marked: &marked,
        };
        publish(d, (axes, rules), &mut found, own, packets, destination);
    }
    found
}

/// The packets that a line translates.
struct Translated<'t> {
    at: At,
    packets: PacketSet,
    /// Those that meet each test of marks.
    marked: &'t [PacketSet],
}

/// Maximum number of tests of marks that are followed.
const MARKS_MAX: usize = 8;

/// Returns the tests of marks of the table filter.
fn mark_tests(rules: &ImportedRules) -> BTreeSet<MarkTest> {
    let all = rules.filter.values().flat_map(|chain| &chain.rules);
    let conditions = all.flat_map(|rule| &rule.conditions);
    let tests = conditions.filter_map(|condition| {
        if let Test::Mark(test, _) = condition.test {
            return Some(test);
        }
        None
    });
    let tests: BTreeSet<MarkTest> = tests.collect();
    tests.into_iter().take(MARKS_MAX).collect()
}

/// Returns the packets of connections whose first packets are redirected, whatever else is in them,
/// except the packets that may stay. Packets without a connection are never redirected.
fn diverted(
    d: &mut Diagrams,
    axes: &Axes,
    stay: PacketSet,
    translated: &[(At, PacketSet)],
) -> PacketSet {
    let flow = [
        axes.source,
        axes.interface,
        axes.protocol,
        axes.port,
        axes.from_port,
        axes.destination,
    ];
    let mut redirected = PacketSet::NONE;
    for (_, each) in translated {
        redirected = d.or(redirected, *each);
    }
    let (redirected, stay) = (d.project(redirected, &flow), d.project(stay, &flow));
    let of_connections = axes.states(d, &[CtState::New, CtState::Established, CtState::Related]);
    let diverted = d.without(redirected, stay);
    d.and(diverted, of_connections)
}

/// Where packets are sent instead.
struct Destination {
    to: Option<Interval>,
    port: Option<(u16, u16)>,
    hook: Hook,
}

fn destination(chains: &ImportedChains, place: &Place<'_>, at: At) -> Option<Destination> {
    let is_own = |to: Interval| {
        let mut named = place.named.iter();
        named.any(|(first, last)| *first <= to.0 && to.1 <= *last)
    };
    let everywhere = (0, highest(place.axes.family));
    let mut rules = chains.values().flat_map(|chain| &chain.rules);
    let (to, port) = rules.find_map(|rule| match (&rule.target, rule.at == at) {
        (Verb::Dnat(to, port), true) => Some((*to, *port)),
        (Verb::DnatSomewhere(_), true) => Some((Some(everywhere), Some((0, u16::MAX)))),
        _ => None,
    })?;
    let hook = match to {
        Some(to) if !is_own(to) => Hook::Forward,
        Some(_) | None => Hook::Input,
    };
    Some(Destination { to, port, hook })
}

fn publish(
    d: &mut Diagrams,
    (axes, rules): (&Axes, &ImportedRules),
    found: &mut Redirections,
    own: PacketSet,
    Translated {
        at,
        packets,
        marked,
    }: Translated<'_>,
    destination: Destination,
) {
    let Destination {
        to,
        port: new_port,
        hook,
    } = destination;
    let numbers: Vec<u8> = axes
        .protocols
        .iter()
        .copied()
        .filter(|n| has_ports(*n))
        .collect();
    for number in numbers {
        let of_protocol = axes.protocols(d, |each| each == number);
        let of_protocol = d.and(packets, of_protocol);
        if of_protocol.is_none() {
            continue;
        }
        // Ports between two cuts are treated alike.
        let runs = d.values(of_protocol, axes.port).into_iter();
        let values: Vec<u64> = runs.flat_map(|(first, last)| first..=last).collect();
        if values.len() > PORTS_MAX {
            continue;
        }
        for value in values {
            let run = (value, value);
            let (first, last) = axes.ports.span(run);
            let port = |number| u16::try_from(number).unwrap_or(u16::MAX);
            let dialled = (port(first), port(last));
            let ports = d.in_runs(axes.port, &[run]);
            let of_port = d.and(of_protocol, ports);
            for (address, part) in by_address(d, axes, own, of_port) {
                found.published.push(Published {
                    protocol: number,
                    dialled,
                    address,
                    to,
                    hook,
                    port: new_port.unwrap_or(dialled),
                    at,
                });
                let flow = [axes.source, axes.interface];
                let from = d.project(part, &flow);
                let mut certain = |marked: &PacketSet| {
                    let others = d.without(part, *marked);
                    let others = d.project(others, &flow);
                    d.without(from, others)
                };
                found.flows.push(marked.iter().map(&mut certain).collect());
                let forwarded = to.filter(|_| hook == Hook::Forward);
                let out = forwarded.map(|to| way_to_all(d, axes, rules, to));
                found
                    .guards
                    .push(d.and(from, out.unwrap_or(PacketSet::ALL)));
            }
        }
    }
}

/// Divides packets by their destination, unless they have every destination of this host.
fn by_address(
    d: &mut Diagrams,
    axes: &Axes,
    own: PacketSet,
    packets: PacketSet,
) -> Vec<(Option<std::net::IpAddr>, PacketSet)> {
    let to = d.project(packets, &[axes.destination]);
    let mut parts = Vec::new();
    if d.is_within(own, to) {
        return vec![(None, packets)];
    }
    for run in d.values(packets, axes.destination) {
        let (first, last) = axes.destinations.span(run);
        let of_run = d.in_runs(axes.destination, &[run]);
        let part = d.and(packets, of_run);
        let address = (first == last).then(|| addr::address(axes.family, first));
        parts.push((address, part));
    }
    parts
}

/// Returns the packets on the output interface for these addresses; on all, if they differ.
fn way_to_all(
    d: &mut Diagrams,
    axes: &Axes,
    rules: &ImportedRules,
    (first, last): Interval,
) -> PacketSet {
    let [first, last] = [first, last].map(|number| addr::address(axes.family, number));
    let (first, last) = (way_to(d, axes, rules, first), way_to(d, axes, rules, last));
    match first == last {
        true => first,
        false => PacketSet::ALL,
    }
}

/// Returns the packets on the output interface for an address, as far as rules determine it.
fn way_to(d: &mut Diagrams, axes: &Axes, rules: &ImportedRules, to: std::net::IpAddr) -> PacketSet {
    let masqueraded = crate::import::networks::masqueraded(rules);
    let behind = masqueraded
        .into_iter()
        .find(|(net, _, _)| net.contains(&to));
    let number = addr::number(to);
    let all = rules.filter.values().flat_map(|chain| &chain.rules);
    let mut named = all.filter(|rule| {
        rule.conditions.iter().any(|condition| {
            let mut spans = condition.destinations().into_iter().flatten();
            !condition.negated && spans.any(|(a, b)| (*a..=*b).contains(&number))
        })
    });
    let out = named.find_map(|rule| {
        let mut conditions = rule
            .conditions
            .iter()
            .filter(|condition| !condition.negated);
        conditions.find_map(|condition| condition.outs()?.first().cloned())
    });
    match behind.map(|(_, pattern, _)| pattern).or(out) {
        Some(pattern) => axes.outs(d, &[pattern]),
        None => d.in_runs(axes.out, &[(axes.out.len - 1, axes.out.len - 1)]),
    }
}
