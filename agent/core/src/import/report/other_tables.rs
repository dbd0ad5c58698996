//! Lines of tables other than filter.

use super::Fate;
use super::FoundLine;
use crate::import::managed;
use crate::import::proof::Proof;
use crate::import::rule::{At, Condition, ImportedRule, Verb};
use crate::policy::Policy;

/// Fate of a line of a table that a policy does not replace.
pub(super) fn other_table(
    found: &FoundLine<'_>,
    policy: &Policy,
    proof: &Proof,
    at: At,
) -> (Fate, String) {
    let Some(rule) = found.rule else {
        return (
            Fate::Nothing,
            format!("a chain of {}, which peerwall does not change", found.table),
        );
    };
    let to = rule.target.chain();
    let manager = managed::by(found.chain).or_else(|| to.and_then(managed::by));
    let of_docker = rule.target == Verb::Masquerade && is_dockers(rule);
    let name = manager
        .map(|manager| manager.name)
        .or(of_docker.then_some("Docker"));
    if let Some(name) = name {
        return (
            Fate::Beside,
            format!("{name} manages it, and restores it automatically"),
        );
    }
    let opened = proof.published.iter().find(|(line, _)| *line == at);
    let allow = opened.and_then(|(_, port)| {
        let allow = policy.allows.iter().find(|allow| {
            let mut ports = allow.ports.iter().flatten();
            ports.any(|spec| {
                spec.protocols.contains(&port.protocol)
                    && spec.range.is_some_and(|range| range.contains(port.dialled))
            })
        })?;
        Some(format!("; its clients are in [[allow]] {}", allow.name))
    });
    (
        Fate::Left,
        format!(
            "peerwall does not rewrite or mark packets: keep the table {} \
             in a separate file, loaded by iptables-restore{}",
            found.table,
            allow.unwrap_or_default()
        ),
    )
}

/// Whether a rule is one of Docker's: it masquerades networks on the way out, and containers that
/// connect to themselves.
fn is_dockers(rule: &ImportedRule) -> bool {
    let conditions = || rule.conditions.iter();
    let mut outs = conditions()
        .filter(|c| c.negated)
        .filter_map(Condition::out);
    let bridge = outs.any(|pattern| {
        let name = pattern.example();
        name.starts_with("docker") || name.starts_with("br-")
    });
    let from = conditions().find_map(Condition::sources);
    let to = conditions().find_map(Condition::destinations);
    bridge || (from.is_some() && from == to)
}
