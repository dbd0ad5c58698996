//! The end of a socket of this host, by its addresses (sock_diag(7)).
//!
//! Layout: `struct inet_diag_req_v2` and `struct inet_diag_sockid` in `include/uapi/linux/inet_diag.h`. Ports
//! and addresses are in network byte order, the rest in that of the host.

use std::net::{IpAddr, SocketAddr};

use crate::attr::{port_bytes, u32_register};
use crate::message::{NLM_F_ACK, NLM_F_REQUEST, envelope};

/// `SOCK_DESTROY`, in `include/uapi/linux/sock_diag.h`
const SOCK_DESTROY: u16 = 21;
/// `IPPROTO_TCP`
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `TCPF_ALL`: in whatever state.
const ALL_STATES: u32 = 0xfff;
/// `INET_DIAG_NOCOOKIE`: whichever socket has these addresses.
const NO_COOKIE: u32 = u32::MAX;

/// Asks for the end of the TCP socket between these two, as one datagram. Both are of one family. Takes
/// `CONFIG_INET_DIAG_DESTROY`; the answer is EOPNOTSUPP without it, and ENOENT if there is no such socket.
pub fn destroy(local: SocketAddr, remote: SocketAddr, seq: u32) -> Vec<u8> {
    let family = match local.ip() {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    };
    let mut request = vec![family, IPPROTO_TCP, 0, 0];
    request.extend(u32_register(ALL_STATES));
    for end in [local, remote] {
        request.extend(port_bytes(end.port()));
    }
    for end in [local, remote] {
        let mut address = match end.ip() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        address.resize(16, 0);
        request.extend(address);
    }
    request.extend(u32_register(0)); // any interface
    request.extend(u32_register(NO_COOKIE));
    request.extend(u32_register(NO_COOKIE));
    let mut datagram = Vec::new();
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    envelope(SOCK_DESTROY, flags, seq, 0, request, &mut datagram);
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Datagram, NLMSGHDR_BYTES};

    #[test]
    fn a_socket_is_named_by_both_of_its_ends() {
        for (local, remote, family, at) in [
            (
                "192.0.2.1:22",
                "198.51.100.2:50000",
                AF_INET,
                [192, 0, 2, 1],
            ),
            (
                "[2001:db8::1]:22",
                "[2001:db8::2]:50000",
                AF_INET6,
                [0x20, 1, 0xd, 0xb8],
            ),
        ] {
            let bytes = destroy(local.parse().unwrap(), remote.parse().unwrap(), 9);
            // `struct inet_diag_req_v2` has 56.
            assert_eq!(bytes.len(), NLMSGHDR_BYTES + 56);
            let raw = Datagram::new(&bytes).next().unwrap().unwrap();
            assert_eq!((raw.kind, raw.seq), (SOCK_DESTROY, 9));
            assert_eq!(raw.payload[..2], [family, IPPROTO_TCP]);
            assert_eq!(raw.payload[8..12], [0, 22, 0xc3, 0x50]);
            assert_eq!(raw.payload[12..16], at);
            assert_eq!(raw.payload[48..], [0xff; 8]);
        }
    }
}
