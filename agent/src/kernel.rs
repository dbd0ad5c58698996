//! The backend that is the kernel: nf_tables by netlink.

use std::collections::BTreeMap;

use peerwall_core::backend::{Backend, BackendError, Refusal};
use peerwall_core::kconfig;
use peerwall_core::lift::{self, Dump, Point};
use peerwall_core::lower::{OpIndex, lower};
use peerwall_core::observed::{Hold, Observed, SeenSet, SeenTable};
use peerwall_core::plan::{Op, Plan};
use peerwall_core::render;
use peerwall_core::ruleset::{Ruleset, Set, TABLE};
use peerwall_proto::ack::Ack;
use peerwall_proto::attr::{AttrWriter, Attrs};
use peerwall_proto::message::{Message, NLM_F_DUMP};
use peerwall_proto::nf_tables::batch::EncodedBatch;
use peerwall_proto::nf_tables::event::{self, Event};
use peerwall_proto::nf_tables::{
    self as nft, Attributes, Chain, ElementList, Generation, NFPROTO_INET, NFT_TABLE_F_OWNER,
    NFT_TABLE_F_PERSIST, Object, Rule, Table, message_type, msg,
};

use crate::netlink::{NetlinkError, Socket, describe};

/// Observing is tried again so often when somebody changes the ruleset meanwhile.
const OBSERVE_TRIES: u32 = 50;

/// nf_tables of the network namespace that the calling thread is in.
pub struct Kernel {
    socket: Socket,
    /// What the table was like when it was last observed.
    hold: Option<Hold>,
    /// Whether tables can have an owner and outlive him; `None` until it was tried.
    ownership: Option<bool>,
    /// Whether elements are remembered, so that they need not be read while nothing changes.
    remembers: bool,
    /// The generation that the last commit made.
    committed: Option<u32>,
    /// What sets held in some generation.
    known: Option<(u32, BTreeMap<String, Set>)>,
}

/// How much of the table to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Everything,
    /// All but the elements of sets, of which the kernel's count is enough.
    NoElements,
}

impl Kernel {
    /// Opens a socket; the table is owned, if at all, by this socket.
    ///
    /// # Errors
    /// [`BackendError::Transport`] if there is none to be had.
    pub fn open() -> Result<Self, BackendError> {
        Ok(Self {
            socket: Socket::open().map_err(|err| missing(&err))?,
            hold: None,
            ownership: None,
            remembers: false,
            committed: None,
            known: None,
        })
    }

    /// One that never owns the table, as on kernels without owners: anybody can change it.
    ///
    /// # Errors
    /// [`BackendError::Transport`] if there is no socket to be had.
    pub fn open_without_owner() -> Result<Self, BackendError> {
        let mut kernel = Self::open()?;
        kernel.ownership = Some(false);
        Ok(kernel)
    }

    /// Remembers what sets hold from now on. Reading a hundred thousand elements takes the kernel some
    /// fifty milliseconds; as long as its generation is the one that was made here, nobody changed any.
    pub fn remember(&mut self) {
        self.remembers = true;
    }

    /// The table with elements as they are remembered; `None` if anything changed since.
    fn recall(&mut self) -> Result<Option<Observed>, BackendError> {
        let Some((generation, sets)) = self.known.take() else {
            return Ok(None);
        };
        if self.generation()? != generation {
            return Ok(None);
        }
        let (mut observed, _) = self.read(Depth::NoElements)?;
        let table = observed
            .table
            .as_mut()
            .filter(|_| observed.generation == generation);
        let Some(table) = table else {
            return Ok(None);
        };
        for (name, seen) in &mut table.sets {
            match (seen, sets.get(name)) {
                (SeenSet::Known { set, .. }, Some(known))
                    if set.key == known.key && set.interval == known.interval =>
                {
                    set.elements.clone_from(&known.elements);
                }
                _ => return Ok(None),
            }
        }
        self.known = Some((generation, sets));
        Ok(Some(observed))
    }

    fn read(&mut self, depth: Depth) -> Result<(Observed, Counts), BackendError> {
        for _ in 0..OBSERVE_TRIES {
            let before = self.generation()?;
            let found = self.read_table(depth);
            // What fails because things changed under our hands is tried again.
            if self.generation()? != before {
                continue;
            }
            let (table, counts) = found?;
            self.hold = table.as_ref().map(|table| table.hold);
            let generation = before;
            return Ok((Observed { generation, table }, counts));
        }
        Err(BackendError::Stale)
    }

