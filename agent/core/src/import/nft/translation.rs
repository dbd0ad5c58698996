//! Targets of `dnat` and `redirect`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::text::single;
use crate::import::rule::Verb;
use crate::net::addr;

/// Returns the first and the last value of a range, or the only one.
fn ends(value: &Value) -> Option<(&Value, &Value)> {
    match single(value) {
        Some(("range", Value::Array(ends))) => match &ends[..] {
            [first, last] => Some((first, last)),
            _ => None,
        },
        Some(_) => None,
        None => Some((value, value)),
    }
}

/// Builds a translation to an address and a port, each if it is given.
pub(super) fn to(address: &Value, port: &Value) -> Option<Verb> {
    let host = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    let one = |value: &Value| u16::try_from(value.as_u64()?).ok();
    let addresses = match (single(address), address) {
        (_, Value::Null) => None,
        (Some(("prefix", body)), _) => {
            let length = u8::try_from(body["len"].as_u64()?).ok()?;
            Some(addr::bounds(IpNet::new(host(&body["addr"])?, length).ok()?))
        }
        _ => {
            let (first, last) = ends(address)?;
            Some((addr::number(host(first)?), addr::number(host(last)?)))
        }
    };
    let ports = match port.is_null() {
        true => None,
        false => {
            let (first, last) = ends(port)?;
            Some((one(first)?, one(last)?))
        }
    };
    Some(Verb::Dnat(addresses, ports))
}
