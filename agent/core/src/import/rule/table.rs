//! Parses the chains of a table in iptables-save's format.

use std::collections::{BTreeMap, BTreeSet};

use peerwall_proto::iptables::{self, BUILTIN, Position};

use super::delete::{Deletion, NONE_SUCH};
use super::graph::circles;
use super::numbers::SureNumbers;
use super::words::{read, unknown};
use super::{
    At, Condition, ImportedChain, ImportedChains, ImportedRule, ImportedSets, Interval, RuleContext,
};
use super::{Test, Verb, reached};
use crate::import::canonical::{Reading, TableReadings};
use crate::net::addr::Family;
use crate::words;

/// Lines that cannot be read, with the reasons. They accept and drop nothing.
pub(in crate::import) type Problems = BTreeMap<At, String>;

/// Where a table is from, and what is known about its lines.
pub(in crate::import) struct TableOrigin<'r> {
    pub family: Family,
    /// Index of the input.
    pub input: usize,
    pub sets: &'r ImportedSets,
    /// Lines of which nothing is read, in order.
    pub unread: &'r [usize],
    /// What iptables read.
    pub readings: TableReadings<'r>,
}

/// Parses the chains of a table.
pub(in crate::import) fn chains(
    table: &iptables::Table,
    origin: &TableOrigin<'_>,
    problems: &mut Problems,
) -> ImportedChains {
    let input = origin.input;
    let mut chains = declared(table, input);
    let joins = !table.rules.iter().any(counts_rules);
    let tracks = table.rules.iter().any(uses_tracking);
    let mut numbers = SureNumbers::new(origin.unread);
    let is_fragment = !chains.keys().any(|name| BUILTIN.contains(&name.as_str()));
    for (index, rule) in table.rules.iter().enumerate() {
        let at = At {
            input,
            line: rule.line,
        };
        let context = RuleContext {
            family: origin.family,
            table: &table.name,
            chain: &rule.chain,
            at,
            sets: origin.sets,
            tracks,
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
        let reading = origin.readings.get(index);
        let mut line = read_line(rule, &context, reading);
        if joins && line.rules.len() > 1 {
            line.rules = join(line.rules);
        }
        if let Some(why) = &line.problem {
            problems.insert(at, why.clone());
        }
        if !numbers.knows(rule) {
            numbers.distrust(&rule.chain);
            apply_somewhere(&mut chains, rule, input, line, problems);
            continue;
        }
        let is_read = line.problem.is_none() || matches!(reading, Some(Reading::Words(_)));
        let count = chains.get(&rule.chain).map_or(0, |chain| chain.rules.len());
        numbers.add(rule, is_read, count);
        if !is_read && matches!(rule.position, Position::Replace(_)) {
            numbers.distrust(&rule.chain);
            apply_somewhere(&mut chains, rule, input, line, problems);
        } else if rule.position == Position::Delete {
            let deletion = Deletion {
                table,
                origin,
                context: &context,
                index,
            };
            match chains.get_mut(&rule.chain) {
                Some(chain) => {
                    if !deletion.apply(chain, &line, problems) {
                        numbers.distrust(&rule.chain);
                    }
                }
                None => drop(problems.insert(at, NONE_SUCH.to_owned())),
            }
        } else if let Err(why) = apply(&mut chains, rule, line) {
            problems.insert(at, why);
        }
    }
    distrust_wrong_jumps(&mut chains, problems);
    for chain in chains.values_mut() {
        chain.rules.shrink_to_fit();
    }
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

/// Reports whether a rule uses connection tracking.
fn uses_tracking(rule: &iptables::Rule) -> bool {
    let of = [
        "state",
        "conntrack",
        "connlimit",
        "connmark",
        "connbytes",
        "helper",
    ];
    rule.words.iter().any(|word| of.contains(&word.as_str()))
}

/// Reports whether a line counts the rules of its chain. Each address of a list is then a rule.
fn counts_rules(rule: &iptables::Rule) -> bool {
    match rule.position {
        Position::Insert(at) => at > 1,
        Position::Replace(_) | Position::DeleteAt(_) => true,
        Position::Append | Position::Delete | Position::Flush => false,
    }
}

/// The rules of a line; none for a line of the other family.
#[derive(Default)]
pub(super) struct LineRules {
    pub rules: Vec<ImportedRule>,
    /// Reason why the line cannot be read. Its rules accept nothing.
    pub problem: Option<String>,
}

fn read_line(
    rule: &iptables::Rule,
    context: &RuleContext<'_>,
    reading: Option<&Reading>,
) -> LineRules {
    if matches!(rule.position, Position::DeleteAt(_) | Position::Flush) {
        return LineRules::default();
    }
    let (own, problem) = read(&rule.words, context);
    match reading {
        Some(Reading::Words(lines)) => {
            let read = canonical(lines, context, problem);
            let is_left_out = |words: &Vec<String>| negations(words) < negations(&rule.words);
            let is_left_out = lines.iter().any(is_left_out);
            let is_same = |own: &ImportedRule| read.rules.iter().all(|rule| agree(rule, own));
            let is_left_out = is_left_out && !own.as_ref().is_some_and(is_same);
            if is_left_out || own.is_some_and(|own| lacks(&read.rules, &own)) {
                return LineRules {
                    rules: vec![unknown(&rule.words, context)],
                    problem: Some(LEFT_OUT.to_owned()),
                };
            }
            return read;
        }
        Some(Reading::Refused(said)) if own.is_some() && problem.is_none() => {
            return LineRules {
                rules: vec![unknown(&rule.words, context)],
                problem: Some(format!("iptables refuses this line: {said}")),
            };
        }
        Some(Reading::Refused(_)) | None => {}
    }
    LineRules {
        rules: own.into_iter().collect(),
        problem,
    }
}

/// Why a line that iptables read is not trusted.
const LEFT_OUT: &str = "iptables-save leaves out a condition of this line, perhaps one that no \
     packet meets";

fn negations(words: &[String]) -> usize {
    words.iter().filter(|word| *word == "!").count()
}

/// Reports whether two rules have the same conditions: iptables prints some negations in another
/// way, like `! --hashlimit-upto` as `--hashlimit-above`.
fn agree(one: &ImportedRule, other: &ImportedRule) -> bool {
    let is_same = |a: &Condition, b: &Condition| match (&a.test, &b.test) {
        (Test::Rate(a_holds, _), Test::Rate(b_holds, _)) => {
            a_holds == b_holds && a.negated == b.negated
        }
        _ => a == b,
    };
    have_same_conditions(one, other, is_same)
}

/// Reports whether each condition of a rule is the same as one of the other rule, in any order.
pub(super) fn have_same_conditions(
    one: &ImportedRule,
    other: &ImportedRule,
    is_same: impl Fn(&Condition, &Condition) -> bool,
) -> bool {
    let has = |wanted: &Condition| other.conditions.iter().any(|each| is_same(wanted, each));
    one.conditions.len() == other.conditions.len() && one.conditions.iter().all(has)
}

/// Reports whether rules lack a kind of test that peerwall read in the line itself, and that not
/// every packet meets.
fn lacks(rules: &[ImportedRule], own: &ImportedRule) -> bool {
    let is_lost = |wanted: &Condition| match &wanted.test {
        Test::TcpFlags(mask, flags) => (*mask, *flags) != (0, 0),
        Test::Always(is_met) => *is_met == wanted.negated,
        Test::Source(_)
        | Test::Destination(_)
        | Test::In(_)
        | Test::Out(_)
        | Test::Protocol(_)
        | Test::SourcePorts(_)
        | Test::DestinationPorts(_)
        | Test::EitherPort(_)
        | Test::State { .. }
        | Test::Dialled(..)
        | Test::DialledAddress(_)
        | Test::Icmp(_)
        | Test::HopLimit(..)
        | Test::To(_)
        | Test::From(_)
        | Test::Any(_)
        | Test::Rate(..)
        | Test::Mark(..)
        | Test::ReversePath(_)
        | Test::Unknown(_) => false,
    };
    let kind = |test: &Test| std::mem::discriminant(test);
    own.conditions
        .iter()
        .filter(|each| is_lost(each))
        .any(|lost| {
            let has = |rule: &ImportedRule| {
                let mut all = rule.conditions.iter();
                all.any(|each| kind(&each.test) == kind(&lost.test))
            };
            !rules.iter().all(has)
        })
}

/// Reads the words that iptables-save printed for a line. The problem of the file's own words, if
/// there is one, explains a failure better.
fn canonical(
    lines: &[Vec<String>],
    context: &RuleContext<'_>,
    own_problem: Option<String>,
) -> LineRules {
    let mut all = LineRules::default();
    for words in lines {
        let (rule, problem) = read(words, context);
        all.rules.extend(rule);
        all.problem = all.problem.or(problem);
    }
    if all.problem.is_some() {
        all.problem = own_problem.or(all.problem);
    }
    all
}

/// Joins rules that differ in one address: iptables-save prints one for each address of a list.
fn join(mut rules: Vec<ImportedRule>) -> Vec<ImportedRule> {
    let is_destination = |test: &Test| matches!(test, Test::Destination(_));
    let is_source = |test: &Test| matches!(test, Test::Source(_));
    // Lists of both kinds are printed as all pairs.
    rules = join_by(rules, is_destination);
    rules = join_by(rules, is_source);
    join_by(rules, is_destination)
}

fn join_by(rules: Vec<ImportedRule>, is_list: impl Fn(&Test) -> bool) -> Vec<ImportedRule> {
    let mut joined: Vec<(Option<ImportedRule>, ImportedRule)> = Vec::new();
    for rule in rules {
        let (rest, list) = without_list(&rule, &is_list);
        match joined.last_mut() {
            Some((known, last)) if rest.is_some() && *known == rest => {
                add_list(last, &is_list, list)
            }
            Some(_) | None => joined.push((rest, rule)),
        }
    }
    joined.into_iter().map(|(_, rule)| rule).collect()
}

/// Takes the list out of a copy of a rule.
fn without_list(
    rule: &ImportedRule,
    is_list: impl Fn(&Test) -> bool,
) -> (Option<ImportedRule>, Vec<Interval>) {
    let mut rest = rule.clone();
    let found = rest
        .conditions
        .iter_mut()
        .find(|c| !c.negated && is_list(&c.test));
    let list = found
        .and_then(|found| spans(&mut found.test))
        .map(std::mem::take);
    match list {
        Some(list) => (Some(rest), list),
        None => (None, Vec::new()),
    }
}

fn add_list(rule: &mut ImportedRule, is_list: impl Fn(&Test) -> bool, list: Vec<Interval>) {
    let found = rule
        .conditions
        .iter_mut()
        .find(|c| !c.negated && is_list(&c.test));
    if let Some(all) = found.and_then(|found| spans(&mut found.test)) {
        all.extend(list);
    }
}

fn spans(test: &mut Test) -> Option<&mut Vec<Interval>> {
    if let Test::Source(all) | Test::Destination(all) = test {
        return Some(all);
    }
    None
}

/// Applies one change to the chains.
fn apply(
    chains: &mut ImportedChains,
    rule: &iptables::Rule,
    line: LineRules,
) -> Result<(), String> {
    if rule.position == Position::Flush {
        if rule.chain.is_empty() {
            chains.values_mut().for_each(|chain| chain.rules.clear());
        } else if let Some(chain) = chains.get_mut(&rule.chain) {
            chain.rules.clear();
        }
        return Ok(());
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
            "the chain {} has {} above this line",
            rule.chain,
            words::count(count, "rule")
        )),
    };
    // A rule of the other family changes nothing.
    let is_empty = line.rules.is_empty();
    match rule.position {
        Position::DeleteAt(at) => drop(chain.rules.remove(in_chain(at, count)?)),
        _ if is_empty => {}
        Position::Append => chain.rules.extend(line.rules),
        Position::Insert(at) => {
            let at = in_chain(at, count + 1)?;
            chain.rules.splice(at..at, line.rules);
        }
        Position::Replace(at) => {
            let at = in_chain(at, count)?;
            chain.rules.splice(at..=at, line.rules);
        }
        Position::Delete | Position::Flush => {}
    }
    Ok(())
}

