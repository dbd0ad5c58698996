//! Base chains: the order in which packets of a family pass them, and the chains that they reach.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::objects::{Base, Chain, Objects, Table, TableName, passes};
use super::place::{Kind, Places};
use super::relation::{Look, Phase};
use super::statement::{Context, rules};
use super::text::single;
use crate::import::managed;
use crate::import::rule::{
    self, At, Condition, ImportedChain, ImportedChains, ImportedRule, ImportedRules, Paths, Verb,
};
use crate::net::addr::Family;

/// Priority at which conntrack joins fragments (`NF_IP_PRI_CONNTRACK_DEFRAG`).
const DEFRAG: i64 = -400;
/// Priority of conntrack in prerouting (`NF_IP_PRI_CONNTRACK`).
const CONNTRACK: i64 = -200;
/// Priority of DNAT (`NF_IP_PRI_NAT_DST`).
const DNAT: i64 = -100;
/// Priority of the translation of sources (`NF_IP_PRI_NAT_SRC`).
const SNAT: i64 = 100;

/// Where a chain is evaluated. Its conditions mean something else in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    is_nat: bool,
    phase: Phase,
}

/// A base chain of type filter or nat.
struct BaseChain<'o, 'v> {
    table: &'o TableName,
    name: &'o str,
    base: &'o Base,
    chain: &'o Chain<'v>,
}

/// The tables of one family.
pub(super) struct Walk<'o, 'v> {
    family: Family,
    tables: Vec<(&'o TableName, &'o Table<'v>)>,
    bases: Vec<BaseChain<'o, 'v>>,
    /// Whether a chain translates destinations.
    translates: bool,
    /// Whether rules use conntrack, which then joins fragments.
    tracks: bool,
    /// Whether rules exempt packets from it.
    exempts: bool,
    /// Where each chain is evaluated.
    slots: BTreeMap<(&'o TableName, &'o str), BTreeSet<Slot>>,
}

impl<'o, 'v> Walk<'o, 'v> {
    /// Finds the base chains of a family, and what they reach.
    pub(super) fn new(
        objects: &'o Objects<'v>,
        family: Family,
        skip: &BTreeSet<TableName>,
        is_beside: bool,
    ) -> Self {
        let tables = objects.order.iter().filter(|name| {
            let of_family = passes(&name.0, family);
            of_family && !skip.contains(*name)
        });
        let tables: Vec<_> = tables
            .filter_map(|name| Some((name, objects.tables.get(name)?)))
            .collect();
        let mut bases = Vec::new();
        for (name, table) in &tables {
            for (chain_name, chain) in &table.chains {
                if let Some(base) = &chain.base {
                    bases.push(BaseChain {
                        table: name,
                        name: chain_name,
                        base,
                        chain,
                    });
                }
            }
        }
        bases.sort_by_key(|each| (each.base.priority, each.chain.object));
        let mut walk = Self {
            family,
            // Rules of iptables may.
            translates: is_beside || tables.iter().any(|(_, table)| translates(table)),
            tracks: is_beside || tables.iter().any(|(_, table)| tracks(table)),
            exempts: is_beside || tables.iter().any(|(_, table)| exempts(table)),
            tables,
            bases,
            slots: BTreeMap::new(),
        };
        walk.reach();
        walk
    }

    /// Returns where a base chain is evaluated. Of two hooks of one priority, the kernel runs first
    /// what was registered last (`nf_hook_entries_grow()`), and a listing does not tell which that
    /// is: a filter may be before DNAT or behind it.
    fn base_slots(&self, base: &Base) -> impl Iterator<Item = Slot> + use<> {
        let slot = slot(base);
        let is_either = slot.phase == Phase::BeforeDnat && base.priority == DNAT && self.translates;
        let behind = Slot {
            phase: Phase::BeforeRouting,
            ..slot
        };
        std::iter::once(slot).chain(is_either.then_some(behind))
    }

    /// Reports whether a chain of this hook filters, and no other program manages it.
    pub(super) fn filters(&self, hook: &str) -> bool {
        self.bases.iter().any(|each| {
            let is_filter = each.base.hook == hook && each.base.kind == "filter";
            is_filter && managed::by(&qualified(each.table, each.name)).is_none()
        })
    }

