//! Compares the policy with the original rules, packet by packet.

mod packets;
mod sentence;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use super::eval::{Probe, Published, ReadAs, RulesForSource};
use super::rule::At;
use super::view::AcceptTable;
use crate::net::addr::Family;
use crate::net::packet::{CtState, Decision, Hook, Packet, Verdict};
use crate::policy::Policy;
use crate::policy::reason::Reason;
pub(super) use sentence::entry;
use sentence::sentence;

/// Maximum number of packets for a complete comparison. Above it, the space is sampled: all pairs
/// of values, but not all combinations.
const PACKETS_MAX: usize = 600_000;
/// Number of values on a sampled axis that are combined with every value of the others.
const THIN: usize = 12;

/// Direction of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The rules accept the packets, the policy does not.
    Closed,
    /// The policy accepts the packets, the rules do not.
    New,
}

/// A difference between rules and policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Difference {
    /// Direction.
    pub change: Direction,
    /// Hook.
    pub hook: Hook,
    /// Reason for the policy's verdict.
    pub reason: Reason,
    /// Description of the difference.
    #[serde(rename = "message")]
    pub sentence: String,
    /// Number of compared packets.
    pub packets: usize,
    /// Deciding lines, in order.
    #[serde(skip)]
    pub lines: Vec<At>,
}

/// Packets that a line decides, by the policy's verdict on them.
#[derive(Debug, Clone, Default)]
pub(super) struct LinePackets {
    /// Reasons of the policy for packets that line and policy accept.
    pub kept: BTreeSet<Reason>,
    /// Peers and overlays among the sources of those packets, for naming entries.
    pub sources: BTreeSet<IpAddr>,
    /// Reasons of the policy for packets that only the line accepts.
    pub closed: BTreeSet<Reason>,
    /// Whether such packets come from foreign addresses on an overlay's interface, where only pods
    /// are accepted.
    pub foreign: bool,
    /// Reasons of the policy for packets that only the policy accepts.
    pub opened: BTreeSet<Reason>,
    /// Whether there are packets that neither accepts.
    pub denied: bool,
}

/// Result of a comparison.
#[derive(Debug, Clone, Default)]
pub(super) struct Proof {
    pub fates: BTreeMap<At, LinePackets>,
    pub differences: Vec<Difference>,
    pub compared: usize,
    /// Whether the space was sampled.
    pub thinned: bool,
    /// Published ports, by their lines.
    pub published: Vec<(At, Published)>,
}

/// Reports whether a packet arrives on an overlay's interface, but not from an address of the
/// overlay.
fn is_foreign(policy: &Policy, packet: &Packet) -> bool {
    let mut overlays = policy.overlays.iter();
    overlays.any(|overlay| {
        overlay
            .interfaces
            .iter()
            .any(|pattern| pattern.matches(&packet.interface))
            && !overlay
                .subnets
                .iter()
                .any(|subnet| subnet.net.contains(&packet.source))
    })
}

/// Key by which differing packets are grouped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct DiffKey {
    family: Family,
    hook: Hook,
    change: Direction,
    reason: Reason,
    /// Whether the packets are replies and errors rather than first packets.
    reply: bool,
    /// Line that accepts the packets, if the policy does not.
    by: Option<At>,
}

/// Differing packets of one key.
#[derive(Debug, Clone, Default)]
struct DiffGroup {
    sources: BTreeSet<usize>,
    interfaces: BTreeSet<String>,
    services: BTreeSet<usize>,
    dialled: BTreeSet<(u8, u16)>,
    lines: BTreeSet<At>,
    packets: usize,
}

