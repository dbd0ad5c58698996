//! Marks of packets (`skb->mark`): one rule sets them, and another one tests them.

use std::collections::BTreeSet;

use super::values::number;
use super::{At, ImportedChains, ImportedRules, Test, Verb};

/// The bits of a mark that a rule tests: `mark & mask == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkTest {
    /// Value of the bits.
    pub value: u32,
    /// The bits.
    pub mask: u32,
}

/// The bits of a mark that are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownMark {
    value: u32,
    mask: u32,
}

/// What a rule does to a mark: the bits of `mask` become those of `value`, and the other ones that
/// are set in `value` are inverted (`mark_tg()` in `net/netfilter/xt_mark.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkChange {
    value: u32,
    mask: u32,
    /// Whether the value is known.
    is_known: bool,
}

/// What a change does to the bits of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::import) enum MarkEffect {
    /// Nothing.
    Kept,
    /// The test holds afterwards.
    Met,
    /// It may hold or not.
    Lost,
}

impl MarkTest {
    /// Parses `VALUE` or `VALUE/MASK`.
    pub(in crate::import) fn parse(text: &str) -> Option<Self> {
        let (value, mask) = value_and_mask(text)?;
        Some(Self { value, mask })
    }

    /// Returns the test for the other value, instead of a negated test of one bit.
    pub(in crate::import) fn or_opposite(self, is_negated: bool) -> (Self, bool) {
        let value = self.value ^ self.mask;
        match is_negated && self.mask.is_power_of_two() && self.value & !self.mask == 0 {
            true => (Self { value, ..self }, false),
            false => (self, is_negated),
        }
    }
}

impl KnownMark {
    /// Creates a mark of which only the bits of `mask` are known.
    pub fn of(value: u32, mask: u32) -> Self {
        Self { value, mask }
    }

    /// Returns the mark, and the bits of it that are known.
    pub fn parts(self) -> (u32, u32) {
        (self.value & self.mask, self.mask)
    }

    /// Returns the mark after a change.
    pub(crate) fn after(self, change: MarkChange) -> Self {
        let known = match change.is_known {
            true => change.mask,
            false => 0,
        };
        Self {
            value: (self.value & !change.mask) ^ change.value,
            mask: (self.mask & !change.mask) | known,
        }
    }

    #[cfg(any(test, feature = "generate"))]
    /// Returns what is known after a change that may have happened.
    pub(in crate::import) fn perhaps_after(self, change: MarkChange) -> Self {
        let after = self.after(change);
        Self {
            mask: self.mask & after.mask & !(self.value ^ after.value),
            ..self
        }
    }

    /// Reports whether a test holds; `None` if that is not known.
    pub(in crate::import) fn meets(self, test: MarkTest) -> Option<bool> {
        let is_known = self.mask & test.mask == test.mask;
        is_known.then_some(self.value & test.mask == test.value)
    }
}

impl MarkChange {
    /// An unknown mark.
    pub(in crate::import) const ANY: Self = Self {
        value: 0,
        mask: u32::MAX,
        is_known: false,
    };

    /// Sets the bits of a mask.
    pub(in crate::import) fn set(value: u32, mask: u32) -> Self {
        Self {
            value,
            mask,
            is_known: true,
        }
    }

    /// Parses the option of `MARK`; `None` if it is not known.
    pub(super) fn parse(option: &str, text: &str) -> Option<Self> {
        let (value, mask) = value_and_mask(text)?;
        Some(match option {
            "set-xmark" => Self::set(value, mask),
            "set-mark" => Self::set(value, value | mask),
            "or-mark" => Self::set(value, value),
            "and-mark" => Self::set(0, !value),
            "xor-mark" => Self::set(value, 0),
            _ => return None,
        })
    }

    /// Returns what it does to the bits of a test.
    pub(in crate::import) fn effect(self, test: MarkTest) -> MarkEffect {
        if (self.mask | self.value) & test.mask == 0 {
            return MarkEffect::Kept;
        }
        match KnownMark::default().after(self).meets(test) {
            Some(true) => MarkEffect::Met,
            Some(false) | None => MarkEffect::Lost,
        }
    }
}

fn value_and_mask(text: &str) -> Option<(u32, u32)> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    let part = |text| u32::try_from(number(text, u32::MAX.into())?).ok();
    Some((part(value)?, part(mask)?))
}

/// Keeps tests of marks of the table filter that rules of the table nat make true, if no other rule
/// changes these bits. The other ones become unknown. Returns the lines with such tests.
pub(in crate::import) fn keep_followed(
    rules: &mut ImportedRules,
    others: &[&ImportedChains],
) -> BTreeSet<At> {
    let set = changes(&rules.nat);
    let mut elsewhere = changes(&rules.filter);
    for chains in others {
        elsewhere.extend(changes(chains));
        let mut rules = chains.values().flat_map(|chain| &chain.rules);
        let unknown = rules.find(|rule| matches!(rule.target, Verb::Unknown(_)));
        elsewhere.extend(unknown.map(|_| MarkChange::ANY));
    }
    let is_followed = |test: MarkTest| {
        let mut set = set.iter();
        set.any(|change| change.effect(test) == MarkEffect::Met)
            && elsewhere
                .iter()
                .all(|change| change.effect(test) == MarkEffect::Kept)
    };
    let kept = keep_marks(&mut rules.filter, |_, test| is_followed(test));
    keep_marks(&mut rules.nat, |_, _| false);
    kept
}

fn changes(chains: &ImportedChains) -> Vec<MarkChange> {
    let rules = chains.values().flat_map(|chain| &chain.rules);
    let change = |verb: &Verb| {
        if let Verb::Mark(change, _) = verb {
            return Some(*change);
        }
        None
    };
    rules.filter_map(|rule| change(&rule.target)).collect()
}

/// Makes the other tests of marks unknown, and returns the lines with those that are kept.
pub(in crate::import) fn keep_marks(
    chains: &mut ImportedChains,
    is_kept: impl Fn(At, MarkTest) -> bool,
) -> BTreeSet<At> {
    let mut kept = BTreeSet::new();
    for rule in chains.values_mut().flat_map(|chain| &mut chain.rules) {
        for condition in &mut rule.conditions {
            let Test::Mark(test, words) = &mut condition.test else {
                continue;
            };
            if is_kept(rule.at, *test) {
                kept.insert(rule.at);
                continue;
            }
            condition.test = Test::Unknown(std::mem::take(words));
            condition.negated = false;
        }
    }
    kept
}
