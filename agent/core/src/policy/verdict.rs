//! Verdict of a policy on a packet.
//!
//! Implements `docs/policy.md`, section by section, independently of the compiler. A property test
//! checks that both give the same verdict on every packet.

use std::net::IpAddr;

use super::icmp;
use super::on_link::{is_core, is_dhcp_reply, is_igmp};
use super::{Allow, Denied, IcmpTypes, Overlay, Policy, Side, Source, Target, Tunnel};
use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Decision, Hook, Packet, Transport, Verdict};
use crate::net::port::{PortSpec, TCP, UDP};
use crate::policy::reason::Reason;

impl Policy {
    /// Returns the verdict on a packet, with its reason.
    pub fn verdict(&self, packet: &Packet) -> Decision {
        let mut decision = self.enforced_verdict(packet);
        if self.options.mode.passes(&decision.reason) {
            decision.verdict = Verdict::Accept;
        }
        decision
    }

    /// Returns the verdict on a packet if nothing passes for an audit.
    fn enforced_verdict(&self, packet: &Packet) -> Decision {
        self.loopback_from_outside(packet)
            .or_else(|| self.accepted_early(packet))
            .or_else(|| self.on_any_side(packet))
            .or_else(|| self.overlay(packet))
            .or_else(|| self.trusted_source(packet))
            .or_else(|| self.icmp_or_dhcp(packet))
            .or_else(|| self.guest_services(packet))
            .or_else(|| self.published(packet))
            .or_else(|| self.allowed_to_overlay(packet))
            .or_else(|| self.invalid(packet))
            .or_else(|| self.allowed(packet))
            .or_else(|| self.guest(packet))
            .or_else(|| self.switched(packet))
            .unwrap_or_else(|| self.denied(packet))
    }

    fn is_known(packet: &Packet) -> bool {
        matches!(packet.state, CtState::Established | CtState::Related)
    }

    /// Drops loopback addresses that did not arrive on `lo`, by the original destination, before
    /// every other check.
    fn loopback_from_outside(&self, packet: &Packet) -> Option<Decision> {
        let to = packet.before_dnat().destination;
        let claims = packet.source.is_loopback() || to.is_loopback();
        (claims && packet.interface != "lo" && !Self::is_known(packet))
            .then(|| drop(Reason::LoopbackSpoof))
    }

    fn accepted_early(&self, packet: &Packet) -> Option<Decision> {
        if packet.state == CtState::Related && self.is_refused_redirect(packet) {
            return Some(drop(Reason::Redirect));
        }
        if Self::is_known(packet) {
            return accept(Reason::Established);
        }
        if packet.hook == Hook::Input && packet.interface == "lo" {
            return match self.guarded_tunnel(packet) {
                true => Some(drop(Reason::OverlayInject)),
                false => accept(Reason::Loopback),
            };
        }
        if self.only_crosses_a_bridge(packet) {
            return accept(Reason::Bridged);
        }
        matches_any(&self.trusted, &packet.interface).then_some(())?;
        accept(Reason::Trusted)
    }

    fn is_refused_redirect(&self, packet: &Packet) -> bool {
        let family = packet.family();
        match packet.transport {
            Transport::Icmp { kind, .. } => {
                kind == icmp::redirect(family) && !self.icmp_listed(family, kind)
            }
            Transport::Ports { .. } | Transport::Other(_) => false,
        }
    }

    fn only_crosses_a_bridge(&self, packet: &Packet) -> bool {
        packet.hook == Hook::Forward && packet.dialled.is_none() && stays_on(&self.bridged, packet)
    }

    /// Returns whether the packet is for a tunnel that does not authenticate its packets.
    fn guarded_tunnel(&self, packet: &Packet) -> bool {
        self.overlays
            .iter()
            .filter(|overlay| overlay.guards_tunnel())
            .any(|overlay| carries(overlay.tunnel, packet))
    }

    fn on_any_side(&self, packet: &Packet) -> Option<Decision> {
        let sides = self.sides();
        let mut here = sides
            .iter()
            .filter(|(pattern, _)| pattern.matches(&packet.interface));
        here.find_map(|(_, side)| self.on_side(*side, packet))
    }

