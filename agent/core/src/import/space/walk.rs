//! What chains do to sets of packets, like `ipt_do_table()` in `net/ipv4/netfilter/ip_tables.c`.
//!
//! Conditions that a packet cannot decide never widen a rule: a rule with an unknown word neither
//! accepts nor drops, because it can remain beside peerwall, where its drops still apply. Rates
//! count as not exceeded.

use std::collections::BTreeMap;

use super::diagram::{Diagrams, PacketSet};
use super::marks::Entering;
use super::place::Place;
use super::run::{Effect, Run};
use super::slices::Chains;
use super::walked::{Decided, Walked};
use crate::import::managed;
use crate::import::rule::{At, Condition, ImportedRule, MarkChange, MarkTest, Test, Verb};
use crate::net::packet::Verdict;

/// Placeholder for a chain that no line declares.
const NOWHERE: At = At { input: 0, line: 0 };
/// Maximum nesting of jumps; packets beyond it count as dropped.
const DEPTH_MAX: usize = 256;
/// Number of rules after which the sets that are no longer needed are freed.
const BLOCK: usize = 512;

/// Evaluates chains on sets of packets.
pub(in crate::import) struct Walk<'w> {
    pub d: &'w mut Diagrams,
    pub place: &'w Place<'w>,
    pub chains: &'w Chains<'w>,
    /// Whether the rules are those of the table nat. Then each rule counts that may apply, and also
    /// the drops of chains that other programs manage: in other tables they continue to drop beside
    /// peerwall, whatever the policy says.
    is_nat: bool,
    /// The test of marks that is followed.
    test: Option<MarkTest>,
    effects: BTreeMap<&'w str, Effect>,
    /// Chains in an order in which each follows those that it jumps to.
    order: Vec<&'w str>,
    all: PacketSet,
}

impl<'w> Walk<'w> {
    pub(in crate::import) fn new(
        d: &'w mut Diagrams,
        place: &'w Place<'w>,
        chains: &'w Chains<'w>,
    ) -> Self {
        Self {
            d,
            place,
            chains,
            is_nat: false,
            test: None,
            effects: BTreeMap::new(),
            order: Vec::new(),
            all: PacketSet::NONE,
        }
    }

    /// Follows the rules of the table nat.
    pub(in crate::import) fn of_nat(
        d: &'w mut Diagrams,
        place: &'w Place<'w>,
        chains: &'w Chains<'w>,
    ) -> Self {
        let is_nat = true;
        Self {
            is_nat,
            ..Self::new(d, place, chains)
        }
    }

    /// Follows what rules do to the bits of this test.
    pub(in crate::import) fn marking(self, test: MarkTest) -> Self {
        Self {
            test: Some(test),
            ..self
        }
    }

