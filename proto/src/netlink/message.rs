//! Netlink messages: header and payload. Messages of the nfnetlink family have an `nfgenmsg` and
//! attributes.
//!
//! Layout: `struct nlmsghdr` in `include/uapi/linux/netlink.h`, `struct nfgenmsg` in
//! `include/uapi/linux/netfilter/nfnetlink.h`. neli's [`Nlmsghdr`] encodes the header of sent
//! messages. Received headers are decoded here, because neli's decoder also parses the error
//! payload and fails if the kernel capped it (`NETLINK_CAP_ACK`).
#![expect(
    clippy::big_endian_bytes,
    reason = "res_id of nfgenmsg is the one big-endian field outside of an attribute"
)]

use std::io::Cursor;

use neli::ToBytes;
use neli::consts::nl::NlmF;
use neli::nl::{NlPayload, Nlmsghdr, NlmsghdrBuilder};
use neli::types::Buffer;

use crate::netlink::attr::{Attrs, DecodeError, read_u16_host, read_u32_host};

/// Size of `struct nlmsghdr` in bytes.
pub const NLMSGHDR_BYTES: usize = 16;
/// Size of `struct nfgenmsg` in bytes.
pub const NFGENMSG_BYTES: usize = 4;
/// `NLMSG_NOOP`
pub const NLMSG_NOOP: u16 = 1;
/// `NLMSG_ERROR`: an ack (errno 0) or an error.
pub const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump, with an errno.
pub const NLMSG_DONE: u16 = 3;
/// `NLMSG_OVERRUN`
pub const NLMSG_OVERRUN: u16 = 4;

