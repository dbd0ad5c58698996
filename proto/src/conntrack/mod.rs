//! Connection tracking entries (ctnetlink).
//!
//! Layout: `enum ctattr_type` and the enums around it in
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; written by `ctnetlink_fill_info()` in
//! `net/netfilter/nf_conntrack_netlink.c`. Numbers are in network byte order.

mod request;

use std::net::{IpAddr, SocketAddr};

use crate::netlink::attr;
use crate::nf_tables::Nested;
use crate::nf_tables::schema::attributes;
pub use request::{by_reply, create, delete, dump, flush, tcp_in_progress, totals};

/// `NFNL_SUBSYS_CTNETLINK`
const NFNL_SUBSYS_CTNETLINK: u16 = 1;

/// `AF_UNSPEC`: both families.
const AF_UNSPEC: u8 = 0;
/// `IPS_SEEN_REPLY`: packets were seen in both directions.
pub const IPS_SEEN_REPLY: u32 = 1 << 1;
/// `IPS_ASSURED`: not evicted early if the table is full.
pub const IPS_ASSURED: u32 = 1 << 2;
/// `IPS_CONFIRMED`: the entry is in the table.
pub const IPS_CONFIRMED: u32 = 1 << 3;
/// `IPS_DST_NAT`: the destination was translated.
pub const IPS_DST_NAT: u32 = 1 << 5;

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;
/// `ICMP_ECHO`
const ECHO_REQUEST: u8 = 8;
/// `ICMPV6_ECHO_REQUEST`; the reply's type is one higher.
const ECHO_REQUEST_V6: u8 = 128;

/// `enum tcp_conntrack`, in `include/uapi/linux/netfilter/nf_conntrack_tcp.h`
pub mod tcp_state {
    /// `TCP_CONNTRACK_NONE`
    pub const NONE: u8 = 0;
    /// `TCP_CONNTRACK_SYN_SENT`: no reply yet.
    pub const SYN_SENT: u8 = 1;
    /// `TCP_CONNTRACK_ESTABLISHED`
    pub const ESTABLISHED: u8 = 3;
    /// `TCP_CONNTRACK_FIN_WAIT`: one side has closed.
    pub const FIN_WAIT: u8 = 4;
    /// `TCP_CONNTRACK_LAST_ACK`: both sides have closed.
    pub const LAST_ACK: u8 = 6;
    /// `TCP_CONNTRACK_TIME_WAIT`
    pub const TIME_WAIT: u8 = 7;
    /// `TCP_CONNTRACK_CLOSE`: reset.
    pub const CLOSE: u8 = 8;
    /// `TCP_CONNTRACK_SYN_SENT2`: both sides sent a SYN.
    pub const SYN_SENT2: u8 = 9;
}

