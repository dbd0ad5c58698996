//! A packet on its way, as rules see it: headers, interfaces, mark and connection.

use std::net::IpAddr;

use peerwall_proto::netlink::attr::{port, port_bytes, u32_register};

use super::bits::Bits;
use crate::net::addr::Family;
use crate::net::packet::{CtState, Dialled, Packet, Transport};
use crate::net::port::TCP;

/// Kinds of addresses, as routes tell (`RTN_*` in `include/uapi/linux/rtnetlink.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// An address with a route.
    Unicast = 1,
    /// An address of the host.
    Local = 2,
    /// A broadcast address.
    Broadcast = 3,
    /// An anycast address.
    Anycast = 4,
    /// A multicast address.
    Multicast = 5,
    /// An address that routes refuse.
    Blackhole = 6,
    /// An address without a route.
    Unreachable = 7,
}

/// What the kernel of the host knows besides its rules.
pub trait Host {
    /// Returns the kind of an address; `None` if it is not known.
    fn kind(&mut self, address: IpAddr) -> Option<RouteKind>;
    /// Returns the interfaces of the route to an address; none if that is not known.
    fn ways(&mut self, address: IpAddr) -> Vec<String>;
    /// Returns the number of an interface.
    fn index(&self, interface: &str) -> Option<u32>;
    /// Returns the type of an interface (`ARPHRD_*`): 1 for Ethernet.
    fn kind_of_interface(&self, interface: &str) -> Option<u16>;
    /// Returns the address to which `redirect` sends packets that arrive on an interface.
    fn redirect_address(&self, interface: &str, family: Family) -> Option<IpAddr>;
}

/// A connection of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tracked {
    pub state: CtState,
    /// Destination before DNAT.
    pub dialled: Option<Dialled>,
    /// Mark of the connection, in host byte order.
    pub mark: Bits,
    pub label: Bits,
}

/// A packet on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub(super) family: Family,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) interface: String,
    pub(super) out: Option<String>,
    pub(super) link: Bits,
    pub(super) network: Bits,
    pub(super) transport: Bits,
    pub(super) protocol: u8,
    /// Mark of the packet, in host byte order.
    pub(super) mark: Bits,
    pub(super) tracked: Tracked,
    has_ports: bool,
}

const LABEL_BYTES: usize = 16;
const V4_SOURCE: usize = 12;
const V6_SOURCE: usize = 8;

impl Frame {
    /// Builds the headers of a packet; what is not said of them is unknown.
    pub fn new(packet: &Packet) -> Self {
        let family = packet.family();
        let is_new = packet.state == CtState::New;
        let start = |len: usize| match is_new {
            true => Bits::known(vec![0; len]),
            false => Bits::unknown(len),
        };
        let mut frame = Self {
            family,
            source: packet.source,
            destination: packet.destination,
            interface: packet.interface.clone(),
            out: packet.out.clone(),
            link: link(packet),
            network: network(packet),
            transport: transport(packet),
            protocol: packet.protocol(),
            mark: Bits::known([0; 4]),
            tracked: Tracked {
                state: packet.state,
                dialled: packet.dialled,
                mark: start(4),
                label: start(LABEL_BYTES),
            },
            has_ports: matches!(packet.transport, Transport::Ports { .. }),
        };
        frame.put_addresses();
        frame
    }

    /// Sends the packet to another destination, as DNAT does.
    pub fn translate(&mut self, address: Option<IpAddr>, port: Option<u16>) {
        let before = Dialled {
            address: self.destination,
            port: self.destination_port().unwrap_or_default(),
        };
        if let Some(address) = address.filter(|address| Family::of(*address) == self.family) {
            self.destination = address;
            self.put_addresses();
        }
        if let Some(port) = port.filter(|_| self.has_ports) {
            self.transport.put(2, &Bits::known(port_bytes(port)));
        }
        // A translation to what it is anyway is none (`nf_nat_setup_info()`).
        let port = self.destination_port().unwrap_or_default();
        if (before.address, before.port) != (self.destination, port) {
            self.tracked.dialled.get_or_insert(before);
        }
    }

