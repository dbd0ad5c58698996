//! Sets that do not have to be read, because they cannot have changed.
//!
//! The kernel increments its generation with every transaction of any program
//! (`nf_tables_commit()`). In the generation in which a set was known, it therefore has the same
//! elements. Sets whose elements change without a transaction, by rules or by time, are never
//! treated as known.

use std::collections::BTreeMap;

use peerwall_core::backend::BackendError;
use peerwall_core::nft::observed::{Observed, ObservedSet};
use peerwall_core::nft::unchanged::Unchanged;
use peerwall_core::ruleset::{Ruleset, Set};

use super::Kernel;
use super::read::Depth;
use crate::store::{State, since};

impl Kernel {
    /// Caches elements of sets from now on. Reading 100,000 elements takes the kernel some 50 ms.
    pub fn remember(&mut self) {
        self.remembers = true;
    }

    /// Returns the generation in which the table was, as a whole, as it was last read or verified.
    /// `None` if other programs may have changed it between a commit and its verification.
    pub fn known_at(&self) -> Option<u32> {
        let read = self.read_at?;
        let is_known = self.owns_table() || self.committed.is_none_or(|made| made == read);
        is_known.then_some(read)
    }

    /// Uses the proof of a listener that the table was the same in these generations: what is known
    /// of one of them is known of the last one.
    pub fn believe(&mut self, unchanged: Unchanged) {
        if let Some((generation, _)) = &mut self.known
            && unchanged.includes(*generation)
        {
            *generation = unchanged.until;
        }
    }

    /// Learns from the record of the last load which large sets are loaded: those of `wanted` that
    /// are the same, and others as they were stored.
    pub(super) fn know_from_record(&mut self, wanted: &Ruleset) {
        if self.known.is_some() {
            return;
        }
        let recorded = since::last().filter(|note| note.generation != 0 && !note.by_iptables);
        let recorded = recorded.filter(|note| !note.sets.is_empty());
        // Hashing is in vain if the kernel is in another generation.
        let Some(note) = recorded.filter(|note| self.generation() == Ok(note.generation)) else {
            return;
        };
        let mut sets = note.same_sets(wanted);
        if sets.len() < note.sets.len()
            && let Some(loaded) = State::open().as_loaded()
        {
            let large = loaded.sets.into_iter();
            sets.extend(large.filter(|(name, _)| note.sets.contains_key(name)));
        }
        self.known = Some((note.generation, sets));
    }

    /// Reads the table without the sets whose elements are known; `None` if they may have changed.
    pub(super) fn recall(&mut self) -> Result<Option<Observed>, BackendError> {
        let Some((generation, sets)) = self.known.take() else {
            return Ok(None);
        };
        if !self.owns_table() && self.generation()? != generation {
            return Ok(None);
        }
        let (mut observed, _) = self.read(&Depth::AllBut(&sets))?;
        let is_same = self.owns_table() || observed.generation == generation;
        let Some(table) = observed.table.as_mut().filter(|_| is_same) else {
            return Ok(None);
        };
        for (name, known) in &sets {
            match table.sets.get_mut(name) {
                Some(ObservedSet::Known { set, .. })
                    if set.key == known.key && set.interval == known.interval =>
                {
                    set.elements.clone_from(&known.elements);
                }
                _ => return Ok(None),
            }
        }
        log::debug!(
            "{} sets were not read: they cannot have changed since generation {generation}",
            sets.len()
        );
        self.keep_sets(&observed);
        Ok(Some(observed))
    }

    /// Caches the observed sets, if elements are cached.
    pub(super) fn keep_sets(&mut self, observed: &Observed) {
        let Some(table) = observed.table.as_ref().filter(|_| self.remembers) else {
            return;
        };
        let sets = table.sets.iter().filter_map(|(name, seen)| match seen {
            ObservedSet::Known { set, .. } if set.is_steady() => Some((name.clone(), set.clone())),
            ObservedSet::Known { .. } | ObservedSet::Unrecognized => None,
        });
        self.known = Some((observed.generation, sets.collect()));
    }
}

/// Returns the sets of a ruleset whose elements change only by transactions.
pub(super) fn steady_sets(ruleset: &Ruleset) -> BTreeMap<String, Set> {
    let sets = ruleset.sets.iter().filter(|(_, set)| set.is_steady());
    sets.map(|(name, set)| (name.clone(), set.clone()))
        .collect()
}
