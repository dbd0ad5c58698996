//! Formats `status` as text.

use std::fmt::Write as _;

use peerwall_core::agent::keep::Kind;
use serde_json::Value;

use super::super::{count, others};
use super::headline::State;
use super::{Detail, Line, Status};
use crate::color::{Meaning, paint};
use crate::command::age;
use crate::host::names::printable;
use crate::policy_file::NotReady;

/// Formats the whole status, the headline first.
pub(super) fn status(
    status: &Status,
    why: Option<&NotReady>,
    detail: Detail,
    rates: Option<&[f64]>,
) -> String {
    let mut text = format!("{}\n", paint(meaning(status.state), &status.headline));
    if detail == Detail::Headline {
        return text;
    }
    if let Some(why) = why.filter(|_| status.state == State::OnTrial) {
        let _ = writeln!(text, "errors:     {}: {}", status.policy, why.error);
    }
    text.push_str(&rolled_back(status));
    text.push_str(&others::lines(&status.foreign_drops));
    if status.loaded {
        let _ = writeln!(text, "owner:      {}", owner(status));
    }
    text.push_str(&applied(status));
    if let Some(chosen) = status.chosen.as_ref().filter(|_| status.agent.is_none()) {
        let _ = writeln!(text, "backend:    {chosen}");
    }
    if let Some(generation) = status.generation {
        let _ = writeln!(text, "generation: {generation}");
    }
    if let Some(agent) = &status.agent {
        text.push_str(&agent_text(agent));
    }
    text.push_str(&counters(&status.counters, detail, rates));
    text
}

fn meaning(state: State) -> Meaning {
    match state {
        State::InSync => Meaning::Good,
        State::NotLoaded | State::Closed => Meaning::Bad,
        State::OnTrial
        | State::LastGood
        | State::RolledBack
        | State::NotApplied
        | State::OutOfDate => Meaning::Attention,
    }
}

fn rolled_back(status: &Status) -> String {
    let Some(event) = &status.rolled_back else {
        return String::new();
    };
    let when = age::seconds_since(&event.time).map_or_else(|| event.time.clone(), age::ago);
    let policy = event.policy.as_deref().map_or_else(String::new, printable);
    let what = match (event.kind, event.seconds) {
        (Kind::RanOut, Some(seconds)) => {
            format!(
                "{policy} was not confirmed within {}",
                age::duration(seconds)
            )
        }
        (Kind::RanOut, None) => format!("{policy} was not confirmed in time"),
        (Kind::Stopped, _) => {
            format!("{policy} was not confirmed before its agent or guard was stopped")
        }
        _ => format!("{policy}, by {}", printable(&event.by.to_string())),
    };
    format!("rolled back {when}: {what}\n")
}

fn applied(status: &Status) -> String {
    let Some(applied) = &status.applied else {
        return String::new();
    };
    let since = match applied.unchanged_since {
        Some(true) => ", unchanged since",
        Some(false) => "; peerwall's rules were changed since",
        None => "",
    };
    format!(
        "applied:    {} from {}{since}\n",
        age::with_age(&applied.time),
        printable(&applied.policy)
    )
}

fn owner(status: &Status) -> String {
    if status.backend == "iptables" {
        return "none; the two families change one after the other".into();
    }
    match (&status.owner, status.persist) {
        (Some(owner), _) => {
            let name = owner.process.as_deref().unwrap_or("a process");
            format!(
                "{name} (netlink port {}); nobody else can change the table",
                owner.port
            )
        }
        (None, true) => {
            "not locked: any root process can change the table (start the agent to lock it)".into()
        }
        (None, false) => {
            "not locked, and made without persist: `nft flush ruleset` removes the table".into()
        }
    }
}

/// Formats counters; those that are zero are summarized in one line.
fn counters(lines: &[Line], detail: Detail, rates: Option<&[f64]>) -> String {
    let rate = |value: &dyn std::fmt::Display| match rates {
        Some(_) => format!(" {value:>12}"),
        None => String::new(),
    };
    let is_shown = |line: &&Line| detail == Detail::All || line.packets > 0;
    let mut text = String::new();
    if lines.iter().any(|line| is_shown(&line)) {
        let _ = writeln!(
            text,
            "\n{:<10} {:>12}{} {:>14}  what",
            "chain",
            "packets",
            rate(&"packets/s"),
            "bytes"
        );
    }
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| is_shown(line)) {
        let rate = rate(&format!("{:.1}", rates.map_or(0.0, |rates| rates[index])));
        let chain = line.chain.as_deref().unwrap_or("(denied)");
        let place = line
            .place
            .as_ref()
            .map_or_else(String::new, |place| format!("  [{place}]"));
        let _ = writeln!(
            text,
            "{chain:<10} {:>12}{rate} {:>14}  {}{place}",
            line.packets, line.bytes, line.subject
        );
    }
    let folded = lines.len() - lines.iter().filter(is_shown).count();
    if folded > 0 {
        let _ = writeln!(
            text,
            "{} without packets; --all shows them",
            count(folded, "counter")
        );
    }
    text
}

/// The agent's own status.
fn agent_text(agent: &Value) -> String {
    let mut text = String::new();
    let number = |key: &str| agent.get(key).and_then(Value::as_u64);
    let words = |key: &str| agent.get(key).and_then(Value::as_str);
    let in_sync = match number("in_sync_seconds") {
        Some(seconds) => format!("in sync for {}", age::duration(seconds)),
        None => "not in sync".to_owned(),
    };
    let _ = writeln!(
        text,
        "agent:      pid {}, since {}; {in_sync}",
        number("pid").unwrap_or(0),
        age::with_age(words("started").unwrap_or("?")),
    );
    let _ = writeln!(text, "backend:    {}", words("backend").unwrap_or("?"));
    let counts = agent.get("counts").filter(|counts| !counts.is_null());
    let _ = writeln!(text, "policy:     {}", policy_text(agent, counts));
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
            "repairs:    {}, the last {} after a change by {by}",
            number("repairs").unwrap_or(0),
            age::ago(repair["seconds_ago"].as_u64().unwrap_or(0))
        );
    }
    for (key, name) in [
        ("last_error", "error:"),
        ("policy_error", "not applied:"),
        ("unsaved", "not saved:"),
    ] {
        if let Some(error) = words(key) {
            let lines = error.replace('\n', "\n             ");
            let _ = writeln!(text, "{name:<12} {lines}");
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

/// The policy in force, what is in it, and its revision.
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
        "{}{counted}, revision {}{follows}",
        words("in_force").or(words("policy")).unwrap_or("?"),
        digest.unwrap_or("unknown")
    )
}

/// The subnets of an overlay, and where they come from.
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
