//! Lines of tables other than filter.

use super::finding::Finding;
use super::places::FoundLine;
use crate::import::managed;
use crate::import::proof::{Difference, Proof};
use crate::import::rule::{At, Condition, ImportedRule, Verb};
use crate::net::addr::Family;
use crate::policy::{Allow, Policy, Source};

/// Judges a line in a table that a policy does not replace.
pub(super) fn other_table<'f>(
    found: &FoundLine<'f>,
    family: Option<Family>,
    policy: &'f Policy,
    proof: &Proof,
    at: At,
) -> Finding<'f> {
    let Some(rule) = found.rule else {
        return match found.accepts {
            Some(false) => Finding::NotConverted(format!(
                "peerwall has no policy DROP in table {}: keep the table in a separate \
                 rules file",
                found.table
            )),
            Some(true) | None => Finding::OtherChain(found.table),
        };
    };
    let to = rule.target.chain();
    let manager = managed::by(found.chain).or_else(|| to.and_then(managed::by));
    let of_docker = rule.target == Verb::Masquerade && is_dockers(rule);
    let name = manager
        .map(|manager| manager.name)
        .or(of_docker.then_some("Docker"));
    if let Some(name) = name {
        return Finding::Restored(name);
    }
    if matches!(rule.target, Verb::Drop | Verb::Reject) {
        return Finding::OtherDrop(found.table);
    }
    let opened = proof.published.iter().find(|(line, _)| *line == at);
    // A port of which a part is closed is not open.
    let differs = |difference: &Difference| difference.lines.contains(&at);
    let opened = opened.filter(|_| !proof.differences.iter().any(differs));
    let allow = opened.and_then(|(_, port)| {
        let is_other = |source: &Source| match (source, family) {
            (Source::Net(net), Some(family)) => Family::of(net.addr()) != family,
            _ => false,
        };
        let of_family = |allow: &&Allow| !allow.from.iter().all(is_other);
        policy.allows.iter().filter(of_family).find(|allow| {
            let mut ports = allow.ports.iter().flatten();
            ports.any(|spec| {
                spec.protocols.contains(&port.protocol)
                    && spec
                        .range
                        .is_some_and(|range| range.contains(port.dialled.0))
            })
        })
    });
    Finding::OtherTable(found.table, allow.map(|allow| allow.name.as_str()))
}

/// Reports whether Docker created a rule. Docker masquerades its networks on other interfaces, and
/// containers that connect to themselves.
fn is_dockers(rule: &ImportedRule) -> bool {
    let conditions = || rule.conditions.iter();
    let mut outs = conditions()
        .filter(|c| c.negated)
        .filter_map(Condition::outs)
        .flatten();
    let bridge = outs.any(|pattern| {
        let name = pattern.example();
        name.starts_with("docker") || name.starts_with("br-")
    });
    let from = conditions().find_map(Condition::sources);
    let to = conditions().find_map(Condition::destinations);
    bridge || (from.is_some() && from == to)
}
