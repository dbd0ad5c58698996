//! The iptables backend: a ruleset as input for iptables-restore and ipset, and the difference from
//! the loaded rules.

mod canonical;
pub mod diff;
pub mod ipset;
pub mod observed;
pub mod script;

/// Prefix of the names of our chains.
pub(crate) const CHAIN_PREFIX: &str = "PEERWALL-";

/// Whether a chain of this name is ours.
pub fn is_our_chain(name: &str) -> bool {
    name.starts_with(CHAIN_PREFIX)
}
