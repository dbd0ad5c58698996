//! What is kept over time: trials and their confirmation, ways back, and what is loaded at boot.
//!
//! Pure: everything that happens goes through a [`World`], which the agent, the commands without an agent and
//! the guard each implement over the kernel and the state directory; tests implement one in memory, with faults,
//! crashes and a clock of their own. What it promises, whatever fails or dies at whatever step:
//!
//! - From boot to `remove`, some ruleset of ours is loaded, or the closed one. What cannot be done leaves what
//!   was loaded.
//! - A trial becomes permanent only by [`confirm`], from elsewhere, and only if it came into force.
//! - A policy that was gone back from is not loaded again until its text changes or somebody asks for it.
//! - What did not come into force never comes into force later.
//! - The history has what is in force for good, in order, and nothing twice.
//!
//! The order of steps within each function is the promise: a crash between two of them leaves a state that the
//! next process resolves. A trial is on disk before it is loaded. The history decides before the trial is
//! cleared, and names the trial that it settled.

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Confirmed rulesets that are kept: the number that can be gone back through, and one to compare with.
pub const KEPT: usize = 6;
/// How often a load is tried at boot if what fails may pass.
const BOOT_TRIES: u32 = 5;
/// Between two tries at boot.
const BOOT_PAUSE: Duration = Duration::from_millis(200);

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
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
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
    /// What was loaded; `None` if nothing of ours was.
    pub ruleset: Option<R>,
    /// Whether iptables held it.
    #[serde(default)]
    pub by_iptables: bool,
    /// Whether connections end that only the trial admitted.
    #[serde(default = "yes")]
    pub cut: bool,
}

/// A ruleset in force that goes away unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial<R, C> {
    /// Tells it from every other trial.
    pub id: u64,
    /// What is tried.
    pub new: Kept<R>,
    /// What comes back.
    pub before: Before<R>,
    /// When it goes away, in milliseconds of [`Clock::millis`].
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

    /// The same in seconds, each begun one a whole one.
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
    /// Nothing of ours is loaded any more.
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

type TrialOf<W> = Trial<<W as World>::Ruleset, <W as World>::Caller>;

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
            Self::TooLate => f.write_str("too late: the trial is over, and what was before is back"),
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

/// The trial that waits to be confirmed, if one does. What is left of a settled one is cleared.
///
/// # Errors
/// [`Fault`] if that cannot be read.
pub fn waiting<W: World>(world: &mut W) -> Result<Option<TrialOf<W>>, Fault> {
    let Some(trial) = world.trial()? else {
        return Ok(None);
    };
    if world.history()?.settled == Some(trial.id) {
        // Whoever settled it died before this.
        world.set_trial(None)?;
        return Ok(None);
    }
    Ok(Some(trial))
}

/// Refuses if a trial waits: it ends only on purpose. One whose time is over has nobody left who ends it, and is
/// gone back from.
fn nothing_waits<W: World>(world: &mut W) -> Result<(), Refusal> {
    let Some(trial) = waiting(world).map_err(Refusal::State)? else {
        return Ok(());
    };
    let clock = world.clock();
    if trial.is_over(&clock) {
        go_back(world, Some(trial.id), Ending::RanOut).map_err(Refusal::State)?;
        return Ok(());
    }
    let seconds = trial.seconds_left(&clock);
    Err(Refusal::Waits {
        policy: trial.new.entry.policy,
        seconds,
    })
}

/// Puts a ruleset in force that goes away unless it is confirmed; the trial.
///
/// # Errors
/// [`Refusal`]; then what was in force is, and nothing is left of the trial.
pub fn try_out<W: World>(
    world: &mut W,
    new: Kept<W::Ruleset>,
    before: Before<W::Ruleset>,
    time: Duration,
    from: W::Caller,
) -> Result<TrialOf<W>, Refusal> {
    nothing_waits(world)?;
    let clock = world.clock();
    if clock.boot.is_empty() {
        // Nobody could tell later whether what was before was loaded in this boot.
        let why = "/proc/sys/kernel/random/boot_id cannot be read";
        return Err(Refusal::NoWayBack(Fault::new(why)));
    }
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let settled = world.history().map_err(Refusal::State)?.settled;
    let mut trial = Trial {
        id: settled.map_or(1, |last| last.wrapping_add(1)),
        new,
        before,
        until: clock.millis.saturating_add(millis),
        boot: clock.boot,
        from,
        is_loaded: false,
        seconds: time.as_secs(),
    };
    world.set_trial(Some(&trial)).map_err(Refusal::NoWayBack)?;
    if let Err(fault) = world.start_guard() {
        forget(world, &trial);
        return Err(Refusal::NoWayBack(fault));
    }
    if let Err(fault) = world.load(&trial.new) {
        abandon(world, &trial, fault.is_unknown);
        return Err(Refusal::NotLoaded(fault));
    }
    trial.is_loaded = true;
    if let Err(fault) = world.set_trial(Some(&trial)) {
        // It could never be confirmed.
        abandon(world, &trial, true);
        return Err(Refusal::NoWayBack(fault));
    }
    world.record(trial.record(Kind::Tried));
    Ok(trial)
}

