//! Reads all connections once, and judges each while it is read.

use std::collections::BTreeSet;
use std::net::IpAddr;

use peerwall_core::net::packet::{Hook, Transport};
use peerwall_core::net::port::{self, TCP};
use peerwall_core::ruleset::revoke::{self, HostAddresses, Judge, Judgement, Refused};
use peerwall_proto::conntrack::{self, Connection, IPS_DST_NAT, Totals};
use peerwall_proto::netlink::attr::Attrs;
use peerwall_proto::netlink::message::Message;
use peerwall_proto::nf_tables::Attributes as _;
use peerwall_proto::sock_diag;

use super::{CHUNK, Connections, Ends, Kinds, Older, Transition, Which};
use crate::host::caller::Ssh;
use crate::host::facts;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::routes::Routes;
use crate::kernel::sockets::{Initiator, Sockets};

/// Selects what is kept of the connections that a policy refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// The connections to end, and the number of others.
    Doomed,
    /// Their ids and sockets.
    Older,
}

/// Handles of a connection that ends.
pub(super) struct Doomed {
    /// Request that deletes its conntrack entry, if it has one.
    pub(super) request: Option<Message>,
    /// Addresses of its socket, if it may have one: this host's address first.
    pub(super) socket: Option<Ends>,
    pub(super) is_open: bool,
}

/// Result of a reading.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) doomed: Vec<Doomed>,
    /// Whether there are more than were kept.
    pub(super) is_more: bool,
    /// Refused connections that stay.
    pub(super) left: Kinds,
    /// Connections that cannot be judged.
    pub(super) unsure: Kinds,
    pub(super) older: Older,
}

/// A connection as it was read.
struct Surveyed {
    /// Conntrack entry, if it has one.
    entry: Option<Connection>,
    /// Local and remote address of the socket, if the connection may have one.
    ends: Option<Ends>,
    /// Whether data can still arrive.
    is_open: bool,
}

impl Connections {
    /// Judges every connection while it is read.
    pub(super) fn survey(
        &mut self,
        change: &Transition<'_>,
        sockets: &Sockets,
        keep: Keep,
    ) -> Result<Pass, NetlinkError> {
        let mut judges = Judges::new(change, keep);
        let incoming = |socket: &&sock_diag::Socket| sockets.opened(socket) == Initiator::There;
        let incoming = || sockets.open().filter(incoming).map(sock_diag::Socket::ends);
        let mut state = (Pass::default(), BTreeSet::new());
        let restart = |state: &mut (Pass, BTreeSet<_>)| {
            *state = (Pass::default(), incoming().collect());
        };
        if !self.has_entries() {
            restart(&mut state);
            return Ok(judges.add_untracked(state));
        }
        let request = conntrack::dump();
        self.socket
            .dump(&request, &mut state, restart, |(pass, rest), message| {
                let entry = Connection::decode(Attrs::new(&message.attrs))?;
                if let Some(known) = known(&entry) {
                    let ends = socket_ends(&entry);
                    if let Some(ends) = &ends {
                        rest.remove(ends);
                    }
                    let seen = Surveyed {
                        is_open: entry.is_open(),
                        entry: Some(entry),
                        ends,
                    };
                    judges.add(&known, pass, seen);
                }
                Ok(())
            })?;
        Ok(judges.add_untracked(state))
    }

    /// Reports whether conntrack has entries, or does not say how many. To read an empty table
    /// costs a look at each of its buckets, which are those of all network namespaces.
    fn has_entries(&mut self) -> bool {
        let answer = self.socket.get(conntrack::totals()).ok();
        let totals = answer.and_then(|answer| Totals::decode(answer.attributes()).ok());
        let entries = totals.and_then(|totals| totals.entries);
        entries.is_none_or(|entries| entries > 0)
    }
}

/// Judges connections by the interfaces that they use.
struct Judges<'c> {
    change: &'c Transition<'c>,
    keep: Keep,
    judge: Judge<'c>,
    /// A connection counts as refused only if this one refuses it too.
    fallback: Option<Judge<'c>>,
    routes: Routes,
}

impl<'c> Judges<'c> {
    fn new(change: &'c Transition<'c>, keep: Keep) -> Self {
        let place = place();
        let fallback = change.fallback;
        Self {
            change,
            keep,
            fallback: fallback.map(|fallback| Judge::new(None, fallback, place.clone())),
            judge: Judge::new(change.old, change.new, place),
            routes: Routes::default(),
        }
    }

    fn add(&mut self, known: &revoke::Connection, pass: &mut Pass, seen: Surveyed) {
        let to = self.judge.place().has(known.destination);
        let to = to.then_some(known.destination);
        let routes = &mut self.routes;
        match self.judge.judge(known, || routes.ways(known.source, to)) {
            Judgement::Unsure(refused) if seen.is_open => pass.unsure.add(refused),
            Judgement::Refused(refused) if self.falls_back_to_refuse(known, to) => {
                match self.keep {
                    Keep::Doomed => pass.keep_doomed(self.change, seen, refused),
                    Keep::Older => pass.keep_older(&seen),
                }
            }
            Judgement::Admitted | Judgement::Unsure(_) | Judgement::Refused(_) => {}
        }
    }

