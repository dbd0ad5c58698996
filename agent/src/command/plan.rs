//! `peerwall plan`

use peerwall_core::backend::{Backend as _, BackendError};
use peerwall_core::nft::plan::{Plan, plan};
use peerwall_core::ruleset::render;
use serde_json::{Value, json};

use super::{DIFFERS, DONE, Given, others, refuse, report};
use crate::connections::revocation;
use crate::enforce::foreign;
use crate::enforce::nft::Kernel;
use crate::output::Output;
use crate::store::{State, since};

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
    let old = old.or_else(|| State::open().in_force_by_iptables());
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
            report::warnings(ready);
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
    let mut text = format!("{}:\n", plan.summary());
    for op in &plan.ops {
        text.push_str("  ");
        text.push_str(&render::op(op));
        text.push('\n');
    }
    text
}
