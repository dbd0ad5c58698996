//! One file of a policy: its syntax, its top-level keys, and the files that it includes.

use super::fields::{Fields, Value};
use super::{Loader, place_of};
use crate::diagnostic::FileId;

impl Loader<'_> {
    pub(super) fn sections(&mut self, top: &mut Fields<'_>) {
        let file = top.file();
        if let Some((_, value)) = top.take("peers") {
            self.peers(file, value);
        }
        if let Some((key, value)) = top.take("peers_files")
            && self.define("key", "peers_files", &place_of(file, key))
        {
            self.peers_files(file, value);
        }
        if let Some((_, value)) = top.take("groups") {
            self.groups(file, value);
        }
        if let Some((_, value)) = top.take("overlay") {
            self.overlays(file, value);
        }
        for (name, item) in [
            (
                "interfaces",
                Self::interfaces as fn(&mut Self, FileId, &Value<'_>),
            ),
            ("icmp", Self::icmp),
            ("options", Self::options),
            ("log", Self::log),
        ] {
            if let Some((key, value)) = top.take(name)
                && self.define("key", name, &place_of(file, key))
            {
                item(self, file, value);
            }
        }
        if let Some((_, value)) = top.take("allow") {
            self.each_table(file, value, "allow", Self::allow);
        }
        if let Some((_, value)) = top.take("expect") {
            self.each_table(file, value, "expect", Self::expect);
        }
    }
}
