//! State over time: trials, confirmations, rollbacks, and rules at boot.
//!
//! Pure: all I/O goes through a [`World`]. The agent, the commands without an agent and the guard
//! implement it over the kernel and the state directory; tests implement it in memory, with faults,
//! crashes and a simulated clock. Guarantees, after failures and crashes at any step:
//!
//! - From boot to `remove`, a ruleset of a policy or the closed one is loaded. A failed operation
//!   leaves the loaded ruleset in place.
//! - A trial becomes permanent only by [`confirm`] from another connection, and only if it was
//!   loaded.
//! - A policy that was rolled back is not loaded again until its text changes or a command requests
//!   it.
//! - A ruleset that could not be loaded is never loaded later.
//! - The history contains the permanent rulesets in order, without repeated entries.
//! - While the last entry is a block, no other ruleset is loaded, except by [`unblock`]. The block
//!   leaves the entries before it and the rolled back policy as they were.
//!
//! The order of the steps in each function ensures this: after a crash between two steps, the next
//! process resolves the state. A trial is on disk before it is loaded. The history is written
//! before the trial is cleared, and contains the number of the settled trial.

mod block;
mod boot;
mod history;
mod judge;
mod record;
#[cfg(test)]
mod tests;
mod trial;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use block::{blocked_by, unblock, unblocked};
pub use boot::{Boot, Booted, boot};
pub use history::{RolledBack, apply, keep, remove, roll_back};
pub use judge::{Reading, Situation, judge};
pub use record::{Added, update};
pub use trial::{Ending, confirm, go_back, try_out, waiting};

/// Number of confirmed rulesets that are kept: those that a rollback can reach, and one to compare
/// with.
pub const KEPT: usize = 6;
/// Failure of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Message.
    pub text: String,
    /// Whether the failure is temporary: a lack of memory, buffers or file descriptors, or a busy
    /// lock.
    pub is_passing: bool,
    /// Whether the step may have been executed.
    pub is_unknown: bool,
    /// Whether this host lacks a feature of the backend, so that the other backend may succeed.
    pub is_lack: bool,
}

impl Fault {
    /// Creates a permanent failure that changed nothing.
    pub fn new(text: impl ToString) -> Self {
        Self {
            text: text.to_string(),
            is_passing: false,
            is_unknown: false,
            is_lack: false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

/// Time since boot (`CLOCK_BOOTTIME`, which cannot be set), with the identity of the boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// `/proc/sys/kernel/random/boot_id`; empty if it cannot be read, which does not count as
    /// another boot.
    pub boot: String,
    /// Milliseconds since boot, including suspended time.
    pub millis: u64,
}

/// Metadata of a ruleset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number, from 1.
    pub number: u64,
    /// Time when the ruleset was applied, as RFC 3339 in UTC.
    pub time: String,
    /// Path of the policy.
    pub policy: String,
    /// SHA-256 of the policy's text: its file and its includes, without lists and discovered facts.
    pub digest: String,
    /// Whether the backend was iptables instead of nf_tables.
    #[serde(default)]
    pub by_iptables: bool,
    /// Whether applying the policy ends open connections that it refuses and the previous policy
    /// admitted.
    #[serde(default = "yes")]
    pub cut: bool,
    /// Whether it blocks the host: no policy is applied until [`unblock`].
    #[serde(default)]
    pub is_block: bool,
}

fn yes() -> bool {
    true
}

/// Compiled ruleset with its metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept<R> {
    /// Metadata.
    pub entry: Entry,
    /// Ruleset.
    pub ruleset: R,
}

/// State before a trial, to which a rollback returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before<R> {
    /// Metadata; `None` if the ruleset is not in the history.
    #[serde(default)]
    pub entry: Option<Entry>,
    /// Loaded ruleset; `None` if there was none.
    pub ruleset: Option<R>,
    /// Whether the backend was iptables.
    #[serde(default)]
    pub by_iptables: bool,
    /// Whether a rollback ends connections that only the trial admitted.
    #[serde(default = "yes")]
    pub cut: bool,
}

