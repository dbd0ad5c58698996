//! Values of arguments.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use peerwall_core::policy::BackendChoice;

/// Reads the name of a backend.
pub(super) fn backend() -> impl TypedValueParser<Value = BackendChoice> {
    let help = |choice| match choice {
        BackendChoice::Auto => {
            "nft; iptables if the kernel lacks nf_tables or a feature that the policy needs"
        }
        BackendChoice::Nft => "nf_tables over netlink: one transaction for both families",
        BackendChoice::Iptables => {
            "iptables-restore and ip6tables-restore, in chains of peerwall's own"
        }
    };
    let names = BackendChoice::NAMES;
    PossibleValuesParser::new(
        names.map(|(name, choice)| PossibleValue::new(name).help(help(choice))),
    )
    .map(move |given| {
        let found = names.into_iter().find(|(name, _)| *name == given);
        found.map_or(BackendChoice::Auto, |(_, choice)| choice)
    })
}

/// Reads `60`, `60s` or `5m`, at most a day.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number: u64 = number
        .parse::<u64>()
        .map_err(|err| format!("not a time like 60s or 5m ({err})"))?;
    match number.saturating_mul(unit) {
        seconds @ 1..=86_400 => Ok(seconds),
        _ => Err("must be between 1 second and 1 day".into()),
    }
}

/// Reads the time of a temporary peer.
pub(super) fn peer_time(text: &str) -> Result<u64, String> {
    match span_seconds(text)? {
        seconds @ 10..=2_592_000 => Ok(seconds),
        _ => Err("must be between 10 seconds and 30 days".to_owned()),
    }
}

/// Reads `90s`, `10m`, `1h` or `1d`, at most a day.
pub(super) fn time_span(text: &str) -> Result<u64, String> {
    match span_seconds(text)? {
        seconds @ 1..=86_400 => Ok(seconds),
        _ => Err("must be between 1 second and 1 day".to_owned()),
    }
}

fn span_seconds(text: &str) -> Result<u64, String> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    let read = units.into_iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(seconds)
    });
    read.ok_or_else(|| "not a time like 90s, 10m, 1h or 1d".to_owned())
}

/// An address that serves metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket.
    Unix(PathBuf),
    /// A port on a loopback address.
    Loopback(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => {
                    Err("the path must be absolute, like unix:/run/peerwall/metrics.sock".into())
                }
            };
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(address) => Err(format!(
                "{} is not a loopback address; metrics are unauthenticated, so put an \
                 authenticating proxy in front",
                address.ip()
            )),
            Err(_) => Err(
                "must be like 127.0.0.1:9469, [::1]:9469 or unix:/run/peerwall/metrics.sock".into(),
            ),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_a_unit_and_at_most_a_day() {
        for (text, want) in [
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("1h", Some(3600)),
            ("1d", Some(86_400)),
            ("24h", Some(86_400)),
            ("25h", None),
            ("0s", None),
            ("10", None),
            ("-1s", None),
            ("1.5h", None),
            ("99999999999999999999d", None),
            ("m", None),
            ("", None),
        ] {
            assert_eq!(time_span(text).ok(), want, "{text}");
        }
    }
}
