//! rtnetlink: interfaces, addresses, routes and neighbours. Dump requests, and requests that create
//! them.
//!
//! Layout: `include/uapi/linux/rtnetlink.h`. Numbers are in host byte order, addresses in network
//! byte order.

pub mod address;
pub mod change;
pub mod link;
pub mod neighbour;
pub mod route;
pub mod route_lookup;

use std::net::IpAddr;

use crate::netlink::attr::{Attr, AttrWriter, DecodeError, ipv4, ipv6, u32_register};
use crate::netlink::message::{NLM_F_DUMP, NLM_F_REQUEST, RawMessage, envelope};

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
pub(crate) const AF_BRIDGE: u8 = 7;
/// `IFLA_EXT_MASK`
const IFLA_EXT_MASK: u16 = 29;
/// `RTEXT_FILTER_SKIP_STATS` (Linux 4.4): omits counters, the largest part of an interface message.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

/// Kind of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Interfaces: [`link::decode`].
    Links,
    /// Addresses of interfaces: [`address::decode`].
    Addresses,
    /// Routes of every table: [`route::decode`].
    Routes,
    /// Neighbours: [`neighbour::decode`].
    Neighbours,
    /// Forwarding tables of bridges and VXLAN tunnels: [`neighbour::decode_remote`].
    Forwarding,
}

impl List {
    /// Builds the dump request for both address families, as one datagram.
    ///
    /// The family is `AF_UNSPEC`: a kernel without IPv6 responds to `AF_INET6` with the IPv4
    /// entries.
    pub fn request(self, seq: u32) -> Vec<u8> {
        let (kind, header_bytes) = match self {
            Self::Links => (link::RTM_GETLINK, link::IFINFOMSG_BYTES),
            Self::Addresses => (address::RTM_GETADDR, address::IFADDRMSG_BYTES),
            Self::Routes => (route::RTM_GETROUTE, route::RTMSG_BYTES),
            Self::Neighbours | Self::Forwarding => {
                (neighbour::RTM_GETNEIGH, neighbour::NDMSG_BYTES)
            }
        };
        let mut header = vec![0; header_bytes];
        if self == Self::Forwarding {
            header[0] = AF_BRIDGE;
        }
        let mut w = AttrWriter::after(header);
        if self == Self::Links {
            w.bytes(IFLA_EXT_MASK, &u32_register(RTEXT_FILTER_SKIP_STATS));
        }
        let payload = w.finish().expect("four bytes fit an attribute");
        let mut datagram = Vec::new();
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        envelope(kind, flags, seq, 0, payload, &mut datagram);
        datagram
    }
}

/// Splits a message into its fixed part and its attributes.
pub(crate) fn split<'a, const N: usize>(
    raw: &RawMessage<'a>,
    what: &'static str,
) -> Result<(&'a [u8; N], &'a [u8]), DecodeError> {
    let cut = DecodeError::Truncated { what, at: 0 };
    raw.payload.split_first_chunk().ok_or(cut)
}

/// Reports whether this is an IP family. Routes of MPLS and multicast routing have other families.
pub(crate) fn is_ip(family: u8) -> bool {
    matches!(family, AF_INET | AF_INET6)
}

/// Decodes an address attribute of this family.
pub(crate) fn ip(family: u8, attr: &Attr<'_>) -> Result<IpAddr, DecodeError> {
    let (address, want) = match family {
        AF_INET => (ipv4(attr.payload), 4),
        _ => (ipv6(attr.payload), 16),
    };
    address.ok_or(DecodeError::Size {
        attribute: attr.attribute,
        want,
        got: attr.payload.len(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::netlink::message::Datagram;

    /// Converts hexadecimal output of a little-endian kernel to bytes.
    pub(crate) fn captured(hex: &str) -> Vec<u8> {
        let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    }

    pub(crate) fn raw(kind: u16, payload: &[u8]) -> RawMessage<'_> {
        RawMessage {
            kind,
            flags: 2,
            seq: 1,
            port: 0,
            payload,
        }
    }

    #[test]
    fn a_list_is_asked_for_without_a_family() {
        for (list, kind, bytes) in [
            (List::Links, 18, 24),
            (List::Addresses, 22, 8),
            (List::Routes, 26, 12),
            (List::Neighbours, 30, 12),
        ] {
            let request = list.request(7);
            let raw = Datagram::new(&request).next().unwrap().unwrap();
            assert_eq!((raw.kind, raw.flags, raw.seq), (kind, 0x301, 7), "{list:?}");
            assert_eq!(raw.payload.len(), bytes, "{list:?}");
            assert_eq!(raw.payload[0], 0, "{list:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            for kind in [20, 21, 24, 25, 28, 29] {
                let raw = raw(kind, &bytes);
                let _ = (address::decode(&raw), route::decode(&raw), neighbour::decode(&raw));
            }
        }
    }
}