/// Compares rules and policy over every kind of packet that either distinguishes.
pub(super) fn compare(views: &[AcceptTable<'_>], policy: &Policy) -> Proof {
    let mut proof = Proof::default();
    for view in views {
        proof
            .published
            .extend(view.published.iter().map(|port| (port.at, *port)));
        let mut run = Comparison {
            view,
            policy,
            piles: BTreeMap::new(),
            proof: &mut proof,
        };
        run.all();
        let piles = std::mem::take(&mut run.piles);
        for (key, pile) in piles {
            let sentence = sentence(view, policy, &key, &pile);
            let old = proof
                .differences
                .iter_mut()
                .find(|d| d.sentence == sentence);
            match old {
                Some(old) => {
                    old.packets += pile.packets;
                    old.lines.extend(&pile.lines);
                }
                None => proof.differences.push(Difference {
                    change: key.change,
                    hook: key.hook,
                    reason: key.reason,
                    sentence,
                    packets: pile.packets,
                    lines: pile.lines.into_iter().collect(),
                }),
            }
        }
    }
    proof
        .differences
        .sort_by_key(|difference| (difference.change, difference.hook));
    proof
}

struct Comparison<'v, 'p> {
    view: &'v AcceptTable<'v>,
    policy: &'v Policy,
    piles: BTreeMap<DiffKey, DiffGroup>,
    proof: &'p mut Proof,
}

/// A packet to compare, by its position on the axes.
struct Case {
    probe: Probe,
    source: usize,
    service: Option<usize>,
}

impl Comparison<'_, '_> {
    fn all(&mut self) {
        let view = self.view;
        for (s, source) in view.sources.iter().enumerate() {
            let narrow = view.rules.narrow(source.example, ReadAs::BesidePeerwall);
            self.input(&narrow, s, source.example);
            self.forward(&narrow, s, source.example);
            self.published(&narrow, s, source.example);
        }
    }

    /// Reports whether sampling omits this value, unless the other axes have their usual values.
    fn is_thin(index: usize, len: usize) -> bool {
        len > THIN && index != len - 1 && !index.is_multiple_of(len.div_ceil(THIN))
    }

    fn case(&mut self, narrow: &RulesForSource<'_>, case: &Case) {
        let packet = &case.probe.packet;
        let before = narrow.judge(&case.probe);
        let after = self.policy.verdict(packet);
        // The kernel drops these as martians (`ip_route_input_slow()`), regardless of rules.
        if after.reason == Reason::LoopbackSpoof {
            return;
        }
        self.proof.compared += 1;
        let accepted = before.verdict == Verdict::Accept;
        let accepts = after.verdict == Verdict::Accept;
        if let Some(by) = before.by {
            let fate = self.proof.fates.entry(by).or_default();
            match (accepted, accepts) {
                (true, true) => {
                    fate.kept.insert(after.reason.clone());
                    fate.sources.insert(packet.source);
                }
                (true, false) if is_foreign(self.policy, packet) => fate.foreign = true,
                (true, false) => drop(fate.closed.insert(after.reason.clone())),
                (false, true) => drop(fate.opened.insert(after.reason.clone())),
                (false, false) => fate.denied = true,
            }
        }
        if accepted != accepts {
            self.pile(case, before.by, after, accepted);
        }
    }

    fn pile(&mut self, case: &Case, by: Option<At>, after: Decision, accepted: bool) {
        let packet = &case.probe.packet;
        let key = DiffKey {
            family: self.view.family,
            hook: packet.hook,
            change: if accepted {
                Direction::Closed
            } else {
                Direction::New
            },
            reply: is_reply(packet),
            by: by.filter(|_| accepted && !is_told_once(&after.reason)),
            reason: after.reason,
        };
        let pile = self.piles.entry(key).or_default();
        pile.packets += 1;
        pile.sources.insert(case.source);
        if !pile.interfaces.contains(&packet.interface) {
            pile.interfaces.insert(packet.interface.clone());
        }
        pile.lines.extend(by);
        pile.services.extend(case.service);
        if let (Some(dialled), None) = (packet.dialled, case.service) {
            pile.dialled.insert((packet.protocol(), dialled.port));
        }
    }
}

/// Reports whether differences with this reason form one group, regardless of the accepting line.
fn is_told_once(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Invalid
            | Reason::OverlaySpoof
            | Reason::OverlayInject
            | Reason::LoopbackSpoof
            | Reason::PeerSpoof
            | Reason::Redirect
            | Reason::RouterAdvert
    )
}

fn is_reply(packet: &Packet) -> bool {
    matches!(packet.state, CtState::Established | CtState::Related)
}
