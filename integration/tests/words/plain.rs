//! Rules of both readers in one form.

use peerwall_core::import::rule::{Condition, ImportedRule, Test, Verb};

/// A rule without its place, for each of its addresses, and with rates of no name: iptables-save
/// prints lists as several rules, and the defaults of rates.
pub(crate) fn plain(rule: ImportedRule) -> Vec<ImportedRule> {
    let at = peerwall_core::import::rule::At { input: 0, line: 0 };
    let mut all = vec![ImportedRule { at, ..rule }];
    for each in &mut all {
        for condition in &mut each.conditions {
            if let Test::Rate(_, words) = &mut condition.test {
                words.clear();
            }
        }
        // Options and defaults are in another form.
        let target = &mut each.target;
        if let Verb::Continue(words) | Verb::Mark(_, words) | Verb::Unknown(words) = target {
            *words = words.split(' ').next().unwrap_or_default().to_owned();
        }
    }
    let count = all[0].conditions.len();
    for index in 0..count {
        all = all
            .into_iter()
            .flat_map(|rule| split(rule, index))
            .collect();
    }
    // Their order does not matter, and iptables-save has its own.
    for each in &mut all {
        each.conditions
            .sort_by_key(|condition| format!("{condition:?}"));
    }
    all
}

/// One rule for each address of a condition.
fn split(rule: ImportedRule, index: usize) -> Vec<ImportedRule> {
    let Condition { negated, test } = rule.conditions[index].clone();
    let of = |test: Test| {
        let mut one = rule.clone();
        one.conditions[index] = Condition { negated, test };
        one
    };
    let spans = |all: &[(u128, u128)]| all.iter().map(|span| vec![*span]).collect::<Vec<_>>();
    if let Test::Source(all) = &test {
        return spans(all)
            .into_iter()
            .map(|one| of(Test::Source(one)))
            .collect();
    }
    if let Test::Destination(all) = &test {
        return spans(all)
            .into_iter()
            .map(|one| of(Test::Destination(one)))
            .collect();
    }
    vec![rule]
}

/// Whether a rule has words that were not understood.
pub(crate) fn is_unknown(rule: &ImportedRule) -> bool {
    rule.unknown().next().is_some()
}
