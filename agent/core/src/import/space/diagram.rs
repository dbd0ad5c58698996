//! Decision diagrams: sets of packets, and functions of packets, as graphs of yes-or-no questions.
//!
//! These are reduced ordered binary decision diagrams (Bryant, 1986): equal sets are the same node,
//! so that containment and equality are exact and cheap. Leaves other than 0 and 1 make a diagram a
//! function with several values. Nodes live as long as their [`Diagrams`], except those of a
//! region (`region`).

use rustc_hash::{FxHashMap, FxHashSet};

use super::nodes::{LEAF, Node, Nodes, hash};
use super::region::Written;

/// A set of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::import) struct PacketSet(pub(super) u32);

impl PacketSet {
    /// No packet.
    pub(in crate::import) const NONE: Self = Self(0);
    /// Every packet.
    pub(in crate::import) const ALL: Self = Self(1);

    /// Reports whether the set is empty.
    pub(in crate::import) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// A number for each packet, or no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::import) struct Labels(pub(super) u32);

impl Labels {
    /// No packet has a number.
    pub(in crate::import) const NONE: Self = Self(0);
}

/// Consecutive variables that encode one number, the highest bit first. Numbers from `len - 1` on
/// are one value, so that every assignment is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::import) struct Axis {
    /// The first variable.
    first: u32,
    /// Number of variables.
    bits: u32,
    /// Number of values.
    pub len: u64,
}

impl Axis {
    /// Creates an axis with `len` values whose variables start at `next`, and moves `next` on.
    pub(in crate::import) fn new(next: &mut u32, len: usize) -> Self {
        let len = (len as u64).max(1);
        let bits = u64::BITS - (len - 1).leading_zeros();
        let axis = Self {
            first: *next,
            bits,
            len,
        };
        *next += bits;
        axis
    }

    fn end(self) -> u32 {
        self.first + self.bits
    }

    /// Returns the number of variables.
    pub(super) fn bits(self) -> u32 {
        self.bits
    }

    fn has(self, variable: u32) -> bool {
        (self.first..self.end()).contains(&variable)
    }
}

/// First and last index of values on an axis.
pub(in crate::import) type Run = (u64, u64);

/// Number of remembered results; a power of two.
const CACHE: usize = 1 << 17;
/// The same for few packets: with the nodes, they fit a processor's cache.
const SMALL_CACHE: usize = 1 << 12;
/// Marks a remembered projection; no node has this number.
pub(super) const PROJECTION: u32 = u32::MAX;

/// The nodes of all diagrams. The default has no memory of results, as a placeholder.
#[derive(Debug, Default)]
pub(in crate::import) struct Diagrams {
    pub(super) nodes: Nodes,
    /// Results by operands; a later result replaces an earlier one in its slot.
    pub(super) cache: Vec<([u32; 3], u32)>,
    /// Kept axes of each projection that was used.
    projections: Vec<Vec<Axis>>,
    /// Slots of `cache` that were written in each open region, the innermost one last.
    pub(super) written: Vec<Written>,
}

impl Diagrams {
    pub(in crate::import) fn new() -> Self {
        Self::with_cache(CACHE)
    }

    /// Creates diagrams for sets of few packets.
    pub(super) fn small() -> Self {
        Self::with_cache(SMALL_CACHE)
    }

    fn with_cache(results: usize) -> Self {
        let mut nodes = Nodes::default();
        // No packet, and every packet.
        nodes.number(Node::leaf(0));
        nodes.number(Node::leaf(1));
        Self {
            nodes,
            cache: vec![([0; 3], 0); results],
            projections: Vec::new(),
            written: Vec::new(),
        }
    }

    pub(super) fn node(&self, id: u32) -> Node {
        self.nodes.get(id).unwrap_or(Node::leaf(0))
    }

    pub(super) fn make(&mut self, node: Node) -> u32 {
        if node.low == node.high && node.variable != LEAF {
            return node.low;
        }
        self.nodes.number(node)
    }

    fn known(&self, key: [u32; 3]) -> Option<u32> {
        let (of, result) = self.cache.get(self.cache_slot(key))?;
        (*of == key).then_some(*result)
    }

    fn remember(&mut self, key: [u32; 3], result: u32) {
        let at = self.cache_slot(key);
        if let Some(slot) = self.cache.get_mut(at) {
            *slot = (key, result);
        }
        let results = self.cache.len();
        if let Some(written) = self.written.last_mut() {
            written.note(at, results);
        }
    }

    fn cache_slot(&self, key: [u32; 3]) -> usize {
        usize::try_from(hash(key) >> 32).unwrap_or(0) & self.cache.len().saturating_sub(1)
    }

