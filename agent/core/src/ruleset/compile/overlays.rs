//! Compiles overlays: the paths on which pod traffic may arrive, and the senders to a tunnel.

use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::Hook;
use crate::net::port::UDP;
use crate::policy::reason::Reason;
use crate::policy::{Overlay, Tunnel, icmp};
use crate::ruleset::{Action, IcmpKinds, Match, Ports};

use super::chain::{ChainDraft, base_name};
use super::sets::{mac_set, overlay_set, routed_set, tunnel_set};
use super::{Compiler, POD_SIDE, ROUTE_SIDE, TUNNEL_SIDE, icmp_in, interface};
use crate::policy::Side;

impl Compiler<'_> {
    /// Checks packets from pod, guest and tunnel interfaces before peers are accepted, because they
    /// can have spoofed peer addresses.
    pub(super) fn hand_to_sides(&self, chain: &mut ChainDraft) {
        for (pattern, side) in self.policy.sides() {
            let name = match side {
                Side::Pods => POD_SIDE,
                Side::Tunnel => TUNNEL_SIDE,
                Side::Route => ROUTE_SIDE,
            };
            let jump = Action::Jump(name.into());
            chain.go(
                vec![interface(&pattern)],
                jump,
                None,
                Reason::OverlaySpoof,
                None,
            );
        }
    }

    pub(super) fn sides(&mut self) {
        let used: Vec<Side> = self.policy.sides().into_values().collect();
        for (side, name) in [
            (Side::Pods, POD_SIDE),
            (Side::Tunnel, TUNNEL_SIDE),
            (Side::Route, ROUTE_SIDE),
        ] {
            if used.contains(&side) {
                let mut inside = ChainDraft::regular(name, base_name(Hook::Input));
                self.side(side, &mut inside);
                self.add(inside);
            }
        }
    }

    fn side(&self, side: Side, chain: &mut ChainDraft) {
        match side {
            // Masquerading would make a pod's packet to another node's tunnel look like a peer's.
            Side::Pods | Side::Tunnel => self.guard_tunnels(chain),
            Side::Route => {}
        }
        // CVE-2020-10749
        let advert = IcmpKinds::One(icmp::ROUTER_ADVERTISEMENT);
        chain.deny_as(icmp_in(Family::V6, advert), Reason::RouterAdvert);
        let elsewhere = match side {
            Side::Tunnel => return,
            Side::Pods => None,
            Side::Route => Some(Match::ReversePath { exists: false }),
        };
        // iptables has no reverse path match; an error then points to the overlay.
        let mut overlays = self.policy.overlays.iter();
        let routed = overlays.find(|overlay| {
            side == Side::Route && !overlay.backend.is_tunnelled() && !overlay.interfaces.is_empty()
        });
        for mut source in self.sources_of_peers() {
            source.extend(elsewhere.clone());
            let reason = Reason::PeerSpoof;
            let comment = reason.sentence();
            chain.deny(
                source,
                reason,
                comment,
                routed.map(|overlay| &overlay.place),
            );
        }
    }

    /// Denies packets to any tunnel.
    pub(super) fn guard_tunnels(&self, chain: &mut ChainDraft) {
        for overlay in &self.policy.overlays {
            if overlay.guards_tunnel() {
                self.deny_tunnel(overlay, Vec::new(), chain);
            }
        }
    }

    #[expect(
        clippy::unused_self,
        reason = "every part of a chain is a method, even if it does not need the policy"
    )]
    fn deny_tunnel(&self, overlay: &Overlay, mut matches: Vec<Match>, chain: &mut ChainDraft) {
        matches.extend(to_tunnel(overlay));
        let comment = format!("overlay {}, tunnel packets not from peers", overlay.name);
        let place = Some(&overlay.place);
        chain.deny(matches, Reason::OverlayInject, comment, place);
    }

    /// Accepts the additional senders to a tunnel and denies all others. This comes after peers,
    /// which may send, and before allows, which must not open a tunnel to everyone.
    pub(super) fn inject(&self, chain: &mut ChainDraft) {
        for overlay in &self.policy.overlays {
            let to_tunnel = to_tunnel(overlay);
            if to_tunnel.is_empty() {
                continue;
            }
            for mut matches in self.sources(&overlay.tunnel_from, &tunnel_set(&overlay.name)) {
                matches.extend(to_tunnel.iter().cloned());
                let reason = Reason::Overlay(overlay.name.clone());
                chain.accept(matches, reason, Some(&overlay.place));
            }
            self.deny_tunnel(overlay, Vec::new(), chain);
        }
    }

    /// Denies forwarded tunnel packets, except from peers, on interfaces that may have pods and
    /// peers.
    pub(super) fn inject_through(&self, chain: &mut ChainDraft) {
        for (pattern, side) in self.policy.sides() {
            for overlay in &self.policy.overlays {
                if side == Side::Route && overlay.guards_tunnel() {
                    self.deny_tunnel(overlay, vec![interface(&pattern)], chain);
                }
            }
        }
    }

    /// Accepts packets with an overlay address that arrive on a valid path, and denies the rest as
    /// spoofed. This comes before peers, so that no peer can spoof a pod, and after trusted
    /// interfaces, which are trusted with any address.
    pub(super) fn hand_to_overlays(&mut self, chain: &mut ChainDraft, hook: Hook) {
        for overlay in &self.policy.overlays {
            let sources = self.source_in(&overlay_set(&overlay.name));
            if sources.is_empty() {
                continue;
            }
            let name = format!("{hook}-overlay-{}", overlay.name);
            let reason = Reason::Overlay(overlay.name.clone());
            for source in sources {
                let to_chain = Action::Goto(name.clone());
                let comment = Some(reason.sentence());
                chain.go(
                    source,
                    to_chain,
                    comment,
                    reason.clone(),
                    Some(&overlay.place),
                );
            }
            let mut inside = ChainDraft::regular(name, base_name(hook));
            // Masquerading would make such a packet look like a peer's to another node's tunnel.
            self.guard_tunnels(&mut inside);
            for arrival in self.arrivals(overlay) {
                inside.accept(arrival, reason.clone(), Some(&overlay.place));
            }
            let comment = format!("spoofed {} address", overlay.name);
            let place = Some(&overlay.place);
            inside.deny(Vec::new(), Reason::OverlaySpoof, comment, place);
            self.add(inside);
        }
    }

    /// Returns the valid paths of an overlay's packets: its interfaces, routes to nodes in the
    /// kernel's routing table, and the Ethernet addresses of peers for unmasqueraded packets.
    fn arrivals(&self, overlay: &Overlay) -> Vec<Vec<Match>> {
        let mut found: Vec<Vec<Match>> = overlay
            .interfaces
            .iter()
            .filter(|pattern| !overlay.is_by_route_only(pattern))
            .map(|pattern| vec![interface(pattern)])
            .collect();
        for name in overlay.routed_interfaces() {
            let set = routed_set(&overlay.name, &name);
            for source in self.source_in(&set) {
                let mut matches = vec![interface(&InterfacePattern::Exact(name.clone()))];
                matches.extend(source);
                found.push(matches);
            }
        }
        if !overlay.peer_macs.is_empty() {
            found.push(vec![Match::SourceMac(mac_set(&overlay.name))]);
        }
        found
    }
}

/// Returns matches for packets to an overlay's tunnel; empty if it has none.
fn to_tunnel(overlay: &Overlay) -> Vec<Match> {
    match overlay.tunnel {
        Some(Tunnel::Udp(range)) => vec![
            Match::Protocol(UDP),
            Match::DestinationPort(Ports::Range(range)),
        ],
        Some(Tunnel::Protocol(number)) => vec![Match::Protocol(number)],
        None => Vec::new(),
    }
}
