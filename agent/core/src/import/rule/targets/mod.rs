//! Targets: their options, and what they do to a packet.

mod table;

use std::net::IpAddr;

use ipnet::IpNet;
use peerwall_proto::iptables::BUILTIN;

use super::matches::Given;
use super::names;
use super::options::Opt;
use super::values::{WordError, byte, is_mark, number};
use super::{Interval, MarkChange, RuleContext, Verb};
use crate::net::addr::{self, Family};
use crate::net::port::TCP;

/// A target.
pub(super) struct Target {
    /// Name.
    pub name: &'static str,
    /// Its options.
    pub options: &'static [Opt],
    /// What it does.
    effect: Effect,
}

/// What a target does to a packet.
#[derive(Clone, Copy)]
enum Effect {
    Accept,
    Drop,
    Reject,
    Return,
    /// The packet continues, logged, marked or changed.
    Continue,
    Destination,
    Redirect,
    Source,
    /// Translates a network to another, address by address.
    Map,
    /// Anything else.
    Other,
}

/// Finds a target by its name.
pub(super) fn find(name: &str) -> Option<&'static Target> {
    table::TARGETS.iter().find(|target| target.name == name)
}

/// Returns what a target with these options does.
pub(super) fn verb(
    target: &Target,
    given: &[Given<'_>],
    protocol: Option<u8>,
    rule: &RuleContext<'_>,
) -> Result<Verb, WordError> {
    let words: String = given
        .iter()
        .map(|given| format!(" {}", given.text()))
        .collect();
    let text = format!("{}{words}", target.name);
    check_place(target.name, rule)?;
    for each in given {
        check(target.name, each)?;
    }
    let value = |key| {
        given
            .iter()
            .find(|given| given.key == key)
            .map(Given::value)
    };
    check_ports(value("to-ports").is_some(), protocol)?;
    Ok(match target.effect {
        Effect::Accept => Verb::Accept,
        Effect::Drop => Verb::Drop,
        Effect::Return => Verb::Return,
        Effect::Reject => {
            check_reject(value("reject-with"), protocol, rule.family)?;
            Verb::Reject
        }
        Effect::Continue => match mark(target.name, given) {
            Some(change) => Verb::Mark(change, text),
            None if target.name == "NOTRACK" || value("notrack").is_some() => Verb::Untrack(text),
            None => Verb::Continue(text),
        },
        Effect::Source => Verb::Masquerade,
        Effect::Destination => {
            let to = value("to-destination").ok_or_else(|| {
                (
                    "DNAT needs --to-destination".to_owned(),
                    "iptables-restore rejects it",
                )
            })?;
            check_ports(to.contains(':') && !to.contains("::"), protocol)?;
            destination(to, rule.family)?
        }
        // The source, behind routing.
        Effect::Map if rule.chain == "POSTROUTING" || rule.chain == "INPUT" => Verb::Masquerade,
        Effect::Map => {
            let to = value("to").and_then(|to| network(to, rule.family));
            to.map_or(Verb::DnatSomewhere(text), |to| Verb::Dnat(Some(to), None))
        }
        Effect::Redirect if value("to-ports").is_some_and(|text| ports(text).is_none()) => {
            let ports = value("to-ports").unwrap_or_default();
            return Err((
                format!("`{ports}` is not a port"),
                "write it like 8080 or 8080-8090",
            ));
        }
        Effect::Redirect => Verb::Dnat(None, value("to-ports").and_then(ports)),
        Effect::Other => Verb::Unknown(text),
    })
}

/// Returns what a target does to the mark.
fn mark(target: &str, given: &[Given<'_>]) -> Option<MarkChange> {
    let has = |key: &str| given.iter().any(|given| given.key == key);
    match target {
        "MARK" => {
            let given = given.first()?;
            Some(MarkChange::parse(given.key, given.value()).unwrap_or(MarkChange::ANY))
        }
        "CONNMARK" => has("restore-mark").then_some(MarkChange::ANY),
        "SET" => has("map-mark").then_some(MarkChange::ANY),
        "HMARK" => Some(MarkChange::ANY),
        _ => None,
    }
}

/// Rejects targets of the table nat elsewhere, and in the wrong chain.
fn check_place(target: &str, rule: &RuleContext<'_>) -> Result<(), WordError> {
    let chains: &[&str] = match target {
        "DNAT" | "REDIRECT" => &["PREROUTING", "OUTPUT"],
        "MASQUERADE" => &["POSTROUTING"],
        "SNAT" => &["POSTROUTING", "INPUT"],
        "NETMAP" => &["PREROUTING", "OUTPUT", "POSTROUTING", "INPUT"],
        _ => return Ok(()),
    };
    let rejects = |why: String| Err((why, "iptables-restore rejects it"));
    if rule.table != "nat" {
        return rejects(format!("{target} is a target of the table nat only"));
    }
    match BUILTIN.contains(&rule.chain) && !chains.contains(&rule.chain) {
        true => rejects(format!("{target} cannot be used in {}", rule.chain)),
        false => Ok(()),
    }
}

/// Rejects translated ports without a protocol that has ports.
fn check_ports(has_ports: bool, protocol: Option<u8>) -> Result<(), WordError> {
    match !has_ports || protocol.is_some_and(super::has_ports) {
        true => Ok(()),
        false => Err((
            "a translated port needs `-p` with tcp, udp, sctp or dccp".into(),
            "iptables-restore rejects it",
        )),
    }
}

/// Parses a network, for targets.
fn network(text: &str, family: Family) -> Option<Interval> {
    let net: IpNet = match text.contains('/') {
        true => text.parse().ok()?,
        false => text.parse::<IpAddr>().ok()?.into(),
    };
    (Family::of(net.addr()) == family).then(|| addr::bounds(net))
}

/// Parses `10.1.2.3-10.1.2.4:80-90`, `[2001:db8::1]:80` or parts of them. Of shifted ports, like
/// `:8080-8090/80`, it is each of the first range.
fn destination(text: &str, family: Family) -> Result<Verb, WordError> {
    let wrong = || {
        (
            format!("`{text}` is not a destination"),
            "write it like 192.0.2.1:8080",
        )
    };
    let (hosts, new_ports) = match (family, text.strip_prefix('[')) {
        (Family::V6, Some(rest)) => {
            let (hosts, rest) = rest.split_once(']').ok_or_else(wrong)?;
            let ports = rest.strip_prefix(':');
            match rest.is_empty() || ports.is_some() {
                true => (hosts, ports),
                false => return Err(wrong()),
            }
        }
        (Family::V6, None) => (text, None),
        (Family::V4, _) => match text.split_once(':') {
            Some((hosts, ports)) => (hosts, Some(ports)),
            None => (text, None),
        },
    };
    let hosts = match hosts.is_empty() && new_ports.is_some() {
        true => None,
        false => Some(hosts_of(hosts, family).ok_or_else(wrong)?),
    };
    let Some(new_ports) = new_ports else {
        return Ok(Verb::Dnat(hosts, None));
    };
    match (ports(new_ports), new_ports.split_once('/')) {
        (Some(ports), _) => Ok(Verb::Dnat(hosts, Some(ports))),
        (None, Some((shifted, base))) if ports(base).is_some() => {
            let shifted = ports(shifted).ok_or_else(wrong)?;
            Ok(Verb::Dnat(hosts, Some(shifted)))
        }
        (None, _) => Err(wrong()),
    }
}

/// Parses a complete address or a range of them.
fn hosts_of(text: &str, family: Family) -> Option<Interval> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let host = |text: &str| {
        let host: IpAddr = text.parse().ok()?;
        (Family::of(host) == family).then(|| addr::number(host))
    };
    let found = host(first).zip(host(last));
    found.filter(|(first, last)| first <= last)
}

/// Parses a port or a range of ports.
fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text| u16::try_from(number(text, u16::MAX.into())?).ok();
    let found = port(first).zip(port(last));
    found.filter(|(first, last)| first <= last)
}