/// A trial that did not come about: what was before is loaded if that is in doubt, and nothing is left of it. If
/// that fails, the guard does it when the time is over.
fn abandon<W: World>(world: &mut W, trial: &TrialOf<W>, is_in_doubt: bool) {
    if !is_in_doubt || restore(world, trial).is_ok() {
        forget(world, trial);
    }
}

/// Clears a trial. Where that fails, the history says that it is settled; where that fails too, it is still not
/// loaded, so that nobody can confirm it.
fn forget<W: World>(world: &mut W, trial: &TrialOf<W>) {
    if world.set_trial(None).is_ok() {
        return;
    }
    if let Ok(mut history) = world.history() {
        history.settled = Some(trial.id);
        let _ = world.set_history(&history);
    }
}

/// Loads a ruleset that was compiled earlier, with the members that its lists have today, so that no peer that
/// joined meanwhile is locked out. Returns what is in force.
fn load_with_lists<W: World>(
    world: &mut W,
    kept: &Kept<W::Ruleset>,
) -> Result<Kept<W::Ruleset>, Fault> {
    let ruleset = world.recompile(&kept.entry);
    if let Some(ruleset) = ruleset.filter(|ruleset| *ruleset != kept.ruleset) {
        let today = Kept {
            ruleset,
            entry: kept.entry.clone(),
        };
        match world.load(&today) {
            Ok(()) => return Ok(today),
            Err(fault) if fault.is_passing => return Err(fault),
            // What was in force once is better than nothing.
            Err(_) => {}
        }
    }
    world.load(kept)?;
    Ok(kept.clone())
}

/// Loads what was before a trial.
fn restore<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<(), Fault> {
    let before = &trial.before;
    let Some(ruleset) = before.ruleset.clone() else {
        return world.unload().map(drop);
    };
    let unknown = || Entry {
        policy: "what was loaded before".to_owned(),
        digest: String::new(),
        ..trial.new.entry.clone()
    };
    let kept = Kept {
        entry: Entry {
            by_iptables: before.by_iptables,
            cut: before.cut,
            ..before.entry.clone().unwrap_or_else(unknown)
        },
        ruleset,
    };
    let loaded = load_with_lists(world, &kept)?;
    // Only the next boot would miss it.
    let _ = update(world, &loaded);
    Ok(())
}

/// Why a trial ends without being confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its time is over.
    RanOut,
    /// The agent or the guard is stopped, and may be the last process that could go back.
    Stopped,
    /// Somebody wants it.
    RolledBack,
}

impl Ending {
    fn kind(self) -> Kind {
        match self {
            Self::RanOut => Kind::RanOut,
            Self::Stopped => Kind::Stopped,
            Self::RolledBack => Kind::RolledBack,
        }
    }
}

/// Goes back from the trial that waits, or only from that of this number; the trial, if there was one.
///
/// # Errors
/// [`Fault`] if what was before cannot be loaded, or if that it was cannot be written. Then it still waits, and
/// this is to be called again.
pub fn go_back<W: World>(
    world: &mut W,
    only: Option<u64>,
    why: Ending,
) -> Result<Option<TrialOf<W>>, Fault> {
    let found = waiting(world)?;
    let Some(trial) = found.filter(|trial| only.is_none_or(|id| id == trial.id)) else {
        return Ok(None);
    };
    if !trial.is_of_this_boot(&world.clock()) {
        // What was before is not what was in force before this boot.
        drop_trial(world, &trial)?;
        return Ok(None);
    }
    restore(world, &trial)?;
    settle(world, &trial)?;
    world.record(trial.record(why.kind()));
    Ok(Some(trial))
}

