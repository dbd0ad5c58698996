//! Open connections in a running agent: ends those that a changed policy refuses, and those that
//! were accepted while the rules were not loaded.

use std::time::Instant;

use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::revoke;
use peerwall_core::words::count;

use super::Agent;
use crate::connections::first;
use crate::connections::revocation;
use crate::connections::{Connections, Older, Transition, Which};
use crate::kernel::netlink::NetlinkError;

impl Agent {
    /// Ends open connections that the new rules refuse, if the policy requires it. A trial ends
    /// none, unless it is of a block.
    pub(super) fn cut(&mut self, before: Option<&Ruleset>, is_first: bool) {
        let spare = std::mem::take(&mut self.outcome.spare);
        let end_refused = std::mem::take(&mut self.outcome.end_refused);
        let is_asked = std::mem::take(&mut self.outcome.is_asked);
        if self.belief.is_trial && !self.is_blocked() {
            return;
        }
        let Some(wanted) = &self.belief.wanted else {
            return;
        };
        let new = &wanted.kept.ruleset;
        let change = Transition {
            old: before,
            new,
            fallback: None,
            which: revocation::which(is_first, wanted.cut, end_refused),
            spare: &spare,
        };
        // The kernel walks its whole table to list connections, even if there are few.
        let only_widens = || before.is_some_and(|before| revoke::only_widens(before, new));
        if change.which == Which::None && !is_asked
            || change.which == Which::Revoked && only_widens()
        {
            return;
        }
        let open = open_once(&mut self.open.connections);
        match open.and_then(|open| open.end(&change)) {
            Ok(outcome) => {
                let text = revocation::applied_text(&outcome, is_first);
                if !text.is_empty() {
                    log::info!(event = "connections_ended", count = outcome.ended; "{text}");
                }
                self.outcome.connections = (text, Some(revocation::applied_json(&outcome)));
            }
            Err(err) => {
                log::warn!("cannot end open connections that the policy refuses: {err}")
            }
        }
    }

    /// Records the open connections that the policy refuses: they are older than it, so a sweep
    /// spares them.
    pub(super) fn know_older(&mut self) {
        let (Some(wanted), None) = (
            self.belief.wanted.as_ref().filter(|w| w.cut),
            &self.open.older,
        ) else {
            return;
        };
        let open = open_once(&mut self.open.connections);
        let older = open.and_then(|open| open.older(&wanted.kept.ruleset));
        self.open.older = Some(older.unwrap_or_else(|err| {
            log::warn!("cannot read open connections: {err}");
            Older::default()
        }));
    }

    /// Ends the connections that were accepted while the rules were changed, once the changes have
    /// stopped.
    pub(super) fn sweep(&mut self) {
        if self.open.sweep_due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.open.sweep_due = None;
        let wanted = self.belief.wanted.as_ref().filter(|wanted| wanted.cut);
        let (Some(wanted), Some(older), None) = (wanted, &self.open.older, &self.belief.pending)
        else {
            return;
        };
        let open = open_once(&mut self.open.connections);
        let change = Transition {
            old: None,
            which: Which::Younger(older),
            ..Transition::revoke(&wanted.kept.ruleset, &wanted.kept.ruleset)
        };
        match open.and_then(|open| open.end(&change)) {
            Ok(outcome) if outcome.ended == 0 => {}
            Ok(outcome) => log::warn!(
                event = "connections_ended", count = outcome.ended;
                "ended {} from while the rules were not loaded",
                count(outcome.ended, "connection")
            ),
            Err(err) => log::warn!(
                "cannot end connections that were accepted while the rules were not loaded: {err}"
            ),
        }
    }
}

/// Adds the connections that this host opened to conntrack.
pub(super) fn introduce(connections: &mut Option<Connections>) {
    match open_once(connections) {
        Ok(open) => first::introduce_or_say(open),
        Err(err) => log::warn!("cannot add this host's connections to conntrack: {err}"),
    }
}

/// Opens ctnetlink at its first use, and keeps it open.
fn open_once(open: &mut Option<Connections>) -> Result<&mut Connections, NetlinkError> {
    match open {
        Some(open) => Ok(open),
        closed => Ok(closed.insert(Connections::open()?)),
    }
}