    /// Sends packets through base chains, each of which must accept them.
    pub(in crate::import) fn through(mut self, path: &'w [String], packets: PacketSet) -> Walked {
        self.all = packets;
        let mut entering: BTreeMap<&str, Entering> = BTreeMap::new();
        let mut walked = Walked::default();
        let mut rest = packets;
        let mut defaults = Vec::new();
        // Without a chain at the hook, the kernel accepts.
        walked.decided.extend(path.is_empty().then_some(Decided {
            at: NOWHERE,
            verdict: Verdict::Accept,
            packets,
        }));
        for name in path {
            self.study(name, 0);
            let effect = self.effects.get(name.as_str()).cloned().unwrap_or_default();
            let here = Entering {
                packets: rest,
                unmarked: rest,
            };
            entering.entry(name).or_default().add(self.d, here);
            let chain = self.chains.get(name.as_str());
            let default = self.d.without(rest, effect.ended);
            let accepts = chain.and_then(|chain| chain.accepts).unwrap_or(true);
            if accepts {
                defaults.push(walked.decided.len());
            }
            walked.decided.push(Decided {
                at: chain.and_then(|chain| chain.at).unwrap_or(NOWHERE),
                verdict: if accepts {
                    Verdict::Accept
                } else {
                    Verdict::Drop
                },
                packets: default,
            });
            let rejected = self.d.and(rest, effect.rejected);
            walked.rejected = self.d.or(walked.rejected, rejected);
            let accepted = self.d.and(rest, effect.accepted);
            rest = match accepts {
                true => self.d.or(accepted, default),
                false => accepted,
            };
        }
        self.leave_to_others(&mut walked, path.len(), &defaults);
        let mut refused = self.d.without(packets, rest);
        refused = self.place.if_exempt(self.d, refused);
        refused = self.d.and(refused, rest);
        walked.accepted = self.d.without(rest, refused);
        self.descend(entering, &mut walked);
        // A line may accept what a later base chain does not.
        let others = path.len() > 1 || !refused.is_none();
        for each in walked.decided.iter_mut().filter(|_| others) {
            if each.verdict == Verdict::Accept {
                each.packets = self.d.and(each.packets, walked.accepted);
            } else if !refused.is_none() {
                let exempt = self.place.if_exempt(self.d, each.packets);
                let more = self.d.and(refused, exempt);
                each.packets = self.d.or(each.packets, more);
            }
        }
        walked
    }

    /// The policy of a chain that accepts decides nothing about packets for which the policy of
    /// another chain, or one of its rules, does.
    fn leave_to_others(&mut self, walked: &mut Walked, chains: usize, defaults: &[usize]) {
        let mut by_all = match defaults.len() == chains {
            true => self.all,
            false => PacketSet::NONE,
        };
        for each in defaults.iter().filter_map(|at| walked.decided.get(*at)) {
            by_all = self.d.and(by_all, each.packets);
        }
        for at in defaults.iter().filter(|at| **at + 1 < chains) {
            if let Some(each) = walked.decided.get_mut(*at) {
                each.packets = self.d.and(each.packets, by_all);
            }
        }
    }

    /// Finds the packets that enter each chain, and what its lines decide of them.
    fn descend(&mut self, mut entering: BTreeMap<&'w str, Entering>, walked: &mut Walked) {
        let order = std::mem::take(&mut self.order);
        for name in order.iter().rev() {
            let Entering { packets, unmarked } = entering.get(name).copied().unwrap_or_default();
            let Some(effect) = self.effects.remove(name) else {
                continue;
            };
            walked.behind.extend_from_slice(&effect.behind);
            for (at, lost) in &effect.perhaps {
                let is_met = self.d.meets(packets, *lost);
                walked.perhaps.extend(is_met.then_some(*at));
            }
            if packets.is_none() {
                let decided = effect.decided.iter();
                walked.behind.extend(decided.map(|each| each.at));
                continue;
            }
            for each in &effect.decided {
                let packets = match packets == self.all {
                    true => each.packets,
                    false => self.d.and(packets, each.packets),
                };
                match packets.is_none() {
                    true => walked.behind.push(each.at),
                    false => walked.decided.push(Decided { packets, ..*each }),
                }
            }
            for (at, each, marks) in &effect.translated {
                let packets = self.d.and(packets, *each);
                walked.translated.push((*at, packets));
                if self.test.is_some() {
                    let unmarked = marks.unmarked(self.d, packets, unmarked);
                    walked.marked.push(self.d.without(packets, unmarked));
                }
            }
            let rules = self.chains.get(name).map_or(&[][..], |chain| &chain.rules);
            for (index, applied, marks) in &effect.applied {
                let Some(to) = rules.get(*index).and_then(|rule| rule.target.chain()) else {
                    continue;
                };
                let packets = self.d.and(packets, *applied);
                let unmarked = match self.test {
                    Some(_) => marks.unmarked(self.d, packets, unmarked),
                    None => PacketSet::NONE,
                };
                let into = Entering { packets, unmarked };
                entering.entry(to).or_default().add(self.d, into);
            }
        }
    }

