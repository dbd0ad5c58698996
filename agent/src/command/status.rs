//! `peerwall status`

use std::fmt::Write as _;

use peerwall_core::backend::{Backend as _, BackendError};
use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::foreign::ForeignDrop;
use peerwall_core::observed::{Hold, SeenTable};
use peerwall_core::plan::plan;
use peerwall_core::ruleset::{FORWARD, INPUT, PUBLISHED, counter_reason};
use serde::Serialize;
use serde_json::Value;

use super::{DIFFERS, DONE, Given, count, others};
use crate::agent::control;
use crate::agent::state::{self, State};
use crate::foreign;
use crate::kernel::Kernel;
use crate::names;
use crate::output::Output;
use crate::ready::{NotReady, Ready};
use crate::since;

/// What `status` says.
#[derive(Debug, Serialize)]
struct Status {
    /// Whether the table is there.
    loaded: bool,
    /// Whether it is what the policy says; absent if the policy cannot be read.
    in_sync: Option<bool>,
    /// Steps that `apply` would take.
    pending_steps: Option<usize>,
    /// The kernel's generation of rules.
    generation: u32,
    /// When the last apply was, and whether nobody changed any rule since.
    applied: Option<Applied>,
    /// Who owns the table.
    owner: Option<Owner>,
    /// Whether the table outlives its owner.
    persist: bool,
    /// The policy.
    policy: String,
    /// What is wrong with the policy.
    policy_error: Option<String>,
    /// What is suspicious about the policy, or does not fit this host.
    warnings: Vec<JsonDiagnostic>,
    /// Chains of other firewalls that drop what they do not accept.
    foreign_drops: Vec<ForeignDrop>,
    /// What was counted.
    counters: Vec<Line>,
    /// What the agent says of itself, if one runs.
    agent: Option<Value>,
    /// What waits to be confirmed, and for how many seconds yet.
    pending_seconds: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Applied {
    time: String,
    policy: String,
    unchanged_since: bool,
}

#[derive(Debug, Serialize)]
struct Owner {
    /// Netlink port id; the process id for the first socket of a process.
    port: u32,
    /// Name of the process of that id, if there is one.
    process: Option<String>,
}

#[derive(Debug, Serialize)]
struct Line {
    /// `input`, `forward`, `published`; absent for what was denied.
    chain: Option<String>,
    /// Why these packets were accepted or denied.
    reason: String,
    /// The same in words.
    subject: String,
    /// Where the policy says so, as file and line.
    place: Option<String>,
    packets: u64,
    bytes: u64,
}

pub(super) fn run(policy: &Given, output: &Output) -> Result<u8, BackendError> {
    let seen = Kernel::open()?.observe()?;
    let (path, prepared) = (&policy.path, &policy.read);
    let pending = prepared
        .as_ref()
        .ok()
        .map(|ready| plan(&ready.ruleset, &seen).ops.len());
    let hold = seen
        .table
        .as_ref()
        .map(|table| table.hold)
        .unwrap_or_default();
    let status = Status {
        loaded: seen.table.is_some(),
        in_sync: pending.map(|steps| steps == 0),
        pending_steps: pending,
        generation: seen.generation,
        applied: seen.table.as_ref().and_then(|_| applied(seen.generation)),
        owner: owner(hold),
        persist: hold.persist,
        policy: path.display().to_string(),
        policy_error: prepared.as_ref().err().map(|why| why.error.clone()),
        warnings: prepared
            .as_ref()
            .map_or_else(|_| Vec::new(), Ready::json_warnings),
        foreign_drops: foreign::find(),
        agent: agent(),
        pending_seconds: pending_seconds(),
        counters: seen
            .table
            .as_ref()
            .map_or_else(Vec::new, |t| lines(t, prepared.as_ref().ok())),
    };
    match output.is_json() {
        true => output.json(&status),
        false => {
            output.text(&as_text(&status, prepared.as_ref().err().map(|why| &**why)));
            policy.warn_of_misfits(output);
        }
    }
    Ok(match status.in_sync {
        Some(true) => DONE,
        Some(false) | None => DIFFERS,
    })
}

/// What the agent says of itself.
pub(super) fn agent() -> Option<Value> {
    match control::ask(control::Command::Status)? {
        Ok(answer) => Some(answer.data),
        Err(err) => {
            Some(serde_json::json!({"last_error": format!("the agent does not answer: {err}")}))
        }
    }
}

/// How long something still waits to be confirmed.
fn pending_seconds() -> Option<u64> {
    let pending = State::open().waiting()?;
    Some(pending.seconds_left(&state::clock()))
}

/// What the agent says of itself, for people.
pub(super) fn agent_text(agent: &Value) -> String {
    let mut text = String::new();
    let number = |key: &str| agent.get(key).and_then(Value::as_u64);
    let words = |key: &str| agent.get(key).and_then(Value::as_str);
    let _ = writeln!(
        text,
        "agent:      pid {}, since {}{}",
        number("pid").unwrap_or(0),
        words("started").unwrap_or("?"),
        number("in_sync_seconds").map_or_else(
            || "; not in sync".to_owned(),
            |s| format!("; in sync for {s} s")
        ),
    );
    let _ = writeln!(text, "backend:    {}", words("backend").unwrap_or("?"));
    let counts = agent.get("counts").filter(|counts| !counts.is_null());
    let _ = writeln!(text, "keeps:      {}", policy_text(agent, counts));
    for overlay in list(counts.and_then(|counts| counts.get("overlays"))) {
        let _ = writeln!(text, "overlay:    {}", overlay_text(overlay));
    }
    if agent.get("storm").and_then(Value::as_bool) == Some(true) {
        text.push_str("storm:      somebody changes the rules faster than they may be repaired\n");
    }
    if let Some(repair) = agent.get("last_repair").filter(|repair| !repair.is_null()) {
        let by: Vec<String> = list(repair.get("by"))
            .map(|who| {
                format!(
                    "{} (pid {})",
                    who["process"].as_str().unwrap_or("?"),
                    who["pid"]
                )
            })
            .collect();
        let by = if by.is_empty() {
            "somebody".to_owned()
        } else {
            by.join(", ")
        };
        let _ = writeln!(
            text,
            "repairs:    {}, the last {} s ago, of what {by} changed",
            number("repairs").unwrap_or(0),
            repair["seconds_ago"]
        );
    }
    for (key, name) in [("last_error", "error:"), ("policy_error", "not taken:")] {
        if let Some(error) = words(key) {
            let _ = writeln!(text, "{name:<11} {}", error.replace('\n', "\n            "));
        }
    }
    for gone in list(agent.get("others_gone")) {
        let _ = writeln!(text, "gone:       {}", gone.as_str().unwrap_or("?"));
    }
    text
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

/// Which policy the agent keeps, of which version, and what is in it.
fn policy_text(agent: &Value, counts: Option<&Value>) -> String {
    let words = |key: &str| agent.get(key).and_then(Value::as_str);
    let digest = words("digest").and_then(|digest| digest.get(..12));
    let number = |key: &str| {
        let number = counts?.get(key)?.as_u64()?;
        usize::try_from(number).ok()
    };
    let counted = match (number("peers"), number("allows")) {
        (Some(peers), Some(allows)) => {
            format!(", {}, {}", count(peers, "peer"), count(allows, "allow"))
        }
        _ => String::new(),
    };
    let follows = match agent.get("follows").and_then(Value::as_bool) {
        Some(false) => "; read when `peerwall reload` says so",
        _ => "",
    };
    format!(
        "{} ({}){counted}{follows}",
        words("policy").unwrap_or("?"),
        digest.unwrap_or("not read yet")
    )
}

/// Whose pods, and how that is known.
fn overlay_text(overlay: &Value) -> String {
    let words = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let join = |key: &str| {
        list(overlay.get(key))
            .map(words)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let how = match overlay["discovery"].as_str() {
        Some("found") => format!(", found in {}", join("files")),
        Some("kept") => format!(", as {} said last", join("files")),
        Some("awaited") => format!("no pods yet: waits for {}", join("files")),
        _ => String::new(),
    };
    let link = overlay["interface"]
        .as_str()
        .map_or_else(String::new, |link| format!("; {link}"));
    format!(
        "{}: {}{how}{link}",
        words(&overlay["name"]),
        join("subnets")
    )
}

fn applied(generation: u32) -> Option<Applied> {
    let note = since::last()?;
    Some(Applied {
        unchanged_since: note.generation == generation,
        time: note.time,
        policy: note.policy,
    })
}

fn owner(hold: Hold) -> Option<Owner> {
    let port = hold.owner?;
    let process = std::fs::read(format!("/proc/{port}/comm")).ok();
    Some(Owner {
        port,
        process: process.map(|name| names::process(&name)),
    })
}

/// Counters in the order in which a packet meets them, hooks first, denials last.
fn lines(table: &SeenTable, ready: Option<&Ready>) -> Vec<Line> {
    let rules = table.chains.iter().flat_map(|chain| &chain.rules);
    let met = rules.filter_map(|seen| seen.rule.as_ref().ok()?.counter.as_ref());
    let mut names: Vec<&String> = Vec::new();
    for name in met.chain(table.counters.keys()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let rank = |name: &str| {
        let chain = counter_reason(name).and_then(|(chain, _)| chain);
        [Some(INPUT), Some(FORWARD), Some(PUBLISHED), None]
            .iter()
            .position(|each| *each == chain)
    };
    names.sort_by_key(|name| rank(name));
    names
        .into_iter()
        .map(|name| line(name, table, ready))
        .collect()
}

fn line(name: &str, table: &SeenTable, ready: Option<&Ready>) -> Line {
    let known = counter_reason(name);
    let counter = table.counters.get(name).copied().unwrap_or_default();
    let (chain, reason, subject) = match known {
        Some((chain, reason)) => (chain, reason.to_string(), reason.sentence()),
        None => (None, name.to_owned(), name.to_owned()),
    };
    Line {
        chain: chain.map(str::to_owned),
        reason,
        subject,
        place: ready.and_then(|ready| place(ready, name)),
        packets: counter.packets,
        bytes: counter.bytes,
    }
}

/// Where the policy says what this counter counts.
fn place(ready: &Ready, counter: &str) -> Option<String> {
    ready.ruleset.chains.iter().find_map(|chain| {
        let at = chain
            .rules
            .iter()
            .position(|r| r.counter.as_deref() == Some(counter))?;
        let place = ready.origins.of(&chain.name, at)?.place.as_ref()?;
        Some(ready.sources.line_of(place))
    })
}

fn as_text(status: &Status, why: Option<&NotReady>) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", headline(status));
    if let Some(why) = why {
        let _ = writeln!(
            text,
            "policy:     {}: {}; see `peerwall check`",
            status.policy, why.error
        );
    }
    text.push_str(&others::lines(&status.foreign_drops));
    if status.loaded {
        let _ = writeln!(text, "owner:      {}", owner_text(status));
    }
    let _ = writeln!(
        text,
        "generation: {}{}",
        status.generation,
        since_text(status)
    );
    if let Some(agent) = &status.agent {
        text.push_str(&agent_text(agent));
    }
    if let Some(seconds) = status.pending_seconds {
        let _ = writeln!(
            text,
            "pending:    goes back in {seconds} s unless `peerwall confirm` comes"
        );
    }
    if !status.counters.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<10} {:>12} {:>14}  what",
            "chain", "packets", "bytes"
        );
    }
    for line in &status.counters {
        let chain = line.chain.as_deref().unwrap_or("(denied)");
        let place = line
            .place
            .as_ref()
            .map_or_else(String::new, |p| format!("  [{p}]"));
        let _ = writeln!(
            text,
            "{chain:<10} {:>12} {:>14}  {}{place}",
            line.packets, line.bytes, line.subject
        );
    }
    text
}

fn headline(status: &Status) -> String {
    match (status.loaded, status.in_sync) {
        (false, _) => "not loaded: there is no table inet peerwall".into(),
        (true, Some(true)) => {
            let but = others::but(&status.foreign_drops);
            format!("in sync with {}{but}", status.policy)
        }
        (true, Some(false)) => format!(
            "loaded, but not what {} says; `peerwall plan` shows the difference",
            status.policy
        ),
        (true, None) => "loaded".into(),
    }
}

fn owner_text(status: &Status) -> String {
    match (&status.owner, status.persist) {
        (Some(owner), _) => {
            let name = owner.process.as_deref().unwrap_or("a process");
            format!(
                "{name} (netlink port {}); nobody else can change the table",
                owner.port
            )
        }
        (None, true) => "none; the table stays, and any root process can change it".into(),
        (None, false) => {
            "none; the table was made without persist, `nft flush ruleset` takes it".into()
        }
    }
}

fn since_text(status: &Status) -> String {
    match &status.applied {
        Some(applied) if applied.unchanged_since => format!(", unchanged since {}", applied.time),
        Some(applied) => format!(
            "; last apply {}, rules of this namespace changed since",
            applied.time
        ),
        None => String::new(),
    }
}
