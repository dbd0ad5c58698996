//! Parsing of `[groups]`.

use super::context::Context;
use super::fields::{Data, Fields, Value, place_of};
use crate::diagnostic::{Code, Diagnostic, FileId};
use crate::policy::{Address, Group};

pub(super) fn parse_groups(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    cx.named_entries(file, value, "groups", "group", |cx, key, value| {
        let name = key.get_ref().to_string();
        let addresses = match value.get_ref() {
            Data::Table(table) => parse_group(cx, Fields::new(file, table, value.span()), &name),
            Data::String(_)
            | Data::Integer(_)
            | Data::Float
            | Data::Boolean(_)
            | Data::Datetime
            | Data::Array(_) => cx.addresses(file, value, format_args!("group `{name}`")),
        };
        let place = place_of(file, key);
        cx.draft.policy.groups.push(Group {
            name,
            place,
            addresses,
        });
    });
}

fn parse_group(cx: &mut Context<'_>, mut fields: Fields<'_>, name: &str) -> Vec<Address> {
    let file = fields.file();
    let mut addresses = Vec::new();
    let listed = fields.take("addresses");
    if let Some((_, value)) = listed {
        addresses = cx.addresses(file, value, "`addresses`");
    }
    let files = fields.take("files");
    if let Some((_, value)) = files {
        for (path, place) in cx.strings(file, value, "`files`") {
            let more = cx.list_file(&path, &place);
            addresses.extend(more);
        }
    }
    cx.diagnostics
        .extend(fields.unknown(&["addresses", "files"], &format!("group `{name}`")));
    if listed.is_none() && files.is_none() {
        let place = fields.place();
        cx.error(
            Diagnostic::error(
                Code::EmptyList,
                place,
                format!("group `{name}` has no addresses"),
            )
            .help("add `addresses = [...]` or `files = [...]`"),
        );
    }
    addresses
}
