//! Route lookup for one address (`RTM_GETROUTE` without a dump).
//!
//! Layout: `struct rtmsg`, `enum rtattr_type_t` and `struct rtnexthop` in
//! `include/uapi/linux/rtnetlink.h`; answered by `inet_rtm_getroute()` and `inet6_rtm_getroute()`.
//! Addresses are in network byte order, other numbers in host byte order.

use std::net::IpAddr;

use crate::netlink::attr::{
    AttrWriter, Attrs, DecodeError, TooLong, read_u16_host, read_u32_host, u32_register,
};
use crate::netlink::message::{NLM_F_REQUEST, RawMessage, envelope};

/// `RTM_GETROUTE`
const RTM_GETROUTE: u16 = 26;
/// `AF_INET`
const AF_INET: u8 = 2;
/// `AF_INET6`
const AF_INET6: u8 = 10;
/// `RTA_DST`
const RTA_DST: u16 = 1;
/// `RTA_SRC`
const RTA_SRC: u16 = 2;
/// `RTA_OIF`
const RTA_OIF: u16 = 4;
/// `RTA_MULTIPATH`
const RTA_MULTIPATH: u16 = 9;
/// `RTM_F_FIB_MATCH` (Linux 4.15): return the matching table entry instead of the chosen next hop.
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// Size of `struct rtmsg` in bytes.
const RTMSG_BYTES: usize = 12;
/// Size of `struct rtnexthop` in bytes.
const RTNEXTHOP_BYTES: usize = 8;

/// Kind of a route lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The next hop that a packet would take now.
    Way,
    /// The entry in the routing table, which may have several next hops.
    Entry,
}

/// Builds a request for the route to an address, as one datagram. `from` is an optional source
/// address; the kernel rejects addresses that are not this host's.
///
/// # Errors
/// [`TooLong`]; never, because addresses are short.
pub fn get(to: IpAddr, from: Option<IpAddr>, ask: Ask, seq: u32) -> Result<Vec<u8>, TooLong> {
    let (family, bits) = match to {
        IpAddr::V4(_) => (AF_INET, 32),
        IpAddr::V6(_) => (AF_INET6, 128),
    };
    let from = from.filter(|from| from.is_ipv4() == to.is_ipv4());
    let mut header = vec![family, bits, from.map_or(0, |_| bits), 0, 0, 0, 0, 0];
    header.extend(u32_register(match ask {
        Ask::Way => 0,
        Ask::Entry => RTM_F_FIB_MATCH,
    }));
    let mut w = AttrWriter::after(header);
    for (attribute, address) in [(RTA_DST, Some(to)), (RTA_SRC, from)] {
        match address {
            Some(IpAddr::V4(address)) => w.bytes(attribute, &address.octets()),
            Some(IpAddr::V6(address)) => w.bytes(attribute, &address.octets()),
            None => {}
        }
    }
    let mut datagram = Vec::new();
    envelope(
        RTM_GETROUTE,
        NLM_F_REQUEST,
        seq,
        0,
        w.finish()?,
        &mut datagram,
    );
    Ok(datagram)
}

/// Decodes a response. Returns the indices of the route's output interfaces, ascending.
///
/// # Errors
/// [`DecodeError`] if it is truncated or its attributes are invalid.
pub fn decode(raw: &RawMessage<'_>) -> Result<Vec<u32>, DecodeError> {
    let attributes = raw.payload.get(RTMSG_BYTES..);
    let attributes = attributes.ok_or(DecodeError::Truncated {
        what: "rtmsg",
        at: raw.payload.len(),
    })?;
    let mut interfaces = Vec::new();
    for attribute in Attrs::new(attributes) {
        let attribute = attribute?;
        match attribute.attribute {
            RTA_OIF => interfaces.extend(read_u32_host(attribute.payload, 0)),
            RTA_MULTIPATH => hops(attribute.payload, &mut interfaces),
            _ => {}
        }
    }
    interfaces.sort_unstable();
    interfaces.dedup();
    Ok(interfaces)
}

