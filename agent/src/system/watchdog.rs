//! systemd's watchdog (`WatchdogSec=`, sd_watchdog_enabled(3)): reports that this process makes
//! progress.
//!
//! Long operations call [`progress`] at every step: for each message of a dump, and while a program
//! of iptables runs. A process that hangs makes no steps, and is restarted.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

struct Watchdog {
    every: Duration,
    due: Mutex<Instant>,
}

/// The inner option is `None` if systemd does not watch this process.
static WATCHDOG: OnceLock<Option<Watchdog>> = OnceLock::new();

/// Starts the reports, if systemd watches this process. The first one is due immediately, because
/// the process may then sleep for hours.
pub fn start() {
    WATCHDOG.get_or_init(|| {
        let every = sd_notify::watchdog_enabled()? / 2;
        let due = Mutex::new(Instant::now());
        Some(Watchdog { every, due })
    });
}

/// Returns the time at which [`progress`] must be called next; `None` if systemd does not watch
/// this process.
pub fn due() -> Option<Instant> {
    let watchdog = WATCHDOG.get()?.as_ref()?;
    Some(*watchdog.due.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Reports progress to systemd, if a report is due.
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
        log::debug!("cannot notify systemd's watchdog: {err}");
    }
}
