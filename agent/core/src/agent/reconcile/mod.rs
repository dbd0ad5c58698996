//! State machine that decides when the agent reads the policy and checks the rules.
//!
//! Pure: the daemon passes each event ([`Input`]), executes the returned [`Task`] and passes its
//! result. Tests use a simulated clock. Guarantees:
//!
//! - A change by another program is repaired immediately. During a storm of changes, repairs
//!   continue at a bounded rate.
//! - A policy that cannot be read changes nothing, and is read again when a file changes.
//! - A failed attempt is retried with increasing delays, or immediately after another event.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Time since a fixed moment, on a monotonic clock.
pub type Time = Duration;

/// Time without file events before the policy is read. Editors write a file in several steps.
pub const SETTLE: Duration = Duration::from_millis(150);
/// Maximum delay before the policy is read while file events continue.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// Repairs that are possible at once before [`REPAIR_EVERY`] applies.
const REPAIRS_BURST: u32 = 200;
/// Minimum interval between repairs once the burst is used up.
const REPAIR_EVERY: Duration = Duration::from_millis(10);
/// Time without repairs after which a storm is over.
const CALM: Duration = Duration::from_secs(5);
/// Delay after the first failure.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Maximum delay after a failure.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Maximum delay after a failure while peerwall's rules may be missing.
const RETRY_MAX_OPEN: Duration = Duration::from_secs(1);
/// Limit on the recorded processes that changed rules.
const CULPRITS_MAX: usize = 8;

/// Process that changed rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Culprit {
    /// Process id.
    pub pid: u32,
    /// Name of the process.
    pub process: String,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.process, self.pid)
    }
}

/// Event for [`Reconcile::step`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The agent starts.
    Start,
    /// Another program changed peerwall's rules.
    Touched(Option<Culprit>),
    /// Events were lost or could not be received.
    Lost,
    /// A file of the policy may have changed.
    Files,
    /// A client requested a reload.
    Reload,
    /// [`Task::Read`] found a policy to apply.
    Accepted,
    /// [`Task::Read`] found no policy to apply, for this reason.
    Rejected(String),
    /// The target ruleset changed, but the policy did not.
    Wanted,
    /// Result of [`Task::Converge`]: whether the rules were changed.
    Converged(Result<bool, Failure>),
    /// A deadline passed; nothing else happened.
    Tick,
}

/// Failure to load rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Message.
    pub why: String,
    /// Whether peerwall's rules may be missing, so that the host may be open.
    pub is_open: bool,
}

/// Task of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Read the policy.
    Read,
    /// Compare the loaded rules with the target ruleset, and apply the difference.
    Converge(Why),
}

/// Reason for [`Task::Converge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The agent starts.
    Start,
    /// The policy or the target ruleset changed.
    Policy,
    /// Another program changed the rules.
    Repair(Vec<Culprit>),
    /// Another program may have changed the rules.
    Resync,
    /// The last attempt failed.
    Retry,
}

/// Scheduled [`Task::Converge`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    at: Time,
    why: Why,
}

/// Repair of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Time.
    pub at: Time,
    /// Processes that changed the rules, if known.
    pub culprits: Vec<Culprit>,
}

/// State of the machine.
#[derive(Debug, Clone)]
pub struct Reconcile {
    /// Interval of checks without events; `None` if changes cause events.
    poll: Option<Duration>,
    /// Whether a policy was accepted.
    has_policy: bool,
    read_due: Option<Time>,
    /// Time of the first file event since the last read.
    files_since: Option<Time>,
    converge_due: Option<Due>,
    /// Repairs that are possible now; increases with time.
    tokens: u32,
    tokens_at: Time,
    failures: u32,
    culprits: VecDeque<Culprit>,
    /// Time since which the rules are in sync; `None` if they are not.
    pub in_sync_since: Option<Time>,
    /// Last repair.
    pub last_repair: Option<Repair>,
    /// Number of repairs.
    pub repairs: u64,
    /// Error of the last attempt to load the rules.
    pub last_error: Option<String>,
    /// Reason why the policy file was not applied.
    pub policy_error: Option<String>,
    storm_since: Option<Time>,
}

impl Reconcile {
    /// Sets the interval of checks without events. It applies after the next successful check.
    pub fn look_every(&mut self, poll: Option<Duration>) {
        self.poll = poll;
    }

    /// Creates the machine. `poll` is the interval of checks without events; `None` if changes
    /// cause events.
    pub fn new(poll: Option<Duration>) -> Self {
        Self {
            poll,
            has_policy: false,
            read_due: None,
            files_since: None,
            converge_due: None,
            tokens: REPAIRS_BURST,
            tokens_at: Time::ZERO,
            failures: 0,
            culprits: VecDeque::new(),
            in_sync_since: None,
            last_repair: None,
            repairs: 0,
            last_error: None,
            policy_error: None,
            storm_since: None,
        }
    }

