//! Conversion of TOML values: strings, addresses, ports, patterns, keywords.

use std::collections::BTreeSet;
use std::fmt;

use super::context::Context;
use super::fields::{self, Data, Fields, Key, Value, place_of};
use super::files::Text;
use crate::diagnostic::{Code, Diagnostic, FileId, Place};
use crate::net::addr;
use crate::net::interface::InterfacePattern;
use crate::net::port::{self, PortSpec};
use crate::policy::{Address, Log, Rate, RateUnit};

impl Context<'_> {
    /// Returns the value as a table, or reports an error.
    pub(super) fn table<'v>(
        &mut self,
        file: FileId,
        value: &'v Value<'v>,
        what: &str,
    ) -> Option<Fields<'v>> {
        match value.get_ref().as_table() {
            Some(table) => Some(Fields::new(file, table, value.span())),
            None => {
                let got = fields::kind(value.get_ref());
                self.error(
                    Diagnostic::error(
                        Code::WrongType,
                        place_of(file, value),
                        format!("`{what}` must be a table, not {got}"),
                    )
                    .help(format!("write [{what}], and its keys below")),
                );
                None
            }
        }
    }

    pub(super) fn each_table(
        &mut self,
        file: FileId,
        value: &Value<'_>,
        what: &str,
        each: fn(&mut Self, Fields<'_>),
    ) {
        let wrong = |value: &Value<'_>| {
            Diagnostic::error(
                Code::WrongType,
                place_of(file, value),
                format!("`{what}` must be a list of tables"),
            )
            .help(format!(
                "write [[{what}]], with two brackets, for each entry"
            ))
        };
        if let Data::Table(table) = value.get_ref() {
            self.error(wrong(value));
            return each(self, Fields::new(file, table, value.span()));
        }
        let Some(list) = value.get_ref().as_array() else {
            return self.error(wrong(value));
        };
        for item in list {
            match item.get_ref() {
                Data::Table(table) => each(self, Fields::new(file, table, item.span())),
                Data::String(_)
                | Data::Integer(_)
                | Data::Float
                | Data::Boolean(_)
                | Data::Datetime
                | Data::Array(_) => self.error(wrong(item)),
            }
        }
    }

    pub(super) fn named_entries(
        &mut self,
        file: FileId,
        value: &Value<'_>,
        section: &str,
        kind: &'static str,
        mut each: impl FnMut(&mut Self, &Key<'_>, &Value<'_>),
    ) {
        let Some(table) = self.table(file, value, section) else {
            return;
        };
        self.draft.defined.reserve(table.entries().len());
        for (key, value) in table.entries() {
            let place = place_of(file, key);
            self.check_name(kind, key.get_ref(), &place);
            self.define(kind, key.get_ref(), &place);
            // The value is checked even if the name is invalid.
            each(self, key, value);
        }
    }

    /// Parses one of several keywords.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        file: FileId,
        value: &Value<'_>,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let text = value.get_ref().as_str();
        if let Some((_, choice)) = choices.iter().find(|(name, _)| Some(*name) == text) {
            return Some(*choice);
        }
        let near = text.and_then(|text| fields::closest(text, names.iter().copied()));
        let help = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("one of \"{}\"", names.join("\", \"")),
        };
        let got = text.map_or_else(
            || fields::kind(value.get_ref()).to_owned(),
            |t| format!("`{t}`"),
        );
        self.error(
            Diagnostic::error(
                Code::InvalidChoice,
                place_of(file, value),
                format!("`{what}` cannot be {got}"),
            )
            .help(help),
        );
        None
    }

    pub(super) fn boolean(&mut self, file: FileId, value: &Value<'_>, what: &str) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.error(
                Diagnostic::error(
                    Code::WrongType,
                    place_of(file, value),
                    format!("`{what}` must be true or false"),
                )
                .help("write it without quotes"),
            );
        }
        found
    }

    pub(super) fn patterns(
        &mut self,
        file: FileId,
        value: &Value<'_>,
        what: &str,
    ) -> Vec<InterfacePattern> {
        let mut patterns: Vec<InterfacePattern> = Vec::new();
        let mut seen = BTreeSet::new();
        for (text, place) in self.strings(file, value, what) {
            match InterfacePattern::parse(&text) {
                Ok(pattern) if !seen.insert(pattern.clone()) => self.error(
                    Diagnostic::error(
                        Code::ListedTwice,
                        place,
                        format!("`{text}` is listed twice"),
                    )
                    .help("remove one"),
                ),
                Ok(pattern) => patterns.push(pattern),
                Err(why) => self.error(
                    Diagnostic::error(Code::InvalidInterface, place, why.0)
                        .help("like \"eth0\", or \"cali*\" for all names that start with cali"),
                ),
            }
        }
        patterns
    }

    pub(super) fn ports(&mut self, file: FileId, value: &Value<'_>) -> Vec<PortSpec> {
        let mut specs: Vec<PortSpec> = Vec::new();
        let mut seen = BTreeSet::new();
        for (text, place) in self.strings(file, value, "`ports`") {
            match port::parse(&text) {
                Ok(spec) if !seen.insert(spec.clone()) => self.diagnostics.push(
                    Diagnostic::warning(
                        Code::ListedTwice,
                        place,
                        format!("`{text}` is listed twice"),
                    )
                    .help("remove one"),
                ),
                Ok(spec) => specs.push(spec),
                Err(err) => {
                    let mut diagnostic = Diagnostic::error(Code::InvalidPort, place, err.message);
                    diagnostic.help = err.help;
                    self.error(diagnostic);
                }
            }
        }
        specs.shrink_to_fit();
        specs
    }
}

