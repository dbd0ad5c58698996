//! Responses of the kernel: acks, errors with extended acks, the end of a dump.
//!
//! Layout: `struct nlmsgerr` and `enum nlmsgerr_attrs` in `include/uapi/linux/netlink.h`, written
//! by `netlink_ack()` in `net/netlink/af_netlink.c`. neli's decoder is not used: it fails on capped
//! acks and drops the extended part of others.

use crate::netlink::attr::{Attr, Attrs, DecodeError, read_u32_host};
use crate::netlink::message::{NLMSG_DONE, NLMSG_ERROR, NLMSGHDR_BYTES, RawMessage};

/// `NLM_F_CAPPED`: the ack does not repeat the request's payload.
const NLM_F_CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: extended-ack attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

/// Response to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Sequence number of the request.
    pub seq: u32,
    /// 0 for success, otherwise a positive errno.
    pub errno: i32,
    /// Message of the extended ack.
    pub message: Option<String>,
    /// Offset of the rejected attribute in bytes, from the start of the request's header.
    pub offset: Option<u32>,
}

/// Decodes an ack, an error or the end of a dump; `None` for other messages.
///
/// # Errors
/// [`DecodeError`] if it is truncated.
pub fn decode(raw: &RawMessage<'_>) -> Result<Option<Ack>, DecodeError> {
    let tlvs = match raw.kind {
        NLMSG_ERROR => error_attributes(raw)?,
        // The first four bytes are the dump's errno; extended attributes follow.
        NLMSG_DONE => raw.payload.get(4..).unwrap_or_default(),
        _ => return Ok(None),
    };
    let errno = match read_u32_host(raw.payload, 0) {
        Some(word) => word.cast_signed().wrapping_neg(),
        // Old kernels send an NLMSG_DONE without a payload for success.
        None if raw.kind == NLMSG_DONE => 0,
        None => {
            return Err(DecodeError::Truncated {
                what: "errno",
                at: NLMSGHDR_BYTES,
            });
        }
    };
    let mut ack = Ack {
        seq: raw.seq,
        errno,
        message: None,
        offset: None,
    };
    if raw.flags & NLM_F_ACK_TLVS != 0 {
        read_extended(tlvs, &mut ack)?;
    }
    Ok(Some(ack))
}

fn read_extended(tlvs: &[u8], ack: &mut Ack) -> Result<(), DecodeError> {
    for attr in Attrs::new(tlvs) {
        let attr: Attr<'_> = attr?;
        match attr.attribute {
            NLMSGERR_ATTR_MSG => ack.message = Some(attr.string()?.to_owned()),
            NLMSGERR_ATTR_OFFS => ack.offset = Some(attr.u32_host()?),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the extended attributes. They follow the request's header, and its payload if the kernel
/// did not cap it.
fn error_attributes<'a>(raw: &RawMessage<'a>) -> Result<&'a [u8], DecodeError> {
    if raw.flags & NLM_F_ACK_TLVS == 0 {
        return Ok(&[]);
    }
    let cut = DecodeError::Truncated {
        what: "error ack",
        at: NLMSGHDR_BYTES,
    };
    let request = if raw.flags & NLM_F_CAPPED != 0 {
        NLMSGHDR_BYTES
    } else {
        let len = read_u32_host(raw.payload, 4).ok_or(cut.clone())? as usize;
        len.next_multiple_of(4)
    };
    let start = request.checked_add(4).ok_or(cut.clone())?;
    raw.payload.get(start..).ok_or(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::Datagram;

    fn word(v: i32) -> [u8; 4] {
        crate::netlink::attr::u32_register(v.cast_unsigned())
    }

    fn error_message(flags: u16, errno: i32, request_payload: &[u8], tlvs: &[u8]) -> Vec<u8> {
        let mut body = word(-errno).to_vec();
        let request_len = (NLMSGHDR_BYTES + request_payload.len()) as i32;
        body.extend(word(request_len));
        body.extend([0; 12]);
        if flags & NLM_F_CAPPED == 0 {
            body.extend(request_payload);
        }
        body.extend(tlvs);
        let mut out = word((NLMSGHDR_BYTES + body.len()) as i32).to_vec();
        out.extend(&word(i32::from(NLMSG_ERROR) | (i32::from(flags) << 16))[..]);
        out.extend(word(42));
        out.extend(word(0));
        out.extend(body);
        out
    }

    #[test]
    fn capped_and_whole_errors_both_give_message_and_offset() {
        let mut w = crate::netlink::attr::AttrWriter::new();
        w.string(NLMSGERR_ATTR_MSG, "no such set");
        w.bytes(NLMSGERR_ATTR_OFFS, &word(36));
        let tlvs = w.finish().unwrap();
        for flags in [NLM_F_ACK_TLVS, NLM_F_ACK_TLVS | NLM_F_CAPPED] {
            let bytes = error_message(flags, 2, &[9; 40], &tlvs);
            let raw = Datagram::new(&bytes).next().unwrap().unwrap();
            let ack = decode(&raw).unwrap().unwrap();
            assert_eq!(
                ack,
                Ack {
                    seq: 42,
                    errno: 2,
                    message: Some("no such set".into()),
                    offset: Some(36)
                },
                "flags {flags:#x}"
            );
        }
    }

    #[test]
    fn a_lying_request_length_is_an_error_not_a_panic() {
        let mut bytes = error_message(NLM_F_ACK_TLVS, 2, &[], &[]);
        bytes[20..24].copy_from_slice(&[0xff; 4]);
        let raw = Datagram::new(&bytes).next().unwrap().unwrap();
        assert!(decode(&raw).is_err());
    }
}
