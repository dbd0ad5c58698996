//! Connections as connection tracking knows them (ctnetlink).
//!
//! Layout: `enum ctattr_type` and its neighbours in
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; written by `ctnetlink_fill_info()` in
//! `net/netfilter/nf_conntrack_netlink.c`. Numbers are in network byte order.

use std::net::IpAddr;

use crate::attr::{self, AttrWriter, TooLong};
use crate::message::{Message, NLM_F_ACK, NLM_F_DUMP};
use crate::nf_tables::schema::attributes;
use crate::nf_tables::{Attributes as _, NFPROTO_IPV4, NFPROTO_IPV6, Nested};

/// `NFNL_SUBSYS_CTNETLINK`
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
/// `IPCTNL_MSG_CT_GET`
const IPCTNL_MSG_CT_GET: u16 = 1;
/// `IPCTNL_MSG_CT_DELETE`
const IPCTNL_MSG_CT_DELETE: u16 = 2;
/// `AF_UNSPEC`: of both families.
const AF_UNSPEC: u8 = 0;
/// `IPS_SEEN_REPLY`: packets went both ways.
pub const IPS_SEEN_REPLY: u32 = 1 << 1;
/// `TCP_CONNTRACK_ESTABLISHED`, in `include/uapi/linux/netfilter/nf_conntrack_tcp.h`
const TCP_CONNTRACK_ESTABLISHED: u8 = 3;
/// `IPS_DST_NAT`: its destination was rewritten.
pub const IPS_DST_NAT: u32 = 1 << 5;

attributes! {
    /// `enum ctattr_ip`
    Addresses {
        /// IPv4 source.
        v4_source: Vec<u8> = 1,
        /// IPv4 destination.
        v4_destination: Vec<u8> = 2,
        /// IPv6 source.
        v6_source: Vec<u8> = 3,
        /// IPv6 destination.
        v6_destination: Vec<u8> = 4,
    }

    /// `enum ctattr_l4proto`
    Protocol {
        /// Number of the protocol.
        number: u8 = 1,
        /// Source port.
        source_port: u16 = 2,
        /// Destination port.
        destination_port: u16 = 3,
    }

    /// `enum ctattr_tuple`: what packets of one direction have in common.
    Tuple {
        /// Addresses.
        addresses: Nested<Addresses> = 1,
        /// Protocol and ports.
        protocol: Nested<Protocol> = 2,
    }

    /// `enum ctattr_protoinfo_tcp`
    TcpInfo {
        /// `enum tcp_conntrack`
        state: u8 = 1,
    }

    /// `enum ctattr_protoinfo`
    ProtocolInfo {
        /// What is known of a TCP connection.
        tcp: Nested<TcpInfo> = 1,
    }

    /// `enum ctattr_type`: a connection.
    Connection {
        /// Packets of who began it, before any rewriting.
        original: Nested<Tuple> = 1,
        /// Packets that answer them.
        reply: Nested<Tuple> = 2,
        /// `enum ip_conntrack_status`
        status: u32 = 3,
        /// What is known besides, by protocol.
        protocol_info: Nested<ProtocolInfo> = 4,
        /// Its number; with it, nothing else is meant that came to be meanwhile.
        id: u32 = 12,
    }
}

impl Addresses {
    /// Source and destination.
    pub fn pair(&self) -> Option<(IpAddr, IpAddr)> {
        let v4 = |bytes: &Option<Vec<u8>>| attr::ipv4(bytes.as_deref()?);
        let v6 = |bytes: &Option<Vec<u8>>| attr::ipv6(bytes.as_deref()?);
        let pair = v4(&self.v4_source).zip(v4(&self.v4_destination));
        pair.or_else(|| v6(&self.v6_source).zip(v6(&self.v6_destination)))
    }
}

impl Connection {
    /// Whether somebody talks by it: packets went both ways, and if it is TCP, it is neither being made
    /// nor being ended.
    pub fn is_established(&self) -> bool {
        let tcp = self
            .protocol_info
            .as_ref()
            .and_then(|info| info.0.tcp.as_ref());
        let state = tcp.and_then(|tcp| tcp.0.state);
        self.status.unwrap_or(0) & IPS_SEEN_REPLY != 0
            && state.is_none_or(|state| state == TCP_CONNTRACK_ESTABLISHED)
    }
}