    fn reach(&mut self) {
        let mut next: Vec<(&'o TableName, &'o str, Slot)> = Vec::new();
        for each in &self.bases {
            let slots = self.base_slots(each.base);
            next.extend(slots.map(|slot| (each.table, each.name, slot)));
        }
        while let Some((table, name, slot)) = next.pop() {
            let of = self.tables.iter().find(|(known, _)| *known == table);
            let found = of.and_then(|(_, of)| Some((*of, of.chains.get(name)?)));
            let is_new = self.slots.entry((table, name)).or_default().insert(slot);
            let Some((of, chain)) = found.filter(|_| is_new) else {
                continue;
            };
            for target in targets(of, chain) {
                next.push((table, target, slot));
            }
        }
    }

    /// Returns where a chain is evaluated. Chains without callers are read as after routing.
    fn slots_of(&self, table: &TableName, name: &str) -> Vec<Slot> {
        let found = self.slots.get(&(table, name));
        match found.filter(|all| !all.is_empty()) {
            Some(all) => all.iter().copied().collect(),
            None => vec![Slot {
                is_nat: false,
                phase: Phase::Routed,
            }],
        }
    }

    /// Returns the name of a chain in the model.
    fn name(&self, table: &TableName, name: &str, slot: Slot) -> String {
        let slots = self.slots_of(table, name);
        let last = slots
            .iter()
            .filter(|other| other.is_nat == slot.is_nat)
            .max();
        let qualified = qualified(table, name);
        match slot.phase {
            _ if last == Some(&slot) => qualified,
            Phase::BeforeDefrag => format!("{qualified} (before fragments are joined)"),
            Phase::BeforeConntrack => format!("{qualified} (before conntrack)"),
            Phase::BeforeDnat => format!("{qualified} (before DNAT)"),
            Phase::BeforeRouting | Phase::Routed => format!("{qualified} (before routing)"),
        }
    }

    /// Returns the conditions of rules before connection tracking that exempt packets from it.
    fn untracked(&self, chains: &ImportedChains) -> Vec<Vec<Condition>> {
        let before = self.bases.iter().flat_map(|each| {
            let slots = self.base_slots(each.base);
            let is_before = |slot: &Slot| !slot.is_nat && slot.phase <= Phase::BeforeConntrack;
            let before = slots.filter(is_before);
            before.map(|slot| self.name(each.table, each.name, slot))
        });
        before
            .flat_map(|name| rule::untracked(chains, &name))
            .collect()
    }

    /// Builds the model.
    pub(super) fn rules(&self, places: &Places) -> ImportedRules {
        let mut filter = ImportedChains::new();
        let mut nat = ImportedChains::new();
        for (table_name, table) in &self.tables {
            for (name, chain) in &table.chains {
                for slot in self.slots_of(table_name, name) {
                    let into = match slot.is_nat {
                        true => &mut nat,
                        false => &mut filter,
                    };
                    let key = self.name(table_name, name, slot);
                    into.insert(key, self.chain(table_name, table, chain, slot, places));
                }
            }
        }
        for chains in [&mut filter, &mut nat] {
            without_lost_jumps(chains);
        }
        ImportedRules {
            family: self.family,
            untracked: self.untracked(&filter),
            filter,
            nat,
            paths: self.paths(),
        }
    }

    fn chain(
        &self,
        table_name: &TableName,
        table: &Table<'v>,
        chain: &Chain<'v>,
        slot: Slot,
        places: &Places,
    ) -> ImportedChain {
        let named = |target: &str| self.name(table_name, target, slot);
        let context = Context {
            look: Look {
                family: self.family,
                phase: slot.phase,
                translates: self.translates && !slot.is_nat,
                tracks: self.tracks,
                exempts: self.exempts,
                sets: &table.sets,
            },
            rates: &table.rates,
            chain: &named,
        };
        let at = places.of(table_name, Kind::Chain, chain.handle, chain.object);
        let of_rule = |rule: &super::objects::Rule<'v>| -> Vec<ImportedRule> {
            let place = places.of(table_name, Kind::Rule, rule.handle, rule.object);
            rules(
                &context,
                rule,
                place.or(at).unwrap_or(At { input: 0, line: 0 }),
            )
        };
        ImportedChain {
            accepts: chain.base.as_ref().map(|_| chain.accepts),
            at,
            rules: chain.rules.iter().flat_map(of_rule).collect(),
        }
    }

