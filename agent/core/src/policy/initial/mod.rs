//! Writes a first policy for a host, from what is found on it.
//!
//! Only what a host cannot do without is open: ssh, and the networks of its pods and containers.
//! Everything else is offered in comments.

pub mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::net::port::{TCP, protocol_name};
use routes::Tunnel;

/// What is found on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Addresses with their prefix lengths, and their interfaces.
    pub addresses: Vec<(String, IpNet)>,
    /// Names of all interfaces.
    pub interfaces: Vec<String>,
    /// flannel's file, and the networks of pods in it.
    pub flannel: Option<(String, Vec<IpNet>)>,
    /// Other nodes, to which the overlay's tunnel and routes lead.
    pub nodes: BTreeSet<IpAddr>,
    /// Whether pods of other nodes are routed outside of a tunnel.
    pub is_direct: bool,
    /// WireGuard interfaces, except the overlay's.
    pub tunnels: Vec<Tunnel>,
    /// Ports of the ssh server.
    pub ssh_ports: BTreeSet<u16>,
    /// Whether an ssh server listens.
    pub has_ssh: bool,
    /// Address of the ssh client of the caller.
    pub caller: Option<IpAddr>,
    /// Sockets that wait for other hosts.
    pub listeners: Vec<Listener>,
}

/// A socket that waits for other hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// Port.
    pub port: u16,
    /// Name of the process, if it is known.
    pub process: Option<String>,
}

/// Prefixes of the names of bridges that programs create for containers and virtual machines:
/// Docker, Podman, libvirt, LXD, Incus and LXC.
const GUEST_BRIDGES: [&str; 8] = [
    "docker",
    "br-",
    "podman",
    "cni-podman",
    "virbr",
    "lxdbr",
    "incusbr",
    "lxcbr",
];
/// Prefixes of the names of interfaces whose networks are not those of machines.
const INNER: [&str; 9] = [
    "lo",
    "flannel",
    "cni",
    "cali",
    "tunl",
    "veth",
    "vxlan",
    "kube-",
    "nodelocaldns",
];

/// Interfaces of flannel's tunnels that an overlay has by default.
const USUAL_TUNNELS: [&str; 5] = [
    "flannel.1",
    "flannel-v6.1",
    "flannel-wg",
    "flannel0",
    "flannel.ipip",
];

/// Returns the text of a policy. It is valid for all facts.
pub fn initial(facts: &HostFacts) -> String {
    let mut text = String::from(
        "# First policy of this host, written by `peerwall init`. It accepts what is listed here,\n\
         # replies, and the ICMP that networks need; everything else is dropped. Add what is\n\
         # missing, then run `peerwall check`. The format: man peerwall.toml\n\
         version = 1\n",
    );
    peers(&mut text, facts);
    overlay(&mut text, facts);
    guests(&mut text, facts);
    ssh(&mut text, facts);
    offers(&mut text, facts);
    text
}

/// Reports whether a program creates bridges with such names for containers or virtual machines.
pub fn is_guest_bridge(name: &str) -> bool {
    GUEST_BRIDGES.iter().any(|prefix| name.starts_with(prefix))
}

fn peers(text: &mut String, facts: &HostFacts) {
    text.push_str(
        "\n# Machines that may reach this host, and send through it, on every port: the other nodes\n\
         # of a cluster. Name each by its addresses in both families.\n",
    );
    let is_inner =
        |name: &str| is_guest_bridge(name) || INNER.iter().any(|prefix| name.starts_with(prefix));
    let outer = facts.addresses.iter().filter(|(name, _)| !is_inner(name));
    for (name, net) in outer.clone().filter(|(_, net)| !is_link_local(net.addr())) {
        let _ = writeln!(text, "# This host is {net} on {}.", plain(name));
    }
    if !facts.nodes.is_empty() {
        text.push_str("# These are the nodes to which the overlay's tunnel and routes lead now.\n");
    } else if facts.flannel.is_some() && facts.interfaces.iter().any(|name| is_flannel_wg(name)) {
        text.push_str(
            "# Where flannel's WireGuard tunnel leads is not known. Name all other nodes before you\n\
             # apply this policy: it drops packets of other machines to the tunnel.\n",
        );
    }
    text.push_str("[peers]\n");
    for address in &facts.nodes {
        let _ = writeln!(text, "{} = \"{address}\"", node_name(address));
    }
    if facts.nodes.is_empty() {
        text.push_str("# worker-1 = [\"192.0.2.11\", \"2001:db8::11\"]\n");
    }
    for tunnel in &facts.tunnels {
        offer_tunnel(text, tunnel);
    }
}

