//! Regions: sets of packets that are needed only for a while.
//!
//! Most sets are steps to another one. A region frees the nodes of all sets that were made in it,
//! except those that its result contains.

use super::diagram::{Diagrams, Labels, PROJECTION, PacketSet};
use super::nodes::Node;

/// A value that contains sets of packets.
pub(in crate::import) trait Sets {
    /// Visits the root of each set, so that it can be changed.
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32));
}

/// The start of a region; see [`Diagrams::open`].
#[derive(Debug)]
#[must_use = "a region that is not closed frees nothing"]
pub(in crate::import) struct Region {
    nodes: usize,
}

/// Slots of the remembered results that a region wrote.
#[derive(Debug, Default)]
pub(super) struct Written {
    slots: Vec<usize>,
    /// Whether it wrote more: it may have written any.
    is_full: bool,
}

impl Written {
    /// Adds a slot of the `results` slots.
    pub(super) fn note(&mut self, slot: usize, results: usize) {
        match self.slots.len() < results / 4 {
            true => self.slots.push(slot),
            false => self.is_full = true,
        }
    }
}

impl Diagrams {
    /// Starts a region. Regions can be nested.
    pub(in crate::import) fn open(&mut self) -> Region {
        self.written.push(Written::default());
        Region {
            nodes: self.nodes.len(),
        }
    }

    /// Ends a region. Of the sets that were made since its start, only those in `kept` remain
    /// valid: the others may become any set.
    pub(in crate::import) fn close(&mut self, region: Region, kept: &mut dyn Sets) {
        let first = region.nodes;
        let survivors = self.survivors(first, kept);
        self.forget(first);
        self.nodes.truncate(first);
        let mut moved = vec![0; survivors.last().map_or(0, |(id, _)| id - first + 1)];
        let new_id = |moved: &[u32], id: u32| match (id as usize).checked_sub(first) {
            Some(at) => moved.get(at).copied().unwrap_or(0),
            None => id,
        };
        for (id, node) in survivors {
            let node = match node.is_leaf() {
                true => node,
                false => Node {
                    low: new_id(&moved, node.low),
                    high: new_id(&moved, node.high),
                    ..node
                },
            };
            let made = self.make(node);
            if let Some(to) = moved.get_mut(id - first) {
                *to = made;
            }
        }
        kept.each_root(&mut |root| *root = new_id(&moved, *root));
    }

    /// Returns the nodes from `first` on that sets consist of, in ascending order: each after those
    /// that it leads to.
    fn survivors(&self, first: usize, kept: &mut dyn Sets) -> Vec<(usize, Node)> {
        let mut is_kept = vec![false; self.nodes.len().saturating_sub(first)];
        let mut to_see = Vec::new();
        kept.each_root(&mut |root| to_see.push(*root));
        while let Some(id) = to_see.pop() {
            let Some(at) = (id as usize).checked_sub(first) else {
                continue;
            };
            let Some(seen) = is_kept.get_mut(at) else {
                continue;
            };
            if std::mem::replace(seen, true) {
                continue;
            }
            let node = self.node(id);
            if !node.is_leaf() {
                to_see.extend([node.low, node.high]);
            }
        }
        let all = self.nodes.from(first).zip(is_kept);
        all.filter(|(_, is_kept)| *is_kept)
            .map(|(new, _)| new)
            .collect()
    }

    /// Forgets results about nodes from `first` on.
    fn forget(&mut self, first: usize) {
        let is_old = |id: &u32| (*id as usize) < first || *id == PROJECTION;
        let written = self.written.pop().unwrap_or_default();
        let results = self.cache.len();
        let slots = match written.is_full {
            true => (0..results).collect(),
            false => written.slots,
        };
        let mut outer = self.written.last_mut();
        if let Some(outer) = &mut outer {
            outer.is_full |= written.is_full;
        }
        for slot in slots {
            let Some(entry) = self.cache.get_mut(slot) else {
                continue;
            };
            let (key, result) = *entry;
            if !key.iter().all(is_old) || !is_old(&result) {
                *entry = ([0; 3], 0);
            } else if let Some(outer) = &mut outer
                && !outer.is_full
            {
                // A result about nodes of the outer region.
                outer.note(slot, results);
            }
        }
    }
}

impl Sets for PacketSet {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        visit(&mut self.0);
    }
}

impl Sets for Labels {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        visit(&mut self.0);
    }
}

impl Sets for () {
    fn each_root(&mut self, _: &mut dyn FnMut(&mut u32)) {}
}

impl<T: Sets> Sets for Vec<T> {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        for each in self {
            each.each_root(visit);
        }
    }
}

