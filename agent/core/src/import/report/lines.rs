//! Judges every line.

use super::FoundLine;
use super::accepting::{accepting, is_for_some, never, why_not};
use super::denying::denying;
use super::finding::{ACCEPT_POLICY, Finding};
use super::other_tables::other_table;
use super::{Fate, Line};
use crate::import::draft::Inexpressible;
use crate::import::proof::{LinePackets, Proof};
use crate::import::rule::{self, At, ImportedChains, ImportedRule, Verb};
use crate::import::{ParsedFiles, managed};
use crate::iptables::is_our_chain;
use crate::policy::Policy;

/// Returns the lines of all files with their fates and explanations.
pub(in crate::import) fn lines(
    parsed: &ParsedFiles,
    policy: &Policy,
    proof: &Proof,
    inexpressible: &[Inexpressible],
) -> Vec<Line> {
    let mut out = Vec::new();
    for (index, file) in parsed.files.iter().enumerate() {
        for (number, text) in file.text.lines().enumerate() {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let at = At {
                input: index,
                line: number + 1,
            };
            let (fate, words) = fate(parsed, policy, proof, inexpressible, at, text);
            out.push(Line {
                file: file.name.clone(),
                line: at.line,
                text: text.to_owned(),
                fate,
                words,
            });
        }
    }
    out
}

fn fate(
    parsed: &ParsedFiles,
    policy: &Policy,
    proof: &Proof,
    inexpressible: &[Inexpressible],
    at: At,
    text: &str,
) -> (Fate, String) {
    if let Some(why) = parsed.problems.get(&at) {
        return Finding::Unreadable(why).verdict();
    }
    if text.starts_with('#') {
        return Finding::Comment.verdict();
    }
    if text.starts_with('*') || text == "COMMIT" {
        return Finding::TableEdge.verdict();
    }
    let Some(found) = find(parsed, at) else {
        return match parsed.is_set_line(at.input) {
            true => Finding::Set.verdict(),
            false => Finding::NoRules.verdict(),
        };
    };
    if is_our_chain(found.chain) {
        return Finding::Peerwall.verdict();
    }
    if found.table != "filter" {
        return other_table(&found, policy, proof, at).verdict();
    }
    match found.rule {
        None => chain(parsed, &found, policy, proof, at).verdict(),
        Some(rule) => filter_rule(parsed, &found, rule, policy, proof, inexpressible).verdict(),
    }
}

fn find(parsed: &ParsedFiles, at: At) -> Option<FoundLine<'_>> {
    for (input, name, table) in &parsed.tables {
        if *input != at.input {
            continue;
        }
        for (chain, content) in table {
            let rule = content.rules.iter().find(|rule| rule.at == at);
            if rule.is_some() || content.at == Some(at) {
                return Some(FoundLine {
                    table: name.clone(),
                    chain,
                    rule,
                });
            }
        }
    }
    None
}

/// Judges a line like `:INPUT DROP [0:0]`.
fn chain(
    parsed: &ParsedFiles,
    found: &FoundLine<'_>,
    policy: &Policy,
    proof: &Proof,
    at: At,
) -> Finding<'static> {
    let accepts = parsed.chain(at).and_then(|chain| chain.accepts);
    match (found.chain, accepts) {
        (_, None) => Finding::UserChain,
        ("OUTPUT", Some(true)) => Finding::OwnTraffic,
        ("OUTPUT", Some(false)) => Finding::OwnTrafficFiltered,
        (_, Some(false)) => Finding::DropsRest,
        (_, Some(true)) => {
            let packets = proof.fates.get(&at).cloned().unwrap_or_default();
            accepting(policy, &packets, false, false, || ACCEPT_POLICY.to_owned())
        }
    }
}

