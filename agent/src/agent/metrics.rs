//! Numbers about the agent, as OpenMetrics text.

use std::time::Duration;

use peerwall_core::reconcile::Why;

/// Upper ends of the buckets of commit times, in seconds.
const BUCKETS: [f64; 8] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// What is counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    pub applies: u64,
    pub failures: u64,
    pub reload_errors: u64,
    buckets: [u64; BUCKETS.len()],
    seconds: f64,
}

impl Metrics {
    /// Counts one time that rules were looked after.
    pub(super) fn observe(&mut self, took: Duration, why: &Why, ok: bool) {
        if !ok {
            self.failures += 1;
            return;
        }
        if matches!(why, Why::Start | Why::Policy) {
            self.applies += 1;
        }
        self.seconds += took.as_secs_f64();
        for (count, end) in self.buckets.iter_mut().zip(BUCKETS) {
            *count += u64::from(took.as_secs_f64() <= end);
        }
    }
}
