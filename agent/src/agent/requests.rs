//! Answers the requests of clients.

use std::time::Duration;

use peerwall_core::agent::reconcile::Input;
use peerwall_core::ruleset::change::{self, LINES_SHOWN};
use sd_notify::NotifyState;
use serde_json::{Value, json};

use super::beliefs::Outcome;
use super::{Agent, notify};
use crate::control::{self, Answer, Command, Wish};
use crate::store;

impl Agent {
    pub(super) fn headline(&self) -> String {
        match (&self.reconcile.last_error, &self.reconcile.policy_error) {
            (Some(err), _) => format!("not in sync: {err}"),
            (None, Some(err)) => format!(
                "last good policy in force: {}",
                err.lines().next().unwrap_or_default()
            ),
            (None, None) => format!("in force: {}", self.options.policy.display()),
        }
    }

    pub(super) fn obey(&mut self, command: Command) -> Answer {
        match command {
            Command::Status => self.status(),
            Command::Apply(policy, wish) if policy != self.options.policy => match wish.confirm {
                Some(seconds) => self.try_out(&policy, wish, seconds),
                None => Answer::new(
                    control::Outcome::Trouble,
                    format!(
                        "the agent manages {0}, not {1}. Try {1} with `apply --confirm 60s {1}`, or replace the policy: mv {1} {0}",
                        self.options.policy.display(),
                        policy.display()
                    ),
                    Value::Null,
                ),
            },
            Command::Apply(_, wish) | Command::Reload(wish) => match wish.confirm {
                Some(seconds) => self.try_out(&self.options.policy.clone(), wish, seconds),
                None => self.reload(wish),
            },
            Command::Confirm(caller) => self.confirm(&caller),
            Command::Rollback(caller) => self.rollback(&caller),
        }
    }

    pub(super) fn reload(&mut self, wish: Wish) -> Answer {
        if let Some(answer) = self.refuse_during_trial() {
            return answer;
        }
        let monotonic = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Watchdog);
        notify(&[NotifyState::Reloading, monotonic]);
        self.outcome = Outcome::of(&wish);
        self.wish = Some(wish);
        self.feed(Input::Reload);
        self.wish = None;
        notify(&[NotifyState::Ready, NotifyState::Status(&self.headline())]);
        self.tell_outcome()
    }

    /// What is answered to who wished for a policy.
    pub(super) fn tell_outcome(&mut self) -> Answer {
        match (self.outcome.read.take(), self.outcome.converged.take()) {
            (Some(Err(why)), _) => refused(&why.to_string()),
            (_, Some(Err(why))) => Answer::new(
                control::Outcome::Trouble,
                format!("error: {why}"),
                json!({"error": why.to_string()}),
            ),
            (_, converged) => {
                let change = converged.and_then(Result::ok).flatten();
                let changes = std::mem::take(&mut self.outcome.changes);
                let lines = change::text(&changes, LINES_SHOWN, ToString::to_string);
                let text = change.clone().map_or_else(
                    || "no changes: the loaded rules match the policy\n".to_owned(),
                    |change| format!("applied: {change}\n{lines}"),
                );
                let warnings = std::mem::take(&mut self.outcome.warnings);
                let told: String = warnings
                    .iter()
                    .map(|each| format!("warning: {each}\n"))
                    .collect();
                let (connections, as_json) = std::mem::take(&mut self.outcome.connections);
                let text = format!("{told}{text}{connections}");
                Answer::new(
                    control::Outcome::Done,
                    text.trim_end(),
                    json!({"changes": change.is_some(), "change": change, "policy_changes": changes, "warnings": warnings, "connections": as_json}),
                )
            }
        }
    }

    pub(super) fn status(&self) -> Answer {
        let ago = |at: Duration| self.now().saturating_sub(at).as_secs();
        let reconcile = &self.reconcile;
        let entry = self.belief.wanted.as_ref().map(|wanted| &wanted.kept.entry);
        let data = json!({
            "pid": std::process::id(),
            "started": self.started,
            "backend": self.backend.describe(),
            "uses": if self.backend.is_iptables() { "iptables" } else { "nft" },
            "policy": self.options.policy,
            "follows": self.options.follow,
            "in_force": entry.map(|entry| &entry.policy),
            "digest": entry.map(|entry| &entry.digest),
            "unsaved": self.belief.wanted.as_ref().and_then(|wanted| wanted.unsaved_error.as_ref()),
            "counts": self.belief.wanted.as_ref().map(|wanted| &wanted.counts),
            "in_sync_seconds": reconcile.in_sync_since.map(ago),
            "repairs": reconcile.repairs,
            "storm": reconcile.is_storm(),
            "last_repair": reconcile.last_repair.as_ref().map(|repair| json!({
                "seconds_ago": ago(repair.at),
                "by": repair.culprits,
            })),
            "last_error": reconcile.last_error,
            "policy_error": reconcile.policy_error,
            "pending_seconds": self.belief.pending.as_ref().map(|trial| trial.seconds_left(&store::clock())),
            "others_gone": self.belief.gone,
        });
        Answer::new(control::Outcome::Done, self.headline(), data)
    }
}

/// An answer that says why nothing was done.
pub(super) fn refused(why: &str) -> Answer {
    const UNCHANGED: &str = "nothing was changed";
    let end = if why.contains(UNCHANGED) {
        ""
    } else {
        UNCHANGED
    };
    let text = format!("{why}\n{end}");
    Answer::new(
        control::Outcome::Trouble,
        text.trim_end(),
        json!({"error": why}),
    )
}
