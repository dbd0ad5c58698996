//! Metrics of sources of members.

use super::exposition::{Family, MetricKind};
use super::metrics::Delays;
use crate::json::SourceStatus;

type Value = fn(&SourceStatus) -> Option<f64>;

/// Metrics with one value per source.
const VALUES: [(&str, MetricKind, &str, Value); 7] = [
    (
        "peerwall_source_members",
        MetricKind::Gauge,
        "Addresses that are members, by source.",
        |source| Some(count(source.members)),
    ),
    (
        "peerwall_source_fresh_timestamp_seconds",
        MetricKind::Gauge,
        "Time of the last proof that the members are current, in seconds since the Unix epoch.",
        |source| source.fresh.map(count),
    ),
    (
        "peerwall_source_stale",
        MetricKind::Gauge,
        "Whether the last proof is older than `stale_after` (1) or not (0).",
        |source| Some(f64::from(u8::from(source.is_stale))),
    ),
    (
        "peerwall_source_held_members",
        MetricKind::Gauge,
        "Members that are kept although the source does not list them any more.",
        |source| Some(count(source.held.as_ref().map_or(0, |held| held.addresses))),
    ),
    (
        "peerwall_source_joined_members",
        MetricKind::Counter,
        "Members that joined.",
        |source| Some(count(source.joined)),
    ),
    (
        "peerwall_source_left_members",
        MetricKind::Counter,
        "Members that left.",
        |source| Some(count(source.left)),
    ),
    (
        "peerwall_source_credential_end_timestamp_seconds",
        MetricKind::Gauge,
        "End of the credential, in seconds since the Unix epoch.",
        |source| source.credential_end.map(count),
    ),
];

/// Converts a count; it is exact up to 2^53.
fn count(number: impl TryInto<i64>) -> f64 {
    let number: i64 = number.try_into().unwrap_or(i64::MAX);
    #[expect(
        clippy::cast_precision_loss,
        reason = "metrics are floating-point numbers"
    )]
    let number = number as f64;
    number
}

/// Returns the metrics of all sources.
pub(super) fn families(sources: &[SourceStatus], delays: &Delays) -> Vec<Family> {
    let label = |source: &SourceStatus| vec![("source", source.name.clone())];
    let mut families = Vec::new();
    for (name, kind, help, value) in VALUES {
        let family = Family::new(name, kind, help);
        families.push(
            sources
                .iter()
                .fold(family, |family, source| match value(source) {
                    Some(value) => family.sample(label(source), value),
                    None => family,
                }),
        );
    }
    let mut refused = Family::new(
        "peerwall_source_refused_entries",
        MetricKind::Gauge,
        "Entries of the last answer that are not members, by reason.",
    );
    let mut errors = Family::new(
        "peerwall_source_errors",
        MetricKind::Counter,
        "Errors of the program that asks the source, by kind.",
    );
    for source in sources {
        for (why, count) in &source.refused {
            let mut labels = label(source);
            labels.push(("reason", why.name().to_owned()));
            refused = refused.sample(labels, count);
        }
        for (kind, count) in &source.errors {
            let mut labels = label(source);
            labels.push(("kind", kind.clone()));
            errors = errors.sample(labels, count);
        }
    }
    families.extend([refused, errors]);
    families.push(delays.family(
        "peerwall_source_delay_seconds",
        "Time from an event of a source to the load of its change, in seconds.",
    ));
    families
}