/// Levels of `LOG` (`xtables_syslog_level`).
const LEVELS: [&str; 12] = [
    "alert", "crit", "debug", "emerg", "error", "info", "notice", "panic", "warning", "warn",
    "err", "none",
];

/// Checks the values that iptables checks, of targets that do not decide about a packet.
fn check(target: &str, given: &Given<'_>) -> Result<(), WordError> {
    let text = given.value();
    let is_number = |most| number(text, most).is_some();
    let fits = match (target, given.key) {
        ("LOG", "log-level") => {
            is_number(7) || LEVELS.contains(&text.to_ascii_lowercase().as_str())
        }
        ("MARK" | "CONNMARK", "set-mark" | "set-xmark") => is_mark(text),
        (
            "MARK" | "CONNMARK",
            "and-mark" | "or-mark" | "xor-mark" | "ctmask" | "nfmask" | "mask",
        ) => is_number(u32::MAX.into()),
        ("NFLOG", "nflog-group" | "nflog-threshold") => is_number(u16::MAX.into()),
        ("NFLOG", "nflog-range" | "nflog-size") => is_number(u32::MAX.into()),
        ("TCPMSS", "set-mss") => is_number(65495),
        ("TTL" | "HL", _) => byte(text).is_ok(),
        ("NFQUEUE", "queue-num") => is_number(u16::MAX.into()),
        _ => true,
    };
    match fits {
        true => Ok(()),
        false => Err((
            format!("`{text}` is not a value of `{}`", given.word),
            "see iptables-extensions(8)",
        )),
    }
}

/// Values of `--reject-with`, of which iptables accepts the beginnings.
const REJECT_V4: &[(&str, bool)] = &[
    ("icmp-net-unreachable", false),
    ("net-unreach", false),
    ("icmp-host-unreachable", false),
    ("host-unreach", false),
    ("icmp-proto-unreachable", false),
    ("proto-unreach", false),
    ("icmp-port-unreachable", false),
    ("port-unreach", false),
    ("icmp-net-prohibited", false),
    ("net-prohib", false),
    ("icmp-host-prohibited", false),
    ("host-prohib", false),
    ("tcp-reset", true),
    ("tcp-rst", true),
    ("icmp-admin-prohibited", false),
    ("admin-prohib", false),
];

const REJECT_V6: &[(&str, bool)] = &[
    ("icmp6-no-route", false),
    ("no-route", false),
    ("icmp6-adm-prohibited", false),
    ("adm-prohibited", false),
    ("icmp6-addr-unreachable", false),
    ("addr-unreach", false),
    ("icmp6-port-unreachable", false),
    ("port-unreach", false),
    ("tcp-reset", true),
    ("tcp-rst", true),
    ("icmp6-policy-fail", false),
    ("policy-fail", false),
    ("icmp6-reject-route", false),
    ("reject-route", false),
];

fn check_reject(with: Option<&str>, protocol: Option<u8>, family: Family) -> Result<(), WordError> {
    let Some(with) = with else {
        return Ok(());
    };
    let names = match family {
        Family::V4 => REJECT_V4,
        Family::V6 => REJECT_V6,
    };
    match names::first(names, with) {
        Some(true) if protocol != Some(TCP) => Err((
            "a TCP reset needs `-p tcp`".into(),
            "iptables-restore rejects it",
        )),
        Some(_) => Ok(()),
        None => Err((
            format!("`{with}` is not an answer for IPv{}", family.digit()),
            "see REJECT in iptables-extensions(8)",
        )),
    }
}
