//! `peerwall apply`

use peerwall_core::agent::keep::Fault;
use peerwall_core::backend::{Backend as _, BackendError, Plan};
use peerwall_core::nft::foreign::ForeignDrop;
use peerwall_core::ruleset::change::Change;
use schemars::JsonSchema;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::applying::{self, Put};
use super::{DONE, Given, TROUBLE, keep, others, plan, refuse, repeated, report, trouble};
use crate::cli::ApplyArgs;
use crate::connections::loading::{ConnectionsReport, Loading};
use crate::enforce::converge::{Converged, converge};
use crate::enforce::nft::Claim;
use crate::enforce::{Enforcer, foreign, switch};
use crate::host::caller::Caller;
use crate::host::units;
use crate::json::{self, Applied, ApplyOutcome, Failure};
use crate::output::{Output, complain};
use crate::policy_file::LoadedPolicy;
use crate::store::{Kept, State, since};
use crate::trial::alone::Alone;
use crate::trial::{Loader, before, of_backend, words};

/// The result of `apply` and `reload`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Apply {
    /// Outcome, with or without an agent.
    #[serde(flatten)]
    pub(super) applied: Applied,
    /// Chains of other firewalls that drop packets that they do not accept.
    pub(super) foreign_drops: Vec<ForeignDrop>,
    /// Enabled units that load other rules at boot.
    pub(super) foreign_units: Vec<&'static str>,
}

/// Outcome of `remove`.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RemoveOutcome {
    /// The rules were removed.
    Removed,
    /// No rules were loaded.
    NothingLoaded,
}

/// The result of `remove`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Remove {
    /// The outcome.
    outcome: RemoveOutcome,
    /// The backend whose rules were removed.
    backend: json::Backend,
    /// Variant of iptables; absent with nf_tables.
    iptables: Option<json::IptablesInfo>,
}

pub(super) fn run(
    enforcer: &mut Enforcer,
    policy: &Given,
    args: &ApplyArgs,
    output: &Output,
) -> Result<u8, BackendError> {
    let ready = match &policy.read {
        Ok(ready) => ready,
        Err(why) => return Ok(refuse(why, output)),
    };
    // Registered before the table is owned, so that no signal is missed afterwards.
    let signals = match args
        .hold
        .then(|| Signals::new([SIGINT, SIGTERM, SIGHUP]))
        .transpose()
    {
        Ok(signals) => signals,
        Err(err) => return Ok(trouble("apply", Failure::io(err), output)),
    };
    if let (true, Enforcer::Nft(kernel)) = (args.hold, &mut *enforcer) {
        kernel.claim_table(Claim::Own);
    }
    report::many_rules(enforcer, ready, output);
    let caller = Caller::here();
    if let Err(why) = keep::lockout(ready, &args.wish, &caller) {
        return Ok(trouble("apply", why, output));
    }
    let was_by_iptables = since::by_iptables();
    let is_first = !enforcer.is_any_loaded_now()?;
    // With nf_tables, the loaded ruleset is read when it is changed.
    let old = match enforcer.is_iptables() {
        true => before::in_force().0,
        false => State::open().in_force_by_iptables(),
    };
    let mut loading = Loading::new(is_first, old);
    let kept = keep::kept(&policy.path, ready, enforcer.is_iptables());
    let mut loader = Direct {
        enforcer,
        first: None,
        changes: Vec::new(),
    };
    let was_loaded = |loader: &Direct<'_>| matches!(loader.first, Some(Ok(_)));
    let applied = applying::apply(&mut loader, was_loaded, &kept, &args.wish, &caller, output);
    let is_kept = matches!(applied, Put::Done);
    let (first, changes) = (loader.first, loader.changes);
    let converged = match (applied, first) {
        (Put::Done | Put::NotKept, Some(Ok(converged))) => converged,
        (_, Some(Err(err))) => return Err(err),
        (Put::NotLoaded(refusal) | Put::Refused(refusal), _) => {
            return Ok(trouble("apply", refusal, output));
        }
        (Put::Done | Put::NotKept, None) => return Ok(TROUBLE),
    };
    if !output.is_json() {
        report::warnings(ready);
    }
    if args.wish.confirm.is_none()
        && let Err(err) = State::open().end_temporary()
    {
        log::warn!("the list of temporary peers is not up to date: {err}");
    }
    let is_switched = was_by_iptables != enforcer.is_iptables();
    let generation = enforcer.known_at();
    match is_switched || enforcer.is_iptables() || !converged.plan.is_empty() {
        true => {
            let policy = &kept.entry.policy;
            switch::complete(enforcer.is_iptables(), policy, &ready.ruleset, generation);
        }
        false => since::unchanged(generation, &ready.ruleset),
    }
    if is_kept && !enforcer.is_iptables() {
        repeated::record(args, policy, &kept.entry, generation);
    }
    loading.was(Enforcer::ruleset(&converged.before));
    let told = loading.finish(ready, &args.wish);
    let done = (&converged.plan, changes);
    print(enforcer, done, policy, args, told, output);
    if let Some(seconds) = args.wish.confirm.filter(|_| !output.is_json()) {
        output.text(&format!("{}\n", words::tried(seconds)));
    }
    if let Some(mut signals) = signals {
        return Ok(wait(enforcer, &mut signals, output));
    }
    Ok(DONE)
}

