//! Packet counters of a namespace.

use peerwall_core::nft::judge::{ANSWERED, FENCE, PASSED, TABLE as JUDGE};
use peerwall_core::ruleset::TABLE;
use peerwall_core::testing::Counts;
use peerwall_proto::netlink::attr::Attrs;
use peerwall_proto::netlink::message::{Message, NLM_F_DUMP};
use peerwall_proto::nf_tables::{Attributes as _, NFPROTO_INET, Object, message_type, msg};

use crate::kernel::netlink::{NetlinkError, Socket};

/// Reads all counters.
///
/// # Errors
/// [`NetlinkError`] if the kernel cannot be read.
pub(super) fn read(socket: &mut Socket) -> Result<Counts, NetlinkError> {
    let kind = message_type(msg::NFT_MSG_GETOBJ);
    let request = Message::request(kind, NLM_F_DUMP, NFPROTO_INET);
    let mut counts = Counts::default();
    let each = |counts: &mut Counts, message: Message| -> Result<(), NetlinkError> {
        let object = Object::decode(Attrs::new(&message.attrs))?;
        let packets = object.counter()?.and_then(|counter| counter.packets);
        add(counts, object, packets.unwrap_or(0));
        Ok(())
    };
    let forget = |counts: &mut Counts| *counts = Counts::default();
    socket.dump(&request, &mut counts, forget, each)?;
    Ok(counts)
}

fn add(counts: &mut Counts, object: Object, packets: u64) {
    let (table, name) = (object.table.as_deref(), object.name.unwrap_or_default());
    match (table, name.as_str()) {
        (Some(TABLE), _) => {
            counts.own.insert(name, packets);
        }
        (Some(JUDGE), FENCE) => counts.fence = packets,
        (Some(JUDGE), PASSED) => counts.passed = packets,
        (Some(JUDGE), ANSWERED) => counts.answered = packets,
        _ => {}
    }
}
