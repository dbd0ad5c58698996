//! Loads rules by a backend, with all consequences of the load.

use std::time::{Duration, Instant};

use peerwall_core::agent::reconcile::{Failure, Input, Why};
use peerwall_core::backend::BackendError;
use peerwall_core::policy::BackendChoice;

use super::open::introduce;
use super::{Agent, LOOK_EVERY, SWEEP_AFTER};
use crate::enforce::nft::lacks;
use crate::enforce::{Enforcer, Watched, switch};
use crate::json;
use crate::store::since;

impl Agent {
    /// Uses the backend of the policy, unless the command line names one.
    pub(super) fn choose_backend(&mut self, said: BackendChoice) -> Result<(), BackendError> {
        match said {
            BackendChoice::Auto => Ok(()),
            BackendChoice::Nft => self.change_backend(false),
            BackendChoice::Iptables => self.change_backend(true),
        }
    }

    /// Changes to the other backend for the next load, unless the command line names one.
    pub(super) fn change_backend(&mut self, to_iptables: bool) -> Result<(), BackendError> {
        if self.options.asked.is_some() || self.backend.is_iptables() == to_iptables {
            return Ok(());
        }
        self.set_backend(match to_iptables {
            true => BackendChoice::Iptables,
            false => BackendChoice::Nft,
        })
    }

    fn set_backend(&mut self, choice: BackendChoice) -> Result<(), BackendError> {
        let enforcer = Enforcer::choose(choice, |_| {})?;
        self.backend = Watched::new(enforcer, self.options.owns)?;
        self.reconcile.look_every(self.look_every());
        Ok(())
    }

    pub(super) fn look_every(&self) -> Option<Duration> {
        self.backend.is_iptables().then_some(LOOK_EVERY)
    }

    /// Removes the rules of the other backend, after this one loaded the rules.
    pub(super) fn retire_other(&self, why: &Why) {
        let (was_iptables, is_iptables) = (since::by_iptables(), self.backend.is_iptables());
        if was_iptables != is_iptables || (is_iptables && matches!(why, Why::Start)) {
            switch::remove_other(is_iptables);
        }
    }

    /// Loads the wanted rules.
    pub(super) fn converge(&mut self, why: &Why) -> Input {
        // A ruleset from before may have others.
        self.put_temporary();
        let Some(wanted) = &self.belief.wanted else {
            return Input::Tick;
        };
        let begun = Instant::now();
        let is_repair = matches!(why, Why::Repair(_) | Why::Resync);
        // With iptables, reading the rules takes as long as repairing them.
        let is_unknown = is_repair && self.backend.is_iptables();
        let is_first = !is_unknown && self.backend.is_loaded() == Some(false);
        // A repair loads the rules first.
        if is_first && !is_repair {
            introduce(&mut self.open.connections);
        }
        let is_asked = self.outcome.is_asked;
        let mut result = self.backend.converge(Some(&wanted.kept.ruleset), is_asked);
        if let Err(err) = &result
            && self.options.asked.unwrap_or(BackendChoice::Auto) == BackendChoice::Auto
            && lacks(err)
        {
            log::warn!(
                event = "backend_changed", backend = "iptables", error:% = err;
                "{err}; using iptables instead"
            );
            let ruleset = wanted.kept.ruleset.clone();
            result = self
                .set_backend(BackendChoice::Iptables)
                .and_then(|()| self.backend.converge(Some(&ruleset), is_asked));
        }
        self.reported
            .metrics
            .observe(begun.elapsed(), why, result.is_ok());
        if let Why::Repair(culprits) = why {
            let nobody = culprits.is_empty().then(|| "unknown".to_owned());
            for name in culprits.iter().map(|who| who.process.clone()).chain(nobody) {
                *self.reported.blamed.entry(name).or_default() += 1;
            }
        }
        match result {
            Ok(done) => {
                // A check after a load is not what the client asked for.
                if !matches!((why, &self.outcome.converged), (Why::Resync, Some(Ok(_)))) {
                    self.outcome.converged = Some(Ok(done.change.clone()));
                    self.outcome.changes = done.changes;
                }
                if is_first || is_unknown && done.change.is_some() {
                    introduce(&mut self.open.connections);
                }
                match why {
                    Why::Policy | Why::Start | Why::Retry => {
                        self.retire_other(why);
                        self.cut(done.before.as_ref(), is_first);
                    }
                    // The connections are ended later, because the same program may change the
                    // rules again immediately.
                    _ if done.change.is_some() => {
                        self.open.sweep_due = Some(Instant::now() + SWEEP_AFTER);
                    }
                    Why::Repair(_) | Why::Resync => {}
                }
                self.settle(done.change.is_some());
                self.follow_log();
                self.log_change(why, done.change.as_deref());
                self.hear(done.heard);
                let input = Input::Converged(Ok(true));
                if done.missed {
                    // The rules are read again directly after this.
                    let _ = self.reconcile.step(self.now(), input);
                    return Input::Lost;
                }
                input
            }
            Err(err) => {
                self.outcome.is_logged = false;
                let why = err.to_string();
                if self.reconcile.last_error.as_ref() != Some(&why) {
                    log::error!(event = "out_of_sync", error = why; "cannot load the rules: {why}");
                }
                self.belief.load_error = Some(json::Failure::from(&err).error);
                self.outcome.converged = Some(Err(err));
                Input::Converged(Err(Failure {
                    why,
                    is_open: self.backend.is_loaded() != Some(true),
                }))
            }
        }
    }

    /// Records the loaded ruleset.
    pub(super) fn settle(&mut self, is_change: bool) {
        self.note();
        if !is_change {
            return;
        }
        let by_iptables = self.backend.is_iptables();
        if let Some(wanted) = &self.belief.wanted {
            let (kept, generation) = (&wanted.kept, self.backend.known_at());
            let known = &mut self.digests;
            since::note(
                generation,
                &kept.entry.policy,
                by_iptables,
                &kept.ruleset,
                known,
            );
        }
    }
}
