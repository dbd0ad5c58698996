//! Maps: the keys that a statement looks up.

use serde_json::Value;

use super::key::{Strange, keys};
use super::objects::strange;
use super::relation::{Look, elements, member};
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
