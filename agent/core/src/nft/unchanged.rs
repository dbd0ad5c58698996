//! Generations of nf_tables in which peerwall's table is the same.
//!
//! The kernel increments its generation with every transaction of any program (`nf_tables_commit()`
//! in `net/netfilter/nf_tables_api.c`), and then sends the events of the transaction. Who hears all
//! of them knows which generations changed the table.

/// Generations in which peerwall's table was the same, each of whose transactions was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unchanged {
    /// The first of them.
    since: u32,
    /// The last of them.
    pub until: u32,
}

impl Unchanged {
    /// Returns these generations: one.
    pub fn only(generation: u32) -> Self {
        Self {
            since: generation,
            until: generation,
        }
    }

    /// Whether a generation is one of them. Generations wrap around.
    pub fn includes(self, generation: u32) -> bool {
        generation.wrapping_sub(self.since) <= self.until.wrapping_sub(self.since)
    }

    /// Returns the generations after the transaction that made `generation`, and that changed
    /// peerwall's table or did not. Transactions that were counted change nothing.
    #[must_use]
    pub fn after(self, generation: u32, is_ours: bool) -> Self {
        let is_earlier = self.until.wrapping_sub(generation) < u32::MAX / 2;
        let is_next = generation == self.until.wrapping_add(1);
        match (is_earlier, is_next && !is_ours) {
            (true, _) => self,
            (false, true) => Self {
                until: generation,
                ..self
            },
            (false, false) => Self::only(generation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The model knows how often the table was changed until each generation.
        #[test]
        fn the_table_is_the_same_in_unchanged_generations(
            start: u32,
            steps in prop::collection::vec((0..4u32, 0..4u32, 0..9u32), 1..200),
        ) {
            let mut versions = vec![0u32];
            let mut unchanged = None;
            for (ours, deaf, again) in steps {
                let now = start.wrapping_add(versions.len() as u32);
                let version = versions[versions.len() - 1] + u32::from(ours == 0);
                versions.push(version);
                if deaf == 0 {
                    unchanged = Some(Unchanged::only(now));
                }
                // Also an event of a transaction that was counted.
                for generation in [now.wrapping_sub(again), now] {
                    let is_ours = generation != now || ours == 0;
                    let after = |before: Unchanged| before.after(generation, is_ours);
                    unchanged = unchanged.map(after);
                }
                let of = |generation: u32| versions[generation.wrapping_sub(start) as usize];
                for back in 0..versions.len() as u32 {
                    let generation = now.wrapping_sub(back);
                    let is_known = unchanged.is_some_and(|them| them.includes(generation));
                    prop_assert!(!is_known || of(generation) == version);
                }
                // The last generation is always one of them.
                prop_assert!(unchanged.is_none_or(|them| them.until == now));
            }
        }
    }
}
