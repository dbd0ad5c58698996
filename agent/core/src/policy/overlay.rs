//! `[overlay.NAME]`: a pod network.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Address, Source};
use crate::diagnostic::Place;
use crate::net::addr;
use crate::net::interface::InterfacePattern;
use crate::net::link::Link;

/// Transport of an overlay between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OverlayBackend {
    /// VXLAN over UDP; flannel's default port is 8472, not the 4789 of RFC 7348.
    Vxlan,
    /// WireGuard over UDP; flannel uses 51820, and 51821 for IPv6.
    Wireguard,
    /// flannel's own encapsulation over UDP, port 8285.
    Udp,
    /// IP in IP, protocol 4.
    Ipip,
    /// Routes to the nodes, without a tunnel.
    HostGw,
    /// No tunnel that peerwall must know of.
    None,
}

impl OverlayBackend {
    /// Every backend, with the name that the policy and flannel's configuration give it.
    pub(crate) const NAMES: [(&str, Self); 6] = [
        ("vxlan", Self::Vxlan),
        ("host-gw", Self::HostGw),
        ("wireguard", Self::Wireguard),
        ("udp", Self::Udp),
        ("ipip", Self::Ipip),
        ("none", Self::None),
    ];

    /// Name in the policy.
    pub(crate) fn name(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        let found = names.find(|(_, each)| *each == self);
        found.map_or("none", |(name, _)| name)
    }

    /// Whether packets arrive from a tunnel interface.
    pub fn is_tunnelled(self) -> bool {
        !matches!(self, Self::HostGw | Self::None)
    }

    /// The kernel's driver of the tunnel interface.
    pub(crate) fn driver(self) -> Option<&'static str> {
        match self {
            Self::Vxlan => Some("vxlan"),
            Self::Wireguard => Some("wireguard"),
            Self::Ipip => Some("ipip"),
            Self::Udp => Some("tun"),
            Self::HostGw | Self::None => None,
        }
    }

    /// Interfaces of an overlay that names none: flannel's devices (`pkg/backend/*` in flannel),
    /// the bridge of its CNI plugin, and Calico's pod interfaces, which canal combines with
    /// flannel's tunnel.
    pub(crate) fn default_interfaces(self, vni: Option<u32>) -> Vec<InterfacePattern> {
        let mut names: Vec<String> = match self {
            Self::Vxlan => {
                let vni = vni.unwrap_or(1);
                vec![format!("flannel.{vni}"), format!("flannel-v6.{vni}")]
            }
            Self::Wireguard => vec!["flannel-wg".into(), "flannel-wg-v6".into()],
            Self::Udp => vec!["flannel0".into()],
            Self::Ipip => vec!["flannel.ipip".into()],
            Self::HostGw | Self::None => Vec::new(),
        };
        names.push("cni0".into());
        // Without a tunnel, Calico's routes to its pods are enough.
        if self.is_tunnelled() {
            names.push("cali*".into());
        }
        // A name that is too long for an interface, like flannel-v6.10000, is left out.
        let patterns = names.iter().map(|name| InterfacePattern::parse(name).ok());
        patterns.flatten().collect()
    }
}

/// Encapsulation between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// UDP to these ports.
    Udp(crate::net::port::PortRange),
    /// An IP protocol.
    Protocol(u8),
}

/// Origin of an overlay's subnets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Discovery {
    /// Written in the policy.
    #[default]
    Written,
    /// Read from this file.
    Found(Found),
    /// Last valid content of this file, which is missing or invalid now.
    Kept(Found),
    /// Not known yet: none of these files exists.
    Awaited(Vec<String>),
}

/// A file with pod networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name.
    pub name: String,
    /// Content.
    pub text: String,
}

/// One `[overlay.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Name.
    pub name: String,
    /// Place of its table.
    pub place: Place,
    /// Transport between nodes.
    pub backend: OverlayBackend,
    /// Encapsulation of packets from other nodes; `None` without a tunnel.
    pub tunnel: Option<Tunnel>,
    /// Addresses of its pods; at least one unless they are [`Discovery::Awaited`], none in another
    /// overlay's.
    pub subnets: Vec<Address>,
    /// Origin of the subnets.
    pub discovery: Discovery,
    /// Whether pods of nodes on the same LAN arrive by route, outside of the tunnel (flannel's
    /// `DirectRouting`); only with a tunnel.
    pub direct: bool,
    /// The tunnel interface, if it exists. Of two, that of IPv4.
    pub link: Option<Link>,
    /// Interfaces from which its pods' packets arrive. May be empty without a tunnel.
    pub interfaces: Vec<InterfacePattern>,
    /// Tunnels among its interfaces: node addresses occur there, and only a peer can send.
    pub tunnel_side: Vec<InterfacePattern>,
    /// Interfaces among its own by which peers are reached too: a LAN, not only pods.
    pub lan_side: Vec<InterfacePattern>,
    /// Whether pods of other nodes may arrive by route.
    pub by_route: bool,
    /// Interfaces where routes to pods are trusted; if empty, those by which peers are reached.
    pub underlay: Vec<InterfacePattern>,
    /// Routes to pods of other nodes: interface and prefix. Never a default route.
    pub routed: Vec<(String, IpNet)>,
    /// Whether pods of other nodes may send with their own addresses, from the machines of peers.
    pub unmasqueraded: bool,
    /// Ethernet addresses of peers, for `unmasqueraded`.
    pub peer_macs: Vec<[u8; 6]>,
    /// This host's own networks within `subnets`, which are not pods.
    pub carved: Vec<IpNet>,
    /// Sources besides peers that may send to its tunnel.
    pub tunnel_from: Vec<Source>,
}

impl Overlay {
    /// Returns the addresses of its pods: `subnets` without `carved`.
    pub fn pods(&self) -> Vec<IpNet> {
        let subnets = self.subnets.iter().map(|subnet| subnet.net);
        subnets
            .flat_map(|net| addr::subtract(net, &self.carved))
            .collect()
    }

    /// Whether an interface of its own is a LAN where only routes are trusted, since other hosts
    /// may be on it. With the backend `none`, the policy says that its addresses are on that LAN.
    pub fn is_by_route_only(&self, pattern: &InterfacePattern) -> bool {
        self.backend != OverlayBackend::None && self.lan_side.contains(pattern)
    }

    /// Returns the interfaces by which pods of other nodes arrive by route.
    pub fn routed_interfaces(&self) -> BTreeSet<String> {
        self.routed.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Returns the interfaces on which this host may be the DHCP server: a client there has no
    /// address of the overlay yet, and may use every port once it has one.
    pub fn dhcp_side(&self) -> impl Iterator<Item = &InterfacePattern> {
        let interfaces = self
            .interfaces
            .iter()
            .filter(|_| self.backend == OverlayBackend::None);
        interfaces.filter(|pattern| !self.lan_side.contains(pattern))
    }

    /// Whether its addresses belong to machines on a LAN.
    pub fn is_on_lan(&self) -> bool {
        self.backend == OverlayBackend::None && !self.lan_side.is_empty()
    }

    /// Whether its tunnel must be protected from pods and local users. WireGuard authenticates each
    /// packet.
    pub fn guards_tunnel(&self) -> bool {
        self.tunnel.is_some() && self.backend != OverlayBackend::Wireguard
    }
}
