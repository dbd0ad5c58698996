//! The state of a walk between two rules of a chain, and its result.

use super::diagram::{Diagrams, PacketSet};
use super::marks::Marks;
use super::region::Sets;
use super::walked::Decided;
use crate::import::rule::At;
use crate::net::packet::Verdict;

/// What a chain does to all packets that enter it.
#[derive(Debug, Clone, Default)]
pub(super) struct Effect {
    pub accepted: PacketSet,
    pub rejected: PacketSet,
    /// Packets that do not come back.
    pub ended: PacketSet,
    /// Packets that each rule applies to, with its index.
    pub applied: Vec<(usize, PacketSet, Marks)>,
    pub decided: Vec<Decided>,
    pub translated: Vec<(At, PacketSet, Marks)>,
    pub marks: Marks,
    /// Rules that match packets, and decide about none of them.
    pub behind: Vec<At>,
    /// Accepting lines, and the packets that may not get to them.
    pub perhaps: Vec<(At, PacketSet)>,
    /// Packets about which the table nat may have decided here: they stay.
    pub doubted: PacketSet,
}

impl Sets for Effect {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        (&mut self.accepted, &mut self.rejected).each_root(visit);
        (&mut self.ended, &mut self.doubted).each_root(visit);
        for (_, packets, marks) in &mut self.applied {
            (packets, marks).each_root(visit);
        }
        self.decided.each_root(visit);
        for (_, packets, marks) in &mut self.translated {
            (packets, marks).each_root(visit);
        }
        self.marks.each_root(visit);
        self.perhaps.each_root(visit);
    }
}

/// The state between two rules of a chain.
pub(super) struct Run {
    pub effect: Effect,
    /// Packets that go on.
    pub rest: PacketSet,
    /// Packets that returned to the calling chain.
    pub returned: PacketSet,
    /// Packets that may have returned earlier: later rules do not accept them.
    pub unsure: PacketSet,
    /// `rest` when `effect.accepted` was complete.
    pub before: PacketSet,
    /// Packets that left `rest` since then without being accepted.
    pub others: PacketSet,
}

impl Sets for Run {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        self.effect.each_root(visit);
        (&mut self.rest, &mut self.returned).each_root(visit);
        (&mut self.unsure, &mut self.before).each_root(visit);
        self.others.each_root(visit);
    }
}

impl Run {
    pub(super) fn new(packets: PacketSet) -> Self {
        Self {
            effect: Effect::default(),
            rest: packets,
            returned: PacketSet::NONE,
            unsure: PacketSet::NONE,
            before: packets,
            others: PacketSet::NONE,
        }
    }

    /// Removes accepted packets, and returns those that are certainly accepted. The others return
    /// to the calling chain.
    pub(super) fn accept(&mut self, d: &mut Diagrams, packets: PacketSet) -> PacketSet {
        let sure = d.without(packets, self.unsure);
        self.rest = d.without(self.rest, sure);
        if sure != packets {
            let unsure = d.and(packets, self.unsure);
            self.come_back(d, unsure);
        }
        sure
    }

    /// Removes packets that are not accepted.
    pub(super) fn end(&mut self, d: &mut Diagrams, packets: PacketSet) {
        self.others = d.or(self.others, packets);
        self.rest = d.without(self.rest, packets);
    }

    /// Removes packets that return to the calling chain.
    pub(super) fn come_back(&mut self, d: &mut Diagrams, packets: PacketSet) {
        self.returned = d.or(self.returned, packets);
        self.end(d, packets);
    }

    /// Adds the packets that were accepted to the result: all at once, because a union for each
    /// rule would cost as much again as `rest`.
    pub(super) fn settle(&mut self, d: &mut Diagrams) {
        let left = d.without(self.before, self.rest);
        let accepted = d.without(left, self.others);
        self.effect.accepted = d.or(self.effect.accepted, accepted);
        self.before = self.rest;
        self.others = PacketSet::NONE;
    }

    /// Notes that a line does not accept packets, because they may not get there.
    pub(super) fn lose(&mut self, at: At, packets: PacketSet) {
        if !packets.is_none() {
            self.effect.perhaps.push((at, packets));
        }
    }

    pub(super) fn decide(&mut self, at: At, verdict: Verdict, packets: PacketSet) {
        if !packets.is_none() {
            self.effect.decided.push(Decided {
                at,
                verdict,
                packets,
            });
        }
    }
}
