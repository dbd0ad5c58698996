//! The agent's metrics.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerwall_core::agent::reconcile::Why;
#[cfg(test)]
use peerwall_core::nft::observed::ObservedCounter;
use peerwall_core::nft::observed::{ObservedSet, ObservedTable};
use peerwall_core::policy::reason::Reason;
use peerwall_core::ruleset::counter_reason;

use super::exposition::{Family, MetricKind};
use crate::json::SourceStatus;

/// Upper bounds of the buckets of commit times, in seconds.
const BUCKETS: [f64; 8] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// Times of an action, in buckets.
#[derive(Debug, Clone, Default)]
pub(super) struct Delays {
    buckets: [u64; BUCKETS.len()],
    seconds: f64,
    count: u64,
}

impl Delays {
    /// Counts one time.
    pub(super) fn observe(&mut self, took: Duration) {
        self.count += 1;
        self.seconds += took.as_secs_f64();
        for (count, end) in self.buckets.iter_mut().zip(BUCKETS) {
            *count += u64::from(took.as_secs_f64() <= end);
        }
    }

    pub(super) fn family(&self, name: &'static str, help: &'static str) -> Family {
        let mut family = Family::new(name, MetricKind::Histogram, help);
        for (count, end) in self.buckets.iter().zip(BUCKETS) {
            // OpenMetrics requires `1.0`, not `1`.
            family = family.part("_bucket", vec![("le", format!("{end:?}"))], count);
        }
        family
            .part("_bucket", vec![("le", "+Inf".to_owned())], self.count)
            .part("_sum", Vec::new(), self.seconds)
            .part("_count", Vec::new(), self.count)
    }
}

/// Counts since the agent started.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub applies: u64,
    pub failures: u64,
    pub reload_errors: u64,
    /// Start time of the agent, in seconds since the Unix epoch.
    started: u64,
    commits: Delays,
}

impl Metrics {
    /// Creates the metrics of an agent that starts now.
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            applies: 0,
            failures: 0,
            reload_errors: 0,
            started: now.unwrap_or_default().as_secs(),
            commits: Delays::default(),
        }
    }

    /// Counts an attempt to apply or verify the ruleset.
    pub(super) fn observe(&mut self, took: Duration, why: &Why, ok: bool) {
        if !ok {
            self.failures += 1;
            return;
        }
        if matches!(why, Why::Start | Why::Policy) {
            self.applies += 1;
        }
        self.commits.observe(took);
    }
}

/// The state of the agent at the time of a scrape.
pub(super) struct Snapshot<'s> {
    /// Whether the loaded rules match the policy.
    pub in_sync: bool,
    /// Whether the ruleset in force lets pass what the policy denies.
    pub is_audit: bool,
    /// Whether the policy file has no known errors, so that it is applied or would be.
    pub policy_ok: bool,
    /// Whether a trial waits for confirmation.
    pub trial_pending: bool,
    /// Whether the host is blocked.
    pub blocked: bool,
    /// Time of the last change to the loaded rules, in seconds since the Unix epoch.
    pub last_apply: Option<i64>,
    /// Number of repairs, by the name of the process whose change was undone.
    pub repairs: &'s BTreeMap<String, u64>,
    /// Number of chains of other firewalls that drop unmatched packets.
    pub foreign_drops: usize,
    /// Whether the log of denied packets is read.
    pub reads_log: bool,
    /// Recorded packets of the log, by reason.
    pub recorded: &'s [(Reason, u64)],
    /// Packets of the log that were not read in time.
    pub log_lost: u64,
    /// Sources of members.
    pub sources: &'s [SourceStatus],
    /// Times from an event of a source to the load of its change.
    pub delays: &'s Delays,
    /// The table at the last read.
    pub table: Option<&'s ObservedTable>,
}

impl Metrics {
    /// Returns all metrics with their samples.
    pub(super) fn families(&self, now: &Snapshot<'_>) -> Vec<Family> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let last_apply = Family::new(
            "peerwall_last_apply_timestamp_seconds",
            MetricKind::Gauge,
            "Time of the last change to the loaded rules by peerwall, in seconds since the Unix epoch.",
        );
        let mut repairs = Family::new(
            "peerwall_repairs",
            MetricKind::Counter,
            "Repairs, by the process whose change was undone.",
        );
        for (process, count) in now.repairs {
            repairs = repairs.sample(vec![("process", process.clone())], count);
        }
        let mut families = vec![
            Family::new(
                "peerwall_build",
                MetricKind::Info,
                "Version of the running agent.",
            )
            .sample(vec![("version", version)], 1),
            gauge(
                "peerwall_start_time_seconds",
                "Start time of the agent, in seconds since the Unix epoch.",
                self.started,
            ),
            match now.last_apply {
                Some(time) => last_apply.value(time),
                None => last_apply,
            },
            gauge(
                "peerwall_in_sync",
                "Whether the loaded rules match the policy (1) or not (0).",
                u64::from(now.in_sync),
            ),
            gauge(
                "peerwall_audit",
                "Whether denied packets pass, because of audit mode (1), or not (0).",
                u64::from(now.is_audit),
            ),
            gauge(
                "peerwall_policy_ok",
                "Whether the policy file was accepted (1) or rejected (0).",
                u64::from(now.policy_ok),
            ),
            gauge(
                "peerwall_trial_pending",
                "Whether a policy on trial waits for confirmation (1) or not (0).",
                u64::from(now.trial_pending),
            ),
            gauge(
                "peerwall_blocked",
                "Whether `peerwall block` closed the host (1) or not (0).",
                u64::from(now.blocked),
            ),
            gauge(
                "peerwall_foreign_drop_chains",
                "Chains of other firewalls that drop unmatched packets.",
                now.foreign_drops as u64,
            ),
            counter("peerwall_applies", "Applied policies.", self.applies),
            counter(
                "peerwall_failures",
                "Failed attempts to apply or verify the ruleset.",
                self.failures,
            ),
            counter(
                "peerwall_reload_errors",
                "Policies that were read and rejected.",
                self.reload_errors,
            ),
            repairs,
            self.commits.family(
                "peerwall_commit_seconds",
                "Time to apply or verify the ruleset, in seconds.",
            ),
            gauge(
                "peerwall_log_read",
                "Whether the log of denied packets is read (1) or not (0).",
                u64::from(now.reads_log),
            ),
            recorded(now.recorded),
            counter(
                "peerwall_log_lost_packets",
                "Packets of the log of denied packets that were not read in time.",
                now.log_lost,
            ),
        ];
        if !now.sources.is_empty() {
            families.extend(super::source_metrics::families(now.sources, now.delays));
        }
        if let Some(table) = now.table {
            families.extend(counters(table));
            families.push(sets(table));
        }
        families
    }
}

