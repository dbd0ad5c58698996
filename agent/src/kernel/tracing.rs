//! Asks the kernel to trace packets: a temporary table marks them, and events tell what each rule
//! does with them.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use peerwall_core::nft::tracing::{Filter, NAME, create, delete};
use peerwall_proto::netlink::message::Datagram;
use peerwall_proto::nf_tables::event::Event;
use peerwall_proto::nf_tables::trace::{self, Trace};
use peerwall_proto::nf_tables::{NFPROTO_INET, NFT_TABLE_F_OWNER, Table, msg};

use crate::enforce::foreign::list;
use crate::kernel::netlink::{NetlinkError, Socket};

/// A running trace. The table is deleted when it is dropped; since Linux 5.12, the kernel does so
/// even if the process is killed.
pub struct Tracing {
    owner: Socket,
    events: Socket,
    name: String,
}

impl Tracing {
    /// Starts to trace packets. Tables that killed processes left are deleted before.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel refuses the table.
    pub fn start(filter: &Filter) -> Result<Self, NetlinkError> {
        sweep()?;
        let events = Socket::open()?;
        events.listen_to_traces()?;
        let mut owner = Socket::open()?;
        let name = format!("{NAME}{}", std::process::id());
        match owner.commit(create(&name, NFT_TABLE_F_OWNER, filter)) {
            // Before Linux 5.12, tables have no owners.
            Err(err) if matches!(err.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                owner.commit(create(&name, 0, filter))?;
            }
            created => created?,
        }
        Ok(Self {
            owner,
            events,
            name,
        })
    }

    /// Name of the table.
    pub fn table(&self) -> &str {
        &self.name
    }

    /// Returns the next events, each with the `NFPROTO_*` of its table; none if the time is over.
    ///
    /// # Errors
    /// [`NetlinkError`] if events were lost.
    pub fn next(&mut self, until: Instant) -> Result<Vec<(u8, Trace)>, NetlinkError> {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(self.events.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, timeout);
        let mut found = Vec::new();
        let Some(bytes) = self.events.receive(false)? else {
            return Ok(found);
        };
        for raw in Datagram::new(bytes) {
            let message = raw?.nfnetlink()?;
            found.extend(trace::decode(&message)?.map(|event| (message.family, event)));
        }
        Ok(found)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Err(err) = self.owner.commit(delete(&self.name)) {
            log::warn!("table inet {} is not deleted: {err}", self.name);
        }
    }
}

/// Deletes tables of traces whose processes have ended.
///
/// # Errors
/// [`NetlinkError`] if the kernel refuses it.
pub fn sweep() -> Result<(), NetlinkError> {
    let mut socket = Socket::open()?;
    for (family, event) in list(&mut socket, msg::NFT_MSG_GETTABLE, 0, &Table::default())? {
        let Event::Table(_, table) = event else {
            continue;
        };
        let name = table.name.unwrap_or_default();
        let process = name.strip_prefix(NAME).filter(|_| family == NFPROTO_INET);
        let has_ended = |process: &str| {
            process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists()
        };
        if process.is_some_and(has_ended) {
            log::info!("deleting table inet {name} of a trace that was killed");
            socket.commit(delete(&name))?;
        }
    }
    Ok(())
}
