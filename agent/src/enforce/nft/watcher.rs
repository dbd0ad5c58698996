//! Follows the transactions of everybody, to know that none of them is about our table.

use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use peerwall_core::ruleset::TABLE;
use peerwall_proto::netlink::message::{Datagram, Message};
use peerwall_proto::nf_tables::NFPROTO_INET;
use peerwall_proto::nf_tables::event::{self, Event};

use crate::kernel::netlink::{NetlinkError, Socket};

/// The end of a transaction is told of so soon, in milliseconds, after its generation can be read.
const END_WAIT_MS: u16 = 500;

/// A socket in the kernel's group of changes.
pub(super) struct Watcher {
    socket: Socket,
    /// The last generation of which all is known.
    reached: u32,
    /// Whether our table was changed since the beginning, or that is not known.
    is_touched: bool,
}

impl Watcher {
    /// Listens from now on.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        socket.listen(true)?;
        Ok(Self {
            socket,
            reached: 0,
            is_touched: false,
        })
    }

    /// Begins to watch; `generation` was read after it was opened, and before what is watched.
    pub(super) fn begin(&mut self, generation: u32) {
        while let Ok(Some(_)) | Err(NetlinkError::Lost) = self.socket.receive(false) {}
        self.reached = generation;
        self.is_touched = false;
    }

    /// Whether nobody has changed our table from the beginning to this generation, which the kernel has reached.
    ///
    /// A generation can be read before its transaction is told of (`nf_tables_commit()`), so its end is waited for.
    pub(super) fn is_untouched(&mut self, generation: u32) -> bool {
        while !self.is_touched && !self.has_reached(generation) {
            self.is_touched = match self.receive() {
                Ok(is_ours) => is_ours,
                Err(err) => {
                    log::debug!("changes of rules were not heard: {err}");
                    true
                }
            };
        }
        !self.is_touched
    }

    /// Generations wrap around.
    fn has_reached(&self, generation: u32) -> bool {
        self.reached.wrapping_sub(generation) < u32::MAX / 2
    }

    /// Whether what is told next is about our table.
    fn receive(&mut self) -> Result<bool, NetlinkError> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // Interrupted or not: what counts is what is there then.
        let _ = poll(&mut fds, PollTimeout::from(END_WAIT_MS));
        let bytes = self.socket.receive(false)?.ok_or(NetlinkError::Lost)?;
        let mut is_ours = false;
        for raw in Datagram::new(bytes) {
            let message = raw?.nfnetlink()?;
            match event::decode(&message)? {
                Some(Event::Generation(told)) => {
                    self.reached = told.id.unwrap_or(self.reached);
                }
                Some(event) => is_ours |= is_about_us(&message, &event),
                None => {}
            }
        }
        Ok(is_ours)
    }
}

fn is_about_us(message: &Message, event: &Event) -> bool {
    let table = match event {
        Event::Table(_, table) => &table.name,
        Event::Chain(_, chain) => &chain.table,
        Event::Rule(_, rule) => &rule.table,
        Event::Set(_, set) => &set.table,
        Event::Elements(_, list) => &list.table,
        Event::Object(_, object) => &object.table,
        Event::Generation(_) | Event::Other(_) => return false,
    };
    message.family == NFPROTO_INET && table.as_deref() == Some(TABLE)
}
