//! Open connections: finds those that a policy refuses, and ends them.
//!
//! They come from two sources: conntrack entries (ctnetlink), and sockets of this host without an
//! entry, because connections were not tracked when they were opened, or the entry has expired.
//! Forwarded connections without an entry are invisible.
//!
//! There may be hundreds of thousands. Each is judged while it is read; only those to end are kept,
//! at most [`CHUNK`] at a time, and the table is read again until none is left.

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

/// Maximum number of connections that are ended before the table is read again.
pub const CHUNK: usize = 1 << 16;
/// Maximum number of reads of the table.
const PASSES_MAX: u32 = 100;
/// Maximum number of groups of connections.
const KINDS_MAX: usize = 1000;

/// Selects which of the refused connections end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// None.
    None,
    /// Those that the previous policy admitted.
    Revoked,
    /// All.
    All,
    /// All except these.
    Younger(&'a Older),
}

/// Connections that are older than a ruleset.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Older {
    /// Conntrack ids.
    entries: BTreeSet<u32>,
    /// Sockets without a conntrack entry.
    sockets: BTreeSet<Ends>,
}

/// Open connections, in groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Number of connections in each of the first thousand groups.
    pub of_kind: BTreeMap<Refused, usize>,
    /// Number of all others, by whether the previous policy admitted them.
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

/// Result for the connections that a policy refuses.
#[derive(Debug, Default)]
pub struct Ended {
    /// Number of connections that ended.
    pub ended: usize,
    /// Refused connections that stay open, in groups.
    pub left: Kinds,
    /// Connections that could not be judged and stay open, in groups.
    pub unsure: Kinds,
    /// Why sockets of this host could not be ended.
    pub trouble: Option<String>,
}

/// A change of rulesets.
#[derive(Debug, Clone, Copy)]
pub struct Transition<'a> {
    /// Ruleset that was loaded before, if known.
    pub old: Option<&'a Ruleset>,
    /// Ruleset that is loaded now.
    pub new: &'a Ruleset,
    /// Ruleset that comes back if `new` is not confirmed; only connections that it refuses too end.
    pub fallback: Option<&'a Ruleset>,
    /// Connections that end.
    pub which: Which<'a>,
    /// Connections that never end.
    pub spare: &'a [Ssh],
}

impl<'a> Transition<'a> {
    /// Ends what `old` admitted and `new` refuses.
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

/// The kernel's connection tracking table.
pub struct Connections {
    socket: Socket,
}

impl Connections {
    /// Opens a ctnetlink socket. Long-running processes should keep it open: closing a netfilter
    /// socket after a rule change blocks until the kernel has freed the old rules
    /// (`nft_rcv_nl_event()`), which takes ten milliseconds and more.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel has no ctnetlink.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        Ok(Self { socket })
    }

    /// Finds the conntrack entry of a connection to this host by the addresses of its socket.
    ///
    /// # Errors
    /// [`NetlinkError`] if it cannot be read.
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

    /// Returns the open connections that `new` refuses in place of `old`, in groups: the refused
    /// ones, and those that cannot be judged.
    ///
    /// # Errors
    /// [`NetlinkError`] if they cannot be read.
    pub fn refused(
        &mut self,
        old: Option<&Ruleset>,
        new: &Ruleset,
    ) -> Result<(Kinds, Kinds), NetlinkError> {
        let change = Transition {
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
    /// [`NetlinkError`] if they cannot be read, or one cannot be ended.
    pub fn end(&mut self, change: &Transition<'_>) -> Result<Ended, NetlinkError> {
        let mut sockets = Sockets::list();
        let mut outcome = Ended {
            trouble: sockets.trouble.clone(),
            ..Ended::default()
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

    /// Returns the open connections that a ruleset refuses, which are older than it.
    ///
    /// # Errors
    /// [`NetlinkError`] if they cannot be read.
    pub fn older(&mut self, ruleset: &Ruleset) -> Result<Older, NetlinkError> {
        let change = Transition {
            old: None,
            ..Transition::revoke(ruleset, ruleset)
        };
        let pass = self.survey(&change, &Sockets::list(), Keep::Older)?;
        give_back();
        Ok(pass.older)
    }

    /// Ends the socket of a connection, then its conntrack entry. Returns whether either existed.
    /// If the socket stayed and continued to send, conntrack would track a new connection from this
    /// host, and the answers would be accepted.
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

    /// Creates the conntrack entry of a connection that this host opened. Returns whether it was
    /// missing.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel refuses it.
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

/// Timeout of an established TCP connection, in seconds (nf_conntrack_tcp_timeout_established).
const TCP_SECONDS: u32 = 432_000;
/// Timeout of a TCP connection that this side has closed, in seconds
/// (nf_conntrack_tcp_timeout_fin_wait).
const CLOSED_SECONDS: u32 = 120;
/// Timeout of answered UDP, in seconds (nf_conntrack_udp_timeout_stream).
const UDP_SECONDS: u32 = 120;

/// Returns the state that conntrack would have after seeing the whole connection. The kernel's own
/// timeouts apply from the next packet on.
fn in_progress(socket: &sock_diag::Socket) -> (Option<conntrack::ProtocolInfo>, u32) {
    if socket.protocol != TCP {
        return (None, UDP_SECONDS);
    }
    let (state, timeout) = match socket.is_half_closed() {
        true => (conntrack::tcp_state::FIN_WAIT, CLOSED_SECONDS),
        false => (conntrack::tcp_state::ESTABLISHED, TCP_SECONDS),
    };
    let scales = socket.info.map(|tcp| (tcp.receive_scale, tcp.send_scale));
    // The maximum: a window that is too large drops nothing.
    let (own, other) = scales.unwrap_or((14, 14));
    let info = conntrack::tcp_in_progress(state, own, other);
    (Some(info), timeout)
}

/// Protocol, local and remote address of a socket.
type Ends = (u8, SocketAddr, SocketAddr);

/// Returns freed memory to the operating system. Memory that is freed in small pieces otherwise
/// stays with a process that may run for months.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
