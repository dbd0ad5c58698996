//! Ports in the syntax of policies.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::protocol::{self, Protocol};
pub use super::protocol::{ICMP, ICMPV6, TCP, UDP, has_ports};

/// Service names with their ports, for suggestions.
const SERVICES: [(&str, &str); 7] = [
    ("ssh", "22/tcp"),
    ("http", "80/tcp"),
    ("https", "443/tcp"),
    ("dns", "53"),
    ("domain", "53"),
    ("ntp", "123/udp"),
    ("smtp", "25/tcp"),
];

/// Returns the name of a protocol if `ports` accepts it, otherwise its number.
pub fn protocol_name(number: u8) -> String {
    match protocol::known(number) {
        Some(known) if known.in_ports => known.name.to_owned(),
        Some(_) | None => number.to_string(),
    }
}

/// Inclusive range of ports without 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Creates a range of one port.
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// Returns whether the range contains this port.
    pub fn contains(self, port: u16) -> bool {
        RangeInclusive::from(self).contains(&port)
    }
}

impl From<PortRange> for RangeInclusive<u16> {
    fn from(range: PortRange) -> Self {
        range.first..=range.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// Entry of `ports`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSpec {
    /// Protocol numbers.
    pub protocols: Vec<u8>,
    /// Ports; `None` for the whole protocol.
    pub range: Option<PortRange>,
}

/// Error of an invalid entry of `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortError {
    /// Message.
    pub message: String,
    /// Suggested fix.
    pub help: Option<String>,
}

fn wrong(message: String, help: &str) -> PortError {
    let help = (!help.is_empty()).then(|| help.to_owned());
    PortError { message, help }
}

/// Parses `80/tcp`, `8000-8100/udp`, `53` (tcp and udp) or the name of a protocol.
///
/// # Errors
/// [`PortError`] for anything else.
pub fn parse(text: &str) -> Result<PortSpec, PortError> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, Some(protocol)),
        None => (text, None),
    };
    if !ports.starts_with(|c: char| c.is_ascii_digit()) {
        return match protocol {
            None => parse_protocol(text),
            Some(_) => Err(wrong(
                format!("`{text}` does not start with a port number"),
                "like \"80/tcp\" or \"8000-8100/udp\"",
            )),
        };
    }
    let protocols = match protocol {
        None => vec![TCP, UDP],
        Some(name) => match with_ports().find(|each| each.name == name) {
            Some(found) => vec![found.number],
            None => {
                let help = match with_ports().find(|each| each.name.eq_ignore_ascii_case(name)) {
                    Some(near) => format!("write \"{ports}/{}\"", near.name),
                    None => "protocols with ports are tcp, udp, sctp and dccp".to_owned(),
                };
                return Err(wrong(
                    format!("`{name}` is not a protocol with ports"),
                    &help,
                ));
            }
        },
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let range = PortRange {
        first: parse_number(first)?,
        last: parse_number(last)?,
    };
    if range.first > range.last {
        return Err(wrong(
            format!("the range `{ports}` ends before it starts"),
            &format!("write \"{}-{}\"", range.last, range.first),
        ));
    }
    Ok(PortSpec {
        protocols,
        range: Some(range),
    })
}

fn with_ports() -> impl Iterator<Item = &'static Protocol> {
    protocol::ALL.iter().filter(|each| each.has_ports)
}

fn parse_number(text: &str) -> Result<u16, PortError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(0) => Err(wrong(
            "port 0 does not exist".to_owned(),
            "ports are 1 to 65535; omit `ports` for every port",
        )),
        Ok(port) if digits && !text.starts_with('0') => Ok(port),
        _ if digits && !text.starts_with('0') => Err(wrong(
            format!("port {text} does not exist"),
            "ports are 1 to 65535",
        )),
        _ => Err(wrong(
            format!("`{text}` is not a port number"),
            "like \"80/tcp\" or \"8000-8100/tcp\"",
        )),
    }
}

fn parse_protocol(text: &str) -> Result<PortSpec, PortError> {
    let known = || protocol::ALL.iter().filter(|each| each.in_ports);
    if let Some(found) = known().find(|each| each.name == text) {
        return Ok(PortSpec {
            protocols: vec![found.number],
            range: None,
        });
    }
    let unknown = format!("`{text}` is neither a port nor a protocol");
    if let Some((_, port)) = SERVICES.iter().find(|(name, _)| *name == text) {
        return Err(wrong(unknown, &format!("write \"{port}\"")));
    }
    if text.starts_with("icmp") || text == "ping" {
        return Err(wrong(unknown, "ICMP has its own section: [icmp]"));
    }
    let names: Vec<&str> = known().map(|each| each.name).collect();
    Err(wrong(
        unknown,
        &format!("like \"80/tcp\", \"53\", or one of {}", names.join(", ")),
    ))
}

/// Converts ranges to canonical form: sorted, with at least one port between them.
pub fn normalize(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut out: Vec<PortRange> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            // Saturating: for `first` 0, the condition is true as it should be.
            Some(previous) if range.first.saturating_sub(1) <= previous.last => {
                previous.last = previous.last.max(range.last);
            }
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    #[test]
    fn what_people_write() {
        for (text, protocols, range) in [
            ("80/tcp", vec![TCP], Some(r(80, 80))),
            ("53", vec![TCP, UDP], Some(r(53, 53))),
            ("8000-8100/udp", vec![UDP], Some(r(8000, 8100))),
            ("1-65535/sctp", vec![132], Some(r(1, 65535))),
            ("esp", vec![50], None),
        ] {
            let want = PortSpec { protocols, range };
            assert_eq!(parse(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_says_what_would_do() {
        for (text, message, help) in [
            ("0/tcp", "port 0", "1 to 65535"),
            ("70000/tcp", "port 70000", "1 to 65535"),
            ("100-50/tcp", "ends before", "50-100"),
            ("80/TCP", "not a protocol", "80/tcp"),
            ("80/icmp", "not a protocol", "tcp, udp"),
            ("080/tcp", "not a port", "80/tcp"),
            ("80-/tcp", "not a port", ""),
            ("80tcp", "not a port", "80/tcp"),
            ("ssh", "neither", "22/tcp"),
            ("icmp", "neither", "[icmp]"),
            ("", "neither", "80/tcp"),
            ("tcp/80", "does not start", "80/tcp"),
        ] {
            let err = parse(text).expect_err(text);
            let help_text = err.help.unwrap_or_default();
            assert!(
                err.message.contains(message) && help_text.contains(help),
                "{text}: {} {help_text}",
                err.message
            );
        }
    }

    #[test]
    fn ranges_join_where_they_touch() {
        for (name, given, want) in [
            ("touching join", vec![r(1, 3), r(4, 6)], vec![r(1, 6)]),
            (
                "contained disappears",
                vec![r(1, 10), r(2, 3)],
                vec![r(1, 10)],
            ),
            (
                "apart stay apart",
                vec![r(5, 6), r(1, 3)],
                vec![r(1, 3), r(5, 6)],
            ),
            (
                "top of the space",
                vec![r(65535, 65535), r(65534, 65534)],
                vec![r(65534, 65535)],
            ),
            ("nothing", vec![], vec![]),
        ] {
            assert_eq!(normalize(given), want, "{name}");
        }
    }
}
