//! Writes entries that may use every port: trusted interfaces, overlays and peers.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::names::name_of;
use super::prefixes::prefixes;
use super::{DraftOverlay, DraftPeer, PolicyWriter};
use crate::import::literals::{full, literal_is_host, names_source};
use crate::import::rule::Interval;
use crate::import::space::diagram::PacketSet;
use crate::import::view::View;
use crate::import::{managed, networks};
use crate::net::addr;
use crate::net::interface::InterfacePattern;
use crate::net::port::UDP;

impl PolicyWriter<'_> {
    /// Finds trusted interfaces: every packet from them is accepted, both to this host and
    /// forwarded.
    pub(super) fn trusted(&mut self, view: &mut View<'_, '_>) {
        let classes = view.interfaces();
        let mut open = Vec::new();
        for (index, name) in &classes {
            let on = view.on_class(*index);
            if view.accepts(on) && view.passes(on) {
                open.push((on, name));
            }
        }
        if open.len() == classes.len() {
            return; // the host is open: no interface is trusted more than others
        }
        for (on, name) in open {
            let Some(pattern) = only_pattern(view, name) else {
                continue; // every interface: there is nothing to write
            };
            if !self.draft.trusted.contains(&pattern) {
                self.draft.trusted.push(pattern);
            }
            view.cover(on);
        }
    }

    /// Finds pod networks among the sources that are accepted on every port and interface.
    pub(super) fn overlays(&mut self, view: &mut View<'_, '_>) {
        for literal in full(view) {
            if let [net] = prefixes(view.family, &[literal.span])[..]
                && self.is_pods(view, net)
            {
                self.overlay(view, net, None);
                // Deliberately accepted on the overlay's interfaces only.
                let from = view.from(literal.span);
                view.cover(from);
            }
        }
    }

    /// Finds peers among the sources that are accepted on every port and interface.
    pub(super) fn peers(&mut self, view: &mut View<'_, '_>) {
        let forwarded = view.forwarded();
        let forwards = !view.space.d.is_within(forwarded, view.covered);
        for literal in full(view) {
            view.briefly(|view| {
                let from = view.from(literal.span);
                if view.is_covered(from) {
                    return; // pods
                }
                // If the rules forward nothing, the host is a full peer.
                if forwards && !view.passes(from) {
                    return; // an allow of every port says just that
                }
                self.peer(
                    literal.rule.comment.as_deref(),
                    prefixes(view.family, &[literal.span]),
                );
                view.cover(from);
            });
        }
    }

    /// Finds private networks that are accepted on container interfaces, to this host or forwarded.
    pub(super) fn on_their_interfaces(&mut self, view: &mut View<'_, '_>) {
        let literals = Arc::clone(&view.literals);
        for literal in literals.iter().filter(|literal| !literal_is_host(literal)) {
            let inner = literal.rule.interfaces();
            let mut inner = inner
                .filter(|p| managed::is_container_interface(&p.example()))
                .peekable();
            let [net] = prefixes(view.family, &[literal.span])[..] else {
                continue;
            };
            if inner.peek().is_none() || !networks::is_private(view.family, net) {
                continue;
            }
            let from = view.from(literal.span);
            for pattern in inner {
                if view.is_covered(from) {
                    break;
                }
                let on = view.space.on(std::slice::from_ref(pattern));
                let there = view.space.d.and(from, on);
                if view.accepts(there) || view.passes_out(pattern, from) {
                    let bridge = managed::is_bridge(&pattern.example()).then_some(pattern);
                    self.overlay(view, net, bridge);
                    view.cover(from);
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
    /// interfaces, or a distribution's default.
    fn is_pods(&self, view: &View<'_, '_>, net: IpNet) -> bool {
        if net.prefix_len() == net.max_prefix_len() || !networks::is_private(view.family, net) {
            return false;
        }
        let flannel = self
            .facts
            .pod_networks
            .iter()
            .any(|pods| addr::overlap(*pods, net));
        let usual = managed::POD_NETWORKS[..3].contains(&net.to_string().as_str());
        let by_interface = view.by_line.values().any(|rule| {
            names_source(rule, addr::bounds(net))
                && rule
                    .interfaces()
                    .any(|pattern| managed::is_container_interface(&pattern.example()))
        });
        flannel || usual || by_interface
    }

    fn overlay(&mut self, view: &View<'_, '_>, net: IpNet, behind: Option<&InterfacePattern>) {
        let (name, backend, interfaces) = match behind {
            Some(pattern) => (bridge_name(pattern), "none", vec![pattern.clone()]),
            None => self.flannel(view),
        };
        // Each address may be in one overlay.
        let others = self
            .draft
            .overlays
            .iter()
            .filter(|other| other.name != name);
        let taken: Vec<IpNet> = others.flat_map(|other| other.subnets.clone()).collect();
        let nets = addr::subtract(net, &taken);
        let same = |o: &&mut DraftOverlay| o.name == name;
        match self.draft.overlays.iter_mut().find(same) {
            Some(overlay) => {
                for net in nets {
                    if !overlay.subnets.iter().any(|old| old.contains(&net)) {
                        overlay.subnets.retain(|old| !net.contains(old));
                        overlay.subnets.push(net);
                    }
                }
            }
            None if nets.is_empty() => {}
            None => self.draft.overlays.push(DraftOverlay {
                name,
                backend,
                subnets: nets,
                interfaces,
            }),
        }
    }

    /// Guesses the backend of flannel or a similar overlay.
    fn flannel(&self, view: &View<'_, '_>) -> (String, &'static str, Vec<InterfacePattern>) {
        let named = view.patterns.iter().map(InterfacePattern::to_string);
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

    /// Finds container networks behind a bridge, which are masqueraded and forwarded, and pods that
    /// are forwarded but may not reach this host.
    pub(super) fn behind_bridges(&mut self, view: &mut View<'_, '_>) {
        for (net, behind, _) in networks::masqueraded(view.space.rules) {
            let from = view.from(addr::bounds(net));
            if view.is_covered(from) || !view.passes_out(&behind, from) {
                continue;
            }
            let on = view.space.on(std::slice::from_ref(&behind));
            let there = view.space.d.and(from, on);
            if view.accepts(there) {
                self.overlay(view, net, Some(&behind));
                view.cover(from);
            } else if !self.draft.guests.contains(&behind) {
                self.draft.guests.push(behind);
            }
        }
        let interfaces = view.interfaces();
        let Some((_, first)) = interfaces.first() else {
            return;
        };
        let first = InterfacePattern::Exact(first.clone());
        for literal in Arc::clone(&view.literals).iter().copied() {
            let [net] = prefixes(view.family, &[literal.span])[..] else {
                continue;
            };
            let is_pods = self
                .facts
                .pod_networks
                .iter()
                .any(|pods| addr::overlap(*pods, net))
                || managed::POD_NETWORKS[..3].contains(&net.to_string().as_str());
            if !is_pods || literal_is_host(&literal) {
                continue;
            }
            let from = view.from(literal.span);
            if !view.is_covered(from) && view.passes_out(&first, from) {
                self.overlay(view, net, None);
                view.cover(from);
            }
        }
    }

    /// Adds senders of tunnel packets as peers, because they can spoof every pod.
    pub(super) fn tunnels(&mut self, view: &mut View<'_, '_>) {
        for (protocol, port) in self.tunnel_ports() {
            let to = tunnel_packets(view, protocol, port);
            let on = view.unnamed_interface();
            let mut done: BTreeSet<Interval> = BTreeSet::new();
            for literal in Arc::clone(&view.literals).iter().copied() {
                if done.contains(&literal.span) {
                    continue;
                }
                view.briefly(|view| {
                    let from = view.from(literal.span);
                    let packets = view.space.d.and(from, to);
                    let packets = view.space.d.and(packets, on);
                    if !view.accepts(packets) || view.is_covered(packets) {
                        return;
                    }
                    done.insert(literal.span);
                    self.peer(
                        literal.rule.comment.as_deref(),
                        prefixes(view.family, &[literal.span]),
                    );
                    view.cover(from);
                });
            }
        }
    }

    /// Returns the tunnel packets of the overlays.
    pub(super) fn all_tunnels(&self, view: &mut View<'_, '_>) -> PacketSet {
        let mut found = PacketSet::NONE;
        for (protocol, port) in self.tunnel_ports() {
            let tunnel = tunnel_packets(view, protocol, port);
            found = view.space.d.or(found, tunnel);
        }
        found
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

/// Returns the packets to a port of a protocol; none if no rule names the port.
fn tunnel_packets(view: &mut View<'_, '_>, protocol: u8, port: u16) -> PacketSet {
    let (axes, d) = (&view.space.axes, &mut view.space.d);
    let number = u128::from(port);
    if axes.ports.span(axes.ports.run((number, number))) != (number, number) {
        return PacketSet::NONE;
    }
    let ports = axes.sent_to(d, &[(port, port)]);
    let of_protocol = axes.protocols(d, |each| each == protocol);
    d.and(ports, of_protocol)
}

/// Finds a pattern in the rules that matches the class of an interface and no other.
fn only_pattern(view: &View<'_, '_>, name: &str) -> Option<InterfacePattern> {
    let all = &view.space.axes.interfaces;
    let is_only = |pattern: &&InterfacePattern| {
        let matched = all.iter().filter(|other| pattern.matches(other));
        pattern.matches(name) && matched.count() == 1
    };
    view.patterns.iter().find(is_only).cloned()
}

fn bridge_name(pattern: &InterfacePattern) -> String {
    let name = pattern.example();
    let known = ["docker", "podman", "virbr", "lxcbr", "cni"];
    match known.iter().find(|prefix| name.starts_with(**prefix)) {
        Some(prefix) if name == format!("{prefix}0") => (*prefix).to_owned(),
        _ => name,
    }
}
