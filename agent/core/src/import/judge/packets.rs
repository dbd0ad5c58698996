//! Random packets near the bounds of what rules name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::named;
use crate::import::Facts;
use crate::import::eval::Probe;
use crate::import::rule::{Condition, ImportedRules, Interval, KnownMark, Test};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Hook, Packet, Transport};
use crate::net::port::{ICMP, ICMPV6, TCP, UDP, has_ports};
use crate::policy::icmp;

/// A generator of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * bound as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T], other: T) -> T {
        all.get(self.below(all.len())).cloned().unwrap_or(other)
    }
}

/// Values that rules, or policies, tell apart.
#[derive(Debug, Default)]
struct Named {
    sources: BTreeSet<u128>,
    destinations: BTreeSet<u128>,
    interfaces: BTreeSet<String>,
    protocols: BTreeSet<u8>,
    ports: BTreeSet<u16>,
    from_ports: BTreeSet<u16>,
    icmp: BTreeSet<(u8, u8)>,
    hop_limits: BTreeSet<u8>,
}

/// Packets of one family.
pub(super) struct Packets<'p> {
    rules: &'p ImportedRules,
    random: Random,
    pub(super) host: IpAddr,
    broadcast: Option<IpAddr>,
    /// Addresses that rules name as this host's.
    not_forwarded: BTreeSet<u128>,
    sources: Vec<u128>,
    destinations: Vec<u128>,
    interfaces: Vec<String>,
    protocols: Vec<u8>,
    ports: Vec<u16>,
    from_ports: Vec<u16>,
    icmp: Vec<(u8, u8)>,
    hop_limits: Vec<u8>,
}

/// Returns whether a packet opens a TCP connection, as `eval` assumes it of its state.
pub(super) fn opens(packet: &Packet) -> bool {
    packet.protocol() == TCP
        && matches!(
            packet.state,
            CtState::New | CtState::Related | CtState::Untracked
        )
}

impl<'p> Packets<'p> {
    pub(super) fn new(rules: &'p ImportedRules, facts: &Facts, seed: u64) -> Option<Self> {
        let mut nets = facts.addresses.iter();
        let net = nets.find(|net| Family::of(net.addr()) == rules.family)?;
        let mut all = Named::default();
        let chains = rules.filter.values().chain(rules.nat.values());
        for rule in chains.flat_map(|chain| &chain.rules) {
            for condition in &rule.conditions {
                all.add(condition);
            }
        }
        all.add_usual(rules.family);
        Some(Self {
            rules,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            host: net.addr(),
            broadcast: (rules.family == Family::V4).then(|| net.broadcast()),
            not_forwarded: named(rules),
            sources: all.sources.into_iter().collect(),
            destinations: all.destinations.into_iter().collect(),
            interfaces: all.interfaces.into_iter().collect(),
            protocols: all.protocols.into_iter().collect(),
            ports: all.ports.into_iter().collect(),
            from_ports: all.from_ports.into_iter().collect(),
            icmp: all.icmp.into_iter().collect(),
            hop_limits: all.hop_limits.into_iter().collect(),
        })
    }

    pub(super) fn next(&mut self) -> Probe {
        let family = self.rules.family;
        let transport = self.transport();
        let hook = match self.random.one_in(3) {
            true => Hook::Forward,
            false => Hook::Input,
        };
        let to = match hook {
            Hook::Input => self.host,
            Hook::Forward => self.address(true),
        };
        let to = match (hook, self.random.below(12)) {
            (Hook::Input, 0) => self.group(),
            _ => to,
        };
        let from = self.address(false);
        let interface = self.interface();
        let mut packet = Packet::new(hook, interface, from, to, transport);
        packet.state = self.state(family, transport);
        packet.syn = opens(&packet);
        packet.to_host = to == self.host;
        packet.reverse_path = self.random.one_in(2);
        if self.random.one_in(3) {
            packet.hop_limit = self.random.of(&self.hop_limits, 64);
        }
        let out = match hook {
            Hook::Input => None,
            Hook::Forward => Some(self.interface()),
        };
        packet.out.clone_from(&out);
        Probe {
            packet,
            out,
            to_this_host: to == self.host,
            mark: KnownMark::default(),
        }
    }

