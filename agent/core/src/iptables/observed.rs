//! Peerwall's chains in the output of `iptables-save --counters`.

use std::collections::BTreeMap;

use peerwall_proto::iptables::{self, Line};

use super::canonical::{canonical, words};
use crate::iptables::script::{JUMP_COMMENT, Script, Table, WantedChain, WantedJump};
use crate::iptables::{CHAIN_PREFIX, is_our_chain};
use crate::ruleset::counter_reason;

/// Peerwall's part of the tables of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// Chains of peerwall with their rules.
    pub chains: BTreeMap<(Table, String), Vec<SavedRule>>,
    /// Jumps from other chains into peerwall's chains.
    pub jumps: Vec<SavedJump>,
}

impl Saved {
    /// Converts the chains to a [`Script`], for restoring them later.
    pub fn as_script(&self) -> Script {
        let texts = |rules: &[SavedRule]| rules.iter().map(|rule| rule.text.clone()).collect();
        let chains = self
            .chains
            .iter()
            .map(|((table, name), rules)| WantedChain {
                table: *table,
                name: name.clone(),
                rules: texts(rules),
            });
        let jumps = self.jumps.iter().filter_map(|old| {
            let from = ["INPUT", "FORWARD", "PREROUTING"]
                .into_iter()
                .find(|from| *from == old.from)?;
            let to = words(&old.text)
                .into_iter()
                .find(|word| is_our_chain(word))?;
            let table = old.table;
            Some(WantedJump { table, from, to })
        });
        Script {
            chains: chains.collect(),
            jumps: jumps.collect(),
        }
    }
}

/// A rule as printed by `iptables-save`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRule {
    /// Words after `-A CHAIN`.
    pub text: String,
    /// Packet counter.
    pub packets: u64,
    /// Byte counter.
    pub bytes: u64,
}

/// A jump into a chain of peerwall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedJump {
    /// Table.
    pub table: Table,
    /// Chain that contains the jump.
    pub from: String,
    /// Words after `-A CHAIN`.
    pub text: String,
    /// Whether the jump is the first rule of that chain.
    pub first: bool,
}

/// A line that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedError {
    /// Line number, from 1.
    pub line: usize,
    /// Text of the line.
    pub text: String,
}

impl std::fmt::Display for SavedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "cannot parse line {} of iptables-save: {}",
            self.line, self.text
        )
    }
}

impl std::error::Error for SavedError {}

/// Parses peerwall's part of the output of `iptables-save --counters`, in each [`Table`].
///
/// # Errors
/// [`SavedError`] for a line that is not in the format of iptables-save.
pub fn parse(text: &str) -> Result<Saved, SavedError> {
    let mut saved = Saved::default();
    let mut met: BTreeMap<(Table, &str), usize> = BTreeMap::new();
    let mut table = Some(Table::Filter);
    for (index, line) in text.lines().enumerate() {
        let wrong = || SavedError {
            line: index + 1,
            text: line.to_owned(),
        };
        let read = iptables::line(line);
        if let Ok(Line::Table(name)) = read {
            table = Table::ALL.into_iter().find(|table| table.name() == name);
            continue;
        }
        let Some(table) = table else {
            continue;
        };
        let (counters, rule) = match read {
            Err(_) => return Err(wrong()),
            Ok(Line::Blank | Line::Commit | Line::Table(_)) => continue,
            Ok(Line::Chain { name, .. }) => {
                if is_our_chain(name) {
                    saved.chains.entry((table, name.to_owned())).or_default();
                }
                continue;
            }
            Ok(Line::Command { counters, text }) => (counters, text),
        };
        let (packets, bytes) = counters.unwrap_or_default();
        let (chain, text) = rule
            .strip_prefix("-A ")
            .and_then(|r| r.split_once(' '))
            .unwrap_or((rule.strip_prefix("-A ").ok_or_else(wrong)?, ""));
        let position = met.entry((table, chain)).or_default();
        *position += 1;
        let text = text.to_owned();
        if is_our_chain(chain) {
            let rule = SavedRule {
                text,
                packets,
                bytes,
            };
            let key = (table, chain.to_owned());
            saved.chains.entry(key).or_default().push(rule);
        } else if words(&text).iter().any(|word| is_our_chain(word)) {
            saved.jumps.push(SavedJump {
                table,
                from: chain.to_owned(),
                first: *position == 1,
                text,
            });
        }
    }
    Ok(saved)
}

/// Sums packets and bytes by counter. The comments of rules name their counters.
pub fn counters(seen: &Saved) -> BTreeMap<String, (u64, u64)> {
    let mut counters: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for rule in seen.chains.values().flatten() {
        if let Some(name) = counter_of(&rule.text) {
            let entry = counters.entry(name).or_default();
            entry.0 += rule.packets;
            entry.1 += rule.bytes;
        }
    }
    counters
}

/// Returns the counter that the comment of a rule names; `None` for rules without one.
pub fn counter_of(rule: &str) -> Option<String> {
    let parts = canonical(rule);
    let comment = parts
        .into_iter()
        .find(|(_, option, _)| option == "--comment");
    let (_, _, name) = comment?;
    counter_reason(&name).is_some().then_some(name)
}

/// Reports whether a line belongs to peerwall's chains or jumps into them.
pub fn is_ours(line: &str) -> bool {
    line.contains(CHAIN_PREFIX) || line.contains(&format!("--comment {JUMP_COMMENT} "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_makes_no_sense_is_an_error_with_its_number() {
        for text in [
            "*filter\nnonsense\n",
            "[1:x] -A INPUT -j ACCEPT\n",
            "[1:2 -A\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
