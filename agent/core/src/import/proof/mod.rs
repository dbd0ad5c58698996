//! Compares the policy with the original rules, over all packets.

mod detail;
mod sentence;

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::rule::{At, Interval};
use super::space::diagram::{Diagrams, Labels, PacketSet};
use super::space::region::Sets;
use super::space::{Decided, Published, Ruled, SlicedPolicy, Space};
use crate::net::addr::Family;
use crate::net::packet::{CtState, Hook, Verdict};
use crate::policy::Policy;
use crate::policy::reason::Reason;
use crate::ruleset::Ruleset;
pub(super) use detail::detail;
use sentence::{Names, sentence};
pub(super) use sentence::{entry, few, names, ordinary, special};

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
    /// Deciding lines, in order.
    #[serde(skip)]
    pub lines: Vec<At>,
}

/// Different reasons, in ascending order.
#[derive(Debug, Clone, Default)]
pub(super) struct Reasons(Vec<Reason>);

impl Reasons {
    fn extend(&mut self, reasons: impl IntoIterator<Item = Reason>) {
        for reason in reasons {
            if let Err(at) = self.0.binary_search(&reason) {
                // Most lines have one or two.
                self.0.reserve_exact(1);
                self.0.insert(at, reason);
            }
        }
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Reason> {
        self.0.iter()
    }

    pub(super) fn contains(&self, reason: &Reason) -> bool {
        self.0.contains(reason)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Packets that a line decides, by the policy's verdict on them.
#[derive(Debug, Clone, Default)]
pub(super) struct LinePackets {
    /// Reasons of the policy for packets that line and policy accept.
    pub kept: Reasons,
    /// Sources of those packets, for naming entries.
    pub sources: Vec<(Family, Interval)>,
    /// Reasons of the policy for packets that only the line accepts.
    pub closed: Reasons,
    /// Whether such packets come from foreign addresses on an overlay's interface, where only pods
    /// are accepted.
    pub foreign: bool,
    /// Reasons of the policy for packets that only the policy accepts.
    pub opened: Reasons,
    /// Whether there are packets that neither accepts.
    pub denied: bool,
    /// Whether the line matches packets that other lines decide.
    pub is_behind: bool,
    /// Whether some packets that it would accept may not get there.
    pub is_perhaps: bool,
}

/// Result of a comparison.
#[derive(Debug, Clone, Default)]
pub(super) struct Proof {
    pub fates: BTreeMap<At, LinePackets>,
    pub differences: Vec<Difference>,
    /// Published ports, by their lines.
    pub published: Vec<(At, Published)>,
}

impl LinePackets {
    /// Adds what is known of other packets.
    fn add(&mut self, other: Self) {
        self.kept.extend(other.kept.0);
        let left = SPANS_MAX.saturating_sub(self.sources.len());
        self.sources.extend(other.sources.into_iter().take(left));
        self.closed.extend(other.closed.0);
        self.foreign |= other.foreign;
        self.opened.extend(other.opened.0);
        self.denied |= other.denied;
        self.is_behind |= other.is_behind;
        self.is_perhaps |= other.is_perhaps;
    }
}

impl Proof {
    fn add(&mut self, fates: BTreeMap<At, LinePackets>) {
        for (at, packets) in fates {
            self.fates.entry(at).or_default().add(packets);
        }
    }

    fn tell(&mut self, key: DiffKey, group: DiffGroup, sentence: String) {
        let differences = &mut self.differences;
        match differences.iter_mut().find(|d| d.sentence == sentence) {
            Some(old) => old.lines.extend(&group.lines),
            None => differences.push(Difference {
                change: key.change,
                hook: key.hook,
                reason: key.reason,
                sentence,
                lines: group.lines.into_iter().collect(),
            }),
        }
    }
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
    packets: PacketSet,
    lines: BTreeSet<At>,
}

type Groups = BTreeMap<DiffKey, DiffGroup>;

impl Sets for Groups {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        for group in self.values_mut() {
            group.packets.each_root(visit);
        }
    }
}

impl Sets for BTreeMap<u32, PacketSet> {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        for packets in self.values_mut() {
            packets.each_root(visit);
        }
    }
}

/// All packets on which rules and policy differ in one direction.
struct Differing {
    change: Direction,
    packets: PacketSet,
    /// The policy's decisions on them.
    labels: Labels,
    /// Those of each decision, once they are needed.
    by_label: BTreeMap<u32, PacketSet>,
}

/// Number of lines after which the sets that are no longer needed are freed.
const BLOCK: usize = 512;
/// Number of source spans of a line that are kept for naming peers.
const SPANS_MAX: usize = 64;

/// Compares rules and policy over every packet that can arrive.
pub(super) fn compare(spaces: &mut [Space<'_>], policy: &Policy, ruleset: Ruleset) -> Proof {
    let mut proof = Proof::default();
    let mut differing = Vec::new();
    for space in spaces.iter_mut() {
        let published = space.redirections.published.iter();
        proof
            .published
            .extend(published.map(|port| (port.at, *port)));
        let sliced = SlicedPolicy::new(space, &ruleset);
        differing.push([Hook::Input, Hook::Forward].map(|hook| {
            let mut groups = Groups::default();
            let compare = |part: &mut Space<'_>| compare_part(part, hook, policy, &sliced);
            space.each_part(hook, compare, |d, part| {
                join(d, &mut groups, part.groups);
                proof.add(part.fates);
            });
            groups
        }));
    }
    // Sentences about many packets need memory of their own.
    drop(ruleset);
    for (space, groups) in spaces.iter_mut().zip(differing) {
        let names = Names::new(space);
        for (key, group) in groups.into_iter().flatten() {
            let region = space.d.open();
            let sentence = sentence(space, &names, policy, &key, &group.packets);
            space.d.close(region, &mut ());
            proof.tell(key, group, sentence);
        }
    }
    proof
        .differences
        .sort_by_key(|difference| (difference.change, difference.hook));
    proof
}

/// Result of a comparison over some packets.
struct PartialProof {
    fates: BTreeMap<At, LinePackets>,
    groups: Groups,
}

impl Sets for PartialProof {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        self.groups.each_root(visit);
    }
}

/// Compares rules and policy over some packets.
fn compare_part(
    space: &mut Space<'_>,
    hook: Hook,
    policy: &Policy,
    sliced: &SlicedPolicy<'_>,
) -> PartialProof {
    let ruled = space.ruled(sliced, hook);
    let foreign = foreign(space, policy);
    let mut run = Comparison {
        space,
        hook,
        ruled: &ruled,
        foreign,
        fates: BTreeMap::new(),
    };
    run.lines();
    PartialProof {
        groups: run.groups(),
        fates: run.fates,
    }
}

/// Adds groups of other packets.
fn join(d: &mut Diagrams, groups: &mut Groups, others: Groups) {
    for (key, other) in others {
        let group = groups.entry(key).or_default();
        group.packets = d.or(group.packets, other.packets);
        group.lines.extend(other.lines);
    }
}

/// Returns the packets that arrive on an overlay's interface, but not from an address of the
/// overlay.
fn foreign(space: &mut Space<'_>, policy: &Policy) -> PacketSet {
    let mut found = PacketSet::NONE;
    for overlay in &policy.overlays {
        let subnets: Vec<_> = overlay.subnets.iter().map(|subnet| subnet.net).collect();
        let own = space.sent_by(&subnets);
        let there = space.on(&overlay.interfaces);
        let foreign = space.d.without(there, own);
        found = space.d.or(found, foreign);
    }
    found
}

struct Comparison<'c, 'r> {
    space: &'c mut Space<'r>,
    hook: Hook,
    ruled: &'c Ruled,
    foreign: PacketSet,
    fates: BTreeMap<At, LinePackets>,
}

impl Comparison<'_, '_> {
    fn decided(&self) -> Vec<Decided> {
        self.space.site(self.hook).walked.decided.clone()
    }

