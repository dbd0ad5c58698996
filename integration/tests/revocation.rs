//! Random changes of policy on a host with listeners and open connections: what ends is just what
//! the new policy refuses and the old one admitted, and no listener is ever lost.
//!
//! The expectation comes from the policy itself (`Policy::verdict`), asked about the interface that
//! each connection uses by construction. `PEERWALL_REVOCATION=1000,50,2000` sets how many edits,
//! listeners and connections there are; `PEERWALL_SEED` which edits.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

use peerwall_core::net::packet::{Hook, Packet, Transport, Verdict};
use peerwall_core::net::port::{ICMP, ICMPV6, TCP, UDP};
use peerwall_core::policy::Policy;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_integration::net::wire;
use peerwall_integration::ns::{Host, world};
use peerwall_integration::open::{Agent, Entry, at, echo, listeners, lives, open, track, tracked};

/// Networks that clients are in, by interface of the host: of each family, without the last part.
const NETWORKS: [(&str, &str, &str); 3] = [
    ("eth0", "192.0.2.", "2001:db8::"),
    ("eth1", "198.51.100.", "2001:db8:1::"),
    ("eth2", "203.0.113.", "2001:db8:2::"),
];
/// A pod behind the host, that connections go through it to.
const POD: &str = "10.244.1.5";
/// Clients in each network.
const CLIENTS: u32 = 6;
/// Ports that anybody dials.
const PORTS: u32 = 8;

/// Protocols without ports, as a policy calls them.
const WHOLE: [(u8, &str); 4] = [(50, "esp"), (47, "gre"), (4, "ipip"), (89, "ospf")];

/// How much of everything.
#[derive(Clone, Copy)]
struct Size {
    edits: usize,
    listeners: u32,
    connections: usize,
}

fn size() -> Size {
    let text = std::env::var("PEERWALL_REVOCATION").unwrap_or_else(|_| "12,10,150".into());
    let numbers: Vec<u32> = text
        .split(',')
        .map(|number| number.parse().unwrap())
        .collect();
    Size {
        edits: numbers[0] as usize,
        listeners: numbers[1],
        connections: numbers[2] as usize,
    }
}

/// Chance that is the same each time (xorshift).
struct Chance(u32);

impl Chance {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % limit
    }

    fn one_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    fn client(&mut self) -> (&'static str, String) {
        let (interface, v4, v6) = NETWORKS[self.below(3) as usize];
        let network = if self.one_in(3) { v6 } else { v4 };
        (interface, format!("{network}{}", 2 + self.below(CLIENTS)))
    }

    fn port(&mut self) -> u16 {
        9000 + self.below(PORTS) as u16
    }

    /// A policy, of which about half admits a client.
    fn policy(&mut self) -> String {
        let peers: Vec<String> = (0..1 + self.below(9))
            .map(|index| format!("p{index} = \"{}\"\n", self.client().1))
            .collect();
        let mut text = format!("version = 1\n[peers]\n{}", peers.concat());
        if self.one_in(2) {
            let trusted = NETWORKS[self.below(3) as usize].0;
            text.push_str(&format!("[interfaces]\ntrusted = [\"{trusted}\"]\n"));
        }
        if self.one_in(2) {
            text.push_str(&format!("[icmp]\nping = \"{}\"\n", self.client().1));
        }
        for index in 0..self.below(4) {
            let from = match self.below(3) {
                0 => "any".to_owned(),
                1 => self.client().1,
                _ => "198.51.100.0/24".to_owned(),
            };
            let port = self.port();
            let port = match self.one_in(3) {
                true => WHOLE[self.below(4) as usize].1.to_owned(),
                false => port.to_string(),
            };
            text.push_str(&format!(
                r#"
                    [[allow]]
                    name = "a{index}"
                    ports = ["{port}"]
                    from = "{from}"
                "#
            ));
            if self.one_in(3) {
                let interface = NETWORKS[self.below(3) as usize].0;
                text.push_str(&format!("interfaces = [\"{interface}\"]\n"));
            }
        }
        text
    }
}

fn policy(text: &str) -> Policy {
    load("policy.toml", text, &NoFiles).policy.unwrap()
}

