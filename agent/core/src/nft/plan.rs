//! What it takes to get from what is there to what is wanted.
//!
//! A [`Plan`] is the one value that `plan` prints and `apply` sends. It touches only what differs:
//! rules that stay keep their handles, elements that stay keep their place, and counters are
//! objects of their own that live as long as anything counts with them.

use std::collections::{BTreeMap, BTreeSet};

use crate::nft::observed::{
    Observed, ObservedChain, ObservedCounter, ObservedRule, ObservedSet, ObservedTable,
};
use crate::ruleset::{Base, Chain, ChainPolicy, Element, KeyType, Rule, Ruleset, Set};

/// Steps, in the order in which they are sent, all in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub ops: Vec<Op>,
    /// Why the table must be rebuilt, if it must.
    pub rebuild: Option<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Make the table.
    AddTable,
    /// Add the table that is there, which changes nothing but its owner.
    ClaimTable,
    /// Remove the table with all that is in it.
    DeleteTable,
    /// Make a counter that starts with these numbers.
    AddCounter(String, ObservedCounter),
    /// Remove a counter.
    DeleteCounter(String),
    /// Make an empty set; with a number, one for at most that number of elements.
    AddSet(String, KeyType, SetKind, Option<u32>),
    /// Remove a set.
    DeleteSet(String),
    /// Add elements to a set.
    AddElements(String, KeyType, SetKind, Vec<Element>),
    /// Remove elements from a set.
    DeleteElements(String, KeyType, SetKind, Vec<Element>),
    /// Make a chain without rules.
    AddChain(String, Option<Base>),
    /// Set a base chain's policy.
    SetPolicy(String, ChainPolicy),
    /// Remove all rules of a chain.
    FlushChain(String),
    /// Remove a chain.
    DeleteChain(String),
    /// Add a rule before the one with this handle, or at the end.
    AddRule(String, Option<u64>, Rule),
    /// Remove the rule with this handle, which is the given one; `None` if it is not peerwall's.
    DeleteRule(String, u64, Option<Box<Rule>>),
}

/// What kind of set it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetKind {
    /// Of single values.
    Values,
    /// Of intervals.
    Intervals,
    /// A meter, which rules fill.
    Meter,
}

impl SetKind {
    /// The kind of a set.
    pub fn of(set: &Set) -> Self {
        match (set.meter, set.interval) {
            (true, _) => Self::Meter,
            (false, true) => Self::Intervals,
            (false, false) => Self::Values,
        }
    }
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The plan that only makes the table ours, for who holds it without changing it.
    pub fn claim() -> Self {
        Self {
            ops: vec![Op::ClaimTable],
            rebuild: None,
        }
    }

    /// The plan that takes our table away.
    pub fn remove(seen: &Observed) -> Self {
        let ops = match seen.table {
            Some(_) => vec![Op::DeleteTable],
            None => Vec::new(),
        };
        Self { ops, rebuild: None }
    }
}

/// Steps from `seen` to `wanted`.
pub fn plan(wanted: &Ruleset, seen: &Observed) -> Plan {
    let Some(table) = &seen.table else {
        let mut ops = vec![Op::AddTable];
        create_all(wanted, &ObservedTable::default(), &mut ops);
        return Plan { ops, rebuild: None };
    };
    if let Some(why) = must_rebuild(wanted, table) {
        return anew(wanted, table, why);
    }
    let mut ops = Vec::new();
    add_and_change(wanted, table, &mut ops);
    remove_the_rest(wanted, table, &mut ops);
    if !ops.is_empty() {
        ops.insert(0, Op::ClaimTable);
    }
    Plan { ops, rebuild: None }
}

/// Steps that rebuild the table in one transaction; counters continue from their values.
pub fn anew(wanted: &Ruleset, table: &ObservedTable, why: String) -> Plan {
    let mut ops = vec![Op::DeleteTable, Op::AddTable];
    create_all(wanted, table, &mut ops);
    Plan {
        ops,
        rebuild: Some(why),
    }
}

