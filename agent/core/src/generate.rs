//! Random policies, packets and rulesets for property tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;

use crate::diagnostic::{Place, Sources};
use crate::net::interface::InterfacePattern;
use crate::net::packet::{CtState, Dialled, Hook, Packet, Transport};
use crate::net::port::{PortRange, PortSpec, TCP, UDP};
use crate::policy::{
    Address, Allow, Denied, Discovery, End, Facing, Group, Icmp, IcmpTypes, Log, Mode, Options,
    Overlay, OverlayBackend, Peer, Policy, Rate, RateUnit, Source, Target, TemporaryPeer, Tunnel,
};

const INTERFACES: [&str; 7] = ["lo", "eth0", "eth1", "cni0", "flannel.1", "wg0", "cali0"];

fn place() -> Place {
    let file = Sources::default().add("generated", "");
    Place { file, span: 0..0 }
}

/// Generates addresses of a few networks, so that packets match policies.
pub fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4, 0u8..8).prop_map(|(c, d)| IpAddr::V4(Ipv4Addr::new(10, 0, c, d))),
        (0u16..4, 0u16..8)
            .prop_map(|(c, d)| { IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, c, 0, 0, 0, d)) }),
        Just(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    (address(), 0u8..=128).prop_map(|(ip, len)| {
        let len = match ip {
            IpAddr::V4(_) => [32, 32, 31, 30, 29, 24, 22, 0][usize::from(len % 8)],
            IpAddr::V6(_) => [128, 128, 127, 125, 64, 62, 32, 0][usize::from(len % 8)],
        };
        IpNet::new(ip, len)
            .expect("lengths are within the family's")
            .trunc()
    })
}

fn addresses() -> impl Strategy<Value = Vec<Address>> {
    prop::collection::vec(net(), 1..5).prop_map(|nets| {
        nets.into_iter()
            .map(|net| Address {
                net,
                place: place(),
            })
            .collect()
    })
}

fn pattern() -> impl Strategy<Value = InterfacePattern> {
    prop_oneof![
        prop::sample::select(&INTERFACES[1..])
            .prop_map(|name| InterfacePattern::Exact(name.into())),
        prop::sample::select(vec!["cali", "eth", "flannel."])
            .prop_map(|p| InterfacePattern::Prefix(p.into())),
    ]
}

fn patterns(min: usize) -> impl Strategy<Value = Vec<InterfacePattern>> {
    prop::collection::btree_set(pattern(), min..3).prop_map(|set| set.into_iter().collect())
}

/// Generates a few ports, including the limits of the range.
fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![
        1, 22, 53, 67, 68, 80, 81, 546, 8285, 8472, 30080, 51820, 65534, 65535,
    ])
}

fn port_spec() -> impl Strategy<Value = PortSpec> {
    prop_oneof![
        4 => (
            port(),
            port(),
            prop::sample::select(vec![vec![TCP], vec![UDP], vec![TCP, UDP], vec![132]]),
        ).prop_map(
            |(a, b, protocols)| PortSpec {
                protocols,
                range: Some(PortRange { first: a.min(b), last: a.max(b) }),
            }
        ),
        1 => prop::sample::select(vec![50u8, 47, 4, TCP])
            .prop_map(|p| PortSpec { protocols: vec![p], range: None }),
    ]
}

fn sources(groups: usize) -> impl Strategy<Value = Vec<Source>> {
    let one = prop_oneof![
        Just(Source::Any),
        net().prop_map(Source::Net),
        (0..groups.max(1)).prop_map(|i| Source::Group(format!("g{i}"))),
    ];
    prop::collection::vec(one, 1..4)
}

fn allow(groups: usize) -> impl Strategy<Value = Allow> {
    let specs = |some| prop::option::weighted(some, prop::collection::vec(port_spec(), 1..4));
    let limit = prop::option::weighted(0.1, Just(WIDE_LIMIT));
    (
        specs(0.9),
        specs(0.2),
        sources(groups),
        targets(groups),
        limit,
        patterns(0),
    )
        .prop_map(|(ports, from_ports, from, to, limit, interfaces)| Allow {
            name: String::new(),
            place: place(),
            ports,
            from_ports,
            from,
            to,
            limit,
            interfaces,
        })
}

