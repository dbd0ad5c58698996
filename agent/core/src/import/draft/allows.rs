//! Writes allows: ports that are open to some sources on some interfaces.

use ipnet::IpNet;

use super::literals::{literals, rules_of};
use super::names::{name_of, service_name};
use super::prefixes::{joined, possible, prefixes};
use super::{Covered, DraftAllow, From, PREFIXES_MAX, PolicyWriter, opens_all};
use crate::import::classes::ServiceKind;
use crate::import::grid::Grid;
use crate::import::view::AcceptTable;
use crate::import::{At, eval};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::port::{self, TCP, UDP};

impl PolicyWriter<'_> {
    /// Writes an allow for each line that accepts other packets to this host.
    pub(super) fn allows(&mut self, view: &AcceptTable<'_>, covered: &Covered) {
        let mut regions: Vec<Region> = Vec::new();
        for v in 0..view.services.len() {
            let Some(kind) = view.services.get(v).map(|service| &service.kind) else {
                continue;
            };
            for i in 0..view.interfaces.len() {
                for s in 0..view.sources.len() {
                    let Some(at) = view.opens(i, s, v).filter(|_| !covered.covers(i, s)) else {
                        continue;
                    };
                    if self.is_tunnel(kind) && !opens_all(view, i, s) {
                        self.add_inexpressible(
                            at,
                            "only peers may send tunnel packets: name the other nodes under [peers]",
                        );
                        continue;
                    }
                    // ICMP has its own section, unless everything is accepted.
                    if matches!(kind, ServiceKind::Icmp(..)) && !opens_all(view, i, s) {
                        continue;
                    }
                    let found = regions.iter_mut().find(|region| region.at == at);
                    match found {
                        Some(region) => region.cells.push((v, i, s)),
                        None => regions.push(Region {
                            at,
                            cells: vec![(v, i, s)],
                        }),
                    }
                }
            }
        }
        regions.sort_by_key(|region| region.at);
        for region in regions {
            self.region(view, covered, &region);
        }
    }

    fn region(&mut self, view: &AcceptTable<'_>, covered: &Covered, region: &Region) {
        // Services with the same sources and interfaces share an allow.
        let mut groups: Vec<(Who, Vec<usize>)> = Vec::new();
        let mut cells = region.cells.clone();
        cells.sort_unstable();
        for chunk in cells.chunk_by(|a, b| a.0 == b.0) {
            let mut by_interface: Who = Vec::new();
            for (_, i, s) in chunk {
                match by_interface.last_mut().filter(|(last, _)| last == i) {
                    Some((_, sources)) => sources.push(*s),
                    None => by_interface.push((*i, vec![*s])),
                }
            }
            let Some((v, _, _)) = chunk.first() else {
                continue;
            };
            match groups.iter_mut().find(|(who, _)| *who == by_interface) {
                Some((_, services)) => services.push(*v),
                None => groups.push((by_interface, vec![*v])),
            }
        }
        for (who, services) in groups {
            // If other lines accept the rest, the allow covers everything.
            let anyway = |v: &usize| {
                services.contains(v)
                    || who.iter().all(|(i, sources)| {
                        sources
                            .iter()
                            .all(|s| covered.covers(*i, *s) || view.opens(*i, *s, *v).is_some())
                    })
            };
            let services: Vec<usize> = match (0..view.services.len()).all(|v| anyway(&v)) {
                true => (0..view.services.len()).collect(),
                false => services,
            };
            let Some(ports) = self.ports(view, region.at, &services) else {
                continue;
            };
            if ports.as_ref().is_some_and(Vec::is_empty) {
                continue;
            }
            // Cells that other entries or lines accept may be covered, too.
            let may = |i: usize, s: usize| {
                covered.covers(i, s) || services.iter().all(|v| view.opens(i, s, *v).is_some())
            };
            self.allow(view, &may, region.at, &who, ports);
        }
    }

    /// Adds an allow. `may(interface, source)` tells which extra cells the allow may cover without
    /// widening the rules.
    fn allow(
        &mut self,
        view: &AcceptTable<'_>,
        may: &dyn Fn(usize, usize) -> bool,
        at: At,
        who: &[(usize, Vec<usize>)],
        ports: Option<Vec<String>>,
    ) {
        let mut by_source: Vec<(&[usize], Vec<usize>)> = Vec::new();
        for (i, sources) in who {
            match by_source.iter_mut().find(|(old, _)| old == sources) {
                Some((_, interfaces)) => interfaces.push(*i),
                None => by_source.push((sources, vec![*i])),
            }
        }
        for (sources, mut interfaces) in by_source {
            let Some(from) = self.from(view, may, at, &interfaces, sources) else {
                continue;
            };
            // Other interfaces on which the same sources are accepted.
            let inside = |s: &usize| match &from {
                From::Any => true,
                From::Nets(nets) => view
                    .sources
                    .get(*s)
                    .is_some_and(|source| nets.iter().any(|net| net.contains(&source.example))),
            };
            let others: Vec<usize> = (0..view.interfaces.len())
                .filter(|i| !interfaces.contains(i))
                .filter(|i| (0..view.sources.len()).filter(inside).all(|s| may(*i, s)))
                .collect();
            let wanted = interfaces.clone();
            interfaces.extend(others);
            let Some(patterns) = self.interfaces(view, at, &wanted, &interfaces) else {
                continue;
            };
            let line = rules_of(view).find(|rule| rule.at == at && !view.is_managed(at));
            let comment = line.and_then(|rule| rule.comment.clone());
            let name = comment
                .as_deref()
                .and_then(name_of)
                .unwrap_or_else(|| service_name(ports.as_deref()));
            self.put(DraftAllow {
                name,
                ports: ports.clone(),
                from,
                interfaces: patterns,
            });
        }
    }

    /// Adds an allow, or merges it with its equivalent for the other family.
    fn put(&mut self, allow: DraftAllow) {
        let same = |old: &&mut DraftAllow| {
            let alike = old.ports == allow.ports && old.interfaces == allow.interfaces;
            alike && (old.name == allow.name || old.from.family() != allow.from.family())
        };
        let mut others = self.draft.allows.iter_mut().filter(same);
        let merged = others.find_map(|old| {
            let both = merge(&old.from, &allow.from)?;
            old.from = both;
            Some(())
        });
        if merged.is_none() {
            self.draft.allows.push(allow);
        }
    }

    /// Returns patterns that match all wanted interfaces, but only those in `interfaces`; empty for
    /// all.
    fn interfaces(
        &mut self,
        view: &AcceptTable<'_>,
        at: At,
        wanted: &[usize],
        interfaces: &[usize],
    ) -> Option<Vec<InterfacePattern>> {
        if (0..view.interfaces.len()).all(|i| interfaces.contains(&i)) {
            return Some(Vec::new());
        }
        let inside = |pattern: &&InterfacePattern| {
            let mut matched = (0..view.interfaces.len())
                .filter(|i| {
                    view.interfaces
                        .get(*i)
                        .is_some_and(|name| pattern.matches(name))
                })
                .peekable();
            let mut names = wanted.iter().filter_map(|i| view.interfaces.get(*i));
            names.any(|name| pattern.matches(name))
                && matched.peek().is_some()
                && matched.all(|i| interfaces.contains(&i))
        };
        let mut patterns: Vec<InterfacePattern> = Vec::new();
        for pattern in view.mentioned.interfaces_in.iter().filter(inside) {
            if !patterns.contains(pattern) {
                patterns.push(pattern.clone());
            }
        }
        // A prefix makes the names that it matches redundant.
        let all = patterns.clone();
        patterns.retain(|pattern| {
            !all.iter()
                .any(|other| other != pattern && other.matches(&pattern.example()))
        });
        let covered = wanted.iter().all(|i| {
            let name = view.interfaces.get(*i);
            name.is_some_and(|name| patterns.iter().any(|p| p.matches(name)))
        });
        if !covered {
            self.add_inexpressible(
                at,
                "it is for every interface but some, and a policy can only name interfaces; \
                 name those that it is for under `interfaces`",
            );
        }
        // Use at least the names in rules.
        (!patterns.is_empty()).then_some(patterns)
    }

    /// Returns sources as prefixes: as written in the rules, or else all cells that may be covered.
    pub(super) fn from(
        &mut self,
        view: &AcceptTable<'_>,
        may: &dyn Fn(usize, usize) -> bool,
        at: At,
        interfaces: &[usize],
        sources: &[usize],
    ) -> Option<From> {
        let everywhere = |s: &usize| interfaces.iter().all(|i| may(*i, *s));
        let fine: Vec<usize> = (0..view.sources.len()).filter(everywhere).collect();
        if fine.len() == view.sources.len() {
            return Some(match self.both {
                true => From::Nets(vec![whole(view.family)]),
                false => From::Any,
            });
        }
        let mut nets: Vec<IpNet> = Vec::new();
        let mut left: Vec<usize> = sources.to_vec();
        for literal in literals(view) {
            let inside = view.within(literal.span);
            let fits = !inside.is_empty() && inside.iter().all(|s| fine.contains(s));
            if fits && inside.iter().any(|s| left.contains(s)) && literal.rule.at == at {
                nets.extend(prefixes(view.family, &[literal.span]));
                left.retain(|s| !inside.contains(s));
            }
        }
        let as_prefixes = |sources: &[usize]| {
            let sources = sources.iter().filter_map(|s| view.sources.get(*s));
            let spans = sources
                .flat_map(|source| source.spans.iter().copied())
                .collect();
            prefixes(view.family, &possible(view.family, joined(spans)))
        };
        // Covering other accepted sources can shorten the list.
        let (without, with) = (as_prefixes(&left), as_prefixes(&fine));
        match nets.is_empty() && with.len() < without.len() {
            true => nets = with,
            false => nets.extend(without),
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

    /// Returns services as entries of `ports`. The inner `None` means all services, the outer
    /// `None` that a policy cannot express them.
    #[expect(
        clippy::option_option,
        reason = "the inner `None` is an absent key of the policy"
    )]
    fn ports(
        &mut self,
        view: &AcceptTable<'_>,
        at: At,
        services: &[usize],
    ) -> Option<Option<Vec<String>>> {
        if services.len() == view.services.len() {
            return Some(None);
        }
        let mut ranges: Vec<(u8, Vec<(u16, u16)>)> = Vec::new();
        let mut words: Vec<String> = Vec::new();
        for kind in services
            .iter()
            .filter_map(|v| view.services.get(*v))
            .map(|s| &s.kind)
        {
            match kind {
                ServiceKind::Ports(protocol, list) => {
                    match ranges.iter_mut().find(|(p, _)| p == protocol) {
                        Some((_, old)) => old.extend(list),
                        None => ranges.push((*protocol, list.clone())),
                    }
                }
                ServiceKind::Protocol(number) => {
                    let name = port::protocol_name(*number);
                    // A bare number would mean a port.
                    if port::parse(&name).is_ok_and(|spec| spec.range.is_none()) {
                        words.push(name);
                    } else {
                        self.add_inexpressible(
                            at,
                            &format!("a policy cannot name protocol {number}"),
                        );
                    }
                }
                ServiceKind::OtherProtocols => {
                    self.add_inexpressible(
                        at,
                        "the policy names protocols one by one, or takes all of them",
                    );
                }
                ServiceKind::Icmp(..) => {}
            }
        }
        let mut entries = port_words(ranges);
        entries.extend(words);
        Some(Some(entries))
    }

    /// Writes allows for published ports that the filter table accepts.
    pub(super) fn published(&mut self, view: &AcceptTable<'_>, covered: &Covered) {
        for port in &view.published {
            if self.is_open(port.protocol, port.dialled) {
                continue;
            }
            let mut line = port.at;
            let mut open = Grid::new(view.interfaces.len(), view.sources.len(), false);
            for (i, interface) in view.interfaces.iter().enumerate() {
                for (s, source) in view.sources.iter().enumerate() {
                    let narrow = view
                        .rules
                        .narrow(source.example, eval::ReadAs::BesidePeerwall);
                    let outcome = narrow.judge(&view.dialled(port, source.example, interface));
                    let accepted = outcome.verdict == crate::net::packet::Verdict::Accept;
                    open.set(i, s, accepted);
                    line = outcome.by.filter(|_| accepted).unwrap_or(line);
                }
            }
            let open = |i: usize, s: usize| open.get(i, s) == Some(&true);
            // Containers also connect to published ports, so their interfaces may be covered.
            let inner: Vec<bool> = view
                .interfaces
                .iter()
                .map(|name| self.is_inner(name))
                .collect();
            let may = |i: usize, s: usize| {
                covered.covers(i, s) || open(i, s) || inner.get(i) == Some(&true)
            };
            let mut who: Who = Vec::new();
            for i in (0..view.interfaces.len()).filter(|i| inner.get(*i) == Some(&false)) {
                let sources =
                    (0..view.sources.len()).filter(|s| open(i, *s) && !covered.covers(i, *s));
                who.push((i, sources.collect()));
            }
            who.retain(|(_, sources)| !sources.is_empty());
            let ports = port_words(vec![(port.protocol, vec![(port.dialled, port.dialled)])]);
            self.allow(view, &may, line, &who, Some(ports));
        }
    }

    /// Reports whether an allow already opens this port to any source.
    fn is_open(&self, protocol: u8, port: u16) -> bool {
        self.draft.allows.iter().any(|allow| {
            let specs = allow
                .ports
                .iter()
                .flatten()
                .filter_map(|text| port::parse(text).ok());
            let mut specs = specs.filter(|spec| spec.protocols.contains(&protocol));
            allow.from == From::Any
                && allow.interfaces.is_empty()
                && (allow.ports.is_none()
                    || specs.any(|spec| spec.range.is_none_or(|range| range.contains(port))))
        })
    }

    /// Reports whether an interface belongs to an overlay.
    fn is_inner(&self, name: &str) -> bool {
        let mut patterns = self
            .draft
            .overlays
            .iter()
            .flat_map(|overlay| &overlay.interfaces);
        patterns.any(|pattern| pattern.matches(name))
    }
}

