//! What is loaded at boot.

use std::time::Duration;

use super::history::of;
use super::trial::{drop_trial, waiting};
use super::{Entry, Fault, History, Kept, Kind, World};

/// How often a load is tried at boot if what fails may pass.
const BOOT_TRIES: u32 = 5;
/// Between two tries at boot.
const BOOT_PAUSE: Duration = Duration::from_millis(200);

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

/// Loads what was confirmed last; else what was confirmed before; else one of these by the other
/// backend, where the host lacks what their own needs; else the policy; else `closed`, each by the
/// other backend too. What fails and may pass is tried again.
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
pub(super) fn booted<W: World>(
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
pub(super) fn load_entry<W: World>(world: &mut W, entry: &Entry) -> Result<(), Fault> {
    persist(world, |world| {
        let ruleset = world.stored(entry)?;
        let entry = entry.clone();
        world.load(&Kept { entry, ruleset })
    })
}

/// Loads a ruleset, by the other backend if this host lacks what its own needs. Returns the entry
/// with the backend that it was.
pub(super) fn load_by_either<W: World>(
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
pub(super) fn other_backend(entry: &Entry) -> Entry {
    Entry {
        by_iptables: !entry.by_iptables,
        ..entry.clone()
    }
}

/// Tries again what fails and may pass.
pub(super) fn persist<W: World, T>(
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