    /// Evaluates a chain, after those that it jumps to.
    fn study(&mut self, name: &'w str, depth: usize) {
        if self.effects.contains_key(name) {
            return;
        }
        let chains = self.chains;
        let Some((name, chain)) = chains.get_key_value(name) else {
            return;
        };
        if depth < DEPTH_MAX {
            for to in chain.rules.iter().filter_map(|rule| rule.target.chain()) {
                self.study(to, depth + 1);
            }
        }
        let effect = self.run(name, &chain.rules, Run::new(self.all));
        self.effects.insert(name, effect);
        self.order.push(name);
    }

    fn run(&mut self, chain: &str, rules: &[&ImportedRule], mut run: Run) -> Effect {
        let keeps_drops = !self.is_nat && managed::by(chain).is_some_and(|m| m.keeps_drops);
        for (block, rules) in (0..).step_by(BLOCK).zip(rules.chunks(BLOCK)) {
            let region = self.d.open();
            for (index, rule) in (block..).zip(rules) {
                let (matched, certain) = self.matched(rule);
                let packets = self.d.and(run.rest, matched);
                let decided = run.effect.decided.len();
                let sure = self.d.and(packets, certain);
                let others = self.d.without(packets, sure);
                for (packets, is_certain) in [(sure, true), (others, false)] {
                    if !packets.is_none() {
                        self.step(&mut run, (index, rule), packets, is_certain, keeps_drops);
                    }
                }
                let is_idle = run.effect.decided.len() == decided && rule.target.decides();
                if is_idle && (!packets.is_none() || self.d.meets(self.all, matched)) {
                    run.effect.behind.push(rule.at);
                }
            }
            run.settle(self.d);
            self.d.close(region, &mut run);
        }
        let back = self.d.or(run.rest, run.returned);
        run.effect.ended = self.d.without(self.all, back);
        run.effect
    }

    /// Returns the packets that meet all conditions of a rule that can be told, and those for which
    /// these are all of its conditions.
    fn matched(&mut self, rule: &ImportedRule) -> (PacketSet, PacketSet) {
        let mut order: Vec<&Condition> = rule.conditions.iter().collect();
        // The first axes last: sets of the other ones are small.
        order.sort_by_key(|condition| {
            let is_source = matches!(condition.test, Test::Source(_));
            (is_source, matches!(condition.test, Test::In(_)))
        });
        let mut matched = PacketSet::ALL;
        let mut certain = PacketSet::ALL;
        for condition in order {
            // Connections beyond a rate go another way.
            if self.is_nat && matches!(condition.test, Test::Rate(..)) {
                certain = PacketSet::NONE;
                continue;
            }
            let known = if let Test::Mark(test, _) = condition.test {
                Some(self.place.marked(test))
            } else if condition.test == Test::ReversePath(false) {
                Some(self.place.with_reverse_path(self.d))
            } else {
                None
            };
            // Whether other packets meet it is unknown.
            if let Some(met) = known {
                certain = self.d.and(certain, met);
                if condition.negated {
                    matched = self.d.without(matched, met);
                }
                continue;
            }
            match self.place.condition(self.d, condition) {
                Some(met) => matched = self.d.and(matched, met),
                None => certain = PacketSet::NONE,
            }
        }
        (matched, certain)
    }

