//! The axes of the packets of one family at one hook: what rules and policies can tell apart.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::diagram::{Axis, Diagrams, PacketSet, Run};
use super::mentioned::Mentioned;
use crate::import::rule::Interval;
use crate::net::addr::{self, Family};
use crate::net::interface::{InterfacePattern, NAME_MAX_BYTES};
use crate::net::packet::CtState;
use crate::net::port::{ICMP, ICMPV6, TCP, UDP, has_ports};

/// Numbers divided at some of them. All numbers between two cuts are one value of an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::import) struct Cuts {
    /// First number of each value, ascending; the first one is 0.
    starts: Vec<u128>,
    max: u128,
}

impl Cuts {
    fn new(max: u128, spans: impl IntoIterator<Item = Interval>) -> Self {
        let mut starts = vec![0];
        for (first, last) in spans {
            starts.push(first);
            if last < max {
                starts.push(last + 1);
            }
        }
        starts.sort_unstable();
        starts.dedup();
        Self { starts, max }
    }

    fn index(&self, number: u128) -> u64 {
        let after = self.starts.partition_point(|start| *start <= number);
        after.saturating_sub(1) as u64
    }

    /// Reports whether a span starts and ends at cuts.
    fn has(&self, (first, last): Interval) -> bool {
        let is_cut = |number: u128| self.starts.binary_search(&number).is_ok();
        is_cut(first) && (last >= self.max || is_cut(last + 1))
    }

    /// Returns the values of a span that starts and ends at cuts.
    pub(in crate::import) fn run(&self, (first, last): Interval) -> Run {
        (self.index(first), self.index(last))
    }

    /// Returns the numbers of a run of values.
    pub(in crate::import) fn span(&self, (first, last): Run) -> Interval {
        let start = |index: u64| usize::try_from(index).ok().and_then(|i| self.starts.get(i));
        let end = start(last + 1).map_or(self.max, |next| next - 1);
        (start(first).copied().unwrap_or(0), end)
    }
}

/// States in the order of their values.
pub(in crate::import) const STATES: [CtState; 5] = [
    CtState::New,
    CtState::Established,
    CtState::Related,
    CtState::Invalid,
    CtState::Untracked,
];

/// A protocol number for experimentation and testing (RFC 3692), for protocols that nobody names.
pub(in crate::import) const SOME_PROTOCOL: u8 = 253;

/// All axes, in the order of their variables.
#[derive(Debug, Clone)]
pub(in crate::import) struct Axes {
    pub family: Family,
    pub state: Axis,
    pub source: Axis,
    pub interface: Axis,
    pub protocol: Axis,
    pub port: Axis,
    pub icmp: Axis,
    pub from_port: Axis,
    pub destination: Axis,
    pub out: Axis,
    pub hop_limit: Axis,
    pub flags: Axis,
    /// Whether the route to the source leaves through the input interface.
    pub reverse_path: Axis,
    /// The published port that a connection was redirected by; 0 for none.
    pub published: Axis,
    pub sources: Cuts,
    pub destinations: Cuts,
    pub ports: Cuts,
    pub from_ports: Cuts,
    /// Whether a rule names ports from 1, so that it is not about port 0.
    pub leaves_out_port_0: bool,
    /// ICMP type and code as one number.
    pub icmps: Cuts,
    pub hop_limits: Cuts,
    /// A name for each class of input interfaces.
    pub interfaces: Vec<String>,
    /// A name for each class of output interfaces.
    pub outs: Vec<String>,
    pub protocols: Vec<u8>,
    /// First variable of the last axis.
    last: u32,
}

/// The name of the loopback interface.
pub(in crate::import) const LO: &str = "lo";

