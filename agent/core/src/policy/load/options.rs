//! Parsing of `[options]`.

use super::context::Context;
use super::fields::{self, Value, place_of};
use crate::diagnostic::{Code, Diagnostic, FileId};
use crate::policy::{BackendChoice, Denied};

type OptionParser = fn(&mut Context<'_>, FileId, &Value<'_>);

/// Keys of `[options]`, with their parsers.
const KEYS: [(&str, OptionParser); 6] = [
    ("backend", parse_backend),
    ("hook_priority", parse_hook_priority),
    ("denied", parse_denied),
    ("mode", parse_mode),
    ("invalid", parse_invalid),
    ("revoke", parse_revoke),
];

pub(super) fn parse_options(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let Some(mut fields) = cx.table(file, value, "options") else {
        return;
    };
    for (key, parse) in KEYS {
        if let Some((_, value)) = fields.take(key) {
            parse(cx, file, value);
        }
    }
    let known = KEYS.map(|(key, _)| key);
    cx.diagnostics.extend(fields.unknown(&known, "[options]"));
}

fn parse_hook_priority(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    // conntrack runs at -200 (NF_IP_PRI_CONNTRACK) and DNAT at -100: before them, neither the state
    // nor the original destination is known. SNAT of input runs at 100.
    let priority = fields::integer(value.get_ref()).and_then(|n| i32::try_from(n).ok());
    let Some(priority) = priority.filter(|priority| (-99..100).contains(priority)) else {
        return cx.error(
            Diagnostic::error(
                Code::OutOfRange,
                place_of(file, value),
                "`hook_priority` is out of range",
            )
            .help("a number from -99 (after DNAT) to 99; the default is -10"),
        );
    };
    cx.draft.policy.options.hook_priority = priority;
    if priority == 0 {
        cx.diagnostics.push(
            Diagnostic::warning(
                Code::SharedPriority,
                place_of(file, value),
                "many programs use priority 0; the order of equal priorities is undefined",
            )
            .help("use a number that no other program uses, like -10"),
        );
    }
}

fn parse_backend(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    if let Some(backend) = cx.one_of(file, value, "backend", &BackendChoice::NAMES) {
        cx.draft.policy.options.backend = backend;
    }
}

fn parse_denied(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let choices = [("drop", Denied::Drop), ("reject", Denied::Reject)];
    if let Some(denied) = cx.one_of(file, value, "denied", &choices) {
        cx.draft.policy.options.denied = denied;
    }
}

fn parse_invalid(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let choices = [("drop", true), ("accept", false)];
    if let Some(drop) = cx.one_of(file, value, "invalid", &choices) {
        cx.draft.policy.options.drop_invalid = drop;
    }
}

fn parse_mode(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let choices = [("enforce", true), ("audit", false)];
    if cx.one_of(file, value, "mode", &choices) == Some(false) {
        cx.error(
            Diagnostic::error(
                Code::UnsupportedValue,
                place_of(file, value),
                "mode \"audit\" is not supported by this version of peerwall",
            )
            .help("`peerwall plan` shows changes without making them"),
        );
    }
}

fn parse_revoke(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let choices = [("cut", true), ("keep", false)];
    if let Some(cut) = cx.one_of(file, value, "revoke", &choices) {
        cx.draft.policy.options.cut_revoked = cut;
    }
}
