//! Requests that create interfaces, addresses and routes, for network namespaces of peerwall's own.
//!
//! Layout: `struct ifinfomsg`, `struct rtmsg` in `include/uapi/linux/rtnetlink.h`, `struct
//! ifaddrmsg` in `if_addr.h`, `VETH_INFO_PEER` in `veth.h`, `enum` of `IFLA_*` in `if_link.h`.
//! Answered by `rtnl_newlink()`, `inet_rtm_newroute()`, `inet6_rtm_newroute()` and
//! `inet_rtm_newaddr()`. Addresses are in network byte order, other numbers in host byte order.

use std::net::IpAddr;

use crate::netlink::attr::{AttrWriter, TooLong, u32_register};
use crate::netlink::message::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, envelope};
use crate::rtnetlink::address::IFADDRMSG_BYTES;
use crate::rtnetlink::link::{IFINFOMSG_BYTES, RTM_NEWLINK};
use crate::rtnetlink::route::{RT_TABLE_LOCAL, RTM_DELROUTE, RTM_NEWROUTE};
use crate::rtnetlink::{AF_INET, AF_INET6};

/// `RTM_NEWADDR`
const RTM_NEWADDR: u16 = 20;
/// `IFLA_ADDRESS`
const IFLA_ADDRESS: u16 = 1;
/// `IFLA_IFNAME`
const IFLA_IFNAME: u16 = 3;
/// `IFLA_LINKINFO`
const IFLA_LINKINFO: u16 = 18;
/// `IFLA_NET_NS_FD`
const IFLA_NET_NS_FD: u16 = 28;
/// `IFLA_INFO_KIND`
const IFLA_INFO_KIND: u16 = 1;
/// `IFLA_INFO_DATA`
const IFLA_INFO_DATA: u16 = 2;
/// `VETH_INFO_PEER`
const VETH_INFO_PEER: u16 = 1;
/// `IFF_UP`
const IFF_UP: u32 = 1;
/// `IFF_NOARP`: no address resolution; packets are sent to the interface's own address.
const IFF_NOARP: u32 = 0x80;
/// `IFA_ADDRESS`
const IFA_ADDRESS: u16 = 1;
/// `IFA_LOCAL`
const IFA_LOCAL: u16 = 2;
/// `RTA_DST`
const RTA_DST: u16 = 1;
/// `RTA_OIF`
const RTA_OIF: u16 = 4;
/// `RT_TABLE_MAIN`
const RT_TABLE_MAIN: u8 = 254;
/// `RTPROT_STATIC`
const RTPROT_STATIC: u8 = 4;
/// `RT_SCOPE_UNIVERSE`: IPv6 has no other.
const RT_SCOPE_UNIVERSE: u8 = 0;
/// `RT_SCOPE_LINK`
const RT_SCOPE_LINK: u8 = 253;
/// `RT_SCOPE_HOST`
const RT_SCOPE_HOST: u8 = 254;
/// `RTN_UNICAST`
const RTN_UNICAST: u8 = 1;
/// `RTN_LOCAL`
const RTN_LOCAL: u8 = 2;

/// One end of a veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End<'n> {
    /// Name of the interface.
    pub name: &'n str,
    /// Ethernet address.
    pub mac: [u8; 6],
}

/// Builds a request that creates a pair of Ethernet interfaces without address resolution: `near`
/// in the namespace of the socket, `far` in that of the file descriptor `peer`. Neither is up: an
/// end cannot be before it has a peer (`veth_open()`).
///
/// # Errors
/// [`TooLong`] for a name that no interface can have.
pub fn veth(near: End<'_>, far: End<'_>, peer: u32, seq: u32) -> Result<Vec<u8>, TooLong> {
    let header = flags_header(0, IFF_NOARP);
    let mut w = AttrWriter::after(header.clone());
    w.string(IFLA_IFNAME, near.name);
    w.bytes(IFLA_ADDRESS, &near.mac);
    w.nest(IFLA_LINKINFO, |w| {
        w.string(IFLA_INFO_KIND, "veth");
        w.nest(IFLA_INFO_DATA, |w| {
            w.nest(VETH_INFO_PEER, |w| {
                w.raw(&header);
                w.string(IFLA_IFNAME, far.name);
                w.bytes(IFLA_ADDRESS, &far.mac);
                w.bytes(IFLA_NET_NS_FD, &u32_register(peer));
            });
        });
    });
    Ok(datagram(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        seq,
        w.finish()?,
    ))
}