fn filter_rule<'f>(
    parsed: &ParsedFiles,
    found: &FoundLine<'f>,
    rule: &'f ImportedRule,
    policy: &Policy,
    proof: &Proof,
    inexpressible: &[Inexpressible],
) -> Finding<'f> {
    let filter = parsed.filter(rule.at);
    let judged = filter.is_some_and(|chains| {
        reaches(chains, "INPUT", found.chain) || reaches(chains, "FORWARD", found.chain)
    });
    let manager = managed::by(found.chain);
    if !judged {
        let output = filter.is_some_and(|chains| reaches(chains, "OUTPUT", found.chain));
        return match (&rule.target, output, manager) {
            (_, false, _) => Finding::NoJump(found.chain),
            (Verb::Drop | Verb::Reject | Verb::Unknown(_), true, Some(manager)) => {
                Finding::Managed(manager.name)
            }
            (Verb::Drop | Verb::Reject | Verb::Unknown(_), true, None) => {
                Finding::OwnTrafficFiltered
            }
            (_, true, _) => Finding::OwnTraffic,
        };
    }
    if rule.unknown().next().is_some() {
        return unknown(rule, manager);
    }
    let packets = proof.fates.get(&rule.at).cloned().unwrap_or_default();
    match &rule.target {
        Verb::Continue(what) => continuing(what, manager),
        Verb::Dnat(..) | Verb::Masquerade => Finding::NatTarget,
        Verb::Return => Finding::Return,
        Verb::Jump(to) | Verb::Goto(to) => Finding::Jump(to),
        Verb::Accept => accepted(rule, policy, &packets, manager, inexpressible),
        Verb::Drop | Verb::Reject | Verb::Unknown(_) => denying(rule, &packets, manager),
    }
}

fn accepted(
    rule: &ImportedRule,
    policy: &Policy,
    packets: &LinePackets,
    manager: Option<managed::Manager>,
    inexpressible: &[Inexpressible],
) -> Finding<'static> {
    let mut conditions = rule.conditions.iter();
    let is_icmp = conditions.any(|c| matches!(c.protocol(), Some(1 | 58)));
    let finding = accepting(policy, packets, is_icmp, is_for_some(rule), || {
        why_not(rule, inexpressible)
    });
    let (fate, words) = finding.verdict();
    if let Some(manager) = manager.filter(|_| !fate.is_whole()) {
        return Finding::ManagedAccept(manager.name);
    }
    if fate == Fate::Nothing && packets.kept.is_empty() {
        let is_inexpressible = inexpressible.iter().any(|each| each.at == rule.at);
        if is_inexpressible || never(rule) {
            return Finding::NotConverted(why_not(rule, inexpressible));
        }
    }
    let rates: Vec<&str> = rule.rates().collect();
    if !rates.is_empty() && fate.is_whole() && fate != Fate::Nothing {
        return Finding::WithoutRates(words, rates.join(", "));
    }
    finding
}

fn unknown(rule: &ImportedRule, manager: Option<managed::Manager>) -> Finding<'static> {
    if let Some(manager) = manager {
        return Finding::Restored(manager.name);
    }
    let words: Vec<&str> = rule.unknown().collect();
    let words = words.join(" ");
    match rule.target {
        Verb::Accept => Finding::UnknownAccept(words),
        Verb::Drop | Verb::Reject | Verb::Unknown(_) => Finding::UnknownDrop(words),
        Verb::Continue(_) => Finding::UnknownContinue,
        Verb::Return | Verb::Jump(_) | Verb::Goto(_) | Verb::Dnat(..) | Verb::Masquerade => {
            Finding::UnknownJump(words)
        }
    }
}

fn continuing(what: &str, manager: Option<managed::Manager>) -> Finding<'_> {
    match (what.split(' ').next().unwrap_or_default(), manager) {
        ("LOG" | "NFLOG" | "ULOG" | "AUDIT", _) => Finding::Logs,
        ("count", _) => Finding::Counts,
        (_, Some(manager)) => Finding::Managed(manager.name),
        (name, None) => Finding::Changes(name),
    }
}

fn reaches(chains: &ImportedChains, from: &str, to: &str) -> bool {
    rule::reached(chains, from).contains(&to)
}

impl ParsedFiles {
    fn chain(&self, at: At) -> Option<&rule::ImportedChain> {
        let tables = self
            .tables
            .iter()
            .filter(|(input, _, _)| *input == at.input);
        tables
            .flat_map(|(_, _, chains)| chains.values())
            .find(|chain| chain.at == Some(at))
    }

    fn filter(&self, at: At) -> Option<&ImportedChains> {
        let mut tables = self.tables.iter();
        tables
            .find(|(input, name, _)| *input == at.input && name == "filter")
            .map(|(_, _, chains)| chains)
    }
}
