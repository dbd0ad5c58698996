//! `peerwall plan`

use peerwall_core::backend::{Backend as _, BackendError, Plan};
use serde_json::{Value, json};

use super::{DIFFERS, DONE, Given, others, refuse, report};
use crate::connections::revocation;
use crate::enforce::{Enforcer, foreign};
use crate::output::Output;
use crate::store::State;

pub(super) fn run(
    enforcer: &mut Enforcer,
    policy: &Given,
    output: &Output,
) -> Result<u8, BackendError> {
    let ready = match &policy.read {
        Ok(ready) => ready,
        Err(why) => return Ok(refuse(why, output)),
    };
    report::many_rules(enforcer, ready, output);
    let observed = enforcer.observe()?;
    let plan = enforcer.plan(Some(&ready.ruleset), &observed)?;
    match enforcer.check(&plan) {
        // Only the owner could ask whether it would be accepted.
        Err(BackendError::Owned) => {
            log::info!(
                "the table is owned, so the kernel was not asked whether it would accept this"
            );
        }
        asked => asked?,
    }
    let old = Enforcer::ruleset(&observed).or_else(|| State::open().in_force_by_iptables());
    let is_first = !Enforcer::is_any_loaded(&observed);
    let which = revocation::which(is_first, ready.policy.options.cut_revoked, false);
    let refused = revocation::survey(old.as_ref(), &ready.ruleset, which);
    let others = foreign::find();
    if output.is_json() {
        let mut value = as_json(enforcer, &plan);
        value["foreign_drops"] = json!(others);
        value["connections"] = json!(refused);
        value["warnings"] = json!(ready.json_warnings());
        output.json(&value);
    } else {
        report::warnings(ready);
        others::warn(&others, output);
        if let Some(chosen) = enforcer.chosen() {
            output.text(&format!("{chosen}:\n"));
        }
        output.text(&as_text(&plan));
        output.text(&revocation::planned_text(&refused, is_first));
    }
    Ok(if plan.is_empty() { DONE } else { DIFFERS })
}

/// A plan for machines.
pub(super) fn as_json(enforcer: &Enforcer, plan: &impl Plan) -> Value {
    json!({
        "backend": enforcer.name(),
        "chosen": enforcer.chosen(),
        "changes": !plan.is_empty(),
        "rebuild": plan.rebuild(),
        "steps": plan.steps(),
    })
}

/// A plan in words and in the text of its backend.
fn as_text(plan: &impl Plan) -> String {
    if plan.is_empty() {
        return NOTHING_TO_DO.into();
    }
    let mut text = format!("{}:\n", plan.summary());
    for step in plan.steps() {
        text.push_str("  ");
        text.push_str(step.trim_end());
        text.push('\n');
    }
    text
}

/// The message where rules are as they should be.
pub(super) const NOTHING_TO_DO: &str = "no changes: the loaded rules match the policy\n";
