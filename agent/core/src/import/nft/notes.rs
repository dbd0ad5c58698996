//! Remarks on what a ruleset contains beside rules that can be converted.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Note;
use super::objects::{Objects, Table, TableName};
use super::place::{Kind, Places};
use super::relation::next_header;
use super::text::single;
use crate::import::managed;
use crate::import::rule::{At, ImportedRules, Verb};

/// Returns the tables that are not read, and remarks on tables.
pub(super) fn of_tables(
    objects: &Objects<'_>,
    places: &Places,
    listing: &str,
) -> (BTreeSet<TableName>, Vec<Note>) {
    let mut skip = BTreeSet::new();
    let mut notes = Vec::new();
    for name in &objects.order {
        let Some(table) = objects.tables.get(name) else {
            continue;
        };
        let at = places.table(name, table.object);
        let called = format!("table {} {}", name.0, name.1);
        let manager = managed::by(&format!("{} {} -", name.0, name.1));
        let is_ours = name.0 == "inet" && name.1 == "peerwall";
        let is_of_ip = ["inet", "ip", "ip6"].contains(&name.0.as_str());
        let dormant = is_dormant(table, &called, listing);
        let (what, answer) = match (is_ours, is_of_ip, dormant, manager) {
            (true, ..) => ("is peerwall's own", "it is not imported".to_owned()),
            (_, false, ..) => (
                "filters frames, not packets",
                "it is not imported".to_owned(),
            ),
            (_, _, true, _) => ("is dormant", "it is not imported".to_owned()),
            (.., Some(manager)) => ("is managed", format!("{} maintains it", manager.name)),
            _ if name.1 == "firewalld" => (
                "is written by firewalld",
                "disable firewalld before you apply the policy".to_owned(),
            ),
            _ => continue,
        };
        if is_ours || !is_of_ip || dormant {
            skip.insert(name.clone());
        }
        let text = format!("{called} {what}");
        notes.push(note(at, "nft-table", text, answer));
    }
    for name in objects.order.iter().filter(|name| !skip.contains(*name)) {
        let Some(table) = objects.tables.get(name) else {
            continue;
        };
        notes.extend(of_chains(name, table, places));
    }
    (skip, notes)
}

/// Reports whether a table is dormant. nft 1.0.6 prints the name of the table instead of its flags,
/// so that only the listing is reliable.
fn is_dormant(table: &Table<'_>, called: &str, listing: &str) -> bool {
    let Some(flags) = table.flags else {
        return false;
    };
    let known = |flag: &Value| flag == "owner" || flag == "persist";
    match flags.as_array() {
        Some(all) => return all.iter().any(|flag| flag == "dormant"),
        None if known(flags) => return false,
        None => {}
    }
    let start = format!("{called} {{");
    let mut lines = listing.lines().skip_while(|line| !line.starts_with(&start));
    match lines.next() {
        None => true,
        Some(_) => lines
            .take_while(|line| !line.trim().is_empty())
            .any(|line| line.trim().starts_with("flags") && line.contains("dormant")),
    }
}

fn of_chains(name: &TableName, table: &Table<'_>, places: &Places) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut has_xt = false;
    for (chain_name, chain) in &table.chains {
        let is_ingress = |base: &super::objects::Base| ["ingress", "egress"].contains(&&*base.hook);
        if name.0 == "inet" && chain.base.as_ref().is_some_and(is_ingress) {
            notes.push(note(
                places.of(name, Kind::Chain, chain.handle, chain.object),
                "nft-ingress",
                format!("chain {chain_name} filters the frames of a device"),
                "it is not imported".to_owned(),
            ));
        }
        for rule in &chain.rules {
            if rule.statements.iter().any(tests_next_header) {
                notes.push(note(
                    places.of(name, Kind::Rule, rule.handle, rule.object),
                    "nft-next-header",
                    "`ip6 nexthdr` is read as the protocol".to_owned(),
                    "behind extension headers, the policy accepts what the rules do not".to_owned(),
                ));
            }
        }
        let mut statements = chain.rules.iter().flat_map(|rule| rule.statements);
        has_xt |= statements.any(|each| matches!(single(each), Some(("xt", _))));
    }
    if has_xt {
        notes.push(note(
            places.table(name, table.object),
            "iptables-nft",
            format!("table {} {} has rules of iptables-nft", name.0, name.1),
            "import the output of iptables-save and ip6tables-save for them".to_owned(),
        ));
    }
    notes
}

fn tests_next_header(statement: &Value) -> bool {
    let body = &statement["match"];
    let op = body["op"].as_str().unwrap_or_default();
    next_header(op, &body["left"], &body["right"]).is_some()
}

/// Returns remarks on rules of nat tables that drop.
pub(super) fn of_rules(rules: &[ImportedRules]) -> Vec<Note> {
    let mut places: BTreeSet<At> = BTreeSet::new();
    for chain in rules.iter().flat_map(|family| family.nat.values()) {
        places.extend(chain.at.filter(|_| chain.accepts == Some(false)));
        let drops = chain.rules.iter().filter(|rule| rule.target == Verb::Drop);
        places.extend(drops.map(|rule| rule.at));
    }
    let told = |at| {
        let what = "a chain of type nat drops packets".to_owned();
        let answer = "its drops are not imported".to_owned();
        note(Some(at), "nft-nat-drop", what, answer)
    };
    places.into_iter().map(told).collect()
}

fn note(at: Option<At>, name: &'static str, text: String, answer: String) -> Note {
    Note {
        at,
        name,
        text,
        answer,
    }
}