    /// The kernel's generation of rules now.
    ///
    /// # Errors
    /// [`BackendError`] if it cannot be told.
    pub fn generation(&mut self) -> Result<u32, BackendError> {
        let request = Message::request(message_type(msg::NFT_MSG_GETGEN), 0, 0);
        let answer = self.socket.get(request).map_err(|err| missing(&err))?;
        let generation = Generation::decode(answer.attributes()).map_err(|err| protocol(&err))?;
        generation
            .id
            .ok_or_else(|| BackendError::Protocol("a generation without a number".into()))
    }

    /// Whether our table is there.
    ///
    /// # Errors
    /// [`BackendError`] if that cannot be read.
    pub fn is_loaded(&mut self) -> Result<bool, BackendError> {
        let wanted = Table {
            name: Some(TABLE.into()),
            ..Table::default()
        };
        match self.socket.get(request(msg::NFT_MSG_GETTABLE, 0, &wanted)) {
            Ok(_) => Ok(true),
            Err(err) if err.errno() == Some(libc::ENOENT) => Ok(false),
            Err(err) => Err(missing(&err)),
        }
    }

    fn read_table(&mut self, depth: Depth) -> Result<(Option<SeenTable>, Counts), BackendError> {
        let wanted = Table {
            name: Some(TABLE.into()),
            ..Table::default()
        };
        let answer = match self.socket.get(request(msg::NFT_MSG_GETTABLE, 0, &wanted)) {
            Ok(answer) => answer,
            // A listing error is not an empty table; this one is.
            Err(NetlinkError::Answer(ack)) if ack.errno == libc::ENOENT => {
                return Ok((None, Counts::new()));
            }
            Err(err) => return Err(transport(&err)),
        };
        let mut dump = Dump {
            table: Table::decode(answer.attributes()).map_err(|err| protocol(&err))?,
            ..Dump::default()
        };
        self.dump_all(&mut dump)?;
        let mut counts = Counts::new();
        for set in &dump.sets {
            if let (Some(name), Some(count)) = (&set.name, set.count) {
                counts.insert(name.clone(), count);
            }
        }
        if depth == Depth::Everything {
            self.dump_elements(&mut dump, &counts)?;
        }
        Ok((Some(lift::lift(&dump)), counts))
    }

    fn dump_all(&mut self, dump: &mut Dump) -> Result<(), BackendError> {
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
        // The kernel has no filter for chains; those of other inet tables are skipped below.
        for request in [
            request(msg::NFT_MSG_GETCHAIN, NLM_F_DUMP, &Chain::default()),
            request(msg::NFT_MSG_GETRULE, NLM_F_DUMP, &rules),
            request(msg::NFT_MSG_GETSET, NLM_F_DUMP, &sets),
            request(msg::NFT_MSG_GETOBJ, NLM_F_DUMP, &objects),
        ] {
            let mut found: Vec<Event> = Vec::new();
            self.socket
                .dump(&request, &mut found, Vec::clear, |found, message| {
                    found.extend(event::decode(&message)?);
                    Ok(())
                })
                .map_err(|err| transport(&err))?;
            found.into_iter().for_each(|each| sort_in(each, dump));
        }
        Ok(())
    }

