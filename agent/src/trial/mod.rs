//! Trials, confirmations and ways back on this host: core's machine over the state directory and whatever loads
//! rulesets.

pub mod alone;
pub mod before;
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

/// Puts rulesets in force.
pub trait Loader {
    /// Makes a ruleset be in force; nothing happens if it is.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be.
    fn load(&mut self, kept: &Kept) -> Result<(), Fault>;

    /// Removes what is ours. Returns whether there was anything.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be removed.
    fn unload(&mut self) -> Result<bool, Fault>;

    /// What the last load changed, in words; `None` if nothing had to be changed or that is not known.
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

/// This host, as the machine acts on it. The caller of the machine must hold the lock on the state directory.
pub struct Keeper<'k, L> {
    /// The state directory.
    pub state: &'k State,
    /// What loads rulesets.
    pub loader: L,
    /// Who does it, for the audit trail.
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

/// Compiles the stored text of an entry's policy with today's lists; `None` if the text is not stored, or a list is
/// missing, wrong, or writable by others.
fn recompile(state: &State, entry: &Entry) -> Option<Ruleset> {
    let text = state.text(&entry.digest)?;
    match prepare_stored(&text, &FileSystem { waits: true }) {
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
    /// One without an agent.
    pub fn alone(state: &'k State, who: Who) -> Self {
        Self {
            state,
            loader: Alone::default(),
            who,
        }
    }
}

/// What an error of the operating system means for the machine.
pub fn of_io(err: io::Error) -> Fault {
    Fault {
        is_passing: secure_file::is_passing(&err),
        ..Fault::new(err.to_string())
    }
}

/// What a backend's error means for the machine.
pub fn of_backend(err: &BackendError) -> Fault {
    let (is_passing, is_unknown) = match err {
        BackendError::Stale => (true, false),
        BackendError::Owned | BackendError::Missing(_) | BackendError::Unsupported(_) => {
            (false, false)
        }
        // Another iptables may hold the lock.
        BackendError::Tool(_) => (true, false),
        BackendError::Refused(refusals) => {
            let passing =
                |refusal: &peerwall_core::backend::RefusedStep| passing::is_passing(refusal.errno);
            (refusals.iter().any(passing), false)
        }
        // Sockets that cannot be had, buffers that are full.
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

/// Does something while the state directory is locked.
///
/// # Errors
/// [`keep::Refusal::State`] if it cannot be locked.
pub fn locked<T>(
    state: &State,
    act: impl FnOnce() -> Result<T, keep::Refusal>,
) -> Result<T, keep::Refusal> {
    let _lock = state
        .lock()
        .map_err(|err| keep::Refusal::State(of_io(err)))?;
    act()
}
