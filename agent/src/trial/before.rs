//! Determines the loaded ruleset, to which a trial is rolled back.

use peerwall_core::agent::keep::Fault;
use peerwall_core::backend::{Backend as _, BackendError};
use peerwall_core::nft::observed::Observed;
use peerwall_core::ruleset::Ruleset;

use super::{of_backend, of_io};
use crate::enforce::nft::Kernel;
use crate::store::{Before, Entry, State, since};

/// Returns the state to which a trial would be rolled back.
///
/// # Errors
/// [`Fault`] if it cannot be determined. Without the error, a rollback would remove the rules and
/// leave the host open.
pub fn before(state: &State) -> Result<Before, Fault> {
    let by_iptables = since::by_iptables();
    let ruleset = match by_iptables {
        true => {
            let known = state.in_force_by_iptables();
            let why = "the ruleset that iptables loaded is not in the state directory";
            Some(known.ok_or_else(|| Fault::new(why))?)
        }
        false => loaded(state)?,
    };
    let history = state.history().ok();
    let last = history.and_then(|mut history| history.kept.pop());
    let cut = last.as_ref().is_none_or(|last| last.cut);
    // Another program may have loaded the rules.
    let is_in_force = |last: &Entry| {
        let kept = state.load(last.clone());
        kept.is_ok_and(|kept| Some(kept.ruleset) == ruleset)
    };
    Ok(Before {
        entry: last.filter(is_in_force),
        ruleset,
        by_iptables,
        cut,
    })
}

/// Reads the ruleset from the kernel; the last confirmed one if other programs changed the table so
/// that it cannot be converted.
fn loaded(state: &State) -> Result<Option<Ruleset>, Fault> {
    let Some(table) = seen().map_err(|err| of_backend(&err))?.table else {
        return Ok(None);
    };
    if let Some(ruleset) = table.ruleset() {
        return Ok(Some(ruleset));
    }
    let why = "the table was changed, and there is no confirmed ruleset";
    let last = state.last().map_err(of_io)?;
    last.map(|kept| Some(kept.ruleset))
        .ok_or_else(|| Fault::new(why))
}

/// Returns the loaded ruleset, and whether it was loaded by iptables.
pub fn in_force() -> (Option<Ruleset>, bool) {
    if since::by_iptables() {
        return (State::open().in_force_by_iptables(), true);
    }
    let ruleset = || seen().ok()?.table?.ruleset();
    (ruleset(), false)
}

/// Reads the table, without the sets that are known from the last load.
fn seen() -> Result<Observed, BackendError> {
    let mut kernel = Kernel::open()?;
    kernel.expect(&Ruleset::default());
    kernel.observe()
}
