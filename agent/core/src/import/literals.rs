//! Sources as written in the rules.

use std::sync::Arc;

use super::rule::{ImportedRule, ImportedRules, Interval};
use super::view::View;

/// A source as written in a rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Literal<'r> {
    pub(super) span: Interval,
    pub(super) rule: &'r ImportedRule,
}

/// Returns the sources in the rules, in the order of lines.
pub(super) fn literals(rules: &ImportedRules) -> Vec<Literal<'_>> {
    let rules = rules.filter.values().flat_map(|chain| &chain.rules);
    let mut found: Vec<Literal<'_>> = rules.flat_map(sources).collect();
    found.sort_by_key(|literal| literal.rule.at);
    found
}

fn sources(rule: &ImportedRule) -> Vec<Literal<'_>> {
    let spans = rule.sources().copied();
    spans.map(|span| Literal { span, rule }).collect()
}

pub(super) fn literal_is_host(literal: &Literal<'_>) -> bool {
    literal.span.0 == literal.span.1
}

pub(super) fn names_source(rule: &ImportedRule, span: Interval) -> bool {
    rule.sources().any(|of| *of == span)
}

/// Returns the sources that are accepted on every port and interface, as written in the rules. The
/// result is empty if these are all sources, which is an allow.
pub(super) fn full<'r>(view: &mut View<'_, 'r>) -> Vec<Literal<'r>> {
    let refused = view.space.d.without(view.refused, view.covered);
    if refused.is_none() {
        return Vec::new();
    }
    let axis = view.space.axes.source;
    let refused = view.space.d.project(refused, &[axis]);
    let mut done = std::collections::BTreeSet::new();
    let literals = Arc::clone(&view.literals);
    let mut found = Vec::new();
    for literal in literals.iter().copied() {
        let is_full = |view: &mut View<'_, '_>| {
            let from = view.from(literal.span);
            !view.space.d.meets(from, refused) && view.is_source(literal.span)
        };
        if done.insert(literal.span) && view.briefly(is_full) {
            found.push(literal);
        }
    }
    found
}
