//! Divides sets of requests into boxes: the same services for some sources on some interfaces.

use std::collections::BTreeMap;

use crate::import::space::diagram::{Axis, PacketSet, Run};
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
        let (source, interface) = (axes.source, axes.interface);
        let fields: Vec<Axis> = [source, interface]
            .into_iter()
            .chain(axes.services())
            .collect();
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
        let services = [axes.protocol, axes.port, axes.icmp];
        let (from_port, destination) = (axes.from_port, axes.destination);
        let mut found: Vec<Part> = Vec::new();
        for (service, rest) in self.slices(rest, &services) {
            for (runs, to) in self.space.d.parts(rest, from_port) {
                let d = &mut self.space.d;
                let from = d.in_runs(from_port, &runs);
                let service = d.and(service, from);
                // Destinations that such requests can have.
                let all_to = d.and(self.requests, service);
                let all_to = d.project(all_to, &[destination]);
                let is_all_to = d.is_within(all_to, to);
                let is_all_from = runs == [(0, from_port.len - 1)] || runs == [(0, 0)];
                let part = Part {
                    from_ports: (!is_all_from).then_some(runs),
                    to: (!is_all_to).then(|| d.values(to, destination)),
                    packets: d.and(service, to),
                };
                let same = |old: &&mut Part| old.from_ports == part.from_ports && old.to == part.to;
                match found.iter_mut().find(same) {
                    Some(old) => old.packets = d.or(old.packets, part.packets),
                    None => found.push(part),
                }
            }
        }
        found
    }

    /// Divides a set by its values on these axes, which are its first: the values, and the rest.
    fn slices(&mut self, set: PacketSet, axes: &[Axis]) -> Vec<(PacketSet, PacketSet)> {
        let mut slices = vec![(PacketSet::ALL, set)];
        for axis in axes {
            let d = &mut self.space.d;
            let mut next = Vec::new();
            for (values, rest) in slices {
                for (runs, rest) in d.parts(rest, *axis) {
                    let these = d.in_runs(*axis, &runs);
                    next.push((d.and(values, these), rest));
                }
            }
            slices = next;
        }
        slices
    }
}
