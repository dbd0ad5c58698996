//! Reports the agent's work: log entries of its own events, and metrics.

use std::time::Instant;

use peerwall_core::agent::reconcile::{Culprit, Why};
use peerwall_core::policy::Mode;
use sd_notify::NotifyState;

use super::exposition::{Family, Format};
use super::{Agent, GONE_MAX, METRICS_EVERY, metrics, notify};
use crate::json::DeletedTables;
use crate::secure_file;
use crate::store::{self, since};

impl Agent {
    /// Logs the change of an apply or repair, unless it is logged as an event of the history.
    /// Updates the status that systemd shows.
    pub(super) fn log_change(&mut self, why: &Why, change: Option<&str>) {
        let is_logged = std::mem::take(&mut self.outcome.is_logged);
        let generation = change.and_then(|_| self.backend.generation());
        let entry = self.belief.wanted.as_ref().map(|wanted| &wanted.kept.entry);
        let policy = entry.map_or("", |entry| entry.policy.as_str());
        let number = entry.map(|entry| entry.number).filter(|number| *number > 0);
        match (why, change) {
            (Why::Repair(culprits), Some(change)) => {
                let by = names(culprits);
                log::warn!(
                    event = "repaired", by, change, policy, number, generation;
                    "repaired the rules after a change by {by}: {change}"
                );
            }
            (_, Some(change)) if is_logged => log::debug!("loaded the rules: {change}"),
            (Why::Resync, Some(change)) => log::warn!(
                event = "repaired", change, policy, number, generation;
                "repaired the rules: {change}"
            ),
            (Why::Start | Why::Policy | Why::Retry, Some(change)) => log::info!(
                event = "applied", by = "agent", change, policy, number, generation;
                "applied {policy}: {change}"
            ),
            (Why::Start | Why::Policy, None) if !is_logged => log::info!(
                event = "in_sync", policy, number;
                "no changes: the loaded rules match {policy}"
            ),
            (_, None) => log::debug!("no changes: the loaded rules match {policy}"),
        }
        notify(&[NotifyState::Status(&self.headline())]);
    }

    /// Logs that other programs deleted foreign tables, and records it for `status`.
    pub(super) fn report_deleted(&mut self, tables: &[String], by: Option<&Culprit>) {
        let list = tables.join(", ");
        let who = by.map_or_else(|| "another process".to_owned(), Culprit::to_string);
        let (noun, rest) = match tables {
            [_] => ("table", "which is not ours; its owner must recreate it"),
            _ => (
                "tables",
                "which are not ours; their owners must recreate them",
            ),
        };
        log::warn!(
            event = "foreign_table_deleted", by = who, table = list;
            "{who} deleted the {noun} {list}, {rest}"
        );
        self.belief.gone.push(DeletedTables {
            time: store::time(),
            tables: tables.to_vec(),
            by: by.map(Into::into),
        });
        let extra = self.belief.gone.len().saturating_sub(GONE_MAX);
        self.belief.gone.drain(..extra);
    }

    /// Whether the text differs from the last one about its subject, so that the error of a
    /// repeated attempt is logged once.
    pub(super) fn is_news(&mut self, subject: &'static str, text: &str) -> bool {
        let last = self.reported.said.insert(subject, text.to_owned());
        last.as_deref() != Some(text)
    }

    /// Writes the metrics file, if it is due.
    pub(super) fn write_metrics(&mut self) {
        let Some(path) = self.options.metrics_file.clone() else {
            return;
        };
        let is_due = |due: Instant| due <= Instant::now();
        if !self.reported.metrics_due.is_some_and(is_due) {
            return;
        }
        self.reported.metrics_due = Some(Instant::now() + METRICS_EVERY);
        let text = Format::Classic.encode(&self.metrics());
        let path_shown = path.display();
        match secure_file::publish(&path, &text) {
            Ok(()) => drop(self.reported.said.remove("metrics")),
            Err(err) => {
                let error = err.to_string();
                if self.is_news("metrics", &error) {
                    log::warn!(
                        event = "metrics_not_written", path:% = path_shown, error;
                        "cannot write metrics to {path_shown}: {error}{}",
                        help(&err)
                    );
                }
            }
        }
    }

    /// Collects the metrics.
    pub(super) fn metrics(&mut self) -> Vec<Family> {
        let seen = self.backend.observe();
        let recorder = &self.log.recorder;
        let wanted = self.belief.wanted.as_ref();
        let recorded = recorder.recorded();
        self.reported.metrics.families(&metrics::Snapshot {
            in_sync: self.reconcile.in_sync_since.is_some(),
            is_audit: wanted.is_some_and(|wanted| wanted.kept.ruleset.mode() != Mode::Enforce),
            policy_ok: self.reconcile.policy_error.is_none(),
            trial_pending: self.belief.pending.is_some(),
            blocked: self.is_blocked(),
            last_apply: since::last().and_then(|note| note.unix_seconds()),
            foreign_drops: self.reported.foreign.get(),
            repairs: &self.reported.blamed,
            reads_log: recorder.is_listening(),
            recorded: &recorded,
            log_lost: recorder.lost(),
            sources: &self.members.status(),
            delays: &self.members.delays,
            table: seen.as_ref().and_then(|seen| seen.table.as_ref()),
        })
    }
}

/// Formats the names of the processes that changed rules.
fn names(culprits: &[Culprit]) -> String {
    if culprits.is_empty() {
        return "another process".to_owned();
    }
    let names: Vec<String> = culprits.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Returns advice for a metrics file that cannot be written.
fn help(err: &std::io::Error) -> &'static str {
    match err.raw_os_error() {
        Some(libc::EROFS) => {
            "; under systemd, name its directory in ReadWritePaths= of peerwall.service, and restart that \
             after the directory was created"
        }
        Some(libc::EACCES | libc::EPERM) => "; use a directory that root owns",
        Some(libc::ENOENT) => "; create its directory",
        Some(_) | None => "",
    }
}
