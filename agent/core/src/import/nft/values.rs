//! Right sides of matches: elements of sets, ranges, prefixes, numbers and names.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::key::{Key, Strange};
use super::objects::strange;
use super::symbols;
use super::text::single;
use crate::import::rule::Interval;
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;

/// Returns the value of an element, without its comment and counters.
pub(super) fn bare(element: &Value) -> &Value {
    match single(element) {
        Some(("elem", body)) => &body["val"],
        _ => element,
    }
}

/// Reports whether an element matches everything that no other one matches.
pub(super) fn is_rest(element: &Value) -> bool {
    bare(element) == "*"
}

/// Parses the first and last number of an element.
pub(super) fn interval(key: Key, element: &Value) -> Result<Interval, Strange> {
    let element = bare(element);
    let wrong = || Strange::of(element);
    let found = match single(element) {
        Some(("range", Value::Array(ends))) => match &ends[..] {
            [first, last] => {
                let (first, last) = (number(key, first), number(key, last));
                first.zip(last).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        },
        Some(("prefix", body)) => prefix(key, body).ok_or_else(wrong),
        _ => number(key, element)
            .map(|number| (number, number))
            .ok_or_else(wrong),
    }?;
    match found.0 <= found.1 {
        true => Ok(found),
        false => Err(wrong()),
    }
}

fn prefix(key: Key, body: &Value) -> Option<Interval> {
    if strange(body, &["addr", "len"]).is_some() {
        return None;
    }
    let Some(family) = family_of(key) else {
        return bits_prefix(key, body);
    };
    let length = u8::try_from(body["len"].as_u64()?).ok()?;
    let host: IpAddr = body["addr"].as_str()?.parse().ok()?;
    let net = IpNet::new(host, length).ok()?;
    (Family::of(host) == family).then(|| addr::bounds(net.trunc()))
}

/// Parses a prefix of a number, which nft prints for aligned intervals of ports.
fn bits_prefix(key: Key, body: &Value) -> Option<Interval> {
    let first = number(key, &body["addr"])?;
    let length = u32::try_from(body["len"].as_u64()?).ok()?;
    let width = width(key);
    let hosts = (1u128 << width.checked_sub(length)?) - 1;
    Some((first & !hosts, first | hosts))
}

/// Returns the number of bits of a field.
pub(super) fn width(key: Key) -> u32 {
    let is_port = matches!(
        key,
        Key::SourcePort | Key::DestinationPort | Key::DialledPort
    );
    match (family_of(key), is_port) {
        (Some(family), _) => u32::from(family.bits()),
        (None, true) => 16,
        (None, false) => 8,
    }
}

/// Returns the family of a field with addresses.
fn family_of(key: Key) -> Option<Family> {
    if let Key::Source(family) | Key::Destination(family) | Key::DialledAddress(family) = key {
        return Some(family);
    }
    None
}

/// Parses a number or a name.
pub(super) fn number(key: Key, value: &Value) -> Option<u128> {
    if let Some(number) = value.as_u64() {
        let fits = family_of(key).is_none() && number >> width(key) == 0;
        return fits.then_some(u128::from(number));
    }
    let name = value.as_str()?;
    if let Some(family) = family_of(key) {
        let address: IpAddr = name.parse().ok()?;
        return (Family::of(address) == family).then(|| addr::number(address));
    }
    let found = if let Key::IcmpType(family) = key {
        symbols::icmp_type(family, name)
    } else if let Key::IcmpCode(family) = key {
        symbols::icmp_code(family, name)
    } else if key == Key::Protocol {
        symbols::protocol(name)
    } else {
        None
    };
    found.map(u128::from)
}

/// Parses a set of bits: a name, a number, or several of them.
pub(super) fn bits(key: Key, value: &Value) -> Result<u64, Strange> {
    let all = match single(value) {
        Some(("|", body)) => body,
        _ => value,
    };
    if let Some(parts) = all.as_array() {
        let mut found = 0;
        for part in parts {
            found |= bits(key, part)?;
        }
        return Ok(found);
    }
    let named = |name: &str| {
        if key == Key::State {
            return symbols::state(name);
        }
        match key == Key::Status {
            true => symbols::status(name),
            false => symbols::tcp_flag(name),
        }
    };
    let one = all.as_u64().or_else(|| all.as_str().and_then(named));
    one.ok_or_else(|| Strange::of(value))
}

/// Parses the name of an interface, or the start of names: `eth*`.
pub(super) fn interface(value: &Value) -> Result<InterfacePattern, Strange> {
    // nft prints the index of an interface that is not there, like `oif 0`.
    let is_index = |name: &&str| name.bytes().all(|byte| byte.is_ascii_digit());
    let name = bare(value).as_str().filter(|name| !is_index(name));
    let found = name.and_then(|name| InterfacePattern::parse(name).ok());
    found.ok_or_else(|| Strange::of(value))
}