    fn step(
        &mut self,
        run: &mut Run,
        (index, rule): (usize, &ImportedRule),
        packets: PacketSet,
        is_certain: bool,
        keeps_drops: bool,
    ) {
        let d = &mut *self.d;
        match &rule.target {
            Verb::Continue(_) | Verb::Untrack(_) => {}
            Verb::Mark(change, _) => self.mark(run, packets, *change, is_certain),
            Verb::Jump(to) | Verb::Goto(to) if !is_certain && self.is_nat => {
                let marks = run.effect.marks;
                run.effect.applied.push((index, packets, marks));
                if let Some(inner) = self.effects.get(to.as_str()) {
                    run.effect.marks.pass(d, packets, inner.marks, false);
                    let stay = d.or(inner.accepted, inner.doubted);
                    let stay = d.and(packets, stay);
                    run.unsure = d.or(run.unsure, stay);
                    run.effect.doubted = d.or(run.effect.doubted, stay);
                }
                if let Verb::Goto(_) = rule.target {
                    run.unsure = d.or(run.unsure, packets);
                }
            }
            Verb::Accept if !is_certain && self.is_nat => {
                run.unsure = d.or(run.unsure, packets);
                run.effect.doubted = d.or(run.effect.doubted, packets);
            }
            // It is unknown whether the rest of the chain applies, so it may only narrow the result.
            Verb::Return if !is_certain => run.unsure = d.or(run.unsure, packets),
            // The same for what comes back from there.
            Verb::Goto(to) if !is_certain => {
                let inner = self.effects.get(to.as_str());
                let ended = inner.map_or(PacketSet::NONE, |inner| inner.ended);
                let back = d.without(packets, ended);
                run.unsure = d.or(run.unsure, back);
            }
            Verb::Dnat(..) | Verb::DnatSomewhere(_) => {
                let marks = run.effect.marks;
                run.effect.translated.push((rule.at, packets, marks));
                if is_certain {
                    let sure = d.without(packets, run.unsure);
                    run.end(d, sure);
                }
            }
            _ if !is_certain => {}
            Verb::Masquerade => {}
            Verb::Accept => {
                let sure = run.accept(d, packets);
                run.decide(rule.at, Verdict::Accept, sure);
                let unsure = d.without(packets, sure);
                run.lose(rule.at, unsure);
            }
            Verb::Drop | Verb::Reject if keeps_drops => {}
            Verb::Unknown(_) if self.is_nat => {}
            Verb::Drop | Verb::Unknown(_) => {
                run.decide(rule.at, Verdict::Drop, packets);
                run.end(d, packets);
            }
            Verb::Reject => {
                run.effect.rejected = d.or(run.effect.rejected, packets);
                run.decide(rule.at, Verdict::Reject, packets);
                run.end(d, packets);
            }
            Verb::Return => run.come_back(d, packets),
            Verb::Jump(to) | Verb::Goto(to) => {
                let Some(inner) = self.effects.get(to.as_str()) else {
                    // Nested too deep.
                    run.decide(rule.at, Verdict::Drop, packets);
                    run.end(d, packets);
                    return;
                };
                let accepted = d.and(packets, inner.accepted);
                let sure = run.accept(d, accepted);
                let unsure = d.without(accepted, sure);
                run.lose(rule.at, unsure);
                let packets = d.without(packets, unsure);
                let marks = run.effect.marks;
                run.effect.applied.push((index, packets, marks));
                run.effect.marks.pass(d, packets, inner.marks, true);
                let doubted = d.and(packets, inner.doubted);
                run.unsure = d.or(run.unsure, doubted);
                run.effect.doubted = d.or(run.effect.doubted, doubted);
                let rejected = d.and(packets, inner.rejected);
                run.effect.rejected = d.or(run.effect.rejected, rejected);
                let ended = d.and(packets, inner.ended);
                let mut not_accepted = d.without(ended, sure);
                if self.is_nat {
                    not_accepted = d.without(not_accepted, run.unsure);
                }
                run.end(d, not_accepted);
                if let Verb::Goto(_) = rule.target {
                    let back = d.without(packets, ended);
                    run.come_back(d, back);
                }
            }
        }
    }

    fn mark(&mut self, run: &mut Run, packets: PacketSet, change: MarkChange, is_certain: bool) {
        if let Some(test) = self.test {
            let marks = &mut run.effect.marks;
            marks.change(self.d, packets, change.effect(test), is_certain);
        }
    }
}
