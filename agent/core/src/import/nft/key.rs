//! Left sides of matches: the field of the packet that an expression loads.

use serde_json::Value;

use super::objects::strange;
use super::symbols;
use super::text::{expression, single};
use crate::net::addr::Family;
use crate::net::port::{ICMP, ICMPV6, TCP, UDP};
use crate::net::protocol;

/// A field of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Source(Family),
    Destination(Family),
    SourcePort,
    DestinationPort,
    Protocol,
    /// `meta nfproto`, `meta protocol`: the family.
    Family,
    In,
    Out,
    State,
    Status,
    DialledAddress(Family),
    DialledPort,
    IcmpType(Family),
    IcmpCode(Family),
    HopLimit(Family),
    TcpFlags,
    /// `fib daddr type`
    DestinationKind,
    /// `fib saddr . iif oif`, or without `iif` if not strict.
    ReversePath(bool),
    /// `fib saddr type`
    SourceKind,
}

/// An expression that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strange(pub(super) String);

impl Strange {
    /// Names an expression.
    pub(super) fn of(value: &Value) -> Self {
        Self(expression(value))
    }
}

/// Parses the fields of an expression; several for a concatenation.
pub(super) fn keys(left: &Value) -> Result<Vec<Key>, Strange> {
    match single(left) {
        Some(("concat", Value::Array(all))) => all.iter().map(key).collect(),
        _ => key(left).map(|key| vec![key]),
    }
}

/// Parses the field of an expression.
pub(super) fn key(left: &Value) -> Result<Key, Strange> {
    let Some((kind, body)) = single(left) else {
        return Err(Strange::of(left));
    };
    let known: &[&str] = match kind {
        "payload" => &["protocol", "field"],
        "meta" => &["key"],
        "ct" => &["key", "dir", "family"],
        "fib" => &["result", "flags"],
        _ => &[],
    };
    if strange(body, known).is_some() {
        return Err(Strange::of(left));
    }
    let text = |key: &str| body[key].as_str().unwrap_or_default();
    let found = match kind {
        "payload" => payload(text("protocol"), text("field")),
        "meta" => meta(text("key")),
        "ct" => ct(text("key"), text("dir"), text("family")),
        "fib" if text("result") == "type" => fib(&body["flags"]),
        "fib" if text("result") == "oif" => reverse_path(&body["flags"]),
        _ => None,
    };
    found.ok_or_else(|| Strange::of(left))
}

fn payload(header: &str, field: &str) -> Option<Key> {
    let family = match header {
        "ip6" | "icmpv6" => Family::V6,
        _ => Family::V4,
    };
    Some(match (header, field) {
        ("ip" | "ip6", "saddr") => Key::Source(family),
        ("ip" | "ip6", "daddr") => Key::Destination(family),
        ("ip", "protocol") => Key::Protocol,
        ("ip", "ttl") | ("ip6", "hoplimit") => Key::HopLimit(family),
        ("ip", "version") | ("ip6", "version") => return None,
        ("tcp" | "udp" | "sctp" | "dccp" | "th", "sport") => Key::SourcePort,
        ("tcp" | "udp" | "sctp" | "dccp" | "th", "dport") => Key::DestinationPort,
        ("tcp", "flags") => Key::TcpFlags,
        ("icmp" | "icmpv6", "type") => Key::IcmpType(family),
        ("icmp" | "icmpv6", "code") => Key::IcmpCode(family),
        _ => return None,
    })
}

fn meta(key: &str) -> Option<Key> {
    Some(match key {
        "l4proto" => Key::Protocol,
        "nfproto" | "protocol" => Key::Family,
        "iif" | "iifname" => Key::In,
        "oif" | "oifname" => Key::Out,
        _ => return None,
    })
}

