//! Trials, confirmations and rollbacks on this host: runs the state machine of core on the state
//! directory and a loader.

pub mod alone;
pub mod before;
pub mod block;
pub mod closed;
mod events;
pub mod guard;
pub mod words;

use std::io;
use std::thread;
use std::time::Duration;

use peerwall_core::agent::keep::{self, Clock, Entry, Fault, History, Record, World};
use peerwall_core::backend::BackendError;
use peerwall_core::ruleset::Ruleset;

use self::alone::Alone;
use crate::enforce::nft::lacks;
use crate::host::caller::Caller;
use crate::policy_file::files::FileSystem;
use crate::policy_file::prepare_stored;
use crate::secure_file;
use crate::store::audit::{self, Who};
use crate::store::{self, Kept, Pending, State};
use crate::system::passing;

/// Loads rulesets into the kernel.
pub trait Loader {
    /// Loads a ruleset, unless it is already loaded.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be loaded.
    fn load(&mut self, kept: &Kept) -> Result<(), Fault>;

    /// Removes peerwall's rules. Returns whether there were any.
    ///
    /// # Errors
    /// [`Fault`] if they cannot be removed.
    fn unload(&mut self) -> Result<bool, Fault>;

    /// Describes the change of the last load; `None` if it changed nothing or the change is
    /// unknown.
    fn change(&mut self) -> Option<String> {
        None
    }
}

impl<L: Loader> Loader for &mut L {
    fn load(&mut self, kept: &Kept) -> Result<(), Fault> {
        (**self).load(kept)
    }

    fn unload(&mut self) -> Result<bool, Fault> {
        (**self).unload()
    }

    fn change(&mut self) -> Option<String> {
        (**self).change()
    }
}

/// This host, as the state machine sees it. The caller must lock the state directory.
pub struct Keeper<'k, L> {
    /// The state directory.
    pub state: &'k State,
    /// Loader of rulesets.
    pub loader: L,
    /// The person or process responsible, for the audit trail.
    pub who: Who,
}

impl<L: Loader> World for Keeper<'_, L> {
    type Ruleset = Ruleset;
    type Caller = Caller;

    fn clock(&self) -> Clock {
        store::clock()
    }

    fn history(&mut self) -> Result<History, Fault> {
        self.state.history().map_err(of_io)
    }

    fn set_history(&mut self, history: &History) -> Result<(), Fault> {
        self.state.set_history(history).map_err(of_io)
    }

    fn trial(&mut self) -> Result<Option<Pending>, Fault> {
        self.state.trial().map_err(of_io)
    }

    fn set_trial(&mut self, trial: Option<&Pending>) -> Result<(), Fault> {
        self.state.set_trial(trial).map_err(of_io)
    }

    fn stored(&mut self, entry: &Entry) -> Result<Ruleset, Fault> {
        let kept = self.state.load(entry.clone()).map_err(of_io)?;
        Ok(kept.ruleset)
    }

    fn is_stored(&mut self, entry: &Entry, ruleset: &Ruleset) -> bool {
        self.state.is_stored(entry.number, ruleset)
    }

    fn store(&mut self, number: u64, ruleset: &Ruleset) -> Result<(), Fault> {
        self.state.store(number, ruleset).map_err(of_io)
    }

    fn load(&mut self, kept: &Kept) -> Result<(), Fault> {
        self.loader.load(kept)
    }

    fn unload(&mut self) -> Result<bool, Fault> {
        self.loader.unload()
    }

    fn recompile(&mut self, entry: &Entry) -> Option<Ruleset> {
        recompile(self.state, entry)
    }

    fn start_guard(&mut self) -> Result<(), Fault> {
        store::spawn_guard().map_err(of_io)
    }

    fn is_same(&self, here: &Caller, first: &Caller) -> bool {
        first.is_same(here)
    }

    fn record(&mut self, record: Record<'_>) {
        let change = self.loader.change();
        events::log(record, change.as_deref(), &self.who);
        audit::record(self.state, record, change, &self.who);
    }

    fn pause(&mut self, time: Duration) {
        thread::sleep(time);
    }
}

/// Compiles the stored text of an entry's policy with the current lists; `None` if the text is not
/// stored, or a list is missing, wrong, or writable by other users.
fn recompile(state: &State, entry: &Entry) -> Option<Ruleset> {
    // A block is compiled once, because its peers are those at that time.
    if entry.is_block {
        return None;
    }
    let text = state.text(&entry.digest)?;
    match prepare_stored(&text, &FileSystem::waiting()) {
        Ok(ready) => match ready.check_permissions() {
            Ok(()) => Some(ready.ruleset),
            Err(why) => {
                words::lists_kept(entry, &why);
                None
            }
        },
        Err(why) => {
            words::lists_kept(entry, &why.text.trim_end());
            None
        }
    }
}

impl<'k> Keeper<'k, Alone> {
    /// Creates a keeper that works without an agent.
    pub fn alone(state: &'k State, who: Who) -> Self {
        Self {
            state,
            loader: Alone::default(),
            who,
        }
    }
}

/// Converts an I/O error for the state machine.
pub fn of_io(err: io::Error) -> Fault {
    Fault {
        is_passing: secure_file::is_passing(&err),
        ..Fault::new(err.to_string())
    }
}

/// Converts a backend's error for the state machine.
pub fn of_backend(err: &BackendError) -> Fault {
    let (is_passing, is_unknown) = match err {
        BackendError::Stale => (true, false),
        BackendError::Owned | BackendError::Missing(_) | BackendError::Unsupported(_) => {
            (false, false)
        }
        // Another iptables may have the lock.
        BackendError::Tool(_) => (true, false),
        BackendError::Refused(refusals) => {
            let passing =
                |refusal: &peerwall_core::backend::RefusedStep| passing::is_passing(refusal.errno);
            (refusals.iter().any(passing), false)
        }
        // A socket could not be opened, or a buffer is full.
        BackendError::Transport(_) => (true, true),
        BackendError::Protocol(_) | BackendError::Unknown(_) => (true, true),
    };
    Fault {
        text: err.to_string(),
        is_passing,
        is_unknown,
        is_lack: lacks(err),
    }
}

/// Runs `act` with the state directory locked.
///
/// # Errors
/// [`keep::Refusal::State`] if it cannot be locked, and the errors of `act`.
pub fn locked<T>(
    state: &State,
    act: impl FnOnce() -> Result<T, keep::Refusal>,
) -> Result<T, keep::Refusal> {
    let _lock = state
        .lock()
        .map_err(|err| keep::Refusal::State(of_io(err)))?;
    act()
}
