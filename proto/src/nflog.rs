//! Logged packets (nfnetlink_log).
//!
//! Layout: `enum nfulnl_attr_type` and `enum nfulnl_attr_config` in
//! `include/uapi/linux/netfilter/nfnetlink_log.h`; written by `__build_packet_message()` and read
//! by `nfulnl_recv_config()` in `net/netfilter/nfnetlink_log.c`. Numbers are in network byte order.

use std::net::SocketAddr;

use crate::conntrack::{Connection, IPS_DST_NAT};
use crate::netlink::attr::{AttrWriter, Attrs, TooLong, u16_from_network, u64_from_network};
use crate::netlink::message::{Message, NLM_F_ACK};
use crate::nf_tables::Attributes as _;
use crate::nf_tables::schema::attributes;

/// `NFNL_SUBSYS_ULOG`
const NFNL_SUBSYS_ULOG: u16 = 4;
/// `NFULNL_MSG_PACKET`
const NFULNL_MSG_PACKET: u16 = 0;
/// `NFULNL_MSG_CONFIG`
const NFULNL_MSG_CONFIG: u16 = 1;

/// `NFULNL_CFG_CMD_BIND`: a socket becomes the only reader of a group.
const NFULNL_CFG_CMD_BIND: u8 = 1;
/// `NFULNL_CFG_CMD_UNBIND`
const NFULNL_CFG_CMD_UNBIND: u8 = 2;
/// `NFULNL_COPY_PACKET`: packets are sent with their first bytes.
const NFULNL_COPY_PACKET: u8 = 2;
/// `NFULNL_CFG_F_SEQ`: packets of a group are numbered.
const NFULNL_CFG_F_SEQ: u16 = 1;
/// `NFULNL_CFG_F_CONNTRACK`: packets are sent with their conntrack entry.
const NFULNL_CFG_F_CONNTRACK: u16 = 4;

/// Message type of a logged packet.
pub const PACKET: u16 = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET;

attributes! {
    /// `enum nfulnl_attr_config`
    Config {
        /// `struct nfulnl_msg_config_cmd`
        command: u8 = 1,
        /// `struct nfulnl_msg_config_mode`
        mode: Vec<u8> = 2,
        /// Size of the kernel's buffer, in bytes.
        buffer_bytes: u32 = 3,
        /// Longest time that the kernel keeps a packet, in hundredths of a second.
        timeout_hundredths: u32 = 4,
        /// Number of packets after which the kernel sends them.
        threshold: u32 = 5,
        /// `NFULNL_CFG_F_*`
        flags: u16 = 6,
    }

    /// `enum nfulnl_attr_type`: a logged packet.
    Logged {
        /// `struct nfulnl_msg_packet_hdr`
        header: Vec<u8> = 1,
        /// Mark.
        mark: u32 = 2,
        /// `struct nfulnl_msg_packet_timestamp`
        timestamp: Vec<u8> = 3,
        /// Index of the incoming interface.
        indev: u32 = 4,
        /// Index of the outgoing interface.
        outdev: u32 = 5,
        /// Index of the port of a bridge on which the packet arrived.
        physindev: u32 = 6,
        /// Index of the port of a bridge through which the packet leaves.
        physoutdev: u32 = 7,
        /// `struct nfulnl_msg_packet_hw`: Ethernet address of the sender.
        hardware: Vec<u8> = 8,
        /// First bytes of the packet, from the IP header.
        payload: Vec<u8> = 9,
        /// Prefix of the rule that logged it.
        prefix: Vec<u8> = 10,
        /// Number of the packet in its group.
        sequence: u32 = 12,
        /// `enum ctattr_type`: the packet's conntrack entry.
        conntrack: Vec<u8> = 18,
    }
}

/// How much of a group's packets the kernel sends, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Number of bytes of each packet.
    pub copy_bytes: u32,
    /// Size of the kernel's buffer for packets, in bytes.
    pub buffer_bytes: u32,
    /// Number of packets after which the kernel sends them.
    pub threshold: u32,
    /// Longest time that the kernel keeps a packet, in hundredths of a second.
    pub timeout_hundredths: u32,
}