    /// Sets the outgoing interface.
    pub fn leave_by(&mut self, out: Option<String>) {
        self.out = out;
    }

    /// Current destination address.
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// Current destination port; `None` for protocols without ports.
    pub fn destination_port(&self) -> Option<u16> {
        let part = self.transport.part(2, 2);
        part.whole().filter(|_| self.has_ports).and_then(port)
    }

    /// Destination before DNAT.
    pub fn dialled(&self) -> Option<Dialled> {
        self.tracked.dialled
    }

    /// State of the connection.
    pub fn state(&self) -> CtState {
        self.tracked.state
    }

    /// Sets the state of the connection.
    pub fn set_state(&mut self, state: CtState) {
        self.tracked.state = state;
    }

    /// Exempts the packet from connection tracking.
    pub fn untrack(&mut self) {
        self.tracked.state = CtState::Untracked;
    }

    /// Outgoing interface, after the routing decision.
    pub fn out(&self) -> Option<&str> {
        self.out.as_deref()
    }

    /// Mark, and the bits of it that are known.
    pub fn mark_bits(&self) -> (u32, u32) {
        self.mark.number()
    }

    /// Sets the mark, and the bits of it that are known.
    pub fn set_mark_bits(&mut self, value: u32, known: u32) {
        let unknown = u32_register(!known);
        self.mark = Bits::unknown(4).masked(&unknown, &u32_register(value & known));
    }

    fn put_addresses(&mut self) {
        let at = match self.family {
            Family::V4 => V4_SOURCE,
            Family::V6 => V6_SOURCE,
        };
        let source = octets(self.source);
        let after = at + source.len();
        self.network.put(at, &Bits::known(source));
        self.network
            .put(after, &Bits::known(octets(self.destination)));
    }
}

/// Returns an address in network byte order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Returns the EtherType of a family.
pub(super) fn ether_type(family: Family) -> [u8; 2] {
    match family {
        Family::V4 => [0x08, 0x00],
        Family::V6 => [0x86, 0xdd],
    }
}

/// Ethernet header: destination, source, type.
fn link(packet: &Packet) -> Bits {
    let mut header = Bits::unknown(14);
    if let Some(mac) = packet.mac {
        header.put(6, &Bits::known(mac));
    }
    header.put(12, &Bits::known(ether_type(packet.family())));
    header
}

/// IP header without options (RFC 791) or extension headers (RFC 8200), of a packet that is not a
/// fragment. Addresses are added later.
fn network(packet: &Packet) -> Bits {
    match packet.family() {
        Family::V4 => {
            let mut header = Bits::unknown(20);
            header.put(0, &Bits::known([0x45]));
            // The flag DF is unknown.
            header.put(6, &Bits::unknown(2).masked(&[0x40, 0], &[0, 0]));
            header.put(8, &Bits::known([packet.hop_limit, packet.protocol()]));
            header
        }
        Family::V6 => {
            let mut header = Bits::unknown(40);
            header.put(0, &Bits::unknown(1).masked(&[0x0f], &[0x60]));
            header.put(6, &Bits::known([packet.protocol(), packet.hop_limit]));
            header
        }
    }
}

/// Longest header that rules look into, in bytes.
const TRANSPORT_BYTES: usize = 64;
/// Flags of the first packet of a TCP connection, and of later ones.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn transport(packet: &Packet) -> Bits {
    let mut header = Bits::unknown(TRANSPORT_BYTES);
    match packet.transport {
        Transport::Ports {
            protocol,
            source,
            destination,
        } => {
            header.put(0, &Bits::known(port_bytes(source)));
            header.put(2, &Bits::known(port_bytes(destination)));
            if protocol == TCP {
                // A first packet has no other flag, except with ECN; later ones may have PSH.
                let flags = match packet.syn {
                    true => Bits::known([SYN]),
                    false => Bits::unknown(1).masked(&[0x08], &[ACK]),
                };
                header.put(13, &flags);
            }
        }
        Transport::Icmp { kind, code } => header.put(0, &Bits::known([kind, code])),
        Transport::Other(_) => {}
    }
    header
}
