//! Compares the policy with the rules it was made from, packet by packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::classes::{self, ServiceKind, Spoken};
use super::eval::{Narrow, Probe, Published, Reading};
use super::rule::At;
use super::view::View;
use crate::net::addr::{self, Family};
use crate::net::packet::{CtState, Decision, Hook, Packet, Transport, Verdict};
use crate::net::port::PortSpec;
use crate::policy::reason::Reason;
use crate::policy::{IcmpTypes, Policy, Source, Tunnel};

/// More packets than this are thinned: all pairs of what is asked for, but not all of everything.
const PACKETS_MAX: usize = 600_000;
/// Of a thinned axis, so many values meet every value of the others.
const THIN: usize = 12;

/// In which way policy and rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The rules accept it, the policy does not.
    Closed,
    /// The policy accepts it, the rules do not.
    New,
}

/// A difference, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Closed or new.
    pub change: Change,
    /// Input or forward.
    pub hook: Hook,
    /// What the policy says of these packets.
    pub reason: Reason,
    /// The difference in words.
    pub sentence: String,
    /// So many of the packets that were compared.
    pub packets: usize,
    /// The lines that decided, from the first on.
    #[serde(skip)]
    pub lines: Vec<At>,
}

/// What a line of the rules did to packets, and what the policy does to the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Fate {
    /// It accepted them and so does the policy, for these reasons.
    pub kept: BTreeSet<Reason>,
    /// Peers and overlays among their sources, for naming entries.
    pub sources: BTreeSet<IpAddr>,
    /// It accepted them and the policy does not, for these reasons.
    pub closed: BTreeSet<Reason>,
    /// The same, but from others on interfaces of an overlay, where nobody else is.
    pub foreign: bool,
    /// It did not accept them and the policy does, for these reasons.
    pub opened: BTreeSet<Reason>,
    /// It did not accept them and neither does the policy.
    pub denied: bool,
}

/// What came of comparing.
#[derive(Debug, Clone, Default)]
pub(super) struct Proof {
    pub fates: BTreeMap<At, Fate>,
    pub differences: Vec<Difference>,
    pub compared: usize,
    /// Whether some packets were left out, for there being too many.
    pub thinned: bool,
    /// Ports that nat publishes, by the line that does.
    pub published: Vec<(At, Published)>,
}

/// Whether a packet comes in by an interface of an overlay, but not from one of its addresses.
fn is_foreign(policy: &Policy, packet: &Packet) -> bool {
    let mut overlays = policy.overlays.iter();
    overlays.any(|overlay| {
        overlay
            .interfaces
            .iter()
            .any(|pattern| pattern.matches(&packet.interface))
            && !overlay
                .subnets
                .iter()
                .any(|subnet| subnet.net.contains(&packet.source))
    })
}

/// What a policy speaks of, for telling packets apart.
pub(super) fn spoken(policy: &Policy, family: Family) -> Spoken {
    let mut spoken = Spoken::default();
    let bounds = |net: &IpNet| (Family::of(net.addr()) == family).then(|| addr::bounds(*net));
    let peers = policy.peers.iter().flat_map(|peer| &peer.addresses);
    let groups = policy.groups.iter().flat_map(|group| &group.addresses);
    let pods = policy.overlays.iter().flat_map(|overlay| &overlay.subnets);
    let nets = peers.chain(groups).chain(pods).map(|address| &address.net);
    spoken.sources.extend(nets.filter_map(bounds));
    let froms = policy
        .allows
        .iter()
        .flat_map(|allow| &allow.from)
        .chain(&policy.icmp.ping);
    for from in froms {
        if let Source::Net(net) = from {
            spoken.sources.extend(bounds(net));
        }
    }
    for overlay in &policy.overlays {
        spoken
            .interfaces_in
            .extend(overlay.interfaces.iter().cloned());
        match overlay.tunnel {
            Some(Tunnel::Udp(range)) => spoken
                .destination_ports
                .push((Some(crate::net::port::UDP), (range.first, range.last))),
            Some(Tunnel::Protocol(number)) => spoken.protocols.push(number),
            None => {}
        }
    }
    spoken.interfaces_in.extend(policy.trusted.iter().cloned());
    for allow in &policy.allows {
        spoken
            .interfaces_in
            .extend(allow.interfaces.iter().cloned());
        for spec in allow.ports.iter().flatten() {
            speak_ports(&mut spoken, spec);
        }
    }
    // The core: DHCP.
    for port in [67, 68, 546, 547] {
        spoken
            .destination_ports
            .push((Some(crate::net::port::UDP), (port, port)));
    }
    spoken
        .source_ports
        .push((Some(crate::net::port::UDP), (67, 67)));
    let types = match family {
        Family::V4 => &policy.icmp.v4,
        Family::V6 => &policy.icmp.v6,
    };
    if let IcmpTypes::Some(kinds) = types {
        spoken.icmp.extend(kinds.iter().map(|kind| (*kind, None)));
    }
    spoken
}

