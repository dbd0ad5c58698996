//! Matches of addresses and headers.

use super::super::names::{self, only};
use super::super::values::{
    WordError, byte, icmp, icmp_test, is_everything, number, port_list, port_range, range,
    tcp_flags,
};
use super::super::{AddressKind, Condition, MarkTest, RuleContext, Test};
use super::{Given, Used, condition, plain};

type Meaning = Result<Vec<Condition>, WordError>;

/// `comment`: the text is kept with the rule.
pub(super) fn comment(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    match used.option("comment") {
        Some(_) => Ok(Vec::new()),
        None => Err(used.lacks("--comment")),
    }
}

/// A match that needs more than a packet of the model.
pub(super) fn unknown(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    Ok(vec![used.unknown()])
}

/// `esp` and `ah` match every security association unless an option says otherwise.
pub(super) fn security(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    match used.given.is_empty() {
        true => Ok(Vec::new()),
        false => Ok(vec![used.unknown()]),
    }
}

/// Returns the letter of a protocol in the table of services. Only `tcp`, `sctp`, `dccp` and
/// `multiport` look names up by their protocol.
fn letter(protocol: Option<u8>) -> Option<char> {
    match protocol {
        Some(6) => Some('t'),
        Some(132) => Some('s'),
        _ => None,
    }
}

fn ports(given: &Given<'_>, protocol: Option<u8>) -> Result<Option<Condition>, WordError> {
    let range = port_range(given.value(), letter(protocol))?;
    // iptables does not even print it, and forgets `!`.
    match (range, given.negated) {
        ((0, u16::MAX), false) => return Ok(None),
        ((0, u16::MAX), true) => {
            return Err((
                "`!` before every port matches none".into(),
                "remove the rule",
            ));
        }
        _ => {}
    }
    let test = match given.key {
        "sport" => Test::SourcePorts(vec![range]),
        _ => Test::DestinationPorts(vec![range]),
    };
    Ok(Some(condition(given, test)))
}

/// `tcp`, `udp`, `sctp` and `dccp`.
pub(super) fn transport(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    let mut found = Vec::new();
    for given in &used.given {
        match given.key {
            "sport" | "dport" => found.extend(ports(given, used.protocol)?),
            "syn" => {
                let mask = tcp_flags("FIN,SYN,RST,ACK")?;
                found.push(condition(given, Test::TcpFlags(mask, tcp_flags("SYN")?)));
            }
            "tcp-flags" => {
                let mask = tcp_flags(given.value())?;
                let wanted = tcp_flags(given.values.get(1).copied().unwrap_or_default())?;
                found.push(condition(given, Test::TcpFlags(mask, wanted)));
            }
            _ => found.push(plain(Test::Unknown(format!(
                "-p {} {}",
                used.module.name,
                given.text()
            )))),
        }
    }
    match used.option("syn").is_some() && used.option("tcp-flags").is_some() {
        true => Err((
            "`--syn` and `--tcp-flags` exclude each other".into(),
            "iptables-restore rejects it",
        )),
        false => Ok(found),
    }
}

/// `multiport`
pub(super) fn multiport(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    let [given] = used.given.as_slice() else {
        return Err(used.lacks("one of --sports, --dports and --ports"));
    };
    let letter = match used.protocol {
        Some(17) => Some('u'),
        other => letter(other),
    };
    let ranges = port_list(given.value(), letter)?;
    let test = match given.key {
        "sports" => Test::SourcePorts(ranges),
        "dports" => Test::DestinationPorts(ranges),
        _ => Test::EitherPort(ranges),
    };
    Ok(vec![condition(given, test)])
}

/// `icmp` and `icmp6`
pub(super) fn icmp_type(used: &Used<'_>, rule: &RuleContext<'_>) -> Meaning {
    let given = used.given.first().ok_or_else(|| used.lacks("a type"))?;
    let test = icmp_test(icmp(given.value(), rule.family)?);
    match test == Test::Always(true) && !given.negated {
        true => Ok(Vec::new()),
        false => Ok(vec![condition(given, test)]),
    }
}