    fn dump_elements(&mut self, dump: &mut Dump, counts: &Counts) -> Result<(), BackendError> {
        // A count of 0 is no proof for intervals, see `expected_counts`.
        let has_elements = |set: &&nft::Set| {
            let interval = set.flags.unwrap_or(0) & nft::NFT_SET_INTERVAL != 0;
            let count = set.name.as_ref().and_then(|name| counts.get(name));
            !lift::is_meter(set) && (interval || count != Some(&0))
        };
        let to_read = dump.sets.iter().filter(has_elements);
        let names: Vec<String> = to_read.filter_map(|set| set.name.clone()).collect();
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
                .dump(&request, &mut found, restart, |found, message| {
                    let list = ElementList::decode(Attrs::new(&message.attrs))?;
                    for element in list.elements.iter().flatten() {
                        match (found.as_mut(), Point::read(element)) {
                            (Some(points), Some(point)) => points.push(point),
                            _ => *found = None,
                        }
                    }
                    Ok(())
                })
                .map_err(|err| transport(&err))?;
            dump.elements.insert(name, found);
        }
        Ok(())
    }

    /// The flags to make or claim the table with. What is there without `persist` cannot be claimed
    /// (`nf_tables_updtable()`), only made anew.
    fn table_flags(&self, plan: &Plan) -> u32 {
        let fresh = plan.ops.contains(&Op::DeleteTable) || self.hold.is_none();
        let claimable = self.hold.is_some_and(|hold| hold.persist);
        match self.ownership != Some(false) && (fresh || claimable) {
            true => NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST,
            false => 0,
        }
    }

    /// Sends a plan, with an owner for the table if the kernel knows that.
    fn send(
        &mut self,
        plan: &Plan,
        generation: Option<u32>,
        commit: bool,
    ) -> Result<(), BackendError> {
        let flags = self.table_flags(plan);
        let sent = self.send_with(plan, flags, generation, commit);
        let Err(BackendError::Refused(refusals)) = &sent else {
            if sent.is_ok() && flags != 0 {
                self.ownership = Some(true);
            }
            return sent;
        };
        // A kernel before 6.9 knows no `persist`, one before 5.12 no `owner`: it refuses the table.
        // Without `persist` an owner's death would take the table along, so neither is used then.
        let about_flags = flags != 0
            && self.ownership.is_none()
            && refusals.iter().any(|refusal| {
                let is_table = refusal.op.is_some_and(|op| plan.ops[op] == Op::AddTable);
                is_table && matches!(refusal.errno, libc::EINVAL | libc::EOPNOTSUPP)
            });
        if !about_flags {
            return sent;
        }
        log::info!("this kernel has no tables with owner and persist; going on without");
        self.ownership = Some(false);
        self.send_with(plan, 0, generation, commit)
    }

    fn send_with(
        &mut self,
        plan: &Plan,
        flags: u32,
        generation: Option<u32>,
        commit: bool,
    ) -> Result<(), BackendError> {
        if plan.is_empty() {
            return Ok(());
        }
        let batch = lower(plan, flags).map_err(|err| BackendError::Protocol(err.to_string()))?;
        let seq = self.socket.take_seq(batch.len() + 2);
        let encoded = match commit {
            true => batch.commit(seq, generation),
            false => batch.check(seq, generation),
        };
        log::debug!(
            "{} messages, {} bytes, generation {generation:?}, commit {commit}",
            encoded.tags.len(),
            encoded.bytes.len()
        );
        // Whatever was not read of an earlier answer is not an answer to this.
        let _ = self.socket.drain_acks();
        self.socket
            .send(&encoded.bytes)
            .map_err(|err| transport(&err))?;
        match self.socket.drain_acks() {
            Ok(acks) => outcome(plan, &encoded, &acks),
            Err(err) => Err(BackendError::Unknown(err.to_string())),
        }
    }
}

/// Whether an error says that the kernel lacks nf_tables, or a part of it that the plan needs.
/// Nothing was changed then.
pub fn lacks(err: &BackendError) -> bool {
    match err {
        BackendError::Missing(_) => true,
        BackendError::Refused(refusals) => refusals.iter().all(|refusal| refusal.is_lack),
        BackendError::Stale
        | BackendError::Owned
        | BackendError::Protocol(_)
        | BackendError::Transport(_)
        | BackendError::Unknown(_) => false,
    }
}

impl Backend for Kernel {
    fn observe(&mut self) -> Result<Observed, BackendError> {
        if let Some(observed) = self.recall()? {
            return Ok(observed);
        }
        self.read(Depth::Everything).map(|(observed, _)| observed)
    }

    fn check(&mut self, plan: &Plan) -> Result<(), BackendError> {
        self.send(plan, None, false)
    }

    fn commit(&mut self, plan: &Plan, seen: u32) -> Result<(), BackendError> {
        self.committed = None;
        self.send(plan, Some(seen), true)?;
        self.committed = Some(seen.wrapping_add(1));
        Ok(())
    }

    /// Elements are counted, not read, where the kernel counts them: what it acked in one
    /// transaction it has whole.
    fn verify(&mut self, wanted: &Ruleset) -> Result<(), BackendError> {
        let seen = self.read(Depth::NoElements)?;
        let differs = |what: String| Err(BackendError::Unknown(format!("read back, {what}")));
        let Some((table, counts)) = seen.0.table.as_ref().map(|table| (table, &seen.1)) else {
            return differs("there is no table".into());
        };
        for chain in &wanted.chains {
            let found = table.chain(&chain.name);
            let rules = found.map(|c| c.rules.iter().map(|r| r.rule.clone()).collect::<Vec<_>>());
            let want: Vec<_> = chain.rules.iter().cloned().map(Ok).collect();
            if rules != Some(want) {
                return differs(format!("chain {} is not as it was sent", chain.name));
            }
        }
        for (name, set) in &wanted.sets {
            match (table.sets.contains_key(name), counts.get(name)) {
                (true, None) => {}
                (true, Some(_)) if set.meter => {}
                (true, Some(count)) if expected_counts(set).contains(&(*count as usize)) => {}
                _ => return differs(format!("set {name} is not as it was sent")),
            }
        }
        let generation = seen.0.generation;
        if self.remembers && self.committed == Some(generation) {
            self.known = Some((generation, wanted.sets.clone()));
        }
        Ok(())
    }

