//! systemd's watchdog (`WatchdogSec=`, sd_watchdog_enabled(3)): tells it that this process makes
//! progress.
//!
//! Whatever may take long calls [`progress`] at every step: for each message of a dump, and while a
//! program of iptables runs. A process that hangs makes no steps, and is restarted.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

struct Watchdog {
    every: Duration,
    due: Mutex<Instant>,
}

/// `None` inside if systemd does not watch this process.
static WATCHDOG: OnceLock<Option<Watchdog>> = OnceLock::new();

/// Begins, if systemd watches this process. The first message is due at once: nothing may happen
/// for hours that would wake the process up for it.
pub fn start() {
    WATCHDOG.get_or_init(|| {
        let every = sd_notify::watchdog_enabled()? / 2;
        let due = Mutex::new(Instant::now());
        Some(Watchdog { every, due })
    });
}

/// When [`progress`] has to be called next; `None` if systemd does not watch this process.
pub fn due() -> Option<Instant> {
    let watchdog = WATCHDOG.get()?.as_ref()?;
    Some(*watchdog.due.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Tells systemd that this process makes progress, if that is due.
pub fn progress() {
    let Some(Some(watchdog)) = WATCHDOG.get() else {
        return;
    };
    let mut due = watchdog.due.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if *due > now {
        return;
    }
    *due = now + watchdog.every;
    if let Err(err) = sd_notify::notify(&[NotifyState::Watchdog]) {
        log::debug!("systemd was not told: {err}");
    }
}