impl Tuple {
    /// Source and destination.
    pub fn pair(&self) -> Option<(IpAddr, IpAddr)> {
        self.addresses.as_ref()?.0.pair()
    }

    /// Protocol number, source port and destination port; 0 where a protocol has none.
    pub fn ports(&self) -> Option<(u8, u16, u16)> {
        let protocol = &self.protocol.as_ref()?.0;
        let source = protocol.source_port.unwrap_or(0);
        Some((
            protocol.number?,
            source,
            protocol.destination_port.unwrap_or(0),
        ))
    }
}

/// Asks for every connection, of both families.
pub fn dump() -> Message {
    Message::request(kind(IPCTNL_MSG_CT_GET), NLM_F_DUMP, AF_UNSPEC)
}

/// Has one connection forgotten.
///
/// # Errors
/// [`TooLong`] cannot happen to what was read from the kernel.
pub fn delete(connection: &Connection) -> Result<Message, TooLong> {
    let wanted = Connection {
        original: connection.original.clone(),
        id: connection.id,
        ..Connection::default()
    };
    let mut w = AttrWriter::new();
    wanted.encode(&mut w);
    let pair = connection
        .original
        .as_ref()
        .and_then(|tuple| tuple.0.pair());
    let family = match pair {
        Some((IpAddr::V6(_), _)) => NFPROTO_IPV6,
        _ => NFPROTO_IPV4,
    };
    Ok(Message {
        attrs: w.finish()?,
        ..Message::request(kind(IPCTNL_MSG_CT_DELETE), NLM_F_ACK, family)
    })
}

const fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_CTNETLINK << 8 | message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Attrs;

    fn tuple(from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> Nested<Tuple> {
        Nested(Tuple {
            addresses: Some(Nested(Addresses {
                v4_source: Some(from.to_vec()),
                v4_destination: Some(to.to_vec()),
                ..Addresses::default()
            })),
            protocol: Some(Nested(Protocol {
                number: Some(6),
                source_port: Some(ports.0),
                destination_port: Some(ports.1),
                other: Vec::new(),
            })),
            other: Vec::new(),
        })
    }

    #[test]
    fn a_connection_is_asked_to_be_forgotten_by_its_own_words() {
        let (client, host) = ([192, 0, 2, 9], [198, 51, 100, 1]);
        let connection = Connection {
            original: Some(tuple(client, host, (40_000, 22))),
            reply: Some(tuple(host, client, (22, 40_000))),
            status: Some(IPS_DST_NAT | IPS_SEEN_REPLY),
            protocol_info: None,
            id: Some(7),
            other: Vec::new(),
        };
        let mut w = AttrWriter::new();
        connection.encode(&mut w);
        let bytes = w.finish().unwrap();
        assert_eq!(
            Connection::decode(Attrs::new(&bytes)),
            Ok(connection.clone())
        );
        assert!(connection.is_established());
        let in_state = |state| Connection {
            protocol_info: Some(Nested(ProtocolInfo {
                tcp: Some(Nested(TcpInfo {
                    state: Some(state),
                    other: Vec::new(),
                })),
                other: Vec::new(),
            })),
            ..connection.clone()
        };
        assert!(in_state(TCP_CONNTRACK_ESTABLISHED).is_established());
        assert!(!in_state(7).is_established(), "TIME_WAIT");
        let original = connection.original.clone().unwrap().0;
        assert_eq!(original.pair(), Some((client.into(), host.into())));
        assert_eq!(original.ports(), Some((6, 40_000, 22)));
        let wanted = Connection::decode(delete(&connection).unwrap().attributes()).unwrap();
        assert_eq!(
            (wanted.original, wanted.id, wanted.reply),
            (connection.original, Some(7), None)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Ok(connection) = Connection::decode(Attrs::new(&bytes)) {
                let tuple = connection.original.as_ref();
                let _ = tuple.and_then(|tuple| tuple.0.pair());
                let _ = delete(&connection);
            }
        }
    }
}
