//! Parsing of `[icmp]`.

use super::context::{Context, Owner};
use super::fields::{self, Data, Value, place_of};
use crate::diagnostic::{Code, Diagnostic, FileId};
use crate::net::addr::Family;
use crate::policy::{IcmpTypes, icmp};

pub(super) fn parse_icmp(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    let Some(mut fields) = cx.table(file, value, "icmp") else {
        return;
    };
    cx.draft.policy.icmp.place = Some(fields.place());
    for (key, family) in [("v4", Family::V4), ("v6", Family::V6)] {
        if let Some((_, value)) = fields.take(key) {
            let types = parse_types(cx, file, value, family);
            match family {
                Family::V4 => cx.draft.policy.icmp.v4 = types,
                Family::V6 => cx.draft.policy.icmp.v6 = types,
            }
        }
    }
    if let Some((_, value)) = fields.take("core")
        && let Some(core) = cx.boolean(file, value, "core")
    {
        cx.draft.policy.icmp.core = core;
        if !core {
            cx.diagnostics.push(
                Diagnostic::warning(
                    Code::SafeCoreOff,
                    place_of(file, value),
                    "the safe core of ICMP is off",
                )
                .help(
                    "path MTU discovery and all of IPv6 stop working unless `v4` and `v6` \
                     list the required types",
                ),
            );
        }
    }
    if let Some((_, value)) = fields.take("ping") {
        cx.froms(Owner::Ping, file, value);
    }
    cx.diagnostics
        .extend(fields.unknown(&["v4", "v6", "ping", "core"], "[icmp]"));
}

fn parse_types(cx: &mut Context<'_>, file: FileId, value: &Value<'_>, family: Family) -> IcmpTypes {
    if value.get_ref().as_str() == Some("all") {
        return IcmpTypes::All;
    }
    let Data::Array(list) = value.get_ref() else {
        let name = format!("v{}", family.digit());
        cx.error(
            Diagnostic::error(
                Code::WrongType,
                place_of(file, value),
                format!("`{name}` must be a list of ICMP types, or \"all\""),
            )
            .help("like [\"echo-request\"] or [8]"),
        );
        return IcmpTypes::All;
    };
    let mut types: Vec<u8> = list
        .iter()
        .filter_map(|item| parse_type(cx, file, item, family))
        .collect();
    types.sort_unstable();
    types.dedup();
    IcmpTypes::Some(types)
}

fn parse_type(cx: &mut Context<'_>, file: FileId, value: &Value<'_>, family: Family) -> Option<u8> {
    let place = place_of(file, value);
    if let Some(number) = value.get_ref().as_integer() {
        return match u8::try_from(number) {
            Ok(number) => Some(number),
            Err(std::num::TryFromIntError { .. }) => {
                cx.error(
                    Diagnostic::error(
                        Code::InvalidIcmpType,
                        place,
                        format!("ICMP type {number} does not exist"),
                    )
                    .help("types are 0 to 255"),
                );
                None
            }
        };
    }
    let text = value.get_ref().as_str().unwrap_or_default();
    let found = icmp::by_name(family, text);
    if found.is_none() {
        let help = match fields::closest(text, icmp::names(family)) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!(
                "one of {}, or a number",
                icmp::names(family).collect::<Vec<_>>().join(", ")
            ),
        };
        cx.error(
            Diagnostic::error(
                Code::InvalidIcmpType,
                place,
                format!("`{text}` is not an ICMP type of IPv{}", family.digit()),
            )
            .help(help),
        );
    }
    found
}
