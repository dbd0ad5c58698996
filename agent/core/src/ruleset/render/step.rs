//! Formats plan steps as nft commands.

use std::fmt::Write as _;

use super::{base_text, element, policy_text, rule_text};
use crate::nft::plan::{Op, SetKind};
use crate::ruleset::{Element, KeyType, METER_SIZE, METER_TIMEOUT_SECONDS, TABLE};

/// Elements of a step that are printed; the rest is only counted.
const ELEMENTS_SHOWN: usize = 8;

/// Formats a step of a plan as the equivalent nft command.
pub fn op(op: &Op) -> String {
    match op {
        Op::AddTable | Op::ClaimTable => format!("add table inet {TABLE}"),
        Op::DeleteTable => format!("delete table inet {TABLE}"),
        Op::AddCounter(name, _) => format!("add counter inet {TABLE} {name}"),
        Op::DeleteCounter(name) => format!("delete counter inet {TABLE} {name}"),
        Op::AddSet(name, key, kind, capacity) => {
            let size = capacity.map_or_else(String::new, |size| format!(" size {size};"));
            let flags = match kind {
                SetKind::Intervals => " flags interval;".to_owned(),
                SetKind::Values => String::new(),
                SetKind::Timed => " flags timeout;".to_owned(),
                SetKind::Meter => format!(
                    " flags dynamic,timeout; timeout {METER_TIMEOUT_SECONDS}s; size {METER_SIZE};"
                ),
            };
            format!(
                "add set inet {TABLE} {name} {{ type {};{flags}{size} }}",
                key.name()
            )
        }
        Op::DeleteSet(name) => format!("delete set inet {TABLE} {name}"),
        Op::AddElements(name, key, _, list) => {
            format!(
                "add element inet {TABLE} {name} {{ {} }}",
                elements(*key, list)
            )
        }
        Op::DeleteElements(name, key, _, list) => {
            format!(
                "delete element inet {TABLE} {name} {{ {} }}",
                elements(*key, list)
            )
        }
        Op::AddChain(name, None) => format!("add chain inet {TABLE} {name}"),
        Op::AddChain(name, Some(base)) => {
            format!("add chain inet {TABLE} {name} {{ {} }}", base_text(base))
        }
        Op::SetPolicy(name, policy) => {
            format!(
                "add chain inet {TABLE} {name} {{ policy {}; }}",
                policy_text(*policy)
            )
        }
        Op::FlushChain(name) => format!("flush chain inet {TABLE} {name}"),
        Op::DeleteChain(name) => format!("delete chain inet {TABLE} {name}"),
        Op::AddRule(chain, None, rule) => {
            format!("add rule inet {TABLE} {chain} {}", rule_text(rule))
        }
        Op::AddRule(chain, Some(handle), rule) => {
            format!(
                "insert rule inet {TABLE} {chain} handle {handle} {}",
                rule_text(rule)
            )
        }
        Op::DeleteRule(chain, handle, rule) => {
            let text = match rule {
                Some(rule) => rule_text(rule),
                None => "not a rule of peerwall".to_owned(),
            };
            format!("delete rule inet {TABLE} {chain} handle {handle} # {text}")
        }
    }
}

fn elements(key: KeyType, list: &[Element]) -> String {
    let shown = list
        .iter()
        .take(ELEMENTS_SHOWN)
        .map(|each| element(key, each));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if list.len() > ELEMENTS_SHOWN {
        let _ = write!(text, ", … {} more", list.len() - ELEMENTS_SHOWN);
    }
    text
}
