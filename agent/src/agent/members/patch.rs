//! Changes members in the wanted ruleset without compiling its policy again.

use std::time::{Duration, Instant};

use peerwall_core::policy::Policy;
use peerwall_core::ruleset::members::{Basis, Patched};
use peerwall_core::ruleset::temporary;

use crate::agent::Agent;
use crate::agent::beliefs::Unsaved;

/// Time after which the policy is compiled again for members that were changed without it. Facts of
/// the host that no event announces come into force then.
const COMPILE_AFTER: Duration = Duration::from_secs(600);

impl Agent {
    /// Returns what is needed to change members without the policy; `None` if that is not possible.
    pub(in crate::agent) fn basis(&self, policy: &Policy) -> Option<Basis> {
        let mut basis = Basis::of(policy)?;
        basis.share_names(|name| self.members.named(name));
        Some(basis)
    }

    /// Puts the current members into the wanted ruleset. Where that is not the same as compiling
    /// the policy again, it changes nothing.
    pub(super) fn patch_members(&mut self) -> Patched {
        let members = &mut self.members;
        // Without events, lists and facts of the host may have changed, too.
        let wanted = self.belief.wanted.as_mut();
        let Some(wanted) = wanted.filter(|_| self.options.follow) else {
            return Patched::Impossible;
        };
        let ruleset = &mut wanted.kept.ruleset;
        if self.temporary.is_some() != temporary::is_declared(ruleset) {
            return Patched::Impossible;
        }
        let Some(basis) = &mut wanted.basis else {
            return Patched::Impossible;
        };
        let patched = basis.patch(ruleset, |name| members.named(name));
        if patched == Patched::Changed {
            if let Some(counts) = &mut wanted.counts {
                counts.peers = basis.peer_count();
            }
            if wanted.unsaved == Unsaved::Nothing {
                wanted.unsaved = Unsaved::Ruleset;
            }
            let due = Instant::now() + COMPILE_AFTER;
            members.compile_due.get_or_insert(due);
        }
        patched
    }
}
