//! What is kept over time: trials and their confirmation, ways back, and what is loaded at boot.
//!
//! Pure: everything that happens goes through a [`World`], which the agent, the commands without an agent and
//! the guard each implement over the kernel and the state directory; tests implement one in memory, with faults,
//! crashes and a clock of their own. What it promises, whatever fails or dies at whatever step:
//!
//! - From boot to `remove`, a ruleset of peerwall is loaded, or the closed one. What cannot be done leaves what
//!   was loaded.
//! - A trial becomes permanent only by [`confirm`], from elsewhere, and only if it came into force.
//! - A policy that was gone back from is not loaded again until its text changes or somebody asks for it.
//! - What did not come into force never comes into force later.
//! - The history has what is in force for good, in order, and nothing twice.
//!
//! The order of steps within each function is the promise: a crash between two of them leaves a state that the
//! next process resolves. A trial is on disk before it is loaded. The history decides before the trial is
//! cleared, and names the trial that it settled.

mod boot;
mod history;
mod judge;
#[cfg(test)]
mod tests;
mod trial;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use boot::{Boot, Booted, boot};
pub use history::{Added, RolledBack, apply, keep, remove, roll_back, update};
pub use judge::{Reading, Situation, judge};
pub use trial::{Ending, confirm, go_back, try_out, waiting};

/// Confirmed rulesets that are kept: the number that can be gone back through, and one to compare with.
pub const KEPT: usize = 6;
/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// One sentence.
    pub text: String,
    /// Whether the same may succeed a moment later: out of memory, buffers or files, a lock that is held.
    pub is_passing: bool,
    /// Whether it may have been done all the same.
    pub is_unknown: bool,
    /// Whether this host lacks what the backend needs, so that the other one may succeed.
    pub is_lack: bool,
}

impl Fault {
    /// One that changed nothing and will not pass.
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

/// The time: of this boot (`CLOCK_BOOTTIME`, which nobody can set), and which boot it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// `/proc/sys/kernel/random/boot_id`; empty if it cannot be read, which is no other boot.
    pub boot: String,
    /// Milliseconds since the boot, suspended time included.
    pub millis: u64,
}

/// What is known of a ruleset that was in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts on from 1.
    pub number: u64,
    /// When it came into force, as RFC 3339 in UTC.
    pub time: String,
    /// The policy's path.
    pub policy: String,
    /// SHA-256 of the policy's text: its file and what that includes, not lists or what is discovered.
    pub digest: String,
    /// Whether iptables held it, and not nf_tables.
    #[serde(default)]
    pub by_iptables: bool,
    /// Whether its policy ends open connections that it refuses and the one before admitted.
    #[serde(default = "yes")]
    pub cut: bool,
}

fn yes() -> bool {
    true
}

/// A compiled ruleset and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept<R> {
    /// What is known of it.
    pub entry: Entry,
    /// The ruleset.
    pub ruleset: R,
}

/// What a trial goes back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before<R> {
    /// What is known of it; nothing of what others loaded.
    #[serde(default)]
    pub entry: Option<Entry>,
    /// The ruleset loaded before; `None` if peerwall had none.
    pub ruleset: Option<R>,
    /// Whether iptables held it.
    #[serde(default)]
    pub by_iptables: bool,
    /// Whether connections end that only the trial admitted.
    #[serde(default = "yes")]
    pub cut: bool,
}

/// A ruleset in force that is rolled back unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial<R, C> {
    /// Tells it from every other trial.
    pub id: u64,
    /// What is tried.
    pub new: Kept<R>,
    /// What comes back.
    pub before: Before<R>,
    /// When it is rolled back, in milliseconds of [`Clock::millis`].
    pub until: u64,
    /// The boot that this counts in; a trial does not survive another.
    pub boot: String,
    /// Who tries it: a connection and a terminal, which are no proof of a new one.
    pub from: C,
    /// Whether it came into force. One that did not cannot be confirmed.
    #[serde(default)]
    pub is_loaded: bool,
    /// How long it has in all, in seconds.
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

    /// Whether it began in this boot, or in one that is not known to be another.
    pub fn is_of_this_boot(&self, clock: &Clock) -> bool {
        clock.boot.is_empty() || self.boot == clock.boot
    }

    /// How long it has left.
    pub fn left(&self, clock: &Clock) -> Duration {
        match self.is_of_this_boot(clock) {
            true => Duration::from_millis(self.until.saturating_sub(clock.millis)),
            false => Duration::ZERO,
        }
    }

    /// The same in seconds, rounded up.
    pub fn seconds_left(&self, clock: &Clock) -> u64 {
        let millis = self.left(clock).as_millis().div_ceil(1000);
        u64::try_from(millis).unwrap_or(u64::MAX)
    }

    /// Whether its time is over.
    pub fn is_over(&self, clock: &Clock) -> bool {
        self.left(clock).is_zero()
    }
}

/// What was confirmed, and what was gone back from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The last ones that were confirmed, the newest last.
    pub kept: Vec<Entry>,
    /// Digest of a policy that was gone back from: it is not loaded again until its text changes.
    pub refused: Option<String>,
    /// The last trial that was confirmed or gone back from: what is left of it on disk means nothing.
    #[serde(default)]
    pub settled: Option<u64>,
}