    fn on_side(&self, side: Side, packet: &Packet) -> Option<Decision> {
        if side != Side::Route && self.guarded_tunnel(packet) {
            return Some(drop(Reason::OverlayInject));
        }
        let is_advert = matches!(packet.transport, Transport::Icmp { kind, .. }
            if kind == icmp::ROUTER_ADVERTISEMENT && packet.family() == Family::V6);
        if is_advert {
            return Some(drop(Reason::RouterAdvert));
        }
        let spoofs = self.is_peer(packet.source)
            && match side {
                Side::Pods => true,
                Side::Route => !packet.reverse_path,
                Side::Tunnel => false,
            };
        spoofs.then(|| drop(Reason::PeerSpoof))
    }

    /// Accepts an overlay's address on the overlay's interfaces, and drops it elsewhere.
    fn overlay(&self, packet: &Packet) -> Option<Decision> {
        let overlay = self.overlays.iter().find(|o| o.has(packet.source))?;
        if self.guarded_tunnel(packet) {
            return Some(drop(Reason::OverlayInject));
        }
        match overlay.arrives_right(packet) {
            true => accept(Reason::Overlay(overlay.name.clone())),
            false => Some(drop(Reason::OverlaySpoof)),
        }
    }

    /// Accepts peers, then drops tunnel packets. Therefore a peer's tunnel packets are accepted.
    fn trusted_source(&self, packet: &Packet) -> Option<Decision> {
        if self.is_peer(packet.source) {
            return accept(Reason::Peers);
        }
        if packet.hook == Hook::Forward {
            let mixed = self
                .sides()
                .iter()
                .any(|(p, side)| *side == Side::Route && p.matches(&packet.interface));
            return (mixed && self.guarded_tunnel(packet)).then(|| drop(Reason::OverlayInject));
        }
        let tunnels = self.overlays.iter();
        let overlay = tunnels
            .into_iter()
            .find(|overlay| carries(overlay.tunnel, packet))?;
        match self.among(&overlay.tunnel_from, packet.source) {
            true => accept(Reason::Overlay(overlay.name.clone())),
            false => Some(drop(Reason::OverlayInject)),
        }
    }

    fn is_peer(&self, source: IpAddr) -> bool {
        let mut addresses = self.peers.iter().flat_map(|peer| &peer.addresses);
        let mut temporary = self.temporary.iter().flatten();
        addresses.any(|address| address.net.contains(&source))
            || temporary.any(|peer| peer.address == source)
    }

    fn icmp_or_dhcp(&self, packet: &Packet) -> Option<Decision> {
        let family = packet.family();
        let core = self.icmp.core;
        if let Transport::Icmp { kind, .. } = packet.transport {
            if core && is_core(packet, family, kind) {
                return accept(Reason::Icmp);
            }
            if packet.hook == Hook::Input {
                if self.icmp_listed(family, kind) {
                    return accept(Reason::Icmp);
                }
                if kind == icmp::echo_request(family) && self.among(&self.icmp.ping, packet.source)
                {
                    return accept(Reason::Ping);
                }
            }
            return None;
        }
        if core && is_igmp(packet) {
            return accept(Reason::Icmp);
        }
        (is_dhcp_reply(packet) || self.is_dhcp_request(packet)).then_some(())?;
        accept(Reason::Dhcp)
    }

    /// Returns whether this is a request to a DHCP server of this host from a client without an
    /// address of the overlay.
    fn is_dhcp_request(&self, packet: &Packet) -> bool {
        let Transport::Ports {
            protocol: UDP,
            destination,
            ..
        } = packet.transport
        else {
            return false;
        };
        let asks = match packet.source {
            IpAddr::V4(from) => destination == 67 && from.is_unspecified(),
            IpAddr::V6(from) => destination == 547 && from.is_unicast_link_local(),
        };
        let mut sides = self.overlays.iter().flat_map(Overlay::dhcp_side);
        packet.hook == Hook::Input && asks && sides.any(|side| side.matches(&packet.interface))
    }

    fn icmp_listed(&self, family: Family, kind: u8) -> bool {
        let listed = match family {
            Family::V4 => &self.icmp.v4,
            Family::V6 => &self.icmp.v6,
        };
        match listed {
            IcmpTypes::All => true,
            IcmpTypes::Some(kinds) => kinds.contains(&kind),
        }
    }

