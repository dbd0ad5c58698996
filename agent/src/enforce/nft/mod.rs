//! The nf_tables backend, over netlink.

pub(crate) mod answer;
mod known;
mod read;
mod watcher;

use std::borrow::Cow;
use std::collections::BTreeMap;

use peerwall_core::backend::{Backend, BackendError, RefusedStep};
use peerwall_core::nft::lower::{OpIndex, lower};
use peerwall_core::nft::observed::{Observed, Ownership};
use peerwall_core::nft::plan::{self, Op, Plan};
use peerwall_core::ruleset::{Ruleset, Set, TABLE};
use peerwall_proto::netlink::message::Message;
use peerwall_proto::nf_tables::batch::EncodedBatch;
use peerwall_proto::nf_tables::{
    Attributes as _, Generation, NFT_TABLE_F_OWNER, NFT_TABLE_F_PERSIST, Table, message_type, msg,
};

use crate::kernel::netlink::Socket;
use crate::store;
use answer::{missing, outcome, protocol, transport};
use known::steady_sets;
use read::{Depth, request};
use watcher::Watcher;

/// Maximum number of sends of a batch while other tables change.
const COMMIT_TRIES: u32 = 64;

/// nf_tables of the calling thread's network namespace.
pub struct Kernel {
    socket: Socket,
    /// Ownership of the table when it was last observed; `None` without a table.
    hold: Option<Ownership>,
    /// Whether the kernel has owned tables that persist without their owner; `None` until tried.
    ownership: Option<bool>,
    /// Whether elements are cached, so that they are not read again while nothing changes.
    remembers: bool,
    /// Generation in which the table was last read; `None` after a commit.
    read_at: Option<u32>,
    /// Generation that the last commit created.
    committed: Option<u32>,
    /// Whether other programs change their tables without a pause.
    is_contended: bool,
    /// Watches transactions since the last read, while `is_contended` and the table has no owner.
    watcher: Option<Watcher>,
    /// Elements of sets in a generation.
    known: Option<(u32, BTreeMap<String, Set>)>,
    /// Whether plans make this socket the owner of the table.
    claim: Claim,
    /// Whether the kernel can log packets, as far as it was tried.
    logs: bool,
}

/// Whether this process wants to own the table from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The socket owns the table after the next change, if the kernel supports that.
    Own,
    /// Ownership stays as it is.
    Leave,
}

impl Kernel {
    /// Opens a socket, the owner of the table if it has one.
    ///
    /// # Errors
    /// [`BackendError::Transport`] if the socket cannot be opened.
    pub fn open() -> Result<Self, BackendError> {
        Ok(Self {
            socket: Socket::open().map_err(|err| missing(&err))?,
            hold: None,
            ownership: None,
            remembers: false,
            read_at: None,
            committed: None,
            is_contended: false,
            watcher: None,
            known: None,
            claim: Claim::Leave,
            logs: true,
        })
    }

    /// Never owns the table from now on, as on kernels without owners: any root process can change
    /// it.
    pub fn never_own(&mut self) {
        self.ownership = Some(false);
    }

    /// Sets whether to own the table from the next change on, if the kernel supports that.
    pub fn claim_table(&mut self, claim: Claim) {
        self.claim = claim;
    }

    /// Whether the kernel has owned tables; `None` until tried.
    pub fn can_hold(&self) -> Option<bool> {
        self.ownership
    }

    /// Returns the kernel's ruleset generation.
    ///
    /// # Errors
    /// [`BackendError`] if the kernel cannot be read.
    pub fn generation(&mut self) -> Result<u32, BackendError> {
        let request = Message::request(message_type(msg::NFT_MSG_GETGEN), 0, 0);
        let answer = self.socket.get(request).map_err(|err| missing(&err))?;
        let generation = Generation::decode(answer.attributes()).map_err(|err| protocol(&err))?;
        generation
            .id
            .ok_or_else(|| BackendError::Protocol("a generation without a number".into()))
    }