impl Axes {
    /// Creates the axes for these values.
    pub(in crate::import) fn new(family: Family, mentioned: &Mentioned) -> Self {
        let max = highest(family);
        let ports = |list: &[(u16, u16)]| {
            let spans = list.iter().map(|(a, b)| (u128::from(*a), u128::from(*b)));
            Cuts::new(u128::from(u16::MAX), spans.chain([(0, 0)]))
        };
        let icmps = mentioned
            .icmp
            .iter()
            .map(|(kind, code)| icmp_span(*kind, *code));
        let hops = mentioned.hop_limits.iter();
        let special = special(family).into_iter();
        let sources = Cuts::new(
            max,
            mentioned.sources.iter().copied().chain(special.clone()),
        );
        let destinations = mentioned.destinations.iter().copied().chain(special);
        let destinations = Cuts::new(max, destinations);
        let mut named = mentioned.ports.iter().chain(&mentioned.source_ports);
        let leaves_out_port_0 = named.any(|(first, _)| *first == 1);
        let (from_ports, ports) = (ports(&mentioned.source_ports), ports(&mentioned.ports));
        let icmps = Cuts::new(u128::from(u16::MAX), icmps.chain([(0, 0)]));
        let hops = hops.map(|(a, b)| (u128::from(*a), u128::from(*b)));
        let hop_limits = Cuts::new(u128::from(u8::MAX), hops);
        let mut interfaces = classes_of(&mentioned.interfaces);
        if !interfaces.iter().any(|name| name == LO) {
            interfaces.insert(0, LO.to_owned());
        }
        let outs = classes_of(&mentioned.outs);
        let protocols = protocols(family, mentioned);
        let next = &mut 0;
        Self {
            family,
            leaves_out_port_0,
            source: Axis::new(next, sources.starts.len()),
            interface: Axis::new(next, interfaces.len()),
            protocol: Axis::new(next, protocols.len()),
            port: Axis::new(next, ports.starts.len()),
            icmp: Axis::new(next, icmps.starts.len()),
            from_port: Axis::new(next, from_ports.starts.len()),
            destination: Axis::new(next, destinations.starts.len()),
            out: Axis::new(next, outs.len()),
            state: Axis::new(next, STATES.len()),
            hop_limit: Axis::new(next, hop_limits.starts.len()),
            flags: Axis::new(next, 256),
            reverse_path: Axis::new(next, 2),
            last: *next,
            published: Axis::new(next, 1),
            sources,
            destinations,
            ports,
            from_ports,
            icmps,
            hop_limits,
            interfaces,
            outs,
            protocols,
        }
    }

    /// Reports whether these values are told apart.
    pub(in crate::import) fn know(&self, mentioned: &Mentioned) -> bool {
        let ports = |cuts: &Cuts, list: &[(u16, u16)]| wide(list).all(|span| cuts.has(span));
        let hops = mentioned.hop_limits.iter();
        let mut hops = hops.map(|(a, b)| (u128::from(*a), u128::from(*b)));
        let mut icmps = mentioned
            .icmp
            .iter()
            .map(|(kind, code)| icmp_span(*kind, *code));
        let tells = |names: &[String], pattern: &InterfacePattern| {
            // An interface that only this pattern names needs a class of its own.
            pattern
                .exact()
                .is_some_and(|exact| names.iter().any(|name| name == exact))
        };
        mentioned.sources.iter().all(|span| self.sources.has(*span))
            && mentioned
                .destinations
                .iter()
                .all(|span| self.destinations.has(*span))
            && ports(&self.ports, &mentioned.ports)
            && ports(&self.from_ports, &mentioned.source_ports)
            && icmps.all(|span| self.icmps.has(span))
            && hops.all(|span| self.hop_limits.has(span))
            && mentioned
                .protocols
                .iter()
                .all(|number| self.protocols.contains(number))
            && mentioned
                .interfaces
                .iter()
                .all(|pattern| tells(&self.interfaces, pattern))
            && mentioned
                .outs
                .iter()
                .all(|pattern| tells(&self.outs, pattern))
    }

    /// Makes room for this number of published ports. Earlier sets stay valid.
    pub(in crate::import) fn set_published(&mut self, count: usize) {
        self.published = Axis::new(&mut self.last.clone(), count + 1);
    }

    /// Returns the axes of services, with source ports and destinations.
    pub(in crate::import) fn services(&self) -> [Axis; 5] {
        [
            self.protocol,
            self.port,
            self.icmp,
            self.from_port,
            self.destination,
        ]
    }

    /// Returns all axes except the state.
    pub(super) fn all_but_state(&self) -> [Axis; 12] {
        [
            self.source,
            self.interface,
            self.protocol,
            self.port,
            self.icmp,
            self.from_port,
            self.destination,
            self.out,
            self.hop_limit,
            self.flags,
            self.reverse_path,
            self.published,
        ]
    }

    /// Returns the family's ICMP.
    pub(in crate::import) fn icmp_protocol(&self) -> u8 {
        match self.family {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        }
    }

