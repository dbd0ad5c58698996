//! Lines that deny.

use super::Fate;
use super::accepting::is_core;
use crate::import::managed;
use crate::import::proof::{self, LinePackets};
use crate::import::rule::{ImportedRule, Test, Verb};
use crate::net::packet::CtState;
use crate::policy::reason::Reason;

/// Fate of a line that drops or rejects.
pub(super) fn denying(
    rule: &ImportedRule,
    packets: &LinePackets,
    manager: Option<managed::Manager>,
) -> (Fate, String) {
    if let Some(manager) = manager.filter(|m| m.keeps_drops) {
        return (
            Fate::Beside,
            format!(
                "{} keeps it; a drop beside peerwall still drops",
                manager.name
            ),
        );
    }
    if let Verb::Unknown(name) = &rule.target {
        return (
            Fate::Left,
            format!(
                "peerwall does not know {name}; what it got is dropped, unless another line accepts it"
            ),
        );
    }
    if let Some(rate) = rule.rates().next() {
        return (
            Fate::Left,
            format!(
                "a policy has no rates ({rate}): limit it in the service, or keep the line in a rules file of its own; a drop in another table still drops"
            ),
        );
    }
    let opened: Vec<String> = packets
        .opened
        .iter()
        .filter(|reason| !is_core(reason))
        .map(proof::entry)
        .collect();
    match (opened.is_empty(), packets.opened.is_empty(), packets.denied) {
        (true, true, true) if drops_invalid(rule) => {
            (Fate::Core, "packets of no connection are dropped".into())
        }
        (true, true, true) => (Fate::Core, "what no entry allows is dropped".into()),
        (true, false, _) => (
            Fate::Core,
            format!(
                "what no entry allows is dropped; the safe core accepts {}",
                core_words(packets)
            ),
        ),
        (false, _, _) => (
            Fate::Left,
            format!(
                "a policy has no rule that drops, and {} accepts some of it: keep the line in a rules file of its own; a drop in another table still drops",
                opened.join(", ")
            ),
        ),
        (true, true, false) => match strange(rule) {
            true => (
                Fate::Core,
                "such packets are of no connection, and dropped as invalid".into(),
            ),
            false => (
                Fate::Nothing,
                "decides nothing: lines above it do, or no packet is like that".into(),
            ),
        },
    }
}

fn core_words(packets: &LinePackets) -> String {
    let words: Vec<String> = packets.opened.iter().map(Reason::sentence).collect();
    words.join(", ")
}

fn drops_invalid(rule: &ImportedRule) -> bool {
    rule.conditions.iter().any(|c| {
        matches!(&c.test, Test::State { states, .. } if !c.negated && states.contains(&CtState::Invalid))
    })
}

/// Whether a rule matches TCP flags that no connection has, or fragments: connection tracking handles both.
fn strange(rule: &ImportedRule) -> bool {
    rule.conditions
        .iter()
        .any(|c| matches!(c.test, Test::TcpFlags(..) | Test::Always(false)))
}