    /// Whether peerwall's table exists.
    ///
    /// # Errors
    /// [`BackendError`] if that cannot be read.
    pub fn has_table(&mut self) -> Result<bool, BackendError> {
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

    /// Returns the flags to create or claim the table with. A table without `persist` cannot be
    /// claimed (`nf_tables_updtable()`), only recreated.
    fn table_flags(&self, plan: &Plan) -> u32 {
        let fresh = plan.ops.contains(&Op::DeleteTable) || self.hold.is_none();
        let claimable = self.hold.is_some_and(|hold| hold.persist);
        match self.ownership != Some(false) && (fresh || claimable) {
            true => NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST,
            false => 0,
        }
    }

    /// Asks the kernel whether it has owned tables that persist, before a table without an owner is
    /// recreated to be owned. Changes nothing.
    fn try_ownership(&mut self, observed: &Observed) {
        let is_bare = observed
            .table
            .as_ref()
            .is_some_and(|table| !table.hold.persist);
        if self.claim != Claim::Own || self.ownership.is_some() || !is_bare {
            return;
        }
        let again = Plan {
            ops: vec![Op::DeleteTable, Op::AddTable],
            ..Plan::default()
        };
        let flags = NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST;
        if let Err(BackendError::Refused(refusals)) = self.send_with(&again, flags, None, false)
            && is_about_flags(&again, &refusals)
        {
            log::info!("this kernel has no tables with owner and persist; going on without");
            self.ownership = Some(false);
        }
    }

    /// Returns what the kernel can do of a ruleset: everything, or everything except logging.
    fn possible<'w>(&self, wanted: &'w Ruleset) -> Cow<'w, Ruleset> {
        match self.logs {
            true => Cow::Borrowed(wanted),
            false => Cow::Owned(wanted.without_logs()),
        }
    }

    /// Sends a plan; without the rules that only log, if the kernel cannot log. A log is worth less
    /// than a firewall.
    fn send(
        &mut self,
        plan: &Plan,
        generation: Option<u32>,
        commit: bool,
    ) -> Result<(), BackendError> {
        let sent = self.send_owned(plan, generation, commit);
        let Err(BackendError::Refused(refusals)) = &sent else {
            return sent;
        };
        if !self.logs || !cannot_log(plan, refusals) {
            return sent;
        }
        self.logs = false;
        log::warn!(
            "this kernel cannot log packets: nothing will be logged, but all rules filter ({})",
            refusals.first().map_or("", |refusal| refusal.why.as_str())
        );
        self.send_owned(&plan.without_logs(), generation, commit)
    }

    /// Sends a plan, with an owner for the table if the kernel supports that.
    fn send_owned(
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
        // Without `persist` the table would be deleted with its owner, so neither is used then.
        if flags == 0 || self.ownership.is_some() || !is_about_flags(plan, refusals) {
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
        let batch = lower(plan, flags, store::uptime())
            .map_err(|err| BackendError::Protocol(err.to_string()))?;
        let seq = self.socket.take_seq(batch.len() + 2);
        let mut encoded = match commit {
            true => batch.commit(seq, generation),
            false => batch.check(seq, generation),
        };
        log::debug!(
            "{} messages, {} bytes, generation {generation:?}, commit {commit}",
            encoded.tags.len(),
            encoded.bytes.len()
        );
        for _ in 0..COMMIT_TRIES {
            let sent = self.send_once(plan, &encoded);
            // A plan from before the last read, or before another commit of this socket, stays
            // stale.
            let is_stale = matches!(sent, Err(BackendError::Stale)) && self.read_at == generation;
            let Some(next) = is_stale.then(|| self.unchanged_at()).transpose()?.flatten() else {
                return sent;
            };
            encoded.set_generation(next);
        }
        Err(BackendError::Stale)
    }

    fn send_once(
        &mut self,
        plan: &Plan,
        encoded: &EncodedBatch<OpIndex>,
    ) -> Result<(), BackendError> {
        // Discard the rest of an earlier answer.
        let _ = self.socket.drain_acks();
        self.socket
            .send(&encoded.bytes)
            .map_err(|err| transport(&err))?;
        match self.socket.drain_acks() {
            Ok(acks) => outcome(plan, encoded, &acks),
            Err(err) => Err(BackendError::Unknown(err.to_string())),
        }
    }

    /// Returns a generation in which the table is still as it was read last; 0, which matches any,
    /// if this socket owns the table. `None` if that is unknown.
    fn unchanged_at(&mut self) -> Result<Option<u32>, BackendError> {
        self.is_contended = true;
        if self.owns_table() {
            return Ok(Some(0));
        }
        let generation = self.generation()?;
        let watcher = self.watcher.as_mut();
        Ok(watcher.and_then(|watcher| watcher.is_untouched(generation).then_some(generation)))
    }

    /// Plans a ruleset, and the ownership of the table.
    fn plan_to_claim(&self, wanted: &Ruleset, seen: &Observed) -> Plan {
        let plan = plan::plan(wanted, seen);
        let Some(table) = seen.table.as_ref() else {
            return plan;
        };
        if self.claim == Claim::Leave {
            // A table that was created with an owner can only be claimed; without one it has to be
            // recreated.
            let ownerless = self.ownership == Some(false) && table.hold.persist;
            return match ownerless && !plan.is_empty() && plan.rebuild.is_none() {
                true => plan::anew(
                    wanted,
                    table,
                    "the table that is there was made for an owner".into(),
                ),
                false => plan,
            };
        }
        // This socket owns it; if another one did, the commit would be refused.
        if table.hold.owner.is_some() && self.ownership == Some(true) {
            return plan;
        }
        match (table.hold.persist, plan.is_empty()) {
            // An orphaned table is claimed by adding it again.
            (true, true) => Plan::claim(),
            (true, false) => plan,
            // A table without `persist`, for example from nft, has to be recreated to be owned.
            (false, _) if plan.rebuild.is_none() && self.ownership != Some(false) => plan::anew(
                wanted,
                table,
                "the table that is there cannot be owned".into(),
            ),
            (false, _) => plan,
        }
    }

    /// Whether this socket owns the table as it was last read, so that no other program can have
    /// changed it since.
    pub fn owns_table(&self) -> bool {
        self.is_owned(self.hold)
    }

    fn is_owned(&self, hold: Option<Ownership>) -> bool {
        let owner = hold.and_then(|hold| hold.owner);
        owner.is_some_and(|owner| owner == self.socket.port())
    }

    /// Claims the table without changing its rules, so that other programs cannot make the next
    /// commit stale for ever. An empty table has no effect.
    fn claim_now(&mut self) -> Result<(), BackendError> {
        let claimable = self.hold.is_none_or(|hold| hold.persist);
        if !claimable || self.ownership == Some(false) || self.owns_table() {
            return Ok(());
        }
        log::info!("others change their rules all the time; taking hold of the table first");
        self.read_at = None;
        self.send(&Plan::claim(), None, true)
    }

    /// Prepares another way for the next attempt after a stale commit.
    fn come_closer(&mut self) -> Result<(), BackendError> {
        let was_watched = self.watcher.is_some();
        self.is_contended = true;
        // An existing table is claimed at once; a missing one only as the last resort.
        match self.hold.is_some() || was_watched {
            true => self.claim_now(),
            false => Ok(()),
        }
    }
}

