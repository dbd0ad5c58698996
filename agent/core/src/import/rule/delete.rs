//! `-D`: iptables deletes the first rule with the same matches, in the same order
//! (`delete_entry()` in `iptables/iptables.c`). Other words with the same meaning are another rule.

use peerwall_proto::iptables::{self, Position};

use super::table::{LineRules, Problems, TableOrigin, have_same_conditions};
use super::words::signature;
use super::{At, Condition, ImportedChain, ImportedRule, RuleContext, Test, Verb};
use crate::import::canonical::Reading;

/// Why a line deletes nothing.
pub(super) const NONE_SUCH: &str = "no rule above this line is the one that it deletes";

/// A line with `-D`.
pub(super) struct Deletion<'r> {
    pub table: &'r iptables::Table,
    pub origin: &'r TableOrigin<'r>,
    pub context: &'r RuleContext<'r>,
    /// Index of the line's rule in the table.
    pub index: usize,
}

/// Whether two lines are the same rule to iptables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Same {
    Yes,
    No,
    Unsure,
}

impl Deletion<'_> {
    /// Deletes the rules of the line. Returns whether it is sure which rules are gone.
    pub(super) fn apply(
        &self,
        chain: &mut ImportedChain,
        line: &LineRules,
        problems: &mut Problems,
    ) -> bool {
        let mut is_sure = true;
        for like in &line.rules {
            let mut why = NONE_SUCH;
            let is_readable = line.problem.is_none();
            let means = |rule: &ImportedRule| {
                // Options of one match may have any order.
                (&rule.target, &rule.comment) == (&like.target, &like.comment)
                    && have_same_conditions(rule, like, |a, b| a == b)
            };
            let mut found = None;
            let rules = chain.rules.iter_mut().enumerate();
            for (at, rule) in rules.filter(|(_, rule)| is_readable && means(rule)) {
                match self.same(rule.at) {
                    Same::Yes => {
                        found = Some(at);
                        break;
                    }
                    Same::No => why = "iptables deletes only a rule of the same words",
                    Same::Unsure => {
                        why = "whether iptables deletes a rule of other words is unknown";
                        is_sure = false;
                        self.doubt(rule, problems);
                    }
                }
            }
            match found {
                Some(at) => drop(chain.rules.remove(at)),
                None => {
                    problems.insert(self.context.at, why.to_owned());
                }
            }
        }
        is_sure
    }

    /// Trusts a rule no longer: it may be gone. Its drops remain.
    fn doubt(&self, rule: &mut ImportedRule, problems: &mut Problems) {
        if matches!(rule.target, Verb::Drop | Verb::Reject) {
            return;
        }
        let line = self.context.at.line;
        let why = format!("line {line} may remove this rule, which has other words");
        problems.entry(rule.at).or_insert(why);
        rule.conditions.push(Condition {
            negated: false,
            test: Test::Unknown(format!("line {line}")),
        });
    }

    /// Compares the line with a rule above that means the same.
    fn same(&self, other: At) -> Same {
        let rules = &self.table.rules;
        let first = rules.partition_point(|rule| rule.line < other.line);
        let of_line = rules.iter().enumerate().skip(first);
        let of_line = of_line.take_while(|(_, rule)| rule.line == other.line);
        let adds = |rule: &iptables::Rule| match rule.position {
            Position::Append | Position::Insert(_) | Position::Replace(_) => {
                rule.chain == self.context.chain
            }
            Position::Delete | Position::DeleteAt(_) | Position::Flush => false,
        };
        let mut found = Same::Unsure;
        for (index, _) in of_line.filter(|(_, rule)| adds(rule)) {
            match self.same_words(index) {
                Same::Yes => return Same::Yes,
                Same::No => found = Same::No,
                Same::Unsure => {}
            }
        }
        found
    }

    fn same_words(&self, other: usize) -> Same {
        let words = |index: usize| self.table.rules.get(index).map(|rule| &rule.words[..]);
        let (own, others) = (words(self.index), words(other));
        if own == others {
            return Same::Yes;
        }
        let read = |index: usize| match self.origin.readings.get(index) {
            Some(Reading::Words(words)) => Some(words),
            Some(Reading::Refused(_)) | None => None,
        };
        // Each is what iptables prints for one address of a list.
        if let (Some(own), Some(others)) = (read(self.index), read(other)) {
            let is_same = own.iter().any(|words| others.contains(words));
            return if is_same { Same::Yes } else { Same::No };
        }
        let signature = |words: Option<&[String]>| signature(words?, self.context);
        match (signature(own), signature(others)) {
            (Some(own), Some(others)) if own == others => Same::Yes,
            _ => Same::Unsure,
        }
    }
}
