//! Blocks in a running agent.

use std::time::Duration;

use peerwall_core::agent::keep::{self, Entry, Fault, Refusal};
use peerwall_core::agent::reconcile::Input;

use super::Agent;
use super::beliefs::ReloadOutcome;
use super::error::Rejection;
use super::requests::refused;
use super::trial::keeper;
use crate::control::{Answer, BlockWish, Reply, Request, Wish};
use crate::host::lockout;
use crate::json::{BlockOutcome, Blocked, Unblocked};
use crate::store::Kept;
use crate::store::audit::Who;
use crate::trial::block::{Block, block};
use crate::trial::words;
use crate::trial::{closed, of_io};

impl Agent {
    /// Returns whether the wanted ruleset is a block, permanent or on trial.
    pub(super) fn is_blocked(&self) -> bool {
        let wanted = self.belief.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.kept.entry.is_block)
    }

    /// Refuses to apply a policy, or to roll back to one, while the host is blocked.
    pub(super) fn refuse_while_blocked(&self, command: &Request) -> Option<Answer> {
        let opens = match command {
            Request::Reload(_) | Request::Apply(..) => true,
            // A block on trial is rolled back.
            Request::Rollback(_) => self.belief.pending.is_none(),
            Request::Status
            | Request::Denied(_)
            | Request::Confirm(_)
            | Request::Block(_)
            | Request::Unblock(_)
            | Request::Sources(_)
            | Request::Peer(_) => false,
        };
        (opens && self.is_blocked()).then(|| refused(Refusal::Blocked))
    }

    /// Blocks the host.
    pub(super) fn block(&mut self, asked: &BlockWish) -> Answer {
        self.outcome = ReloadOutcome::of(&Wish {
            end_refused: true,
            ..asked.wish.clone()
        });
        match self.begin_block(asked) {
            Ok(mut done) => {
                let (text, ended) = std::mem::take(&mut self.outcome.connections);
                done.connections = ended;
                Answer::new(words::blocked(&done, &text), Reply::Blocked(done))
            }
            Err(why) => refused(why),
        }
    }

    fn begin_block(&mut self, asked: &BlockWish) -> Result<Blocked, Rejection> {
        let wish = &asked.wish;
        let history = self
            .state
            .history()
            .map_err(|err| unreadable(&of_io(err)))?;
        let mut policies = history.kept.iter().rev();
        let in_force = policies.find(|entry| !entry.is_block);
        let by_iptables = self.backend.is_iptables();
        let made = block(
            &self.state,
            in_force,
            &wish.caller,
            asked.keep_peers,
            by_iptables,
        );
        let block = made.map_err(|fault| Rejection::Trial(Refusal::NotLoaded(fault)))?;
        if !wish.force {
            lockout::check(&block.kept.ruleset, &wish.caller)?;
        }
        let wanted = self.belief.wanted.as_ref();
        let is_same = |entry: &Entry| entry.is_block && entry.digest == block.kept.entry.digest;
        let is_loaded = wanted.is_some_and(|wanted| is_same(&wanted.kept.entry));
        if is_loaded && (self.belief.pending.is_none() || wish.confirm.is_some()) {
            return Ok(block.told(BlockOutcome::Unchanged, None));
        }
        match wish.confirm {
            Some(seconds) => self.block_on_trial(&block, wish, seconds),
            None => self.block_for_good(&block, wish),
        }
    }

    fn block_on_trial(
        &mut self,
        block: &Block,
        wish: &Wish,
        seconds: u64,
    ) -> Result<Blocked, Rejection> {
        let before = self.before(true)?;
        let state = self.state.clone();
        let was_trial = std::mem::replace(&mut self.belief.is_trial, true);
        let mut keeper = keeper(&state, self, Who::caller("block", &wish.caller));
        let time = Duration::from_secs(seconds);
        let tried = crate::trial::locked(&state, || {
            let caller = wish.caller.clone();
            keep::try_out(&mut keeper, block.kept.clone(), before, time, caller)
        });
        match tried {
            Ok(trial) => self.belief.pending = Some(trial),
            Err(refusal) => {
                self.belief.is_trial = was_trial;
                return Err(refusal.into());
            }
        }
        Ok(block.told(BlockOutcome::OnTrial, Some(seconds)))
    }

    fn block_for_good(&mut self, block: &Block, wish: &Wish) -> Result<Blocked, Rejection> {
        let state = self.state.clone();
        let mut keeper = keeper(&state, self, Who::caller("block", &wish.caller));
        let done = crate::trial::locked(&state, || keep::apply(&mut keeper, &block.kept));
        let not_recorded = match done {
            Ok(()) => None,
            // It stays loaded while this agent runs.
            Err(Refusal::State(fault)) if self.is_blocked() => Some(fault.text),
            Err(refusal) => return Err(refusal.into()),
        };
        Ok(Blocked {
            not_recorded,
            ..block.told(BlockOutcome::Blocked, None)
        })
    }

    /// Ends a block.
    pub(super) fn unblock(&mut self, wish: &Wish) -> Answer {
        self.outcome = ReloadOutcome::of(wish);
        let was_trial = std::mem::replace(&mut self.belief.is_trial, false);
        match self.end_block(wish) {
            Ok((entry, fault)) => {
                self.belief.pending = None;
                // The file may have changed during the block.
                self.belief.look_again = self.options.follow;
                let done = Unblocked::new(entry, fault);
                let answer = Answer::new(words::unblocked(&done), Reply::Unblocked(done));
                self.feed(Input::Tick);
                answer
            }
            Err(why) => {
                self.belief.is_trial = was_trial;
                refused(why)
            }
        }
    }

    fn end_block(&mut self, wish: &Wish) -> Result<(Option<Entry>, Option<Fault>), Rejection> {
        let state = self.state.clone();
        let lock = state.lock().map_err(|err| unreadable(&of_io(err)))?;
        let mut keeper = keeper(&state, self, Who::caller("unblock", &wish.caller));
        if let (Some(ruleset), false) = (keep::unblocked(&mut keeper)?, wish.force) {
            lockout::check(&ruleset, &wish.caller)?;
        }
        let done = keep::unblock(&mut keeper)?;
        drop(lock);
        Ok(done)
    }

    /// Takes over a block that was confirmed. If its ruleset cannot be read, closes the host.
    pub(super) fn take_up_block(&mut self) {
        let Some(entry) = self.state.block() else {
            return;
        };
        log::warn!(
            event = "block_continues", number = entry.number;
            "this host is BLOCKED since {}, until `peerwall unblock`", entry.time
        );
        match self.state.load(entry.clone()) {
            Ok(kept) => self.want(kept),
            Err(err) => {
                log::error!(
                    event = "closed", error:% = err;
                    "CLOSED: only ssh and the safe core are allowed, because the block cannot be read: {err}"
                );
                if let Some(closed) = closed::closed() {
                    self.want(Kept { entry, ..closed });
                }
            }
        }
    }
}

fn unreadable(fault: &Fault) -> Rejection {
    Rejection::Trial(Refusal::State(fault.clone()))
}
