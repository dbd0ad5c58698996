//! Reads peerwall's table while other programs may change theirs.

use std::collections::BTreeMap;

use peerwall_core::backend::BackendError;
use peerwall_core::nft::lift::{self, Dump, Point};
use peerwall_core::nft::observed::{Observed, ObservedTable};
use peerwall_core::ruleset::{Set, TABLE};
use peerwall_proto::netlink::attr::{AttrWriter, Attrs};
use peerwall_proto::netlink::message::{Message, NLM_F_DUMP};
use peerwall_proto::nf_tables::event::{self, Event};
use peerwall_proto::nf_tables::{
    self as nft, Attributes, Chain, ElementList, NFPROTO_INET, Object, Rule, Table, message_type,
    msg,
};

use super::Kernel;
use super::answer::{protocol, transport};
use super::watcher::Watcher;
use crate::kernel::netlink::{Disturbance, NetlinkError};

/// Attempts to read within one generation.
const QUIET_TRIES: u32 = 2;
/// Attempts to read while other programs change this table.
const WATCHED_TRIES: u32 = 20;
/// Attempts to list the chains of all tables when the dump was interrupted.
const SHORT_LIST_TRIES: u32 = 50;

/// How much of the table to read.
#[derive(Debug)]
pub(super) enum Depth<'k> {
    Everything,
    /// Everything but elements of sets, which the kernel counts.
    NoElements,
    /// Everything but elements of these sets.
    AllBut(&'k BTreeMap<String, Set>),
}

/// How to treat dumps that other transactions interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// Any transaction makes the read invalid.
    Quiet,
    /// Only changes of peerwall's table matter, and those are detected separately.
    Watched,
}

impl Care {
    /// Mode for dumps that the kernel filters from all tables.
    fn of_all_tables(self) -> Disturbance {
        match self {
            Self::Quiet => Disturbance::Again(1),
            Self::Watched => Disturbance::Again(SHORT_LIST_TRIES),
        }
    }

    /// Mode for dumps of one table.
    fn of_our_table(self) -> Disturbance {
        match self {
            Self::Quiet => Disturbance::Again(1),
            Self::Watched => Disturbance::Ignored,
        }
    }
}

/// Number of elements of each set, as counted by the kernel.
pub(super) type ElementCounts = BTreeMap<String, u32>;

impl Kernel {
    /// Reads the table. Normally the generation does not change meanwhile. If other programs change
    /// their tables without a pause, it is enough that this table did not change: this socket owns
    /// it, or no transaction in between was about it.
    pub(super) fn read(
        &mut self,
        depth: &Depth<'_>,
    ) -> Result<(Observed, ElementCounts), BackendError> {
        if self.owns_table()
            && let Ok((table, counts)) = self.read_table(depth, Care::Watched)
            && self.is_owned(table.as_ref().map(|table| table.hold))
        {
            let generation = self.generation()?;
            return Ok(self.observed(generation, (table, counts)));
        }
        let quiet = if self.is_contended { 0 } else { QUIET_TRIES };
        for _ in 0..quiet {
            let before = self.generation()?;
            let found = self.read_table(depth, Care::Quiet);
            // An error may come from a concurrent change: try again.
            if self.generation()? == before {
                return Ok(self.observed(before, found?));
            }
        }
        self.is_contended = true;
        self.read_watching(depth)
    }

    fn read_watching(
        &mut self,
        depth: &Depth<'_>,
    ) -> Result<(Observed, ElementCounts), BackendError> {
        let mut watcher = match self.watcher.take() {
            Some(watcher) => watcher,
            None => Watcher::open().map_err(|err| transport(&err))?,
        };
        for _ in 0..WATCHED_TRIES {
            watcher.begin(self.generation()?);
            let found = self.read_table(depth, Care::Watched);
            let generation = self.generation()?;
            let is_owned = found
                .as_ref()
                .is_ok_and(|(table, _)| self.is_owned(table.as_ref().map(|table| table.hold)));
            if is_owned || watcher.is_untouched(generation) {
                self.watcher = Some(watcher);
                return Ok(self.observed(generation, found?));
            }
        }
        Err(BackendError::Stale)
    }

    fn observed(
        &mut self,
        generation: u32,
        (table, counts): (Option<ObservedTable>, ElementCounts),
    ) -> (Observed, ElementCounts) {
        self.hold = table.as_ref().map(|table| table.hold);
        self.read_at = Some(generation);
        (Observed { generation, table }, counts)
    }

    fn read_table(
        &mut self,
        depth: &Depth<'_>,
        care: Care,
    ) -> Result<(Option<ObservedTable>, ElementCounts), BackendError> {
        let wanted = Table {
            name: Some(TABLE.into()),
            ..Table::default()
        };
        let answer = match self.socket.get(request(msg::NFT_MSG_GETTABLE, 0, &wanted)) {
            Ok(answer) => answer,
            // Other listing errors do not mean an empty table.
            Err(NetlinkError::Answer(ack)) if ack.errno == libc::ENOENT => {
                return Ok((None, ElementCounts::new()));
            }
            Err(err) => return Err(transport(&err)),
        };
        let mut dump = Dump {
            table: Table::decode(answer.attributes()).map_err(|err| protocol(&err))?,
            ..Dump::default()
        };
        self.dump_all(&mut dump, care)?;
        let mut counts = ElementCounts::new();
        for set in &dump.sets {
            if let (Some(name), Some(count)) = (&set.name, set.count) {
                counts.insert(name.clone(), count);
            }
        }
        match depth {
            Depth::NoElements => {}
            Depth::Everything => self.dump_elements(&mut dump, &counts, &BTreeMap::new(), care)?,
            Depth::AllBut(known) => self.dump_elements(&mut dump, &counts, known, care)?,
        }
        Ok((Some(lift::lift(&dump)), counts))
    }

