//! Builds the Ethernet frame of a packet.

use std::net::IpAddr;

use etherparse::{
    Ethernet2Header, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder,
    PacketBuilderStep,
};
use peerwall_proto::netlink::attr::{u16_network, u32_network};

use crate::net::packet::{CtState, Hook, Packet, Transport};
use crate::net::port::{TCP, UDP};
use crate::net::protocol::SCTP;
use crate::nft::judge;

/// Ethernet address of the interfaces that packets arrive on.
pub const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// Ethernet address of a sender, if the packet does not say it.
pub const SENDER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
/// Payload where any will do. Neighbour discovery and ICMP errors need some.
const PAYLOAD_BYTES: usize = 48;
/// Payload of a datagram that is quoted in an ICMP error.
const QUOTED: &[u8] = b"peerwall";

/// Builds the frame of a packet as it is before DNAT.
///
/// # Errors
/// A packet that cannot be built, as a noun phrase.
pub(super) fn bytes(packet: &Packet) -> Result<Vec<u8>, String> {
    let ip = start(packet)?;
    let mut out = Vec::new();
    let written = match packet.transport {
        Transport::Ports {
            protocol: TCP,
            source,
            destination,
        } => {
            let tcp = ip.tcp(source, destination, 1, 1024);
            let tcp = match (packet.state, packet.syn) {
                // No state of TCP expects both, so connection tracking calls it invalid.
                (CtState::Invalid, _) => tcp.syn().rst(),
                (CtState::New | CtState::Untracked, true) => tcp.syn(),
                (CtState::New | CtState::Untracked, false)
                | (CtState::Established | CtState::Related, _) => tcp.ack(1),
            };
            tcp.write(&mut out, &[])
        }
        Transport::Ports {
            protocol: UDP,
            source,
            destination,
        } => ip.udp(source, destination).write(&mut out, QUOTED),
        Transport::Ports {
            protocol: SCTP,
            source,
            destination,
        } => {
            let body = sctp_init(source, destination);
            ip.write(&mut out, IpNumber(SCTP), &body)
        }
        Transport::Ports { protocol, .. } => {
            let name = crate::net::port::protocol_name(protocol);
            return Err(format!(
                "a packet of {name}, which this command cannot build"
            ));
        }
        Transport::Icmp { kind, code } => {
            let payload = [0; PAYLOAD_BYTES];
            let rest = [0, 7, 0, 1];
            match packet.source {
                IpAddr::V4(_) => ip.icmpv4_raw(kind, code, rest).write(&mut out, &payload),
                IpAddr::V6(_) => ip.icmpv6_raw(kind, code, rest).write(&mut out, &payload),
            }
        }
        Transport::Other(protocol) => ip.write(&mut out, IpNumber(protocol), &[0; PAYLOAD_BYTES]),
    };
    written.map_err(|err| format!("a packet that cannot be built: {err}"))?;
    Ok(out)
}

/// Builds an ICMP error or redirect about a UDP datagram from the packet's destination to `beyond`.
///
/// # Errors
/// A packet that cannot be built, as a noun phrase.
pub(super) fn about(
    packet: &Packet,
    (beyond, source_port, port): (IpAddr, u16, u16),
) -> Result<Vec<u8>, String> {
    let Transport::Icmp { kind, code } = packet.transport else {
        return Err("a related packet that is not an ICMP error".to_owned());
    };
    let datagram = Packet {
        source: packet.destination,
        destination: beyond,
        mac: None,
        hop_limit: 60,
        transport: Transport::Ports {
            protocol: UDP,
            source: source_port,
            destination: port,
        },
        ..packet.clone()
    };
    let quoted = bytes(&datagram)?.split_off(Ethernet2Header::LEN);
    let mut out = Vec::new();
    let ip = start(packet)?;
    // The size of the next link, where the type says one.
    let rest = [0, 0, 0x05, 0xdc];
    let is_redirect = kind == crate::policy::icmp::redirect(packet.family());
    let written = match (packet.source, is_redirect) {
        (IpAddr::V4(_), _) => ip.icmpv4_raw(kind, code, rest).write(&mut out, &quoted),
        (IpAddr::V6(_), false) => ip.icmpv6_raw(kind, code, rest).write(&mut out, &quoted),
        (IpAddr::V6(_), true) => {
            let body = redirected(&quoted);
            ip.icmpv6_raw(kind, code, rest).write(&mut out, &body)
        }
    };
    written.map_err(|err| format!("a packet that cannot be built: {err}"))?;
    Ok(out)
}

/// Returns what follows the first eight bytes of an IPv6 redirect: target, destination, and the
/// option that quotes the packet (RFC 4861 sections 4.5 and 4.6.3).
fn redirected(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    let eights = quoted.len().div_ceil(8) + 1;
    bytes.extend([4, u8::try_from(eights).unwrap_or(u8::MAX), 0, 0, 0, 0, 0, 0]);
    bytes.extend(quoted);
    bytes.resize(32 + eights * 8, 0);
    bytes
}

