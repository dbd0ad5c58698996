//! Counts of the most frequent keys, in fixed memory.
//!
//! The algorithm is Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient Computation of Frequent
//! and Top-k Elements in Data Streams", 2005). A new key replaces the one with the lowest count and
//! starts with that count as its error. After N packets with room for m keys, no error exceeds N/m,
//! and every key with more than N/m packets is in the table.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{History, LONGEST_SECONDS, Window};

/// Counts by key, each with the value of its last packet.
#[derive(Debug, Clone)]
pub(super) struct Table<K, V> {
    capacity: usize,
    slots: Vec<Slot<K, V>>,
    index: BTreeMap<K, usize>,
    /// Slots by count, then by time of the last packet.
    order: BTreeSet<(u64, u64, usize)>,
    total: u64,
    history: History,
}

/// A key with its counts.
#[derive(Debug, Clone)]
pub(super) struct Slot<K, V> {
    pub(super) key: K,
    /// Value of the last packet.
    pub(super) value: V,
    /// Upper limit of the number of packets.
    count: u64,
    /// Number of packets by which `count` may be too high.
    error: u64,
    /// Time of the first packet since the key entered the table.
    pub(super) first: u64,
    pub(super) last: u64,
    history: History,
}

impl<K: Ord + Clone, V> Table<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            slots: Vec::new(),
            index: BTreeMap::new(),
            order: BTreeSet::new(),
            total: 0,
            history: History::default(),
        }
    }

    /// Counts a packet at a time in seconds.
    pub(super) fn add(&mut self, key: K, value: V, now: u64) {
        self.total += 1;
        self.history.add(now);
        if let Some(&at) = self.index.get(&key) {
            let slot = &mut self.slots[at];
            self.order.remove(&(slot.count, slot.last, at));
            slot.count += 1;
            slot.last = slot.last.max(now);
            slot.value = value;
            slot.history.add(now);
            self.order.insert((slot.count, slot.last, at));
            return;
        }
        let mut slot = Slot {
            key: key.clone(),
            value,
            count: 1,
            error: 0,
            first: now,
            last: now,
            history: History::default(),
        };
        slot.history.add(now);
        let lowest = match self.slots.len() < self.capacity {
            true => None,
            false => self.order.pop_first(),
        };
        let at = match lowest {
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
            Some((count, _, at)) => {
                slot.count = count + 1;
                slot.error = count;
                let old = std::mem::replace(&mut self.slots[at], slot);
                self.index.remove(&old.key);
                at
            }
        };
        self.index.insert(key, at);
        self.order.insert((self.slots[at].count, now, at));
    }

    /// Removes the keys whose last packet is older than every window.
    pub(super) fn expire(&mut self, now: u64) {
        let oldest = Window::last(LONGEST_SECONDS, now).start;
        if self.slots.iter().all(|slot| slot.last >= oldest) {
            return;
        }
        self.slots.retain(|slot| slot.last >= oldest);
        let slots = || self.slots.iter().enumerate();
        self.index = slots().map(|(at, slot)| (slot.key.clone(), at)).collect();
        self.order = slots()
            .map(|(at, slot)| (slot.count, slot.last, at))
            .collect();
    }

    pub(super) fn slots(&self) -> &[Slot<K, V>] {
        &self.slots
    }

    /// Returns the number of all packets.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the number of all packets within a window.
    pub(super) fn within(&self, window: Window) -> u64 {
        self.history.within(window)
    }
}

impl<K, V> Slot<K, V> {
    /// Returns the number of packets within a window since the key entered the table, and whether
    /// the key may have had more, because it was in the table before.
    pub(super) fn within(&self, window: Window) -> (u64, bool) {
        let may_be_more = self.error > 0 && self.first >= window.start;
        (self.history.within(window), may_be_more)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Frequent keys among many that occur once.
    fn keys() -> impl Strategy<Value = Vec<u32>> {
        let key = prop_oneof![3 => 0u32..4, 2 => 0u32..40, 3 => 1000u32..100_000];
        prop::collection::vec(key, 1..2000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn counts_are_those_of_an_unbounded_map_within_the_error(
            keys in keys(),
            capacity in 1usize..40,
        ) {
            let mut table = Table::new(capacity);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for (time, key) in keys.iter().enumerate() {
                table.add(*key, time, time as u64);
                *model.entry(*key).or_default() += 1;
                prop_assert!(table.slots.len() <= capacity);
            }
            let total = keys.len() as u64;
            let bound = total / capacity as u64;
            prop_assert_eq!(table.total(), total);
            prop_assert_eq!(table.within(Window::last(LONGEST_SECONDS, 0)), total);
            // Counts add up, since each packet raises exactly one by one.
            let counts: u64 = table.slots.iter().map(|slot| slot.count).sum();
            prop_assert_eq!(counts, total);
            prop_assert_eq!(table.index.len(), table.slots.len());
            prop_assert_eq!(table.order.len(), table.slots.len());
            for slot in &table.slots {
                let real = model[&slot.key];
                let (seen, may_be_more) = slot.within(Window::last(LONGEST_SECONDS, 0));
                prop_assert!(slot.error <= bound, "{:?}", slot);
                prop_assert_eq!(seen, slot.count - slot.error);
                prop_assert!(seen <= real && real <= slot.count, "{:?}: {}", slot, real);
                prop_assert!(may_be_more || seen == real, "{:?}: {}", slot, real);
                prop_assert_eq!(keys[slot.value], slot.key);
            }
            for (key, real) in &model {
                let is_heavy = *real > bound;
                prop_assert!(!is_heavy || table.index.contains_key(key), "{}: {}", key, real);
            }
        }

        #[test]
        fn expiry_removes_what_is_older_than_every_window(
            adds in prop::collection::vec((0u32..50, 0u64..20_000), 1..300),
        ) {
            let mut table = Table::new(20);
            let mut now = 0;
            for (key, step) in adds {
                now += step;
                table.add(key, (), now);
                table.expire(now);
                let start = Window::last(LONGEST_SECONDS, now).start;
                prop_assert!(table.slots.iter().all(|slot| slot.last >= start));
                prop_assert!(table.index.contains_key(&key));
                for (at, slot) in table.slots.iter().enumerate() {
                    prop_assert_eq!(table.index.get(&slot.key), Some(&at));
                    prop_assert!(table.order.contains(&(slot.count, slot.last, at)));
                }
            }
        }
    }
}