/// Notes that a trial was gone back from.
fn settle<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<(), Fault> {
    let mut history = world.history()?;
    history.settled = Some(trial.id);
    if trial.is_loaded {
        history.refused = Some(trial.new.entry.digest.clone());
    }
    world.set_history(&history)?;
    // What is left of it means nothing now.
    let _ = world.set_trial(None);
    Ok(())
}

/// A trial of an earlier boot: it is not in force any more.
fn drop_trial<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<(), Fault> {
    settle(world, trial)?;
    world.record(trial.record(Kind::RanOut));
    Ok(())
}

/// Makes the trial permanent.
///
/// # Errors
/// [`Refusal`]; then it still waits, or never did.
pub fn confirm<W: World>(world: &mut W, here: &W::Caller) -> Result<TrialOf<W>, Refusal> {
    let Some(trial) = waiting(world).map_err(Refusal::State)? else {
        return Err(Refusal::NothingWaits);
    };
    if world.is_same(here, &trial.from) {
        return Err(Refusal::SameCaller);
    }
    if trial.is_over(&world.clock()) {
        return Err(Refusal::TooLate);
    }
    if !trial.is_loaded {
        return Err(Refusal::NotInForce);
    }
    // What is confirmed is in force, whoever changed it meanwhile.
    let loaded = load_with_lists(world, &trial.new).map_err(Refusal::NotLoaded)?;
    let added = add(world, &loaded, Some(trial.id)).map_err(Refusal::State)?;
    let _ = world.set_trial(None);
    world.record(Record {
        entry: Some(&added.entry),
        ..trial.record(Kind::Confirmed)
    });
    Ok(trial)
}

/// Puts a ruleset in force for good.
///
/// # Errors
/// [`Refusal::Waits`], [`Refusal::NotLoaded`]; [`Refusal::State`] if it is in force, but the next boot will not
/// load it.
pub fn apply<W: World>(world: &mut W, new: &Kept<W::Ruleset>) -> Result<(), Refusal> {
    nothing_waits(world)?;
    world.load(new).map_err(Refusal::NotLoaded)?;
    keep(world, new).map_err(Refusal::State)
}

/// Removes whatever ruleset of ours is in force. Returns whether there was one.
///
/// # Errors
/// [`Refusal::Waits`], since the trial's guard would load what was before; [`Refusal::NotLoaded`] if it cannot be
/// removed.
pub fn remove<W: World>(world: &mut W) -> Result<bool, Refusal> {
    nothing_waits(world)?;
    let was_loaded = world.unload().map_err(Refusal::NotLoaded)?;
    if was_loaded {
        world.record(of(Kind::Removed, None));
    }
    Ok(was_loaded)
}

/// Notes a ruleset that is in force for good. The same text once more is no new entry; what it means on this host
/// may be another ruleset.
///
/// # Errors
/// [`Fault`] if that cannot be read or written.
pub fn keep<W: World>(world: &mut W, new: &Kept<W::Ruleset>) -> Result<(), Fault> {
    let added = add(world, new, None)?;
    if added.is_new {
        world.record(of(Kind::Applied, Some(&added.entry)));
    }
    Ok(())
}

/// Stores the ruleset that the last entry's policy means now that a list or this host's addresses changed, for the
/// next boot. The history stays as it is.
///
/// # Errors
/// [`Fault`] if that cannot be read or written.
pub fn update<W: World>(world: &mut W, kept: &Kept<W::Ruleset>) -> Result<(), Fault> {
    let history = world.history()?;
    let last = history.last();
    match last.filter(|last| last.digest == kept.entry.digest) {
        Some(last) => store_changed(world, last, &kept.ruleset),
        None => Ok(()),
    }
}

fn store_changed<W: World>(
    world: &mut W,
    entry: &Entry,
    ruleset: &W::Ruleset,
) -> Result<(), Fault> {
    if world.stored(entry).as_ref() == Ok(ruleset) {
        return Ok(());
    }
    world.store(entry.number, ruleset)
}

/// A record of something that is no trial.
fn of(kind: Kind, entry: Option<&Entry>) -> Record<'_> {
    Record {
        kind,
        entry,
        seconds: None,
    }
}

/// The last entry of the history.
struct Added {
    entry: Entry,
    is_new: bool,
}