/// Builds a request to become the reader of a group. The kernel answers EBUSY or EPERM if the group
/// has a reader.
///
/// # Errors
/// [`TooLong`]; never, because the request is short.
pub fn bind(group: u16) -> Result<Message, TooLong> {
    command(group, NFULNL_CFG_CMD_BIND)
}

/// Builds a request to give a group up.
///
/// # Errors
/// [`TooLong`]; never, because the request is short.
pub fn unbind(group: u16) -> Result<Message, TooLong> {
    command(group, NFULNL_CFG_CMD_UNBIND)
}

/// Builds a request that sets how packets of a group are sent, with numbers.
///
/// # Errors
/// [`TooLong`]; never, because the request is short.
pub fn configure(group: u16, settings: Settings) -> Result<Message, TooLong> {
    let mut mode = AttrWriter::new();
    // `struct nfulnl_msg_config_mode` begins like the payload of an attribute of 32 bits.
    mode.u32(0, settings.copy_bytes);
    let mode = mode.finish()?.split_off(ATTRIBUTE_HEADER_BYTES);
    request(
        group,
        &Config {
            mode: Some([&mode[..], &[NFULNL_COPY_PACKET, 0]].concat()),
            buffer_bytes: Some(settings.buffer_bytes),
            timeout_hundredths: Some(settings.timeout_hundredths),
            threshold: Some(settings.threshold),
            flags: Some(NFULNL_CFG_F_SEQ),
            ..Config::default()
        },
    )
}

/// Builds a request that adds conntrack entries to numbered packets. The kernel refuses it without
/// `nf_conntrack_netlink`.
///
/// # Errors
/// [`TooLong`]; never, because the request is short.
pub fn with_conntrack(group: u16) -> Result<Message, TooLong> {
    request(
        group,
        &Config {
            flags: Some(NFULNL_CFG_F_SEQ | NFULNL_CFG_F_CONNTRACK),
            ..Config::default()
        },
    )
}

/// Size of `struct nlattr` in bytes.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

fn command(group: u16, command: u8) -> Result<Message, TooLong> {
    request(
        group,
        &Config {
            command: Some(command),
            ..Config::default()
        },
    )
}

fn request(group: u16, config: &Config) -> Result<Message, TooLong> {
    /// `AF_UNSPEC`: both families.
    const AF_UNSPEC: u8 = 0;
    let mut w = AttrWriter::new();
    config.encode(&mut w);
    let kind = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
    Ok(Message {
        res_id: group,
        attrs: w.finish()?,
        ..Message::request(kind, NLM_F_ACK, AF_UNSPEC)
    })
}

impl Logged {
    /// Returns the protocol of the packet (`ETH_P_*`) and the number of the hook.
    pub fn protocol_and_hook(&self) -> Option<(u16, u8)> {
        let header = self.header.as_deref()?;
        let protocol = u16_from_network(header.get(..2)?)?;
        Some((protocol, *header.get(2)?))
    }

    /// Returns the time of arrival in seconds since the Unix epoch.
    pub fn seconds(&self) -> Option<u64> {
        u64_from_network(self.timestamp.as_deref()?.get(..8)?)
    }

    /// Returns the Ethernet address of the sender.
    pub fn mac(&self) -> Option<[u8; 6]> {
        let bytes = self.hardware.as_deref()?;
        let len = u16_from_network(bytes.get(..2)?)?;
        let address = bytes.get(4..10).filter(|_| len == 6)?;
        address.try_into().ok()
    }

