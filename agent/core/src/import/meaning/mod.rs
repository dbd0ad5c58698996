//! What a change of the ruleset means: packets that are accepted before or after it, but not both.
//!
//! Both rulesets are evaluated on all packets at once, like rules and policy by the import. Rates
//! count as not exceeded, Ethernet addresses match nothing, and published ports are left out: they
//! follow the ports of this host.

mod classes;
mod described;
mod redirected;
mod services;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use self::classes::Reduced;
use self::described::{Described, Owners};
pub use self::redirected::{Redirected, redirected_access};
pub use self::services::{Access, Admitted, access};
use super::Facts;
use super::draft::prefixes::joined;
use super::proof::{detail, few, names, special};
use super::rule::{ImportedChains, ImportedRules, Interval, Paths};
use super::space::axes::LO;
use super::space::diagram::{PacketSet, Run};
use super::space::{Ruled, SlicedPolicy, Slicing, Space};
use super::spans::subtract;
use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Hook};
use crate::policy::reason::Reason;
use crate::ruleset::{KeyType, Match, Ruleset};

/// Direction of a change of access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Packets are accepted now, and were not.
    Opens,
    /// Packets were accepted, and are not any more.
    Closes,
}

/// Packets that only one of two rulesets accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AccessChange {
    /// Direction.
    pub effect: Effect,
    /// Hook.
    pub hook: Hook,
    /// Families, in ascending order.
    #[serde(skip)]
    pub families: Vec<Family>,
    /// Reason of the ruleset that accepts the packets.
    pub reason: Reason,
    /// Description of the packets.
    pub message: String,
}

/// What a change of the ruleset means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Meaning {
    /// All packets that only one of the rulesets accepts.
    pub access: Vec<AccessChange>,
    /// Differences that are not compared, as sentences; the comparison is exact if there are none.
    pub not_compared: Vec<String>,
}

impl Meaning {
    /// Reports whether packets are accepted that were not, or whether that is not known.
    pub fn is_wider(&self) -> bool {
        let opens = |change: &AccessChange| change.effect == Effect::Opens;
        self.access.iter().any(opens) || !self.not_compared.is_empty()
    }
}

/// Compares two rulesets over all packets.
pub fn meaning(old: &Ruleset, new: &Ruleset) -> Meaning {
    if old == new {
        return Meaning::default();
    }
    let mut found: Vec<Described> = Vec::new();
    for family in [Family::V4, Family::V6] {
        let reduced = Reduced::new(old, new, family);
        let names = [old, new].map(|ruleset| Owners::new(ruleset, family));
        for each in Comparison::new(family, &reduced).changes() {
            add(&mut found, each.described(family, &reduced, &names), family);
        }
    }
    found.sort_by_key(|each| (each.effect, each.reason.is_of_every_policy(), each.hook));
    Meaning {
        access: found.into_iter().map(Described::finish).collect(),
        not_compared: not_compared(old, new),
    }
}

/// Adds a line, or the family to the same line of the other one.
fn add(lines: &mut Vec<Described>, line: Described, family: Family) {
    match lines.iter_mut().find(|other| other.is_same(&line)) {
        Some(other) => other.families.push(family),
        None => lines.push(line),
    }
}

/// Names what differs, and is not compared.
fn not_compared(old: &Ruleset, new: &Ruleset) -> Vec<String> {
    let mut found = Vec::new();
    let rates = |ruleset: &Ruleset| -> Vec<String> {
        let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
        let limited = rules.filter(|rule| rule.action.is_some());
        let limited = limited.filter(|rule| rule.meter.is_some() || rule.limit.is_some());
        limited.map(|rule| format!("{rule:?}")).collect()
    };
    if rates(old) != rates(new) {
        found.push("limits of new connections differ".to_owned());
    }
    let macs = |ruleset: &Ruleset| -> Vec<_> {
        let sets = ruleset.sets.iter();
        sets.filter(|(_, set)| set.key == KeyType::Ether)
            .map(|(name, set)| (name.clone(), set.clone()))
            .collect()
    };
    let names_mac = |ruleset: &Ruleset| {
        let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
        let mut matches = rules.flat_map(|rule| &rule.matches);
        matches.any(|each| matches!(each, Match::SourceMac(_)))
    };
    let is_same_sender = macs(old) == macs(new) && names_mac(old) == names_mac(new);
    if !is_same_sender {
        found.push("Ethernet addresses of an overlay's nodes differ".to_owned());
    }
    found
}

/// Both rulesets on the packets of one family.
struct Comparison<'r> {
    space: Space<'r>,
    reduced: &'r Reduced,
}

/// Packets with the same sources, interfaces and reason.
struct Part {
    effect: Effect,
    hook: Hook,
    reason: Reason,
    sources: Vec<Interval>,
    /// Protocols, ports and other fields.
    what: String,
    /// Input interfaces, and output interfaces.
    on: String,
}

