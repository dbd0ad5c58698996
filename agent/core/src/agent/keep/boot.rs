//! Loading of rules at boot.

use std::time::Duration;

use super::record::of;
use super::trial::{drop_trial, waiting};
use super::{Entry, Fault, History, KEPT, Kept, Kind, World};

/// Maximum number of attempts after temporary failures.
const BOOT_TRIES: u32 = 5;
/// Delay between two attempts.
const BOOT_PAUSE: Duration = Duration::from_millis(200);

/// Ruleset loaded at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Booted {
    /// Confirmed ruleset, the last one that could be loaded.
    Confirmed(Entry),
    /// Ruleset of the policy, because no confirmed ruleset could be loaded.
    Policy(Entry),
    /// Closed ruleset.
    Closed,
    /// Nothing, because even the closed ruleset could not be loaded.
    Nothing,
}

/// Result of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Loaded ruleset.
    pub booted: Booted,
    /// Messages of failures, in order.
    pub problems: Vec<String>,
}

/// Loads the first ruleset that can be loaded, in this order:
///
/// 1. confirmed rulesets, the last one first;
/// 2. the same with the other backend, if this host lacks a feature of their own backend;
/// 3. the policy, then with the other backend;
/// 4. `closed`, then with the other backend.
///
/// A blocked host stays blocked: the block, then with the other backend, then `closed`.
///
/// Temporary failures are retried.
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
                "{} was still unconfirmed when the machine rebooted, so it is not loaded",
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
    let is_blocked = history.block().is_some();
    let usable = if is_blocked { 1 } else { KEPT };
    for entry in history.kept.iter().rev().take(usable) {
        match load_entry(world, entry) {
            Ok(()) => return booted(world, entry.clone(), Booted::Confirmed, problems),
            Err(fault) => {
                problems.push(format!("confirmed ruleset {}: {fault}", entry.number));
                lacking.extend(fault.is_lack.then(|| other_backend(entry)));
            }
        }
    }
    for entry in lacking {
        match load_entry(world, &entry) {
            Ok(()) => return booted(world, entry, Booted::Confirmed, problems),
            Err(fault) => problems.push(format!(
                "confirmed ruleset {}, with the other backend: {fault}",
                entry.number
            )),
        }
    }
    if is_blocked {
        return close(world, closed, problems);
    }
    let usable = persist(world, &mut policy).and_then(|kept| {
        match history.refused == Some(kept.entry.digest.clone()) {
            true => Err(Fault::new(format!(
                "{} was rolled back, so it is not loaded",
                kept.entry.policy
            ))),
            false => Ok(kept),
        }
    });
    match usable.and_then(|kept| load_by_either(world, kept, &mut problems)) {
        Ok(entry) => return booted(world, entry, Booted::Policy, problems),
        Err(fault) => problems.push(fault.text),
    }
    close(world, closed, problems)
}

/// Loads the closed ruleset.
fn close<W: World>(world: &mut W, closed: &Kept<W::Ruleset>, mut problems: Vec<String>) -> Boot {
    match load_by_either(world, closed.clone(), &mut problems) {
        Ok(entry) => booted(world, entry, |_| Booted::Closed, problems),
        Err(fault) => {
            problems.push(fault.text);
            let booted = Booted::Nothing;
            Boot { booted, problems }
        }
    }
}

/// Records a boot in the audit trail and returns its result.
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

/// Loads an entry of the history with its backend.
pub(super) fn load_entry<W: World>(world: &mut W, entry: &Entry) -> Result<(), Fault> {
    persist(world, |world| {
        let ruleset = world.stored(entry)?;
        let entry = entry.clone();
        world.load(&Kept { entry, ruleset })
    })
}

/// Loads a ruleset, with the other backend if this host lacks a feature of its own. Returns the
/// entry with the backend that was used.
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

/// Returns the entry for the other backend.
pub(super) fn other_backend(entry: &Entry) -> Entry {
    Entry {
        by_iptables: !entry.by_iptables,
        ..entry.clone()
    }
}

/// Retries temporary failures.
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
