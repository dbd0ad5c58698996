//! The agent's backend, with the changes that other programs make to its rules.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};

use peerwall_core::backend::{Backend as _, BackendError, Plan as _};
use peerwall_core::nft::observed::{Observed, ObservedTable};
use peerwall_core::policy::reason::Reason;
use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::change::Change;

use super::changes::{by_iptables, by_nft, of_plan};
use super::converge;
use super::enforcer::{AnyObserved, Enforcer};
use super::nft::{Claim, Kernel};
use crate::json;
use crate::kernel::events::{Events, RulesEvent};
use crate::store::State;

/// A backend and its change events.
pub struct Watched {
    enforcer: Enforcer,
    /// Events of nf_tables; `None` by iptables, which has none.
    listener: Option<Listener>,
    /// Ruleset that was loaded last by iptables, whose rules cannot be read back as a ruleset.
    last: Option<Ruleset>,
}

/// Listens to changes of nf_tables.
struct Listener {
    events: Events,
    /// Whether other programs changed something during the last change, when nobody listened: they
    /// may do so all the time.
    is_noisy: bool,
    /// Generation of the last load, unless other programs changed something during it.
    loaded: Option<u32>,
}

/// The result of [`Watched::converge`].
pub struct Enforced {
    /// The change in one line; `None` if the rules were as wanted.
    pub change: Option<String>,
    /// The change in the words of the policy, and what other programs changed before; only if it
    /// was asked for.
    pub changes: Vec<Change>,
    /// Whether other programs may have changed something while nobody listened.
    pub missed: bool,
    /// The ruleset that was loaded before.
    pub before: Option<Ruleset>,
    /// Foreign tables that were deleted meanwhile; no other kind of change.
    pub heard: Vec<RulesEvent>,
}

impl Watched {
    /// Watches a backend. With `owner`, the table is locked from the next change on, where the
    /// kernel can do that.
    ///
    /// # Errors
    /// [`BackendError::Transport`] if the kernel's events cannot be received.
    pub fn new(mut enforcer: Enforcer, owner: bool) -> Result<Self, BackendError> {
        let (listener, last) = match &mut enforcer {
            Enforcer::Nft(kernel) => {
                kernel.remember();
                match owner {
                    true => kernel.claim_table(Claim::Own),
                    false => kernel.never_own(),
                }
                let events = Events::open();
                let events = events.map_err(|err| BackendError::Transport(err.to_string()))?;
                let listener = Listener {
                    events,
                    is_noisy: false,
                    loaded: None,
                };
                (Some(listener), None)
            }
            Enforcer::Iptables(_) => (None, State::open().in_force_by_iptables()),
        };
        Ok(Self {
            enforcer,
            listener,
            last,
        })
    }

    /// Which backend it is.
    pub fn backend(&self) -> json::Backend {
        self.enforcer.backend()
    }

    /// Which iptables; `None` for nf_tables.
    pub fn iptables_json(&self) -> Option<json::IptablesInfo> {
        self.enforcer.iptables_json()
    }

    /// Whether the table is locked; `None` by iptables, and as long as it is not known.
    pub fn owns_table(&self) -> Option<bool> {
        match &self.enforcer {
            Enforcer::Nft(kernel) => kernel.can_hold(),
            Enforcer::Iptables(_) => None,
        }
    }

    /// Whether the backend is iptables: it has no events, so changes are found by reading the
    /// rules.
    pub fn is_iptables(&self) -> bool {
        self.enforcer.is_iptables()
    }

    /// Whether our rules are loaded, by either backend; `None` if that cannot be read.
    pub fn is_loaded(&mut self) -> Option<bool> {
        self.enforcer.is_any_loaded_now().ok()
    }

