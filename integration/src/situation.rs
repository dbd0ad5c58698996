//! A LAN with nodes, pods and strangers: small parts to build a situation from.
//!
//! Machine number `n` has 192.0.2.n and 2001:db8:49::n (n in decimal digits) on eth0.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::net::{bridge, enslave, wire};
use crate::ns::Host;
use crate::probe::{self, IMPATIENCE, PATIENCE};
use crate::raw::{Body, Frame};

/// A switch, and the machines on it.
pub struct Lan {
    switch: Host,
}

impl Lan {
    /// An empty one.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Self {
        let switch = Host::new("switch");
        bridge(&switch, "br0", &[]);
        Self { switch }
    }

    /// A machine on it.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn join(&self, name: &str, number: u8) -> Host {
        let host = Host::new(name);
        self.plug(&host, &format!("{number}"), &[&v4(number), &v6(number)]);
        let mac = mac_text(mac(number));
        host.sh(&format!("ip link set eth0 address {mac}"));
        host
    }

    /// Gives a machine an `eth0` on this LAN.
    ///
    /// # Panics
    /// If that fails.
    pub fn plug(&self, host: &Host, port: &str, addresses: &[&str]) {
        let port = format!("p{port}");
        wire(host, "eth0", addresses, &self.switch, &port, &[]);
        enslave(&self.switch, &port, "br0");
    }
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

fn v4(number: u8) -> String {
    format!("192.0.2.{number}/24")
}

fn v6(number: u8) -> String {
    format!("2001:db8:49::{number}/64")
}

/// Ethernet address of a machine on the LAN.
pub fn mac(number: u8) -> [u8; 6] {
    [0x02, 0x4c, 0x41, 0x4e, 0, number]
}

/// Ethernet address of a host's interface.
///
/// # Panics
/// If there is no such interface.
pub fn mac_of(host: &Host, interface: &str) -> [u8; 6] {
    let text = host.sh(&format!(
        "ip -br link show dev {interface} | awk '{{print $3}}'"
    ));
    let mut mac = [0; 6];
    for (byte, hex) in mac.iter_mut().zip(text.trim().split(':')) {
        *byte = u8::from_str_radix(hex, 16).expect("an Ethernet address");
    }
    mac
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Makes a node route, with `cni0` for the pods 10.244.n.0/24 and 2001:db8:244:n::/64.
///
/// # Panics
/// If that fails.
pub fn cni0(node: &Host, subnet: u8) {
    let (v4, v6) = (
        format!("10.244.{subnet}.1/24"),
        format!("2001:db8:244:{subnet}::1/64"),
    );
    bridge(node, "cni0", &[&v4, &v6]);
    node.sysctl("net.ipv4.ip_forward", "1");
    node.sysctl("net.ipv6.conf.all.forwarding", "1");
}

/// A pod of a node, with addresses that end in `number`.
///
/// # Panics
/// If it cannot be made.
pub fn pod(node: &Host, subnet: u8, number: u8) -> Host {
    let pod = Host::new(&format!("pod-{subnet}-{number}"));
    let (v4, v6) = (
        format!("10.244.{subnet}.{number}/24"),
        format!("2001:db8:244:{subnet}::{number}/64"),
    );
    let port = format!("veth{number}");
    wire(&pod, "eth0", &[&v4, &v6], node, &port, &[]);
    enslave(node, &port, "cni0");
    node.sh(&format!("bridge link set dev {port} hairpin on"));
    pod.sh(&format!(
        "ip link set eth0 mtu 1400; ip route add default via 10.244.{subnet}.1; \
         ip -6 route add default via 2001:db8:244:{subnet}::1"
    ));
    pod
}

/// How a policy is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// nf_tables.
    Nft,
    /// iptables.
    Iptables,
}

impl By {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Iptables];

    fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }
}

