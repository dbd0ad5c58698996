//! Temporary peers.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The peers that were added by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemporaryPeers {
    /// The peers, in the order in which they were added.
    pub temporary_peers: Vec<TemporaryPeerStatus>,
}

/// A peer that was added by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemporaryPeerStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// When it ends, as RFC 3339; absent if it has no end.
    pub end: Option<String>,
    /// How long it has left, in seconds.
    pub seconds_left: Option<u64>,
    /// Whether it stays when the policy is loaded again.
    pub is_kept: bool,
    /// Whether the rules in force accept it. They do not while the host is blocked, for example.
    pub in_force: bool,
}
