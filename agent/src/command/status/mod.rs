//! `peerwall status`

mod blocked;
pub(super) mod counters;
mod headline;
mod text;
pub(super) mod watch;

use peerwall_core::agent::keep::Kind;
use peerwall_core::backend::{Backend as _, BackendError, Plan as _};
use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::nft::foreign::ForeignDrop;
use peerwall_core::nft::observed::Ownership;
use peerwall_core::policy::Mode;
use peerwall_core::ruleset::Ruleset;
use schemars::JsonSchema;
use serde::Serialize;

use self::counters::{Line, counters, counters_of_both, lines};
use self::headline::{Blocked, Facts, HostState, Trial};
use self::watch::{CounterKey, Readings};
use super::{DIFFERS, DONE, Given, on_host, others};
use crate::cli::{BackendArgs, StatusArgs};
use crate::command::age;
use crate::control::{self, Answer, Reply};
use crate::enforce::{AnyObserved, Enforcer, foreign};
use crate::host::{names, units};
use crate::json::{self, AgentStatus, ErrorCode, Failure};
use crate::output::Output;
use crate::store::audit::{self, AuditEvent};
use crate::store::since;
use crate::store::{self, State};
use crate::trial::closed;

/// Output of `status`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Status {
    /// The state of this host.
    state: HostState,
    /// The state in a sentence.
    pub(super) headline: String,
    /// The backend.
    backend: json::Backend,
    /// Variant of iptables; absent with nf_tables.
    iptables: Option<json::IptablesInfo>,
    /// The backend as text.
    #[serde(skip)]
    chosen: Option<String>,
    /// Whether peerwall's rules are loaded.
    loaded: bool,
    /// Whether they match the policy; absent if the policy has errors.
    in_sync: Option<bool>,
    /// Whether the loaded rules let pass what the policy denies; absent if that is not known.
    audit: Option<bool>,
    /// Number of steps that `apply` would take.
    pending_steps: Option<usize>,
    /// The kernel's generation of rules.
    generation: Option<u32>,
    /// The last apply, and whether the rules have changed since.
    applied: Option<LastApply>,
    /// Owner of the table.
    owner: Option<Owner>,
    /// Whether the table outlives its owner.
    persist: bool,
    /// Path of the policy.
    policy: String,
    /// Why the policy cannot be applied.
    policy_error: Option<json::Error>,
    /// Errors and warnings about the policy, and mismatches with this host.
    diagnostics: Vec<JsonDiagnostic>,
    /// Chains of other firewalls that drop packets that they do not accept.
    foreign_drops: Vec<ForeignDrop>,
    /// Enabled units that load other rules at boot.
    foreign_units: Vec<&'static str>,
    /// Packets by reason.
    pub(super) counters: Vec<Line>,
    /// The agent's own status, if one runs.
    pub(super) agent: Option<AgentStatus>,
    /// Why a running agent has no status.
    pub(super) agent_error: Option<json::Error>,
    /// The block, if the host is blocked.
    blocked: Option<Blocked>,
    /// The trial that waits to be confirmed.
    trial: Option<Trial>,
    /// The trial or policy that was rolled back, if nothing was applied since.
    rolled_back: Option<json::Event>,
    /// The event of the rollback, for the text.
    #[serde(skip)]
    rollback: Option<AuditEvent>,
}

/// The last apply.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LastApply")]
struct LastApply {
    /// Time, as RFC 3339.
    time: String,
    /// Path of the policy.
    policy: String,
    /// Whether the rules are unchanged since; absent if not known.
    unchanged_since: Option<bool>,
}

/// Owner of the table.
#[derive(Debug, Serialize, JsonSchema)]
struct Owner {
    /// Netlink port id; the process id for the first socket of a process.
    port: u32,
    /// Name of the process with that id, if one runs.
    process: Option<String>,
}

/// The loaded rules, of either backend.
struct Loaded {
    backend: json::Backend,
    iptables: Option<json::IptablesInfo>,
    chosen: Option<String>,
    is_loaded: bool,
    is_closed: bool,
    audit: Option<bool>,
    block: Option<Blocked>,
    pending_steps: Option<usize>,
    generation: Option<u32>,
    /// Whether the rules have not changed since the last apply.
    is_unchanged: Option<bool>,
    hold: Ownership,
    counters: Vec<(String, u64, u64)>,
}

/// Level of detail of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusDetail {
    /// Only the first line.
    Headline,
    /// Without counters that are zero.
    Usual,
    /// All details.
    All,
}

/// How to find the elements of large sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    /// Read from the kernel, unless it is proven that none has changed since the last load.
    Known,
    /// Read from the kernel in any case.
    Read,
}

