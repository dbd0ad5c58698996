//! Writes the allows of most lines of a large file in threads, slice by slice.
//!
//! Most lines accept packets of few sources. What their allows depend on is then a small part of
//! the sets of all packets, and fits a processor's cache.

use std::collections::BTreeMap;

use super::allows::{Limits, Refused};
use super::{DraftAllow, Inexpressible, PolicyWriter};
use crate::import::rule::At;
use crate::import::space::Space;
use crate::import::space::diagram::PacketSet;
use crate::import::space::region::Sets;
use crate::import::view::View;

/// What becomes of the requests that a line accepts.
#[derive(Debug)]
pub(super) struct DraftedLine {
    allows: Vec<DraftAllow>,
    inexpressible: Vec<Inexpressible>,
}

/// The sets of one slice.
#[derive(Debug, Clone)]
struct SliceSets {
    /// The packets of each line that accepts only packets of this slice.
    lines: Vec<(At, PacketSet)>,
    /// Every request, of all sources.
    requests: PacketSet,
    stopped: PacketSet,
    covered: PacketSet,
    limits: Limits,
}

impl Sets for SliceSets {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        self.lines.each_root(visit);
        self.requests.each_root(visit);
        (&mut self.stopped, &mut self.covered).each_root(visit);
        self.limits.each_root(visit);
    }
}

impl PolicyWriter<'_> {
    /// Writes the allows of the lines that depend on the sources of one slice only; none if the
    /// sources are not divided.
    pub(super) fn by_slice<'r>(
        &self,
        view: &mut View<'_, 'r>,
        limits: &Limits,
    ) -> BTreeMap<At, DraftedLine> {
        let slices = divided(view, limits);
        let mut found = BTreeMap::new();
        let whole = &*view;
        let work = |part: &mut Space<'r>, sets: SliceSets| self.of_slice(whole, part, sets);
        whole
            .space
            .with_sets(&slices, work, |lines| found.extend(lines));
        found
    }

    fn of_slice<'r>(
        &self,
        whole: &View<'_, 'r>,
        part: &mut Space<'r>,
        sets: SliceSets,
    ) -> Vec<(At, DraftedLine)> {
        let mut view = whole.of_slice(part);
        view.requests = sets.requests;
        view.stopped = sets.stopped;
        view.covered = sets.covered;
        let mut found = Vec::new();
        for (at, packets) in sets.lines {
            let mut writer = PolicyWriter::new(self.facts, self.both);
            view.briefly(|view| writer.line(view, at, packets, &sets.limits));
            if !writer.needs_whole {
                // Most lines have one.
                writer.draft.allows.shrink_to_fit();
                let drafted = DraftedLine {
                    allows: writer.draft.allows,
                    inexpressible: writer.inexpressible,
                };
                found.push((at, drafted));
            }
        }
        found
    }

    /// Adds the allows of a line.
    pub(super) fn add(&mut self, drafted: DraftedLine) {
        drafted.allows.into_iter().for_each(|allow| self.put(allow));
        for Inexpressible { at, why } in drafted.inexpressible {
            self.add_inexpressible(at, &why);
        }
    }
}

/// Divides sets and lines by the slices.
fn divided(view: &mut View<'_, '_>, limits: &Limits) -> Vec<SliceSets> {
    let runs = view.space.slice_runs();
    let axis = view.space.axes.source;
    let d = &mut view.space.d;
    let mut slices = Vec::with_capacity(runs.len());
    for run in &runs {
        let here = d.in_runs(axis, &[*run]);
        slices.push(SliceSets {
            lines: Vec::new(),
            requests: view.requests,
            stopped: d.and(view.stopped, here),
            covered: d.and(view.covered, here),
            limits: Limits {
                refused: Refused {
                    all: d.and(limits.refused.all, here),
                    services: limits.refused.services,
                },
                icmp: d.and(limits.icmp, here),
                tunnels: d.and(limits.tunnels, here),
            },
        });
    }
    for (at, packets) in &view.lines {
        let Some((first, last)) = d.extent(*packets, axis) else {
            continue;
        };
        let number = runs.partition_point(|(_, end)| *end < first);
        let is_inside = runs.get(number).is_some_and(|(_, end)| last <= *end);
        if let Some(slice) = slices.get_mut(number).filter(|_| is_inside) {
            slice.lines.push((*at, *packets));
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{Facts, File, Slicing, rules};
    use crate::net::addr::Family;

    #[test]
    fn only_lines_that_depend_on_one_slice_are_written_in_it() {
        let text = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
            -A INPUT -s 10.0.0.1 -p tcp --dport 22 -j ACCEPT\n\
            -A INPUT -s 10.0.0.77 -p tcp --dport 80 -j ACCEPT\n\
            -A INPUT -s 192.0.2.0/24 -p tcp --dport 25 -j ACCEPT\n\
            -A INPUT -s 10.0.0.0/8 -p udp --dport 53 -j ACCEPT\n\
            -A INPUT -p tcp --dport 443 -j ACCEPT\nCOMMIT\n";
        let file = File {
            name: "rules".into(),
            text: text.into(),
            family: Some(Family::V4),
        };
        let rules = rules(&[file]).unwrap();
        let facts = Facts::default();
        let mut space = Space::new(&rules[0], &facts, &[], Slicing::Into(8));
        let mut view = View::new(&mut space);
        let writer = PolicyWriter::new(&facts, false);
        let limits = writer.limits(&mut view);
        let found = writer.by_slice(&mut view, &limits);
        let lines: Vec<usize> = found.keys().map(|at| at.line).collect();
        assert_eq!(lines, [5, 6, 7], "{found:?}");
        for line in found.values() {
            assert_eq!((line.allows.len(), line.inexpressible.len()), (1, 0));
        }
    }
}
