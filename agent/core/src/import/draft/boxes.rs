//! Divides sets of requests into boxes: the same services for some sources on some interfaces.

use std::collections::BTreeMap;

use crate::import::space::diagram::{PacketSet, Run};
use crate::import::view::View;

/// Requests to some services, without sources and interfaces.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Source ports; `None` for all.
    pub from_ports: Option<Vec<Run>>,
    /// Destinations; `None` for every address of this host.
    pub to: Option<Vec<Run>>,
    /// The requests.
    pub packets: PacketSet,
}

/// Requests of some sources on some interfaces.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    /// Sources.
    pub sources: Vec<Run>,
    /// Input interfaces.
    pub interfaces: Vec<Run>,
    /// The requests, without sources and interfaces.
    pub rest: PacketSet,
}

impl View<'_, '_> {
    /// Divides requests by source and interface.
    pub(super) fn boxes(&mut self, packets: PacketSet) -> Vec<Cell> {
        let axes = &self.space.axes;
        let fields = [
            axes.source,
            axes.interface,
            axes.protocol,
            axes.port,
            axes.icmp,
            axes.from_port,
            axes.destination,
        ];
        let (source, interface) = (axes.source, axes.interface);
        let packets = self.space.d.project(packets, &fields);
        let mut order: Vec<(Vec<Run>, PacketSet)> = Vec::new();
        let mut sources: BTreeMap<(Vec<Run>, PacketSet), Vec<Run>> = BTreeMap::new();
        for (runs, rest) in self.space.d.parts(packets, source) {
            for (interfaces, rest) in self.space.d.parts(rest, interface) {
                let key = (interfaces, rest);
                let of = sources.entry(key.clone()).or_insert_with(|| {
                    order.push(key);
                    Vec::new()
                });
                of.extend(&runs);
            }
        }
        let mut found: Vec<Cell> = Vec::new();
        for key in order {
            let mut runs = sources.remove(&key).unwrap_or_default();
            runs.sort_unstable();
            let (interfaces, rest) = key;
            found.push(Cell {
                sources: runs,
                interfaces,
                rest,
            });
        }
        found
    }

    /// Divides requests, without sources and interfaces, by source port and destination.
    pub(super) fn parts_of(&mut self, rest: PacketSet) -> Vec<Part> {
        let axes = &self.space.axes;
        let (protocol, port, icmp) = (axes.protocol, axes.port, axes.icmp);
        let (from_port, destination) = (axes.from_port, axes.destination);
        let mut found: Vec<Part> = Vec::new();
        for (protocols, rest) in self.space.d.parts(rest, protocol) {
            for (ports, rest) in self.space.d.parts(rest, port) {
                for (kinds, rest) in self.space.d.parts(rest, icmp) {
                    for (from, rest) in self.space.d.parts(rest, from_port) {
                        let d = &mut self.space.d;
                        let service = [
                            d.in_runs(protocol, &protocols),
                            d.in_runs(port, &ports),
                            d.in_runs(icmp, &kinds),
                            d.in_runs(from_port, &from),
                        ];
                        let service = service
                            .into_iter()
                            .fold(PacketSet::ALL, |all, part| d.and(all, part));
                        // Destinations that such requests can have.
                        let all_to = d.and(self.requests, service);
                        let all_to = d.project(all_to, &[destination]);
                        let service = d.and(service, rest);
                        let to = match d.is_within(all_to, rest) {
                            true => None,
                            false => Some(d.values(rest, destination)),
                        };
                        let is_all = from == [(0, from_port.len - 1)] || from == [(0, 0)];
                        let from = (!is_all).then_some(from);
                        let same = |part: &&mut Part| part.from_ports == from && part.to == to;
                        match found.iter_mut().find(same) {
                            Some(part) => part.packets = d.or(part.packets, service),
                            None => found.push(Part {
                                from_ports: from,
                                to,
                                packets: service,
                            }),
                        }
                    }
                }
            }
        }
        found
    }
}