/// Parses `10/second` or `10/second burst 20`.
pub(super) fn parse_rate(text: &str) -> Option<Rate> {
    let (rate, burst) = match text.split_once(" burst ") {
        Some((rate, burst)) => (rate, burst.parse().ok()?),
        None => (text, Log::default().rate.burst),
    };
    let (count, unit) = rate.split_once('/')?;
    let count = count.parse().ok().filter(|n| *n > 0)?;
    let (unit, _, _) = RateUnit::ALL.iter().find(|(_, name, _)| *name == unit)?;
    Some(Rate {
        count,
        unit: *unit,
        burst,
    })
}

impl Context<'_> {
    /// Returns a string, or a non-empty list of strings.
    pub(super) fn strings(
        &mut self,
        file: FileId,
        value: &Value<'_>,
        what: &str,
    ) -> Vec<(String, Place)> {
        let (list, errors) = fields::strings(file, value, what);
        self.diagnostics.extend(errors);
        list
    }

    pub(super) fn address(&mut self, text: &str, place: Place) -> Option<Address> {
        match addr::parse_source(text) {
            Ok(net) => Some(Address { net, place }),
            Err(err) => {
                let mut diagnostic = Diagnostic::error(Code::InvalidAddress, place, err.message);
                diagnostic.help = err.help;
                self.error(diagnostic);
                None
            }
        }
    }

    /// Parses an address, or a non-empty list of addresses.
    pub(super) fn addresses(
        &mut self,
        file: FileId,
        value: &Value<'_>,
        what: impl fmt::Display,
    ) -> Vec<Address> {
        // A large policy has a hundred thousand of these.
        if let Some(text) = value.get_ref().as_str() {
            let address = self.address(text, place_of(file, value));
            return address.into_iter().collect();
        }
        let texts = self.strings(file, value, &what.to_string());
        texts
            .into_iter()
            .filter_map(|(text, place)| self.address(&text, place))
            .collect()
    }

    /// Reads a plain list with one address per line.
    pub(super) fn list_file(&mut self, path: &str, named_at: &Place) -> Vec<Address> {
        let relative_to = self.sources.name(named_at.file).to_owned();
        let Text { name, text, .. } = match self.read(path, &relative_to) {
            Ok(found) => found,
            Err(why) => {
                self.error(
                    Diagnostic::error(Code::FileUnreadable, named_at.clone(), why.to_string())
                        .help("paths are relative to this file"),
                );
                return Vec::new();
            }
        };
        let file = self.sources.add(name, text);
        let text = self.sources.shared_text(file);
        let before = self.diagnostics.len();
        let mut at = 0;
        let mut found = Vec::new();
        for line in text.split_inclusive('\n') {
            let content = line.split('#').next().unwrap_or_default();
            let trimmed = content.trim();
            if !trimmed.is_empty() {
                let start = at + (content.len() - content.trim_start().len());
                let span = start..start + trimmed.len();
                found.extend(self.address(trimmed, Place { file, span }));
            }
            at += line.len();
        }
        if found.is_empty() && self.diagnostics.len() == before {
            self.error(
                Diagnostic::error(
                    Code::EmptyList,
                    named_at.clone(),
                    format!("{path} contains no addresses"),
                )
                .help("write one address or CIDR per line, or omit the file"),
            );
        }
        found
    }
}
