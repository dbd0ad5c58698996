//! Which interface packets of an address arrive by: the one that the route to it leaves by.
//!
//! The kernel is asked for each address once (`RTM_GETROUTE`), so that policy routing and every table count.
//! It does not say by which interface a packet did arrive: with asymmetric routes, that may be another.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::net::if_::if_nameindex;
use peerwall_proto::rtnetlink::route_lookup::Ask;

use crate::kernel::netlink::{NetlinkError, Socket};

/// So many answers are remembered at most.
const KNOWN_MAX: usize = 10_000;

/// Routes of this network namespace, as far as they were asked for.
#[derive(Default)]
pub struct Routes {
    socket: Option<Socket>,
    names: BTreeMap<u32, String>,
    known: BTreeMap<(IpAddr, Option<IpAddr>), Vec<String>>,
}

impl Routes {
    /// Names of the interfaces that packets from an address to an address of this host arrive by (`None`: they
    /// go through this host). Several if the route has several hops; none if that cannot be known: there is no
    /// route, or the address is link-local.
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
        // An interface that was added meanwhile has no name here; then nothing is known.
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
