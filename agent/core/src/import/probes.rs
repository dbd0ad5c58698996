//! Packets for comparing a kernel with [`super::eval`].

use std::net::IpAddr;

use ipnet::IpNet;

use super::Facts;
use super::eval::Probe;
use super::networks::elsewhere;
use super::rule::{ImportedRules, KnownMark};
use super::space::axes::{Axes, LO, address_in};
use super::space::{SOURCE_PORT, Slicing, Space};
use crate::net::addr::Family;
use crate::net::packet::{CtState, Hook, Packet, Transport};
use crate::net::port::has_ports;
use crate::policy::icmp;

/// Maximum numbers of sources, interfaces and ports that are combined.
const SOURCES_MAX: usize = 60;
const INTERFACES_MAX: usize = 12;
const PORTS_MAX: usize = 60;

/// Returns first packets of the kinds that the rules distinguish, both to a host with these
/// addresses and forwarded by it.
pub fn probes(rules: &ImportedRules, host: &[IpNet]) -> Vec<Probe> {
    let facts = Facts {
        addresses: host.to_vec(),
        ..Facts::default()
    };
    let space = Space::new(rules, &facts, &[], Slicing::default());
    let axes = &space.axes;
    let of_family = |address: &IpAddr| Family::of(*address) == rules.family;
    let here = host.iter().map(IpNet::addr).find(of_family);
    let here = here.unwrap_or_else(|| default_host(rules.family));
    let there = elsewhere(rules.family);
    let outs = axes.outs.last();
    let interfaces = axes.interfaces.iter().filter(|name| *name != LO);
    let interfaces: Vec<&String> = some(interfaces.collect(), INTERFACES_MAX);
    let mut found = Vec::new();
    for source in sources(axes) {
        for interface in &interfaces {
            for transport in transports(axes) {
                for (hook, to, out) in [(Hook::Input, here, None), (Hook::Forward, there, outs)] {
                    let packet = Packet {
                        state: first_state(rules.family, transport),
                        hop_limit: hop_limit(rules.family, transport),
                        reverse_path: false,
                        ..Packet::new(hook, interface.as_str(), source, to, transport)
                    };
                    found.push(Probe {
                        packet,
                        out: out.cloned(),
                        to_this_host: hook == Hook::Input,
                        mark: KnownMark::default(),
                    });
                }
            }
        }
    }
    found
}

/// Returns at most `max` values, from all over the list.
fn some<T>(all: Vec<T>, max: usize) -> Vec<T> {
    let step = all.len().div_ceil(max).max(1);
    all.into_iter().step_by(step).collect()
}

fn default_host(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 2, 254]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe]),
    }
}

/// Returns an address of each kind of sources that other hosts can have.
fn sources(axes: &Axes) -> Vec<IpAddr> {
    let is_usable = |address: &IpAddr| match address {
        IpAddr::V4(a) => (1..224).contains(&a.octets()[0]) && !a.is_loopback(),
        IpAddr::V6(a) => {
            !a.is_multicast()
                && !a.is_unicast_link_local()
                && a.to_ipv4_mapped().is_none()
                && a.segments()[..6] != [0; 6]
        }
    };
    let values = 0..axes.source.len;
    let addresses = values.map(|index| address_in(axes.family, axes.sources.span((index, index))));
    some(addresses.filter(is_usable).collect(), SOURCES_MAX)
}

fn transports(axes: &Axes) -> Vec<Transport> {
    let narrow = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
    let starts = |len: u64, span: &dyn Fn(u64) -> u128| -> Vec<u16> {
        (0..len)
            .map(|index| narrow(span(index)))
            .filter(|port| *port != 0)
            .collect()
    };
    let ports = starts(axes.port.len, &|index| axes.ports.span((index, index)).0);
    let mut from_ports = starts(axes.from_port.len, &|index| {
        axes.from_ports.span((index, index)).0
    });
    from_ports.retain(|port| *port != SOURCE_PORT);
    from_ports.truncate(3);
    from_ports.insert(0, SOURCE_PORT);
    let mut found = Vec::new();
    for number in &axes.protocols {
        if *number == axes.icmp_protocol() {
            let kinds = (0..=u8::MAX).filter(|kind| icmp::name(axes.family, *kind).is_some());
            found.extend(
                kinds
                    .chain([253])
                    .map(|kind| Transport::Icmp { kind, code: 0 }),
            );
        } else if has_ports(*number) {
            for destination in some(ports.clone(), PORTS_MAX) {
                found.extend(from_ports.iter().map(|source| Transport::Ports {
                    protocol: *number,
                    source: *source,
                    destination,
                }));
            }
        } else {
            found.push(Transport::Other(*number));
        }
    }
    found
}

/// Returns the state of such a packet without a known connection (`nf_conntrack_proto_*.c`).
fn first_state(family: Family, transport: Transport) -> CtState {
    match transport {
        Transport::Ports { .. } | Transport::Other(_) => CtState::New,
        Transport::Icmp { kind, .. } => match (family, kind) {
            (Family::V4, 8 | 13 | 15 | 17) | (Family::V6, 128) => CtState::New,
            (Family::V6, 130..=137 | 143) => CtState::Untracked,
            _ => CtState::Invalid,
        },
    }
}

/// Returns the usual hop limit of a packet of this kind.
fn hop_limit(family: Family, transport: Transport) -> u8 {
    match (family, transport) {
        (Family::V6, Transport::Icmp { kind, .. })
            if icmp::NEIGHBOUR_DISCOVERY.contains(&kind) || kind == 137 =>
        {
            icmp::HOP_LIMIT_ON_LINK
        }
        (Family::V6, Transport::Icmp { kind, .. }) if icmp::LISTENER_DISCOVERY.contains(&kind) => {
            icmp::HOP_LIMIT_LISTENER
        }
        _ => 64,
    }
}
