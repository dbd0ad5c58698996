//! Looks up names in `from` and `to` once all files are read.

use super::fields::Value;
use super::{Loader, Owner, PendingFrom};
use crate::diagnostic::FileId;

impl Loader<'_> {
    pub(super) fn froms(&mut self, owner: Owner, file: FileId, value: &Value<'_>) {
        let what = match owner {
            Owner::Allow(_) => "from",
            Owner::Ping => "ping",
            Owner::Tunnel(_) => "tunnel_from",
        };
        for (text, place) in self.strings(file, value, what) {
            self.draft.froms.push(PendingFrom { owner, text, place });
        }
    }
}
