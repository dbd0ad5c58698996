//! What the kernel tells of changes of rules, by everybody.

use std::os::fd::{AsFd, BorrowedFd};

use peerwall_core::reconcile::Culprit;
use peerwall_core::ruleset::TABLE;
use peerwall_proto::message::Datagram;
use peerwall_proto::nf_tables::event::{self, Change as Kind, Event};
use peerwall_proto::nf_tables::{NFPROTO_INET, Table};

use crate::netlink::{NetlinkError, Socket};

/// Something that happened to rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Our table was changed by somebody else.
    Ours(Option<Culprit>),
    /// Tables of others are gone, by family and name.
    Gone(Vec<String>, Option<Culprit>),
    /// Events were lost.
    Lost,
}

/// A socket in the kernel's group of changes.
pub struct Events {
    socket: Socket,
    /// What came of a transaction whose end has not come yet.
    ours: bool,
    gone: Vec<String>,
}

impl Events {
    /// Listens from now on.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel will not have that.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        socket.listen(true)?;
        Ok(Self {
            socket,
            ours: false,
            gone: Vec::new(),
        })
    }

    /// Does something without listening to what it does itself: a message an element triples the time
    /// of a large load. What others do meanwhile is not heard.
    pub fn deaf<T>(&mut self, act: impl FnOnce() -> T) -> T {
        if let Err(err) = self.socket.listen(false) {
            log::debug!("{err}");
        }
        let done = act();
        if let Err(err) = self.socket.listen(true) {
            log::error!("changes of rules are not heard any more: {err}");
        }
        done
    }

    /// Everything that is there to be heard now.
    pub fn drain(&mut self) -> Vec<Change> {
        let mut found = Vec::new();
        loop {
            let heard = match self.socket.receive(false) {
                Ok(None) => return found,
                Ok(Some(bytes)) => heard(bytes),
                Err(NetlinkError::Lost) => {
                    found.push(Change::Lost);
                    continue;
                }
                Err(err) => {
                    log::error!("{err}");
                    found.push(Change::Lost);
                    return found;
                }
            };
            match heard {
                Some(list) => list
                    .into_iter()
                    .for_each(|each| self.take(each, &mut found)),
                None => found.push(Change::Lost),
            }
        }
    }

    fn take(&mut self, heard: Heard, found: &mut Vec<Change>) {
        match heard {
            Heard::Ours => self.ours = true,
            Heard::Gone(name) => self.gone.push(name),
            Heard::End(by) => {
                let me = by.as_ref().is_some_and(|by| by.pid == std::process::id());
                if std::mem::take(&mut self.ours) && !me {
                    found.push(Change::Ours(by.clone()));
                }
                let gone = std::mem::take(&mut self.gone);
                if !gone.is_empty() && !me {
                    found.push(Change::Gone(gone, by));
                }
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One message.
enum Heard {
    /// About our table.
    Ours,
    /// A table of somebody else's went away.
    Gone(String),
    /// The transaction is over; who made it.
    End(Option<Culprit>),
}

/// `None` if it cannot be read.
fn heard(bytes: &[u8]) -> Option<Vec<Heard>> {
    let mut list = Vec::new();
    for raw in Datagram::new(bytes) {
        let message = raw.ok()?.nfnetlink().ok()?;
        let inet = message.family == NFPROTO_INET;
        let ours = |table: &Option<String>| inet && table.as_deref() == Some(TABLE);
        let heard = match event::decode(&message).ok()? {
            None | Some(Event::Other(_)) => None,
            Some(Event::Generation(generation)) => {
                Some(Heard::End(generation.pid.map(|pid| Culprit {
                    pid,
                    process: generation.process.unwrap_or_default(),
                })))
            }
            Some(Event::Table(kind, table)) if !ours(&table.name) => {
                gone(kind, table, message.family)
            }
            Some(Event::Table(_, table)) => ours(&table.name).then_some(Heard::Ours),
            Some(Event::Chain(_, chain)) => ours(&chain.table).then_some(Heard::Ours),
            Some(Event::Rule(_, rule)) => ours(&rule.table).then_some(Heard::Ours),
            Some(Event::Set(_, set)) => ours(&set.table).then_some(Heard::Ours),
            Some(Event::Elements(_, list)) => ours(&list.table).then_some(Heard::Ours),
            Some(Event::Object(_, object)) => ours(&object.table).then_some(Heard::Ours),
        };
        list.extend(heard);
    }
    Some(list)
}

fn gone(kind: Kind, table: Table, family: u8) -> Option<Heard> {
    // `include/uapi/linux/netfilter.h`
    let family = match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "?",
    };
    (kind == Kind::Del).then(|| Heard::Gone(format!("{family} {}", table.name.unwrap_or_default())))
}
