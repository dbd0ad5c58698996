//! Blocks: a ruleset that closes the host, and stays until [`unblock`].
//!
//! A block is an entry of the history, the last one. Boots and agents load it like any other
//! confirmed ruleset, and nothing else. [`apply`](super::apply), [`try_out`](super::try_out) and
//! [`confirm`](super::confirm) load blocks, too.

use super::record::{of, store_changed};
use super::trial::{drop_trial, load_with_lists, restore, settle, waiting};
use super::{Entry, Fault, History, Kept, Kind, Refusal, TrialOf, World};

/// Refuses to load anything but a block while the host is blocked.
pub(super) fn not_blocked<W: World>(world: &mut W, new: &Entry) -> Result<(), Refusal> {
    if new.is_block {
        return Ok(());
    }
    match world.history().map_err(Refusal::State)?.block() {
        Some(_) => Err(Refusal::Blocked),
        None => Ok(()),
    }
}

/// Returns the entry that blocks the host, permanently or on trial.
///
/// # Errors
/// [`Fault`] if the trial or the history cannot be read.
pub fn blocked_by<W: World>(world: &mut W) -> Result<Option<Entry>, Fault> {
    let trial = waiting(world)?.filter(|trial| trial.new.entry.is_block && trial.is_loaded);
    match trial {
        Some(trial) => Ok(Some(trial.new.entry)),
        None => Ok(world.history()?.block().cloned()),
    }
}

/// Way back from a block.
struct WayBack<W: World> {
    /// Block on trial.
    trial: Option<TrialOf<W>>,
    history: History,
    /// Ruleset before the permanent block.
    target: Option<Kept<W::Ruleset>>,
}

impl<W: World> WayBack<W> {
    fn find(world: &mut W) -> Result<Self, Refusal> {
        let mut trial = waiting(world).map_err(Refusal::State)?;
        if let Some(old) = trial.take_if(|trial| !trial.is_of_this_boot(&world.clock())) {
            drop_trial(world, &old).map_err(Refusal::State)?;
        }
        let history = world.history().map_err(Refusal::State)?;
        if let Some(trial) = trial.as_ref().filter(|trial| !trial.new.entry.is_block) {
            let seconds = trial.seconds_left(&world.clock());
            return Err(Refusal::Waits {
                policy: trial.new.entry.policy.clone(),
                seconds,
            });
        }
        if trial.is_none() && history.block().is_none() {
            return Err(Refusal::NotBlocked);
        }
        let mut earlier = history.kept.iter().rev().filter(|entry| !entry.is_block);
        let target = match earlier.next().cloned() {
            Some(entry) if history.block().is_some() => {
                let ruleset = world.stored(&entry).map_err(Refusal::State)?;
                Some(Kept { entry, ruleset })
            }
            Some(_) | None => None,
        };
        Ok(Self {
            trial,
            history,
            target,
        })
    }
}

/// Returns the ruleset that [`unblock`] would load; `None` if it would load none.
///
/// # Errors
/// [`Refusal`], as [`unblock`].
pub fn unblocked<W: World>(world: &mut W) -> Result<Option<W::Ruleset>, Refusal> {
    let way = WayBack::find(world)?;
    let kept = match (way.target, way.trial) {
        (Some(target), _) => (Some(target.entry), Some(target.ruleset)),
        (None, Some(trial)) if way.history.block().is_none() => {
            (trial.before.entry, trial.before.ruleset)
        }
        (None, _) => (None, None),
    };
    let today = kept.0.and_then(|entry| world.recompile(&entry));
    Ok(today.or(kept.1))
}

/// Ends a block: loads the ruleset from before, with the current members of its lists. Without
/// one, removes the rules. Returns the entry of the loaded ruleset, and the error if this could not
/// be recorded.
///
/// # Errors
/// [`Refusal::NotBlocked`], [`Refusal::Waits`] if a policy is on trial, [`Refusal::NotLoaded`],
/// [`Refusal::State`]; the host is still blocked.
pub fn unblock<W: World>(world: &mut W) -> Result<(Option<Entry>, Option<Fault>), Refusal> {
    let WayBack {
        trial,
        mut history,
        target,
    } = WayBack::find(world)?;
    if let (Some(trial), None) = (&trial, history.block()) {
        restore(world, trial).map_err(Refusal::NotLoaded)?;
        let noted = settle(world, trial);
        if noted.is_err() {
            // Clearing the trial also ends it.
            let _ = world.set_trial(None);
        }
        let entry = trial.before.entry.clone();
        world.record(of(Kind::Unblocked, entry.as_ref()));
        return Ok((entry, noted.err()));
    }
    let loaded = match &target {
        Some(kept) => Some(load_with_lists(world, kept).map_err(Refusal::NotLoaded)?),
        None => {
            world.unload().map_err(Refusal::NotLoaded)?;
            None
        }
    };
    // After a crash at this point, the next boot or agent closes the host again.
    history.kept.pop();
    if let Some(trial) = &trial {
        history.settled = Some(trial.id);
    }
    let noted = world.set_history(&history);
    if trial.is_some() {
        // The remains of a settled trial are ignored.
        let _ = world.set_trial(None);
    }
    let noted = noted.and_then(|()| match &loaded {
        Some(loaded) => store_changed(world, &loaded.entry, &loaded.ruleset),
        None => Ok(()),
    });
    let entry = target.map(|kept| kept.entry);
    world.record(of(Kind::Unblocked, entry.as_ref()));
    Ok((entry, noted.err()))
}
