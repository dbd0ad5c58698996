//! The difference between two rulesets, object by object.

use std::collections::{BTreeMap, BTreeSet};

use super::sets::difference;
use super::{Change, ChangeKind, Part, PartChange, What};
use crate::ruleset::render::{base_text, rule_text, value};
use crate::ruleset::{Chain, Rule, Ruleset, Set};

/// Returns every rule, chain, set and counter that differs or that only one ruleset has.
pub fn raw(from: &Ruleset, to: &Ruleset) -> Vec<Change> {
    let mut found = Vec::new();
    let of = |ruleset: &Ruleset| -> BTreeSet<String> {
        let names = ruleset.chains.iter().map(|chain| chain.name.clone());
        names.collect()
    };
    for name in &of(from) | &of(to) {
        chain(from.chain(&name), to.chain(&name), &mut found);
    }
    let names: BTreeSet<&String> = from.sets.keys().chain(to.sets.keys()).collect();
    for name in names {
        set(name, from.sets.get(name), to.sets.get(name), &mut found);
    }
    for name in from.counters.symmetric_difference(&to.counters) {
        let kind = match to.counters.contains(name) {
            true => ChangeKind::Added,
            false => ChangeKind::Removed,
        };
        found.push(whole(kind, What::Counter, name));
    }
    if found.is_empty() && from != to {
        // Only the order of chains differs, which compile never changes.
        found.push(whole(ChangeKind::Changed, What::Rules, "of peerwall"));
    }
    found
}

fn whole(kind: ChangeKind, what: What, name: &str) -> Change {
    let changed = PartChange {
        part: Part::Value,
        from: vec!["one order".to_owned()],
        to: vec!["another".to_owned()],
    };
    Change {
        kind,
        what,
        name: name.to_owned(),
        parts: match kind {
            ChangeKind::Changed => vec![changed],
            ChangeKind::Added | ChangeKind::Removed => Vec::new(),
        },
        by_others: false,
    }
}

fn chain(old: Option<&Chain>, new: Option<&Chain>, found: &mut Vec<Change>) {
    let Some(name) = old.or(new).map(|chain| chain.name.as_str()) else {
        return;
    };
    let base = |chain: Option<&Chain>| {
        let chain = chain?;
        Some(
            chain
                .base
                .as_ref()
                .map_or_else(|| "no hook".to_owned(), base_text),
        )
    };
    let (was, is) = (base(old), base(new));
    match (&was, &is) {
        (Some(_), Some(_)) if was == is => {}
        (Some(_), Some(_)) => found.push(Change::of_value(What::Chain, name, was, is)),
        (None, _) => found.push(whole(ChangeKind::Added, What::Chain, name)),
        (Some(_), None) => found.push(whole(ChangeKind::Removed, What::Chain, name)),
    }
    let rules = |chain: Option<&Chain>| chain.map_or_else(Vec::new, |chain| chain.rules.clone());
    let (old, new) = (rules(old), rules(new));
    let (removed, added) = (without(&old, &new), without(&new, &old));
    if removed.is_empty() && added.is_empty() && old != new {
        found.push(whole(ChangeKind::Changed, What::Chain, name));
    }
    let text = |rule: &Rule| Some(rule_text(rule));
    let removed = removed.into_iter();
    found.extend(removed.map(|rule| Change::of_value(What::Rule, name, text(rule), None)));
    let added = added.into_iter();
    found.extend(added.map(|rule| Change::of_value(What::Rule, name, None, text(rule))));
}

/// Returns the rules that one list has more often than another.
fn without<'r>(these: &'r [Rule], others: &[Rule]) -> Vec<&'r Rule> {
    // Equal rules have equal texts. The converse need not be true.
    let mut left: BTreeMap<String, Vec<&Rule>> = BTreeMap::new();
    for rule in others {
        left.entry(rule_text(rule)).or_default().push(rule);
    }
    let mut take = |rule: &&Rule| {
        let same = left.get_mut(&rule_text(rule));
        let at = same
            .as_ref()
            .and_then(|same| same.iter().position(|other| other == rule));
        match (same, at) {
            (Some(same), Some(at)) => drop(same.swap_remove(at)),
            _ => return true,
        }
        false
    };
    these.iter().filter(|rule| take(rule)).collect()
}

fn set(name: &str, old: Option<&Set>, new: Option<&Set>, found: &mut Vec<Change>) {
    if old == new {
        return;
    }
    let kind = |set: &Set| {
        let intervals = if set.interval { ", intervals" } else { "" };
        let meter = if set.meter { ", meter" } else { "" };
        format!("{}{intervals}{meter}", set.key.name())
    };
    let (was, is) = (old.map(kind), new.map(kind));
    if was != is {
        found.push(Change::of_value(What::Set, name, was, is));
    }
    let (removed, added) = difference(old, new);
    if removed.is_empty() && added.is_empty() {
        return;
    }
    let texts = |set: Option<&Set>, elements: Vec<&crate::ruleset::Element>| {
        let text = |element: &&crate::ruleset::Element| {
            let comment = element.comment.as_deref();
            let comment = comment.map_or_else(String::new, |name| format!(" ({name})"));
            set.map(|set| format!("{}{comment}", value(set.key, element)))
        };
        elements.iter().filter_map(text).collect::<Vec<_>>()
    };
    found.push(Change {
        kind: ChangeKind::Changed,
        what: What::Set,
        name: name.to_owned(),
        parts: vec![PartChange {
            part: Part::Value,
            from: texts(old, removed),
            to: texts(new, added),
        }],
        by_others: false,
    });
}
