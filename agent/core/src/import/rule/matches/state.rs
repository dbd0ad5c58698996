//! Matches of connections.

use super::super::names;
use super::super::values::{WordError, address, is_everything, port_range, protocol};
use super::super::{Condition, RuleContext, Test};
use super::{Given, Used, condition};
use crate::net::packet::CtState;

type Meaning = Result<Vec<Condition>, WordError>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    State(CtState),
    Snat,
    Dnat,
}

/// Names of states, in the order in which iptables compares their beginnings
/// (`conntrack_ps_state()` in `extensions/libxt_conntrack.c`).
const STATES: &[(&str, Name)] = &[
    ("INVALID", Name::State(CtState::Invalid)),
    ("NEW", Name::State(CtState::New)),
    ("ESTABLISHED", Name::State(CtState::Established)),
    ("RELATED", Name::State(CtState::Related)),
    ("UNTRACKED", Name::State(CtState::Untracked)),
    ("SNAT", Name::Snat),
    ("DNAT", Name::Dnat),
];

/// Parses the list of `--state` (without SNAT and DNAT) or `--ctstate`.
fn states(used: &Used<'_>, given: &Given<'_>) -> Result<Condition, WordError> {
    let mut found = Vec::new();
    for name in given.value().split(',') {
        let state = names::first(STATES, name);
        let state = state.filter(|s| matches!(s, Name::State(_)) || given.key == "ctstate");
        found.push(state.ok_or_else(|| {
            (
                format!("`{name}` is not a connection state"),
                "the states are NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED, DNAT and SNAT",
            )
        })?);
    }
    let mut states = Vec::new();
    for (_, name) in STATES {
        if let Name::State(state) = name
            && found.contains(name)
        {
            states.push(*state);
        }
    }
    let has = |state| states.contains(&state);
    // A connection with a translated source is in one of these states.
    let covers_snat = has(CtState::New) && has(CtState::Established) && has(CtState::Related);
    if found.contains(&Name::Snat) && !covers_snat {
        return Ok(used.unknown());
    }
    let dnat = found.contains(&Name::Dnat);
    Ok(condition(given, Test::State { states, dnat }))
}

/// `state`
pub(super) fn state(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    match used.given.first() {
        Some(given) => Ok(vec![states(used, given)?]),
        None => Err(used.lacks("--state")),
    }
}

/// `conntrack`. The model of a packet has the state, the protocol and the dialled address.
pub(super) fn conntrack(used: &Used<'_>, rule: &RuleContext<'_>) -> Meaning {
    let mut found = Vec::new();
    let mut is_known = true;
    for given in &used.given {
        match given.key {
            "ctstate" => {
                let read = states(used, given)?;
                is_known &= !matches!(read.test, Test::Unknown(_));
                found.push(read);
            }
            "ctproto" => match protocol(given.value())? {
                Some(number) => found.push(condition(given, Test::Protocol(vec![number]))),
                None => is_known = false,
            },
            "ctorigdst" => {
                let span = vec![address(given.value(), rule.family)?];
                match is_everything(&span, rule.family) {
                    true => is_known = false,
                    false => found.push(condition(given, Test::DialledAddress(span))),
                }
            }
            "ctorigdstport" => {
                let (first, last) = port_range(given.value(), None)?;
                found.push(condition(given, Test::Dialled(first, last)));
            }
            _ => is_known = false,
        }
    }
    match (used.given.is_empty(), is_known) {
        (true, _) => Err(used.lacks("an option")),
        (false, true) => Ok(found),
        (false, false) => Ok(vec![used.unknown()]),
    }
}
