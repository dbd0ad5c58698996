//! Lines whose allow accepts more than the rules do.

use std::collections::BTreeMap;

use super::{Fate, Line};
use crate::import::draft::EntryLines;
use crate::import::input::ParsedFiles;
use crate::import::proof::{Difference, Direction, few};
use crate::import::rule::At;
use crate::policy::Policy;
use crate::policy::reason::Reason;

/// Marks the lines of allows and of `ping` that accept what the rules do not, unless the report
/// says so at the line that refuses it.
pub(in crate::import) fn widened(
    lines: &mut [Line],
    parsed: &ParsedFiles,
    differences: &[Difference],
    policy: &Policy,
    entries: &EntryLines,
) {
    let of_entries = |difference: &&Difference| {
        let is_of_entry = matches!(difference.reason, Reason::Allow(_) | Reason::Ping);
        difference.change == Direction::New && is_of_entry
    };
    let differences: Vec<&Difference> = differences.iter().filter(of_entries).collect();
    if differences.is_empty() {
        return;
    }
    let file = |at: &At| parsed.files.get(at.input).map(|file| file.name.as_str());
    let places: BTreeMap<(&str, usize), (usize, Fate)> = lines
        .iter()
        .enumerate()
        .map(|(index, line)| ((line.file.as_str(), line.line), (index, line.fate)))
        .collect();
    let place = |at: &At| places.get(&(file(at)?, at.line)).copied();
    let is_told = |at: &At| place(at).is_some_and(|(_, fate)| !fate.is_whole());
    let mut wider: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for difference in differences {
        let of_entry = if let Reason::Allow(name) = &difference.reason {
            let at = policy.allows.iter().position(|allow| allow.name == *name);
            let lines = at.and_then(|at| entries.allows.get(at));
            lines.map_or(&[][..], |lines| lines)
        } else if difference.reason == Reason::Ping {
            &entries.ping[..]
        } else {
            continue;
        };
        if difference.lines.iter().any(is_told) {
            continue;
        }
        let what = difference.sentence.trim_start_matches("new: ");
        let what = what.split(" ([").next().unwrap_or(what);
        for at in of_entry {
            if let Some((index, _)) = place(at) {
                wider.entry(index).or_default().push(what.to_owned());
            }
        }
    }
    for (index, what) in wider {
        if let Some(line) = lines.get_mut(index) {
            if line.fate.is_whole() {
                line.fate = Fate::Partly;
            }
            line.words.push_str("; it also accepts ");
            line.words.push_str(&few(what));
        }
    }
}
