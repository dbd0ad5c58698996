//! Start, confirmation and rollback of trials.

use std::time::Duration;

use super::boot::other_backend;
use super::record::{add, update};
use super::{Before, Entry, Fault, Kept, Kind, Record, Refusal, Trial, TrialOf, World};

/// Returns the trial that is waiting for confirmation, and clears the remains of a settled one.
///
/// # Errors
/// [`Fault`] if the trial or the history cannot be read.
pub fn waiting<W: World>(world: &mut W) -> Result<Option<TrialOf<W>>, Fault> {
    let Some(trial) = world.trial()? else {
        return Ok(None);
    };
    if world.history()?.settled == Some(trial.id) {
        // The process that settled the trial died before clearing it.
        world.set_trial(None)?;
        return Ok(None);
    }
    Ok(Some(trial))
}

/// Refuses while a trial is waiting for confirmation. Rolls back a trial whose time is over,
/// because the process that should have done this is gone.
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

/// Starts a trial: loads a ruleset that is rolled back unless it is confirmed. Returns the trial.
///
/// # Errors
/// [`Refusal`]; the previous ruleset is loaded, and the trial is cleared.
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
        // A later process could not know whether the trial belongs to its boot.
        let why = "/proc/sys/kernel/random/boot_id cannot be read";
        return Err(Refusal::NoWayBack(Fault::new(why)));
    }
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let history = world.history().map_err(Refusal::State)?;
    if history.block().is_some() && !new.entry.is_block {
        return Err(Refusal::Blocked);
    }
    let settled = history.settled;
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
        // The trial could never be confirmed.
        abandon(world, &trial, true);
        return Err(Refusal::NoWayBack(fault));
    }
    let kind = match trial.new.entry.is_block {
        true => Kind::Blocked,
        false => Kind::Tried,
    };
    world.record(trial.record(kind));
    Ok(trial)
}

/// Ends a trial that could not start: loads the previous ruleset if the loaded one is uncertain,
/// then clears the trial. If this fails, the guard does it when the time is over.
pub(super) fn abandon<W: World>(world: &mut W, trial: &TrialOf<W>, is_in_doubt: bool) {
    if !is_in_doubt || restore(world, trial).is_ok() {
        forget(world, trial);
    }
}

/// Clears a trial. If this fails, records it as settled. If this fails too, it remains as not
/// loaded, so that it cannot be confirmed.
pub(super) fn forget<W: World>(world: &mut W, trial: &TrialOf<W>) {
    if world.set_trial(None).is_ok() {
        return;
    }
    if let Ok(mut history) = world.history() {
        history.settled = Some(trial.id);
        let _ = world.set_history(&history);
    }
}

/// Loads an earlier ruleset with the current members of its lists, so that peers added since are
/// not locked out. Returns the loaded ruleset.
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
            // The earlier ruleset is better than none.
            Err(_) => {}
        }
    }
    world.load(kept)?;
    Ok(kept.clone())
}

/// Returns the ruleset from before a trial; `None` if there was none. On a blocked host it is the
/// block, even if a boot that could not read the history loaded a policy.
fn earlier<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<Option<Kept<W::Ruleset>>, Fault> {
    let before = &trial.before;
    if let Some(block) = world.history()?.block().cloned() {
        let ruleset = match world.stored(&block) {
            Err(_) if trial.new.entry.is_block => trial.new.ruleset.clone(),
            stored => stored?,
        };
        // A boot may have needed the other backend.
        let by_iptables = match before.ruleset {
            Some(_) => before.by_iptables,
            None => trial.new.entry.by_iptables,
        };
        let entry = Entry {
            by_iptables,
            ..block
        };
        return Ok(Some(Kept { entry, ruleset }));
    }
    let unknown = || Entry {
        policy: "the previous ruleset".to_owned(),
        digest: String::new(),
        ..trial.new.entry.clone()
    };
    Ok(before.ruleset.clone().map(|ruleset| Kept {
        entry: Entry {
            by_iptables: before.by_iptables,
            cut: before.cut,
            ..before.entry.clone().unwrap_or_else(unknown)
        },
        ruleset,
    }))
}

/// Loads the ruleset from before a trial.
pub(super) fn restore<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<(), Fault> {
    let Some(kept) = earlier(world, trial)? else {
        return world.unload().map(drop);
    };
    let loaded = match load_with_lists(world, &kept) {
        // After a reboot, the host may lack what the backend of the block needs.
        Err(fault) if fault.is_lack => {
            let entry = other_backend(&kept.entry);
            load_with_lists(world, &Kept { entry, ..kept })?
        }
        loaded => loaded?,
    };
    // A failure only affects the next boot.
    let _ = update(world, &loaded);
    Ok(())
}

/// Reason why a trial ends without confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The time of the trial is over.
    RanOut,
    /// The agent or the guard is stopped, and may be the last process that can roll back.
    Stopped,
    /// A command requested the rollback.
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

/// Rolls back the trial that is waiting for confirmation; with `only`, only the trial of this
/// number. Returns the trial, if there was one.
///
/// # Errors
/// [`Fault`] if the previous ruleset cannot be loaded, or the rollback cannot be recorded. The
/// trial is still waiting, and the caller must retry.
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
        // The rules from before the trial were lost at the reboot.
        drop_trial(world, &trial)?;
        return Ok(None);
    }
    restore(world, &trial)?;
    settle(world, &trial)?;
    world.record(trial.record(why.kind()));
    Ok(Some(trial))
}

/// Records that a trial was rolled back.
pub(super) fn settle<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<(), Fault> {
    let mut history = world.history()?;
    history.settled = Some(trial.id);
    // Only a policy can be read again.
    if trial.is_loaded && !trial.new.entry.is_block {
        history.refused = Some(trial.new.entry.digest.clone());
    }
    world.set_history(&history)?;
    // The remains of a settled trial are ignored.
    let _ = world.set_trial(None);
    Ok(())
}

/// Settles a trial of an earlier boot, which is not loaded any more.
pub(super) fn drop_trial<W: World>(world: &mut W, trial: &TrialOf<W>) -> Result<(), Fault> {
    settle(world, trial)?;
    world.record(trial.record(Kind::RanOut));
    Ok(())
}

/// Makes the trial permanent.
///
/// # Errors
/// [`Refusal`]; the state of the trial is unchanged.
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
    // Another program may have changed the rules; a confirmed ruleset must be loaded.
    let loaded = load_with_lists(world, &trial.new).map_err(Refusal::NotLoaded)?;
    let added = add(world, &loaded, Some(trial.id)).map_err(Refusal::State)?;
    let _ = world.set_trial(None);
    world.record(Record {
        entry: Some(&added.entry),
        ..trial.record(Kind::Confirmed)
    });
    Ok(trial)
}