/// Ruleset that is rolled back unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial<R, C> {
    /// Unique number of the trial.
    pub id: u64,
    /// Ruleset on trial.
    pub new: Kept<R>,
    /// State before the trial.
    pub before: Before<R>,
    /// Deadline, in milliseconds of [`Clock::millis`].
    pub until: u64,
    /// Boot of the deadline. A trial ends at a reboot.
    pub boot: String,
    /// Connection and terminal of the caller, from which the trial cannot be confirmed.
    pub from: C,
    /// Whether the ruleset was loaded. Otherwise the trial cannot be confirmed.
    #[serde(default)]
    pub is_loaded: bool,
    /// Total duration in seconds.
    #[serde(default)]
    pub seconds: u64,
}

impl<R, C> Trial<R, C> {
    fn record(&self, kind: Kind) -> Record<'_> {
        Record {
            kind,
            entry: Some(&self.new.entry),
            seconds: Some(self.seconds),
        }
    }

    /// Returns whether the trial started in this boot. An unknown boot counts as this one.
    pub fn is_of_this_boot(&self, clock: &Clock) -> bool {
        clock.boot.is_empty() || self.boot == clock.boot
    }

    /// Returns the remaining time.
    pub fn left(&self, clock: &Clock) -> Duration {
        match self.is_of_this_boot(clock) {
            true => Duration::from_millis(self.until.saturating_sub(clock.millis)),
            false => Duration::ZERO,
        }
    }

    /// Returns the remaining time in seconds, rounded up.
    pub fn seconds_left(&self, clock: &Clock) -> u64 {
        let millis = self.left(clock).as_millis().div_ceil(1000);
        u64::try_from(millis).unwrap_or(u64::MAX)
    }

    /// Returns whether the deadline has passed.
    pub fn is_over(&self, clock: &Clock) -> bool {
        self.left(clock).is_zero()
    }
}

/// Confirmed rulesets and the last rollback.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Last confirmed rulesets, the newest last.
    pub kept: Vec<Entry>,
    /// Digest of the policy that was rolled back. It is not loaded again until its text changes.
    pub refused: Option<String>,
    /// Number of the last trial that was confirmed or rolled back. Its remains on disk are ignored.
    #[serde(default)]
    pub settled: Option<u64>,
}

impl History {
    /// Returns the newest entry.
    pub fn last(&self) -> Option<&Entry> {
        self.kept.last()
    }

    /// Returns the entry that blocks the host.
    pub fn block(&self) -> Option<&Entry> {
        self.last().filter(|last| last.is_block)
    }
}

/// Kind of an event in the audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A ruleset was applied permanently.
    Applied,
    /// A trial started.
    Tried,
    /// A trial was confirmed.
    Confirmed,
    /// A trial ended because its time was over.
    RanOut,
    /// A trial ended because the agent or the guard was stopped.
    Stopped,
    /// A command rolled a ruleset back.
    RolledBack,
    /// A ruleset was loaded at boot.
    Booted,
    /// The rules were removed.
    Removed,
    /// The host was blocked, permanently or on trial.
    Blocked,
    /// The block ended.
    Unblocked,
}

/// Event for the audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'r> {
    /// Kind.
    pub kind: Kind,
    /// Affected ruleset, if known.
    pub entry: Option<&'r Entry>,
    /// Total duration of the trial in seconds.
    pub seconds: Option<u64>,
}

/// I/O of the state machine. A method that fails has changed nothing, unless [`Fault::is_unknown`]
/// is set.
pub trait World {
    /// Compiled ruleset.
    type Ruleset: Clone + PartialEq;
    /// Connection and terminal of a caller.
    type Caller: Clone;

    /// Returns the time.
    fn clock(&self) -> Clock;

    /// Reads the history.
    ///
    /// # Errors
    /// If the history cannot be read.
    fn history(&mut self) -> Result<History, Fault>;

    /// Replaces the history, atomically and durably.
    ///
    /// # Errors
    /// If the history cannot be written.
    fn set_history(&mut self, history: &History) -> Result<(), Fault>;

    /// Reads the trial on disk, including a settled one.
    ///
    /// # Errors
    /// If the trial cannot be read.
    fn trial(&mut self) -> Result<Option<TrialOf<Self>>, Fault>;

    /// Replaces the trial, atomically and durably.
    ///
    /// # Errors
    /// If the trial cannot be written.
    fn set_trial(&mut self, trial: Option<&TrialOf<Self>>) -> Result<(), Fault>;

