//! Open connections: which of them a policy refuses, and the end of those that are to end.
//!
//! Two sources: conntrack entries (ctnetlink), and sockets of this host that have no entry, because nothing
//! tracked connections when they were opened, or the entry has expired. Connections through this host without an
//! entry cannot be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use peerwall_core::packet::Hook;
use peerwall_core::port::TCP;
use peerwall_core::revoke::{self, Judge, Judgement, Place, Refused};
use peerwall_core::ruleset::Ruleset;
use peerwall_proto::attr::Attrs;
use peerwall_proto::conntrack::{self, Connection, IPS_DST_NAT};
use peerwall_proto::nf_tables::Attributes as _;
use peerwall_proto::sock_diag;

use crate::caller::Ssh;
use crate::facts;
use crate::netlink::{NetlinkError, Socket};
use crate::routes::Routes;
use crate::sockets::{Opened, Sockets};

/// Which of the connections that a policy refuses end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// None.
    None,
    /// Those that the old policy admitted.
    Revoked,
    /// All.
    All,
    /// All but these.
    Younger(&'a Older),
}

/// Connections that were there before a ruleset.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Older {
    /// Conntrack ids.
    entries: BTreeSet<u32>,
    /// Sockets without a conntrack entry.
    sockets: BTreeSet<Ends>,
}

/// Open connections, alike ones counted together.
pub type Kinds = BTreeMap<Refused, usize>;

/// What happened to the connections that a policy refuses.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many open connections ended.
    pub ended: usize,
    /// Open connections that stay, by kind.
    pub left: Kinds,
    /// Open connections that could not be judged and stay, by kind.
    pub unsure: Kinds,
    /// Why sockets of this host could not be ended.
    pub trouble: Option<String>,
}

/// A change of rulesets.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What was loaded before, as far as it is known.
    pub old: Option<&'a Ruleset>,
    /// What is loaded now.
    pub new: &'a Ruleset,
    /// What will be loaded again if `new` is not confirmed; it has to refuse a connection as well.
    pub fallback: Option<&'a Ruleset>,
    /// What ends.
    pub which: Which<'a>,
    /// What never ends.
    pub spare: &'a [Ssh],
}

impl<'a> Change<'a> {
    /// The end of what `old` admitted and `new` refuses.
    pub fn revoke(old: &'a Ruleset, new: &'a Ruleset) -> Self {
        Self {
            old: Some(old),
            new,
            fallback: None,
            which: Which::Revoked,
            spare: &[],
        }
    }
}

/// A connection that a policy refuses.
struct Found {
    /// The conntrack entry, if there is one.
    entry: Option<Connection>,
    /// Own and other address of the socket, of TCP and UDP connections to this host.
    ends: Option<(u8, SocketAddr, SocketAddr)>,
    is_open: bool,
    refused: Refused,
}

/// What a look at all connections found.
#[derive(Default)]
struct Survey {
    refused: Vec<Found>,
    unsure: Kinds,
}

/// The kernel's table of connections.
pub struct Connections {
    socket: Socket,
}

