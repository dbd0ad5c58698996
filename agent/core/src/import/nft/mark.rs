//! Marks of packets: `meta mark set` and matches of `meta mark`.

use serde_json::{Value, json};

use super::text::{single, statement};
use crate::import::rule::{Condition, MarkChange, MarkTest, Test};

/// Returns what a statement does to the mark; `None` if it does something else.
pub(super) fn change(each: &Value) -> Option<MarkChange> {
    let (_, body) = single(each).filter(|(kind, _)| *kind == "mangle")?;
    if !is_mark(&body["key"]) {
        return None;
    }
    Some(new_mark(&body["value"]).unwrap_or(MarkChange::ANY))
}

/// Reports whether a change of this field leaves addresses and ports alone.
pub(super) fn is_harmless(field: &Value) -> bool {
    match single(field) {
        Some(("payload", body)) => {
            let field = body["field"].as_str().unwrap_or_default();
            ["dscp", "ecn", "ttl", "hoplimit", "flowlabel"].contains(&field)
        }
        Some(("meta" | "ct" | "tcp option", _)) => true,
        _ => false,
    }
}

/// Parses a new mark: `(meta mark & KEPT) | VALUE`, or parts of it.
fn new_mark(value: &Value) -> Option<MarkChange> {
    if let Some(number) = number(value) {
        return Some(MarkChange::set(number, u32::MAX));
    }
    let (operator, left, right) = operation(value)?;
    let inner = operation(left).filter(|(operator, ..)| *operator == "&");
    let kept = match inner {
        Some((_, left, kept)) if is_mark(left) => number(kept)?,
        _ if is_mark(left) => u32::MAX,
        _ => return None,
    };
    let right = number(right)?;
    match (operator, inner) {
        ("&", None) => Some(MarkChange::set(0, !right)),
        ("|", _) => Some(MarkChange::set(right, !kept | right)),
        ("^", _) => Some(MarkChange::set(right, !kept)),
        _ => None,
    }
}

/// Parses a match of the mark.
pub(super) fn condition(body: &Value) -> Option<Condition> {
    let is_negated = match body["op"].as_str()? {
        "==" => false,
        "!=" => true,
        _ => return None,
    };
    let left = &body["left"];
    let mask = match operation(left) {
        Some(("&", left, mask)) if is_mark(left) => number(mask)?,
        _ if is_mark(left) => u32::MAX,
        _ => return None,
    };
    let value = number(&body["right"])?;
    let words = statement(&json!({ "match": body }));
    let (test, negated) = MarkTest { value, mask }.or_opposite(is_negated);
    let test = Test::Mark(test, words);
    Some(Condition { negated, test })
}

fn is_mark(expression: &Value) -> bool {
    single(expression).is_some_and(|(kind, body)| kind == "meta" && body["key"] == "mark")
}

fn number(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// Returns the operator and the operands of a bitwise operation.
fn operation(value: &Value) -> Option<(&str, &Value, &Value)> {
    let (operator, operands) = single(value)?;
    match operands.as_array().map(Vec::as_slice)? {
        [left, right] => Some((operator, left, right)),
        _ => None,
    }
}
