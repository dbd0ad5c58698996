//! The packets that can arrive at a hook, and what conditions of rules mean there.

use super::axes::{Axes, LO, net};
use super::diagram::{Diagrams, PacketSet, Run};
use super::own::{loopback, multicast};
use crate::import::rule::{AddressKind, Condition, Interval, MarkTest, Test};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Hook};
use crate::net::port::TCP;
use crate::policy::icmp;

/// A port that the NAT table publishes: connections to it on this host are redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::import) struct Published {
    /// Protocol.
    pub protocol: u8,
    /// Original destination ports.
    pub dialled: (u16, u16),
    /// Original destination address, if the rule is for one address of this host.
    pub address: Option<std::net::IpAddr>,
    /// New destinations, of which the kernel chooses one; `None` for the address of this host that
    /// the packet came to.
    pub to: Option<Interval>,
    /// Hook that the connections come to.
    pub hook: Hook,
    /// New destination ports.
    pub port: (u16, u16),
    /// Line of the rule.
    pub at: crate::import::rule::At,
}

impl Published {
    /// Reports whether the original ports are in one of these ranges, which contain all or none.
    pub(in crate::import) fn is_dialled_in(&self, ranges: &[(u16, u16)]) -> bool {
        let (first, last) = self.dialled;
        ranges.iter().any(|(a, b)| *a <= first && last <= *b)
    }
}

/// A hook, or prerouting before it.
#[derive(Debug, Clone)]
pub(in crate::import) struct Place<'a> {
    pub axes: &'a Axes,
    pub hook: Hook,
    /// Addresses of this host, or all that it may have.
    pub own: Vec<Interval>,
    /// Broadcast addresses of this host's networks.
    pub broadcasts: Vec<Interval>,
    /// Addresses of routers of this host's networks.
    pub anycasts: Vec<Interval>,
    /// Addresses that are certainly this host's.
    pub named: Vec<Interval>,
    /// Published ports, by their values on the axis, from 1.
    pub published: &'a [Published],
    /// Sources and interfaces of the connections to each published port.
    pub guards: Vec<PacketSet>,
    /// Packets that are redirected before they arrive here.
    pub diverted: PacketSet,
    /// Packets that certainly meet tests of their marks.
    pub marked: &'a [(MarkTest, PacketSet)],
    /// Conditions of rules that may exempt packets from connection tracking.
    pub untracked: &'a [Vec<Condition>],
    /// Values of the sources that are evaluated; `None` for all.
    pub slice: Option<Run>,
}