    pub(in crate::import) fn states(&self, d: &mut Diagrams, states: &[CtState]) -> PacketSet {
        let indices = (0..).zip(STATES);
        let runs = indices.filter(|(_, state)| states.contains(state));
        let runs: Vec<Run> = runs.map(|(index, _)| (index, index)).collect();
        d.in_runs(self.state, &runs)
    }

    pub(in crate::import) fn sources(&self, d: &mut Diagrams, spans: &[Interval]) -> PacketSet {
        d.in_runs(self.source, &self.source_runs(spans))
    }

    /// Returns the values of source addresses, ascending and disjoint.
    pub(in crate::import) fn source_runs(&self, spans: &[Interval]) -> Vec<Run> {
        runs(&self.sources, spans.iter().copied())
    }

    pub(in crate::import) fn destinations(
        &self,
        d: &mut Diagrams,
        spans: &[Interval],
    ) -> PacketSet {
        d.in_runs(
            self.destination,
            &runs(&self.destinations, spans.iter().copied()),
        )
    }

    pub(in crate::import) fn interfaces(
        &self,
        d: &mut Diagrams,
        patterns: &[InterfacePattern],
    ) -> PacketSet {
        d.in_runs(self.interface, &matching(&self.interfaces, patterns))
    }

    pub(in crate::import) fn outs(
        &self,
        d: &mut Diagrams,
        patterns: &[InterfacePattern],
    ) -> PacketSet {
        d.in_runs(self.out, &matching(&self.outs, patterns))
    }

    /// Returns the packets of these protocols; `SOME_PROTOCOL` is every one that nobody names.
    pub(in crate::import) fn protocols(
        &self,
        d: &mut Diagrams,
        wanted: impl Fn(u8) -> bool,
    ) -> PacketSet {
        let indices = (0..).zip(&self.protocols);
        let runs = indices.filter(|(_, number)| wanted(**number));
        let runs: Vec<Run> = runs.map(|(index, _)| (index, index)).collect();
        d.in_runs(self.protocol, &runs)
    }

    pub(in crate::import) fn with_ports(&self, d: &mut Diagrams) -> PacketSet {
        self.protocols(d, has_ports)
    }

    pub(in crate::import) fn sent_to(&self, d: &mut Diagrams, ranges: &[(u16, u16)]) -> PacketSet {
        let ports = d.in_runs(self.port, &runs(&self.ports, wide(ranges)));
        let with_ports = self.with_ports(d);
        d.and(ports, with_ports)
    }

    pub(in crate::import) fn sent_from(
        &self,
        d: &mut Diagrams,
        ranges: &[(u16, u16)],
    ) -> PacketSet {
        let ports = d.in_runs(self.from_port, &runs(&self.from_ports, wide(ranges)));
        let with_ports = self.with_ports(d);
        d.and(ports, with_ports)
    }

    pub(in crate::import) fn icmp(
        &self,
        d: &mut Diagrams,
        kinds: &[(u8, Option<u8>)],
    ) -> PacketSet {
        let spans = kinds.iter().map(|(kind, code)| icmp_span(*kind, *code));
        let kinds = d.in_runs(self.icmp, &runs(&self.icmps, spans));
        let icmp = self.protocols(d, |number| number == self.icmp_protocol());
        d.and(kinds, icmp)
    }

    pub(in crate::import) fn hop_limits(&self, d: &mut Diagrams, first: u8, last: u8) -> PacketSet {
        if first > last {
            return PacketSet::NONE;
        }
        let span = (u128::from(first), u128::from(last));
        d.in_runs(self.hop_limit, &[self.hop_limits.run(span)])
    }

    /// Returns the TCP packets with exactly the flags `wanted` of those in `mask`.
    pub(in crate::import) fn flags(&self, d: &mut Diagrams, mask: u8, wanted: u8) -> PacketSet {
        let fits = (0u8..=255).filter(|flags| flags & mask == wanted);
        let runs: Vec<Run> = fits.map(|flags| (flags.into(), flags.into())).collect();
        let flags = d.in_runs(self.flags, &runs);
        let tcp = self.protocols(d, |number| number == TCP);
        d.and(flags, tcp)
    }

    pub(in crate::import) fn published(&self, d: &mut Diagrams, index: usize) -> PacketSet {
        d.in_runs(self.published, &[(index as u64, index as u64)])
    }