/// Why small steps would not do: the kernel can change neither the type of a set nor the hook of a
/// chain.
fn must_rebuild(wanted: &Ruleset, table: &ObservedTable) -> Option<String> {
    if let Some(stranger) = table.foreign.first() {
        return Some(format!("{stranger} is in the table"));
    }
    for (name, set) in &wanted.sets {
        match table.sets.get(name) {
            None => {}
            Some(ObservedSet::Known {
                set: seen,
                capacity,
            }) => {
                if (seen.key, SetKind::of(seen)) != (set.key, SetKind::of(set)) {
                    return Some(format!("set {name} has another type"));
                }
                if capacity.is_some_and(|most| set.elements.len() > most as usize) {
                    return Some(format!("set {name} has become too small"));
                }
            }
            Some(ObservedSet::Unrecognized) => {
                return Some(format!("set {name} is not peerwall's"));
            }
        }
    }
    for chain in &wanted.chains {
        let hook = |base: &Option<Base>| base.map(|b| (b.hook, b.priority));
        let same = match table.chain(&chain.name).map(|seen| &seen.base) {
            None => true,
            Some(Ok(base)) => hook(base) == hook(&chain.base),
            Some(Err(_)) => false,
        };
        if !same {
            return Some(format!("chain {} has another hook or priority", chain.name));
        }
    }
    None
}

fn create_all(wanted: &Ruleset, old: &ObservedTable, ops: &mut Vec<Op>) {
    for name in &wanted.counters {
        let start = old.counters.get(name).copied().unwrap_or_default();
        ops.push(Op::AddCounter(name.clone(), start));
    }
    for (name, set) in &wanted.sets {
        create_set(name, set, ops);
    }
    for chain in &wanted.chains {
        ops.push(Op::AddChain(chain.name.clone(), chain.base));
    }
    for chain in &wanted.chains {
        let add = |rule: &Rule| Op::AddRule(chain.name.clone(), None, rule.clone());
        ops.extend(chain.rules.iter().map(add));
    }
}

/// Fewer elements than this load in no time whatever the set is like.
const CAPACITY_FROM: usize = 1024;

/// How many elements to make a hash set for. Told a number, the kernel takes a table of fixed size
/// (`nft_hash_estimate()`), which loads faster than one that grows (`scripts/bench`); it is then
/// also the most that the set can hold. So there is room for twice as many, and a set that becomes
/// still too small is rebuilt with the table, in one transaction.
fn capacity(set: &Set) -> Option<u32> {
    let count = set.elements.len();
    let wanted = count.checked_mul(2)?.checked_next_power_of_two()?;
    let capacity = u32::try_from(wanted).ok()?;
    (SetKind::of(set) == SetKind::Values && count >= CAPACITY_FROM).then_some(capacity)
}

fn create_set(name: &str, set: &Set, ops: &mut Vec<Op>) {
    let kind = SetKind::of(set);
    ops.push(Op::AddSet(name.to_owned(), set.key, kind, capacity(set)));
    if !set.elements.is_empty() {
        let elements = set.elements.clone();
        ops.push(Op::AddElements(name.to_owned(), set.key, kind, elements));
    }
}

fn add_and_change(wanted: &Ruleset, table: &ObservedTable, ops: &mut Vec<Op>) {
    for name in &wanted.counters {
        if !table.counters.contains_key(name) {
            ops.push(Op::AddCounter(name.clone(), ObservedCounter::default()));
        }
    }
    for (name, set) in &wanted.sets {
        match table.sets.get(name) {
            Some(ObservedSet::Known { set: seen, .. }) => change_elements(name, set, seen, ops),
            Some(ObservedSet::Unrecognized) | None => create_set(name, set, ops),
        }
    }
    for chain in &wanted.chains {
        match table.chain(&chain.name) {
            None => ops.push(Op::AddChain(chain.name.clone(), chain.base)),
            Some(seen) => change_policy(chain, seen, ops),
        }
    }
    for chain in &wanted.chains {
        let none = Vec::new();
        let rules = table.chain(&chain.name).map_or(&none, |seen| &seen.rules);
        change_rules(chain, rules, ops);
    }
}

