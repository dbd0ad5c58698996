//! What a host needs for a packet to reach peerwall's rules as it is described: addresses, routes,
//! a connection, DNAT, and the frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::frame;
use crate::net::addr::Family;
use crate::net::packet::{CtState, Dialled, Hook, Packet, Transport};
use crate::net::port::{self, ICMP, ICMPV6, TCP, UDP};
use crate::policy::icmp;
use crate::ruleset::Ruleset;

/// Names for the interface by which packets leave, if the test does not name one. A policy is
/// unlikely to have a pattern for all of them.
const SINKS: [&str; 4] = ["sink0", "zz-out0", "q7-out0", "x_out0"];
/// Address beyond the sender of an ICMP error: the error is about a datagram to it.
const BEYOND_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);
const BEYOND_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 0x99);
/// Ports of that datagram.
const BEYOND_PORTS: (u16, u16) = (50_000, 4242);
/// Destinations of a published port, where the test does not name one (RFC 5737, RFC 3849).
const PUBLISHED_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(203, 0, 113, 77),
    Ipv4Addr::new(198, 51, 100, 177),
];
const PUBLISHED_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 0x77),
    Ipv6Addr::new(0x2001, 0xdb8, 0xfffd, 0, 0, 0, 0, 0x77),
];

/// A connection that connection tracking knows already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Protocol number: TCP or UDP.
    pub protocol: u8,
    /// Socket that opened the connection.
    pub from: SocketAddr,
    /// The other socket.
    pub to: SocketAddr,
}

/// A DNAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Protocol number: TCP or UDP.
    pub protocol: u8,
    /// Original destination.
    pub dialled: Dialled,
    /// New destination.
    pub to: SocketAddr,
}

/// What the host needs for one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Interface on which the packet arrives.
    pub interface: String,
    /// Addresses that must be the host's own.
    pub own: Vec<IpAddr>,
    /// Addresses with the interfaces of the routes to them.
    pub routes: Vec<(IpAddr, String)>,
    /// DNAT of the packet.
    pub translation: Option<Translation>,
    /// Whether connection tracking must skip the packet.
    pub is_untracked: bool,
    /// Connection that must be known.
    pub connection: Option<Connection>,
    /// The Ethernet frame.
    pub frame: Vec<u8>,
}

/// Completes a packet so that a kernel can receive it, without changing its verdict: the interface
/// by which it leaves, and the destination of a published port.
///
/// # Errors
/// Why no kernel can receive it as it is described, as a sentence that starts with `it`.
pub fn real(packet: &Packet, ruleset: &Ruleset) -> Result<Packet, String> {
    let wanted = ruleset.eval(packet);
    let is_same = |other: &Packet| {
        let walk = ruleset.eval(other);
        (walk.verdict, walk.counter) == (wanted.verdict, wanted.counter.clone())
    };
    let mut found = packet.clone();
    if packet.hook == Hook::Forward && packet.out.is_none() {
        let mut leaving = SINKS.into_iter().map(|sink| Packet {
            out: Some(sink.to_owned()),
            ..packet.clone()
        });
        found = leaving
            .find(is_same)
            .ok_or("it leaves by an interface that the policy does not name, but it names all")?;
    }
    if let Some(dialled) = packet.dialled
        && packet.hook == Hook::Forward
        && dialled.address == packet.destination
    {
        let candidates: [IpAddr; 2] = match packet.family() {
            Family::V4 => PUBLISHED_V4.map(IpAddr::V4),
            Family::V6 => PUBLISHED_V6.map(IpAddr::V6),
        };
        let mut others = candidates.into_iter().map(|destination| Packet {
            destination,
            ..found.clone()
        });
        found = others
            .find(is_same)
            .ok_or("its destination behind this host is not known, and decides")?;
    }
    let way_back = match packet.source {
        // There is no way back to nobody.
        source if source.is_unspecified() => false,
        // The way back to a link-local address is its link.
        IpAddr::V6(source) if source.is_unicast_link_local() => true,
        IpAddr::V4(_) | IpAddr::V6(_) => found.reverse_path,
    };
    if way_back != found.reverse_path {
        found.reverse_path = way_back;
        if !is_same(&found) {
            return Err("its source cannot have the way back that is assumed".to_owned());
        }
    }
    possible(&found)?;
    Ok(found)
}

/// Reports whether a kernel drops packets like this one before any filter, whatever the rules:
/// `ip_route_input_slow()`, `ip6_rcv_core()`, `ip_forward()`.
pub fn is_martian(packet: &Packet) -> bool {
    let at = packet.before_dnat().destination;
    let source = match packet.source {
        IpAddr::V4(source) => {
            let [first, ..] = source.octets();
            first == 0 || first == 127 || first >= 224
        }
        IpAddr::V6(source) => {
            source.is_loopback() || source.is_multicast() || source.is_unspecified()
        }
    };
    let destination = match at {
        IpAddr::V4(at) => {
            let [first, ..] = at.octets();
            first == 0 || first == 127 || (at.is_multicast() || first >= 240)
        }
        IpAddr::V6(at) => at.is_loopback() || at.is_multicast() || at.is_unicast_link_local(),
    };
    packet.interface != "lo" && (source || destination)
}

