//! Items of a policy, with the parts that differ between two rulesets.

use std::collections::{BTreeMap, BTreeSet};

use super::{Part, What};

/// An item of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) what: What,
    pub(super) name: String,
}

impl Item {
    pub(super) fn new(what: What, name: impl Into<String>) -> Self {
        Self {
            what,
            name: name.into(),
        }
    }
}

/// Values of a part that only one side has, in order of discovery.
#[derive(Debug, Default)]
pub(super) struct Delta {
    pub(super) removed: Vec<String>,
    pub(super) added: Vec<String>,
}

impl Delta {
    /// Removes values that both sides have: a port can move from a rule into a set.
    pub(super) fn without_common(self) -> Self {
        let removed: BTreeSet<&String> = self.removed.iter().collect();
        let added: BTreeSet<&String> = self.added.iter().collect();
        let only = |these: &[String], others: &BTreeSet<&String>| {
            let mut seen = BTreeSet::new();
            let rest = these.iter().filter(|value| !others.contains(value));
            rest.filter(|value| seen.insert(*value)).cloned().collect()
        };
        Self {
            removed: only(&self.removed, &added),
            added: only(&self.added, &removed),
        }
    }
}

/// Differing parts by item.
pub(super) type Deltas = BTreeMap<Item, BTreeMap<Part, Delta>>;
