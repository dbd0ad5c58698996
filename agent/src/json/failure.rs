//! Failures: a code, a message, and the diagnostics of the policy.

use std::fmt;

use peerwall_core::agent::keep::Refusal;
use peerwall_core::backend::BackendError;
use peerwall_core::diagnostic::JsonDiagnostic;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host::lockout::LockedOut;

/// Declares the codes with their names, so that none can be left out of [`ErrorCode::ALL`].
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $code:ident = $name:literal,)+) => {
        /// The reason of a failure. Codes keep their meaning within a version of the JSON.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $code,)+
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$code),+];

            /// The code as it is written.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)+
                }
            }
        }
    };
}

codes! {
    /// An agent runs and does not allow this command or these options.
    AgentRuns = "agent-runs",
    /// The agent does not answer, or its answer cannot be read.
    AgentUnreachable = "agent-unreachable",
    /// The policy is in force already.
    AlreadyInForce = "already-in-force",
    /// Another process owns the table.
    BackendOwned = "backend-owned",
    /// The kernel or iptables rejected the change.
    BackendRejected = "backend-rejected",
    /// The backend is not available, or cannot be reached.
    BackendUnavailable = "backend-unavailable",
    /// The host is blocked.
    Blocked = "blocked",
    /// Other programs kept changing the rules.
    Busy = "busy",
    /// The host is closed except for ssh and the safe core of ICMP.
    HostClosed = "host-closed",
    /// The host has no rules of peerwall.
    HostOpen = "host-open",
    /// The files to import have errors.
    InputInvalid = "input-invalid",
    /// A file to import cannot be read, or is empty.
    InputUnreadable = "input-unreadable",
    /// A file, directory or other resource of this host cannot be used.
    Io = "io",
    /// The policy would lock out the caller's ssh connection.
    LockOut = "lock-out",
    /// The policy does not log denied packets.
    LogOff = "log-off",
    /// Another process reads the log of denied packets.
    LogTaken = "log-taken",
    /// No agent runs.
    NoAgent = "no-agent",
    /// There is no earlier confirmed ruleset.
    NoEarlierRuleset = "no-earlier-ruleset",
    /// No trial waits to be confirmed.
    NoTrial = "no-trial",
    /// The way back could not be saved.
    NoWayBack = "no-way-back",
    /// The host is not blocked.
    NotBlocked = "not-blocked",
    /// iptables cannot express the policy.
    NotExpressible = "not-expressible",
    /// The ruleset could not be loaded.
    NotLoaded = "not-loaded",
    /// An expectation is not met by the kernel, or the kernel could not be asked (`--verify`).
    NotVerified = "not-verified",
    /// The agent manages another policy.
    OtherPolicy = "other-policy",
    /// Whether the change was made is unknown.
    OutcomeUnknown = "outcome-unknown",
    /// The temporary peer does not exist, or cannot be added.
    PeerUnchanged = "peer-unchanged",
    /// The policy has errors.
    PolicyInvalid = "policy-invalid",
    /// The policy was rolled back, and did not change since.
    PolicyRolledBack = "policy-rolled-back",
    /// The policy cannot be read at the moment.
    PolicyUnavailable = "policy-unavailable",
    /// The policy file cannot be read.
    PolicyUnreadable = "policy-unreadable",
    /// Users other than root can write the policy.
    PolicyWritableByOthers = "policy-writable-by-others",
    /// The agent does not understand the request.
    Protocol = "protocol",
    /// The caller's session is older than the trial, so it proves nothing.
    SameSession = "same-session",
    /// The source of members does not exist, or does not permit this.
    SourceUnchanged = "source-unchanged",
    /// The state directory cannot be used.
    State = "state",
    /// The trial is over.
    TrialOver = "trial-over",
    /// A trial waits to be confirmed.
    TrialWaits = "trial-waits",
    /// The history has no such ruleset.
    UnknownRuleset = "unknown-ruleset",
    /// The command line is wrong.
    Usage = "usage",
}

/// An error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Error {
    /// Reason of the failure.
    pub code: ErrorCode,
    /// What went wrong, as a sentence.
    pub message: String,
    /// What to do, as a sentence.
    pub help: Option<String>,
}

/// What a command prints when it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// The error.
    pub error: Error,
    /// Problems of the policy, or of the files to import.
    pub diagnostics: Vec<JsonDiagnostic>,
    /// The same for people, where that is more than the message.
    #[serde(skip)]
    pub text: Option<String>,
}

impl Failure {
    /// A failure without diagnostics.
    pub fn new(code: ErrorCode, message: impl fmt::Display) -> Self {
        Self {
            error: Error {
                code,
                message: message.to_string(),
                help: None,
            },
            diagnostics: Vec::new(),
            text: None,
        }
    }

    /// With what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.error.help = Some(help.into());
        self
    }

    /// Creates one from an error of the operating system.
    pub fn io(err: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Io, err)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.text, &self.error.help) {
            (Some(text), _) => f.write_str(text.trim_end()),
            (None, Some(help)) => write!(f, "{}; {help}", self.error.message),
            (None, None) => f.write_str(&self.error.message),
        }
    }
}

impl From<&BackendError> for Failure {
    fn from(err: &BackendError) -> Self {
        let code = match err {
            BackendError::Stale => ErrorCode::Busy,
            BackendError::Owned => ErrorCode::BackendOwned,
            BackendError::Refused(_) | BackendError::Tool(_) => ErrorCode::BackendRejected,
            BackendError::Protocol(_) | BackendError::Transport(_) | BackendError::Missing(_) => {
                ErrorCode::BackendUnavailable
            }
            BackendError::Unknown(_) => ErrorCode::OutcomeUnknown,
            BackendError::Unsupported(_) => ErrorCode::NotExpressible,
        };
        Self::new(code, err)
    }
}

impl From<BackendError> for Failure {
    fn from(err: BackendError) -> Self {
        Self::from(&err)
    }
}

impl From<LockedOut> for Failure {
    fn from(why: LockedOut) -> Self {
        Self::new(ErrorCode::LockOut, why)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Waits { .. } => ErrorCode::TrialWaits,
            Refusal::Blocked => ErrorCode::Blocked,
            Refusal::NotBlocked => ErrorCode::NotBlocked,
            Refusal::NothingWaits => ErrorCode::NoTrial,
            Refusal::SameCaller => ErrorCode::SameSession,
            Refusal::TooLate => ErrorCode::TrialOver,
            Refusal::NotInForce | Refusal::NotLoaded(_) => ErrorCode::NotLoaded,
            Refusal::NothingBefore => ErrorCode::NoEarlierRuleset,
            Refusal::NoWayBack(_) => ErrorCode::NoWayBack,
            Refusal::State(_) => ErrorCode::State,
        };
        Self::new(code, &refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_once_and_in_order() {
        let documented = include_str!("../../../docs/json.md");
        for pair in ErrorCode::ALL.windows(2) {
            assert!(pair[0].name() < pair[1].name(), "{pair:?}");
        }
        for code in ErrorCode::ALL {
            let row = format!("| `{}` |", code.name());
            assert_eq!(documented.matches(&row).count(), 1, "{row}");
        }
    }
}