fn speak_ports(spoken: &mut Spoken, spec: &PortSpec) {
    for protocol in &spec.protocols {
        match spec.range {
            Some(range) => spoken
                .destination_ports
                .push((Some(*protocol), (range.first, range.last))),
            None => spoken.protocols.push(*protocol),
        }
    }
}

/// What differing packets have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    family: Family,
    hook: Hook,
    change: Change,
    reason: Reason,
    /// Replies and errors, or what starts something.
    reply: bool,
    /// For what is closed, the line that accepted it.
    by: Option<At>,
}

/// Differing packets of one key.
#[derive(Debug, Clone, Default)]
struct Pile {
    sources: BTreeSet<usize>,
    interfaces: BTreeSet<String>,
    services: BTreeSet<usize>,
    dialled: BTreeSet<(u8, u16)>,
    lines: BTreeSet<At>,
    packets: usize,
}

/// Compares over every kind of packet that rules or policy tell apart.
pub(super) fn compare(views: &[View<'_>], policy: &Policy) -> Proof {
    let mut proof = Proof::default();
    for view in views {
        proof
            .published
            .extend(view.published.iter().map(|port| (port.at, *port)));
        let mut run = Run {
            view,
            policy,
            piles: BTreeMap::new(),
            proof: &mut proof,
        };
        run.all();
        let piles = std::mem::take(&mut run.piles);
        for (key, pile) in piles {
            let sentence = sentence(view, policy, &key, &pile);
            let old = proof
                .differences
                .iter_mut()
                .find(|d| d.sentence == sentence);
            match old {
                Some(old) => {
                    old.packets += pile.packets;
                    old.lines.extend(&pile.lines);
                }
                None => proof.differences.push(Difference {
                    change: key.change,
                    hook: key.hook,
                    reason: key.reason,
                    sentence,
                    packets: pile.packets,
                    lines: pile.lines.into_iter().collect(),
                }),
            }
        }
    }
    proof
        .differences
        .sort_by_key(|difference| (difference.change, difference.hook));
    proof
}

struct Run<'v, 'p> {
    view: &'v View<'v>,
    policy: &'v Policy,
    piles: BTreeMap<Key, Pile>,
    proof: &'p mut Proof,
}

/// One packet to compare, by its place on the axes.
struct Case {
    probe: Probe,
    source: usize,
    service: Option<usize>,
}

impl Run<'_, '_> {
    fn all(&mut self) {
        let view = self.view;
        for (s, source) in view.sources.iter().enumerate() {
            let narrow = view.rules.narrow(source.example, Reading::BesidePeerwall);
            self.input(&narrow, s, source.example);
            self.forward(&narrow, s, source.example);
            self.published(&narrow, s, source.example);
        }
    }

    /// Whether a thinned axis leaves this value out, where others do not have their usual one.
    fn is_thin(index: usize, len: usize) -> bool {
        len > THIN && index != len - 1 && !index.is_multiple_of(len.div_ceil(THIN))
    }

    fn input(&mut self, narrow: &Narrow<'_>, s: usize, source: IpAddr) {
        let view = self.view;
        let usual = view.host.first().copied();
        let to: Vec<IpAddr> = view.host.iter().chain(&view.named).copied().collect();
        let total = view.sources.len() * (view.interfaces.len() + 1) * self.transports() * to.len();
        let thin = total > PACKETS_MAX && Self::is_thin(s, view.sources.len());
        let interfaces = view.interfaces.iter().map(String::as_str).chain(["lo"]);
        for interface in interfaces {
            for destination in &to {
                let is_usual = Some(*destination) == usual
                    && view.interfaces.last().is_some_and(|last| last == interface);
                for v in 0..view.services.len() {
                    if thin && !is_usual && Self::is_thin(v, view.services.len()) {
                        self.proof.thinned = true;
                        continue;
                    }
                    let at = (s, source, interface, *destination, v);
                    self.input_service(narrow, at);
                }
            }
        }
    }

    fn transports(&self) -> usize {
        self.view
            .services
            .iter()
            .map(|service| service.transports.len() * 3)
            .sum()
    }

    fn input_service(
        &mut self,
        narrow: &Narrow<'_>,
        (s, source, interface, destination, v): (usize, IpAddr, &str, IpAddr, usize),
    ) {
        let view = self.view;
        let Some(service) = view.services.get(v) else {
            return;
        };
        for transport in &service.transports {
            let is_tcp = matches!(
                transport,
                Transport::Ports {
                    protocol: crate::net::port::TCP,
                    ..
                }
            );
            if is_tcp && destination.is_multicast() {
                continue; // there is no such thing
            }
            // What nat rewrites does not get here by the port that was dialled.
            if self.is_diverted(*transport) && interface != "lo" {
                continue;
            }
            for state in classes::states(view.family, *transport, view.spoken.untracked) {
                let packet = view.packet(
                    Hook::Input,
                    source,
                    destination,
                    interface,
                    *transport,
                    *state,
                );
                let to_this_host = !destination.is_multicast();
                let probe = Probe {
                    packet,
                    out: None,
                    to_this_host,
                };
                self.case(
                    narrow,
                    &Case {
                        probe,
                        source: s,
                        service: Some(v),
                    },
                );
            }
        }
    }

    fn is_diverted(&self, transport: Transport) -> bool {
        let Transport::Ports {
            protocol,
            destination,
            ..
        } = transport
        else {
            return false;
        };
        let mut published = self.view.published.iter();
        published.any(|p| p.protocol == protocol && p.dialled == destination)
    }

    fn forward(&mut self, narrow: &Narrow<'_>, s: usize, source: IpAddr) {
        let view = self.view;
        let ways = view.outs.len() * view.beyond.len() * view.interfaces.len();
        let thin = view.sources.len() * ways * self.transports() > PACKETS_MAX;
        for interface in &view.interfaces {
            for (o, out) in view.outs.iter().enumerate() {
                for (d, to) in view.beyond.iter().enumerate() {
                    for (v, service) in view.services.iter().enumerate() {
                        let away = o + 1 < view.outs.len() || d > 0;
                        if thin
                            && away
                            && (Self::is_thin(s, view.sources.len())
                                || Self::is_thin(v, view.services.len()))
                        {
                            self.proof.thinned = true;
                            continue;
                        }
                        self.forward_service(
                            narrow,
                            (s, source, interface, *to, v),
                            out,
                            &service.transports,
                        );
                    }
                }
            }
        }
    }

    fn forward_service(
        &mut self,
        narrow: &Narrow<'_>,
        (s, source, interface, to, v): (usize, IpAddr, &str, IpAddr, usize),
        out: &str,
        transports: &[Transport],
    ) {
        let view = self.view;
        for transport in transports {
            for state in classes::states(view.family, *transport, view.spoken.untracked) {
                // What is of the link is not passed on.
                let packet = view.packet(Hook::Forward, source, to, interface, *transport, *state);
                if *state == CtState::Untracked && packet.hop_limit != 64 {
                    continue;
                }
                let probe = Probe {
                    packet,
                    out: Some(out.to_owned()),
                    to_this_host: false,
                };
                self.case(
                    narrow,
                    &Case {
                        probe,
                        source: s,
                        service: Some(v),
                    },
                );
            }
        }
    }

    fn published(&mut self, narrow: &Narrow<'_>, s: usize, source: IpAddr) {
        let view = self.view;
        for port in &view.published {
            for interface in &view.interfaces {
                let probe = view.dialled(port, source, interface);
                if is_foreign(self.policy, &probe.packet) {
                    continue;
                }
                self.case(
                    narrow,
                    &Case {
                        probe,
                        source: s,
                        service: None,
                    },
                );
            }
        }
    }

    fn case(&mut self, narrow: &Narrow<'_>, case: &Case) {
        let packet = &case.probe.packet;
        let before = narrow.judge(&case.probe);
        let after = self.policy.verdict(packet);
        // The kernel drops these as martians (`ip_route_input_slow()`), whatever rules say.
        if after.reason == Reason::LoopbackSpoof {
            return;
        }
        self.proof.compared += 1;
        let accepted = before.verdict == Verdict::Accept;
        let accepts = after.verdict == Verdict::Accept;
        if let Some(by) = before.by {
            let fate = self.proof.fates.entry(by).or_default();
            match (accepted, accepts) {
                (true, true) => {
                    fate.kept.insert(after.reason.clone());
                    fate.sources.insert(packet.source);
                }
                (true, false) if is_foreign(self.policy, packet) => fate.foreign = true,
                (true, false) => drop(fate.closed.insert(after.reason.clone())),
                (false, true) => drop(fate.opened.insert(after.reason.clone())),
                (false, false) => fate.denied = true,
            }
        }
        if accepted != accepts {
            self.pile(case, before.by, after, accepted);
        }
    }

    fn pile(&mut self, case: &Case, by: Option<At>, after: Decision, accepted: bool) {
        let packet = &case.probe.packet;
        let key = Key {
            family: self.view.family,
            hook: packet.hook,
            change: if accepted {
                Change::Closed
            } else {
                Change::New
            },
            reply: is_reply(packet),
            by: by.filter(|_| accepted && !is_told_once(&after.reason)),
            reason: after.reason,
        };
        let pile = self.piles.entry(key).or_default();
        pile.packets += 1;
        pile.sources.insert(case.source);
        if !pile.interfaces.contains(&packet.interface) {
            pile.interfaces.insert(packet.interface.clone());
        }
        pile.lines.extend(by);
        pile.services.extend(case.service);
        if let (Some(dialled), None) = (packet.dialled, case.service) {
            pile.dialled.insert((packet.protocol(), dialled.port));
        }
    }
}

/// Whether a reason is the same story for whatever line accepted before.
fn is_told_once(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Invalid
            | Reason::OverlaySpoof
            | Reason::OverlayInject
            | Reason::LoopbackSpoof
            | Reason::PeerSpoof
            | Reason::Redirect
            | Reason::RouterAdvert
    )
}