    fn dump_all(&mut self, dump: &mut Dump, care: Care) -> Result<(), BackendError> {
        let rules = Rule {
            table: Some(TABLE.into()),
            ..Rule::default()
        };
        let sets = nft::Set {
            table: Some(TABLE.into()),
            ..nft::Set::default()
        };
        let objects = Object {
            table: Some(TABLE.into()),
            ..Object::default()
        };
        // The kernel does not filter chains by table; those of other inet tables are skipped below.
        // It filters objects, but counts them across tables (`nf_tables_dump_obj()`), so that a
        // change of another table between two parts of the dump can hide one of this table's.
        let (all, ours) = (care.of_all_tables(), care.of_our_table());
        for (request, care) in [
            (
                request(msg::NFT_MSG_GETCHAIN, NLM_F_DUMP, &Chain::default()),
                all,
            ),
            (request(msg::NFT_MSG_GETRULE, NLM_F_DUMP, &rules), ours),
            (request(msg::NFT_MSG_GETSET, NLM_F_DUMP, &sets), ours),
            (request(msg::NFT_MSG_GETOBJ, NLM_F_DUMP, &objects), all),
        ] {
            let mut found: Vec<Event> = Vec::new();
            self.socket
                .dump_with(care, &request, &mut found, Vec::clear, |found, message| {
                    found.extend(event::decode(&message)?);
                    Ok(())
                })
                .map_err(|err| transport(&err))?;
            found.into_iter().for_each(|each| sort_in(each, dump));
        }
        Ok(())
    }

    /// Returns the packets of each named counter; none without a table.
    ///
    /// # Errors
    /// [`BackendError::Transport`] if the kernel cannot be read.
    pub fn counters(&mut self) -> Result<BTreeMap<String, u64>, BackendError> {
        let wanted = Object {
            table: Some(TABLE.into()),
            ..Object::default()
        };
        let request = request(msg::NFT_MSG_GETOBJ, NLM_F_DUMP, &wanted);
        let mut dump = Dump::default();
        let clear = |dump: &mut Dump| dump.objects.clear();
        let each = |dump: &mut Dump, message: Message| {
            if let Some(found) = event::decode(&message)? {
                sort_in(found, dump);
            }
            Ok(())
        };
        let care = Disturbance::Again(SHORT_LIST_TRIES);
        let dumped = self
            .socket
            .dump_with(care, &request, &mut dump, clear, each);
        dumped.map_err(|err| transport(&err))?;
        let counters = lift::lift(&dump).counters.into_iter();
        Ok(counters
            .map(|(name, counter)| (name, counter.packets))
            .collect())
    }

    fn dump_elements(
        &mut self,
        dump: &mut Dump,
        counts: &ElementCounts,
        known: &BTreeMap<String, Set>,
        care: Care,
    ) -> Result<(), BackendError> {
        // A count of 0 proves nothing for intervals, see `expected_counts`.
        let has_elements = |set: &&nft::Set| {
            let interval = set.flags.unwrap_or(0) & nft::NFT_SET_INTERVAL != 0;
            let count = set.name.as_ref().and_then(|name| counts.get(name));
            !lift::is_meter(set) && (interval || count != Some(&0))
        };
        let to_read = dump.sets.iter().filter(has_elements);
        let names = to_read.filter_map(|set| set.name.clone());
        let names: Vec<String> = names.filter(|name| !known.contains_key(name)).collect();
        for name in names {
            let wanted = ElementList {
                table: Some(TABLE.into()),
                set: Some(name.clone()),
                ..ElementList::default()
            };
            let request = request(msg::NFT_MSG_GETSETELEM, NLM_F_DUMP, &wanted);
            let mut found: Option<Vec<Point>> = Some(Vec::new());
            let restart = |found: &mut Option<Vec<Point>>| *found = Some(Vec::new());
            self.socket
                .dump_with(
                    care.of_our_table(),
                    &request,
                    &mut found,
                    restart,
                    |found, message| {
                        let list = ElementList::decode(Attrs::new(&message.attrs))?;
                        for element in list.elements.iter().flatten() {
                            match (found.as_mut(), Point::read(element)) {
                                (Some(points), Some(point)) => points.push(point),
                                _ => *found = None,
                            }
                        }
                        Ok(())
                    },
                )
                .map_err(|err| transport(&err))?;
            dump.elements.insert(name, found);
        }
        Ok(())
    }
}

pub(super) fn request(kind: u16, flags: u16, object: &impl Attributes) -> Message {
    let mut w = AttrWriter::new();
    object.encode(&mut w);
    Message {
        attrs: w
            .finish()
            .expect("a table's and a set's name fit an attribute"),
        ..Message::request(message_type(kind), flags, NFPROTO_INET)
    }
}

/// Adds a dumped object to the table if it belongs there.
fn sort_in(found: Event, dump: &mut Dump) {
    let ours = |table: &Option<String>| table.as_deref() == Some(TABLE);
    match found {
        Event::Chain(_, chain) if ours(&chain.table) => dump.chains.push(chain),
        Event::Rule(_, rule) if ours(&rule.table) => dump.rules.push(rule),
        Event::Set(_, set) if ours(&set.table) => dump.sets.push(set),
        Event::Object(_, object) if ours(&object.table) => dump.objects.push(object),
        Event::Chain(..)
        | Event::Rule(..)
        | Event::Set(..)
        | Event::Object(..)
        | Event::Table(..)
        | Event::Elements(..)
        | Event::Generation(_)
        | Event::Other(_) => {}
    }
}
