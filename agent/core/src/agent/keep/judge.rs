//! What an agent does with a policy that it has read.

/// What an agent knows when it has read its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation<'s> {
    /// Digest of what is to be in force; `None` before anything is.
    pub wanted: Option<&'s str>,
    /// Whether a trial waits.
    pub is_trial: bool,
    /// Digest of a policy that was gone back from.
    pub refused: Option<&'s str>,
    /// Digest of this policy when it was read last; another one may have been confirmed since.
    pub read: Option<&'s str>,
    /// Whether somebody asked for this policy now.
    pub is_asked: bool,
    /// Whether it would lock out every ssh session that is open to this host.
    pub locks_out: bool,
}

/// What an agent does with a policy that it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It is what is wanted: only lists, routes and the like may have changed.
    Same,
    /// It is put in force.
    Take,
    /// It waits until the trial is over.
    Later,
    /// Another policy was confirmed since this one was read: it is taken when it changes.
    PassedOver,
    /// It was gone back from.
    Refused,
    /// It would lock everybody out.
    LocksOut,
}

/// Judges a policy that an agent has read, by the digest of its text.
pub fn judge(situation: Situation<'_>, digest: &str) -> Reading {
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
        // At the start nothing is in force that would be better.
        if situation.locks_out && situation.wanted.is_some() {
            return Reading::LocksOut;
        }
    }
    Reading::Take
}
