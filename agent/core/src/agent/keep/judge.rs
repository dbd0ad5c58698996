//! Decision of the agent on a policy that it has read.

/// State of the agent after reading its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation<'s> {
    /// Digest of the target policy; `None` before the first one.
    pub wanted: Option<&'s str>,
    /// Whether the host is blocked.
    pub is_blocked: bool,
    /// Whether a trial is waiting for confirmation.
    pub is_trial: bool,
    /// Digest of the policy that was rolled back.
    pub refused: Option<&'s str>,
    /// Digest of the policy file at the last read. Another policy may have been confirmed since.
    pub read: Option<&'s str>,
    /// Whether a command requested this policy.
    pub is_asked: bool,
    /// Whether the policy would lock out every current SSH session to this host.
    pub locks_out: bool,
}

/// Decision on a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The policy is the target already. Only lists, routes and other facts may have changed.
    Same,
    /// Apply the policy.
    Take,
    /// The host is blocked: decide again after the block.
    Blocked,
    /// Decide again after the trial.
    Later,
    /// Another policy was confirmed after this one was read. Apply this one when its text changes.
    PassedOver,
    /// The policy was rolled back.
    Refused,
    /// The policy would lock out every current SSH session.
    LocksOut,
}

/// Decides on a policy, by the digest of its text.
pub fn judge(situation: Situation<'_>, digest: &str) -> Reading {
    if situation.is_blocked {
        return Reading::Blocked;
    }
    if !situation.is_asked {
        if situation.wanted == Some(digest) {
            return Reading::Same;
        }
        if situation.is_trial {
            return Reading::Later;
        }
        if situation.refused == Some(digest) {
            return Reading::Refused;
        }
        if situation.wanted.is_some() && situation.read == Some(digest) {
            return Reading::PassedOver;
        }
        // At the start, no better policy is loaded.
        if situation.locks_out && situation.wanted.is_some() {
            return Reading::LocksOut;
        }
    }
    Reading::Take
}
