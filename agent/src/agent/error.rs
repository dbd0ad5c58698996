//! Errors of the agent.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use peerwall_core::agent::keep::Refusal;
use peerwall_core::backend::BackendError;

use crate::host::lockout::LockedOut;
use crate::json::{ErrorCode, Failure};
use crate::policy_file::{Insecure, LoadError};

/// Errors that end the agent or prevent its start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The signals could not be redirected to a descriptor.
    #[error("cannot receive signals: {0}")]
    Signals(#[source] Errno),
    /// The control socket could not be opened, for example because another agent is running.
    #[error("control socket: {0}")]
    Control(#[source] io::Error),
    /// The address of `--metrics-listen` is not usable.
    #[error("{0}")]
    Metrics(#[source] io::Error),
    /// Neither backend is available.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The policy's path could not be made absolute.
    #[error("the policy's path: {0}")]
    Path(#[source] io::Error),
    /// There is no inotify instance left.
    #[error("inotify: {0}")]
    Inotify(#[source] Errno),
    /// `poll` failed.
    #[error("poll: {0}")]
    Poll(#[source] Errno),
}

/// Reasons for not applying a policy. The rules stay unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    /// The policy cannot be read, or has errors.
    #[error("{}", .0.text.trim_end())]
    Unloadable(#[source] Box<LoadError>),
    /// Users other than root can write the policy.
    #[error(transparent)]
    Insecure(#[from] Insecure),
    /// The policy was rolled back, and its text is the same.
    #[error(
        "{} was rolled back; it is applied again when its text changes, or with `peerwall reload`",
        .0.display()
    )]
    RolledBack(PathBuf),
    /// A request would lock out the client's own session.
    #[error(transparent)]
    LockedOut(#[from] LockedOut),
    /// A changed file would lock out every session.
    #[error("{0}; `peerwall reload --force` applies it anyway")]
    LocksOutEverybody(#[source] LockedOut),
    /// The backend of the policy is not available.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The policy is already applied, so there is nothing to try.
    #[error(
        "this policy is in force already: change it first, or try a copy out with `peerwall apply \
         --confirm TIME COPY`"
    )]
    InForce,
    /// The policy is already applied, because the agent follows its file.
    #[error(
        "this policy is in force already: the agent applies a changed policy automatically. To \
         test a change first, \
         edit a copy and use `peerwall apply --confirm TIME COPY`, or start the agent with --no-follow; \
         `peerwall rollback` goes back"
    )]
    InForceByFollowing,
    /// The loaded rules cannot be read, so a trial could not be rolled back.
    #[error("what is in force cannot be read, so a trial could not go back")]
    NoWayBack,
    /// The trial was refused.
    #[error(transparent)]
    Trial(#[from] Refusal),
}

impl From<Rejection> for Failure {
    fn from(why: Rejection) -> Self {
        let text = why.to_string();
        let code = match why {
            Rejection::Unloadable(why) => return Self::from(&*why),
            Rejection::Backend(err) => return err.into(),
            Rejection::Trial(refusal) => return refusal.into(),
            Rejection::Insecure(why) => return why.into(),
            Rejection::LockedOut(why) => return why.into(),
            Rejection::LocksOutEverybody(_) => ErrorCode::LockOut,
            Rejection::RolledBack(_) => ErrorCode::PolicyRolledBack,
            Rejection::InForce | Rejection::InForceByFollowing => ErrorCode::AlreadyInForce,
            Rejection::NoWayBack => ErrorCode::NoWayBack,
        };
        Self::new(code, text)
    }
}
