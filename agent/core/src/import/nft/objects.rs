//! The objects of a listing in JSON, by table.
//!
//! Format: `libnftables-json(5)`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::net::addr::Family;

/// Family and name of a table.
pub(super) type TableName = (String, String);

/// A table.
#[derive(Debug, Default)]
pub(super) struct Table<'v> {
    /// Index of its object.
    pub(super) object: usize,
    /// `flags`, as nft prints them.
    pub(super) flags: Option<&'v Value>,
    pub(super) chains: BTreeMap<String, Chain<'v>>,
    pub(super) sets: BTreeMap<String, Set<'v>>,
    /// Named limits and quotas.
    pub(super) rates: BTreeMap<String, &'v Value>,
}

/// A chain.
#[derive(Debug)]
pub(super) struct Chain<'v> {
    /// Index of its object.
    pub(super) object: usize,
    /// Handle.
    pub(super) handle: u64,
    /// Type, hook and priority of a base chain.
    pub(super) base: Option<Base>,
    /// Whether packets at its end are accepted.
    pub(super) accepts: bool,
    pub(super) rules: Vec<Rule<'v>>,
}

/// Where a base chain is called.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) kind: String,
    pub(super) hook: String,
    pub(super) priority: i64,
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule<'v> {
    /// Index of its object.
    pub(super) object: usize,
    /// Handle.
    pub(super) handle: u64,
    pub(super) comment: Option<&'v str>,
    pub(super) statements: &'v [Value],
    /// Keys that are not expected.
    pub(super) strange: Option<String>,
}

/// A named set or map.
#[derive(Debug)]
pub(super) struct Set<'v> {
    pub(super) elements: &'v [Value],
    /// Reason why its elements say nothing about later packets.
    pub(super) changes: Option<String>,
}

/// The ruleset.
#[derive(Debug, Default)]
pub(super) struct Objects<'v> {
    pub(super) tables: BTreeMap<TableName, Table<'v>>,
    /// Tables in the order of the listing.
    pub(super) order: Vec<TableName>,
}

const RULE: [&str; 8] = [
    "family", "table", "chain", "handle", "index", "position", "expr", "comment",
];
const SET: [&str; 16] = [
    "family",
    "name",
    "table",
    "type",
    "handle",
    "flags",
    "elem",
    "stmt",
    "timeout",
    "gc-interval",
    "size",
    "policy",
    "comment",
    "auto-merge",
    "map",
    "typeof",
];

impl<'v> Objects<'v> {
    /// Collects the objects. Families other than those of IP are included.
    pub(super) fn new(list: &'v [Value]) -> Self {
        let mut objects = Self::default();
        let all = list.iter().enumerate();
        let all = all.filter_map(|(index, object)| Some((index, super::text::single(object)?)));
        // Rules last: none is lost because its chain is listed below it.
        let (rules, others): (Vec<_>, Vec<_>) = all.partition(|(_, (kind, _))| *kind == "rule");
        for (index, (kind, body)) in others.into_iter().chain(rules) {
            objects.take(index, kind, body);
        }
        objects.mark_dynamic();
        objects
    }

    fn take(&mut self, index: usize, kind: &str, body: &'v Value) {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let name = text("name");
        if kind == "metainfo" {
            return;
        }
        let of = match kind {
            "table" => (text("family"), name.clone()),
            _ => (text("family"), text("table")),
        };
        if !self.tables.contains_key(&of) {
            self.order.push(of.clone());
        }
        let table = self.tables.entry(of).or_default();
        match kind {
            "table" => {
                table.object = index;
                table.flags = body.get("flags");
            }
            "chain" => {
                table.chains.insert(name, chain(index, body));
            }
            "rule" => table.rule(index, body),
            "set" | "map" => {
                table.sets.insert(name, set(body));
            }
            "element" => table.add_elements(&name),
            "limit" | "quota" => {
                table.rates.insert(name, body);
            }
            // Counters, helpers, timeouts, flowtables: they decide nothing.
            _ => {}
        }
    }