impl Connections {
    /// Opens a ctnetlink socket. Long-running processes should keep it open: closing a netfilter socket after a
    /// rule change blocks until the kernel has freed the old rules (`nft_rcv_nl_event()`), which takes ten
    /// milliseconds and more.
    ///
    /// # Errors
    /// If the kernel has no ctnetlink.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        Ok(Self { socket })
    }

    /// The conntrack entry of a connection to this host, by the ends of its socket.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn find(
        &mut self,
        protocol: u8,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<Connection>, NetlinkError> {
        let Ok(request) = conntrack::by_reply(protocol, local, remote) else {
            return Ok(None);
        };
        match self.socket.get(request) {
            Ok(message) => Ok(Some(Connection::decode(Attrs::new(&message.attrs))?)),
            Err(err) if err.errno() == Some(libc::ENOENT) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Open connections that `new` refuses in place of `old`, by kind: those that are refused, and those that
    /// cannot be judged.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn refused(
        &mut self,
        old: Option<&Ruleset>,
        new: &Ruleset,
    ) -> Result<(Kinds, Kinds), NetlinkError> {
        let change = Change {
            old,
            new,
            fallback: None,
            which: Which::None,
            spare: &[],
        };
        let survey = self.survey(&change, &Sockets::list())?;
        let mut kinds = Kinds::new();
        for found in survey.refused.into_iter().filter(|found| found.is_open) {
            *kinds.entry(found.refused).or_default() += 1;
        }
        Ok((kinds, survey.unsure))
    }

    /// Ends connections that a change refuses.
    ///
    /// # Errors
    /// If they cannot be read, or one cannot be ended.
    pub fn end(&mut self, change: &Change<'_>) -> Result<Outcome, NetlinkError> {
        let mut sockets = Sockets::list();
        let survey = self.survey(change, &sockets)?;
        let mut outcome = Outcome {
            unsure: survey.unsure,
            trouble: sockets.trouble.clone(),
            ..Outcome::default()
        };
        for found in survey.refused {
            let is_spared = change.spare.iter().any(|ssh| found.is(ssh));
            let ends = found.is_meant(change.which) && !is_spared;
            let ended = ends && self.end_one(&found, &mut sockets, &mut outcome.trouble)?;
            match (found.is_open, ended) {
                (true, true) => outcome.ended += 1,
                (true, false) if !ends => *outcome.left.entry(found.refused).or_default() += 1,
                _ => {}
            }
        }
        Ok(outcome)
    }

    /// The connections that a ruleset refuses: they are older than it.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn older(&mut self, ruleset: &Ruleset) -> Result<Older, NetlinkError> {
        let mut older = Older::default();
        let change = Change {
            old: None,
            ..Change::revoke(ruleset, ruleset)
        };
        for found in self.survey(&change, &Sockets::list())?.refused {
            match found.entry.and_then(|entry| entry.id) {
                Some(id) => drop(older.entries.insert(id)),
                None => older.sockets.extend(found.ends),
            }
        }
        Ok(older)
    }

    /// Judges every connection, while they are read: a table may have a million.
    fn survey(&mut self, change: &Change<'_>, sockets: &Sockets) -> Result<Survey, NetlinkError> {
        let place = place();
        let fallback = change.fallback;
        let mut judges = Judges {
            fallback: fallback.map(|fallback| Judge::new(None, fallback, place.clone())),
            judge: Judge::new(change.old, change.new, place),
            routes: Routes::default(),
        };
        let incoming = |socket: &&sock_diag::Socket| sockets.opened(socket) == Opened::There;
        let incoming = || sockets.open().filter(incoming).map(sock_diag::Socket::ends);
        let mut state = (Survey::default(), BTreeSet::new());
        let restart = |state: &mut (Survey, BTreeSet<_>)| {
            *state = (Survey::default(), incoming().collect());
        };
        let request = conntrack::dump();
        self.socket
            .dump(&request, &mut state, restart, |(survey, rest), message| {
                let entry = Connection::decode(Attrs::new(&message.attrs))?;
                if let Some(known) = known(&entry) {
                    let ends = socket_ends(&entry);
                    if let Some(ends) = &ends {
                        rest.remove(ends);
                    }
                    let is_open = entry.is_open();
                    judges.add(&known, survey, (Some(entry), ends, is_open));
                }
                Ok(())
            })?;
        let (mut survey, untracked) = state;
        for ends in untracked {
            judges.add(&of_socket(ends), &mut survey, (None, Some(ends), true));
        }
        Ok(survey)
    }

    /// Ends the socket of a connection, then its conntrack entry; whether there was anything to end. If the
    /// socket stayed and went on sending, conntrack would take the connection for a new one that this host
    /// opened, and let the answers in.
    fn end_one(
        &mut self,
        found: &Found,
        sockets: &mut Sockets,
        trouble: &mut Option<String>,
    ) -> Result<bool, NetlinkError> {
        let mut ended = false;
        let is_input = found.refused.hook == Hook::Input && trouble.is_none();
        if let Some((protocol, local, remote)) = found.ends.filter(|_| is_input) {
            match sockets.end(protocol, local, remote) {
                Ok(done) => ended = done,
                Err(err) => *trouble = Some(format!("sockets of this host cannot be ended: {err}")),
            }
        }
        let request = found.entry.as_ref().map(conntrack::delete);
        let Some(Ok(request)) = request else {
            return Ok(ended);
        };
        match self.socket.acknowledged(request) {
            Ok(()) => Ok(true),
            // Ending the socket may have ended the entry.
            Err(err) if err.errno() == Some(libc::ENOENT) => Ok(ended),
            Err(err) => Err(err),
        }
    }

    /// Creates the entry of an open connection that this host opened; whether there was none.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn create(&mut self, socket: &sock_diag::Socket) -> Result<bool, NetlinkError> {
        let (protocol, local, remote) = socket.ends();
        let (info, timeout) = in_progress(socket);
        let Ok(request) = conntrack::create(protocol, local, remote, info, timeout) else {
            return Ok(false);
        };
        match self.socket.acknowledged(request) {
            Ok(()) => Ok(true),
            Err(err) if err.errno() == Some(libc::EEXIST) => Ok(false),
            Err(err) => Err(err),
        }
    }
}

