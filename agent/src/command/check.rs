//! `peerwall check`

use std::path::Path;

use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::policy::Discovery;
use peerwall_core::policy::load::{Discovered, Elsewhere};
use schemars::JsonSchema;
use serde::Serialize;

use super::{DONE, TROUBLE, count, refuse, report, trouble};
use crate::color::{self, Stream};
use crate::json::{ErrorCode, Failure};
use crate::output::Output;
use crate::policy_file::files::FileSystem;
use crate::policy_file::{LoadedPolicy, prepare};
use crate::secure_file;

/// Whether a policy can be applied.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CheckOutcome {
    /// It has no errors and meets its expectations.
    Valid,
}

/// The result of `check`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Check {
    /// Whether the policy can be applied; a policy with errors is a failure.
    outcome: CheckOutcome,
    /// Path of the policy.
    policy: String,
    /// Number of peers.
    peers: usize,
    /// Number of overlays.
    overlays: usize,
    /// Number of allows.
    allows: usize,
    /// Number of expectations.
    expectations: usize,
    /// Number of expectations that were not tested, because the pods' addresses are not known here.
    untested: usize,
    /// Number of compiled rules.
    rules: usize,
    /// Number of elements in the sets of these rules.
    set_elements: usize,
    /// Warnings about the policy, and mismatches with this host.
    diagnostics: Vec<JsonDiagnostic>,
}

impl Check {
    fn new(path: &Path, ready: &LoadedPolicy) -> Self {
        let policy = &ready.policy;
        Self {
            outcome: CheckOutcome::Valid,
            policy: path.display().to_string(),
            peers: policy.peer_count(),
            overlays: policy.overlays.len(),
            allows: policy.allows.len(),
            expectations: policy.expects.len(),
            untested: ready.untested,
            rules: rules(ready),
            set_elements: ready.ruleset.element_count(),
            diagnostics: ready.json_warnings(),
        }
    }
}

pub(super) fn run(path: &Path, discovered: Option<&Path>, output: &Output) -> u8 {
    let is_other_host = discovered.is_some();
    let discovered = match facts(discovered, "check", output) {
        Ok(discovered) => discovered,
        Err(code) => return code,
    };
    let files = FileSystem::default();
    let files = Elsewhere::new(&files, discovered);
    let mut ready = match prepare(path, &files) {
        Ok(ready) => ready,
        Err(why) => return refuse(&why, output),
    };
    ready.compare_with_host(&files);
    if !is_other_host {
        ready.look_for_route_localnet();
    }
    ready.look_for_permissions();
    if output.is_json() {
        output.json(&Check::new(path, &ready));
        return DONE;
    }
    report::warnings(&ready);
    output.text(&text(path, &ready));
    DONE
}

/// Reasons why a file of discovered facts cannot be used.
enum Wrong {
    Unread(String),
    /// Its errors.
    Content(String, Vec<JsonDiagnostic>),
}

fn read(path: &Path) -> Result<Discovered, Wrong> {
    let read = secure_file::text(path).map_err(|err| Wrong::Unread(err.to_string()))?;
    Discovered::parse(&read.name, &read.text).map_err(|(sources, diagnostics)| {
        let text = sources.render(&diagnostics, color::is_on(Stream::Stderr));
        Wrong::Content(text, diagnostics.iter().map(|d| sources.json(d)).collect())
    })
}

/// Reads what `discover` finds on another host.
///
/// # Errors
/// The exit code, after a report.
pub(super) fn facts(
    path: Option<&Path>,
    doing: &str,
    output: &Output,
) -> Result<Option<Discovered>, u8> {
    match path.map(read).transpose() {
        Ok(discovered) => Ok(discovered),
        Err(Wrong::Unread(why)) => {
            let why = Failure::new(ErrorCode::InputUnreadable, why);
            Err(trouble(doing, why, output))
        }
        Err(Wrong::Content(text, diagnostics)) => {
            let failure = Failure {
                diagnostics,
                ..Failure::new(
                    ErrorCode::InputInvalid,
                    "the file of --discovered has errors",
                )
            };
            output.failure(&failure, &text);
            Err(TROUBLE)
        }
    }
}

fn rules(ready: &LoadedPolicy) -> usize {
    let chains = ready.ruleset.chains.iter();
    chains.map(|chain| chain.rules.len()).sum()
}

fn text(path: &Path, ready: &LoadedPolicy) -> String {
    let policy = &ready.policy;
    let expectations = policy.expects.len();
    let met = count(expectations.saturating_sub(ready.untested), "expectation");
    let untested = match ready.untested {
        0 => String::new(),
        untested => format!(", {untested} not tested"),
    };
    let mut text = format!(
        "{}: ok. {}, {}, {}; {met} met{untested}. It makes {} and {}.\n",
        path.display(),
        count(policy.peer_count(), "peer"),
        count(policy.overlays.len(), "overlay"),
        count(policy.allows.len(), "allow"),
        count(rules(ready), "rule"),
        count(ready.ruleset.element_count(), "set element"),
    );
    for overlay in &policy.overlays {
        if let Discovery::Awaited(paths) = &overlay.discovery {
            text.push_str(&format!(
                "not known here: the pods of overlay {} ({})\n",
                overlay.name,
                paths.join(", ")
            ));
        }
    }
    text
}
