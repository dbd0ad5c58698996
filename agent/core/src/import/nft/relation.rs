//! Matches: a field of the packet and the values that it is compared with.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::flags::{Bits, is_of_bits};
use super::key::{Key, Strange, key, keys};
use super::objects::{Set, conditional, strange};
use super::text::{expression, single};
use super::values::{bare, interface, interval, is_rest, number, width};
use crate::import::rule::{AddressKind, Condition, Interval, Test};
use crate::net::addr::Family;
use crate::net::port::ICMPV6;

/// Where a rule is evaluated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'o, 'v> {
    pub(super) family: Family,
    pub(super) phase: Phase,
    /// Whether any chain translates destinations.
    pub(super) translates: bool,
    /// Whether any rule uses conntrack.
    pub(super) tracks: bool,
    /// Whether any rule exempts packets from it.
    pub(super) exempts: bool,
    /// Sets of the table.
    pub(super) sets: &'o BTreeMap<String, Set<'v>>,
}

/// Part of a packet's way through the hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Phase {
    /// Before conntrack joins fragments.
    BeforeDefrag,
    /// Before conntrack and DNAT.
    BeforeConntrack,
    /// Before DNAT.
    BeforeDnat,
    /// In prerouting, after DNAT.
    BeforeRouting,
    /// After routing.
    Routed,
}

impl Look<'_, '_> {
    /// Whether a rule sees destinations before DNAT.
    fn is_early(&self) -> bool {
        self.translates && self.phase < Phase::BeforeRouting
    }
}

/// Parses the body of a match.
pub(super) fn relation(look: &Look<'_, '_>, body: &Value) -> Result<Condition, Strange> {
    if strange(body, &["op", "left", "right"]).is_some() {
        return Err(Strange::of(body));
    }
    let (left, right) = (&body["left"], &body["right"]);
    let op = body["op"].as_str().unwrap_or_default();
    if let Some(condition) = fragment(op, left, right) {
        return match look.tracks && look.phase > Phase::BeforeDefrag {
            true => Ok(condition),
            false => Err(Strange::of(left)),
        };
    }
    if let Some(condition) = next_header(op, left, right) {
        return Ok(condition);
    }
    if let Some(("&", Value::Array(parts))) = single(left) {
        return match &parts[..] {
            [field, mask] => Bits::masked(key(field)?, op, mask, right)?.condition(look),
            _ => Err(Strange::of(left)),
        };
    }
    let keys = keys(left)?;
    let elements = elements(look, right)?;
    if let ([key], [value]) = (&keys[..], &elements[..])
        && is_of_bits(*key)
        && !is_set(right)
    {
        return Bits::compared(*key, op, value)?.condition(look);
    }
    match (op, &keys[..]) {
        ("==" | "in", _) => member(look, &keys, &elements),
        ("!=", _) => member(look, &keys, &elements).map(Condition::opposite),
        ("<" | ">" | "<=" | ">=", [key]) => bound(look, *key, op, right),
        _ => Err(Strange(format!("{} {op}", expression(left)))),
    }
}

