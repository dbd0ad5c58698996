//! Questions about two sets, most of which need no new node.

use super::diagram::{Diagrams, PacketSet};

/// Number of steps of a search, which remembers nothing.
const STEPS: u32 = 256;

impl Diagrams {
    /// Reports whether every packet of `a` is in `b`.
    pub(in crate::import) fn is_within(&mut self, a: PacketSet, b: PacketSet) -> bool {
        let mut steps = STEPS;
        match self.finds(&mut steps, a.0, b.0, false) {
            Some(is_found) => !is_found,
            None => self.without(a, b).is_none(),
        }
    }

    /// Reports whether two sets have a packet in common.
    pub(in crate::import) fn meets(&mut self, a: PacketSet, b: PacketSet) -> bool {
        let mut steps = STEPS;
        match self.finds(&mut steps, a.0, b.0, true) {
            Some(is_found) => is_found,
            None => !self.and(a, b).is_none(),
        }
    }

    /// Reports whether a packet is in `a` and in `b`, or not in `b`; `None` after too many steps.
    /// Most answers need few, and no node.
    fn finds(&self, steps: &mut u32, a: u32, b: u32, is_in: bool) -> Option<bool> {
        let (none, all) = (u32::from(!is_in), u32::from(is_in));
        if a == 0 || b == none || (a == b && !is_in) {
            return Some(false);
        }
        // Each set but the empty one has a packet.
        if b == all || a == 1 || (a == b && is_in) {
            return Some(true);
        }
        *steps = steps.checked_sub(1)?;
        let (of_a, of_b) = (self.node(a), self.node(b));
        let variable = of_a.variable.min(of_b.variable);
        for is_high in [false, true] {
            let a = of_a.half(a, variable, is_high);
            let b = of_b.half(b, variable, is_high);
            if self.finds(steps, a, b, is_in)? {
                return Some(true);
            }
        }
        Some(false)
    }
}
