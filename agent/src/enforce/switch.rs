//! Switching backends: the new one is in force before the rules of the old one are removed.

use peerwall_core::backend::{Backend as _, BackendError};

use super::converge::converge;
use super::iptables::{Iptables, IptablesError, Seen};
use super::nft::Kernel;

/// Whether rules of ours are loaded: our chains, or our table.
pub fn is_loaded(seen: &Seen) -> bool {
    Iptables::is_loaded(seen)
        || Kernel::open().is_ok_and(|mut kernel| kernel.has_table().unwrap_or(false))
}

/// Removes our table, if there is one, now that our chains are in force.
pub fn remove_table() {
    let removed = Kernel::open().and_then(|mut kernel| converge(&mut kernel, None));
    match removed {
        Ok(converged) if converged.plan.is_empty() => {}
        Ok(_) => log::info!("removed the table inet peerwall"),
        Err(err) => log::info!("no table inet peerwall to remove: {err}"),
    }
}

/// Removes our chains, now that our table is in force.
///
/// # Errors
/// [`BackendError`] if they are still there.
pub fn remove_chains() -> Result<(), BackendError> {
    let mut iptables = Iptables::choose()?;
    converge(&mut iptables, None).map(drop)
}

/// The iptables of this host, and what it holds of ours.
///
/// # Errors
/// [`IptablesError`] if there is none, or it cannot be read.
pub fn look() -> Result<(Iptables, Seen), IptablesError> {
    let iptables = Iptables::choose()?;
    let seen = iptables.observe()?;
    Ok((iptables, seen))
}