/// Whether the kernel refused the flags of the table: before 6.9 there is no `persist`, before 5.12
/// no `owner`.
fn is_about_flags(plan: &Plan, refusals: &[RefusedStep]) -> bool {
    refusals.iter().any(|refusal| {
        let op = refusal.op.and_then(|op| plan.ops.get(op));
        let is_table = matches!(op, Some(Op::AddTable | Op::ClaimTable));
        is_table && matches!(refusal.errno, libc::EINVAL | libc::EOPNOTSUPP)
    })
}

/// Whether the kernel refused nothing but rules that only log, because it lacks what they need.
fn cannot_log(plan: &Plan, refusals: &[RefusedStep]) -> bool {
    let only_logs = |refusal: &RefusedStep| {
        let op = refusal.op.and_then(|op| plan.ops.get(op));
        refusal.is_lack && op.is_some_and(Op::only_logs)
    };
    !refusals.is_empty() && refusals.iter().all(only_logs)
}

/// Whether an error means that the kernel lacks nf_tables, or a part of it that the plan needs.
/// Nothing was changed then.
pub fn lacks(err: &BackendError) -> bool {
    match err {
        BackendError::Missing(_) => true,
        BackendError::Refused(refusals) => refusals.iter().all(|refusal| refusal.is_lack),
        BackendError::Stale
        | BackendError::Owned
        | BackendError::Protocol(_)
        | BackendError::Transport(_)
        | BackendError::Unknown(_)
        | BackendError::Tool(_)
        | BackendError::Unsupported(_) => false,
    }
}