/// Adds to the history.
fn add<W: World>(
    world: &mut W,
    new: &Kept<W::Ruleset>,
    settles: Option<u64>,
) -> Result<Added, Fault> {
    let mut history = world.history()?;
    let digest = &new.entry.digest;
    let last = history.last();
    let same = last.filter(|last| last.digest == *digest);
    let is_new = same.is_none();
    let entry = match same {
        Some(last) => {
            store_changed(world, last, &new.ruleset)?;
            last.clone()
        }
        None => {
            let number = last.map_or(1, |last| last.number + 1);
            world.store(number, &new.ruleset)?;
            let entry = Entry {
                number,
                ..new.entry.clone()
            };
            history.kept.push(entry.clone());
            entry
        }
    };
    let changed = is_new || history.refused.is_some() || settles.is_some();
    if is_new {
        let extra = history.kept.len().saturating_sub(KEPT);
        history.kept.drain(..extra);
    }
    history.refused = None;
    history.settled = settles.or(history.settled);
    if changed {
        world.set_history(&history)?;
    }
    Ok(Added { entry, is_new })
}

/// What came of going back by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolledBack {
    /// A trial ended; with what could not be noted of that.
    Trial(Option<Fault>),
    /// This entry is in force again; with what could not be noted of that.
    To(Entry, Option<Fault>),
}

/// Ends the trial that waits, or goes back to the ruleset before the last one.
///
/// # Errors
/// [`Refusal`]; then everything is as it was.
pub fn roll_back<W: World>(world: &mut W) -> Result<RolledBack, Refusal> {
    if let Some(trial) = waiting(world).map_err(Refusal::State)? {
        if trial.is_of_this_boot(&world.clock()) {
            restore(world, &trial).map_err(Refusal::NotLoaded)?;
            let noted = settle(world, &trial);
            if noted.is_err() {
                // It is over all the same, unless it can be neither noted nor cleared.
                let _ = world.set_trial(None);
            }
            world.record(trial.record(Kind::RolledBack));
            return Ok(RolledBack::Trial(noted.err()));
        }
        drop_trial(world, &trial).map_err(Refusal::State)?;
    }
    let mut history = world.history().map_err(Refusal::State)?;
    let undone = history.kept.pop();
    let Some(entry) = history.last().cloned() else {
        return Err(Refusal::NothingBefore);
    };
    let ruleset = world.stored(&entry).map_err(Refusal::State)?;
    let kept = Kept {
        entry: entry.clone(),
        ruleset,
    };
    let loaded = load_with_lists(world, &kept).map_err(Refusal::NotLoaded)?;
    history.refused = undone.as_ref().map(|entry| entry.digest.clone());
    let noted = world.set_history(&history);
    let noted = noted.and_then(|()| store_changed(world, &entry, &loaded.ruleset));
    world.record(of(Kind::RolledBack, undone.as_ref()));
    Ok(RolledBack::To(entry, noted.err()))
}

/// What was loaded at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Booted {
    /// What was confirmed last, or an earlier one.
    Confirmed(Entry),
    /// The policy: nothing that was confirmed could be loaded.
    Policy(Entry),
    /// The closed ruleset.
    Closed,
    /// Nothing: not even that could be loaded.
    Nothing,
}

/// What boot came to, and what went wrong on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// What is in force.
    pub booted: Booted,
    /// Sentences, in order.
    pub problems: Vec<String>,
}

/// Loads what was confirmed last; else what was confirmed before; else one of these by the other backend, where the host lacks
/// what their own needs; else the policy; else `closed`, each by the other backend too. What fails and may pass is tried
/// again.
pub fn boot<W: World>(
    world: &mut W,
    mut policy: impl FnMut(&mut W) -> Result<Kept<W::Ruleset>, Fault>,
    closed: &Kept<W::Ruleset>,
) -> Boot {
    let mut problems = Vec::new();
    match persist(world, waiting) {
        Ok(None) => {}
        Ok(Some(trial)) => {
            problems.push(format!(
                "{} was still on trial when the machine went down; it is not loaded",
                trial.new.entry.policy
            ));
            problems.extend(drop_trial(world, &trial).err().map(|fault| fault.text));
        }
        Err(fault) => problems.push(fault.text),
    }
    let history = persist(world, W::history).unwrap_or_else(|fault| {
        problems.push(fault.text);
        History::default()
    });
    let mut lacking = Vec::new();
    for entry in history.kept.iter().rev() {
        match load_entry(world, entry) {
            Ok(()) => return booted(world, entry.clone(), Booted::Confirmed, problems),
            Err(fault) => {
                problems.push(format!("number {}: {fault}", entry.number));
                lacking.extend(fault.is_lack.then(|| other_backend(entry)));
            }
        }
    }
    for entry in lacking {
        match load_entry(world, &entry) {
            Ok(()) => return booted(world, entry, Booted::Confirmed, problems),
            Err(fault) => problems.push(format!(
                "number {}, by the other backend: {fault}",
                entry.number
            )),
        }
    }
    let usable = persist(world, &mut policy).and_then(|kept| {
        match history.refused == Some(kept.entry.digest.clone()) {
            true => Err(Fault::new(format!(
                "{} was gone back from",
                kept.entry.policy
            ))),
            false => Ok(kept),
        }
    });
    match usable.and_then(|kept| load_by_either(world, kept, &mut problems)) {
        Ok(entry) => return booted(world, entry, Booted::Policy, problems),
        Err(fault) => problems.push(fault.text),
    }
    match load_by_either(world, closed.clone(), &mut problems) {
        Ok(entry) => booted(world, entry, |_| Booted::Closed, problems),
        Err(fault) => {
            problems.push(fault.text);
            let booted = Booted::Nothing;
            Boot { booted, problems }
        }
    }
}

