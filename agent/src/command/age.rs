//! Formats the age of a time.

use jiff::Timestamp;

/// Formats a time with its age: `2026-11-25T20:47:30Z (12 min ago)`. Without the age if the time
/// cannot be parsed.
pub(super) fn with_age(time: &str) -> String {
    match seconds_since(time) {
        Some(seconds) => format!("{time} ({})", ago(seconds)),
        None => time.to_owned(),
    }
}

/// Returns the seconds since a time in RFC 3339; 0 for a time in the future, because the clock may
/// have been set.
pub(super) fn seconds_since(time: &str) -> Option<u64> {
    let time: Timestamp = time.parse().ok()?;
    let seconds = Timestamp::now().duration_since(time).as_secs();
    Some(u64::try_from(seconds).unwrap_or(0))
}

/// Formats an age: `12 min ago`.
pub(super) fn ago(seconds: u64) -> String {
    format!("{} ago", duration(seconds))
}

/// Formats a duration in a suitable unit: `42 s`, `12 min`, `5 h`, `3 days`.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_the_unit_that_says_enough() {
        for (seconds, want) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_199, "119 min"),
            (7_200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(duration(seconds), want);
        }
    }

    #[test]
    fn a_time_that_is_yet_to_come_or_none_is_no_error() {
        assert_eq!(
            with_age("2999-01-01T00:00:00Z"),
            "2999-01-01T00:00:00Z (0 s ago)"
        );
        assert_eq!(with_age("yesterday"), "yesterday");
    }
}