/// Applies a change to a rule that a number names, if nobody knows which one it is: the line's own
/// rules may be anywhere, and each rule that it may remove is no longer trusted.
fn apply_somewhere(
    chains: &mut ImportedChains,
    rule: &iptables::Rule,
    input: usize,
    line: LineRules,
    problems: &mut Problems,
) {
    let own = At {
        input,
        line: rule.line,
    };
    let what = match rule.position {
        Position::Insert(_) => "its place",
        Position::Append
        | Position::Replace(_)
        | Position::Delete
        | Position::DeleteAt(_)
        | Position::Flush => "which rule it means, so none of the chain accepts anything",
    };
    problems.insert(own, format!("nobody knows {what}: {UNSURE}"));
    let Some(chain) = chains.get_mut(&rule.chain) else {
        return;
    };
    let mut doubt = |each: &mut ImportedRule, why: &dyn Fn() -> String| {
        let test = Test::Unknown(rule.to_string());
        let negated = false;
        each.conditions.push(Condition { negated, test });
        problems.entry(each.at).or_insert_with(why);
    };
    if !matches!(rule.position, Position::Insert(_)) {
        let why = || format!("line {} may remove this rule: {UNSURE}", rule.line);
        for each in &mut chain.rules {
            doubt(each, &why);
        }
    }
    let mut rules = line.rules;
    for each in &mut rules {
        doubt(each, &String::new);
    }
    chain.rules.splice(0..0, rules);
}

/// Why a number of a rule is not trusted.
const UNSURE: &str = "a line that is not read may change the numbers of rules";

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
