//! The nodes of diagrams, each of them once.
//!
//! A hash table with chains, whose links lie beside the nodes: to find a node or to add one costs
//! one or two accesses that miss the processor's cache, and the newest nodes are the first of their
//! chains, so that they are removed without a search.

/// The variable of leaves, after all others.
pub(super) const LEAF: u32 = u32::MAX;
/// Number of chains at first; a power of two.
const CHAINS: usize = 256;
/// The end of a chain.
const END: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    /// [`LEAF`] for a leaf, whose value is `low`.
    pub(super) variable: u32,
    pub(super) low: u32,
    pub(super) high: u32,
}

impl Node {
    /// Returns the leaf with this value.
    pub(super) fn leaf(value: u32) -> Self {
        Self {
            variable: LEAF,
            low: value,
            high: 0,
        }
    }

    pub(super) fn is_leaf(self) -> bool {
        self.variable == LEAF
    }

    /// Returns the number of the half where a variable is 0 or 1, of the node with number `id`.
    pub(super) fn half(self, id: u32, variable: u32, is_high: bool) -> u32 {
        match (self.variable == variable, is_high) {
            (false, _) => id,
            (true, true) => self.high,
            (true, false) => self.low,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Link {
    node: Node,
    /// The next older node of the chain, or [`END`].
    older: u32,
}

/// Nodes by number, and their numbers by content.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    links: Vec<Link>,
    /// The newest node of each chain, or [`END`]; their number is a power of two, or zero.
    newest: Vec<u32>,
}

impl Nodes {
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn get(&self, id: u32) -> Option<Node> {
        self.links.get(id as usize).map(|link| link.node)
    }

    /// Returns the nodes from number `first` on, with their numbers.
    pub(super) fn from(&self, first: usize) -> impl Iterator<Item = (usize, Node)> {
        let new = self.links.get(first..).unwrap_or_default();
        (first..).zip(new.iter().map(|link| link.node))
    }

    /// Returns the number of a node, which is added if it is new.
    pub(super) fn number(&mut self, node: Node) -> u32 {
        if self.links.len() >= self.newest.len() {
            self.double_chains();
        }
        let chain = self.chain(node);
        let newest = self.newest.get(chain).copied().unwrap_or(END);
        let mut at = newest;
        while let Some(link) = self.links.get(at as usize) {
            if link.node == node {
                return at;
            }
            at = link.older;
        }
        let id = u32::try_from(self.links.len()).unwrap_or(0);
        let older = newest;
        self.links.push(Link { node, older });
        self.set_newest(chain, id);
        id
    }

    /// Removes the nodes from number `first` on.
    pub(super) fn truncate(&mut self, first: usize) {
        while self.links.len() > first {
            let Some(Link { node, older }) = self.links.pop() else {
                return;
            };
            // Of the nodes that remain, this one was the newest, also of its chain.
            self.set_newest(self.chain(node), older);
        }
    }

    fn double_chains(&mut self) {
        let chains = (self.newest.len() * 2).max(CHAINS);
        self.newest.clear();
        self.newest.resize(chains, END);
        for id in 0..self.links.len() {
            let Some(node) = self.links.get(id).map(|link| link.node) else {
                return;
            };
            let chain = self.chain(node);
            let older = self.newest.get(chain).copied().unwrap_or(END);
            if let Some(link) = self.links.get_mut(id) {
                link.older = older;
            }
            self.set_newest(chain, u32::try_from(id).unwrap_or(END));
        }
    }

    fn chain(&self, node: Node) -> usize {
        let hash = hash([node.variable, node.low, node.high]);
        usize::try_from(hash >> 32).unwrap_or(0) & self.newest.len().saturating_sub(1)
    }

    fn set_newest(&mut self, chain: usize, id: u32) {
        if let Some(newest) = self.newest.get_mut(chain) {
            *newest = id;
        }
    }
}

pub(super) fn hash([a, b, c]: [u32; 3]) -> u64 {
    let mix = |hash: u64, word: u32| {
        (hash.rotate_left(26) ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    mix(mix(mix(0, a), b), c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A list that is searched from its start is the model.
        #[test]
        fn nodes_are_found_until_they_are_removed(
            steps in prop::collection::vec((0..40u32, 0..40u32, 0..40u32, 0..50usize), 1..2000),
        ) {
            let (mut nodes, mut model) = (Nodes::default(), Vec::<Node>::new());
            for (variable, low, high, cut) in steps {
                if cut == 0 {
                    let first = model.len() * (low as usize) / 40;
                    nodes.truncate(first);
                    model.truncate(first);
                }
                let node = Node { variable, low, high };
                let wanted = model.iter().position(|each| *each == node).unwrap_or(model.len());
                prop_assert_eq!(nodes.number(node) as usize, wanted);
                if wanted == model.len() {
                    model.push(node);
                }
                prop_assert_eq!(nodes.len(), model.len());
            }
            let found: Vec<Node> = nodes.from(0).map(|(_, node)| node).collect();
            prop_assert_eq!(found, model);
        }
    }
}
