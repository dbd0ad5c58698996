//! Parsing of `[interfaces]`.

use super::context::Context;
use super::fields::{Value, place_of};
use crate::diagnostic::{Code, Diagnostic, FileId};

pub(super) fn parse_interfaces(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let Some(mut fields) = cx.table(file, value, "interfaces") else {
        return;
    };
    cx.draft.interfaces = Some(fields.place());
    if let Some((_, value)) = fields.take("trusted") {
        let patterns = cx.patterns(file, value, "`trusted`");
        cx.draft.policy.trusted = patterns;
    }
    if let Some((_, value)) = fields.take("guests") {
        let patterns = cx.patterns(file, value, "`guests`");
        cx.draft.policy.guests = patterns;
    }
    if let Some((_, value)) = fields.take("bridged") {
        let patterns = cx.patterns(file, value, "`bridged`");
        if patterns.iter().any(|pattern| pattern.exact().is_none()) {
            cx.error(
                Diagnostic::error(
                    Code::InvalidInterface,
                    place_of(file, value),
                    "`bridged` cannot contain patterns",
                )
                .help(
                    "write the name of each bridge; packets from one bridge to another are routed",
                ),
            );
        }
        cx.draft.policy.bridged = patterns;
    }
    let known = ["trusted", "guests", "bridged"];
    cx.diagnostics
        .extend(fields.unknown(&known, "[interfaces]"));
}
