//! A batch: messages that the kernel applies as one transaction.
//!
//! `nfnetlink_rcv_batch()` in `net/netfilter/nfnetlink.c` processes all messages, collects every
//! error, and commits only if there was no error and the batch has `NFNL_MSG_BATCH_END`. Without
//! it, the kernel validates the messages and rolls them back, which is how a change is checked
//! (`NFNL_ABORT_VALIDATE`, as in `nft --check`).

use crate::netlink::attr::AttrWriter;
use crate::netlink::message::{Message, NLM_F_ACK};

use super::{
    NFNL_BATCH_GENID, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES, message_type,
};

const FAMILY_UNSPEC: u8 = 0;

/// Messages for one transaction, each with a tag of the caller.
#[derive(Debug, Clone)]
pub struct Batch<T> {
    messages: Vec<(Message, T)>,
}

/// An encoded batch for one `sendmsg`.
#[derive(Debug, Clone)]
pub struct EncodedBatch<T> {
    /// Encoded datagram.
    pub bytes: Vec<u8>,
    /// Sequence number of the begin message. A response to it concerns the whole batch.
    pub begin_seq: u32,
    /// Tag of each message: `tags[i]` belongs to sequence number `begin_seq + 1 + i`.
    pub tags: Vec<T>,
    /// Sequence number of the last message before the end, which requests the ack. Only kernels
    /// from 6.10 on ack the end itself; this works on all.
    pub acked_seq: u32,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
        }
    }
}

impl<T> Batch<T> {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a message. `kind` is a constant of [`msg`](super::msg).
    pub fn push(&mut self, tag: T, family: u8, kind: u16, flags: u16, attrs: Vec<u8>) {
        let message = Message {
            attrs,
            ..Message::request(message_type(kind), flags, family)
        };
        self.messages.push((message, tag));
    }

    /// Reports whether the batch has no messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Returns the number of messages between begin and end.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Returns the size of the encoded datagram in bytes.
    pub fn len_bytes(&self) -> usize {
        let frame = 2
            * (crate::netlink::message::NLMSGHDR_BYTES + crate::netlink::message::NFGENMSG_BYTES)
            + 8;
        frame
            + self
                .messages
                .iter()
                .map(|(m, _)| m.len_bytes())
                .sum::<usize>()
    }

    /// Encodes the batch for a commit. If any table changed since `generation`, the kernel responds
    /// with ERESTART and changes nothing.
    pub fn commit(self, begin_seq: u32, generation: Option<u32>) -> EncodedBatch<T> {
        self.encode(begin_seq, generation, true)
    }

    /// Encodes the batch for validation without a commit.
    pub fn check(self, begin_seq: u32, generation: Option<u32>) -> EncodedBatch<T> {
        self.encode(begin_seq, generation, false)
    }

    fn encode(self, begin_seq: u32, generation: Option<u32>, end: bool) -> EncodedBatch<T> {
        let mut bytes = Vec::with_capacity(self.len_bytes());
        let count = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        let acked_seq = begin_seq.wrapping_add(count);
        frame(NFNL_MSG_BATCH_BEGIN, begin_seq, generation).encode_into(&mut bytes);
        let mut tags = Vec::with_capacity(self.messages.len());
        let mut seq = begin_seq;
        for (mut message, tag) in self.messages {
            seq = seq.wrapping_add(1);
            message.seq = seq;
            if seq == acked_seq {
                message.flags |= NLM_F_ACK;
            }
            message.encode_into(&mut bytes);
            tags.push(tag);
        }
        if end {
            frame(NFNL_MSG_BATCH_END, seq.wrapping_add(1), None).encode_into(&mut bytes);
        }
        EncodedBatch {
            bytes,
            begin_seq,
            tags,
            acked_seq,
        }
    }
}

impl<T> EncodedBatch<T> {
    /// Replaces the generation; 0 matches any. The batch must have been encoded with a generation.
    pub fn set_generation(&mut self, generation: u32) {
        // Begin is the first message, and the generation is its only attribute.
        let mut w = AttrWriter::new();
        w.u32(NFNL_BATCH_GENID, generation);
        if let Ok(attribute) = w.finish() {
            let at =
                crate::netlink::message::NLMSGHDR_BYTES + crate::netlink::message::NFGENMSG_BYTES;
            self.bytes[at..at + attribute.len()].copy_from_slice(&attribute);
        }
    }

    /// Returns the tag of a sequence number; `None` for begin, end and unrelated numbers.
    pub fn tag(&self, seq: u32) -> Option<&T> {
        let index = seq.wrapping_sub(self.begin_seq).wrapping_sub(1);
        self.tags.get(index as usize)
    }
}

fn frame(kind: u16, seq: u32, generation: Option<u32>) -> Message {
    let mut w = AttrWriter::new();
    if let Some(id) = generation {
        w.u32(NFNL_BATCH_GENID, id);
    }
    Message {
        seq,
        res_id: NFNL_SUBSYS_NFTABLES,
        attrs: w.finish().expect("eight bytes fit an attribute"),
        ..Message::request(kind, 0, FAMILY_UNSPEC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::Datagram;
    use crate::nf_tables::msg::NFT_MSG_NEWTABLE;

    #[test]
    fn only_a_commit_has_an_end_and_the_last_real_message_is_acked() {
        for (commits, want) in [(true, 4), (false, 3)] {
            let mut batch = Batch::new();
            batch.push("a", 1, NFT_MSG_NEWTABLE, 0, Vec::new());
            batch.push("b", 1, NFT_MSG_NEWTABLE, 0, Vec::new());
            let len = batch.len_bytes();
            let sent = match commits {
                true => batch.commit(u32::MAX, Some(5)),
                false => batch.check(u32::MAX, Some(5)),
            };
            assert!(sent.bytes.len() <= len);
            let raw: Vec<_> = Datagram::new(&sent.bytes).map(Result::unwrap).collect();
            assert_eq!(raw.len(), want);
            assert_eq!(raw[0].nfnetlink().unwrap().res_id, NFNL_SUBSYS_NFTABLES);
            assert_eq!(raw[2].flags & NLM_F_ACK, NLM_F_ACK);
            assert_eq!(sent.acked_seq, raw[2].seq);
            // Sequence numbers wrap; tags still match.
            assert_eq!(sent.tag(raw[1].seq), Some(&"a"));
            assert_eq!(sent.tag(raw[2].seq), Some(&"b"));
            assert_eq!(sent.tag(raw[0].seq), None);
            let mut later = sent.clone();
            later.set_generation(9);
            let mut batch = Batch::new();
            batch.push("a", 1, NFT_MSG_NEWTABLE, 0, Vec::new());
            batch.push("b", 1, NFT_MSG_NEWTABLE, 0, Vec::new());
            let wanted = match commits {
                true => batch.commit(u32::MAX, Some(9)),
                false => batch.check(u32::MAX, Some(9)),
            };
            assert_eq!(later.bytes, wanted.bytes);
        }
    }
}
