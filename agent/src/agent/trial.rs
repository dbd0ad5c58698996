//! Trials, confirmations and rollbacks in a running agent: runs the state machine of core with the
//! agent as the loader.

use std::path::Path;
use std::time::Duration;

use peerwall_core::agent::keep::{self, Ending, Fault, Refusal};
use peerwall_core::agent::reconcile::Input;

use super::beliefs::{ReloadOutcome, Unsaved, Wanted};
use super::error::Rejection;
use super::requests::refused;
use super::{Agent, RETRY_TRIAL};
use crate::connections::revocation;
use crate::control::{Answer, Reply, Wish};
use crate::host::caller::Caller;
use crate::json::{ApplyOutcome, Confirmed};
use crate::policy_file::files::FileSystem;
use crate::policy_file::{LoadedPolicy, prepare};
use crate::store::audit::Who;
use crate::store::{self, Before, Kept, Pending, State};
use crate::system::notice;
use crate::trial::words::{ran_out, rolled_back, stopped, tried};
use crate::trial::{Keeper, Loader, locked};

/// Maximum number of attempts to roll back when the agent is stopped.
const STOP_TRIES: u32 = 10;

impl Loader for Agent {
    /// A ruleset that cannot be loaded is no longer wanted; the previous one stays.
    fn load(&mut self, kept: &Kept) -> Result<(), Fault> {
        let old = self.belief.wanted.take();
        if let Err(err) = self.change_backend(kept.entry.by_iptables) {
            log::warn!("cannot change the backend: {err}");
        }
        self.want(kept.clone());
        self.outcome.converged = None;
        self.outcome.is_logged = true;
        self.feed(Input::Wanted);
        let Some(Err(why)) = &self.outcome.converged else {
            return Ok(());
        };
        let why = why.clone();
        let fault = Fault {
            is_passing: true,
            ..Fault::new(why.to_string())
        };
        self.belief.wanted = old;
        if self.belief.wanted.is_some() {
            self.feed(Input::Wanted);
            self.outcome.converged = Some(Err(why));
        }
        Err(fault)
    }

    fn unload(&mut self) -> Result<bool, Fault> {
        self.belief.wanted = None;
        let done = self.backend.converge(None, false);
        done.map(|done| done.change.is_some())
            .map_err(|err| crate::trial::of_backend(&err))
    }

    fn change(&mut self) -> Option<String> {
        self.outcome.converged.clone()?.ok()?
    }
}

pub(super) fn keeper<'k>(
    state: &'k State,
    agent: &'k mut Agent,
    who: Who,
) -> Keeper<'k, &'k mut Agent> {
    Keeper {
        state,
        loader: agent,
        who,
    }
}

impl Agent {
    /// Makes a ruleset of the state machine the wanted one. The state machine writes it to the
    /// history.
    pub(super) fn want(&mut self, kept: Kept) {
        self.belief.wanted = Some(Wanted {
            cut: kept.entry.cut,
            kept,
            counts: None,
            basis: None,
            unsaved: Unsaved::Nothing,
            unsaved_error: None,
        });
    }

    /// Returns the digest of the policy before a trial, if it was loaded then.
    pub(super) fn digest_before(&self, trial: &Pending) -> Option<String> {
        let entry = trial.before.entry.as_ref()?;
        (Path::new(&entry.policy) == self.options.policy).then(|| entry.digest.clone())
    }

    /// Rolls back a trial whose time is over, or that was not loaded.
    pub(super) fn end_trial(&mut self) {
        match self.go_back(Ending::RanOut) {
            Ok(trial) => {
                self.belief.pending = None;
                if let Some(trial) = trial {
                    self.belief.read_digest = self.digest_before(&trial);
                    let text = ran_out(&trial.new.entry.policy, trial.seconds);
                    notice::to_terminal(&trial.from, &text);
                }
                self.belief.look_again = self.options.follow;
                self.feed(Input::Tick);
            }
            // The trial still waits; the next turn tries again.
            Err(why) => {
                let why = why.to_string();
                if self.is_news("rollback", &why) {
                    log::error!(
                        event = "rollback_failed", error = why;
                        "cannot roll back the trial, retrying: {why}"
                    );
                }
            }
        }
    }

