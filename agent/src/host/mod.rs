//! Reads the interfaces, addresses, routes and neighbours of this host, over rtnetlink.

pub mod caller;
pub mod facts;
pub mod holder;
pub mod listeners;
pub mod live;
pub mod lockout;
pub mod names;
pub mod rules;
pub mod settings;
pub mod ssh_server;
pub(crate) mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use peerwall_core::net::host::{Host, Interface, Neighbour, Route};
use peerwall_proto::rtnetlink::address::InterfaceAddress;
use peerwall_proto::rtnetlink::{List, address, link, neighbour, route};

use crate::kernel::netlink::{NetlinkError, Socket};

/// Reads the host of the calling thread's network namespace.
///
/// # Errors
/// [`NetlinkError`] if the kernel does not answer, or its lists keep changing.
pub fn read() -> Result<Host, NetlinkError> {
    let mut socket = Socket::open_route()?;
    let links = socket.list(List::Links, |raw| {
        Ok(link::index(raw).zip(link::decode(raw)?))
    })?;
    let addresses = socket.list(List::Addresses, address::decode)?;
    let routes = socket.list(List::Routes, route::decode)?;
    let neighbours = socket.list(List::Neighbours, neighbour::decode)?;
    let interfaces: Vec<Interface> = links
        .into_iter()
        .filter_map(|(index, link)| interface(index, &link, &addresses))
        .collect();
    // An interface that is missing here was created while the lists were read; its routes are
    // skipped.
    let names: BTreeMap<u32, &String> = interfaces
        .iter()
        .map(|interface| (interface.index, &interface.name))
        .collect();
    let routes = routes
        .iter()
        .flat_map(|route| hops(route, &names))
        .collect();
    let neighbours = neighbours
        .iter()
        .filter_map(|found| reached(found, &names))
        .collect();
    Ok(Host {
        routes,
        neighbours,
        interfaces,
    })
}

/// Reads the host; if that fails, logs why and returns one without interfaces.
pub fn read_or_empty() -> Host {
    read().unwrap_or_else(|err| {
        log::warn!("cannot read this host's interfaces: {err}");
        Host::default()
    })
}

/// Returns the addresses that did not answer ARP or neighbour discovery, with their interfaces.
///
/// # Errors
/// [`NetlinkError`] if the kernel does not answer, or its lists keep changing.
pub fn silent_neighbours(host: &Host) -> Result<Vec<(IpAddr, String)>, NetlinkError> {
    let mut socket = Socket::open_route()?;
    let found = socket.list(List::Neighbours, neighbour::decode)?;
    let silent = found.iter().filter(|each| each.is_silent);
    let named = silent.filter_map(|each| {
        let mut interfaces = host.interfaces.iter();
        let interface = interfaces.find(|known| known.index == each.interface)?;
        Some((each.address, interface.name.clone()))
    });
    Ok(named.collect())
}

/// Returns the other ends of VXLAN tunnels whose interfaces have names with this prefix.
///
/// # Errors
/// [`NetlinkError`] if the kernel does not answer, or its lists keep changing.
pub fn tunnel_ends(host: &Host, prefix: &str) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let tunnels = host.interfaces.iter();
    let tunnels: BTreeSet<u32> = tunnels
        .filter(|each| each.name.starts_with(prefix) && each.kind.as_deref() == Some("vxlan"))
        .map(|each| each.index)
        .collect();
    let mut socket = Socket::open_route()?;
    let remotes = socket.list(List::Forwarding, neighbour::decode_remote)?;
    let ends = remotes
        .into_iter()
        .filter(|end| tunnels.contains(&end.interface));
    Ok(ends.map(|end| end.address).collect())
}

fn interface(index: u32, link: &link::Link, addresses: &[InterfaceAddress]) -> Option<Interface> {
    let own = addresses.iter().filter(|each| each.interface == index);
    Some(Interface {
        index,
        name: link.name.clone()?,
        kind: link.kind().map(str::to_owned),
        master: link.master_index(),
        mtu_bytes: link.mtu_bytes(),
        carrier: link
            .vxlan()
            .ok()
            .flatten()
            .and_then(|vxlan| vxlan.carrier()),
        addresses: own
            .filter_map(|each| IpNet::new(each.address, each.prefix_len).ok())
            .collect(),
    })
}

/// Converts a route into one route for each of its hops.
fn hops(route: &route::Route, names: &BTreeMap<u32, &String>) -> Vec<Route> {
    let Ok(destination) = IpNet::new(route.destination, route.prefix_len) else {
        return Vec::new();
    };
    let known = route.hops.iter().filter_map(|hop| {
        Some(Route {
            destination,
            interface: (*names.get(&hop.interface)?).clone(),
            gateway: hop.gateway,
            table: route.table,
        })
    });
    known.collect()
}

fn reached(found: &neighbour::Neighbour, names: &BTreeMap<u32, &String>) -> Option<Neighbour> {
    Some(Neighbour {
        address: found.address,
        interface: (*names.get(&found.interface)?).clone(),
        mac: found.mac?,
    })
}
