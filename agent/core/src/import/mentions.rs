//! Values that rules and policies mention. Packets differ in these values only.

use ipnet::IpNet;

use super::classes::Mentioned;
use super::rule::{Condition, ImportedChains, Test};
use crate::net::addr::{self, Family};
use crate::net::packet::CtState;
use crate::net::port::PortSpec;
use crate::policy::{IcmpTypes, Policy, Source, Tunnel};

/// Collects the values that a policy mentions.
pub(super) fn of_policy(policy: &Policy, family: Family) -> Mentioned {
    let mut mentioned = Mentioned::default();
    let bounds = |net: &IpNet| (Family::of(net.addr()) == family).then(|| addr::bounds(*net));
    let peers = policy.peers.iter().flat_map(|peer| &peer.addresses);
    let groups = policy.groups.iter().flat_map(|group| &group.addresses);
    let pods = policy.overlays.iter().flat_map(|overlay| &overlay.subnets);
    let nets = peers.chain(groups).chain(pods).map(|address| &address.net);
    mentioned.sources.extend(nets.filter_map(bounds));
    let froms = policy
        .allows
        .iter()
        .flat_map(|allow| &allow.from)
        .chain(&policy.icmp.ping);
    for from in froms {
        if let Source::Net(net) = from {
            mentioned.sources.extend(bounds(net));
        }
    }
    for overlay in &policy.overlays {
        mentioned
            .interfaces_in
            .extend(overlay.interfaces.iter().cloned());
        match overlay.tunnel {
            Some(Tunnel::Udp(range)) => mentioned
                .destination_ports
                .push((Some(crate::net::port::UDP), (range.first, range.last))),
            Some(Tunnel::Protocol(number)) => mentioned.protocols.push(number),
            None => {}
        }
    }
    mentioned
        .interfaces_in
        .extend(policy.trusted.iter().cloned());
    for allow in &policy.allows {
        mentioned
            .interfaces_in
            .extend(allow.interfaces.iter().cloned());
        for spec in allow.ports.iter().flatten() {
            mention_ports(&mut mentioned, spec);
        }
    }
    // The safe core has rules for DHCP.
    for port in [67, 68, 546, 547] {
        mentioned
            .destination_ports
            .push((Some(crate::net::port::UDP), (port, port)));
    }
    mentioned
        .source_ports
        .push((Some(crate::net::port::UDP), (67, 67)));
    let types = match family {
        Family::V4 => &policy.icmp.v4,
        Family::V6 => &policy.icmp.v6,
    };
    if let IcmpTypes::Some(kinds) = types {
        mentioned
            .icmp
            .extend(kinds.iter().map(|kind| (*kind, None)));
    }
    mentioned
}

fn mention_ports(mentioned: &mut Mentioned, spec: &PortSpec) {
    for protocol in &spec.protocols {
        match spec.range {
            Some(range) => mentioned
                .destination_ports
                .push((Some(*protocol), (range.first, range.last))),
            None => mentioned.protocols.push(*protocol),
        }
    }
}

/// Collects the values that rules mention.
pub(super) fn of_rules(chains: &ImportedChains) -> Mentioned {
    let mut mentioned = Mentioned::default();
    for rule in chains.values().flat_map(|chain| &chain.rules) {
        let protocol = rule.conditions.iter().find_map(Condition::protocol);
        for condition in &rule.conditions {
            mention(&mut mentioned, condition, protocol);
        }
    }
    mentioned
}

fn mention(mentioned: &mut Mentioned, condition: &Condition, protocol: Option<u8>) {
    match &condition.test {
        Test::Source(spans) => mentioned.sources.extend(spans),
        Test::Destination(spans) => mentioned.destinations.extend(spans),
        Test::In(patterns) => mentioned.interfaces_in.extend(patterns.iter().cloned()),
        Test::Out(patterns) => mentioned.interfaces_out.extend(patterns.iter().cloned()),
        Test::Protocol(numbers) => mentioned.protocols.extend(numbers),
        Test::SourcePorts(ranges) => {
            mentioned
                .source_ports
                .extend(ranges.iter().map(|r| (protocol, *r)));
        }
        Test::DestinationPorts(ranges) => {
            mentioned
                .destination_ports
                .extend(ranges.iter().map(|r| (protocol, *r)));
        }
        Test::EitherPort(ranges) => {
            mentioned
                .source_ports
                .extend(ranges.iter().map(|r| (protocol, *r)));
            mentioned
                .destination_ports
                .extend(ranges.iter().map(|r| (protocol, *r)));
        }
        Test::Dialled(first, last) => mentioned
            .destination_ports
            .push((protocol, (*first, *last))),
        Test::Icmp(kinds) => mentioned.icmp.extend(kinds),
        Test::Any(lists) => {
            for condition in lists.iter().flatten() {
                mention(mentioned, condition, protocol);
            }
        }
        Test::State { states, .. } => mentioned.untracked |= states.contains(&CtState::Untracked),
        Test::TcpFlags(..)
        | Test::HopLimit(..)
        | Test::To(_)
        | Test::From(_)
        | Test::DialledAddress(_)
        | Test::Rate(..)
        | Test::Always(_)
        | Test::Unknown(_) => {}
    }
}

impl Mentioned {
    /// Adds all values of `more`.
    pub(super) fn add(&mut self, more: Self) {
        self.sources.extend(more.sources);
        self.destinations.extend(more.destinations);
        self.source_ports.extend(more.source_ports);
        self.destination_ports.extend(more.destination_ports);
        self.protocols.extend(more.protocols);
        self.icmp.extend(more.icmp);
        self.interfaces_in.extend(more.interfaces_in);
        self.interfaces_out.extend(more.interfaces_out);
        self.untracked |= more.untracked;
    }
}
