//! Routes in rtnetlink dumps and events.
//!
//! Layout: `struct rtmsg`, `struct rtnexthop` and `struct rtvia` in
//! `include/uapi/linux/rtnetlink.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::attr::{Attr, Attrs, DecodeError, read_u16_host, read_u32_host};
use crate::netlink::message::RawMessage;
use crate::rtnetlink::{AF_INET, ip, is_ip, split};

/// `RTM_NEWROUTE`: a new or changed route, or an entry of a dump.
pub const RTM_NEWROUTE: u16 = 24;
/// `RTM_DELROUTE`: a deleted route.
pub const RTM_DELROUTE: u16 = 25;
/// `RTM_GETROUTE`
pub(crate) const RTM_GETROUTE: u16 = 26;
/// `RTNLGRP_IPV4_ROUTE`: the multicast group for IPv4 routes.
pub const RTNLGRP_IPV4_ROUTE: u32 = 7;
/// `RTNLGRP_IPV6_ROUTE`: the multicast group for IPv6 routes.
pub const RTNLGRP_IPV6_ROUTE: u32 = 11;
/// `RT_TABLE_LOCAL`: addresses of this host, maintained by the kernel.
pub const RT_TABLE_LOCAL: u32 = 255;
/// Size of `struct rtmsg` in bytes.
pub(crate) const RTMSG_BYTES: usize = 12;
/// Size of `struct rtnexthop` in bytes.
const RTNEXTHOP_BYTES: usize = 8;
/// `RTN_UNICAST`: a gateway or a direct route. Other types are local, broadcast, multicast, or drop
/// packets.
const RTN_UNICAST: u8 = 1;
/// `RTNH_F_DEAD`: the interface is down.
const RTNH_F_DEAD: u8 = 1;
/// `RTM_F_CLONED`: an entry of the route cache.
const RTM_F_CLONED: u32 = 0x200;
/// `RTA_DST`; absent for a default route.
const RTA_DST: u16 = 1;
/// `RTA_OIF`
const RTA_OIF: u16 = 4;
/// `RTA_GATEWAY`
const RTA_GATEWAY: u16 = 5;
/// `RTA_MULTIPATH`
const RTA_MULTIPATH: u16 = 9;
/// `RTA_TABLE`: the table, because `rtm_table` has only eight bits.
const RTA_TABLE: u16 = 15;
/// `RTA_VIA`: a gateway of the other address family.
const RTA_VIA: u16 = 18;

/// A unicast route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination address.
    pub destination: IpAddr,
    /// Prefix length of the destination, in bits.
    pub prefix_len: u8,
    /// Routing table.
    pub table: u32,
    /// Next hops; several for a multipath route. Hops on an interface that is down are omitted.
    pub hops: Vec<Hop>,
}

/// A next hop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hop {
    /// Interface index.
    pub interface: u32,
    /// Gateway; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// Decodes a message for a unicast route in any table except `local`; `None` for other messages.
///
/// # Errors
/// [`DecodeError`] if it is truncated or its attributes are invalid.
pub fn decode(raw: &RawMessage<'_>) -> Result<Option<Route>, DecodeError> {
    if !matches!(raw.kind, RTM_NEWROUTE | RTM_DELROUTE) {
        return Ok(None);
    }
    let (header, attributes) = split::<RTMSG_BYTES>(raw, "rtmsg")?;
    let &[
        family,
        prefix_len,
        _source,
        _tos,
        table,
        _protocol,
        _scope,
        kind,
        ..,
    ] = header;
    let flags = read_u32_host(header, 8).unwrap_or(0);
    if !is_ip(family) || kind != RTN_UNICAST || flags & RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let mut route = Route {
        destination: match family {
            AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        },
        prefix_len,
        table: table.into(),
        hops: Vec::new(),
    };
    let mut hop = Hop::default();
    for attr in Attrs::new(attributes) {
        let attr = attr?;
        match attr.attribute {
            RTA_DST => route.destination = ip(family, &attr)?,
            RTA_TABLE => route.table = attr.u32_host()?,
            RTA_OIF => hop.interface = attr.u32_host()?,
            RTA_MULTIPATH => route.hops = hops(family, attr.payload)?,
            _ => read_gateway(family, &attr, &mut hop)?,
        }
    }
    // The low byte contains the flags of the single hop.
    let is_dead = flags & u32::from(RTNH_F_DEAD) != 0;
    if hop.interface != 0 && !is_dead {
        route.hops.push(hop);
    }
    Ok((route.table != RT_TABLE_LOCAL).then_some(route))
}