    /// Rolls back a trial before the agent ends. Stopping the agent is not a confirmation, and the
    /// guard may be stopped, too. Changes of policy files during the trial are left to the next
    /// agent.
    pub(super) fn end_trial_at_stop(&mut self) {
        for tries_left in (0..STOP_TRIES).rev() {
            let Some(policy) = self
                .belief
                .pending
                .as_ref()
                .map(|t| t.new.entry.policy.clone())
            else {
                return;
            };
            match self.go_back(Ending::Stopped) {
                Ok(trial) => {
                    self.belief.pending = None;
                    if let Some(trial) = trial {
                        notice::to_terminal(&trial.from, &stopped(&policy));
                    }
                }
                Err(why) if tries_left == 0 => {
                    log::error!(
                        event = "rollback_failed", policy, error:% = why;
                        "cannot roll back {policy}: {why}; the guard retries when its time is over"
                    );
                }
                Err(_) => std::thread::sleep(RETRY_TRIAL),
            }
        }
    }

    fn go_back(&mut self, why: Ending) -> Result<Option<Pending>, Refusal> {
        self.save_members();
        let state = self.state.clone();
        self.belief.is_trial = false;
        let mut keeper = keeper(&state, self, Who::process("agent"));
        locked(&state, || {
            keep::go_back(&mut keeper, None, why).map_err(Refusal::State)
        })
    }

    /// Applies a policy on trial, either the agent's own or a copy.
    pub(super) fn try_out(&mut self, policy: &Path, wish: Wish, seconds: u64) -> Answer {
        self.outcome = ReloadOutcome::of(&wish);
        let files = FileSystem::default();
        let ready = prepare(policy, &files).map_err(Rejection::Unloadable);
        let result = ready.and_then(|ready| self.begin_trial(policy, ready, &wish, seconds));
        match result {
            Ok(()) => {
                let mut answer = self.tell_outcome();
                answer.text = format!("{}\n{}", answer.text, tried(seconds));
                if let Reply::Applied(applied) = &mut answer.reply {
                    applied.outcome = ApplyOutcome::OnTrial;
                    applied.confirm_seconds = Some(seconds);
                }
                answer
            }
            Err(why) => refused(why),
        }
    }

    fn begin_trial(
        &mut self,
        policy: &Path,
        ready: LoadedPolicy,
        wish: &Wish,
        seconds: u64,
    ) -> Result<(), Rejection> {
        let in_force = self
            .belief
            .wanted
            .as_ref()
            .map(|wanted| &wanted.kept.entry.digest);
        if self.belief.pending.is_none() && in_force == Some(&ready.digest) {
            return Err(match self.options.follow {
                true => Rejection::InForceByFollowing,
                false => Rejection::InForce,
            });
        }
        if !wish.force {
            crate::host::lockout::check(&ready.ruleset, &wish.caller)?;
        }
        let before = self.before(ready.policy.options.cut_revoked)?;
        let digest = ready.digest.clone();
        let kept = self.prepare_to_take(policy, ready)?;
        let counts = std::mem::take(&mut self.belief.counts);
        let state = self.state.clone();
        let was_trial = std::mem::replace(&mut self.belief.is_trial, true);
        let mut keeper = keeper(&state, self, Who::caller("apply", &wish.caller));
        let time = Duration::from_secs(seconds);
        let caller = wish.caller.clone();
        let tried = locked(&state, || {
            keep::try_out(&mut keeper, kept, before, time, caller)
        });
        match tried {
            // Not read back, because an agent that owns the table and does not know the trial would
            // keep it forever.
            Ok(trial) => self.belief.pending = Some(trial),
            Err(refusal) => {
                self.belief.is_trial = was_trial;
                return Err(refusal.into());
            }
        }
        if let Some(wanted) = &mut self.belief.wanted {
            wanted.counts = counts;
        }
        if policy == self.options.policy {
            self.belief.read_digest = Some(digest);
        }
        Ok(())
    }

    /// Returns the state to which a trial is rolled back.
    ///
    /// # Errors
    /// [`Rejection::NoWayBack`] if it cannot be read.
    pub(super) fn before(&mut self, cut: bool) -> Result<Before, Rejection> {
        let by_iptables = self.backend.is_iptables();
        Ok(match &self.belief.wanted {
            Some(wanted) => Before {
                entry: Some(wanted.kept.entry.clone()),
                ruleset: Some(wanted.kept.ruleset.clone()),
                by_iptables,
                cut: wanted.cut,
            },
            None => {
                let seen = self.backend.observe();
                let seen = seen.ok_or(Rejection::NoWayBack)?;
                Before {
                    entry: None,
                    ruleset: seen.table.and_then(|table| table.ruleset()),
                    by_iptables,
                    cut,
                }
            }
        })
    }