/// Loads by one backend, and records the result of the first load.
struct Direct<'e> {
    enforcer: &'e mut Enforcer,
    first: Option<Result<Converged<Enforcer>, BackendError>>,
    /// Changes of the first load, in the words of the policy.
    changes: Vec<Change>,
}

impl Loader for Direct<'_> {
    fn load(&mut self, kept: &Kept) -> Result<(), Fault> {
        // A trial is rolled back to the ruleset of the other backend.
        if kept.entry.by_iptables != self.enforcer.is_iptables() {
            return Alone::default().load(kept);
        }
        let result = converge(self.enforcer, Some(&kept.ruleset));
        let fault = result.as_ref().err().map(of_backend);
        if let (None, Ok(Converged { before, plan })) = (&self.first, &result) {
            // Computed now, because later the record of the last apply is about this one.
            self.changes = self.enforcer.changes(Some(&kept.ruleset), before, plan);
        }
        self.first.get_or_insert(result);
        fault.map_or(Ok(()), Err)
    }

    fn unload(&mut self) -> Result<bool, Fault> {
        let result = converge(self.enforcer, None);
        let done = result.as_ref().map(|done| !done.plan.is_empty());
        let done = done.map_err(of_backend);
        self.first.get_or_insert(result);
        done
    }

    fn change(&mut self) -> Option<String> {
        let converged = self.first.as_ref()?.as_ref().ok()?;
        (!converged.plan.is_empty()).then(|| converged.plan.summary())
    }
}

fn print(
    enforcer: &Enforcer,
    (plan, changes): (&impl Plan, Vec<Change>),
    policy: &Given,
    args: &ApplyArgs,
    told: ConnectionsReport,
    output: &Output,
) {
    let foreign_drops = foreign::find();
    let confirm_seconds = args.wish.confirm;
    if output.is_json() {
        let ready = policy.read.as_ref().ok();
        let applied = Applied {
            outcome: match (confirm_seconds, plan.is_empty()) {
                (Some(_), _) => ApplyOutcome::OnTrial,
                (None, true) => ApplyOutcome::Unchanged,
                (None, false) => ApplyOutcome::Applied,
            },
            policy: policy.path.display().to_string(),
            backend: enforcer.backend(),
            iptables: enforcer.iptables_json(),
            summary: (!plan.is_empty()).then(|| plan.summary()),
            changes,
            confirm_seconds,
            connections: told.json,
            diagnostics: ready.map_or_else(Vec::new, LoadedPolicy::json_warnings),
        };
        return output.json(&Apply {
            applied,
            foreign_drops,
            foreign_units: units::loaders(),
        });
    }
    if let Some(chosen) = enforcer.chosen() {
        output.text(&format!("{chosen}:\n"));
    }
    match plan.is_empty() {
        true => output.text(plan::NOTHING_TO_DO),
        false => output.text(&format!(
            "applied: {}\n{}",
            plan.summary(),
            plan::applied_lines(&changes)
        )),
    }
    output.text(&told.text);
    others::warn(&foreign_drops, output);
}

/// Waits for a signal. The socket, and with it the ownership, stays open until then.
fn wait(enforcer: &Enforcer, signals: &mut Signals, output: &Output) -> u8 {
    let Enforcer::Nft(kernel) = enforcer else {
        return TROUBLE;
    };
    if kernel.can_hold() == Some(false) {
        complain(
            "warning: this kernel cannot lock a table (owner and persist need Linux 6.9); others \
             can change it\n",
        );
    } else if !output.is_json() {
        output.text(
            "holding the table inet peerwall; ends with SIGINT or SIGTERM, and leaves the rules\n",
        );
    }
    match signals.forever().next() {
        Some(_) => DONE,
        None => TROUBLE,
    }
}

/// `peerwall remove`
pub(super) fn remove(enforcer: &mut Enforcer, output: &Output) -> Result<u8, BackendError> {
    let mut loader = Direct {
        enforcer,
        first: None,
        changes: Vec::new(),
    };
    let removed = applying::remove(&mut loader);
    let converged = match (removed, loader.first) {
        (_, Some(result)) => result?,
        (Err(refusal), None) => return Ok(trouble("remove", refusal, output)),
        (Ok(()), None) => return Ok(TROUBLE),
    };
    since::forget();
    if output.is_json() {
        output.json(&Remove {
            outcome: match converged.plan.is_empty() {
                true => RemoveOutcome::NothingLoaded,
                false => RemoveOutcome::Removed,
            },
            backend: enforcer.backend(),
            iptables: enforcer.iptables_json(),
        });
        return Ok(DONE);
    }
    let what = match enforcer {
        Enforcer::Nft(_) => "the table inet peerwall".to_owned(),
        Enforcer::Iptables(iptables) => format!("peerwall's chains from {}", iptables.describe()),
    };
    match converged.plan.is_empty() {
        true => output.text(&format!("no changes: {what}: not there\n")),
        false => output.text(&format!(
            "removed {what}; this host is now as open as its other rules leave it\n"
        )),
    }
    Ok(DONE)
}
