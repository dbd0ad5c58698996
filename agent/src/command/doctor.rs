//! `peerwall doctor`

use peerwall_core::backend::BackendError;
use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::doctor::hooks::{HookChain, text as hooks_text};
use peerwall_core::doctor::{Finding, LogTrouble, findings};
use peerwall_core::nft::foreign::{Engine, ForeignDrop};
use schemars::JsonSchema;
use serde::Serialize;

use super::{DIFFERS, DONE, Given, on_host, others, refuse, report};
use crate::cli::DoctorArgs;
use crate::color::{Meaning, paint};
use crate::control;
use crate::enforce::{Enforcer, foreign, hooks};
use crate::host;
use crate::host::settings;
use crate::host::units;
use crate::json::LogReader;
use crate::output::{Output, complain};

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
    /// Base chains of all programs, in the order in which a packet passes them.
    hooks: Vec<HookChain>,
}

pub(super) fn command(args: &DoctorArgs) -> u8 {
    let of = &args.of;
    on_host(of, of.backend, "doctor", |enforcer, policy, output| {
        run(enforcer, policy, args.hooks, output)
    })
}

fn run(
    enforcer: &mut Enforcer,
    policy: &Given,
    with_hooks: bool,
    output: &Output,
) -> Result<u8, BackendError> {
    let ready = match &policy.read {
        Ok(ready) => ready,
        Err(why) => return Ok(refuse(why, output)),
    };
    let host = host::read_or_empty();
    let mut settings = settings::read(&host);
    let is_loaded = enforcer.is_any_loaded_now()?;
    settings.is_loaded = Some(is_loaded);
    settings.has_agent = control::is_there();
    settings.log_trouble = log_trouble();
    let found = findings(&ready.policy, &settings);
    let drops = foreign::find();
    let units = units::loaders();
    let diagnostics = ready.json_warnings();
    let (hooks, unread) = hooks::find(called_by(enforcer).filter(|_| is_loaded));
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
            hooks,
        });
    } else {
        report::warnings(ready);
        others::warn(&drops, output);
        output.text(&text(&found, is_well));
        if let Some(err) = unread.filter(|_| with_hooks) {
            complain(&format!(
                "warning: chains of nf_tables are missing in the list: {err}\n"
            ));
        }
        if with_hooks {
            output.text(&format!("\n{}", hooks_text(&hooks)));
        }
    }
    Ok(if is_well { DONE } else { DIFFERS })
}

/// Asks the agent why it does not read the log of denied packets.
fn log_trouble() -> Option<LogTrouble> {
    match control::status()?.log_reader? {
        LogReader::Left => Some(LogTrouble::Left),
        LogReader::Other(why) => Some(LogTrouble::Other(why)),
        LogReader::Agent | LogReader::Command | LogReader::Off => None,
    }
}

/// Returns the variant of iptables that calls peerwall's chains, if the backend is iptables.
fn called_by(enforcer: &Enforcer) -> Option<Engine> {
    let info = enforcer.iptables_json()?;
    Some(match info.program.contains("legacy") {
        true => Engine::IptablesLegacy,
        false => Engine::IptablesNft,
    })
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