fn is_reply(packet: &Packet) -> bool {
    matches!(packet.state, CtState::Established | CtState::Related)
}

/// A difference in words.
fn sentence(view: &View<'_>, policy: &Policy, key: &Key, pile: &Pile) -> String {
    let change = match key.change {
        Change::Closed => "closed",
        Change::New => "new",
    };
    let family = match view.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let who = who(view, &pile.sources);
    let what = what(view, pile);
    let on = on(view, &pile.interfaces);
    let way = match key.hook {
        Hook::Input => "to this host",
        Hook::Forward => "through this host",
    };
    let said = match (&key.reason, key.change) {
        (Reason::Established, Change::New) => {
            let whose = match (key.hook, policy.overlays.is_empty()) {
                (Hook::Input, _) => "this host's own",
                (Hook::Forward, false) => "pods' own",
                (Hook::Forward, true) => "accepted",
            };
            let hook = if key.hook == Hook::Input {
                "INPUT"
            } else {
                "FORWARD"
            };
            format!("replies to {whose} connections pass {hook} ({family})")
        }
        (Reason::OverlaySpoof, Change::Closed) => {
            format!("{who}{on}: pods' addresses are believed only where pods are")
        }
        (Reason::OverlayInject, Change::Closed) => {
            format!("{what} from {who} {way}: tunnel packets are for peers to send")
        }
        (Reason::Invalid, Change::Closed) => {
            format!("packets of no connection from {who}{on} {way} ({family})")
        }
        (reason @ (Reason::Peers | Reason::Overlay(_) | Reason::Trusted), Change::New) => {
            let what = if what == "everything" {
                "everything"
            } else {
                "everything else"
            };
            format!("{what} from {who}{on} {way} ({})", entry(reason))
        }
        (reason, Change::New) => {
            format!("{what} from {who}{on} {way} ({})", entry(reason))
        }
        (_, Change::Closed) => format!("{what} from {who}{on} {way}"),
    };
    format!("{change}: {said}")
}