/// What boot came to, with its line in the audit trail.
fn booted<W: World>(
    world: &mut W,
    entry: Entry,
    how: impl FnOnce(Entry) -> Booted,
    problems: Vec<String>,
) -> Boot {
    world.record(of(Kind::Booted, Some(&entry)));
    let booted = how(entry);
    Boot { booted, problems }
}

/// Loads an entry of the history by the backend that it names.
fn load_entry<W: World>(world: &mut W, entry: &Entry) -> Result<(), Fault> {
    persist(world, |world| {
        let ruleset = world.stored(entry)?;
        let entry = entry.clone();
        world.load(&Kept { entry, ruleset })
    })
}

/// Loads a ruleset, by the other backend if this host lacks what its own needs. Returns the entry with the backend that it
/// was.
fn load_by_either<W: World>(
    world: &mut W,
    kept: Kept<W::Ruleset>,
    problems: &mut Vec<String>,
) -> Result<Entry, Fault> {
    match persist(world, |world| world.load(&kept)) {
        Ok(()) => Ok(kept.entry),
        Err(fault) if fault.is_lack => {
            problems.push(fault.text);
            let entry = other_backend(&kept.entry);
            let kept = Kept { entry, ..kept };
            persist(world, |world| world.load(&kept)).map(|()| kept.entry)
        }
        Err(fault) => Err(fault),
    }
}

/// The same, for the other backend.
fn other_backend(entry: &Entry) -> Entry {
    Entry {
        by_iptables: !entry.by_iptables,
        ..entry.clone()
    }
}

/// Tries again what fails and may pass.
fn persist<W: World, T>(
    world: &mut W,
    mut attempt: impl FnMut(&mut W) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut tries = 1;
    loop {
        match attempt(world) {
            Err(fault) if fault.is_passing && tries < BOOT_TRIES => {
                tries += 1;
                world.pause(BOOT_PAUSE);
            }
            result => return result,
        }
    }
}

/// What an agent knows when it has read its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation<'s> {
    /// Digest of what is to be in force; `None` before anything is.
    pub wanted: Option<&'s str>,
    /// Whether a trial waits.
    pub is_trial: bool,
    /// Digest of a policy that was gone back from.
    pub refused: Option<&'s str>,
    /// Digest of this policy when it was read last; another one may have been confirmed since.
    pub read: Option<&'s str>,
    /// Whether somebody asked for this policy now.
    pub is_asked: bool,
    /// Whether it would lock out every ssh session that is open to this host.
    pub locks_out: bool,
}

/// What an agent does with a policy that it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It is what is wanted: only lists, routes and the like may have changed.
    Same,
    /// It is put in force.
    Take,
    /// It waits until the trial is over.
    Later,
    /// Another policy was confirmed since this one was read: it is taken when it changes.
    PassedOver,
    /// It was gone back from.
    Refused,
    /// It would lock everybody out.
    LocksOut,
}

/// Judges a policy that an agent has read, by the digest of its text.
pub fn judge(situation: Situation<'_>, digest: &str) -> Reading {
    if !situation.is_asked {
        if situation.wanted == Some(digest) {
            return Reading::Same;
        }
        if situation.is_trial {
            return Reading::Later;
        }
        if situation.refused == Some(digest) {
            return Reading::Refused;
        }
        if situation.wanted.is_some() && situation.read == Some(digest) {
            return Reading::PassedOver;
        }
        // At the start nothing is in force that would be better.
        if situation.locks_out && situation.wanted.is_some() {
            return Reading::LocksOut;
        }
    }
    Reading::Take
}
