//! Events of rule changes, from the kernel.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use peerwall_core::agent::reconcile::Culprit;
use peerwall_core::nft::unchanged::Unchanged;
use peerwall_core::ruleset::TABLE;
use peerwall_proto::netlink::message::Datagram;
use peerwall_proto::nf_tables::event::{self, Change as ObjectChange, Event};
use peerwall_proto::nf_tables::{NFPROTO_INET, Table};

use crate::host::names;
use crate::kernel::netlink::{NetlinkError, Socket};
use crate::system::passing;

/// A change of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesEvent {
    /// Another process changed peerwall's table.
    Ours(Option<Culprit>),
    /// Foreign tables were deleted, by family and name.
    Gone(Vec<String>, Option<Culprit>),
    /// Events were lost.
    Lost,
}

/// Socket in the nf_tables multicast group.
pub struct Events {
    socket: Socket,
    transaction: Transaction,
    unchanged: Option<Unchanged>,
}

/// Events of a transaction that has not ended yet.
#[derive(Debug, Default)]
struct Transaction {
    /// Whether it changes peerwall's table.
    ours: bool,
    /// Foreign tables that it deletes and does not create again.
    gone: BTreeSet<String>,
}

impl Events {
    /// Joins the multicast group.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel refuses it.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        socket.listen(true)?;
        Ok(Self {
            socket,
            transaction: Transaction::default(),
            unchanged: None,
        })
    }

    /// Starts to count the generations in which peerwall's table is unchanged. `generation` was
    /// read while this was listening, so that every later transaction is heard as a whole
    /// (`nf_tables_commit()` increments the generation before it sends events).
    pub fn count_from(&mut self, generation: u32) {
        self.unchanged = Some(Unchanged::only(generation));
    }

    /// Returns the last generations in which peerwall's table was the same; `None` if events were
    /// lost since [`count_from`](Self::count_from).
    pub fn unchanged(&self) -> Option<Unchanged> {
        self.unchanged
    }

    /// Runs `act` without receiving events: one event for each element triples the time of a large
    /// load. Changes by other programs in the meantime are missed.
    pub fn deaf<T>(&mut self, act: impl FnOnce() -> T) -> T {
        if let Err(err) = self.socket.listen(false) {
            log::debug!("{err}");
        }
        let done = act();
        self.unchanged = None;
        if let Err(err) = self.socket.listen(true) {
            log::error!("changes of rules are not heard any more: {err}");
        }
        done
    }

    /// Reads the pending events.
    pub fn drain(&mut self) -> Vec<RulesEvent> {
        let mut found = Vec::new();
        loop {
            let heard = match self.socket.receive(false) {
                Ok(None) => return found,
                Ok(Some(bytes)) => heard(bytes),
                Err(NetlinkError::Lost) => {
                    self.lose(&mut found);
                    continue;
                }
                // The events are still pending.
                Err(err) if err.errno().is_some_and(passing::survive) => return found,
                Err(err) => {
                    log::error!("{err}");
                    self.lose(&mut found);
                    return found;
                }
            };
            match heard {
                Some(list) => list
                    .into_iter()
                    .for_each(|each| self.take(each, &mut found)),
                None => self.lose(&mut found),
            }
        }
    }

    fn take(&mut self, heard: Heard, found: &mut Vec<RulesEvent>) {
        if let Heard::End { generation, .. } = heard {
            let is_ours = self.transaction.ours;
            let after = |before: Unchanged| Some(before.after(generation?, is_ours));
            self.unchanged = self.unchanged.and_then(after);
        }
        self.transaction.take(heard, found);
    }

    fn lose(&mut self, found: &mut Vec<RulesEvent>) {
        self.unchanged = None;
        found.push(RulesEvent::Lost);
    }
}

impl Transaction {
    fn take(&mut self, heard: Heard, found: &mut Vec<RulesEvent>) {
        match heard {
            Heard::Ours => self.ours = true,
            Heard::Gone(name) => drop(self.gone.insert(name)),
            Heard::Made(name) => drop(self.gone.remove(&name)),
            Heard::End { by, .. } => {
                let me = by.as_ref().is_some_and(|by| by.pid == std::process::id());
                if std::mem::take(&mut self.ours) && !me {
                    found.push(RulesEvent::Ours(by.clone()));
                }
                let gone = Vec::from_iter(std::mem::take(&mut self.gone));
                if !gone.is_empty() && !me {
                    found.push(RulesEvent::Gone(gone, by));
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

/// A message about one object.
enum Heard {
    /// About peerwall's table.
    Ours,
    /// A foreign table was deleted.
    Gone(String),
    /// A foreign table was created, perhaps after it was deleted in the same transaction.
    Made(String),
    /// End of the transaction.
    End {
        /// Its process.
        by: Option<Culprit>,
        /// The generation that it made.
        generation: Option<u32>,
    },
}

/// Reads a message; `None` if it is not readable.
fn heard(bytes: &[u8]) -> Option<Vec<Heard>> {
    let mut list = Vec::new();
    for raw in Datagram::new(bytes) {
        let message = raw.ok()?.nfnetlink().ok()?;
        let inet = message.family == NFPROTO_INET;
        let ours = |table: &Option<String>| inet && table.as_deref() == Some(TABLE);
        let heard = match event::decode(&message).ok()? {
            None | Some(Event::Other(_)) => None,
            Some(Event::Generation(made)) => Some(Heard::End {
                generation: made.id,
                by: made.pid.map(|pid| Culprit {
                    pid,
                    process: names::process(&made.process.unwrap_or_default()),
                }),
            }),
            Some(Event::Table(kind, table)) if !ours(&table.name) => {
                Some(of_another(kind, table, message.family))
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

fn of_another(kind: ObjectChange, table: Table, family: u8) -> Heard {
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
    let name = names::printable(&table.name.unwrap_or_default());
    let name = format!("{family} {name}");
    match kind {
        ObjectChange::Del => Heard::Gone(name),
        ObjectChange::New => Heard::Made(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_made_again_in_the_same_transaction_is_not_gone() {
        use Heard::{Gone, Made};
        let name = || "inet other".to_owned();
        let end = || Heard::End {
            by: None,
            generation: None,
        };
        for (story, heard, gone) in [
            ("replaced", vec![Gone(name()), Made(name()), end()], false),
            (
                "made, deleted and made",
                vec![Made(name()), Gone(name()), Made(name()), end()],
                false,
            ),
            (
                "made and deleted",
                vec![Made(name()), Gone(name()), end()],
                true,
            ),
            (
                "another was made",
                vec![Gone(name()), Made("ip other".into()), end()],
                true,
            ),
            (
                "made again later",
                vec![Gone(name()), end(), Made(name()), end()],
                true,
            ),
        ] {
            let (mut transaction, mut found) = (Transaction::default(), Vec::new());
            for each in heard {
                transaction.take(each, &mut found);
            }
            let wanted = gone.then(|| RulesEvent::Gone(vec![name()], None));
            assert_eq!(found, Vec::from_iter(wanted), "{story}");
        }
    }
}
