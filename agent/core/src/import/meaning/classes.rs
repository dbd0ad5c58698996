//! Classes of addresses that two rulesets treat alike.
//!
//! Two addresses that are in the same sets have the same verdicts, so one of them stands for all.
//! Rulesets with very many peers then cost as much as those with a few.

use std::collections::{BTreeMap, HashMap};

use crate::import::Facts;
use crate::import::rule::Interval;
use crate::import::space::{axes, broadcasts, own_addresses};
use crate::import::spans::subtract;
use crate::net::addr::{self, Family};
use crate::ruleset::{Chain, Element, KeyType, Match, Ruleset, Set};

/// Two rulesets with one span of addresses for each class, in one family.
pub(super) struct Reduced {
    pub old: Ruleset,
    pub new: Ruleset,
    /// All spans of each class, by the one that stands for it.
    classes: BTreeMap<Interval, Vec<Interval>>,
    /// The spans that are in some set, ascending.
    in_sets: Vec<Interval>,
}

impl Reduced {
    /// Divides the addresses in the sets of two rulesets into classes.
    pub(super) fn new(old: &Ruleset, new: &Ruleset, family: Family) -> Self {
        let key = KeyType::address(family);
        let sets = |ruleset: &Ruleset| -> Vec<Vec<Interval>> {
            let sets = ruleset.sets.values().filter(|set| set.key == key);
            let spans = |e: &Element| (e.first, e.last);
            sets.map(|set| set.elements.iter().map(spans).collect())
                .collect()
        };
        let mut lists = [sets(old), sets(new)].concat();
        let count = lists.len();
        // What rules and the kernel tell apart besides sets.
        lists.push(own_addresses(family, &Facts::default()));
        lists.push(broadcasts(family, &Facts::default()));
        let literals = [literals(old, family), literals(new, family)].concat();
        let literals = literals.into_iter().chain(axes::special(family));
        lists.extend(literals.map(|span| vec![span]));
        let mut by_members: HashMap<Vec<usize>, usize> = HashMap::new();
        let mut found: Vec<(Vec<usize>, Vec<Interval>)> = Vec::new();
        let mut in_sets: Vec<Interval> = Vec::new();
        for (span, members) in parts(&lists) {
            if members.iter().all(|list| *list >= count) {
                continue;
            }
            in_sets.push(span);
            let next = found.len();
            let at = *by_members.entry(members.clone()).or_insert(next);
            if at == next {
                found.push((members, Vec::new()));
            }
            if let Some((_, spans)) = found.get_mut(at) {
                spans.push(span);
            }
        }
        let mut classes = BTreeMap::new();
        let mut elements: Vec<Vec<Element>> = vec![Vec::new(); count];
        for (members, spans) in found {
            let Some(&(first, last)) = spans.first() else {
                continue;
            };
            for list in members.into_iter().filter(|list| *list < count) {
                if let Some(elements) = elements.get_mut(list) {
                    let comment = None;
                    elements.push(Element {
                        first,
                        last,
                        comment,
                    });
                }
            }
            classes.insert((first, last), spans);
        }
        let mut elements = elements.into_iter();
        let mut reduced = |ruleset: &Ruleset| Ruleset {
            counters: ruleset.counters.clone(),
            chains: ruleset.chains.clone(),
            sets: {
                let sets = ruleset.sets.iter().map(|(name, set)| {
                    let mut kept = match set.key == key {
                        true => elements.next().unwrap_or_default(),
                        false => set.elements.to_vec(),
                    };
                    kept.sort_unstable_by_key(|element| element.first);
                    let set = Set {
                        elements: kept.into(),
                        ..*set
                    };
                    (name.clone(), set)
                });
                sets.collect()
            },
            ends: ruleset.ends.clone(),
        };
        Self {
            old: reduced(old),
            new: reduced(new),
            classes,
            in_sets,
        }
    }

