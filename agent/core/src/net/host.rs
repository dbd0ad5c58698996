//! What the kernel says of this host: interfaces, addresses, routes and neighbours.
//!
//! Plain data, so that the policy can be compared with the host without touching it. The agent
//! reads it by rtnetlink; tests write it down.

use std::net::IpAddr;

use ipnet::IpNet;

/// A snapshot of this host's network configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Network interfaces, by index.
    pub interfaces: Vec<Interface>,
    /// Unicast routes of every table but `local`, both families; of several to one destination, the
    /// preferred one (lowest metric) first. Routes whose interface is down are left out.
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
    /// Index of the bridge or bond that it belongs to (`IFLA_MASTER`).
    pub master: Option<u32>,
    /// Addresses with the length of their network's prefix; host bits are kept.
    pub addresses: Vec<IpNet>,
}

/// A unicast route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination; a prefix length of 0 is a default route.
    pub destination: IpNet,
    /// Interface that it leaves by (`RTA_OIF`); one entry for each hop of a multipath route.
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
    /// Interface that it is reached by.
    pub interface: String,
    /// Ethernet address (`NDA_LLADDR`).
    pub mac: [u8; 6],
}

/// The `main` routing table (`RT_TABLE_MAIN` in `include/uapi/linux/rtnetlink.h`).
pub const RT_TABLE_MAIN: u32 = 254;

impl Host {
    /// Addresses of this host, of every interface.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.interfaces
            .iter()
            .flat_map(|interface| &interface.addresses)
            .map(IpNet::addr)
    }

    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|each| each.name == name)
    }

    /// The most specific route of the `main` table to an address, default routes among them.
    pub fn route_to(&self, address: IpAddr) -> Option<&Route> {
        // Of several that are equally specific, `max_by_key` returns the last.
        self.routes
            .iter()
            .rev()
            .filter(|route| route.table == RT_TABLE_MAIN && route.destination.contains(&address))
            .max_by_key(|route| route.destination.prefix_len())
    }
}
