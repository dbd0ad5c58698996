//! Interfaces of this host and changes of interfaces, addresses, routes and neighbours, over
//! rtnetlink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use peerwall_core::net::interface::InterfacePattern;
use peerwall_core::net::link::Link;
use peerwall_core::policy::{Discovery, Overlay, Policy};
use peerwall_proto::netlink::attr::DecodeError;
use peerwall_proto::netlink::message::{Datagram, RawMessage};
use peerwall_proto::rtnetlink::{List, address, link, neighbour, route};

use crate::kernel::netlink::{NetlinkError, Socket};
use crate::system::passing;

/// Maximum number of neighbours that are remembered; more than the kernel keeps by default.
const NEIGHBOURS_MAX: usize = 65_536;

/// Returns the interface of this name, if it exists and its driver has a name.
///
/// # Errors
/// [`NetlinkError`] if the kernel cannot be read.
pub fn find(name: &str) -> Result<Option<Link>, NetlinkError> {
    let found = Socket::open_route()?.link(name)?;
    Ok(found.as_ref().map(read).transpose()?.flatten())
}

fn read(found: &link::Link) -> Result<Option<Link>, NetlinkError> {
    let (Some(name), Some(kind)) = (&found.name, found.kind()) else {
        return Ok(None);
    };
    let vxlan = found.vxlan()?;
    let vxlan = vxlan.as_ref();
    Ok(Some(Link {
        name: name.clone(),
        kind: kind.to_owned(),
        port: vxlan.and_then(link::Vxlan::udp_port),
        vni: vxlan.and_then(link::Vxlan::vni),
        local: vxlan.and_then(link::Vxlan::local),
    }))
}

/// Facts of this host that a policy depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interests {
    /// Names of interfaces.
    pub names: Vec<String>,
    /// Addresses of this host.
    pub addresses: bool,
    /// Routes, except those of the table `local`.
    pub routes: bool,
    /// Ethernet addresses of neighbours.
    pub neighbours: bool,
}

impl Interests {
    /// Whether the policy depends on no such fact.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the multicast groups that announce changes.
    fn groups(&self) -> Vec<u32> {
        let groups = [
            (!self.names.is_empty(), link::RTNLGRP_LINK),
            (self.addresses, address::RTNLGRP_IPV4_IFADDR),
            (self.addresses, address::RTNLGRP_IPV6_IFADDR),
            (self.routes, route::RTNLGRP_IPV4_ROUTE),
            (self.routes, route::RTNLGRP_IPV6_ROUTE),
            (self.neighbours, neighbour::RTNLGRP_NEIGH),
        ];
        let wanted = groups.into_iter().filter(|(wanted, _)| *wanted);
        wanted.map(|(_, group)| group).collect()
    }
}

/// Finds the facts that a policy depends on: interfaces of discovered overlays; routes where pods
/// may come without a tunnel; neighbours where pods may come unmasqueraded; and addresses, because
/// those of cluster services are not this host's own, and the subnets of an overlay exclude this
/// host's own networks.
pub fn interests(policy: &Policy) -> Interests {
    let overlays = &policy.overlays;
    let discovered = overlays
        .iter()
        .filter(|overlay| overlay.discovery != Discovery::Written);
    let patterns = discovered.flat_map(|overlay| &overlay.interfaces);
    let names = patterns.filter_map(InterfacePattern::exact);
    let by_route = |overlay: &Overlay| overlay.by_route || !overlay.backend.is_tunnelled();
    Interests {
        names: names.map(str::to_owned).collect(),
        addresses: !policy.allows.is_empty() || !overlays.is_empty(),
        routes: overlays.iter().any(by_route),
        neighbours: overlays.iter().any(|overlay| overlay.unmasqueraded),
    }
}

/// Listens for changes of facts that a policy depends on.
pub struct Links {
    socket: Socket,
    interests: Interests,
    known: Known,
}

impl Links {
    /// Starts listening. Earlier changes are not announced.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel refuses it.
    pub fn open(interests: Interests) -> Result<Self, NetlinkError> {
        let socket = Socket::open_route()?;
        socket.join(&interests.groups())?;
        // Read after joining, so that no change is missed in between.
        let known = Known::read(&interests)?;
        Ok(Self {
            socket,
            interests,
            known,
        })
    }

    /// Returns the facts that are listened for.
    pub fn interests(&self) -> &Interests {
        &self.interests
    }