/// Checks that packets like this one exist.
fn possible(packet: &Packet) -> Result<(), String> {
    let is_forwarded = packet.hook == Hook::Forward;
    let no = |why: &str| Err(why.to_owned());
    if packet.source.is_ipv4() != packet.destination.is_ipv4() {
        return no("its addresses have different families");
    }
    if packet.interface == "lo" {
        let is_plain = packet.state == CtState::New && packet.dialled.is_none();
        if is_forwarded || !is_plain || packet.mac.is_some() {
            return no("it arrives on lo, which has only new packets to this host");
        }
    }
    let at = packet.before_dnat().destination;
    if packet.interface != "lo" && [packet.destination, at].contains(&packet.source) {
        return no("its source is its destination");
    }
    let is_link = |address| matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
    if is_forwarded && (is_link(packet.destination) || is_link(packet.source)) {
        return no("it has a link-local address, and is not forwarded");
    }
    // `ip_forward()` and `ip6_forward()` count a hop before they call the hook.
    if is_forwarded && [0, u8::MAX].contains(&packet.hop_limit) {
        return no("it is forwarded, and has a hop limit that such a packet cannot have there");
    }
    if packet.dialled.is_none() && packet.to_host != (packet.hook == Hook::Input) {
        return no("it is said to be for this host in the wrong hook");
    }
    if is_forwarded && packet.out.as_deref() == Some("lo") {
        return no("it leaves by lo, which leads to this host");
    }
    possible_transport(packet)?;
    possible_translation(packet)
}

fn possible_transport(packet: &Packet) -> Result<(), String> {
    let family = packet.family();
    match packet.transport {
        Transport::Ports { protocol, .. } => {
            let is_known = [TCP, UDP].contains(&protocol);
            let is_possible = match packet.state {
                CtState::New | CtState::Untracked => true,
                CtState::Established => is_known,
                CtState::Invalid => protocol == TCP,
                CtState::Related => false,
            };
            is_possible.then_some(()).ok_or_else(|| {
                format!(
                    "it would need a connection of {} in the state {}, which this command cannot \
                     create",
                    port::protocol_name(protocol),
                    state_name(packet.state)
                )
            })
        }
        Transport::Icmp { kind, code } => {
            let is_error = match packet.source {
                IpAddr::V4(_) => [3, 5, 11, 12].contains(&kind),
                // `nf_conntrack_icmpv6_redirect()`
                IpAddr::V6(source) if kind == icmp::redirect(family) => {
                    packet.hop_limit == icmp::HOP_LIMIT_ON_LINK
                        && source.is_unicast_link_local()
                        && code == 0
                }
                IpAddr::V6(_) => (1..=4).contains(&kind),
            };
            let is_about = packet.state == CtState::Related && is_error;
            let state = icmp_state(family, kind);
            if is_about || state == packet.state {
                return Ok(());
            }
            Err(format!(
                "connection tracking gives such a message the state {}, not {}",
                state_name(state),
                state_name(packet.state)
            ))
        }
        Transport::Other(ICMP | ICMPV6) => Err("it has no type of ICMP".to_owned()),
        // `ipv6_find_hdr()` skips these headers.
        Transport::Other(0 | 43 | 44 | 51 | 59 | 60 | 135) if family == Family::V6 => {
            Err("its protocol is an extension header of IPv6".to_owned())
        }
        Transport::Other(protocol) if packet.state != CtState::New => Err(format!(
            "it would need a connection of protocol {protocol}, which this command cannot create"
        )),
        Transport::Other(_) => Ok(()),
    }
}

fn possible_translation(packet: &Packet) -> Result<(), String> {
    let Some(dialled) = packet.dialled else {
        return Ok(());
    };
    let Transport::Ports {
        protocol: TCP | UDP,
        destination,
        ..
    } = packet.transport
    else {
        return Err("only ports of TCP and UDP are translated here".to_owned());
    };
    if packet.state != CtState::New {
        return Err("only the first packet of a connection is translated here".to_owned());
    }
    if dialled.address.is_ipv4() != packet.destination.is_ipv4() {
        return Err("its destinations before and after DNAT have different families".to_owned());
    }
    if (dialled.address, dialled.port) == (packet.destination, destination) {
        return Err("its destinations before and after DNAT are the same".to_owned());
    }
    let is_input = packet.hook == Hook::Input;
    if dialled.address == packet.destination && packet.to_host != is_input {
        return Err("its destination is and is not this host's own".to_owned());
    }
    Ok(())
}