    /// Returns the prefix as text, without the terminating NUL.
    pub fn prefix(&self) -> Option<&str> {
        let bytes = self.prefix.as_deref()?;
        let end = bytes.iter().position(|byte| *byte == 0);
        std::str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).ok()
    }

    /// Returns the destination before DNAT; `None` without DNAT, or if the conntrack entry is
    /// missing.
    pub fn dialled(&self) -> Option<SocketAddr> {
        let attrs = Attrs::new(self.conntrack.as_deref()?);
        let entry = Connection::decode(attrs).ok()?;
        if entry.status.unwrap_or(0) & IPS_DST_NAT == 0 {
            return None;
        }
        let original = &entry.original.as_ref()?.0;
        let (_, to) = original.pair()?;
        let port = original.protocol.as_ref()?.0.destination_port?;
        Some(SocketAddr::new(to, port))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conntrack::Tuple;
    use crate::netlink::message::Datagram;
    use crate::nf_tables::Nested;

    const SETTINGS: Settings = Settings {
        copy_bytes: 128,
        buffer_bytes: 0x8000,
        threshold: 64,
        timeout_hundredths: 10,
    };

    #[test]
    fn requests_have_the_bytes_of_the_kernel_header() {
        let group = 0x0105;
        for (name, message, attrs) in [
            ("bind", bind(group), vec![5, 0, 1, 0, 1, 0, 0, 0]),
            ("unbind", unbind(group), vec![5, 0, 1, 0, 2, 0, 0, 0]),
            (
                "configure",
                configure(group, SETTINGS),
                [
                    // The mode has six bytes, padded to eight.
                    &[10, 0, 2, 0, 0, 0, 0, 128, 2, 0, 0, 0][..],
                    &[8, 0, 3, 0, 0, 0, 0x80, 0],
                    &[8, 0, 4, 0, 0, 0, 0, 10],
                    &[8, 0, 5, 0, 0, 0, 0, 64],
                    &[6, 0, 6, 0, 0, 1, 0, 0],
                ]
                .concat(),
            ),
            (
                "with conntrack",
                with_conntrack(group),
                vec![6, 0, 6, 0, 0, 5, 0, 0],
            ),
        ] {
            let message = message.unwrap();
            assert_eq!(message.attrs, attrs, "{name}");
            assert_eq!(
                (message.kind, message.flags, message.res_id),
                (0x0401, 5, group),
                "{name}"
            );
        }
    }

    fn logged() -> Logged {
        let to = "192.0.2.1:8080".parse().unwrap();
        let from = "198.51.100.7:4000".parse().unwrap();
        let mut conntrack = AttrWriter::new();
        let entry = Connection {
            original: Some(Nested(Tuple::between(6, from, to))),
            status: Some(IPS_DST_NAT),
            ..Connection::default()
        };
        entry.encode(&mut conntrack);
        Logged {
            header: Some(vec![0x08, 0, 2, 0]),
            timestamp: Some(vec![0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9]),
            indev: Some(3),
            hardware: Some(vec![0, 6, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0]),
            payload: Some(vec![0x45]),
            prefix: Some(b"peerwall input-default: \0".to_vec()),
            sequence: Some(7),
            conntrack: Some(conntrack.finish().unwrap()),
            ..Logged::default()
        }
    }

    #[test]
    fn a_packet_has_the_values_of_its_attributes() {
        let packet = logged();
        assert_eq!(packet.protocol_and_hook(), Some((0x0800, 2)));
        assert_eq!(packet.seconds(), Some(258));
        assert_eq!(packet.mac(), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(packet.prefix(), Some("peerwall input-default: "));
        assert_eq!(packet.dialled(), "192.0.2.1:8080".parse().ok());
    }

    proptest! {
        /// Every part may be cut short, or contain anything.
        #[test]
        fn no_packet_is_a_panic(
            field in 0usize..6,
            cut in 0usize..40,
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut packet = logged();
            let fields = [
                &mut packet.header,
                &mut packet.timestamp,
                &mut packet.hardware,
                &mut packet.payload,
                &mut packet.prefix,
                &mut packet.conntrack,
            ];
            let part = fields.into_iter().nth(field).unwrap();
            let kept = part.iter().flatten().copied().take(cut);
            *part = Some(kept.chain(bytes).collect());
            let _ = (packet.protocol_and_hook(), packet.seconds(), packet.mac());
            let _ = (packet.prefix(), packet.dialled());
            let mut w = AttrWriter::new();
            packet.encode(&mut w);
            let back = Logged::decode(Attrs::new(&w.finish().unwrap()));
            prop_assert_eq!(back, Ok(packet));
        }

        #[test]
        fn any_datagram_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            for raw in Datagram::new(&bytes).flatten() {
                if let Ok(message) = raw.nfnetlink()
                    && let Ok(packet) = Logged::decode(message.attributes())
                {
                    let _ = (packet.protocol_and_hook(), packet.dialled(), packet.prefix());
                }
            }
        }
    }
}
