//! Switching backends: the new one is in force before the rules of the old one are removed.

use super::converge::{Hold, converge};
use super::iptables::{Iptables, IptablesError, Seen, Steps};
use super::nft::Kernel;

/// Whether rules of ours are loaded: our chains, or our table.
pub fn is_loaded(seen: &Seen) -> bool {
    let chains = !seen.v4.chains.is_empty() || !seen.v6.chains.is_empty();
    chains || Kernel::open().is_ok_and(|mut kernel| kernel.is_loaded().unwrap_or(false))
}

/// Removes our table, if there is one, now that our chains are in force.
pub fn remove_table() {
    let removed = Kernel::open().and_then(|mut kernel| converge(&mut kernel, None, Hold::No));
    match removed {
        Ok(converged) if converged.plan.is_empty() => {}
        Ok(_) => log::info!("removed the table inet peerwall"),
        Err(err) => log::info!("no table inet peerwall to remove: {err}"),
    }
}

/// Removes our chains, now that our table is in force.
///
/// # Errors
/// [`IptablesError`] if they are still there, at least in part.
pub fn remove_chains() -> Result<(), IptablesError> {
    let (iptables, seen) = look()?;
    iptables.commit(&Steps::new(None, &seen), &seen)
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
