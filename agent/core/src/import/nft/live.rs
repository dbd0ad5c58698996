//! Tables of iptables-nft in a host's listing: iptables-save prints them better than nft, if they
//! have only what iptables-nft writes. It silently omits other conditions, such as named sets.

use std::collections::BTreeSet;

use peerwall_proto::iptables::{BUILTIN, TABLES};
use serde_json::{Value, json};

use super::objects::{Base, Chain, Objects, Table, TableName};
use super::split;
use super::text::single;
use crate::import::File;
use crate::import::ImportError;

/// A host's listing, without the tables that iptables-save prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeTables {
    /// Listing in JSON and text; `None` if no other table has a base chain for packets of IP.
    pub listing: Option<String>,
    /// Family (`ip`, `ip6`) and name of each table of iptables-nft.
    pub of_iptables: BTreeSet<(String, String)>,
}

/// Separates the tables of iptables-nft from others. `printed` tells whether iptables-save prints a
/// table.
///
/// # Errors
/// [`ImportError`] if the file is no listing in JSON.
pub fn native_tables(
    file: &File,
    printed: impl Fn(&str, &str) -> bool,
) -> Result<NativeTables, ImportError> {
    let (json, listing) = split(file)?;
    let objects = json["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let found = Objects::new(objects);
    let of_iptables: BTreeSet<TableName> = found
        .order
        .iter()
        .filter(|name| printed(&name.0, &name.1) && is_of_iptables(name, objects, &found))
        .cloned()
        .collect();
    let is_left = |name: &TableName| {
        let is_ours = name.0 == "inet" && name.1 == "peerwall";
        !is_ours && !of_iptables.contains(name)
    };
    let decides = found.tables.iter().any(|(name, table)| {
        let is_of_ip = ["inet", "ip", "ip6"].contains(&name.0.as_str());
        is_of_ip && is_left(name) && table.chains.values().any(|chain| chain.base.is_some())
    });
    let left = objects
        .iter()
        .filter(|object| table_of(object).is_none_or(|name| is_left(&name)));
    let left = json!({ "nftables": left.collect::<Vec<_>>() });
    Ok(NativeTables {
        listing: decides.then(|| format!("{left}\n{}", without(listing, &is_left))),
        of_iptables,
    })
}

/// Returns the table of an object.
fn table_of(object: &Value) -> Option<TableName> {
    let (kind, body) = single(object)?;
    let name = if kind == "table" { "name" } else { "table" };
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    Some((text("family")?, text(name)?))
}

/// Removes tables from a listing.
fn without(listing: &str, is_left: &dyn Fn(&TableName) -> bool) -> String {
    let mut text = String::new();
    let mut keeps = true;
    for line in listing.lines() {
        if let Some(name) = super::place::table_name(line) {
            keeps = is_left(&name);
        }
        if keeps {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Reports whether iptables-save prints everything in a table.
fn is_of_iptables(name: &TableName, objects: &[Value], found: &Objects<'_>) -> bool {
    let is_named = matches!(name.0.as_str(), "ip" | "ip6") && TABLES.contains(&name.1.as_str());
    let is_plain = |object: &Value| {
        let kind = single(object).map(|(kind, _)| kind);
        matches!(kind, Some("table" | "chain" | "rule"))
    };
    let mut its = objects
        .iter()
        .filter(|object| table_of(object).as_ref() == Some(name));
    let table = found.tables.get(name);
    is_named
        && its.all(is_plain)
        && table.is_some_and(|table| has_only_iptables(table, name.1 == "nat"))
}

fn has_only_iptables(table: &Table<'_>, is_nat: bool) -> bool {
    table.chains.iter().all(|(name, chain)| {
        is_builtin_place(name, chain)
            && chain
                .base
                .as_ref()
                .is_none_or(|base| (base.kind == "nat") == is_nat)
            && chain.rules.iter().all(|rule| {
                rule.strange.is_none() && rule.statements.iter().all(is_statement_of_iptables)
            })
    })
}

/// Reports whether a base chain has a builtin name and its hook, and other chains do not.
fn is_builtin_place(name: &str, chain: &Chain<'_>) -> bool {
    let is_builtin = BUILTIN.contains(&name);
    match &chain.base {
        Some(Base { hook, .. }) => is_builtin && hook.eq_ignore_ascii_case(name),
        None => !is_builtin,
    }
}

/// Reports whether iptables-nft writes a statement, or whether it decides nothing.
///
/// Format: `libnftables-json(5)`; rules: `add_match()` and others in `iptables/nft.c`.
fn is_statement_of_iptables(statement: &Value) -> bool {
    const STATEMENTS: [&str; 9] = [
        "xt", "counter", "log", "mangle", "accept", "drop", "return", "jump", "goto",
    ];
    let Some((kind, body)) = single(statement) else {
        return false;
    };
    match kind {
        "match" => {}
        // `limit rate over`, and by bytes.
        "limit" => return body.get("inv").is_none() && body.get("rate_unit").is_none(),
        // A counter with a name is an object.
        _ => return STATEMENTS.contains(&kind) && !body.is_string(),
    }
    let left = match single(&body["left"]) {
        Some(("&", parts)) => &parts[0],
        _ => &body["left"],
    };
    let right = &body["right"];
    let is_value = match right.as_str() {
        Some(text) => !text.starts_with('@'),
        None => {
            let is_range = matches!(single(right), Some(("prefix" | "range" | "|", _)));
            right.is_number() || is_range || is_flags(right)
        }
    };
    let is_op = match body["op"].as_str().unwrap_or_default() {
        "==" | "!=" => true,
        "<" | ">" | "<=" | ">=" => is_field_of(left, &["sport", "dport"]),
        "in" | "!" => is_field_of(left, &["flags"]),
        _ => false,
    };
    is_op && is_value && is_field(left)
}

fn is_field_of(left: &Value, names: &[&str]) -> bool {
    let field = left["payload"]["field"].as_str();
    field.is_some_and(|field| names.contains(&field))
}

/// Reports whether a value is a list of flags: `[ "syn", "ack" ]`.
fn is_flags(value: &Value) -> bool {
    value
        .as_array()
        .is_some_and(|all| all.iter().all(Value::is_string))
}

fn is_field(left: &Value) -> bool {
    const FIELDS: [(&str, &[&str]); 8] = [
        ("ip", &["saddr", "daddr", "protocol", "frag-off"]),
        ("ip6", &["saddr", "daddr", "nexthdr"]),
        ("tcp", &["sport", "dport", "flags"]),
        ("udp", &["sport", "dport"]),
        ("th", &["sport", "dport"]),
        ("icmp", &["type", "code"]),
        ("icmpv6", &["type", "code"]),
        (
            "meta",
            &["iifname", "oifname", "iif", "oif", "l4proto", "mark"],
        ),
    ];
    let (protocol, field) = match single(left) {
        Some(("payload", body)) => (&body["protocol"], &body["field"]),
        Some(("meta", body)) => (&Value::Null, &body["key"]),
        _ => return false,
    };
    let protocol = protocol.as_str().unwrap_or("meta");
    let mut known = FIELDS.iter().filter(|(name, _)| *name == protocol);
    known.any(|(_, fields)| field.as_str().is_some_and(|field| fields.contains(&field)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listing of `ip filter` with one rule in its chain INPUT.
    fn listing(statement: &Value, more: &[Value]) -> File {
        let place = json!({"family": "ip", "table": "filter"});
        let of = |kind: &str, fields: Value| {
            let mut body = place.clone();
            let all = body.as_object_mut().unwrap();
            all.extend(fields.as_object().unwrap().clone());
            json!({ kind: body })
        };
        let mut objects = vec![
            json!({"metainfo": {"json_schema_version": 1}}),
            json!({"table": {"family": "ip", "name": "filter", "handle": 1}}),
            json!({"table": {"family": "inet", "name": "peerwall", "handle": 2}}),
            json!({"chain": {"family": "inet", "table": "peerwall", "name": "input", "handle": 1,
                "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}),
            of(
                "chain",
                json!({"name": "INPUT", "handle": 1, "type": "filter", "hook": "input",
                "prio": 0, "policy": "drop"}),
            ),
            of(
                "rule",
                json!({"chain": "INPUT", "handle": 2,
                "expr": [statement, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}),
            ),
        ];
        objects.extend(more.iter().cloned());
        let json = json!({ "nftables": objects });
        let text = "table ip filter { # handle 1\n}\ntable inet peerwall { # handle 2\n}\n";
        File {
            name: "nft".into(),
            text: format!("{json}\n{text}"),
            family: None,
        }
    }

    #[test]
    fn only_what_iptables_nft_writes_is_left_to_iptables_save() {
        let field = |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
        let relation = |op: &str, left: &Value, right: Value| {
            let body = json!({"op": op, "left": left, "right": right});
            json!({ "match": body })
        };
        let (source, port) = (field("ip", "saddr"), field("tcp", "dport"));
        for (name, statement, is_its) in [
            (
                "an address",
                relation("==", &source, json!("192.0.2.1")),
                true,
            ),
            ("a port", relation("!=", &port, json!(22)), true),
            ("ports", relation("<=", &port, json!(1023)), true),
            (
                "an extension",
                json!({"xt": {"type": "match", "name": "conntrack"}}),
                true,
            ),
            (
                "a rate",
                json!({"limit": {"rate": 3, "per": "minute", "burst": 5}}),
                true,
            ),
            ("a named set", relation("==", &source, json!("@s")), false),
            (
                "a set",
                relation("==", &port, json!({"set": [22, 80]})),
                false,
            ),
            (
                "conntrack",
                relation("in", &json!({"ct": {"key": "state"}}), json!("new")),
                false,
            ),
            (
                "a user",
                relation("==", &json!({"meta": {"key": "skuid"}}), json!(0)),
                false,
            ),
            (
                "a TTL",
                relation("==", &field("ip", "ttl"), json!(255)),
                false,
            ),
            (
                "compared addresses",
                relation("<", &source, json!("192.0.2.1")),
                false,
            ),
            (
                "a reversed rate",
                json!({"limit": {"rate": 3, "per": "minute", "inv": true}}),
                false,
            ),
            ("a named counter", json!({"counter": "c"}), false),
            (
                "a verdict map",
                json!({"vmap": {"key": port, "data": "@m"}}),
                false,
            ),
        ] {
            let native = native_tables(&listing(&statement, &[]), |_, _| true).unwrap();
            assert_eq!(native.of_iptables.len(), usize::from(is_its), "{name}");
            let wanted = (!is_its).then_some("table ip filter {");
            let listing = native.listing.as_deref().unwrap_or_default();
            assert_eq!(native.listing.is_some(), !is_its, "{name}");
            assert!(
                listing.contains(wanted.unwrap_or_default()),
                "{name}: {listing}"
            );
            assert!(!listing.contains("peerwall"), "{name}: {listing}");
        }
    }

    #[test]
    fn tables_that_iptables_save_does_not_print_are_native() {
        let port = json!({"xt": {"type": "match", "name": "tcp"}});
        let set = json!({"set": {"family": "ip", "table": "filter", "name": "s", "handle": 9}});
        let chain = json!({"chain": {"family": "ip", "table": "filter", "name": "own-base",
            "handle": 8, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}});
        for (name, more, printed, count) in [
            ("printed", vec![], true, 1),
            ("not printed", vec![], false, 0),
            ("with a set", vec![set], true, 0),
            ("with a base chain of another name", vec![chain], true, 0),
        ] {
            let native = native_tables(&listing(&port, &more), |_, _| printed).unwrap();
            assert_eq!(native.of_iptables.len(), count, "{name}");
        }
    }
}
