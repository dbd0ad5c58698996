//! Treats open connections around the load of a ruleset, without an agent.

use peerwall_core::ruleset::Ruleset;

use crate::cli::WishArgs;
use crate::connections::first;
use crate::connections::revocation;
use crate::connections::{Connections, Transition, Which};
use crate::host::caller::Caller;
use crate::json::EndedConnections;
use crate::kernel::netlink::NetlinkError;
use crate::policy_file::LoadedPolicy;

/// A load in progress.
pub struct Loading {
    /// Whether none of peerwall's rules were loaded before.
    is_first: bool,
    /// Ruleset that was loaded before, if known.
    old: Option<Ruleset>,
    connections: Result<Connections, NetlinkError>,
}

/// Report about open connections.
#[derive(Default)]
pub struct ConnectionsReport {
    /// Report as text.
    pub text: String,
    /// Report as JSON; `None` if connections were not looked at.
    pub json: Option<EndedConnections>,
}

impl Loading {
    /// Starts before the rules are changed.
    pub fn new(is_first: bool, old: Option<Ruleset>) -> Self {
        let mut loading = Self {
            is_first,
            old,
            connections: Connections::open(),
        };
        loading.introduce();
        loading
    }

    /// Sets the ruleset that was loaded before, unless it is already known.
    pub fn was(&mut self, old: Option<Ruleset>) {
        if self.old.is_none() {
            self.old = old;
        }
    }

    /// Keeps this host's own connections at the first load; called before and after it.
    fn introduce(&mut self) {
        if let (true, Ok(connections)) = (self.is_first, &mut self.connections) {
            first::introduce_or_say(connections);
        }
    }

    /// Ends connections after an apply, and reports them.
    pub fn finish(mut self, ready: &LoadedPolicy, wish: &WishArgs) -> ConnectionsReport {
        self.introduce();
        if wish.confirm.is_some() {
            // A trial ends no connection before it is confirmed.
            return ConnectionsReport::default();
        }
        let caller = Caller::here();
        let spare = revocation::spared(&caller, wish.force);
        let cut = ready.policy.options.cut_revoked;
        let old = self.old.take();
        let change = Transition {
            old: old.as_ref(),
            new: &ready.ruleset,
            fallback: None,
            which: revocation::which(self.is_first, cut, wish.end_refused),
            spare: &spare,
        };
        self.end(&change)
    }

    fn end(&mut self, change: &Transition<'_>) -> ConnectionsReport {
        let connections = self.connections.as_mut().map_err(|err| err.to_string());
        let ended = connections.and_then(|open| open.end(change).map_err(|err| err.to_string()));
        match ended {
            Ok(outcome) => ConnectionsReport {
                text: revocation::applied_text(&outcome, self.is_first),
                json: Some(revocation::applied_json(&outcome)),
            },
            Err(err) => ConnectionsReport {
                text: format!(
                    "warning: open connections that the policy refuses may go on, since they could \
                     not be read or ended: {err}\n"
                ),
                json: Some(EndedConnections {
                    ended: 0,
                    left: Vec::new(),
                    error: Some(err),
                }),
            },
        }
    }

    /// Ends connections after a rollback or a boot.
    pub fn go_back(mut self, new: &Ruleset, cut: bool) {
        self.introduce();
        let old = self.old.take();
        let which = revocation::which(self.is_first, cut, false);
        if which == Which::None {
            return;
        }
        let told = self.end(&Transition {
            old: old.as_ref(),
            new,
            fallback: None,
            which,
            spare: &[],
        });
        for line in told.text.lines() {
            log::info!("{line}");
        }
    }
}