    fn paths(&self) -> Paths {
        // Names the base chains of hooks with a priority below these.
        let named = |hooks: &[(&str, i64)], is_nat: bool| -> Vec<String> {
            let of_hook = |(hook, end): &(&str, i64)| {
                let mut all: Vec<String> = Vec::new();
                let is_there = |base: &Base| base.hook == *hook && base.priority < *end;
                for each in self.bases.iter().filter(|each| is_there(each.base)) {
                    let slots = self.base_slots(each.base);
                    let wanted = slots.filter(|slot| slot.is_nat == is_nat);
                    all.extend(wanted.map(|slot| self.name(each.table, each.name, slot)));
                }
                all
            };
            hooks.iter().flat_map(of_hook).collect()
        };
        let prerouting = ("prerouting", i64::MAX);
        let [input, forward, output, postrouting] =
            ["input", "forward", "output", "postrouting"].map(|hook| (hook, i64::MAX));
        // Behind the translation of sources, rules see other ones.
        let untranslated = ("postrouting", SNAT);
        Paths {
            input: named(&[prerouting, input], false),
            forward: named(&[prerouting, forward, untranslated], false),
            prerouting: vec![named(&[prerouting], true)],
            output: named(&[output, postrouting], false),
        }
    }
}

/// Returns the name of a chain with its family and table.
fn qualified(table: &TableName, name: &str) -> String {
    format!("{} {} {name}", table.0, table.1)
}

fn slot(base: &Base) -> Slot {
    let phase = match (base.hook.as_str(), base.priority) {
        ("prerouting", ..=DEFRAG) => Phase::BeforeDefrag,
        ("prerouting", ..=CONNTRACK) => Phase::BeforeConntrack,
        ("prerouting", ..=DNAT) => Phase::BeforeDnat,
        ("prerouting", _) => Phase::BeforeRouting,
        _ => Phase::Routed,
    };
    // Rules of nat chains are read as they are written: about destinations before DNAT.
    match base.kind == "nat" {
        true => Slot {
            is_nat: true,
            phase: Phase::Routed,
        },
        false => Slot {
            is_nat: false,
            phase,
        },
    }
}

/// Reports whether a table translates destinations. Statements of iptables may.
fn translates(table: &Table<'_>) -> bool {
    statements(table).any(|each| matches!(single(each), Some(("dnat" | "redirect" | "xt", _))))
}

/// Reports whether rules of a table exempt packets from conntrack. Statements of iptables may.
fn exempts(table: &Table<'_>) -> bool {
    statements(table).any(|each| {
        let kind = each.as_str().or(single(each).map(|(kind, _)| kind));
        matches!(kind, Some("notrack" | "xt"))
    })
}

/// Reports whether rules of a table use conntrack. Statements of iptables may.
fn tracks(table: &Table<'_>) -> bool {
    let mut bases = table
        .chains
        .values()
        .filter_map(|chain| chain.base.as_ref());
    bases.any(|base| base.kind == "nat") || statements(table).any(mentions_ct)
}

/// Returns the statements of all rules of a table.
fn statements<'t>(table: &'t Table<'_>) -> impl Iterator<Item = &'t Value> {
    let rules = table.chains.values().flat_map(|chain| &chain.rules);
    rules.flat_map(|rule| rule.statements)
}

fn mentions_ct(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key == "xt" || key.starts_with("ct") || mentions_ct(value)),
        Value::Array(all) => all.iter().any(mentions_ct),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Returns the chains that the rules of a chain call.
fn targets<'o>(table: &'o Table<'_>, chain: &'o Chain<'_>) -> Vec<&'o str> {
    let mut found = Vec::new();
    for statement in chain.rules.iter().flat_map(|rule| rule.statements) {
        let Some((kind, body)) = single(statement) else {
            continue;
        };
        match kind {
            "jump" | "goto" => found.extend(body["target"].as_str()),
            "vmap" => {
                let data = &body["data"];
                let name = data.as_str().unwrap_or_default().trim_start_matches('@');
                let named = table.sets.get(name).map(|set| set.elements);
                let listed = data["set"].as_array().map(Vec::as_slice);
                let pairs = named.or(listed).unwrap_or_default();
                found.extend(pairs.iter().filter_map(target_of_pair));
            }
            _ => {}
        }
    }
    found.retain(|name| table.chains.contains_key(*name));
    found
}

fn target_of_pair(pair: &Value) -> Option<&str> {
    let (_, body) = single(pair.as_array()?.get(1)?)?;
    body["target"].as_str()
}

/// Replaces jumps to chains that are not listed.
fn without_lost_jumps(chains: &mut ImportedChains) {
    let names: BTreeSet<String> = chains.keys().cloned().collect();
    for rule in chains.values_mut().flat_map(|chain| &mut chain.rules) {
        if let Some(to) = rule.target.chain()
            && !names.contains(to)
        {
            rule.target = Verb::Unknown(format!("jump {to}, which is not listed"));
        }
    }
}
