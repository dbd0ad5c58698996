//! Slices: ranges of source addresses that are evaluated one after the other.
//!
//! Nearly all rules of a large file are for a few sources. Evaluated for the packets of one range
//! of sources, without the rules for others, each step works on few nodes, and they fit a
//! processor's cache. The order of the axes starts with the source, so that the union of the
//! results shares nothing but its first nodes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::axes::Axes;
use super::diagram::Run;
use crate::import::rule::{At, Condition, ImportedChains, ImportedRule};

/// Approximate number of rules of a slice.
const RULES: usize = 256;
/// The fewest slices that save time.
const FEWEST: usize = 4;

/// Number of slices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::import) enum Slicing {
    /// What the rules are worth.
    #[default]
    ByRules,
    /// About this number, to compare results.
    #[cfg(any(test, feature = "generate"))]
    Into(usize),
}

/// A range of sources, and the rules that concern it.
#[derive(Debug, Clone)]
pub(in crate::import) struct Slice<'r> {
    /// Values on the source axis; `None` for all.
    pub run: Option<Run>,
    pub chains: Chains<'r>,
}

/// Chains of one table, by name.
pub(in crate::import) type Chains<'r> = BTreeMap<&'r str, ChainPart<'r>>;

/// Some of the rules of a chain.
#[derive(Debug, Clone)]
pub(in crate::import) struct ChainPart<'r> {
    /// Whether packets at the end of the chain are accepted; `None` for user-defined chains.
    pub accepts: Option<bool>,
    /// Line of the declaration.
    pub at: Option<At>,
    pub rules: Vec<&'r ImportedRule>,
}

/// Returns chains with all of their rules.
pub(in crate::import) fn whole(chains: &ImportedChains) -> Chains<'_> {
    let mut found = empty(chains);
    for (name, chain) in chains {
        if let Some(part) = found.get_mut(name.as_str()) {
            part.rules.extend(&chain.rules);
        }
    }
    found
}

fn empty(chains: &ImportedChains) -> Chains<'_> {
    let part = |chain: &crate::import::rule::ImportedChain| ChainPart {
        accepts: chain.accepts,
        at: chain.at,
        rules: Vec::new(),
    };
    let parts = chains.iter();
    parts
        .map(|(name, chain)| (name.as_str(), part(chain)))
        .collect()
}

/// Divides the sources so that each slice has a part of the rules, if most rules are for few
/// sources.
pub(super) fn slices<'r>(
    axes: &Axes,
    chains: &'r ImportedChains,
    slicing: Slicing,
) -> Vec<Slice<'r>> {
    let count = match slicing {
        Slicing::ByRules => number_of_slices(chains),
        #[cfg(any(test, feature = "generate"))]
        Slicing::Into(count) => count.next_power_of_two(),
    };
    let runs = ranges(axes, count);
    let [_, _, ..] = runs.as_slice() else {
        return vec![Slice {
            run: None,
            chains: whole(chains),
        }];
    };
    let slice = |run: &Run| Slice {
        run: Some(*run),
        chains: empty(chains),
    };
    let mut slices: Vec<Slice<'_>> = runs.iter().map(slice).collect();
    for (name, chain) in chains {
        for rule in &chain.rules {
            let lists = sources(rule).map(|spans| Cow::Owned(axes.source_runs(spans)));
            let numbers = match fitting(&runs, lists) {
                Some(fits) => fits.into_iter().collect(),
                None => (0..slices.len()).collect::<Vec<_>>(),
            };
            for number in numbers {
                let chains = slices.get_mut(number).map(|slice| &mut slice.chains);
                if let Some(part) = chains.and_then(|chains| chains.get_mut(name.as_str())) {
                    part.rules.push(rule);
                }
            }
        }
    }
    slices
}

/// Returns the numbers of the ranges that meet all of these lists of runs; `None` for every range.
pub(super) fn fitting<'l>(
    ranges: &[Run],
    lists: impl Iterator<Item = Cow<'l, [Run]>>,
) -> Option<BTreeSet<usize>> {
    let mut fits: Option<BTreeSet<usize>> = None;
    for list in lists {
        let mut these = BTreeSet::new();
        for &(first, last) in &*list {
            let from = ranges.partition_point(|(_, end)| *end < first);
            let to = ranges.partition_point(|(start, _)| *start <= last);
            these.extend(from..to);
        }
        fits = Some(match fits {
            None => these,
            Some(others) => others.intersection(&these).copied().collect(),
        });
    }
    fits
}

/// Returns the source addresses of a rule that are not negated, of each condition.
fn sources(rule: &ImportedRule) -> impl Iterator<Item = &[(u128, u128)]> {
    let positive = rule.conditions.iter().filter(|c| !c.negated);
    positive.filter_map(Condition::sources)
}

/// Divides the source axis.
fn ranges(axes: &Axes, count: usize) -> Vec<Run> {
    let values = 1u64 << axes.source.bits();
    let size = values / (count as u64).clamp(1, values);
    let starts = (0..axes.source.len).step_by(usize::try_from(size).unwrap_or(usize::MAX));
    let mut ranges: Vec<Run> = starts.map(|start| (start, start + (size - 1))).collect();
    // Numbers from the last value on are that value.
    if let Some((_, end)) = ranges.last_mut() {
        *end = values - 1;
    }
    ranges
}

/// Returns a power of two.
fn number_of_slices(chains: &ImportedChains) -> usize {
    let rules = chains.values().flat_map(|chain| &chain.rules);
    let of_few = rules.filter(|rule| sources(rule).next().is_some()).count();
    // Rules that every slice evaluates.
    let mut of_all = 0;
    let base = chains.iter().filter(|(_, chain)| chain.accepts.is_some());
    let mut to_see: Vec<&str> = base.map(|(name, _)| name.as_str()).collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = to_see.pop() {
        let Some(chain) = chains.get(name).filter(|_| seen.insert(name)) else {
            continue;
        };
        for rule in &chain.rules {
            if sources(rule).next().is_none() {
                of_all += 1;
                to_see.extend(rule.target.chain());
            }
        }
    }
    let most = (of_few / RULES).min(of_few / (of_all + 1));
    match most.checked_ilog2() {
        Some(log) if most >= FEWEST => 1 << log,
        _ => 1,
    }
}
