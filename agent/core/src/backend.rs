//! The one seam between deciding and acting.

use std::fmt;

use crate::nft::observed::Observed;
use crate::nft::plan::Plan;
use crate::ruleset::Ruleset;

/// Something that holds a ruleset: the kernel by netlink, or memory.
pub trait Backend {
    /// What is there.
    ///
    /// # Errors
    /// [`BackendError`] if it cannot be told. That is never the same as "nothing is there".
    fn observe(&mut self) -> Result<Observed, BackendError>;

    /// Whether the plan would be taken, without doing it.
    ///
    /// # Errors
    /// [`BackendError::Refused`] if not.
    fn check(&mut self, plan: &Plan) -> Result<(), BackendError>;

    /// Does the whole plan or nothing of it, provided that nothing changed since the generation
    /// `seen`.
    ///
    /// # Errors
    /// [`BackendError::Stale`] if something did, [`BackendError::Refused`] if a step was not taken;
    /// nothing was changed then.
    fn commit(&mut self, plan: &Plan, seen: u32) -> Result<(), BackendError>;

    /// Whether what was committed is there: some kernels ack everything and have no table
    /// afterwards.
    ///
    /// # Errors
    /// [`BackendError::Unknown`] with what differs.
    fn verify(&mut self, wanted: &Ruleset) -> Result<(), BackendError> {
        let found = self.observe()?.table.and_then(|table| table.ruleset());
        match found.as_ref() == Some(wanted) {
            true => Ok(()),
            false => Err(BackendError::Unknown("read back, the table differs".into())),
        }
    }

    /// Nothing is observed or committed for now: what was kept ready for that can go.
    fn done(&mut self) {}

    /// Whether the table can be owned, as far as it was tried.
    fn can_hold(&self) -> Option<bool> {
        None
    }
}

/// Why something did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendError {
    /// Somebody changed the ruleset meanwhile: observe and plan again.
    Stale,
    /// Another process owns the table.
    Owned,
    /// Steps were refused; nothing was changed.
    Refused(Vec<Refusal>),
    /// What came back makes no sense.
    Protocol(String),
    /// The operating system would not carry the request.
    Transport(String),
    /// It is not known whether the change was made.
    Unknown(String),
    /// The kernel has nothing of the kind.
    Missing(String),
}

/// One step that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which step of the plan, if it was one.
    pub op: Option<usize>,
    /// What the step was to do, in words.
    pub what: String,
    /// Whether it says that the kernel does not know an expression or a kind of set.
    pub is_lack: bool,
    /// The error number.
    pub errno: i32,
    /// The error's name and meaning, and the kernel's own words if it had any.
    pub why: String,
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale => f.write_str("the ruleset was changed by somebody else meanwhile"),
            Self::Owned => f.write_str(
                "the table inet peerwall is owned by another process (peerwall apply --hold, or the agent)",
            ),
            Self::Refused(refusals) => {
                f.write_str("the kernel refused the change and nothing was changed")?;
                for refusal in refusals {
                    write!(f, "\n  {}: {}", refusal.what, refusal.why)?;
                }
                Ok(())
            }
            Self::Protocol(what) => write!(f, "the kernel's answer makes no sense: {what}"),
            Self::Transport(what) => f.write_str(what),
            Self::Unknown(what) => write!(f, "it is not known whether the change was made: {what}"),
            Self::Missing(what) => write!(f, "this kernel has no nf_tables: {what}"),
        }
    }
}

impl std::error::Error for BackendError {}
