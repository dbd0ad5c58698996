//! `[overlay.NAME]`: pod networks.

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
    /// No tunnel known to peerwall.
    None,
}

impl OverlayBackend {
    /// All backends with their names in the policy and in flannel's configuration.
    pub(crate) const NAMES: [(&str, Self); 6] = [
        ("vxlan", Self::Vxlan),
        ("host-gw", Self::HostGw),
        ("wireguard", Self::Wireguard),
        ("udp", Self::Udp),
        ("ipip", Self::Ipip),
        ("none", Self::None),
    ];

    /// Returns the name in the policy.
    pub(crate) fn name(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        let found = names.find(|(_, each)| *each == self);
        found.map_or("none", |(name, _)| name)
    }

    /// Returns whether packets arrive on a tunnel interface.
    pub fn is_tunnelled(self) -> bool {
        !matches!(self, Self::HostGw | Self::None)
    }

    /// Returns the kernel's driver of the tunnel interface.
    pub(crate) fn driver(self) -> Option<&'static str> {
        match self {
            Self::Vxlan => Some("vxlan"),
            Self::Wireguard => Some("wireguard"),
            Self::Ipip => Some("ipip"),
            Self::Udp => Some("tun"),
            Self::HostGw | Self::None => None,
        }
    }

    /// Returns the default interfaces: flannel's devices (`pkg/backend/*` in flannel), the bridge
    /// of its CNI plugin, and Calico's pod interfaces, which canal combines with flannel's tunnel.
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
        // Without a tunnel, Calico's routes to its pods suffice.
        if self.is_tunnelled() {
            names.push("cali*".into());
        }
        // Names too long for an interface, like flannel-v6.10000, are omitted.
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

/// File with pod networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name.
    pub name: String,
    /// Content.
    pub text: String,
}

/// Entry of `[overlay]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Name.
    pub name: String,
    /// Place of the table.
    pub place: Place,
    /// Transport between nodes.
    pub backend: OverlayBackend,
    /// Encapsulation of packets from other nodes; `None` without a tunnel.
    pub tunnel: Option<Tunnel>,
    /// Addresses of the pods: at least one unless they are [`Discovery::Awaited`], and disjoint
    /// from other overlays.
    pub subnets: Vec<Address>,
    /// Origin of the subnets.
    pub discovery: Discovery,
    /// Whether packets from pods of nodes on the same LAN arrive by route, outside of the tunnel
    /// (flannel's `DirectRouting`). Only with a tunnel.
    pub direct: bool,
    /// Tunnel interface, if it exists; of two, that of IPv4.
    pub link: Option<Link>,
    /// Interfaces on which packets from its pods arrive. May be empty without a tunnel.
    pub interfaces: Vec<InterfacePattern>,
    /// Tunnels among `interfaces`. Packets from nodes' addresses arrive there, and only peers can
    /// send.
    pub tunnel_side: Vec<InterfacePattern>,
    /// LANs among `interfaces`: peers are reached through them too.
    pub lan_side: Vec<InterfacePattern>,
    /// Whether packets from pods of other nodes may arrive by route.
    pub by_route: bool,
    /// Interfaces where routes to pods are trusted; if empty, those through which peers are
    /// reached.
    pub underlay: Vec<InterfacePattern>,
    /// Routes to pods of other nodes, as interface and prefix, without default routes.
    pub routed: Vec<(String, IpNet)>,
    /// Whether pods of other nodes may send with their own addresses from peers' Ethernet
    /// addresses.
    pub unmasqueraded: bool,
    /// Ethernet addresses of peers, for `unmasqueraded`.
    pub peer_macs: Vec<[u8; 6]>,
    /// This host's own networks within `subnets`, which are not pods.
    pub carved: Vec<IpNet>,
    /// Sources besides peers that may send to the tunnel.
    pub tunnel_from: Vec<Source>,
}

impl Overlay {
    /// Returns the addresses of the pods: `subnets` without `carved`.
    pub fn pods(&self) -> Vec<IpNet> {
        let subnets = self.subnets.iter().map(|subnet| subnet.net);
        subnets
            .flat_map(|net| addr::subtract(net, &self.carved))
            .collect()
    }

    /// Returns whether one of `interfaces` is a LAN where only routes are trusted, because other
    /// hosts may be on it. With backend `none`, the policy states that the pods are on that LAN.
    pub fn is_by_route_only(&self, pattern: &InterfacePattern) -> bool {
        self.backend != OverlayBackend::None && self.lan_side.contains(pattern)
    }

    /// Returns the interfaces on which packets from pods of other nodes arrive by route.
    pub fn routed_interfaces(&self) -> BTreeSet<String> {
        self.routed.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Returns the interfaces on which this host may be the DHCP server. A DHCP client there has no
    /// address of the overlay yet, and may use every port after it has one.
    pub fn dhcp_side(&self) -> impl Iterator<Item = &InterfacePattern> {
        let interfaces = self
            .interfaces
            .iter()
            .filter(|_| self.backend == OverlayBackend::None);
        interfaces.filter(|pattern| !self.lan_side.contains(pattern))
    }

    /// Returns whether the addresses belong to machines on a LAN.
    pub fn is_on_lan(&self) -> bool {
        self.backend == OverlayBackend::None && !self.lan_side.is_empty()
    }

    /// Returns whether the tunnel must be protected from pods and local users. WireGuard
    /// authenticates each packet.
    pub fn guards_tunnel(&self) -> bool {
        self.tunnel.is_some() && self.backend != OverlayBackend::Wireguard
    }
}
