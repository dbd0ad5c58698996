//! The difference between wanted and loaded chains, as input for `iptables-restore --noflush`.
//!
//! One restore changes one family in one step. Counters of unchanged rules are preserved.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use super::canonical::{Canonical, canonical};
use super::observed::{Saved, SavedJump, SavedRule};
use crate::iptables::script::{Script, Table, WantedChain, WantedJump, jump};
use crate::ruleset::change::{Change, What};

/// Returns input for `iptables-restore --noflush --counters` that turns `seen` into `wanted`;
/// `None` if they are equal. Without `wanted`, it removes all chains and jumps of peerwall.
pub fn restore(wanted: Option<&Script>, seen: &Saved) -> Option<String> {
    let nothing = Script::default();
    let all = wanted.unwrap_or(&nothing);
    let mut order = Table::ALL;
    // Remove in reverse order: the filter table uses labels of the mangle table to the end.
    if wanted.is_none() {
        order.reverse();
    }
    let texts = order
        .into_iter()
        .filter_map(|table| of_table(table, all, seen));
    let text: String = texts.collect();
    (!text.is_empty()).then_some(text)
}

/// Returns the text of every chain, rule and jump of peerwall that differs from the wanted one.
pub fn differences(wanted: &Script, seen: &Saved) -> Vec<Change> {
    let mut found = Vec::new();
    for ((table, name), rules) in &seen.chains {
        if !has_chain(wanted, *table, name) {
            found.push(Change::removal(What::Chain, name));
        }
        let chain = wanted.chains.iter();
        let mut chain = chain.filter(|chain| (chain.table, &chain.name) == (*table, name));
        let mut left: BTreeMap<Canonical, usize> = BTreeMap::new();
        for rule in chain.next().into_iter().flat_map(|chain| &chain.rules) {
            *left.entry(canonical(rule)).or_default() += 1;
        }
        for rule in rules {
            match left
                .get_mut(&canonical(&rule.text))
                .filter(|left| **left > 0)
            {
                Some(left) => *left -= 1,
                None => found.push(of_rule(name, Some(&rule.text), None)),
            }
        }
    }
    for chain in &wanted.chains {
        let seen = seen.chains.get(&(chain.table, chain.name.clone()));
        let mut counted = counted_by_form(seen.map_or(&[], Vec::as_slice));
        for rule in &chain.rules {
            let same = counted.get_mut(&canonical(rule));
            if same.and_then(VecDeque::pop_front).is_none() {
                found.push(of_rule(&chain.name, None, Some(rule)));
            }
        }
    }
    let jumps = seen.jumps.iter().filter(|old| !keeps(wanted, old));
    found.extend(jumps.map(|old| of_rule(&old.from, Some(&old.text), None)));
    for each in &wanted.jumps {
        if !seen.jumps.iter().any(|old| is_jump(old, each)) {
            found.push(of_rule(each.from, None, Some(&jump(&each.to))));
        }
    }
    found
}

fn of_rule(chain: &str, from: Option<&str>, to: Option<&str>) -> Change {
    Change::of_value(
        What::Rule,
        chain,
        from.map(str::to_owned),
        to.map(str::to_owned),
    )
}

/// Returns the input for one table; `None` if it needs no change.
fn of_table(table: Table, wanted: &Script, seen: &Saved) -> Option<String> {
    if is_same(table, wanted, seen) {
        return None;
    }
    let chains = || wanted.chains.iter().filter(|chain| chain.table == table);
    let stale: Vec<&String> = seen
        .chains
        .keys()
        .filter(|(of, name)| *of == table && !has_chain(wanted, table, name))
        .map(|(_, name)| name)
        .collect();
    let mut out = format!("*{}\n", table.name());
    // Declaring a chain creates or flushes it.
    let names = chains()
        .map(|chain| &chain.name)
        .chain(stale.iter().copied());
    for name in names {
        let _ = writeln!(out, ":{name} - [0:0]");
    }
    for chain in chains() {
        let name = &chain.name;
        let old = seen.chains.get(&(table, name.clone()));
        let mut counted = counted_by_form(old.map_or(&[], Vec::as_slice));
        for rule in &chain.rules {
            let same = counted
                .get_mut(&canonical(rule))
                .and_then(VecDeque::pop_front);
            let (packets, bytes) = same.unwrap_or_default();
            let _ = writeln!(out, "[{packets}:{bytes}] -A {name} {rule}");
        }
    }
    for old in seen.jumps.iter().filter(|old| old.table == table) {
        if !keeps(wanted, old) {
            let _ = writeln!(out, "-D {} {}", old.from, old.text);
        }
    }
    for each in wanted.jumps.iter().filter(|each| each.table == table) {
        if !seen.jumps.iter().any(|old| is_jump(old, each)) {
            let _ = writeln!(out, "-I {} 1 {}", each.from, jump(&each.to));
        }
    }
    for name in stale {
        let _ = writeln!(out, "-X {name}");
    }
    out.push_str("COMMIT\n");
    Some(out)
}

