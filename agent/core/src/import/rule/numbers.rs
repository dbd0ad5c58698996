//! Numbers of rules behind lines that are not read.
//!
//! iptables may refuse such a line, or add or remove a rule: nobody knows which rules the numbers
//! of later lines mean.

use std::collections::HashMap;

use peerwall_proto::iptables::{Position, Rule};

/// How many leading rules of each chain have numbers that do not depend on lines that are not read.
pub(super) struct SureNumbers<'u> {
    /// Lines of which nothing is read, in order.
    unread: &'u [usize],
    chains: HashMap<String, usize>,
    /// How many of a chain that is not listed.
    others: usize,
}

impl<'u> SureNumbers<'u> {
    /// All numbers are sure up to the first of the lines of which nothing is read.
    pub(super) fn new(unread: &'u [usize]) -> Self {
        Self {
            unread,
            chains: HashMap::new(),
            others: usize::MAX,
        }
    }

    /// Reports whether it is sure what the number of a line means.
    pub(super) fn knows(&mut self, rule: &Rule) -> bool {
        let above = self.unread.partition_point(|line| *line < rule.line);
        if above > 0 {
            self.unread = self.unread.get(above..).unwrap_or_default();
            self.chains.clear();
            self.others = 0;
        }
        match rule.position {
            // Behind the last of them is a place, too.
            Position::Insert(number) => number <= self.of(rule).saturating_add(1),
            Position::Replace(number) | Position::DeleteAt(number) => number <= self.of(rule),
            Position::Append | Position::Delete | Position::Flush => true,
        }
    }

    /// Takes a line into account.
    pub(super) fn add(&mut self, rule: &Rule, is_read: bool, count: usize) {
        let before = self.of(rule);
        let sure = match rule.position {
            Position::Flush if rule.chain.is_empty() => {
                self.chains.clear();
                self.others = usize::MAX;
                return;
            }
            Position::Flush => usize::MAX,
            Position::Append if !is_read => before.min(count),
            Position::Insert(number) if !is_read => before.min(number.saturating_sub(1)),
            Position::Replace(_) if !is_read => 0,
            Position::Append | Position::Insert(_) | Position::Replace(_) => before,
            // It may be one of them.
            Position::Delete | Position::DeleteAt(_) if before < usize::MAX => {
                before.saturating_sub(1)
            }
            Position::Delete | Position::DeleteAt(_) => before,
        };
        // Large files have a hundred thousand lines that change nothing here.
        if sure != before {
            self.chains.insert(rule.chain.clone(), sure);
        }
    }

    /// Trusts no number of a chain until it is emptied.
    pub(super) fn distrust(&mut self, chain: &str) {
        self.chains.insert(chain.to_owned(), 0);
    }

    fn of(&self, rule: &Rule) -> usize {
        let sure = self.chains.get(&rule.chain).copied();
        sure.unwrap_or(self.others)
    }
}
