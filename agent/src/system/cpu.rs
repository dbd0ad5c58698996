//! The processor time of this thread.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Returns the processor time that this thread has used. Unlike the time of day, it does not grow
/// while other processes use the processor, or while this thread waits for the kernel.
pub fn time() -> Duration {
    // The call cannot fail: the clock exists since Linux 2.6.12.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .unwrap_or_default()
}
