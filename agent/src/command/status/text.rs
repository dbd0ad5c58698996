//! Formats `status` as text.

use std::fmt::Write as _;

use peerwall_core::agent::keep::Kind;
use peerwall_core::net::link::Link;
use peerwall_core::rates::Rates;

use super::super::peer::describe;
use super::super::{count, others, sources};
use super::headline::HostState;
use super::{CounterKey, Line, Status, StatusDetail};
use crate::color::{Meaning, paint};
use crate::command::age;
use crate::host::names::printable;
use crate::json::{AgentStatus, Backend, Discovered, Error, LogReader, OverlayStatus};
use crate::policy_file::LoadError;

/// Formats the whole status, the headline first.
pub(super) fn status(
    status: &Status,
    why: Option<&LoadError>,
    detail: StatusDetail,
    rates: Option<&Rates<CounterKey>>,
) -> String {
    let mut text = format!("{}\n", paint(status.meaning(), &status.headline));
    if detail == StatusDetail::Headline {
        return text;
    }
    if let Some(why) = why.filter(|_| status.state == HostState::OnTrial) {
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
        for source in &agent.sources {
            let _ = write!(text, "source:     {}", sources::source_text(source));
        }
        for peer in &agent.temporary_peers {
            let _ = writeln!(text, "peer:       {} {}", peer.address, describe(peer));
        }
    }
    if let Some(error) = &status.agent_error {
        let _ = writeln!(text, "agent:      {}", error.message);
    }
    text.push_str(&counters(&status.counters, detail, rates));
    text
}

impl Status {
    /// Returns the meaning of the headline, for its colour.
    pub(in crate::command) fn meaning(&self) -> Meaning {
        match self.state {
            _ if self.audit == Some(true) => Meaning::Bad,
            HostState::InSync => Meaning::Good,
            HostState::NotLoaded | HostState::Closed | HostState::Blocked => Meaning::Bad,
            HostState::OnTrial
            | HostState::LastGood
            | HostState::RolledBack
            | HostState::NotApplied
            | HostState::OutOfDate => Meaning::Attention,
        }
    }
}

fn rolled_back(status: &Status) -> String {
    let Some(event) = &status.rollback else {
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
    if status.backend == Backend::Iptables {
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
fn counters(lines: &[Line], detail: StatusDetail, rates: Option<&Rates<CounterKey>>) -> String {
    let rate = |value: &dyn std::fmt::Display| match rates {
        Some(_) => format!(" {value:>12}"),
        None => String::new(),
    };
    let is_shown = |line: &&Line| detail == StatusDetail::All || line.packets > 0;
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
    for line in lines.iter().filter(is_shown) {
        let packets = rates.map_or(0.0, |rates| rates.of(&line.key()).packets);
        let rate = rate(&format!("{packets:.1}"));
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

/// Formats the agent's own status.
fn agent_text(agent: &AgentStatus) -> String {
    let mut text = String::new();
    let in_sync = match agent.in_sync_seconds {
        Some(seconds) => format!("in sync for {}", age::duration(seconds)),
        None => "not in sync".to_owned(),
    };
    let _ = writeln!(
        text,
        "agent:      pid {}, since {}; {in_sync}",
        agent.pid,
        age::with_age(&agent.started),
    );
    let _ = writeln!(text, "backend:    {}", backend(agent));
    let _ = writeln!(text, "policy:     {}", policy_text(agent));
    for overlay in agent.counts.iter().flat_map(|counts| &counts.overlays) {
        let _ = writeln!(text, "overlay:    {}", overlay_text(overlay));
    }
    if agent.is_storm {
        text.push_str("storm:      somebody changes the rules faster than they may be repaired\n");
    }
    if let Some(repair) = &agent.last_repair {
        let by: Vec<String> = repair.by.iter().map(ToString::to_string).collect();
        let by = if by.is_empty() {
            "somebody".to_owned()
        } else {
            by.join(", ")
        };
        let _ = writeln!(
            text,
            "repairs:    {}, the last {} after a change by {by}",
            agent.repairs,
            age::ago(repair.seconds_ago)
        );
    }
    let message = |error: &Option<Error>| error.as_ref().map(|error| error.message.clone());
    let refusal = agent.policy_errors();
    let refusal = (!refusal.is_empty()).then(|| refusal.join("\n"));
    for (error, name) in [
        (message(&agent.last_error), "error:"),
        (refusal, "not applied:"),
        (agent.unsaved.clone(), "not saved:"),
    ] {
        if let Some(error) = error {
            let lines = error.replace('\n', "\n             ");
            let _ = writeln!(text, "{name:<12} {lines}");
        }
    }
    if let Some(why) = agent.log_reader.as_ref().and_then(LogReader::trouble) {
        let _ = writeln!(text, "log:        denied packets are not recorded: {why}");
    }
    for deleted in &agent.deleted_tables {
        let _ = writeln!(text, "gone:       {}: {deleted}", deleted.time);
    }
    text
}

/// Formats the backend, and whether other programs can change its rules.
fn backend(agent: &AgentStatus) -> String {
    match (&agent.iptables, agent.owns_table) {
        (Some(iptables), _) => iptables.to_string(),
        (None, Some(true)) => {
            "nft; the table is owned by the agent, and nobody else can change it".into()
        }
        (None, Some(false)) => {
            "nft; the table has no owner, so others can change it, and are repaired".into()
        }
        (None, None) => agent.backend.name().into(),
    }
}

/// Formats the policy in force, its counts and its revision.
fn policy_text(agent: &AgentStatus) -> String {
    let digest = agent.digest.as_ref().and_then(|digest| digest.get(..12));
    let counted = agent.counts.as_ref().map_or_else(String::new, |counts| {
        let (peers, allows) = (count(counts.peers, "peer"), count(counts.allows, "allow"));
        format!(", {peers}, {allows}")
    });
    let follows = match agent.follows {
        false => "; read when `peerwall reload` says so",
        true => "",
    };
    format!(
        "{}{counted}, revision {}{follows}",
        agent.in_force.as_ref().unwrap_or(&agent.policy),
        digest.unwrap_or("unknown")
    )
}

/// Formats the subnets of an overlay and their source.
fn overlay_text(overlay: &OverlayStatus) -> String {
    let files = overlay.files.join(", ");
    let how = match overlay.discovery {
        Discovered::Written => String::new(),
        Discovered::Found => format!(", found in {files}"),
        Discovered::Kept => format!(", as {files} said last"),
        Discovered::Awaited => format!("no pods yet: waits for {files}"),
    };
    let link = overlay.interface.as_ref();
    let link = link.map_or_else(String::new, |link| format!("; {}", Link::from(link)));
    format!(
        "{}: {}{how}{link}",
        overlay.name,
        overlay.subnets.join(", ")
    )
}
