//! Lines of the objects: in nft's listing, or one line for each object of the JSON.

use std::collections::BTreeMap;

use serde_json::Value;

use super::objects::TableName;
use crate::import::rule::At;

/// Lines of tables, chains and rules.
#[derive(Debug, Default)]
pub(super) struct Places {
    input: usize,
    /// Lines of tables.
    tables: BTreeMap<TableName, usize>,
    /// Lines of chains and rules, by the handle.
    handles: BTreeMap<(TableName, Kind, u64), usize>,
    /// Whether the text is the JSON, one object on a line.
    is_json: bool,
}

/// Chains and rules have handles of their own in nft before 1.0.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Chain,
    Rule,
}

impl Places {
    /// Reads a listing by `nft -a list ruleset`.
    pub(super) fn of_listing(input: usize, listing: &str) -> Self {
        let mut places = Self {
            input,
            ..Self::default()
        };
        let mut table: Option<TableName> = None;
        let mut in_chain = false;
        // A rule may be longer than a line; it belongs to its first one.
        let mut start = None;
        for (index, text) in listing.lines().enumerate() {
            let line = index + 1;
            let trimmed = text.trim();
            if let Some(name) = table_name(text) {
                places.tables.insert(name.clone(), line);
                table = Some(name);
            } else if trimmed == "}" && !text.starts_with("\t\t") {
                in_chain = false;
            } else if text.starts_with("\tchain ") {
                in_chain = true;
                start = None;
                places.add(table.as_ref(), Kind::Chain, trimmed, line);
            } else if in_chain && !is_of_the_chain(trimmed) {
                let first = *start.get_or_insert(line);
                if places.add(table.as_ref(), Kind::Rule, trimmed, first) {
                    start = None;
                }
            }
        }
        places
    }

    /// Takes the objects as the lines.
    pub(super) fn of_objects(input: usize) -> Self {
        Self {
            input,
            is_json: true,
            ..Self::default()
        }
    }

    fn add(&mut self, table: Option<&TableName>, kind: Kind, text: &str, line: usize) -> bool {
        let handle = text.rsplit_once("# handle ").map(|(_, number)| number);
        let handle = handle.and_then(|number| number.trim().parse().ok());
        let (Some(table), Some(handle)) = (table, handle) else {
            return false;
        };
        self.handles.insert((table.clone(), kind, handle), line);
        true
    }

    /// Returns the line of a table.
    pub(super) fn table(&self, table: &TableName, object: usize) -> Option<At> {
        let line = self.tables.get(table).copied();
        self.at(line, object)
    }

    /// Returns the line of a chain or a rule.
    pub(super) fn of(
        &self,
        table: &TableName,
        kind: Kind,
        handle: u64,
        object: usize,
    ) -> Option<At> {
        let line = self.handles.get(&(table.clone(), kind, handle)).copied();
        self.at(line, object)
    }

    fn at(&self, line: Option<usize>, object: usize) -> Option<At> {
        let line = match self.is_json {
            true => object + 1,
            false => line?,
        };
        Some(At {
            input: self.input,
            line,
        })
    }
}

/// Parses a line like `table inet filter { # handle 1`.
pub(in crate::import) fn table_name(text: &str) -> Option<TableName> {
    let mut words = text.strip_prefix("table ")?.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

/// Reports whether a line in a chain is not one of a rule.
fn is_of_the_chain(text: &str) -> bool {
    let is_base = text.starts_with("type ") && text.contains(" hook ");
    text.is_empty() || is_base || text.starts_with("comment \"")
}

/// Writes one object on a line.
pub(super) fn lines_of(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("{object}\n")).collect()
}