/// `NLM_F_REQUEST`
pub const NLM_F_REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: respond even on success.
pub const NLM_F_ACK: u16 = 0x4;
/// `NLM_F_DUMP_INTR`: the objects changed during the dump, which is inconsistent.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_DUMP`: request all objects of a kind.
pub const NLM_F_DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`
pub const NLM_F_REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: fail if the object exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// `NLM_F_CREATE`
pub const NLM_F_CREATE: u16 = 0x400;
/// `NLM_F_APPEND`
pub const NLM_F_APPEND: u16 = 0x800;

/// An nfnetlink message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `nlmsg_type`: for nfnetlink, the subsystem in the high byte and the message in the low byte.
    pub kind: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// `nlmsg_seq`: chosen by the sender, echoed by the kernel.
    pub seq: u32,
    /// `nlmsg_pid`: port id of the destination or source socket; 0 for the kernel.
    pub port: u32,
    /// `nfgen_family`: an `NFPROTO_*`.
    pub family: u8,
    /// `res_id`: subsystem for batch messages, low bits of the generation in responses.
    pub res_id: u16,
    /// Encoded attributes.
    pub attrs: Vec<u8>,
}

impl Message {
    /// Creates a request without attributes. Sequence number and port are set on sending.
    pub fn request(kind: u16, flags: u16, family: u8) -> Self {
        Self {
            kind,
            flags: flags | NLM_F_REQUEST,
            seq: 0,
            port: 0,
            family,
            res_id: 0,
            attrs: Vec::new(),
        }
    }

    /// Returns an iterator over the attributes.
    pub fn attributes(&self) -> Attrs<'_> {
        Attrs::new(&self.attrs)
    }

    /// Returns the message's size in a datagram in bytes, including padding.
    pub fn len_bytes(&self) -> usize {
        (NLMSGHDR_BYTES + NFGENMSG_BYTES + self.attrs.len()).next_multiple_of(4)
    }

    /// Appends the message to a datagram.
    pub fn encode_into(self, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(NFGENMSG_BYTES + self.attrs.len());
        payload.extend_from_slice(&[self.family, 0]); // version NFNETLINK_V0
        payload.extend_from_slice(&self.res_id.to_be_bytes());
        payload.extend_from_slice(&self.attrs);
        envelope(self.kind, self.flags, self.seq, self.port, payload, out);
    }
}

/// Appends a message of any netlink family to a datagram.
pub(crate) fn envelope(
    kind: u16,
    flags: u16,
    seq: u32,
    port: u32,
    payload: Vec<u8>,
    out: &mut Vec<u8>,
) {
    let envelope: Nlmsghdr<u16, Buffer> = NlmsghdrBuilder::default()
        .nl_type(kind)
        .nl_flags(NlmF::from_bits_retain(flags))
        .nl_seq(seq)
        .nl_pid(port)
        .nl_payload(NlPayload::Payload(Buffer::from(payload)))
        .build()
        .expect("all four fields that the builder asks for are set above");
    let mut cursor = Cursor::new(std::mem::take(out));
    cursor.set_position(cursor.get_ref().len() as u64);
    envelope
        .to_bytes(&mut cursor)
        .expect("writing to a vector cannot fail");
    *out = cursor.into_inner();
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Iterates over the raw messages in a datagram of the kernel.
#[derive(Debug, Clone)]
pub struct Datagram<'a> {
    buf: &'a [u8],
    at: usize,
}

/// A message with an undecoded payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawMessage<'a> {
    /// `nlmsg_type`
    pub kind: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// `nlmsg_seq`
    pub seq: u32,
    /// `nlmsg_pid`
    pub port: u32,
    /// Bytes after `struct nlmsghdr`.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Creates an iterator over the datagram that one `recvmsg` returned.
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0 }
    }

    fn read(&mut self) -> Result<RawMessage<'a>, DecodeError> {
        let at = self.at;
        let rest = &self.buf[at..];
        self.at = self.buf.len();
        let cut = DecodeError::Truncated {
            what: "message header",
            at,
        };
        let len = read_u32_host(rest, 0).ok_or(cut.clone())? as usize;
        let kind = read_u16_host(rest, 4).ok_or(cut.clone())?;
        let flags = read_u16_host(rest, 6).ok_or(cut.clone())?;
        let seq = read_u32_host(rest, 8).ok_or(cut.clone())?;
        let port = read_u32_host(rest, 12).ok_or(cut)?;
        let payload = rest.get(NLMSGHDR_BYTES..len).ok_or(DecodeError::Length {
            what: "message",
            at,
            len,
        })?;
        self.at = (at + len.next_multiple_of(4)).min(self.buf.len());
        Ok(RawMessage {
            kind,
            flags,
            seq,
            port,
            payload,
        })
    }
}

impl<'a> Iterator for Datagram<'a> {
    type Item = Result<RawMessage<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.buf.len()).then(|| self.read())
    }
}

impl RawMessage<'_> {
    /// Decodes the `nfgenmsg` in front of the attributes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if it is missing.
    pub fn nfnetlink(&self) -> Result<Message, DecodeError> {
        let Some((&[family, _version, hi, lo], attrs)) = self.payload.split_first_chunk() else {
            return Err(DecodeError::Truncated {
                what: "nfgenmsg",
                at: NLMSGHDR_BYTES,
            });
        };
        Ok(Message {
            kind: self.kind,
            flags: self.flags,
            seq: self.seq,
            port: self.port,
            family,
            res_id: u16::from_be_bytes([hi, lo]),
            attrs: attrs.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_messages_in_one_datagram_come_back_as_they_were() {
        let one = Message {
            kind: 0x0a06,
            flags: 0x405,
            seq: 7,
            port: 99,
            family: 1,
            res_id: 0xbeef,
            attrs: vec![1, 2, 3, 4],
        };
        let two = Message {
            attrs: Vec::new(),
            seq: 8,
            ..one.clone()
        };
        let mut bytes = Vec::new();
        one.clone().encode_into(&mut bytes);
        two.clone().encode_into(&mut bytes);
        assert_eq!(bytes.len(), one.len_bytes() + two.len_bytes());
        let back: Vec<_> = Datagram::new(&bytes)
            .map(|raw| raw.unwrap().nfnetlink().unwrap())
            .collect();
        assert_eq!(back, [one, two]);
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for raw in Datagram::new(&bytes).flatten() { let _ = raw.nfnetlink(); }
        }
    }
}
