//! Writes allows: ports that are open to some sources on some interfaces.

use std::hash::BuildHasher;

use ipnet::IpNet;
use rustc_hash::FxBuildHasher;

use super::boxes::Part;
use super::names::{name_of, service_name};
use super::prefixes::{joined, prefixes, usable, whole};
use super::{DraftAllow, From, PREFIXES_MAX, PolicyWriter};
use crate::import::At;
use crate::import::rule::{Interval, Test};
use crate::import::space::diagram::{PacketSet, Run};
use crate::import::space::region::Sets;
use crate::import::view::View;
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::Hook;

/// The requests that an allow is to open.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The line that accepts them.
    pub at: At,
    /// Their sources.
    pub sources: PacketSet,
    /// Their input interfaces.
    pub interfaces: PacketSet,
    /// Their services, source ports and destinations.
    pub services: PacketSet,
    /// Requests that the rules do not accept: the allow must not open them.
    pub refused: Refused,
    /// Entries of `ports`; `None` for every port and protocol.
    pub ports: Option<Vec<String>>,
    /// Entries of `from_ports`; `None` for every one.
    pub from_ports: Option<Vec<String>>,
    /// Destinations; empty for this host.
    pub to: Vec<IpNet>,
}

/// Requests that the rules do not accept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused {
    /// The requests.
    pub all: PacketSet,
    /// Their services, from any source on any interface.
    pub services: PacketSet,
}

/// Requests that the allow of a line must not open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Requests that the rules do not accept.
    pub refused: Refused,
    /// ICMP messages from sources and interfaces whose requests are not all accepted.
    pub icmp: PacketSet,
    /// Tunnel packets of the same.
    pub tunnels: PacketSet,
}

impl Refused {
    pub(super) fn new(view: &mut View<'_, '_>, all: PacketSet) -> Self {
        let axes = &view.space.axes;
        let fields = axes.services();
        Self {
            all,
            services: view.space.d.project(all, &fields),
        }
    }

    /// Returns the refused requests of these services among some packets. The packets come first:
    /// they are few, and the refused requests are many.
    pub(super) fn among(
        self,
        view: &mut View<'_, '_>,
        packets: PacketSet,
        services: PacketSet,
    ) -> PacketSet {
        if !view.space.d.meets(services, self.services) {
            return PacketSet::NONE;
        }
        let some = view.space.d.and(packets, self.all);
        view.space.d.and(some, services)
    }
}

impl Sets for Limits {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        (&mut self.refused.all, &mut self.refused.services).each_root(visit);
        (&mut self.icmp, &mut self.tunnels).each_root(visit);
    }
}