/// `ttl` and `hl`
pub(super) fn hop_limit(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    let [given] = used.given.as_slice() else {
        return Err(used.lacks("one comparison"));
    };
    let value = byte(given.value())?;
    let below = value.checked_sub(1).map(|most| Test::HopLimit(0, most));
    let above = value
        .checked_add(1)
        .map(|least| Test::HopLimit(least, u8::MAX));
    let never = Test::Always(false);
    let test = match given.key.get(given.key.len() - 2..) {
        Some("lt") => below.unwrap_or(never),
        Some("gt") => above.unwrap_or(never),
        _ => Test::HopLimit(value, value),
    };
    Ok(vec![condition(given, test)])
}

/// `iprange`
pub(super) fn iprange(used: &Used<'_>, rule: &RuleContext<'_>) -> Meaning {
    let mut found = Vec::new();
    for given in &used.given {
        let span = vec![range(given.value(), rule.family)?];
        if is_everything(&span, rule.family) && !given.negated {
            continue;
        }
        let test = match given.key {
            "src-range" => Test::Source(span),
            _ => Test::Destination(span),
        };
        found.push(condition(given, test));
    }
    match used.given.is_empty() {
        true => Err(used.lacks("--src-range or --dst-range")),
        false => Ok(found),
    }
}

/// Types of addresses, with those that the model has (`rtn_names` in
/// `extensions/libxt_addrtype.c`).
const ADDRESS_TYPES: &[(&str, Option<AddressKind>)] = &[
    ("UNSPEC", None),
    ("UNICAST", None),
    ("LOCAL", Some(AddressKind::Local)),
    ("BROADCAST", Some(AddressKind::Broadcast)),
    ("ANYCAST", None),
    ("MULTICAST", Some(AddressKind::Multicast)),
    ("BLACKHOLE", None),
    ("UNREACHABLE", None),
    ("PROHIBIT", None),
    ("THROW", None),
    ("NAT", None),
    ("XRESOLVE", None),
];

/// `addrtype`
pub(super) fn addrtype(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    let mut found = Vec::new();
    let mut is_known = true;
    for given in &used.given {
        let make = match given.key {
            "src-type" => Test::From,
            "dst-type" => Test::To,
            // The type on one interface depends on this host's addresses.
            _ => {
                is_known = false;
                continue;
            }
        };
        let mut tests = Vec::new();
        for name in given.value().split(',') {
            let kind = names::first(ADDRESS_TYPES, name).ok_or_else(|| {
                (
                    format!("`{name}` is not a type of address"),
                    "write it like LOCAL or LOCAL,BROADCAST",
                )
            })?;
            match kind {
                Some(kind) => tests.push(make(kind)),
                None => is_known = false,
            }
        }
        found.push(condition(given, any(tests)));
    }
    match (used.given.is_empty(), is_known) {
        (true, _) => Err(used.lacks("--src-type or --dst-type")),
        (false, true) => Ok(found),
        (false, false) => Ok(vec![used.unknown()]),
    }
}

/// The test that is met if one of these is.
fn any(mut tests: Vec<Test>) -> Test {
    if tests.len() == 1 {
        return tests.remove(0);
    }
    Test::Any(tests.into_iter().map(|test| vec![plain(test)]).collect())
}

/// `pkttype`
pub(super) fn pkttype(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    const KINDS: &[(&str, ())] = &[
        ("unicast", ()),
        ("broadcast", ()),
        ("multicast", ()),
        ("bcast", ()),
        ("mcast", ()),
        ("host", ()),
    ];
    let given = used.given.first().ok_or_else(|| used.lacks("--pkt-type"))?;
    match only(KINDS, given.value()) {
        Some(()) => Ok(vec![used.unknown()]),
        None => Err((
            format!("`{}` is not a type of packet", given.value()),
            "the types are unicast, broadcast and multicast",
        )),
    }
}

/// `mark`
pub(super) fn mark(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    let given = used.given.first().ok_or_else(|| used.lacks("--mark"))?;
    Ok(vec![match MarkTest::parse(given.value()) {
        Some(test) => {
            let (test, negated) = test.or_opposite(given.negated);
            let test = Test::Mark(test, used.text());
            Condition { negated, test }
        }
        None => used.unknown(),
    }])
}

/// `length` and others with one option that is required.
pub(super) fn unknown_with_option(used: &Used<'_>, _: &RuleContext<'_>) -> Meaning {
    match used.given.is_empty() {
        true => Err(used.lacks("an option")),
        false => Ok(vec![used.unknown()]),
    }
}

/// Reports whether the text is a number of packets or bytes.
pub(super) fn is_count(text: &str) -> bool {
    number(text, u64::MAX).is_some()
}
