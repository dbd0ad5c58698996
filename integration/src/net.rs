//! Wires between hosts.

use crate::ns::{Host, sh};

/// Connects two hosts with a veth pair; gives each end its name and its addresses, and brings them
/// up.
///
/// # Panics
/// If that fails.
pub fn wire(
    a: &Host,
    a_name: &str,
    a_addresses: &[&str],
    b: &Host,
    b_name: &str,
    b_addresses: &[&str],
) {
    sh(&format!(
        "ip link add {a_name} netns {} type veth peer name {b_name} netns {}",
        a.name, b.name
    ));
    for (host, name, addresses) in [(a, a_name, a_addresses), (b, b_name, b_addresses)] {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            host.sh(&format!("ip address add {address} dev {name} {nodad}"));
        }
        host.sh(&format!("ip link set {name} up"));
    }
}

/// Makes a bridge and brings it up.
///
/// # Panics
/// If that fails.
pub fn bridge(host: &Host, name: &str, addresses: &[&str]) {
    host.sh(&format!(
        "ip link add {name} type bridge && ip link set {name} up"
    ));
    for address in addresses {
        host.sh(&format!("ip address add {address} dev {name}"));
    }
}

/// Puts an interface on a bridge.
///
/// # Panics
/// If that fails.
pub fn enslave(host: &Host, interface: &str, bridge: &str) {
    host.sh(&format!("ip link set {interface} master {bridge} up"));
}

/// What flannel knows of a node (`pkg/backend/vxlan` in flannel).
#[derive(Debug, Clone)]
pub struct FlannelNode<'a> {
    /// The node.
    pub host: &'a Host,
    /// Its address outside of the overlay.
    pub underlay: &'a str,
    /// Number of its pod subnet, the third octet of 10.244.0.0/16.
    pub subnet: u8,
}

impl FlannelNode<'_> {
    fn vtep_mac(&self) -> String {
        format!("02:f1:a0:00:00:{:02x}", self.subnet)
    }

    fn vtep_address(&self) -> String {
        format!("10.244.{}.0", self.subnet)
    }
}

/// Sets up `flannel.1` on every node as flannel does: VNI 1, port 8472, no learning, and for every
/// other node a permanent neighbour, a forwarding entry and a route on link.
///
/// # Panics
/// If that fails.
pub fn flannel(nodes: &[FlannelNode<'_>], device: &str) {
    for node in nodes {
        node.host.sh(&format!(
            "ip link add flannel.1 type vxlan id 1 dev {device} local {} dstport 8472 nolearning && \
             ip link set flannel.1 address {} && ip address add {}/32 dev flannel.1 && \
             ip link set flannel.1 up",
            node.underlay,
            node.vtep_mac(),
            node.vtep_address(),
        ));
        for other in nodes.iter().filter(|other| other.subnet != node.subnet) {
            let (mac, vtep) = (other.vtep_mac(), other.vtep_address());
            node.host.sh(&format!(
                "ip neighbour add {vtep} lladdr {mac} dev flannel.1 nud permanent && \
                 bridge fdb add {mac} dev flannel.1 dst {} self permanent && \
                 ip route add 10.244.{}.0/24 via {vtep} dev flannel.1 onlink",
                other.underlay, other.subnet
            ));
        }
    }
}
