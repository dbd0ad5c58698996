//! Parsing of `[peers]` and `peers_files`.

use super::context::Context;
use super::fields::Value;
use crate::diagnostic::FileId;
use crate::policy::Peer;

pub(super) fn parse_peers(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    cx.named_entries(file, value, "peers", "peer", |cx, key, value| {
        let name = key.get_ref().to_string();
        let addresses = cx.addresses(file, value, format_args!("peer `{name}`"));
        cx.draft.policy.peers.push(Peer {
            name: Some(name),
            addresses,
            is_member: false,
        });
    });
}

pub(super) fn parse_peers_files(cx: &mut Context<'_>, file: FileId, value: &Value<'_>) {
    for (path, place) in cx.strings(file, value, "`peers_files`") {
        let addresses = cx.list_file(&path, &place);
        cx.draft.policy.peers.push(Peer {
            name: None,
            addresses,
            is_member: false,
        });
    }
}
