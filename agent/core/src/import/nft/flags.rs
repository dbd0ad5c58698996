//! Matches on bits: connection tracking state and status, TCP flags.

use serde_json::Value;

use super::key::{Key, Strange};
use super::relation::{Look, Phase, any};
use super::symbols::{DNAT, INVALID, STATES, UNTRACKED};
use super::text::expression;
use super::values::{bare, bits};
use crate::import::rule::{Condition, Test};
use crate::net::packet::CtState;

/// A comparison of masked bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits {
    key: Key,
    /// Masks and values; one of them must fit.
    fits: Vec<(u64, u64)>,
    negated: bool,
}

/// Reports whether the values of a field are sets of bits.
pub(super) fn is_of_bits(key: Key) -> bool {
    matches!(key, Key::State | Key::Status | Key::TcpFlags)
}

impl Bits {
    /// Parses a comparison of all bits, or with `in` and `!`, of any.
    pub(super) fn compared(key: Key, op: &str, right: &Value) -> Result<Self, Strange> {
        let value = bits(key, right)?;
        let (mask, value, negated) = match op {
            "in" if value.is_power_of_two() => (value, value, false),
            "in" => (value, 0, true),
            "!" => (value, 0, false),
            "==" => (all(key), value, false),
            "!=" => (all(key), value, true),
            _ => return Err(Strange(format!("{key:?} {op} {}", expression(right)))),
        };
        Ok(Self {
            key,
            fits: vec![(mask, value)],
            negated,
        })
    }

    /// Parses a comparison like `tcp flags & (syn | ack) == syn`.
    pub(super) fn masked(key: Key, op: &str, mask: &Value, right: &Value) -> Result<Self, Strange> {
        let negated = match op {
            "==" => false,
            "!=" => true,
            _ => return Err(Strange(format!("{key:?} & {} {op}", expression(mask)))),
        };
        if !is_of_bits(key) {
            return Err(Strange(format!("{key:?} & {}", expression(mask))));
        }
        Ok(Self {
            key,
            fits: vec![(bits(key, mask)?, bits(key, right)?)],
            negated,
        })
    }

    /// Parses the elements of a set.
    pub(super) fn one_of(key: Key, elements: &[&Value]) -> Result<Self, Strange> {
        let values = elements.iter().map(|element| bits(key, bare(element)));
        let fits = values.map(|value| Ok((all(key), value?)));
        Ok(Self {
            key,
            fits: fits.collect::<Result<_, Strange>>()?,
            negated: false,
        })
    }

    fn holds(&self, value: u64) -> bool {
        self.fits.iter().any(|(mask, want)| value & mask == *want) != self.negated
    }

    /// Builds the condition.
    pub(super) fn condition(&self, look: &Look<'_, '_>) -> Result<Condition, Strange> {
        if self.key == Key::State {
            return Ok(Condition::plain(self.states(look)));
        }
        match self.key == Key::Status {
            true => self.status(look.phase),
            false => self.tcp_flags(),
        }
    }

    fn states(&self, look: &Look<'_, '_>) -> Test {
        let fits = STATES.iter().filter(|(.., bit)| self.holds(*bit));
        // A packet without a connection is invalid for `nft_ct_get_eval()`, unless it is exempt.
        let is_early = look.phase <= Phase::BeforeConntrack;
        let (invalid, untracked) = (self.holds(INVALID), self.holds(UNTRACKED));
        match look.phase {
            _ if is_early && look.exempts && invalid != untracked => {
                let others = STATES.iter().map(|(_, state, _)| *state);
                let is_other = |state: &CtState| *state != CtState::Untracked;
                let states = match untracked {
                    true => vec![CtState::Untracked],
                    false => others.filter(is_other).collect(),
                };
                Test::State {
                    states,
                    dnat: false,
                }
            }
            Phase::BeforeDefrag | Phase::BeforeConntrack => Test::Always(invalid),
            Phase::BeforeDnat | Phase::BeforeRouting | Phase::Routed => Test::State {
                states: fits.map(|(_, state, _)| *state).collect(),
                dnat: false,
            },
        }
    }

    /// Only the bit of DNAT is known of a packet.
    fn status(&self, phase: Phase) -> Result<Condition, Strange> {
        let wanted = match self.fits[..] {
            [(DNAT, 0 | DNAT)] if phase >= Phase::BeforeRouting => self.holds(DNAT),
            _ => return Err(Strange("ct status".to_owned())),
        };
        Ok(Condition {
            negated: !wanted,
            test: Test::State {
                states: Vec::new(),
                dnat: true,
            },
        })
    }

    fn tcp_flags(&self) -> Result<Condition, Strange> {
        let test = |(mask, value): &(u64, u64)| {
            let (mask, value) = (u8::try_from(*mask), u8::try_from(*value));
            let pair = mask.ok().zip(value.ok());
            let test = pair.map(|(mask, value)| Test::TcpFlags(mask, value));
            test.map(Condition::plain)
                .ok_or_else(|| Strange("tcp flags".to_owned()))
        };
        let tests = self.fits.iter().map(test).collect::<Result<_, _>>()?;
        let found = any(tests);
        Ok(match self.negated {
            true => found.opposite(),
            false => found,
        })
    }
}

/// Returns the mask of all bits of a field.
fn all(key: Key) -> u64 {
    match key == Key::TcpFlags {
        true => 0xff,
        false => u64::MAX,
    }
}
