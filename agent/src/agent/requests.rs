//! Answers the requests of clients.

use std::time::Duration;

use peerwall_core::agent::reconcile::Input;
use peerwall_core::ruleset::change::{self, LINES_SHOWN};
use sd_notify::NotifyState;

use super::beliefs::ReloadOutcome;
use super::{Agent, notify};
use crate::control::{Answer, Reply, Request, SourcesAsked, Wish};
use crate::json::{AgentStatus, Applied, ApplyOutcome, ErrorCode, Failure, Repair};
use crate::store;

impl Agent {
    pub(super) fn headline(&self) -> String {
        if self.is_blocked() && self.reconcile.last_error.is_none() {
            return "BLOCKED until `peerwall unblock`".to_owned();
        }
        match (&self.reconcile.last_error, &self.reconcile.policy_error) {
            (Some(err), _) => format!("not in sync: {err}"),
            (None, Some(err)) => format!(
                "last good policy in force: {}",
                err.lines().next().unwrap_or_default()
            ),
            (None, None) => format!("in force: {}", self.options.policy.display()),
        }
    }

    pub(super) fn obey(&mut self, command: Request) -> Answer {
        if let Some(answer) = self.refuse_while_blocked(&command) {
            return answer;
        }
        // Trials and rollbacks compile policies with the saved members.
        self.save_members();
        match command {
            Request::Status => self.status(),
            Request::Denied(asked) => self.denied(asked),
            Request::Apply(policy, wish) if policy != self.options.policy => match wish.confirm {
                Some(seconds) => self.try_out(&policy, wish, seconds),
                None => other_policy(format!(
                    "the agent manages {0}, not {1}. Try {1} with `apply --confirm 60s {1}`, or \
                     replace the policy: mv {1} {0}",
                    self.options.policy.display(),
                    policy.display()
                )),
            },
            Request::Apply(_, wish) | Request::Reload(wish) => match wish.confirm {
                Some(seconds) => self.try_out(&self.options.policy.clone(), wish, seconds),
                None => self.reload(wish),
            },
            Request::Confirm(caller) => self.confirm(&caller),
            Request::Rollback(caller) => self.rollback(&caller),
            Request::Block(asked) => self.block(&asked),
            Request::Unblock(wish) => self.unblock(&wish),
            Request::Sources(asked) => match asked {
                SourcesAsked::List => self.source_list(None),
                SourcesAsked::Show(name) => self.source_list(Some(&name)),
                SourcesAsked::Accept(name) => self.accept_source(&name),
                SourcesAsked::Forget(name, address) => self.forget_member(&name, address),
            },
            Request::Peer(asked) => self.peer(asked),
        }
    }

    pub(super) fn reload(&mut self, wish: Wish) -> Answer {
        if let Some(answer) = self.refuse_during_trial() {
            return answer;
        }
        let monotonic = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Watchdog);
        notify(&[NotifyState::Reloading, monotonic]);
        self.outcome = ReloadOutcome::of(&wish);
        self.wish = Some(wish);
        self.is_reload = true;
        self.feed(Input::Reload);
        self.wish = None;
        notify(&[NotifyState::Ready, NotifyState::Status(&self.headline())]);
        self.tell_outcome()
    }

    /// Builds the answer to `reload` and `apply`.
    pub(super) fn tell_outcome(&mut self) -> Answer {
        match (self.outcome.read.take(), self.outcome.converged.take()) {
            (Some(Err(why)), _) => refused(why),
            (_, Some(Err(why))) => Answer::failed(format!("error: {why}"), why.into()),
            (_, converged) => self.applied(converged.and_then(Result::ok).flatten()),
        }
    }

    fn applied(&mut self, summary: Option<String>) -> Answer {
        let changes = std::mem::take(&mut self.outcome.changes);
        let text = match &summary {
            Some(summary) => {
                let lines = change::text(&changes, LINES_SHOWN, ToString::to_string);
                format!("applied: {summary}\n{lines}")
            }
            None => "no changes: the loaded rules match the policy\n".to_owned(),
        };
        let (connections, ended) = std::mem::take(&mut self.outcome.connections);
        let diagnostics = std::mem::take(&mut self.outcome.warnings);
        let warnings = diagnostics
            .iter()
            .map(|warning| format!("warning: {warning}\n"));
        let warnings: String = warnings.collect();
        let entry = self.belief.wanted.as_ref().map(|wanted| &wanted.kept.entry);
        let applied = Applied {
            outcome: match summary {
                Some(_) => ApplyOutcome::Applied,
                None => ApplyOutcome::Unchanged,
            },
            policy: entry.map_or_else(|| self.policy_path(), |entry| entry.policy.clone()),
            backend: self.backend.backend(),
            iptables: self.backend.iptables_json(),
            summary,
            changes,
            confirm_seconds: None,
            connections: ended,
            diagnostics,
        };
        let text = format!("{warnings}{text}{connections}");
        Answer::new(text.trim_end(), Reply::Applied(applied))
    }

    fn policy_path(&self) -> String {
        self.options.policy.display().to_string()
    }

    pub(super) fn status(&self) -> Answer {
        let ago = |at: Duration| self.now().saturating_sub(at).as_secs();
        let reconcile = &self.reconcile;
        let wanted = self.belief.wanted.as_ref();
        let entry = wanted.map(|wanted| &wanted.kept.entry);
        let refusal = self.belief.rejection.as_ref();
        let refusal = refusal.filter(|_| reconcile.policy_error.is_some());
        let is_failing = reconcile.last_error.is_some();
        let pending = self.belief.pending.as_ref();
        let status = AgentStatus {
            pid: std::process::id(),
            started: self.started.clone(),
            backend: self.backend.backend(),
            iptables: self.backend.iptables_json(),
            owns_table: self.backend.owns_table(),
            policy: self.policy_path(),
            follows: self.options.follow,
            in_force: entry.map(|entry| entry.policy.clone()),
            digest: entry.map(|entry| entry.digest.clone()),
            counts: wanted.and_then(|wanted| wanted.counts.clone()),
            in_sync_seconds: reconcile.in_sync_since.map(ago),
            repairs: reconcile.repairs,
            is_storm: reconcile.is_storm(),
            last_repair: reconcile.last_repair.as_ref().map(|repair| Repair {
                seconds_ago: ago(repair.at),
                by: repair.culprits.iter().map(Into::into).collect(),
            }),
            last_error: self.belief.load_error.clone().filter(|_| is_failing),
            policy_error: refusal.map(|why| why.error.clone()),
            policy_diagnostics: refusal.map_or_else(Vec::new, |why| why.diagnostics.clone()),
            unsaved: wanted.and_then(|wanted| wanted.unsaved_error.clone()),
            trial_seconds_left: pending.map(|trial| trial.seconds_left(&store::clock())),
            deleted_tables: self.belief.gone.clone(),
            log_reader: Some(self.log.reader()),
            sources: self.members.status(),
            temporary_peers: self.temporary_status(),
        };
        Answer::new(self.headline(), Reply::Status(Box::new(status)))
    }
}

fn other_policy(why: String) -> Answer {
    Answer::failed(why.clone(), Failure::new(ErrorCode::OtherPolicy, why))
}

/// Builds the answer to a refused request.
pub(super) fn refused(why: impl Into<Failure>) -> Answer {
    const UNCHANGED: &str = "nothing was changed";
    let why = why.into();
    let text = why.to_string();
    let end = if text.contains(UNCHANGED) {
        ""
    } else {
        UNCHANGED
    };
    Answer::failed(format!("{text}\n{end}").trim_end(), why)
}
