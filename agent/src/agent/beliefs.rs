//! The wanted ruleset of an agent, and the result of its current action.

use peerwall_core::backend::BackendError;
use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::ruleset::change::Change;
use peerwall_core::ruleset::members::Basis;

use super::error::Rejection;
use crate::connections::revocation;
use crate::control::Wish;
use crate::host::caller::Ssh;
use crate::json::{Counts, DeletedTables, EndedConnections, Error, Failure};
use crate::store::{Kept, Pending};

/// State of an agent.
#[derive(Default)]
pub(super) struct Belief {
    pub(super) wanted: Option<Wanted>,
    /// Digest of the policy that was read last, even if it has errors.
    pub(super) read_digest: Option<String>,
    pub(super) pending: Option<Pending>,
    /// Whether the loaded ruleset, or the one being loaded, is on trial.
    pub(super) is_trial: bool,
    /// Counts of the policy that is about to be applied.
    pub(super) counts: Option<Counts>,
    /// Whether to read the policy again, because it may have changed meanwhile.
    pub(super) look_again: bool,
    /// Removals of foreign tables, for `status`.
    pub(super) gone: Vec<DeletedTables>,
    /// Why the policy that was read last is not applied.
    pub(super) rejection: Option<Failure>,
    /// Error of the last load, if it failed.
    pub(super) load_error: Option<Error>,
}

/// The ruleset to load.
pub(super) struct Wanted {
    pub(super) kept: Kept,
    /// Whether to end open connections that it refuses.
    pub(super) cut: bool,
    /// Counts of its policy, for `status`.
    pub(super) counts: Option<Counts>,
    /// What is needed to change its members without its policy; `None` if the policy has to be
    /// compiled for that.
    pub(super) basis: Option<Basis>,
    /// The part that is not in the state directory yet.
    pub(super) unsaved: Unsaved,
    /// Why that part could not be written.
    pub(super) unsaved_error: Option<String>,
}

/// The part of a loaded ruleset that must still be written to the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsaved {
    Nothing,
    /// The policy, as a new entry of the history.
    Policy,
    /// Only the ruleset: members of lists, addresses or routes changed.
    Ruleset,
}

/// Result of the current reload, reported to the client that requested it.
#[derive(Default)]
pub(super) struct ReloadOutcome {
    pub(super) read: Option<Result<(), Rejection>>,
    pub(super) warnings: Vec<JsonDiagnostic>,
    pub(super) converged: Option<Result<Option<String>, BackendError>>,
    /// Changes of the load, in the words of the policy; only if a client waits for the response.
    pub(super) changes: Vec<Change>,
    /// ssh connections of the client, which are never ended.
    pub(super) spare: Vec<Ssh>,
    /// Whether to end all open connections that the policy refuses.
    pub(super) end_refused: bool,
    /// Whether a client waits for the response.
    pub(super) is_asked: bool,
    /// Whether the current load is logged as an event of the history.
    pub(super) is_logged: bool,
    /// Ended connections, as text and as JSON.
    pub(super) connections: (String, Option<EndedConnections>),
}

impl ReloadOutcome {
    pub(super) fn of(wish: &Wish) -> Self {
        Self {
            spare: revocation::spared(&wish.caller, wish.force),
            end_refused: wish.end_refused,
            is_asked: true,
            ..Self::default()
        }
    }
}
