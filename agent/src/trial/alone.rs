//! Loads rulesets without an agent, for `confirm`, `rollback`, `boot` and the guard.

use peerwall_core::agent::keep::Fault;
use peerwall_core::backend::{Backend as _, BackendError, Plan as _};
use peerwall_core::policy::BackendChoice;
use peerwall_core::ruleset::Ruleset;

use super::before;
use crate::connections::loading::Loading;
use crate::enforce::converge::converge;
use crate::enforce::nft::lacks;
use crate::enforce::{Enforcer, switch};
use crate::store::since;
use crate::store::{Before, Kept};
use crate::trial::{Loader, of_backend};

/// Loads rulesets by the backend that loaded them before.
#[derive(Default)]
pub(crate) struct Alone {
    change: Option<String>,
    has_loaded: bool,
    /// Whether the caller ends connections.
    ends_none: bool,
}

impl Alone {
    /// Creates a loader that ends no open connections.
    pub(crate) fn ending_none() -> Self {
        Self {
            ends_none: true,
            ..Self::default()
        }
    }

    /// Whether it loaded a ruleset.
    pub(crate) fn has_loaded(&self) -> bool {
        self.has_loaded
    }
}

impl Loader for Alone {
    fn load(&mut self, kept: &Kept) -> Result<(), Fault> {
        let entry = &kept.entry;
        let to = Before {
            entry: None,
            ruleset: Some(kept.ruleset.clone()),
            by_iptables: entry.by_iptables,
            cut: entry.cut && !self.ends_none,
        };
        self.change = put(&to, &entry.policy)?;
        self.has_loaded = true;
        Ok(())
    }

    fn unload(&mut self) -> Result<bool, Fault> {
        let by_iptables = since::by_iptables();
        let nothing = Before {
            entry: None,
            ruleset: None,
            by_iptables,
            cut: true,
        };
        self.change = put(&nothing, "")?;
        Ok(self.change.is_some())
    }

    fn change(&mut self) -> Option<String> {
        self.change.clone()
    }
}

/// Loads a ruleset, or removes peerwall's rules. Then ends connections that the previous rules
/// admitted and the ruleset refuses. Returns a description of the change.
fn put(to: &Before, policy: &str) -> Result<Option<String>, Fault> {
    let old: Option<Ruleset> = before::in_force().0;
    let wanted = to.ruleset.as_ref();
    // The errors of iptables do not name a missing feature.
    let fault = |err: BackendError| Fault {
        is_lack: to.by_iptables || lacks(&err),
        ..of_backend(&err)
    };
    let chosen = match to.by_iptables {
        true => Enforcer::choose(BackendChoice::Iptables, |_| {}),
        false => Enforcer::nft_or_iptables(|err| log::warn!("{err}; using iptables instead")),
    };
    let mut enforcer = chosen.map_err(|err| Fault {
        is_passing: true,
        ..fault(err)
    })?;
    let is_first = wanted.is_some() && enforcer.is_any_loaded_now() == Ok(false);
    let mut loading = Loading::new(is_first, old);
    let done = converge(&mut enforcer, wanted).map_err(fault)?;
    loading.was(Enforcer::ruleset(&done.before));
    match wanted {
        None => {
            switch::remove_other(enforcer.is_iptables());
            since::forget();
        }
        Some(wanted) => {
            let generation = enforcer.known_at();
            switch::complete(enforcer.is_iptables(), policy, wanted, generation);
            loading.go_back(wanted, to.cut);
        }
    }
    Ok((!done.plan.is_empty()).then(|| done.plan.summary()))
}