    /// Returns `then` where `test` is 1, and `otherwise` where it is 0.
    fn choose(&mut self, test: u32, then: u32, otherwise: u32) -> u32 {
        match (test, then, otherwise) {
            (1, _, _) => return then,
            (0, _, _) => return otherwise,
            (_, a, b) if a == b => return a,
            (_, 1, 0) => return test,
            _ => {}
        }
        let key = [test, then, otherwise];
        if let Some(result) = self.known(key) {
            return result;
        }
        let parts = key.map(|id| self.node(id));
        let variable = parts.iter().map(|node| node.variable).min().unwrap_or(LEAF);
        let mut half = |is_high: bool| {
            let mut of = [0; 3];
            for ((to, id), node) in of.iter_mut().zip(key).zip(parts) {
                *to = node.half(id, variable, is_high);
            }
            let [test, then, otherwise] = of;
            self.choose(test, then, otherwise)
        };
        let (low, high) = (half(false), half(true));
        let result = self.make(Node {
            variable,
            low,
            high,
        });
        self.remember(key, result);
        result
    }

    /// Returns the packets in both sets.
    pub(in crate::import) fn and(&mut self, a: PacketSet, b: PacketSet) -> PacketSet {
        PacketSet(self.choose(a.0.min(b.0), a.0.max(b.0), 0))
    }

    /// Returns the packets in either set.
    pub(in crate::import) fn or(&mut self, a: PacketSet, b: PacketSet) -> PacketSet {
        PacketSet(self.choose(a.0.min(b.0), 1, a.0.max(b.0)))
    }

    /// Returns the packets that are not in a set.
    pub(in crate::import) fn not(&mut self, a: PacketSet) -> PacketSet {
        PacketSet(self.choose(a.0, 0, 1))
    }

    /// Returns the packets of `a` that are not in `b`.
    pub(in crate::import) fn without(&mut self, a: PacketSet, b: PacketSet) -> PacketSet {
        PacketSet(self.choose(b.0, 0, a.0))
    }

    /// Returns the packets whose value on an axis is in one of these runs, which are ascending and
    /// disjoint.
    pub(in crate::import) fn in_runs(&mut self, axis: Axis, runs: &[Run]) -> PacketSet {
        let last = axis.len - 1;
        let whole = (1u64 << axis.bits) - 1;
        // The last value stands for all numbers after it.
        let runs: Vec<Run> = runs
            .iter()
            .map(|(a, b)| (*a, if *b >= last { whole } else { *b }))
            .collect();
        PacketSet(self.runs(axis, 0, 0, &runs))
    }

    fn runs(&mut self, axis: Axis, bit: u32, base: u64, runs: &[Run]) -> u32 {
        let size = 1u64 << (axis.bits - bit);
        let end = base + (size - 1);
        match runs {
            [] => return 0,
            [(first, last)] if *first <= base && end <= *last => return 1,
            _ => {}
        }
        if size == 1 {
            return 0;
        }
        let middle = base + size / 2;
        let left = runs.partition_point(|(first, _)| *first < middle);
        let right = runs.partition_point(|(_, last)| *last < middle);
        let low = self.runs(axis, bit + 1, base, runs.get(..left).unwrap_or_default());
        let high = self.runs(axis, bit + 1, middle, runs.get(right..).unwrap_or_default());
        self.make(Node {
            variable: axis.first + bit,
            low,
            high,
        })
    }

    /// Returns `labels`, but `label` for the packets of a set.
    pub(in crate::import) fn label(
        &mut self,
        set: PacketSet,
        label: u32,
        labels: Labels,
    ) -> Labels {
        let leaf = self.make(Node::leaf(label + 2));
        Labels(self.choose(set.0, leaf, labels.0))
    }

    /// Returns the labels of the packets of a set, and of no others.
    pub(in crate::import) fn only(&mut self, set: PacketSet, labels: Labels) -> Labels {
        Labels(self.choose(set.0, labels.0, 0))
    }

