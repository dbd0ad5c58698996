//! `peerwall history`: the events of the audit trail with the user or process that caused them, and
//! the changes of each confirmed ruleset.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use peerwall_core::agent::keep::Kind;
use peerwall_core::ruleset::render;
use schemars::JsonSchema;
use serde::Serialize;
use similar::{Algorithm, ChangeTag, capture_diff_slices_deadline};

use super::{DONE, count, trouble};
use crate::cli::HistoryArgs;
use crate::command::age;
use crate::host::names::printable;
use crate::json::{self, ErrorCode, Failure};
use crate::output::Output;
use crate::store::audit::{self, AuditEvent};
use crate::store::{Entry, State, TOLD};

/// Maximum number of lines of a difference, unless one ruleset is requested.
const LINES_SHOWN: usize = 8;
/// Number of events without `--all`.
const EVENTS_SHOWN: usize = 20;
/// Time limit for comparing two lists.
const PATIENCE: Duration = Duration::from_secs(2);

/// The result of `history`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "History")]
pub(super) struct HistoryResult {
    /// The last events, the newest last; all that are kept with `--all`.
    events: Vec<json::Event>,
    /// Earlier events that are not shown.
    left_out: usize,
    /// The last confirmed rulesets, the newest last.
    confirmed: Vec<ConfirmedPolicy>,
    /// Digest of the policy that was rolled back from: it is not applied again until its text
    /// changes.
    rolled_back_from: Option<String>,
}

/// A confirmed ruleset.
#[derive(Debug, Serialize, JsonSchema)]
struct ConfirmedPolicy {
    /// Its number, from 1.
    number: u64,
    /// Time at which it came into force, as RFC 3339.
    time: String,
    /// Path of the policy.
    policy: String,
    /// SHA-256 of the text of the policy.
    digest: String,
    /// The backend.
    backend: json::Backend,
    /// Difference from the previous ruleset; absent if that is not known.
    change: Option<LineChange>,
}

impl ConfirmedPolicy {
    fn new(HistoryOutput { entry, change }: HistoryOutput) -> Self {
        Self {
            number: entry.number,
            time: entry.time,
            policy: entry.policy,
            digest: entry.digest,
            backend: json::Backend::of(entry.by_iptables),
            change,
        }
    }
}

/// A confirmed ruleset and its changes.
#[derive(Debug)]
struct HistoryOutput {
    entry: Entry,
    /// Changes from the previous ruleset; absent if that is no longer stored.
    change: Option<LineChange>,
}

/// Difference of two rulesets, in lines. Each line is a rule or an element of a set.
#[derive(Debug, Serialize, JsonSchema)]
struct LineChange {
    /// Lines that only the new ruleset has.
    added: Vec<String>,
    /// Lines that only the old ruleset has.
    removed: Vec<String>,
}

pub(super) fn run(args: &HistoryArgs, output: &Output) -> u8 {
    let state = State::open();
    let read = read(&state, args.number).and_then(|read| {
        let events = audit::read(&state).map_err(unreadable)?;
        Ok((read, events))
    });
    let ((told, refused), mut events) = match read {
        Ok(read) => read,
        Err(err) => return trouble("history", err, output),
    };
    let shown = if args.all { events.len() } else { EVENTS_SHOWN };
    let left_out = events.len().saturating_sub(shown);
    events.drain(..left_out);
    match (output.is_json(), args.number) {
        (true, _) => {
            output.json(&HistoryResult {
                events: events.iter().map(Into::into).collect(),
                left_out,
                confirmed: told.into_iter().map(ConfirmedPolicy::new).collect(),
                rolled_back_from: refused,
            });
        }
        (false, Some(_)) => output.text(&text(&told, true)),
        (false, None) => {
            output.text(&events_text(&events, left_out));
            output.text(&text(&told, false));
        }
    }
    DONE
}

/// Formats the events, one on each line, the newest last.
fn events_text(events: &[AuditEvent], left_out: usize) -> String {
    let mut text = String::new();
    if left_out > 0 {
        let _ = writeln!(
            text,
            "{}: peerwall history --all",
            count(left_out, "earlier event")
        );
    }
    for event in events {
        let time = age::with_age(&event.time);
        let happened = happened(event);
        let policy = event.policy.as_deref().map(printable).unwrap_or_default();
        let number = event.number.map(|number| format!(", number {number}"));
        let digest = event.digest.as_ref().and_then(|digest| digest.get(..12));
        let digest = digest.map_or_else(String::new, |digest| format!(" ({digest})"));
        let _ = writeln!(
            text,
            "{time:<36}  {happened:<18}  {policy}{digest}{} by {}",
            number.unwrap_or_default(),
            printable(&event.by.to_string())
        );
        if let Some(change) = &event.change {
            let _ = writeln!(text, "      {change}");
        }
    }
    text
}