/// The entry of a policy that has this reason.
pub(super) fn entry(reason: &Reason) -> String {
    match reason {
        Reason::Peers => "[peers]".into(),
        Reason::Overlay(name) => format!("[overlay.{name}]"),
        Reason::Allow(name) => format!("[[allow]] {name}"),
        Reason::Trusted => "[interfaces] trusted".into(),
        Reason::Bridged => "[interfaces] bridged".into(),
        Reason::Guests => "[interfaces] guests".into(),
        Reason::Ping => "[icmp] ping".into(),
        Reason::Established
        | Reason::Loopback
        | Reason::LoopbackSpoof
        | Reason::Redirect
        | Reason::RouterAdvert
        | Reason::PeerSpoof
        | Reason::OverlaySpoof
        | Reason::OverlayInject
        | Reason::GuestBlocked
        | Reason::Icmp
        | Reason::Dhcp
        | Reason::Invalid
        | Reason::ServiceAddress
        | Reason::InputDefault
        | Reason::ForwardDefault => format!("safe core: {}", reason.sentence()),
    }
}

/// Sources by the prefixes that files write, or by those that they are not.
fn who(view: &View<'_>, sources: &BTreeSet<usize>) -> String {
    if sources.len() == view.sources.len() {
        return "everybody".into();
    }
    let (mut names, others) = named(view, sources);
    if !others {
        return few(names);
    }
    let rest: BTreeSet<usize> = (0..view.sources.len())
        .filter(|s| !sources.contains(s))
        .collect();
    let (but, unnamed) = named(view, &rest);
    if !unnamed && !but.is_empty() {
        return format!("everybody but {}", few(but));
    }
    names.push(if names.is_empty() {
        "others".into()
    } else {
        "all others".into()
    });
    few(names)
}