    /// Reads the stored ruleset of an entry.
    ///
    /// # Errors
    /// If the ruleset cannot be read, or is damaged or empty.
    fn stored(&mut self, entry: &Entry) -> Result<Self::Ruleset, Fault>;

    /// Returns whether exactly this ruleset is stored for an entry; `false` also if that cannot be
    /// determined. A world may know without reading the ruleset.
    fn is_stored(&mut self, entry: &Entry, ruleset: &Self::Ruleset) -> bool {
        self.stored(entry).as_ref() == Ok(ruleset)
    }

    /// Stores the ruleset of an entry.
    ///
    /// # Errors
    /// If the ruleset cannot be written.
    fn store(&mut self, number: u64, ruleset: &Self::Ruleset) -> Result<(), Fault>;

    /// Loads a ruleset in place of the current one. Does nothing if it is already loaded.
    ///
    /// # Errors
    /// If the ruleset cannot be loaded.
    fn load(&mut self, kept: &Kept<Self::Ruleset>) -> Result<(), Fault>;

    /// Removes peerwall's rules. Returns whether there were any.
    ///
    /// # Errors
    /// If the rules cannot be removed.
    fn unload(&mut self) -> Result<bool, Fault>;

    /// Compiles the text of an entry's policy with the current lists and addresses of this host;
    /// `None` if the text is unknown, or a list cannot be read.
    fn recompile(&mut self, entry: &Entry) -> Option<Self::Ruleset>;

    /// Starts the guard, a process that rolls the trial back if every other process dies.
    ///
    /// # Errors
    /// If the guard cannot be started.
    fn start_guard(&mut self) -> Result<(), Fault>;

    /// Returns whether a confirmation from `here` proves no more than the call from `first`.
    fn is_same(&self, here: &Self::Caller, first: &Self::Caller) -> bool;

    /// Adds an event to the audit trail. A failure only causes a warning.
    fn record(&mut self, record: Record<'_>);

    /// Sleeps.
    fn pause(&mut self, time: Duration);
}

pub(super) type TrialOf<W> = Trial<<W as World>::Ruleset, <W as World>::Caller>;

/// Reason for refusing an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A trial is waiting for confirmation.
    Waits {
        /// Policy on trial.
        policy: String,
        /// Remaining time in seconds.
        seconds: u64,
    },
    /// The host is blocked.
    Blocked,
    /// The host is not blocked.
    NotBlocked,
    /// No trial is waiting for confirmation.
    NothingWaits,
    /// The confirmation came from the connection or terminal that started the trial.
    SameCaller,
    /// The time of the trial is over, or the machine rebooted.
    TooLate,
    /// The ruleset on trial was never loaded.
    NotInForce,
    /// There is no earlier ruleset for a rollback.
    NothingBefore,
    /// The rollback of a trial could not be prepared.
    NoWayBack(Fault),
    /// The ruleset could not be loaded.
    NotLoaded(Fault),
    /// The state could not be read or written.
    State(Fault),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waits { policy, seconds } => write!(
                f,
                "{policy} is on trial for another {seconds} s: run `peerwall confirm` from a new \
                 connection, or `peerwall rollback`, then try again"
            ),
            Self::Blocked => f.write_str(
                "this host is blocked; `peerwall unblock` goes back to the policy from before",
            ),
            Self::NotBlocked => f.write_str("this host is not blocked"),
            Self::NothingWaits => f.write_str("no trial is waiting for confirmation"),
            Self::SameCaller => f.write_str(
                "not confirmed: use a new ssh connection or terminal. This session existed before \
                 the change, so it proves nothing",
            ),
            Self::TooLate => f.write_str("too late: the trial is over and was rolled back"),
            Self::NotInForce => f.write_str("not confirmed: the ruleset on trial was never loaded"),
            Self::NothingBefore => {
                f.write_str("not rolled back: no earlier confirmed ruleset exists")
            }
            Self::NoWayBack(fault) => {
                write!(f, "not applied: could not prepare the rollback: {fault}")
            }
            Self::NotLoaded(fault) | Self::State(fault) => write!(f, "{fault}"),
        }
    }
}

impl std::error::Error for Refusal {}
