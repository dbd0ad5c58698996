//! Sockets of this host: listing and destroying them (sock_diag(7)).
//!
//! Layout: `struct inet_diag_req_v2`, `struct inet_diag_msg` and `struct inet_diag_sockid` in
//! `include/uapi/linux/inet_diag.h`, `struct tcp_info` in `include/uapi/linux/tcp.h`. Ports and
//! addresses are in network byte order, other numbers in host byte order.

use std::net::SocketAddr;

use crate::netlink::attr::{
    self, Attrs, DecodeError, port, read_u32_host, read_u64_host, u32_register,
};
use crate::netlink::message::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, RawMessage, envelope};

/// `SOCK_DIAG_BY_FAMILY`, in `include/uapi/linux/sock_diag.h`
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`
const SOCK_DESTROY: u16 = 21;
/// `AF_INET`
const AF_INET: u8 = 2;
/// `AF_INET6`
const AF_INET6: u8 = 10;
/// Address families. A dump lists the sockets of one family.
pub const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];
/// `IPPROTO_TCP`
const IPPROTO_TCP: u8 = 6;
/// `INET_DIAG_INFO`: the attribute with `struct tcp_info`.
const INET_DIAG_INFO: u16 = 2;
/// All states (`TCPF_ALL`), including `TCP_NEW_SYN_RECV`.
const ALL_STATES: u32 = 0x1fff;
/// Size of `struct inet_diag_sockid` in bytes.
const ID_BYTES: usize = 48;
/// Offset of the socket id in `struct inet_diag_msg`.
const ID_AT: usize = 4;
/// Size of `struct inet_diag_msg` in bytes.
const MSG_BYTES: usize = 72;

/// `TCP_ESTABLISHED`; also the state of a connected UDP socket.
pub const TCP_ESTABLISHED: u8 = 1;
/// `TCP_SYN_SENT`
const TCP_SYN_SENT: u8 = 2;
/// `TCP_SYN_RECV`
const TCP_SYN_RECV: u8 = 3;
/// `TCP_FIN_WAIT1`
const TCP_FIN_WAIT1: u8 = 4;
/// `TCP_FIN_WAIT2`
const TCP_FIN_WAIT2: u8 = 5;
/// `TCP_CLOSE`; also the state of an unconnected UDP socket.
const TCP_CLOSE: u8 = 7;
/// `TCP_CLOSE_WAIT`
const TCP_CLOSE_WAIT: u8 = 8;
/// `TCP_LAST_ACK`
const TCP_LAST_ACK: u8 = 9;
/// `TCP_LISTEN`
const TCP_LISTEN: u8 = 10;
/// `TCP_CLOSING`
const TCP_CLOSING: u8 = 11;
/// `TCP_NEW_SYN_RECV`
const TCP_NEW_SYN_RECV: u8 = 12;

/// A socket of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `AF_INET` or `AF_INET6`; the latter also for a dual-stack socket that uses IPv4.
    family: u8,
    /// Protocol number.
    pub protocol: u8,
    /// `enum` of `TCP_*`.
    pub state: u8,
    /// Local address and port. IPv4-mapped addresses (`::ffff:…`) are converted to IPv4.
    pub local: SocketAddr,
    /// Remote address and port; unspecified for an unconnected socket.
    pub remote: SocketAddr,
    /// `struct tcp_info` of a TCP socket.
    pub info: Option<TcpInfo>,
    /// `struct inet_diag_sockid`, which includes the bound interface and the cookie.
    id: [u8; ID_BYTES],
}

/// The fields of `struct tcp_info` that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// `tcpi_snd_wscale`: window scale of the remote side.
    pub send_scale: u8,
    /// `tcpi_rcv_wscale`: window scale of the local side.
    pub receive_scale: u8,
    /// `tcpi_unacked`: unacknowledged segments.
    pub unacked: u32,
    /// `tcpi_bytes_acked` (Linux 4.1)
    pub bytes_acked: u64,
    /// `tcpi_bytes_sent`, including retransmissions (Linux 4.19).
    pub bytes_sent: u64,
    /// `tcpi_bytes_retrans`
    pub bytes_retransmitted: u64,
}

impl Socket {
    /// Returns protocol, local and remote address.
    pub fn ends(&self) -> (u8, SocketAddr, SocketAddr) {
        (self.protocol, self.local, self.remote)
    }

    /// Reports whether the socket accepts packets from any remote address: a TCP listener, or a
    /// bound UDP socket that is not connected.
    pub fn is_listening(&self) -> bool {
        match self.protocol {
            IPPROTO_TCP => self.state == TCP_LISTEN,
            _ => self.state == TCP_CLOSE,
        }
    }

    /// Reports whether the socket has a remote side to exchange data with.
    pub fn is_connected(&self) -> bool {
        match self.protocol {
            IPPROTO_TCP => matches!(
                self.state,
                TCP_ESTABLISHED
                    | TCP_SYN_SENT
                    | TCP_SYN_RECV
                    | TCP_FIN_WAIT1
                    | TCP_FIN_WAIT2
                    | TCP_CLOSE_WAIT
                    | TCP_LAST_ACK
                    | TCP_CLOSING
                    | TCP_NEW_SYN_RECV
            ),
            _ => self.state == TCP_ESTABLISHED,
        }
    }

    /// Reports whether the local side has closed its half of the TCP connection and only reads.
    pub fn is_half_closed(&self) -> bool {
        self.protocol == IPPROTO_TCP && self.state == TCP_FIN_WAIT2
    }

    /// Reports whether the remote side may still send.
    pub fn is_open(&self) -> bool {
        self.state == TCP_ESTABLISHED || self.is_half_closed()
    }

    /// Reports whether this host initiated the TCP connection; `None` if this is unknown.
    ///
    /// The initiator's SYN counts as one acknowledged byte (`tcp_snd_una_update()` from
    /// `tcp_rcv_synsent_state_process()`), whereas the responder starts counting after its own
    /// (`tcp_create_openreq_child()`). An acknowledged FIN also counts. The result is exact only
    /// while no data is in flight.
    pub fn opened_here(&self) -> Option<bool> {
        let info = self.info.filter(|info| info.unacked == 0)?;
        let sent = info.bytes_sent.checked_sub(info.bytes_retransmitted)?;
        let fin = u64::from(self.state == TCP_FIN_WAIT2);
        match info.bytes_acked.checked_sub(sent)?.checked_sub(fin)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// Builds a dump request for the sockets of a family and protocol, as one datagram.
pub fn dump(family: u8, protocol: u8, seq: u32) -> Vec<u8> {
    let info = match protocol {
        IPPROTO_TCP => 1 << (INET_DIAG_INFO - 1),
        _ => 0,
    };
    let mut request = vec![family, protocol, info, 0];
    request.extend(u32_register(ALL_STATES));
    request.extend([0; ID_BYTES]);
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    datagram(SOCK_DIAG_BY_FAMILY, flags, seq, request)
}

/// Builds a request that destroys a listed socket and no other: the kernel compares the cookie,
/// because an address alone could also match a listener (`inet_diag_find_one_icsk()`).
///
/// The kernel needs `CONFIG_INET_DIAG_DESTROY`; it responds with EOPNOTSUPP without it, and with
/// ENOENT or ESTALE if the socket no longer exists.
pub fn destroy(socket: &Socket, seq: u32) -> Vec<u8> {
    let mut request = vec![socket.family, socket.protocol, 0, 0];
    request.extend(u32_register(ALL_STATES));
    request.extend(socket.id);
    datagram(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, seq, request)
}

fn datagram(kind: u16, flags: u16, seq: u32, request: Vec<u8>) -> Vec<u8> {
    let mut datagram = Vec::new();
    envelope(kind, flags, seq, 0, request, &mut datagram);
    datagram
}

/// Decodes a response to [`dump`] for this protocol.
///
/// # Errors
/// [`DecodeError`] if it is truncated or its attributes are invalid.
pub fn decode(raw: &RawMessage<'_>, protocol: u8) -> Result<Socket, DecodeError> {
    let cut = || DecodeError::Truncated {
        what: "inet_diag_msg",
        at: raw.payload.len(),
    };
    let (head, attributes) = raw.payload.split_at_checked(MSG_BYTES).ok_or_else(cut)?;
    let id = head.get(ID_AT..ID_AT + ID_BYTES).ok_or_else(cut)?;
    let end = |port_at: usize, address_at: usize| -> Option<SocketAddr> {
        let address = match head[0] {
            AF_INET => attr::ipv4(id.get(address_at..address_at + 4)?)?,
            _ => attr::ipv6(id.get(address_at..address_at + 16)?)?,
        };
        let port = port(id.get(port_at..port_at + 2)?)?;
        Some(SocketAddr::new(address.to_canonical(), port))
    };
    let mut info = None;
    for attribute in Attrs::new(attributes) {
        let attribute = attribute?;
        if attribute.attribute == INET_DIAG_INFO {
            info = tcp_info(attribute.payload);
        }
    }
    Ok(Socket {
        family: head[0],
        protocol,
        state: head[1],
        local: end(0, 4).ok_or_else(cut)?,
        remote: end(2, 20).ok_or_else(cut)?,
        info,
        id: id.try_into().ok().ok_or_else(cut)?,
    })
}

/// Decodes `struct tcp_info`; `None` if the kernel's struct is too short.
fn tcp_info(bytes: &[u8]) -> Option<TcpInfo> {
    // Two four-bit fields, ordered by the host's byte order.
    let scales = *bytes.get(6)?;
    let (low, high) = (scales & 0xf, scales >> 4);
    let (send_scale, receive_scale) = match cfg!(target_endian = "little") {
        true => (low, high),
        false => (high, low),
    };
    Some(TcpInfo {
        send_scale,
        receive_scale,
        unacked: read_u32_host(bytes, 24)?,
        bytes_acked: read_u64_host(bytes, 120)?,
        bytes_sent: read_u64_host(bytes, 200)?,
        bytes_retransmitted: read_u64_host(bytes, 208)?,
    })
}

/// Reports whether an address is specified, as it is for a connected socket's remote side.
pub fn is_somebody(address: SocketAddr) -> bool {
    !address.ip().is_unspecified() && address.port() != 0
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::netlink::message::{Datagram, NLMSGHDR_BYTES};

    /// Encodes a kernel response: a socket between these addresses, with optional `tcp_info`.
    fn answer(
        family: u8,
        state: u8,
        (local, remote): (&str, &str),
        info: Option<&[u8]>,
    ) -> Vec<u8> {
        let mut bytes = vec![family, state, 0, 0];
        let (local, remote): (SocketAddr, SocketAddr) =
            (local.parse().unwrap(), remote.parse().unwrap());
        for end in [local, remote] {
            bytes.extend(attr::port_bytes(end.port()));
        }
        for end in [local, remote] {
            let mut address = match (family, end.ip()) {
                (AF_INET, IpAddr::V4(address)) => address.octets().to_vec(),
                (_, IpAddr::V4(address)) => address.to_ipv6_mapped().octets().to_vec(),
                (_, IpAddr::V6(address)) => address.octets().to_vec(),
            };
            address.resize(16, 0);
            bytes.extend(address);
        }
        bytes.extend(u32_register(3));
        bytes.extend([7; 8]);
        bytes.resize(MSG_BYTES, 0);
        let mut w = attr::AttrWriter::after(bytes);
        if let Some(info) = info {
            w.bytes(INET_DIAG_INFO, info);
        }
        w.finish().unwrap()
    }

    fn read(payload: &[u8]) -> Result<Socket, DecodeError> {
        let raw = RawMessage {
            kind: SOCK_DIAG_BY_FAMILY,
            flags: 0,
            seq: 0,
            port: 0,
            payload,
        };
        decode(&raw, IPPROTO_TCP)
    }

    #[test]
    fn a_socket_is_ended_by_its_cookie_and_in_its_own_family() {
        for (family, ends) in [
            (AF_INET, ("192.0.2.1:22", "198.51.100.2:50000")),
            (AF_INET6, ("[2001:db8::1]:22", "[2001:db8::2]:50000")),
            (AF_INET6, ("192.0.2.1:22", "198.51.100.2:50000")),
        ] {
            let bytes = answer(family, TCP_ESTABLISHED, ends, None);
            let socket = read(&bytes).unwrap();
            assert_eq!(socket.local.to_string(), ends.0);
            assert_eq!(socket.remote.to_string(), ends.1);
            assert!(socket.is_connected() && !socket.is_listening());
            let request = destroy(&socket, 9);
            // `struct inet_diag_req_v2` has 56 bytes.
            assert_eq!(request.len(), NLMSGHDR_BYTES + 56);
            let raw = Datagram::new(&request).next().unwrap().unwrap();
            assert_eq!((raw.kind, raw.seq), (SOCK_DESTROY, 9));
            assert_eq!(raw.payload[..2], [family, IPPROTO_TCP]);
            assert_eq!(raw.payload[8..], bytes[ID_AT..ID_AT + ID_BYTES]);
            assert_eq!(raw.payload[48..], [7; 8]);
        }
        assert!(read(&[0; MSG_BYTES - 1]).is_err());
    }

    #[test]
    fn listeners_and_closed_sockets_are_not_connected() {
        for state in 1..=12 {
            let ends = ("192.0.2.1:22", "0.0.0.0:0");
            let socket = read(&answer(AF_INET, state, ends, None)).unwrap();
            let closed = matches!(state, 6 | TCP_CLOSE | TCP_LISTEN);
            assert_eq!(socket.is_connected(), !closed, "state {state}");
            assert_eq!(socket.is_listening(), state == TCP_LISTEN);
            assert!(!is_somebody(socket.remote) && is_somebody(socket.local));
        }
    }

    #[test]
    fn who_opened_a_connection_shows_in_what_was_acknowledged() {
        let info = |unacked: u32, acked: u64, sent: u64, again: u64| {
            let mut info = vec![0; 216];
            info[6] = if cfg!(target_endian = "little") {
                0xa7
            } else {
                0x7a
            };
            info[24..28].copy_from_slice(&u32_register(unacked));
            for (at, value) in [(120, acked), (200, sent), (208, again)] {
                info[at..at + 8].copy_from_slice(&attr::u64_register(value));
            }
            info
        };
        for (name, state, info, want) in [
            ("connected", TCP_ESTABLISHED, info(0, 1, 0, 0), Some(true)),
            ("accepted", TCP_ESTABLISHED, info(0, 0, 0, 0), Some(false)),
            ("sent", TCP_ESTABLISHED, info(0, 101, 120, 20), Some(true)),
            (
                "answered",
                TCP_CLOSE_WAIT,
                info(0, 100, 120, 20),
                Some(false),
            ),
            ("in flight", TCP_ESTABLISHED, info(1, 50, 100, 0), None),
            ("closed", TCP_FIN_WAIT2, info(0, 2, 0, 0), Some(true)),
            ("of an old kernel", TCP_ESTABLISHED, vec![0; 104], None),
        ] {
            let ends = ("192.0.2.1:22", "198.51.100.2:50000");
            let socket = read(&answer(AF_INET, state, ends, Some(&info))).unwrap();
            assert_eq!(socket.opened_here(), want, "{name}");
            if let Some(info) = socket.info {
                assert_eq!((info.send_scale, info.receive_scale), (7, 10));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            if let Ok(socket) = read(&bytes) {
                let _ = (socket.opened_here(), destroy(&socket, 1));
            }
        }
    }
}
