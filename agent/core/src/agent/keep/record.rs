//! Adds confirmed rulesets to the history.

use super::{Entry, Fault, KEPT, Kept, Kind, Record, World};

/// Stores the current ruleset of the last entry for the next boot, after a list or this host's
/// addresses changed. Does not change the history.
///
/// # Errors
/// [`Fault`] if the history or the ruleset cannot be read or written.
pub fn update<W: World>(world: &mut W, kept: &Kept<W::Ruleset>) -> Result<(), Fault> {
    let history = world.history()?;
    let last = history.last();
    match last.filter(|last| last.digest == kept.entry.digest) {
        Some(last) => store_changed(world, last, &kept.ruleset),
        None => Ok(()),
    }
}

pub(super) fn store_changed<W: World>(
    world: &mut W,
    entry: &Entry,
    ruleset: &W::Ruleset,
) -> Result<(), Fault> {
    if world.is_stored(entry, ruleset) {
        return Ok(());
    }
    world.store(entry.number, ruleset)
}

/// Creates a record of an event outside of a trial.
pub(super) fn of(kind: Kind, entry: Option<&Entry>) -> Record<'_> {
    Record {
        kind,
        entry,
        seconds: None,
    }
}

/// Kind of the event of a new permanent ruleset.
pub(super) fn added_kind(entry: &Entry) -> Kind {
    match entry.is_block {
        true => Kind::Blocked,
        false => Kind::Applied,
    }
}

/// Last entry of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Entry.
    pub entry: Entry,
    /// Whether the entry is new, and recorded in the audit trail.
    pub is_new: bool,
}

/// Adds an entry to the history, or updates the ruleset of the last entry if the digest is the
/// same.
pub(super) fn add<W: World>(
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
            // A block replaces the one before, so that blocks do not displace the policies.
            if new.entry.is_block && history.block().is_some() {
                history.kept.pop();
            }
            let entry = Entry {
                number,
                ..new.entry.clone()
            };
            history.kept.push(entry.clone());
            entry
        }
    };
    let changed = is_new || settles.is_some() || history.refused.is_some() && !entry.is_block;
    if is_new {
        let limit = KEPT + usize::from(entry.is_block);
        let extra = history.kept.len().saturating_sub(limit);
        history.kept.drain(..extra);
    }
    // After the block, a policy that was rolled back is still not loaded.
    if !entry.is_block {
        history.refused = None;
    }
    history.settled = settles.or(history.settled);
    if changed {
        world.set_history(&history)?;
    }
    Ok(Added { entry, is_new })
}
