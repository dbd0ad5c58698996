//! Sources as written in the rules.

use super::{Covered, accepts_all};
use crate::import::rule::{ImportedRule, Interval};
use crate::import::view::AcceptTable;

/// A source as written in a rule.
pub(super) struct Literal<'r> {
    pub(super) span: Interval,
    pub(super) rule: &'r ImportedRule,
}

/// Returns the sources in the rules, in the order of lines.
pub(super) fn literals<'v>(view: &'v AcceptTable<'_>) -> impl Iterator<Item = Literal<'v>> {
    let mut found: Vec<Literal<'v>> = rules_of(view)
        .flat_map(|rule| {
            rule.sources()
                .map(move |span| Literal { span: *span, rule })
        })
        .collect();
    found.sort_by_key(|literal| literal.rule.at);
    found.into_iter()
}

pub(super) fn rules_of<'v>(view: &'v AcceptTable<'_>) -> impl Iterator<Item = &'v ImportedRule> {
    view.rules.filter.values().flat_map(|chain| &chain.rules)
}

pub(super) fn literal_is_host(literal: &Literal<'_>) -> bool {
    literal.span.0 == literal.span.1
}

pub(super) fn names_source(rule: &ImportedRule, span: Interval) -> bool {
    rule.sources().any(|of| *of == span)
}

/// Returns the sources that are accepted on every port and interface, as written in the rules. The
/// result is empty if these are all sources, which is an allow.
pub(super) fn full<'v>(view: &'v AcceptTable<'_>, covered: &Covered) -> Vec<Literal<'v>> {
    let interfaces = 0..view.interfaces.len();
    let full = |s: usize| {
        interfaces
            .clone()
            .all(|i| covered.covers(i, s) || accepts_all(view, i, s))
    };
    let full: Vec<bool> = (0..view.sources.len()).map(full).collect();
    if full.iter().all(|full| *full) {
        return Vec::new();
    }
    let mut done: Vec<Interval> = Vec::new();
    let is_full = |literal: &Literal<'_>| {
        let inside = view.within(literal.span);
        !inside.is_empty() && inside.iter().all(|s| full.get(*s) == Some(&true))
    };
    let mut is_first = |literal: &Literal<'_>| {
        let is_first = !done.contains(&literal.span);
        done.push(literal.span);
        is_first
    };
    literals(view)
        .filter(is_full)
        .filter(|literal| is_first(literal))
        .collect()
}
