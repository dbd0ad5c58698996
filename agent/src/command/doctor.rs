//! `peerwall doctor`

use peerwall_core::backend::BackendError;
use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::doctor::{Finding, findings};
use peerwall_core::nft::foreign::ForeignDrop;
use schemars::JsonSchema;
use serde::Serialize;

use super::{DIFFERS, DONE, Given, others, refuse, report};
use crate::color::{Meaning, paint};
use crate::control;
use crate::enforce::{Enforcer, foreign};
use crate::host;
use crate::host::settings;
use crate::host::units;
use crate::output::Output;

/// Whether something was found.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Health {
    /// Nothing.
    Well,
    /// Something.
    Findings,
}

/// The result of `doctor`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Doctor")]
pub(super) struct Examination {
    /// Whether something was found.
    outcome: Health,
    /// Path of the policy.
    policy: String,
    /// Settings of this host and of peerwall.
    findings: Vec<Finding>,
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
    output: &Output,
) -> Result<u8, BackendError> {
    let ready = match &policy.read {
        Ok(ready) => ready,
        Err(why) => return Ok(refuse(why, output)),
    };
    let host = host::read_or_empty();
    let mut settings = settings::read(&host);
    settings.is_loaded = Some(enforcer.is_any_loaded_now()?);
    settings.has_agent = control::is_there();
    let found = findings(&ready.policy, &settings);
    let drops = foreign::find();
    let units = units::loaders();
    let diagnostics = ready.json_warnings();
    let is_well =
        found.is_empty() && drops.is_empty() && units.is_empty() && diagnostics.is_empty();
    if output.is_json() {
        output.json(&Examination {
            outcome: if is_well {
                Health::Well
            } else {
                Health::Findings
            },
            policy: policy.path.display().to_string(),
            findings: found,
            foreign_drops: drops,
            foreign_units: units,
            diagnostics,
        });
    } else {
        report::warnings(ready);
        others::warn(&drops, output);
        output.text(&text(&found, is_well));
    }
    Ok(if is_well { DONE } else { DIFFERS })
}

fn text(found: &[Finding], is_well: bool) -> String {
    let mut text = String::new();
    for each in found {
        let (meaning, word) = match each.is_problem {
            true => (Meaning::Bad, "problem"),
            false => (Meaning::Attention, "note"),
        };
        text.push_str(&format!(
            "{}: {}\n  why: {}\n  do:  {}\n",
            paint(meaning, word),
            each.message,
            each.why,
            each.help
        ));
    }
    if is_well {
        text.push_str("nothing found: no setting or program on this host is in the policy's way\n");
    }
    text
}