fn is_same(table: Table, wanted: &Script, seen: &Saved) -> bool {
    let same_rules = |chain: &WantedChain| {
        let Some(old) = seen.chains.get(&(table, chain.name.clone())) else {
            return false;
        };
        let forms = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|t| canonical(t)).collect::<Vec<_>>()
        };
        forms(&mut chain.rules.iter()) == forms(&mut old.iter().map(|rule| &rule.text))
    };
    let chains = || wanted.chains.iter().filter(|chain| chain.table == table);
    let jumps = || wanted.jumps.iter().filter(|jump| jump.table == table);
    let seen_jumps = || seen.jumps.iter().filter(|jump| jump.table == table);
    let seen_chains = seen.chains.keys().filter(|(of, _)| *of == table);
    chains().count() == seen_chains.count()
        && chains().all(same_rules)
        && jumps().count() == seen_jumps().count()
        && seen_jumps().all(|old| keeps(wanted, old))
}

fn has_chain(script: &Script, table: Table, name: &str) -> bool {
    let mut chains = script.chains.iter();
    chains.any(|chain| chain.table == table && chain.name == name)
}

fn keeps(wanted: &Script, old: &SavedJump) -> bool {
    wanted.jumps.iter().any(|jump| is_jump(old, jump))
}

/// Reports whether this is the wanted jump: the first rule of its chain, without other matches.
fn is_jump(old: &SavedJump, wanted: &WantedJump) -> bool {
    old.first
        && (old.table, old.from.as_str()) == (wanted.table, wanted.from)
        && canonical(&old.text) == canonical(&jump(&wanted.to))
}

/// Counters of rules by canonical form, in the order of equal rules.
fn counted_by_form(rules: &[SavedRule]) -> BTreeMap<Canonical, VecDeque<(u64, u64)>> {
    let mut counted: BTreeMap<Canonical, VecDeque<(u64, u64)>> = BTreeMap::new();
    for rule in rules {
        let same = counted.entry(canonical(&rule.text)).or_default();
        same.push_back((rule.packets, rule.bytes));
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::observed::parse;

    #[test]
    fn only_what_is_ours_is_read_and_a_jump_that_is_not_first_is_moved() {
        let saved = "*filter\n\
            :INPUT ACCEPT [5:6]\n\
            :PEERWALL-INPUT - [0:0]\n\
            :KUBE - [0:0]\n\
            [1:2] -A INPUT -j KUBE\n\
            [3:4] -A INPUT -m comment --comment peerwall -j PEERWALL-INPUT\n\
            [7:8] -A PEERWALL-INPUT -i lo -j ACCEPT\n\
            COMMIT\n";
        let seen = parse(saved).unwrap();
        let wanted = Script {
            chains: vec![WantedChain {
                table: Table::Filter,
                name: "PEERWALL-INPUT".into(),
                rules: vec!["-i lo -j ACCEPT".into()],
            }],
            jumps: vec![WantedJump {
                table: Table::Filter,
                from: "INPUT",
                to: "PEERWALL-INPUT".into(),
            }],
        };
        let text = restore(Some(&wanted), &seen).unwrap();
        assert_eq!(
            text,
            "*filter\n\
             :PEERWALL-INPUT - [0:0]\n\
             [7:8] -A PEERWALL-INPUT -i lo -j ACCEPT\n\
             -D INPUT -m comment --comment peerwall -j PEERWALL-INPUT\n\
             -I INPUT 1 -m comment --comment peerwall -j PEERWALL-INPUT\n\
             COMMIT\n"
        );
        let text = restore(None, &seen).unwrap();
        assert_eq!(
            text,
            "*filter\n\
             :PEERWALL-INPUT - [0:0]\n\
             -D INPUT -m comment --comment peerwall -j PEERWALL-INPUT\n\
             -X PEERWALL-INPUT\n\
             COMMIT\n"
        );
        assert_eq!(restore(None, &Saved::default()), None);
    }
}
