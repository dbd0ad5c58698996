//! Open connections, by ctnetlink: which a change of policy refuses, and the end of those that it ends.

use peerwall_core::revoke::{self, Judge, Place, Refused};
use peerwall_core::ruleset::Ruleset;
use peerwall_proto::attr::Attrs;
use peerwall_proto::conntrack::{self, Connection, IPS_DST_NAT};
use peerwall_proto::message::Message;
use peerwall_proto::nf_tables::Attributes as _;

use crate::facts;
use crate::netlink::{NetlinkError, Socket};

/// The kernel's table of connections.
pub struct Connections {
    socket: Socket,
}

impl Connections {
    /// Opens it. Who stays should keep it: when a socket to netfilter is closed behind a change of rules,
    /// the kernel waits until what the change took away is freed (`nft_rcv_nl_event()`), which takes ten
    /// milliseconds and more.
    ///
    /// # Errors
    /// If there is no socket to be had.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        Ok(Self { socket })
    }

    /// Connections that `new` refuses in the place of `old`: those that it ends, and others that somebody
    /// talks by.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn refused(
        &mut self,
        old: Option<&Ruleset>,
        new: &Ruleset,
    ) -> Result<Vec<(Connection, Refused)>, NetlinkError> {
        let judge = Judge::new(old, new, place());
        let mut all: Vec<Connection> = Vec::new();
        let each = |all: &mut Vec<Connection>, message: Message| {
            all.push(Connection::decode(Attrs::new(&message.attrs))?);
            Ok(())
        };
        self.socket
            .dump(&conntrack::dump(), &mut all, Vec::clear, each)?;
        let judged = all.into_iter().filter_map(|connection| {
            let refused = judge.refused(&known(&connection)?)?;
            Some((connection, refused))
        });
        Ok(judged
            .filter(|(connection, refused)| refused.was_admitted || connection.is_established())
            .collect())
    }

    /// Ends connections that the old ruleset admitted and the new refuses, and says how many there were.
    /// Who is gone by itself meanwhile is none of them.
    ///
    /// # Errors
    /// If they cannot be read, or one cannot be ended.
    pub fn end(&mut self, old: &Ruleset, new: &Ruleset) -> Result<usize, NetlinkError> {
        // The kernel walks its whole table for a list of connections, however few there are.
        if revoke::only_widens(old, new) {
            return Ok(0);
        }
        let mut ended = 0;
        let list = self.refused(Some(old), new)?;
        for (connection, _) in list.iter().filter(|(_, refused)| refused.was_admitted) {
            let Ok(request) = conntrack::delete(connection) else {
                continue;
            };
            match self.socket.acknowledged(request) {
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
