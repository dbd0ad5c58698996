//! Compiles `[[allow]]`: the ports and addresses that the policy opens.

use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::Hook;
use crate::policy::reason::Reason;
use crate::policy::{Allow, Target};
use crate::ruleset::{Action, Match, Meter, PUBLISHED, Ports, Rule};

use super::chain::{ChainDraft, base_name};
use super::ports::{Ranges, ports_by_protocol, protocols};
use super::sets::{
    SERVICES_SET, allow_set, from_port_set, group_set, limit_set, overlay_set, port_set, to_set,
};
use super::{Compiler, Purpose, interface};

/// Kind of packet that a rule of an allow matches, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AllowMatch {
    /// DNATed connections, at either hook, by their original destination in connection tracking.
    Dnated,
    /// Packets to this host without DNAT.
    Input,
    /// Packets to a cluster service address on an interface of this host: only named ones are open.
    Service,
    /// Packets without DNAT that are forwarded to pods.
    ThroughToOverlay,
    /// Packets without DNAT that are forwarded to other named addresses.
    Through,
}

impl Compiler<'_> {
    /// Sends DNATed connections to a chain that judges them by their original destination.
    pub(super) fn hand_to_published(&mut self, chain: &mut ChainDraft, hook: Hook) {
        if self.policy.allows.is_empty() {
            return;
        }
        let default = match hook {
            Hook::Input => Reason::InputDefault,
            Hook::Forward => Reason::ForwardDefault,
        };
        let name = format!("{PUBLISHED}-{hook}");
        let comment = Some("published ports, by original destination".into());
        let to_chain = Action::Goto(name.clone());
        chain.go(vec![Match::Dnat], to_chain, comment, default.clone(), None);
        let mut inside = ChainDraft::regular(name, base_name(hook));
        let jump = Action::Jump(PUBLISHED.into());
        inside.go(Vec::new(), jump, None, default.clone(), None);
        inside.deny_as(vec![Match::DialledHere], default);
        inside.deny_as(Vec::new(), Reason::ServiceAddress);
        self.add(inside);
    }

    /// Adds the chain of DNATed connections.
    pub(super) fn published(&mut self) {
        let without_dnated = Purpose::Evaluation { has_dnated: false };
        if !self.policy.allows.is_empty() && self.purpose != without_dnated {
            let mut chain = ChainDraft::regular(PUBLISHED, PUBLISHED);
            self.allows(&mut chain, AllowMatch::Dnated);
            self.add(chain);
        }
    }

    pub(super) fn allows_for_host(&self, chain: &mut ChainDraft) {
        self.allows(chain, AllowMatch::Input);
    }

    /// Adds allows for pods, before invalid packets are dropped. With asymmetric routes, a reply to
    /// a pod can be invalid here, and such an allow must accept it.
    pub(super) fn allows_to_overlays(&self, chain: &mut ChainDraft) {
        self.allows(chain, AllowMatch::ThroughToOverlay);
    }

    pub(super) fn allows_through(&self, chain: &mut ChainDraft) {
        self.allows(chain, AllowMatch::Through);
    }

    /// Sends packets to service addresses to a chain that accepts only what an allow names. In IPVS
    /// mode, kube-proxy assigns these addresses to this host, which makes them local.
    pub(super) fn hand_to_services(&mut self, chain: &mut ChainDraft) {
        const SERVICES: &str = "services";
        let sets = self.destination_in(SERVICES_SET);
        if sets.is_empty() || self.policy.allows.is_empty() {
            return;
        }
        for matches in sets {
            let to_chain = Action::Goto(SERVICES.into());
            let comment = Some("cluster service addresses".into());
            chain.go(matches, to_chain, comment, Reason::ServiceAddress, None);
        }
        let mut inside = ChainDraft::regular(SERVICES, base_name(Hook::Input));
        self.allows(&mut inside, AllowMatch::Service);
        inside.deny_as(Vec::new(), Reason::ServiceAddress);
        self.add(inside);
    }

    fn allows(&self, chain: &mut ChainDraft, view: AllowMatch) {
        for allow in &self.policy.allows {
            for arrival in any_or_each(&allow.interfaces) {
                let arrival: Vec<Match> = arrival.into_iter().map(interface).collect();
                for source in self.sources(&allow.from, &allow_set(&allow.name)) {
                    for target in self.targets(allow, view) {
                        for ports in port_matches(allow, view) {
                            let parts = [arrival.as_slice(), &source, &target, &ports];
                            if let Some(matches) = joined(&parts) {
                                add(chain, allow, matches);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Returns matches for the addresses that an allow opens; empty if it opens none in this view.
    fn targets(&self, allow: &Allow, view: AllowMatch) -> Vec<Vec<Match>> {
        let mut found = Vec::new();
        let overlays = view != AllowMatch::Through;
        let others = view != AllowMatch::ThroughToOverlay;
        let is_in = |name: &str| match view {
            AllowMatch::Dnated => self.dialled_in(name),
            AllowMatch::Input
            | AllowMatch::Service
            | AllowMatch::ThroughToOverlay
            | AllowMatch::Through => self.destination_in(name),
        };
        if allow.to.contains(&Target::Host) {
            match view {
                AllowMatch::Dnated => found.push(vec![Match::DialledHere]),
                // A packet delivered here without DNAT was sent to this host, so nothing needs to
                // be matched.
                AllowMatch::Input => return vec![Vec::new()],
                AllowMatch::Service | AllowMatch::ThroughToOverlay | AllowMatch::Through => {}
            }
        }
        if others {
            found.extend(is_in(&to_set(&allow.name)));
        }
        for target in &allow.to {
            match target {
                Target::Group(name) if others => found.extend(is_in(&group_set(name))),
                Target::Overlay(name) if overlays => found.extend(is_in(&overlay_set(name))),
                Target::Host | Target::Net(_) | Target::Group(_) | Target::Overlay(_) => {}
            }
        }
        found
    }
}

/// Joins the matches of all parts, with the family once. Returns `None` if the families differ.
fn joined(parts: &[&[Match]]) -> Option<Vec<Match>> {
    let mut matches = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    let mut family = None;
    for each in parts.iter().copied().flatten() {
        match (each.family(), family) {
            (Some(of), Some(known)) if of != known => return None,
            (Some(_), Some(_)) => continue,
            (Some(of), None) => family = Some(of),
            (None, _) => {}
        }
        matches.push(each.clone());
    }
    Some(matches)
}

fn add(chain: &mut ChainDraft, allow: &Allow, matches: Vec<Match>) {
    let reason = Reason::Allow(allow.name.clone());
    let place = Some(&allow.place);
    let Some(rate) = allow.limit else {
        return chain.accept(matches, reason, place);
    };
    let family = matches.iter().find_map(Match::family);
    for each in Family::BOTH {
        if family.is_some_and(|family| family != each) {
            continue;
        }
        let mut matches = matches.clone();
        if family.is_none() {
            matches.push(Match::Family(each));
        }
        let rule = Rule {
            matches,
            meter: Some(Meter {
                set: limit_set(&allow.name, each),
                family: each,
                rate,
            }),
            ..Rule::default()
        };
        chain.accept_by(rule, reason.clone(), place);
    }
}

fn any_or_each(patterns: &[InterfacePattern]) -> Vec<Option<&InterfacePattern>> {
    if patterns.is_empty() {
        return vec![None];
    }
    patterns.iter().map(Some).collect()
}

fn port_matches(allow: &Allow, view: AllowMatch) -> Vec<Vec<Match>> {
    if allow.ports.is_none() && allow.from_ports.is_none() {
        return vec![Vec::new()];
    }
    let to = ports_by_protocol(allow.ports.as_deref());
    let from = ports_by_protocol(allow.from_ports.as_deref());
    let of = |ranges: &Ranges, protocol: u8, set: fn(&str, u8) -> String| match ranges
        .get(&protocol)?
        .as_deref()?
    {
        [range] => Some(Ports::Range(*range)),
        _ => Some(Ports::Set(set(&allow.name, protocol))),
    };
    let port = match view {
        AllowMatch::Dnated => Match::DialledPort,
        AllowMatch::Input
        | AllowMatch::Service
        | AllowMatch::ThroughToOverlay
        | AllowMatch::Through => Match::DestinationPort,
    };
    let one = |protocol: u8| {
        let mut matches = vec![Match::Protocol(protocol)];
        matches.extend(of(&from, protocol, from_port_set).map(Match::SourcePort));
        matches.extend(of(&to, protocol, port_set).map(port));
        matches
    };
    protocols(allow).into_iter().map(one).collect()
}
