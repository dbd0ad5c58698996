//! What a change of the rules means, as text.

use peerwall_core::import::meaning::{AccessChange, Effect, Meaning};
use peerwall_core::ruleset::change::{ChangeKind, LINES_SHOWN};

use crate::color::paint;

/// Formats the packets whose verdict changes, one line for each class; empty if there are none.
pub(super) fn text(meaning: &Meaning) -> String {
    let is_core = |change: &&AccessChange| change.reason.is_of_every_policy();
    let (core, entries): (Vec<_>, Vec<_>) = meaning.access.iter().partition(is_core);
    // The safe core changes with addresses and interfaces; few are interested.
    let (shown, folded) = match entries.is_empty() || core.len() < 2 {
        true => ([entries, core].concat(), 0),
        false => (entries, core.len()),
    };
    let mut lines: Vec<String> = shown
        .iter()
        .take(LINES_SHOWN)
        .map(|each| line(each))
        .collect();
    let more = shown.len().saturating_sub(LINES_SHOWN);
    if more > 0 {
        lines.push(format!("and {more} more; --json lists all"));
    }
    if folded > 0 {
        lines.push(format!(
            "and {folded} changes of the safe core; --json lists them"
        ));
    }
    let others = meaning.not_compared.iter();
    lines.extend(
        others.map(|why| paint(ChangeKind::Changed.into(), &format!("not compared: {why}"))),
    );
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn line(change: &AccessChange) -> String {
    let (kind, word) = match change.effect {
        Effect::Opens => (ChangeKind::Added, "newly open"),
        Effect::Closes => (ChangeKind::Removed, "no longer open"),
    };
    paint(kind.into(), &format!("{word}: {}", change.message))
}