    fn interface(&mut self) -> String {
        self.random.of(&self.interfaces, "eth0".to_owned())
    }

    fn address(&mut self, to: bool) -> IpAddr {
        let all = if to {
            &self.destinations
        } else {
            &self.sources
        };
        let number = match self.random.one_in(6) {
            true => self.random.of(all, 0) ^ u128::from(self.random.next() & 0xffff),
            false => self.random.of(all, 0),
        };
        addr::address(self.rules.family, number)
    }

    /// Returns an address of several hosts.
    fn group(&mut self) -> IpAddr {
        let groups: &[[u8; 4]] = &[[255; 4], [224, 0, 0, 1], [239, 1, 2, 3]];
        match self.rules.family {
            Family::V4 => self.random.of(groups, [255; 4]).into(),
            Family::V6 => IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]),
        }
    }

    fn transport(&mut self) -> Transport {
        let protocol = match self.random.one_in(12) {
            true => u8::try_from(self.random.below(256)).unwrap_or(TCP),
            false => self.random.of(&self.protocols, TCP),
        };
        let own_icmp = match self.rules.family {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        };
        if protocol == own_icmp {
            let (kind, code) = self.random.of(&self.icmp, (8, 0));
            return Transport::Icmp { kind, code };
        }
        if !has_ports(protocol) {
            return Transport::Other(protocol);
        }
        let mut port = |all: &[u16]| match self.random.one_in(8) {
            true => u16::try_from(self.random.below(65_535) + 1).unwrap_or(1),
            false => self.random.of(all, 22),
        };
        Transport::Ports {
            protocol,
            source: port(&self.from_ports),
            destination: port(&self.ports),
        }
    }

    /// Returns a state that connection tracking gives to such packets.
    fn state(&mut self, family: Family, transport: Transport) -> CtState {
        use CtState::{Established, Invalid, New, Related, Untracked};
        let all: &[CtState] = match transport {
            Transport::Ports { .. } => &[New, New, New, New, New, Established, Related, Invalid],
            Transport::Other(_) => &[New, New, Established],
            Transport::Icmp { kind, .. } => match (family, kind) {
                (Family::V4, 8 | 13 | 15 | 17) | (Family::V6, 128) => &[New, New, Established],
                (Family::V4, 0 | 14 | 16 | 18) | (Family::V6, 129) => &[Established, Invalid],
                (Family::V6, 130..=137 | 143) => &[Untracked],
                (family, _) if icmp::errors(family).contains(&kind) => &[Related, Invalid],
                _ => &[Invalid],
            },
        };
        self.random.of(all, New)
    }

    /// Reports whether the kernel lets such a packet come to the hook (`ip_route_input_slow()`,
    /// `ip6_rcv_core()`).
    pub(super) fn can_arrive(&self, probe: &Probe) -> bool {
        let packet = &probe.packet;
        let (from, to) = (packet.source, packet.destination);
        let to_zero = |from: IpAddr| from.is_ipv4() && from.is_unspecified() && from == to;
        let is_group = to.is_multicast() || is_limited(to) || to_zero(from);
        let zero = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[0] == 0,
            IpAddr::V6(address) => address.is_unspecified(),
        };
        let bad_source = from.is_loopback() || from.is_multicast() || is_limited(from);
        let unnamed = zero(from)
            && match from {
                IpAddr::V4(_) => !is_limited(to) && !to_zero(from),
                IpAddr::V6(_) => packet.protocol() != ICMPV6,
            };
        if bad_source || unnamed || to.is_loopback() || packet.interface == "lo" {
            return false;
        }
        // `eval` does not know the host's networks.
        if packet.protocol() == TCP && is_group || Some(to) == self.broadcast {
            return false;
        }
        match packet.hook {
            Hook::Input => to == self.host || is_group,
            Hook::Forward => {
                let local = |address: IpAddr| match address {
                    IpAddr::V4(_) => false,
                    IpAddr::V6(address) => address.is_unicast_link_local(),
                };
                let never = is_group || zero(to) || zero(from) || local(to) || local(from);
                !never && to != self.host && !self.not_forwarded.contains(&addr::number(to))
            }
        }
    }
}

