//! Checks a policy's own tests, its `[[expect]]`s, by walking packets through its ruleset.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::diagnostic::Diagnostic;
use crate::net::addr::{self, Family};
use crate::net::packet::{Dialled, Hook, Packet, Transport, Verdict};
use crate::net::port::{TCP, UDP, has_ports};
use crate::policy::{Expect, Policy};
use crate::ruleset::Ruleset;

/// Stands for this host: RFC 5737 and RFC 3849 documentation addresses.
const HOST_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
const HOST_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe));

/// An error for each expectation that the ruleset does not meet.
pub fn check(policy: &Policy, ruleset: &Ruleset) -> Vec<Diagnostic> {
    policy
        .expects
        .iter()
        .flat_map(|expect| failures(expect, ruleset).into_iter().take(1))
        .collect()
}

fn failures(expect: &Expect, ruleset: &Ruleset) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let packets = packets(expect);
    if packets.is_empty() {
        let place = expect.place.clone();
        return vec![
            Diagnostic::error(place, "`from` and `to` of this expectation are of different families")
                .help("an IPv4 packet has both of its addresses from IPv4; write one expectation for each"),
        ];
    }
    for packet in packets {
        let walk = ruleset.eval(&packet);
        let accepted = walk.verdict == Verdict::Accept;
        if accepted == (expect.verdict == Verdict::Accept) {
            continue;
        }
        let why = walk
            .reason()
            .map_or_else(String::new, |r| format!(" ({r})"));
        found.push(
            Diagnostic::error(
                expect.place.clone(),
                format!(
                    "the policy does not meet this expectation: a packet from {} is met with {}{why}",
                    packet.source, walk.verdict
                ),
            )
            .label(format!("expects {}", expect.verdict))
            .help("change the policy, or the expectation if it is out of date"),
        );
    }
    found
}

/// First and last address of every prefix, to each protocol that the port names.
fn packets(expect: &Expect) -> Vec<Packet> {
    let mut packets = Vec::new();
    let sources = expect.from.iter().flat_map(|net| edges(*net));
    for source in sources {
        for transport in transports(expect) {
            for port in ports(expect) {
                packets.extend(packet(expect, source, transport, port));
            }
        }
    }
    packets
}

fn edges(net: IpNet) -> Vec<IpAddr> {
    let family = Family::of(net.addr());
    let (first, last) = addr::bounds(net);
    let mut edges = vec![addr::address(family, first)];
    if last != first {
        edges.push(addr::address(family, last));
    }
    edges
}

fn transports(expect: &Expect) -> Vec<u8> {
    expect
        .port
        .as_ref()
        .map_or(vec![TCP, UDP], |spec| spec.protocols.clone())
}

fn ports(expect: &Expect) -> Vec<u16> {
    match expect.port.as_ref().and_then(|spec| spec.range) {
        Some(range) if range.first != range.last => vec![range.first, range.last],
        Some(range) => vec![range.first],
        // Without a port, one that no policy names by chance.
        None => vec![9],
    }
}

fn packet(expect: &Expect, source: IpAddr, protocol: u8, port: u16) -> Option<Packet> {
    let family = Family::of(source);
    let to = expect.to.map(|net| net.addr());
    let destination = to.unwrap_or(match family {
        Family::V4 => HOST_V4,
        Family::V6 => HOST_V6,
    });
    if Family::of(destination) != family {
        return None;
    }
    let transport = match has_ports(protocol) {
        true => Transport::Ports {
            protocol,
            source: 40_000,
            destination: port,
        },
        false => Transport::Other(protocol),
    };
    let published = expect.hook == Hook::Forward && to.is_none() && has_ports(protocol);
    let dialled = Dialled {
        address: destination,
        port,
    };
    Some(Packet {
        dialled: published.then_some(dialled),
        to_host: published || expect.hook == Hook::Input,
        ..Packet::new(
            expect.hook,
            &expect.interface,
            source,
            destination,
            transport,
        )
    })
}
