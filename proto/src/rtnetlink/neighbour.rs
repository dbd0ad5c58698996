//! Neighbours (ARP and neighbour discovery) in rtnetlink dumps and events.
//!
//! Layout and states: `struct ndmsg` in `include/uapi/linux/neighbour.h`.

use std::net::IpAddr;

use crate::netlink::attr::{Attrs, DecodeError, read_u16_host, read_u32_host};
use crate::netlink::message::RawMessage;
use crate::rtnetlink::{AF_BRIDGE, AF_INET, AF_INET6, ip, is_ip, split};

/// `RTM_NEWNEIGH`: a new or changed neighbour, or an entry of a dump.
pub const RTM_NEWNEIGH: u16 = 28;
/// `RTM_DELNEIGH`: a deleted neighbour.
pub const RTM_DELNEIGH: u16 = 29;
/// `RTM_GETNEIGH`
pub(crate) const RTM_GETNEIGH: u16 = 30;
/// `RTNLGRP_NEIGH`: the multicast group for neighbours.
pub const RTNLGRP_NEIGH: u32 = 3;
/// Size of `struct ndmsg` in bytes.
pub(crate) const NDMSG_BYTES: usize = 12;
/// `NDA_DST`
const NDA_DST: u16 = 1;
/// `NDA_LLADDR`
const NDA_LLADDR: u16 = 2;
/// `NUD_REACHABLE`, `NUD_STALE`, `NUD_DELAY`, `NUD_PROBE` and `NUD_PERMANENT`: states in which the
/// kernel sends to the stored address. `NUD_NOARP` is excluded; interfaces without neighbour
/// resolution use it.
/// `NUD_INCOMPLETE` and `NUD_FAILED`: requests were sent, and not answered.
const NUD_SILENT: u16 = 0x01 | 0x20;
const NUD_USABLE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

/// A neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the interface to the neighbour.
    pub interface: u32,
    /// IP address.
    pub address: IpAddr,
    /// Ethernet address, if it is known and in use.
    pub mac: Option<[u8; 6]>,
    /// Whether requests for the Ethernet address are not answered, yet or at all.
    pub is_silent: bool,
}

/// Decodes a neighbour message; `None` for other messages.
///
/// # Errors
/// [`DecodeError`] if it is truncated or its attributes are invalid.
pub fn decode(raw: &RawMessage<'_>) -> Result<Option<Neighbour>, DecodeError> {
    if !matches!(raw.kind, RTM_NEWNEIGH | RTM_DELNEIGH) {
        return Ok(None);
    }
    let (header, attributes) = split::<NDMSG_BYTES>(raw, "ndmsg")?;
    let family = header[0];
    // Forwarding tables of bridges and VXLAN tunnels use the same messages (`AF_BRIDGE`).
    if !is_ip(family) {
        return Ok(None);
    }
    let state = read_u16_host(header, 8).unwrap_or(0);
    let (mut address, mut mac) = (None, None);
    for attr in Attrs::new(attributes) {
        let attr = attr?;
        match attr.attribute {
            NDA_DST => address = Some(ip(family, &attr)?),
            // Addresses on tunnels are not Ethernet addresses.
            NDA_LLADDR => mac = attr.payload.try_into().ok(),
            _ => {}
        }
    }
    Ok(Some(Neighbour {
        interface: read_u32_host(header, 4).unwrap_or(0),
        address: address.ok_or(DecodeError::Missing("NDA_DST"))?,
        mac: mac.filter(|_| state & NUD_USABLE != 0),
        is_silent: state & NUD_SILENT != 0,
    }))
}

/// An entry of a forwarding table that leads to another host, as VXLAN tunnels have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Index of the tunnel's interface.
    pub interface: u32,
    /// Address of the other host.
    pub address: IpAddr,
}

/// Decodes an entry of a forwarding table; `None` for other messages, and for entries that lead to
/// a port of a bridge.
///
/// # Errors
/// [`DecodeError`] if it is truncated or its attributes are invalid.
pub fn decode_remote(raw: &RawMessage<'_>) -> Result<Option<Remote>, DecodeError> {
    if raw.kind != RTM_NEWNEIGH {
        return Ok(None);
    }
    let (header, attributes) = split::<NDMSG_BYTES>(raw, "ndmsg")?;
    if header[0] != AF_BRIDGE {
        return Ok(None);
    }
    for attr in Attrs::new(attributes) {
        let attr = attr?;
        if attr.attribute == NDA_DST {
            let family = match attr.payload.len() {
                4 => AF_INET,
                _ => AF_INET6,
            };
            return Ok(Some(Remote {
                interface: read_u32_host(header, 4).unwrap_or(0),
                address: ip(family, &attr)?,
            }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_endian = "little")]
    use crate::rtnetlink::tests::captured;
    use crate::rtnetlink::tests::raw;

    /// Output of Linux 6.18 after the command on each line.
    #[cfg(target_endian = "little")]
    #[test]
    fn neighbours_are_read() {
        for (command, hex, address, mac) in [
            (
                "ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev eth0 nud permanent",
                "02000000030000008000000108000100c00002070a00020002000000000700000800040000000000\
                 1400030009000000090000000900000000000000",
                "192.0.2.7",
                Some([2, 0, 0, 0, 0, 7]),
            ),
            (
                "ip neigh add 2001:db8::7 lladdr 02:00:00:00:00:08 dev eth0 nud stale",
                "0a00000003000000040000011400010020010db80000000000000000000000070a00020002000000\
                 00080000080004000000000014000300791700000900000009000000000000 00",
                "2001:db8::7",
                Some([2, 0, 0, 0, 0, 8]),
            ),
            (
                "ip neigh add 192.0.2.9 dev eth0 nud failed",
                "02000000030000002000000108000100c00002090800040000000000140003007817000000080000\
                 0800000000000000",
                "192.0.2.9",
                None,
            ),
        ] {
            let hex = hex.replace(' ', "");
            let found = decode(&raw(RTM_NEWNEIGH, &captured(&hex)))
                .unwrap()
                .unwrap();
            let want = Neighbour {
                interface: 3,
                address: address.parse().unwrap(),
                mac,
                is_silent: command.ends_with("failed"),
            };
            assert_eq!(found, want, "{command}");
        }
    }

    #[test]
    fn what_is_no_neighbour_is_not_read() {
        assert_eq!(decode(&raw(RTM_GETNEIGH, &[0; 12])), Ok(None));
        assert_eq!(decode(&raw(RTM_NEWNEIGH, &[7; 12])), Ok(None), "AF_BRIDGE");
        assert!(decode(&raw(RTM_NEWNEIGH, &[2; 3])).is_err(), "truncated");
        assert!(decode(&raw(RTM_NEWNEIGH, &[2; 12])).is_err(), "no address");
    }
}
