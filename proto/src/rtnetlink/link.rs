//! Interfaces: index, name, driver, and the settings of VXLAN tunnels.
//!
//! Layout: `struct ifinfomsg` in `include/uapi/linux/rtnetlink.h`, attributes in
//! `include/uapi/linux/if_link.h`. Numbers are in host byte order, ports and addresses in network
//! byte order.

use std::net::IpAddr;

use crate::netlink::attr::{self, AttrWriter, Attrs, DecodeError, TooLong, port, read_u32_host};
use crate::netlink::message::{NLM_F_REQUEST, RawMessage, envelope};
use crate::nf_tables::schema::attributes;
use crate::nf_tables::{Attributes as _, Nested};

/// `RTM_NEWLINK`: a new or changed interface, or an entry of a dump.
pub const RTM_NEWLINK: u16 = 16;
/// `RTM_DELLINK`: a deleted interface.
pub const RTM_DELLINK: u16 = 17;
/// `RTM_GETLINK`
pub(crate) const RTM_GETLINK: u16 = 18;
/// `RTNLGRP_LINK`: the multicast group for interfaces.
pub const RTNLGRP_LINK: u32 = 1;
/// `IFLA_IFNAME`
const IFLA_IFNAME: u16 = 3;
/// Size of `struct ifinfomsg` in bytes.
pub(crate) const IFINFOMSG_BYTES: usize = 16;

attributes! {
    /// `enum` of `IFLA_*`: an interface.
    Link {
        /// Interface name.
        name: String = 3,
        /// Maximum transmission unit in bytes, in host byte order.
        mtu: Vec<u8> = 4,
        /// Index of the bridge or bond that contains the interface, in host byte order.
        master: Vec<u8> = 10,
        /// Driver data.
        info: Nested<LinkInfo> = 18,
    }

    /// `enum` of `IFLA_INFO_*`
    LinkInfo {
        /// Name of the driver.
        kind: String = 1,
        /// Data in the driver's own format.
        data: Vec<u8> = 2,
    }

    /// `enum` of `IFLA_VXLAN_*`: the data of the driver `vxlan`.
    Vxlan {
        /// VXLAN network identifier, in host byte order.
        id: Vec<u8> = 1,
        /// Index of the interface that carries the tunnel, in host byte order.
        link: Vec<u8> = 3,
        /// IPv4 source address, in network byte order.
        local_v4: Vec<u8> = 4,
        /// UDP port, in network byte order.
        port: Vec<u8> = 15,
        /// IPv6 source address, in network byte order.
        local_v6: Vec<u8> = 17,
    }
}

impl Link {
    /// Returns the index of the bridge or bond that contains the interface.
    pub fn master_index(&self) -> Option<u32> {
        read_u32_host(self.master.as_ref()?, 0)
    }

    /// Returns the maximum transmission unit in bytes.
    pub fn mtu_bytes(&self) -> Option<u32> {
        read_u32_host(self.mtu.as_ref()?, 0)
    }

    /// Returns the name of the driver.
    pub fn kind(&self) -> Option<&str> {
        self.info.as_ref()?.0.kind.as_deref()
    }

    /// Decodes the settings of a VXLAN tunnel; `None` for other drivers.
    ///
    /// # Errors
    /// [`DecodeError`] if the settings are malformed.
    pub fn vxlan(&self) -> Result<Option<Vxlan>, DecodeError> {
        let info = self.info.as_ref().map(|info| &info.0);
        match info.and_then(|info| Some((info.kind.as_deref()?, info.data.as_ref()?))) {
            Some(("vxlan", data)) => Vxlan::decode(Attrs::new(data)).map(Some),
            _ => Ok(None),
        }
    }
}

impl Vxlan {
    /// Returns the VXLAN network identifier.
    pub fn vni(&self) -> Option<u32> {
        read_u32_host(self.id.as_ref()?, 0)
    }

    /// Returns the index of the interface that carries the tunnel; `None` if routing selects it.
    pub fn carrier(&self) -> Option<u32> {
        read_u32_host(self.link.as_ref()?, 0).filter(|index| *index != 0)
    }

    /// Returns the UDP port, which is both local and remote.
    pub fn udp_port(&self) -> Option<u16> {
        port(self.port.as_ref()?)
    }

    /// Returns the source address; `None` if routing selects it.
    pub fn local(&self) -> Option<IpAddr> {
        let v4 = self.local_v4.as_deref().and_then(attr::ipv4);
        let v6 = || self.local_v6.as_deref().and_then(attr::ipv6);
        let address = v4.or_else(v6)?;
        (!address.is_unspecified()).then_some(address)
    }
}

