//! A netlink socket to netfilter, rtnetlink or sock_diag, with exact errors.
//!
//! neli's `NlSocket` carries the bytes. Its router is not used (no batches, drops extended acks),
//! nor is its handle's error parser (cannot read capped acks).

mod dump;
mod error;
mod requests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use peerwall_proto::netlink::ack::{self, Ack};
use peerwall_proto::netlink::attr::DecodeError;
use peerwall_proto::netlink::message::{Datagram, Message, RawMessage};
use peerwall_proto::nf_tables::NFNLGRP_NFTABLES;
use peerwall_proto::nf_tables::trace::NFNLGRP_NFTRACE;

pub use dump::Disturbance;
pub use error::{NetlinkError, describe};

use crate::system::passing;
use crate::system::watchdog;

/// Size of the receive buffer, in bytes. Datagrams of a dump have at most 32 KiB
/// (`netlink_dump()`); capped acks are smaller.
const RECEIVE_BYTES: usize = 256 * 1024;
/// Size of the socket's receive buffer, in bytes.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Addition to the size of a sent datagram, in bytes: the kernel counts its own headers too.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// `SOL_NETLINK`
const SOL_NETLINK: libc::c_int = 270;
const NETLINK_CAP_ACK: libc::c_int = 10;
const NETLINK_EXT_ACK: libc::c_int = 11;

/// Netlink socket.
pub struct Socket {
    inner: NlSocket,
    seq: u32,
    buffer: Vec<u8>,
    /// Size of the send buffer, in bytes.
    send_buffer: usize,
}

impl Socket {
    /// Opens a socket to netfilter.
    ///
    /// # Errors
    /// [`NetlinkError::Io`] if the kernel has no netfilter netlink, or refuses a socket.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::connect(
            NlFamily::Netfilter,
            "open a netlink socket to netfilter (is CONFIG_NETFILTER_NETLINK in this kernel?)",
        )
    }

    /// Opens a socket to rtnetlink.
    ///
    /// # Errors
    /// [`NetlinkError::Io`] if the kernel refuses a socket.
    pub fn open_route() -> Result<Self, NetlinkError> {
        Self::connect(NlFamily::Route, "open a netlink socket to rtnetlink")
    }

    /// Opens a socket to sock_diag.
    ///
    /// # Errors
    /// [`NetlinkError::Io`] if the kernel refuses a socket.
    pub fn open_diag() -> Result<Self, NetlinkError> {
        Self::connect(
            NlFamily::SockOrInetDiag,
            "open a netlink socket to sock_diag",
        )
    }

    fn connect(family: NlFamily, doing: &'static str) -> Result<Self, NetlinkError> {
        let inner = NlSocket::connect(family, None, Groups::empty()).map_err(io_error(doing))?;
        for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK] {
            // Kernels before 4.12 have neither: errors are longer or less precise there.
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

    /// Reserves `count + 1` sequence numbers and returns the first.
    pub fn take_seq(&mut self, count: usize) -> u32 {
        let first = self.seq;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.seq = first.wrapping_add(count).wrapping_add(1);
        first
    }

    /// Sets a buffer size, as large as allowed.
    fn grow(&mut self, force: libc::c_int, plain: libc::c_int, bytes: usize) {
        let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        let fd = self.inner.as_raw_fd();
        // FORCE needs CAP_NET_ADMIN in the first user namespace; else net.core.*mem_max is the
        // limit.
        if set_option(fd, libc::SOL_SOCKET, force, value).is_err() {
            let _ = set_option(fd, libc::SOL_SOCKET, plain, value);
        }
    }

    /// Sends a datagram, with a send buffer that is large enough.
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
        // Without memory nothing was sent (`netlink_sendmsg()` copies the datagram first).
        match passing::repeat(|| self.inner.send(bytes, Msg::empty())) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(sent) => {
                let short = format!("only {sent} of {} bytes were sent", bytes.len());
                Err(io_error(doing)(io::Error::other(short)))
            }
            Err(err) if err.raw_os_error() == Some(libc::EMSGSIZE) => {
                let hint = format!(
                    "a change of {} bytes does not fit the socket buffer; \
                     raise it with: sysctl -w net.core.wmem_max={}",
                    bytes.len(),
                    bytes.len().next_power_of_two()
                );
                Err(io_error(doing)(io::Error::new(err.kind(), hint)))
            }
            Err(err) => Err(io_error(doing)(err)),
        }
    }

    /// Joins or leaves the nf_tables multicast group.
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

    /// Joins the multicast group for trace events.
    ///
    /// # Errors
    /// [`NetlinkError::Io`]
    pub fn listen_to_traces(&self) -> Result<(), NetlinkError> {
        let group = Groups::new_groups(&[NFNLGRP_NFTRACE]);
        let done = self.inner.add_mcast_membership(group);
        done.map_err(io_error("listen to traces of packets"))
    }

    /// Joins multicast groups of rtnetlink (`RTNLGRP_*`).
    ///
    /// # Errors
    /// [`NetlinkError::Io`]
    pub fn join(&self, groups: &[u32]) -> Result<(), NetlinkError> {
        let done = self.inner.add_mcast_membership(Groups::new_groups(groups));
        done.map_err(io_error("listen to changes of interfaces and routes"))
    }

    /// Receives a datagram; `None` if none is pending and `wait` is false.
    ///
    /// # Errors
    /// [`NetlinkError::Lost`] if datagrams did not fit the receive buffer.
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
                // The datagram is still pending.
                Err(err) if passing::is_passing_io(&err) && tries < passing::TRIES => {
                    tries += 1;
                    std::thread::sleep(passing::PAUSE);
                }
                Err(err) => return Err(io_error("receive from the kernel")(err)),
            }
        }
    }

    /// Returns the pending acks. The kernel processes a batch while it is sent, so all of its acks
    /// are pending then.
    ///
    /// # Errors
    /// [`NetlinkError::Lost`] if datagrams did not fit the receive buffer.
    pub fn drain_acks(&mut self) -> Result<Vec<Ack>, NetlinkError> {
        let mut acks = Vec::new();
        while let Some(bytes) = self.receive(false)? {
            for raw in Datagram::new(bytes) {
                acks.extend(ack::decode(&raw?)?);
            }
        }
        Ok(acks)
    }

    /// Sends a request and waits for its ack.
    ///
    /// # Errors
    /// [`NetlinkError::Answer`] if the kernel refuses it.
    pub fn acknowledged(&mut self, request: Message) -> Result<(), NetlinkError> {
        let seq = self.request(request)?;
        self.wait_for_ack(seq)
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
    /// [`NetlinkError::Answer`] with ENOENT if it does not exist.
    pub fn get(&mut self, request: Message) -> Result<Message, NetlinkError> {
        let seq = self.request(request)?;
        self.answer(seq, |raw| raw.nfnetlink())
    }

    /// Returns the message that answers a request.
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

    /// Returns the netlink port id, by which the kernel identifies the socket and owners of tables.
    pub fn port(&self) -> u32 {
        self.inner.pid().unwrap_or(0)
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

/// Sets a socket option that is a number.
///
/// # Errors
/// [`io::Error`] if the kernel refuses it.
pub(crate) fn set_option(
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
