//! Open connections, by ctnetlink: which a change of policy refuses, and the end of those that it ends.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use peerwall_core::packet::Hook;
use peerwall_core::port::TCP;
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
    /// To the kernel's sockets, once one had to be ended.
    sockets: Option<Socket>,
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
        Ok(Self {
            socket,
            sockets: None,
        })
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
        let mut found = self.judged(old, new)?;
        found.retain(|(connection, refused)| refused.was_admitted || connection.is_established());
        Ok(found)
    }

    /// Every connection that `new` refuses.
    fn judged(
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
        Ok(judged.collect())
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
        let mut list = self.judged(Some(old), new)?;
        list.retain(|(_, refused)| refused.was_admitted);
        self.forget(&list)
    }

    /// Numbers of the connections that a ruleset refuses: they are older than it.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn older(&mut self, ruleset: &Ruleset) -> Result<BTreeSet<u32>, NetlinkError> {
        let list = self.judged(None, ruleset)?;
        Ok(list.iter().filter_map(|(each, _)| each.id).collect())
    }

    /// Ends all connections that a ruleset refuses but for older ones, and says how many there were: they
    /// came while it was not in force.
    ///
    /// # Errors
    /// If they cannot be read, or one cannot be ended.
    pub fn sweep(
        &mut self,
        ruleset: &Ruleset,
        older: &BTreeSet<u32>,
    ) -> Result<usize, NetlinkError> {
        let mut list = self.judged(None, ruleset)?;
        list.retain(|(each, _)| each.id.is_some_and(|id| !older.contains(&id)));
        self.forget(&list)
    }

    fn forget(&mut self, list: &[(Connection, Refused)]) -> Result<usize, NetlinkError> {
        let mut ended = 0;
        self.hang_up(list);
        for (connection, _) in list {
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

    /// Ends the sockets of this host of these connections. If one went on sending, connection tracking would
    /// take the connection for a new one, begun by this host, and let the answers in.
    fn hang_up(&mut self, list: &[(Connection, Refused)]) {
        let ends = list.iter().filter_map(|(connection, refused)| {
            let known = known(connection)?;
            let is_ours = refused.hook == Hook::Input && known.protocol == TCP;
            is_ours.then(|| {
                let local = SocketAddr::new(known.destination, known.destination_port);
                (local, SocketAddr::new(known.source, known.source_port))
            })
        });
        for (local, remote) in ends {
            let sockets = match &mut self.sockets {
                Some(open) => Ok(open),
                closed => Socket::open_diag().map(|open| closed.insert(open)),
            };
            if let Err(err) = sockets.and_then(|sockets| sockets.destroy(local, remote)) {
                log::info!("sockets cannot be ended, so whoever they send to may go on: {err}");
                return;
            }
        }
    }
}

fn known(connection: &Connection) -> Option<revoke::Connection> {
    let original = &connection.original.as_ref()?.0;
    let reply = &connection.reply.as_ref()?.0;
    let (source, dialled_address) = original.pair()?;
    let (destination, _) = reply.pair()?;
    let (protocol, source_port, dialled) = original.ports()?;
    let (_, destination_port, _) = reply.ports()?;
    Some(revoke::Connection {
        source,
        source_port,
        protocol,
        dialled_address,
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