/// Describes an event in a few words.
pub(super) fn happened(event: &AuditEvent) -> String {
    let time = |text: &str| match event.seconds {
        Some(seconds) => format!("{text} {}", age::duration(seconds)),
        None => text.to_owned(),
    };
    match event.kind {
        Kind::Applied => "applied".to_owned(),
        Kind::Tried => time("on trial for"),
        Kind::Confirmed => "confirmed".to_owned(),
        Kind::RanOut => time("ran out after"),
        Kind::Stopped => "ended with its agent or guard".to_owned(),
        Kind::RolledBack => "rolled back".to_owned(),
        Kind::Booted => "loaded at boot".to_owned(),
        Kind::Removed => "removed".to_owned(),
        Kind::Blocked => match event.seconds {
            Some(_) => time("blocked for"),
            None => "blocked".to_owned(),
        },
        Kind::Unblocked => "unblocked".to_owned(),
    }
}

/// Reads the confirmed rulesets, or the one with this number, and the digest of the policy that was
/// rolled back from.
fn read(
    state: &State,
    number: Option<u64>,
) -> Result<(Vec<HistoryOutput>, Option<String>), Failure> {
    let history = state.history().map_err(unreadable)?;
    let first = history.kept.len().saturating_sub(TOLD);
    let wanted = |entry: &Entry| number.is_none_or(|number| entry.number == number);
    let mut told = Vec::new();
    for (index, entry) in history.kept.iter().enumerate().skip(first) {
        if wanted(entry) {
            let before = index
                .checked_sub(1)
                .and_then(|before| history.kept.get(before));
            let change = before.map(|before| change(state, before, entry));
            // A ruleset that cannot be read does not hide the others.
            let change = change.transpose().unwrap_or_else(|err| {
                log::warn!("{err}");
                None
            });
            told.push(HistoryOutput {
                entry: entry.clone(),
                change,
            });
        }
    }
    match (told.is_empty(), number) {
        (true, Some(number)) => Err(Failure::new(
            ErrorCode::UnknownRuleset,
            format!("there is no number {number} in the history; see peerwall history"),
        )),
        _ => Ok((told, history.refused)),
    }
}

fn unreadable(err: io::Error) -> Failure {
    Failure::new(ErrorCode::State, err)
}

fn change(state: &State, before: &Entry, entry: &Entry) -> io::Result<LineChange> {
    let facts = |entry: &Entry| -> io::Result<Vec<String>> {
        Ok(render::facts(&state.load(entry.clone())?.ruleset))
    };
    let (old, new) = (facts(before)?, facts(entry)?);
    let until = Some(Instant::now() + PATIENCE);
    let steps = capture_diff_slices_deadline(Algorithm::Myers, &old, &new, until);
    let mut change = LineChange {
        added: Vec::new(),
        removed: Vec::new(),
    };
    for step in steps.iter().flat_map(|step| step.iter_changes(&old, &new)) {
        match step.tag() {
            ChangeTag::Equal => {}
            ChangeTag::Insert => change.added.push(step.value().clone()),
            ChangeTag::Delete => change.removed.push(step.value().clone()),
        }
    }
    Ok(change)
}

fn text(told: &[HistoryOutput], whole: bool) -> String {
    let mut text = String::new();
    if !whole && !told.is_empty() {
        text.push_str(
            "\nconfirmed rulesets, of which `peerwall rollback` loads the one before the last:\n",
        );
    }
    for HistoryOutput { entry, change } in told {
        let digest = entry.digest.get(..12).unwrap_or_default();
        let _ = write!(
            text,
            "{:>4}  {}  {}  {digest}",
            entry.number,
            age::with_age(&entry.time),
            printable(&entry.policy)
        );
        let Some(change) = change else {
            text.push('\n');
            continue;
        };
        let _ = writeln!(
            text,
            "  {} removed, {} added",
            change.removed.len(),
            change.added.len()
        );
        let removed = change.removed.iter().map(|line| ('-', line));
        let lines: Vec<(char, &String)> = removed
            .chain(change.added.iter().map(|line| ('+', line)))
            .collect();
        let most = if whole { lines.len() } else { LINES_SHOWN };
        for (sign, line) in lines.iter().take(most) {
            let _ = writeln!(text, "      {sign} {line}");
        }
        if lines.len() > most {
            let more = lines.len() - most;
            let _ = writeln!(
                text,
                "      and {more} more: peerwall history {}",
                entry.number
            );
        }
    }
    if text.is_empty() {
        text.push_str("no confirmed rulesets yet\n");
    }
    text
}