impl PolicyWriter<'_> {
    /// Writes an allow for each line that accepts other packets to this host.
    pub(super) fn allows(&mut self, view: &mut View<'_, '_>) {
        let limits = self.limits(view);
        let mut drafted = self.by_slice(view, &limits);
        for (at, packets) in view.lines.clone() {
            match drafted.remove(&at) {
                Some(drafted) => self.add(drafted),
                None => view.briefly(|view| self.line(view, at, packets, &limits)),
            }
        }
    }

    pub(super) fn limits(&self, view: &mut View<'_, '_>) -> Limits {
        let refused = view.space.d.without(view.refused, view.covered);
        let axes = [view.space.axes.source, view.space.axes.interface];
        let not_open = view.space.d.project(refused, &axes);
        let (axes, d) = (&view.space.axes, &mut view.space.d);
        let icmp = axes.protocols(d, |number| number == axes.icmp_protocol());
        let icmp = d.and(icmp, not_open);
        let tunnels = self.all_tunnels(view);
        Limits {
            refused: Refused::new(view, refused),
            icmp,
            tunnels: view.space.d.and(tunnels, not_open),
        }
    }

    /// Writes the allows for the packets that a line accepts.
    pub(super) fn line(
        &mut self,
        view: &mut View<'_, '_>,
        at: At,
        packets: PacketSet,
        limits: &Limits,
    ) {
        let mut packets = view.space.d.and(packets, view.requests);
        packets = view.space.d.without(packets, view.covered);
        if view.space.d.meets(packets, limits.tunnels) {
            packets = view.space.d.without(packets, limits.tunnels);
            self.add_inexpressible(
                at,
                "only peers may send tunnel packets: name the other nodes under [peers]",
            );
        }
        // ICMP has its own section, unless everything is accepted.
        packets = view.space.d.without(packets, limits.icmp);
        // Ports behind which the rules do not accept the connections stay closed.
        packets = view.space.d.without(packets, limits.refused.all);
        self.region(view, at, packets, limits.refused);
    }

    fn region(&mut self, view: &mut View<'_, '_>, at: At, packets: PacketSet, refused: Refused) {
        if !packets.is_none()
            && view
                .by_line
                .get(&at)
                .is_some_and(|rule| rule.tests_hop_limit())
        {
            self.add_inexpressible(at, "a policy cannot match the TTL or hop limit");
            return;
        }
        for each in view.boxes(packets) {
            let (axes, d) = (&view.space.axes, &mut view.space.d);
            let sources = d.in_runs(axes.source, &each.sources);
            let interfaces = d.in_runs(axes.interface, &each.interfaces);
            let whole = d.and(sources, interfaces);
            let bad = d.and(whole, refused.all);
            let is_whole = bad.is_none();
            for part in view.parts_of(each.rest) {
                // If other lines accept the rest, the allow covers everything.
                let is_whole = is_whole && part.from_ports.is_none() && part.to.is_none();
                let part = match is_whole {
                    true => part,
                    false => as_written(view, at, bad, part),
                };
                let ports = match is_whole {
                    true => None,
                    false => Some(self.ports(view, at, part.packets)),
                };
                if ports.as_ref().is_some_and(Vec::is_empty) {
                    continue;
                }
                let to = part.to.as_deref().unwrap_or_default();
                let Some(to) = self.to(view, at, to) else {
                    continue;
                };
                let wanted = Wanted {
                    at,
                    sources,
                    interfaces,
                    services: match is_whole {
                        true => PacketSet::ALL,
                        false => part.packets,
                    },
                    refused: refused_to(view, refused, &to),
                    ports,
                    from_ports: from_ports(view, &part),
                    to,
                };
                self.allow(view, &wanted);
            }
        }
    }

    /// Returns destinations as entries of `to`; `None` if there are too many.
    pub(super) fn to(&mut self, view: &View<'_, '_>, at: At, runs: &[Run]) -> Option<Vec<IpNet>> {
        let spans = runs
            .iter()
            .map(|run| view.space.axes.destinations.span(*run));
        let nets = prefixes(view.family, &joined(spans.collect()));
        if nets.len() > TO_MAX {
            self.add_inexpressible(
                at,
                "it is for every destination but some, and a policy can only name destinations",
            );
            return None;
        }
        Some(nets)
    }

    /// Adds an allow for requests, which may cover others that the rules accept.
    pub(super) fn allow(&mut self, view: &mut View<'_, '_>, wanted: &Wanted) {
        let Some(from) = self.from(view, wanted) else {
            return;
        };
        let sources = match &from {
            From::Any => PacketSet::ALL,
            From::Nets(nets) => view.space.sent_by(nets),
        };
        let bad = wanted.refused.among(view, sources, wanted.services);
        let axis = view.space.axes.interface;
        let bad = view.space.d.project(bad, &[axis]);
        let Some(interfaces) = self.interfaces(view, wanted.at, wanted.interfaces, bad) else {
            return;
        };
        let line = view
            .by_line
            .get(&wanted.at)
            .filter(|_| !view.is_managed(wanted.at));
        let name = line
            .and_then(|rule| rule.comment.as_deref())
            .and_then(name_of);
        let name = name.unwrap_or_else(|| match (&wanted.ports, &wanted.from_ports) {
            (None, Some(from)) => format!("from-{}", service_name(Some(from))),
            (ports, _) => service_name(ports.as_deref()),
        });
        self.put(DraftAllow {
            name,
            ports: wanted.ports.clone(),
            from,
            from_ports: wanted.from_ports.clone(),
            to: wanted.to.clone(),
            interfaces,
            lines: vec![wanted.at],
        });
    }

    /// Adds an allow, or merges it with its equivalent for the other family.
    pub(super) fn put(&mut self, allow: DraftAllow) {
        let alike = (
            &allow.ports,
            &allow.interfaces,
            &allow.from_ports,
            &allow.to,
        );
        let alike = FxBuildHasher.hash_one(alike);
        let is_same = |old: &DraftAllow| {
            let alike = old.ports == allow.ports
                && old.interfaces == allow.interfaces
                && old.from_ports == allow.from_ports
                && old.to == allow.to;
            alike && (old.name == allow.name || old.from.family() != allow.from.family())
        };
        let others = self.alike.iter().enumerate().rev().take(MERGE_MAX);
        let others = others.filter(|(_, of)| **of == alike);
        for (index, _) in others {
            let old = self.draft.allows.get_mut(index);
            if let Some(old) = old.filter(|old| is_same(old))
                && let Some(both) = merge(&old.from, &allow.from)
            {
                old.from = both;
                old.lines.extend(&allow.lines);
                return;
            }
        }
        self.draft.allows.push(allow);
        self.alike.push(alike);
    }

    /// Returns patterns that match all wanted interfaces and none of the bad ones; empty for all.
    fn interfaces(
        &mut self,
        view: &mut View<'_, '_>,
        at: At,
        wanted: PacketSet,
        bad: PacketSet,
    ) -> Option<Vec<InterfacePattern>> {
        let classes = view.interfaces();
        let mut is_bad = Vec::new();
        let mut is_wanted = Vec::new();
        for (index, name) in &classes {
            let on = view.on_class(*index);
            match view.space.d.meets(on, bad) {
                true => is_bad.push(name.as_str()),
                false if view.space.d.meets(on, wanted) => is_wanted.push(name.as_str()),
                false => {}
            }
        }
        if is_bad.is_empty() {
            return Some(Vec::new());
        }
        let fits = |pattern: &&InterfacePattern| {
            is_wanted.iter().any(|name| pattern.matches(name))
                && !is_bad.iter().any(|name| pattern.matches(name))
        };
        let all: Vec<&InterfacePattern> = view.patterns.iter().filter(fits).collect();
        // A prefix makes the names that it matches redundant.
        let is_redundant = |pattern: &InterfacePattern| {
            let mut others = all.iter().filter(|other| **other != pattern);
            others.any(|other| other.exact().is_none() && other.matches(&pattern.example()))
        };
        let kept = all.iter().filter(|pattern| !is_redundant(pattern));
        let patterns: Vec<InterfacePattern> = kept.map(|pattern| (*pattern).clone()).collect();
        let is_matched = |name: &&str| patterns.iter().any(|pattern| pattern.matches(name));
        if !is_wanted.iter().all(is_matched) {
            self.add_inexpressible(
                at,
                "it is for every interface except some, in its words or for lines above it, and a \
                 policy can only name interfaces; name those that it is for under `interfaces`",
            );
        }
        // Use at least the names in rules.
        (!patterns.is_empty()).then_some(patterns)
    }

    /// Returns sources as prefixes: as written in the rules, or else all that may be covered.
    pub(super) fn from(&mut self, view: &mut View<'_, '_>, wanted: &Wanted) -> Option<From> {
        let Wanted {
            at,
            refused,
            interfaces,
            services,
            ..
        } = *wanted;
        let mut nets: Vec<IpNet> = Vec::new();
        let mut left = wanted.sources;
        let rule = view.by_line.get(&at).copied();
        for span in rule.into_iter().flat_map(|rule| rule.sources()) {
            let literal = view.from(*span);
            if !view.space.d.meets(literal, left) {
                continue;
            }
            if !view.space.has_sources(*span) {
                self.needs_whole = true;
                return None;
            }
            let there = view.space.d.and(literal, interfaces);
            if refused.among(view, there, services).is_none() {
                // No entry can name IPv4-mapped sources.
                let named = prefixes(view.family, &[*span]).into_iter().map(usable);
                let Some(named) = named.collect::<Option<Vec<IpNet>>>() else {
                    continue;
                };
                nets.extend(named);
                left = view.space.d.without(left, literal);
            }
        }
        if left.is_none() && !nets.is_empty() {
            return Some(From::Nets(nets));
        }
        if view.space.is_part() {
            self.needs_whole = true;
            return None;
        }
        let axis = view.space.axes.source;
        let bad = refused.among(view, interfaces, services);
        let bad = view.space.d.project(bad, &[axis]);
        if bad.is_none() {
            return Some(match self.both {
                true => From::Nets(vec![whole(view.family)]),
                false => From::Any,
            });
        }
        let as_prefixes = |spans: Vec<Interval>| {
            let nets = prefixes(view.family, &joined(spans)).into_iter();
            nets.filter_map(usable).collect::<Vec<_>>()
        };
        let without = as_prefixes(view.space.sources_of(left));
        // Covering other accepted sources can shorten the list.
        let fine = view.space.d.not(bad);
        let with = match nets.is_empty() && without.len() > 1 {
            true => as_prefixes(view.space.sources_of(fine)),
            false => Vec::new(),
        };
        match !with.is_empty() && with.len() < without.len() {
            true => nets = with,
            false => nets.extend(without),
        }
        if nets.is_empty() {
            return None;
        }
        if nets.len() > PREFIXES_MAX {
            self.add_inexpressible(
                at,
                &format!(
                    "it accepts all sources except too many: a policy would need {} networks; \
                     keep the rules that drop these sources where they are, and import without them",
                    nets.len()
                ),
            );
            return None;
        }
        Some(From::Nets(nets))
    }
}

