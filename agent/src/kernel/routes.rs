//! Finds the interface on which packets of an address arrive: that of the route to the address.
//!
//! Each address is looked up once by the kernel (`RTM_GETROUTE`), so that policy routing and all
//! tables count. With asymmetric routes, packets may arrive on another interface.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::net::if_::if_nameindex;
use peerwall_proto::rtnetlink::route_lookup::Ask;

use crate::kernel::netlink::{NetlinkError, Socket};

/// Maximum number of cached answers.
const KNOWN_MAX: usize = 10_000;

/// Cached routes of this network namespace.
#[derive(Default)]
pub struct Routes {
    socket: Option<Socket>,
    names: BTreeMap<u32, String>,
    known: BTreeMap<(IpAddr, Option<IpAddr>), Vec<String>>,
}

impl Routes {
    /// Returns the names of the interfaces on which packets from `source` to an address of this
    /// host arrive; `None` for forwarded packets. Several if the route has several next hops; none
    /// if unknown, because the address is link-local or has no route.
    pub fn ways(&mut self, from: IpAddr, to: Option<IpAddr>) -> Vec<String> {
        if is_link_local(from) {
            return Vec::new();
        }
        if let Some(known) = self.known.get(&(from, to)) {
            return known.clone();
        }
        let found = self.look_up(from, to).unwrap_or_else(|err| {
            log::info!("the route to {from} cannot be looked up: {err}");
            Vec::new()
        });
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert((from, to), found.clone());
        found
    }

    fn look_up(
        &mut self,
        address: IpAddr,
        own: Option<IpAddr>,
    ) -> Result<Vec<String>, NetlinkError> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => {
                self.names = interface_names();
                none.insert(Socket::open_route()?)
            }
        };
        let mut found = socket.route(address, own, Ask::Way)?;
        if !found.is_empty() {
            found.extend(socket.route(address, own, Ask::Entry)?);
        }
        found.sort_unstable();
        found.dedup();
        let names = found.iter().map(|index| self.names.get(index).cloned());
        // An interface that was added meanwhile has no name here: the answer is unknown.
        Ok(names.collect::<Option<_>>().unwrap_or_default())
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn interface_names() -> BTreeMap<u32, String> {
    let list = if_nameindex();
    let list = list.iter().flatten();
    list.map(|each| (each.index(), each.name().to_string_lossy().into_owned()))
        .collect()
}
