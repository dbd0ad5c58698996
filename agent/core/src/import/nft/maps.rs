//! Values that statements take from packets, and maps that they look them up in.

use serde_json::Value;

use super::key::{Key, Strange, keys};
use super::objects::strange;
use super::relation::{Look, elements, member};
use super::text::single;
use super::values::{bare, interval};
use crate::import::rule::Condition;

/// Finds a lookup in a map. A packet whose key is not in the map leaves the rule
/// (`nft_lookup_eval()` in `net/netfilter/nft_lookup.c`).
pub(super) fn lookup(value: &Value) -> Option<&Value> {
    match value {
        Value::Object(fields) => match fields.get("map") {
            Some(map) if map.is_object() => Some(map),
            _ => fields.values().find_map(lookup),
        },
        Value::Array(all) => all.iter().find_map(lookup),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Keys of `meta` that every packet has.
const META: [&str; 14] = [
    "mark", "priority", "length", "protocol", "nfproto", "l4proto", "cpu", "random", "time", "day",
    "hour", "iif", "iifname", "pkttype",
];

/// Reports whether every packet has a value: a rule ends where a packet has none, for example
/// without a TCP option (`NFT_BREAK`). What a header needs is a condition of its own.
pub(super) fn is_always_there(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().all(|(key, value)| match key.as_str() {
            "payload" => value["protocol"].is_string(),
            "meta" => value["key"].as_str().is_some_and(|key| META.contains(&key)),
            "ct" => value["key"].is_string(),
            "tcp option" | "ip option" | "exthdr" | "sctp chunk" | "dccp option" => false,
            "socket" | "osf" | "rt" | "fib" | "ipsec" | "tunnel" | "xt" => false,
            _ => is_always_there(value),
        }),
        Value::Array(all) => all.iter().all(is_always_there),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// Returns the condition that the key of a map is in it.
pub(super) fn key_of(look: &Look<'_, '_>, map: &Value) -> Result<Condition, Strange> {
    if strange(map, &["key", "data"]).is_some() {
        return Err(Strange::of(map));
    }
    let keys = keys(&map["key"])?;
    let pairs = pairs(look, &map["data"])?;
    let listed: Vec<&Value> = pairs.into_iter().map(|(key, _)| key).collect();
    member(look, &keys, &listed)
}

/// Maximum number of elements that are compared with each other.
const COMPARED_MAX: usize = 2000;

/// Rejects maps whose result depends on the order of their elements: those of concatenations may
/// overlap, and the kernel takes the one that was added first (`net/netfilter/nft_set_pipapo.c`).
pub(super) fn check_order(keys: &[Key], pairs: &[(&Value, &Value)]) -> Result<(), Strange> {
    let parts = |(key, value)| match single(bare(key)) {
        Some(("concat", Value::Array(parts))) if keys.len() > 1 => Some((parts, value)),
        _ => None,
    };
    let all: Option<Vec<(&Vec<Value>, &Value)>> = pairs.iter().copied().map(parts).collect();
    let Some(all) = all else {
        return Ok(());
    };
    let has_range = |(parts, _): &(&Vec<Value>, &Value)| parts.iter().any(is_range);
    let mut ranges = all.iter().enumerate().filter(|(_, each)| has_range(each));
    let is_unsure = ranges.any(|(index, (own, value))| {
        let mut others = all.iter().enumerate().filter(|(other, _)| *other != index);
        all.len() > COMPARED_MAX
            || others.any(|(_, (parts, other))| {
                let mut pairs = keys.iter().zip(own.iter().zip(*parts));
                other != value && pairs.all(|(key, (a, b))| overlap(*key, a, b))
            })
    });
    match (is_unsure, pairs.first()) {
        (true, Some((key, _))) => Err(Strange::of(key)),
        _ => Ok(()),
    }
}

/// Reports whether a part of an element stands for several values.
fn is_range(part: &Value) -> bool {
    let is_wild = part.as_str().is_some_and(|name| name.ends_with('*'));
    is_wild || matches!(single(bare(part)), Some(("range" | "prefix", _)))
}

fn overlap(key: Key, a: &Value, b: &Value) -> bool {
    match (interval(key, a), interval(key, b)) {
        (Ok(a), Ok(b)) => a.0 <= b.1 && b.0 <= a.1,
        _ => a == b || is_range(a) || is_range(b),
    }
}

/// Returns the keys and values of a map.
pub(super) fn pairs<'v>(
    look: &Look<'_, 'v>,
    data: &'v Value,
) -> Result<Vec<(&'v Value, &'v Value)>, Strange> {
    let pair = |element: &'v Value| match element.as_array().map(Vec::as_slice) {
        Some([key, value]) => Ok((key, value)),
        _ => Err(Strange::of(element)),
    };
    elements(look, data)?.into_iter().map(pair).collect()
}
