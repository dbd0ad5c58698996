//! Connection tracking requests.

use std::net::{IpAddr, SocketAddr};

use super::{
    AF_UNSPEC, Connection, IPS_ASSURED, IPS_CONFIRMED, IPS_SEEN_REPLY, NFNL_SUBSYS_CTNETLINK,
    ProtocolInfo, TCP_FLAG_BE_LIBERAL, TCP_FLAG_SACK_PERM, TCP_FLAG_WINDOW_SCALE, TcpInfo, Tuple,
};
use crate::netlink::attr::{AttrWriter, TooLong};
use crate::netlink::message::{Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use crate::nf_tables::{Attributes as _, NFPROTO_IPV4, NFPROTO_IPV6, Nested};

/// `IPCTNL_MSG_CT_NEW`
const IPCTNL_MSG_CT_NEW: u16 = 0;

/// `IPCTNL_MSG_CT_GET`
const IPCTNL_MSG_CT_GET: u16 = 1;

/// `IPCTNL_MSG_CT_DELETE`
const IPCTNL_MSG_CT_DELETE: u16 = 2;

/// `IPCTNL_MSG_CT_GET_STATS`
const IPCTNL_MSG_CT_GET_STATS: u16 = 5;

/// Builds a request for the number of entries; the answer has [`Totals`](super::Totals).
pub fn totals() -> Message {
    Message::request(kind(IPCTNL_MSG_CT_GET_STATS), 0, AF_UNSPEC)
}

/// Builds a dump request for the entries of both families.
pub fn dump() -> Message {
    Message::request(kind(IPCTNL_MSG_CT_GET), NLM_F_DUMP, AF_UNSPEC)
}

/// Builds a request for the entry whose replies go from one socket to another. A socket sees these
/// addresses even if the destination was translated before.
///
/// # Errors
/// [`TooLong`]; never, because addresses are short.
pub fn by_reply(protocol: u8, from: SocketAddr, to: SocketAddr) -> Result<Message, TooLong> {
    let wanted = Connection {
        reply: Some(Nested(Tuple::between(protocol, from, to))),
        ..Connection::default()
    };
    message(IPCTNL_MSG_CT_GET, 0, from.ip(), &wanted)
}

/// Builds a request that deletes one entry.
///
/// # Errors
/// [`TooLong`]; never for entries that came from the kernel.
pub fn delete(connection: &Connection) -> Result<Message, TooLong> {
    let wanted = Connection {
        original: connection.original.clone(),
        id: connection.id,
        // Without a zone, the kernel would look in zone 0.
        zone: connection.zone,
        ..Connection::default()
    };
    let original = connection.original.as_ref();
    let pair = original.and_then(|tuple| tuple.0.pair());
    let source = pair.map_or(IpAddr::from([0; 4]), |(source, _)| source);
    message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, source, &wanted)
}

/// Builds a request that deletes every entry of the network namespace.
pub fn flush() -> Message {
    Message::request(kind(IPCTNL_MSG_CT_DELETE), NLM_F_ACK, AF_UNSPEC)
}

/// Creates the TCP state of an entry for an open connection, with the negotiated window scales.
/// Sequence numbers are not checked, because their history is unknown.
pub fn tcp_in_progress(state: u8, original_scale: u8, reply_scale: u8) -> ProtocolInfo {
    let flags = TCP_FLAG_WINDOW_SCALE | TCP_FLAG_SACK_PERM | TCP_FLAG_BE_LIBERAL;
    ProtocolInfo {
        tcp: Some(Nested(TcpInfo {
            state: Some(state),
            original_scale: Some(original_scale),
            reply_scale: Some(reply_scale),
            original_flags: Some(vec![flags, flags]),
            reply_flags: Some(vec![flags, flags]),
            other: Vec::new(),
        })),
        other: Vec::new(),
    }
}

/// Builds a request that creates an entry for an open connection with the initiator `from`. The
/// kernel answers EEXIST if an entry exists.
///
/// # Errors
/// [`TooLong`]; never, because addresses are short.
pub fn create(
    protocol: u8,
    from: SocketAddr,
    to: SocketAddr,
    info: Option<ProtocolInfo>,
    timeout_seconds: u32,
) -> Result<Message, TooLong> {
    let new = Connection {
        original: Some(Nested(Tuple::between(protocol, from, to))),
        reply: Some(Nested(Tuple::answering(protocol, from, to))),
        // The kernel rejects a status that would clear IPS_CONFIRMED (`ctnetlink_change_status()`).
        status: Some(IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED),
        protocol_info: info.map(Nested),
        timeout: Some(timeout_seconds),
        ..Connection::default()
    };
    let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
    message(IPCTNL_MSG_CT_NEW, flags, from.ip(), &new)
}

fn message(
    number: u16,
    flags: u16,
    of: IpAddr,
    connection: &Connection,
) -> Result<Message, TooLong> {
    let family = match of {
        IpAddr::V4(_) => NFPROTO_IPV4,
        IpAddr::V6(_) => NFPROTO_IPV6,
    };
    let mut w = AttrWriter::new();
    connection.encode(&mut w);
    Ok(Message {
        attrs: w.finish()?,
        ..Message::request(kind(number), flags, family)
    })
}

const fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_CTNETLINK << 8 | message
}