    /// Returns packets of connections that were not redirected.
    pub(in crate::import) fn direct(&self, d: &mut Diagrams) -> PacketSet {
        self.published(d, 0)
    }
}

/// Returns the highest address as a number.
pub(in crate::import) fn highest(family: Family) -> u128 {
    match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    }
}

pub(in crate::import) fn net(text: &str) -> Interval {
    text.parse().map_or((1, 0), addr::bounds)
}

/// Returns the networks that the kernel treats in its own way.
pub(in crate::import) fn special(family: Family) -> Vec<Interval> {
    let nets: &[&str] = match family {
        Family::V4 => &[
            "0.0.0.0/8",
            "0.0.0.0/32",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "255.255.255.255/32",
        ],
        Family::V6 => &[
            "::/128",
            "::1/128",
            "::ffff:0.0.0.0/96",
            "fe80::/10",
            "ff00::/8",
        ],
    };
    nets.iter().map(|text| net(text)).collect()
}

fn icmp_span(kind: u8, code: Option<u8>) -> Interval {
    let first = u128::from(kind) << 8;
    match code {
        Some(code) => (first | u128::from(code), first | u128::from(code)),
        None => (first, first | 0xff),
    }
}

fn wide(ranges: &[(u16, u16)]) -> impl Iterator<Item = Interval> {
    ranges.iter().map(|(a, b)| (u128::from(*a), u128::from(*b)))
}

/// Returns the values of spans, ascending and disjoint.
fn runs(cuts: &Cuts, spans: impl Iterator<Item = Interval>) -> Vec<Run> {
    let mut found: Vec<Run> = spans
        .filter(|(first, last)| first <= last)
        .map(|span| cuts.run(span))
        .collect();
    found.sort_unstable();
    let mut joined: Vec<Run> = Vec::with_capacity(found.len());
    for (first, last) in found {
        match joined.last_mut() {
            Some(previous) if first <= previous.1 + 1 => previous.1 = previous.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

fn matching(names: &[String], patterns: &[InterfacePattern]) -> Vec<Run> {
    let fits = |name: &String| patterns.iter().any(|pattern| pattern.matches(name));
    let indices = (0..).zip(names).filter(|(_, name)| fits(name));
    indices.map(|(index, _)| (index, index)).collect()
}

/// Returns one interface for each way in which patterns can match. The last one matches none, if
/// such a name exists.
fn classes_of(patterns: &BTreeSet<InterfacePattern>) -> Vec<String> {
    let fits = |name: &str| -> Vec<bool> { patterns.iter().map(|p| p.matches(name)).collect() };
    let other = ["eth0", "ens3", "other0", "zz0"];
    let other = other.into_iter().find(|name| !fits(name).contains(&true));
    // A prefix also matches names that no other pattern does, whatever its example is.
    let longer = patterns.iter().flat_map(|pattern| {
        let prefix = match pattern {
            InterfacePattern::Prefix(prefix) => Some(prefix),
            InterfacePattern::Exact(_) => None,
        };
        let prefix = prefix.filter(|prefix| prefix.len() < NAME_MAX_BYTES);
        let ends = ('0'..='9').chain('a'..='z');
        prefix.into_iter().flat_map(move |prefix| {
            let ends = ends.clone();
            ends.map(move |end| format!("{prefix}{end}"))
        })
    });
    let names = patterns.iter().map(InterfacePattern::example).chain(longer);
    let mut seen = BTreeSet::new();
    let mut found: Vec<String> = Vec::new();
    for name in names.chain(other.map(str::to_owned)) {
        if seen.insert(fits(&name)) {
            found.push(name);
        }
    }
    found
}

fn protocols(family: Family, mentioned: &Mentioned) -> Vec<u8> {
    let icmp = match family {
        Family::V4 => ICMP,
        Family::V6 => ICMPV6,
    };
    let mut found = vec![TCP, UDP, icmp];
    for number in &mentioned.protocols {
        if !found.contains(number) && *number != SOME_PROTOCOL {
            found.push(*number);
        }
    }
    found.push(SOME_PROTOCOL);
    found
}

/// Returns an address of a span as the source or destination of an example.
pub(in crate::import) fn address_in(family: Family, (first, last): Interval) -> IpAddr {
    // The first address of a network does not belong to a host.
    let number = if last - first > 1 { first + 1 } else { first };
    addr::address(family, number)
}