    /// Returns the same classes with other chains.
    pub(super) fn with_chains(&self, chains: &[Chain]) -> Self {
        let with = |ruleset: &Ruleset| Ruleset {
            counters: ruleset.counters.clone(),
            sets: ruleset.sets.clone(),
            chains: chains.to_vec(),
            ends: ruleset.ends.clone(),
        };
        Self {
            old: with(&self.old),
            new: with(&self.new),
            classes: self.classes.clone(),
            in_sets: self.in_sets.clone(),
        }
    }

    /// Returns all addresses for which these stand.
    pub(super) fn expand(&self, spans: &[Interval]) -> Vec<Interval> {
        let mut all = subtract(spans, &self.in_sets);
        for (one, class) in &self.classes {
            let at = spans.partition_point(|(_, end)| *end < one.0);
            let is_there = spans.get(at).is_some_and(|(start, _)| *start <= one.0);
            if is_there {
                all.extend(class);
            }
        }
        all.sort_unstable();
        all
    }

    /// Returns the address that stands for this one.
    #[cfg(test)]
    pub(super) fn representative(&self, number: u128) -> u128 {
        let has = |span: &Interval| span.0 <= number && number <= span.1;
        let class = self.classes.iter().find(|(_, class)| class.iter().any(has));
        class.map_or(number, |((first, _), _)| *first)
    }
}

/// Returns the addresses that rules name without a set.
fn literals(ruleset: &Ruleset, family: Family) -> Vec<Interval> {
    let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    let nets = rules.flat_map(|rule| &rule.matches).filter_map(|each| {
        if let Match::SourceNet(net) | Match::Destination(net) = each {
            return Some(net);
        }
        None
    });
    let nets = nets.filter(|net| Family::of(net.addr()) == family);
    nets.map(|net| addr::bounds(*net)).collect()
}

/// Divides all numbers that some list contains at the ends of spans; with the lists that contain
/// each part, ascending.
fn parts(lists: &[Vec<Interval>]) -> Vec<(Interval, Vec<usize>)> {
    let mut events: Vec<(u128, bool, usize)> = Vec::new();
    for (list, spans) in lists.iter().enumerate() {
        for (first, last) in spans {
            events.push((*first, true, list));
            if let Some(after) = last.checked_add(1) {
                events.push((after, false, list));
            }
        }
    }
    events.sort_unstable();
    let mut open: BTreeMap<usize, u32> = BTreeMap::new();
    let mut found = Vec::new();
    let mut at = events.chunk_by(|a, b| a.0 == b.0).peekable();
    while let Some(here) = at.next() {
        let start = here.first().map_or(0, |event| event.0);
        // `false` sorts first: a list that goes on here has one span at a time.
        for (_, is_start, list) in here {
            let spans = open.entry(*list).or_default();
            match is_start {
                true => *spans += 1,
                false => *spans = spans.saturating_sub(1),
            }
            if *spans == 0 {
                open.remove(list);
            }
        }
        let next = at.peek().and_then(|next| next.first());
        let end = next.map_or(u128::MAX, |event| event.0 - 1);
        if !open.is_empty() {
            found.push(((start, end), open.keys().copied().collect()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_where_any_span_does() {
        let lists = [vec![(1, 5), (6, 9)], vec![(4, 7)], vec![(0, u128::MAX)]];
        let found = parts(&lists);
        let wanted: [(Interval, &[usize]); 6] = [
            ((0, 0), &[2]),
            ((1, 3), &[0, 2]),
            ((4, 5), &[0, 1, 2]),
            ((6, 7), &[0, 1, 2]),
            ((8, 9), &[0, 2]),
            ((10, u128::MAX), &[2]),
        ];
        assert_eq!(found.len(), wanted.len());
        for ((span, lists), (wanted, members)) in found.iter().zip(wanted) {
            assert_eq!((*span, lists.as_slice()), (wanted, members));
        }
    }
}