/// Parses a match on the fragment offset. Connection tracking joins fragments, so that no packet is
/// a later one in the chains after that.
fn fragment(op: &str, left: &Value, right: &Value) -> Option<Condition> {
    let offset = json!({"&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, 0x1fff]});
    let header = json!({"exthdr": {"name": "frag"}});
    let is_of_offset = *left == offset && *right == 0;
    let is_of_header = *left == header && right.is_boolean();
    let is_later = match op {
        "==" => is_of_header && *right == true,
        "!=" => is_of_offset || *right == false,
        _ => return None,
    };
    (is_of_offset || is_of_header).then(|| Condition::plain(Test::Always(!is_later)))
}

/// Parses a match on ICMPv6 as the next header. The next header of other protocols may be one that
/// only stands before theirs, which no policy matches.
/// Returns the condition of `ip6 nexthdr` for ICMP, read as the protocol.
pub(super) fn next_header(op: &str, left: &Value, right: &Value) -> Option<Condition> {
    let field = json!({"payload": {"protocol": "ip6", "field": "nexthdr"}});
    let is_icmp = *right == "ipv6-icmp" || *right == "icmpv6" || *right == ICMPV6;
    (op == "==" && *left == field && is_icmp)
        .then(|| Condition::plain(Test::Protocol(vec![ICMPV6])))
}

fn is_set(right: &Value) -> bool {
    right.as_str().is_some_and(|text| text.starts_with('@'))
        || matches!(single(right), Some(("set", _)))
}

/// Returns the elements of the right side. Sets whose elements change say nothing.
pub(super) fn elements<'v>(
    look: &Look<'_, 'v>,
    right: &'v Value,
) -> Result<Vec<&'v Value>, Strange> {
    if let Some(name) = right.as_str().and_then(|text| text.strip_prefix('@')) {
        let set = look.sets.get(name);
        let set = set.ok_or_else(|| Strange(format!("@{name}, which is not listed")))?;
        return match &set.changes {
            Some(why) => Err(Strange(format!("@{name}: {why}"))),
            None => Ok(set.elements.iter().collect()),
        };
    }
    let all = match single(right) {
        Some(("set", Value::Array(all))) => all.iter().collect(),
        Some(("set", one)) => vec![one],
        _ => vec![right],
    };
    match all.iter().find_map(|element| conditional(element)) {
        Some(why) => Err(Strange(why)),
        None => Ok(all),
    }
}

/// Builds the condition that the fields equal one of the elements.
pub(super) fn member(
    look: &Look<'_, '_>,
    keys: &[Key],
    elements: &[&Value],
) -> Result<Condition, Strange> {
    if elements.iter().any(|element| is_rest(element)) {
        return Ok(Condition::plain(Test::Always(true)));
    }
    if let [key] = keys {
        return field(look, *key, elements);
    }
    if keys.iter().any(|key| matches!(key, Key::ReversePath(_))) {
        return Err(Strange("fib saddr oif in a concatenation".to_owned()));
    }
    let mut lists = Vec::with_capacity(elements.len());
    for element in elements {
        let Some(("concat", Value::Array(parts))) = single(bare(element)) else {
            return Err(Strange::of(element));
        };
        if parts.len() != keys.len() {
            return Err(Strange::of(element));
        }
        let parts = keys.iter().zip(parts);
        let list = parts.map(|(key, part)| field(look, *key, &[part]));
        lists.push(merge_icmp(list.collect::<Result<_, _>>()?));
    }
    Ok(Condition::plain(Test::Any(lists)))
}

/// Builds the condition that one field equals one of the elements.
fn field(look: &Look<'_, '_>, key: Key, elements: &[&Value]) -> Result<Condition, Strange> {
    if is_of_bits(key) {
        return Bits::one_of(key, elements)?.condition(look);
    }
    match key {
        Key::In | Key::Out => {
            let patterns = elements.iter().map(|element| interface(element));
            let patterns = patterns.collect::<Result<_, _>>()?;
            Ok(Condition::plain(match (key, look.phase) {
                (Key::In, _) => Test::In(patterns),
                (_, Phase::Routed) => Test::Out(patterns),
                // There is no output interface before routing.
                (_, _) => Test::Always(false),
            }))
        }
        Key::ReversePath(is_strict) => match elements {
            [Value::Bool(exists)] => Ok(Condition {
                negated: !exists,
                test: Test::ReversePath(is_strict),
            }),
            _ => Err(Strange("fib saddr oif".to_owned())),
        },
        Key::DestinationKind if look.is_early() => {
            Err(Strange("fib daddr type before DNAT".to_owned()))
        }
        Key::Family | Key::DestinationKind | Key::SourceKind => {
            let all = elements.iter().map(|element| named(look, key, element));
            Ok(any(all.collect::<Result<_, _>>()?))
        }
        Key::Source(_)
        | Key::Destination(_)
        | Key::SourcePort
        | Key::DestinationPort
        | Key::Protocol
        | Key::State
        | Key::Status
        | Key::DialledAddress(_)
        | Key::DialledPort
        | Key::IcmpType(_)
        | Key::IcmpCode(_)
        | Key::HopLimit(_)
        | Key::TcpFlags => {
            let all = elements.iter().map(|element| interval(key, element));
            Ok(numeric(look, key, all.collect::<Result<_, _>>()?))
        }
    }
}

