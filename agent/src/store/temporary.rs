//! The temporary peers of an agent, for its restart and for commands.

use std::net::IpAddr;
use std::time::Duration;

use peerwall_core::policy::{End, TemporaryPeer};
use serde::{Deserialize, Serialize};

use super::boot;

/// Temporary peers of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Temporary {
    /// Id of the boot. Times since boot mean nothing after it, and the rules are gone too.
    boot: String,
    /// The peers, with one address each.
    pub peers: Vec<Added>,
}

/// A temporary peer as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Name.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Its end; `None` if it has none.
    pub end: Option<End>,
    /// Whether it stays when the policy is loaded again.
    pub is_kept: bool,
}

impl Default for Temporary {
    /// Creates an empty list for this boot.
    fn default() -> Self {
        Self {
            boot: boot(),
            peers: Vec::new(),
        }
    }
}

impl Temporary {
    /// Whether the list was made since the machine booted.
    pub fn is_of_this_boot(&self) -> bool {
        self.boot == boot()
    }

    /// Returns the list of those that stay when the policy is loaded again; `None` if there are
    /// none.
    pub fn kept(mut self) -> Option<Self> {
        self.peers.retain(|peer| peer.is_kept);
        (!self.peers.is_empty()).then_some(self)
    }

    /// Returns the peers whose time is not over.
    pub fn at(&self, uptime: Duration) -> Vec<TemporaryPeer> {
        let peers = self.peers.iter().filter(|peer| !peer.is_over(uptime));
        peers.map(Added::peer).collect()
    }

    /// Returns the time since boot at which the next peer ends.
    pub fn next_end(&self) -> Option<Duration> {
        let ends = self.peers.iter().filter_map(|peer| peer.end.as_ref());
        ends.map(|end| end.uptime).min()
    }

    /// Removes the peers whose time is over, and returns them.
    pub fn take_ended(&mut self, uptime: Duration) -> Vec<Added> {
        self.peers
            .extract_if(.., |peer| peer.is_over(uptime))
            .collect()
    }
}

impl Added {
    fn is_over(&self, uptime: Duration) -> bool {
        self.end.as_ref().is_some_and(|end| end.uptime <= uptime)
    }

    fn peer(&self) -> TemporaryPeer {
        TemporaryPeer {
            name: self.name.clone(),
            address: self.address,
            end: self.end.clone(),
        }
    }
}
