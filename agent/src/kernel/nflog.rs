//! Reads the packets that rules log to a group (NFLOG).
//!
//! A group has one reader. The kernel drops packets that do not fit the socket's buffer, and the
//! numbers of packets show how many.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use peerwall_proto::netlink::message::{Datagram, Message};
use peerwall_proto::nf_tables::Attributes as _;
use peerwall_proto::nflog::{self, Logged, Settings};

use crate::host::holder::{self, Holder};
use crate::kernel::netlink::{NetlinkError, Socket};
use crate::system::passing;

/// How packets are sent: their headers are in the first bytes, also with extensions of IPv6.
const SETTINGS: Settings = Settings {
    copy_bytes: 160,
    buffer_bytes: 16 * 1024,
    threshold: 32,
    timeout_hundredths: 20,
};
/// Maximum number of datagrams that are read in one turn.
const DATAGRAMS_MAX: usize = 8;
/// Pause after a turn that read as many. The kernel drops what does not fit the buffer meanwhile,
/// so that a flood takes a part of one processor and delays nothing else.
const REST: Duration = Duration::from_millis(5);
/// Readers of groups: `seq_show()` in `net/netfilter/nfnetlink_log.c`.
const READERS: &str = "/proc/thread-self/net/netfilter/nfnetlink_log";

/// A group, read by this process.
pub struct LogGroup {
    socket: Socket,
    number: u16,
    /// Number of the next packet.
    next: u32,
    /// Packets that the kernel dropped.
    lost: u64,
    /// Packets are not read until then.
    rests_until: Option<Instant>,
}

/// Error of a group that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Another process reads it.
    #[error("{} reads log group {group}, and a group has one reader", name(.holder.as_ref()))]
    Taken {
        /// The group.
        group: u16,
        /// The process, if it is known.
        holder: Option<Holder>,
    },
    /// The kernel refuses it.
    #[error("log group {group} cannot be read: {source}")]
    Refused {
        /// The group.
        group: u16,
        /// Error of the kernel.
        source: NetlinkError,
    },
}

fn name(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "another process".to_owned(), Holder::to_string)
}

impl LogGroup {
    /// Becomes the reader of a group.
    ///
    /// # Errors
    /// [`GroupError::Taken`] if it has one.
    pub fn bind(number: u16) -> Result<Self, GroupError> {
        let refused = |source: NetlinkError| match source.errno() {
            // The kernel answers EPERM, too, if another process reads the group.
            Some(libc::EBUSY | libc::EPERM) => match reader(number) {
                Some(port) => GroupError::Taken {
                    group: number,
                    holder: holder::of_netfilter_port(port),
                },
                None => GroupError::Refused {
                    group: number,
                    source,
                },
            },
            _ => GroupError::Refused {
                group: number,
                source,
            },
        };
        let mut socket = Socket::open().map_err(refused)?;
        for request in [nflog::bind(number), nflog::configure(number, SETTINGS)] {
            socket.acknowledged(short(request)).map_err(refused)?;
        }
        // Without it, the destination before DNAT is unknown.
        if let Err(err) = socket.acknowledged(short(nflog::with_conntrack(number))) {
            log::debug!("logged packets come without their connections: {err}");
        }
        Ok(Self {
            socket,
            number,
            next: 0,
            lost: 0,
            rests_until: None,
        })
    }

    /// Returns the number of the group.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Returns how many packets the kernel dropped because this process did not read them in time.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns the descriptor to poll; `None` during a pause.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.rest().is_none().then(|| self.socket.as_fd())
    }

    /// Returns the end of a pause.
    pub fn rest(&self) -> Option<Instant> {
        self.rests_until.filter(|until| *until > Instant::now())
    }

    /// Reads pending packets, at most those of some datagrams.
    ///
    /// # Errors
    /// [`NetlinkError`] if the group can no longer be read.
    pub fn drain(&mut self, mut each: impl FnMut(Logged)) -> Result<(), NetlinkError> {
        if self.rest().is_some() {
            return Ok(());
        }
        self.rests_until = None;
        for _ in 0..DATAGRAMS_MAX {
            match self.socket.receive(false) {
                Ok(None) => return Ok(()),
                Ok(Some(bytes)) => {
                    for packet in packets(bytes) {
                        if let Some(number) = packet.sequence {
                            let skipped = number.wrapping_sub(self.next);
                            // Others were logged before packets had numbers.
                            if skipped <= u32::MAX / 2 {
                                self.lost += u64::from(skipped);
                            }
                            self.next = number.wrapping_add(1);
                        }
                        each(packet);
                    }
                }
                // The numbers of the next packets show how many.
                Err(NetlinkError::Lost) => {}
                Err(err) if err.errno().is_some_and(passing::survive) => return Ok(()),
                Err(err) => return Err(err),
            }
        }
        self.rests_until = Some(Instant::now() + REST);
        Ok(())
    }
}

/// Returns the readable packets of a datagram.
fn packets(bytes: &[u8]) -> impl Iterator<Item = Logged> {
    let messages = Datagram::new(bytes).filter_map(|raw| raw.ok()?.nfnetlink().ok());
    let packets = messages.filter(|message| message.kind == nflog::PACKET);
    packets.filter_map(|message| Logged::decode(message.attributes()).ok())
}

fn short(request: Result<Message, peerwall_proto::netlink::attr::TooLong>) -> Message {
    request.expect("the attributes have a few bytes")
}

/// Returns the netlink port of the reader of a group.
fn reader(group: u16) -> Option<u32> {
    port_of(&fs::read_to_string(READERS).ok()?, group)
}

fn port_of(readers: &str, group: u16) -> Option<u32> {
    let mut lines = readers.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let number: u16 = words.next()?.parse().ok()?;
        Some((number, words.next()?.parse().ok()?))
    });
    let found = lines.find(|(number, _)| *number == group);
    found.map(|(_, port)| port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_of_a_group_is_found() {
        // As Linux 6.12 prints it.
        let readers =
            "    0 1723819384     0 2 65535    100  1\n    5   2907     0 2   160     20  1\n";
        for (group, port) in [(5, Some(2907)), (0, Some(1_723_819_384)), (7, None)] {
            assert_eq!(port_of(readers, group), port, "{group}");
        }
        assert_eq!(port_of("nonsense\n", 5), None);
    }
}
