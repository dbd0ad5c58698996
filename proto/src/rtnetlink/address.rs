//! Interface addresses in rtnetlink dumps and events.
//!
//! Layout: `struct ifaddrmsg` in `include/uapi/linux/if_addr.h`.

use std::net::IpAddr;

use crate::netlink::attr::{Attrs, DecodeError, u32_from_register};
use crate::netlink::message::RawMessage;
use crate::rtnetlink::{ip, is_ip, split};

/// `RTM_NEWADDR`: a new or changed address, or an entry of a dump.
pub const RTM_NEWADDR: u16 = 20;
/// `RTM_DELADDR`: a deleted address.
pub const RTM_DELADDR: u16 = 21;
/// `RTM_GETADDR`
pub(crate) const RTM_GETADDR: u16 = 22;
/// `RTNLGRP_IPV4_IFADDR`: the multicast group for IPv4 addresses.
pub const RTNLGRP_IPV4_IFADDR: u32 = 5;
/// `RTNLGRP_IPV6_IFADDR`: the multicast group for IPv6 addresses.
pub const RTNLGRP_IPV6_IFADDR: u32 = 9;
/// Size of `struct ifaddrmsg` in bytes.
pub(crate) const IFADDRMSG_BYTES: usize = 8;
/// `IFA_ADDRESS`: the address; on a point-to-point interface, that of the remote end.
const IFA_ADDRESS: u16 = 1;
/// `IFA_LOCAL`: the address of the local end; for IPv6 present only if there is a remote end.
const IFA_LOCAL: u16 = 2;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Interface index.
    pub interface: u32,
    /// Address of this host.
    pub address: IpAddr,
    /// Prefix length, in bits.
    pub prefix_len: u8,
}

/// Decodes an address message; `None` for other messages.
///
/// # Errors
/// [`DecodeError`] if it is truncated or its attributes are invalid.
pub fn decode(raw: &RawMessage<'_>) -> Result<Option<InterfaceAddress>, DecodeError> {
    if !matches!(raw.kind, RTM_NEWADDR | RTM_DELADDR) {
        return Ok(None);
    }
    let (&[family, prefix_len, _flags, _scope, ref index @ ..], attributes) =
        split::<IFADDRMSG_BYTES>(raw, "ifaddrmsg")?;
    if !is_ip(family) {
        return Ok(None);
    }
    let (mut address, mut local) = (None, None);
    for attr in Attrs::new(attributes) {
        let attr = attr?;
        match attr.attribute {
            IFA_ADDRESS => address = Some(ip(family, &attr)?),
            IFA_LOCAL => local = Some(ip(family, &attr)?),
            _ => {}
        }
    }
    Ok(Some(InterfaceAddress {
        interface: u32_from_register(index).unwrap_or(0),
        address: local
            .or(address)
            .ok_or(DecodeError::Missing("IFA_ADDRESS"))?,
        prefix_len,
    }))
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
    fn addresses_of_interfaces_are_read() {
        for (command, hex, want) in [
            (
                "ip addr add 192.0.2.1/24 dev eth0",
                "021880000300000008000100c000020108000200c000020109000300657468300000000008000800\
                 8000000014000600ffffffffffffffff964f0100964f0100",
                (3, "192.0.2.1", 24),
            ),
            (
                "ip addr add 10.9.0.1 peer 10.9.0.2/32 dev eth0",
                "0220800003000000080001000a090002080002000a09000109000300657468300000000008000800\
                 8000000014000600ffffffffffffffff964f0100964f0100",
                (3, "10.9.0.1", 32),
            ),
            (
                "ip addr add 2001:db8::1/64 dev eth0 nodad",
                "0a408200030000001400010020010db800000000000000000000000114000600ffffffffffffffff\
                 964f0100964f01000800080082000000",
                (3, "2001:db8::1", 64),
            ),
        ] {
            let found = decode(&raw(RTM_NEWADDR, &captured(hex))).unwrap().unwrap();
            let want = InterfaceAddress {
                interface: want.0,
                address: want.1.parse().unwrap(),
                prefix_len: want.2,
            };
            assert_eq!(found, want, "{command}");
        }
    }

    #[test]
    fn what_is_no_address_is_not_read() {
        assert_eq!(decode(&raw(RTM_GETADDR, &[0; 8])), Ok(None));
        assert_eq!(decode(&raw(RTM_NEWADDR, &[0; 8])), Ok(None), "family 0");
        assert!(decode(&raw(RTM_NEWADDR, &[2; 3])).is_err(), "truncated");
        assert!(decode(&raw(RTM_NEWADDR, &[2; 8])).is_err(), "no address");
    }
}