/// Builds the condition that a field has one value of a list of names.
fn named(look: &Look<'_, '_>, key: Key, element: &Value) -> Result<Condition, Strange> {
    let element = bare(element);
    let name = match element.as_u64() {
        Some(2 | 0x0800) => "ip",
        Some(10 | 0x86dd) => "ip6",
        _ => element.as_str().unwrap_or_default(),
    };
    let of = match key == Key::SourceKind {
        true => Test::From,
        false => Test::To,
    };
    let kind = |kind| Condition::plain(of(kind));
    let is_family = |family| Condition::plain(Test::Always(look.family == family));
    let lone = |kind| vec![kind];
    let (local, broadcast, multicast) = (
        kind(AddressKind::Local),
        kind(AddressKind::Broadcast),
        kind(AddressKind::Multicast),
    );
    Ok(match (key, name) {
        (Key::Family, "ip" | "ipv4") => is_family(Family::V4),
        (Key::Family, "ip6" | "ipv6") => is_family(Family::V6),
        (Key::DestinationKind | Key::SourceKind, "local") => local,
        (Key::DestinationKind | Key::SourceKind, "broadcast") => broadcast,
        (Key::DestinationKind | Key::SourceKind, "multicast") => multicast,
        (Key::DestinationKind, "unicast") => {
            let others = vec![lone(local), lone(broadcast), lone(multicast)];
            Condition::plain(Test::Any(others)).opposite()
        }
        _ => return Err(Strange(format!("{key:?} {}", expression(element)))),
    })
}

/// Builds the condition that one of these is met.
pub(super) fn any(mut all: Vec<Condition>) -> Condition {
    match (all.len(), all.pop()) {
        (1, Some(one)) => one,
        (_, None) => Condition::plain(Test::Always(false)),
        (_, Some(last)) => {
            all.push(last);
            Condition::plain(Test::Any(all.into_iter().map(|each| vec![each]).collect()))
        }
    }
}

fn bound(look: &Look<'_, '_>, key: Key, op: &str, right: &Value) -> Result<Condition, Strange> {
    let max = match width(key) {
        128 => u128::MAX,
        bits => (1 << bits) - 1,
    };
    let limit = match is_of_numbers(key) {
        true => number(key, right),
        false => None,
    };
    let limit = limit.ok_or_else(|| Strange(format!("{key:?} {op} {}", expression(right))))?;
    let interval = match op {
        "<" => limit.checked_sub(1).map(|last| (0, last)),
        "<=" => Some((0, limit)),
        ">" => (limit < max).then(|| (limit + 1, max)),
        _ => Some((limit, max)),
    };
    Ok(numeric(look, key, interval.into_iter().collect()))
}

fn is_of_numbers(key: Key) -> bool {
    match key {
        Key::Source(_)
        | Key::Destination(_)
        | Key::SourcePort
        | Key::DestinationPort
        | Key::Protocol
        | Key::DialledAddress(_)
        | Key::DialledPort
        | Key::IcmpType(_)
        | Key::IcmpCode(_)
        | Key::HopLimit(_) => true,
        Key::Family
        | Key::In
        | Key::Out
        | Key::State
        | Key::Status
        | Key::TcpFlags
        | Key::DestinationKind
        | Key::ReversePath(_)
        | Key::SourceKind => false,
    }
}

