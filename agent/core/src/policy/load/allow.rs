//! Parsing of `[[allow]]`.

use std::collections::BTreeSet;

use super::context::{Context, Owner};
use super::fields::{Data, Fields, Value, place_of};
use super::values::parse_rate;
use crate::diagnostic::{Code, Diagnostic, FileId, Place};
use crate::net::port::{self, PortSpec};
use crate::policy::{Allow, Rate};

/// Maximum rate that both nftables and iptables support.
const LIMIT_MAX_PER_SECOND: u64 = 1_000_000;

/// Maximum burst that both support.
const LIMIT_MAX_BURST: u32 = 1_000_000;

pub(super) fn parse_allows(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let more = value.get_ref().as_array().map_or(0, <[_]>::len);
    cx.draft.policy.allows.reserve_exact(more);
    cx.each_table(file, value, "allow", parse_allow);
}

fn parse_allow(cx: &mut Context<'_>, mut fields: Fields<'_>) {
    let file = fields.file();
    let (name, place) = parse_name(cx, &mut fields);
    let what = format!("allow `{name}`");
    let ports = fields.take("ports").map(|(_, value)| cx.ports(file, value));
    let interfaces = match fields.take("interfaces") {
        Some((_, value)) => cx.patterns(file, value, "`interfaces`"),
        None => Vec::new(),
    };
    let from_ports = fields
        .take("from_ports")
        .map(|(_, value)| cx.ports(file, value));
    check_protocols(cx, &place, ports.as_deref(), from_ports.as_deref());
    let limit = match fields.take("limit") {
        Some((_, value)) => parse_limit(cx, file, value),
        None => None,
    };
    let to = fields.take("to");
    let from = fields.take("from");
    let known = [
        "name",
        "ports",
        "from",
        "interfaces",
        "from_ports",
        "limit",
        "to",
    ];
    cx.diagnostics.extend(fields.unknown(&known, &what));
    match from {
        Some((_, value)) => {
            let owner = Owner::Allow(cx.draft.policy.allows.len());
            cx.froms(owner, file, value);
            let everything =
                ports.is_none() && from_ports.is_none() && interfaces.is_empty() && to.is_none();
            warn_if_open(cx, &what, &place, everything, value);
        }
        None => cx.error(
            Diagnostic::error(
                Code::MissingKey,
                place.clone(),
                format!("{what} has no `from`"),
            )
            .help("add from = \"any\", the name of a group, or a CIDR"),
        ),
    }
    if let Some((_, value)) = to {
        let index = cx.draft.policy.allows.len();
        let list = cx.strings(file, value, "`to`");
        let list = list.into_iter().map(|(text, place)| (index, text, place));
        cx.draft.tos.extend(list);
    }
    cx.draft.policy.allows.push(Allow {
        name,
        place,
        ports,
        from_ports,
        from: Vec::new(),
        to: Vec::new(),
        limit,
        interfaces,
    });
}

/// Parses the name, with its place. An allow without a name gets a placeholder, so that its other
/// keys are checked.
fn parse_name(cx: &mut Context<'_>, fields: &mut Fields<'_>) -> (String, Place) {
    const NAMELESS: &str = "(no name)";
    let file = fields.file();
    let Some((_, value)) = fields.take("name") else {
        let place = fields.place();
        cx.error(
            Diagnostic::error(Code::MissingKey, place.clone(), "this allow has no name")
                .help("add name = \"…\"; counters and reasons contain it"),
        );
        return (NAMELESS.to_owned(), place);
    };
    let place = place_of(file, value);
    let Some(name) = value.get_ref().as_str() else {
        let error = Diagnostic::error(Code::WrongType, place.clone(), "`name` must be a string");
        cx.error(error.help("write it in \"quotes\""));
        return (NAMELESS.to_owned(), place);
    };
    cx.check_name("allow", name, &place);
    cx.define("allow", name, &place);
    (name.to_owned(), place)
}

/// Parses the limit on new connections of each source.
fn parse_limit(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) -> Option<Rate> {
    let rate = value.get_ref().as_str().and_then(parse_rate);
    let found = rate.filter(|rate| {
        let per_second = u64::from(rate.count) / rate.unit.describe().1;
        per_second <= LIMIT_MAX_PER_SECOND && (1..=LIMIT_MAX_BURST).contains(&rate.burst)
    });
    if found.is_none() {
        cx.error(
            Diagnostic::error(
                Code::InvalidRate,
                place_of(file, value),
                "`limit` is not a rate",
            )
            .help(
                "like \"10/second\" or \"100/minute burst 20\"; units are second, minute, hour and \
                 day; the maximum is a million per second, with a burst of a million",
            ),
        );
    }
    found
}

/// Checks that source and destination ports have the same protocols.
fn check_protocols(
    cx: &mut Context<'_>,
    place: &Place,
    to: Option<&[PortSpec]>,
    from: Option<&[PortSpec]>,
) {
    let (Some(to), Some(from)) = (to, from) else {
        return;
    };
    let of = |specs: &[PortSpec]| -> Vec<u8> {
        specs
            .iter()
            .flat_map(|spec| spec.protocols.iter().copied())
            .collect::<BTreeSet<u8>>()
            .into_iter()
            .collect()
    };
    let (to, from) = (of(to), of(from));
    let alone = |these: &[u8], others: &[u8]| {
        let mut alone = these.iter().filter(|each| !others.contains(each));
        alone.next().map(|protocol| port::protocol_name(*protocol))
    };
    for (found, has, lacks) in [
        (alone(&to, &from), "ports", "from_ports"),
        (alone(&from, &to), "from_ports", "ports"),
    ] {
        if let Some(protocol) = found {
            cx.error(
                Diagnostic::error(Code::ProtocolMismatch,
                    place.clone(),
                    format!("`{has}` of this allow has {protocol}, but `{lacks}` does not"),
                )
                .help("both ports of a packet have the same protocol; write one allow for each protocol"),
            );
        }
    }
}

fn warn_if_open(
    cx: &mut Context<'_>,
    what: &str,
    place: &Place,
    everything: bool,
    from: &Value<'_>,
) {
    let any = match from.get_ref() {
        Data::String(text) => text == "any",
        Data::Array(list) => list.iter().any(|v| v.get_ref().as_str() == Some("any")),
        Data::Integer(_) | Data::Float | Data::Boolean(_) | Data::Datetime | Data::Table(_) => {
            false
        }
    };
    if any && everything {
        cx.diagnostics.push(
            Diagnostic::warning(
                Code::OpenToEverybody,
                place.clone(),
                format!("{what} opens every port to every source"),
            )
            .help("add `ports` if this is not intended"),
        );
    }
}
