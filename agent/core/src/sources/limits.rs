//! Limits on what a source can add and remove.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of addresses of one node.
pub const PER_NODE_MAX: usize = 16;
/// Default of [`Limits::max`].
pub const MAX_DEFAULT: usize = 1024;
/// Highest possible [`Limits::max`].
pub const MAX_HIGHEST: usize = 1_000_000;

/// Limits on a source, from the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Networks in which members must be.
    pub within: Vec<IpNet>,
    /// Networks in which no member can be: those of pods and services.
    pub never: Vec<IpNet>,
    /// Maximum number of addresses.
    pub max: usize,
    /// Share of the nodes that can leave within [`hold`](Self::hold), in percent. At least one node
    /// can always leave.
    pub max_loss: u8,
    /// How long a larger loss must last before it is believed.
    pub hold: Duration,
    /// How long an address must be missing before it is removed.
    pub grace: Duration,
    /// Time without a proof after which the source counts as stale.
    pub stale_after: Duration,
    /// Time without a proof after which all members are removed; `None` for never.
    pub stale_drop: Option<Duration>,
    /// Whether addresses of the same name belong to one node. DNS has no nodes.
    pub has_nodes: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            within: Vec::new(),
            never: Vec::new(),
            max: MAX_DEFAULT,
            max_loss: 25,
            hold: Duration::from_secs(15 * 60),
            grace: Duration::from_secs(60),
            stale_after: Duration::from_secs(10 * 60),
            stale_drop: None,
            has_nodes: true,
        }
    }
}

impl Limits {
    /// Checks whether a member can have this address.
    ///
    /// # Errors
    /// [`Refused`] with the reason.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        if !is_host(address) {
            return Err(Refused::NotUnicast);
        }
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        match (is_in(&self.within), is_in(&self.never)) {
            (false, _) => Err(Refused::Outside),
            (true, true) => Err(Refused::ClusterNetwork),
            (true, false) => Ok(()),
        }
    }
}

/// Reports whether a packet of another machine can have this source address, on more than one link.
fn is_host(address: IpAddr) -> bool {
    let is_special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !is_special
        && match address {
            // 0.0.0.0/8 is this network, 240.0.0.0/4 is reserved and contains the broadcast address
            // (RFC 1122 section 3.2.1.3, RFC 1112 section 4).
            IpAddr::V4(v4) => !v4.is_link_local() && v4.octets()[0] != 0 && v4.octets()[0] < 240,
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
        }
}

/// Why an entry of a source is not a member.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// It is not an address.
    Garbage,
    /// Unspecified, loopback, multicast, link-local, reserved or IPv4-mapped.
    NotUnicast,
    /// It is not in `within`.
    Outside,
    /// It is an address of a pod or service of this cluster.
    ClusterNetwork,
    /// The node has [`PER_NODE_MAX`] others.
    PerNode,
    /// The source has `max` others.
    Max,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Self; 6] = [
        Self::Garbage,
        Self::NotUnicast,
        Self::Outside,
        Self::ClusterNetwork,
        Self::PerNode,
        Self::Max,
    ];

    /// Returns the name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::NotUnicast => "not_unicast",
            Self::Outside => "outside",
            Self::ClusterNetwork => "cluster_network",
            Self::PerNode => "per_node",
            Self::Max => "max",
        }
    }

    /// Returns the reason in words.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Garbage => "not an address",
            Self::NotUnicast => "not the address of a machine",
            Self::Outside => "not in `within`",
            Self::ClusterNetwork => "in a network of pods or services",
            Self::PerNode => "the node has 16 other addresses",
            Self::Max => "the source has `max` other addresses",
        }
    }
}