/// Rate that no test exceeds. Rate limits are tested separately.
const WIDE_LIMIT: Rate = Rate {
    count: 1_000_000,
    unit: RateUnit::Second,
    burst: 1_000_000,
};

/// Generates targets. Their overlays are `o0` and `o1`, which may not exist.
fn targets(groups: usize) -> impl Strategy<Value = Vec<Target>> {
    let one = prop_oneof![
        3 => Just(Target::Host),
        2 => net().prop_map(Target::Net),
        1 => (0..groups.max(1)).prop_map(|i| Target::Group(format!("g{i}"))),
        1 => (0usize..2).prop_map(|i| Target::Overlay(format!("o{i}"))),
    ];
    prop::collection::vec(one, 1..3)
}

/// Facts of an overlay other than its backend and its subnets.
#[derive(Debug, Clone)]
struct OnHost {
    interfaces: Vec<InterfacePattern>,
    tunnels: Vec<bool>,
    lans: Vec<bool>,
    routed: Vec<(String, IpNet)>,
    peer_macs: Vec<[u8; 6]>,
    carved: Vec<IpNet>,
    tunnel_from: Vec<Source>,
}

fn on_host() -> impl Strategy<Value = OnHost> {
    let flags = || prop::collection::vec(any::<bool>(), 3);
    let route = (prop::sample::select(&INTERFACES[1..4]), net());
    (
        patterns(1),
        flags(),
        flags(),
        prop::collection::vec(route, 0..3),
        prop::collection::vec(mac(), 0..2),
        prop::collection::vec(net(), 0..2),
        prop_oneof![2 => Just(Vec::new()), 1 => sources(0)],
    )
        .prop_map(
            |(interfaces, tunnels, lans, routed, peer_macs, carved, tunnel_from)| OnHost {
                interfaces,
                tunnels,
                lans,
                routed: routed
                    .into_iter()
                    .map(|(i, net)| (i.to_owned(), net))
                    .collect(),
                peer_macs,
                carved,
                tunnel_from,
            },
        )
}

fn mac() -> impl Strategy<Value = [u8; 6]> {
    (0u8..3).prop_map(|last| [2, 0, 0, 0, 0, last])
}

fn chosen(patterns: &[InterfacePattern], flags: &[bool]) -> Vec<InterfacePattern> {
    let pairs = patterns.iter().zip(flags);
    let chosen = pairs.filter(|(_, chosen)| **chosen);
    chosen.map(|(pattern, _)| pattern.clone()).collect()
}

fn overlay() -> impl Strategy<Value = Overlay> {
    let backend = prop::sample::select(vec![
        (
            OverlayBackend::Vxlan,
            Some(Tunnel::Udp(PortRange::one(8472))),
        ),
        (
            OverlayBackend::Wireguard,
            Some(Tunnel::Udp(PortRange {
                first: 51820,
                last: 51821,
            })),
        ),
        (OverlayBackend::Ipip, Some(Tunnel::Protocol(4))),
        (OverlayBackend::HostGw, None),
        (OverlayBackend::None, None),
    ]);
    (backend, addresses(), on_host()).prop_map(|((backend, tunnel), subnets, on_host)| Overlay {
        name: String::new(),
        place: place(),
        backend,
        tunnel,
        subnets,
        discovery: Discovery::Written,
        direct: false,
        link: None,
        tunnel_side: match backend.is_tunnelled() {
            true => chosen(&on_host.interfaces, &on_host.tunnels),
            false => Vec::new(),
        },
        lan_side: chosen(&on_host.interfaces, &on_host.lans),
        interfaces: on_host.interfaces,
        by_route: true,
        underlay: Vec::new(),
        routed: on_host.routed,
        unmasqueraded: true,
        peer_macs: on_host.peer_macs,
        carved: on_host.carved,
        tunnel_from: on_host.tunnel_from,
    })
}

