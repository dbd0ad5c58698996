//! A chain under construction, and the origin of each of its rules.

use std::collections::BTreeMap;

use crate::diagnostic::Place;
use crate::net::packet::Hook;
use crate::policy::reason::Reason;
use crate::ruleset::{
    Action, Base, ChainHook, ChainPolicy, FORWARD, INPUT, Match, PREROUTING, Rule, counter_name,
};

/// Priority of the prerouting chain: after connection tracking (`NF_IP_PRI_CONNTRACK`, -200) and
/// before DNAT (`NF_IP_PRI_NAT_DST`, -100).
const PREROUTING_PRIORITY: i32 = -195;

/// Origin of each rule, by chain. It is kept apart from the ruleset, whose equality it does not
/// affect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(pub(super) BTreeMap<String, Vec<Origin>>);

/// Reason and policy location of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Reason for the verdict of matching packets.
    pub reason: Reason,
    /// Location in the policy; `None` for a rule that every ruleset has.
    pub place: Option<Place>,
}

impl Origins {
    /// Returns the origin of the rule at a position of a chain.
    pub fn of(&self, chain: &str, rule: usize) -> Option<&Origin> {
        self.0.get(chain)?.get(rule)
    }
}

/// A chain under construction.
pub(super) struct ChainDraft {
    pub(super) name: String,
    /// Prefix of the chain's counters: the hook or `published`.
    counts_as: &'static str,
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
    pub(super) origins: Vec<Origin>,
}

/// Returns the name of the base chain at a hook.
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

    /// Adds a rule that counts and accepts matching packets.
    pub(super) fn accept(&mut self, matches: Vec<Match>, reason: Reason, place: Option<&Place>) {
        let rule = Rule {
            matches,
            ..Rule::default()
        };
        self.accept_by(rule, reason, place);
    }

    /// Adds an accept rule that has statements besides its matches.
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

    /// Adds a rule that sends matching packets to the chain of a denial.
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

    /// Like [`deny`](Self::deny), with the reason's sentence as comment and without a place.
    pub(super) fn deny_as(&mut self, matches: Vec<Match>, reason: Reason) {
        let comment = reason.sentence();
        self.deny(matches, reason, comment, None);
    }

    /// Adds a rule that sends matching packets to another chain without counting them.
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
