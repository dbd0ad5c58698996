//! Packets from the link that networks need: ICMP, IGMP, and replies to DHCP clients.

use std::net::{IpAddr, Ipv4Addr};

use super::icmp;
use crate::net::addr::Family;
use crate::net::packet::{Hook, Packet, Transport};
use crate::net::port::UDP;

/// Returns whether ICMP belongs to the safe core: errors, and discovery that provably comes from
/// the link.
pub(super) fn is_core(packet: &Packet, family: Family, kind: u8) -> bool {
    if icmp::errors(family).contains(&kind) {
        return true;
    }
    let IpAddr::V6(source) = packet.source else {
        return false;
    };
    let reports = icmp::LISTENER_REPORTS.contains(&kind) && source.is_unspecified();
    match packet.hop_limit {
        icmp::HOP_LIMIT_ON_LINK => icmp::NEIGHBOUR_DISCOVERY.contains(&kind),
        icmp::HOP_LIMIT_LISTENER => {
            reports || (icmp::LISTENER_DISCOVERY.contains(&kind) && source.is_unicast_link_local())
        }
        _ => false,
    }
}

/// Returns whether a packet is IGMP, always with a TTL of 1 (RFC 3376 section 4).
pub(super) fn is_igmp(packet: &Packet) -> bool {
    packet.hook == Hook::Input
        && packet.family() == Family::V4
        && packet.protocol() == 2
        && packet.hop_limit == 1
}

/// Returns whether a packet is a reply to a DHCP client.
///
/// DHCPv4 (RFC 2131 section 4.1): from port 67 to 68, broadcast or from an address that is not
/// public. DHCPv6 (RFC 8415 section 7.2): to port 546 of a link-local address, from any address and
/// port.
pub(super) fn is_dhcp_reply(packet: &Packet) -> bool {
    let Transport::Ports {
        protocol: UDP,
        source,
        destination,
    } = packet.transport
    else {
        return false;
    };
    packet.hook == Hook::Input
        && match (packet.source, packet.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                source == 67 && destination == 68 && (to.is_broadcast() || is_not_public(from))
            }
            (_, IpAddr::V6(to)) => destination == 546 && to.is_unicast_link_local(),
            (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
}

/// Returns whether an address is private, link-local, or shared between a provider and its
/// customers (RFC 6598).
fn is_not_public(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || address.is_link_local() || (a == 100 && (64..128).contains(&b))
}
