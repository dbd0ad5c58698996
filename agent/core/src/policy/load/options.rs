//! Parsing of `[options]`.

use super::context::Context;
use super::fields::{Value, place_of};
use crate::diagnostic::{Code, Diagnostic, FileId};
use crate::policy::{BackendChoice, Denied, Mode};

type OptionParser = fn(&mut Context<'_>, FileId, &Value<'_>);

/// Keys of `[options]`, with their parsers.
const KEYS: [(&str, OptionParser); 7] = [
    ("backend", parse_backend),
    ("hook_priority", parse_hook_priority),
    ("denied", parse_denied),
    ("mode", parse_mode),
    ("audit", parse_audit),
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
    let priority = value
        .get_ref()
        .as_integer()
        .and_then(|n| i32::try_from(n).ok());
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
    let choices = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
    let Some(mode) = cx.one_of(file, value, "mode", &choices) else {
        return;
    };
    cx.draft.policy.options.mode = mode;
    if mode == Mode::Audit {
        cx.diagnostics.push(
            Diagnostic::warning(
                Code::NothingEnforced,
                place_of(file, value),
                "mode \"audit\": nothing is enforced; what the policy denies is counted and passes",
            )
            .help("`peerwall denied` shows what would be denied; then remove this line"),
        );
    }
}

/// Parses `audit`, after `mode`.
fn parse_audit(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let choices = [("denied", Mode::Audit), ("all", Mode::AuditAll)];
    let Some(mode) = cx.one_of(file, value, "audit", &choices) else {
        return;
    };
    if cx.draft.policy.options.mode == Mode::Enforce {
        return cx.error(
            Diagnostic::error(
                Code::ConflictingKeys,
                place_of(file, value),
                "`audit` is about mode \"audit\", which is not set",
            )
            .help("add mode = \"audit\", or remove this line"),
        );
    }
    cx.draft.policy.options.mode = mode;
}

fn parse_revoke(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let choices = [("cut", true), ("keep", false)];
    if let Some(cut) = cx.one_of(file, value, "revoke", &choices) {
        cx.draft.policy.options.cut_revoked = cut;
    }
}