/// Builds a request for the interface with this name, as one datagram.
///
/// # Errors
/// [`TooLong`] for a name that no interface can have.
pub fn get(name: &str, seq: u32) -> Result<Vec<u8>, TooLong> {
    let mut w = AttrWriter::after(vec![0; IFINFOMSG_BYTES]);
    w.string(IFLA_IFNAME, name);
    let mut datagram = Vec::new();
    envelope(
        RTM_GETLINK,
        NLM_F_REQUEST,
        seq,
        0,
        w.finish()?,
        &mut datagram,
    );
    Ok(datagram)
}

/// Decodes an interface message; `None` for other messages.
///
/// # Errors
/// [`DecodeError`] if it is truncated or its attributes are invalid.
pub fn decode(raw: &RawMessage<'_>) -> Result<Option<Link>, DecodeError> {
    if !matches!(raw.kind, RTM_NEWLINK | RTM_DELLINK) {
        return Ok(None);
    }
    let attributes = raw
        .payload
        .get(IFINFOMSG_BYTES..)
        .ok_or(DecodeError::Truncated {
            what: "ifinfomsg",
            at: 0,
        })?;
    Link::decode(Attrs::new(attributes)).map(Some)
}

/// Returns the hardware type of a message (`ifi_type`, `ARPHRD_*` in
/// `include/uapi/linux/if_arp.h`); `None` if it is truncated.
pub fn hardware(raw: &RawMessage<'_>) -> Option<u16> {
    crate::netlink::attr::read_u16_host(raw.payload, 2)
}

/// Returns the interface index of a message (`ifi_index`); `None` if it is truncated.
pub fn index(raw: &RawMessage<'_>) -> Option<u32> {
    read_u32_host(raw.payload, 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::Datagram;

    /// Response of a kernel for `flannel.1`, without unused attributes.
    fn flannel() -> Vec<u8> {
        let mut data = AttrWriter::new();
        data.bytes(1, &crate::netlink::attr::u32_register(7));
        data.bytes(3, &crate::netlink::attr::u32_register(2));
        data.bytes(4, &[192, 0, 2, 1]);
        data.bytes(15, &[0x21, 0x18]);
        let mut info = AttrWriter::new();
        info.string(1, "vxlan");
        info.bytes(2, &data.finish().unwrap());
        let mut w = AttrWriter::after(vec![0; IFINFOMSG_BYTES]);
        w.string(3, "flannel.1");
        w.bytes(4, &crate::netlink::attr::u32_register(1450));
        w.bytes(10, &crate::netlink::attr::u32_register(6));
        w.bytes(18, &info.finish().unwrap());
        w.finish().unwrap()
    }

    fn read(kind: u16, payload: &[u8]) -> Result<Option<Link>, DecodeError> {
        decode(&RawMessage {
            kind,
            flags: 0,
            seq: 0,
            port: 0,
            payload,
        })
    }

    #[test]
    fn a_vxlan_tunnel_is_read() {
        let link = read(RTM_NEWLINK, &flannel()).unwrap().unwrap();
        assert_eq!(
            (link.name.as_deref(), link.kind()),
            (Some("flannel.1"), Some("vxlan"))
        );
        assert_eq!(link.master_index(), Some(6));
        assert_eq!(link.mtu_bytes(), Some(1450));
        let vxlan = link.vxlan().unwrap().unwrap();
        assert_eq!(vxlan.udp_port(), Some(8472));
        assert_eq!(vxlan.vni(), Some(7));
        assert_eq!(vxlan.carrier(), Some(2));
        assert_eq!(vxlan.local(), Some([192, 0, 2, 1].into()));
        assert_eq!(read(RTM_GETLINK, &flannel()), Ok(None));
        assert!(read(RTM_NEWLINK, &[0; 3]).is_err());
    }

    #[test]
    fn an_interface_is_asked_for_by_its_name() {
        let bytes = get("flannel.1", 5).unwrap();
        let raw = Datagram::new(&bytes).next().unwrap().unwrap();
        assert_eq!(
            (raw.kind, raw.flags, raw.seq),
            (RTM_GETLINK, NLM_F_REQUEST, 5)
        );
        assert_eq!(
            raw.payload[IFINFOMSG_BYTES..],
            *b"\x0e\0\x03\0flannel.1\0\0\0"
        );
        assert!(get(&"x".repeat(70_000), 1).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Ok(Some(link)) = read(RTM_NEWLINK, &bytes) {
                let _ = link.vxlan().map(|vxlan| vxlan.map(|v| (v.vni(), v.udp_port(), v.local())));
            }
        }
    }
}
