//! Chains and their hooks.

use serde::{Deserialize, Serialize};

use super::rule::Rule;
use crate::net::packet::Hook;

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Chain name.
    pub name: String,
    /// Hook and policy; `None` for a regular chain.
    pub base: Option<Base>,
    /// Rules, in order.
    pub rules: Vec<Rule>,
}

/// Netfilter hook of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainHook {
    /// `NF_INET_PRE_ROUTING`: every incoming packet, before DNAT and before the routing decision.
    Prerouting,
    /// `NF_INET_LOCAL_IN`: packets to this host.
    Input,
    /// `NF_INET_FORWARD`: forwarded packets.
    Forward,
}

impl ChainHook {
    /// Returns the name of the hook in nft.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
        }
    }
}

impl From<Hook> for ChainHook {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Input => Self::Input,
            Hook::Forward => Self::Forward,
        }
    }
}

/// Properties of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Hook. The chain type is always `filter`.
    pub hook: ChainHook,
    /// Priority among chains at the hook; lower runs earlier.
    pub priority: i32,
    /// Verdict at the end of the chain.
    pub policy: ChainPolicy,
}

/// Verdict at the end of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainPolicy {
    /// `accept`
    Accept,
    /// `drop`
    Drop,
}

/// Returns the rank of a chain in canonical order: base chains first.
pub(super) fn chain_rank(name: &str) -> u8 {
    match name {
        PREROUTING => 0,
        INPUT => 1,
        FORWARD => 2,
        PUBLISHED => 3,
        _ => 4,
    }
}

/// Name of the base chain at the prerouting hook.
pub const PREROUTING: &str = "prerouting";

/// Name of the base chain at the input hook.
pub const INPUT: &str = "input";

/// Name of the base chain at the forward hook.
pub const FORWARD: &str = "forward";

/// Name of the chain for DNATed connections, which are judged by their original destination.
pub const PUBLISHED: &str = "published";