    pub(super) fn confirm(&mut self, caller: &Caller) -> Answer {
        let state = self.state.clone();
        let mut keeper = keeper(&state, self, Who::caller("confirm", caller));
        let trial = match locked(&state, || keep::confirm(&mut keeper, caller)) {
            Ok(trial) => trial,
            Err(refusal) => return refused(refusal),
        };
        self.belief.is_trial = false;
        self.belief.pending = None;
        self.belief.look_again = self.options.follow;
        self.outcome = ReloadOutcome::default();
        self.outcome.spare = revocation::spared(caller, false);
        self.cut(trial.before.ruleset.as_ref(), false);
        let entry = trial.new.entry;
        // A block stays whatever happens to the policy.
        let policy = (!entry.is_block).then(|| self.options.policy.display().to_string());
        let confirmed = Confirmed::new(entry.policy, policy);
        self.feed(Input::Tick);
        Answer::new(confirmed.to_string(), Reply::Confirmed(confirmed))
    }

    pub(super) fn rollback(&mut self, caller: &Caller) -> Answer {
        let state = self.state.clone();
        self.outcome = ReloadOutcome::default();
        let was_trial = std::mem::replace(&mut self.belief.is_trial, false);
        let mut keeper = keeper(&state, self, Who::caller("rollback", caller));
        match locked(&state, || keep::roll_back(&mut keeper)) {
            Ok(done) => {
                if let Some(trial) = self.belief.pending.take() {
                    self.belief.read_digest = self.digest_before(&trial);
                }
                // The file may have changed during the trial.
                self.belief.look_again = self.options.follow;
                let answer = Answer::new(rolled_back(&done), Reply::RolledBack(done.into()));
                self.feed(Input::Tick);
                answer
            }
            Err(refusal) => {
                self.belief.is_trial = was_trial;
                refused(refusal)
            }
        }
    }

    /// Refuses a request that would end a trial by accident.
    pub(super) fn refuse_during_trial(&self) -> Option<Answer> {
        let trial: &Pending = self.belief.pending.as_ref()?;
        let refusal = Refusal::Waits {
            policy: trial.new.entry.policy.clone(),
            seconds: trial.seconds_left(&store::clock()),
        };
        Some(refused(refusal))
    }

    /// Writes the loaded ruleset to the state directory, once.
    pub(super) fn note(&mut self) {
        let state = self.state.clone();
        let by_iptables = self.backend.is_iptables();
        if self.belief.is_trial {
            return;
        }
        let Some(wanted) = &mut self.belief.wanted else {
            return;
        };
        if wanted.unsaved == Unsaved::Ruleset && self.members.saves_later {
            return;
        }
        let unsaved = std::mem::replace(&mut wanted.unsaved, Unsaved::Nothing);
        if unsaved == Unsaved::Nothing {
            return;
        }
        if unsaved == Unsaved::Policy {
            wanted.kept.entry.time = store::time();
        }
        wanted.kept.entry.by_iptables = by_iptables;
        let kept = wanted.kept.clone();
        let mut keeper = keeper(&state, self, Who::process("agent"));
        let noted = locked(&state, || {
            let noted = match unsaved {
                Unsaved::Ruleset => keep::update(&mut keeper, &kept).map(|()| None),
                Unsaved::Policy | Unsaved::Nothing => keep::keep(&mut keeper, &kept).map(Some),
            };
            noted.map_err(Refusal::State)
        });
        let Some(wanted) = &mut self.belief.wanted else {
            return;
        };
        if let Ok(Some(added)) = &noted {
            wanted.kept.entry.number = added.entry.number;
            self.outcome.is_logged |= added.is_new;
        }
        let error = noted.err().map(|err| err.to_string());
        if let Some(err) = &error {
            // Tried again at the next load.
            wanted.unsaved = unsaved;
            if wanted.unsaved_error.is_none() {
                log::warn!(
                    event = "not_saved", policy = wanted.kept.entry.policy, error = err;
                    "the ruleset is loaded, but could not be saved for the next boot: {err}"
                );
            }
        }
        wanted.unsaved_error = error;
    }
}
