//! The rules that each chain has after some commands, which tells whether `-X` removes it.

use std::collections::HashMap;

use super::{Position, Rule};

/// The rules that each chain has after some commands, by their numbers.
#[derive(Default)]
pub(super) struct CurrentRules {
    /// Number of commands that are applied.
    applied: usize,
    chains: HashMap<String, Vec<usize>>,
    /// How many rules have each target.
    targets: HashMap<String, usize>,
}

impl CurrentRules {
    pub(super) fn apply(&mut self, rules: &[Rule]) {
        for (number, rule) in rules.iter().enumerate().skip(self.applied) {
            if rule.chain.is_empty() {
                self.chains.clear();
                self.targets.clear();
                continue;
            }
            let words = |number: usize| rules.get(number).map_or(&[][..], |rule| &rule.words);
            let chain = self.chains.entry(rule.chain.clone()).or_default();
            let (mut added, mut gone) = (false, Vec::new());
            match rule.position {
                Position::Append => {
                    chain.push(number);
                    added = true;
                }
                Position::Insert(at) => {
                    chain.insert(at.saturating_sub(1).min(chain.len()), number);
                    added = true;
                }
                Position::Replace(at) => {
                    if let Some(old) = chain.get_mut(at.saturating_sub(1)) {
                        gone.push(std::mem::replace(old, number));
                        added = true;
                    }
                }
                Position::Delete => {
                    let is_it = |other: &usize| words(*other) == rule.words;
                    let at = chain.iter().position(is_it);
                    gone.extend(at.map(|at| chain.remove(at)));
                }
                Position::DeleteAt(at) => {
                    let at = at.checked_sub(1).filter(|at| *at < chain.len());
                    gone.extend(at.map(|at| chain.remove(at)));
                }
                Position::Flush => gone.append(chain),
            }
            if let Some(target) = target(&rule.words).filter(|_| added) {
                *self.targets.entry(target.to_owned()).or_default() += 1;
            }
            for target in gone.into_iter().filter_map(|number| target(words(number))) {
                if let Some(count) = self.targets.get_mut(target) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        self.applied = rules.len();
    }

    /// Reports whether a chain has no rules, and none jumps to it.
    pub(super) fn is_free(&self, name: &str) -> bool {
        let is_empty = self.chains.get(name).is_none_or(Vec::is_empty);
        is_empty && self.targets.get(name).is_none_or(|count| *count == 0)
    }
}

/// Returns the target of a rule.
pub(super) fn target(words: &[String]) -> Option<&str> {
    let is_jump = |word: &String| matches!(word.as_str(), "-j" | "--jump" | "-g" | "--goto");
    let at = words.iter().rposition(is_jump)?;
    words.get(at + 1).map(String::as_str)
}
