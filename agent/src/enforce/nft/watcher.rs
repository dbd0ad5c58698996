//! Watches all transactions, to know whether one is about peerwall's table.

use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use peerwall_core::ruleset::TABLE;
use peerwall_proto::netlink::message::{Datagram, Message};
use peerwall_proto::nf_tables::NFPROTO_INET;
use peerwall_proto::nf_tables::event::{self, Event};

use crate::kernel::netlink::{NetlinkError, Socket};

/// Maximum delay between a readable generation and the event of its transaction, in milliseconds.
const END_WAIT_MS: u16 = 500;

/// Socket in the nf_tables multicast group.
pub(super) struct Watcher {
    socket: Socket,
    /// Last generation whose events were received.
    reached: u32,
    /// Whether peerwall's table was changed since the start, or events were lost.
    is_touched: bool,
}

impl Watcher {
    /// Joins the group.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        socket.listen(true)?;
        Ok(Self {
            socket,
            reached: 0,
            is_touched: false,
        })
    }

    /// Starts to watch. `generation` was read after the socket was opened, and before the table was
    /// read.
    pub(super) fn begin(&mut self, generation: u32) {
        while let Ok(Some(_)) | Err(NetlinkError::Lost) = self.socket.receive(false) {}
        self.reached = generation;
        self.is_touched = false;
    }

    /// Whether peerwall's table did not change from the start to this generation, which the kernel
    /// has reached.
    ///
    /// A generation can be read before the event of its transaction (`nf_tables_commit()`), so this
    /// waits for the event.
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

    /// Compares generations, which wrap around.
    fn has_reached(&self, generation: u32) -> bool {
        self.reached.wrapping_sub(generation) < u32::MAX / 2
    }

    /// Reads the next events.
    fn receive(&mut self) -> Result<bool, NetlinkError> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // A signal changes nothing: read what is available.
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
