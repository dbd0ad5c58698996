//! `[interfaces]`.

use super::fields::Value;
use super::{Loader, place_of};
use crate::diagnostic::{Diagnostic, FileId};

impl Loader<'_> {
    pub(super) fn interfaces(&mut self, file: FileId, value: &Value<'_>) {
        let Some(mut fields) = self.table(file, value, "interfaces") else {
            return;
        };
        self.draft.interfaces = Some(fields.place());
        if let Some((_, value)) = fields.take("trusted") {
            let patterns = self.patterns(file, value, "trusted");
            self.draft.policy.trusted = patterns;
        }
        if let Some((_, value)) = fields.take("guests") {
            let patterns = self.patterns(file, value, "guests");
            self.draft.policy.guests = patterns;
        }
        if let Some((_, value)) = fields.take("bridged") {
            let patterns = self.patterns(file, value, "bridged");
            if patterns.iter().any(|pattern| pattern.exact().is_none()) {
                self.error(
                    Diagnostic::error(place_of(file, value), "`bridged` names bridges, not patterns")
                        .help("a frame that comes in by one bridge and leaves by another is routed; write the name of each"),
                );
            }
            self.draft.policy.bridged = patterns;
        }
        let known = ["trusted", "guests", "bridged"];
        self.diagnostics
            .extend(fields.unknown(&known, "[interfaces]"));
    }
}