/// Writes a policy without its first line, and applies it.
///
/// # Panics
/// If it is refused.
pub fn apply(host: &Host, by: By, policy: &str) {
    let path = format!("/run/{}.toml", host.name);
    std::fs::write(&path, format!("version = 1\n{policy}")).expect("/run is there");
    host.peerwall_ok(&["apply", "--backend", by.name(), &path]);
}

/// Takes the rules away.
///
/// # Panics
/// If that fails.
pub fn remove(host: &Host, by: By) {
    host.peerwall_ok(&["remove", "--backend", by.name()]);
}

/// Whether a connection is answered, where it should be or not.
pub fn reaches(from: &Host, to: &str, want: bool) -> bool {
    match want {
        true => probe::tcp(from, to, PATIENCE).is_some(),
        false => probe::tcp(from, to, IMPATIENCE).is_some(),
    }
}

/// Tries connections, and says which went otherwise than they should.
///
/// # Panics
/// If one did.
pub fn expect(what: &str, flows: &[(&str, &Host, &str, bool)]) {
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = flows
            .iter()
            .map(|(name, from, to, want)| {
                scope.spawn(move || {
                    (reaches(from, to, *want) != *want).then(|| {
                        format!(
                            "{name}: {} → {to} should be {}",
                            from.name,
                            if *want { "open" } else { "closed" }
                        )
                    })
                })
            })
            .collect();
        running
            .into_iter()
            .filter_map(|each| each.join().ok().flatten())
            .collect()
    });
    assert_eq!(wrong, [""; 0], "{what}");
}

/// A datagram.
///
/// # Panics
/// If an address is none.
pub fn datagram(source: &str, destination: &str, port: u16, payload: &[u8]) -> Frame {
    Frame {
        source_mac: [0x02, 0, 0, 0, 0, 0x99],
        destination_mac: [0x02, 0, 0, 0, 0, 1],
        source: address(source),
        destination: address(destination),
        hop_limit: 64,
        body: Body::Udp {
            source: 4000,
            destination: port,
            payload: payload.to_vec(),
        },
    }
}

/// An ICMP message of a type and code.
///
/// # Panics
/// If an address is none.
pub fn icmp(
    source: &str,
    destination: &str,
    [kind, code]: [u8; 2],
    hop_limit: u8,
    rest: [u8; 4],
    payload: &[u8],
) -> Frame {
    Frame {
        hop_limit,
        body: Body::Icmp {
            kind,
            code,
            rest,
            payload: payload.to_vec(),
        },
        ..datagram(source, destination, 0, &[])
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Sends a frame from a host's interface to an Ethernet address.
///
/// # Panics
/// If it cannot be sent.
pub fn send(from: &Host, interface: &str, to: [u8; 6], frame: &Frame) {
    let frame = Frame {
        source_mac: mac_of(from, interface),
        destination_mac: to,
        ..frame.clone()
    };
    let bytes = frame.bytes();
    let sent = from.run(|| crate::raw::send(interface, &bytes));
    sent.expect("it can be sent");
}

/// Whether what `sends` sends is counted: at once where it should be, and after a moment if not.
pub fn arrives(count: &Arc<AtomicU64>, want: bool, sends: impl Fn()) -> bool {
    let before = count.load(Ordering::SeqCst);
    let deadline = std::time::Instant::now() + if want { PATIENCE } else { IMPATIENCE };
    loop {
        sends();
        std::thread::sleep(Duration::from_millis(120));
        let came = count.load(Ordering::SeqCst) > before;
        if came || std::time::Instant::now() > deadline {
            return came;
        }
    }
}

/// Sends one datagram through the host's own stack.
///
/// # Panics
/// If there is no socket.
pub fn send_datagram(from: &Host, to: &str, payload: &[u8]) {
    let any = if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    from.run(|| {
        let socket = UdpSocket::bind(any).expect("there is a port");
        let _ = socket.send_to(payload, to);
    });
}

/// What a counter of our table counted; 0 if it is not there.
pub fn counted(host: &Host, counter: &str) -> u64 {
    let output = host.try_sh(&format!("nft list counter inet peerwall {counter}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    words
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