/// Sources by interface.
type Who = Vec<(usize, Vec<usize>)>;

/// Cells that a line accepts, as service, interface and source.
struct Region {
    at: At,
    cells: Vec<(usize, usize, usize)>,
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

fn whole(family: Family) -> IpNet {
    let zero = addr::address(family, 0);
    IpNet::new_assert(zero, 0)
}

/// Formats ports as entries of `ports`: `"53"` for both tcp and udp.
fn port_words(ranges: Vec<(u8, Vec<(u16, u16)>)>) -> Vec<String> {
    let mut by_protocol: Vec<(u8, Vec<port::PortRange>)> = Vec::new();
    for (protocol, list) in ranges {
        let list = list.into_iter().map(|(first, last)| port::PortRange {
            first: first.max(1),
            last,
        });
        by_protocol.push((protocol, port::normalize(list.collect())));
    }
    let of = |wanted: u8| {
        by_protocol
            .iter()
            .find(|(p, _)| *p == wanted)
            .map(|(_, list)| list.clone())
    };
    let (tcp, udp) = (of(TCP).unwrap_or_default(), of(UDP).unwrap_or_default());
    let mut words = Vec::new();
    for (protocol, list) in &by_protocol {
        for range in list {
            let whole = range.first == 1 && range.last == u16::MAX;
            let in_both =
                tcp.contains(range) && udp.contains(range) && [TCP, UDP].contains(protocol);
            let name = port::protocol_name(*protocol);
            let word = match (whole, in_both) {
                (true, _) => name,
                (false, true) => range.to_string(),
                (false, false) => format!("{range}/{name}"),
            };
            if !words.contains(&word) {
                words.push(word);
            }
        }
    }
    words
}
