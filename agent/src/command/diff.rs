//! `peerwall diff`

use std::path::Path;

use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::import::meaning::{Meaning, meaning};
use peerwall_core::policy::load::Elsewhere;
use peerwall_core::ruleset::change::{Change, LINES_SHOWN, changes};
use schemars::JsonSchema;
use serde::Serialize;

use super::{DIFFERS, DONE, WIDER, check, count, meaning as words, plan, refuse, report};
use crate::cli::DiffArgs;
use crate::output::Output;
use crate::policy_file::files::FileSystem;
use crate::policy_file::{LoadedPolicy, prepare};

/// Whether two policies differ.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum DiffOutcome {
    /// Both make the same rules.
    Same,
    /// The rules differ.
    Different,
}

/// The result of `diff`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Diff")]
pub(super) struct PolicyDiff {
    /// Whether the policies differ.
    outcome: DiffOutcome,
    /// Path of the old policy.
    old: String,
    /// Path of the new policy.
    new: String,
    /// The changes in the words of the policy.
    changes: Vec<Change>,
    /// What the changes mean.
    meaning: Meaning,
    /// Warnings about the new policy.
    diagnostics: Vec<JsonDiagnostic>,
}

pub(super) fn run(args: &DiffArgs, output: &Output) -> u8 {
    let discovered = match check::facts(args.discovered.as_deref(), "diff", output) {
        Ok(discovered) => discovered,
        Err(code) => return code,
    };
    let files = FileSystem::default();
    let files = Elsewhere::new(&files, discovered);
    let read = |path: &Path| prepare(path, &files);
    let (old, new) = match (read(&args.old), read(&args.new)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(why), _) | (_, Err(why)) => return refuse(&why, output),
    };
    let found = PolicyDiff::new(args, &old, &new);
    let code = match found.outcome {
        _ if args.exit_if_wider && found.meaning.is_wider() => WIDER,
        DiffOutcome::Same => DONE,
        DiffOutcome::Different => DIFFERS,
    };
    if output.is_json() {
        output.json(&found);
    } else {
        report::warnings(&new);
        output.text(&found.text());
    }
    code
}

impl PolicyDiff {
    fn new(args: &DiffArgs, old: &LoadedPolicy, new: &LoadedPolicy) -> Self {
        Self {
            outcome: match old.ruleset == new.ruleset {
                true => DiffOutcome::Same,
                false => DiffOutcome::Different,
            },
            old: args.old.display().to_string(),
            new: args.new.display().to_string(),
            changes: changes(Some(&old.ruleset), Some(&new.ruleset)),
            meaning: meaning(&old.ruleset, &new.ruleset),
            diagnostics: new.json_warnings(),
        }
    }

    fn text(&self) -> String {
        match self.outcome {
            DiffOutcome::Same => "no changes: both policies make the same rules\n".to_owned(),
            DiffOutcome::Different => {
                let lines = plan::change_lines(&self.changes, LINES_SHOWN);
                let meaning = match (words::text(&self.meaning), self.meaning.access.is_empty()) {
                    (text, false) => text,
                    (text, true) => format!("{text}  no packet is accepted by one of them only\n"),
                };
                let changes = count(self.changes.len(), "change");
                format!("{changes}:\n{lines}What they mean:\n{meaning}")
            }
        }
    }
}
