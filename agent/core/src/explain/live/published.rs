//! Finds the ports and addresses that DNAT rules of any program publish.
//!
//! What rules name divides ports into classes; the first port of each class is sent through the
//! rules. So nothing depends on the shape of rules or on the names of chains.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use peerwall_proto::netlink::attr;
use peerwall_proto::nf_tables::Nested;
use peerwall_proto::nf_tables::expr::{Data, Expr};
use schemars::JsonSchema;
use serde::Serialize;

use super::travel::{Translation, Travel};
use super::{LiveHost, Passage, Rules, said};
use crate::import::rule::{Condition, ImportedRule, Interval, Test};
use crate::net::addr::{self, Family};
use crate::net::packet::{Hook, Packet, Transport};
use crate::net::port::{PortRange, TCP, UDP};
use crate::nft::machine::{KernelTable, RouteKind, explore};

/// Maximum number of combinations of endpoints of one port.
const ENDPOINTS_MAX: usize = 64;
/// Maximum number of packets that are followed.
const PACKETS_MAX: usize = 50_000;
/// A source that no policy names (RFC 5737, RFC 3849).
const STRANGERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x77)),
];

/// A program that publishes ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Publisher {
    /// Docker.
    Docker,
    /// kube-proxy.
    KubeProxy,
    /// Podman (netavark).
    Podman,
    /// The CNI plugin `portmap`.
    Portmap,
    /// Rules of another program.
    Other,
}

/// A port of an address that is translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// IP protocol.
    pub protocol: u8,
    /// Ports that are treated alike.
    pub ports: PortRange,
    /// Destination address of the packets.
    pub address: IpAddr,
    /// Whether it is an address of this host.
    pub is_local: bool,
    /// Destinations of the first port, ascending.
    pub to: BTreeSet<SocketAddr>,
    /// Hook that connections reach.
    pub hook: Hook,
    /// Outgoing interface.
    pub out: Option<String>,
    /// Program, by the names of its chains.
    pub publisher: Publisher,
    /// Description of the rule.
    pub rule: String,
    /// The packet that was followed.
    pub packet: Packet,
}

/// Everything that is published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publications {
    /// The ports, by family, address, protocol and port.
    pub found: Vec<Publication>,
    /// Whether rules name more than was tried.
    pub is_incomplete: bool,
}

/// What rules name.
#[derive(Default)]
struct Named {
    /// Ports at which a class may begin.
    starts: BTreeSet<u16>,
    /// Addresses of services with protocol and port.
    services: BTreeSet<(IpAddr, u8, u16)>,
    interfaces: BTreeSet<String>,
}

/// Finds published ports. `own` are the addresses of this host, `arrival` the interface of the
/// default route, and `ports` others that divide classes.
pub fn publications(
    rules: &Rules,
    host: &mut dyn LiveHost,
    own: &[IpAddr],
    arrival: &str,
    ports: &[PortRange],
) -> Publications {
    let nat = rules.clone().only_nat();
    let mut named = named(&nat, own);
    let mut found = Publications::default();
    if named.starts.is_empty() && named.services.is_empty() {
        return found;
    }
    named.starts.insert(1);
    for range in ports {
        named.add_range((range.first, range.last));
    }
    let others = named.interfaces.iter().filter(|name| *name != arrival);
    let others: Vec<&str> = others
        .map(String::as_str)
        .filter(|name| *name != "lo" && host.index(name).is_some())
        .collect();
    let arrivals = [&[arrival], &others[..]].concat();
    let mut left = PACKETS_MAX;
    let mut attempt = |address, protocol, ports: PortRange| {
        for arrival in &arrivals {
            let Some(next) = left.checked_sub(1) else {
                found.is_incomplete = true;
                return;
            };
            left = next;
            let packet = packet(address, protocol, ports.first, arrival);
            if let Some(publication) = publication(&nat, &packet, host, protocol, ports) {
                found.found.push(publication);
                return;
            }
        }
    };
    for address in own {
        for protocol in [TCP, UDP] {
            for ports in classes(&named.starts) {
                attempt(*address, protocol, ports);
            }
        }
    }
    for (address, protocol, port) in &named.services {
        attempt(*address, *protocol, PortRange::one(*port));
    }
    found
}

/// Returns the first packet of a stranger's connection.
pub fn packet(address: IpAddr, protocol: u8, port: u16, arrival: &str) -> Packet {
    let [v4, v6] = STRANGERS;
    let source = if address.is_ipv4() { v4 } else { v6 };
    let transport = Transport::Ports {
        protocol,
        source: 40_000,
        destination: port,
    };
    Packet::new(Hook::Input, arrival, source, address, transport)
}

fn publication(
    nat: &Rules,
    packet: &Packet,
    host: &mut dyn LiveHost,
    protocol: u8,
    ports: PortRange,
) -> Option<Publication> {
    let explored = explore(ENDPOINTS_MAX, |choices| {
        Travel::new(nat, packet, host, choices).translation()
    });
    let ways = explored.branches.into_iter().filter_map(|(_, way)| way);
    let ways: Vec<Translation> = ways.collect();
    let to = ways.iter().map(|way| way.to).collect();
    let first = ways.into_iter().next()?;
    Some(Publication {
        protocol,
        ports,
        address: packet.destination,
        is_local: host.kind(packet.destination) == Some(RouteKind::Local),
        to,
        hook: first.hook,
        out: first.out,
        publisher: publisher(&first.by),
        rule: said(&first.by),
        packet: packet.clone(),
    })
}