/// Names for sources, and whether some have none.
fn named(view: &View<'_>, sources: &BTreeSet<usize>) -> (Vec<String>, bool) {
    let mut left = sources.clone();
    let mut spans = view.literals.clone();
    spans.extend(
        view.masqueraded
            .iter()
            .map(|(net, _, _)| addr::bounds(*net)),
    );
    // The widest first, so that a network is not told host by host.
    spans.sort_by_key(|(first, last)| std::cmp::Reverse(last - first));
    spans.dedup();
    let mut names: Vec<String> = Vec::new();
    for span in spans {
        let inside = view.within(span);
        let fits = !inside.is_empty() && inside.iter().all(|s| sources.contains(s));
        if fits && inside.iter().any(|s| left.contains(s)) {
            left.retain(|s| !inside.contains(s));
            names.push(match addr::prefix(view.family, span.0, span.1) {
                Some(net) => addr::short(net),
                None => format!(
                    "{}-{}",
                    addr::address(view.family, span.0),
                    addr::address(view.family, span.1)
                ),
            });
        }
    }
    (names, !left.is_empty())
}

fn few(mut names: Vec<String>) -> String {
    const FEW: usize = 6;
    if names.len() > FEW {
        let more = names.len() - FEW + 1;
        names.truncate(FEW - 1);
        names.push(format!("{more} more"));
    }
    match names.split_last() {
        None => String::new(),
        Some((one, [])) => one.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

fn what(view: &View<'_>, pile: &Pile) -> String {
    let mut names: Vec<String> = pile
        .dialled
        .iter()
        .map(|(protocol, port)| {
            format!(
                "published port {port}/{}",
                crate::net::port::protocol_name(*protocol)
            )
        })
        .collect();
    let with_first_packet = |v: &usize| {
        !matches!(
            view.services.get(*v).map(|s| &s.kind),
            Some(ServiceKind::Icmp(..)) | None
        )
    };
    let countable = (0..view.services.len()).filter(with_first_packet).count();
    if countable > 0
        && pile
            .services
            .iter()
            .filter(|v| with_first_packet(v))
            .count()
            == countable
    {
        return "everything".into();
    }
    let mut ports: BTreeMap<u8, Vec<(u16, u16)>> = BTreeMap::new();
    let mut icmp: Vec<String> = Vec::new();
    for kind in pile
        .services
        .iter()
        .filter_map(|v| view.services.get(*v))
        .map(|s| &s.kind)
    {
        match kind {
            ServiceKind::Ports(protocol, list) => ports.entry(*protocol).or_default().extend(list),
            ServiceKind::Icmp(kind, _) => {
                let name = crate::policy::icmp::name(view.family, *kind);
                let name = name.map_or_else(|| format!("type {kind}"), str::to_owned);
                if !icmp.contains(&name) {
                    icmp.push(name);
                }
            }
            ServiceKind::Protocol(number) => names.push(crate::net::port::protocol_name(*number)),
            ServiceKind::OtherProtocols => names.push("other protocols".into()),
        }
    }
    for (protocol, list) in ports {
        let ranges = list
            .iter()
            .map(|(first, last)| crate::net::port::PortRange {
                first: *first,
                last: *last,
            });
        let name = crate::net::port::protocol_name(protocol);
        for range in crate::net::port::normalize(ranges.collect()) {
            names.push(match (range.first, range.last) {
                (1, u16::MAX) => name.clone(),
                _ => format!("{range}/{name}"),
            });
        }
    }
    if !icmp.is_empty() {
        let family = if view.family == Family::V4 {
            "ICMP"
        } else {
            "ICMPv6"
        };
        names.push(format!("{family} ({})", few(icmp)));
    }
    few(names)
}

/// ` by eth0`, or nothing where it is all of them.
fn on(view: &View<'_>, interfaces: &BTreeSet<String>) -> String {
    if view.interfaces.iter().all(|name| interfaces.contains(name)) {
        return String::new();
    }
    format!(" by {}", few(interfaces.iter().cloned().collect()))
}