fn node_name(address: &IpAddr) -> String {
    let name = address.to_string().replace(['.', ':'], "-");
    format!("node-{}", name.trim_matches('-'))
}

fn is_flannel_wg(name: &str) -> bool {
    name.starts_with("flannel-wg")
}

/// Offers the machines behind a WireGuard interface. A tunnel may lead to strangers, such as those
/// of a VPN, so none is trusted.
fn offer_tunnel(text: &mut String, tunnel: &Tunnel) {
    let name = plain(&tunnel.interface);
    let _ = write!(
        text,
        "\n# {name} is a WireGuard tunnel. To trust everything in it, write under [interfaces]\n\
         # trusted = [{}]\n",
        quoted(&name)
    );
    let (hosts, networks): (Vec<&IpNet>, Vec<&IpNet>) = tunnel
        .routes
        .iter()
        .partition(|net| net.prefix_len() == net.max_prefix_len());
    if !networks.is_empty() {
        let networks: Vec<String> = networks.iter().map(|net| net.to_string()).collect();
        let _ = writeln!(text, "# It leads to {}.", networks.join(", "));
    }
    if !hosts.is_empty() {
        text.push_str("# To trust these machines only, remove their #.\n");
    }
    for host in hosts {
        let address = host.addr();
        let _ = writeln!(text, "# {} = \"{address}\"", node_name(&address));
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_loopback(),
    }
}

fn overlay(text: &mut String, facts: &HostFacts) {
    let Some((file, networks)) = &facts.flannel else {
        return;
    };
    let found = |prefix: &str| {
        let mut names = facts.interfaces.iter();
        names.find(|name| name.starts_with(prefix))
    };
    let (backend, tunnel) = if let Some(name) = found("flannel-wg") {
        ("wireguard", Some(name))
    } else if let Some(name) = found("flannel.ipip") {
        ("ipip", Some(name))
    } else if let Some(name) = found("flannel.").or_else(|| found("flannel-v6.")) {
        ("vxlan", Some(name))
    } else if let Some(name) = found("flannel0") {
        ("udp", Some(name))
    } else {
        ("host-gw", None)
    };
    let networks: Vec<String> = networks.iter().map(IpNet::to_string).collect();
    let _ = write!(
        text,
        "\n# The pod network, {} according to flannel. Pods reach this host and go through it, from\n\
         # flannel's interfaces only.\n\
         [overlay.flannel]\n\
         backend  = \"{backend}\"\n\
         discover = {}\n",
        networks.join(" and "),
        quoted(file),
    );
    if facts.is_direct && ["vxlan", "ipip"].contains(&backend) {
        text.push_str(
            "# Pods of nodes on the same LAN also arrive by route (DirectRouting).\n\
             direct   = true\n",
        );
    }
    // A VXLAN network identifier other than 1 is not among the defaults.
    if let Some(tunnel) = tunnel.filter(|name| !USUAL_TUNNELS.contains(&name.as_str())) {
        let _ = writeln!(
            text,
            "interfaces = [{}, \"cni0\", \"cali*\"]",
            quoted(tunnel)
        );
    }
}

fn guests(text: &mut String, facts: &HostFacts) {
    let bridges: Vec<&String> = facts
        .interfaces
        .iter()
        .filter(|name| is_guest_bridge(name))
        .collect();
    if bridges.is_empty() {
        return;
    }
    // Docker's other networks have names by chance, and come and go.
    let patterns: BTreeSet<String> = bridges
        .iter()
        .map(|name| match name.starts_with("br-") {
            true => quoted("br-*"),
            false => quoted(name),
        })
        .collect();
    let patterns: Vec<String> = patterns.into_iter().collect();
    let _ = write!(
        text,
        "\n# Containers and virtual machines behind these bridges may send through this host, and\n\
         # use its DHCP and DNS, but not reach anything else on it. A port that they publish needs\n\
         # an entry under [[allow]].\n\
         [interfaces]\n\
         guests = [{}]\n",
        patterns.join(", ")
    );
}

