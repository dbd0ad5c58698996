//! The guard of a trial: a process that rolls back even if all others die.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use peerwall_core::agent::keep::{self, Ending};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{Keeper, locked, words};
use crate::control::{self, Request};
use crate::store::audit::Who;
use crate::store::{self, Pending, State};
use crate::system::{notice, scope};

/// Interval between checks for a confirmation.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Interval between attempts to roll back.
const TRY_EVERY: Duration = Duration::from_millis(250);
/// Time for a running agent to roll back first.
const AGENT_GRACE: Duration = Duration::from_secs(2);

/// Waits until the deadline of the trial, and rolls back if it is still waiting. Ends only when the
/// trial is confirmed or rolled back; failures are retried.
///
/// The guard leaves the control group of its unit or session, so that it is not killed with it. If
/// it is stopped nevertheless, it rolls back immediately, because it may be killed next.
pub fn run() {
    let mut stop = Stop::listen();
    if let Err(err) = scope::enter("peerwall-guard", "peerwall: guard of a trial") {
        log::debug!("the guard stays in its control group: {err}");
    }
    // The parent process waits for this line. If it cannot be written, the parent refuses the
    // trial, and the guard has no work.
    let _ = writeln!(io::stdout(), "ready");
    let state = State::open();
    let mut mine: Option<u64> = None;
    let mut graced_until: Option<Instant> = None;
    loop {
        let pending = match state.read_waiting() {
            Ok(Some(pending)) => pending,
            Ok(None) => return, // confirmed, or rolled back
            Err(_) => {
                stop.sleep(TRY_EVERY);
                continue;
            }
        };
        // Every trial has its own guard.
        if *mine.get_or_insert(pending.id) != pending.id {
            return;
        }
        let left = left(&pending, &mut graced_until);
        let why = match (left.is_zero(), stop.is_asked) {
            (true, _) => Ending::RanOut,
            // An agent that is stopped at the same time rolls back; a running one keeps the
            // deadline.
            (false, true) if !control::is_there() => Ending::Stopped,
            (false, true) => {
                stop.sleep(TRY_EVERY);
                continue;
            }
            (false, false) => {
                stop.sleep(left.min(LOOK_EVERY));
                continue;
            }
        };
        if go_back(&state, pending.id, why).is_ok() {
            return;
        }
        stop.sleep(TRY_EVERY);
    }
}

/// Receives SIGTERM, SIGINT and SIGHUP.
struct Stop {
    signals: Option<UnixStream>,
    is_asked: bool,
}

impl Stop {
    fn listen() -> Self {
        let signals = || {
            let (ours, theirs) = UnixStream::pair()?;
            for signal in [SIGTERM, SIGINT, SIGHUP] {
                signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
            }
            Ok(ours)
        };
        Self {
            // A guard that a signal kills is better than none.
            signals: signals()
                .map_err(|err: io::Error| log::debug!("the guard cannot handle signals: {err}"))
                .ok(),
            is_asked: false,
        }
    }

    /// Sleeps until the time has passed or a stop signal arrives.
    fn sleep(&mut self, time: Duration) {
        // A timeout of zero would mean no timeout.
        let time = time.max(Duration::from_millis(1));
        let signals = self.signals.as_mut().filter(|_| !self.is_asked);
        let Some(signals) = signals.filter(|s| s.set_read_timeout(Some(time)).is_ok()) else {
            return thread::sleep(time);
        };
        self.is_asked = signals.read(&mut [0]).is_ok_and(|len| len > 0);
    }
}

/// Returns how long the guard must still wait. A running agent gets some time to roll back first.
fn left(pending: &Pending, graced_until: &mut Option<Instant>) -> Duration {
    let left = pending.left(&store::clock());
    if !left.is_zero() {
        return left;
    }
    let until = graced_until.get_or_insert_with(|| {
        let is_agent = matches!(control::ask(Request::Status), Some(Ok(_)));
        Instant::now()
            + if is_agent {
                AGENT_GRACE
            } else {
                Duration::ZERO
            }
    });
    until.saturating_duration_since(Instant::now())
}

fn go_back(state: &State, id: u64, why: Ending) -> Result<(), keep::Refusal> {
    let mut keeper = Keeper::alone(state, Who::process("guard"));
    let ended = locked(state, || {
        keep::go_back(&mut keeper, Some(id), why).map_err(keep::Refusal::State)
    })?;
    if let Some(trial) = ended {
        let policy = &trial.new.entry.policy;
        let text = match why {
            Ending::Stopped => words::stopped(policy),
            Ending::RanOut | Ending::RolledBack => words::ran_out(policy, trial.seconds),
        };
        notice::to_terminal(&trial.from, &text);
    }
    Ok(())
}
