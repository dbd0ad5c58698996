//! The policy that says what the rules say, in the policy's words.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::classes::{ServiceKind, is_reply};
use super::managed;
use super::rule::{Rule, Span};
use super::view::View;
use super::{At, Facts};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::port::{self, TCP, UDP};
use crate::policy::icmp;

/// More prefixes than this in one list are not written: who drops so many keeps them in a list of
/// their own.
const PREFIXES_MAX: usize = 20_000;
/// Longest prefix of a private network that is taken for a pod network by its looks alone.
const POD_PREFIX_MAX: u8 = 20;
/// Lists longer than this become a group.
const LIST_MAX: usize = 8;

/// A policy to be written.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    peers: Vec<Peer>,
    overlays: Vec<Overlay>,
    groups: Vec<(String, Vec<IpNet>)>,
    allows: Vec<Allow>,
    trusted: Vec<InterfacePattern>,
    ping: Option<From>,
    icmp: [IcmpTypes; 2],
    reject: bool,
}

#[derive(Debug, Clone)]
struct Peer {
    name: Option<String>,
    addresses: Vec<IpNet>,
}

#[derive(Debug, Clone)]
struct Overlay {
    name: String,
    backend: &'static str,
    subnets: Vec<IpNet>,
    interfaces: Vec<InterfacePattern>,
}

#[derive(Debug, Clone)]
struct Allow {
    name: String,
    /// `None` for every port and protocol.
    ports: Option<Vec<String>>,
    from: From,
    interfaces: Vec<InterfacePattern>,
}

/// Who may.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    /// Everybody, of both families.
    Any,
    /// These; a whole family is its prefix of length 0.
    Nets(Vec<IpNet>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct IcmpTypes {
    all: bool,
    some: Vec<u8>,
}

/// Something that rules say and no policy can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unsaid {
    /// The line that says it.
    pub at: At,
    /// Why not.
    pub why: String,
}

/// Writes the policy for what was learned of one or both families.
pub(super) fn draft(views: &[View<'_>], facts: &Facts) -> (Draft, Vec<Unsaid>) {
    let mut writer = Writer {
        facts,
        draft: Draft::default(),
        unsaid: Vec::new(),
        both: views.len() == 2,
        taken: Vec::new(),
    };
    for view in views {
        let mut known = Known::new(view);
        writer.trusted(view, &mut known);
        writer.overlays(view, &mut known);
        writer.behind_bridges(view, &mut known);
        writer.on_their_interfaces(view, &mut known);
        writer.peers(view, &mut known);
        writer.tunnels(view, &mut known);
        writer.taken.push(known);
    }
    // What is open to more than the peers, once the peers of both families are known.
    let taken = std::mem::take(&mut writer.taken);
    for (view, known) in views.iter().zip(&taken) {
        writer.allows(view, known);
        writer.published(view, known);
        writer.icmp(view, known);
        writer.reject(view, known);
    }
    writer.leave_pods_out();
    writer.name_all();
    (writer.draft, writer.unsaid)
}

/// For whom the policy already says yes, by interface and source.
struct Known {
    sources: usize,
    yes: Vec<bool>,
}

impl Known {
    fn new(view: &View<'_>) -> Self {
        Self {
            sources: view.sources.len(),
            yes: vec![false; view.sources.len() * view.interfaces.len()],
        }
    }

    fn is(&self, interface: usize, source: usize) -> bool {
        self.yes
            .get(interface * self.sources + source)
            .copied()
            .unwrap_or(false)
    }

    fn set(&mut self, interface: usize, source: usize) {
        if let Some(slot) = self.yes.get_mut(interface * self.sources + source) {
            *slot = true;
        }
    }
}

struct Writer<'f> {
    facts: &'f Facts,
    draft: Draft,
    unsaid: Vec<Unsaid>,
    /// Whether there are rules of both families.
    both: bool,
    taken: Vec<Known>,
}

/// A source as rules write it.
struct Literal<'r> {
    span: Span,
    rule: &'r Rule,
}

impl From {
    /// The one family that it is of.
    fn family(&self) -> Option<Family> {
        let nets = match self {
            Self::Any => return None,
            Self::Nets(nets) => nets,
        };
        let first = Family::of(nets.first()?.addr());
        nets.iter()
            .all(|net| Family::of(net.addr()) == first)
            .then_some(first)
    }
}