fn icmp_types() -> impl Strategy<Value = IcmpTypes> {
    let kinds = prop::collection::btree_set(any::<u8>(), 0..4);
    prop_oneof![
        4 => kinds.prop_map(|kinds| IcmpTypes::Some(kinds.into_iter().collect())),
        1 => Just(IcmpTypes::All),
    ]
}

fn icmp(groups: usize) -> impl Strategy<Value = Icmp> {
    let ping = prop_oneof![Just(Vec::new()), sources(groups)];
    (any::<bool>(), icmp_types(), icmp_types(), ping).prop_map(|(core, v4, v6, ping)| Icmp {
        core,
        v4,
        v6,
        ping,
        place: None,
    })
}

fn options() -> impl Strategy<Value = Options> {
    let mode = prop_oneof![
        4 => Just(Mode::Enforce),
        1 => Just(Mode::Audit),
        1 => Just(Mode::AuditAll),
    ];
    (-99i32..100, any::<bool>(), any::<bool>(), mode).prop_map(
        |(hook_priority, reject, drop_invalid, mode)| Options {
            backend: crate::policy::BackendChoice::Auto,
            cut_revoked: true,
            hook_priority,
            denied: if reject { Denied::Reject } else { Denied::Drop },
            mode,
            drop_invalid,
        },
    )
}

fn temporary_peer() -> impl Strategy<Value = TemporaryPeer> {
    (0u8..9, address(), any::<bool>()).prop_map(|(name, address, ends)| TemporaryPeer {
        name: format!("t{name}"),
        address,
        end: ends.then(|| End {
            // Kernels judge the packets, too: long after the tests.
            uptime: Duration::from_secs(1 << 30),
            time: "2060-01-01T00:00:00Z".to_owned(),
        }),
    })
}

/// Generates policies like parsed ones, including overlaps that the parser refuses; they must
/// compile correctly too.
pub fn policy() -> impl Strategy<Value = Policy> {
    (0usize..3).prop_flat_map(|groups| {
        let peers = prop::collection::vec((prop::option::of(0u8..9), addresses()), 0..4);
        // A source may have no members.
        let members = prop_oneof![1 => Just(Vec::new()), 5 => addresses()];
        let groups_list = prop::collection::vec(members, groups);
        let allows = prop::collection::vec(allow(groups), 0..4);
        let overlays = prop::collection::vec(overlay(), 0..3);
        let log = prop::option::of(Just(Log::default()));
        let exact = || {
            let names = prop::sample::select(&INTERFACES[1..]);
            let patterns = names.prop_map(|n| InterfacePattern::Exact(n.into()));
            prop::collection::vec(patterns, 0..2)
        };
        let (bridged, switches) = (exact(), exact());
        let interfaces = (patterns(0), patterns(0), bridged, switches);
        let services = prop::collection::vec(net(), 0..2);
        let temporary = prop::option::of(prop::collection::vec(temporary_peer(), 0..3));
        (
            peers,
            groups_list,
            overlays,
            allows,
            interfaces,
            icmp(groups),
            (options(), services, temporary),
            log,
        )
            .prop_map(
                |(
                    peers,
                    groups,
                    overlays,
                    allows,
                    (trusted, guests, bridged, switches),
                    icmp,
                    (options, services, temporary),
                    log,
                )| Policy {
                    peers: named_peers(peers),
                    groups: groups
                        .into_iter()
                        .enumerate()
                        .map(|(i, addresses)| Group {
                            name: format!("g{i}"),
                            place: place(),
                            addresses,
                        })
                        .collect(),
                    sources: Vec::new(),
                    overlays: overlays
                        .into_iter()
                        .enumerate()
                        .map(|(i, o)| Overlay {
                            name: format!("o{i}"),
                            ..o
                        })
                        .collect(),
                    allows: allows
                        .into_iter()
                        .enumerate()
                        .map(|(i, a)| Allow {
                            name: format!("a{i}"),
                            ..a
                        })
                        .collect(),
                    trusted,
                    guests,
                    bridged,
                    switches,
                    temporary,
                    services,
                    icmp,
                    options,
                    log,
                    expects: Vec::new(),
                    facing: Facing::default(),
                },
            )
    })
}