/// Maximum number of destinations of an allow.
const TO_MAX: usize = 8;
/// Number of earlier allows with which an allow may be merged.
const MERGE_MAX: usize = 500;

/// Returns all requests that the conditions of a line allow, if the rules accept them, or else only
/// those that this line decides. `refused` are requests of the same sources and interfaces.
fn as_written(view: &mut View<'_, '_>, at: At, refused: PacketSet, part: Part) -> Part {
    let Some(rule) = view.by_line.get(&at).copied() else {
        return part;
    };
    let mut written = view.requests;
    for condition in &rule.conditions {
        if matches!(condition.test, Test::Source(_) | Test::In(_)) {
            continue;
        }
        let met = view.space.condition(Hook::Input, condition);
        written = view.space.d.and(written, met.unwrap_or(PacketSet::ALL));
    }
    let axes = &view.space.axes;
    let fields = axes.services();
    let icmp = axes.icmp_protocol();
    let icmp = axes.protocols(&mut view.space.d, |number| number == icmp);
    let written = view.space.d.project(written, &fields);
    let written = view.space.d.without(written, icmp);
    if view.space.d.meets(written, refused) || !view.space.d.is_within(part.packets, written) {
        return filled(view, refused, part);
    }
    let part = match &view.parts_of(written)[..] {
        [one] => one.clone(),
        _ => part,
    };
    filled(view, refused, part)
}