    /// The descriptor to poll for changes.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(|each| each.events.as_fd())
    }

    /// Returns the changes since the last call.
    pub fn drain(&mut self) -> Vec<RulesEvent> {
        let drain = |listener: &mut Listener| listener.events.drain();
        self.listener.as_mut().map(drain).unwrap_or_default()
    }

    /// Reads the table; `None` by iptables, and if it cannot be read.
    pub fn observe(&mut self) -> Option<Observed> {
        match &mut self.enforcer {
            Enforcer::Nft(kernel) => {
                let observed = kernel.observe().ok();
                kernel.done();
                observed
            }
            Enforcer::Iptables(_) => None,
        }
    }

    /// Denied packets of each reason, by the counters of the loaded rules; `None` if they cannot be
    /// read.
    pub fn denied(&mut self) -> Option<BTreeMap<Reason, u64>> {
        self.enforcer.denied().ok()
    }

    /// The kernel's generation of rules, 0 by iptables; `None` if it cannot be read.
    pub fn generation(&mut self) -> Option<u32> {
        let generation = self.enforcer.generation().ok()?;
        Some(generation.unwrap_or(0))
    }

    /// Returns the generation in which the rules were as they were last read or verified; 0 if that
    /// is unknown, and by iptables.
    pub fn known_at(&self) -> u32 {
        self.enforcer.known_at()
    }

    /// Makes the backend enforce a ruleset; `None` removes peerwall's rules. With `is_told`, the
    /// result names the changes.
    ///
    /// # Errors
    /// [`BackendError`] of the backend. Unless it is [`BackendError::Unknown`], nothing was
    /// changed.
    pub fn converge(
        &mut self,
        wanted: Option<&Ruleset>,
        is_told: bool,
    ) -> Result<Enforced, BackendError> {
        match (&mut self.enforcer, &mut self.listener) {
            (Enforcer::Nft(kernel), Some(listener)) => listener.converge(kernel, wanted, is_told),
            (enforcer, _) => {
                let converged = converge::converge(enforcer, wanted)?;
                let changes = match (&*enforcer, &converged.before) {
                    (Enforcer::Iptables(iptables), AnyObserved::Iptables(seen)) if is_told => {
                        let old = self.last.as_ref();
                        of_plan(&converged.plan, || by_iptables(iptables, wanted, seen, old))
                    }
                    _ => Vec::new(),
                };
                let is_known = self.last.as_ref() == wanted;
                let last = std::mem::replace(&mut self.last, wanted.cloned());
                Ok(Enforced {
                    change: (!converged.plan.is_empty()).then(|| converged.plan.summary()),
                    changes,
                    missed: false,
                    before: last.filter(|_| !is_known),
                    heard: Vec::new(),
                })
            }
        }
    }
}

impl Listener {
    /// Makes the kernel enforce a ruleset without receiving the events of that change.
    fn converge(
        &mut self,
        kernel: &mut Kernel,
        wanted: Option<&Ruleset>,
        is_told: bool,
    ) -> Result<Enforced, BackendError> {
        let was_owned = kernel.owns_table();
        // Earlier changes of our rules are answered by this one.
        let mut heard = self.events.drain();
        if let Some(unchanged) = self.events.unchanged() {
            kernel.believe(unchanged);
        }
        let mut change = || converge::converge(kernel, wanted);
        // Receiving one's own changes takes long. But where other programs change theirs all the
        // time, something would be missed each time, and the rules would be read without end.
        let (converged, during) = match self.is_noisy {
            false => (self.events.deaf(change)?, self.events.drain()),
            true => (change()?, self.events.drain()),
        };
        let is_touched = during
            .iter()
            .any(|each| !matches!(each, RulesEvent::Gone(..)));
        heard.extend(during);
        heard.retain(|change| matches!(change, RulesEvent::Gone(..)));
        let sent = u32::from(!converged.plan.is_empty());
        let expected = converged.before.generation.wrapping_add(sent);
        // The change is in force even if its generation cannot be read.
        let generation = kernel.generation().ok();
        if let Some(generation) = generation {
            self.events.count_from(generation);
        }
        let is_other = generation != Some(expected);
        let was_noisy = std::mem::replace(&mut self.is_noisy, is_other);
        let loaded = (!is_other).then_some(expected);
        let was_loaded = std::mem::replace(&mut self.loaded, loaded);
        let is_untouched = was_owned || was_loaded == Some(converged.before.generation);
        let known = converged.before.table.as_ref().map(ObservedTable::known);
        let changes = match is_told {
            true => of_plan(&converged.plan, || {
                by_nft(wanted, known.as_ref(), is_untouched)
            }),
            false => Vec::new(),
        };
        Ok(Enforced {
            change: (sent == 1).then(|| converged.plan.summary()),
            // No other program can change a table that this process owns.
            missed: !kernel.owns_table() && if was_noisy { is_touched } else { is_other },
            heard,
            changes,
            before: known.and_then(|(known, foreign)| foreign.is_empty().then_some(known)),
        })
    }
}