/// Makes one part of those that differ only in their sources. Sources that no ordinary host has are
/// left out where others are named.
fn joined_by_words(parts: Vec<Part>, special: &[Interval]) -> Vec<Part> {
    let mut found: Vec<Part> = Vec::new();
    for part in parts {
        match found
            .iter_mut()
            .find(|other| (&other.what, &other.on) == (&part.what, &part.on))
        {
            Some(other) => other.sources.extend(part.sources),
            None => found.push(part),
        }
    }
    let is_ordinary = |part: &Part| !subtract(&part.sources, special).is_empty();
    if found.iter().any(is_ordinary) {
        found.retain(is_ordinary);
    }
    for part in &mut found {
        part.sources = joined(std::mem::take(&mut part.sources));
    }
    found
}

/// Names services, unless they are more than a few.
fn names_of_few(space: &mut Space<'_>, packets: PacketSet) -> Option<Vec<String>> {
    const FEW: usize = 3;
    let names = names(space, packets);
    (names.len() <= FEW).then_some(names)
}

impl<'r> Comparison<'r> {
    fn new(family: Family, reduced: &'r Reduced) -> Self {
        const NO_RULES: [ImportedRules; 2] = [no_rules(Family::V4), no_rules(Family::V6)];
        static RULES: [ImportedRules; 2] = NO_RULES;
        let [v4, v6] = &RULES;
        let rules = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let both = [&reduced.old, &reduced.new];
        Self {
            space: Space::new(rules, &Facts::default(), &both, Slicing::default()),
            reduced,
        }
    }

    /// Returns the packets at a hook that only the new ruleset accepts, and only the old one, with
    /// the verdicts of the ruleset that accepts them.
    fn differing(&mut self, hook: Hook) -> [(Effect, PacketSet, Ruled); 2] {
        let [old, new] = [&self.reduced.old, &self.reduced.new].map(|each| self.ruled(each, hook));
        let opened = self.space.d.without(new.accepted, old.accepted);
        let closed = self.space.d.without(old.accepted, new.accepted);
        [(Effect::Opens, opened, new), (Effect::Closes, closed, old)]
    }

    /// Evaluates one of the rulesets at a hook.
    fn ruled(&mut self, ruleset: &Ruleset, hook: Hook) -> Ruled {
        let sliced = SlicedPolicy::new(&self.space, ruleset);
        self.space.ruled(&sliced, hook)
    }

    fn changes(mut self) -> Vec<Part> {
        let mut found = Vec::new();
        for hook in [Hook::Input, Hook::Forward] {
            for (effect, packets, ruled) in self.differing(hook) {
                for label in self.space.d.labels_in(packets, ruled.labels) {
                    let decision = ruled.decisions.get(usize::try_from(label).unwrap_or(0));
                    let Some((_, reason)) = decision else {
                        continue;
                    };
                    let of = self.space.d.labelled(ruled.labels, label);
                    let of = self.space.d.and(packets, of);
                    found.extend(self.parts((effect, hook, reason), of));
                }
            }
        }
        found
    }

    /// Divides packets into first ones and others, and by sources and interfaces.
    fn parts(
        &mut self,
        (effect, hook, reason): (Effect, Hook, &Reason),
        packets: PacketSet,
    ) -> Vec<Part> {
        let axes = Arc::clone(&self.space.axes);
        let d = &mut self.space.d;
        // Packets on lo are this host's own.
        let lo = axes.interfaces(d, &[InterfacePattern::Exact(LO.into())]);
        let packets = d.without(packets, lo);
        let first = axes.states(d, &[CtState::New, CtState::Untracked]);
        let first = d.and(packets, first);
        let mut found = Vec::new();
        // Other packets are worth a line where not nearly every first packet has the same verdict.
        let mut told = PacketSet::NONE;
        for (sources, rest) in self.boxes(first) {
            let (what, is_most) = self.what(hook, rest);
            let fields = match is_most {
                true => &[axes.interface, axes.destination, axes.out][..],
                false => &[
                    axes.interface,
                    axes.destination,
                    axes.out,
                    axes.protocol,
                    axes.port,
                    axes.icmp,
                ],
            };
            let d = &mut self.space.d;
            let here = d.in_runs(axes.source, &sources);
            let like = d.project(rest, fields);
            let like = d.and(here, like);
            told = d.or(told, like);
            found.push(self.part((effect, hook, reason), &sources, rest, what));
        }
        let others = self.space.d.without(packets, told);
        for (sources, rest) in self.boxes(others) {
            let (what, _) = self.what(hook, rest);
            let what = format!("{what} without a connection");
            found.push(self.part((effect, hook, reason), &sources, rest, what));
        }
        joined_by_words(found, &special(self.space.family))
    }

