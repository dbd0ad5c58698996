//! Open connections, by ctnetlink: which a change of policy ends, and their end.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use peerwall_core::revoke::{self, Cut, Place};
use peerwall_core::ruleset::Ruleset;
use peerwall_proto::attr::Attrs;
use peerwall_proto::conntrack::{self, Connection, IPS_DST_NAT};
use peerwall_proto::nf_tables::Attributes as _;

use crate::netlink::{NetlinkError, Socket};

/// Connections that end, as connection tracking has them.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    connections: Vec<Connection>,
    /// The same for telling.
    pub cuts: Vec<Cut>,
}

/// Connections that end when `new` takes the place of `old`.
///
/// # Errors
/// If they cannot be read.
pub fn ending(old: &Ruleset, new: &Ruleset) -> Result<Ending, NetlinkError> {
    let mut found = Ending::default();
    if old == new {
        return Ok(found);
    }
    let place = place();
    let mut socket = Socket::open()?;
    let mut all: Vec<Connection> = Vec::new();
    socket.dump(&conntrack::dump(), &mut all, Vec::clear, |all, message| {
        all.push(Connection::decode(Attrs::new(&message.attrs))?);
        Ok(())
    })?;
    for connection in all {
        let known = known(&connection);
        if let Some(cut) = known.and_then(|known| revoke::cut(old, new, &place, &known)) {
            found.cuts.push(cut);
            found.connections.push(connection);
        }
    }
    Ok(found)
}

impl Ending {
    /// Ends them, and says how many there were; who is gone by itself meanwhile is none of them.
    ///
    /// # Errors
    /// If one cannot be ended.
    pub fn end(&self) -> Result<usize, NetlinkError> {
        let mut socket = Socket::open()?;
        let mut ended = 0;
        for connection in &self.connections {
            let Ok(request) = conntrack::delete(connection) else {
                continue;
            };
            match socket.acknowledged(request) {
                Ok(()) => ended += 1,
                Err(err) if err.errno() == Some(libc::ENOENT) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(ended)
    }
}

fn known(connection: &Connection) -> Option<revoke::Connection> {
    let original = &connection.original.as_ref()?.0;
    let reply = &connection.reply.as_ref()?.0;
    let (source, _) = original.pair()?;
    let (destination, _) = reply.pair()?;
    let (protocol, source_port, dialled) = original.ports()?;
    let (_, destination_port, _) = reply.ports()?;
    Some(revoke::Connection {
        source,
        source_port,
        protocol,
        dialled,
        is_dnat: connection.status.unwrap_or(0) & IPS_DST_NAT != 0,
        destination,
        destination_port,
    })
}

fn place() -> Place {
    let mut place = Place::default();
    let address = |storage: &SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        v4.or(storage.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
    };
    match getifaddrs() {
        Ok(list) => {
            for each in list {
                place
                    .addresses
                    .extend(each.address.as_ref().and_then(address));
                if !place.interfaces.contains(&each.interface_name) {
                    place.interfaces.push(each.interface_name);
                }
            }
        }
        Err(err) => log::warn!("cannot list this host's addresses: {err}"),
    }
    place
}
