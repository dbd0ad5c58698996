//! Moves sets from one store of diagrams to another.

use rustc_hash::FxHashMap;

use super::diagram::Diagrams;
use super::region::Sets;

/// Number of nodes whose new numbers have a place each.
const PLACES: usize = 1 << 16;

/// New numbers of nodes, by the old ones. Small diagrams are adopted whole, and of large ones few
/// nodes are.
struct Adopted {
    /// Those of the first nodes, or 0.
    first: Vec<u32>,
    others: FxHashMap<u32, u32>,
}

impl Adopted {
    fn get(&self, id: u32) -> Option<u32> {
        match self.first.get(id as usize) {
            Some(known) => Some(*known).filter(|known| *known != 0),
            None => self.others.get(&id).copied(),
        }
    }

    fn set(&mut self, id: u32, made: u32) {
        match self.first.get_mut(id as usize) {
            Some(known) => *known = made,
            None => {
                self.others.insert(id, made);
            }
        }
    }
}

impl Diagrams {
    /// Adds sets of other diagrams with the same axes.
    pub(in crate::import) fn adopt(&mut self, others: &Self, sets: &mut dyn Sets) {
        let mut adopted = Adopted {
            first: vec![0; others.nodes.len().min(PLACES)],
            others: FxHashMap::default(),
        };
        sets.each_root(&mut |root| *root = self.adopt_node(others, *root, &mut adopted));
    }

    fn adopt_node(&mut self, others: &Self, id: u32, adopted: &mut Adopted) -> u32 {
        if id < 2 {
            return id;
        }
        if let Some(known) = adopted.get(id) {
            return known;
        }
        let mut node = others.node(id);
        if !node.is_leaf() {
            node.low = self.adopt_node(others, node.low, adopted);
            node.high = self.adopt_node(others, node.high, adopted);
        }
        let made = self.make(node);
        adopted.set(id, made);
        made
    }
}
