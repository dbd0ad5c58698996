//! One file of a policy: its syntax, its top-level keys, and the files that it includes.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::VERSION;
use super::fields::{self};
use super::fields::{Fields, Value};
use super::files::Text;
use super::{Loader, place_of};
use crate::diagnostic::FileId;
use crate::diagnostic::{Diagnostic, Place};

impl Loader<'_> {
    pub(super) fn sections(&mut self, top: &mut Fields<'_>) {
        let file = top.file();
        if let Some((_, value)) = top.take("peers") {
            self.peers(file, value);
        }
        if let Some((key, value)) = top.take("peers_files")
            && self.define("key", "peers_files", &place_of(file, key))
        {
            self.peers_files(file, value);
        }
        if let Some((_, value)) = top.take("groups") {
            self.groups(file, value);
        }
        if let Some((_, value)) = top.take("overlay") {
            self.overlays(file, value);
        }
        for (name, item) in [
            (
                "interfaces",
                Self::interfaces as fn(&mut Self, FileId, &Value<'_>),
            ),
            ("icmp", Self::icmp),
            ("options", Self::options),
            ("log", Self::log),
        ] {
            if let Some((key, value)) = top.take(name)
                && self.define("key", name, &place_of(file, key))
            {
                item(self, file, value);
            }
        }
        if let Some((_, value)) = top.take("allow") {
            self.each_table(file, value, "allow", Self::allow);
        }
        if let Some((_, value)) = top.take("expect") {
            self.each_table(file, value, "expect", Self::expect);
        }
    }
}

impl Loader<'_> {
    pub(super) fn file(&mut self, file: FileId, is_main: bool) {
        let text = self.sources.text(file).to_owned();
        let (table, errors) = DeTable::parse_recoverable(&text);
        for err in &errors {
            self.syntax_error(file, &text, err);
        }
        let fields = Fields::new(file, table.get_ref(), 0..text.len().min(1));
        self.top(fields, is_main, errors.is_empty());
    }

    fn syntax_error(&mut self, file: FileId, text: &str, err: &toml::de::Error) {
        let span = err.span().unwrap_or(text.len()..text.len());
        let place = Place { file, span };
        let help = match err.message() {
            "duplicate key" => {
                "a name stands once; several addresses are a list: name = [\"…\", \"…\"]; see docs/policy.md"
            }
            _ => {
                "keys are name = value, texts are in \"quotes\", lists in [brackets]; see docs/policy.md"
            }
        };
        let message = format!("not TOML: {}", err.message());
        self.error(Diagnostic::error(place, message).help(help));
    }

    fn top(&mut self, mut fields: Fields<'_>, is_main: bool, is_whole: bool) {
        let file = fields.file();
        match fields.take("version") {
            Some((_, value)) => self.version(file, value),
            // A file that is not TOML may have one that was not seen.
            None if is_main && is_whole => {
                let place = fields.place();
                self.error(
                    Diagnostic::error(place, "`version` is missing")
                        .help("start the file with `version = 1`"),
                );
            }
            None => {}
        }
        self.sections(&mut fields);
        let include = fields.take("include");
        let known = [
            "version",
            "peers",
            "overlay",
            "allow",
            "groups",
            "include",
            "peers_files",
            "interfaces",
            "icmp",
            "options",
            "log",
            "expect",
        ];
        // Where a line cannot be read, what stands below it ends up in the wrong table.
        if is_whole {
            self.diagnostics
                .extend(fields.unknown(&known, "the policy"));
        }
        if let Some((key, value)) = include {
            match is_main {
                true => self.include(file, value),
                false => self.error(
                    Diagnostic::error(place_of(file, key), "an included file cannot include more")
                        .help("name it in the main file's `include`"),
                ),
            }
        }
    }

    fn version(&mut self, file: FileId, value: &Spanned<DeValue<'_>>) {
        let place = place_of(file, value);
        match fields::integer(value.get_ref()) {
            Some(1) => {}
            Some(n) => self.error(
                Diagnostic::error(
                    place,
                    format!("version {n} of the policy language is not known"),
                )
                .help(format!("this peerwall knows version {VERSION}")),
            ),
            None => self.error(
                Diagnostic::error(place, "`version` is not a number").help("write `version = 1`"),
            ),
        }
    }

    fn include(&mut self, file: FileId, value: &Spanned<DeValue<'_>>) {
        let relative_to = self.sources.name(file).to_owned();
        for (pattern, place) in self.strings(file, value, "include") {
            let names = match self.files.glob(&pattern, &relative_to) {
                Ok(names) => names,
                Err(err) => {
                    let why = self.unread(err);
                    self.error(Diagnostic::error(place, format!("cannot include: {why}")));
                    continue;
                }
            };
            let is_pattern = pattern.contains(['*', '?', '[']);
            if names.is_empty() && !is_pattern {
                self.error(
                    Diagnostic::error(place.clone(), format!("there is no file {pattern}")).help(
                        "paths are relative to this file; a pattern with * may match nothing",
                    ),
                );
            }
            for name in names {
                match self.read(&name, &relative_to) {
                    Ok(Text { name, text, .. }) => {
                        let included = self.sources.add_policy(name, text);
                        self.file(included, false);
                    }
                    Err(why) => {
                        self.error(Diagnostic::error(
                            place.clone(),
                            format!("cannot include: {why}"),
                        ));
                    }
                }
            }
        }
    }
}