    /// Accepts DHCP and DNS of this host for guests.
    fn guest_services(&self, packet: &Packet) -> Option<Decision> {
        let is_guest = matches_any(&self.guests, &packet.interface);
        let Transport::Ports {
            protocol,
            destination,
            ..
        } = packet.transport
        else {
            return None;
        };
        let served = match protocol {
            TCP => destination == 53,
            UDP => [53, 67, 547].contains(&destination),
            _ => false,
        };
        (packet.hook == Hook::Input && is_guest && served).then_some(())?;
        accept(Reason::Guests)
    }

    /// Judges a DNATed connection by its original destination.
    fn published(&self, packet: &Packet) -> Option<Decision> {
        let dialled = packet.dialled?;
        if self.allows.is_empty() {
            return None;
        }
        let to_host = packet.to_host && !self.is_service(dialled.address);
        let opens = |target: &Target| match target {
            Target::Host => to_host,
            Target::Net(_) | Target::Group(_) | Target::Overlay(_) => {
                self.is_at(target, dialled.address)
            }
        };
        self.first_allow(packet, opens)
            .or_else(|| (!to_host).then(|| drop(Reason::ServiceAddress)))
            .or_else(|| Some(self.denied(packet)))
    }

    /// Accepts allows to overlays through this host, in every connection tracking state.
    fn allowed_to_overlay(&self, packet: &Packet) -> Option<Decision> {
        (packet.hook == Hook::Forward).then_some(())?;
        self.first_allow(packet, |target| {
            matches!(target, Target::Overlay(_)) && self.is_at(target, packet.destination)
        })
    }

    fn invalid(&self, packet: &Packet) -> Option<Decision> {
        (packet.state == CtState::Invalid && self.options.drop_invalid)
            .then(|| drop(Reason::Invalid))
    }

    fn allowed(&self, packet: &Packet) -> Option<Decision> {
        if packet.hook == Hook::Forward {
            return self.first_allow(packet, |target| {
                !matches!(target, Target::Overlay(_)) && self.is_at(target, packet.destination)
            });
        }
        if self.is_service(packet.destination) && !self.allows.is_empty() {
            return self
                .first_allow(packet, |target| self.is_at(target, packet.destination))
                .or_else(|| Some(drop(Reason::ServiceAddress)));
        }
        self.first_allow(packet, |target| match target {
            Target::Host => true,
            Target::Net(_) | Target::Group(_) | Target::Overlay(_) => {
                self.is_at(target, packet.destination)
            }
        })
    }

    /// Returns whether this host has the address only as a cluster service.
    fn is_service(&self, address: IpAddr) -> bool {
        self.services.iter().any(|net| net.contains(&address))
    }

    /// Returns whether a target contains an address. [`Target::Host`] contains none.
    fn is_at(&self, target: &Target, address: IpAddr) -> bool {
        match target {
            Target::Host => false,
            Target::Net(net) => net.contains(&address),
            Target::Group(name) => self.group_has(name, address),
            Target::Overlay(name) => {
                let overlay = self.overlays.iter().find(|overlay| overlay.name == *name);
                overlay.is_some_and(|overlay| overlay.has(address))
            }
        }
    }

    fn first_allow(&self, packet: &Packet, opens: impl Fn(&Target) -> bool) -> Option<Decision> {
        let allow = self
            .allows
            .iter()
            .find(|allow| self.allows(allow, packet) && allow.to.iter().any(&opens))?;
        accept(Reason::Allow(allow.name.clone()))
    }

    fn allows(&self, allow: &Allow, packet: &Packet) -> bool {
        let arrives =
            allow.interfaces.is_empty() || matches_any(&allow.interfaces, &packet.interface);
        let (source, destination) = dialled_ports(packet);
        let any = |specs: &Option<Vec<PortSpec>>, port| {
            let matches = |spec: &PortSpec| port_is(spec, packet.protocol(), port);
            specs.as_ref().is_none_or(|specs| specs.iter().any(matches))
        };
        arrives
            && self.among(&allow.from, packet.source)
            && any(&allow.ports, destination)
            && any(&allow.from_ports, source)
    }

    fn group_has(&self, name: &str, address: IpAddr) -> bool {
        self.group(name)
            .is_some_and(|group| group.addresses.iter().any(|a| a.net.contains(&address)))
    }

    fn among(&self, sources: &[Source], address: IpAddr) -> bool {
        sources.iter().any(|source| match source {
            Source::Any => true,
            Source::Net(net) => net.contains(&address),
            Source::Group(name) => self.group_has(name, address),
            // Unreachable: both were accepted earlier.
            Source::Peer(_) | Source::Overlay(_) => false,
        })
    }

