//! Trials: started, confirmed, and rolled back.

use std::time::Duration;

use super::history::{add, update};
use super::{Before, Entry, Fault, Kept, Kind, Record, Refusal, Trial, TrialOf, World};

/// The trial that waits to be confirmed, if one does. What is left of a settled one is cleared.
///
/// # Errors
/// [`Fault`] if that cannot be read.
pub fn waiting<W: World>(world: &mut W) -> Result<Option<TrialOf<W>>, Fault> {
    let Some(trial) = world.trial()? else {
        return Ok(None);
    };
    if world.history()?.settled == Some(trial.id) {
        // The process that settled it died before this.
        world.set_trial(None)?;
        return Ok(None);
    }
    Ok(Some(trial))
}

/// Refuses if a trial waits: it ends only on purpose. One whose time is over has nobody left who
/// ends it, and is gone back from.
pub(super) fn nothing_waits<W: World>(world: &mut W) -> Result<(), Refusal> {
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

/// Loads a ruleset that is rolled back unless it is confirmed; returns the trial.
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

/// A trial that did not come about: what was before is loaded if that is in doubt, and nothing is
/// left of it. If that fails, the guard does it when the time is over.
pub(super) fn abandon<W: World>(world: &mut W, trial: &TrialOf<W>, is_in_doubt: bool) {
    if !is_in_doubt || restore(world, trial).is_ok() {
        forget(world, trial);
    }
}

/// Clears a trial. Where that fails, the history says that it is settled; where that fails too, it
/// is still not loaded, so that nobody can confirm it.
pub(super) fn forget<W: World>(world: &mut W, trial: &TrialOf<W>) {
    if world.set_trial(None).is_ok() {
        return;
    }
    if let Ok(mut history) = world.history() {
        history.settled = Some(trial.id);
        let _ = world.set_history(&history);
    }
}

/// Loads a ruleset that was compiled earlier, with the members that its lists have today, so that
/// no peer that joined meanwhile is locked out. Returns what is in force.
pub(super) fn load_with_lists<W: World>(
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
pub(super) fn restore<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<(), Fault> {
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

/// Goes back from the trial that waits, or only from that of this number; the trial, if there was
/// one.
///
/// # Errors
/// [`Fault`] if what was before cannot be loaded, or if that it was cannot be written. Then it
/// still waits, and this is to be called again.
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
pub(super) fn settle<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<(), Fault> {
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
pub(super) fn drop_trial<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<(), Fault> {
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
    // The confirmed ruleset is in force, even if another process changed it meanwhile.
    let loaded = load_with_lists(world, &trial.new).map_err(Refusal::NotLoaded)?;
    let added = add(world, &loaded, Some(trial.id)).map_err(Refusal::State)?;
    let _ = world.set_trial(None);
    world.record(Record {
        entry: Some(&added.entry),
        ..trial.record(Kind::Confirmed)
    });
    Ok(trial)
}
