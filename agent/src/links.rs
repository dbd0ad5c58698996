//! Interfaces of this host, by rtnetlink: what they are, and news of them.

use std::os::fd::{AsFd, BorrowedFd};

use peerwall_core::interface::InterfacePattern;
use peerwall_core::link::Link;
use peerwall_core::policy::{Discovery, Policy};
use peerwall_proto::link;
use peerwall_proto::message::Datagram;

use crate::netlink::{NetlinkError, Socket};

/// The interface of this name, if there is one with a driver that has a name.
pub fn find(name: &str) -> Option<Link> {
    let found = Socket::open_route().and_then(|mut socket| socket.link(name));
    match found.and_then(|found| Ok(found.as_ref().map(read).transpose()?.flatten())) {
        Ok(link) => link,
        Err(err) => {
            log::warn!("interface {name} cannot be asked for: {err}");
            None
        }
    }
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

/// Names of the interfaces that a policy depends on: those of overlays that are discovered.
pub fn names(policy: &Policy) -> Vec<String> {
    let discovered = policy
        .overlays
        .iter()
        .filter(|overlay| overlay.discovery != Discovery::Written);
    let patterns = discovered.flat_map(|overlay| &overlay.interfaces);
    let names = patterns.filter_map(InterfacePattern::exact);
    names.map(str::to_owned).collect()
}

/// News of interfaces.
pub struct Links {
    socket: Socket,
    names: Vec<String>,
}

impl Links {
    /// Listens for news of interfaces of these names.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel will not have that.
    pub fn open(names: Vec<String>) -> Result<Self, NetlinkError> {
        let socket = Socket::open_route()?;
        socket.listen_to_links()?;
        Ok(Self { socket, names })
    }

    /// Of which there is news.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether one of them may be another than it was.
    pub fn drain(&mut self) -> bool {
        let mut happened = false;
        loop {
            match self.socket.receive(false) {
                Ok(None) => return happened,
                Ok(Some(bytes)) => {
                    happened |= Datagram::new(bytes).any(|raw| {
                        match raw.and_then(|raw| link::decode(&raw)) {
                            Ok(Some(link)) => {
                                link.name.is_some_and(|name| self.names.contains(&name))
                            }
                            Ok(None) => false,
                            Err(_) => true, // whatever it was
                        }
                    });
                }
                Err(NetlinkError::Lost) => happened = true,
                Err(err) => {
                    log::error!("{err}");
                    return true;
                }
            }
        }
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
