//! What the policy means for a packet, straight from its words.
//!
//! Written against `docs/policy.md`, section by section, and on purpose not against the compiler:
//! that the two agree on every packet is what the property test shows.

use std::net::IpAddr;

use super::icmp;
use super::{Allow, Denied, IcmpTypes, Overlay, Policy, Source, Tunnel};
use crate::addr::Family;
use crate::interface::InterfacePattern;
use crate::packet::{CtState, Decision, Hook, Packet, Transport, Verdict};
use crate::port::{PortSpec, UDP};
use crate::reason::Reason;

impl Policy {
    /// What becomes of this packet, and why.
    pub fn verdict(&self, packet: &Packet) -> Decision {
        self.accepted_early(packet)
            .or_else(|| self.overlay_spoof(packet))
            .or_else(|| self.trusted_source(packet))
            .or_else(|| self.icmp_or_dhcp(packet))
            .or_else(|| self.invalid(packet))
            .or_else(|| self.allowed(packet))
            .unwrap_or_else(|| self.denied(packet))
    }

    fn accepted_early(&self, packet: &Packet) -> Option<Decision> {
        if matches!(packet.state, CtState::Established | CtState::Related) {
            return accept(Reason::Established);
        }
        if packet.hook == Hook::Input && packet.interface == "lo" {
            return accept(Reason::Loopback);
        }
        matches_any(&self.trusted, &packet.interface).then_some(())?;
        accept(Reason::Trusted)
    }

    fn overlay_spoof(&self, packet: &Packet) -> Option<Decision> {
        let spoofed = self
            .overlays
            .iter()
            .any(|overlay| overlay.has(packet.source) && !overlay.arrives_right(packet));
        spoofed.then(|| drop(Reason::OverlaySpoof))
    }

    /// Peers, then tunnel packets of others, then overlays: a peer's tunnel packet is a peer's.
    fn trusted_source(&self, packet: &Packet) -> Option<Decision> {
        if self.is_peer(packet.source) {
            return accept(Reason::Peers);
        }
        let injects = self
            .overlays
            .iter()
            .filter_map(|overlay| overlay.tunnel)
            .any(|tunnel| packet.hook == Hook::Input && carries(tunnel, packet));
        if injects {
            return Some(drop(Reason::OverlayInject));
        }
        let overlay = self.overlays.iter().find(|o| o.has(packet.source))?;
        accept(Reason::Overlay(overlay.name.clone()))
    }

    fn is_peer(&self, source: IpAddr) -> bool {
        let mut addresses = self.peers.iter().flat_map(|peer| &peer.addresses);
        addresses.any(|address| address.net.contains(&source))
    }

    fn icmp_or_dhcp(&self, packet: &Packet) -> Option<Decision> {
        let family = packet.family();
        if let Transport::Icmp { kind, .. } = packet.transport {
            if self.icmp.core && is_core(packet, family, kind) {
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
        is_dhcp_reply(packet).then_some(())?;
        accept(Reason::Dhcp)
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

    fn invalid(&self, packet: &Packet) -> Option<Decision> {
        (packet.state == CtState::Invalid && self.options.drop_invalid)
            .then(|| drop(Reason::Invalid))
    }

    fn allowed(&self, packet: &Packet) -> Option<Decision> {
        let allow = self
            .allows
            .iter()
            .find(|allow| self.allows(allow, packet))?;
        accept(Reason::Allow(allow.name.clone()))
    }

    fn allows(&self, allow: &Allow, packet: &Packet) -> bool {
        let arrives =
            allow.interfaces.is_empty() || matches_any(&allow.interfaces, &packet.interface);
        // Through this host only what was dialled on this host: a published port.
        let published_or_ours = packet.hook == Hook::Input || packet.dialled.is_some();
        arrives
            && published_or_ours
            && self.among(&allow.from, packet.source)
            && allow
                .ports
                .as_ref()
                .is_none_or(|specs| specs.iter().any(|spec| dialled_port_is(spec, packet)))
    }

    fn among(&self, sources: &[Source], address: IpAddr) -> bool {
        sources.iter().any(|source| match source {
            Source::Any => true,
            Source::Net(net) => net.contains(&address),
            Source::Group(name) => self
                .group(name)
                .is_some_and(|group| group.addresses.iter().any(|a| a.net.contains(&address))),
            // They never get here: both were accepted before.
            Source::Peer(_) | Source::Overlay(_) => false,
        })
    }

    fn denied(&self, packet: &Packet) -> Decision {
        let verdict = match self.options.denied {
            Denied::Drop => Verdict::Drop,
            Denied::Reject => Verdict::Reject,
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
    }

    /// A tunnelled overlay's packets come from its own interfaces; without a tunnel they also come
    /// from wherever the way back to them leads.
    fn arrives_right(&self, packet: &Packet) -> bool {
        matches_any(&self.interfaces, &packet.interface)
            || (!self.backend.is_tunnelled() && packet.reverse_path)
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

fn carries(tunnel: Tunnel, packet: &Packet) -> bool {
    match (tunnel, packet.transport) {
        (
            Tunnel::Udp(range),
            Transport::Ports {
                protocol: UDP,
                destination,
                ..
            },
        ) => range.contains(destination),
        (Tunnel::Udp(_), _) => false,
        (Tunnel::Protocol(number), _) => packet.protocol() == number,
    }
}

fn is_core(packet: &Packet, family: Family, kind: u8) -> bool {
    if icmp::errors(family).contains(&kind) {
        return true;
    }
    packet.hook == Hook::Input
        && family == Family::V6
        && ((icmp::NEIGHBOUR_DISCOVERY.contains(&kind)
            && packet.hop_limit == icmp::HOP_LIMIT_ON_LINK)
            || (icmp::LISTENER_DISCOVERY.contains(&kind)
                && packet.hop_limit == icmp::HOP_LIMIT_LISTENER))
}

/// DHCPv4: RFC 2131 section 4.1, from port 67 to 68. DHCPv6: RFC 8415 section 7.2, to port 546;
/// the source may be a global address and any port, the destination is always link-local.
fn is_dhcp_reply(packet: &Packet) -> bool {
    let Transport::Ports {
        protocol: UDP,
        source,
        destination,
    } = packet.transport
    else {
        return false;
    };
    packet.hook == Hook::Input
        && match packet.destination {
            IpAddr::V4(_) => source == 67 && destination == 68,
            IpAddr::V6(to) => destination == 546 && to.is_unicast_link_local(),
        }
}

fn dialled_port_is(spec: &PortSpec, packet: &Packet) -> bool {
    if !spec.protocols.contains(&packet.protocol()) {
        return false;
    }
    let Some(range) = spec.range else {
        return true;
    };
    match packet.transport {
        Transport::Ports { destination, .. } => {
            range.contains(packet.dialled.unwrap_or(destination))
        }
        Transport::Icmp { .. } | Transport::Other(_) => false,
    }
}
