//! Parsing of a policy file: syntax, top-level keys and includes.

use super::VERSION;
use super::allow::parse_allows;
use super::context::Context;
use super::document;
use super::expect::parse_expects;
use super::fields::{Fields, Value, place_of};
use super::files::Text;
use super::groups::parse_groups;
use super::icmp::parse_icmp;
use super::interfaces::parse_interfaces;
use super::log::parse_log;
use super::member_sources::{parse_groups_from, parse_peers_from};
use super::options::parse_options;
use super::overlay::parse_overlays;
use super::peers::{parse_peers, parse_peers_files};
use crate::diagnostic::{Code, Diagnostic, FileId, Place};

/// Parses one file. Only the main file can include others.
pub(super) fn read_file(cx: &mut Context<'_>, file: FileId, is_main: bool) {
    let text = cx.sources.shared_text(file);
    let (table, errors) = document::parse(&text);
    for err in &errors {
        syntax_error(cx, file, &text, err);
    }
    let fields = Fields::new(file, &table, 0..text.len().min(1));
    parse_top(cx, fields, is_main, errors.is_empty());
}

pub(super) fn syntax_error(cx: &mut Context<'_>, file: FileId, text: &str, err: &toml::de::Error) {
    let span = err.span().unwrap_or(text.len()..text.len());
    let place = Place { file, span };
    let help = match err.message() {
        "duplicate key" => {
            "each name may occur once; write several addresses as a list: name = [\"…\", \"…\"]; \
             see docs/policy.md"
        }
        _ => "write name = value, strings in \"quotes\", lists in [brackets]; see docs/policy.md",
    };
    let message = format!("invalid TOML: {}", err.message());
    cx.error(Diagnostic::error(Code::Syntax, place, message).help(help));
}

fn parse_top(cx: &mut Context<'_>, mut fields: Fields<'_>, is_main: bool, is_whole: bool) {
    let file = fields.file();
    match fields.take("version") {
        Some((_, value)) => check_version(cx, file, value),
        // In a file with invalid TOML, `version` may exist but be unreadable.
        None if is_main && is_whole => {
            let place = fields.place();
            cx.error(
                Diagnostic::error(Code::MissingKey, place, "`version` is missing")
                    .help("start the file with `version = 1`"),
            );
        }
        None => {}
    }
    parse_sections(cx, &mut fields);
    let include = fields.take("include");
    let known = [
        "version",
        "peers",
        "overlay",
        "allow",
        "groups",
        "peers_from",
        "groups_from",
        "include",
        "peers_files",
        "interfaces",
        "icmp",
        "options",
        "log",
        "expect",
    ];
    // After an invalid line, the parser can put keys into the wrong table.
    if is_whole {
        cx.diagnostics.extend(fields.unknown(&known, "the policy"));
    }
    if let Some((key, value)) = include {
        match is_main {
            true => parse_include(cx, file, value),
            false => cx.error(
                Diagnostic::error(
                    Code::NestedInclude,
                    place_of(file, key),
                    "an included file cannot have `include`",
                )
                .help("list the file in the main file's `include`"),
            ),
        }
    }
}

type SectionParser = fn(&mut Context<'_>, FileId, &Value<'_>);

/// Sections that can occur once in a policy, in any of its files.
const SECTIONS: [(&str, SectionParser); 5] = [
    ("peers_files", parse_peers_files),
    ("interfaces", parse_interfaces),
    ("icmp", parse_icmp),
    ("options", parse_options),
    ("log", parse_log),
];

/// Sections that can occur in several files.
const LISTS: [(&str, SectionParser); 7] = [
    ("peers", parse_peers),
    ("groups", parse_groups),
    ("peers_from", parse_peers_from),
    ("groups_from", parse_groups_from),
    ("overlay", parse_overlays),
    ("allow", parse_allows),
    ("expect", parse_expects),
];

fn parse_sections(cx: &mut Context<'_>, top: &mut Fields<'_>) {
    let file = top.file();
    for (name, parse) in LISTS {
        if let Some((_, value)) = top.take(name) {
            parse(cx, file, value);
        }
    }
    for (name, parse) in SECTIONS {
        if let Some((key, value)) = top.take(name) {
            cx.define("key", name, &place_of(file, key));
            parse(cx, file, value);
        }
    }
}

fn check_version(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let place = place_of(file, value);
    match value.get_ref().as_integer() {
        Some(1) => {}
        Some(n) => cx.error(
            Diagnostic::error(
                Code::UnknownVersion,
                place,
                format!("version {n} of the policy language is not supported"),
            )
            .help(format!(
                "this version of peerwall supports version {VERSION}"
            )),
        ),
        None => cx.error(
            Diagnostic::error(Code::WrongType, place, "`version` must be a number")
                .help("write `version = 1`"),
        ),
    }
}

fn parse_include(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let relative_to = cx.sources.name(file).to_owned();
    for (pattern, place) in cx.strings(file, value, "`include`") {
        let names = match cx.files.glob(&pattern, &relative_to) {
            Ok(names) => names,
            Err(err) => {
                let why = cx.unread(err);
                cx.error(Diagnostic::error(
                    Code::FileUnreadable,
                    place,
                    format!("cannot include: {why}"),
                ));
                continue;
            }
        };
        let is_pattern = pattern.contains(['*', '?', '[']);
        if names.is_empty() && !is_pattern {
            cx.error(
                Diagnostic::error(
                    Code::FileMissing,
                    place.clone(),
                    format!("file {pattern} does not exist"),
                )
                .help("paths are relative to this file; a pattern with * may match nothing"),
            );
        }
        for name in names {
            match cx.read(&name, &relative_to) {
                Ok(Text { name, text, .. }) => {
                    let included = cx.sources.add_policy(name, text);
                    read_file(cx, included, false);
                }
                Err(why) => {
                    cx.error(Diagnostic::error(
                        Code::FileUnreadable,
                        place.clone(),
                        format!("cannot include: {why}"),
                    ));
                }
            }
        }
    }
}
