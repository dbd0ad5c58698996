//! The packets that the rules of one family accept, found by evaluating one packet of each kind.
//!
//! Negations, user-defined chains, returns and drops before accepts need no special treatment here.
//! The policy is written from these results.

mod forward;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::classes::{self, Mentioned, Service, ServiceKind, SourceClass};
use super::eval::{self, Probe, Published, ReadAs, RulesForSource};
use super::grid::Grid;
use super::rule::{self, At, Condition, ImportedRules, Interval};
use super::{Facts, managed, mentions};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Hook, Packet, Transport, Verdict};

/// Packets that the rules of one family accept.
pub(super) struct AcceptTable<'r> {
    pub family: Family,
    pub rules: &'r ImportedRules,
    pub mentioned: Mentioned,
    pub sources: Vec<SourceClass>,
    pub services: Vec<Service>,
    /// Input interfaces, except `lo`.
    pub interfaces: Vec<String>,
    /// Output interfaces.
    pub out_interfaces: Vec<String>,
    /// Addresses of this host.
    pub host: Vec<IpAddr>,
    /// Destinations in rules of the input hook that are not addresses of this host, such as
    /// multicast.
    pub other_destinations: Vec<IpAddr>,
    /// Destinations of forwarded packets.
    pub forward_destinations: Vec<IpAddr>,
    pub published: Vec<Published>,
    pub masqueraded: Vec<(IpNet, InterfacePattern, At)>,
    /// Line that accepts a packet to this host, by interface, source and service.
    accepted: Grid<Vec<Option<At>>>,
    /// Whether some new packet, except to published ports, is forwarded by a line that no program
    /// manages.
    forwards: Grid<bool>,
    /// Whether any such packet is forwarded, by any line.
    pub lets_through: bool,
    /// Sources in rules.
    pub literals: Vec<Interval>,
    /// Lines that another program manages.
    managed: BTreeSet<At>,
}

/// Placeholder for a chain that no line declares.
const NOWHERE: At = At { input: 0, line: 0 };

/// Returns an address for this host if none is known, from the documentation ranges (RFC 5737, RFC
/// 3849).
fn host_of(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 2, 254]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe]),
    }
}

fn elsewhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([203, 0, 113, 200]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 0x200]),
    }
}

/// Returns the destinations in rules that packets to this host traverse.
fn destinations_at_input(rules: &ImportedRules) -> Vec<Interval> {
    let chains = rule::reached(&rules.filter, "INPUT");
    let rules = chains
        .iter()
        .filter_map(|name| rules.filter.get(*name))
        .flat_map(|c| &c.rules);
    let conditions = rules.flat_map(|rule| &rule.conditions);
    conditions
        .filter_map(Condition::destinations)
        .flatten()
        .copied()
        .collect()
}

fn managed_lines(rules: &ImportedRules) -> BTreeSet<At> {
    let chains = rules
        .filter
        .iter()
        .filter(|(name, _)| managed::by(name).is_some());
    chains
        .flat_map(|(_, chain)| &chain.rules)
        .map(|rule| rule.at)
        .collect()
}

