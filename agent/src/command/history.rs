//! `peerwall history`: what was confirmed, and what each changed.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use peerwall_core::render;
use serde::Serialize;
use similar::{Algorithm, ChangeTag, capture_diff_slices_deadline};

use super::{DONE, trouble};
use crate::agent::state::{Entry, State, TOLD};
use crate::cli::HistoryArgs;
use crate::output::Output;

/// So many lines of a difference are shown, unless one is asked for.
const LINES_SHOWN: usize = 8;
/// Lists that have nothing in common are not compared for longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// A ruleset that was confirmed, and what it changed.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    entry: Entry,
    /// Against the one before; absent if that is not known any more.
    change: Option<Change>,
}

#[derive(Debug, Serialize)]
struct Change {
    added: Vec<String>,
    removed: Vec<String>,
}

pub(super) fn run(args: &HistoryArgs, output: &Output) -> u8 {
    match read(args.number) {
        Ok((told, refused)) => {
            match output.is_json() {
                true => output
                    .json(&serde_json::json!({"confirmed": told, "rolled_back_from": refused})),
                false => output.text(&text(&told, args.number.is_some())),
            }
            DONE
        }
        Err(err) => trouble("history", &err, output),
    }
}

/// What was confirmed, or the one of this number; and what was rolled back from.
fn read(number: Option<u64>) -> io::Result<(Vec<Told>, Option<String>)> {
    let state = State::open();
    let history = state.history()?;
    let first = history.kept.len().saturating_sub(TOLD);
    let wanted = |entry: &Entry| number.is_none_or(|number| entry.number == number);
    let mut told = Vec::new();
    for (index, entry) in history.kept.iter().enumerate().skip(first) {
        if wanted(entry) {
            let before = index
                .checked_sub(1)
                .and_then(|before| history.kept.get(before));
            let change = before.map(|before| change(&state, before, entry));
            // One that cannot be read any more hides no others.
            let change = change.transpose().unwrap_or_else(|err| {
                log::warn!("{err}");
                None
            });
            told.push(Told {
                entry: entry.clone(),
                change,
            });
        }
    }
    match (told.is_empty(), number) {
        (true, Some(number)) => Err(io::Error::other(format!(
            "there is no number {number} in the history; see peerwall history"
        ))),
        _ => Ok((told, history.refused)),
    }
}

fn change(state: &State, before: &Entry, entry: &Entry) -> io::Result<Change> {
    let facts = |entry: &Entry| -> io::Result<Vec<String>> {
        Ok(render::facts(&state.load(entry.clone())?.ruleset))
    };
    let (old, new) = (facts(before)?, facts(entry)?);
    let until = Some(Instant::now() + PATIENCE);
    let steps = capture_diff_slices_deadline(Algorithm::Myers, &old, &new, until);
    let mut change = Change {
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

fn text(told: &[Told], whole: bool) -> String {
    let mut text = String::new();
    for Told { entry, change } in told {
        let digest = entry.digest.get(..12).unwrap_or_default();
        let _ = write!(
            text,
            "{:>4}  {}  {}  {digest}",
            entry.number, entry.time, entry.policy
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
        text.push_str("nothing was confirmed yet\n");
    }
    text
}