fn named_peers(peers: Vec<(Option<u8>, Vec<Address>)>) -> Vec<Peer> {
    let named = peers.into_iter().enumerate();
    named
        .map(|(i, (name, addresses))| Peer {
            name: name.map(|_| format!("p{i}")),
            addresses,
            is_member: false,
        })
        .collect()
}

fn transport(source: IpAddr) -> impl Strategy<Value = Transport> {
    let protocol = prop::sample::select(vec![TCP, UDP, 132]);
    let kinds = match source {
        IpAddr::V4(_) => vec![0u8, 3, 5, 8, 11, 12, 200],
        IpAddr::V6(_) => vec![1, 2, 4, 128, 129, 130, 131, 133, 134, 135, 137, 143, 200],
    };
    prop_oneof![
        6 => (protocol, port(), port()).prop_map(|(protocol, source, destination)| Transport::Ports {
            protocol,
            source,
            destination,
        }),
        2 => prop::sample::select(kinds).prop_map(|kind| Transport::Icmp { kind, code: 0 }),
        1 => prop::sample::select(vec![50u8, 47, 4, 2]).prop_map(Transport::Other),
    ]
}

/// Generates an address of the same family, sometimes loopback.
fn dialled_address(source: IpAddr) -> impl Strategy<Value = IpAddr> {
    let is_v4 = source.is_ipv4();
    let loopback = match source {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    prop_oneof![
        6 => address().prop_filter("of the same family", move |a| a.is_ipv4() == is_v4),
        1 => Just(loopback),
    ]
}

/// Generates addresses of packets, sometimes loopback or unspecified.
fn packet_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        20 => address(),
        1 => Just(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        1 => Just(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ]
}

/// Generates packets that the kernel could pass to peerwall's chains.
pub fn packet() -> impl Strategy<Value = Packet> {
    let unspecified = Just(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let source = prop_oneof![20 => packet_address(), 1 => unspecified];
    (source, packet_address()).prop_flat_map(|(source, destination)| {
        let destination = match (source, destination) {
            (IpAddr::V4(_), IpAddr::V6(_)) => IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            (IpAddr::V6(_), IpAddr::V4(_)) => {
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
            }
            (_, same) => same,
        };
        let state = prop::sample::select(vec![
            CtState::New,
            CtState::New,
            CtState::New,
            CtState::Established,
            CtState::Related,
            CtState::Invalid,
            CtState::Untracked,
        ]);
        let hook = prop::sample::select(vec![Hook::Input, Hook::Forward]);
        let interface = prop::sample::select(&INTERFACES[..]);
        let hop_limit = prop::sample::select(vec![1u8, 64, 255]);
        let out = prop::sample::select(&INTERFACES[1..]);
        let dialled = prop::option::of((dialled_address(source), port()));
        (
            (hook, interface, out, prop::option::of(mac())),
            transport(source),
            hop_limit,
            state,
            dialled,
            (any::<bool>(), any::<bool>(), any::<bool>()),
        )
            .prop_map(
                move |(
                    (hook, interface, out, mac),
                    transport,
                    hop_limit,
                    state,
                    dialled,
                    (reverse_path, to_host, syn),
                )| {
                    let tracked = !matches!(state, CtState::Invalid | CtState::Untracked);
                    let has_ports = matches!(transport, Transport::Ports { .. });
                    let dialled = dialled.filter(|_| tracked && has_ports);
                    Packet {
                        hook,
                        out: (hook == Hook::Forward).then(|| out.to_owned()),
                        mac,
                        syn,
                        // Packets from lo are never forwarded.
                        interface: if hook == Hook::Forward && interface == "lo" {
                            "eth0"
                        } else {
                            interface
                        }
                        .to_owned(),
                        source,
                        destination,
                        transport,
                        hop_limit,
                        state,
                        dialled: dialled.map(|(address, port)| Dialled { address, port }),
                        to_host: match dialled {
                            Some(_) => to_host,
                            None => hook == Hook::Input,
                        },
                        reverse_path,
                    }
                },
            )
    })
}
