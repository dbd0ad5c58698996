//! Errors of the programs of iptables and ipset.

use peerwall_core::backend::BackendError;

/// Why something did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IptablesError {
    /// There is no iptables.
    #[error(
        "there is no iptables-save and iptables-restore here; install iptables, or name its directory with --iptables"
    )]
    Missing,
    /// A tool failed; nothing was changed.
    #[error("{tool}: {}", said.trim())]
    Tool {
        /// Its name.
        tool: String,
        /// What it said.
        said: String,
    },
    /// It could not be run, or not be told what it did.
    #[error("cannot run {tool}: {why}")]
    NotRun {
        /// Its name.
        tool: String,
        /// The operating system's error.
        why: String,
    },
    /// The second family was refused and the first could not be taken back.
    #[error("{refused}; some rules had been changed and could not be changed back: {rollback}")]
    Half {
        /// What the second family's tool said.
        refused: Box<IptablesError>,
        /// What taking back the first came to.
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

/// What was refused, and whether what was there before could be restored.
pub(super) fn half(refused: IptablesError, restored: Result<(), IptablesError>) -> IptablesError {
    match restored {
        Ok(()) => refused,
        Err(rollback) => IptablesError::Half {
            refused: Box::new(refused),
            rollback: Box::new(rollback),
        },
    }
}
