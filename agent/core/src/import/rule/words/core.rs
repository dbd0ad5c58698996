//! Options of iptables itself.

use super::super::matches::Given;
use super::super::values::{WordError, addresses, interface, is_everything, number, protocol};
use super::super::{Condition, Interval, RuleContext, Test};
use super::REJECTED;
use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;

/// Options of iptables itself, as far as they were given.
#[derive(Default)]
pub(super) struct CoreOptions {
    source: Option<(bool, Vec<Interval>)>,
    destination: Option<(bool, Vec<Interval>)>,
    input: Option<(bool, Option<InterfacePattern>)>,
    output: Option<(bool, Option<InterfacePattern>)>,
    protocol: Option<(bool, Option<u8>)>,
    fragment: Option<bool>,
    counters: Option<()>,
    /// Whether `-4` or `-6` names the other family.
    pub is_of_other_family: bool,
    /// Chain of a jump, and whether it is a goto.
    pub jump: Option<(bool, String)>,
}

/// Sets an option that may be given once.
fn once<T>(slot: &mut Option<T>, word: &str, value: T) -> Result<(), WordError> {
    match slot.replace(value) {
        Some(_) => Err((format!("`{word}` is there twice"), REJECTED)),
        None => Ok(()),
    }
}

/// IPv6 extension headers. `-p` never matches them, because iptables looks behind them
/// (`is_exthdr()` in `iptables/ip6tables.c`).
const EXTENSION_HEADERS: [u8; 4] = [43, 44, 51, 60];

impl CoreOptions {
    /// Returns the protocol, negated or not.
    pub(super) fn protocol(&self) -> Option<u8> {
        self.protocol.and_then(|(_, number)| number)
    }

    /// Returns the protocol, unless negated.
    pub(super) fn only_protocol(&self) -> Option<u8> {
        self.protocol
            .filter(|(negated, _)| !negated)
            .and_then(|(_, number)| number)
    }

    /// Adds `-j` or `-g`.
    pub(super) fn target(&mut self, is_goto: bool, chain: &str) -> Result<(), WordError> {
        if chain.is_empty() {
            return Err(("the target has no name".into(), REJECTED));
        }
        once(&mut self.jump, "-j", (is_goto, chain.to_owned()))
    }

    /// Adds another option.
    pub(super) fn add(
        &mut self,
        given: &Given<'_>,
        rule: &RuleContext<'_>,
    ) -> Result<(), WordError> {
        let (word, value, negated) = (given.word, given.value(), given.negated);
        match given.key {
            "s" | "d" => {
                let spans = addresses(value, rule.family)?;
                if negated && spans.len() > 1 {
                    let why = format!("`!` cannot precede the list `{value}`");
                    return Err((why, "write one rule for each address"));
                }
                let slot = match given.key {
                    "s" => &mut self.source,
                    _ => &mut self.destination,
                };
                once(slot, word, (negated, spans))
            }
            "i" | "o" => {
                let pattern = interface(value)?;
                if negated && pattern.is_none() {
                    return Err(("`! +` matches no interface".into(), "remove the rule"));
                }
                let is_input = given.key == "i";
                check_interface(word, is_input, rule)?;
                let slot = if is_input {
                    &mut self.input
                } else {
                    &mut self.output
                };
                once(slot, word, (negated, pattern))
            }
            "p" => {
                let number = protocol(value)?;
                if negated && number.is_none() {
                    return Err(("`! all` matches no protocol".into(), REJECTED));
                }
                once(&mut self.protocol, word, (negated, number))
            }
            "f" if rule.family == Family::V4 => once(&mut self.fragment, word, negated),
            "c" => {
                let mut counts = given.values.iter().flat_map(|value| value.split(','));
                match counts.all(|count| number(count, u64::MAX).is_some()) {
                    true => once(&mut self.counters, word, ()),
                    false => Err((format!("`{value}` is not a counter"), "write two numbers")),
                }
            }
            "4" | "6" => {
                let other = if rule.family == Family::V4 { "6" } else { "4" };
                self.is_of_other_family |= given.key == other;
                Ok(())
            }
            "v" => Ok(()),
            _ => Err((
                format!("`{word}` cannot be part of a rule"),
                "it is a command or an option of iptables",
            )),
        }
    }

    /// Returns the conditions, in the order in which iptables-save prints them.
    pub(super) fn conditions(
        &mut self,
        rule: &RuleContext<'_>,
    ) -> Result<Vec<Condition>, WordError> {
        let mut found = Vec::new();
        let mut push = |negated, test| found.push(Condition { negated, test });
        let is_condition =
            |negated: bool, spans: &[Interval]| negated || !is_everything(spans, rule.family);
        if let Some((negated, spans)) = self.source.take().filter(|(n, s)| is_condition(*n, s)) {
            push(negated, Test::Source(spans));
        }
        if let Some((negated, spans)) = self.destination.take().filter(|(n, s)| is_condition(*n, s))
        {
            push(negated, Test::Destination(spans));
        }
        if let Some((negated, Some(pattern))) = self.input.take() {
            push(negated, Test::In(vec![pattern]));
        }
        if let Some((negated, Some(pattern))) = self.output.take() {
            push(negated, Test::Out(vec![pattern]));
        }
        if let Some((negated, Some(number))) = self.protocol {
            push(negated, Test::Protocol(vec![number]));
            if rule.family == Family::V6 && !negated && EXTENSION_HEADERS.contains(&number) {
                push(false, Test::Always(false));
            }
        }
        // The kernel reassembles packets before INPUT, and with connection tracking before FORWARD,
        // too. peerwall always tracks connections.
        if let Some(negated) = self.fragment {
            let is_whole = rule.tracks || rule.chain == "INPUT";
            push(
                negated,
                match is_whole {
                    true => Test::Always(false),
                    false => Test::Unknown("-f".to_owned()),
                },
            );
        }
        Ok(found)
    }
}

/// Rejects interfaces that packets of a chain do not have.
fn check_interface(word: &str, is_input: bool, rule: &RuleContext<'_>) -> Result<(), WordError> {
    let lacks = match is_input {
        true => matches!(rule.chain, "OUTPUT" | "POSTROUTING"),
        false => matches!(rule.chain, "INPUT" | "PREROUTING"),
    };
    match lacks {
        true => Err((
            format!("`{word}` cannot be used in {}", rule.chain),
            REJECTED,
        )),
        false => Ok(()),
    }
}
