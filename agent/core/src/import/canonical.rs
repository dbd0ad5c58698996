//! Rules in the words of iptables-save, which the caller obtained from iptables itself.
//!
//! iptables knows its abbreviations, old spellings and names of services better than any other
//! reader. Position, order and place of a rule still come from the file.

use std::collections::BTreeMap;

use peerwall_proto::iptables::{Position, Table};

use crate::net::addr::Family;

/// A table of a file, for iptables to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTable {
    /// Family.
    pub family: Family,
    /// `filter`, `nat`, …
    pub name: String,
    /// Every chain that the file declares or adds rules to.
    pub chains: Vec<String>,
    /// Lines with the words of a rule.
    pub lines: Vec<RuleLine>,
}

/// A line with the words of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleLine {
    /// Identification, for [`Readings`].
    pub id: RuleId,
    /// Chain.
    pub chain: String,
    /// Words after the chain.
    pub words: Vec<String>,
}

/// Identification of a rule in a list of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId {
    table: (usize, usize),
    rule: usize,
}

/// What iptables makes of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// The words that iptables-save prints for it, for one or several rules.
    Words(Vec<Vec<String>>),
    /// iptables rejects the words, with this message.
    Refused(String),
}

/// What iptables makes of lines. Others are read by peerwall.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readings(BTreeMap<RuleId, Reading>);

impl Readings {
    /// Adds a reading.
    pub fn insert(&mut self, id: RuleId, reading: Reading) {
        self.0.insert(id, reading);
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns the reading of a line.
    pub fn get(&self, id: RuleId) -> Option<&Reading> {
        self.0.get(&id)
    }

    /// Returns the number of lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Reports whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn of_table(&self, table: (usize, usize)) -> TableReadings<'_> {
        TableReadings { all: self, table }
    }
}

/// Readings of one table.
pub(super) struct TableReadings<'r> {
    all: &'r Readings,
    table: (usize, usize),
}

impl<'r> TableReadings<'r> {
    /// Returns the reading of a rule by its index in the table.
    pub(super) fn get(&self, rule: usize) -> Option<&'r Reading> {
        let table = self.table;
        self.all.get(RuleId { table, rule })
    }
}

impl RuleTable {
    pub(super) fn new(at: (usize, usize), family: Family, table: &Table) -> Self {
        let declared = table.chains.iter().map(|chain| &chain.name);
        let used = table.rules.iter().map(|rule| &rule.chain);
        let mut chains: Vec<String> = declared.chain(used).cloned().collect();
        chains.sort();
        chains.dedup();
        chains.retain(|name| !name.is_empty());
        let rules = table.rules.iter().enumerate();
        let with_words = rules.filter(|(_, rule)| match rule.position {
            Position::Append | Position::Insert(_) | Position::Replace(_) | Position::Delete => {
                true
            }
            Position::DeleteAt(_) | Position::Flush => false,
        });
        let lines = with_words.map(|(index, rule)| RuleLine {
            id: RuleId {
                table: at,
                rule: index,
            },
            chain: rule.chain.clone(),
            words: rule.words.clone(),
        });
        Self {
            family,
            name: table.name.clone(),
            lines: lines.collect(),
            chains,
        }
    }
}

/// Returns the tables of iptables files. Files that cannot be read have none.
pub fn tables(files: &[super::File]) -> Vec<RuleTable> {
    super::input::tables(files)
}