fn change_policy(chain: &Chain, seen: &ObservedChain, ops: &mut Vec<Op>) {
    if let (Some(want), Ok(Some(have))) = (chain.base, &seen.base)
        && want.policy != have.policy
    {
        ops.push(Op::SetPolicy(chain.name.clone(), want.policy));
    }
}

/// Both lists are ascending and disjoint; what is in one and not in the other is the difference.
fn change_elements(name: &str, want: &Set, have: &Set, ops: &mut Vec<Op>) {
    let (mut add, mut delete) = (Vec::new(), Vec::new());
    let (mut w, mut h) = (
        want.elements.iter().peekable(),
        have.elements.iter().peekable(),
    );
    loop {
        match (w.peek(), h.peek()) {
            (None, None) => break,
            (Some(a), Some(b)) if a == b => {
                w.next();
                h.next();
            }
            (Some(a), Some(b)) if a.first < b.first => add.extend(w.next().cloned()),
            (Some(a), Some(b)) if a.first > b.first => delete.extend(h.next().cloned()),
            (Some(_), Some(_)) => {
                add.extend(w.next().cloned());
                delete.extend(h.next().cloned());
            }
            (Some(_), None) => add.extend(w.next().cloned()),
            (None, Some(_)) => delete.extend(h.next().cloned()),
        }
    }
    let kind = SetKind::of(want);
    // Deletions first: within a transaction the kernel refuses an interval that overlaps another.
    if !delete.is_empty() {
        ops.push(Op::DeleteElements(name.to_owned(), want.key, kind, delete));
    }
    if !add.is_empty() {
        ops.push(Op::AddElements(name.to_owned(), want.key, kind, add));
    }
}

/// Keeps the longest common subsequence of rules; what is new goes before the next rule that stays.
fn change_rules(chain: &Chain, seen: &[ObservedRule], ops: &mut Vec<Op>) {
    let kept = common(&chain.rules, seen);
    let kept_seen: BTreeSet<usize> = kept.iter().map(|(_, s)| *s).collect();
    for (index, old) in seen.iter().enumerate() {
        if !kept_seen.contains(&index) {
            let rule = old.rule.clone().ok().map(Box::new);
            ops.push(Op::DeleteRule(chain.name.clone(), old.handle, rule));
        }
    }
    let mut next = kept.iter().peekable();
    for (index, rule) in chain.rules.iter().enumerate() {
        match next.peek() {
            Some((w, _)) if *w == index => {
                next.next();
            }
            ahead => {
                let before = ahead.map(|(_, s)| seen[*s].handle);
                ops.push(Op::AddRule(chain.name.clone(), before, rule.clone()));
            }
        }
    }
}

/// Maximum number of pairs of changed rules that are compared.
const TABLE_MAX: usize = 1 << 20;

/// Positions (wanted, seen) of a common subsequence: a longest one, unless thousands of rules
/// changed.
fn common(wanted: &[Rule], seen: &[ObservedRule]) -> Vec<(usize, usize)> {
    // Mostly all is the same, or all but a few rules: what both start and end with needs no table.
    let equal = |(rule, seen): (&Rule, &ObservedRule)| seen.rule.as_ref() == Ok(rule);
    let ahead = wanted
        .iter()
        .zip(seen)
        .take_while(|pair| equal(*pair))
        .count();
    let (wanted_rest, seen_rest) = (&wanted[ahead..], &seen[ahead..]);
    let ends = wanted_rest.iter().rev().zip(seen_rest.iter().rev());
    let behind = ends.take_while(|pair| equal(*pair)).count();
    let (n, m) = (wanted_rest.len() - behind, seen_rest.len() - behind);
    let (changed, changed_seen) = (&wanted_rest[..n], &seen_rest[..m]);
    let middle = match n.saturating_mul(m) <= TABLE_MAX {
        true => longest(changed, changed_seen),
        false => unique(changed, changed_seen),
    };
    let mut pairs: Vec<(usize, usize)> = (0..ahead).map(|at| (at, at)).collect();
    pairs.extend(middle.into_iter().map(|(w, s)| (ahead + w, ahead + s)));
    pairs.extend((0..behind).map(|at| (ahead + n + at, ahead + m + at)));
    pairs
}