impl<'r> AcceptTable<'r> {
    /// Creates an empty table. `more` contains further values that distinguish packets.
    pub(super) fn new(rules: &'r ImportedRules, facts: &Facts, more: Mentioned) -> Self {
        let family = rules.family;
        let mut mentioned = mentions::of_rules(&rules.filter);
        let literals = mentioned.sources.clone();
        mentioned.add(more);
        let published = eval::published(rules);
        let masqueraded = eval::masqueraded(rules);
        mentioned
            .sources
            .extend(masqueraded.iter().map(|(net, _, _)| addr::bounds(*net)));
        mentioned
            .interfaces_in
            .extend(masqueraded.iter().map(|(_, i, _)| i.clone()));
        let lo = InterfacePattern::Exact("lo".into());
        mentioned.interfaces_in.retain(|pattern| *pattern != lo);
        for port in &published {
            mentioned
                .destination_ports
                .push((Some(port.protocol), (port.port, port.port)));
            mentioned
                .destination_ports
                .push((Some(port.protocol), (port.dialled, port.dialled)));
            mentioned
                .destinations
                .extend(port.to.map(|to| (addr::number(to), addr::number(to))));
        }
        let local: Vec<IpAddr> = facts
            .addresses
            .iter()
            .map(IpNet::addr)
            .filter(|a| Family::of(*a) == family && !is_link_local(*a) && !a.is_loopback())
            .collect();
        let usual = |address: &IpAddr| !address.is_multicast() && !is_link_local(*address);
        let forward_destinations =
            classes::destinations(family, &mentioned.destinations, elsewhere(family));
        let forward_destinations = forward_destinations.into_iter().filter(usual).collect();
        let at_input = destinations_at_input(rules);
        let (host, other_destinations) = classes::destinations(family, &at_input, host_of(family))
            .into_iter()
            .partition(usual);
        // If the addresses of this host are unknown, each destination may be one.
        let host: Vec<IpAddr> = if local.is_empty() { host } else { local };
        Self {
            family,
            rules,
            sources: classes::sources(family, &mentioned.sources),
            services: classes::services(family, &mentioned),
            interfaces: classes::interfaces(&mentioned.interfaces_in),
            out_interfaces: classes::interfaces(&mentioned.interfaces_out),
            host,
            other_destinations,
            forward_destinations,
            published,
            masqueraded,
            mentioned,
            accepted: Grid::default(),
            forwards: Grid::default(),
            lets_through: false,
            literals,
            managed: managed_lines(rules),
        }
    }

    /// Evaluates the rules for every packet to this host, and for some forwarded ones.
    pub(super) fn learned(mut self) -> Self {
        let size = (self.interfaces.len(), self.sources.len());
        let mut accepted = Grid::new(size.0, size.1, Vec::new());
        let mut forwards = Grid::new(size.0, size.1, false);
        let mut lets_through = false;
        for (s, source) in self.sources.iter().enumerate() {
            let narrow = self.rules.narrow(source.example, ReadAs::BesidePeerwall);
            for (i, interface) in self.interfaces.iter().enumerate() {
                let lines = self.services.iter();
                let lines = lines.map(|v| self.for_host(&narrow, source.example, interface, v));
                accepted.set(i, s, lines.collect());
                let through = self.some_way_through(&narrow, source.example, interface);
                lets_through |= through.0;
                forwards.set(i, s, through.1);
            }
        }
        self.accepted = accepted;
        self.forwards = forwards;
        self.lets_through = lets_through;
        self
    }

    /// Returns the line that accepts such packets to this host; `None` unless all of them are
    /// accepted.
    pub(super) fn accepts(&self, interface: usize, source: usize, service: usize) -> Option<At> {
        let lines = self.accepted.get(interface, source)?;
        lines.get(service).copied().flatten()
    }

    /// Like [`accepts`](Self::accepts), for an allow, which also opens published ports: `None` if
    /// the rules do not accept connections to their targets.
    pub(super) fn opens(&self, interface: usize, source: usize, service: usize) -> Option<At> {
        let line = self.accepts(interface, source, service)?;
        let kind = &self.services.get(service)?.kind;
        let name = self.interfaces.get(interface)?;
        let from = self.sources.get(source)?.example;
        let of_service = |port: &&Published| match kind {
            ServiceKind::Ports(protocol, ranges) => {
                *protocol == port.protocol && ranges.contains(&(port.dialled, port.dialled))
            }
            ServiceKind::Icmp(..) | ServiceKind::Protocol(_) | ServiceKind::OtherProtocols => false,
        };
        let mut published = self.published.iter().filter(of_service).peekable();
        if published.peek().is_none() {
            return Some(line);
        }
        let narrow = self.rules.narrow(from, ReadAs::BesidePeerwall);
        let passes = |port: &Published| {
            narrow.judge(&self.dialled(port, from, name)).verdict == Verdict::Accept
        };
        published.all(passes).then_some(line)
    }

