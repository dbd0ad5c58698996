//! `peerwall plan`

use peerwall_core::backend::{Backend as _, BackendError};
use peerwall_core::nft::plan::{Op, Plan, plan};
use peerwall_core::ruleset::render;
use serde_json::{Value, json};

use super::{DIFFERS, DONE, Given, count, fallback, others, refuse};
use crate::connections::revocation;
use crate::enforce::foreign;
use crate::enforce::nft::Kernel;
use crate::output::Output;
use crate::store::since;

pub(super) fn run(policy: &Given, output: &Output) -> Result<u8, BackendError> {
    let ready = match &policy.read {
        Ok(ready) => ready,
        Err(why) => return Ok(refuse(why, output)),
    };
    let mut kernel = Kernel::open()?;
    let seen = kernel.observe()?;
    let plan = plan(&ready.ruleset, &seen);
    match kernel.check(&plan) {
        // Only the owner could ask whether it would be taken.
        Err(BackendError::Owned) => {
            log::info!(
                "the table is owned, so the kernel was not asked whether it would take this"
            );
        }
        asked => asked?,
    }
    let old = seen.table.as_ref().and_then(|table| table.ruleset());
    let is_first = seen.table.is_none() && !since::by_iptables();
    let old = old.or_else(fallback::in_force);
    let which = revocation::which(is_first, ready.policy.options.cut_revoked, false);
    let refused = revocation::survey(old.as_ref(), &ready.ruleset, which);
    let others = foreign::find();
    match output.is_json() {
        true => {
            let mut value = as_json(&plan);
            value["foreign_drops"] = json!(others);
            value["connections"] = json!(refused);
            value["warnings"] = json!(ready.json_warnings());
            output.json(&value);
        }
        false => {
            ready.warn();
            others::warn(&others, output);
            output.text(&as_text(&plan));
            output.text(&revocation::planned_text(&refused, is_first));
        }
    }
    Ok(if plan.is_empty() { DONE } else { DIFFERS })
}

/// The plan as a value for machines.
pub(super) fn as_json(plan: &Plan) -> Value {
    let steps: Vec<String> = plan.ops.iter().map(render::op).collect();
    json!({"changes": !plan.is_empty(), "rebuild": plan.rebuild, "steps": steps})
}

/// The plan in words and in nft's text.
pub(super) fn as_text(plan: &Plan) -> String {
    if plan.is_empty() {
        return "nothing to do: the kernel holds what the policy says\n".into();
    }
    let mut text = format!("{}:\n", summary(plan));
    for op in &plan.ops {
        text.push_str("  ");
        text.push_str(&render::op(op));
        text.push('\n');
    }
    text
}

/// What a plan does, in one line.
pub(crate) fn summary(plan: &Plan) -> String {
    let mut tally = Tally::default();
    plan.ops.iter().for_each(|op| tally.add(op));
    let parts: Vec<String> = [
        (tally.rules_added, "add", "rule"),
        (tally.rules_removed, "remove", "rule"),
        (tally.elements_added, "add", "set element"),
        (tally.elements_removed, "remove", "set element"),
        (tally.objects_added, "add", "chain, set or counter"),
        (tally.objects_removed, "remove", "chain, set or counter"),
    ]
    .into_iter()
    .filter(|(number, _, _)| *number > 0)
    .map(|(number, verb, what)| match what {
        "chain, set or counter" => format!("{verb} {number} chains, sets and counters"),
        _ => format!("{verb} {}", count(number, what)),
    })
    .collect();
    let parts = match parts.is_empty() {
        true if tally.table_removed => "remove the table inet peerwall".to_owned(),
        true => "claim the table inet peerwall".to_owned(),
        false => parts.join(", "),
    };
    match &plan.rebuild {
        None => parts,
        Some(why) => format!("make the table anew, since {why}: {parts}"),
    }
}

#[derive(Default)]
struct Tally {
    rules_added: usize,
    rules_removed: usize,
    elements_added: usize,
    elements_removed: usize,
    objects_added: usize,
    objects_removed: usize,
    table_removed: bool,
}

impl Tally {
    fn add(&mut self, op: &Op) {
        match op {
            Op::AddTable | Op::SetPolicy(..) => {}
            Op::DeleteTable => self.table_removed = true,
            Op::AddCounter(..) | Op::AddSet(..) | Op::AddChain(..) => self.objects_added += 1,
            Op::DeleteCounter(_) | Op::DeleteSet(_) | Op::DeleteChain(_) => {
                self.objects_removed += 1;
            }
            Op::AddElements(_, _, _, list) => self.elements_added += list.len(),
            Op::DeleteElements(_, _, _, list) => self.elements_removed += list.len(),
            Op::AddRule(..) => self.rules_added += 1,
            Op::DeleteRule(..) | Op::FlushChain(_) => self.rules_removed += 1,
        }
    }
}