/// Seconds that an idle TCP connection stays tracked (nf_conntrack_tcp_timeout_established).
const TCP_SECONDS: u32 = 432_000;
/// The same of one that this side has closed (nf_conntrack_tcp_timeout_fin_wait).
const CLOSED_SECONDS: u32 = 120;
/// The same of UDP that was answered (nf_conntrack_udp_timeout_stream).
const UDP_SECONDS: u32 = 120;

/// What conntrack would know of a connection if it had seen all of it. The values of the kernel's own sysctls
/// count from the next packet on.
fn in_progress(socket: &sock_diag::Socket) -> (Option<conntrack::ProtocolInfo>, u32) {
    if socket.protocol != TCP {
        return (None, UDP_SECONDS);
    }
    let (state, timeout) = match socket.is_half_closed() {
        true => (conntrack::tcp_state::FIN_WAIT, CLOSED_SECONDS),
        false => (conntrack::tcp_state::ESTABLISHED, TCP_SECONDS),
    };
    let scales = socket.info.map(|tcp| (tcp.receive_scale, tcp.send_scale));
    // The largest there is: a window that is too large drops nothing.
    let (own, other) = scales.unwrap_or((14, 14));
    let info = conntrack::tcp_in_progress(state, own, other);
    (Some(info), timeout)
}

/// Judges connections by the interface that they use.
struct Judges<'r> {
    judge: Judge<'r>,
    /// Only what this one refuses as well counts as refused.
    fallback: Option<Judge<'r>>,
    routes: Routes,
}

/// A conntrack entry, the ends of the socket, and whether data can come through.
type Parts = (Option<Connection>, Option<Ends>, bool);
/// Protocol, own and other address of a socket.
type Ends = (u8, SocketAddr, SocketAddr);

impl Judges<'_> {
    fn add(
        &mut self,
        known: &revoke::Connection,
        survey: &mut Survey,
        (entry, ends, is_open): Parts,
    ) {
        let to = self.judge.place().has(known.destination);
        let to = to.then_some(known.destination);
        let routes = &mut self.routes;
        match self.judge.judge(known, || routes.ways(known.source, to)) {
            Judgement::Admitted => {}
            Judgement::Unsure(refused) if is_open => {
                *survey.unsure.entry(refused).or_default() += 1;
            }
            Judgement::Unsure(_) => {}
            Judgement::Refused(refused) if self.falls_back_to_refuse(known, to) => {
                survey.refused.push(Found {
                    entry,
                    ends,
                    is_open,
                    refused,
                });
            }
            Judgement::Refused(_) => {}
        }
    }
}

impl Judges<'_> {
    fn falls_back_to_refuse(&mut self, known: &revoke::Connection, to: Option<IpAddr>) -> bool {
        let routes = &mut self.routes;
        self.fallback.as_ref().is_none_or(|judge| {
            let judgement = judge.judge(known, || routes.ways(known.source, to));
            matches!(judgement, Judgement::Refused(_))
        })
    }
}

impl Found {
    fn is_meant(&self, which: Which<'_>) -> bool {
        match which {
            Which::None => false,
            Which::Revoked => self.refused.was_admitted,
            Which::All => true,
            Which::Younger(older) => {
                let id = self.entry.as_ref().and_then(|entry| entry.id);
                let by_id = id.is_some_and(|id| older.entries.contains(&id));
                let by_ends = self.ends.is_some_and(|ends| older.sockets.contains(&ends));
                !by_id && !by_ends
            }
        }
    }

    /// Whether it is this ssh connection.
    fn is(&self, ssh: &Ssh) -> bool {
        self.ends == Some((TCP, ssh.server_end(), ssh.client_end()))
    }
}

/// The ends of the socket of a connection to this host: as its answers have them, after any rewriting.
fn socket_ends(connection: &Connection) -> Option<Ends> {
    let reply = &connection.reply.as_ref()?.0;
    let (local, remote) = reply.ends()?;
    let (protocol, _, _) = reply.ports()?;
    Some((protocol, local, remote))
}

/// A connection without an entry: nothing rewrote it, or there would be one.
fn of_socket((protocol, local, remote): Ends) -> revoke::Connection {
    revoke::Connection {
        source: remote.ip(),
        source_port: remote.port(),
        protocol,
        dialled_address: local.ip(),
        dialled: local.port(),
        is_dnat: false,
        destination: local.ip(),
        destination_port: local.port(),
    }
}

/// A connection as conntrack has it, for judging.
pub fn known(connection: &Connection) -> Option<revoke::Connection> {
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

/// This host's addresses and interfaces.
pub fn place() -> Place {
    let mut place = Place::default();
    for (name, address) in facts::interfaces() {
        if !place.interfaces.contains(&name) {
            place.interfaces.push(name);
        }
        place.addresses.extend(address);
    }
    place
}
