//! `[groups]`.

use toml::de::DeValue;

use super::fields::{Fields, Value};
use super::{Loader, place_of};
use crate::diagnostic::{Diagnostic, FileId};
use crate::policy::{Address, Group};

impl Loader<'_> {
    pub(super) fn groups(&mut self, file: FileId, value: &Value<'_>) {
        self.named_entries(file, value, "groups", "group", |this, key, value| {
            let name = key.get_ref().to_string();
            let addresses = match value.get_ref() {
                DeValue::Table(table) => {
                    this.group_table(Fields::new(file, table, value.span()), &name)
                }
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_) => this.addresses(file, value, &format!("group `{name}`")),
            };
            let place = place_of(file, key);
            this.draft.policy.groups.push(Group {
                name,
                place,
                addresses,
            });
        });
    }

    fn group_table(&mut self, mut fields: Fields<'_>, name: &str) -> Vec<Address> {
        let file = fields.file();
        let mut addresses = Vec::new();
        let listed = fields.take("addresses");
        if let Some((_, value)) = listed {
            addresses = self.addresses(file, value, "addresses");
        }
        let files = fields.take("files");
        if let Some((_, value)) = files {
            for (path, place) in self.strings(file, value, "files") {
                let more = self.list_file(&path, &place);
                addresses.extend(more);
            }
        }
        self.diagnostics
            .extend(fields.unknown(&["addresses", "files"], &format!("group `{name}`")));
        if listed.is_none() && files.is_none() {
            let place = fields.place();
            self.error(
                Diagnostic::error(place, format!("group `{name}` has no addresses"))
                    .help("give `addresses = [...]` or `files = [...]`"),
            );
        }
        addresses
    }
}