/// Whether a policy admits a connection that arrives by an interface.
fn admits(policy: &Policy, (protocol, from, to): Entry, interface: &str) -> bool {
    let pod: IpAddr = POD.parse().unwrap();
    let hook = match to.ip() == pod {
        true => Hook::Forward,
        false => Hook::Input,
    };
    let transport = match protocol {
        TCP | UDP => Transport::Ports {
            protocol,
            source: from.port(),
            destination: to.port(),
        },
        ICMP => Transport::Icmp { kind: 8, code: 0 },
        ICMPV6 => Transport::Icmp { kind: 128, code: 0 },
        other => Transport::Other(other),
    };
    let packet = Packet::new(hook, interface, from.ip(), to.ip(), transport);
    policy.verdict(&packet).verdict == Verdict::Accept
}

fn interface(of: IpAddr) -> &'static str {
    let text = of.to_string();
    let found = NETWORKS
        .iter()
        .rev()
        .find(|(_, v4, v6)| text.starts_with(v4) || text.starts_with(v6));
    found.unwrap().0
}

/// The host under test and its clients.
struct World {
    host: Host,
    clients: Vec<Host>,
    listening: Vec<String>,
    /// Entries without packets.
    entries: BTreeSet<Entry>,
    /// Real connections.
    streams: Vec<(Entry, TcpStream)>,
    serial: u16,
}

impl World {
    fn new(name: &str, size: Size) -> Self {
        let host = Host::new(name);
        host.sysctl("net.ipv4.ip_forward", "1");
        host.sh("ip link add cni0 type bridge && ip link set cni0 up && ip route add 10.244.1.0/24 dev cni0");
        let mut clients = Vec::new();
        for (interface, v4, v6) in NETWORKS {
            let client = Host::new(&format!("{name}-{interface}"));
            let (own, own6) = (format!("{v4}1/24"), format!("{v6}1/64"));
            let theirs: Vec<String> = (2..2 + CLIENTS)
                .flat_map(|last| [format!("{v4}{last}/24"), format!("{v6}{last}/64")])
                .collect();
            let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
            wire(&host, interface, &[&own, &own6], &client, "eth0", &theirs);
            // Connect from the first address.
            client.sh(&format!(
                "ip -6 route add {v6}/64 dev eth0 src {v6}2 metric 100"
            ));
            clients.push(client);
        }
        let listening: Vec<String> = (0..size.listeners)
            .map(|index| {
                let port = 9000 + index % PORTS;
                match index / PORTS {
                    0 => format!("[::]:{port}"),
                    more => {
                        let address = ["192.0.2.1", "0.0.0.0"][more as usize % 2];
                        format!("{address}:{}", 9000 + PORTS + more * PORTS + index % PORTS)
                    }
                }
            })
            .collect();
        listening.iter().for_each(|address| echo(&host, address));
        Self {
            host,
            clients,
            listening,
            entries: BTreeSet::new(),
            streams: Vec::new(),
            serial: 0,
        }
    }

    /// Adds connections in every state until there are as many as wanted.
    fn fill(&mut self, chance: &mut Chance, size: Size) {
        let mut fresh = Vec::new();
        while self.entries.len() + fresh.len() < size.connections {
            let client = chance.client().1;
            self.serial = self.serial.wrapping_add(1) % 20_000;
            let from = at(&client, 10_000 + self.serial);
            let to = match (client.contains(':'), chance.one_in(4)) {
                (true, _) => "2001:db8::1",
                (false, true) => POD,
                (false, false) => "192.0.2.1",
            };
            let to = at(to, chance.port());
            let entry = match (chance.below(8), from.is_ipv6()) {
                (0 | 1, _) => (UDP, from, to),
                (2, false) => (ICMP, from, at(&to.ip().to_string(), 0)),
                (2, true) => (ICMPV6, from, at(&to.ip().to_string(), 0)),
                (3, _) => {
                    let end = |address: SocketAddr| SocketAddr::new(address.ip(), 0);
                    let protocol = WHOLE[chance.below(4) as usize].0;
                    (protocol, end(from), end(to))
                }
                _ => (TCP, from, to),
            };
            if !self.entries.contains(&entry) && fresh.iter().all(|(other, _)| *other != entry) {
                fresh.push((entry, chance.below(10) as u8));
            }
        }
        track(&self.host, &fresh);
        self.entries
            .extend(fresh.into_iter().map(|(entry, _)| entry));
    }