fn ct(key: &str, direction: &str, family: &str) -> Option<Key> {
    // Later versions print the family separately.
    let key = match family {
        "" => key.to_owned(),
        family => format!("{family} {key}"),
    };
    Some(match (key.as_str(), direction) {
        ("state", "") => Key::State,
        ("status", "") => Key::Status,
        ("ip daddr", "original") => Key::DialledAddress(Family::V4),
        ("ip6 daddr", "original") => Key::DialledAddress(Family::V6),
        ("proto-dst", "original") => Key::DialledPort,
        _ => return None,
    })
}

fn reverse_path(flags: &Value) -> Option<Key> {
    let listed = flags.as_array().map(Vec::as_slice);
    let one = [flags.clone()];
    let flags = listed.unwrap_or(&one).iter();
    let names: Option<Vec<&str>> = flags.map(Value::as_str).collect();
    // Marks change the route only with rules of routing, which are not in the model.
    let names: Vec<&str> = names?.into_iter().filter(|name| *name != "mark").collect();
    match names[..] {
        ["saddr", "iif"] | ["iif", "saddr"] => Some(Key::ReversePath(true)),
        ["saddr"] => Some(Key::ReversePath(false)),
        _ => None,
    }
}

fn fib(flags: &Value) -> Option<Key> {
    let flag = match flags.as_array().map(Vec::as_slice) {
        Some([one]) => one.as_str(),
        Some(_) => None,
        None => flags.as_str(),
    };
    match flag? {
        "daddr" => Some(Key::DestinationKind),
        "saddr" => Some(Key::SourceKind),
        _ => None,
    }
}

/// What nft adds to a rule implicitly: the family and the protocol of the headers that it reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) v4: bool,
    pub(super) v6: bool,
    pub(super) protocol: Option<u8>,
}

impl Needs {
    /// Reports whether packets of a family have the headers.
    pub(super) fn admits(self, family: Family) -> bool {
        match family {
            Family::V4 => !self.v6,
            Family::V6 => !self.v4,
        }
    }

    /// Collects the headers in an expression, a statement, or a part of one.
    pub(super) fn of(value: &Value) -> Self {
        let mut needs = Self::default();
        needs.collect(value);
        needs
    }

    fn collect(&mut self, value: &Value) {
        match value {
            Value::Array(all) => all.iter().for_each(|each| self.collect(each)),
            Value::Object(fields) => {
                for (kind, body) in fields {
                    self.header(kind, body);
                    self.collect(body);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn header(&mut self, kind: &str, body: &Value) {
        match kind {
            "payload" => self.of_protocol(body["protocol"].as_str().unwrap_or_default()),
            "exthdr" => self.v6 = true,
            "ip option" => self.v4 = true,
            "tcp option" => self.protocol = Some(TCP),
            "sctp chunk" => self.protocol = Some(protocol::SCTP),
            "ct" => match body["key"].as_str().unwrap_or_default() {
                key if key.starts_with("ip ") => self.v4 = true,
                key if key.starts_with("ip6 ") => self.v6 = true,
                _ => {}
            },
            "reject" => match body["type"].as_str().unwrap_or_default() {
                "tcp reset" => self.protocol = Some(TCP),
                "icmp" => self.v4 = true,
                "icmpv6" => self.v6 = true,
                _ => {}
            },
            "dnat" | "snat" => match body["family"].as_str().unwrap_or_default() {
                "ip" => self.v4 = true,
                "ip6" => self.v6 = true,
                _ => {}
            },
            _ => {}
        }
    }

    fn of_protocol(&mut self, header: &str) {
        match header {
            "ip" => self.v4 = true,
            "ip6" => self.v6 = true,
            "icmp" => (self.v4, self.protocol) = (true, Some(ICMP)),
            "icmpv6" => (self.v6, self.protocol) = (true, Some(ICMPV6)),
            "tcp" => self.protocol = Some(TCP),
            "udp" => self.protocol = Some(UDP),
            "sctp" | "dccp" | "udplite" | "igmp" | "ah" | "esp" | "comp" | "gre" => {
                self.protocol = symbols::protocol(header);
            }
            _ => {}
        }
    }
}
