//! History of confirmed rulesets.

use super::block::not_blocked;
use super::record::{Added, add, added_kind, of, store_changed};
use super::trial::{drop_trial, load_with_lists, nothing_waits, restore, settle, waiting};
use super::{Entry, Fault, Kept, Kind, Refusal, World};

/// Applies a ruleset permanently.
///
/// # Errors
/// [`Refusal::Waits`], [`Refusal::Blocked`], [`Refusal::NotLoaded`]; [`Refusal::State`] if the
/// ruleset is loaded, but could not be recorded for the next boot.
pub fn apply<W: World>(world: &mut W, new: &Kept<W::Ruleset>) -> Result<(), Refusal> {
    nothing_waits(world)?;
    not_blocked(world, &new.entry)?;
    world.load(new).map_err(Refusal::NotLoaded)?;
    keep(world, new).map(drop).map_err(Refusal::State)
}

/// Removes the loaded ruleset. Returns whether there was one.
///
/// # Errors
/// [`Refusal::Waits`] during a trial, whose guard would load the previous ruleset;
/// [`Refusal::Blocked`] on a blocked host; [`Refusal::NotLoaded`] if the ruleset cannot be removed.
pub fn remove<W: World>(world: &mut W) -> Result<bool, Refusal> {
    nothing_waits(world)?;
    if world.history().map_err(Refusal::State)?.block().is_some() {
        return Err(Refusal::Blocked);
    }
    let was_loaded = world.unload().map_err(Refusal::NotLoaded)?;
    if was_loaded {
        world.record(of(Kind::Removed, None));
    }
    Ok(was_loaded)
}

/// Records a permanent ruleset. If the text of the policy is unchanged, updates the ruleset of the
/// last entry instead of adding one. Returns the entry.
///
/// # Errors
/// [`Fault`] if the history cannot be read or written.
pub fn keep<W: World>(world: &mut W, new: &Kept<W::Ruleset>) -> Result<Added, Fault> {
    let added = add(world, new, None)?;
    if added.is_new {
        world.record(of(added_kind(&added.entry), Some(&added.entry)));
    }
    Ok(added)
}

/// Result of a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolledBack {
    /// The trial ended, with the error if this could not be recorded.
    Trial(Option<Fault>),
    /// This entry is loaded again, with the error if this could not be recorded.
    To(Entry, Option<Fault>),
}

/// Ends the current trial, or without one loads the ruleset before the last one.
///
/// # Errors
/// [`Refusal`]; nothing was changed.
pub fn roll_back<W: World>(world: &mut W) -> Result<RolledBack, Refusal> {
    if let Some(trial) = waiting(world).map_err(Refusal::State)? {
        if trial.is_of_this_boot(&world.clock()) {
            restore(world, &trial).map_err(Refusal::NotLoaded)?;
            let noted = settle(world, &trial);
            if noted.is_err() {
                // Clearing the trial also ends it.
                let _ = world.set_trial(None);
            }
            world.record(trial.record(Kind::RolledBack));
            return Ok(RolledBack::Trial(noted.err()));
        }
        drop_trial(world, &trial).map_err(Refusal::State)?;
    }
    let mut history = world.history().map_err(Refusal::State)?;
    if history.block().is_some() {
        return Err(Refusal::Blocked);
    }
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