    /// Opens real connections that the policy admits, to listeners that have none.
    fn connect(&mut self, loaded: &Policy) {
        for address in &self.listening {
            let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
            for (client, (interface, _, v6)) in self.clients.iter().zip(NETWORKS) {
                let target = match address.starts_with('[') && port.is_multiple_of(2) {
                    true => format!("[{v6}1]:{port}"),
                    false => format!("192.0.2.1:{port}"),
                };
                let to = target.parse().unwrap();
                let has_one = self
                    .streams
                    .iter()
                    .any(|((_, from, of), _)| *of == to && self::interface(from.ip()) == interface);
                let reachable = target.contains(v6) || interface == "eth0";
                let probe = (TCP, at(&first_address(interface, &target), 1), to);
                if !has_one && reachable && admits(loaded, probe, interface) {
                    let stream = open(client, &target);
                    self.streams
                        .push(((TCP, stream.local_addr().unwrap(), to), stream));
                }
            }
        }
    }

    /// Compares what is there with what should be, and forgets what ended.
    fn compare(&mut self, old: &Policy, new: &Policy, name: &str) -> usize {
        let ends = |entry: &Entry| {
            let way = interface(entry.1.ip());
            admits(old, *entry, way) && !admits(new, *entry, way)
        };
        let left = tracked(&self.host);
        let mut ended = 0;
        self.entries.retain(|entry| {
            let (want, is) = (!ends(entry), left.contains(entry));
            assert_eq!(
                is,
                want,
                "{name}: {entry:?} should {}be there",
                if want { "" } else { "not " }
            );
            ended += usize::from(!is);
            is
        });
        self.streams.retain_mut(|(entry, stream)| {
            // One that was closed by a policy before cannot be used any more, open or not.
            let (want, is) = (!ends(entry), lives(stream));
            assert_eq!(is, want, "{name}: {entry:?}");
            ended += usize::from(!is);
            is
        });
        ended
    }
}

/// The address that a client connects from: its first, of the family of the target.
fn first_address(interface: &str, target: &str) -> String {
    let (_, v4, v6) = NETWORKS
        .iter()
        .find(|network| network.0 == interface)
        .unwrap();
    format!("{}2", if target.starts_with('[') { v6 } else { v4 })
}

fn edits(backend: &str, with_agent: bool, size: Size, folder: &Path) {
    let name = format!("{backend}{with_agent}");
    let seed = std::env::var("PEERWALL_SEED").map_or(2_463_534_242, |seed| seed.parse().unwrap());
    let mut chance = Chance(seed);
    let mut world = World::new(&name, size);
    let path = folder.join(format!("{name}.toml"));
    let mut text = chance.policy();
    fs::write(&path, &text).unwrap();
    let apply = ["apply", "--backend", backend, path.to_str().unwrap()];
    world.host.peerwall_ok(&apply);
    let more = ["--backend", backend, "--no-follow"];
    let _agent = with_agent.then(|| Agent::start(&world.host, &path, &more));
    let before = listeners(&world.host);
    assert_eq!(before.len(), size.listeners as usize);
    let (mut old, mut ended, mut opened) = (policy(&text), 0, 0);
    let start = Instant::now();
    for edit in 0..size.edits {
        world.fill(&mut chance, size);
        let had = world.streams.len();
        world.connect(&old);
        opened += world.streams.len() - had;
        text = chance.policy();
        fs::write(&path, &text).unwrap();
        let said = world.host.peerwall_ok(&apply);
        let new = policy(&text);
        let name = format!("seed {seed}, {name}, edit {edit}:\n{said}");
        assert_eq!(listeners(&world.host), before, "{name}");
        ended += world.compare(&old, &new, &name);
        old = new;
    }
    println!(
        "{name}: {} edits in {:?}, {} listeners, {} connections, {opened} real ones; {ended} ended",
        size.edits,
        start.elapsed(),
        size.listeners,
        size.connections
    );
}

#[test]
fn just_what_is_revoked_ends_and_no_listener() {
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        let size = size();
        edits("nft", false, size, folder.path());
        let fewer = Size {
            edits: size.edits.div_ceil(10).max(12),
            ..size
        };
        for (backend, with_agent) in [("nft", true), ("iptables", false), ("iptables", true)] {
            edits(backend, with_agent, fewer, folder.path());
        }
    });
}
