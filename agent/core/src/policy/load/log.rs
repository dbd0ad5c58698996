//! Parsing of `[log]`.

use super::context::Context;
use super::fields::{Data, Fields, Value, place_of};
use super::values::parse_rate;
use crate::diagnostic::{Code, Diagnostic, FileId};
use crate::policy::Log;

pub(super) fn parse_log(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let Some(mut fields) = cx.table(file, value, "log") else {
        return;
    };
    if let Some((_, value)) = fields.take("denied") {
        match value.get_ref() {
            Data::Boolean(true) => {}
            Data::Boolean(false) => cx.draft.log_off = true,
            Data::Table(table) => parse_denied(cx, Fields::new(file, table, value.span())),
            Data::String(_) | Data::Integer(_) | Data::Float | Data::Datetime | Data::Array(_) => {
                cx.error(
                    Diagnostic::error(
                        Code::WrongType,
                        place_of(file, value),
                        "`denied` must be a table or false",
                    )
                    .help("like { group = 5, rate = \"10/second\", prefix = \"peerwall\" }"),
                )
            }
        }
    }
    cx.diagnostics.extend(fields.unknown(&["denied"], "[log]"));
}

fn parse_denied(cx: &mut Context<'_>, mut fields: Fields<'_>) {
    let file = fields.file();
    let mut log = Log::default();
    if let Some((_, value)) = fields.take("group") {
        match value.get_ref().as_integer().map(u16::try_from) {
            Some(Ok(group)) => log.group = group,
            _ => cx.error(
                Diagnostic::error(
                    Code::OutOfRange,
                    place_of(file, value),
                    "`group` is not an NFLOG group",
                )
                .help("a number from 0 to 65535"),
            ),
        }
    }
    if let Some((_, value)) = fields.take("rate") {
        match value.get_ref().as_str().and_then(parse_rate) {
            Some(rate) => log.rate = rate,
            None => cx.error(
                Diagnostic::error(
                    Code::InvalidRate,
                    place_of(file, value),
                    "`rate` is not a rate",
                )
                .help(
                    "like \"10/second\" or \"100/minute burst 20\"; units are second, \
                     minute, hour and day",
                ),
            ),
        }
    }
    if let Some((_, value)) = fields.take("prefix") {
        match value.get_ref().as_str() {
            Some(text) if is_log_prefix(text) => log.prefix = text.to_owned(),
            _ => cx.error(
                Diagnostic::error(
                    Code::InvalidPrefix,
                    place_of(file, value),
                    "`prefix` is not a log prefix",
                )
                .help("1 to 64 printable ASCII characters, without \" and \\"),
            ),
        }
    }
    cx.diagnostics
        .extend(fields.unknown(&["group", "rate", "prefix"], "[log] denied"));
    cx.draft.policy.log = Some(log);
}

fn is_log_prefix(text: &str) -> bool {
    let printable = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
    (1..=64).contains(&text.len()) && text.bytes().all(printable) && text.trim() == text
}
