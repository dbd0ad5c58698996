//! Facts of this host: interfaces, addresses, routes and neighbours.
//!
//! Plain data without I/O. The agent reads it over rtnetlink; tests construct it.

use std::net::IpAddr;

use ipnet::IpNet;

/// A snapshot of this host's network configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Network interfaces, in order of their index.
    pub interfaces: Vec<Interface>,
    /// Unicast routes of every table except `local`, of both families. Of several routes to one
    /// destination, the preferred one (lowest metric) is first. Routes of interfaces that are down
    /// are excluded.
    pub routes: Vec<Route>,
    /// Resolved neighbours (ARP and neighbour discovery).
    pub neighbours: Vec<Neighbour>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Index (`ifindex`).
    pub index: u32,
    /// Name (`IFLA_IFNAME`).
    pub name: String,
    /// Driver (`IFLA_INFO_KIND`): `vxlan`, `bridge`, `veth`, …; `None` for hardware.
    pub kind: Option<String>,
    /// Index of the bridge or bond of the interface (`IFLA_MASTER`).
    pub master: Option<u32>,
    /// Maximum transmission unit in bytes (`IFLA_MTU`).
    pub mtu_bytes: Option<u32>,
    /// Index of the interface that carries a VXLAN tunnel (`IFLA_VXLAN_LINK`).
    pub carrier: Option<u32>,
    /// Addresses with the prefix length of their network, including host bits.
    pub addresses: Vec<IpNet>,
}

/// A unicast route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination; a prefix length of 0 is a default route.
    pub destination: IpNet,
    /// Outgoing interface (`RTA_OIF`). A multipath route has one entry for each hop.
    pub interface: String,
    /// Next hop (`RTA_GATEWAY`, `RTA_VIA`); `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Routing table (`RTA_TABLE`); 254 is `main`.
    pub table: u32,
}

/// A resolved neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// IP address (`NDA_DST`).
    pub address: IpAddr,
    /// Interface on which the neighbour is reached.
    pub interface: String,
    /// Ethernet address (`NDA_LLADDR`).
    pub mac: [u8; 6],
}

/// Number of the `main` routing table (`RT_TABLE_MAIN` in `include/uapi/linux/rtnetlink.h`).
pub const RT_TABLE_MAIN: u32 = 254;

impl Host {
    /// Returns the addresses of all interfaces.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.interfaces
            .iter()
            .flat_map(|interface| &interface.addresses)
            .map(IpNet::addr)
    }

    /// Finds an interface by its name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|each| each.name == name)
    }

    /// Returns the most specific route of the `main` table to an address, possibly a default route.
    pub fn route_to(&self, address: IpAddr) -> Option<&Route> {
        // `max_by_key` returns the last of equal elements; the preferred route is the first.
        self.routes
            .iter()
            .rev()
            .filter(|route| route.table == RT_TABLE_MAIN && route.destination.contains(&address))
            .max_by_key(|route| route.destination.prefix_len())
    }
}