fn is_limited(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

impl Named {
    fn add(&mut self, condition: &Condition) {
        match &condition.test {
            Test::Source(spans) => self.sources.extend(spans.iter().flat_map(edges)),
            Test::Destination(spans) | Test::DialledAddress(spans) => {
                self.destinations.extend(spans.iter().flat_map(edges));
            }
            Test::In(patterns) | Test::Out(patterns) => {
                self.interfaces
                    .extend(patterns.iter().map(InterfacePattern::example));
            }
            Test::Protocol(numbers) => self.protocols.extend(numbers.iter().take(16)),
            Test::SourcePorts(ranges) => self.from_ports.extend(ranges.iter().flat_map(port_edges)),
            Test::DestinationPorts(ranges) => self.ports.extend(ranges.iter().flat_map(port_edges)),
            Test::EitherPort(ranges) => {
                self.from_ports.extend(ranges.iter().flat_map(port_edges));
                self.ports.extend(ranges.iter().flat_map(port_edges));
            }
            Test::Dialled(first, last) => self.ports.extend(port_edges(&(*first, *last))),
            Test::Icmp(kinds) => self
                .icmp
                .extend(kinds.iter().map(|(kind, code)| (*kind, code.unwrap_or(0)))),
            Test::HopLimit(first, last) => {
                let edges = [
                    first.saturating_sub(1),
                    *first,
                    *last,
                    last.saturating_add(1),
                ];
                self.hop_limits.extend(edges);
            }
            Test::Any(lists) => lists.iter().flatten().for_each(|each| self.add(each)),
            Test::TcpFlags(..)
            | Test::State { .. }
            | Test::To(_)
            | Test::From(_)
            | Test::Rate(..)
            | Test::Always(_)
            | Test::Mark(..)
            | Test::ReversePath(_)
            | Test::Unknown(_) => {}
        }
    }

    /// Adds what policies tell apart, and values that nobody names.
    fn add_usual(&mut self, family: Family) {
        let addresses: &[&str] = match family {
            Family::V4 => &[
                "203.0.113.200",
                "8.8.8.8",
                "10.244.1.7",
                "10.42.3.9",
                "10.96.0.1",
                "172.17.0.2",
                "192.168.7.7",
                "169.254.3.4",
                "0.0.0.0",
            ],
            Family::V6 => &[
                "2001:db8:eeee::200",
                "fe80::77",
                "fd00:1::5",
                "2600::1",
                "::",
            ],
        };
        let addresses = addresses.iter().filter_map(|text| text.parse().ok());
        let numbers: Vec<u128> = addresses.map(addr::number).collect();
        self.sources.extend(&numbers);
        self.destinations.extend(&numbers);
        let interfaces = ["eth0", "ens3", "cni0", "flannel.1", "docker0", "wg0"];
        self.interfaces.extend(interfaces.map(str::to_owned));
        self.protocols.extend([TCP, UDP, ICMP, ICMPV6, 2, 47, 50]);
        self.ports.extend([
            22, 53, 67, 68, 80, 443, 546, 547, 4789, 8285, 8472, 30_000, 51_820,
        ]);
        self.from_ports.extend([53, 67, 40_000]);
        let kinds = (0..=u8::MAX).filter(|kind| icmp::name(family, *kind).is_some());
        self.icmp.extend(kinds.map(|kind| (kind, 0)));
        self.icmp.insert((3, 4));
        self.hop_limits.extend([1, 64, 254, 255]);
    }
}

fn edges((first, last): &Interval) -> [u128; 4] {
    [
        first.saturating_sub(1),
        *first,
        *last,
        last.saturating_add(1),
    ]
}

fn port_edges((first, last): &(u16, u16)) -> impl Iterator<Item = u16> {
    let edges = [
        first.saturating_sub(1),
        *first,
        *last,
        last.saturating_add(1),
    ];
    edges.into_iter().filter(|port| *port != 0)
}