impl History {
    /// The newest entry.
    pub fn last(&self) -> Option<&Entry> {
        self.kept.last()
    }
}

/// Something that happened, for the audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// In force for good.
    Applied,
    /// In force until its time is over.
    Tried,
    /// A trial that was confirmed.
    Confirmed,
    /// A trial whose time was over.
    RanOut,
    /// A trial that ended because the agent, or its guard, was stopped.
    Stopped,
    /// Gone back from by somebody.
    RolledBack,
    /// Loaded at boot.
    Booted,
    /// No rules of peerwall are loaded any more.
    Removed,
}

/// An event for the audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'r> {
    /// What happened.
    pub kind: Kind,
    /// The ruleset that it happened to; `None` if nothing is known of it.
    pub entry: Option<&'r Entry>,
    /// How long a trial has, or had, in seconds.
    pub seconds: Option<u64>,
}

/// What the machine acts on. A method that fails has changed nothing, unless its [`Fault`] says that this is not
/// known.
pub trait World {
    /// A compiled ruleset.
    type Ruleset: Clone + PartialEq;
    /// Where somebody calls from.
    type Caller: Clone;

    /// The time.
    fn clock(&self) -> Clock;

    /// What was confirmed.
    ///
    /// # Errors
    /// If it cannot be read.
    fn history(&mut self) -> Result<History, Fault>;

    /// Replaces it, atomically and durably.
    ///
    /// # Errors
    /// If it cannot be written.
    fn set_history(&mut self, history: &History) -> Result<(), Fault>;

    /// The trial on disk, settled ones included.
    ///
    /// # Errors
    /// If it cannot be read.
    fn trial(&mut self) -> Result<Option<TrialOf<Self>>, Fault>;

    /// Replaces it, atomically and durably.
    ///
    /// # Errors
    /// If it cannot be written.
    fn set_trial(&mut self, trial: Option<&TrialOf<Self>>) -> Result<(), Fault>;

    /// The ruleset of an entry.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged or empty.
    fn stored(&mut self, entry: &Entry) -> Result<Self::Ruleset, Fault>;

    /// Stores the ruleset of an entry.
    ///
    /// # Errors
    /// If it cannot be written.
    fn store(&mut self, number: u64, ruleset: &Self::Ruleset) -> Result<(), Fault>;

    /// Makes a ruleset be in force, in the place of whatever is; nothing happens if it is already.
    ///
    /// # Errors
    /// If it cannot be loaded.
    fn load(&mut self, kept: &Kept<Self::Ruleset>) -> Result<(), Fault>;

    /// Removes what is ours. Returns whether there was anything.
    ///
    /// # Errors
    /// If it cannot be removed.
    fn unload(&mut self) -> Result<bool, Fault>;

    /// Compiles the text of an entry's policy with today's lists and this host's addresses; `None` if the text is
    /// not known, or a list cannot be read.
    fn recompile(&mut self, entry: &Entry) -> Option<Self::Ruleset>;

    /// Starts the process that goes back if everything else dies.
    ///
    /// # Errors
    /// If it cannot be started.
    fn start_guard(&mut self) -> Result<(), Fault>;

    /// Whether a call from here shows nothing that the first did not.
    fn is_same(&self, here: &Self::Caller, first: &Self::Caller) -> bool;

    /// Adds to the audit trail. If that fails, it warns, and everything else goes on.
    fn record(&mut self, record: Record<'_>);

    /// Waits.
    fn pause(&mut self, time: Duration);
}

pub(super) type TrialOf<W> = Trial<<W as World>::Ruleset, <W as World>::Caller>;

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A trial waits to be confirmed.
    Waits {
        /// The policy that is tried.
        policy: String,
        /// For how long yet.
        seconds: u64,
    },
    /// Nothing waits to be confirmed.
    NothingWaits,
    /// Confirmed from where it was tried.
    SameCaller,
    /// Its time is over, or the machine was started again.
    TooLate,
    /// It never came into force.
    NotInForce,
    /// There is no earlier ruleset to go back to.
    NothingBefore,
    /// It could not be made sure that it goes back.
    NoWayBack(Fault),
    /// It could not be loaded.
    NotLoaded(Fault),
    /// It could not be read or written.
    State(Fault),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waits { policy, seconds } => write!(
                f,
                "{policy} is on trial for {seconds} s yet: `peerwall confirm` it from a new connection, or end it with `peerwall rollback`, then try again"
            ),
            Self::NothingWaits => f.write_str("nothing waits to be confirmed"),
            Self::SameCaller => f.write_str(
                "not confirmed: use a new ssh connection or terminal. This session existed before the change, so it proves nothing",
            ),
            Self::TooLate => f.write_str("too late: the trial is over and was rolled back"),
            Self::NotInForce => f.write_str("not confirmed: the trial never came into force"),
            Self::NothingBefore => f.write_str("there is no earlier confirmed ruleset"),
            Self::NoWayBack(fault) => {
                write!(f, "not applied: could not save the way back: {fault}")
            }
            Self::NotLoaded(fault) | Self::State(fault) => write!(f, "{fault}"),
        }
    }
}

impl std::error::Error for Refusal {}
