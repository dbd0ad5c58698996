//! `[overlay.NAME]`: a pod network.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Address, Source};
use crate::diagnostic::Place;
use crate::net::addr;
use crate::net::interface::InterfacePattern;
use crate::net::link::Link;

/// How an overlay gets its packets from node to node.
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
    /// Routes to the nodes and no tunnel.
    HostGw,
    /// No tunnel that concerns us.
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

    /// Whether packets come out of a device of the overlay's own.
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

    /// Interfaces of an overlay that names none: flannel's devices (`pkg/backend/*` in flannel), the bridge of
    /// its CNI plugin, and Calico's pod interfaces, which canal combines with flannel's tunnel.
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

/// What carries an overlay's packets between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// UDP to these ports.
    Udp(crate::net::port::PortRange),
    /// A protocol of its own.
    Protocol(u8),
}

/// How an overlay's subnets are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Discovery {
    /// They are in the policy.
    #[default]
    Written,
    /// This file says so now.
    Found(Found),
    /// This file said so, and says nothing now that can be used.
    Kept(Found),
    /// Not at all yet: none of these files is there.
    Awaited(Vec<String>),
}

/// A file that pod networks were taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// What it said.
    pub text: String,
}

/// One `[overlay.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Its name.
    pub name: String,
    /// Where its table starts.
    pub place: Place,
    /// How packets travel.
    pub backend: OverlayBackend,
    /// Tunnel packets, as they arrive from other nodes; `None` without a tunnel.
    pub tunnel: Option<Tunnel>,
    /// Addresses of its pods; at least one unless they are [`Discovery::Awaited`], none in another
    /// overlay's.
    pub subnets: Vec<Address>,
    /// How the subnets are known.
    pub discovery: Discovery,
    /// Whether pods of nodes on the same LAN arrive by route, outside of the tunnel (flannel's `DirectRouting`);
    /// only with a tunnel.
    pub direct: bool,
    /// The tunnel interface, if it exists. Of two, that of IPv4.
    pub link: Option<Link>,
    /// Interfaces where its pods' packets come from. May be empty without a tunnel.
    pub interfaces: Vec<InterfacePattern>,
    /// Those of its interfaces that are tunnels: node addresses do occur there, and only a peer can send.
    pub tunnel_side: Vec<InterfacePattern>,
    /// Those of its interfaces by which peers are reached too: a LAN, not only pods.
    pub lan_side: Vec<InterfacePattern>,
    /// Whether pods of other nodes may come by route at all.
    pub by_route: bool,
    /// Interfaces where arrival by route is believed; those by which peers are reached if there are none.
    pub underlay: Vec<InterfacePattern>,
    /// Pods of other nodes that come by route: interface and prefix, as the kernel routes them. Never by a
    /// default route.
    pub routed: Vec<(String, IpNet)>,
    /// Whether pods of other nodes may come with their own addresses, from the machines of peers.
    pub unmasqueraded: bool,
    /// Ethernet addresses of peers, for `unmasqueraded`.
    pub peer_macs: Vec<[u8; 6]>,
    /// Networks of this host's own that lie within `subnets` and are not pods'.
    pub carved: Vec<IpNet>,
    /// Who besides peers may send to its tunnel.
    pub tunnel_from: Vec<Source>,
}

impl Overlay {
    /// Addresses of its pods: `subnets` without what is carved out.
    pub fn pods(&self) -> Vec<IpNet> {
        let subnets = self.subnets.iter().map(|subnet| subnet.net);
        subnets
            .flat_map(|net| addr::subtract(net, &self.carved))
            .collect()
    }

    /// Whether an interface of its own is a LAN where only its routes are believed: anybody may be there. With
    /// the backend `none`, the policy says that its addresses are there.
    pub fn is_by_route_only(&self, pattern: &InterfacePattern) -> bool {
        self.backend != OverlayBackend::None && self.lan_side.contains(pattern)
    }

    /// Interfaces that pods of other nodes come in by, by route.
    pub fn routed_interfaces(&self) -> BTreeSet<String> {
        self.routed.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Interfaces that this host may be the DHCP server of: whoever is there has no address of the overlay yet,
    /// and may use every port once it has one.
    pub fn dhcp_side(&self) -> impl Iterator<Item = &InterfacePattern> {
        let interfaces = self
            .interfaces
            .iter()
            .filter(|_| self.backend == OverlayBackend::None);
        interfaces.filter(|pattern| !self.lan_side.contains(pattern))
    }

    /// Whether its addresses are those of machines on a LAN.
    pub fn is_on_lan(&self) -> bool {
        self.backend == OverlayBackend::None && !self.lan_side.is_empty()
    }

    /// Whether its tunnel has to be kept from pods and local users. WireGuard authenticates each packet.
    pub fn guards_tunnel(&self) -> bool {
        self.tunnel.is_some() && self.backend != OverlayBackend::Wireguard
    }
}