/// The longest one, by a table of the size of both.
fn longest(wanted: &[Rule], seen: &[ObservedRule]) -> Vec<(usize, usize)> {
    let (n, m) = (wanted.len(), seen.len());
    let same = |w: usize, s: usize| seen[s].rule.as_ref() == Ok(&wanted[w]);
    // length[w][s]: longest common subsequence of wanted[w..] and seen[s..].
    let mut length = vec![vec![0_usize; m + 1]; n + 1];
    for w in (0..n).rev() {
        for s in (0..m).rev() {
            length[w][s] = match same(w, s) {
                true => length[w + 1][s + 1] + 1,
                false => length[w + 1][s].max(length[w][s + 1]),
            };
        }
    }
    let mut pairs = Vec::new();
    let (mut w, mut s) = (0, 0);
    while w < n && s < m {
        if same(w, s) {
            pairs.push((w, s));
            w += 1;
            s += 1;
        } else if length[w + 1][s] >= length[w][s + 1] {
            w += 1;
        } else {
            s += 1;
        }
    }
    pairs
}

/// The longest one of the rules that are in both once, which nearly all are, since they count by
/// name: the longest ascending run of their positions.
fn unique(wanted: &[Rule], seen: &[ObservedRule]) -> Vec<(usize, usize)> {
    let key = |rule: &Rule| format!("{rule:?}");
    // Where a rule is, in one list and in the other; more than once if it is repeated.
    let mut places: BTreeMap<String, [Vec<usize>; 2]> = BTreeMap::new();
    for (index, rule) in wanted.iter().enumerate() {
        places.entry(key(rule)).or_default()[0].push(index);
    }
    for (index, each) in seen.iter().enumerate() {
        if let Ok(rule) = &each.rule
            && let Some(of) = places.get_mut(&key(rule))
        {
            of[1].push(index);
        }
    }
    let mut pairs: Vec<(usize, usize)> = places
        .into_values()
        .filter_map(|[w, s]| match (w.as_slice(), s.as_slice()) {
            ([w], [s]) => Some((*w, *s)),
            _ => None,
        })
        .collect();
    pairs.sort_unstable();
    ascending(&pairs)
}

/// The longest part of these pairs, ordered by their first, whose second ascends as well.
fn ascending(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // ends[n]: the pair with the lowest second that ends a run of n + 1.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (index, (_, second)) in pairs.iter().enumerate() {
        let at = ends.partition_point(|end| pairs[*end].1 < *second);
        before.push(at.checked_sub(1).map(|at| ends[at]));
        match ends.get_mut(at) {
            Some(end) => *end = index,
            None => ends.push(index),
        }
    }
    let mut found: Vec<_> = std::iter::successors(ends.last().copied(), |at| before[*at])
        .map(|at| pairs[at])
        .collect();
    found.reverse();
    found
}

/// What nothing wants any more, users before what they use.
fn remove_the_rest(wanted: &Ruleset, table: &ObservedTable, ops: &mut Vec<Op>) {
    let extra: Vec<&ObservedChain> = table
        .chains
        .iter()
        .filter(|chain| wanted.chain(&chain.name).is_none())
        .collect();
    let with_rules = extra.iter().filter(|chain| !chain.rules.is_empty());
    ops.extend(with_rules.map(|chain| Op::FlushChain(chain.name.clone())));
    let sets = table
        .sets
        .keys()
        .filter(|name| !wanted.sets.contains_key(*name));
    ops.extend(sets.cloned().map(Op::DeleteSet));
    ops.extend(
        extra
            .iter()
            .map(|chain| Op::DeleteChain(chain.name.clone())),
    );
    let counters = table.counters.keys();
    let unused = counters.filter(|name| !wanted.counters.contains(*name));
    ops.extend(unused.cloned().map(Op::DeleteCounter));
}

#[cfg(test)]
mod tests;
