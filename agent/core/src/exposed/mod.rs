//! What others reach on a host: the policy, joined with programs that listen and published ports.

mod map;
mod owner;
mod page;
mod svg;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

pub use self::map::{dot, mermaid};
pub use self::owner::{Owner, owner};
pub use self::page::html;
pub use self::svg::{MARK, svg};
pub use self::text::{printable, state_words};
use crate::explain::live::{Publication, Publisher};
use crate::import::meaning::{Access, Admitted, Redirected};
use crate::net::port::{PortRange, PortSpec, TCP, UDP, protocol_name};
use crate::policy::initial::Listener;
use crate::policy::reason::Reason;
use crate::policy::{Allow, Policy, Target};

/// Who reaches something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// An entry of the policy lets sources in, besides those that reach every port.
    Reached,
    /// The policy lets anybody in, and another firewall drops the packets.
    Dropped,
    /// Nobody besides those that reach every port.
    Closed,
}

/// What others reach on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Exposed")]
pub struct Exposure {
    /// Path of the policy.
    pub policy: String,
    /// Who may reach every port.
    pub every_port: Vec<Admitted>,
    /// Programs that listen for other hosts.
    pub services: Vec<Service>,
    /// Ports of this host that rules of DNAT publish.
    pub published: Vec<PublishedPort>,
    /// Other addresses that rules of DNAT publish, such as those of services of a cluster.
    pub service_addresses: Vec<ServiceAddresses>,
    /// Ports of the policy on which nobody listens, and which nobody publishes.
    pub unused: Vec<UnusedPort>,
    /// What was not examined, as sentences.
    pub not_examined: Vec<String>,
}

/// A program that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Service {
    /// Port and protocol.
    pub port: String,
    /// Name of the process; absent if it is not known.
    pub process: Option<String>,
    /// Unit, container or pod of the process.
    pub owner: Option<Owner>,
    /// Addresses on which it listens; unspecified ones stand for all of their family.
    pub addresses: BTreeSet<IpAddr>,
    /// Who reaches it.
    pub state: Reach,
    /// Who reaches it, besides those that reach every port.
    pub from: Vec<Admitted>,
    /// Rule of another firewall that drops packets of anybody.
    pub dropped_by: Option<String>,
}

/// A port of this host that DNAT translates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PublishedPort {
    /// Port or ports, and protocol.
    pub port: String,
    /// Addresses of this host.
    pub addresses: BTreeSet<IpAddr>,
    /// Destinations; without ports for a range of ports.
    pub to: BTreeSet<String>,
    /// Program.
    pub publisher: Publisher,
    /// Description of the rule.
    pub rule: String,
    /// Who reaches it.
    pub state: Reach,
    /// Who reaches it, besides those that reach every port.
    pub from: Vec<Admitted>,
    /// Rule of another firewall that drops packets of anybody.
    pub dropped_by: Option<String>,
    #[serde(skip)]
    protocol: u8,
    #[serde(skip)]
    range: PortRange,
}

/// Published addresses that are not this host's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ServiceAddresses {
    /// Program.
    pub publisher: Publisher,
    /// Number of pairs of address and port.
    pub count: usize,
    /// One of them.
    pub example: String,
    /// Who reaches them.
    pub state: Reach,
    /// Who reaches them, besides those that reach every port.
    pub from: Vec<Admitted>,
}

/// A port that an entry of the policy opens, without a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct UnusedPort {
    /// Name of the allow.
    pub allow: String,
    /// Entry of `ports`.
    pub port: String,
}

/// A program with the addresses of its sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Protocol, port and process.
    pub listener: Listener,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Unit, container or pod.
    pub owner: Option<Owner>,
}

/// A published port, with who may open connections and which other firewall drops them.
pub type Judged = (Publication, Vec<Admitted>, Option<String>);

impl Exposure {
    /// Joins what was found. `dropped_by` belongs to the sockets, in order.
    pub fn new(
        policy: &Policy,
        path: String,
        access: Access,
        sockets: &[Socket],
        dropped_by: Vec<Option<String>>,
        published: Vec<Judged>,
    ) -> Self {
        let Access {
            every_port,
            services,
        } = access;
        let unused = unused(policy, sockets, &published);
        let joined = sockets.iter().zip(services).zip(dropped_by);
        let services = joined.map(|((socket, from), dropped_by)| Service {
            port: format!(
                "{}/{}",
                socket.listener.port,
                protocol_name(socket.listener.protocol)
            ),
            process: socket.listener.process.clone(),
            owner: socket.owner.clone(),
            addresses: socket.addresses.clone(),
            state: reach(&from, &dropped_by),
            from,
            dropped_by,
        });
        let services = services.collect();
        let (own, others): (Vec<Judged>, Vec<Judged>) = published
            .into_iter()
            .partition(|(each, _, _)| each.is_local);
        let own = own
            .into_iter()
            .map(|each| published_port(each, &every_port));
        let others = others.into_iter().map(|(each, from, _)| {
            let from = besides(from, &every_port);
            (each, from)
        });
        Self {
            policy: path,
            services,
            published: joined_ports(own),
            service_addresses: summed_up(others),
            every_port,
            unused,
            not_examined: Vec::new(),
        }
    }
}

/// Describes the connections of a published port for the policy; `None` without a destination.
pub fn redirected(each: &Publication) -> Option<Redirected> {
    Some(Redirected {
        protocol: each.protocol,
        dialled: (each.address, each.ports.first).into(),
        is_local: each.is_local,
        hook: each.hook,
        to: *each.to.first()?,
        out: each.out.clone(),
    })
}