impl Place<'_> {
    fn on_lo(&self, d: &mut Diagrams) -> PacketSet {
        self.axes
            .interfaces(d, &[InterfacePattern::Exact(LO.into())])
    }

    /// Returns the packets that can be there: what the kernel drops in any case is left out
    /// (`ip_route_input_slow()`, `ip6_rcv_core()`), and so are states that connection tracking does
    /// not give.
    pub(in crate::import) fn valid(&self, d: &mut Diagrams, is_untracked: bool) -> PacketSet {
        let parts = [
            self.headers(d),
            self.routes(d),
            self.tracking(d, is_untracked),
            self.redirects(d),
        ];
        parts
            .into_iter()
            .fold(PacketSet::ALL, |all, part| d.and(all, part))
    }

    /// Returns packets whose fields belong to their protocol. Other fields have the value 0.
    fn headers(&self, d: &mut Diagrams) -> PacketSet {
        let axes = self.axes;
        let with_ports = axes.with_ports(d);
        let zero = d.in_runs(axes.port, &[(0, 0)]);
        let zero_from = d.in_runs(axes.from_port, &[(0, 0)]);
        let no_ports = d.and(zero, zero_from);
        // Port 0 is left out: a policy cannot name it.
        let some_ports = d.not(zero);
        let ports = choose(d, with_ports, some_ports, no_ports);
        let icmp = axes.protocols(d, |number| number == axes.icmp_protocol());
        let no_kind = d.in_runs(axes.icmp, &[(0, 0)]);
        let kinds = choose(d, icmp, PacketSet::ALL, no_kind);
        let tcp = axes.protocols(d, |number| number == TCP);
        let no_flags = d.in_runs(axes.flags, &[(0, 0)]);
        let flags = choose(d, tcp, PacketSet::ALL, no_flags);
        let headers = d.and(ports, kinds);
        d.and(headers, flags)
    }

    fn routes(&self, d: &mut Diagrams) -> PacketSet {
        let axes = self.axes;
        let family = axes.family;
        let lo = self.on_lo(d);
        let from_loopback = axes.sources(d, &[loopback(family)]);
        let to_loopback = axes.destinations(d, &[loopback(family)]);
        let multicast_source = axes.sources(d, &[multicast(family)]);
        let multicast = axes.destinations(d, &[multicast(family)]);
        let mut bad = multicast_source;
        let loops = d.or(from_loopback, to_loopback);
        let outside = d.without(loops, lo);
        bad = d.or(bad, outside);
        let broadcast = axes.destinations(d, &self.broadcasts);
        let mut many = d.or(multicast, broadcast);
        // Hosts without an address yet ask everybody, and 0.0.0.0 is everybody for them alone. Since
        // Linux 5.3, other sources in 0.0.0.0/8 are ordinary ones, and by IPv6, `::` is one.
        if family == Family::V4 {
            let limited = net("255.255.255.255/32");
            let impossible = axes.sources(d, &[limited]);
            let zero = net("0.0.0.0/32");
            let unnamed = axes.sources(d, &[zero]);
            let limited = axes.destinations(d, &[limited]);
            let to_zero = axes.destinations(d, &[zero]);
            let everybody = d.or(limited, multicast);
            let everybody = d.or(everybody, to_zero);
            let wrong = d.without(unnamed, everybody);
            many = d.or(many, to_zero);
            let to_nobody = d.without(to_zero, unnamed);
            for part in [impossible, wrong, to_nobody] {
                bad = d.or(bad, part);
            }
        }
        // Connections have two ends.
        let tcp = axes.protocols(d, |number| number == TCP);
        let tcp_to_many = d.and(tcp, many);
        bad = d.or(bad, tcp_to_many);
        let own = axes.destinations(d, &self.own);
        let routers = axes.destinations(d, &self.anycasts);
        let own = d.or(own, routers);
        let here = d.or(own, many);
        let here = d.or(here, to_loopback);
        let there = match self.hook {
            Hook::Input => here,
            Hook::Forward => self.elsewhere(d, many, to_loopback, lo),
        };
        d.without(there, bad)
    }

    /// Returns packets that may be forwarded.
    fn elsewhere(
        &self,
        d: &mut Diagrams,
        many: PacketSet,
        to_loopback: PacketSet,
        lo: PacketSet,
    ) -> PacketSet {
        let axes = self.axes;
        let (unusable, link_local): (&[&str], Option<&str>) = match axes.family {
            Family::V4 => (&["0.0.0.0/32"], None),
            // IPv4-mapped addresses are forwarded as others.
            Family::V6 => (&["::/128"], Some("fe80::/10")),
        };
        let mut not = d.or(many, to_loopback);
        let unusable: Vec<Interval> = unusable.iter().map(|text| net(text)).collect();
        for part in [
            axes.destinations(d, &unusable),
            axes.sources(d, &unusable),
            lo,
        ] {
            not = d.or(not, part);
        }
        if let Some(link_local) = link_local.map(net) {
            for part in [
                axes.destinations(d, &[link_local]),
                axes.sources(d, &[link_local]),
            ] {
                not = d.or(not, part);
            }
        }
        let named = axes.destinations(d, &self.named);
        not = d.or(not, named);
        d.not(not)
    }

    /// Returns packets in the states that connection tracking gives to their kind
    /// (`nf_conntrack_proto_*.c`).
    fn tracking(&self, d: &mut Diagrams, is_untracked: bool) -> PacketSet {
        use CtState::{Established, Invalid, New, Related, Untracked};
        let axes = self.axes;
        let mut found = PacketSet::NONE;
        let with_ports = axes.with_ports(d);
        let icmp = axes.protocols(d, |number| number == axes.icmp_protocol());
        let either = d.or(with_ports, icmp);
        let others = d.not(either);
        let mut of_ports = vec![New, Established, Related, Invalid];
        if is_untracked {
            of_ports.push(Untracked);
        }
        let exempt = self.exempt(d);
        let mut add = |d: &mut Diagrams, packets: PacketSet, states: &[CtState]| {
            let states = axes.states(d, states);
            let part = d.and(packets, states);
            found = d.or(found, part);
        };
        add(d, with_ports, &of_ports);
        add(d, others, &[New, Established]);
        add(d, exempt, &[Untracked]);
        for kind in 0..=u8::MAX {
            let packets = axes.icmp(d, &[(kind, None)]);
            let states: &[CtState] = match (axes.family, kind) {
                (Family::V4, 8 | 13 | 15 | 17) | (Family::V6, 128) => &[New, Established],
                (Family::V4, 0 | 14 | 16 | 18) | (Family::V6, 129) => &[Established, Invalid],
                (Family::V6, 130..=137 | 143) => &[Untracked],
                (family, _) if icmp::errors(family).contains(&kind) => &[Related, Invalid],
                _ => &[Invalid],
            };
            add(d, packets, states);
        }
        found
    }

    /// Returns packets that rules may exempt from connection tracking: conditions that cannot be
    /// told are taken as met.
    fn exempt(&self, d: &mut Diagrams) -> PacketSet {
        let mut found = PacketSet::NONE;
        for conditions in self.untracked {
            let mut packets = PacketSet::ALL;
            // Before connection tracking, no packet has a state.
            let stateless = |condition: &&Condition| !matches!(condition.test, Test::State { .. });
            for condition in conditions.iter().filter(stateless) {
                if let Some(met) = self.condition(d, condition) {
                    packets = d.and(packets, met);
                }
            }
            found = d.or(found, packets);
        }
        found
    }

    /// Returns the packets in any state that rules may exempt from connection tracking, if the set
    /// has them without a state: the kernel then never sees another one.
    pub(super) fn if_exempt(&self, d: &mut Diagrams, set: PacketSet) -> PacketSet {
        if self.untracked.is_empty() {
            return PacketSet::NONE;
        }
        let exempt = self.exempt(d);
        let untracked = self.axes.states(d, &[CtState::Untracked]);
        let found = d.and(exempt, untracked);
        let found = d.and(found, set);
        let found = d.project(found, &self.axes.all_but_state());
        d.and(exempt, found)
    }

    /// Returns packets of connections that were not redirected, and the first ones of those that
    /// were.
    fn redirects(&self, d: &mut Diagrams) -> PacketSet {
        let axes = self.axes;
        let direct = axes.direct(d);
        let mut found = d.without(direct, self.diverted);
        let new = axes.states(d, &[CtState::New]);
        for (index, (port, guard)) in self.published.iter().zip(&self.guards).enumerate() {
            if port.hook != self.hook {
                continue;
            }
            let mut packets = axes.published(d, index + 1);
            packets = d.and(packets, new);
            packets = d.and(packets, *guard);
            let protocol = axes.protocols(d, |number| number == port.protocol);
            packets = d.and(packets, protocol);
            let ports = axes.sent_to(d, &[port.port]);
            packets = d.and(packets, ports);
            let to = match port.to {
                Some(to) => vec![to],
                None => self.own.clone(),
            };
            let to = axes.destinations(d, &to);
            packets = d.and(packets, to);
            found = d.or(found, packets);
        }
        found
    }

    /// Returns the packets of the slice with these sources, which are ascending and disjoint.
    pub(super) fn sources(&self, d: &mut Diagrams, runs: &[Run]) -> PacketSet {
        let Some((start, end)) = self.slice else {
            return d.in_runs(self.axes.source, runs);
        };
        let from = runs.partition_point(|(_, last)| *last < start);
        let to = runs.partition_point(|(first, _)| *first <= end);
        let within = runs.get(from..to).unwrap_or_default().iter();
        let clip = |(first, last): &Run| ((*first).max(start), (*last).min(end));
        let within: Vec<Run> = within.map(clip).collect();
        d.in_runs(self.axes.source, &within)
    }

    /// Returns the packets that meet a condition; `None` if that cannot be told.
    pub(in crate::import) fn condition(
        &self,
        d: &mut Diagrams,
        condition: &Condition,
    ) -> Option<PacketSet> {
        let axes = self.axes;
        // A negated condition also needs the protocol's header.
        let test = &condition.test;
        let of_ports = matches!(
            test,
            Test::SourcePorts(_) | Test::DestinationPorts(_) | Test::EitherPort(_)
        );
        let header = if of_ports {
            axes.with_ports(d)
        } else if matches!(test, Test::TcpFlags(..)) {
            axes.protocols(d, |number| number == TCP)
        } else if matches!(test, Test::Icmp(_)) {
            axes.protocols(d, |number| number == axes.icmp_protocol())
        } else {
            PacketSet::ALL
        };
        let met = self.test(d, &condition.test)?;
        Some(match condition.negated {
            true => d.without(header, met),
            false => met,
        })
    }

    fn test(&self, d: &mut Diagrams, test: &Test) -> Option<PacketSet> {
        let axes = self.axes;
        Some(match test {
            Test::Source(spans) => self.sources(d, &axes.source_runs(spans)),
            Test::Destination(spans) => axes.destinations(d, spans),
            Test::In(patterns) => axes.interfaces(d, patterns),
            // A packet to this host has no output interface.
            Test::Out(_) if self.hook == Hook::Input => PacketSet::NONE,
            Test::Out(patterns) => axes.outs(d, patterns),
            Test::Protocol(numbers) => axes.protocols(d, |number| numbers.contains(&number)),
            Test::SourcePorts(ranges) => axes.sent_from(d, ranges),
            Test::DestinationPorts(ranges) => axes.sent_to(d, ranges),
            Test::EitherPort(ranges) => {
                let (from, to) = (axes.sent_from(d, ranges), axes.sent_to(d, ranges));
                d.or(from, to)
            }
            Test::TcpFlags(mask, wanted) => axes.flags(d, *mask, *wanted),
            Test::State { states, dnat } => {
                let states = axes.states(d, states);
                let direct = axes.direct(d);
                let redirected = match dnat {
                    true => d.not(direct),
                    false => PacketSet::NONE,
                };
                d.or(states, redirected)
            }
            Test::Dialled(first, last) => {
                let fits = |port: &Published| port.is_dialled_in(&[(*first, *last)]);
                let ports = axes.sent_to(d, &[(*first, *last)]);
                self.originally(d, ports, fits)
            }
            Test::DialledAddress(spans) => {
                let fits = |port: &Published| {
                    let number = port.address.map(addr::number);
                    number.is_some_and(|n| spans.iter().any(|(a, b)| (*a..=*b).contains(&n)))
                };
                let to = axes.destinations(d, spans);
                self.originally(d, to, fits)
            }
            Test::Icmp(kinds) => axes.icmp(d, kinds),
            Test::HopLimit(first, last) => axes.hop_limits(d, *first, *last),
            Test::To(kind) => self.kind_of_destination(d, *kind),
            Test::From(kind) => self.kind_of_source(d, *kind),
            Test::Any(lists) => {
                let mut any = PacketSet::NONE;
                for list in lists {
                    let mut all = PacketSet::ALL;
                    for each in list {
                        let each = self.condition(d, each)?;
                        all = d.and(all, each);
                    }
                    any = d.or(any, all);
                }
                any
            }
            Test::Rate(holds, _) | Test::Always(holds) => match holds {
                true => PacketSet::ALL,
                false => PacketSet::NONE,
            },
            Test::ReversePath(true) => self.with_reverse_path(d),
            Test::ReversePath(false) | Test::Mark(..) | Test::Unknown(_) => return None,
        })
    }

    /// Returns the packets whose sources are behind their interfaces; on `lo`, all.
    pub(super) fn with_reverse_path(&self, d: &mut Diagrams) -> PacketSet {
        let route = d.in_runs(self.axes.reverse_path, &[(1, 1)]);
        let lo = self.on_lo(d);
        d.or(route, lo)
    }

    /// Returns the packets that certainly meet a test of their marks.
    pub(super) fn marked(&self, test: MarkTest) -> PacketSet {
        let mut known = self.marked.iter();
        let found = known.find(|(of, _)| *of == test);
        found.map_or(PacketSet::NONE, |(_, packets)| *packets)
    }

    fn kind_of_destination(&self, d: &mut Diagrams, kind: AddressKind) -> PacketSet {
        let family = self.axes.family;
        match (kind, self.hook) {
            (AddressKind::Local, Hook::Forward) => PacketSet::NONE,
            (AddressKind::Local, Hook::Input) => {
                let own = self.axes.destinations(d, &self.own);
                let loopback = self.axes.destinations(d, &[loopback(family)]);
                d.or(own, loopback)
            }
            (AddressKind::Broadcast, _) => self.axes.destinations(d, &self.broadcasts),
            (AddressKind::Multicast, _) => self.axes.destinations(d, &[multicast(family)]),
        }
    }

    /// Returns the packets whose source is of a kind. Kinds that depend on addresses of this host
    /// are unknown conditions where none is known (`import::undecided`).
    fn kind_of_source(&self, d: &mut Diagrams, kind: AddressKind) -> PacketSet {
        match (kind, self.axes.family) {
            // The kernel drops packets from its own addresses (`__fib_validate_source()`) ...
            (AddressKind::Local, Family::V4) => self.on_lo(d),
            // ... but not by IPv6.
            (AddressKind::Local, Family::V6) => {
                let (lo, own) = (self.on_lo(d), self.axes.sources(d, &self.own));
                d.or(lo, own)
            }
            (AddressKind::Broadcast, Family::V4) => self.axes.sources(d, &self.broadcasts),
            (AddressKind::Broadcast, Family::V6) | (AddressKind::Multicast, _) => PacketSet::NONE,
        }
    }

    /// Returns the packets that had a destination originally: of those that were not redirected,
    /// the ones that have it, and all redirected by these published ports.
    pub(in crate::import) fn originally(
        &self,
        d: &mut Diagrams,
        now: PacketSet,
        fits: impl Fn(&Published) -> bool,
    ) -> PacketSet {
        let direct = self.axes.direct(d);
        let mut found = d.and(direct, now);
        for (index, port) in self.published.iter().enumerate() {
            if fits(port) {
                let redirected = self.axes.published(d, index + 1);
                found = d.or(found, redirected);
            }
        }
        found
    }
}

/// Returns `then` for the packets of `test`, and `otherwise` for the others.
fn choose(d: &mut Diagrams, test: PacketSet, then: PacketSet, otherwise: PacketSet) -> PacketSet {
    let yes = d.and(test, then);
    let no = d.without(otherwise, test);
    d.or(yes, no)
}
