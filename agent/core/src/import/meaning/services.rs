//! Who can reach which service of this host.

use schemars::JsonSchema;
use serde::Serialize;

use super::classes::Reduced;
use super::described::{Described, Owners};
use super::{Comparison, Effect, add};
use crate::net::addr::Family;
use crate::net::packet::{CtState, Hook};
use crate::policy::reason::Reason;
use crate::ruleset::Ruleset;

/// Sources that an entry of the policy lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Admitted {
    /// Reason of the verdict.
    pub reason: Reason,
    /// Description of sources, interfaces and entry.
    pub message: String,
    /// The sources alone.
    pub sources: String,
    /// Interfaces on which they are let in, like ` on eth0`; empty for all.
    pub interfaces: String,
    /// Whether every source of some family is among them, on every interface.
    pub is_anybody: bool,
    /// Whether sources without a name are among them: all, or all except some.
    pub is_public: bool,
}

/// Who may open connections to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// To every port: peers, pods and trusted interfaces.
    pub every_port: Vec<Admitted>,
    /// To each service that was asked for, besides those.
    pub services: Vec<Vec<Admitted>>,
}

/// Finds out who may open connections to services of this host, given by protocol and port.
pub fn access(ruleset: &Ruleset, services: &[(u8, u16)]) -> Access {
    let mut every_port = Vec::new();
    let mut found: Vec<Vec<Described>> = vec![Vec::new(); services.len()];
    for family in [Family::V4, Family::V6] {
        let reduced = Reduced::new(ruleset, ruleset, family);
        let owners = [ruleset, ruleset].map(|ruleset| Owners::new(ruleset, family));
        let mut comparison = Comparison::new(family, &reduced);
        let accepted = comparison.ruled(&reduced.new, Hook::Input);
        for label in comparison
            .space
            .d
            .labels_in(accepted.accepted, accepted.labels)
        {
            let decision = accepted.decisions.get(usize::try_from(label).unwrap_or(0));
            let Some((_, reason)) = decision else {
                continue;
            };
            let is_for_all = matches!(
                reason,
                Reason::Peers | Reason::Overlay(_) | Reason::Trusted | Reason::Bridged
            );
            let space = &mut comparison.space;
            let of = space.d.labelled(accepted.labels, label);
            let of = space.d.and(of, accepted.accepted);
            let new = space.axes.states(&mut space.d, &[CtState::New]);
            let of = space.d.and(of, new);
            let key = (Effect::Opens, Hook::Input, reason);
            if is_for_all {
                // One line for all services.
                let (source, interface) = (space.axes.source, space.axes.interface);
                let wide = space.d.project(of, &[source, interface]);
                for part in comparison.parts(key, wide) {
                    add(
                        &mut every_port,
                        part.described(family, &reduced, &owners),
                        family,
                    );
                }
                continue;
            }
            for ((protocol, port), lines) in services.iter().zip(&mut found) {
                let space = &mut comparison.space;
                let there = space.axes.sent_to(&mut space.d, &[(*port, *port)]);
                let by = space
                    .axes
                    .protocols(&mut space.d, |number| number == *protocol);
                let there = space.d.and(there, by);
                let packets = space.d.and(of, there);
                let (source, interface) = (space.axes.source, space.axes.interface);
                let wide = space.d.project(packets, &[source, interface]);
                for part in comparison.parts(key, wide) {
                    add(lines, part.described(family, &reduced, &owners), family);
                }
            }
        }
    }
    let finish = |list: Vec<Described>| list.into_iter().map(Described::admitted).collect();
    Access {
        every_port: finish(every_port),
        services: found.into_iter().map(finish).collect(),
    }
}
