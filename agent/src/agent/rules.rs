//! Loads rules by a backend, and looks after what follows from that.

use std::time::{Duration, Instant};

use peerwall_core::agent::reconcile::{Failure, Input, Why};
use peerwall_core::backend::BackendError;
use peerwall_core::policy::HeldBy;
use sd_notify::NotifyState;

use super::open::introduce;
use super::{Agent, LOOK_EVERY, SWEEP_AFTER, notify};
use crate::cli::BackendName;
use crate::enforce::nft::lacks;
use crate::enforce::{Holder, switch};
use crate::store::since;

impl Agent {
    /// What the policy says of the backend counts when the command line said nothing.
    pub(super) fn choose_backend(&mut self, said: HeldBy) -> Result<(), String> {
        match said {
            HeldBy::Auto => Ok(()),
            HeldBy::Nft => self.change_backend(false),
            HeldBy::Iptables => self.change_backend(true),
        }
    }

    /// Holds the rules by the other backend from the next change on, unless one was asked for at the start.
    pub(super) fn change_backend(&mut self, to_iptables: bool) -> Result<(), String> {
        if self.options.asked.is_some() || self.holder.is_deaf() == to_iptables {
            return Ok(());
        }
        let name = match to_iptables {
            true => BackendName::Iptables,
            false => BackendName::Nft,
        };
        self.hold_by(Holder::choose(name, self.options.owns)?);
        Ok(())
    }

    pub(super) fn hold_by(&mut self, holder: Holder) {
        self.holder = holder;
        self.reconcile.look_every(self.look_every());
    }

    pub(super) fn look_every(&self) -> Option<Duration> {
        self.holder.is_deaf().then_some(LOOK_EVERY)
    }

    /// What the other backend held goes, now that this one holds the rules.
    pub(super) fn retire_other(&self, why: &Why) {
        let (was_iptables, is_iptables) = (since::by_iptables(), self.holder.is_deaf());
        if was_iptables != is_iptables || (is_iptables && matches!(why, Why::Start)) {
            switch::remove_other(is_iptables);
        }
    }

    /// Makes the rules be what is wanted.
    pub(super) fn converge(&mut self, why: &Why) -> Input {
        let Some(wanted) = &self.belief.wanted else {
            return Input::Tick;
        };
        let begun = Instant::now();
        let is_repair = matches!(why, Why::Repair(_) | Why::Resync);
        // By iptables, a look takes as long as a repair.
        let is_unknown = is_repair && self.holder.is_deaf();
        let is_first = !is_unknown && self.holder.is_loaded() == Some(false);
        // Not before a repair: rules first.
        if is_first && !is_repair {
            introduce(&mut self.open.connections);
        }
        let mut result = self.holder.converge(Some(&wanted.kept.ruleset));
        if let Err(err) = &result
            && self.options.asked.unwrap_or(BackendName::Auto) == BackendName::Auto
            && lacks(err)
        {
            log::warn!("{err}; going on with iptables");
            let ruleset = wanted.kept.ruleset.clone();
            result = match Holder::choose(BackendName::Iptables, self.options.owns) {
                Ok(holder) => {
                    self.hold_by(holder);
                    self.holder.converge(Some(&ruleset))
                }
                Err(err) => Err(BackendError::Transport(err)),
            };
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
                self.tell(why, done.change.as_deref());
                self.outcome.converged = Some(Ok(done.change.clone()));
                if is_first || is_unknown && done.change.is_some() {
                    introduce(&mut self.open.connections);
                }
                match why {
                    Why::Policy | Why::Start | Why::Retry => {
                        self.retire_other(why);
                        self.cut(done.before.as_ref(), is_first);
                    }
                    // Not now: whoever did it may do it again at once.
                    _ if done.change.is_some() => {
                        self.open.sweep_due = Some(Instant::now() + SWEEP_AFTER);
                    }
                    Why::Repair(_) | Why::Resync => {}
                }
                self.settle(done.change.is_some());
                self.hear(done.heard);
                let input = Input::Converged(Ok(true));
                if done.missed {
                    // Once more, right behind this.
                    let _ = self.reconcile.step(self.now(), input);
                    return Input::Lost;
                }
                input
            }
            Err(err) => {
                if self.reconcile.last_error.as_deref() != Some(&err.to_string()) {
                    log::error!("the rules are not what they should be: {err}");
                }
                self.outcome.converged = Some(Err(err.to_string()));
                Input::Converged(Err(Failure {
                    why: err.to_string(),
                    is_open: self.holder.is_loaded() != Some(true),
                }))
            }
        }
    }

    /// Notes what is in force.
    pub(super) fn settle(&mut self, is_change: bool) {
        self.note();
        if !is_change {
            return;
        }
        let by_iptables = self.holder.is_deaf();
        if let (Some(wanted), Some(generation)) = (&self.belief.wanted, self.holder.generation()) {
            let kept = &wanted.kept;
            since::note(generation, &kept.entry.policy, by_iptables, &kept.ruleset);
        }
    }

    pub(super) fn tell(&self, why: &Why, change: Option<&str>) {
        match (why, change) {
            (Why::Repair(culprits), Some(change)) => {
                let who: Vec<String> = culprits.iter().map(ToString::to_string).collect();
                let who = if who.is_empty() {
                    "somebody".to_owned()
                } else {
                    who.join(", ")
                };
                log::warn!("repaired what {who} changed: {change}");
            }
            (_, Some(change)) => log::info!("in force: {change}"),
            (Why::Start | Why::Policy, None) => log::info!("in force already"),
            (Why::Repair(_) | Why::Resync | Why::Retry, None) => log::debug!("nothing to do"),
        }
        notify(&[NotifyState::Status(&self.headline())]);
    }
}
