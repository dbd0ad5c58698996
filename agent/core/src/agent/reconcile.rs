//! What the agent does next, given what happened and what time it is.
//!
//! Pure: the daemon tells it what happened ([`Input`]), does what it is told ([`Task`]) and tells
//! what came of that. It holds no socket, reads no clock and knows no rule; tests drive it with a
//! clock of their own. What it promises:
//!
//! - A change of somebody else's is answered at once, as long as such changes are not a storm; in a
//!   storm at a bounded rate, and never not at all.
//! - A policy that cannot be read changes nothing; it is read again when a file changes.
//! - What failed is tried again, later each time, but at once when something changes.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Time since a moment that stays the same, on a clock that never goes back.
pub type Time = Duration;

/// Editors write a file in several steps; it is read once it has not changed for this time.
pub const SETTLE: Duration = Duration::from_millis(150);
/// But not later than this, if they never stop.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// Burst: repairs that are made before the rate limit applies.
const REPAIRS_BURST: u32 = 200;
/// Minimum interval between repairs once the burst is used up: a hundred a second.
const REPAIR_EVERY: Duration = Duration::from_millis(10);
/// A storm is over after this time without repairs.
const CALM: Duration = Duration::from_secs(5);
/// How long to wait after the first failure.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Maximum time to wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The same while peerwall's rules may be missing.
const RETRY_MAX_OPEN: Duration = Duration::from_secs(1);
/// Causes that are kept for telling.
const CULPRITS_MAX: usize = 8;

/// Who changed rules.
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

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The agent starts.
    Start,
    /// Somebody else changed our rules.
    Touched(Option<Culprit>),
    /// What happened is not known: events were lost, or none could be had meanwhile.
    Lost,
    /// A file of the policy may have changed.
    Files,
    /// Somebody wants the policy read now.
    Reload,
    /// [`Task::Read`] found a policy to put in force.
    Accepted,
    /// [`Task::Read`] found a policy that is not put in force, for this reason.
    Rejected(String),
    /// Something else is wanted, though the policy is what it was.
    Wanted,
    /// The result of [`Task::Converge`]: whether anything had to be sent.
    Converged(Result<bool, Failure>),
    /// A deadline passed; nothing else happened.
    Tick,
}

/// Why rules could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One sentence.
    pub why: String,
    /// Whether peerwall's rules may be missing, so that the host may be open.
    pub is_open: bool,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Read the policy.
    Read,
    /// Make the rules be what is wanted.
    Converge(Why),
}

/// Why rules are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The agent starts.
    Start,
    /// The policy is another.
    Policy,
    /// Somebody changed the rules.
    Repair(Vec<Culprit>),
    /// It is not known whether somebody did.
    Resync,
    /// It failed before.
    Retry,
}

/// Things that are to be done at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    at: Time,
    why: Why,
}

/// The last repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// When.
    pub at: Time,
    /// Who made it necessary, as far as it is known.
    pub culprits: Vec<Culprit>,
}

/// Belief and intentions.
#[derive(Debug, Clone)]
pub struct Reconcile {
    /// How often to look although nothing happened, where there are no events.
    poll: Option<Duration>,
    /// Whether there is a policy to keep.
    has_policy: bool,
    read_due: Option<Time>,
    /// When the first of the changes was that have not been read.
    files_since: Option<Time>,
    converge_due: Option<Due>,
    /// Repairs that may be made at once; grows with time.
    tokens: u32,
    tokens_at: Time,
    failures: u32,
    culprits: VecDeque<Culprit>,
    /// Public beliefs, for telling.
    pub in_sync_since: Option<Time>,
    /// The last repair.
    pub last_repair: Option<Repair>,
    /// Repairs so far.
    pub repairs: u64,
    /// Why the rules are not what is wanted.
    pub last_error: Option<String>,
    /// Why the policy is not the one in the file.
    pub policy_error: Option<String>,
    storm_since: Option<Time>,
}

impl Reconcile {
    /// How often to look although nothing happened, from the next time the rules are as they should
    /// be.
    pub fn look_every(&mut self, poll: Option<Duration>) {
        self.poll = poll;
    }

    /// One that knows nothing yet. `poll` is how often to look although nothing happened, where
    /// there are no events.
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

    /// When to be asked again at the latest; `None` if only something that happens can matter.
    pub fn deadline(&self) -> Option<Time> {
        let converge = self.converge_due.as_ref().map(|due| due.at);
        [self.read_due, converge].into_iter().flatten().min()
    }

    /// Whether changes come faster than they may be repaired.
    pub fn is_storm(&self) -> bool {
        self.storm_since.is_some()
    }

    /// Takes in what happened and says what to do now.
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
            // The next change of a file is the next try.
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

    /// At once, or when there is a token again.
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
            // Whatever it was for, it repairs as well.
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

    /// What is due now.
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
