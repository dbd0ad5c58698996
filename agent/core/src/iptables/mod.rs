//! The iptables backend: input for iptables-restore and ipset, and the difference from the loaded
//! rules.

mod canonical;
pub mod diff;
pub mod ipset;
pub mod observed;
pub mod script;

/// Prefix of the names of peerwall's chains.
pub(crate) const CHAIN_PREFIX: &str = "PEERWALL-";

/// Reports whether a chain with this name belongs to peerwall.
pub fn is_our_chain(name: &str) -> bool {
    name.starts_with(CHAIN_PREFIX)
}
