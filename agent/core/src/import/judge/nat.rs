//! Destination NAT of single packets.

use std::net::IpAddr;

use crate::import::eval::{Probe, holds, is_known};
use crate::import::rule::{ImportedRules, KnownMark, Verb};
use crate::net::addr;
use crate::net::packet::{CtState, Dialled, Hook, Transport};

/// Maximum nesting of jumps.
const DEPTH_MAX: usize = 32;

enum Step {
    /// The chain ends without a decision.
    Falls,
    /// The destination stays.
    Stays,
    /// New address and port.
    To(Option<IpAddr>, Option<u16>),
    /// Conditions or targets are not known.
    Unknown,
}

/// Returns the packet behind the nat table of a host with this address; `None` if that cannot be
/// told.
pub(super) fn translated(
    rules: &ImportedRules,
    host: Option<IpAddr>,
    probe: &Probe,
) -> Option<Probe> {
    let packet = &probe.packet;
    if packet.state != CtState::New || packet.hook != Hook::Input || packet.interface == "lo" {
        return Some(probe.clone());
    }
    let mut found = Vec::new();
    for path in &rules.paths.prerouting {
        let mut mark = KnownMark::default();
        match through(rules, path, probe, &mut mark) {
            Step::Falls | Step::Stays => {}
            Step::To(to, port) => {
                let redirected = redirected(rules, host, probe, to, port)?;
                found.push(Probe { mark, ..redirected });
            }
            Step::Unknown => return None,
        }
    }
    match found.len() {
        0 => Some(probe.clone()),
        1 => found.pop(),
        // Which of several sources comes first is unknown.
        _ => None,
    }
}

fn through(rules: &ImportedRules, path: &[String], probe: &Probe, mark: &mut KnownMark) -> Step {
    for chain in path {
        let step = run(rules, chain, probe, mark, 0);
        if !matches!(step, Step::Falls) {
            return step;
        }
    }
    Step::Falls
}

fn run(
    rules: &ImportedRules,
    chain: &str,
    probe: &Probe,
    mark: &mut KnownMark,
    depth: usize,
) -> Step {
    let Some(chain) = rules.nat.get(chain).filter(|_| depth < DEPTH_MAX) else {
        return Step::Falls;
    };
    for rule in &chain.rules {
        let known = rule
            .conditions
            .iter()
            .filter(|condition| is_known(condition, probe));
        if !known.clone().all(|condition| holds(condition, probe)) {
            continue;
        }
        let is_unknown = known.count() < rule.conditions.len();
        let step = match &rule.target {
            Verb::Continue(_) | Verb::Untrack(_) | Verb::Masquerade => continue,
            Verb::Mark(change, _) => {
                *mark = match is_unknown {
                    true => mark.perhaps_after(*change),
                    false => mark.after(*change),
                };
                continue;
            }
            _ if is_unknown => return Step::Unknown,
            Verb::Unknown(_) | Verb::DnatSomewhere(_) => return Step::Unknown,
            Verb::Accept | Verb::Drop | Verb::Reject => return Step::Stays,
            Verb::Return => return Step::Falls,
            Verb::Dnat(to, port) => {
                let is_one = to.is_none_or(|(first, last)| first == last)
                    && port.is_none_or(|(first, last)| first == last);
                if !is_one {
                    return Step::Unknown;
                }
                let to = to.map(|(to, _)| addr::address(rules.family, to));
                return Step::To(to, port.map(|(port, _)| port));
            }
            Verb::Jump(to) => run(rules, to, probe, mark, depth + 1),
            Verb::Goto(to) => return run(rules, to, probe, mark, depth + 1),
        };
        match step {
            Step::Falls => {}
            Step::Stays | Step::To(..) | Step::Unknown => return step,
        }
    }
    Step::Falls
}

fn redirected(
    rules: &ImportedRules,
    host: Option<IpAddr>,
    probe: &Probe,
    to: Option<IpAddr>,
    port: Option<u16>,
) -> Option<Probe> {
    let mut probe = probe.clone();
    let packet = &mut probe.packet;
    let Transport::Ports { destination, .. } = &mut packet.transport else {
        return None;
    };
    packet.dialled = Some(Dialled {
        address: packet.destination,
        port: *destination,
    });
    *destination = port.unwrap_or(*destination);
    let Some(to) = to.filter(|to| *to != packet.destination) else {
        return Some(probe);
    };
    if Some(to) == host {
        packet.destination = to;
        return Some(probe);
    }
    // Where the packet leaves is not in the rules.
    if super::tests_outs(rules) || addr::number(to) == 0 || to.is_loopback() || to.is_multicast() {
        return None;
    }
    packet.destination = to;
    packet.hook = Hook::Forward;
    packet.out = Some("elsewhere0".to_owned());
    probe.out = Some("elsewhere0".to_owned());
    probe.to_this_host = false;
    Some(probe)
}