impl Backend for Kernel {
    type Observed = Observed;
    type Plan = Plan;

    fn plan(&self, wanted: Option<&Ruleset>, observed: &Observed) -> Result<Plan, BackendError> {
        Ok(match wanted {
            Some(wanted) => self.plan_to_claim(&self.possible(wanted), observed),
            None => Plan::remove(observed),
        })
    }

    fn ruleset(observed: &Observed) -> Option<Ruleset> {
        observed.table.as_ref()?.ruleset()
    }

    fn is_loaded(observed: &Observed) -> bool {
        observed.table.is_some()
    }

    fn expect(&mut self, wanted: &Ruleset) {
        self.know_from_record(wanted);
    }

    fn observe(&mut self) -> Result<Observed, BackendError> {
        if let Some(observed) = self.recall()? {
            return Ok(observed);
        }
        let (observed, _) = self.read(&Depth::Everything)?;
        self.keep_sets(&observed);
        self.try_ownership(&observed);
        Ok(observed)
    }

    fn check(&mut self, plan: &Plan) -> Result<(), BackendError> {
        self.send(plan, None, false)
    }

    fn commit(&mut self, plan: &Plan, observed: &Observed) -> Result<(), BackendError> {
        let seen = observed.generation;
        self.committed = None;
        self.known = None;
        let sent = self.send(plan, Some(seen), true);
        if sent == Err(BackendError::Stale) {
            self.come_closer()?;
        }
        sent?;
        self.read_at = None;
        self.watcher = None;
        self.committed = Some(seen.wrapping_add(1));
        Ok(())
    }

    /// Counts elements instead of reading them where the kernel counts them: a transaction that it
    /// acknowledged is complete.
    fn verify(&mut self, wanted: Option<&Ruleset>) -> Result<(), BackendError> {
        let Some(wanted) = wanted else {
            return Ok(());
        };
        let wanted = self.possible(wanted);
        let seen = self.read(&Depth::NoElements)?;
        let differs = |what: String| Err(BackendError::Unknown(format!("read back, {what}")));
        let Some((table, counts)) = seen.0.table.as_ref().map(|table| (table, &seen.1)) else {
            return differs("the table is missing".into());
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
                (true, Some(_)) if !set.is_steady() => {}
                (true, Some(count)) if expected_counts(set).contains(&(*count as usize)) => {}
                _ => return differs(format!("set {name} is not as it was sent")),
            }
        }
        let generation = seen.0.generation;
        if self.remembers && (self.owns_table() || self.committed == Some(generation)) {
            self.known = Some((generation, steady_sets(&wanted)));
        }
        Ok(())
    }

    fn done(&mut self) {
        self.is_contended = false;
        self.watcher = None;
    }
}

/// Counts that the kernel may report for a set.
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