/// `IP_CT_TCP_FLAG_WINDOW_SCALE`: the window scale is known.
const TCP_FLAG_WINDOW_SCALE: u8 = 0x01;
/// `IP_CT_TCP_FLAG_SACK_PERM`
const TCP_FLAG_SACK_PERM: u8 = 0x02;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`: no segment is considered out of window.
const TCP_FLAG_BE_LIBERAL: u8 = 0x08;

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
        /// Protocol number.
        number: u8 = 1,
        /// Source port.
        source_port: u16 = 2,
        /// Destination port.
        destination_port: u16 = 3,
        /// Identifier of an ICMP echo.
        icmp_id: u16 = 4,
        /// ICMP type.
        icmp_type: u8 = 5,
        /// ICMP code.
        icmp_code: u8 = 6,
        /// Identifier of an ICMPv6 echo.
        icmpv6_id: u16 = 7,
        /// ICMPv6 type.
        icmpv6_type: u8 = 8,
        /// ICMPv6 code.
        icmpv6_code: u8 = 9,
    }

    /// `enum ctattr_tuple`: addresses, protocol and ports of one direction.
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
        /// Window scale of the initiator.
        original_scale: u8 = 2,
        /// Window scale of the responder.
        reply_scale: u8 = 3,
        /// `struct nf_ct_tcp_flags`: flags and mask of the initiator.
        original_flags: Vec<u8> = 4,
        /// `struct nf_ct_tcp_flags` of the responder.
        reply_flags: Vec<u8> = 5,
    }

    /// `enum ctattr_protoinfo`
    ProtocolInfo {
        /// State of a TCP connection.
        tcp: Nested<TcpInfo> = 1,
    }

    /// `enum ctattr_stats_global`: what the table of the network namespace contains.
    Totals {
        /// Number of entries, also of those that are not confirmed.
        entries: u32 = 1,
    }

    /// `enum ctattr_type`: an entry.
    Connection {
        /// Original direction, before NAT.
        original: Nested<Tuple> = 1,
        /// Reply direction.
        reply: Nested<Tuple> = 2,
        /// `enum ip_conntrack_status`
        status: u32 = 3,
        /// Protocol state.
        protocol_info: Nested<ProtocolInfo> = 4,
        /// Seconds until the entry expires without packets.
        timeout: u32 = 7,
        /// Identifier, which distinguishes the entry from a later one with the same tuple.
        id: u32 = 12,
        /// Zone; absent for zone 0.
        zone: u16 = 18,
    }
}

impl Addresses {
    /// Returns source and destination.
    pub fn pair(&self) -> Option<(IpAddr, IpAddr)> {
        let v4 = |bytes: &Option<Vec<u8>>| attr::ipv4(bytes.as_deref()?);
        let v6 = |bytes: &Option<Vec<u8>>| attr::ipv6(bytes.as_deref()?);
        let pair = v4(&self.v4_source).zip(v4(&self.v4_destination));
        pair.or_else(|| v6(&self.v6_source).zip(v6(&self.v6_destination)))
    }
}

impl Connection {
    /// Reports whether data can still pass: packets went both ways, and the connection was neither
    /// reset nor closed by both sides. A half-closed TCP connection can stay in use for hours.
    pub fn is_open(&self) -> bool {
        use tcp_state::{CLOSE, LAST_ACK, NONE, SYN_SENT, SYN_SENT2, TIME_WAIT};
        let closed = [NONE, SYN_SENT, SYN_SENT2, LAST_ACK, TIME_WAIT, CLOSE];
        let tcp = self
            .protocol_info
            .as_ref()
            .and_then(|info| info.0.tcp.as_ref());
        let state = tcp.and_then(|tcp| tcp.0.state);
        self.status.unwrap_or(0) & IPS_SEEN_REPLY != 0
            && state.is_none_or(|state| !closed.contains(&state))
    }
}

impl Tuple {
    /// Creates the tuple of packets between two sockets. For ICMP it is an echo request with the
    /// source port as identifier. The kernel ignores the ports of a protocol without ports.
    pub fn between(protocol: u8, from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            protocol: Some(Nested(Protocol::of(
                protocol,
                from.port(),
                to.port(),
                false,
            ))),
            ..Self::addresses(from.ip(), to.ip())
        }
    }

    /// Creates the tuple of replies to packets between two sockets.
    fn answering(protocol: u8, from: SocketAddr, to: SocketAddr) -> Self {
        // An echo identifier replaces the source port in both directions.
        let (source, destination) = match protocol {
            IPPROTO_ICMP | IPPROTO_ICMPV6 => (from.port(), to.port()),
            _ => (to.port(), from.port()),
        };
        Self {
            protocol: Some(Nested(Protocol::of(protocol, source, destination, true))),
            ..Self::addresses(to.ip(), from.ip())
        }
    }

    fn addresses(from: IpAddr, to: IpAddr) -> Self {
        let mut addresses = Addresses::default();
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                addresses.v4_source = Some(from.octets().to_vec());
                addresses.v4_destination = Some(to.octets().to_vec());
            }
            (from, to) => {
                let v6 = |address| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                addresses.v6_source = Some(v6(from).octets().to_vec());
                addresses.v6_destination = Some(v6(to).octets().to_vec());
            }
        }
        Self {
            addresses: Some(Nested(addresses)),
            ..Self::default()
        }
    }

    /// Returns source and destination with their ports.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let (from, to) = self.pair()?;
        let (_, from_port, to_port) = self.ports()?;
        Some((
            SocketAddr::new(from, from_port),
            SocketAddr::new(to, to_port),
        ))
    }

    /// Returns source and destination.
    pub fn pair(&self) -> Option<(IpAddr, IpAddr)> {
        self.addresses.as_ref()?.0.pair()
    }

    /// Returns protocol number, source port and destination port. Ports that a protocol lacks are
    /// 0.
    pub fn ports(&self) -> Option<(u8, u16, u16)> {
        let protocol = &self.protocol.as_ref()?.0;
        let source = protocol.source_port.unwrap_or(0);
        Some((
            protocol.number?,
            source,
            protocol.destination_port.unwrap_or(0),
        ))
    }

    /// Returns type and code of an ICMP packet of the addresses' family.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let protocol = &self.protocol.as_ref()?.0;
        match (protocol.number?, self.pair()?.0) {
            (IPPROTO_ICMP, IpAddr::V4(_)) => Some((protocol.icmp_type?, protocol.icmp_code?)),
            (IPPROTO_ICMPV6, IpAddr::V6(_)) => Some((protocol.icmpv6_type?, protocol.icmpv6_code?)),
            _ => None,
        }
    }
}

impl Protocol {
    /// Creates the part of a tuple that distinguishes connections of a protocol
    /// (`l4proto->nlattr_to_tuple`).
    fn of(number: u8, source: u16, destination: u16, is_answer: bool) -> Self {
        let mut protocol = Self {
            number: Some(number),
            ..Self::default()
        };
        match number {
            IPPROTO_ICMP => {
                protocol.icmp_id = Some(source);
                protocol.icmp_type = Some(if is_answer { 0 } else { ECHO_REQUEST });
                protocol.icmp_code = Some(0);
            }
            IPPROTO_ICMPV6 => {
                protocol.icmpv6_id = Some(source);
                protocol.icmpv6_type = Some(ECHO_REQUEST_V6 + u8::from(is_answer));
                protocol.icmpv6_code = Some(0);
            }
            _ => {
                protocol.source_port = Some(source);
                protocol.destination_port = Some(destination);
            }
        }
        protocol
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::AttrWriter;
    use crate::netlink::attr::Attrs;
    use crate::nf_tables::{Attributes as _, NFPROTO_IPV4, NFPROTO_IPV6};

    fn tuple(from: [u8; 4], to: [u8; 4], ports: (u16, u16)) -> Nested<Tuple> {
        Nested(Tuple::between(
            6,
            SocketAddr::new(from.into(), ports.0),
            SocketAddr::new(to.into(), ports.1),
        ))
    }

    #[test]
    fn a_connection_is_asked_to_be_forgotten_by_its_own_words() {
        let (client, host) = ([192, 0, 2, 9], [198, 51, 100, 1]);
        let connection = Connection {
            original: Some(tuple(client, host, (40_000, 22))),
            reply: Some(tuple(host, client, (22, 40_000))),
            status: Some(IPS_DST_NAT | IPS_SEEN_REPLY),
            id: Some(7),
            ..Connection::default()
        };
        let mut w = AttrWriter::new();
        connection.encode(&mut w);
        let bytes = w.finish().unwrap();
        assert_eq!(
            Connection::decode(Attrs::new(&bytes)),
            Ok(connection.clone())
        );
        assert!(connection.is_open(), "not TCP");
        let original = connection.original.clone().unwrap().0;
        assert_eq!(original.pair(), Some((client.into(), host.into())));
        assert_eq!(original.ports(), Some((6, 40_000, 22)));
        let wanted = Connection::decode(delete(&connection).unwrap().attributes()).unwrap();
        assert_eq!(
            (wanted.original, wanted.id, wanted.reply),
            (connection.original, Some(7), None)
        );
    }

    #[test]
    fn a_connection_is_open_until_both_sides_have_closed_it() {
        let (client, host) = ("192.0.2.9:40000", "198.51.100.1:22");
        let (client, host) = (client.parse().unwrap(), host.parse().unwrap());
        for state in 0..=9 {
            let info = Some(tcp_in_progress(state, 7, 10));
            let request = create(6, client, host, info, 60).unwrap();
            assert_eq!(request.family, NFPROTO_IPV4);
            let mut made = Connection::decode(request.attributes()).unwrap();
            assert_eq!(made.is_open(), matches!(state, 2..=5), "state {state}");
            let ends = |tuple: &Option<Nested<Tuple>>| tuple.as_ref().unwrap().0.ends();
            assert_eq!(ends(&made.original), Some((client, host)));
            assert_eq!(ends(&made.reply), Some((host, client)));
            made.status = Some(IPS_CONFIRMED);
            assert!(!made.is_open(), "no reply");
        }
        let request = by_reply(6, host, client).unwrap();
        let wanted = Connection::decode(request.attributes()).unwrap();
        assert_eq!(wanted.original, None);
        let (v6, other) = (
            "[2001:db8::1]:1".parse().unwrap(),
            "[::1]:2".parse().unwrap(),
        );
        assert_eq!(create(17, v6, other, None, 1).unwrap().family, NFPROTO_IPV6);
    }

    #[test]
    fn an_echo_is_its_type_and_identifier() {
        for (protocol, from, to, kinds) in [
            (1, "192.0.2.9:7", "198.51.100.1:0", [(8, 0), (0, 0)]),
            (
                58,
                "[2001:db8::9]:7",
                "[2001:db8::1]:0",
                [(128, 0), (129, 0)],
            ),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let request = create(protocol, from, to, None, 1).unwrap();
            let mut made = Connection::decode(request.attributes()).unwrap();
            let (original, reply) = (
                made.original.clone().unwrap().0,
                made.reply.clone().unwrap().0,
            );
            assert_eq!([original.icmp(), reply.icmp()], kinds.map(Some));
            assert_eq!(reply.pair(), Some((to.ip(), from.ip())));
            made.zone = Some(3);
            let wanted = Connection::decode(delete(&made).unwrap().attributes()).unwrap();
            assert_eq!(
                (wanted.original.unwrap().0, wanted.zone),
                (original, Some(3))
            );
        }
        let esp = Tuple::between(
            50,
            "192.0.2.9:0".parse().unwrap(),
            "192.0.2.1:0".parse().unwrap(),
        );
        assert_eq!((esp.icmp(), esp.ports()), (None, Some((50, 0, 0))));
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
