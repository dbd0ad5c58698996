//! What the rules of a hook decide.

use super::diagram::{Diagrams, PacketSet};
use super::region::Sets;
use crate::import::rule::At;
use crate::net::packet::Verdict;

/// The packets that one line decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::import) struct Decided {
    /// The line.
    pub at: At,
    /// Its verdict.
    pub verdict: Verdict,
    /// The packets.
    pub packets: PacketSet,
}

/// The result of all base chains at a hook.
#[derive(Debug, Clone, Default)]
pub(in crate::import) struct Walked {
    /// Packets that are accepted.
    pub accepted: PacketSet,
    /// Packets that are rejected.
    pub rejected: PacketSet,
    /// The packets of each line that decides.
    pub decided: Vec<Decided>,
    /// The packets that each line translates, in the NAT table.
    pub translated: Vec<(At, PacketSet)>,
    /// Those of them that certainly meet the test of marks that is followed.
    pub marked: Vec<PacketSet>,
    /// Lines that match packets, and may decide about none of them.
    pub behind: Vec<At>,
    /// Lines that would accept some packets, if these certainly got there: a rule with an unknown
    /// condition may take them out of the chain.
    pub perhaps: Vec<At>,
}

impl Walked {
    /// Adds the result for other packets.
    pub(super) fn add(&mut self, d: &mut Diagrams, others: Self) {
        self.accepted = d.or(self.accepted, others.accepted);
        self.rejected = d.or(self.rejected, others.rejected);
        self.decided.extend(others.decided);
        self.translated.extend(others.translated);
        self.marked.extend(others.marked);
        self.behind.extend(others.behind);
        self.perhaps.extend(others.perhaps);
    }

    /// Sorts the lines, and makes one entry of all packets of one line.
    pub(super) fn join(&mut self, d: &mut Diagrams) {
        self.decided.sort_by_key(|each| each.at);
        self.decided.dedup_by(|next, each| {
            let is_same = (next.at, next.verdict) == (each.at, each.verdict);
            if is_same {
                each.packets = d.or(each.packets, next.packets);
            }
            is_same
        });
        self.perhaps.sort_unstable();
        self.perhaps.dedup();
        self.behind.sort_unstable();
        self.behind.dedup();
        let decided = &self.decided;
        let decides = |at: &At| decided.binary_search_by_key(at, |each| each.at).is_ok();
        self.behind.retain(|at| !decides(at));
    }
}

impl Default for PacketSet {
    fn default() -> Self {
        Self::NONE
    }
}

impl Sets for Decided {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        self.packets.each_root(visit);
    }
}

impl Sets for Walked {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        (&mut self.accepted, &mut self.rejected).each_root(visit);
        self.decided.each_root(visit);
        self.translated.each_root(visit);
        self.marked.each_root(visit);
    }
}

impl Sets for (At, PacketSet) {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        self.1.each_root(visit);
    }
}
