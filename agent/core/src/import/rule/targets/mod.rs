//! Targets: their options, and what they do to a packet.

mod table;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use peerwall_proto::iptables::BUILTIN;

use super::matches::Given;
use super::names;
use super::options::Opt;
use super::values::{WordError, byte, is_mark, number, range};
use super::{MarkChange, RuleContext, Verb};
use crate::net::addr::Family;
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
            destination(to, rule.family).map(|verb| verb.unwrap_or(Verb::Unknown(text)))?
        }
        Effect::Redirect if value("to-ports").is_some_and(|ports| !is_ports(ports)) => {
            let ports = value("to-ports").unwrap_or_default();
            return Err((
                format!("`{ports}` is not a port"),
                "write it like 8080 or 8080-8090",
            ));
        }
        Effect::Redirect => match value("to-ports").map(|port| number(port, u16::MAX.into())) {
            None => Verb::Dnat(None, None),
            Some(port) => match port.and_then(|port| u16::try_from(port).ok()) {
                Some(port) => Verb::Dnat(None, Some(port)),
                None => Verb::Unknown(text),
            },
        },
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

/// Parses `10.1.2.3:80`, `[2001:db8::1]:80` or `10.1.2.3`; `None` for ranges, and for ports without
/// an address, which are not in the model.
fn destination(text: &str, family: Family) -> Result<Option<Verb>, WordError> {
    if let Ok(socket) = text.parse::<SocketAddr>()
        && Family::of(socket.ip()) == family
    {
        let (to, port) = (socket.ip().into(), socket.port());
        return Ok(Some(Verb::Dnat(Some(to), Some(port))));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let bare = bare.unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>()
        && Family::of(address) == family
    {
        return Ok(Some(Verb::Dnat(Some(IpNet::from(address)), None)));
    }
    let is_range = match (text.rsplit_once(':'), family) {
        (Some((hosts, ports)), Family::V4) => {
            (hosts.is_empty() || range(hosts, family).is_ok()) && is_ports(ports)
        }
        (None, Family::V4) => range(text, family).is_ok(),
        (_, Family::V6) => text.contains(['-', ']']),
    };
    match is_range {
        true => Ok(None),
        false => Err((
            format!("`{text}` is not a destination"),
            "write it like 192.0.2.1:8080",
        )),
    }
}

/// Reports whether the text is a port or a range of ports.
fn is_ports(text: &str) -> bool {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text| number(text, u16::MAX.into());
    port(first)
        .zip(port(last))
        .is_some_and(|(first, last)| first <= last)
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