fn ssh(text: &mut String, facts: &HostFacts) {
    let ports: Vec<String> = facts
        .ssh_ports
        .iter()
        .map(|port| quoted(&format!("{port}/tcp")))
        .collect();
    if ports.is_empty() || (!facts.has_ssh && facts.caller.is_none()) {
        return;
    }
    text.push('\n');
    if let Some(caller) = facts.caller {
        let _ = writeln!(
            text,
            "# You are connected from {caller}. To accept ssh from there only: from = \"{caller}\""
        );
    }
    let _ = write!(
        text,
        "[[allow]]\nname  = \"ssh\"\nports = [{}]\nfrom  = \"any\"\n",
        ports.join(", ")
    );
}

/// UDP ports of flannel's tunnels: VXLAN, udp, WireGuard for both families.
const TUNNEL_PORTS: [u16; 4] = [8472, 8285, 51820, 51821];
/// Well-known ports of clusters, with what uses them: peers and pods need no entry for these.
const INNER_PORTS: [(u16, &str); 6] = [
    (
        10250,
        "kubelet: the API server and metrics-server, which are peers or pods, use it",
    ),
    (
        10256,
        "kube-proxy's health check: cloud load balancers use it",
    ),
    (2379, "etcd: only members of the control plane may use it"),
    (2380, "etcd: only members of the control plane may use it"),
    (
        6443,
        "the Kubernetes API: users outside the cluster need it",
    ),
    (7946, "Docker Swarm or MetalLB: peers use it"),
];

fn offers(text: &mut String, facts: &HostFacts) {
    // A program that listens by both protocols is one entry.
    let mut offers: BTreeMap<u16, (BTreeSet<u8>, BTreeSet<&str>)> = BTreeMap::new();
    for listener in &facts.listeners {
        let is_ssh = listener.protocol == TCP && facts.ssh_ports.contains(&listener.port);
        // Only the nodes may send tunnel packets, and they are peers.
        let is_tunnel = facts.flannel.is_some()
            && listener.process.is_none()
            && TUNNEL_PORTS.contains(&listener.port);
        if is_ssh || is_tunnel {
            continue;
        }
        let (protocols, processes) = offers.entry(listener.port).or_default();
        protocols.insert(listener.protocol);
        processes.extend(listener.process.as_deref());
    }
    if offers.is_empty() {
        return;
    }
    text.push_str(
        "\n# These ports are closed, except to peers, pods and this host itself. Remove the # of an\n\
         # entry to open one, and say to whom.\n",
    );
    for (port, (protocols, processes)) in offers {
        let words: Vec<String> = protocols
            .iter()
            .map(|number| quoted(&format!("{port}/{}", protocol_name(*number))))
            .collect();
        let processes: Vec<String> = processes.into_iter().map(plain).collect();
        let by = match processes.is_empty() {
            true => "a process that is not known, or the kernel".to_owned(),
            false => processes.join(", "),
        };
        let _ = writeln!(text, "\n# Port {port}: {by}.");
        if let Some((_, use_)) = INNER_PORTS.iter().find(|(known, _)| *known == port) {
            let _ = writeln!(text, "# {use_}.");
        }
        let _ = write!(
            text,
            "# [[allow]]\n# name  = {}\n# ports = [{}]\n# from  = \"any\"\n",
            quoted(&format!("port-{port}")),
            words.join(", ")
        );
    }
}

/// Replaces characters that could end a comment or confuse a terminal.
fn plain(name: &str) -> String {
    let keep = |c: char| if c.is_control() { '?' } else { c };
    name.chars().map(keep).collect()
}

/// Formats a TOML string. Without control characters, a string of JSON is one of TOML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(plain(text)).to_string()
}

#[cfg(test)]
mod tests;
