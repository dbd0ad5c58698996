//! Writes entries that may use every port: trusted interfaces, overlays and peers.

use ipnet::IpNet;

use super::literals::{Literal, full, literal_is_host, literals, names_source, rules_of};
use super::names::name_of;
use super::prefixes::prefixes;
use super::{Covered, DraftOverlay, DraftPeer, PolicyWriter, accepts_all};
use crate::import::classes::ServiceKind;
use crate::import::rule::Interval;
use crate::import::view::AcceptTable;
use crate::import::{eval, managed};
use crate::net::addr;
use crate::net::interface::InterfacePattern;
use crate::net::port::UDP;

/// Maximum prefix length of a private network that counts as a pod network without further
/// evidence.
const POD_PREFIX_MAX: u8 = 20;

impl PolicyWriter<'_> {
    /// Finds trusted interfaces: every packet from them is accepted, both to this host and
    /// forwarded.
    pub(super) fn trusted(&mut self, view: &AcceptTable<'_>, covered: &mut Covered) {
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
            sources.clone().for_each(|s| covered.cover(i, s));
        }
    }

    /// Finds a pattern that matches this class of interfaces and no other.
    fn pattern(&self, view: &AcceptTable<'_>, interface: usize) -> Option<InterfacePattern> {
        let name = view.interfaces.get(interface)?;
        view.mentioned
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

    /// Finds pod networks among the sources that are accepted on every port and interface.
    pub(super) fn overlays(&mut self, view: &AcceptTable<'_>, covered: &mut Covered) {
        let literals = full(view, covered);
        for literal in &literals {
            if let [net] = prefixes(view.family, &[literal.span])[..]
                && self.is_pods(view, net, &literals)
            {
                self.overlay(view, net, None);
                self.mark_overlay(view, covered, &view.within(literal.span));
            }
        }
    }

    /// Finds peers among the sources that are accepted on every port and interface.
    pub(super) fn peers(&mut self, view: &AcceptTable<'_>, covered: &mut Covered) {
        let interfaces = 0..view.interfaces.len();
        let forwards = interfaces
            .clone()
            .any(|i| (0..view.sources.len()).any(|s| !covered.covers(i, s) && view.forwards(i, s)));
        for literal in full(view, covered) {
            let inside = view.within(literal.span);
            if inside.iter().all(|s| covered.covers(0, *s)) {
                continue; // pods
            }
            // If the rules forward nothing, the host is a full peer.
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
                interfaces.clone().for_each(|i| covered.cover(i, s));
            }
        }
    }

    /// Finds private networks that are accepted on container interfaces, to this host or forwarded.
    pub(super) fn on_their_interfaces(&mut self, view: &AcceptTable<'_>, covered: &mut Covered) {
        for literal in literals(view).filter(|literal| !literal_is_host(literal)) {
            let inside = view.within(literal.span);
            let [net] = prefixes(view.family, &[literal.span])[..] else {
                continue;
            };
            if inside.is_empty()
                || inside.iter().all(|s| covered.covers(0, *s))
                || !eval::is_private(view.family, net)
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
                    self.mark_overlay(view, covered, &inside);
                }
            }
        }
    }

    fn peer(&mut self, comment: Option<&str>, nets: Vec<IpNet>) {
        let name = comment.and_then(name_of);
        let same = |peer: &&mut DraftPeer| name.is_some() && peer.name == name;
        match self.draft.peers.iter_mut().find(same) {
            Some(peer) => peer.addresses.extend(nets),
            None => self.draft.peers.push(DraftPeer {
                name,
                addresses: nets,
            }),
        }
    }

    /// Reports whether a network is a pod network: by a fact about the host, rules for container
    /// interfaces, a distribution's default, or as a private network among peers with public
    /// addresses.
    fn is_pods(&self, view: &AcceptTable<'_>, net: IpNet, accepted: &[Literal<'_>]) -> bool {
        if net.prefix_len() == net.max_prefix_len() || !eval::is_private(view.family, net) {
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
            && hosts.all(|host| !eval::is_private(view.family, host))
            && net.prefix_len() <= POD_PREFIX_MAX;
        flannel || usual || by_interface || beside_public
    }

    fn overlay(&mut self, view: &AcceptTable<'_>, net: IpNet, behind: Option<&InterfacePattern>) {
        let (name, backend, interfaces) = match behind {
            Some(pattern) => (bridge_name(pattern), "none", vec![pattern.clone()]),
            None => self.flannel(view),
        };
        let same = |o: &&mut DraftOverlay| o.name == name;
        match self.draft.overlays.iter_mut().find(same) {
            Some(overlay) => {
                if !overlay.subnets.iter().any(|old| old.contains(&net)) {
                    overlay.subnets.retain(|old| !net.contains(old));
                    overlay.subnets.push(net);
                }
            }
            None => self.draft.overlays.push(DraftOverlay {
                name,
                backend,
                subnets: vec![net],
                interfaces,
            }),
        }
    }

    /// Guesses the backend of flannel or a similar overlay.
    fn flannel(&self, view: &AcceptTable<'_>) -> (String, &'static str, Vec<InterfacePattern>) {
        let named = view
            .mentioned
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

    /// Marks sources as covered by an overlay, which deliberately accepts them only on its own
    /// interfaces.
    fn mark_overlay(&self, view: &AcceptTable<'_>, covered: &mut Covered, sources: &[usize]) {
        for i in 0..view.interfaces.len() {
            sources.iter().for_each(|s| covered.cover(i, *s));
        }
    }

    /// Finds container networks behind a bridge, which are masqueraded and forwarded, and pods that
    /// are forwarded but may not reach this host.
    pub(super) fn behind_bridges(&mut self, view: &AcceptTable<'_>, covered: &mut Covered) {
        for (net, behind, _) in &view.masqueraded {
            let bounds = addr::bounds(*net);
            let is_covered = view.within(bounds).iter().all(|s| covered.covers(0, *s));
            let host = addr::address(view.family, bounds.0 + 2);
            if !is_covered && view.passes_out(&behind.example(), host) {
                self.overlay(view, *net, Some(behind));
                self.mark_overlay(view, covered, &view.within(bounds));
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
            let is_covered = inside.iter().all(|s| covered.covers(0, *s));
            let host = addr::address(view.family, literal.span.0.saturating_add(2));
            let bridge = view.interfaces.first().map_or("", String::as_str);
            if pods && !is_covered && !literal_is_host(&literal) && view.passes_out(bridge, host) {
                self.overlay(view, net, None);
                self.mark_overlay(view, covered, &inside);
            }
        }
    }

    /// Adds senders of tunnel packets as peers, because they can spoof every pod.
    pub(super) fn tunnels(&mut self, view: &AcceptTable<'_>, covered: &mut Covered) {
        for (protocol, port) in self.tunnel_ports() {
            let tunnel = |v: &usize| match view.services.get(*v).map(|service| &service.kind) {
                Some(ServiceKind::Ports(p, ranges)) => *p == protocol && ranges == &[(port, port)],
                _ => false,
            };
            let Some(v) = (0..view.services.len()).find(tunnel) else {
                continue;
            };
            let stranger = view.interfaces.len().saturating_sub(1);
            let mut done: Vec<Interval> = Vec::new();
            for literal in literals(view) {
                let inside = view.within(literal.span);
                let sends = |s: &usize| {
                    view.accepts(stranger, *s, v).is_some() && !covered.covers(stranger, *s)
                };
                if inside.is_empty() || done.contains(&literal.span) || !inside.iter().all(sends) {
                    continue;
                }
                done.push(literal.span);
                self.peer(
                    literal.rule.comment.as_deref(),
                    prefixes(view.family, &[literal.span]),
                );
                for s in inside {
                    (0..view.interfaces.len()).for_each(|i| covered.cover(i, s));
                }
            }
        }
    }

    pub(super) fn is_tunnel(&self, kind: &ServiceKind) -> bool {
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
}

fn bridge_name(pattern: &InterfacePattern) -> String {
    let name = pattern.example();
    let known = ["docker", "podman", "virbr", "lxcbr", "cni"];
    match known.iter().find(|prefix| name.starts_with(**prefix)) {
        Some(prefix) if name == format!("{prefix}0") => (*prefix).to_owned(),
        _ => name,
    }
}