    fn for_host(
        &self,
        narrow: &RulesForSource<'_>,
        source: IpAddr,
        interface: &str,
        service: &Service,
    ) -> Option<At> {
        let mut line = None;
        for transport in &service.transports {
            for state in self.starting(*transport) {
                for host in &self.host {
                    let packet =
                        self.packet(Hook::Input, source, *host, interface, *transport, state);
                    let outcome = narrow.judge(&Probe {
                        packet,
                        out: None,
                        to_this_host: true,
                    });
                    if outcome.verdict != Verdict::Accept {
                        return None;
                    }
                    line = line.or(outcome.by).or(Some(NOWHERE));
                }
            }
        }
        line
    }

    /// Returns the states of packets without a known connection.
    fn starting(&self, transport: Transport) -> impl Iterator<Item = CtState> + use<> {
        let states = classes::states(self.family, transport, false)
            .iter()
            .copied();
        let is_icmp = matches!(transport, Transport::Icmp { .. });
        states.filter(move |state| match state {
            CtState::New => true,
            CtState::Invalid | CtState::Untracked => is_icmp,
            // Errors of a connection are accepted with its replies, or by their own rule.
            CtState::Related | CtState::Established => false,
        })
    }

    pub(super) fn packet(
        &self,
        hook: Hook,
        source: IpAddr,
        destination: IpAddr,
        interface: &str,
        transport: Transport,
        state: CtState,
    ) -> Packet {
        // A reply to a DHCP client arrives before this host has an address.
        let is_offer = matches!(
            transport,
            Transport::Ports {
                protocol: crate::net::port::UDP,
                source: 67,
                destination: 68
            }
        );
        let destination = match destination {
            IpAddr::V4(_) if is_offer && hook == Hook::Input => {
                IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
            }
            IpAddr::V4(_) | IpAddr::V6(_) => destination,
        };
        Packet {
            hop_limit: classes::hop_limit(self.family, transport),
            state,
            reverse_path: false,
            ..Packet::new(hook, interface, source, destination, transport)
        }
    }

    /// Reports whether another program manages a line.
    pub(super) fn is_managed(&self, at: At) -> bool {
        self.managed.contains(&at)
    }

    /// Reports whether more requests of a source are rejected than dropped.
    pub(super) fn refuses(&self, interface: usize, source: usize) -> bool {
        let (Some(interface), Some(source)) =
            (self.interfaces.get(interface), self.sources.get(source))
        else {
            return false;
        };
        let narrow = self.rules.narrow(source.example, ReadAs::BesidePeerwall);
        let (mut refused, mut dropped) = (0, 0);
        for service in &self.services {
            let (Some(transport), Some(host)) = (service.transports.first(), self.host.first())
            else {
                continue;
            };
            if !matches!(service.kind, ServiceKind::Ports(..)) {
                continue;
            }
            let packet = self.packet(
                Hook::Input,
                source.example,
                *host,
                interface,
                *transport,
                CtState::New,
            );
            match narrow
                .judge(&Probe {
                    packet,
                    out: None,
                    to_this_host: true,
                })
                .verdict
            {
                Verdict::Accept => {}
                Verdict::Drop => dropped += 1,
                Verdict::Reject => refused += 1,
            }
        }
        refused > dropped
    }

    /// Returns the sources that lie entirely in a span.
    pub(super) fn within(&self, (first, last): Interval) -> Vec<usize> {
        let inside =
            |source: &SourceClass| source.spans.iter().all(|(a, b)| first <= *a && *b <= last);
        (0..self.sources.len())
            .filter(|index| self.sources.get(*index).is_some_and(inside))
            .collect()
    }

    /// Returns the ICMP services: index, type and code.
    pub(super) fn icmp(&self) -> impl Iterator<Item = (usize, u8, u8)> {
        self.services
            .iter()
            .enumerate()
            .filter_map(|(index, service)| match service.kind {
                ServiceKind::Icmp(kind, code) => Some((index, kind, code)),
                ServiceKind::Ports(..) | ServiceKind::Protocol(_) | ServiceKind::OtherProtocols => {
                    None
                }
            })
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}
