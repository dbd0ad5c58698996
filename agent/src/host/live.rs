//! This host, as the evaluation of loaded rules needs it.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::net::if_::if_nametoindex;
use peerwall_core::doctor::Settings;
use peerwall_core::explain::Surroundings;
use peerwall_core::explain::live::LiveHost;
use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::Packet;
use peerwall_core::nft::machine::{Host, RouteKind};

use super::{facts, settings};
use crate::kernel::netlink::Socket;
use crate::kernel::routes::Routes;

/// This host: its interfaces, routes and settings.
pub struct Here {
    /// Interfaces, once for each address.
    interfaces: Vec<(String, Option<IpAddr>)>,
    routes: Routes,
    kinds: BTreeMap<IpAddr, Option<RouteKind>>,
    /// Read when they are needed: the policy's verdict does not depend on them.
    settings: OnceCell<Settings>,
}

impl Here {
    /// Reads what is needed.
    pub fn new() -> Self {
        Self {
            interfaces: facts::interfaces(),
            routes: Routes::default(),
            kinds: BTreeMap::new(),
            settings: OnceCell::new(),
        }
    }

    fn settings(&self) -> &Settings {
        let read = || settings::read(&super::read_or_empty());
        self.settings.get_or_init(read)
    }

    /// Reports whether an interface of this name exists.
    pub fn has_interface(&self, name: &str) -> bool {
        self.interfaces.iter().any(|(there, _)| there == name)
    }
}

impl Default for Here {
    fn default() -> Self {
        Self::new()
    }
}

impl Surroundings for Here {
    fn is_own(&self, address: IpAddr) -> Option<bool> {
        let mut own = self.interfaces.iter().filter_map(|(_, own)| *own);
        Some(own.any(|own| own == address))
    }

    fn ways(&mut self, address: IpAddr) -> Vec<String> {
        self.routes.ways(address, None)
    }
}

/// Asks the kernel for the kind of the route to an address.
fn route_kind(address: IpAddr) -> Option<RouteKind> {
    let mut socket = Socket::open_route().ok()?;
    // `RTN_*` in `include/uapi/linux/rtnetlink.h`
    match socket.route_kind(address).ok()? {
        None => Some(RouteKind::Unreachable),
        Some(1) => Some(RouteKind::Unicast),
        Some(2) => Some(RouteKind::Local),
        Some(3) => Some(RouteKind::Broadcast),
        Some(4) => Some(RouteKind::Anycast),
        Some(5) => Some(RouteKind::Multicast),
        Some(6) => Some(RouteKind::Blackhole),
        Some(7..=9) => Some(RouteKind::Unreachable),
        Some(_) => None,
    }
}

impl Host for Here {
    fn kind(&mut self, address: IpAddr) -> Option<RouteKind> {
        if address.is_multicast() {
            return Some(RouteKind::Multicast);
        }
        *self
            .kinds
            .entry(address)
            .or_insert_with(|| route_kind(address))
    }

    fn ways(&mut self, address: IpAddr) -> Vec<String> {
        self.routes.ways(address, None)
    }

    fn index(&self, interface: &str) -> Option<u32> {
        if_nametoindex(interface).ok()
    }

    fn kind_of_interface(&self, interface: &str) -> Option<u16> {
        Socket::open_route().ok()?.hardware(interface).ok()?
    }

    fn redirect_address(&self, interface: &str, family: Family) -> Option<IpAddr> {
        let own = self.interfaces.iter().filter(|(name, _)| name == interface);
        let mut own = own.filter_map(|(_, address)| *address);
        own.find(|address| Family::of(*address) == family)
    }
}

impl LiveHost for Here {
    fn forwards(&self, family: Family) -> Option<bool> {
        match family {
            Family::V4 => self.settings().forwarding[0],
            Family::V6 => self.settings().forwarding[1],
        }
    }

    fn refuses(&mut self, packet: &Packet) -> Option<String> {
        let (source, interface) = (packet.source, &packet.interface);
        // `fib_validate_source()` in `net/ipv4/fib_frontend.c`; IPv6 has no such test.
        if interface == "lo" || !source.is_ipv4() {
            return None;
        }
        if source.is_multicast() || self.is_own(source) == Some(true) {
            return Some(format!("{source} cannot be a source on {interface}"));
        }
        let ways = Host::ways(self, source);
        let is_strict = self.settings().strict_reverse_path.contains(interface);
        (is_strict && !ways.contains(interface)).then(|| {
            format!("the route to {source} is not by {interface}, and its rp_filter is strict")
        })
    }

    fn is_bridge(&self, interface: &str) -> bool {
        self.settings().bridges.iter().any(|name| name == interface)
    }

    fn bridge_calls(&self) -> bool {
        self.settings().bridge_calls == Some(true)
    }
}