    /// Returns the labels of the packets of a set, in ascending order.
    pub(in crate::import) fn labels_in(&mut self, set: PacketSet, labels: Labels) -> Vec<u32> {
        let mut seen = FxHashSet::default();
        let mut found = Vec::new();
        self.gather(set.0, labels.0, &mut seen, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }

    fn gather(
        &self,
        set: u32,
        labels: u32,
        seen: &mut FxHashSet<(u32, u32)>,
        found: &mut Vec<u32>,
    ) {
        if set == 0 || labels == 0 || !seen.insert((set, labels)) {
            return;
        }
        let (a, b) = (self.node(set), self.node(labels));
        if b.variable == LEAF {
            found.push(b.low.saturating_sub(2));
            return;
        }
        let variable = a.variable.min(b.variable);
        for is_high in [false, true] {
            let set = a.half(set, variable, is_high);
            let labels = b.half(labels, variable, is_high);
            self.gather(set, labels, seen, found);
        }
    }

    /// Returns the packets that have this label.
    pub(in crate::import) fn labelled(&mut self, labels: Labels, label: u32) -> PacketSet {
        self.labelled_by(labels, &|each| each == label)
    }

    /// Returns the packets that have a wanted label.
    pub(in crate::import) fn labelled_by(
        &mut self,
        labels: Labels,
        is_wanted: &dyn Fn(u32) -> bool,
    ) -> PacketSet {
        let mut done = FxHashMap::default();
        let is_wanted = |leaf: u32| leaf.checked_sub(2).is_some_and(is_wanted);
        PacketSet(self.having(labels.0, &is_wanted, &mut done))
    }

    fn having(
        &mut self,
        labels: u32,
        is_wanted: &dyn Fn(u32) -> bool,
        done: &mut FxHashMap<u32, u32>,
    ) -> u32 {
        let node = self.node(labels);
        if node.variable == LEAF {
            return u32::from(is_wanted(node.low));
        }
        if let Some(result) = done.get(&labels) {
            return *result;
        }
        let low = self.having(node.low, is_wanted, done);
        let high = self.having(node.high, is_wanted, done);
        let result = self.make(Node { low, high, ..node });
        done.insert(labels, result);
        result
    }

    /// Returns the packets that agree with some packet of the set on all of these axes.
    pub(in crate::import) fn project(&mut self, set: PacketSet, keep: &[Axis]) -> PacketSet {
        let known = self.projections.iter().position(|axes| axes == keep);
        let id = known.unwrap_or_else(|| {
            self.projections.push(keep.to_vec());
            self.projections.len() - 1
        });
        PacketSet(self.project_onto(set.0, id))
    }

    fn project_onto(&mut self, set: u32, projection: usize) -> u32 {
        let node = self.node(set);
        if node.variable == LEAF {
            return set;
        }
        let key = [PROJECTION, set, u32::try_from(projection).unwrap_or(0)];
        if let Some(result) = self.known(key) {
            return result;
        }
        let axes = self.projections.get(projection);
        let is_kept = axes.is_some_and(|axes| axes.iter().any(|axis| axis.has(node.variable)));
        let low = self.project_onto(node.low, projection);
        let result = match (is_kept, low) {
            (false, 1) => 1,
            (false, _) => {
                let high = self.project_onto(node.high, projection);
                self.choose(low, 1, high)
            }
            (true, _) => {
                let high = self.project_onto(node.high, projection);
                self.make(Node { low, high, ..node })
            }
        };
        self.remember(key, result);
        result
    }

    /// Returns the values that a set has on an axis, as ascending runs.
    pub(in crate::import) fn values(&mut self, set: PacketSet, axis: Axis) -> Vec<Run> {
        let set = self.project(set, &[axis]);
        let mut found = Vec::new();
        self.parts_of(set.0, axis, 0, 0, &mut |run, rest| {
            if rest != 0 {
                found.push(run);
            }
        });
        join(found, axis)
    }

    /// Returns the least and the greatest value that a set has on an axis, which must be the first
    /// one on which the set depends; `None` for the empty set.
    pub(in crate::import) fn extent(&self, set: PacketSet, axis: Axis) -> Option<Run> {
        let end = |is_greatest: bool| {
            let (mut id, mut value) = (set.0, 0);
            for variable in axis.first..axis.end() {
                let node = self.node(id);
                let [low, high] = [false, true].map(|is_high| node.half(id, variable, is_high));
                let is_high = match is_greatest {
                    true => high != 0,
                    false => low == 0,
                };
                id = if is_high { high } else { low };
                value = value << 1 | u64::from(is_high);
            }
            value
        };
        (!set.is_none()).then(|| (end(false), end(true)))
    }

    /// Divides a set by its values on an axis: values with the same rest are together. The axis
    /// must be the first one on which the set depends.
    pub(in crate::import) fn parts(
        &self,
        set: PacketSet,
        axis: Axis,
    ) -> Vec<(Vec<Run>, PacketSet)> {
        let mut order: Vec<u32> = Vec::new();
        let mut runs: FxHashMap<u32, Vec<Run>> = FxHashMap::default();
        self.parts_of(set.0, axis, 0, 0, &mut |run, rest| {
            if rest != 0 {
                let of = runs.entry(rest).or_default();
                if of.is_empty() {
                    order.push(rest);
                }
                of.push(run);
            }
        });
        let part = |rest| {
            let runs = runs.remove(&rest).unwrap_or_default();
            (join(runs, axis), PacketSet(rest))
        };
        order.into_iter().map(part).collect()
    }

    fn parts_of(
        &self,
        set: u32,
        axis: Axis,
        bit: u32,
        base: u64,
        found: &mut impl FnMut(Run, u32),
    ) {
        let node = self.node(set);
        let size = 1u64 << (axis.bits - bit);
        if !axis.has(node.variable) {
            return found((base, base + (size - 1)), set);
        }
        let half = size / 2;
        // Where the diagram does not ask for a bit, both halves are the same.
        let (low, high) = match node.variable == axis.first + bit {
            true => (node.low, node.high),
            false => (set, set),
        };
        self.parts_of(low, axis, bit + 1, base, found);
        self.parts_of(high, axis, bit + 1, base + half, found);
    }
}

/// Clamps runs to the values of an axis, and joins adjacent ones.
fn join(runs: Vec<Run>, axis: Axis) -> Vec<Run> {
    let last = axis.len - 1;
    let mut joined: Vec<Run> = Vec::new();
    for (first, end) in runs {
        let (first, end) = (first.min(last), end.min(last));
        match joined.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => {
                previous.1 = previous.1.max(end)
            }
            _ => joined.push((first, end)),
        }
    }
    joined
}