/// Builds the condition that a number is in one of the intervals.
fn numeric(look: &Look<'_, '_>, key: Key, all: Vec<Interval>) -> Condition {
    let dialled = |ports: Vec<(u16, u16)>| {
        let tests = ports
            .iter()
            .map(|(first, last)| Test::Dialled(*first, *last));
        any(tests.map(Condition::plain).collect())
    };
    Condition::plain(match key {
        Key::Source(_) => Test::Source(all),
        Key::Destination(_) if look.is_early() => Test::DialledAddress(all),
        Key::DialledAddress(_) => Test::DialledAddress(all),
        Key::Destination(_) => Test::Destination(all),
        Key::SourcePort => Test::SourcePorts(ports(&all)),
        Key::DestinationPort if look.is_early() => return dialled(ports(&all)),
        Key::DialledPort => return dialled(ports(&all)),
        Key::DestinationPort => Test::DestinationPorts(ports(&all)),
        Key::HopLimit(_) => {
            let spans = all.iter().map(|(first, last)| (byte(*first), byte(*last)));
            let tests = spans.map(|(first, last)| Test::HopLimit(first, last));
            return any(tests.map(Condition::plain).collect());
        }
        Key::IcmpType(_) => Test::Icmp(bytes(&all).map(|kind| (kind, None)).collect()),
        Key::IcmpCode(_) => {
            let codes: Vec<u8> = bytes(&all).collect();
            let of = |kind| codes.iter().map(move |code| (kind, Some(*code)));
            Test::Icmp((0..=u8::MAX).flat_map(of).collect())
        }
        Key::Protocol
        | Key::Family
        | Key::In
        | Key::Out
        | Key::State
        | Key::Status
        | Key::TcpFlags
        | Key::DestinationKind
        | Key::ReversePath(_)
        | Key::SourceKind => Test::Protocol(bytes(&all).collect()),
    })
}

fn byte(number: u128) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn bytes(all: &[Interval]) -> impl Iterator<Item = u8> {
    all.iter()
        .flat_map(|(first, last)| byte(*first)..=byte(*last))
}

fn ports(all: &[Interval]) -> Vec<(u16, u16)> {
    let port = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
    all.iter()
        .map(|(first, last)| (port(*first), port(*last)))
        .collect()
}

/// Joins conditions on the type and the code of ICMP. Codes alone are listed for every type.
pub(super) fn merge_icmp(conditions: Vec<Condition>) -> Vec<Condition> {
    let mut out: Vec<Condition> = Vec::with_capacity(conditions.len());
    for condition in conditions {
        let before = out.iter_mut().find_map(|each| {
            if let (Test::Icmp(kinds), false) = (&mut each.test, each.negated) {
                return Some(kinds);
            }
            None
        });
        match (before, &condition.test) {
            (Some(kinds), Test::Icmp(more)) if !condition.negated => {
                *kinds = both(kinds, more);
            }
            _ => out.push(condition),
        }
    }
    out
}

/// Returns the types and codes that are in both lists.
fn both(a: &[(u8, Option<u8>)], b: &[(u8, Option<u8>)]) -> Vec<(u8, Option<u8>)> {
    let mut out = Vec::new();
    for (kind, code) in a {
        for (other_kind, other_code) in b.iter().filter(|(other, _)| other == kind) {
            match (code, other_code) {
                (Some(code), Some(other)) if code != other => {}
                _ => out.push((*other_kind, code.or(*other_code))),
            }
        }
    }
    out
}

impl Condition {
    /// Creates a condition that is not negated.
    pub(super) fn plain(test: Test) -> Self {
        Self {
            negated: false,
            test,
        }
    }

    /// Negates a condition.
    pub(super) fn opposite(self) -> Self {
        Self {
            negated: !self.negated,
            ..self
        }
    }
}