/// Returns the state that connection tracking gives an ICMP message without a connection
/// (`icmp_pkt_to_tuple()`, `icmpv6_error()` in `net/netfilter`): requests are new, neighbour and
/// listener discovery are not tracked, all else is invalid.
pub fn icmp_state(family: Family, kind: u8) -> CtState {
    match (family, kind) {
        (Family::V4, 8 | 13 | 15 | 17) | (Family::V6, 128) => CtState::New,
        (Family::V6, 130..=136 | 143) => CtState::Untracked,
        (Family::V4 | Family::V6, _) => CtState::Invalid,
    }
}

fn state_name(state: CtState) -> &'static str {
    match state {
        CtState::New => "new",
        CtState::Established => "established",
        CtState::Related => "related",
        CtState::Invalid => "invalid",
        CtState::Untracked => "untracked",
    }
}

impl Setup {
    /// Finds what a host needs for a packet that [`real`] completed.
    ///
    /// # Errors
    /// Why the packet cannot be sent, as a sentence that starts with `it is`.
    pub fn of(packet: &Packet) -> Result<Self, String> {
        let mut before = packet.before_dnat();
        if packet.hook == Hook::Forward {
            // The host counts a hop before it calls the hook.
            before.hop_limit = before.hop_limit.saturating_add(1);
        }
        let mut setup = Self {
            interface: packet.interface.clone(),
            own: own(packet),
            routes: routes(packet),
            translation: translation(packet),
            is_untracked: packet.state == CtState::Untracked && !is_never_tracked(packet),
            connection: None,
            frame: Vec::new(),
        };
        let frame = match packet.state {
            CtState::Related => {
                let (beyond, ports) = (beyond(packet.family()), BEYOND_PORTS);
                setup.connection = Some(Connection {
                    protocol: UDP,
                    from: SocketAddr::new(packet.destination, ports.0),
                    to: SocketAddr::new(beyond, ports.1),
                });
                frame::about(&before, (beyond, ports.0, ports.1))
            }
            CtState::Established => {
                setup.connection = established(packet);
                frame::bytes(&before)
            }
            CtState::New | CtState::Invalid | CtState::Untracked => frame::bytes(&before),
        };
        setup.frame = frame.map_err(|why| format!("it is {why}"))?;
        Ok(setup)
    }
}

fn beyond(family: Family) -> IpAddr {
    match family {
        Family::V4 => BEYOND_V4.into(),
        Family::V6 => BEYOND_V6.into(),
    }
}

fn is_never_tracked(packet: &Packet) -> bool {
    match packet.transport {
        Transport::Icmp { kind, .. } => icmp_state(packet.family(), kind) == CtState::Untracked,
        Transport::Ports { .. } | Transport::Other(_) => false,
    }
}

/// Returns the addresses that must be the host's own: of a packet to this host, and of one that was
/// sent to it.
fn own(packet: &Packet) -> Vec<IpAddr> {
    let here = (packet.hook == Hook::Input).then_some(packet.destination);
    let dialled = packet.dialled.filter(|_| packet.to_host);
    let mut own: Vec<IpAddr> = Vec::new();
    for address in here.into_iter().chain(dialled.map(|d| d.address)) {
        let is_group = match address {
            IpAddr::V4(address) => address.is_broadcast() || address.is_multicast(),
            IpAddr::V6(address) => address.is_multicast(),
        };
        if !is_group && !address.is_loopback() && !own.contains(&address) {
            own.push(address);
        }
    }
    own
}

/// Returns the way back to the source, and the way to the destination.
fn routes(packet: &Packet) -> Vec<(IpAddr, String)> {
    let mut routes = Vec::new();
    if packet.reverse_path && packet.interface != "lo" {
        routes.push((packet.source, packet.interface.clone()));
    }
    let is_forwarded = packet.hook == Hook::Forward;
    if let Some(out) = packet.out.as_ref().filter(|_| is_forwarded)
        && packet.destination != packet.source
    {
        routes.push((packet.destination, out.clone()));
    }
    routes
}

fn translation(packet: &Packet) -> Option<Translation> {
    let dialled = packet.dialled?;
    match packet.transport {
        Transport::Ports {
            protocol,
            destination,
            ..
        } => Some(Translation {
            protocol,
            dialled,
            to: SocketAddr::new(packet.destination, destination),
        }),
        Transport::Icmp { .. } | Transport::Other(_) => None,
    }
}

fn established(packet: &Packet) -> Option<Connection> {
    match packet.transport {
        Transport::Ports {
            protocol,
            source,
            destination,
        } => Some(Connection {
            protocol,
            from: SocketAddr::new(packet.source, source),
            to: SocketAddr::new(packet.destination, destination),
        }),
        Transport::Icmp { .. } | Transport::Other(_) => None,
    }
}