    /// Accepts guests through this host, except to peers and pods.
    fn guest(&self, packet: &Packet) -> Option<Decision> {
        let is_guest = matches_any(&self.guests, &packet.interface);
        (packet.hook == Hook::Forward && is_guest).then_some(())?;
        let to = packet.destination;
        match self.is_peer(to) || self.overlays.iter().any(|overlay| overlay.has(to)) {
            true => Some(drop(Reason::GuestBlocked)),
            false => accept(Reason::Guests),
        }
    }

    /// Accepts frames that only cross a switch, except to peers and pods.
    fn switched(&self, packet: &Packet) -> Option<Decision> {
        let to = packet.destination;
        let mut pods = self.overlays.iter().filter(|o| !o.is_on_lan());
        let passes = packet.hook == Hook::Forward
            && packet.dialled.is_none()
            && stays_on(&self.switches, packet)
            && !self.is_peer(to)
            && !pods.any(|overlay| overlay.has(to));
        passes.then_some(())?;
        accept(Reason::Bridged)
    }

    fn denied(&self, packet: &Packet) -> Decision {
        let opens_nothing = packet.protocol() == TCP && !packet.syn;
        let verdict = match self.options.denied {
            Denied::Reject if !opens_nothing => Verdict::Reject,
            Denied::Drop | Denied::Reject => Verdict::Drop,
        };
        let reason = match packet.hook {
            Hook::Input => Reason::InputDefault,
            Hook::Forward => Reason::ForwardDefault,
        };
        Decision { verdict, reason }
    }
}

impl Overlay {
    fn has(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|s| s.net.contains(&address))
            && !self.carved.iter().any(|net| net.contains(&address))
    }

    /// Returns whether an overlay's packet arrived on the overlay's interfaces, by route, or from a
    /// peer's Ethernet address.
    fn arrives_right(&self, packet: &Packet) -> bool {
        let routed = |(name, net): &(String, ipnet::IpNet)| {
            *name == packet.interface && net.contains(&packet.source)
        };
        let mut own = self.interfaces.iter();
        own.any(|pattern| pattern.matches(&packet.interface) && !self.is_by_route_only(pattern))
            || self.routed.iter().any(routed)
            || packet.mac.is_some_and(|mac| self.peer_macs.contains(&mac))
    }
}

fn accept(reason: Reason) -> Option<Decision> {
    Some(Decision {
        verdict: Verdict::Accept,
        reason,
    })
}

fn drop(reason: Reason) -> Decision {
    Decision {
        verdict: Verdict::Drop,
        reason,
    }
}

fn matches_any(patterns: &[InterfacePattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

/// Returns whether the packet arrives on and leaves through the same interface of `patterns`.
fn stays_on(patterns: &[InterfacePattern], packet: &Packet) -> bool {
    patterns.iter().any(|pattern| {
        let leaves = packet.out.as_ref().is_some_and(|out| pattern.matches(out));
        leaves && pattern.matches(&packet.interface)
    })
}

fn carries(tunnel: Option<Tunnel>, packet: &Packet) -> bool {
    match (tunnel, packet.transport) {
        (
            Some(Tunnel::Udp(range)),
            Transport::Ports {
                protocol: UDP,
                destination,
                ..
            },
        ) => range.contains(destination),
        (Some(Tunnel::Udp(_)) | None, _) => false,
        (Some(Tunnel::Protocol(number)), _) => packet.protocol() == number,
    }
}

/// Returns the source port and the original destination port.
fn dialled_ports(packet: &Packet) -> (Option<u16>, Option<u16>) {
    match packet.transport {
        Transport::Ports {
            source,
            destination,
            ..
        } => {
            let dialled = packet.dialled.map_or(destination, |dialled| dialled.port);
            (Some(source), Some(dialled))
        }
        Transport::Icmp { .. } | Transport::Other(_) => (None, None),
    }
}

fn port_is(spec: &PortSpec, protocol: u8, port: Option<u16>) -> bool {
    spec.protocols.contains(&protocol)
        && match (spec.range, port) {
            (None, _) => true,
            (Some(range), Some(port)) => range.contains(port),
            (Some(_), None) => false,
        }
}
