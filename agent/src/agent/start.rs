//! State that an agent takes over at its start: a trial, or the last confirmed ruleset if the
//! policy is rejected.

use std::path::Path;

use super::Agent;
use crate::store::{self, Kept};
use crate::trial::closed;

impl Agent {
    /// Takes over the trial or block of an earlier agent or of a command.
    pub(super) fn take_up(&mut self) {
        match self.state.waiting() {
            Some(trial) if trial.is_loaded && !trial.is_over(&store::clock()) => {
                let (policy, seconds) =
                    (&trial.new.entry.policy, trial.seconds_left(&store::clock()));
                log::warn!(
                    event = "trial_continues", policy, seconds;
                    "the trial of {policy} is not confirmed yet: {seconds} s left"
                );
                self.want(trial.new.clone());
                self.belief.is_trial = true;
                self.belief.read_digest = self.digest_before(&trial);
                self.belief.pending = Some(trial);
            }
            Some(_) => self.end_trial(),
            None => {}
        }
        if self.belief.wanted.is_none() {
            self.take_up_block();
        }
    }

    /// Selects the ruleset if the policy is rejected: the last confirmed one, else the loaded one,
    /// else the closed ruleset.
    pub(super) fn fall_back_to_confirmed(&mut self) {
        let history = self.state.history().unwrap_or_default();
        for entry in history.kept.iter().rev() {
            match self.state.load(entry.clone()) {
                Ok(kept) => {
                    log::warn!(
                        event = "fell_back", policy = entry.policy, number = entry.number;
                        "loading number {}, which was confirmed last, because the policy was rejected",
                        entry.number
                    );
                    return self.want(kept);
                }
                Err(err) => log::error!("cannot load number {}: {err}", entry.number),
            }
        }
        let seen = self.backend.observe();
        if let Some(ruleset) = seen.and_then(|seen| seen.table?.ruleset()) {
            log::warn!(
                event = "fell_back";
                "keeping the loaded rules, because the policy was rejected"
            );
            let entry = store::entry(Path::new("the loaded rules"), "", false, false);
            return self.want(Kept { entry, ruleset });
        }
        if let Some(closed) = closed::closed() {
            log::error!(
                event = "closed";
                "CLOSED: only ssh and the safe core are allowed, because the policy was rejected and nothing \
                 was ever confirmed"
            );
            self.want(closed);
        }
    }
}
