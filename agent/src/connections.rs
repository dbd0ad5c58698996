//! Open connections, by ctnetlink: which a change of policy ends, and their end.

use peerwall_core::revoke::{self, Cut, Place};
use peerwall_core::ruleset::Ruleset;
use peerwall_proto::attr::Attrs;
use peerwall_proto::conntrack::{self, Connection, IPS_DST_NAT};
use peerwall_proto::nf_tables::Attributes as _;

use crate::facts;
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

/// Ends connections that the old ruleset admitted and the new refuses, and says how many there were.
///
/// # Errors
/// If they cannot be read, or one cannot be ended.
pub fn end(old: &Ruleset, new: &Ruleset) -> Result<usize, NetlinkError> {
    ending(old, new)?.end()
}

impl Ending {
    /// Ends them; who is gone by itself meanwhile is none of them.
    fn end(&self) -> Result<usize, NetlinkError> {
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
    for (name, address) in facts::interfaces() {
        if !place.interfaces.contains(&name) {
            place.interfaces.push(name);
        }
        place.addresses.extend(address);
    }
    place
}
