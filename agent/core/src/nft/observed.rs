//! What was found: the table as it is, with what the kernel adds to it.

use std::collections::BTreeMap;
use std::fmt;

use crate::ruleset::change::{Change, What};
use crate::ruleset::{Base, Chain, Rule, Ruleset, Set};

/// State of a namespace, as far as it concerns us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The kernel's generation counter, which every commit by anybody moves on.
    pub generation: u32,
    /// Our table, if there is one.
    pub table: Option<ObservedTable>,
}

/// The table `inet peerwall` as found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// Who owns it and whether it outlives him.
    pub hold: Ownership,
    /// Counters by name.
    pub counters: BTreeMap<String, ObservedCounter>,
    /// Sets by name.
    pub sets: BTreeMap<String, ObservedSet>,
    /// Chains in the kernel's order.
    pub chains: Vec<ObservedChain>,
    /// Objects in it that cannot be peerwall's: a reason to rebuild it.
    pub foreign: Vec<String>,
}

/// Who may change a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Port id of the netlink socket that owns it; absent if anybody may change it.
    pub owner: Option<u32>,
    /// Whether it stays when its owner goes.
    pub persist: bool,
}

/// A counter with what it counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObservedCounter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A set as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedSet {
    /// One that could be ours.
    Known {
        /// The set.
        set: Set,
        /// How many elements it can have; `None` for as many as there is memory for.
        capacity: Option<u32>,
    },
    /// Another type, a map, or with flags or elements that we never make.
    Unrecognized,
}

/// Why something in the kernel is not in the words of a ruleset: another program wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrecognized(pub String);

impl fmt::Display for Unrecognized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unrecognized {}

/// A chain as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedChain {
    /// Its name.
    pub name: String,
    /// Where packets enter it, or why that cannot be said in our words.
    pub base: Result<Option<Base>, Unrecognized>,
    /// Its rules with their handles, in order.
    pub rules: Vec<ObservedRule>,
}

/// A rule as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRule {
    /// The kernel's number for it, unique in the table.
    pub handle: u64,
    /// The rule, or why it is not peerwall's.
    pub rule: Result<Rule, Unrecognized>,
}

impl ObservedTable {
    /// The ruleset, if there is nothing in the table that is not in our words.
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

    /// The part of the table that is in our words, and the removal of everything else.
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

    /// The chain of this name.
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
