//! A chain being written, and what each of its rules is for.

use std::collections::BTreeMap;

use crate::diagnostic::Place;
use crate::net::packet::Hook;
use crate::policy::reason::Reason;
use crate::ruleset::{
    Action, Base, ChainHook, ChainPolicy, FORWARD, INPUT, Match, PREROUTING, Rule, counter_name,
};

/// Priority of the prerouting chain: after connection tracking (`NF_IP_PRI_CONNTRACK`, -200),
/// before every DNAT (`NF_IP_PRI_NAT_DST`, -100).
const PREROUTING_PRIORITY: i32 = -195;

/// What each rule is for, beside the ruleset: it is not part of its equality.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(pub(super) BTreeMap<(String, usize), Origin>);

/// What one rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The reason a packet has that it decides on.
    pub reason: Reason,
    /// Where the policy says so; `None` for what is always there.
    pub place: Option<Place>,
}

impl Origins {
    /// What the rule at this position of a chain is for.
    pub fn of(&self, chain: &str, rule: usize) -> Option<&Origin> {
        self.0.get(&(chain.to_owned(), rule))
    }
}

/// A chain being written.
pub(super) struct ChainDraft {
    pub(super) name: String,
    /// What its counters are named after: the hook, or `published`.
    counts_as: &'static str,
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
    pub(super) origins: Vec<Origin>,
}

/// The name of a hook's base chain.
pub(super) fn base_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Input => INPUT,
        Hook::Forward => FORWARD,
    }
}

impl ChainDraft {
    pub(super) fn base(hook: Hook, priority: i32) -> Self {
        let name = base_name(hook);
        Self {
            base: Some(Base {
                hook: hook.into(),
                priority,
                policy: ChainPolicy::Drop,
            }),
            ..Self::regular(name, name)
        }
    }

    pub(super) fn prerouting() -> Self {
        Self {
            base: Some(Base {
                hook: ChainHook::Prerouting,
                priority: PREROUTING_PRIORITY,
                policy: ChainPolicy::Accept,
            }),
            ..Self::regular(PREROUTING, PREROUTING)
        }
    }

    pub(super) fn regular(name: impl Into<String>, counts_as: &'static str) -> Self {
        Self {
            name: name.into(),
            counts_as,
            base: None,
            rules: Vec::new(),
            origins: Vec::new(),
        }
    }

    /// Counts and accepts.
    pub(super) fn accept(&mut self, matches: Vec<Match>, reason: Reason, place: Option<&Place>) {
        let rule = Rule {
            matches,
            ..Rule::default()
        };
        self.accept_by(rule, reason, place);
    }

    /// Counts and accepts what a rule matches that has conditions beside its matches.
    pub(super) fn accept_by(&mut self, rule: Rule, reason: Reason, place: Option<&Place>) {
        self.push(
            Rule {
                counter: Some(counter_name(self.counts_as, &reason)),
                action: Some(Action::Accept),
                comment: Some(reason.sentence()),
                ..rule
            },
            reason,
            place,
        );
    }

    /// Hands over to the chain of a denial.
    pub(super) fn deny(
        &mut self,
        matches: Vec<Match>,
        reason: Reason,
        comment: String,
        place: Option<&Place>,
    ) {
        let action = Action::Goto(reason.to_string());
        self.go(matches, action, Some(comment), reason, place);
    }

    /// The same, with the reason's sentence for a comment and no place of its own.
    pub(super) fn deny_as(&mut self, matches: Vec<Match>, reason: Reason) {
        let comment = reason.sentence();
        self.deny(matches, reason, comment, None);
    }

    /// Hands over to another chain, without counting.
    pub(super) fn go(
        &mut self,
        matches: Vec<Match>,
        action: Action,
        comment: Option<String>,
        reason: Reason,
        place: Option<&Place>,
    ) {
        self.push(
            Rule {
                matches,
                action: Some(action),
                comment,
                ..Rule::default()
            },
            reason,
            place,
        );
    }

    pub(super) fn push(&mut self, rule: Rule, reason: Reason, place: Option<&Place>) {
        self.rules.push(rule);
        self.origins.push(Origin {
            reason,
            place: place.cloned(),
        });
    }
}
