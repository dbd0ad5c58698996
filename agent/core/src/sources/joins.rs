//! Answers that only add members, which is what nearly all answers do.
//!
//! To judge an answer takes a look at each of its entries and at each member. If all entries of
//! the answer before are members, and the new one has the same and a few more, only those few need
//! it. The result is that of [`Members::judge`], which judges whatever is different here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::limits::PER_NODE_MAX;
use super::listing::Listing;
use super::members::{Members, Time};

/// Maximum number of new entries: each costs a look at the names of all others.
const NEW_MAX: usize = 32;

impl Members {
    /// Adds the members of an answer that only adds some to the one before. Returns them, or the
    /// answer if it has to be judged as a whole.
    pub(super) fn judge_joins(
        &mut self,
        listing: Listing,
        now: Time,
    ) -> Result<Vec<(IpAddr, String)>, Listing> {
        let Some(new) = self.joins(&listing) else {
            return Err(listing);
        };
        let mut joined = Vec::with_capacity(new.len());
        for (address, name) in new.iter().filter_map(|at| listing.entries.get(*at)) {
            let member = self.insert(*address, name.as_ref(), Some(now));
            joined.push((*address, member.name.to_string()));
        }
        self.is_in_doubt = None;
        self.is_empty_answer = listing.entries.is_empty();
        self.listing = Some(listing);
        Ok(joined)
    }

    /// Returns the positions of new entries, if all others are members, none is missing, and no
    /// limit refuses anything.
    fn joins(&self, listing: &Listing) -> Option<Vec<usize>> {
        let before = self.listing.as_ref()?;
        // With nothing refused, all entries are members, and as many members are no others.
        let is_whole = before.entries.len() == self.members.len()
            && self.refused.is_empty()
            && self.missing.is_empty();
        if !is_whole || listing.garbage > 0 {
            return None;
        }
        let new = added(&before.entries, &listing.entries)?;
        if self.members.len() + new.len() > self.limits.max {
            return None;
        }
        let mut addresses = BTreeSet::new();
        for (address, name) in new.iter().filter_map(|at| listing.entries.get(*at)) {
            let is_new = !self.members.contains_key(address) && addresses.insert(*address);
            let has_place = !self.limits.has_nodes
                || name.as_ref().is_none_or(|name| {
                    let all = listing.entries.iter();
                    let of_node = all.filter(|(_, other)| other.as_ref() == Some(name));
                    of_node.count() <= PER_NODE_MAX
                });
            if !is_new || !has_place || self.limits.check(*address).is_err() {
                return None;
            }
        }
        Some(new)
    }
}

/// Returns the positions in `new` of what is not in `old`, if `new` has everything of `old` in the
/// same order and only a few more.
fn added<T: PartialEq>(old: &[T], new: &[T]) -> Option<Vec<usize>> {
    let more = new.len().checked_sub(old.len())?;
    if more > NEW_MAX {
        return None;
    }
    let mut found = Vec::with_capacity(more);
    let mut rest = old.iter().peekable();
    for (at, entry) in new.iter().enumerate() {
        if rest.next_if(|next| *next == entry).is_none() {
            found.push(at);
            if found.len() > more {
                return None;
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::super::change::Saved;
    use super::super::limits::Limits;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_left_without_the_new_ones_is_the_old_list(
            old in prop::collection::vec(0..4u8, 0..8),
            new in prop::collection::vec(0..4u8, 0..12),
        ) {
            if let Some(found) = added(&old, &new) {
                let kept = new.iter().enumerate().filter(|(at, _)| !found.contains(at));
                let kept: Vec<u8> = kept.map(|(_, entry)| *entry).collect();
                prop_assert_eq!(kept, old);
            }
        }

        #[test]
        fn what_was_inserted_is_found(
            old in prop::collection::btree_set(0..1000u16, 0..40),
            more in prop::collection::btree_set(1000..2000u16, 0..NEW_MAX),
            places in prop::collection::vec(0..1000usize, NEW_MAX),
        ) {
            let old: Vec<u16> = old.into_iter().collect();
            let mut new = old.clone();
            for (entry, place) in more.iter().zip(places) {
                new.insert(place % (new.len() + 1), *entry);
            }
            let found = added(&old, &new).expect("it only adds");
            let found: BTreeSet<u16> = found.into_iter().map(|at| new[at]).collect();
            prop_assert_eq!(found, more);
        }
    }

    #[test]
    fn a_node_that_joins_needs_no_look_at_the_others() {
        let listing = |count: u8| Listing {
            entries: (1..=count)
                .map(|number| {
                    (
                        IpAddr::from([10, 0, 0, number]),
                        Some(number.to_string().into()),
                    )
                })
                .collect(),
            ..Listing::default()
        };
        let limits = Limits {
            within: vec!["10.0.0.0/8".parse().unwrap()],
            max: 51,
            ..Limits::default()
        };
        let mut members = Members::new(limits, Saved::default(), Time::ZERO);
        members.observe(listing(49), Time::ZERO);
        assert_eq!(members.joins(&listing(50)), Some(vec![49]));
        members.observe(listing(50), Time::ZERO);
        assert_eq!(members.joins(&listing(51)), Some(vec![50]));
        assert_eq!(members.joins(&listing(52)), None, "more than the maximum");
        assert_eq!(members.joins(&listing(49)), None, "one is missing");
    }

    #[test]
    fn many_new_ones_are_too_many() {
        let new: Vec<usize> = (0..=NEW_MAX).collect();
        assert_eq!(added(&[], &new), None);
        assert_eq!(added(&[0], &new).map(|found| found.len()), Some(NEW_MAX));
        assert_eq!(added(&new, &[]), None);
        assert_eq!(added(&[1, 2], &[2, 1]), None);
    }
}