/// Returns the packets that were read from the log.
fn recorded(recorded: &[(Reason, u64)]) -> Family {
    let family = Family::new(
        "peerwall_log_packets",
        MetricKind::Counter,
        "Denied packets that were read from the log, by reason.",
    );
    recorded.iter().fold(family, |family, (reason, packets)| {
        family.sample(vec![("reason", reason.to_string())], packets)
    })
}

/// Returns packets and bytes, by chain and reason.
fn counters(table: &ObservedTable) -> [Family; 2] {
    let mut packets = Family::new(
        "peerwall_packets",
        MetricKind::Counter,
        "Packets, by chain and reason.",
    );
    let mut bytes = Family::new(
        "peerwall_bytes",
        MetricKind::Counter,
        "Bytes, by chain and reason.",
    );
    for (name, counter) in &table.counters {
        let Some((chain, reason)) = counter_reason(name) else {
            continue;
        };
        let labels = vec![
            ("chain", chain.unwrap_or("denied").to_owned()),
            ("reason", reason.to_string()),
        ];
        packets = packets.sample(labels.clone(), counter.packets);
        bytes = bytes.sample(labels, counter.bytes);
    }
    [packets, bytes]
}

fn sets(table: &ObservedTable) -> Family {
    let mut family = Family::new(
        "peerwall_set_elements",
        MetricKind::Gauge,
        "Elements of each set.",
    );
    for (name, set) in &table.sets {
        if let ObservedSet::Known { set, .. } = set {
            family = family.sample(vec![("set", name.clone())], set.elements.len());
        }
    }
    family
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    Family::new(name, MetricKind::Gauge, help).value(value)
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
    Family::new(name, MetricKind::Counter, help).value(value)
}

#[cfg(test)]
mod tests {
    use super::super::exposition::Format;
    use super::*;

    #[test]
    fn every_metric_has_its_samples() {
        let mut metrics = Metrics::new();
        metrics.observe(Duration::from_millis(5), &Why::Start, true);
        metrics.observe(Duration::from_millis(5), &Why::Retry, false);
        let repairs = BTreeMap::from([("a\"b".to_owned(), 3)]);
        let table = ObservedTable {
            counters: BTreeMap::from([(
                "input.peers".to_owned(),
                ObservedCounter {
                    packets: 7,
                    bytes: 420,
                },
            )]),
            ..ObservedTable::default()
        };
        let now = Snapshot {
            in_sync: true,
            is_audit: true,
            policy_ok: false,
            trial_pending: true,
            blocked: true,
            last_apply: Some(1_790_000_000),
            foreign_drops: 2,
            repairs: &repairs,
            reads_log: true,
            recorded: &[(Reason::InputDefault, 12)],
            log_lost: 3,
            sources: &[],
            delays: &Delays::default(),
            table: Some(&table),
        };
        let text = Format::OpenMetrics.encode(&metrics.families(&now));
        let version = concat!(
            "peerwall_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        );
        let started = format!("peerwall_start_time_seconds {}", metrics.started);
        for line in [
            version,
            &started,
            "peerwall_last_apply_timestamp_seconds 1790000000",
            "peerwall_in_sync 1",
            "peerwall_audit 1",
            "peerwall_policy_ok 0",
            "peerwall_trial_pending 1",
            "peerwall_blocked 1",
            "peerwall_foreign_drop_chains 2",
            "peerwall_applies_total 1",
            "peerwall_failures_total 1",
            "peerwall_repairs_total{process=\"a\\\"b\"} 3",
            "peerwall_commit_seconds_bucket{le=\"0.003\"} 0",
            "peerwall_commit_seconds_bucket{le=\"0.01\"} 1",
            "peerwall_commit_seconds_bucket{le=\"1.0\"} 1",
            "peerwall_commit_seconds_count 1",
            "peerwall_log_read 1",
            "peerwall_log_packets_total{reason=\"input-default\"} 12",
            "peerwall_log_lost_packets_total 3",
            "peerwall_packets_total{chain=\"input\",reason=\"peers\"} 7",
            "peerwall_bytes_total{chain=\"input\",reason=\"peers\"} 420",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
        let unknown = Snapshot {
            last_apply: None,
            ..now
        };
        let text = Format::OpenMetrics.encode(&metrics.families(&unknown));
        assert!(
            !text.contains("\npeerwall_last_apply_timestamp_seconds"),
            "{text}"
        );
    }
}
