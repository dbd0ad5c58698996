//! Applies a policy without an agent, with or without a trial.

use std::io;
use std::time::Duration;

use peerwall_core::agent::keep::{self, Refusal};

use crate::cli::WishArgs;
use crate::host::caller::Caller;
use crate::output::{Output, complain};
use crate::store::audit::Who;
use crate::store::{Kept, State};
use crate::trial::before;
use crate::trial::{Keeper, Loader, of_io};

/// Result of [`apply`].
pub(super) enum Put {
    /// The ruleset is loaded.
    Done,
    /// The same, but it could not be recorded for the next boot.
    NotKept,
    /// The ruleset could not be loaded; the loader has the error.
    NotLoaded(Refusal),
    /// Nothing was changed.
    Refused(Refusal),
}

/// Applies a ruleset. `was_loaded` returns whether the loader loaded it.
pub(super) fn apply<L: Loader>(
    loader: &mut L,
    was_loaded: impl Fn(&L) -> bool,
    kept: &Kept,
    wish: &WishArgs,
    caller: &Caller,
    output: &Output,
) -> Put {
    let state = State::open();
    let lock = state.lock();
    let result = match (&lock, wish.confirm) {
        // A waiting trial may still be readable.
        (Err(_), None)
            if matches!(
                nothing_waits(&state),
                Err(Refusal::Waits { .. } | Refusal::Blocked)
            ) =>
        {
            nothing_waits(&state)
        }
        // A read-only state directory must not leave a host without rules.
        (Err(err), None) => loader
            .load(kept)
            .map_err(Refusal::NotLoaded)
            .and(Err(Refusal::State(of_io(std::io::Error::other(
                err.to_string(),
            ))))),
        (Err(err), Some(_)) => {
            let fault = of_io(std::io::Error::other(err.to_string()));
            Err(Refusal::NoWayBack(fault))
        }
        (Ok(_), confirm) => {
            let mut keeper = Keeper {
                state: &state,
                loader: &mut *loader,
                who: Who::caller("apply", caller),
            };
            match confirm {
                None => keep::apply(&mut keeper, kept),
                Some(seconds) => before::before(&state)
                    .map_err(Refusal::NoWayBack)
                    .and_then(|before| {
                        let time = Duration::from_secs(seconds);
                        keep::try_out(&mut keeper, kept.clone(), before, time, caller.clone())
                    })
                    .map(drop),
            }
        }
    };
    drop(lock);
    match result {
        Ok(()) => Put::Done,
        Err(refusal @ Refusal::NotLoaded(_)) => Put::NotLoaded(refusal),
        Err(Refusal::State(fault)) if wish.confirm.is_none() && was_loaded(loader) => {
            if !output.is_json() {
                complain(&format!(
                    "warning: it is in force, but `peerwall boot` and `rollback` do not know of it: {fault}\n"
                ));
            }
            Put::NotKept
        }
        Err(refusal) => Put::Refused(refusal),
    }
}

/// Removes rules, unless a trial waits: its guard would load the previous rules again.
pub(super) fn remove<L: Loader>(loader: &mut L) -> Result<(), Refusal> {
    let state = State::open();
    // A read-only state directory must not keep unwanted rules loaded.
    let _lock = match state.lock() {
        Err(err) if err.kind() == io::ErrorKind::TimedOut => {
            return Err(Refusal::State(of_io(err)));
        }
        lock => lock,
    };
    let mut keeper = Keeper {
        state: &state,
        loader,
        who: Who::caller("remove", &Caller::here()),
    };
    keep::remove(&mut keeper).map(drop)
}

/// Refuses if a trial waits, if that cannot be determined, or if the host is blocked.
fn nothing_waits(state: &State) -> Result<(), Refusal> {
    let trial = state.read_waiting();
    let Some(trial) = trial.map_err(|err| Refusal::State(of_io(err)))? else {
        return match state.block() {
            Some(_) => Err(Refusal::Blocked),
            None => Ok(()),
        };
    };
    let seconds = trial.seconds_left(&crate::store::clock());
    Err(Refusal::Waits {
        policy: trial.new.entry.policy,
        seconds,
    })
}
