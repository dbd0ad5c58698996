//! The chains of denials: one for each reason.

use std::collections::BTreeSet;

use super::{Compiler, chain::Origin};
use crate::net::port::TCP;
use crate::policy::Denied;
use crate::policy::reason::Reason;
use crate::ruleset::{Action, Chain, LogTo, Match, Rule};

impl Compiler<'_> {
    /// Adds a chain for each denial that a rule uses. It logs up to the rate limit, counts, and
    /// denies, or accepts in an audit.
    pub(super) fn denials(&mut self) {
        let rules = self.ruleset.chains.iter().flat_map(|chain| &chain.rules);
        let targets = rules.filter_map(|rule| match &rule.action {
            Some(Action::Goto(name)) => Reason::parse(name),
            Some(
                Action::Accept
                | Action::Drop
                | Action::RejectTcpReset
                | Action::RejectAdminProhibited
                | Action::Jump(_),
            )
            | None => None,
        });
        let reasons: BTreeSet<Reason> = targets.filter(Reason::is_denial).collect();
        for reason in &reasons {
            self.denial(reason);
        }
    }

    fn denial(&mut self, reason: &Reason) {
        let mut rules = Vec::new();
        if let Some(log) = &self.policy.log {
            rules.push(Rule {
                limit: Some(log.rate),
                log: Some(LogTo {
                    group: log.group,
                    prefix: format!("{} {reason}: ", log.prefix),
                }),
                ..Rule::default()
            });
        }
        let end = |matches, action| Rule {
            matches,
            counter: Some(reason.to_string()),
            action: Some(action),
            ..Rule::default()
        };
        // Never answer a spoofed address or a packet without a connection: a reset for a TCP
        // segment other than SYN could end a connection of this host that conntrack does not know
        // yet.
        let passes = self.policy.options.mode.passes(reason);
        let answers = matches!(reason, Reason::InputDefault | Reason::ForwardDefault)
            && self.policy.options.denied == Denied::Reject;
        if passes {
            rules.push(end(Vec::new(), Action::Accept));
        } else if answers {
            let tcp = Match::Protocol(TCP);
            rules.push(end(
                vec![tcp.clone(), Match::TcpSyn],
                Action::RejectTcpReset,
            ));
            rules.push(end(vec![tcp], Action::Drop));
            rules.push(end(Vec::new(), Action::RejectAdminProhibited));
        } else {
            rules.push(end(Vec::new(), Action::Drop));
        }
        let name = reason.to_string();
        let origin = Origin {
            reason: reason.clone(),
            place: None,
        };
        let origins = vec![origin; rules.len()];
        self.origins.0.insert(name.clone(), origins);
        self.ruleset.counters.insert(name.clone());
        self.ruleset.chains.push(Chain {
            name,
            base: None,
            rules,
        });
    }
}
