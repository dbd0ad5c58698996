//! Where the rules of a script name sets, and where its sets are there.
//!
//! ipset neither destroys nor renames a set that a rule names, and iptables refuses a rule that
//! names a set which is not there.

use std::collections::HashMap;
use std::ops::Range;

use peerwall_proto::iptables::{Position, Rule, Save};

/// Lines between which something is so.
type Lines = Vec<Range<usize>>;

/// Where rules name each set.
#[derive(Debug, Default)]
pub(super) struct Uses {
    sets: HashMap<String, Lines>,
}

impl Uses {
    /// Adds the rules of one family. Rules that a number removes may still be there.
    pub(super) fn add(&mut self, save: &Save) {
        for table in &save.tables {
            let mut open: HashMap<&str, Vec<&Rule>> = HashMap::new();
            for rule in &table.rules {
                let end = rule.line;
                match rule.position {
                    Position::Append | Position::Insert(_) | Position::Replace(_) => {
                        if set_names(rule, &NAMES).next().is_some() {
                            open.entry(&rule.chain).or_default().push(rule);
                        }
                    }
                    Position::Flush if rule.chain.is_empty() => {
                        let gone = open.drain().flat_map(|(_, rules)| rules);
                        gone.for_each(|gone| self.note(gone, end));
                    }
                    Position::Flush => {
                        let gone = open.remove(rule.chain.as_str()).into_iter().flatten();
                        gone.for_each(|gone| self.note(gone, end));
                    }
                    Position::Delete => {
                        let rules = open.entry(&rule.chain).or_default();
                        let at = rules.iter().position(|other| other.words == rule.words);
                        if let Some(at) = at {
                            self.note(rules.remove(at), end);
                        }
                    }
                    Position::DeleteAt(_) => {}
                }
            }
            let rest = open.into_values().flatten();
            rest.for_each(|rule| self.note(rule, usize::MAX));
        }
    }

    fn note(&mut self, rule: &Rule, end: usize) {
        for name in set_names(rule, &NAMES) {
            let lines = self.sets.entry(name.to_owned()).or_default();
            lines.push(rule.line..end);
        }
    }

    /// Returns the line of a rule that names a set at a line; of any set without a name.
    pub(super) fn at(&self, name: Option<&str>, line: usize) -> Option<usize> {
        let is_asked = |set: &str| name.is_none_or(|name| name == set);
        let sets = self.sets.iter().filter(|(set, _)| is_asked(set));
        let mut uses = sets.flat_map(|(_, lines)| lines);
        uses.find(|lines| lines.contains(&line))
            .map(|lines| lines.start)
    }
}

/// Options with the name of a set.
pub(super) const NAMES: [&str; 4] = ["--match-set", "--add-set", "--del-set", "--map-set"];
/// Those of the target SET that change it.
pub(super) const CHANGES: [&str; 2] = ["--add-set", "--del-set"];

/// Returns the sets that a rule names with one of these options.
pub(super) fn set_names<'r>(rule: &'r Rule, options: &[&str]) -> impl Iterator<Item = &'r str> {
    rule.words.windows(2).filter_map(|words| match words {
        [option, name] if options.contains(&option.as_str()) => Some(name.as_str()),
        _ => None,
    })
}

/// Between which lines of a file each of its sets is there.
#[derive(Debug, Default)]
pub(super) struct Lives {
    sets: HashMap<String, Lines>,
}

impl Lives {
    pub(super) fn begin(&mut self, name: &str, line: usize) {
        let lives = self.sets.entry(name.to_owned()).or_default();
        if lives.last().is_none_or(|life| life.end != usize::MAX) {
            lives.push(line..usize::MAX);
        }
    }

    /// Ends the life of a set; of every set without a name.
    pub(super) fn end(&mut self, name: Option<&str>, line: usize) {
        let is_asked = |set: &str| name.is_none_or(|name| name == set);
        for (_, lives) in self.sets.iter_mut().filter(|(set, _)| is_asked(set)) {
            if let Some(life) = lives.last_mut().filter(|life| life.end == usize::MAX) {
                life.end = line;
            }
        }
    }

    /// Returns why a set is not there at a line. Sets that no line creates may always be there.
    pub(super) fn why_missing(&self, name: &str, line: usize) -> Option<String> {
        let lives = self.sets.get(name)?;
        if lives.iter().any(|life| life.contains(&line)) {
            return None;
        }
        let earlier = lives.iter().rfind(|life| life.end <= line);
        Some(match (earlier, lives.first()) {
            (Some(life), _) => format!("the set {name} is gone: see line {}", life.end),
            (None, first) => {
                let line = first.map_or(0, |life| life.start);
                format!("the set {name} is not there yet: line {line} creates it")
            }
        })
    }
}