/// Adds ports that are redirected before they arrive here, if the rules accept them behind.
fn filled(view: &mut View<'_, '_>, refused: PacketSet, mut part: Part) -> Part {
    let axes = &view.space.axes;
    let fields = [axes.protocol, axes.port];
    let diverted = view.space.redirections.diverted;
    if diverted.is_none() {
        return part;
    }
    let diverted = view.space.d.project(diverted, &fields);
    let near = view.space.surroundings(part.packets);
    let diverted = view.space.d.and(diverted, near);
    if !view.space.d.meets(diverted, refused) {
        part.packets = view.space.d.or(part.packets, diverted);
    }
    part
}

/// Adds to the refused requests those to these destinations that the rules do not forward.
fn refused_to(view: &mut View<'_, '_>, refused: Refused, to: &[IpNet]) -> Refused {
    if to.is_empty() {
        return refused;
    }
    let spans: Vec<Interval> = to.iter().map(|net| addr::bounds(*net)).collect();
    let to = view.space.axes.destinations(&mut view.space.d, &spans);
    let stopped = view.space.d.and(view.stopped, to);
    let all = view.space.d.or(refused.all, stopped);
    Refused::new(view, all)
}

fn from_ports(view: &mut View<'_, '_>, part: &Part) -> Option<Vec<String>> {
    let runs = part.from_ports.as_deref()?;
    Some(PolicyWriter::from_ports(view, part.packets, runs))
}

/// Returns the union of two source lists; `None` if it would exceed [`PREFIXES_MAX`].
pub(super) fn merge(a: &From, b: &From) -> Option<From> {
    let family = |nets: &[IpNet]| nets.first().map(|net| Family::of(net.addr()));
    match (a, b) {
        (From::Any, _) | (_, From::Any) => Some(From::Any),
        (From::Nets(a), From::Nets(b)) if a == b => Some(From::Nets(a.clone())),
        (From::Nets(a), From::Nets(b)) if family(a) != family(b) => {
            let all = [a.as_slice(), b].concat();
            Some(match all.iter().all(|net| net.prefix_len() == 0) {
                true => From::Any,
                false => From::Nets(all),
            })
        }
        (From::Nets(a), From::Nets(b)) if a.len() + b.len() <= PREFIXES_MAX => {
            let more = b.iter().filter(|net| !a.contains(net));
            Some(From::Nets(a.iter().chain(more).copied().collect()))
        }
        (From::Nets(_), From::Nets(_)) => None,
    }
}
