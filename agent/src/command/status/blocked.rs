//! Finds the block of this host.

use peerwall_core::agent::keep::Entry;
use peerwall_core::ruleset::Ruleset;

use super::headline::Blocked;
use crate::store::{self, State};

/// Returns the block, on trial or permanent, and its ruleset if it can be read.
pub(super) fn find(state: &State) -> Option<(Blocked, Option<Ruleset>)> {
    let clock = store::clock();
    let trial = state.waiting().filter(|trial| {
        trial.new.entry.is_block && trial.is_loaded && trial.is_of_this_boot(&clock)
    });
    if let Some(trial) = trial {
        let before = trial.before.entry.as_ref();
        let found = Blocked {
            since: trial.new.entry.time.clone(),
            seconds_left: Some(trial.seconds_left(&clock)),
            back_to: before.map(|entry| entry.policy.clone()),
            loaded: false,
        };
        return Some((found, Some(trial.new.ruleset)));
    }
    let entry = state.block()?;
    let history = state.history().unwrap_or_default();
    let is_policy = |entry: &&Entry| !entry.is_block;
    let back_to = history.kept.iter().rev().find(is_policy);
    let found = Blocked {
        since: entry.time.clone(),
        seconds_left: None,
        back_to: back_to.map(|entry| entry.policy.clone()),
        loaded: false,
    };
    let ruleset = state.load(entry).ok().map(|kept| kept.ruleset);
    Some((found, ruleset))
}
