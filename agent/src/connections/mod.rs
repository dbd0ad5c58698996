//! Open connections: which of them a policy refuses, and the end of those that are to end.
//!
//! Two sources: conntrack entries (ctnetlink), and sockets of this host that have no entry, because nothing
//! tracked connections when they were opened, or the entry has expired. Connections through this host without an
//! entry cannot be seen.
//!
//! There may be hundreds of thousands. Each is judged while it is read; only those that are to end are kept, at
//! most [`CHUNK`] at once, and the table is read again until none is left.

pub mod first;
pub mod loading;
pub mod revocation;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use peerwall_core::net::port::TCP;
use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::revoke::Refused;
use peerwall_proto::conntrack::{self, Connection};
use peerwall_proto::netlink::attr::Attrs;
use peerwall_proto::nf_tables::Attributes as _;
use peerwall_proto::sock_diag;

use crate::host::caller::Ssh;
use crate::kernel::netlink::{NetlinkError, Socket};
use crate::kernel::sockets::Sockets;
use survey::{Doomed, Keep};
pub use survey::{known, place};

/// So many connections are kept at most to be ended, before the table is read again.
pub const CHUNK: usize = 1 << 16;
/// The table is read so often at most.
const PASSES_MAX: u32 = 100;
/// So many kinds of connections are told apart at most.
const KINDS_MAX: usize = 1000;

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kinds {
    /// How many of each kind, of the first thousand kinds.
    pub of_kind: BTreeMap<Refused, usize>,
    /// How many of other kinds, by whether the old policy admitted them.
    pub others: BTreeMap<bool, usize>,
}

impl Kinds {
    fn add(&mut self, refused: Refused) {
        let is_known = || self.of_kind.contains_key(&refused);
        let count = match self.of_kind.len() < KINDS_MAX || is_known() {
            true => self.of_kind.entry(refused).or_default(),
            false => self.others.entry(refused.was_admitted).or_default(),
        };
        *count += 1;
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.of_kind.is_empty() && self.others.is_empty()
    }
}

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
        let pass = self.survey(&change, &Sockets::list(), Keep::Doomed)?;
        Ok((pass.left, pass.unsure))
    }

    /// Ends connections that a change refuses.
    ///
    /// # Errors
    /// If they cannot be read, or one cannot be ended.
    pub fn end(&mut self, change: &Change<'_>) -> Result<Outcome, NetlinkError> {
        let mut sockets = Sockets::list();
        let mut outcome = Outcome {
            trouble: sockets.trouble.clone(),
            ..Outcome::default()
        };
        for _ in 0..PASSES_MAX {
            let pass = self.survey(change, &sockets, Keep::Doomed)?;
            (outcome.left, outcome.unsure) = (pass.left, pass.unsure);
            let mut any = false;
            for doomed in pass.doomed {
                let ended = self.end_one(&doomed, &mut sockets, &mut outcome.trouble)?;
                any |= ended;
                outcome.ended += usize::from(ended && doomed.is_open);
            }
            if !pass.is_more || !any {
                break;
            }
        }
        give_back();
        Ok(outcome)
    }

    /// The connections that a ruleset refuses: they are older than it.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn older(&mut self, ruleset: &Ruleset) -> Result<Older, NetlinkError> {
        let change = Change {
            old: None,
            ..Change::revoke(ruleset, ruleset)
        };
        let pass = self.survey(&change, &Sockets::list(), Keep::Older)?;
        give_back();
        Ok(pass.older)
    }

    /// Ends the socket of a connection, then its conntrack entry; whether there was anything to end. If the
    /// socket stayed and went on sending, conntrack would take the connection for a new one that this host
    /// opened, and let the answers in.
    fn end_one(
        &mut self,
        doomed: &Doomed,
        sockets: &mut Sockets,
        trouble: &mut Option<String>,
    ) -> Result<bool, NetlinkError> {
        let mut ended = false;
        let may_end = trouble.is_none();
        if let Some((protocol, local, remote)) = doomed.socket.filter(|_| may_end) {
            match sockets.end(protocol, local, remote) {
                Ok(done) => ended = done,
                Err(err) => *trouble = Some(format!("sockets of this host cannot be ended: {err}")),
            }
        }
        let Some(request) = &doomed.request else {
            return Ok(ended);
        };
        match self.socket.acknowledged(request.clone()) {
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

/// Protocol, own and other address of a socket.
type Ends = (u8, SocketAddr, SocketAddr);

/// Gives freed memory back to the operating system. What is freed in small pieces otherwise stays with a process
/// that may run for months.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
