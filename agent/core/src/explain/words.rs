//! Ports and types of ICMP in the words of `explain`'s options and of packet lists.

use std::net::IpAddr;

use crate::net::addr::Family;
use crate::net::packet::Transport;
use crate::net::port::{self, TCP, has_ports};
use crate::policy::icmp;

/// Source port, if none is given. Policies are unlikely to name it.
pub const SOME_SOURCE_PORT: u16 = 40_000;

/// Reads a port, like `80/tcp`, or a protocol without ports.
///
/// # Errors
/// What is wrong, and what would do.
pub fn transport(text: &str) -> Result<Transport, String> {
    let spec = port::parse(text).map_err(|err| match err.help {
        Some(help) => format!("{}; {help}", err.message),
        None => err.message,
    })?;
    let protocol = spec.protocols.first().copied().unwrap_or(TCP);
    match (spec.range, has_ports(protocol)) {
        (Some(range), true) if range.first == range.last => Ok(Transport::Ports {
            protocol,
            source: SOME_SOURCE_PORT,
            destination: range.first,
        }),
        (None, false) => Ok(Transport::Other(protocol)),
        _ => Err(format!(
            "`{text}` is more than one port; give one, like 80/tcp"
        )),
    }
}

/// Reads a type of ICMP, by its name in the family of an address, or by its number.
///
/// # Errors
/// What would do.
pub fn icmp_type(text: &str, address: Option<IpAddr>) -> Result<Transport, String> {
    let family = address.map_or(Family::V4, Family::of);
    let kind = icmp::by_name(family, text).or_else(|| text.parse().ok());
    let kind =
        kind.ok_or_else(|| format!("`{text}` is no type of ICMP, such as echo-request or 8"))?;
    Ok(Transport::Icmp { kind, code: 0 })
}