fn read_gateway(family: u8, attr: &Attr<'_>, hop: &mut Hop) -> Result<(), DecodeError> {
    match attr.attribute {
        RTA_GATEWAY => hop.gateway = Some(ip(family, attr)?),
        RTA_VIA => {
            let cut = DecodeError::Truncated {
                what: "rtvia",
                at: 0,
            };
            let (_, address) = attr.payload.split_at_checked(2).ok_or(cut)?;
            let family = read_u16_host(attr.payload, 0).unwrap_or(0).try_into();
            // Other gateways belong to MPLS.
            if let Ok(family) = family
                && is_ip(family)
            {
                let attr = Attr {
                    payload: address,
                    ..*attr
                };
                hop.gateway = Some(ip(family, &attr)?);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Decodes the hops of a multipath route: `struct rtnexthop`, each followed by its attributes.
fn hops(family: u8, mut rest: &[u8]) -> Result<Vec<Hop>, DecodeError> {
    let mut hops = Vec::new();
    while !rest.is_empty() {
        let len = usize::from(read_u16_host(rest, 0).unwrap_or(0));
        let wrong = DecodeError::Length {
            what: "rtnexthop",
            at: 0,
            len,
        };
        let one = rest.get(..len).ok_or(wrong.clone())?;
        let attributes = one.get(RTNEXTHOP_BYTES..).ok_or(wrong)?;
        let mut hop = Hop {
            interface: read_u32_host(one, 4).unwrap_or(0),
            gateway: None,
        };
        for attr in Attrs::new(attributes) {
            read_gateway(family, &attr?, &mut hop)?;
        }
        if one[2] & RTNH_F_DEAD == 0 {
            hops.push(hop);
        }
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
    }
    Ok(hops)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_endian = "little")]
    use crate::rtnetlink::tests::captured;
    use crate::rtnetlink::tests::raw;

    /// Output of Linux 6.18 after the command on each line; eth0 is 3 and eth1 is 5.
    #[cfg(target_endian = "little")]
    const CAPTURED: [(&str, &str, Option<&str>); 9] = [
        (
            "ip route add default via 192.0.2.254",
            "02000000fe0300010000000008000f00fe00000008000500c00002fe0800040003000000",
            Some("0.0.0.0/0 table 254, 3 via 192.0.2.254"),
        ),
        (
            "ip route add 10.244.1.0/24 via 192.0.2.7",
            "02180000fe0300010000000008000f00fe000000080001000af4010008000500c00002070800040003000000",
            Some("10.244.1.0/24 table 254, 3 via 192.0.2.7"),
        ),
        (
            "ip route add 10.244.2.0/24 nexthop via 192.0.2.8 dev eth0 nexthop via 198.51.100.8 dev \
             eth1 weight 2",
            "02180000fe0300010000000008000f00fe000000080001000af4020024000900100000000300000008000500c0000208\
             100000010500000008000500c6336408",
            Some("10.244.2.0/24 table 254, 3 via 192.0.2.8, 5 via 198.51.100.8"),
        ),
        (
            "ip route add 10.244.3.0/24 via inet6 2001:db8::7 dev eth0",
            "02180000fe0300010000000008000f00fe000000080001000af40300160012000a0020010db800000000000000000000\
             000700000800040003000000",
            Some("10.244.3.0/24 table 254, 3 via 2001:db8::7"),
        ),
        (
            "ip route add blackhole 10.244.4.0/24",
            "02180000fe0300060000000008000f00fe000000080001000af40400",
            None,
        ),
        (
            "ip -6 route add 2001:db8:1::/64 nexthop via 2001:db8::8 dev eth0 nexthop via \
             2001:db8::9 dev eth0",
            "0a400000fe0300010000000008000f00fe0000001400010020010db80001000000000000000000000800060000040000\
             3c0009001c000000030000001400050020010db80000000000000000000000081c000000030000001400050020010db8\
             00000000000000000000000924000c000000000000000000000000000000000000000000000000000000000000000000\
             0500140000000000",
            Some("2001:db8:1::/64 table 254, 3 via 2001:db8::8, 3 via 2001:db8::9"),
        ),
        (
            "ip route add 10.1.0.0/16 dev eth0 table 1000",
            "02100000fc03fd010000000008000f00e8030000080001000a0100000800040003000000",
            Some("10.1.0.0/16 table 1000, 3"),
        ),
        (
            "ip addr add 192.0.2.1/24 dev eth0, the address itself",
            "02200000ff02fe020000000008000f00ff00000008000100c000020108000700c00002010800040003000000",
            None,
        ),
        (
            "ip link set eth0 up, the multicast of IPv6",
            "0a080000ff0200050000000008000f00ff00000014000100ff0000000000000000000000000000000800060000010000\
             080004000300000024000c00000000000000000000000000000000000000000000000000000000000000000005001400\
             00000000",
            None,
        ),
    ];

    #[cfg(target_endian = "little")]
    fn in_words(route: &Route) -> String {
        let mut text = format!(
            "{}/{} table {}",
            route.destination, route.prefix_len, route.table
        );
        for hop in &route.hops {
            text += &format!(", {}", hop.interface);
            text += &hop
                .gateway
                .map_or_else(String::new, |via| format!(" via {via}"));
        }
        text
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn unicast_routes_are_read_with_every_hop() {
        for (command, hex, want) in CAPTURED {
            let found = decode(&raw(RTM_NEWROUTE, &captured(hex))).unwrap();
            assert_eq!(found.as_ref().map(in_words).as_deref(), want, "{command}");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_hop_whose_interface_is_down_is_left_out() {
        let mut one = captured(CAPTURED[1].1);
        one[8] = RTNH_F_DEAD;
        let found = decode(&raw(RTM_NEWROUTE, &one)).unwrap().unwrap();
        assert_eq!(found.hops, []);
        let mut two = captured(CAPTURED[2].1);
        two[12 + 8 + 8 + 4 + 2] = RTNH_F_DEAD;
        let found = decode(&raw(RTM_NEWROUTE, &two)).unwrap().unwrap();
        assert_eq!(found.hops.len(), 1);
        assert_eq!(found.hops[0].interface, 5);
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        assert_eq!(decode(&raw(RTM_GETROUTE, &[0; 12])), Ok(None));
        assert_eq!(decode(&raw(RTM_NEWROUTE, &[0; 12])), Ok(None), "family 0");
        assert!(decode(&raw(RTM_NEWROUTE, &[2; 3])).is_err());
        for wrong in [&[0, 0][..], &[200, 0, 0, 0], &[4, 0, 0, 0]] {
            assert!(hops(AF_INET, wrong).is_err(), "{wrong:?}");
        }
    }
}