/// Prints the status once, or repeatedly.
pub(super) fn command(args: &StatusArgs) -> u8 {
    let of = &args.of;
    let detail = match args.all {
        true => StatusDetail::All,
        false => StatusDetail::Usual,
    };
    let elements = match args.deep {
        true => Elements::Read,
        false => Elements::Known,
    };
    if !args.watch {
        return show(of, (detail, elements), None);
    }
    let mut rates = Readings::new();
    watch::run(of.policy.output.json, || {
        show(of, (detail, elements), Some(&mut rates))
    })
}

/// Prints only the first line.
pub(super) fn headline(of: &BackendArgs) {
    show(of, (StatusDetail::Headline, Elements::Known), None);
}

/// Prints the status once; with `rates`, also packets per second.
fn show(
    of: &BackendArgs,
    (detail, elements): (StatusDetail, Elements),
    mut rates: Option<&mut Readings>,
) -> u8 {
    on_host(of, of.backend, "status", |enforcer, policy, output| {
        let status = read(enforcer, policy, elements)?;
        Ok(report(
            policy,
            &status,
            detail,
            rates.as_deref_mut(),
            output,
        ))
    })
}

/// Reads the status.
///
/// # Errors
/// [`BackendError`] if the loaded rules cannot be read.
pub(super) fn read(
    enforcer: &mut Enforcer,
    policy: &Given,
    elements: Elements,
) -> Result<Status, BackendError> {
    let ready = policy.read.as_ref().ok();
    if let (Elements::Known, Some(ready)) = (elements, ready) {
        enforcer.expect(&ready.ruleset);
    }
    let observed = enforcer.observe()?;
    let steps = |ruleset: &Ruleset| match enforcer.plan(Some(ruleset), &observed) {
        Ok(plan) => Ok(Some(plan.step_count())),
        // A policy that cannot be expressed is not loaded.
        Err(BackendError::Unsupported(_)) => Ok(None),
        Err(err) => Err(err),
    };
    let closed = closed::closed();
    let closed = closed.map(|closed| steps(&closed.ruleset)).transpose()?;
    let block = blocked::find(&State::open());
    let block = block.map(|(found, ruleset)| {
        let steps = ruleset.map(|ruleset| steps(&ruleset)).transpose()?;
        Ok::<_, BackendError>(Blocked {
            loaded: steps.flatten() == Some(0),
            ..found
        })
    });
    let block = block.transpose()?;
    let pending_steps = ready.map(|ready| steps(&ready.ruleset)).transpose()?;
    let ruleset = Enforcer::ruleset(&observed);
    let loaded = Loaded {
        backend: enforcer.backend(),
        iptables: enforcer.iptables_json(),
        chosen: enforcer.chosen(),
        is_loaded: Enforcer::is_loaded(&observed),
        is_closed: closed.flatten() == Some(0),
        audit: match &observed {
            AnyObserved::Nft(_) => ruleset.as_ref().map(is_audit),
            // iptables' rules are read only as far as they are those of the policy.
            AnyObserved::Iptables(_) => ready
                .filter(|_| pending_steps.flatten() == Some(0))
                .map(|ready| is_audit(&ready.ruleset)),
        },
        block,
        pending_steps: pending_steps.flatten(),
        generation: enforcer.generation()?,
        is_unchanged: match &observed {
            AnyObserved::Nft(_) => since::last()
                .and_then(|note| Some(note.content? == since::digest(ruleset.as_ref()?))),
            AnyObserved::Iptables(_) => None,
        },
        hold: match &observed {
            AnyObserved::Nft(seen) => seen.table.as_ref().map(|table| table.hold),
            AnyObserved::Iptables(_) => None,
        }
        .unwrap_or_default(),
        counters: match &observed {
            AnyObserved::Nft(seen) => seen.table.as_ref().map_or_else(Vec::new, counters),
            AnyObserved::Iptables(seen) => counters_of_both(seen),
        },
    };
    Ok(status(policy, loaded))
}

fn is_audit(ruleset: &Ruleset) -> bool {
    ruleset.mode() != Mode::Enforce
}

fn report(
    policy: &Given,
    status: &Status,
    detail: StatusDetail,
    rates: Option<&mut Readings>,
    output: &Output,
) -> u8 {
    match output.is_json() {
        true => output.json(status),
        false => {
            let why = policy.read.as_ref().err().map(|why| &**why);
            let rates = rates.and_then(|readings| readings.update(&status.counters));
            output.text(&text::status(status, why, detail, rates.as_ref()));
            policy.warn_of_misfits(output);
        }
    }
    match status.in_sync {
        Some(true) => DONE,
        Some(false) | None => DIFFERS,
    }
}