    /// Finds the policy's verdicts on the packets of each line.
    fn lines(&mut self) {
        for line in self.decided() {
            let region = self.space.d.open();
            self.line(line);
            self.space.d.close(region, &mut ());
        }
        for at in &self.space.site(self.hook).walked.behind {
            self.fates.entry(*at).or_default().is_behind = true;
        }
        for at in &self.space.site(self.hook).walked.perhaps {
            self.fates.entry(*at).or_default().is_perhaps = true;
        }
    }

    fn line(&mut self, line: Decided) {
        let d = &mut self.space.d;
        // Most lines are accepted as a whole, which needs no new set.
        let (accepted, denied) = match d.is_within(line.packets, self.ruled.accepted) {
            true => (line.packets, PacketSet::NONE),
            false => {
                let denied = d.without(line.packets, self.ruled.accepted);
                (d.and(line.packets, self.ruled.accepted), denied)
            }
        };
        let (is_foreign, closed) = match line.verdict {
            Verdict::Accept => {
                let foreign = d.meets(denied, self.foreign);
                (foreign, d.without(denied, self.foreign))
            }
            Verdict::Drop | Verdict::Reject => (false, PacketSet::NONE),
        };
        let told = self.reasons(accepted);
        let lost = self.reasons(closed);
        let spans = match (line.verdict, told.contains(&Reason::Peers)) {
            (Verdict::Accept, true) => self.space.sources_of(accepted),
            _ => Vec::new(),
        };
        let fate = self.fates.entry(line.at).or_default();
        match line.verdict {
            Verdict::Accept => {
                fate.kept.extend(told);
                let family = self.space.family;
                let left = SPANS_MAX.saturating_sub(fate.sources.len());
                let spans = spans.into_iter().take(left).map(|span| (family, span));
                fate.sources.extend(spans);
                fate.closed.extend(lost);
                fate.foreign |= is_foreign;
            }
            Verdict::Drop | Verdict::Reject => {
                fate.opened.extend(told);
                fate.denied |= !denied.is_none();
            }
        }
    }