    fn can_hold(&self) -> Option<bool> {
        self.ownership
    }
}

/// Numbers of elements by set, as the kernel counts them.
type Counts = std::collections::BTreeMap<String, u32>;

/// What the kernel can count for a set.
///
/// An interval is two elements, unless it reaches the end of the key space. Since 6.16, which is
/// when counts came to be, intervals are counted as half of that, rounded down
/// (`nft_rbtree_usize()`): the one interval that is everything counts as none.
fn expected_counts(set: &Set) -> [usize; 2] {
    let all = set.elements.len();
    if !set.interval {
        return [all, all];
    }
    let ends = set
        .elements
        .iter()
        .filter(|e| e.last < set.key.max())
        .count();
    [all + ends, (all + ends) / 2]
}

fn request(kind: u16, flags: u16, object: &impl Attributes) -> Message {
    let mut w = AttrWriter::new();
    object.encode(&mut w);
    Message {
        attrs: w
            .finish()
            .expect("a table's and a set's name fit an attribute"),
        ..Message::request(message_type(kind), flags, NFPROTO_INET)
    }
}

/// Puts a dumped object where it belongs, if it is in our table.
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

/// What the acks of a batch say.
fn outcome(plan: &Plan, sent: &EncodedBatch<OpIndex>, acks: &[Ack]) -> Result<(), BackendError> {
    let errors: Vec<&Ack> = acks.iter().filter(|ack| ack.errno != 0).collect();
    if errors.iter().any(|ack| ack.errno == libc::ERESTART) {
        return Err(BackendError::Stale);
    }
    if errors.is_empty() {
        // No error and no ack is not success.
        return match acks.iter().any(|ack| ack.seq == sent.acked_seq) {
            true => Ok(()),
            false => Err(BackendError::Unknown("the kernel did not answer".into())),
        };
    }
    let changes_table = |op: &usize| matches!(plan.ops[*op], Op::AddTable | Op::DeleteTable);
    let owned = errors.iter().all(|ack| ack.errno == libc::EPERM)
        && errors
            .iter()
            .any(|ack| sent.tag(ack.seq).is_some_and(changes_table));
    if owned && sent.tag(errors[0].seq).is_some() {
        return Err(BackendError::Owned);
    }
    Err(BackendError::Refused(
        errors
            .into_iter()
            .map(|ack| refusal(plan, sent, ack))
            .collect(),
    ))
}

fn refusal(plan: &Plan, sent: &EncodedBatch<OpIndex>, ack: &Ack) -> Refusal {
    let op = sent.tag(ack.seq).copied();
    let what = op.map_or_else(
        || "the change as a whole".to_owned(),
        |op| render::op(&plan.ops[op]),
    );
    // A table is refused for its flags, or its owner, never for what the kernel does not know.
    let of_table = op.is_some_and(|op| matches!(plan.ops[op], Op::AddTable | Op::DeleteTable));
    let is_lack = op.is_some() && !of_table && is_lacking(ack.errno);
    let lacking = op
        .filter(|_| is_lack)
        .map(|op| kconfig::options(&plan.ops[op]));
    let lacking = lacking.filter(|options| !options.is_empty());
    Refusal {
        op,
        what,
        is_lack,
        errno: ack.errno,
        why: match lacking {
            Some(options) => format!(
                "{}; the kernel may lack {}",
                describe(ack),
                options.join(" or ")
            ),
            None => describe(ack),
        },
    }
}

/// What is answered to an expression or a kind of set that the kernel does not know.
fn is_lacking(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::EOPNOTSUPP)
}

/// An error of the first thing that is asked of it: the kernel may have no netfilter netlink
/// (EPROTONOSUPPORT), or no nf_tables behind it (EINVAL, by `nfnetlink_rcv_msg()`).
fn missing(err: &NetlinkError) -> BackendError {
    match err.errno() {
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP) => {
            BackendError::Missing(err.to_string())
        }
        _ => transport(err),
    }
}

fn transport(err: &NetlinkError) -> BackendError {
    match err {
        NetlinkError::Decode(err) => protocol(err),
        NetlinkError::Answer(ack) if ack.errno == libc::EPERM => BackendError::Transport(
            "the kernel lets nobody without CAP_NET_ADMIN read or change rules; run it as root"
                .into(),
        ),
        NetlinkError::Answer(_)
        | NetlinkError::Io { .. }
        | NetlinkError::Lost
        | NetlinkError::Disturbed => BackendError::Transport(err.to_string()),
    }
}

fn protocol(err: &peerwall_proto::attr::DecodeError) -> BackendError {
    BackendError::Protocol(err.to_string())
}
