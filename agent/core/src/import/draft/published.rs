//! Writes allows for published ports that the filter table accepts.

use super::allows::{Refused, Wanted};
use super::services::port_words;
use super::{From, PolicyWriter};
use crate::import::space::Published;
use crate::import::space::diagram::PacketSet;
use crate::import::view::{View, behind};
use crate::net::addr;
use crate::net::packet::Hook;
use crate::net::port;

impl PolicyWriter<'_> {
    /// Writes allows for published ports that the filter table accepts.
    pub(super) fn published(&mut self, view: &mut View<'_, '_>) {
        let decided = view.space.forward.walked.decided.clone();
        for index in 0..view.space.redirections.published.len() {
            let Some(port) = view.space.redirections.published.get(index).copied() else {
                continue;
            };
            if self.is_open(port.protocol, port.dialled) {
                continue;
            }
            let (all, accepted) = behind(view.space, index);
            // Containers also connect to ports that lead to containers, so that an allow may cover
            // their interfaces.
            let inner = match port.hook {
                Hook::Forward => self.inner(view),
                Hook::Input => PacketSet::NONE,
            };
            let mut open = view.space.d.without(accepted, view.covered);
            open = view.space.d.without(open, inner);
            if open.is_none() {
                continue;
            }
            let mut refused = view.space.d.without(all, accepted);
            let arriving = directly(view, port);
            refused = view.space.d.or(refused, arriving);
            refused = view.space.d.without(refused, view.covered);
            refused = view.space.d.without(refused, inner);
            let axes = [view.space.axes.source, view.space.axes.interface];
            let refused = view.space.d.project(refused, &axes);
            let mut at = port.at;
            for line in &decided {
                if view.space.d.meets(line.packets, open) {
                    at = line.at;
                }
            }
            let refused = Refused::new(view, refused);
            let open = view.space.d.project(open, &axes);
            for each in view.boxes(open) {
                let (axes, d) = (&view.space.axes, &mut view.space.d);
                let wanted = Wanted {
                    at,
                    sources: d.in_runs(axes.source, &each.sources),
                    interfaces: d.in_runs(axes.interface, &each.interfaces),
                    services: PacketSet::ALL,
                    refused,
                    ports: Some(port_words(vec![(port.protocol, vec![port.dialled])], true)),
                    from_ports: None,
                    to: port.address.map(addr_net).into_iter().collect(),
                };
                self.allow(view, &wanted);
            }
        }
    }

    /// Reports whether an allow already opens this port to any source.
    fn is_open(&self, protocol: u8, (first, last): (u16, u16)) -> bool {
        self.draft.allows.iter().any(|allow| {
            let specs = allow
                .ports
                .iter()
                .flatten()
                .filter_map(|text| port::parse(text).ok());
            let mut specs = specs.filter(|spec| spec.protocols.contains(&protocol));
            allow.from == From::Any
                && allow.interfaces.is_empty()
                && allow.to.is_empty()
                && allow.from_ports.is_none()
                && (allow.ports.is_none()
                    || specs.any(|spec| {
                        let range = spec.range;
                        range.is_none_or(|range| range.contains(first) && range.contains(last))
                    }))
        })
    }

    /// Returns the packets on interfaces of an overlay or of guests.
    fn inner(&self, view: &mut View<'_, '_>) -> PacketSet {
        let overlays = self.draft.overlays.iter();
        let patterns = overlays.flat_map(|overlay| overlay.interfaces.clone());
        let patterns: Vec<_> = patterns.chain(self.draft.guests.clone()).collect();
        view.space.on(&patterns)
    }
}

/// Returns requests to a published port that are not redirected, and that the rules do not accept.
fn directly(view: &mut View<'_, '_>, port: Published) -> PacketSet {
    let (axes, d) = (&view.space.axes, &mut view.space.d);
    let ports = axes.sent_to(d, &[port.dialled]);
    let these = axes.protocols(d, |number| number == port.protocol);
    let mut these = d.and(ports, these);
    if let Some(address) = port.address {
        let number = addr::number(address);
        let there = axes.destinations(d, &[(number, number)]);
        these = d.and(these, there);
    }
    d.and(view.refused, these)
}

fn addr_net(address: std::net::IpAddr) -> ipnet::IpNet {
    ipnet::IpNet::new_assert(address, addr::Family::of(address).bits())
}
