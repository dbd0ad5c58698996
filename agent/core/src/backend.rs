//! The one seam between deciding and acting.

use std::fmt;

use crate::iptables::script::Unsupported;
use crate::ruleset::Ruleset;

/// A place where a ruleset is enforced: nf_tables, iptables, or memory.
pub trait Backend {
    /// Observed state of peerwall's rules.
    type Observed;
    /// Steps from what is there to a ruleset.
    type Plan: Plan;

    /// Reads what is there.
    ///
    /// # Errors
    /// [`BackendError`] if it cannot be told. That is never the same as "nothing is there".
    fn observe(&mut self) -> Result<Self::Observed, BackendError>;

    /// Plans the steps from `observed` to a ruleset; `None` removes peerwall's rules.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] with every rule that this backend cannot express.
    fn plan(
        &self,
        wanted: Option<&Ruleset>,
        observed: &Self::Observed,
    ) -> Result<Self::Plan, BackendError>;

    /// Asks whether the plan would be accepted, without carrying it out.
    ///
    /// # Errors
    /// [`BackendError::Refused`] if not.
    fn check(&mut self, plan: &Self::Plan) -> Result<(), BackendError>;

    /// Carries out the whole plan or nothing of it, provided that nothing changed since `observed`
    /// was read, as far as the backend can tell.
    ///
    /// # Errors
    /// [`BackendError::Stale`] if something did, [`BackendError::Refused`] if a step was not
    /// accepted; nothing was changed then.
    fn commit(&mut self, plan: &Self::Plan, observed: &Self::Observed) -> Result<(), BackendError>;

    /// Checks that what was committed is there: some kernels acknowledge everything and have no
    /// table afterwards.
    ///
    /// # Errors
    /// [`BackendError::Unknown`] with what differs.
    fn verify(&mut self, wanted: Option<&Ruleset>) -> Result<(), BackendError> {
        let observed = self.observe()?;
        if self.plan(wanted, &observed)?.is_empty() {
            return Ok(());
        }
        Err(BackendError::Unknown(
            "read back, the rules are not as they were sent".into(),
        ))
    }

    /// The ruleset that was observed; `None` if there is none, or it cannot be read back from this
    /// backend.
    fn ruleset(observed: &Self::Observed) -> Option<Ruleset>;

    /// Whether rules of peerwall were observed.
    fn is_loaded(observed: &Self::Observed) -> bool;

    /// Nothing is observed or committed for now: what was kept ready for that can go.
    fn done(&mut self) {}
}

/// Steps that a backend can carry out.
pub trait Plan {
    /// Whether there is nothing to do.
    fn is_empty(&self) -> bool;

    /// What it does, in one line.
    fn summary(&self) -> String;

    /// Each step as text: a command of nft, or the input of a program of iptables.
    fn steps(&self) -> Vec<String>;

    /// Why everything is made new, if it is.
    fn rebuild(&self) -> Option<&str> {
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
    Refused(Vec<RefusedStep>),
    /// What came back makes no sense.
    Protocol(String),
    /// The operating system would not carry the request.
    Transport(String),
    /// A program of iptables failed; nothing was changed.
    Tool(String),
    /// It is not known whether the change was made.
    Unknown(String),
    /// The kernel, or this host, has nothing of the kind.
    Missing(String),
    /// The backend cannot express these rules.
    Unsupported(Vec<Unsupported>),
}

/// One step that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedStep {
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
            Self::Transport(what) | Self::Tool(what) => f.write_str(what),
            Self::Unknown(what) => write!(f, "it is not known whether the change was made: {what}"),
            Self::Missing(what) => f.write_str(what),
            Self::Unsupported(rules) => {
                let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
                write!(f, "iptables cannot express this policy: {}", rules.join("; "))
            }
        }
    }
}

impl std::error::Error for BackendError {}
