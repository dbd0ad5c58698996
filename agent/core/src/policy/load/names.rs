//! Names of peers, groups, overlays and allows.

use std::collections::hash_map::Entry;

use super::context::Context;
use crate::diagnostic::{Code, Diagnostic, Place};

/// Maximum length of a name of a peer, group, overlay or allow, in bytes.
const NAME_MAX_BYTES: usize = 63;

/// Whether a text consists of the characters of names, and is not too long.
pub(crate) fn is_name(text: &str) -> bool {
    has_name_characters(text) && text.len() <= NAME_MAX_BYTES
}

fn has_name_characters(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl Context<'_> {
    /// Records the definition of `name`. Returns false and reports an error if it is already
    /// defined.
    pub(super) fn define(&mut self, kind: &'static str, name: &str, place: &Place) -> bool {
        // `from` resolves these three in one namespace.
        let space = match kind {
            "peer" | "group" | "overlay" => "name",
            other => other,
        };
        match self.draft.defined.entry((space, name.to_owned())) {
            Entry::Occupied(first) => {
                let first = first.get().clone();
                let what = match space {
                    "name" => format!("the name `{name}` is used twice"),
                    "key" => format!("`{name}` is set twice"),
                    _ => format!("{kind} `{name}` is defined twice"),
                };
                self.error(
                    Diagnostic::error(Code::DefinedTwice, place.clone(), what)
                        .label("again here")
                        .also(first, "first here")
                        .help("keep one of them, or rename one"),
                );
                false
            }
            Entry::Vacant(free) => {
                free.insert(place.clone());
                true
            }
        }
    }

    /// Checks that `name` is valid. Returns false and reports an error if not.
    pub(super) fn check_name(&mut self, kind: &str, name: &str, place: &Place) -> bool {
        let a = match kind.starts_with(['a', 'o']) {
            true => "an",
            false => "a",
        };
        let err = if name == "host" && kind != "allow" {
            Diagnostic::error(
                Code::InvalidName,
                place.clone(),
                format!("{a} {kind} cannot be named `host`"),
            )
            .help("`host` means this host's own addresses in `to`")
        } else if name == "any" {
            Diagnostic::error(
                Code::InvalidName,
                place.clone(),
                format!("{a} {kind} cannot be named `any`"),
            )
            .help("`any` means every source in `from`")
        } else if !has_name_characters(name) {
            Diagnostic::error(Code::InvalidName,
                place.clone(),
                format!("`{name}` cannot be the name of {a} {kind}"),
            )
            .help("names consist of letters, digits, `-`, `_` and `.`, and start with a letter or digit")
        } else if name.len() > NAME_MAX_BYTES {
            Diagnostic::error(
                Code::InvalidName,
                place.clone(),
                format!("the name of this {kind} is longer than {NAME_MAX_BYTES} bytes"),
            )
            .help("choose a shorter name; the names of counters and sets contain it")
        } else if name.parse::<std::net::IpAddr>().is_ok() {
            Diagnostic::error(
                Code::InvalidName,
                place.clone(),
                format!("`{name}` is an address, not a name for {a} {kind}"),
            )
            .help(format!("write it as a value: name = \"{name}\""))
        } else {
            return true;
        };
        self.error(err);
        false
    }
}
