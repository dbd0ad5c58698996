//! Chains and their hooks.

use serde::{Deserialize, Serialize};

use super::rule::Rule;
use crate::net::packet::Hook;

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Name.
    pub name: String,
    /// Hook and policy; `None` for a regular chain.
    pub base: Option<Base>,
    /// Rules, in order.
    pub rules: Vec<Rule>,
}

/// The netfilter hook of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainHook {
    /// `NF_INET_PRE_ROUTING`: every incoming packet, before DNAT and before the routing decision.
    Prerouting,
    /// `NF_INET_LOCAL_IN`: for this host.
    Input,
    /// `NF_INET_FORWARD`: through this host.
    Forward,
}

impl ChainHook {
    /// Name in nft.
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
    /// The hook. The type is always `filter`.
    pub hook: ChainHook,
    /// Order among chains at the hook; lower is earlier.
    pub priority: i32,
    /// Verdict at the chain's end.
    pub policy: ChainPolicy,
}

/// Verdict at a base chain's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainPolicy {
    /// `accept`
    Accept,
    /// `drop`
    Drop,
}

/// Order of chains: base chains first.
pub(super) fn chain_rank(name: &str) -> u8 {
    match name {
        PREROUTING => 0,
        INPUT => 1,
        FORWARD => 2,
        PUBLISHED => 3,
        _ => 4,
    }
}

/// Base chain of the prerouting hook.
pub const PREROUTING: &str = "prerouting";

/// Base chain of the input hook.
pub const INPUT: &str = "input";

/// Base chain of the forward hook.
pub const FORWARD: &str = "forward";

/// Chain for DNATed connections, judged by their original destination port.
pub const PUBLISHED: &str = "published";