    /// Returns the time for the next [`Input::Tick`]; `None` if there is nothing to wait for.
    pub fn deadline(&self) -> Option<Time> {
        let converge = self.converge_due.as_ref().map(|due| due.at);
        [self.read_due, converge].into_iter().flatten().min()
    }

    /// Returns whether changes exceed the rate of repairs.
    pub fn is_storm(&self) -> bool {
        self.storm_since.is_some()
    }

    /// Processes an event and returns the next task.
    pub fn step(&mut self, now: Time, input: Input) -> Option<Task> {
        match input {
            Input::Start => {
                self.converge_due = None;
                return Some(Task::Read);
            }
            Input::Reload => {
                self.forget_files();
                return Some(Task::Read);
            }
            Input::Files => {
                let first = *self.files_since.get_or_insert(now);
                self.read_due = Some((now + SETTLE).min(first + SETTLE_MAX));
            }
            Input::Touched(by) => {
                self.in_sync_since = None;
                self.blame(by);
                self.look_soon(now, Why::Repair(Vec::new()));
            }
            Input::Lost => self.look_soon(now, Why::Resync),
            Input::Accepted => {
                self.policy_error = None;
                self.want(now);
            }
            // The next file event causes the next attempt.
            Input::Rejected(why) => self.policy_error = Some(why),
            Input::Wanted => self.want(now),
            Input::Converged(result) => self.converged(now, result),
            Input::Tick => {}
        }
        self.due(now)
    }

    fn forget_files(&mut self) {
        self.read_due = None;
        self.files_since = None;
    }

    fn want(&mut self, now: Time) {
        let first = !self.has_policy;
        self.has_policy = true;
        self.failures = 0;
        let why = if first { Why::Start } else { Why::Policy };
        self.converge_due = Some(Due { at: now, why });
    }

    fn converged(&mut self, now: Time, result: Result<bool, Failure>) {
        match result {
            Ok(_) => {
                self.failures = 0;
                self.last_error = None;
                self.in_sync_since.get_or_insert(now);
                let next = self.poll.map(|every| now + every);
                self.converge_due = next.map(|at| Due {
                    at,
                    why: Why::Resync,
                });
            }
            Err(Failure { why, is_open }) => {
                self.in_sync_since = None;
                self.last_error = Some(why);
                let wait = RETRY_MIN.saturating_mul(1 << self.failures.min(16));
                let max = match is_open {
                    true => RETRY_MAX_OPEN,
                    false => RETRY_MAX,
                };
                self.failures = self.failures.saturating_add(1);
                self.converge_due = Some(Due {
                    at: now + wait.min(max),
                    why: Why::Retry,
                });
            }
        }
    }

    fn blame(&mut self, by: Option<Culprit>) {
        let Some(by) = by else { return };
        if !self.culprits.contains(&by) {
            if self.culprits.len() == CULPRITS_MAX {
                self.culprits.pop_front();
            }
            self.culprits.push_back(by);
        }
    }

    /// Schedules a check: now, or when the next token is available.
    fn look_soon(&mut self, now: Time, why: Why) {
        self.refill(now);
        let at = match self.tokens {
            0 => {
                self.storm_since.get_or_insert(now);
                self.tokens_at + REPAIR_EVERY
            }
            _ => now,
        };
        let earlier = self.converge_due.as_ref().is_some_and(|due| due.at <= at);
        match &mut self.converge_due {
            // The scheduled check covers this event too.
            Some(due) if earlier => {
                if why != Why::Resync {
                    due.why = why;
                }
            }
            due => *due = Some(Due { at, why }),
        }
    }

    fn refill(&mut self, now: Time) {
        let passed = now.saturating_sub(self.tokens_at);
        let more = u32::try_from(passed.as_millis() / REPAIR_EVERY.as_millis()).unwrap_or(u32::MAX);
        if more > 0 {
            self.tokens = self.tokens.saturating_add(more).min(REPAIRS_BURST);
            self.tokens_at = now;
        }
        let calm = self
            .last_repair
            .as_ref()
            .is_none_or(|last| now.saturating_sub(last.at) >= CALM);
        if calm {
            self.storm_since = None;
        }
    }

    /// Returns the task that is due.
    fn due(&mut self, now: Time) -> Option<Task> {
        if self.read_due.is_some_and(|at| at <= now) {
            self.forget_files();
            return Some(Task::Read);
        }
        if !self.has_policy || self.converge_due.as_ref().is_none_or(|due| due.at > now) {
            return None;
        }
        let due = self.converge_due.take()?;
        if matches!(due.why, Why::Repair(_) | Why::Resync) {
            self.refill(now);
            self.tokens = self.tokens.saturating_sub(1);
        }
        let why = match due.why {
            Why::Repair(_) => {
                self.repairs += 1;
                let culprits: Vec<Culprit> = self.culprits.drain(..).collect();
                self.last_repair = Some(Repair {
                    at: now,
                    culprits: culprits.clone(),
                });
                Why::Repair(culprits)
            }
            why @ (Why::Start | Why::Policy | Why::Resync | Why::Retry) => why,
        };
        Some(Task::Converge(why))
    }
}