fn status(policy: &Given, loaded: Loaded) -> Status {
    let ready = policy.read.as_ref().ok();
    let state = State::open();
    let path = policy.path.display().to_string();
    let failure = policy.read.as_ref().err().map(|why| Failure::from(&**why));
    let policy_error = failure
        .as_ref()
        .map(|failure| failure.error.message.as_str());
    let foreign_drops = foreign::find();
    let (agent, agent_error) = agent();
    let trial = trial(&state);
    let applied = since::last().filter(|_| loaded.is_loaded);
    let applied = applied.map(|note| LastApply {
        unchanged_since: loaded.is_unchanged,
        time: note.time,
        policy: note.policy,
    });
    let in_sync = loaded.pending_steps.map(|steps| steps == 0);
    let refused = state.refused();
    let rollback = rolled_back(&state);
    let others = others::but(&foreign_drops);
    let unchanged = applied
        .as_ref()
        .filter(|applied| applied.unchanged_since != Some(false));
    let since = unchanged.map(|applied| age::with_age(&applied.time));
    // The agent's status is about its own policy only.
    let its = agent.as_ref().filter(|agent| agent.policy == path);
    let message =
        |error: &'_ Option<json::Error>| error.as_ref().map(|error| error.message.clone());
    let agent_refuses = its.and_then(|agent| agent.policy_errors().into_iter().next());
    let agent_fails = its.and_then(|agent| message(&agent.last_error));
    let facts = Facts {
        is_loaded: loaded.is_loaded,
        is_closed: loaded.is_closed,
        is_audit: loaded.audit == Some(true),
        in_sync,
        policy: &path,
        policy_error,
        is_rolled_back: ready.is_some_and(|ready| refused.as_ref() == Some(&ready.digest)),
        loaded_from: unchanged.map(|applied| applied.policy.as_str()),
        loaded_since: since.as_deref(),
        is_changed: loaded.is_unchanged == Some(false),
        trial: trial.as_ref(),
        block: loaded.block.as_ref(),
        agent_refuses: agent_refuses.as_deref(),
        agent_fails: agent_fails.as_deref(),
        others: &others,
    };
    Status {
        state: facts.state(),
        headline: facts.to_string(),
        backend: loaded.backend,
        iptables: loaded.iptables,
        chosen: loaded.chosen,
        loaded: loaded.is_loaded,
        in_sync,
        audit: loaded.audit,
        pending_steps: loaded.pending_steps,
        generation: loaded.generation,
        owner: owner(loaded.hold, agent.as_ref()),
        persist: loaded.hold.persist,
        diagnostics: match (ready, &failure) {
            (Some(ready), _) => ready.json_warnings(),
            (None, failure) => failure
                .as_ref()
                .map_or_else(Vec::new, |f| f.diagnostics.clone()),
        },
        counters: lines(loaded.counters, ready),
        rolled_back: rollback.as_ref().map(Into::into),
        policy: path.clone(),
        policy_error: failure.map(|failure| failure.error),
        rollback,
        applied,
        foreign_drops,
        foreign_units: units::loaders(),
        agent,
        agent_error,
        blocked: loaded.block,
        trial,
    }
}

/// Returns the agent's own status, or why there is none although an agent runs.
fn agent() -> (Option<AgentStatus>, Option<json::Error>) {
    let unreachable = |err: &dyn std::fmt::Display| {
        let why = format!("the agent does not answer: {err}");
        (
            None,
            Some(Failure::new(ErrorCode::AgentUnreachable, why).error),
        )
    };
    match control::ask(control::Request::Status) {
        None => (None, None),
        Some(Err(err)) => unreachable(&err),
        Some(Ok(Answer {
            reply: Reply::Status(status),
            ..
        })) => (Some(*status), None),
        Some(Ok(answer)) => unreachable(&answer.text),
    }
}

/// Reads the trial that waits for confirmation.
fn trial(state: &State) -> Option<Trial> {
    let trial = state.waiting()?;
    if !trial.is_loaded || !trial.is_of_this_boot(&store::clock()) {
        return None;
    }
    let before = &trial.before;
    let back_to = before.entry.as_ref().map(|entry| entry.policy.clone());
    Some(Trial {
        seconds_left: trial.seconds_left(&store::clock()),
        back_to: before
            .ruleset
            .as_ref()
            .map(|_| back_to.unwrap_or_else(|| "the rules from before".to_owned())),
        policy: trial.new.entry.policy,
    })
}

/// Returns the last rollback, if nothing was applied since.
fn rolled_back(state: &State) -> Option<AuditEvent> {
    let events = audit::read(state).unwrap_or_default();
    let last = events.into_iter().rfind(|event| event.kind != Kind::Booted);
    last.filter(|event| matches!(event.kind, Kind::RanOut | Kind::Stopped | Kind::RolledBack))
}

fn owner(hold: Ownership, agent: Option<&AgentStatus>) -> Option<Owner> {
    let port = hold.owner?;
    let by_pid = || {
        Some(names::process(
            &std::fs::read(format!("/proc/{port}/comm")).ok()?,
        ))
    };
    // A further socket of a process has a random port.
    let by_agent = || Some(format!("the agent (pid {})", agent?.pid));
    Some(Owner {
        port,
        process: by_pid().or_else(by_agent),
    })
}
