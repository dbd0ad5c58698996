//! Checks the policy's own tests (`[[expect]]`) by evaluating packets against its ruleset.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::diagnostic::{Code, Diagnostic};
use crate::net::addr::{self, Family};
use crate::net::packet::{Dialled, Hook, Packet, Transport, Verdict};
use crate::net::port::{self, TCP, UDP, has_ports};
use crate::policy::{Discovery, Expect, Overlay, Policy};
use crate::ruleset::Ruleset;
use crate::words::count;

/// Address of this host in a test packet (RFC 5737 and RFC 3849 documentation addresses).
pub(crate) const HOST_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
/// The same for IPv6.
pub(crate) const HOST_V6: IpAddr =
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe));

/// Results of the expectations of a policy.
#[derive(Debug, Clone, Default)]
pub struct Tested {
    /// An error for each expectation that the ruleset does not meet.
    pub failed: Vec<Diagnostic>,
    /// A warning for each expectation that depends on pods unknown to this host.
    pub unknown: Vec<Diagnostic>,
}

/// Tests every expectation.
pub fn test(policy: &Policy, ruleset: &Ruleset) -> Tested {
    let mut tested = Tested::default();
    for expect in &policy.expects {
        let failures = failures(expect, ruleset);
        let depends = awaited(policy, expect, &failures);
        match (failures.as_slice(), depends) {
            (_, Some(overlay)) => tested.unknown.push(unknown(expect, overlay)),
            ([], None) => {}
            ([first, rest @ ..], None) => tested.failed.push(failed(expect, first, rest.len())),
        }
    }
    tested
}

/// Returns an error for each expectation that the ruleset does not meet.
pub fn check(policy: &Policy, ruleset: &Ruleset) -> Vec<Diagnostic> {
    test(policy, ruleset).failed
}

/// Whether a ruleset meets all of these expectations, whatever is unknown.
pub(crate) fn are_met(expects: &[Expect], ruleset: &Ruleset) -> bool {
    let mut expects = expects.iter();
    expects.all(|expect| failures(expect, ruleset).is_empty())
}

/// Returns the overlay without known pods that decides an expectation; `None` if the expectation
/// can be tested.
pub(crate) fn unknown_overlay<'p>(
    policy: &'p Policy,
    expect: &'p Expect,
    ruleset: &Ruleset,
) -> Option<&'p str> {
    awaited(policy, expect, &failures(expect, ruleset))
}

/// A reason for which an expectation is not met.
enum Unmet {
    /// The addresses have different families, so that no packet can be tested.
    Families,
    /// A packet with another verdict, and that verdict with its reason.
    Verdict(Packet, String),
}

fn failures(expect: &Expect, ruleset: &Ruleset) -> Vec<Unmet> {
    let packets = packets(expect);
    if packets.is_empty() && expect.awaits.is_empty() {
        return vec![Unmet::Families];
    }
    let mode = ruleset.mode();
    let failure = |packet: Packet| {
        let walk = ruleset.eval(&packet);
        let reason = walk.reason();
        // An expectation is about the policy as it will be enforced.
        let is_audited = reason.as_ref().is_some_and(|reason| mode.passes(reason));
        let found = if is_audited {
            Verdict::Drop
        } else {
            walk.verdict
        };
        let why = reason.map(|reason| format!(" ({reason})"));
        let met = (found == Verdict::Accept) == (expect.verdict == Verdict::Accept);
        let verdict = format!("{found}{}", why.unwrap_or_default());
        (!met).then_some(Unmet::Verdict(packet, verdict))
    };
    packets.into_iter().filter_map(failure).collect()
}

/// Returns the overlay without known pods that decides an expectation: one that the expectation
/// names, or one that its sources could be pods of.
fn awaited<'p>(policy: &'p Policy, expect: &'p Expect, failures: &[Unmet]) -> Option<&'p str> {
    if failures.is_empty() {
        return expect.awaits.first().map(String::as_str);
    }
    let peers = policy.peer_addresses();
    let could_be_pod = |failure: &Unmet| match failure {
        Unmet::Families => false,
        Unmet::Verdict(packet, _) => {
            addr::is_private(packet.source) && !peers.contains(packet.source)
        }
    };
    if !failures.iter().all(could_be_pod) {
        return None;
    }
    let mut overlays = policy.overlays.iter();
    let decides = |overlay: &&Overlay| {
        let arrives = overlay
            .interfaces
            .iter()
            .any(|own| own.matches(&expect.interface));
        // Pods are accepted on their interfaces; on others they count as spoofed.
        matches!(overlay.discovery, Discovery::Awaited(_))
            && arrives == (expect.verdict == Verdict::Accept)
    };
    overlays.find(decides).map(|overlay| overlay.name.as_str())
}

fn unknown(expect: &Expect, overlay: &str) -> Diagnostic {
    let message = format!("not tested: the pods of overlay `{overlay}` are not known here");
    Diagnostic::warning(Code::ExpectationNotTested, expect.place.clone(), message)
        .label(format!("expects {}", expect.verdict))
        .help("test it where they are known: on the node, or with `check --discovered FILE`")
}

fn failed(expect: &Expect, failure: &Unmet, more: usize) -> Diagnostic {
    let place = expect.place.clone();
    let Unmet::Verdict(packet, verdict) = failure else {
        return Diagnostic::error(
            Code::FamilyMismatch,
            place,
            "`from` and `to` of this expectation have different families",
        )
        .help("a packet has one address family; write one expectation for IPv4 and one for IPv6");
    };
    let others = match more {
        0 => String::new(),
        _ => format!(" and {}", count(more, "other packet")),
    };
    let message = format!(
        "the policy does not meet this expectation: {verdict} for {}{others}",
        described(packet)
    );
    Diagnostic::error(Code::ExpectationNotMet, place, message)
        .label(format!("expects {}", expect.verdict))
        .help("change the policy, or the expectation if it is out of date")
}

/// Describes a packet by its port, address, family and interface.
fn described(packet: &Packet) -> String {
    let what = match packet.transport {
        Transport::Ports {
            protocol,
            destination,
            ..
        } => format!("port {destination}/{}", port::protocol_name(protocol)),
        Transport::Icmp { kind, .. } => format!("ICMP type {kind}"),
        Transport::Other(protocol) => port::protocol_name(protocol),
    };
    let way = match packet.hook {
        Hook::Input => "",
        Hook::Forward => "forwarded ",
    };
    format!(
        "a {way}packet to {what} from {} (IPv{}) that arrives on {}",
        packet.source,
        Family::of(packet.source).digit(),
        packet.interface
    )
}

/// Returns packets from the first and last address of every prefix, for each protocol of the port.
pub(crate) fn packets(expect: &Expect) -> Vec<Packet> {
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
        // Without a port, use one that policies are unlikely to name.
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