fn reach(from: &[Admitted], dropped_by: &Option<String>) -> Reach {
    match (from.is_empty(), dropped_by) {
        (true, _) => Reach::Closed,
        (false, Some(_)) => Reach::Dropped,
        (false, None) => Reach::Reached,
    }
}

/// Removes sources that reach every port.
fn besides(mut from: Vec<Admitted>, every_port: &[Admitted]) -> Vec<Admitted> {
    let is_known = |reason: &Reason| every_port.iter().any(|each| each.reason == *reason);
    from.retain(|each| !is_known(&each.reason));
    from
}

fn published_port((each, from, dropped_by): Judged, every_port: &[Admitted]) -> PublishedPort {
    let from = besides(from, every_port);
    let is_one = each.ports.first == each.ports.last;
    let to = each.to.iter().map(|to| match is_one {
        true => to.to_string(),
        false => to.ip().to_string(),
    });
    PublishedPort {
        port: String::new(),
        addresses: BTreeSet::from([each.address]),
        to: to.collect(),
        publisher: each.publisher,
        rule: each.rule,
        state: reach(&from, &dropped_by),
        from,
        dropped_by,
        protocol: each.protocol,
        range: each.ports,
    }
}

/// Joins the addresses of a port, then ports that are treated alike.
fn joined_ports(ports: impl Iterator<Item = PublishedPort>) -> Vec<PublishedPort> {
    let mut found: Vec<PublishedPort> = Vec::new();
    for port in ports {
        let is_same = |other: &&mut PublishedPort| {
            (other.protocol, other.range) == (port.protocol, port.range)
                && other.is_like(&port)
                && other.to == port.to
        };
        match found.iter_mut().find(is_same) {
            Some(other) => other.addresses.extend(port.addresses),
            None => found.push(port),
        }
    }
    found.sort_by_key(|port| (port.protocol, port.range));
    let mut ranges: Vec<PublishedPort> = Vec::new();
    for port in found {
        let is_next = |last: &&mut PublishedPort| {
            last.protocol == port.protocol
                && last.range.last.checked_add(1) == Some(port.range.first)
                && last.addresses == port.addresses
                && last.is_like(&port)
                && last.hosts() == port.hosts()
        };
        match ranges.last_mut().filter(is_next) {
            Some(last) => {
                last.range.last = port.range.last;
                last.to = last.hosts();
            }
            None => ranges.push(port),
        }
    }
    for port in &mut ranges {
        port.port = format!("{}/{}", port.range, protocol_name(port.protocol));
    }
    ranges
}

impl PublishedPort {
    fn is_like(&self, other: &Self) -> bool {
        (self.publisher, &self.from, &self.dropped_by)
            == (other.publisher, &other.from, &other.dropped_by)
    }

    /// Returns the destinations without ports.
    fn hosts(&self) -> BTreeSet<String> {
        let host = |to: &String| {
            let socket = to.parse::<std::net::SocketAddr>();
            socket.map_or_else(|_| to.clone(), |socket| socket.ip().to_string())
        };
        self.to.iter().map(host).collect()
    }
}

fn summed_up(others: impl Iterator<Item = (Publication, Vec<Admitted>)>) -> Vec<ServiceAddresses> {
    let mut found: Vec<ServiceAddresses> = Vec::new();
    for (each, from) in others {
        let is_same =
            |other: &&mut ServiceAddresses| other.publisher == each.publisher && other.from == from;
        if let Some(other) = found.iter_mut().find(is_same) {
            other.count += 1;
            continue;
        }
        let (address, port) = (each.address, each.ports.first);
        let socket = std::net::SocketAddr::new(address, port);
        found.push(ServiceAddresses {
            publisher: each.publisher,
            count: 1,
            example: format!("{socket}/{}", protocol_name(each.protocol)),
            state: reach(&from, &None),
            from,
        });
    }
    found
}

/// Returns the ports that allows open on this host, and that nobody uses.
fn unused(policy: &Policy, sockets: &[Socket], published: &[Judged]) -> Vec<UnusedPort> {
    let is_used = |spec: &PortSpec| {
        let listens = sockets.iter().any(|Socket { listener, .. }| {
            let fits = spec.range.is_none_or(|range| range.contains(listener.port));
            fits && spec.protocols.contains(&listener.protocol)
        });
        let overlap = |ports: PortRange| {
            let range = spec.range;
            range.is_none_or(|range| ports.first <= range.last && range.first <= ports.last)
        };
        let is_it = |(each, _, _): &Judged| {
            each.is_local && spec.protocols.contains(&each.protocol) && overlap(each.ports)
        };
        listens || published.iter().any(is_it)
    };
    let is_here = |allow: &&Allow| allow.to.contains(&Target::Host);
    let mut found = Vec::new();
    for allow in policy.allows.iter().filter(is_here) {
        let specs = allow.ports.iter().flatten();
        // Only sockets of TCP and UDP are known.
        let known = specs.filter(|spec| spec.protocols.iter().all(|p| [TCP, UDP].contains(p)));
        for spec in known.filter(|spec| !is_used(spec)) {
            let names: Vec<String> = spec.protocols.iter().map(|p| protocol_name(*p)).collect();
            let names = names.join(" and ");
            found.push(UnusedPort {
                allow: allow.name.clone(),
                port: match spec.range {
                    Some(range) => format!("{range}/{names}"),
                    None => names,
                },
            });
        }
    }
    found
}
