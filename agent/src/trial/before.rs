//! What is in force now, and what a trial goes back to.

use peerwall_core::agent::keep::Fault;
use peerwall_core::backend::Backend as _;
use peerwall_core::ruleset::Ruleset;

use super::{of_backend, of_io};
use crate::enforce::nft::Kernel;
use crate::store::{Before, Entry, State, since};

/// What a trial would go back to.
///
/// # Errors
/// [`Fault`] if that is unknown: treating it as nothing would leave the host open.
pub fn before(state: &State) -> Result<Before, Fault> {
    let by_iptables = since::by_iptables();
    let ruleset = match by_iptables {
        true => {
            let known = state.in_force_by_iptables();
            let why = "what iptables has in force is not in the state directory";
            Some(known.ok_or_else(|| Fault::new(why))?)
        }
        false => loaded(state)?,
    };
    let history = state.history().ok();
    let last = history.and_then(|mut history| history.kept.pop());
    let cut = last.as_ref().is_none_or(|last| last.cut);
    // Somebody else may have loaded what is in force.
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

/// The ruleset in the kernel; if other programs changed it so that it is not a ruleset of peerwall,
/// the last one that was confirmed.
fn loaded(state: &State) -> Result<Option<Ruleset>, Fault> {
    let seen = Kernel::open().and_then(|mut kernel| kernel.observe());
    let Some(table) = seen.map_err(|err| of_backend(&err))?.table else {
        return Ok(None);
    };
    if let Some(ruleset) = table.ruleset() {
        return Ok(Some(ruleset));
    }
    let why = "the table was changed, and nothing was confirmed";
    let last = state.last().map_err(of_io)?;
    last.map(|kept| Some(kept.ruleset))
        .ok_or_else(|| Fault::new(why))
}

/// What is in force, and whether by iptables.
pub fn in_force() -> (Option<Ruleset>, bool) {
    if since::by_iptables() {
        return (State::open().in_force_by_iptables(), true);
    }
    let seen = || Kernel::open().ok()?.observe().ok()?.table?.ruleset();
    (seen(), false)
}