    /// Returns the policy's reasons for its verdicts on packets.
    fn reasons(&mut self, packets: PacketSet) -> Vec<Reason> {
        let labels = self.space.d.labels_in(packets, self.ruled.labels);
        let decisions = labels.into_iter().filter_map(|label| {
            let index = usize::try_from(label).ok()?;
            self.ruled.decisions.get(index)
        });
        decisions.map(|(_, reason)| reason.clone()).collect()
    }

    /// Groups the packets on which rules and policy differ.
    fn groups(&mut self) -> Groups {
        let rules = self.space.site(self.hook).walked.accepted;
        let new = self.space.d.without(self.ruled.accepted, rules);
        let mut closed = self.space.d.without(rules, self.ruled.accepted);
        // Redirected packets on an overlay's interface are the overlay's.
        let direct = self.space.axes.direct(&mut self.space.d);
        let inner = self.space.d.without(self.foreign, direct);
        closed = self.space.d.without(closed, inner);
        let differing = [(Direction::Closed, closed), (Direction::New, new)];
        let differing = differing.map(|(change, packets)| Differing {
            change,
            labels: self.space.d.only(packets, self.ruled.labels),
            packets,
            by_label: BTreeMap::new(),
        });
        let mut groups = Groups::default();
        let [mut closed, mut new] = differing;
        for lines in self.decided().chunks(BLOCK) {
            let region = self.space.d.open();
            for line in lines {
                let of = match line.verdict {
                    Verdict::Accept => &mut closed,
                    Verdict::Drop | Verdict::Reject => &mut new,
                };
                self.group(&mut groups, line, of);
            }
            let labels = (&mut closed.by_label, &mut new.by_label);
            self.space.d.close(region, &mut (&mut groups, labels));
        }
        groups
    }

    /// Adds the differing packets of a line to their groups.
    fn group(&mut self, groups: &mut Groups, line: &Decided, of: &mut Differing) {
        let packets = self.space.d.and(line.packets, of.packets);
        if packets.is_none() {
            return;
        }
        let known = [CtState::Established, CtState::Related];
        let known = self.space.axes.states(&mut self.space.d, &known);
        for label in self.space.d.labels_in(packets, of.labels) {
            let index = usize::try_from(label).unwrap_or(usize::MAX);
            let Some((_, reason)) = self.ruled.decisions.get(index) else {
                continue;
            };
            let d = &mut self.space.d;
            let all = *of
                .by_label
                .entry(label)
                .or_insert_with(|| d.labelled(of.labels, label));
            let labelled = d.and(packets, all);
            let replies = d.and(labelled, known);
            let others = d.without(labelled, known);
            for (reply, packets) in [(true, replies), (false, others)] {
                if packets.is_none() {
                    continue;
                }
                let is_by_line = of.change == Direction::Closed && !is_told_once(reason);
                let key = DiffKey {
                    family: self.space.family,
                    hook: self.hook,
                    change: of.change,
                    reason: reason.clone(),
                    reply,
                    by: Some(line.at).filter(|_| is_by_line),
                };
                let group = groups.entry(key).or_default();
                group.packets = self.space.d.or(group.packets, packets);
                group.lines.insert(line.at);
            }
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
