//! Numbers about the agent, as OpenMetrics text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use peerwall_core::agent::reconcile::Why;
#[cfg(test)]
use peerwall_core::nft::observed::ObservedCounter;
use peerwall_core::nft::observed::{ObservedSet, ObservedTable};
use peerwall_core::ruleset::counter_reason;

/// Upper ends of the buckets of commit times, in seconds.
const BUCKETS: [f64; 8] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// What is counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    pub applies: u64,
    pub failures: u64,
    pub reload_errors: u64,
    buckets: [u64; BUCKETS.len()],
    seconds: f64,
    commits: u64,
}

impl Metrics {
    /// Counts one time that rules were looked after.
    pub(super) fn observe(&mut self, took: Duration, why: &Why, ok: bool) {
        if !ok {
            self.failures += 1;
            return;
        }
        if matches!(why, Why::Start | Why::Policy) {
            self.applies += 1;
        }
        self.commits += 1;
        self.seconds += took.as_secs_f64();
        for (count, end) in self.buckets.iter_mut().zip(BUCKETS) {
            *count += u64::from(took.as_secs_f64() <= end);
        }
    }
}

/// Values reported besides the counts.
pub(super) struct Told<'t> {
    /// Whether the rules are what the policy says.
    pub in_sync: bool,
    /// Whether the policy in the file is the one in force.
    pub policy_ok: bool,
    /// Repairs so far, by the name of the process that made them necessary.
    pub repairs: &'t BTreeMap<String, u64>,
    /// Chains of other firewalls that drop what they do not accept.
    pub foreign_drops: usize,
    /// The table, as it was read last.
    pub table: Option<&'t ObservedTable>,
}

impl Metrics {
    /// As OpenMetrics text (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
    pub(super) fn text(&self, told: &Told<'_>) -> String {
        let mut out = String::new();
        gauge(
            &mut out,
            "peerwall_in_sync",
            "Whether the rules are what the policy says.",
            u64::from(told.in_sync),
        );
        gauge(
            &mut out,
            "peerwall_policy_ok",
            "Whether the policy in the file is the one in force.",
            u64::from(told.policy_ok),
        );
        gauge(
            &mut out,
            "peerwall_foreign_drop_chains",
            "Chains of other firewalls that drop what they do not accept.",
            told.foreign_drops as u64,
        );
        counter(
            &mut out,
            "peerwall_applies",
            "Policies put in force.",
            self.applies,
        );
        counter(
            &mut out,
            "peerwall_failures",
            "Times that the rules could not be made what they should be.",
            self.failures,
        );
        counter(
            &mut out,
            "peerwall_reload_errors",
            "Policies that were read and not applied.",
            self.reload_errors,
        );
        head(
            &mut out,
            "peerwall_repairs",
            "counter",
            "Repairs, by who made them necessary.",
        );
        for (process, count) in told.repairs {
            let _ = writeln!(
                out,
                "peerwall_repairs_total{{process=\"{}\"}} {count}",
                escaped(process)
            );
        }
        self.histogram(&mut out);
        if let Some(table) = told.table {
            counters(&mut out, table);
            sets(&mut out, table);
        }
        out.push_str("# EOF\n");
        out
    }

    fn histogram(&self, out: &mut String) {
        head(
            out,
            "peerwall_commit_seconds",
            "histogram",
            "How long it took to look after the rules.",
        );
        for (count, end) in self.buckets.iter().zip(BUCKETS) {
            let _ = writeln!(
                out,
                "peerwall_commit_seconds_bucket{{le=\"{end}\"}} {count}"
            );
        }
        let _ = writeln!(
            out,
            "peerwall_commit_seconds_bucket{{le=\"+Inf\"}} {}",
            self.commits
        );
        let _ = writeln!(out, "peerwall_commit_seconds_sum {}", self.seconds);
        let _ = writeln!(out, "peerwall_commit_seconds_count {}", self.commits);
    }
}

/// Packets and bytes, by hook and reason.
fn counters(out: &mut String, table: &ObservedTable) {
    for (metric, help) in [
        ("packets", "Packets by hook and reason."),
        ("bytes", "Bytes by hook and reason."),
    ] {
        head(out, &format!("peerwall_{metric}"), "counter", help);
        for (name, counter) in &table.counters {
            let Some((chain, reason)) = counter_reason(name) else {
                continue;
            };
            let value = if metric == "packets" {
                counter.packets
            } else {
                counter.bytes
            };
            let _ = writeln!(
                out,
                "peerwall_{metric}_total{{chain=\"{}\",reason=\"{}\"}} {value}",
                chain.unwrap_or("denied"),
                escaped(&reason.to_string())
            );
        }
    }
}

fn sets(out: &mut String, table: &ObservedTable) {
    head(out, "peerwall_set_elements", "gauge", "Elements of sets.");
    for (name, set) in &table.sets {
        if let ObservedSet::Known { set, .. } = set {
            let _ = writeln!(
                out,
                "peerwall_set_elements{{set=\"{}\"}} {}",
                escaped(name),
                set.elements.len()
            );
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# TYPE {name} {kind}\n# HELP {name} {help}");
}

fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    head(out, name, "gauge", help);
    let _ = writeln!(out, "{name} {value}");
}

fn counter(out: &mut String, name: &str, help: &str, value: u64) {
    head(out, name, "counter", help);
    let _ = writeln!(out, "{name}_total {value}");
}

/// A value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_whole_and_its_labels_are_escaped() {
        let mut metrics = Metrics::default();
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
        let told = Told {
            in_sync: true,
            policy_ok: false,
            foreign_drops: 2,
            repairs: &repairs,
            table: Some(&table),
        };
        let text = metrics.text(&told);
        for line in [
            "peerwall_in_sync 1",
            "peerwall_policy_ok 0",
            "peerwall_foreign_drop_chains 2",
            "peerwall_applies_total 1",
            "peerwall_failures_total 1",
            "peerwall_repairs_total{process=\"a\\\"b\"} 3",
            "peerwall_commit_seconds_bucket{le=\"0.003\"} 0",
            "peerwall_commit_seconds_bucket{le=\"0.01\"} 1",
            "peerwall_commit_seconds_count 1",
            "peerwall_packets_total{chain=\"input\",reason=\"peers\"} 7",
            "peerwall_bytes_total{chain=\"input\",reason=\"peers\"} 420",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
