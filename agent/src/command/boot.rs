//! `peerwall boot`

use std::path::Path;

use peerwall_core::agent::keep::{self, Booted, Fault, World as _};
use peerwall_core::policy::BackendChoice;
use schemars::JsonSchema;
use serde::Serialize;

use super::{DONE, TROUBLE};
use crate::json::{self, ErrorCode, Failure};
use crate::output::{Output, complain};
use crate::policy_file::files::FileSystem;
use crate::policy_file::prepare;
use crate::store::audit::Who;
use crate::store::{self, Entry, Kept, State};
use crate::system::journal;
use crate::trial::Keeper;
use crate::trial::alone::Alone;
use crate::trial::closed;

/// Compiles the current policy, for a host without a confirmed ruleset.
fn read(policy: &Path) -> Result<Kept, Fault> {
    // The agent starts next, and waits for discovered facts.
    let ready = prepare(policy, &FileSystem::waiting()).map_err(|why| Fault {
        is_passing: why.is_passing,
        ..Fault::new(why.text.trim_end())
    })?;
    ready.check_permissions().map_err(Fault::new)?;
    let by_iptables = ready.policy.options.backend == BackendChoice::Iptables;
    State::open().store_text(&ready.digest, &ready.text);
    let cut = ready.policy.options.cut_revoked;
    Ok(Kept {
        entry: store::entry(policy, &ready.digest, by_iptables, cut),
        ruleset: ready.ruleset,
    })
}

/// Names the backend if it is iptables.
fn by(entry: &Entry) -> &'static str {
    match entry.by_iptables {
        true => ", by iptables",
        false => "",
    }
}

/// Source of the ruleset that was loaded at boot.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum BootOutcome {
    /// The last confirmed ruleset that could be loaded.
    Confirmed,
    /// The policy, because no confirmed ruleset could be loaded.
    Policy,
}

/// The result of `boot`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Boot {
    /// Source of the loaded ruleset.
    outcome: BootOutcome,
    /// Number of the ruleset in the history.
    number: u64,
    /// Time at which it came into force, as RFC 3339.
    time: String,
    /// Path of its policy.
    policy: String,
    /// The backend.
    backend: json::Backend,
    /// Failures to load or record a ruleset, as sentences.
    problems: Vec<String>,
}

impl Boot {
    fn new(outcome: BootOutcome, entry: Entry, problems: Vec<String>) -> Self {
        Self {
            outcome,
            number: entry.number,
            time: entry.time,
            policy: entry.policy,
            backend: json::Backend::of(entry.by_iptables),
            problems,
        }
    }
}

pub(super) fn run(policy: &Path, output: &Output) -> u8 {
    let Some(closed) = closed::closed() else {
        return TROUBLE;
    };
    let state = State::open();
    // A lock that cannot be acquired must not leave a host open.
    let _lock = state
        .lock()
        .map_err(|err| complain(&format!("warning: {err}\n")));
    let mut keeper = Keeper {
        state: &state,
        loader: Alone::default(),
        who: Who::process("boot"),
    };
    let boot = keep::boot(&mut keeper, |_| read(policy), &closed);
    let is_good = matches!(boot.booted, Booted::Confirmed(_) | Booted::Policy(_));
    if !output.is_json() {
        for problem in &boot.problems {
            let severity = if is_good { "warning" } else { "error" };
            complain(&format!("{severity}: {problem}\n"));
        }
    }
    match boot.booted {
        // The event is in the log already, with its fields.
        Booted::Confirmed(_) | Booted::Policy(_) if journal::is_stderr() => DONE,
        Booted::Confirmed(entry) => {
            let text = format!(
                "loaded number {} of {}, from {}{}\n",
                entry.number,
                entry.time,
                entry.policy,
                by(&entry)
            );
            print(
                Boot::new(BootOutcome::Confirmed, entry, boot.problems),
                &text,
                output,
            )
        }
        Booted::Policy(entry) => {
            let text = format!(
                "nothing that was confirmed could be loaded; applied {}{}\n",
                entry.policy,
                by(&entry)
            );
            print(
                Boot::new(BootOutcome::Policy, entry, boot.problems),
                &text,
                output,
            )
        }
        Booted::Closed => failed(
            ErrorCode::HostClosed,
            "nothing that was confirmed and no policy could be loaded: this host is closed now, \
             except for the safe core and ssh; repair the policy, then `peerwall apply`"
                .to_owned(),
            &boot.problems,
            output,
        ),
        Booted::Nothing => failed(
            ErrorCode::HostOpen,
            format!(
                "not even the closed ruleset could be loaded: this host is as open as its other \
                 tables leave it (boot {})",
                keeper.clock().boot
            ),
            &boot.problems,
            output,
        ),
    }
}

fn print(boot: Boot, text: &str, output: &Output) -> u8 {
    match output.is_json() {
        true => output.json(&boot),
        false => output.text(text),
    }
    DONE
}

fn failed(code: ErrorCode, why: String, problems: &[String], output: &Output) -> u8 {
    let text = format!("error: {why}\n");
    let message = std::iter::once(&why).chain(problems);
    let message: Vec<&str> = message.map(String::as_str).collect();
    output.failure(&Failure::new(code, message.join("; ")), &text);
    TROUBLE
}
