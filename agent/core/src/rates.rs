//! Rates of counters, from readings at different times.

use std::collections::BTreeMap;
use std::time::Duration;

/// Values of a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    /// Returns what was counted since an earlier reading. A counter that decreased was created
    /// again, and began at zero. One that was created again and has passed its old value since
    /// cannot be recognized: its rate is too low.
    fn since(self, before: Self) -> Self {
        let packets = self.packets.checked_sub(before.packets);
        match (packets, self.bytes.checked_sub(before.bytes)) {
            (Some(packets), Some(bytes)) => Self { packets, bytes },
            _ => self,
        }
    }
}

/// What was counted in a second, on average.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    /// Packets.
    pub packets: f64,
    /// Bytes.
    pub bytes: f64,
}

/// Rates of counters between two readings.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates<K> {
    /// Time between the readings.
    pub elapsed: Duration,
    by_counter: BTreeMap<K, Rate>,
}

impl<K: Ord> Rates<K> {
    /// Returns the rate of a counter; zero for one that the later reading does not have.
    pub fn of(&self, counter: &K) -> Rate {
        self.by_counter.get(counter).copied().unwrap_or_default()
    }
}

/// Readings of counters, of which the last is kept.
#[derive(Debug, Clone)]
pub struct Meter<K> {
    last: Option<(Duration, BTreeMap<K, Count>)>,
}

impl<K> Default for Meter<K> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl<K: Ord + Clone> Meter<K> {
    /// Adds a reading, and returns the rates since the one before. `at` is the time since any
    /// start, by a clock that is never set.
    ///
    /// `None` for the first reading. A reading that is not later than the one before is ignored, so
    /// that its packets count in the next one. A counter that the earlier reading lacks began at
    /// zero.
    pub fn read(&mut self, at: Duration, now: BTreeMap<K, Count>) -> Option<Rates<K>> {
        let elapsed = match &self.last {
            None => None,
            Some((before, _)) => {
                let elapsed = at.checked_sub(*before);
                Some(elapsed.filter(|elapsed| !elapsed.is_zero())?)
            }
        };
        let (_, before) = self.last.replace((at, now.clone())).unwrap_or_default();
        let elapsed = elapsed?;
        let rate = |(key, now): (K, Count)| {
            let before = before.get(&key).copied().unwrap_or_default();
            (key, per_second(now.since(before), elapsed))
        };
        Some(Rates {
            elapsed,
            by_counter: now.into_iter().map(rate).collect(),
        })
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate for people needs no more than the 53 bits of a float"
)]
fn per_second(count: Count, elapsed: Duration) -> Rate {
    Rate {
        packets: count.packets as f64 / elapsed.as_secs_f64(),
        bytes: count.bytes as f64 / elapsed.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counters whose packets have 100 bytes each.
    fn counters(packets: &[(&'static str, u64)]) -> BTreeMap<&'static str, Count> {
        let count = |packets| Count {
            packets,
            bytes: packets * 100,
        };
        let counters = packets
            .iter()
            .map(|(name, packets)| (*name, count(*packets)));
        counters.collect()
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn rates_are_of_the_time_between_two_readings() {
        let mut meter = Meter::default();
        let first = meter.read(seconds(7.0), counters(&[("ssh", 10), ("web", 50)]));
        assert_eq!(first, None, "nothing to compare with");
        let now = counters(&[("new", 4), ("ssh", 15), ("web", 50)]);
        let rates = meter.read(seconds(9.0), now.clone()).expect("later");
        assert_eq!(rates.elapsed, seconds(2.0));
        for (name, packets) in [("ssh", 2.5), ("web", 0.0), ("new", 2.0), ("gone", 0.0)] {
            let want = Rate {
                packets,
                bytes: packets * 100.0,
            };
            assert_eq!(rates.of(&name), want, "{name}");
        }
        let rates = meter.read(seconds(9.5), now).expect("later");
        assert_eq!(
            rates.of(&"ssh"),
            Rate::default(),
            "an agent that restarts counts nothing"
        );
    }

    #[test]
    fn a_counter_that_was_created_again_began_at_zero() {
        let mut meter = Meter::default();
        meter.read(seconds(1.0), counters(&[("ssh", 1000), ("web", 10)]));
        // The table was deleted, and loaded again with other counters, one of which is gone.
        let rates = meter
            .read(seconds(2.0), counters(&[("ssh", 6)]))
            .expect("later");
        assert_eq!(rates.of(&"ssh").packets, 6.0);
        assert_eq!(rates.of(&"ssh").bytes, 600.0);
        let rates = meter
            .read(seconds(3.0), counters(&[("ssh", 6), ("web", 3)]))
            .expect("later");
        assert_eq!(rates.of(&"web").packets, 3.0, "its old value is forgotten");
        // No table at all.
        let rates = meter.read(seconds(4.0), BTreeMap::new()).expect("later");
        assert_eq!(rates.of(&"ssh"), Rate::default());
        // The bytes alone show it, if the packets are as many as before.
        meter.read(seconds(5.0), counters(&[("ssh", 2)]));
        let bytes = BTreeMap::from([(
            "ssh",
            Count {
                packets: 2,
                bytes: 90,
            },
        )]);
        let rates = meter.read(seconds(6.0), bytes).expect("later");
        assert_eq!(
            (rates.of(&"ssh").packets, rates.of(&"ssh").bytes),
            (2.0, 90.0)
        );
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_loses_no_packets() {
        let mut meter = Meter::default();
        meter.read(seconds(10.0), counters(&[("ssh", 5)]));
        assert_eq!(meter.read(seconds(10.0), counters(&[("ssh", 9)])), None);
        assert_eq!(meter.read(seconds(3.0), counters(&[("ssh", 10)])), None);
        let rates = meter
            .read(seconds(12.0), counters(&[("ssh", 11)]))
            .expect("later");
        assert_eq!(rates.of(&"ssh").packets, 3.0);
    }

    proptest! {
        #[test]
        fn packets_are_neither_lost_nor_counted_twice(
            steps in prop::collection::vec((0u64..3, 0u64..1000), 1..50),
        ) {
            let mut meter = Meter::default();
            meter.read(Duration::ZERO, counters(&[("c", 7)]));
            let (mut now, mut packets, mut shown) = (0, 7, 0.0);
            let last = [(1, 0)];
            for (step, new) in steps.into_iter().chain(last) {
                now += step;
                packets += new;
                let rates = meter.read(Duration::from_secs(now), counters(&[("c", packets)]));
                shown += rates.map_or(0.0, |rates| {
                    rates.of(&"c").packets * rates.elapsed.as_secs_f64()
                });
            }
            prop_assert!((shown - (packets - 7) as f64).abs() < 1e-6, "{} of {}", shown, packets);
        }
    }
}
