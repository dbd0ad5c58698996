//! What chains do to the marks of packets, as far as one test of marks tells them apart.

use super::diagram::{Diagrams, PacketSet};
use super::region::Sets;
use crate::import::rule::MarkEffect;

/// What a chain did to marks, as far as a test tells them apart.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    /// Packets that certainly meet the test.
    met: PacketSet,
    /// Packets that may not meet it, whatever their mark was.
    lost: PacketSet,
}

impl Marks {
    /// Changes the marks of packets. They may remain as they are, unless this is certain.
    pub(super) fn change(
        &mut self,
        d: &mut Diagrams,
        packets: PacketSet,
        effect: MarkEffect,
        certain: bool,
    ) {
        match effect {
            MarkEffect::Met if certain => {
                self.met = d.or(self.met, packets);
                self.lost = d.without(self.lost, packets);
            }
            MarkEffect::Lost => {
                self.met = d.without(self.met, packets);
                self.lost = d.or(self.lost, packets);
            }
            MarkEffect::Met | MarkEffect::Kept => {}
        }
    }

    /// Changes the marks of packets as a chain does.
    pub(super) fn pass(
        &mut self,
        d: &mut Diagrams,
        packets: PacketSet,
        inner: Self,
        certain: bool,
    ) {
        let lost = d.and(packets, inner.lost);
        self.change(d, lost, MarkEffect::Lost, certain);
        let met = d.and(packets, inner.met);
        self.change(d, met, MarkEffect::Met, certain);
    }

    /// Returns the packets that may not meet the test, of those that entered the chain with
    /// `unmarked` among them.
    pub(super) fn unmarked(
        self,
        d: &mut Diagrams,
        packets: PacketSet,
        unmarked: PacketSet,
    ) -> PacketSet {
        let lost = d.and(packets, self.lost);
        let before = d.and(packets, unmarked);
        let all = d.or(lost, before);
        d.without(all, self.met)
    }
}

impl Sets for Marks {
    fn each_root(&mut self, visit: &mut dyn FnMut(&mut u32)) {
        (&mut self.met, &mut self.lost).each_root(visit);
    }
}

/// Packets of a chain or rule, and those of them that may not meet the test of marks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Entering {
    pub packets: PacketSet,
    pub unmarked: PacketSet,
}

impl Entering {
    pub(super) fn add(&mut self, d: &mut Diagrams, other: Self) {
        self.packets = d.or(self.packets, other.packets);
        self.unmarked = d.or(self.unmarked, other.unmarked);
    }
}
