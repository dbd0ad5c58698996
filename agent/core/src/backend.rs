//! Interface between decisions and enforcement.

use std::fmt;

use crate::iptables::script::Unsupported;
use crate::ruleset::Ruleset;
use crate::words::count;

/// Enforces a ruleset: nf_tables, iptables, or memory.
pub trait Backend {
    /// Observed state of peerwall's rules.
    type Observed;
    /// Steps from an observed state to a ruleset.
    type Plan: Plan;

    /// Names the ruleset that the next observation will be compared with. A backend that can prove
    /// in another way that a part of it is loaded does not need to read that part.
    fn expect(&mut self, _wanted: &Ruleset) {}

    /// Reads the state of peerwall's rules.
    ///
    /// # Errors
    /// [`BackendError`] if the state cannot be read. An unreadable state is never reported as "no
    /// rules".
    fn observe(&mut self) -> Result<Self::Observed, BackendError>;

    /// Plans the steps from `observed` to a ruleset. For `None`, the plan deletes all of peerwall's
    /// rules.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] with every rule that this backend cannot express.
    fn plan(
        &self,
        wanted: Option<&Ruleset>,
        observed: &Self::Observed,
    ) -> Result<Self::Plan, BackendError>;

    /// Tests whether the plan would be accepted, without executing it.
    ///
    /// # Errors
    /// [`BackendError::Refused`] if the plan would be refused.
    fn check(&mut self, plan: &Self::Plan) -> Result<(), BackendError>;

    /// Executes the whole plan, or nothing if the rules changed after `observed` was read. Not
    /// every backend detects all such changes.
    ///
    /// # Errors
    /// [`BackendError::Stale`] if the rules changed, [`BackendError::Refused`] if a step was
    /// refused; in both cases nothing was changed.
    fn commit(&mut self, plan: &Self::Plan, observed: &Self::Observed) -> Result<(), BackendError>;

    /// Checks that the committed rules are loaded. Some kernels acknowledge every step and have no
    /// table afterwards.
    ///
    /// # Errors
    /// [`BackendError::Unknown`] if the loaded rules differ.
    fn verify(&mut self, wanted: Option<&Ruleset>) -> Result<(), BackendError> {
        let observed = self.observe()?;
        if self.plan(wanted, &observed)?.is_empty() {
            return Ok(());
        }
        Err(BackendError::Unknown(
            "the loaded rules differ from those that were sent".into(),
        ))
    }

    /// Returns the observed ruleset; `None` if there is none, or if this backend cannot reconstruct
    /// it.
    fn ruleset(observed: &Self::Observed) -> Option<Ruleset>;

    /// Returns whether any of peerwall's rules were observed.
    fn is_loaded(observed: &Self::Observed) -> bool;

    /// Releases resources kept between calls. Called when no more calls are expected for now.
    fn done(&mut self) {}
}

/// Steps that a backend can execute.
pub trait Plan {
    /// Returns whether the plan has no steps.
    fn is_empty(&self) -> bool;

    /// Summarizes the plan in one line.
    fn summary(&self) -> String;

    /// Returns each step as text: an nft command, or the input of an iptables program.
    fn steps(&self) -> Vec<String>;

    /// Returns the number of steps.
    fn step_count(&self) -> usize {
        self.steps().len()
    }

    /// Returns the reason for rebuilding all rules; `None` if the plan is incremental.
    fn rebuild(&self) -> Option<&str> {
        None
    }
}

/// Error of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendError {
    /// The rules changed after they were observed. Observe and plan again.
    Stale,
    /// Another process owns the table.
    Owned,
    /// The kernel refused some steps; nothing was changed.
    Refused(Vec<RefusedStep>),
    /// Unexpected response.
    Protocol(String),
    /// The request could not be sent, or the response not received.
    Transport(String),
    /// An iptables program failed; nothing was changed.
    Tool(String),
    /// The change may or may not have been made.
    Unknown(String),
    /// This host or its kernel lacks a required feature.
    Missing(String),
    /// The backend cannot express these rules.
    Unsupported(Vec<Unsupported>),
}

/// A step that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedStep {
    /// Index of the step in the plan; `None` if the kernel refused the transaction as a whole.
    pub op: Option<usize>,
    /// Description of the step.
    pub what: String,
    /// Whether the kernel does not support an expression or a kind of set.
    pub is_lack: bool,
    /// Error number.
    pub errno: i32,
    /// Name and meaning of the error, and the message of the kernel if there is one.
    pub why: String,
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale => f.write_str("another program changed the rules at the same time; try again"),
            Self::Owned => f.write_str(
                "table inet peerwall is owned by another process (the agent, or `peerwall apply --hold`)",
            ),
            Self::Refused(refusals) => {
                f.write_str("the kernel refused the change; nothing was changed")?;
                // A missing part of the kernel concerns many rules.
                let mut told: Vec<&str> = Vec::new();
                for refusal in refusals {
                    if told.contains(&refusal.why.as_str()) {
                        continue;
                    }
                    told.push(&refusal.why);
                    let alike = refusals.iter().filter(|each| each.why == refusal.why);
                    write!(f, "\n  {}", refusal.what)?;
                    match alike.count() - 1 {
                        0 => {}
                        others => write!(f, " (and {})", count(others, "other step"))?,
                    }
                    write!(f, ": {}", refusal.why)?;
                }
                Ok(())
            }
            Self::Protocol(what) => write!(f, "unexpected response from the kernel: {what}"),
            Self::Transport(what) | Self::Tool(what) => f.write_str(what),
            Self::Unknown(what) => write!(f, "the change may or may not have been made: {what}"),
            Self::Missing(what) => f.write_str(what),
            Self::Unsupported(rules) => {
                let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
                write!(f, "iptables cannot express this policy: {}", rules.join("; "))
            }
        }
    }
}

impl std::error::Error for BackendError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_with_one_cause_are_one_line() {
        let refusal = |what: &str, why: &str| RefusedStep {
            op: None,
            what: what.into(),
            is_lack: true,
            errno: 2,
            why: why.into(),
        };
        let refused = BackendError::Refused(vec![
            refusal("rule a", "no fib"),
            refusal("rule b", "no ct"),
            refusal("rule c", "no fib"),
            refusal("rule d", "no fib"),
            refusal("rule e", "no ct"),
            refusal("rule f", "no reject"),
        ]);
        assert_eq!(
            refused.to_string(),
            "the kernel refused the change; nothing was changed\n  \
             rule a (and 2 other steps): no fib\n  \
             rule b (and 1 other step): no ct\n  rule f: no reject"
        );
    }
}
