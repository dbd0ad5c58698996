//! Plans: steps from the observed state to a ruleset.
//!
//! `plan` prints a [`Plan`] and `apply` sends it. A plan changes only differences: unchanged rules
//! keep their handles, unchanged elements stay, and named counters exist as long as any rule uses
//! them.

use std::collections::{BTreeMap, BTreeSet};

use crate::nft::observed::{
    Observed, ObservedChain, ObservedCounter, ObservedRule, ObservedSet, ObservedTable,
};
use crate::ruleset::{Base, Chain, ChainPolicy, Elements, Ends, KeyType, Rule, Ruleset, Set};

/// Steps in the order of sending, in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps.
    pub ops: Vec<Op>,
    /// When elements of timed sets end.
    pub ends: Ends,
    /// Reason for rebuilding the table; `None` if the plan is incremental.
    pub rebuild: Option<String>,
}

/// Step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Add the table.
    AddTable,
    /// Add the existing table again, which only changes its owner.
    ClaimTable,
    /// Delete the table with its contents.
    DeleteTable,
    /// Add a counter with initial values.
    AddCounter(String, ObservedCounter),
    /// Delete a counter.
    DeleteCounter(String),
    /// Add an empty set, optionally with a maximum number of elements.
    AddSet(String, KeyType, SetKind, Option<u32>),
    /// Delete a set.
    DeleteSet(String),
    /// Add elements to a set.
    AddElements(String, KeyType, SetKind, Elements),
    /// Delete elements of a set.
    DeleteElements(String, KeyType, SetKind, Elements),
    /// Add a chain without rules.
    AddChain(String, Option<Base>),
    /// Set a base chain's policy.
    SetPolicy(String, ChainPolicy),
    /// Delete all rules of a chain.
    FlushChain(String),
    /// Delete a chain.
    DeleteChain(String),
    /// Add a rule before the one with this handle, or at the end.
    AddRule(String, Option<u64>, Rule),
    /// Delete the rule with this handle. The rule is `None` if peerwall cannot represent it.
    DeleteRule(String, u64, Option<Box<Rule>>),
}

impl Op {
    /// Reports whether the step adds a rule that only logs.
    pub fn only_logs(&self) -> bool {
        if let Self::AddRule(_, _, rule) = self {
            return rule.only_logs();
        }
        false
    }
}

/// Kind of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetKind {
    /// Single values.
    Values,
    /// Intervals.
    Intervals,
    /// Meter, whose elements rules add.
    Meter,
    /// Single values that may end by themselves.
    Timed,
}

impl SetKind {
    /// Returns the kind of a set.
    pub fn of(set: &Set) -> Self {
        match (set.meter, set.timed, set.interval) {
            (true, _, _) => Self::Meter,
            (false, true, _) => Self::Timed,
            (false, false, true) => Self::Intervals,
            (false, false, false) => Self::Values,
        }
    }
}

impl Plan {
    /// Returns whether the plan has no steps.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Returns the plan without the rules that only log.
    #[must_use]
    pub fn without_logs(&self) -> Self {
        let mut plan = self.clone();
        plan.ops.retain(|op| !op.only_logs());
        plan
    }

    /// Returns the plan that claims the table without changing it.
    pub fn claim() -> Self {
        Self {
            ops: vec![Op::ClaimTable],
            ..Self::default()
        }
    }

    /// Returns the plan that deletes peerwall's table.
    pub fn remove(seen: &Observed) -> Self {
        let ops = match seen.table {
            Some(_) => vec![Op::DeleteTable],
            None => Vec::new(),
        };
        Self {
            ops,
            ..Self::default()
        }
    }
}

/// Plans the steps from `seen` to `wanted`.
pub fn plan(wanted: &Ruleset, seen: &Observed) -> Plan {
    let Some(table) = &seen.table else {
        let mut ops = vec![Op::AddTable];
        create_all(wanted, &ObservedTable::default(), &mut ops);
        return Plan {
            ops,
            ends: wanted.ends.clone(),
            rebuild: None,
        };
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
    Plan {
        ops,
        ends: wanted.ends.clone(),
        rebuild: None,
    }
}

/// Plans a rebuild of the table in one transaction. Counters keep their values.
pub fn anew(wanted: &Ruleset, table: &ObservedTable, why: String) -> Plan {
    let mut ops = vec![Op::DeleteTable, Op::AddTable];
    create_all(wanted, table, &mut ops);
    Plan {
        ops,
        ends: wanted.ends.clone(),
        rebuild: Some(why),
    }
}

/// Returns the reason for a rebuild, if one is necessary: the kernel can change neither the type of
/// a set nor the hook of a chain.
fn must_rebuild(wanted: &Ruleset, table: &ObservedTable) -> Option<String> {
    if let Some(stranger) = table.foreign.first() {
        return Some(format!("the table contains {stranger}"));
    }
    for (name, set) in &wanted.sets {
        match table.sets.get(name) {
            None => {}
            Some(ObservedSet::Known {
                set: seen,
                capacity,
            }) => {
                if (seen.key, SetKind::of(seen)) != (set.key, SetKind::of(set)) {
                    return Some(format!("the type of set {name} changed"));
                }
                if capacity.is_some_and(|most| set.elements.len() > most as usize) {
                    return Some(format!("set {name} is too small"));
                }
            }
            Some(ObservedSet::Unrecognized) => {
                return Some(format!("another program changed set {name}"));
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
            return Some(format!(
                "the hook or priority of chain {} changed",
                chain.name
            ));
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

/// Number of elements from which the size of a hash set matters.
const CAPACITY_FROM: usize = 1024;

/// Returns the size of a new hash set. With a size, the kernel uses a hash table of fixed size
/// (`nft_hash_estimate()`), which loads faster than a growing one (`scripts/bench`), and limits the
/// set to this size. The size is therefore at least twice the number of elements. If a set becomes
/// too small, the table is rebuilt in one transaction.
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

/// Adds the steps between two ascending lists of disjoint elements.
fn change_elements(name: &str, want: &Set, have: &Set, ops: &mut Vec<Op>) {
    if want.elements == have.elements {
        return;
    }
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
    // Deletions come first, because the kernel refuses overlapping intervals within a transaction
    // too.
    if !delete.is_empty() {
        ops.push(Op::DeleteElements(
            name.to_owned(),
            want.key,
            kind,
            delete.into(),
        ));
    }
    if !add.is_empty() {
        ops.push(Op::AddElements(name.to_owned(), want.key, kind, add.into()));
    }
}

/// Keeps the longest common subsequence of rules, and adds new rules before the next kept one.
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

/// Limit on the table of pairs of changed rules.
const TABLE_MAX: usize = 1 << 20;

/// Returns the positions (wanted, seen) of a common subsequence: a longest one, unless thousands of
/// rules changed.
fn common(wanted: &[Rule], seen: &[ObservedRule]) -> Vec<(usize, usize)> {
    // A common prefix and suffix need no table; usually they contain all rules or all but a few.
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

/// Finds the longest common subsequence with a table of all pairs.
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

/// Finds the longest common subsequence of the rules that occur once in both lists: the longest
/// ascending run of their positions. Nearly all rules are unique, because their counters have
/// different names.
fn unique(wanted: &[Rule], seen: &[ObservedRule]) -> Vec<(usize, usize)> {
    let key = |rule: &Rule| format!("{rule:?}");
    // Positions of each rule in both lists.
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

/// Returns the longest subsequence of pairs, sorted by their first number, in which the second
/// number ascends too.
fn ascending(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // ends[n]: the pair with the lowest second number that ends a run of n + 1.
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

/// Deletes extra objects, after the objects that use them.
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
