//! Switching backends: the new one is in force before the rules of the old one are removed.

use peerwall_core::backend::{Backend as _, BackendError};
use peerwall_core::ruleset::Ruleset;

use super::converge::converge;
use super::iptables::{Iptables, IptablesObserved};
use super::nft::{Kernel, lacks};
use crate::store::since;

/// Whether peerwall's rules are loaded: its chains or its table.
pub fn is_loaded(seen: &IptablesObserved) -> bool {
    Iptables::is_loaded(seen)
        || Kernel::open().is_ok_and(|mut kernel| kernel.has_table().unwrap_or(false))
}

/// Completes a change once a ruleset is in force: removes the rules of the other backend, then
/// records the apply. In this order, so that a crash between any two steps leaves both backends'
/// rules or a record that the next apply completes.
pub fn complete(is_iptables: bool, policy: &str, ruleset: &Ruleset, generation: u32) {
    remove_other(is_iptables);
    let mut none = since::Digests::default();
    since::note(generation, policy, is_iptables, ruleset, &mut none);
}

/// Removes the rules of the backend that is no longer in use.
pub fn remove_other(is_iptables: bool) {
    let removed = match is_iptables {
        true => remove_table(),
        false if since::by_iptables() => remove_chains(),
        false => Ok(()),
    };
    if let Err(err) = removed {
        log::warn!("rules of the other backend are still loaded: {err}");
    }
}

fn remove_table() -> Result<(), BackendError> {
    // Where the kernel lacks nf_tables, there is nothing to remove.
    let Ok(mut kernel) = Kernel::open() else {
        return Ok(());
    };
    match converge(&mut kernel, None) {
        Err(err) if !lacks(&err) => Err(err),
        _ => Ok(()),
    }
}

fn remove_chains() -> Result<(), BackendError> {
    let mut iptables = Iptables::choose()?;
    converge(&mut iptables, None).map(drop)
}
