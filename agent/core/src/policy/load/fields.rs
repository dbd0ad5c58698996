//! TOML tables that report unknown keys.

use std::ops::Range;

pub(super) use super::document::{Data, Key, Value};
use super::document::{Spanned, Table};
use crate::diagnostic::{Code, Diagnostic, FileId, Place};

/// TOML table. Keys that no parser reads are errors.
pub(super) struct Fields<'a> {
    file: FileId,
    table: &'a Table<'a>,
    span: Range<usize>,
    taken: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(file: FileId, table: &'a Table<'a>, span: Range<usize>) -> Self {
        Self {
            file,
            table,
            span,
            taken: Vec::new(),
        }
    }

    pub(super) fn file(&self) -> FileId {
        self.file
    }

    /// Returns the place of the table.
    pub(super) fn place(&self) -> Place {
        Place {
            file: self.file,
            span: self.span.clone(),
        }
    }

    /// Returns a key and its value, and marks the key as read.
    pub(super) fn take(&mut self, key: &str) -> Option<(&'a Key<'a>, &'a Value<'a>)> {
        let (key, value) = self.table.entry(key)?;
        self.taken.push(key.get_ref());
        Some((key, value))
    }

    /// Returns all entries in the order of the file, for tables whose keys are names.
    pub(super) fn entries(&self) -> &'a [(Key<'a>, Value<'a>)] {
        self.table.entries()
    }

    /// Returns errors for the keys that no parser read. `known` are the valid keys.
    pub(super) fn unknown(&self, known: &[&str], of: &str) -> Vec<Diagnostic> {
        let mut errors = Vec::new();
        for (key, _) in self.table.entries() {
            let name = key.get_ref();
            if self.taken.contains(&name.as_ref()) {
                continue;
            }
            let help = match closest(name, known.iter().copied()) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("valid keys: {}", known.join(", ")),
            };
            let place = place_of(self.file, key);
            errors.push(
                Diagnostic::error(Code::UnknownKey, place, format!("{of} has no key `{name}`"))
                    .help(help),
            );
        }
        errors
    }
}

/// Returns the candidate closest to `text`, if one is similar.
pub(super) fn closest<'c>(
    text: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    let length = |text: &str| text.chars().count();
    // One typo per three letters; more differences make a different word.
    let is_close = |distance: usize, c: &str| distance * 3 <= length(text).max(length(c));
    candidates
        .map(|c| (strsim::damerau_levenshtein(text, c), c))
        .filter(|(distance, c)| is_close(*distance, c))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// Returns the type of a value, for messages.
pub(super) fn kind(value: &Data<'_>) -> &'static str {
    match value {
        Data::String(_) => "a string",
        Data::Integer(_) => "a number",
        Data::Float => "a decimal number",
        Data::Boolean(_) => "a boolean",
        Data::Datetime => "a date",
        Data::Array(_) => "a list",
        Data::Table(_) => "a table",
    }
}

/// Reads a string, or a non-empty list of strings. Returns an error for each other value.
pub(super) fn strings(
    file: FileId,
    value: &Value<'_>,
    what: &str,
) -> (Vec<(String, Place)>, Vec<Diagnostic>) {
    let texts = |values: &[Value<'_>]| {
        let (mut texts, mut errors) = (Vec::new(), Vec::new());
        for value in values {
            match value.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), place_of(file, value))),
                None => errors.push(not_text(file, value, what)),
            }
        }
        (texts, errors)
    };
    let wrong = |diagnostic| (Vec::new(), vec![diagnostic]);
    match value.get_ref() {
        Data::Array(list) if list.is_empty() => wrong(
            Diagnostic::error(
                Code::EmptyList,
                place_of(file, value),
                format!("{what} is empty"),
            )
            .help("add an entry, or omit the key"),
        ),
        Data::Array(list) => texts(list),
        Data::String(_) => texts(std::slice::from_ref(value)),
        Data::Integer(_) | Data::Float | Data::Boolean(_) | Data::Datetime | Data::Table(_) => {
            wrong(
                Diagnostic::error(
                    Code::WrongType,
                    place_of(file, value),
                    format!(
                        "{what} must be a string or a list of strings, not {}",
                        kind(value.get_ref())
                    ),
                )
                .help(match value.get_ref().as_integer() {
                    Some(n) => format!("write \"{n}\""),
                    None => "write \"one\" or [\"one\", \"two\"]".to_owned(),
                }),
            )
        }
    }
}

fn not_text(file: FileId, value: &Value<'_>, what: &str) -> Diagnostic {
    let got = kind(value.get_ref());
    let help = match value.get_ref().as_integer() {
        Some(n) => format!("write \"{n}\""),
        None => "write strings in \"quotes\"".to_owned(),
    };
    Diagnostic::error(
        Code::WrongType,
        place_of(file, value),
        format!("{what} must be a list of strings, but this is {got}"),
    )
    .help(help)
}

/// Returns the place of a value in its file.
pub(super) fn place_of<T>(file: FileId, value: &Spanned<T>) -> Place {
    Place {
        file,
        span: value.span(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_close_for_its_length_is_suggested() {
        let known = [
            "from",
            "to",
            "ports",
            "interfaces",
            "tcp",
            "accept",
            "worker-1",
        ];
        for (text, want) in [
            ("form", Some("from")),
            ("prots", Some("ports")),
            ("interface", Some("interfaces")),
            ("intrefacse", Some("interfaces")),
            ("tpc", Some("tcp")),
            ("acept", Some("accept")),
            ("worker1", Some("worker-1")),
            ("x", None),
            ("on", None),
            ("udp", None),
            ("of", None),
            ("parts", Some("ports")),
            ("pests", None),
            ("drop", None),
            ("", None),
            ("sources", None),
        ] {
            assert_eq!(closest(text, known.into_iter()), want, "{text}");
        }
        assert_eq!(closest("y", ["x"].into_iter()), None);
    }
}
