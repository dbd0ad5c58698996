//! Parses the chains of a table in iptables-save's format.

use std::collections::{BTreeMap, BTreeSet};

use peerwall_proto::iptables::{self, BUILTIN, Position};

use super::graph::circles;
use super::words::read;
use super::{
    At, Condition, ImportedChain, ImportedChains, ImportedRule, ImportedSets, RuleContext,
};
use super::{Test, Verb, reached};
use crate::net::addr::Family;

/// Lines that cannot be read, with the reasons. They accept and drop nothing.
pub(in crate::import) type Problems = BTreeMap<At, String>;

/// Parses the chains of a table.
pub(in crate::import) fn chains(
    table: &iptables::Table,
    family: Family,
    input: usize,
    sets: &ImportedSets,
    problems: &mut Problems,
) -> ImportedChains {
    let mut chains = declared(table, input);
    let is_fragment = !chains.keys().any(|name| BUILTIN.contains(&name.as_str()));
    for rule in &table.rules {
        let at = At {
            input,
            line: rule.line,
        };
        let context = RuleContext {
            family,
            table: &table.name,
            chain: &rule.chain,
            at,
            sets,
        };
        let is_known = chains.contains_key(&rule.chain) || BUILTIN.contains(&rule.chain.as_str());
        // A fragment for `iptables-restore -n` adds to chains that exist already.
        if !is_known && !is_fragment && !rule.chain.is_empty() {
            let why = format!("the chain {} is not declared", rule.chain);
            problems.insert(
                at,
                format!("{why}; declare it with a line like `:NAME - [0:0]`"),
            );
            continue;
        }
        if let Err(why) = apply(&mut chains, rule, &context, problems) {
            problems.insert(at, why);
        }
    }
    distrust_wrong_jumps(&mut chains, problems);
    chains
}

fn declared(table: &iptables::Table, input: usize) -> ImportedChains {
    let chains = table.chains.iter().map(|chain| {
        let accepts = chain.policy.as_deref().map(|policy| policy == "ACCEPT");
        let line = chain.line;
        let at = Some(At { input, line });
        let rules = Vec::new();
        (chain.name.clone(), ImportedChain { accepts, at, rules })
    });
    chains.collect()
}

/// Applies one change to the chains.
fn apply(
    chains: &mut ImportedChains,
    rule: &iptables::Rule,
    context: &RuleContext<'_>,
    problems: &mut Problems,
) -> Result<(), String> {
    if rule.position == Position::Flush {
        for (name, chain) in chains.iter_mut() {
            if rule.chain.is_empty() || *name == rule.chain {
                chain.rules.clear();
            }
        }
        return Ok(());
    }
    let (read, problem) = match rule.position {
        Position::DeleteAt(_) => (None, None),
        Position::Append
        | Position::Insert(_)
        | Position::Replace(_)
        | Position::Delete
        | Position::Flush => read(&rule.words, context),
    };
    let is_readable = problem.is_none();
    if let Some(why) = problem {
        problems.insert(context.at, why);
    }
    let is_builtin = BUILTIN.contains(&rule.chain.as_str());
    let chain = chains.entry(rule.chain.clone()).or_insert(ImportedChain {
        accepts: is_builtin.then_some(true),
        at: None,
        rules: Vec::new(),
    });
    let count = chain.rules.len();
    let in_chain = |at: usize, most: usize| match (1..=most).contains(&at) {
        true => Ok(at - 1),
        false => Err(format!(
            "the chain {} has {count} rules above this line",
            rule.chain
        )),
    };
    match (rule.position, read) {
        (Position::Append, Some(read)) => chain.rules.push(read),
        (Position::Insert(at), Some(read)) => chain.rules.insert(in_chain(at, count + 1)?, read),
        (Position::Replace(at), Some(read)) => chain.rules[in_chain(at, count)?] = read,
        (Position::DeleteAt(at), _) => drop(chain.rules.remove(in_chain(at, count)?)),
        (Position::Delete, Some(read)) => delete(chain, &read, is_readable)?,
        // A rule of the other family.
        (Position::Append | Position::Insert(_) | Position::Replace(_), None) => {}
        (Position::Delete | Position::Flush, _) => {}
    }
    Ok(())
}

/// Deletes the first rule that means the same.
fn delete(chain: &mut ImportedChain, like: &ImportedRule, is_readable: bool) -> Result<(), String> {
    let is_like = |rule: &ImportedRule| {
        (&rule.conditions, &rule.target, &rule.comment)
            == (&like.conditions, &like.target, &like.comment)
    };
    match chain.rules.iter().position(is_like).filter(|_| is_readable) {
        Some(at) => drop(chain.rules.remove(at)),
        None => return Err("no rule above this line is the one that it deletes".into()),
    }
    Ok(())
}

/// Makes jumps unknown that iptables rejects: to missing chains, and in cycles.
fn distrust_wrong_jumps(chains: &mut ImportedChains, problems: &mut Problems) {
    let names: BTreeSet<String> = chains.keys().cloned().collect();
    distrust(chains, problems, |_, to| {
        let is_missing = !names.contains(to) || BUILTIN.contains(&to);
        is_missing.then(|| {
            format!("`{to}` is neither a chain of this table nor a known target; declare the chain")
        })
    });
    let circles: BTreeSet<String> = circles(chains).into_iter().map(str::to_owned).collect();
    if circles.is_empty() {
        return;
    }
    let copy = chains.clone();
    distrust(chains, problems, |from, to| {
        let is_circle =
            circles.contains(from) && circles.contains(to) && reached(&copy, to).contains(&from);
        is_circle
            .then(|| format!("the chain {from} jumps back to itself; iptables-restore rejects it"))
    });
}

fn distrust(
    chains: &mut ImportedChains,
    problems: &mut Problems,
    wrong: impl Fn(&str, &str) -> Option<String>,
) {
    for (name, chain) in chains.iter_mut() {
        for rule in &mut chain.rules {
            let Some(to) = rule.target.chain() else {
                continue;
            };
            if let Some(why) = wrong(name, to) {
                let test = Test::Unknown(format!("-j {to}"));
                let negated = false;
                problems.insert(rule.at, why);
                rule.target = Verb::Unknown(to.to_owned());
                rule.conditions.push(Condition { negated, test });
            }
        }
    }
}
