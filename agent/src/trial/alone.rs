//! Loads rulesets without an agent: for `confirm`, `rollback`, `boot` and the guard.

use peerwall_core::agent::keep::Fault;
use peerwall_core::backend::BackendError;
use peerwall_core::ruleset::Ruleset;

use super::before;
use crate::cli::BackendName;
use crate::connections::loading::Loading;
use crate::enforce::nft::lacks;
use crate::enforce::{Holder, switch};
use crate::store::since;
use crate::store::{Before, Kept};
use crate::trial::{Loader, of_backend};

/// Loads by the backend that a ruleset was loaded by before.
#[derive(Default)]
pub(crate) struct Alone {
    change: Option<String>,
}

impl Loader for Alone {
    fn load(&mut self, kept: &Kept) -> Result<(), Fault> {
        let entry = &kept.entry;
        let to = Before {
            entry: None,
            ruleset: Some(kept.ruleset.clone()),
            by_iptables: entry.by_iptables,
            cut: entry.cut,
        };
        self.change = put(&to, &entry.policy)?;
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

/// Loads a ruleset, or removes what is ours; then ends connections that what was loaded before admitted and it
/// refuses. Returns what was changed, in words.
fn put(to: &Before, policy: &str) -> Result<Option<String>, Fault> {
    let old: Option<Ruleset> = before::in_force().0;
    let wanted = to.ruleset.as_ref();
    let asked = match to.by_iptables {
        true => BackendName::Iptables,
        false => BackendName::Auto,
    };
    let mut holder = Holder::choose(asked, true).map_err(|err| Fault {
        is_passing: true,
        is_lack: to.by_iptables,
        ..Fault::new(err)
    })?;
    // iptables does not say what it lacks.
    let fault = |err: BackendError| Fault {
        is_lack: to.by_iptables || lacks(&err),
        ..of_backend(&err)
    };
    let mut loading = Loading::new(wanted.is_some() && holder.is_loaded() == Some(false), old);
    let done = holder.converge(wanted).map_err(fault)?;
    loading.was(done.before);
    match (wanted, holder.generation()) {
        (None, _) => {
            switch::remove_other(holder.is_deaf());
            since::forget();
        }
        (Some(wanted), generation) => {
            switch::complete(holder.is_deaf(), policy, wanted, generation.unwrap_or(0));
        }
    }
    if let Some(wanted) = wanted {
        loading.go_back(wanted, to.cut);
    }
    Ok(done.change)
}