/// Builds a request that brings up the interface with this index.
pub fn up(index: u32, seq: u32) -> Vec<u8> {
    datagram(RTM_NEWLINK, 0, seq, flags_header(index, IFF_UP))
}

/// `struct ifinfomsg` that sets flags.
fn flags_header(index: u32, flags: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for number in [index, flags, flags] {
        header.extend(u32_register(number));
    }
    debug_assert_eq!(header.len(), IFINFOMSG_BYTES);
    header
}

/// Builds a request that gives the interface with this index an address, without a network.
///
/// # Errors
/// [`TooLong`]; never, because addresses are short.
pub fn address(address: IpAddr, index: u32, seq: u32) -> Result<Vec<u8>, TooLong> {
    let (family, bits) = family(address);
    let mut header = vec![family, bits, 0, RT_SCOPE_UNIVERSE];
    header.extend(u32_register(index));
    debug_assert_eq!(header.len(), IFADDRMSG_BYTES);
    let mut w = AttrWriter::after(header);
    for attribute in [IFA_LOCAL, IFA_ADDRESS] {
        ip(&mut w, attribute, address);
    }
    Ok(datagram(RTM_NEWADDR, NLM_F_CREATE, seq, w.finish()?))
}

/// Destination of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// One address that is on the link of the interface.
    Address(IpAddr),
    /// One address that is this host's own, in the table `local`.
    Own(IpAddr),
    /// All addresses of the family of this one.
    Default(IpAddr),
}

/// What a request does with a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// Creates it; the kernel answers EEXIST if it exists.
    Add,
    /// Deletes it; the kernel answers ESRCH if it does not exist.
    Delete,
}

/// Builds a request about the route through the interface with this index.
///
/// # Errors
/// [`TooLong`]; never, because addresses are short.
pub fn route(edit: Edit, to: To, index: u32, seq: u32) -> Result<Vec<u8>, TooLong> {
    let (kind, flags) = match edit {
        Edit::Add => (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL),
        Edit::Delete => (RTM_DELROUTE, 0),
    };
    let (destination, is_own, is_default) = match to {
        To::Address(address) => (address, false, false),
        To::Own(address) => (address, true, false),
        To::Default(address) => (address, false, true),
    };
    let (family, bits) = family(destination);
    let local = u8::try_from(RT_TABLE_LOCAL).unwrap_or(u8::MAX);
    let (table, scope, route_type) = match is_own {
        true => (local, RT_SCOPE_HOST, RTN_LOCAL),
        false => (RT_TABLE_MAIN, RT_SCOPE_LINK, RTN_UNICAST),
    };
    let scope = match destination {
        IpAddr::V4(_) => scope,
        IpAddr::V6(_) => RT_SCOPE_UNIVERSE,
    };
    let bits = if is_default { 0 } else { bits };
    let header = vec![
        family,
        bits,
        0,
        0,
        table,
        RTPROT_STATIC,
        scope,
        route_type,
        0,
        0,
        0,
        0,
    ];
    let mut w = AttrWriter::after(header);
    if !is_default {
        ip(&mut w, RTA_DST, destination);
    }
    w.bytes(RTA_OIF, &u32_register(index));
    Ok(datagram(kind, flags, seq, w.finish()?))
}

/// Returns the number of an address family, and the length of an address in bits.
fn family(address: IpAddr) -> (u8, u8) {
    match address {
        IpAddr::V4(_) => (AF_INET, 32),
        IpAddr::V6(_) => (AF_INET6, 128),
    }
}