impl<T: Sets + ?Sized> Sets for &mut T {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        (**self).each_root(visit);
    }
}

impl<A: Sets, B: Sets> Sets for (A, B) {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        self.0.each_root(visit);
        self.1.each_root(visit);
    }
}

#[cfg(test)]
mod tests {
    use super::super::diagram::Axis;
    use super::*;
    use proptest::prelude::*;

    /// One step: makes a set out of two earlier ones, or starts or ends a region.
    #[derive(Debug, Clone)]
    enum Step {
        Values(u64),
        Both(usize, usize),
        Without(usize, usize),
        Project(usize),
        Open,
        /// Ends a region; every set of it whose number has this remainder is kept.
        Close(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pair = (0..64usize, 0..64usize);
        prop_oneof![
            3 => any::<u64>().prop_map(Step::Values),
            4 => pair.clone().prop_map(|(a, b)| Step::Both(a, b)),
            4 => pair.prop_map(|(a, b)| Step::Without(a, b)),
            1 => (0..64usize).prop_map(Step::Project),
            2 => Just(Step::Open),
            2 => (0..3usize).prop_map(Step::Close),
        ]
    }

    /// Two axes of 8 values each: a set is the bits of 64 packets.
    fn axes() -> (Axis, Axis) {
        let mut next = 0;
        (Axis::new(&mut next, 8), Axis::new(&mut next, 8))
    }

    fn packet(d: &mut Diagrams, at: u64) -> PacketSet {
        let (first, second) = axes();
        let (a, b) = (at / 8, at % 8);
        let (a, b) = (d.in_runs(first, &[(a, a)]), d.in_runs(second, &[(b, b)]));
        d.and(a, b)
    }

    fn bits(d: &mut Diagrams, set: PacketSet) -> u64 {
        let mut bits = 0;
        for at in 0..64 {
            let one = packet(d, at);
            bits |= u64::from(d.meets(set, one)) << at;
        }
        bits
    }

    fn check(steps: &[Step]) {
        let mut d = Diagrams::new();
        // Each set with its bits.
        let mut sets = vec![(PacketSet::ALL, u64::MAX)];
        let mut regions: Vec<(Region, usize)> = Vec::new();
        for step in steps {
            let pick = |at: usize| sets[at % sets.len()];
            match *step {
                Step::Values(bits) => {
                    let mut set = PacketSet::NONE;
                    for at in (0..64).filter(|at| bits >> at & 1 == 1) {
                        let one = packet(&mut d, at);
                        set = d.or(set, one);
                    }
                    sets.push((set, bits));
                }
                Step::Both(a, b) => {
                    let ((a, bits_a), (b, bits_b)) = (pick(a), pick(b));
                    sets.push((d.and(a, b), bits_a & bits_b));
                }
                Step::Without(a, b) => {
                    let ((a, bits_a), (b, bits_b)) = (pick(a), pick(b));
                    sets.push((d.without(a, b), bits_a & !bits_b));
                }
                Step::Project(a) => {
                    let (a, bits) = pick(a);
                    let mut wide = 0;
                    for at in (0..8).filter(|at| bits >> (at * 8) & 0xff != 0) {
                        wide |= 0xff << (at * 8);
                    }
                    sets.push((d.project(a, &[axes().0]), wide));
                }
                Step::Open => regions.push((d.open(), sets.len())),
                Step::Close(remainder) => {
                    if let Some((region, first)) = regions.pop() {
                        let new = sets.split_off(first).into_iter().enumerate();
                        let kept = new.filter(|(at, _)| at % 3 == remainder);
                        let (mut roots, truth): (Vec<_>, Vec<_>) = kept.map(|(_, s)| s).unzip();
                        d.close(region, &mut roots);
                        sets.extend(roots.into_iter().zip(truth));
                    }
                }
            }
            for (set, truth) in sets.clone() {
                assert_eq!(bits(&mut d, set), truth, "after {step:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        #[test]
        fn sets_mean_the_same_after_regions(steps in prop::collection::vec(step(), 1..60)) {
            check(&steps);
        }
    }

    #[test]
    fn a_region_frees_its_nodes() {
        let mut d = Diagrams::new();
        let before = d.nodes.len();
        let region = d.open();
        let mut kept = packet(&mut d, 9);
        for at in 0..64 {
            packet(&mut d, at);
        }
        d.close(region, &mut kept);
        assert_eq!(
            d.nodes.len(),
            before + 6,
            "one node for each bit of one packet"
        );
        assert_eq!(kept, packet(&mut d, 9));
    }
}
