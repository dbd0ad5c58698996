//! A netlink socket to netfilter or rtnetlink: send bytes, receive bytes, and be exact about what went
//! wrong.
//!
//! neli's `NlSocket` carries the bytes. Its router is not used (no batches, drops extended acks), nor
//! is its handle's error parser (cannot read capped acks).

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use peerwall_proto::netlink::ack::{self, Ack};
use peerwall_proto::netlink::attr::DecodeError;
use peerwall_proto::netlink::message::{
    Datagram, Message, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_OVERRUN, RawMessage,
};
use peerwall_proto::nf_tables::NFNLGRP_NFTABLES;
use peerwall_proto::rtnetlink::List;
use peerwall_proto::rtnetlink::link::{self, Link};
use peerwall_proto::rtnetlink::route_lookup::{self, Ask};
use peerwall_proto::sock_diag;

use crate::system::passing;
use crate::system::watchdog;

/// A dump's datagrams are at most 32 KiB (`netlink_dump()`); acks are capped and smaller.
const RECEIVE_BYTES: usize = 256 * 1024;
/// Room for answers on top of what the kernel gives by default.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Room for what is sent, on top of its length: the kernel counts its own headers too.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// A dump that somebody keeps disturbing is given up after so many tries.
const DUMP_TRIES: u32 = 50;
/// The same for lists of rtnetlink: a router's table may be long, and change all the time.
const LIST_TRIES: u32 = 10;

/// `SOL_NETLINK`
const SOL_NETLINK: libc::c_int = 270;
const NETLINK_CAP_ACK: libc::c_int = 10;
const NETLINK_EXT_ACK: libc::c_int = 11;

/// What can go wrong with a socket.
#[derive(Debug)]
pub enum NetlinkError {
    /// The operating system would not do it.
    Io {
        /// What was tried.
        doing: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The kernel answered with an error.
    Answer(Ack),
    /// The answer is not what it should be.
    Decode(DecodeError),
    /// Answers were lost (`ENOBUFS`); what they said is not known.
    Lost,
    /// The dump was disturbed by changes again and again.
    Disturbed,
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => write!(f, "{doing}: {source}"),
            Self::Answer(ack) => f.write_str(&describe(ack)),
            Self::Decode(err) => write!(f, "cannot read the kernel's answer: {err}"),
            Self::Lost => f.write_str("the kernel's answer was lost (no buffer space)"),
            Self::Disturbed => f.write_str("it kept changing while it was read"),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<DecodeError> for NetlinkError {
    fn from(err: DecodeError) -> Self {
        Self::Decode(err)
    }
}

impl NetlinkError {
    /// Whether the same request may succeed later, since nothing was wrong with it.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Io { source, .. } => crate::secure_file::is_passing(source),
            Self::Answer(_) => {
                let errno = self.errno().map(io::Error::from_raw_os_error);
                errno.is_some_and(|err| crate::secure_file::is_passing(&err))
            }
            Self::Lost | Self::Disturbed => true,
            Self::Decode(_) => false,
        }
    }

    /// The errno, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Answer(ack) => Some(ack.errno),
            Self::Decode(_) | Self::Lost | Self::Disturbed => None,
        }
    }
}

/// An errno's name and meaning, with the kernel's own words and the likely cause.
pub fn describe(ack: &Ack) -> String {
    let (name, hint) = match ack.errno {
        libc::EPERM => (
            "EPERM",
            "; it takes root (CAP_NET_ADMIN), and a table that no other process owns",
        ),
        libc::ENOENT => (
            "ENOENT",
            "; what it names is not there, or this kernel lacks an nf_tables feature, see docs/limits.md",
        ),
        libc::EEXIST => ("EEXIST", ""),
        libc::EBUSY => ("EBUSY", "; something still uses it"),
        libc::EOPNOTSUPP => (
            "EOPNOTSUPP",
            "; this kernel lacks an nf_tables feature, see docs/limits.md",
        ),
        libc::EINVAL => ("EINVAL", ""),
        libc::ENOMEM => ("ENOMEM", ""),
        libc::ERESTART => ("ERESTART", ""),
        _ => ("", ""),
    };
    let meaning = io::Error::from_raw_os_error(ack.errno).to_string();
    let meaning = meaning.split(" (os error").next().unwrap_or_default();
    let words = ack
        .message
        .as_ref()
        .map_or_else(String::new, |m| format!(" ({m})"));
    let at = ack
        .offset
        .map_or_else(String::new, |o| format!(" at byte {o} of the message"));
    format!("{name} {meaning}{words}{at}{hint}")
        .trim_start()
        .to_owned()
}

/// What to do when the kernel says that something changed while it listed (`NLM_F_DUMP_INTR`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// Ask again, so often in all.
    Again(u32),
    /// Nothing: it is known otherwise whether what was listed changed.
    Ignored,
}

