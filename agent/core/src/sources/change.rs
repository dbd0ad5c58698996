//! Changes of members, what is reported of them, and what is saved.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::members::Members;

/// Members that were added and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Added members, with their names.
    pub joined: Vec<(IpAddr, String)>,
    /// Removed members, with their names.
    pub left: Vec<(IpAddr, String)>,
}

impl Change {
    /// Returns whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.left.is_empty()
    }
}

impl Members {
    /// Returns the members with their names, which are shared, in ascending order.
    pub(crate) fn shared(&self) -> impl Iterator<Item = (IpAddr, &Arc<str>)> {
        self.members
            .iter()
            .map(|(address, member)| (*address, &member.name))
    }

    /// Returns the name of a member.
    pub(crate) fn name(&self, address: IpAddr) -> Option<&str> {
        let member = self.members.get(&address)?;
        Some(&*member.name)
    }

    pub(super) fn names(&self) -> BTreeMap<IpAddr, Arc<str>> {
        let members = self.members.iter();
        members
            .map(|(address, member)| (*address, member.name.clone()))
            .collect()
    }

    pub(super) fn change_since(&self, before: &BTreeMap<IpAddr, Arc<str>>) -> Change {
        let told = |(address, name): (&IpAddr, &Arc<str>)| (*address, name.to_string());
        let now = self
            .members
            .iter()
            .map(|(address, member)| (address, &member.name));
        Change {
            joined: now
                .filter(|(address, _)| !before.contains_key(address))
                .map(told)
                .collect(),
            left: before
                .iter()
                .filter(|(address, _)| !self.members.contains_key(address))
                .map(told)
                .collect(),
        }
    }
}

/// Why missing members are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldWhy {
    /// The answer is empty. This needs [`Members::accept`](super::Members::accept).
    Empty,
    /// More nodes are missing than may leave at once.
    Loss,
    /// The answer is of another cluster.
    OtherCluster,
    /// The answer is older than the last one.
    Older,
}

/// Members that are kept although they are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Reason.
    pub why: HeldWhy,
    /// Number of missing addresses.
    pub addresses: usize,
    /// When the first of them may be removed; `None` if this needs
    /// [`Members::accept`](super::Members::accept).
    pub until: Option<Duration>,
}

/// Why a member is not removed by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forget {
    /// It is no member.
    NoMember,
    /// The source still lists it, and would add it again.
    Listed,
}

/// Members, as they are saved for the next boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Addresses with names.
    pub members: Vec<(IpAddr, String)>,
    /// Identity of the cluster.
    pub identity: Option<String>,
    /// Revision of the last answer.
    pub revision: Option<u64>,
}
