//! Observed state: peerwall's table with the kernel's handles, counts and owner.

use std::collections::BTreeMap;
use std::fmt;

use crate::ruleset::change::{Change, What};
use crate::ruleset::{Base, Chain, Rule, Ruleset, Set};

/// Observed state of a network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Generation of the kernel's rulesets, which every commit of any program increments.
    pub generation: u32,
    /// peerwall's table, if it exists.
    pub table: Option<ObservedTable>,
}

/// Observed table `inet peerwall`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// Owner of the table, and whether the table survives it.
    pub hold: Ownership,
    /// Counters by name.
    pub counters: BTreeMap<String, ObservedCounter>,
    /// Sets by name.
    pub sets: BTreeMap<String, ObservedSet>,
    /// Chains in the kernel's order.
    pub chains: Vec<ObservedChain>,
    /// Objects that peerwall never creates, and that require rebuilding the table.
    pub foreign: Vec<String>,
}

/// Ownership of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Port ID of the netlink socket that owns the table; `None` if every process may change it.
    pub owner: Option<u32>,
    /// Whether the table survives its owner.
    pub persist: bool,
}

/// Values of a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObservedCounter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Observed set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedSet {
    /// Set that peerwall can represent.
    Known {
        /// Set.
        set: Set,
        /// Maximum number of elements; `None` if unlimited.
        capacity: Option<u32>,
    },
    /// Set with a type, flags or elements that peerwall never creates, or a map.
    Unrecognized,
}

/// Reason why peerwall cannot represent an object of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrecognized(pub String);

impl fmt::Display for Unrecognized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unrecognized {}

/// Observed chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedChain {
    /// Name.
    pub name: String,
    /// Hook, priority and policy of a base chain, or the reason why peerwall cannot represent them.
    pub base: Result<Option<Base>, Unrecognized>,
    /// Rules with their handles, in order.
    pub rules: Vec<ObservedRule>,
}

/// Observed rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRule {
    /// Handle, unique in the table.
    pub handle: u64,
    /// Rule, or the reason why peerwall cannot represent it.
    pub rule: Result<Rule, Unrecognized>,
}

impl ObservedTable {
    /// Returns the ruleset; `None` if the table contains foreign objects.
    pub fn ruleset(&self) -> Option<Ruleset> {
        if !self.foreign.is_empty() {
            return None;
        }
        let mut ruleset = Ruleset {
            counters: self.counters.keys().cloned().collect(),
            ..Ruleset::default()
        };
        for (name, set) in &self.sets {
            match set {
                ObservedSet::Known { set, .. } => ruleset.sets.insert(name.clone(), set.clone()),
                ObservedSet::Unrecognized => return None,
            };
        }
        for chain in &self.chains {
            ruleset.chains.push(chain.known()?);
        }
        Some(ruleset.normalized())
    }

    /// Returns the part of the table that peerwall can represent, and changes that remove the rest.
    pub fn known(&self) -> (Ruleset, Vec<Change>) {
        let mut foreign: Vec<Change> = self
            .foreign
            .iter()
            .map(|name| Change::removal(What::Foreign, name))
            .collect();
        let mut ruleset = Ruleset {
            counters: self.counters.keys().cloned().collect(),
            ..Ruleset::default()
        };
        for (name, set) in &self.sets {
            match set {
                ObservedSet::Known { set, .. } => {
                    drop(ruleset.sets.insert(name.clone(), set.clone()))
                }
                ObservedSet::Unrecognized => {
                    foreign.push(Change::removal(What::Set, name));
                }
            }
        }
        for chain in &self.chains {
            let mut rules = Vec::new();
            for seen in &chain.rules {
                match &seen.rule {
                    Ok(rule) => rules.push(rule.clone()),
                    Err(why) => foreign.push(Change::of_value(
                        What::Rule,
                        &chain.name,
                        Some(format!(
                            "handle {}, unknown to peerwall: {why}",
                            seen.handle
                        )),
                        None,
                    )),
                }
            }
            let name = chain.name.clone();
            let base = chain.base.clone().unwrap_or_else(|why| {
                let was = Some(format!("unknown to peerwall: {why}"));
                foreign.push(Change::of_value(What::Chain, &name, was, None));
                None
            });
            ruleset.chains.push(Chain { name, base, rules });
        }
        let foreign = foreign.into_iter().map(Change::by_others).collect();
        (ruleset.normalized(), foreign)
    }

    /// Finds a chain by its name.
    pub fn chain(&self, name: &str) -> Option<&ObservedChain> {
        self.chains.iter().find(|chain| chain.name == name)
    }
}

impl ObservedChain {
    fn known(&self) -> Option<Chain> {
        let rules = self.rules.iter().map(|seen| seen.rule.clone().ok());
        Some(Chain {
            name: self.name.clone(),
            base: self.base.clone().ok()?,
            rules: rules.collect::<Option<_>>()?,
        })
    }
}
