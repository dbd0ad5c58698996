//! What it takes to have the kernel see a packet as it is described: routes, addresses,
//! connections, DNAT, and the frame.

use std::net::IpAddr;

use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::{CtState, Dialled, Hook, Packet, Transport};
use peerwall_core::net::port::{TCP, UDP};
use peerwall_core::policy::icmp;

use crate::case::{HOST_V4, HOST_V6};
use crate::raw::{Body, Frame, TcpFlags};

pub(crate) const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// No packet's that says whose it is.
pub(crate) const WIRE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
/// The command that a packet starts with which needs nothing.
pub(crate) const NOTHING: &str = "true";
/// The source port of packets where it does not matter.
pub const ANY_PORT: u16 = 40_000;
const FLUSH: &str = " && conntrack -F >/dev/null 2>&1";

/// What it takes to have the kernel see a packet as it is described.
pub(crate) struct Setup {
    pub(crate) before: String,
    pub(crate) after: String,
    pub(crate) frame: Frame,
}

impl Setup {
    pub(crate) fn of(packet: &Packet, serial: u16) -> Self {
        let source = source_port(packet, serial);
        let mut setup = Self {
            before: NOTHING.into(),
            after: NOTHING.into(),
            frame: Frame {
                source_mac: packet.mac.unwrap_or(WIRE_MAC),
                destination_mac: destination_mac(packet),
                source: packet.source,
                destination: packet.destination,
                hop_limit: packet.hop_limit,
                body: body(packet, source),
            },
        };
        setup.addresses(packet);
        setup.routes(packet);
        if let Some(dialled) = packet.dialled {
            let Self {
                before,
                after,
                frame,
            } = &mut setup;
            dnat(packet, dialled, frame, before, after);
        }
        setup.state(packet, source, serial);
        if source != ANY_PORT + serial && matches!(packet.transport, Transport::Ports { .. }) {
            setup.after += FLUSH;
        }
        setup
    }

    /// What is for this host, or dialled at it, is at addresses that it has.
    fn addresses(&mut self, packet: &Packet) {
        let for_host = (packet.hook == Hook::Input).then_some(packet.destination);
        let dialled = packet.dialled.filter(|_| packet.to_host);
        let all = for_host.into_iter().chain(dialled.map(|d| d.address));
        let mut added = Vec::new();
        for address in all.filter(|address| lacks(*address)) {
            if !added.contains(&address) {
                // A route, since Linux makes that of a new IPv6 address only later.
                let (family, len) = family(address);
                let route = format!("local {address}/{len} dev lo table local");
                self.before += &format!(" && ip {family} route replace {route}");
                self.after += &format!(" && ip {family} route del {route}");
                added.push(address);
            }
        }
    }

    /// The way back to the source, and the way to the destination.
    fn routes(&mut self, packet: &Packet) {
        let back = (packet.reverse_path && packet.interface != "lo")
            .then_some((packet.source, packet.interface.as_str()));
        let out = packet.out.as_deref();
        let there = out.map(|out| (packet.destination, out));
        for (address, interface) in back.into_iter().chain(there) {
            let (family, len) = family(address);
            let route = format!("{address}/{len} dev {interface}");
            self.before += &format!(" && ip {family} route replace {route}");
            self.after += &format!(" && ip {family} route del {route}");
        }
    }

    fn state(&mut self, packet: &Packet, source: u16, serial: u16) {
        match packet.state {
            CtState::New | CtState::Invalid => {}
            CtState::Untracked => {
                self.before += " && nft 'table inet raw \
                    { chain pre { type filter hook prerouting priority -300; notrack; }; }'";
                self.after += " && nft delete table inet raw";
            }
            CtState::Established => {
                self.before += &format!(" && {}", connection(packet, source));
                self.after += FLUSH;
            }
            CtState::Related => {
                related(packet, serial, &mut self.frame, &mut self.before);
                self.after += FLUSH;
            }
        }
    }
}

