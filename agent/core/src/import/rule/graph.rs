//! Chains as a graph of jumps.

use std::collections::{BTreeMap, BTreeSet};

use super::ImportedChains;

/// Finds chains in a cycle of jumps, or between two cycles. They remain after chains without jumps
/// to them or from them are removed repeatedly.
pub(super) fn circles(chains: &ImportedChains) -> BTreeSet<&str> {
    let mut left: BTreeSet<&str> = chains.keys().map(String::as_str).collect();
    let next = |name: &str| {
        let rules = chains.get(name).map_or(&[][..], |chain| &chain.rules);
        rules.iter().filter_map(|rule| rule.target.chain())
    };
    let mut before: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in chains.keys() {
        for to in next(name) {
            before.entry(to).or_default().insert(name);
        }
    }
    let mut to_see: Vec<&str> = left.iter().copied().collect();
    while let Some(name) = to_see.pop() {
        let leads_on = next(name).any(|to| left.contains(to));
        let led_to = before
            .get(name)
            .is_some_and(|from| from.iter().any(|f| left.contains(f)));
        if (leads_on && led_to) || !left.remove(name) {
            continue;
        }
        to_see.extend(next(name).filter(|to| left.contains(to)));
        to_see.extend(
            before
                .get(name)
                .into_iter()
                .flatten()
                .filter(|from| left.contains(**from)),
        );
    }
    left
}

/// Returns the chains that are reachable from this one, itself first.
pub(in crate::import) fn reached<'c>(chains: &'c ImportedChains, from: &'c str) -> Vec<&'c str> {
    let mut seen: Vec<&str> = vec![from];
    let mut known: BTreeSet<&str> = BTreeSet::from([from]);
    let mut next = 0;
    while let Some(name) = seen.get(next).copied() {
        next += 1;
        let rules = chains.get(name).map_or(&[][..], |chain| &chain.rules);
        for into in rules.iter().filter_map(|rule| rule.target.chain()) {
            if known.insert(into) {
                seen.push(into);
            }
        }
    }
    seen
}
