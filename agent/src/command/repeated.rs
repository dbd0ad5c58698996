//! An apply that repeats the last one: nothing that the rules depend on has changed, and neither
//! have the rules. It reads no policy and no rules.

use std::path::Path;

use peerwall_core::backend::BackendError;

use super::apply::Apply;
use super::{DONE, Given, others, plan, policy_path, report};
use crate::cli::ApplyArgs;
use crate::color::{self, Stream};
use crate::enforce::foreign;
use crate::enforce::nft::Kernel;
use crate::host::units;
use crate::json::{self, Applied, ApplyOutcome};
use crate::output::{Output, complain};
use crate::store::since::{self, MadeOf, Note};
use crate::store::{Entry, State};

/// Whether an apply with these options can be a repetition.
fn is_plain(args: &ApplyArgs) -> bool {
    let ApplyArgs {
        to,
        hold,
        insecure_permissions,
        verify,
        wish,
    } = args;
    let is_default = wish.confirm.is_none() && !wish.force && !wish.end_refused;
    let reads_doubtful = *insecure_permissions;
    is_default && to.backend.is_none() && verify.is_none() && !hold && !reads_doubtful
}

/// Repeats the last apply; `None` if anything changed, or may have.
pub(super) fn apply(args: &ApplyArgs, output: &Output) -> Option<u8> {
    if !is_plain(args) {
        return None;
    }
    let note = since::last().filter(|note| note.generation != 0 && !note.by_iptables)?;
    let path = policy_path(&args.to.policy.policy);
    let is_same = is_in_force(&note, &path).unwrap_or_else(|err| {
        log::debug!("{err}");
        false
    });
    let made_of = note.made_of.filter(|_| is_same)?;
    log::debug!("the policy, the host and the rules are those of the last apply");
    let foreign_drops = foreign::find();
    if !output.is_json() {
        let [plain, colored] = &made_of.texts;
        complain(match color::is_on(Stream::Stderr) {
            true => colored,
            false => plain,
        });
        output.text(plan::NOTHING_TO_DO);
        others::warn(&foreign_drops, output);
        return Some(DONE);
    }
    output.json(&Apply {
        applied: Applied {
            outcome: ApplyOutcome::Unchanged,
            policy: path.display().to_string(),
            backend: json::Backend::Nft,
            iptables: None,
            summary: None,
            changes: Vec::new(),
            confirm_seconds: None,
            connections: None,
            diagnostics: made_of.warnings,
        },
        foreign_drops,
        foreign_units: units::loaders(),
    });
    Some(DONE)
}

/// Whether the rules of this policy are loaded and confirmed. The kernel is asked last, so that
/// what another apply changes meanwhile is seen.
fn is_in_force(note: &Note, path: &Path) -> Result<bool, BackendError> {
    let Some(made_of) = &note.made_of else {
        return Ok(false);
    };
    let mut kernel = Kernel::open()?;
    // The inputs take longer.
    if kernel.generation()? != note.generation {
        return Ok(false);
    }
    let state = State::open();
    let is_settled = matches!(state.read_waiting(), Ok(None)) && state.block().is_none();
    let is_same = is_settled && state.has(&made_of.files) && made_of.inputs.are_those_of(path);
    Ok(is_same && kernel.generation()? == note.generation)
}

/// Records an apply that [`apply`] can repeat.
pub(super) fn record(args: &ApplyArgs, policy: &Given, entry: &Entry, generation: u32) {
    let Ok(ready) = &policy.read else { return };
    if !is_plain(args) || generation == 0 {
        return;
    }
    let inputs = policy.inputs.clone();
    let files = State::open().files_of(entry);
    if let Some((inputs, files)) = inputs.zip(files) {
        let made_of = MadeOf {
            inputs,
            files,
            warnings: ready.json_warnings(),
            texts: [false, true].map(|color| report::warning_text(ready, color)),
        };
        since::add_inputs(generation, made_of);
    }
}