fn publisher(by: &Passage) -> Publisher {
    let chain = by.by.as_ref().map_or("", |by| by.chain.as_str());
    const NAMES: [(&str, Publisher); 8] = [
        ("DOCKER", Publisher::Docker),
        ("docker", Publisher::Docker),
        ("KUBE-", Publisher::KubeProxy),
        ("kube-proxy", Publisher::KubeProxy),
        ("NETAVARK", Publisher::Podman),
        ("netavark", Publisher::Podman),
        ("CNI-", Publisher::Portmap),
        ("cni_hostport", Publisher::Portmap),
    ];
    let is_of =
        |(start, _): &&(&str, Publisher)| chain.starts_with(start) || by.table.starts_with(start);
    NAMES
        .iter()
        .find(is_of)
        .map_or(Publisher::Other, |(_, who)| *who)
}

/// Divides all ports at these starts.
fn classes(starts: &BTreeSet<u16>) -> Vec<PortRange> {
    let starts: Vec<u16> = starts.iter().copied().filter(|start| *start > 0).collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    let ranges = starts.iter().zip(ends);
    ranges
        .map(|(first, last)| PortRange {
            first: *first,
            last,
        })
        .collect()
}

fn named(nat: &Rules, own: &[IpAddr]) -> Named {
    let mut named = Named::default();
    for printed in &nat.printed {
        let table = &printed.table;
        let rules = table.chains.values().flat_map(|chain| &chain.rules);
        rules.for_each(|rule| named.add_rule(rule, table.family, own));
    }
    let tables = nat.tables.registered();
    let is_nat = |table: &&KernelTable| {
        let mut bases = table
            .chains
            .values()
            .filter_map(|chain| chain.base.as_ref());
        bases.any(|base| base.is_nat)
    };
    tables
        .filter(is_nat)
        .for_each(|table| named.add_table(table, own));
    named
}

impl Named {
    fn add_range(&mut self, (first, last): (u16, u16)) {
        self.starts.insert(first);
        self.starts.extend(last.checked_add(1));
    }

    fn add_rule(&mut self, rule: &ImportedRule, family: Family, own: &[IpAddr]) {
        let mut protocols: &[u8] = &[];
        let mut ranges: &[(u16, u16)] = &[];
        let mut addresses: &[Interval] = &[];
        for condition in &rule.conditions {
            self.add_condition(condition);
            if condition.negated {
                continue;
            }
            if let Test::Protocol(these) = &condition.test {
                protocols = these;
            }
            if let Test::DestinationPorts(these) = &condition.test {
                ranges = these;
            }
            addresses = condition.destinations().unwrap_or(addresses);
        }
        let single = addresses.iter().filter(|(first, last)| first == last);
        let addresses = single.map(|(first, _)| addr::address(family, *first));
        for address in addresses.filter(|address| !own.contains(address)) {
            for protocol in protocols {
                for (first, _) in ranges {
                    self.services.insert((address, *protocol, *first));
                }
            }
        }
    }

    fn add_condition(&mut self, condition: &Condition) {
        if let Test::DestinationPorts(ranges) | Test::EitherPort(ranges) = &condition.test {
            ranges.iter().for_each(|range| self.add_range(*range));
        }
        if let Test::In(patterns) = &condition.test {
            let exact = patterns.iter().filter_map(|pattern| pattern.exact());
            self.interfaces.extend(exact.map(str::to_owned));
        }
        if let Test::Any(lists) = &condition.test {
            lists
                .iter()
                .flatten()
                .for_each(|each| self.add_condition(each));
        }
    }

    /// Adds the constants of a table that can be ports, and keys of maps that can be services. A
    /// constant that is no port divides a class, which changes no result.
    fn add_table(&mut self, table: &KernelTable, own: &[IpAddr]) {
        let rules = table.chains.values().flat_map(|chain| &chain.rules);
        for expr in rules.flat_map(|rule| &rule.exprs) {
            if let Expr::Cmp(cmp) = expr {
                self.add_constant(&cmp.data);
            }
            if let Expr::Range(range) = expr {
                self.add_constant(&range.from);
                self.add_constant(&range.to);
            }
        }
        for key in table.sets.values().flat_map(|set| set.keys()) {
            self.add_key(key, own);
        }
    }

    fn add_constant(&mut self, data: &Option<Nested<Data>>) {
        let bytes = data.as_ref().and_then(|data| data.0.value.as_deref());
        match bytes {
            Some(bytes) if bytes.len() == 2 => self.add_ports(bytes),
            // The name of an interface, filled up with zeros.
            Some(name) if name.len() == 16 => {
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(16);
                let name = name.get(..end).unwrap_or_default();
                if let Ok(name) = std::str::from_utf8(name) {
                    self.interfaces.insert(name.to_owned());
                }
            }
            Some(_) | None => {}
        }
    }

    /// Adds a port in network byte order.
    fn add_ports(&mut self, bytes: &[u8]) {
        if let Some(port) = attr::port(bytes) {
            self.add_range((port, port));
        }
    }

    /// Adds a key of a set, whose fields begin at multiples of four bytes.
    fn add_key(&mut self, key: &[u8], own: &[IpAddr]) {
        let port = |field: &[u8]| match field {
            [high, low] | [high, low, 0, 0] => attr::port(&[*high, *low]),
            _ => None,
        };
        let ports = key.chunks(4).filter_map(port);
        ports.for_each(|port| self.add_range((port, port)));
        let Some((address, [protocol, 0, 0, 0, rest @ ..])) = key
            .len()
            .checked_sub(8)
            .and_then(|at| key.split_at_checked(at))
        else {
            return;
        };
        let address = match address.len() {
            4 => <[u8; 4]>::try_from(address).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(address).ok().map(IpAddr::from),
            _ => None,
        };
        if let (Some(address), Some(port)) = (address, port(rest))
            && [TCP, UDP].contains(protocol)
            && !own.contains(&address)
        {
            self.services.insert((address, *protocol, port));
        }
    }
}