    /// Marks sets to which rules add elements. nft 1.0.6 does not print the flag `dynamic`.
    fn mark_dynamic(&mut self) {
        for table in self.tables.values_mut() {
            let rules = table.chains.values().flat_map(|chain| &chain.rules);
            let mut names = BTreeSet::new();
            for statement in rules.flat_map(|rule| rule.statements) {
                for kind in ["set", "map"] {
                    let name = statement[kind]["set"].as_str();
                    let name = name.or(statement[kind]["map"].as_str());
                    names.extend(name.map(|name| name.trim_start_matches('@')));
                }
                // `add @map { … }`, for which nft has no JSON.
                let mut words = statement.as_str().unwrap_or_default().split_whitespace();
                let verb = words.next().unwrap_or_default();
                let name = words.next().and_then(|word| word.strip_prefix('@'));
                if ["add", "update", "delete"].contains(&verb) {
                    names.extend(name);
                }
            }
            for (name, set) in &mut table.sets {
                if names.contains(name.as_str()) {
                    set.changes = Some("rules change its elements".to_owned());
                }
            }
        }
    }
}

impl<'v> Table<'v> {
    fn rule(&mut self, object: usize, body: &'v Value) {
        let name = body["chain"].as_str().unwrap_or_default();
        let Some(chain) = self.chains.get_mut(name) else {
            return;
        };
        chain.rules.push(Rule {
            object,
            handle: body["handle"].as_u64().unwrap_or_default(),
            comment: body["comment"].as_str(),
            statements: body["expr"].as_array().map_or(&[], Vec::as_slice),
            strange: strange(body, &RULE),
        });
    }

    /// Elements in objects of their own are those of a set that is listed without them.
    fn add_elements(&mut self, name: &str) {
        if let Some(set) = self.sets.get_mut(name) {
            set.changes = Some("its elements are listed separately".to_owned());
        }
    }
}

fn chain<'v>(object: usize, body: &'v Value) -> Chain<'v> {
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    let base = match (text("type"), text("hook"), body["prio"].as_i64()) {
        (Some(kind), Some(hook), Some(priority)) => Some(Base {
            kind,
            hook,
            priority,
        }),
        _ => None,
    };
    Chain {
        object,
        handle: body["handle"].as_u64().unwrap_or_default(),
        base,
        accepts: body["policy"] != "drop",
        rules: Vec::new(),
    }
}

fn set(body: &Value) -> Set<'_> {
    let elements = body["elem"].as_array().map_or(&[][..], Vec::as_slice);
    let flags = &body["flags"];
    let has_flag = |flag: &str| match flags.as_array() {
        Some(all) => all.iter().any(|each| each == flag),
        None => flags == flag,
    };
    let expires = |element: &Value| element["elem"].get("expires").is_some();
    let changes = if has_flag("timeout") || elements.iter().any(expires) {
        Some("its elements expire".to_owned())
    } else if has_flag("dynamic") {
        Some("rules change its elements".to_owned())
    } else if !has_flag("interval") && is_of_names(body) && elements.iter().any(has_star) {
        Some("a star in a name is not a pattern there".to_owned())
    } else {
        strange(body, &SET).or_else(|| elements.iter().find_map(conditional))
    };
    Set { elements, changes }
}

/// Reports whether names of interfaces are in a set.
fn is_of_names(body: &Value) -> bool {
    let is_names = |kind: &Value| kind == "ifname";
    let kind = &body["type"];
    is_names(kind) || kind.as_array().is_some_and(|all| all.iter().any(is_names))
}

fn has_star(element: &Value) -> bool {
    match element {
        Value::String(text) => text.ends_with('*'),
        Value::Array(all) => all.iter().any(has_star),
        Value::Object(fields) => fields.values().any(has_star),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Returns what an element of a set or map depends on beside its value: a limit, for example.
pub(super) fn conditional(element: &Value) -> Option<String> {
    let key = element.as_array().and_then(|pair| pair.first());
    let (kind, body) = super::text::single(key.unwrap_or(element))?;
    match kind {
        "elem" => strange(body, &["val", "comment", "counter"]),
        _ => None,
    }
}

/// Returns the keys of an object that are not expected.
pub(super) fn strange(body: &Value, known: &[&str]) -> Option<String> {
    let Some(fields) = body.as_object() else {
        return Some(body.to_string());
    };
    let mut keys = fields.keys().map(String::as_str);
    let found = keys.find(|key| !known.contains(key))?;
    Some(format!("`{found}` of {body}"))
}

/// Returns the families whose packets pass the tables of a family.
pub(super) fn passes(family: &str, packets: Family) -> bool {
    match family {
        "inet" => true,
        "ip" => packets == Family::V4,
        "ip6" => packets == Family::V6,
        _ => false,
    }
}
