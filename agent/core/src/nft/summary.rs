//! Text form of plans.

use super::plan::{Op, Plan};
use crate::backend;
use crate::ruleset::render;
use crate::words::count;

impl backend::Plan for Plan {
    fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn steps(&self) -> Vec<String> {
        self.told().map(render::op).collect()
    }

    fn step_count(&self) -> usize {
        self.told().count()
    }

    fn rebuild(&self) -> Option<&str> {
        self.rebuild.as_deref()
    }

    fn summary(&self) -> String {
        let mut tally = Tally::default();
        self.ops.iter().for_each(|op| tally.add(op));
        let parts: Vec<String> = [
            (tally.rules_added, "add", "rule"),
            (tally.rules_removed, "remove", "rule"),
            (tally.elements_added, "add", "set element"),
            (tally.elements_removed, "remove", "set element"),
            (tally.objects_added, "add", "chain, set or counter"),
            (tally.objects_removed, "remove", "chain, set or counter"),
        ]
        .into_iter()
        .filter(|(number, _, _)| *number > 0)
        .map(|(number, verb, what)| match what {
            "chain, set or counter" if number > 1 => {
                format!("{verb} {number} chains, sets and counters")
            }
            _ => format!("{verb} {}", count(number, what)),
        })
        .collect();
        let parts = match parts.is_empty() {
            true if tally.table_removed => "delete table inet peerwall".to_owned(),
            true => "claim table inet peerwall".to_owned(),
            false => parts.join(", "),
        };
        match &self.rebuild {
            None => parts,
            Some(why) => format!("rebuild the table, because {why}: {parts}"),
        }
    }
}

impl Plan {
    /// Returns the operations that are steps: claiming the table changes nothing.
    fn told(&self) -> impl Iterator<Item = &Op> {
        let is_only = self.ops.len() == 1;
        let ops = self.ops.iter();
        ops.filter(move |op| **op != Op::ClaimTable || is_only)
    }
}

#[derive(Default)]
struct Tally {
    rules_added: usize,
    rules_removed: usize,
    elements_added: usize,
    elements_removed: usize,
    objects_added: usize,
    objects_removed: usize,
    table_removed: bool,
}

impl Tally {
    fn add(&mut self, op: &Op) {
        match op {
            Op::AddTable | Op::ClaimTable | Op::SetPolicy(..) => {}
            Op::DeleteTable => self.table_removed = true,
            Op::AddCounter(..) | Op::AddSet(..) | Op::AddChain(..) => self.objects_added += 1,
            Op::DeleteCounter(_) | Op::DeleteSet(_) | Op::DeleteChain(_) => {
                self.objects_removed += 1;
            }
            Op::AddElements(_, _, _, list) => self.elements_added += list.len(),
            Op::DeleteElements(_, _, _, list) => self.elements_removed += list.len(),
            Op::AddRule(..) => self.rules_added += 1,
            Op::DeleteRule(..) | Op::FlushChain(_) => self.rules_removed += 1,
        }
    }
}