/// How a dump came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Nothing changed meanwhile.
    Whole,
    /// To its end, and something changed meanwhile.
    Disturbed,
    /// Not to its end.
    Broken,
}

/// A socket to the kernel's netfilter, or to rtnetlink.
pub struct Socket {
    inner: NlSocket,
    seq: u32,
    buffer: Vec<u8>,
    /// What the send buffer was made for, in bytes.
    send_buffer: usize,
}

impl Socket {
    /// Opens one.
    ///
    /// # Errors
    /// [`NetlinkError::Io`] if the kernel has no netfilter netlink, or will not give a socket.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::connect(
            NlFamily::Netfilter,
            "open a netlink socket to netfilter (is CONFIG_NETFILTER_NETLINK in this kernel?)",
        )
    }

    /// Opens one to rtnetlink.
    ///
    /// # Errors
    /// [`NetlinkError::Io`] if the kernel will not give one.
    pub fn open_route() -> Result<Self, NetlinkError> {
        Self::connect(NlFamily::Route, "open a netlink socket to rtnetlink")
    }

    /// Opens one to sock_diag.
    ///
    /// # Errors
    /// [`NetlinkError::Io`] if the kernel will not give one.
    pub fn open_diag() -> Result<Self, NetlinkError> {
        Self::connect(
            NlFamily::SockOrInetDiag,
            "open a netlink socket to sock_diag",
        )
    }

    fn connect(family: NlFamily, doing: &'static str) -> Result<Self, NetlinkError> {
        let inner = NlSocket::connect(family, None, Groups::empty()).map_err(io_error(doing))?;
        for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK] {
            // Kernels before 4.12 have neither: errors are then longer or say less.
            let _ = set_option(inner.as_raw_fd(), SOL_NETLINK, option, 1);
        }
        let mut socket = Self {
            inner,
            seq: 1,
            buffer: vec![0; RECEIVE_BYTES],
            send_buffer: 0,
        };
        socket.grow(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES);
        Ok(socket)
    }

    /// A sequence number with `count` more behind it that are not given out again.
    pub fn take_seq(&mut self, count: usize) -> u32 {
        let first = self.seq;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.seq = first.wrapping_add(count).wrapping_add(1);
        first
    }

    /// Sets a buffer as large as is allowed.
    fn grow(&mut self, force: libc::c_int, plain: libc::c_int, bytes: usize) {
        let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        let fd = self.inner.as_raw_fd();
        // FORCE needs CAP_NET_ADMIN in the first user namespace; else net.core.*mem_max is the limit.
        if set_option(fd, libc::SOL_SOCKET, force, value).is_err() {
            let _ = set_option(fd, libc::SOL_SOCKET, plain, value);
        }
    }

    /// Sends one datagram, with a send buffer that it fits in.
    ///
    /// # Errors
    /// [`NetlinkError::Io`]. If it is EMSGSIZE, nothing was sent, and the limit is
    /// `net.core.wmem_max`.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let needed = bytes.len() + SEND_BUFFER_BYTES;
        if needed > self.send_buffer {
            self.grow(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, needed);
            self.send_buffer = needed;
        }
        let doing = "send to the kernel";
        // What fails for want of memory was not taken (`netlink_sendmsg()` copies it before anything else).
        match passing::repeat(|| self.inner.send(bytes, Msg::empty())) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(sent) => {
                let short = format!("only {sent} of {} bytes were sent", bytes.len());
                Err(io_error(doing)(io::Error::other(short)))
            }
            Err(err) if err.raw_os_error() == Some(libc::EMSGSIZE) => {
                let hint = format!(
                    "a change of {} bytes does not fit the socket buffer; raise it with: sysctl -w net.core.wmem_max={}",
                    bytes.len(),
                    bytes.len().next_power_of_two()
                );
                Err(io_error(doing)(io::Error::new(err.kind(), hint)))
            }
            Err(err) => Err(io_error(doing)(err)),
        }
    }

    /// Has the kernel tell of every change of rules from now on, or no more.
    ///
    /// # Errors
    /// [`NetlinkError::Io`]
    pub fn listen(&self, on: bool) -> Result<(), NetlinkError> {
        let group = || Groups::new_groups(&[NFNLGRP_NFTABLES]);
        let done = passing::repeat(|| match on {
            true => self.inner.add_mcast_membership(group()),
            false => self.inner.drop_mcast_membership(group()),
        });
        done.map_err(io_error("listen to changes of nf_tables"))
    }

    /// Joins multicast groups of rtnetlink (`RTNLGRP_*`).
    ///
    /// # Errors
    /// [`NetlinkError::Io`]
    pub fn join(&self, groups: &[u32]) -> Result<(), NetlinkError> {
        let done = self.inner.add_mcast_membership(Groups::new_groups(groups));
        done.map_err(io_error("listen to changes of interfaces and routes"))
    }

    /// Everything that rtnetlink has of one kind, as far as `read` makes something of it.
    ///
    /// # Errors
    /// [`NetlinkError::Disturbed`] if it kept changing while it was read.
    pub fn list<T>(
        &mut self,
        list: List,
        read: impl Fn(&RawMessage<'_>) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..LIST_TRIES {
            let seq = self.take_seq(0);
            self.send(&list.request(seq))?;
            let mut found = Vec::new();
            let mut each = |raw: &RawMessage<'_>| {
                found.extend(read(raw)?);
                Ok(())
            };
            if self.dump_once(seq, &mut each)? == Came::Whole {
                return Ok(found);
            }
        }
        Err(NetlinkError::Disturbed)
    }

    /// The interface of this name; `None` if there is none.
    ///
    /// # Errors
    /// [`NetlinkError`] if that cannot be told.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let seq = self.take_seq(0);
        let Ok(request) = link::get(name, seq) else {
            return Ok(None);
        };
        self.send(&request)?;
        match self.answer(seq, link::decode) {
            Err(NetlinkError::Answer(ack)) if ack.errno == libc::ENODEV => Ok(None),
            answer => answer,
        }
    }

    /// Receives one datagram; `None` if there is none and `wait` is false.
    ///
    /// # Errors
    /// [`NetlinkError::Lost`] if some did not fit the receive buffer.
    pub fn receive(&mut self, wait: bool) -> Result<Option<&[u8]>, NetlinkError> {
        let flags = match wait {
            true => Msg::empty(),
            false => Msg::DONTWAIT,
        };
        watchdog::progress();
        let mut tries = 1;
        loop {
            match self.inner.recv(&mut self.buffer, flags) {
                Ok((len, _)) => return Ok(Some(&self.buffer[..len])),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(err) if err.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Err(NetlinkError::Lost);
                }
                // The datagram is still there.
                Err(err) if passing::is_passing_io(&err) && tries < passing::TRIES => {
                    tries += 1;
                    std::thread::sleep(passing::PAUSE);
                }
                Err(err) => return Err(io_error("receive from the kernel")(err)),
            }
        }
    }

    /// Every ack that is there now. A batch is worked through while it is sent, so all of its acks
    /// are.
    ///
    /// # Errors
    /// [`NetlinkError::Lost`] if some did not fit the receive buffer.
    pub fn drain_acks(&mut self) -> Result<Vec<Ack>, NetlinkError> {
        let mut acks = Vec::new();
        while let Some(bytes) = self.receive(false)? {
            for raw in Datagram::new(bytes) {
                acks.extend(ack::decode(&raw?)?);
            }
        }
        Ok(acks)
    }

    /// Sends a request that is answered by yes or no.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] for no.
    pub fn acknowledged(&mut self, request: Message) -> Result<(), NetlinkError> {
        let seq = self.request(request)?;
        self.wait_for_ack(seq)
    }

    /// Ends a socket that was listed; whether it was still there.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] if the kernel will not.
    pub fn destroy(&mut self, socket: &sock_diag::Socket) -> Result<bool, NetlinkError> {
        let seq = self.take_seq(0);
        self.send(&sock_diag::destroy(socket, seq))?;
        match self.wait_for_ack(seq) {
            Ok(()) => Ok(true),
            // Its addresses may be those of another socket now, which has another cookie.
            Err(err) if matches!(err.errno(), Some(libc::ENOENT | libc::ESTALE)) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Indices of the interfaces that the route to an address leaves by; none if there is no route.
    ///
    /// # Errors
    /// [`NetlinkError`] if it cannot be read.
    pub fn route(
        &mut self,
        to: IpAddr,
        from: Option<IpAddr>,
        ask: Ask,
    ) -> Result<Vec<u32>, NetlinkError> {
        let seq = self.take_seq(0);
        let Ok(request) = route_lookup::get(to, from, ask, seq) else {
            return Ok(Vec::new());
        };
        self.send(&request)?;
        match self.answer(seq, route_lookup::decode) {
            // Unreachable, prohibited, or an address that is not this host's (any more).
            Err(NetlinkError::Answer(_)) => Ok(Vec::new()),
            answer => answer,
        }
    }

    fn wait_for_ack(&mut self, seq: u32) -> Result<(), NetlinkError> {
        loop {
            let bytes = self.receive(true)?.unwrap_or_default();
            for raw in Datagram::new(bytes) {
                let raw = raw?;
                match ack::decode(&raw)? {
                    Some(ack) if raw.seq == seq && ack.errno != 0 => {
                        return Err(NetlinkError::Answer(ack));
                    }
                    Some(_) if raw.seq == seq => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// Sends a request for one object and returns it.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] with ENOENT if it is not there.
    pub fn get(&mut self, request: Message) -> Result<Message, NetlinkError> {
        let seq = self.request(request)?;
        self.answer(seq, |raw| raw.nfnetlink())
    }

    /// The one message that answers a request.
    fn answer<T>(
        &mut self,
        seq: u32,
        read: impl Fn(&RawMessage<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, NetlinkError> {
        loop {
            let bytes = self.receive(true)?.unwrap_or_default();
            for raw in Datagram::new(bytes) {
                let raw = raw?;
                if raw.seq != seq {
                    continue;
                }
                match ack::decode(&raw)? {
                    Some(ack) if ack.errno != 0 => return Err(NetlinkError::Answer(ack)),
                    Some(_) => {}
                    None => return Ok(read(&raw)?),
                }
            }
        }
    }

    /// Sends a dump request and gives every message to `each`; starts again when the kernel says
    /// that the dump was disturbed, after a call of `restart`.
    ///
    /// # Errors
    /// What went wrong; what `each` was given by then is not complete.
    pub fn dump<S>(
        &mut self,
        request: &Message,
        state: &mut S,
        restart: impl Fn(&mut S),
        each: impl FnMut(&mut S, Message) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.dump_with(
            Disturbance::Again(DUMP_TRIES),
            request,
            state,
            restart,
            each,
        )
    }

    /// The same, with a say in what happens when the dump was disturbed.
    ///
    /// # Errors
    /// What went wrong; what `each` was given by then is not complete.
    pub fn dump_with<S>(
        &mut self,
        disturbance: Disturbance,
        request: &Message,
        state: &mut S,
        restart: impl Fn(&mut S),
        mut each: impl FnMut(&mut S, Message) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let (tries, is_ignored) = match disturbance {
            Disturbance::Again(tries) => (tries, false),
            Disturbance::Ignored => (1, true),
        };
        for _ in 0..tries {
            restart(state);
            let seq = self.request(request.clone())?;
            let mut each = |raw: &RawMessage<'_>| each(state, raw.nfnetlink()?);
            match self.dump_once(seq, &mut each)? {
                Came::Whole => return Ok(()),
                Came::Disturbed if is_ignored => return Ok(()),
                Came::Disturbed | Came::Broken => {}
            }
        }
        Err(NetlinkError::Disturbed)
    }

    /// The port that the kernel knows the socket by, and owners of tables.
    pub fn port(&self) -> u32 {
        self.inner.pid().unwrap_or(0)
    }

    /// Lists the sockets of this host of a family and a protocol. The kernel does not say whether any changed
    /// meanwhile.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] with ENOENT if the kernel cannot list this protocol.
    pub fn sockets(
        &mut self,
        family: u8,
        protocol: u8,
    ) -> Result<Vec<sock_diag::Socket>, NetlinkError> {
        let seq = self.take_seq(0);
        self.send(&sock_diag::dump(family, protocol, seq))?;
        let mut found = Vec::new();
        self.dump_once(seq, &mut |raw| {
            found.push(sock_diag::decode(raw, protocol)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// How the dump came.
    fn dump_once(
        &mut self,
        seq: u32,
        each: &mut impl FnMut(&RawMessage<'_>) -> Result<(), NetlinkError>,
    ) -> Result<Came, NetlinkError> {
        let mut came = Came::Whole;
        loop {
            let bytes = self.receive(true)?.unwrap_or_default();
            for raw in Datagram::new(bytes) {
                let raw: RawMessage<'_> = raw?;
                if raw.seq != seq {
                    continue;
                }
                if raw.flags & NLM_F_DUMP_INTR != 0 {
                    came = Came::Disturbed;
                }
                match ack::decode(&raw)? {
                    // NLMSG_DONE carries an errno too: a dump that broke off is no shorter dump.
                    Some(ack) if ack.errno == libc::EINTR => return Ok(Came::Broken),
                    Some(ack) if ack.errno != 0 => return Err(NetlinkError::Answer(ack)),
                    Some(_) if raw.kind == NLMSG_DONE => return Ok(came),
                    Some(_) => {}
                    None if raw.kind == NLMSG_OVERRUN => return Err(NetlinkError::Lost),
                    None => each(&raw)?,
                }
            }
        }
    }

    fn request(&mut self, mut message: Message) -> Result<u32, NetlinkError> {
        let seq = self.take_seq(0);
        message.seq = seq;
        let mut bytes = Vec::new();
        message.encode_into(&mut bytes);
        self.send(&bytes)?;
        Ok(seq)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `inner` is, and that is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.inner.as_raw_fd()) }
    }
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> NetlinkError {
    move |source| NetlinkError::Io { doing, source }
}

fn set_option(
    fd: RawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: `value` lives across the call and `len` is its size; `fd` is an open socket.
    let rc = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) };
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