impl Writer<'_> {
    /// Interfaces from which everything is accepted, to this host and through it.
    fn trusted(&mut self, view: &View<'_>, known: &mut Known) {
        let sources = 0..view.sources.len();
        let all = |i: usize| {
            sources
                .clone()
                .all(|s| accepts_all(view, i, s) && view.passes_all(i, s))
        };
        let open: Vec<usize> = (0..view.interfaces.len()).filter(|i| all(*i)).collect();
        if open.len() == view.interfaces.len() {
            return; // the host is open: no interface is trusted more than others
        }
        for i in open {
            let Some(pattern) = self.pattern(view, i) else {
                continue; // every interface: there is nothing to write
            };
            if !self.draft.trusted.contains(&pattern) {
                self.draft.trusted.push(pattern);
            }
            sources.clone().for_each(|s| known.set(i, s));
        }
    }

    /// The pattern that means this class of interfaces and no other; `None` if none does.
    fn pattern(&self, view: &View<'_>, interface: usize) -> Option<InterfacePattern> {
        let name = view.interfaces.get(interface)?;
        view.spoken
            .interfaces_in
            .iter()
            .find(|pattern| {
                let matched = view
                    .interfaces
                    .iter()
                    .filter(|other| pattern.matches(other));
                pattern.matches(name) && matched.count() == 1
            })
            .cloned()
    }

    /// Pod networks among the sources that are accepted on every port, from everywhere.
    fn overlays(&mut self, view: &View<'_>, known: &mut Known) {
        let literals = full(view, known);
        for literal in &literals {
            if let [net] = prefixes(view.family, &[literal.span])[..]
                && self.is_pods(view, net, &literals)
            {
                self.overlay(view, net, None);
                self.mark_overlay(view, known, &view.within(literal.span));
            }
        }
    }

    /// Peers among them.
    fn peers(&mut self, view: &View<'_>, known: &mut Known) {
        let interfaces = 0..view.interfaces.len();
        let forwards = interfaces
            .clone()
            .any(|i| (0..view.sources.len()).any(|s| !known.is(i, s) && view.forwards(i, s)));
        for literal in full(view, known) {
            let inside = view.within(literal.span);
            if inside.iter().all(|s| known.is(0, *s)) {
                continue; // pods
            }
            // Without a word about forwarding, the machine is a peer in every respect.
            let through = !forwards
                || inside
                    .iter()
                    .all(|s| interfaces.clone().all(|i| view.passes_all(i, *s)));
            if !through {
                continue; // an allow of every port says just that
            }
            self.peer(
                literal.rule.comment.as_deref(),
                prefixes(view.family, &[literal.span]),
            );
            for s in inside {
                interfaces.clone().for_each(|i| known.set(i, s));
            }
        }
    }

    /// Private networks that are accepted on interfaces of containers, to this host or through it.
    fn on_their_interfaces(&mut self, view: &View<'_>, known: &mut Known) {
        for literal in literals(view).filter(|literal| !literal_is_host(literal)) {
            let inside = view.within(literal.span);
            let [net] = prefixes(view.family, &[literal.span])[..] else {
                continue;
            };
            if inside.is_empty()
                || inside.iter().all(|s| known.is(0, *s))
                || !super::eval::is_private(view.family, net)
            {
                continue;
            }
            let patterns = literal.rule.interfaces();
            for pattern in patterns.filter(|p| managed::is_container_interface(&p.example())) {
                let Some(i) = view
                    .interfaces
                    .iter()
                    .position(|name| pattern.matches(name))
                else {
                    continue;
                };
                let to_host = inside.iter().all(|s| accepts_all(view, i, *s));
                let host = addr::address(view.family, literal.span.0.saturating_add(2));
                if to_host || view.passes_out(&pattern.example(), host) {
                    let bridge = managed::is_bridge(&pattern.example()).then_some(pattern);
                    self.overlay(view, net, bridge);
                    self.mark_overlay(view, known, &inside);
                }
            }
        }
    }

    fn peer(&mut self, comment: Option<&str>, nets: Vec<IpNet>) {
        let name = comment.and_then(name_of);
        let same = |peer: &&mut Peer| name.is_some() && peer.name == name;
        match self.draft.peers.iter_mut().find(same) {
            Some(peer) => peer.addresses.extend(nets),
            None => self.draft.peers.push(Peer {
                name,
                addresses: nets,
            }),
        }
    }

    /// Whether a network is one of pods: the host says so, its rules are about the interfaces of
    /// containers, a distribution has it so, or it is private beside peers that are not.
    fn is_pods(&self, view: &View<'_>, net: IpNet, accepted: &[Literal<'_>]) -> bool {
        if net.prefix_len() == net.max_prefix_len() || !super::eval::is_private(view.family, net) {
            return false;
        }
        let flannel = self
            .facts
            .pod_networks
            .iter()
            .any(|pods| addr::overlap(*pods, net));
        let usual = managed::POD_NETWORKS[..3].contains(&net.to_string().as_str());
        let by_interface = rules_of(view).any(|rule| {
            names_source(rule, addr::bounds(net))
                && rule
                    .interfaces()
                    .any(|pattern| managed::is_container_interface(&pattern.example()))
        });
        let mut hosts = accepted
            .iter()
            .filter(|literal| literal.span.0 == literal.span.1)
            .flat_map(|literal| prefixes(view.family, &[literal.span]))
            .peekable();
        let beside_public = hosts.peek().is_some()
            && hosts.all(|host| !super::eval::is_private(view.family, host))
            && net.prefix_len() <= POD_PREFIX_MAX;
        flannel || usual || by_interface || beside_public
    }

    fn overlay(&mut self, view: &View<'_>, net: IpNet, behind: Option<&InterfacePattern>) {
        let (name, backend, interfaces) = match behind {
            Some(pattern) => (bridge_name(pattern), "none", vec![pattern.clone()]),
            None => self.flannel(view),
        };
        let same = |o: &&mut Overlay| o.name == name;
        match self.draft.overlays.iter_mut().find(same) {
            Some(overlay) => {
                if !overlay.subnets.iter().any(|old| old.contains(&net)) {
                    overlay.subnets.retain(|old| !net.contains(old));
                    overlay.subnets.push(net);
                }
            }
            None => self.draft.overlays.push(Overlay {
                name,
                backend,
                subnets: vec![net],
                interfaces,
            }),
        }
    }

    /// How flannel, or what looks like it, gets its packets from node to node.
    fn flannel(&self, view: &View<'_>) -> (String, &'static str, Vec<InterfacePattern>) {
        let named = view
            .spoken
            .interfaces_in
            .iter()
            .map(InterfacePattern::to_string);
        let there: Vec<String> = named.chain(self.facts.interfaces.iter().cloned()).collect();
        let has = |prefix: &str| there.iter().any(|name| name.starts_with(prefix));
        let (name, backend, first) = if has("cali") {
            ("calico", if has("tunl") { "ipip" } else { "none" }, "cali*")
        } else if has("flannel-wg") {
            ("flannel", "wireguard", "flannel-wg")
        } else if has("flannel.ipip") {
            ("flannel", "ipip", "flannel.ipip")
        } else if has("flannel0") {
            ("flannel", "udp", "flannel0")
        } else {
            ("flannel", "vxlan", "flannel.1")
        };
        let second = match name {
            "calico" => "tunl0",
            _ => "cni0",
        };
        let mut interfaces = vec![first, second];
        if backend == "none" {
            interfaces.truncate(1);
        }
        let patterns = interfaces
            .iter()
            .filter_map(|text| InterfacePattern::parse(text).ok());
        (name.to_owned(), backend, patterns.collect())
    }

    /// What an overlay accepts, it accepts from its own interfaces; the rest is closed on purpose.
    fn mark_overlay(&self, view: &View<'_>, known: &mut Known, sources: &[usize]) {
        for i in 0..view.interfaces.len() {
            sources.iter().for_each(|s| known.set(i, *s));
        }
    }

    /// Networks of containers behind a bridge: masqueraded by nat, and let out; pods that are let
    /// through and not in.
    fn behind_bridges(&mut self, view: &View<'_>, known: &mut Known) {
        for (net, behind, _) in &view.masqueraded {
            let bounds = addr::bounds(*net);
            let covered = view.within(bounds).iter().all(|s| known.is(0, *s));
            let host = addr::address(view.family, bounds.0 + 2);
            if !covered && view.passes_out(&behind.example(), host) {
                self.overlay(view, *net, Some(behind));
                self.mark_overlay(view, known, &view.within(bounds));
            }
        }
        for literal in literals(view) {
            let [net] = prefixes(view.family, &[literal.span])[..] else {
                continue;
            };
            let pods = self
                .facts
                .pod_networks
                .iter()
                .any(|pods| addr::overlap(*pods, net))
                || managed::POD_NETWORKS[..3].contains(&net.to_string().as_str());
            let inside = view.within(literal.span);
            let covered = inside.iter().all(|s| known.is(0, *s));
            let host = addr::address(view.family, literal.span.0.saturating_add(2));
            let bridge = view.interfaces.first().map_or("", String::as_str);
            if pods && !covered && !literal_is_host(&literal) && view.passes_out(bridge, host) {
                self.overlay(view, net, None);
                self.mark_overlay(view, known, &inside);
            }
        }
    }

    /// Who may send packets of an overlay's tunnel, by its address, is a peer: it sends in the name of
    /// every pod.
    fn tunnels(&mut self, view: &View<'_>, known: &mut Known) {
        for (protocol, port) in self.tunnel_ports() {
            let tunnel = |v: &usize| match view.services.get(*v).map(|service| &service.kind) {
                Some(ServiceKind::Ports(p, ranges)) => *p == protocol && ranges == &[(port, port)],
                _ => false,
            };
            let Some(v) = (0..view.services.len()).find(tunnel) else {
                continue;
            };
            let stranger = view.interfaces.len().saturating_sub(1);
            let mut done: Vec<Span> = Vec::new();
            for literal in literals(view) {
                let inside = view.within(literal.span);
                let sends =
                    |s: &usize| view.accepts(stranger, *s, v).is_some() && !known.is(stranger, *s);
                if inside.is_empty() || done.contains(&literal.span) || !inside.iter().all(sends) {
                    continue;
                }
                done.push(literal.span);
                self.peer(
                    literal.rule.comment.as_deref(),
                    prefixes(view.family, &[literal.span]),
                );
                for s in inside {
                    (0..view.interfaces.len()).for_each(|i| known.set(i, s));
                }
            }
        }
    }

    fn is_tunnel(&self, kind: &ServiceKind) -> bool {
        let mut ports = self.tunnel_ports().into_iter();
        ports.any(|(protocol, port)| *kind == ServiceKind::Ports(protocol, vec![(port, port)]))
    }

    fn tunnel_ports(&self) -> Vec<(u8, u16)> {
        let mut ports = Vec::new();
        for overlay in &self.draft.overlays {
            match overlay.backend {
                "vxlan" => ports.push((UDP, 8472)),
                "wireguard" => ports.extend([(UDP, 51820), (UDP, 51821)]),
                "udp" => ports.push((UDP, 8285)),
                _ => {}
            }
        }
        ports
    }

    /// Everything else that is accepted for this host, one allow for each line.
    fn allows(&mut self, view: &View<'_>, known: &Known) {
        let mut regions: Vec<Region> = Vec::new();
        for v in 0..view.services.len() {
            let Some(kind) = view.services.get(v).map(|service| &service.kind) else {
                continue;
            };
            for i in 0..view.interfaces.len() {
                for s in 0..view.sources.len() {
                    let Some(at) = view.opens(i, s, v).filter(|_| !known.is(i, s)) else {
                        continue;
                    };
                    if self.is_tunnel(kind) && !opens_all(view, i, s) {
                        self.say(at, "tunnel packets are for peers to send: name the other nodes under [peers]");
                        continue;
                    }
                    // ICMP has its own part of the policy, but where all there is is accepted.
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
            self.region(view, known, &region);
        }
    }

    fn region(&mut self, view: &View<'_>, known: &Known, region: &Region) {
        // Services that are for the same sources on the same interfaces go together.
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
            // Where the rest is accepted too, by other lines, it is everything.
            let anyway = |v: &usize| {
                services.contains(v)
                    || who.iter().all(|(i, sources)| {
                        sources
                            .iter()
                            .all(|s| known.is(*i, *s) || view.opens(*i, *s, *v).is_some())
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
            // What is accepted anyway, by other entries or other lines, may be in it.
            let may = |i: usize, s: usize| {
                known.is(i, s) || services.iter().all(|v| view.opens(i, s, *v).is_some())
            };
            self.allow(view, &may, region.at, &who, ports);
        }
    }

    /// An allow for sources on interfaces; `may` is for whom it does no harm.
    fn allow(
        &mut self,
        view: &View<'_>,
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
            // Others on which the same sources may have it anyway.
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
            self.put(Allow {
                name,
                ports: ports.clone(),
                from,
                interfaces: patterns,
            });
        }
    }

    /// Adds an allow, or adds to the one that says the same for the other family.
    fn put(&mut self, allow: Allow) {
        let same = |old: &&mut Allow| {
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

    /// Interfaces as patterns, of `interfaces`, for those that are wanted; empty for all of them.
    fn interfaces(
        &mut self,
        view: &View<'_>,
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
        for pattern in view.spoken.interfaces_in.iter().filter(inside) {
            if !patterns.contains(pattern) {
                patterns.push(pattern.clone());
            }
        }
        // A prefix says all that names in it say.
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
            self.say(at, "it is for every interface but some, and a policy can only name interfaces; name those that it is for under `interfaces`");
        }
        // Those that rules name, at least.
        (!patterns.is_empty()).then_some(patterns)
    }

    fn say(&mut self, at: At, why: &str) {
        let unsaid = Unsaid {
            at,
            why: why.to_owned(),
        };
        if !self.unsaid.contains(&unsaid) {
            self.unsaid.push(unsaid);
        }
    }

    /// Sources as prefixes: those that rules write, else all that may.
    fn from(
        &mut self,
        view: &View<'_>,
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
        // With those who may anyway, it can be shorter.
        let (without, with) = (as_prefixes(&left), as_prefixes(&fine));
        match nets.is_empty() && with.len() < without.len() {
            true => nets = with,
            false => nets.extend(without),
        }
        if nets.len() > PREFIXES_MAX {
            self.say(at, &format!("it is for everybody but so many that it would take {} networks to say; keep the rules that drop those where they are, and import without them", nets.len()));
            return None;
        }
        Some(From::Nets(nets))
    }

    /// Services as entries of `ports`; the inner `None` for all of them, the outer if it cannot be
    /// said.
    #[expect(
        clippy::option_option,
        reason = "both mean what the language means by an absent key"
    )]
    fn ports(
        &mut self,
        view: &View<'_>,
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
                    // A bare number would be a port.
                    if port::parse(&name).is_ok_and(|spec| spec.range.is_none()) {
                        words.push(name);
                    } else {
                        self.say(at, &format!("the policy has no word for protocol {number}"));
                    }
                }
                ServiceKind::OtherProtocols => {
                    self.say(
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

    /// Ports that a nat table publishes, and the filter lets through.
    fn published(&mut self, view: &View<'_>, known: &Known) {
        for port in &view.published {
            if self.is_open(port.protocol, port.dialled) {
                continue;
            }
            let mut line = port.at;
            let mut open: Vec<Vec<bool>> = Vec::new();
            for interface in &view.interfaces {
                let mut row = Vec::new();
                for source in &view.sources {
                    let narrow = view
                        .rules
                        .narrow(source.example, super::eval::Reading::BesidePeerwall);
                    let outcome = narrow.judge(&view.dialled(port, source.example, interface));
                    let accepted = outcome.verdict == crate::net::packet::Verdict::Accept;
                    row.push(accepted);
                    line = outcome.by.filter(|_| accepted).unwrap_or(line);
                }
                open.push(row);
            }
            let open = |i: usize, s: usize| open.get(i).and_then(|row| row.get(s)) == Some(&true);
            // Containers dial published ports too; what their interface may is no matter here.
            let inner: Vec<bool> = view
                .interfaces
                .iter()
                .map(|name| self.is_inner(name))
                .collect();
            let may =
                |i: usize, s: usize| known.is(i, s) || open(i, s) || inner.get(i) == Some(&true);
            let mut who: Who = Vec::new();
            for i in (0..view.interfaces.len()).filter(|i| inner.get(*i) == Some(&false)) {
                let sources = (0..view.sources.len()).filter(|s| open(i, *s) && !known.is(i, *s));
                who.push((i, sources.collect()));
            }
            who.retain(|(_, sources)| !sources.is_empty());
            let ports = port_words(vec![(port.protocol, vec![(port.dialled, port.dialled)])]);
            self.allow(view, &may, line, &who, Some(ports));
        }
    }

    /// Whether everybody may dial this port already.
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

    /// Whether an interface is an overlay's.
    fn is_inner(&self, name: &str) -> bool {
        let mut patterns = self
            .draft
            .overlays
            .iter()
            .flat_map(|overlay| &overlay.interfaces);
        patterns.any(|pattern| pattern.matches(name))
    }

    /// ICMP beyond the safe core.
    fn icmp(&mut self, view: &View<'_>, known: &Known) {
        let everybody = |v: usize| {
            (0..view.interfaces.len()).all(|i| {
                (0..view.sources.len()).all(|s| known.is(i, s) || view.accepts(i, s, v).is_some())
            })
        };
        let family = view.family;
        let mine = match family {
            Family::V4 => 0,
            Family::V6 => 1,
        };
        let all = view.icmp().all(|(v, _, _)| everybody(v));
        let open = self
            .draft
            .allows
            .iter()
            .any(|a| a.ports.is_none() && a.from == From::Any);
        if open {
            return; // every protocol is, so this is
        }
        // All of ICMPv6 is what people write who need neighbour discovery: the core has that.
        if all && family == Family::V4 {
            self.draft.icmp[mine].all = true;
            return;
        }
        if all {
            return;
        }
        for (v, kind, code) in view.icmp() {
            let core = icmp::errors(family).contains(&kind)
                || (family == Family::V6
                    && (icmp::NEIGHBOUR_DISCOVERY.contains(&kind)
                        || icmp::LISTENER_DISCOVERY.contains(&kind)));
            if core || is_reply(family, kind) || code != 0 {
                continue;
            }
            if kind == icmp::echo_request(family) {
                self.ping(view, known, v);
            } else if everybody(v)
                && let Some(types) = self.draft.icmp.get_mut(mine)
                && !types.some.contains(&kind)
            {
                types.some.push(kind);
            }
        }
    }

    fn ping(&mut self, view: &View<'_>, known: &Known, v: usize) {
        let pings = |i: usize, s: usize| view.accepts(i, s, v).filter(|_| !known.is(i, s));
        let sources: Vec<usize> = (0..view.sources.len())
            .filter(|s| (0..view.interfaces.len()).any(|i| pings(i, *s).is_some()))
            .filter(|s| {
                (0..view.interfaces.len()).all(|i| known.is(i, *s) || pings(i, *s).is_some())
            })
            .collect();
        let line = sources
            .first()
            .and_then(|s| (0..view.interfaces.len()).find_map(|i| pings(i, *s)));
        let Some(at) = line else {
            return;
        };
        let all: Vec<usize> = (0..view.interfaces.len()).collect();
        let may = |i: usize, s: usize| known.is(i, s) || view.accepts(i, s, v).is_some();
        let Some(from) = self.from(view, &may, at, &all, &sources) else {
            return;
        };
        self.draft.ping = match self.draft.ping.take() {
            None => Some(from),
            Some(old) => merge(&old, &from).or(Some(old)),
        };
    }

    /// Whether strangers are told that they may not.
    fn reject(&mut self, view: &View<'_>, known: &Known) {
        let Some(s) = (0..view.sources.len()).find(|s| {
            let stranger = super::classes::stranger(view.family);
            view.sources
                .get(*s)
                .is_some_and(|source| source.example == stranger)
        }) else {
            return;
        };
        let i = view.interfaces.len().saturating_sub(1);
        if known.is(i, s) {
            return;
        }
        self.draft.reject |= view.refuses(i, s);
    }

    /// A peer's network that contains pods is the rest of it: pods are believed on the interfaces of their overlay.
    fn leave_pods_out(&mut self) {
        let pods: Vec<IpNet> = self
            .draft
            .overlays
            .iter()
            .flat_map(|o| o.subnets.clone())
            .collect();
        for peer in &mut self.draft.peers {
            let of = |net: &IpNet| {
                let inside: Vec<IpNet> = pods
                    .iter()
                    .copied()
                    .filter(|pods| net.contains(pods))
                    .collect();
                addr::subtract(*net, &inside)
            };
            peer.addresses = peer.addresses.iter().flat_map(of).collect();
        }
        self.draft.peers.retain(|peer| !peer.addresses.is_empty());
    }

    /// Gives everything a name of its own.
    fn name_all(&mut self) {
        let mut used: Vec<String> = self.draft.overlays.iter().map(|o| o.name.clone()).collect();
        for peer in &mut self.draft.peers {
            let by_address = peer.addresses.first().map_or_else(String::new, |net| {
                let kind = match (
                    net.prefix_len() == net.max_prefix_len(),
                    peer.addresses.len(),
                ) {
                    (_, 2..) => "from",
                    (true, _) => "host",
                    (false, _) => "net",
                };
                match kind {
                    "from" => format!("from-{}", plain(net.addr().into())),
                    kind => format!("{kind}-{}", plain(*net)),
                }
            });
            peer.name = Some(unused(peer.name.take().unwrap_or(by_address), &mut used));
        }
        let mut allows: Vec<String> = Vec::new();
        for allow in &mut self.draft.allows {
            allow.name = unused(allow.name.clone(), &mut allows);
        }
        let of_allows = self
            .draft
            .allows
            .iter()
            .map(|allow| (allow.name.as_str(), &allow.from));
        let of_ping = self.draft.ping.iter().map(|from| ("ping", from));
        for (name, from) in of_allows.chain(of_ping) {
            if let From::Nets(nets) = from
                && nets.len() > LIST_MAX
                && !self.draft.groups.iter().any(|(_, old)| old == nets)
            {
                let group = unused(list_name(nets, name), &mut used);
                self.draft.groups.push((group, nets.clone()));
            }
        }
    }
}

/// Sources by interface.
type Who = Vec<(usize, Vec<usize>)>;

/// What one line accepts: service, interface, source.
struct Region {
    at: At,
    cells: Vec<(usize, usize, usize)>,
}

/// Who may by either; `None` if that is not one list.
fn merge(a: &From, b: &From) -> Option<From> {
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

fn unused(name: String, used: &mut Vec<String>) -> String {
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    let free = std::iter::once(name.clone())
        .chain(numbered)
        .find(|n| !used.contains(n));
    let free = free.unwrap_or(name);
    used.push(free.clone());
    free
}

fn accepts_all(view: &View<'_>, interface: usize, source: usize) -> bool {
    (0..view.services.len()).all(|v| view.accepts(interface, source, v).is_some())
}

fn opens_all(view: &View<'_>, interface: usize, source: usize) -> bool {
    (0..view.services.len()).all(|v| view.opens(interface, source, v).is_some())
}

/// Sources that are accepted on every port, from everywhere, as rules write them. None if that is
/// everybody: then the host is open, which is an allow.
fn full<'v>(view: &'v View<'_>, known: &Known) -> Vec<Literal<'v>> {
    let interfaces = 0..view.interfaces.len();
    let full = |s: usize| {
        interfaces
            .clone()
            .all(|i| known.is(i, s) || accepts_all(view, i, s))
    };
    let full: Vec<bool> = (0..view.sources.len()).map(full).collect();
    if full.iter().all(|full| *full) {
        return Vec::new();
    }
    let mut done: Vec<Span> = Vec::new();
    let is_full = |literal: &Literal<'_>| {
        let inside = view.within(literal.span);
        !inside.is_empty() && inside.iter().all(|s| full.get(*s) == Some(&true))
    };
    let mut is_first = |literal: &Literal<'_>| {
        let is_first = !done.contains(&literal.span);
        done.push(literal.span);
        is_first
    };
    literals(view)
        .filter(is_full)
        .filter(|literal| is_first(literal))
        .collect()
}

fn rules_of<'v>(view: &'v View<'_>) -> impl Iterator<Item = &'v Rule> {
    view.rules.filter.values().flat_map(|chain| &chain.rules)
}

/// Sources that rules name, in the order of the lines.
fn literals<'v>(view: &'v View<'_>) -> impl Iterator<Item = Literal<'v>> {
    let mut found: Vec<Literal<'v>> = rules_of(view)
        .flat_map(|rule| {
            rule.sources()
                .map(move |span| Literal { span: *span, rule })
        })
        .collect();
    found.sort_by_key(|literal| literal.rule.at);
    found.into_iter()
}

fn literal_is_host(literal: &Literal<'_>) -> bool {
    literal.span.0 == literal.span.1
}

fn names_source(rule: &Rule, span: Span) -> bool {
    rule.sources().any(|of| *of == span)
}

/// Spans as few prefixes as they take.
fn prefixes(family: Family, spans: &[Span]) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for (first, last) in spans {
        let subnets = match (addr::address(family, *first), addr::address(family, *last)) {
            (std::net::IpAddr::V4(a), std::net::IpAddr::V4(b)) => {
                ipnet::IpSubnets::from(ipnet::Ipv4Subnets::new(a, b, 0))
            }
            (std::net::IpAddr::V6(a), std::net::IpAddr::V6(b)) => {
                ipnet::IpSubnets::from(ipnet::Ipv6Subnets::new(a, b, 0))
            }
            // Both are of `family`.
            _ => continue,
        };
        nets.extend(subnets.take(PREFIXES_MAX + 1));
    }
    nets
}

/// Without what is never the source of a packet: multicast, which is at the end of both families.
fn possible(family: Family, spans: Vec<Span>) -> Vec<Span> {
    let last_possible = match family {
        Family::V4 => addr::number(std::net::IpAddr::from([223, 255, 255, 255])),
        Family::V6 => (0xff00_u128 << 112) - 1,
    };
    spans
        .into_iter()
        .filter(|(first, _)| *first <= last_possible)
        .map(|(first, last)| (first, last.min(last_possible)))
        .collect()
}

/// The name of a list: by what is not in it, where that is shorter.
fn list_name(nets: &[IpNet], allow: &str) -> String {
    let Some(first) = nets.first() else {
        return format!("from-{allow}");
    };
    let family = Family::of(first.addr());
    let one_family: Vec<Span> = nets
        .iter()
        .filter(|net| Family::of(net.addr()) == family)
        .map(|net| addr::bounds(*net))
        .collect();
    let mut left_out = Vec::new();
    let mut next = 0;
    for (first, last) in joined(one_family) {
        if first > next {
            left_out.push((next, first - 1));
        }
        next = last.saturating_add(1);
    }
    left_out.push((next, super::classes::max(family)));
    let left_out = prefixes(family, &possible(family, left_out));
    match left_out[..] {
        [one] => format!("all-but-{}", plain(one)),
        _ if left_out.len() * 2 < nets.len() => format!("all-but-{}-networks", left_out.len()),
        _ => format!("from-{allow}"),
    }
}

/// An address as a part of a name.
fn plain(net: IpNet) -> String {
    let text = addr::short(net);
    let parts = text.split(['.', ':', '/']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// Spans that touch, as one.
fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut out: Vec<Span> = Vec::new();
    for (first, last) in spans {
        match out.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => {
                previous.1 = previous.1.max(last)
            }
            _ => out.push((first, last)),
        }
    }
    out
}

/// Ports as they are written in `ports`: `"53"` for both of tcp and udp.
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

/// Names for ports that people know by one.
fn service_name(ports: Option<&[String]>) -> String {
    let Some(ports) = ports else {
        return "everything".to_owned();
    };
    let known = |text: &str| {
        Some(match text {
            "22/tcp" => "ssh",
            "25/tcp" => "smtp",
            "53" | "53/udp" | "53/tcp" => "dns",
            "80/tcp" => "http",
            "123/udp" => "ntp",
            "179/tcp" => "bgp",
            "443/tcp" => "https",
            "443/udp" => "http3",
            "2379-2380/tcp" => "etcd",
            "6443/tcp" => "kubernetes-api",
            "10250/tcp" => "kubelet",
            "30000-32767/tcp" | "30000-32767/udp" | "30000-32767" => "node-ports",
            "51820/udp" => "wireguard",
            _ => return None,
        })
    };
    let names: Vec<&str> = ports.iter().filter_map(|text| known(text)).collect();
    match (&names[..], ports) {
        ([_, ..], _) if names.len() == ports.len() && ports.len() <= 3 => names.join("-"),
        (_, [one]) => match one.split_once('/') {
            Some((port, protocol)) => format!("{protocol}-{port}"),
            None if one.starts_with(|c: char| c.is_ascii_digit()) => format!("port-{one}"),
            None => one.clone(),
        },
        _ => "ports".to_owned(),
    }
}

/// A comment as a name, if it can be one.
fn name_of(comment: &str) -> Option<String> {
    let mut name = String::new();
    for c in comment.trim().chars() {
        match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '.' => name.push(c),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    let name = name.trim_matches(['-', '.']).to_owned();
    let good =
        (2..=40).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_alphabetic());
    (good && name != "any").then_some(name)
}

fn bridge_name(pattern: &InterfacePattern) -> String {
    let name = pattern.example();
    let known = ["docker", "podman", "virbr", "lxcbr", "cni"];
    match known.iter().find(|prefix| name.starts_with(**prefix)) {
        Some(prefix) if name == format!("{prefix}0") => (*prefix).to_owned(),
        _ => name,
    }
}

impl Draft {
    /// As a file.
    pub(super) fn text(&self, head: &str) -> String {
        let mut out = format!("{head}version = 1\n");
        if !self.peers.is_empty() {
            out.push_str("\n# Machines that may reach this host, and go through it, on every port.\n[peers]\n");
            let width = self
                .peers
                .iter()
                .filter_map(|p| p.name.as_ref())
                .map(|n| key(n).len())
                .max();
            for peer in &self.peers {
                let name = key(peer.name.as_deref().unwrap_or_default());
                let _ = writeln!(
                    out,
                    "{name:<width$} = {}",
                    list(&peer.addresses),
                    width = width.unwrap_or(0)
                );
            }
        }
        if !self.groups.is_empty() {
            out.push_str("\n# Not trusted by themselves; for `from`.\n[groups]\n");
            for (name, nets) in &self.groups {
                let _ = writeln!(out, "{} = {}", key(name), list(nets));
            }
        }
        for overlay in &self.overlays {
            let names: Vec<String> = overlay
                .interfaces
                .iter()
                .map(|i| text(&i.to_string()))
                .collect();
            let subnets: Vec<String> = overlay
                .subnets
                .iter()
                .map(|net| text(&net.to_string()))
                .collect();
            let _ = write!(
                out,
                "\n[overlay.{}]\nbackend    = \"{}\"\nsubnets    = [{}]\ninterfaces = [{}]\n",
                key(&overlay.name),
                overlay.backend,
                subnets.join(", "),
                names.join(", ")
            );
        }
        for allow in &self.allows {
            self.allow_text(allow, &mut out);
        }
        if !self.trusted.is_empty() {
            let names: Vec<String> = self.trusted.iter().map(|i| text(&i.to_string())).collect();
            let _ = write!(out, "\n[interfaces]\ntrusted = [{}]\n", names.join(", "));
        }
        self.icmp_text(&mut out);
        if self.reject {
            out.push_str("\n[options]\ndenied = \"reject\"\n");
        }
        out
    }

    fn allow_text(&self, allow: &Allow, out: &mut String) {
        let _ = write!(out, "\n[[allow]]\nname  = {}\n", text(&allow.name));
        if let Some(ports) = &allow.ports {
            let ports: Vec<String> = ports.iter().map(|port| text(port)).collect();
            let _ = writeln!(out, "ports = [{}]", ports.join(", "));
        }
        let _ = writeln!(out, "from  = {}", self.who_text(&allow.from));
        if !allow.interfaces.is_empty() {
            let names: Vec<String> = allow
                .interfaces
                .iter()
                .map(|i| text(&i.to_string()))
                .collect();
            let _ = writeln!(out, "interfaces = [{}]", names.join(", "));
        }
    }

    fn who_text(&self, from: &From) -> String {
        let nets = match from {
            From::Any => return text("any"),
            From::Nets(nets) => nets,
        };
        let group = self.groups.iter().find(|(_, of)| of == nets);
        group.map_or_else(|| list(nets), |(name, _)| text(name))
    }

    fn icmp_text(&self, out: &mut String) {
        let mut lines = Vec::new();
        for (key, family, types) in [
            ("v4", Family::V4, &self.icmp[0]),
            ("v6", Family::V6, &self.icmp[1]),
        ] {
            if types.all {
                lines.push(format!("{key} = \"all\""));
            } else if !types.some.is_empty() {
                let names: Vec<String> = types
                    .some
                    .iter()
                    .map(|kind| icmp::name(family, *kind).map_or_else(|| kind.to_string(), text))
                    .collect();
                lines.push(format!("{key} = [{}]", names.join(", ")));
            }
        }
        lines.extend(
            self.ping
                .as_ref()
                .map(|from| format!("ping = {}", self.who_text(from))),
        );
        if !lines.is_empty() {
            let _ = write!(out, "\n[icmp]\n{}\n", lines.join("\n"));
        }
    }
}

fn list(nets: &[IpNet]) -> String {
    let words: Vec<String> = nets.iter().map(|net| text(&addr::short(*net))).collect();
    match &words[..] {
        [one] => one.clone(),
        _ if words.len() > LIST_MAX => format!("[\n    {},\n]", words.join(",\n    ")),
        _ => format!("[{}]", words.join(", ")),
    }
}

fn text(text: &str) -> String {
    format!("\"{text}\"")
}

/// A key is bare where it can be.
fn key(name: &str) -> String {
    match name.contains('.') {
        true => text(name),
        false => name.to_owned(),
    }
}
