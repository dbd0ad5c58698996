//! Lines whose allow accepts more than the rules do.

use std::collections::BTreeMap;

use super::{Fate, Line};
use crate::import::draft::EntryLines;
use crate::import::input::ParsedFiles;
use crate::import::proof::{Difference, Direction};
use crate::import::rule::At;
use crate::policy::reason::Reason;

/// Marks the lines of allows and of `ping` that accept what the rules do not, unless the report
/// says so at the line that refuses it.
pub(in crate::import) fn widened(
    lines: &mut [Line],
    parsed: &ParsedFiles,
    differences: &[Difference],
    entries: &EntryLines,
) {
    let file = |at: &At| parsed.files.get(at.input).map(|file| file.name.as_str());
    let places: BTreeMap<(&str, usize), Fate> = lines
        .iter()
        .map(|line| ((line.file.as_str(), line.line), line.fate))
        .collect();
    let is_told = |at: &At| {
        let fate = file(at).and_then(|name| places.get(&(name, at.line)));
        fate.is_some_and(|fate| !fate.is_whole())
    };
    let mut wider: Vec<(String, usize, String)> = Vec::new();
    for difference in differences {
        let of_entry = if let Reason::Allow(name) = &difference.reason {
            entries.allows.get(name).map_or(&[][..], Vec::as_slice)
        } else if difference.reason == Reason::Ping {
            &entries.ping[..]
        } else {
            continue;
        };
        if difference.change != Direction::New || difference.lines.iter().any(is_told) {
            continue;
        }
        let what = difference.sentence.trim_start_matches("new: ");
        let what = what.split(" ([").next().unwrap_or(what);
        for at in of_entry {
            if let Some(file) = file(at) {
                wider.push((file.to_owned(), at.line, what.to_owned()));
            }
        }
    }
    for (file, number, what) in wider {
        let line = lines
            .iter_mut()
            .find(|line| line.line == number && line.file == file);
        if let Some(line) = line.filter(|line| line.fate.is_whole()) {
            line.fate = Fate::Partly;
            line.words.push_str("; it also accepts ");
            line.words.push_str(&what);
        }
    }
}