    /// Judges the sockets that have no entry.
    fn add_untracked(&mut self, (mut pass, rest): (Pass, BTreeSet<Ends>)) -> Pass {
        for ends in rest {
            let seen = Surveyed {
                entry: None,
                ends: Some(ends),
                is_open: true,
            };
            self.add(&of_socket(ends), &mut pass, seen);
        }
        pass
    }

    fn falls_back_to_refuse(&mut self, known: &revoke::Connection, to: Option<IpAddr>) -> bool {
        let routes = &mut self.routes;
        self.fallback.as_ref().is_none_or(|judge| {
            let judgement = judge.judge(known, || routes.ways(known.source, to));
            matches!(judgement, Judgement::Refused(_))
        })
    }
}

impl Pass {
    fn keep_doomed(&mut self, change: &Transition<'_>, seen: Surveyed, refused: Refused) {
        let is_spared = change.spare.iter().any(|ssh| seen.is(ssh));
        if is_spared || !seen.is_meant(change.which, &refused) {
            if seen.is_open {
                self.left.add(refused);
            }
        } else if self.doomed.len() < CHUNK {
            let request = seen
                .entry
                .as_ref()
                .and_then(|entry| conntrack::delete(entry).ok());
            self.doomed.push(Doomed {
                request,
                socket: seen.ends.filter(|_| refused.hook == Hook::Input),
                is_open: seen.is_open,
            });
        } else {
            self.is_more = true;
        }
    }

    fn keep_older(&mut self, seen: &Surveyed) {
        match seen.entry.as_ref().and_then(|entry| entry.id) {
            Some(id) => drop(self.older.entries.insert(id)),
            None => self.older.sockets.extend(seen.ends),
        }
    }
}

impl Surveyed {
    fn is_meant(&self, which: Which<'_>, refused: &Refused) -> bool {
        match which {
            Which::None => false,
            Which::Revoked => refused.was_admitted,
            Which::All => true,
            Which::Younger(older) => {
                let id = self.entry.as_ref().and_then(|entry| entry.id);
                let by_id = id.is_some_and(|id| older.entries.contains(&id));
                let by_ends = self.ends.is_some_and(|ends| older.sockets.contains(&ends));
                !by_id && !by_ends
            }
        }
    }

    /// Whether the connection is this ssh connection.
    fn is(&self, ssh: &Ssh) -> bool {
        self.ends == Some((TCP, ssh.server_end(), ssh.client_end()))
    }
}

/// Returns the socket addresses of a connection to this host: those of the reply direction, after
/// any NAT.
fn socket_ends(connection: &Connection) -> Option<Ends> {
    let reply = &connection.reply.as_ref()?.0;
    let (protocol, _, _) = reply.ports()?;
    let (local, remote) = reply.ends()?;
    port::has_ports(protocol).then_some((protocol, local, remote))
}

/// Builds a connection without an entry: NAT would have created one.
fn of_socket((protocol, local, remote): Ends) -> revoke::Connection {
    revoke::Connection {
        source: remote.ip(),
        transport: Transport::Ports {
            protocol,
            source: remote.port(),
            destination: local.port(),
        },
        dialled_address: local.ip(),
        dialled: local.port(),
        is_dnat: false,
        destination: local.ip(),
    }
}

/// Builds a connection from its conntrack entry.
pub fn known(connection: &Connection) -> Option<revoke::Connection> {
    let original = &connection.original.as_ref()?.0;
    let reply = &connection.reply.as_ref()?.0;
    let (source, dialled_address) = original.pair()?;
    let (destination, _) = reply.pair()?;
    let (protocol, source_port, dialled) = original.ports()?;
    let (_, destination_port, _) = reply.ports()?;
    let has_ports = port::has_ports(protocol);
    let transport = match (has_ports, original.icmp()) {
        (true, _) => Transport::Ports {
            protocol,
            source: source_port,
            destination: destination_port,
        },
        (false, Some((kind, code))) => Transport::Icmp { kind, code },
        (false, None) => Transport::Other(protocol),
    };
    Some(revoke::Connection {
        source,
        transport,
        dialled_address,
        // GRE has keys instead of ports.
        dialled: if has_ports { dialled } else { 0 },
        is_dnat: connection.status.unwrap_or(0) & IPS_DST_NAT != 0,
        destination,
    })
}

/// Reads this host's addresses and interfaces.
pub fn place() -> HostAddresses {
    let mut place = HostAddresses::default();
    for (name, address) in facts::interfaces() {
        if !place.interfaces.contains(&name) {
            place.interfaces.push(name);
        }
        place.addresses.extend(address);
    }
    place
}