/// Whether the host does not have the address already.
fn lacks(address: IpAddr) -> bool {
    let own = [HOST_V4, HOST_V6].map(|own| own.parse::<IpAddr>().ok());
    let of_link = match address {
        IpAddr::V4(a) => a.is_broadcast(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    !(own.contains(&Some(address)) || address.is_loopback() || address.is_multicast() || of_link)
}

/// What `ip` calls the family of an address, and the length of a prefix that is one address.
fn family(address: IpAddr) -> (&'static str, u8) {
    match address {
        IpAddr::V4(_) => ("-4", 32),
        IpAddr::V6(_) => ("-6", 128),
    }
}

/// Different for each packet, unless the packet says which.
fn source_port(packet: &Packet, serial: u16) -> u16 {
    match packet.transport {
        Transport::Ports { source, .. } if source != ANY_PORT => source,
        Transport::Ports { .. } => ANY_PORT + serial,
        Transport::Icmp { .. } | Transport::Other(_) => serial,
    }
}

fn destination_mac(packet: &Packet) -> [u8; 6] {
    match packet.destination {
        _ if packet.interface == "lo" => [0; 6],
        IpAddr::V6(a) if a.is_multicast() => {
            let o = a.octets();
            [0x33, 0x33, o[12], o[13], o[14], o[15]]
        }
        IpAddr::V4(a) if a.is_broadcast() => [0xff; 6],
        IpAddr::V4(a) if a.is_multicast() => {
            let [_, b, c, d] = a.octets();
            [0x01, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V4(_) | IpAddr::V6(_) => HOST_MAC,
    }
}

fn body(packet: &Packet, source: u16) -> Body {
    let flags = match packet.state {
        CtState::Invalid => TcpFlags::SynRst,
        CtState::Established => TcpFlags::Ack,
        CtState::New | CtState::Related | CtState::Untracked => match packet.syn {
            true => TcpFlags::Syn,
            // Conntrack makes a new connection of it (`nf_conntrack_tcp_loose`).
            false => TcpFlags::Ack,
        },
    };
    match packet.transport {
        Transport::Ports {
            protocol: TCP,
            destination,
            ..
        } => Body::Tcp {
            source,
            destination,
            flags,
        },
        Transport::Ports {
            protocol: UDP,
            destination,
            ..
        } => Body::Udp {
            source,
            destination,
            payload: b"peerwall".to_vec(),
        },
        Transport::Ports {
            protocol,
            destination,
            ..
        } => Body::Other {
            protocol,
            payload: sctp_init(source, destination),
        },
        Transport::Icmp { kind, code } => {
            let [hi, lo] = peerwall_proto::netlink::attr::u16_network(source);
            Body::Icmp {
                kind,
                code,
                rest: [hi, lo, 0, 1],
                // Long enough for what neighbour discovery and error messages must carry.
                payload: vec![0; 48],
            }
        }
        Transport::Other(protocol) => Body::Other {
            protocol,
            payload: vec![0; 16],
        },
    }
}

/// An SCTP INIT (RFC 9260 section 3.3.2) without a checksum; the kernel does not look at it.
fn sctp_init(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(peerwall_proto::netlink::attr::u16_network(source));
    bytes.extend(peerwall_proto::netlink::attr::u16_network(destination));
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20]);
    bytes.extend([0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1]);
    bytes
}

/// The packet is dialled at one address and rewritten to its destination, as a published port is.
fn dnat(
    packet: &Packet,
    dialled: Dialled,
    frame: &mut Frame,
    before: &mut String,
    after: &mut String,
) {
    let Dialled { address, port } = dialled;
    let family = match packet.source {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    };
    let Transport::Ports {
        protocol,
        destination,
        ..
    } = packet.transport
    else {
        panic!("only what has ports can be dialled: {packet:?}");
    };
    let word = if protocol == TCP { "tcp" } else { "udp" };
    let to = match packet.destination {
        IpAddr::V4(a) => a.to_string(),
        IpAddr::V6(a) => format!("[{a}]"),
    };
    *before += &format!(
        " && nft 'table {family} published {{ chain pre {{ type nat hook prerouting priority -100; \
         {family} daddr {address} {word} dport {port} dnat to {to}:{destination}; }}; }}'"
    );
    *after += &format!(" && nft delete table {family} published{FLUSH}");
    frame.destination = address;
    match &mut frame.body {
        Body::Tcp { destination, .. } | Body::Udp { destination, .. } => *destination = port,
        Body::Icmp { .. } | Body::Other { .. } => {}
    }
}

/// A command that has conntrack know an answered connection that the packet belongs to.
fn connection(packet: &Packet, source: u16) -> String {
    let Transport::Ports {
        protocol,
        destination,
        ..
    } = packet.transport
    else {
        panic!("only what has ports can be established here: {packet:?}");
    };
    let (protocol, state) = match protocol {
        TCP => ("tcp", "--state ESTABLISHED"),
        _ => ("udp", ""),
    };
    format!(
        "conntrack -I -p {protocol} -s {} -d {} --sport {source} --dport {destination} {state} \
         -u SEEN_REPLY,ASSURED -t 60 >/dev/null 2>&1",
        packet.source, packet.destination
    )
}

/// Makes the frame an ICMP error about a connection that conntrack knows: one that the packet's
/// destination has with somebody beyond its source.
fn related(packet: &Packet, serial: u16, frame: &mut Frame, before: &mut String) {
    let beyond: IpAddr = match packet.source {
        IpAddr::V4(_) => "203.0.113.99",
        IpAddr::V6(_) => "2001:db8:99::99",
    }
    .parse()
    .expect("a constant address");
    let quoted = Frame {
        source: packet.destination,
        destination: beyond,
        hop_limit: 60,
        body: Body::Udp {
            source: 50_000 - serial % 1000,
            destination: 4242,
            payload: b"peerwall".to_vec(),
        },
        ..frame.clone()
    };
    let original = Packet {
        source: packet.destination,
        destination: beyond,
        transport: Transport::Ports {
            protocol: UDP,
            source: 0,
            destination: 4242,
        },
        ..packet.clone()
    };
    *before += &format!(" && {}", connection(&original, 50_000 - serial % 1000));
    let Transport::Icmp { kind, code } = packet.transport else {
        panic!("only an ICMP error is related: {packet:?}");
    };
    let quoted = quoted.ip_bytes();
    let is_redirect = packet.source.is_ipv6() && kind == icmp::redirect(Family::V6);
    frame.body = Body::Icmp {
        kind,
        code,
        rest: [0, 0, 0x05, 0xdc],
        payload: match is_redirect {
            true => redirected(&quoted),
            false => quoted,
        },
    };
}

/// What follows the first eight bytes of an IPv6 redirect: target, destination, and the option that
/// quotes the packet (RFC 4861 sections 4.5 and 4.6.3).
fn redirected(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    let eights = u8::try_from(quoted.len().div_ceil(8) + 1).expect("what is quoted is short");
    bytes.extend([4, eights, 0, 0, 0, 0, 0, 0]);
    bytes.extend(quoted);
    bytes.resize(32 + usize::from(eights) * 8, 0);
    bytes
}
