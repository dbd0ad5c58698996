//! Targets: their options, and what they do to a packet. Sources: `extensions/lib*.c`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::matches::Given;
use super::names;
use super::options::{Opt, flag, one, two};
use super::values::{WordError, byte, is_mark, number};
use super::{RuleContext, Verb};
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

const fn target(name: &'static str, effect: Effect, options: &'static [Opt]) -> Target {
    Target {
        name,
        options,
        effect,
    }
}

const MARKS: &[Opt] = &[
    one("set-xmark"),
    one("set-mark"),
    one("and-mark"),
    one("or-mark"),
    one("xor-mark"),
];

const TARGETS: &[Target] = &[
    target("ACCEPT", Effect::Accept, &[]),
    target("DROP", Effect::Drop, &[]),
    target("RETURN", Effect::Return, &[]),
    target("REJECT", Effect::Reject, &[one("reject-with")]),
    target(
        "DNAT",
        Effect::Destination,
        &[one("to-destination"), flag("random"), flag("persistent")],
    ),
    target(
        "REDIRECT",
        Effect::Redirect,
        &[one("to-ports"), flag("random")],
    ),
    target(
        "MASQUERADE",
        Effect::Source,
        &[one("to-ports"), flag("random"), flag("random-fully")],
    ),
    target("AUDIT", Effect::Continue, &[one("type")]),
    target("CHECKSUM", Effect::Continue, &[flag("checksum-fill")]),
    target("CLASSIFY", Effect::Continue, &[one("set-class")]),
    target(
        "CONNMARK",
        Effect::Continue,
        &[
            one("set-xmark"),
            one("set-mark"),
            one("and-mark"),
            one("or-mark"),
            one("xor-mark"),
            flag("save-mark"),
            flag("restore-mark"),
            one("left-shift-mark"),
            one("right-shift-mark"),
            one("ctmask"),
            one("nfmask"),
            one("mask"),
        ],
    ),
    target(
        "CONNSECMARK",
        Effect::Continue,
        &[flag("save"), flag("restore")],
    ),
    target(
        "CT",
        Effect::Continue,
        &[
            flag("notrack"),
            one("helper"),
            one("timeout"),
            one("ctevents"),
            one("expevents"),
            one("zone"),
            one("zone-orig"),
            one("zone-reply"),
        ],
    ),
    target(
        "DSCP",
        Effect::Continue,
        &[one("set-dscp"), one("set-dscp-class")],
    ),
    target(
        "ECN",
        Effect::Continue,
        &[
            flag("ecn-tcp-remove"),
            one("ecn-tcp-cwr"),
            one("ecn-tcp-ece"),
            one("ecn-ip-ect"),
        ],
    ),
    target(
        "HL",
        Effect::Continue,
        &[one("hl-set"), one("hl-dec"), one("hl-inc")],
    ),
    target(
        "HMARK",
        Effect::Continue,
        &[
            one("hmark-tuple"),
            one("hmark-mod"),
            one("hmark-offset"),
            one("hmark-src-prefix"),
            one("hmark-dst-prefix"),
            one("hmark-sport-mask"),
            one("hmark-dport-mask"),
            one("hmark-spi-mask"),
            one("hmark-sport"),
            one("hmark-dport"),
            one("hmark-spi"),
            one("hmark-proto-mask"),
            one("hmark-rnd"),
        ],
    ),
    target(
        "IDLETIMER",
        Effect::Continue,
        &[one("timeout"), one("label"), flag("alarm")],
    ),
    target(
        "LED",
        Effect::Continue,
        &[
            one("led-trigger-id"),
            one("led-delay"),
            flag("led-always-blink"),
        ],
    ),
    target(
        "LOG",
        Effect::Continue,
        &[
            one("log-level"),
            one("log-prefix"),
            flag("log-tcp-sequence"),
            flag("log-tcp-options"),
            flag("log-ip-options"),
            flag("log-uid"),
            flag("log-macdecode"),
        ],
    ),
    target("MARK", Effect::Continue, MARKS),
    target(
        "NFLOG",
        Effect::Continue,
        &[
            one("nflog-group"),
            one("nflog-prefix"),
            one("nflog-range"),
            one("nflog-size"),
            one("nflog-threshold"),
        ],
    ),
    target("NOTRACK", Effect::Continue, &[]),
    target(
        "RATEEST",
        Effect::Continue,
        &[
            one("rateest-name"),
            one("rateest-interval"),
            one("rateest-ewmalog"),
        ],
    ),
    target("SECMARK", Effect::Continue, &[one("selctx")]),
    target(
        "SET",
        Effect::Continue,
        &[
            two("add-set"),
            two("del-set"),
            one("timeout"),
            flag("exist"),
            two("map-set"),
            flag("map-mark"),
            flag("map-prio"),
            flag("map-queue"),
        ],
    ),
    target(
        "TCPMSS",
        Effect::Continue,
        &[one("set-mss"), flag("clamp-mss-to-pmtu")],
    ),
    target("TCPOPTSTRIP", Effect::Continue, &[one("strip-options")]),
    target("TEE", Effect::Continue, &[one("gateway"), one("oif")]),
    target(
        "TOS",
        Effect::Continue,
        &[
            one("set-tos"),
            one("and-tos"),
            one("or-tos"),
            one("xor-tos"),
        ],
    ),
    target("TRACE", Effect::Continue, &[]),
    target(
        "TTL",
        Effect::Continue,
        &[one("ttl-set"), one("ttl-dec"), one("ttl-inc")],
    ),
    target(
        "ULOG",
        Effect::Continue,
        &[
            one("ulog-nlgroup"),
            one("ulog-prefix"),
            one("ulog-cprange"),
            one("ulog-qthreshold"),
        ],
    ),
    target("CHAOS", Effect::Other, &[flag("delude"), flag("tarpit")]),
    target(
        "CLUSTERIP",
        Effect::Other,
        &[
            flag("new"),
            one("hashmode"),
            one("clustermac"),
            one("total-nodes"),
            one("local-node"),
            one("hash-init"),
        ],
    ),
    target("DELUDE", Effect::Other, &[]),
    target("DNPT", Effect::Other, &[one("src-pfx"), one("dst-pfx")]),
    target("MIRROR", Effect::Other, &[]),
    target("NETMAP", Effect::Other, &[one("to")]),
    target(
        "NFQUEUE",
        Effect::Other,
        &[
            one("queue-num"),
            one("queue-balance"),
            flag("queue-bypass"),
            flag("queue-cpu-fanout"),
        ],
    ),
    target("QUEUE", Effect::Other, &[]),
    target(
        "SNAT",
        Effect::Other,
        &[
            one("to-source"),
            flag("random"),
            flag("random-fully"),
            flag("persistent"),
        ],
    ),
    target("SNPT", Effect::Other, &[one("src-pfx"), one("dst-pfx")]),
    target(
        "SYNPROXY",
        Effect::Other,
        &[
            flag("sack-perm"),
            flag("timestamp"),
            one("wscale"),
            one("mss"),
            flag("ecn"),
        ],
    ),
    target(
        "TARPIT",
        Effect::Other,
        &[flag("tarpit"), flag("honeypot"), flag("reset")],
    ),
    target(
        "TPROXY",
        Effect::Other,
        &[one("on-port"), one("on-ip"), one("tproxy-mark")],
    ),
];

