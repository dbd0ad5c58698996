//! Writes allows for connections through this host to some destinations.

use super::PolicyWriter;
use super::allows::{Refused, Wanted};
use crate::import::space::Decided;
use crate::import::space::diagram::PacketSet;
use crate::import::view::View;
use crate::net::packet::Verdict;

impl PolicyWriter<'_> {
    /// Writes an allow for each line that forwards connections to some destinations, whatever the
    /// output interface.
    pub(super) fn forwards(&mut self, view: &mut View<'_, '_>) {
        let decided = view.space.forward.walked.decided.clone();
        for line in decided {
            if line.verdict == Verdict::Accept && !view.is_managed(line.at) {
                view.briefly(|view| self.forward_line(view, line));
            }
        }
    }

    fn forward_line(&mut self, view: &mut View<'_, '_>, line: Decided) {
        let covered = view.covered;
        let mut packets = view.space.d.and(line.packets, view.transit);
        packets = view.space.d.without(packets, covered);
        let destination = view.space.axes.destination;
        let all = view.space.d.project(view.transit, &[destination]);
        let to = view.space.d.project(packets, &[destination]);
        if packets.is_none() || view.space.d.is_within(all, to) {
            return;
        }
        let runs = view.space.d.values(packets, destination);
        let Some(nets) = self.to(view, line.at, &runs) else {
            return;
        };
        self.forward(view, line.at, packets, (to, nets));
    }

    fn forward(
        &mut self,
        view: &mut View<'_, '_>,
        at: crate::import::At,
        packets: PacketSet,
        (to, nets): (PacketSet, Vec<ipnet::IpNet>),
    ) {
        // Through this host, and to it if it has such an address.
        let mut refused = view.space.d.or(view.stopped, view.refused);
        refused = view.space.d.without(refused, view.covered);
        refused = view.space.d.and(refused, to);
        let packets = view.space.d.without(packets, refused);
        let all = Refused::new(view, refused);
        for each in view.boxes(packets) {
            for part in view.parts_of(each.rest) {
                let ports = self.ports(view, at, part.packets);
                let services = view.space.services_of(part.packets);
                let ports = match services.is_everything && !services.icmp.is_empty() {
                    true => None,
                    false => Some(ports),
                };
                if ports.as_ref().is_some_and(Vec::is_empty) || part.from_ports.is_some() {
                    continue;
                }
                let (axes, d) = (&view.space.axes, &mut view.space.d);
                let fields = [axes.protocol, axes.port, axes.icmp];
                let services = match ports.is_none() {
                    true => PacketSet::ALL,
                    false => d.project(part.packets, &fields),
                };
                let wanted = Wanted {
                    at,
                    sources: d.in_runs(axes.source, &each.sources),
                    interfaces: d.in_runs(axes.interface, &each.interfaces),
                    services: d.and(services, to),
                    refused: all,
                    ports,
                    from_ports: None,
                    to: nets.clone(),
                };
                // The whole box must be accepted on every output interface.
                let whole = [wanted.sources, wanted.interfaces, wanted.services];
                let whole = whole
                    .into_iter()
                    .fold(refused, |all, part| view.space.d.and(all, part));
                if whole.is_none() {
                    self.allow(view, &wanted);
                }
            }
        }
    }
}
