//! Moves sets from one store of diagrams to another.

use super::diagram::Diagrams;
use super::region::Sets;

impl Diagrams {
    /// Adds sets of other diagrams with the same axes.
    pub(in crate::import) fn adopt(&mut self, others: &Self, sets: &mut dyn Sets) {
        let mut adopted = vec![0; others.nodes.len()];
        sets.each_root(&mut |root| *root = self.adopt_node(others, *root, &mut adopted));
    }

    fn adopt_node(&mut self, others: &Self, id: u32, adopted: &mut [u32]) -> u32 {
        if id < 2 {
            return id;
        }
        let at = id as usize;
        if let Some(known) = adopted.get(at).filter(|known| **known != 0) {
            return *known;
        }
        let mut node = others.node(id);
        if !node.is_leaf() {
            node.low = self.adopt_node(others, node.low, adopted);
            node.high = self.adopt_node(others, node.high, adopted);
        }
        let made = self.make(node);
        if let Some(known) = adopted.get_mut(at) {
            *known = made;
        }
        made
    }
}
