//! Errors of the programs of iptables and ipset.

use peerwall_core::backend::BackendError;

/// Error of a program of iptables or ipset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IptablesError {
    /// iptables is not installed.
    #[error(
        "there is no iptables-save and iptables-restore here; \
         install iptables, or name its directory with --iptables"
    )]
    Missing,
    /// The program failed; nothing was changed.
    #[error("{tool}: {}", said.trim())]
    Tool {
        /// Name of the program.
        tool: String,
        /// Its error output.
        said: String,
    },
    /// The program could not be run, or its result is unknown.
    #[error("cannot run {tool}: {why}")]
    NotRun {
        /// Name of the program.
        tool: String,
        /// The operating system's error.
        why: String,
    },
    /// A later step was refused and the earlier ones could not be undone.
    #[error("{refused}; some rules had been changed and could not be changed back: {rollback}")]
    Half {
        /// Why the step was refused.
        refused: Box<IptablesError>,
        /// Why the earlier steps could not be undone.
        rollback: Box<IptablesError>,
    },
}

impl From<IptablesError> for BackendError {
    fn from(err: IptablesError) -> Self {
        let text = err.to_string();
        match err {
            IptablesError::Missing => Self::Missing(text),
            IptablesError::Tool { .. } => Self::Tool(text),
            IptablesError::NotRun { .. } | IptablesError::Half { .. } => Self::Unknown(text),
        }
    }
}

/// Combines a refusal with the result of restoring the earlier rules.
pub(super) fn half(refused: IptablesError, restored: Result<(), IptablesError>) -> IptablesError {
    match restored {
        Ok(()) => refused,
        Err(rollback) => IptablesError::Half {
            refused: Box::new(refused),
            rollback: Box::new(rollback),
        },
    }
}
