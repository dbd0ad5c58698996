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
                "{} manages it; a drop beside peerwall still drops",
                manager.name
            ),
        );
    }
    if let Verb::Unknown(name) = &rule.target {
        return (
            Fate::Left,
            format!(
                "peerwall does not know {name}; its packets are dropped, unless another line accepts them"
            ),
        );
    }
    if let Some(rate) = rule.rates().next() {
        return (
            Fate::Left,
            format!(
                "a policy has no rates ({rate}): limit it in the service, or keep the line in a \
                 separate rules file; a drop in another table still drops"
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
        (true, true, true) if drops_invalid(rule) => (
            Fate::Core,
            "packets without a known connection are dropped".into(),
        ),
        (true, true, true) => (Fate::Core, "the policy drops everything else".into()),
        (true, false, _) => (
            Fate::Core,
            format!(
                "the policy drops everything else; the safe core accepts {}",
                core_words(packets)
            ),
        ),
        (false, _, _) => (
            Fate::Left,
            format!(
                "a policy has no rule that drops, and {} \
                 accepts some of it: keep the line in a separate rules file; \
                 a drop in another table still drops",
                opened.join(", ")
            ),
        ),
        (true, true, false) => match strange(rule) {
            true => (
                Fate::Core,
                "such packets belong to no connection, and are dropped as invalid".into(),
            ),
            false => (
                Fate::Nothing,
                "never reached: earlier lines already decide these packets".into(),
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

/// Whether a rule matches TCP flags that no connection has, or fragments: connection tracking
/// handles both.
fn strange(rule: &ImportedRule) -> bool {
    rule.conditions
        .iter()
        .any(|c| matches!(c.test, Test::TcpFlags(..) | Test::Always(false)))
}