/// Finds a target by its name.
pub(super) fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
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
    let is_nat = matches!(
        target.name,
        "DNAT" | "REDIRECT" | "MASQUERADE" | "SNAT" | "NETMAP"
    );
    if is_nat && rule.table != "nat" {
        return Err((
            format!("{} is a target of the table nat only", target.name),
            "iptables-restore rejects it",
        ));
    }
    for each in given {
        check(target.name, each)?;
    }
    let value = |key| {
        given
            .iter()
            .find(|given| given.key == key)
            .map(Given::value)
    };
    Ok(match target.effect {
        Effect::Accept => Verb::Accept,
        Effect::Drop => Verb::Drop,
        Effect::Return => Verb::Return,
        Effect::Reject => {
            check_reject(value("reject-with"), protocol, rule.family)?;
            Verb::Reject
        }
        Effect::Continue => Verb::Continue(text),
        Effect::Source => Verb::Masquerade,
        Effect::Destination => {
            let to = value("to-destination").ok_or_else(|| {
                (
                    "DNAT needs --to-destination".to_owned(),
                    "iptables-restore rejects it",
                )
            })?;
            destination(to).unwrap_or(Verb::Unknown(text))
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

/// Parses `10.1.2.3:80`, `[2001:db8::1]:80` or `10.1.2.3`. Ranges are not in the model.
fn destination(text: &str) -> Option<Verb> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(Verb::Dnat(Some(socket.ip().into()), Some(socket.port())));
    }
    let bare = text.trim_matches(['[', ']']);
    let address = bare.parse::<IpAddr>().ok()?;
    Some(Verb::Dnat(Some(IpNet::from(address)), None))
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
