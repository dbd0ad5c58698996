//! `peerwall plan`

use peerwall_core::backend::{Backend as _, BackendError, Plan};
use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::import::meaning::Meaning;
use peerwall_core::nft::foreign::ForeignDrop;
use peerwall_core::ruleset::change::{self, Change, ChangeLine, LINES_SHOWN};
use schemars::JsonSchema;
use serde::Serialize;

use super::{DIFFERS, DONE, Given, count, meaning, others, refuse, report};
use crate::color::paint;
use crate::connections::revocation::{self, ConnectionGroup};
use crate::enforce::{Enforcer, foreign};
use crate::host::units;
use crate::json;
use crate::output::Output;
use crate::store::State;

/// Level of detail of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlanDetail {
    /// The changes in the words of the policy.
    Changes,
    /// Also the commands of nft or iptables.
    Commands,
}

/// Whether an apply would change the rules.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum PlanOutcome {
    /// The loaded rules match the policy.
    NoChanges,
    /// An apply would change the rules.
    Changes,
}

/// The result of `plan`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Plan")]
pub(super) struct PlanResult {
    /// Whether an apply would change the rules.
    outcome: PlanOutcome,
    /// Path of the policy.
    policy: String,
    /// The backend.
    backend: json::Backend,
    /// Variant of iptables; absent with nf_tables.
    iptables: Option<json::IptablesInfo>,
    /// Reason to rebuild the table, as a sentence; absent without a rebuild.
    rebuild: Option<String>,
    /// Summary of the changes; absent if there are none.
    summary: Option<String>,
    /// The changes in the words of the policy.
    changes: Vec<Change>,
    /// What the changes mean; absent if no rules of peerwall are loaded, or they cannot be read.
    meaning: Option<Meaning>,
    /// The commands of nft, or the input of iptables programs, in order.
    steps: Vec<String>,
    /// Open connections that the policy refuses, by kind.
    connections: Vec<ConnectionGroup>,
    /// Chains of other firewalls that drop packets that they do not accept.
    foreign_drops: Vec<ForeignDrop>,
    /// Enabled units that load other rules at boot.
    foreign_units: Vec<&'static str>,
    /// Warnings about the policy, and mismatches with this host.
    diagnostics: Vec<JsonDiagnostic>,
}

pub(super) fn run(
    enforcer: &mut Enforcer,
    policy: &Given,
    (detail, code_if_wider): (PlanDetail, Option<u8>),
    output: &Output,
) -> Result<u8, BackendError> {
    let ready = match &policy.read {
        Ok(ready) => ready,
        Err(why) => return Ok(refuse(why, output)),
    };
    report::many_rules(enforcer, ready, output);
    enforcer.expect(&ready.ruleset);
    let observed = enforcer.observe()?;
    let plan = enforcer.plan(Some(&ready.ruleset), &observed)?;
    match enforcer.check(&plan) {
        // Only the owner can ask the kernel whether it would accept the change.
        Err(BackendError::Owned) => {
            log::info!(
                "the table is owned, so the kernel was not asked whether it would accept this"
            );
        }
        asked => asked?,
    }
    let changes = enforcer.changes(Some(&ready.ruleset), &observed, &plan);
    let old = Enforcer::ruleset(&observed).or_else(|| State::open().in_force_by_iptables());
    let is_first = !Enforcer::is_any_loaded(&observed);
    let which = revocation::which(is_first, ready.policy.options.cut_revoked, false);
    let meaning = Enforcer::meaning(&ready.ruleset, &observed, &changes);
    // What cannot be compared can be wider.
    let is_wider = match &meaning {
        Some(meaning) => meaning.is_wider(),
        None => !is_first,
    };
    let code = match (plan.is_empty(), code_if_wider.filter(|_| is_wider)) {
        (_, Some(code)) => code,
        (true, None) => DONE,
        (false, None) => DIFFERS,
    };
    let refused = revocation::survey(old.as_ref(), &ready.ruleset, which);
    let others = foreign::find();
    if output.is_json() {
        output.json(&PlanResult {
            outcome: match plan.is_empty() {
                true => PlanOutcome::NoChanges,
                false => PlanOutcome::Changes,
            },
            policy: policy.path.display().to_string(),
            backend: enforcer.backend(),
            iptables: enforcer.iptables_json(),
            rebuild: plan.rebuild().map(str::to_owned),
            summary: (!plan.is_empty()).then(|| plan.summary()),
            changes,
            meaning,
            steps: plan.steps(),
            connections: refused,
            foreign_drops: others,
            foreign_units: units::loaders(),
            diagnostics: ready.json_warnings(),
        });
    } else {
        report::warnings(ready);
        others::warn(&others, output);
        if let Some(chosen) = enforcer.chosen() {
            output.text(&format!("{chosen}:\n"));
        }
        output.text(&as_text(&plan, &changes, detail));
        if let Some(meaning) = &meaning {
            output.text(&meaning::text(meaning));
        }
        output.text(&revocation::planned_text(&refused, is_first));
    }
    Ok(code)
}

/// Formats a plan: its changes and, if requested, the commands of its backend.
fn as_text(plan: &impl Plan, changes: &[Change], detail: PlanDetail) -> String {
    if plan.is_empty() {
        return NOTHING_TO_DO.into();
    }
    let most = match detail {
        PlanDetail::Changes => LINES_SHOWN,
        PlanDetail::Commands => usize::MAX,
    };
    let lines = change_lines(changes, most);
    let mut text = format!("{}:\n{lines}", count(changes.len(), "change"));
    text.push_str(&plan.summary());
    if detail == PlanDetail::Changes {
        text.push_str("; --nft shows the commands\n");
        return text;
    }
    text.push_str(":\n");
    for step in plan.steps() {
        text.push_str("  ");
        text.push_str(step.trim_end());
        text.push('\n');
    }
    text
}

/// Formats applied changes, in the words of the policy.
pub(super) fn applied_lines(changes: &[Change]) -> String {
    change_lines(changes, LINES_SHOWN)
}

pub(super) fn change_lines(changes: &[Change], most: usize) -> String {
    change::text(changes, most, |line: &ChangeLine| {
        paint(line.kind.into(), &line.to_string())
    })
}

/// Message if there is nothing to change.
pub(super) const NOTHING_TO_DO: &str = "no changes: the loaded rules match the policy\n";