fn start(packet: &Packet) -> Result<PacketBuilderStep<IpHeaders>, String> {
    let source_mac = packet.mac.unwrap_or(SENDER_MAC);
    let ethernet = PacketBuilder::ethernet2(source_mac, destination_mac(packet));
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let addresses = (source.octets(), destination.octets());
            let header =
                Ipv4Header::new(0, packet.hop_limit, IpNumber(0), addresses.0, addresses.1);
            let header = header.map_err(|err| err.to_string())?;
            Ok(ethernet.ip(IpHeaders::Ipv4(header, Default::default())))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: IpNumber(0),
                hop_limit: packet.hop_limit,
                source: source.octets(),
                destination: destination.octets(),
            };
            Ok(ethernet.ip(IpHeaders::Ipv6(header, Default::default())))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            Err("a packet whose addresses have different families".to_owned())
        }
    }
}

/// Returns the Ethernet destination: that of a group (RFC 1112 section 6.4, RFC 2464 section 7), or
/// the interface's own.
fn destination_mac(packet: &Packet) -> [u8; 6] {
    match packet.destination {
        _ if packet.interface == "lo" => [0; 6],
        IpAddr::V6(address) if address.is_multicast() => {
            let octets = address.octets();
            [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
        }
        IpAddr::V4(address) if address.is_broadcast() => [0xff; 6],
        IpAddr::V4(address) if address.is_multicast() => {
            let [_, b, c, d] = address.octets();
            [0x01, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V4(_) | IpAddr::V6(_) => HOST_MAC,
    }
}

/// Builds an SCTP INIT (RFC 9260 section 3.3.2).
fn sctp_init(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u16_network(source));
    bytes.extend(u16_network(destination));
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20]);
    bytes.extend([0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1]);
    // RFC 9260 appendix A: the checksum is sent with its least significant byte first.
    let mut checksum = u32_network(crc32c(&bytes));
    checksum.reverse();
    bytes[8..12].copy_from_slice(&checksum);
    bytes
}

/// CRC32c, bit by bit (RFC 9260 appendix A, reflected polynomial).
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ POLYNOMIAL,
            _ => crc >> 1,
        })
    })
}

/// Builds the frame by which the end of a test is recognized: it arrives after the packet, because
/// the kernel keeps the order of frames of one interface.
pub fn fence(interface: &str) -> Vec<u8> {
    let mut packet = Packet::new(
        Hook::Input,
        interface,
        judge::FENCE_FROM.into(),
        judge::FENCE_TO.into(),
        Transport::Other(judge::FENCE_PROTOCOL),
    );
    packet.state = CtState::Untracked;
    bytes(&packet).expect("a constant packet of one family")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_sctp_is_that_of_the_specification() {
        // RFC 3720 appendix B.4: 32 bytes of zeros, and 32 bytes of ones.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(sctp_init(1, 2).len(), 32);
    }

    #[test]
    fn a_frame_is_for_the_group_of_its_destination() {
        for (to, interface, mac) in [
            ("192.0.2.1", "eth0", HOST_MAC),
            ("192.0.2.1", "lo", [0; 6]),
            ("255.255.255.255", "eth0", [0xff; 6]),
            ("224.129.2.3", "eth0", [1, 0, 0x5e, 1, 2, 3]),
            ("ff02::1:ff00:9", "eth0", [0x33, 0x33, 0xff, 0, 0, 9]),
        ] {
            let to: IpAddr = to.parse().unwrap();
            let from = if to.is_ipv4() {
                "198.51.100.1"
            } else {
                "2001:db8::1"
            };
            let transport = Transport::Other(47);
            let from = from.parse().unwrap();
            let packet = Packet::new(Hook::Input, interface, from, to, transport);
            let frame = bytes(&packet).unwrap();
            assert_eq!(frame[..6], mac, "{to}");
            assert_eq!(frame[6..12], SENDER_MAC, "{to}");
        }
    }

    #[test]
    fn what_cannot_be_built_is_said() {
        let new = |from: &str, to: &str, transport| {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            bytes(&Packet::new(Hook::Input, "eth0", from, to, transport))
        };
        let dccp = Transport::Ports {
            protocol: crate::net::protocol::DCCP,
            source: 1,
            destination: 2,
        };
        assert!(
            new("192.0.2.1", "192.0.2.2", dccp)
                .unwrap_err()
                .contains("dccp")
        );
        let mixed = new("192.0.2.1", "2001:db8::1", Transport::Other(47));
        assert!(mixed.unwrap_err().contains("families"));
    }
}
