//! Counts of packets over the last day, in fixed memory.

/// Length of a minute in seconds.
const MINUTE: u64 = 60;
/// Length of an hour in seconds.
const HOUR: u64 = 3600;
/// Longest time of which counts are kept, in seconds.
pub const LONGEST_SECONDS: u64 = 24 * HOUR;

/// The time of which packets are counted: the last hour by the minute, or the last day by the hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Start, in seconds since the Unix epoch: that of a minute or of an hour.
    pub start: u64,
    is_by_minute: bool,
}

impl Window {
    /// Returns the last seconds before `now`, rounded up to whole minutes, or to whole hours above
    /// an hour. More than a day is a day.
    pub fn last(seconds: u64, now: u64) -> Self {
        let is_by_minute = seconds <= HOUR;
        let unit = if is_by_minute { MINUTE } else { HOUR };
        let start = now.saturating_sub(seconds.min(LONGEST_SECONDS));
        Self {
            start: start / unit * unit,
            is_by_minute,
        }
    }
}

/// Counts by the minute and by the hour.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    /// An hour, and the minute that has begun.
    minutes: Ring<61>,
    /// A day, and the hour that has begun.
    hours: Ring<25>,
}

impl History {
    pub(super) fn add(&mut self, now: u64) {
        self.minutes.add(now / MINUTE);
        self.hours.add(now / HOUR);
    }

    /// Returns the count within a window that ends now.
    pub(super) fn within(&self, window: Window) -> u64 {
        match window.is_by_minute {
            true => self.minutes.since(window.start / MINUTE),
            false => self.hours.since(window.start / HOUR),
        }
    }
}

/// The counts of the last N units of time.
#[derive(Debug, Clone)]
struct Ring<const N: usize> {
    /// Number of the latest unit since the Unix epoch.
    latest: u64,
    counts: [u32; N],
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self {
            latest: 0,
            counts: [0; N],
        }
    }
}

impl<const N: usize> Ring<N> {
    fn add(&mut self, unit: u64) {
        let passed = unit.saturating_sub(self.latest).min(N as u64);
        for step in 0..passed {
            // From the new unit downwards: those in between had no packet.
            *self.slot(unit - step) = 0;
        }
        // A clock that was set back counts in the latest unit.
        self.latest = self.latest.max(unit);
        let count = self.slot(self.latest);
        *count = count.saturating_add(1);
    }

    fn slot(&mut self, unit: u64) -> &mut u32 {
        &mut self.counts[(unit % N as u64) as usize]
    }

    fn since(&self, unit: u64) -> u64 {
        let oldest = self.latest.saturating_sub(N as u64 - 1);
        let units = unit.max(oldest)..=self.latest;
        let count = |unit: u64| u64::from(self.counts[(unit % N as u64) as usize]);
        units.map(count).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_begin_with_a_minute_or_an_hour() {
        let now = 1_000_000;
        for (seconds, start) in [
            (0, now / 60 * 60),
            (60, (now - 60) / 60 * 60),
            (3600, (now - 3600) / 60 * 60),
            (3601, (now - 3601) / 3600 * 3600),
            (86_400, (now - 86_400) / 3600 * 3600),
            (u64::MAX, (now - 86_400) / 3600 * 3600),
        ] {
            assert_eq!(Window::last(seconds, now).start, start, "{seconds}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_loses_no_count() {
        let mut history = History::default();
        history.add(1_000_000);
        history.add(900_000);
        assert_eq!(history.within(Window::last(60, 1_000_000)), 2);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_list(
            steps in prop::collection::vec(
                prop_oneof![8 => 0u64..90, 2 => 0u64..4000, 1 => 0u64..100_000],
                1..200,
            ),
            seconds in prop_oneof![0u64..4000, 0u64..100_000],
        ) {
            let (mut history, mut times, mut now) = (History::default(), Vec::new(), 1_700_000_000);
            for step in steps {
                now += step;
                history.add(now);
                times.push(now);
            }
            let window = Window::last(seconds, now);
            let wanted = times.iter().filter(|time| **time >= window.start).count();
            prop_assert_eq!(history.within(window), wanted as u64);
        }
    }
}
