//! Logs the events of trials and of the history. Each is logged once, when it is recorded in the
//! audit trail.

use log::Level;
use peerwall_core::agent::keep::{Kind, Record};

use super::words;
use crate::store::audit::Who;

/// Logs an event. `change` describes the change in the kernel.
pub(super) fn log(record: Record<'_>, change: Option<&str>, by: &Who) {
    let (event, reason) = name(record.kind);
    let level = match record.kind {
        // These were not requested.
        Kind::RanOut | Kind::Stopped => Level::Warn,
        Kind::Applied
        | Kind::Tried
        | Kind::Confirmed
        | Kind::RolledBack
        | Kind::Booted
        | Kind::Removed
        | Kind::Blocked
        | Kind::Unblocked => Level::Info,
    };
    let entry = record.entry;
    log::log!(
        level,
        event,
        reason,
        policy = entry.map(|entry| entry.policy.as_str()),
        digest = entry.map(|entry| entry.digest.as_str()),
        number = number(record),
        seconds = record.seconds,
        change,
        by:%;
        "{}",
        text(record, change, by)
    );
}

/// Returns the values of `PEERWALL_EVENT` and `PEERWALL_REASON`.
fn name(kind: Kind) -> (&'static str, Option<&'static str>) {
    match kind {
        Kind::Applied => ("applied", None),
        Kind::Tried => ("trial_began", None),
        Kind::Confirmed => ("confirmed", None),
        Kind::RanOut => ("rolled_back", Some("not confirmed in time")),
        Kind::Stopped => ("rolled_back", Some("agent or guard stopped")),
        Kind::RolledBack => ("rolled_back", Some("requested")),
        Kind::Booted => ("booted", None),
        Kind::Removed => ("removed", None),
        Kind::Blocked => ("blocked", None),
        Kind::Unblocked => ("unblocked", None),
    }
}

/// Returns the number in the history; `None` for a trial and for the closed ruleset.
fn number(record: Record<'_>) -> Option<u64> {
    let number = record.entry?.number;
    (number > 0).then_some(number)
}

fn text(record: Record<'_>, change: Option<&str>, by: &Who) -> String {
    let entry = record.entry;
    let policy = entry.map_or("unknown policy", |entry| &entry.policy);
    let change = change.map_or_else(String::new, |change| format!(": {change}"));
    let seconds = record.seconds.unwrap_or_default();
    let number = number(record).map_or_else(String::new, |number| format!(" (number {number})"));
    match record.kind {
        Kind::Applied => format!("applied {policy}{number} by {by}{change}"),
        Kind::Tried => {
            format!(
                "trial of {policy} began by {by}, rolled back in {seconds} s unless confirmed{change}"
            )
        }
        Kind::Confirmed => format!("confirmed {policy}{number} by {by}"),
        Kind::RanOut => words::ran_out(policy, seconds),
        Kind::Stopped => words::stopped(policy),
        Kind::RolledBack => format!("rolled back {policy}{number} by {by}{change}"),
        Kind::Booted => format!("loaded {policy}{number} at boot{change}"),
        Kind::Removed => format!("removed all rules of peerwall by {by}"),
        Kind::Blocked => match record.seconds {
            Some(seconds) => {
                format!("BLOCKED by {by}, rolled back in {seconds} s unless confirmed{change}")
            }
            None => format!("BLOCKED by {by} until `peerwall unblock`{change}"),
        },
        Kind::Unblocked => match entry {
            Some(entry) => format!(
                "unblocked by {by}, back to {}{number}{change}",
                entry.policy
            ),
            None => format!("unblocked by {by}; no policy was in force before{change}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Entry;

    #[test]
    fn events_say_who_what_and_which_number() {
        let entry = |number| Entry {
            number,
            time: "2026-01-01T00:00:00Z".into(),
            policy: "/p.toml".into(),
            digest: "d".into(),
            by_iptables: false,
            cut: true,
            is_block: false,
        };
        let (kept, tried) = (entry(3), entry(0));
        let of = |kind, entry, seconds| Record {
            kind,
            entry,
            seconds,
        };
        let by = Who::process("agent");
        for (record, want) in [
            (
                of(Kind::Applied, Some(&kept), None),
                "applied /p.toml (number 3) by agent: +1 rule",
            ),
            (
                of(Kind::Tried, Some(&tried), Some(60)),
                "trial of /p.toml began by agent, rolled back in 60 s unless confirmed: +1 rule",
            ),
            (
                of(Kind::Confirmed, Some(&kept), Some(60)),
                "confirmed /p.toml (number 3) by agent",
            ),
            (
                of(Kind::RanOut, Some(&tried), Some(60)),
                "/p.toml was not confirmed within 60 s and was rolled back; \
                 the rules from before are loaded again",
            ),
            (
                of(Kind::Stopped, Some(&tried), Some(60)),
                "/p.toml was not confirmed before its agent or guard was stopped, and was rolled back; \
                 the rules from before are loaded again",
            ),
            (
                of(Kind::RolledBack, Some(&kept), None),
                "rolled back /p.toml (number 3) by agent: +1 rule",
            ),
            (
                of(Kind::Booted, Some(&kept), None),
                "loaded /p.toml (number 3) at boot: +1 rule",
            ),
            (
                of(Kind::Removed, None, None),
                "removed all rules of peerwall by agent",
            ),
            (
                of(Kind::Blocked, Some(&kept), None),
                "BLOCKED by agent until `peerwall unblock`: +1 rule",
            ),
            (
                of(Kind::Blocked, Some(&tried), Some(60)),
                "BLOCKED by agent, rolled back in 60 s unless confirmed: +1 rule",
            ),
            (
                of(Kind::Unblocked, Some(&kept), None),
                "unblocked by agent, back to /p.toml (number 3): +1 rule",
            ),
            (
                of(Kind::Unblocked, None, None),
                "unblocked by agent; no policy was in force before: +1 rule",
            ),
        ] {
            assert_eq!(text(record, Some("+1 rule"), &by), want);
        }
    }
}
