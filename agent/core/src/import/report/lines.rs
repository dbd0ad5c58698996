//! The fate of every line.

use super::FoundLine;
use super::accepting::{accepting, is_for_some, never, why_not};
use super::denying::denying;
use super::other_tables::other_table;
use super::{Fate, Line};
use crate::import::draft::Inexpressible;
use crate::import::proof::Proof;
use crate::import::rule::{self, At, ImportedChains, ImportedRule, Test, Verb};
use crate::import::{ParsedFiles, managed};
use crate::iptables::is_our_chain;
use crate::policy::Policy;

/// Accounts for the lines of all files.
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
    if text.starts_with('#') {
        return (Fate::Nothing, "a comment".into());
    }
    if text.starts_with('*') || text == "COMMIT" {
        return (Fate::Nothing, "table start or end".into());
    }
    let Some(found) = find(parsed, at) else {
        return match parsed.is_set_line(at.input) {
            true => (
                Fate::Taken,
                "a set that rules match; its addresses are in the policy where they are accepted"
                    .into(),
            ),
            false => (Fate::Nothing, "no rules".into()),
        };
    };
    if is_our_chain(found.chain) {
        return (Fate::Nothing, "peerwall's own".into());
    }
    if found.table != "filter" {
        return other_table(&found, policy, proof, at);
    }
    match found.rule {
        None => chain(parsed, &found, policy, proof, at),
        Some(rule) => filter_rule(parsed, &found, rule, policy, proof, inexpressible),
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

/// Fate of a line like `:INPUT DROP [0:0]`.
fn chain(
    parsed: &ParsedFiles,
    found: &FoundLine<'_>,
    policy: &Policy,
    proof: &Proof,
    at: At,
) -> (Fate, String) {
    let accepts = parsed.chain(at).and_then(|chain| chain.accepts);
    match (found.chain, accepts) {
        (_, None) => (Fate::Nothing, "a user-defined chain".into()),
        ("OUTPUT", Some(true)) => (
            Fate::Core,
            "peerwall does not filter this host's own traffic".into(),
        ),
        ("OUTPUT", Some(false)) => (Fate::Left, OUTPUT.into()),
        (_, Some(false)) => (Fate::Core, "the policy drops everything else".into()),
        (_, Some(true)) => {
            let packets = proof.fates.get(&at).cloned().unwrap_or_default();
            accepting(policy, &packets, false, false, || {
                "the policy drops everything else; only peers, overlays and trusted interfaces may \
                 send through this host"
                    .into()
            })
        }
    }
}

const OUTPUT: &str = "peerwall does not filter this host's own traffic: keep it in a separate rules \
    file, loaded by iptables-restore";

fn filter_rule(
    parsed: &ParsedFiles,
    found: &FoundLine<'_>,
    rule: &ImportedRule,
    policy: &Policy,
    proof: &Proof,
    inexpressible: &[Inexpressible],
) -> (Fate, String) {
    let filter = parsed.filter(rule.at);
    let judged = filter.is_some_and(|chains| {
        reaches(chains, "INPUT", found.chain) || reaches(chains, "FORWARD", found.chain)
    });
    if !judged {
        let output = filter.is_some_and(|chains| reaches(chains, "OUTPUT", found.chain));
        return match (&rule.target, output) {
            (_, false) => (
                Fate::Nothing,
                format!("no rule jumps to the chain {}", found.chain),
            ),
            (Verb::Drop | Verb::Reject | Verb::Unknown(_), true) => {
                match managed::by(found.chain) {
                    Some(manager) => (Fate::Beside, format!("{} keeps it", manager.name)),
                    None => (Fate::Left, OUTPUT.into()),
                }
            }
            (_, true) => (
                Fate::Core,
                "peerwall does not filter this host's own traffic".into(),
            ),
        };
    }
    let manager = managed::by(found.chain);
    if rule.unknown().next().is_some() {
        return unknown(rule, manager);
    }
    let packets = proof.fates.get(&rule.at).cloned().unwrap_or_default();
    match &rule.target {
        Verb::Continue(what) => continuing(what, manager),
        Verb::Dnat(..) | Verb::Masquerade => (
            Fate::Left,
            "the filter table does not support this target".into(),
        ),
        Verb::Return => (
            Fate::Core,
            "packets that skip the rest of its chain are accepted by the policy".into(),
        ),
        Verb::Jump(to) | Verb::Goto(to) => {
            (Fate::Nothing, format!("jumps to the chain {to}; see there"))
        }
        Verb::Accept => {
            let is_icmp = rule
                .conditions
                .iter()
                .any(|c| matches!(c.test, Test::Protocol(1 | 58)));
            let (fate, mut words) = accepting(policy, &packets, is_icmp, is_for_some(rule), || {
                why_not(rule, inexpressible)
            });
            if let Some(manager) = manager.filter(|_| !fate.is_whole()) {
                return (
                    Fate::Beside,
                    format!(
                        "{} manages it; packets that it accepts beyond the policy are closed",
                        manager.name
                    ),
                );
            }
            if fate == Fate::Nothing && packets.kept.is_empty() {
                if let Some(why) = inexpressible.iter().find(|u| u.at == rule.at) {
                    return (Fate::Left, why.why.clone());
                }
                if never(rule) {
                    return (Fate::Left, why_not(rule, inexpressible));
                }
            }
            let rates: Vec<&str> = rule.rates().collect();
            if !rates.is_empty() && fate.is_whole() && fate != Fate::Nothing {
                words.push_str(&format!(
                    "; without its rate ({}), which the policy cannot express: limit it in the \
                     service, or keep a rule that drops above the rate",
                    rates.join(", ")
                ));
                return (Fate::Partly, words);
            }
            (fate, words)
        }
        Verb::Drop | Verb::Reject | Verb::Unknown(_) => denying(rule, &packets, manager),
    }
}

fn unknown(rule: &ImportedRule, manager: Option<managed::Manager>) -> (Fate, String) {
    let words: Vec<&str> = rule.unknown().collect();
    let words = words.join(" ");
    if let Some(manager) = manager {
        return (
            Fate::Beside,
            format!("{} manages it, and restores it automatically", manager.name),
        );
    }
    match rule.target {
        Verb::Accept => (
            Fate::Left,
            format!(
                "`{words}` cannot be expressed in a policy, so this line accepts nothing; \
                 if the rest of the line is enough, write an allow for it"
            ),
        ),
        Verb::Drop | Verb::Reject | Verb::Unknown(_) => (
            Fate::Left,
            format!(
                "`{words}` cannot be expressed in a policy; \
                 a drop in another table still drops: keep it in a separate rules file"
            ),
        ),
        Verb::Continue(_) => (Fate::Nothing, "decides nothing".into()),
        Verb::Return | Verb::Jump(_) | Verb::Goto(_) | Verb::Dnat(..) | Verb::Masquerade => (
            Fate::Left,
            format!(
                "a policy cannot express `{words}`, so only packets that are accepted with and \
                 without it are converted"
            ),
        ),
    }
}

fn continuing(what: &str, manager: Option<managed::Manager>) -> (Fate, String) {
    match (what.split(' ').next().unwrap_or_default(), manager) {
        ("LOG" | "NFLOG" | "ULOG" | "AUDIT", _) => (
            Fate::Core,
            "peerwall logs denied packets to NFLOG with the reason; see [log]".into(),
        ),
        ("count", _) => (Fate::Nothing, "only counts".into()),
        (_, Some(manager)) => (Fate::Beside, format!("{} keeps it", manager.name)),
        (name, None) => (
            Fate::Left,
            format!(
                "peerwall does not mark or change packets: keep {name} in a separate rules file"
            ),
        ),
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