    fn part(
        &mut self,
        (effect, hook, reason): (Effect, Hook, &Reason),
        sources: &[Run],
        packets: PacketSet,
        what: String,
    ) -> Part {
        let axes = Arc::clone(&self.space.axes);
        let sources = sources.iter().map(|run| axes.sources.span(*run));
        Part {
            effect,
            hook,
            reason: reason.clone(),
            sources: sources.collect(),
            what,
            on: self.interfaces(hook, packets),
        }
    }

    /// Formats interfaces like ` on eth0 to cni0`; empty for all of them.
    fn interfaces(&mut self, hook: Hook, packets: PacketSet) -> String {
        let axes = Arc::clone(&self.space.axes);
        let on = self.space.d.values(packets, axes.interface);
        let on = self.named_interfaces(&axes.interfaces, &on, true);
        let to = match hook {
            Hook::Input => None,
            Hook::Forward => {
                let runs = self.space.d.values(packets, axes.out);
                self.named_interfaces(&axes.outs, &runs, false)
            }
        };
        let word = |word: &str, names: Option<String>| {
            names.map_or_else(String::new, |names| format!(" {word} {names}"))
        };
        format!("{}{}", word("on", on), word("to", to))
    }

    /// Names classes of interfaces; `None` for all but lo.
    fn named_interfaces(&self, classes: &[String], runs: &[Run], is_input: bool) -> Option<String> {
        let is_there = |index: u64| runs.iter().any(|(a, b)| (*a..=*b).contains(&index));
        let others = classes.iter().zip(0..).filter(|(name, _)| *name != LO);
        let (there, missing): (Vec<_>, Vec<_>) = others.partition(|(_, index)| is_there(*index));
        if missing.is_empty() {
            return None;
        }
        let rulesets = [&self.reduced.old, &self.reduced.new];
        let rules = rulesets.iter().flat_map(|ruleset| &ruleset.chains);
        let matches = rules.flat_map(|chain| &chain.rules);
        let matches: Vec<&Match> = matches.flat_map(|rule| &rule.matches).collect();
        let is_named = |name: &str| {
            matches.iter().any(|each| {
                if let Match::Interface { pattern, .. } = each {
                    return is_input && pattern.matches(name);
                }
                matches!(each, Match::OutInterface(out) if !is_input && out.matches(name))
            })
        };
        let name = |(name, _): (&String, u64)| match is_named(name) {
            true => name.clone(),
            false => "other interfaces".to_owned(),
        };
        let names = |list: Vec<(&String, u64)>| few(list.into_iter().map(name).collect());
        let are_named = missing.iter().all(|(name, _)| is_named(name));
        Some(match are_named && missing.len() < there.len() {
            true => format!("any interface except {}", names(missing)),
            false => names(there),
        })
    }

    /// Names the services of packets, and reports whether they are nearly all.
    fn what(&mut self, hook: Hook, packets: PacketSet) -> (String, bool) {
        let axes = Arc::clone(&self.space.axes);
        let valid = self.space.site(hook).valid;
        let d = &mut self.space.d;
        let new = axes.states(d, &[CtState::New]);
        let all = d.and(valid, new);
        let services = [axes.protocol, axes.port, axes.icmp];
        let all = d.project(all, &services);
        let these = d.project(packets, &services);
        let others = d.without(all, these);
        let detail = detail(&mut self.space, hook, packets);
        if others.is_none() {
            return (format!("everything{detail}"), detail.is_empty());
        }
        let names = names(&mut self.space, these);
        let but = names_of_few(&mut self.space, others);
        match but.filter(|but| but.len() < names.len()) {
            Some(but) => (
                format!("everything except {}{detail}", few(but)),
                detail.is_empty(),
            ),
            None => (format!("{}{detail}", few(names)), false),
        }
    }

    /// Divides packets by source and interface: the sources, and the packets without them.
    fn boxes(&mut self, packets: PacketSet) -> Vec<(Vec<Run>, PacketSet)> {
        let axes = Arc::clone(&self.space.axes);
        let d = &mut self.space.d;
        let mut found: BTreeMap<(Vec<Run>, PacketSet), Vec<Run>> = BTreeMap::new();
        for (sources, rest) in d.parts(packets, axes.source) {
            for (interfaces, rest) in d.parts(rest, axes.interface) {
                found
                    .entry((interfaces, rest))
                    .or_default()
                    .extend(&sources);
            }
        }
        let mut boxes = Vec::new();
        for ((interfaces, rest), mut sources) in found {
            sources.sort_unstable();
            let on = d.in_runs(axes.interface, &interfaces);
            boxes.push((sources, d.and(rest, on)));
        }
        boxes.sort_by_key(|(sources, _)| sources.first().copied());
        boxes
    }
}

/// Rules of a family that has none.
const fn no_rules(family: Family) -> ImportedRules {
    ImportedRules {
        family,
        filter: ImportedChains::new(),
        nat: ImportedChains::new(),
        untracked: Vec::new(),
        paths: Paths {
            input: Vec::new(),
            forward: Vec::new(),
            prerouting: Vec::new(),
            output: Vec::new(),
        },
    }
}
