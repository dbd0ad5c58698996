//! Lines that deny.

use super::accepting::is_core;
use super::finding::Finding;
use crate::import::managed;
use crate::import::proof::{self, LinePackets};
use crate::import::rule::{ImportedRule, Test, Verb};
use crate::net::packet::CtState;
use crate::policy::reason::Reason;

/// Judges a line that drops or rejects.
pub(super) fn denying<'f>(
    rule: &'f ImportedRule,
    packets: &LinePackets,
    manager: Option<managed::Manager>,
) -> Finding<'f> {
    if let Some(manager) = manager.filter(|m| m.keeps_drops) {
        return Finding::ManagedDrop(manager.name);
    }
    if let Verb::Unknown(name) = &rule.target {
        return Finding::UnknownTarget(name);
    }
    if let Some(rate) = rule.rates().next() {
        return Finding::DropsByRate(rate);
    }
    let opened: Vec<String> = packets
        .opened
        .iter()
        .filter(|reason| !is_core(reason))
        .map(proof::entry)
        .collect();
    let is_trusted = |reason: &Reason| {
        is_core(reason) || matches!(reason, Reason::Peers | Reason::Overlay(_) | Reason::Trusted)
    };
    if drops_only_invalid(rule) && !opened.is_empty() && packets.opened.iter().all(is_trusted) {
        return Finding::DropsInvalidExcept(opened.join(", "));
    }
    match (opened.is_empty(), packets.opened.is_empty(), packets.denied) {
        (true, true, true) if drops_invalid(rule) => Finding::DropsInvalid,
        (true, true, true) => Finding::DropsRest,
        (true, false, _) => Finding::DropsRestExcept(core_words(packets)),
        (false, _, _) => Finding::DropsAllowed(opened.join(", ")),
        (true, true, false) if strange(rule) => Finding::DropsStrange,
        (true, true, false) if packets.is_behind => Finding::NeverReached,
        (true, true, false) => Finding::MatchesNone,
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

/// Reports whether a rule is for packets without a connection, and no others.
fn drops_only_invalid(rule: &ImportedRule) -> bool {
    rule.conditions.iter().any(|c| {
        let Test::State { states, dnat } = &c.test else {
            return false;
        };
        !c.negated && !dnat && states[..] == [CtState::Invalid]
    })
}

/// Reports whether a rule matches fragments, or TCP flags that no connection has. Connection
/// tracking handles both.
fn strange(rule: &ImportedRule) -> bool {
    rule.conditions
        .iter()
        .any(|c| matches!(c.test, Test::TcpFlags(..) | Test::Always(false)))
}
