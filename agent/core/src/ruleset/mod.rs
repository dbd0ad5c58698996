//! The content of the table `inet peerwall` in canonical form.
//!
//! Equal rulesets are the same table. Data that the kernel adds (handles, packet counts) is in
//! [`observed`](crate::nft::observed). [`Origins`](crate::ruleset::compile::Origins) records the
//! reason for each rule and its place in the policy.

mod chain;
pub mod change;
pub mod compile;
pub mod eval;
pub mod expect;
pub mod members;
pub mod render;
pub mod revoke;
mod rule;
mod set;
pub mod temporary;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::policy::Mode;
use crate::policy::reason::Reason;
use chain::chain_rank;
pub use chain::{Base, Chain, ChainHook, ChainPolicy, FORWARD, INPUT, PREROUTING, PUBLISHED};
pub use rule::{Action, CtStates, IcmpKinds, LABEL_BIT, LogTo, Match, Meter, Ports, Rule};
pub use set::{Element, Elements, Ends, KeyType, METER_SIZE, METER_TIMEOUT_SECONDS, Set};

/// Name of the table; its family is `inet`.
pub const TABLE: &str = "peerwall";

/// Content of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// Names of the counters.
    pub counters: BTreeSet<String>,
    /// Sets by name.
    #[serde(serialize_with = "temporary::without")]
    pub sets: BTreeMap<String, Set>,
    /// Chains: base chains first, then regular chains by name.
    pub chains: Vec<Chain>,
    /// When elements of [timed](Set::timed) sets end.
    #[serde(skip)]
    pub ends: Ends,
}

impl Ruleset {
    /// Brings chains into canonical order. Every builder of a ruleset must call this.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        self.chains
            .sort_by(|a, b| (chain_rank(&a.name), &a.name).cmp(&(chain_rank(&b.name), &b.name)));
        self
    }

    /// Returns the ruleset without the rules that only log.
    #[must_use]
    pub fn without_logs(&self) -> Self {
        let mut found = self.clone();
        for chain in &mut found.chains {
            chain.rules.retain(|rule| !rule.only_logs());
        }
        found
    }

    /// Returns what the rules do with denied packets.
    pub fn mode(&self) -> Mode {
        let passing = self.chains.iter().filter_map(|chain| {
            let passes = chain.rules.last()?.action == Some(Action::Accept);
            Reason::parse(&chain.name).filter(|reason| passes && reason.is_denial())
        });
        let passing: Vec<Reason> = passing.collect();
        match passing.iter().all(|reason| Mode::Audit.passes(reason)) {
            _ if passing.is_empty() => Mode::Enforce,
            true => Mode::Audit,
            false => Mode::AuditAll,
        }
    }

    /// Shares the elements of equal sets with another ruleset, so that later comparisons take no
    /// time.
    pub fn share_elements(&mut self, other: &Self) {
        for (name, set) in &mut self.sets {
            if let Some(same) = other
                .sets
                .get(name)
                .filter(|same| same.elements == set.elements)
            {
                set.elements = same.elements.clone();
            }
        }
    }

    /// Finds a chain by its name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// Number of elements in all sets.
    pub fn element_count(&self) -> usize {
        self.sets.values().map(|set| set.elements.len()).sum()
    }
}

/// Returns the name of the counter for a reason in a chain. A denial has one counter for both
/// hooks.
pub fn counter_name(chain: &str, reason: &Reason) -> String {
    format!("{chain}.{reason}")
}

/// Returns the chain and the reason of a counter. The chain is `None` for denials.
pub fn counter_reason(name: &str) -> Option<(Option<&str>, Reason)> {
    if let Some((chain, reason)) = name.split_once('.')
        && [INPUT, FORWARD, PUBLISHED].contains(&chain)
    {
        return Some((Some(chain), Reason::parse(reason)?));
    }
    Some((None, Reason::parse(name)?))
}
