//! How long missing members are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use super::members::{Member, Members, Time};

impl Members {
    /// Returns how long a member must be missing; `None` for ever.
    pub(super) fn wait(&self, now: Time) -> Option<Duration> {
        match (self.is_empty_answer, self.is_in_doubt) {
            (true, _) => None,
            (false, Some(_)) => Some(self.limits.hold + self.limits.grace),
            (false, None) if self.is_large_loss(now) => Some(self.limits.hold + self.limits.grace),
            (false, None) => Some(self.limits.grace),
        }
    }

    /// Returns whether more nodes are missing, or were removed recently, than may leave at once.
    ///
    /// The share is one of the nodes that are members for [`hold`](super::Limits::hold), because a
    /// source could add others first.
    pub(super) fn is_large_loss(&self, now: Time) -> bool {
        let hold = self.limits.hold;
        let removed = self.removed.iter();
        let removed = removed.filter(|(at, _)| now.saturating_sub(*at) < hold);
        let removed: Vec<&Member> = removed.map(|(_, member)| member).collect();
        let lost = self.missing().chain(removed.iter().copied());
        let lost: BTreeSet<&str> = lost.map(|member| &*member.node).collect();
        if lost.len() <= 1 {
            return false;
        }
        let is_old = |member: &&Member| member.since.is_none_or(|since| now >= since + hold);
        let old = self.members.values().chain(removed).filter(is_old);
        let old: BTreeSet<&str> = old.map(|member| &*member.node).collect();
        lost.len() * 100 > old.len() * usize::from(self.limits.max_loss)
    }
}
