//! Compares two rulesets item by item.

use std::collections::{BTreeMap, BTreeSet};

use super::delta::{Delta, Deltas, Item};
use super::rules::{self, FoundItems};
use super::{Change, ChangeKind, Part, PartChange, What, sets};
use crate::ruleset::Ruleset;

/// Returns the items that differ, in order.
pub(super) fn changes(from: &Ruleset, to: &Ruleset) -> Vec<Change> {
    let overlays = [from, to].map(rules::overlays);
    let (old, new) = (
        rules::found(from, &overlays[0]),
        rules::found(to, &overlays[1]),
    );
    let mut deltas = Deltas::new();
    of_rules(&old, &new, &mut deltas);
    let names: BTreeSet<&String> = overlays.iter().flatten().collect();
    sets::deltas(from, to, &names, &mut deltas);
    let touched: BTreeSet<&Item> = deltas.keys().collect();
    let was = sets::present(from, &touched, &names);
    let is = sets::present(to, &touched, &names);
    let mut was: BTreeSet<Item> = was.into_iter().chain(old.into_keys()).collect();
    let mut is: BTreeSet<Item> = is.into_iter().chain(new.into_keys()).collect();
    let peers = deltas.iter().filter(|(item, _)| item.what == What::Peer);
    for (peer, parts) in peers {
        if parts.values().any(|delta| !delta.removed.is_empty()) {
            was.insert(peer.clone());
        }
        if parts.values().any(|delta| !delta.added.is_empty()) {
            is.insert(peer.clone());
        }
    }
    let all = deltas.into_iter();
    all.filter_map(|(item, parts)| change(&was, &is, item, parts))
        .collect()
}

/// Adds the differences between parts found in rules.
fn of_rules(old: &FoundItems, new: &FoundItems, deltas: &mut Deltas) {
    for (found, others, is_new) in [(old, new, false), (new, old, true)] {
        for (item, parts) in found {
            for (part, values) in parts {
                let there = others.get(item).and_then(|parts| parts.get(part));
                for value in values {
                    if there.is_some_and(|there| there.contains(value)) {
                        continue;
                    }
                    let delta = deltas.entry(item.clone()).or_default();
                    let delta = delta.entry(*part).or_default();
                    match is_new {
                        true => delta.added.push(value.clone()),
                        false => delta.removed.push(value.clone()),
                    }
                }
            }
        }
    }
}

fn change(
    was: &BTreeSet<Item>,
    is: &BTreeSet<Item>,
    item: Item,
    parts: BTreeMap<Part, Delta>,
) -> Option<Change> {
    let parts = parts.into_iter().map(|(part, delta)| {
        let Delta { removed, added } = delta.without_common();
        PartChange {
            part,
            from: removed,
            to: added,
        }
    });
    let mut parts: Vec<PartChange> = parts
        .filter(|part| !(part.from.is_empty() && part.to.is_empty()))
        .collect();
    if parts.is_empty() {
        return None;
    }
    let kind = match (was.contains(&item), is.contains(&item)) {
        (false, true) => ChangeKind::Added,
        (true, false) => ChangeKind::Removed,
        (true, true) | (false, false) => ChangeKind::Changed,
    };
    if kind != ChangeKind::Changed && item.what == What::Allow {
        // The default destination is not worth printing.
        parts.retain(|part| {
            let host = ["host".to_owned()];
            part.part != Part::To || (part.from != host && part.to != host)
        });
    }
    Some(Change {
        kind,
        what: item.what,
        name: item.name,
        parts,
        by_others: false,
    })
}