/// Position of `rtm_type` in `struct rtmsg`.
const RTM_TYPE_AT: usize = 7;

/// Decodes the kind of the route in a response (`rtm_type`, `RTN_*`).
///
/// # Errors
/// [`DecodeError`] if it is truncated.
pub fn decode_kind(raw: &RawMessage<'_>) -> Result<u8, DecodeError> {
    let kind = raw.payload.get(RTM_TYPE_AT).copied();
    kind.ok_or(DecodeError::Truncated {
        what: "rtmsg",
        at: raw.payload.len(),
    })
}

fn hops(mut bytes: &[u8], interfaces: &mut Vec<u32>) {
    while let (Some(len), Some(interface)) = (read_u16_host(bytes, 0), read_u32_host(bytes, 4)) {
        interfaces.push(interface);
        let len = usize::from(len).max(RTNEXTHOP_BYTES).next_multiple_of(4);
        bytes = bytes.get(len..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::u16_register;
    use crate::netlink::message::Datagram;

    fn read(payload: &[u8]) -> Result<Vec<u32>, DecodeError> {
        decode(&RawMessage {
            kind: 24,
            flags: 0,
            seq: 0,
            port: 0,
            payload,
        })
    }

    #[test]
    fn a_route_is_asked_for_by_both_addresses() {
        let (to, from) = (
            "192.0.2.9".parse().unwrap(),
            "198.51.100.1".parse().unwrap(),
        );
        let bytes = get(to, Some(from), Ask::Way, 5).unwrap();
        let raw = Datagram::new(&bytes).next().unwrap().unwrap();
        assert_eq!((raw.kind, raw.seq), (RTM_GETROUTE, 5));
        assert_eq!(raw.payload[..4], [AF_INET, 32, 32, 0]);
        assert_eq!(raw.payload[16..20], [192, 0, 2, 9]);
        assert_eq!(raw.payload[24..28], [198, 51, 100, 1]);
        // Other families are ignored.
        let bytes = get("2001:db8::9".parse().unwrap(), Some(from), Ask::Entry, 5).unwrap();
        let raw = Datagram::new(&bytes).next().unwrap().unwrap();
        assert_eq!(raw.payload[..4], [AF_INET6, 128, 0, 0]);
        assert_eq!(raw.payload[8..12], u32_register(RTM_F_FIB_MATCH));
        assert_eq!(raw.payload.len(), RTMSG_BYTES + 20);
    }

    #[test]
    fn every_way_of_a_route_is_read() {
        let mut w = AttrWriter::after(vec![0; RTMSG_BYTES]);
        w.bytes(RTA_OIF, &u32_register(3));
        assert_eq!(read(&w.finish().unwrap()), Ok(vec![3]));
        let mut hops = Vec::new();
        for (interface, gateway) in [(7, true), (4, false), (7, false)] {
            hops.extend(u16_register(if gateway { 16 } else { 8 }));
            hops.extend([0, 0]);
            hops.extend(u32_register(interface));
            hops.extend(if gateway {
                &[8, 0, 5, 0, 192, 0, 2, 1][..]
            } else {
                &[]
            });
        }
        let mut w = AttrWriter::after(vec![0; RTMSG_BYTES]);
        w.bytes(RTA_MULTIPATH, &hops);
        assert_eq!(read(&w.finish().unwrap()), Ok(vec![4, 7]));
        assert!(read(&[0; 5]).is_err());
        let raw = |payload| RawMessage {
            kind: 24,
            flags: 0,
            seq: 0,
            port: 0,
            payload,
        };
        assert_eq!(decode_kind(&raw(&[2, 32, 0, 0, 255, 2, 0, 2])), Ok(2));
        assert!(decode_kind(&raw(&[0; 7])).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