    /// Whether a fact that the policy depends on may have changed.
    pub fn drain(&mut self) -> bool {
        let mut happened = false;
        loop {
            match self.socket.receive(false) {
                Ok(None) => return happened,
                Ok(Some(bytes)) => {
                    for raw in Datagram::new(bytes) {
                        let news = raw.and_then(|raw| self.known.hear(&raw, &self.interests));
                        // An unreadable message may be about anything.
                        happened |= news.unwrap_or(true);
                    }
                }
                Err(NetlinkError::Lost) => {
                    happened = true;
                    self.catch_up();
                }
                Err(err) if err.errno().is_some_and(passing::survive) => return happened,
                Err(err) => {
                    log::error!("{err}");
                    return true;
                }
            }
        }
    }

    /// Reads the facts again after announcements were lost.
    fn catch_up(&mut self) {
        match Known::read(&self.interests) {
            Ok(known) => self.known = known,
            Err(err) => log::warn!("changes of addresses and neighbours may be missed: {err}"),
        }
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Facts that were announced before. The kernel announces addresses whenever their lifetime is
/// renewed, and neighbours whenever they are probed; only a difference counts as a change.
#[derive(Debug, Default)]
struct Known {
    /// Addresses by interface index, with prefix length.
    addresses: BTreeSet<(u32, IpAddr, u8)>,
    /// Neighbours by interface index. Deleted ones are kept: one that comes back unchanged is not a
    /// change.
    neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
}

impl Known {
    fn read(interests: &Interests) -> Result<Self, NetlinkError> {
        let mut known = Self::default();
        let mut socket = Socket::open_route()?;
        if interests.addresses {
            let list = socket.list(List::Addresses, address::decode)?;
            known.addresses = list.iter().map(key).collect();
        }
        if interests.neighbours {
            for each in socket.list(List::Neighbours, neighbour::decode)? {
                known.is_new_neighbour(&each);
            }
        }
        Ok(known)
    }

    /// Whether a message announces a change.
    fn hear(&mut self, raw: &RawMessage<'_>, interests: &Interests) -> Result<bool, DecodeError> {
        if let Some(link) = link::decode(raw)? {
            return Ok(link
                .name
                .is_some_and(|name| interests.names.contains(&name)));
        }
        if let Some(found) = address::decode(raw)? {
            // Every pod's interface has a link-local address, and policies do not depend on them.
            if is_link_local(found.address) {
                return Ok(false);
            }
            return Ok(match raw.kind {
                address::RTM_DELADDR => self.addresses.remove(&key(&found)),
                _ => self.addresses.insert(key(&found)),
            });
        }
        if let Some(found) = neighbour::decode(raw)? {
            return Ok(raw.kind == neighbour::RTM_NEWNEIGH && self.is_new_neighbour(&found));
        }
        Ok(route::decode(raw)?.is_some())
    }

    fn is_new_neighbour(&mut self, found: &neighbour::Neighbour) -> bool {
        let Some(mac) = found.mac else {
            return false;
        };
        let key = (found.interface, found.address);
        if self.neighbours.len() >= NEIGHBOURS_MAX && !self.neighbours.contains_key(&key) {
            self.neighbours.clear();
        }
        self.neighbours.insert(key, mac) != Some(mac)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn key(found: &address::InterfaceAddress) -> (u32, IpAddr, u8) {
    (found.interface, found.address, found.prefix_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_ethernet_address_of_a_neighbour_is_news() {
        let mut known = Known::default();
        let mut hear = |address: u8, mac: Option<u8>| {
            known.is_new_neighbour(&neighbour::Neighbour {
                is_silent: false,
                interface: 2,
                address: [192, 0, 2, address].into(),
                mac: mac.map(|last| [2, 0, 0, 0, 0, last]),
            })
        };
        for (name, address, mac, news) in [
            ("unresolved", 1, None, false),
            ("resolved", 1, Some(7), true),
            ("probed", 1, Some(7), false),
            ("failed", 1, None, false),
            ("back as it was", 1, Some(7), false),
            ("replaced", 1, Some(8), true),
            ("another", 2, Some(8), true),
        ] {
            assert_eq!(hear(address, mac), news, "{name}");
        }
    }

    #[test]
    fn nothing_is_joined_for_a_policy_that_depends_on_nothing() {
        assert!(Interests::default().is_empty());
        assert_eq!(Interests::default().groups(), Vec::<u32>::new());
        let all = Interests {
            names: vec!["flannel.1".into()],
            addresses: true,
            routes: true,
            neighbours: true,
        };
        assert_eq!(all.groups(), [1, 5, 9, 7, 11, 3]);
    }
}
