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
pub struct Readings {
    lines: BTreeMap<RuleId, Reading>,
    /// Whether the files are all rules that one host has loaded. Packets then pass every table,
    /// also two with one name: iptables-legacy and iptables-nft have tables of their own.
    pub is_live: bool,
}

impl Readings {
    /// Adds a reading.
    pub fn insert(&mut self, id: RuleId, reading: Reading) {
        self.lines.insert(id, reading);
    }

    /// Returns the reading of a line.
    pub fn get(&self, id: RuleId) -> Option<&Reading> {
        self.lines.get(&id)
    }

    /// Returns the number of lines.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Reports whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::rule::{At, ImportedRule, Verb};
    use crate::import::{Facts, Fate, File, Options, import_read, rules, rules_read};

    fn file(lines: &str) -> [File; 1] {
        let text = format!("*filter\n:INPUT DROP\n:a -\n{lines}\nCOMMIT\n");
        let (name, family) = ("rules".into(), Some(Family::V4));
        [File { name, text, family }]
    }

    fn words(lines: &[&str]) -> Reading {
        let split = |line: &&str| line.split(' ').map(str::to_owned).collect();
        Reading::Words(lines.iter().map(split).collect())
    }

    /// Assigns readings to the lines, in order; `None` for a line that iptables did not read.
    fn readings(file: &[File], given: &[Option<Reading>]) -> Readings {
        let tables = tables(file);
        let lines = tables.iter().flat_map(|table| &table.lines);
        let mut readings = Readings::default();
        for (line, reading) in lines.zip(given) {
            if let Some(reading) = reading {
                readings.insert(line.id, reading.clone());
            }
        }
        readings
    }

    fn of_input(mut all: Vec<crate::import::rule::ImportedRules>) -> Vec<ImportedRule> {
        let input = all.remove(0).filter.remove("INPUT").unwrap();
        let at = At { input: 0, line: 0 };
        let rules = input.rules.into_iter();
        rules.map(|rule| ImportedRule { at, ..rule }).collect()
    }

    #[test]
    fn words_of_iptables_replace_those_of_the_line() {
        let port = |port: &str| words(&[&format!("-p tcp -m tcp --dport {port} -j ACCEPT")]);
        let all = [
            (
                "a name",
                "-A INPUT -p tcp --dport mine -j ACCEPT",
                vec![Some(port("4711"))],
                "-A INPUT -p tcp --dport 4711 -j ACCEPT",
            ),
            (
                "a line that iptables did not read",
                "-A INPUT -p tcp --dport mine -j ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT",
                vec![Some(port("4711")), None],
                "-A INPUT -p tcp --dport 4711 -j ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT",
            ),
            (
                "a list is one rule",
                "-A INPUT -s x,y -d v,w -j ACCEPT",
                vec![Some(words(&[
                    "-s 192.0.2.1/32 -d 192.0.2.3/32 -j ACCEPT",
                    "-s 192.0.2.1/32 -d 192.0.2.4/32 -j ACCEPT",
                    "-s 192.0.2.2/32 -d 192.0.2.3/32 -j ACCEPT",
                    "-s 192.0.2.2/32 -d 192.0.2.4/32 -j ACCEPT",
                ]))],
                "-A INPUT -s 192.0.2.1,192.0.2.2 -d 192.0.2.3,192.0.2.4 -j ACCEPT",
            ),
            (
                "numbers count each address of a list",
                "-A INPUT -s x,y -j ACCEPT\n-I INPUT 2 -p tcp --dport mine -j ACCEPT",
                vec![
                    Some(words(&["-s 192.0.2.1 -j ACCEPT", "-s 192.0.2.2 -j ACCEPT"])),
                    Some(port("4711")),
                ],
                "-A INPUT -s 192.0.2.1 -j ACCEPT\n-A INPUT -p tcp --dport 4711 -j ACCEPT\n\
                 -A INPUT -s 192.0.2.2 -j ACCEPT",
            ),
            (
                "replaced and deleted rules",
                "-A INPUT -p tcp --dport mine -j ACCEPT\n-A INPUT -j DROP\n\
                 -R INPUT 2 -p tcp --dport yours -j ACCEPT\n-D INPUT -p tcp --dport mine -j ACCEPT",
                vec![
                    Some(port("4711")),
                    Some(words(&["-j DROP"])),
                    Some(port("4712")),
                    Some(port("4711")),
                ],
                "-A INPUT -p tcp --dport 4712 -j ACCEPT",
            ),
        ];
        for (name, lines, given, want) in all {
            let file = file(lines);
            let read = rules_read(&file, &readings(&file, &given)).unwrap();
            assert_eq!(
                of_input(read),
                of_input(rules(&self::file(want)).unwrap()),
                "{name}"
            );
        }
    }

    #[test]
    fn a_line_that_iptables_rejects_accepts_nothing() {
        let file = file("-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -j DROP");
        let refused = Reading::Refused("unknown option".into());
        let readings = readings(&file, &[Some(refused)]);
        let read = of_input(rules_read(&file, &readings).unwrap());
        assert!(read[0].unknown().next().is_some(), "{read:?}");
        assert_eq!(read[1].target, Verb::Drop);
        let options = Options::default();
        let import = import_read(&file, &Facts::default(), options, &readings).unwrap();
        let line = import.lines.iter().find(|line| line.line == 4).unwrap();
        assert_eq!(line.fate, Fate::Left);
        assert!(
            line.words
                .contains("iptables refuses this line: unknown option"),
            "{}",
            line.words
        );
        assert!(!import.policy.contains("22/tcp"), "{}", import.policy);
    }

    #[test]
    fn a_condition_that_iptables_does_not_print_is_not_lost() {
        for (line, printed) in [
            (
                "-p tcp ! --dport 0:65535 -j ACCEPT",
                "-p tcp -m tcp -j ACCEPT",
            ),
            (
                "-p ah -m ah ! --ahspi 0:4294967295 -j ACCEPT",
                "-p ah -m ah -j ACCEPT",
            ),
            (
                "-p tcp --tcp-flags NONE SYN --dport 9 -j ACCEPT",
                "-p tcp -m tcp --dport 9 -j ACCEPT",
            ),
        ] {
            let file = file(&format!("-A INPUT {line}"));
            let readings = readings(&file, &[Some(words(&[printed]))]);
            let read = of_input(rules_read(&file, &readings).unwrap());
            assert!(read[0].unknown().next().is_some(), "{line}: {read:?}");
        }
        let file = file("-A INPUT -p tcp --dport 0:65535 --tcp-flags NONE NONE -j ACCEPT");
        let readings = readings(&file, &[Some(words(&["-p tcp -m tcp -j ACCEPT"]))]);
        let read = of_input(rules_read(&file, &readings).unwrap());
        assert_eq!(read[0].unknown().next(), None);
    }

    #[test]
    fn tables_have_every_chain_and_every_line_with_words() {
        let file = file("-A b -j DROP\n-I INPUT 1 -j a\n-D INPUT 1\n-F a\n-D INPUT -j a");
        let tables = tables(&file);
        let words = tables[0].lines.iter().map(|line| line.words.join(" "));
        assert_eq!(words.collect::<Vec<_>>(), ["-j DROP", "-j a", "-j a"]);
        assert_eq!(tables[0].chains, ["INPUT", "a", "b"]);
    }
}
