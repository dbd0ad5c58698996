//! Trace events: what the kernel did with a packet for which a rule set `meta nftrace`
//! (`nft_trace_notify()` in `net/netfilter/nf_tables_trace.c`).

use super::expr::Verdict;
use super::schema::{Attributes, Nested, attributes};
use super::{message_of, msg};
use crate::netlink::attr::DecodeError;
use crate::netlink::message::Message;

/// `NFNLGRP_NFTRACE`: multicast group for trace events.
pub const NFNLGRP_NFTRACE: u32 = 9;
/// `NFT_TRACETYPE_POLICY`: the policy of a base chain decided.
pub const NFT_TRACETYPE_POLICY: u32 = 1;
/// `NFT_TRACETYPE_RETURN`: a chain ended, or returned.
pub const NFT_TRACETYPE_RETURN: u32 = 2;
/// `NFT_TRACETYPE_RULE`: a rule matched.
pub const NFT_TRACETYPE_RULE: u32 = 3;

attributes! {
    /// `enum nft_trace_attributes`. Headers are in the first event about a packet in each base
    /// chain; interfaces are in every one.
    Trace {
        /// Table.
        table: String = 1,
        /// Chain.
        chain: String = 2,
        /// Handle of the rule.
        rule_handle: u64 = 3,
        /// `NFT_TRACETYPE_*`
        kind: u32 = 4,
        /// Verdict of the rule.
        verdict: Nested<Verdict> = 5,
        /// Number of the packet.
        id: u32 = 6,
        /// Link layer header.
        ll_header: Vec<u8> = 7,
        /// IP header.
        network_header: Vec<u8> = 8,
        /// Header after the IP header.
        transport_header: Vec<u8> = 9,
        /// Index of the incoming interface.
        iif: u32 = 10,
        /// Index of the outgoing interface.
        oif: u32 = 12,
        /// Mark.
        mark: u32 = 14,
        /// `NFPROTO_*` of the packet.
        nfproto: u32 = 15,
        /// Policy of the base chain, `NF_ACCEPT` or `NF_DROP`.
        policy: u32 = 16,
    }
}

/// Decodes a trace event; `None` for other messages.
///
/// # Errors
/// [`DecodeError`] if its attributes are malformed.
pub fn decode(message: &Message) -> Result<Option<Trace>, DecodeError> {
    if message_of(message.kind) != Some(msg::NFT_MSG_TRACE) {
        return Ok(None);
    }
    Trace::decode(message.attributes()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::{AttrWriter, Attrs};
    use crate::nf_tables::message_type;

    #[test]
    fn an_event_is_read_back_as_it_is_written() {
        let trace = Trace {
            table: Some("peerwall".into()),
            chain: Some("input".into()),
            rule_handle: Some(12),
            kind: Some(NFT_TRACETYPE_RULE),
            id: Some(0x1234_5678),
            verdict: Some(Nested(Verdict {
                code: Some(0),
                ..Verdict::default()
            })),
            network_header: Some(vec![0x45; 20]),
            iif: Some(2),
            ..Trace::default()
        };
        let mut w = AttrWriter::new();
        trace.encode(&mut w);
        let bytes = w.finish().unwrap();
        assert_eq!(Trace::decode(Attrs::new(&bytes)), Ok(trace.clone()));
        let mut message = Message::request(message_type(msg::NFT_MSG_TRACE), 0, 1);
        message.attrs = bytes;
        assert_eq!(decode(&message), Ok(Some(trace)));
        message.kind = message_type(msg::NFT_MSG_NEWRULE);
        assert_eq!(decode(&message), Ok(None));
    }
}
