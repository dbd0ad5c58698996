//! The iptables backend: a ruleset as text for iptables-restore and ipset, and the difference to what they hold.

pub mod ipset;
pub mod restore;
pub mod saved;