fn ip(w: &mut AttrWriter, attribute: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => w.bytes(attribute, &address.octets()),
        IpAddr::V6(address) => w.bytes(attribute, &address.octets()),
    }
}

fn datagram(kind: u16, flags: u16, seq: u32, payload: Vec<u8>) -> Vec<u8> {
    let mut datagram = Vec::new();
    let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    envelope(kind, flags, seq, 0, payload, &mut datagram);
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::Attrs;
    use crate::netlink::message::{Datagram, RawMessage};
    use crate::rtnetlink::{link, route as routes};

    fn raw(bytes: &[u8]) -> RawMessage<'_> {
        Datagram::new(bytes).next().unwrap().unwrap()
    }

    #[test]
    fn a_pair_is_named_at_both_ends() {
        let near = End {
            name: "eth0",
            mac: [2, 0, 0, 0, 0, 1],
        };
        let far = End {
            name: "f0",
            mac: [2, 0, 0, 0, 0, 2],
        };
        let bytes = veth(near, far, 7, 5).unwrap();
        let message = raw(&bytes);
        assert_eq!(
            (message.kind, message.flags, message.seq),
            (RTM_NEWLINK, 0x605, 5)
        );
        let found = link::decode(&message).unwrap().unwrap();
        assert_eq!(
            (found.name.as_deref(), found.kind()),
            (Some("eth0"), Some("veth"))
        );
        let data = found.info.unwrap().0.data.unwrap();
        let peer = Attrs::new(&data).next().unwrap().unwrap();
        assert_eq!(peer.attribute, VETH_INFO_PEER);
        let (header, attributes) = peer.payload.split_at(IFINFOMSG_BYTES);
        assert_eq!(header[8..12], u32_register(IFF_NOARP));
        let names: Vec<_> = Attrs::new(attributes).map(Result::unwrap).collect();
        assert_eq!(names[0].string().unwrap(), "f0");
        assert_eq!(names[2].payload, u32_register(7));
        assert!(
            veth(
                near,
                End {
                    name: &"x".repeat(70_000),
                    ..far
                },
                7,
                5
            )
            .is_err()
        );
    }

    #[test]
    fn a_route_is_read_as_it_was_written() {
        for (to, prefix) in [
            (To::Address("192.0.2.9".parse().unwrap()), 32),
            (To::Address("2001:db8::9".parse().unwrap()), 128),
            (To::Default("0.0.0.0".parse().unwrap()), 0),
            (To::Default("::".parse().unwrap()), 0),
        ] {
            let (To::Address(address) | To::Default(address) | To::Own(address)) = to;
            let bytes = route(Edit::Add, to, 3, 9).unwrap();
            let found = routes::decode(&raw(&bytes)).unwrap().unwrap();
            assert_eq!(
                (found.destination, found.prefix_len),
                (address, prefix),
                "{to:?}"
            );
            assert_eq!(found.hops[0].interface, 3, "{to:?}");
        }
        // Own addresses are in the table `local`, which the decoder skips.
        let own = To::Own("192.0.2.9".parse().unwrap());
        let bytes = route(Edit::Delete, own, 1, 9).unwrap();
        assert_eq!(routes::decode(&raw(&bytes)).unwrap(), None);
        assert_eq!(raw(&bytes).kind, RTM_DELROUTE);
        assert_eq!(raw(&bytes).payload[4..8], [255, 4, 254, 2]);
    }

    #[test]
    fn an_address_is_written_once_as_local_and_once_as_the_prefix() {
        let bytes = address("192.0.2.9".parse().unwrap(), 1, 9).unwrap();
        let message = raw(&bytes);
        assert_eq!(message.payload[..8], [2, 32, 0, 0, 1, 0, 0, 0]);
        assert_eq!(message.payload[8..16], [8, 0, 2, 0, 192, 0, 2, 9]);
        assert_eq!(raw(&up(1, 2)).payload.len(), IFINFOMSG_BYTES);
    }
}
