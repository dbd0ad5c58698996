//! `[peers]` and `peers_files`.

use super::Loader;
use super::fields::Value;
use crate::diagnostic::FileId;
use crate::policy::Peer;

impl Loader<'_> {
    pub(super) fn peers(&mut self, file: FileId, value: &Value<'_>) {
        self.named_entries(file, value, "peers", "peer", |this, key, value| {
            let name = key.get_ref().to_string();
            let addresses = this.addresses(file, value, &format!("peer `{name}`"));
            this.draft.policy.peers.push(Peer {
                name: Some(name),
                addresses,
            });
        });
    }

    pub(super) fn peers_files(&mut self, file: FileId, value: &Value<'_>) {
        for (path, place) in self.strings(file, value, "peers_files") {
            let addresses = self.list_file(&path, &place);
            self.draft.policy.peers.push(Peer {
                name: None,
                addresses,
            });
        }
    }
}
