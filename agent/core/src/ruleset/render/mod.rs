//! Formats rulesets, rules and plan steps in nft's syntax.
//!
//! [`script`] loads with `nft -f`, [`json()`] with `nft -j -f`. Both replace the table in one
//! transaction, whether or not it exists.

mod json;
mod step;

use std::fmt::Write as _;

use crate::net::addr::{self, Family};
use crate::net::protocol::{self, ICMP, ICMPV6, TCP, UDP};
use crate::policy::{Rate, icmp};
use crate::ruleset::{
    Action, Base, Chain, ChainPolicy, Element, IcmpKinds, KeyType, LABEL_BIT, METER_SIZE,
    METER_TIMEOUT_SECONDS, Match, Meter, Ports, Rule, Ruleset, Set, TABLE,
};
pub use json::json;
pub use step::op;

/// Set elements per line of a script.
const ELEMENTS_PER_LINE: usize = 4;

/// Formats the ruleset as input for `nft -f`.
pub fn script(ruleset: &Ruleset) -> String {
    let mut out = String::new();
    // `delete` fails if the table does not exist, so it is added first.
    let _ = writeln!(out, "table inet {TABLE}\ndelete table inet {TABLE}\n");
    let _ = writeln!(out, "table inet {TABLE} {{");
    for counter in &ruleset.counters {
        let _ = writeln!(out, "\tcounter {counter} {{\n\t}}\n");
    }
    for (name, set) in &ruleset.sets {
        write_set(&mut out, name, set);
    }
    for chain in &ruleset.chains {
        write_chain(&mut out, chain);
    }
    out.truncate(out.trim_end().len());
    out.push_str("\n}\n");
    out
}

/// Lists set elements, base chains and rules, one per line, for comparison.
pub fn facts(ruleset: &Ruleset) -> Vec<String> {
    let elements = ruleset.sets.iter().flat_map(|(name, set)| {
        let each = move |e| format!("element {name} {}", element(set.key, e));
        set.elements.iter().map(each)
    });
    let chains = ruleset.chains.iter().flat_map(|chain| {
        let base = chain.base.as_ref().map(base_text);
        let base = base.map(|text| format!("chain {} {text}", chain.name));
        let rule = move |rule| format!("rule {} {}", chain.name, rule_text(rule));
        base.into_iter().chain(chain.rules.iter().map(rule))
    });
    elements.chain(chains).collect()
}

fn write_set(out: &mut String, name: &str, set: &Set) {
    let _ = writeln!(out, "\tset {name} {{\n\t\ttype {}", set.key.name());
    if set.interval {
        out.push_str("\t\tflags interval\n");
    }
    if set.timed {
        out.push_str("\t\tflags timeout\n");
    }
    if set.meter {
        let _ = writeln!(
            out,
            "\t\tsize {METER_SIZE}\n\t\tflags dynamic,timeout\n\t\ttimeout {}m",
            METER_TIMEOUT_SECONDS / 60
        );
    }
    // Text has no clock: elements with an end are not written.
    if !set.elements.is_empty() && !set.timed {
        out.push_str("\t\telements = {");
        for (index, each) in set.elements.iter().enumerate() {
            let line = index % ELEMENTS_PER_LINE == 0 && set.elements.len() > ELEMENTS_PER_LINE;
            out.push_str(if line { "\n\t\t\t" } else { " " });
            out.push_str(&element(set.key, each));
            if index + 1 < set.elements.len() {
                out.push(',');
            }
        }
        out.push_str(" }\n");
    }
    out.push_str("\t}\n\n");
}

fn write_chain(out: &mut String, chain: &Chain) {
    let _ = writeln!(out, "\tchain {} {{", chain.name);
    if let Some(base) = &chain.base {
        let _ = writeln!(out, "\t\t{}", base_text(base));
    }
    for rule in &chain.rules {
        let _ = writeln!(out, "\t\t{}", rule_text(rule));
    }
    out.push_str("\t}\n\n");
}

pub(crate) fn base_text(base: &Base) -> String {
    format!(
        "type filter hook {} priority {}; policy {};",
        base.hook.name(),
        priority(base.priority),
        policy_text(base.policy)
    )
}

/// Formats a priority like nft, which prints priorities near 0 relative to `filter`.
fn priority(number: i32) -> String {
    match number {
        0 => "filter".to_owned(),
        1..=10 => format!("filter + {number}"),
        -10..=-1 => format!("filter - {}", -number),
        _ => number.to_string(),
    }
}

fn policy_text(policy: ChainPolicy) -> &'static str {
    match policy {
        ChainPolicy::Accept => "accept",
        ChainPolicy::Drop => "drop",
    }
}

/// Formats an element of a set.
pub fn element(key: KeyType, element: &Element) -> String {
    let mut text = value(key, element);
    if let Some(comment) = &element.comment {
        let _ = write!(text, " comment {}", quoted(comment));
    }
    text
}

/// Formats an element without its comment.
pub(crate) fn value(key: KeyType, element: &Element) -> String {
    match key {
        KeyType::Ipv4 => address_range(Family::V4, element),
        KeyType::Ipv6 => address_range(Family::V6, element),
        KeyType::Port => number_range(element),
        KeyType::IcmpType => icmp_name(Family::V4, element.first),
        KeyType::Icmpv6Type => icmp_name(Family::V6, element.first),
        KeyType::Ether => mac(element.first),
    }
}

/// Formats an Ethernet address.
fn mac(number: u128) -> String {
    let octets = (0..6).rev().map(|at| number >> (8 * at) & 0xff);
    let words: Vec<String> = octets.map(|octet| format!("{octet:02x}")).collect();
    words.join(":")
}

fn address_range(family: Family, element: &Element) -> String {
    let first = addr::address(family, element.first);
    if element.first == element.last {
        return first.to_string();
    }
    match addr::prefix(family, element.first, element.last) {
        Some(net) => net.to_string(),
        None => format!("{first}-{}", addr::address(family, element.last)),
    }
}

fn number_range(element: &Element) -> String {
    match element.first == element.last {
        true => element.first.to_string(),
        false => format!("{}-{}", element.first, element.last),
    }
}

fn icmp_name(family: Family, number: u128) -> String {
    let named = u8::try_from(number)
        .ok()
        .and_then(|n| icmp::name(family, n));
    named.map_or_else(|| number.to_string(), str::to_owned)
}

/// Quotes a text for nft or iptables-restore. Characters that would need an escape are removed.
pub(crate) fn quoted(text: &str) -> String {
    let plain: String = text
        .chars()
        .filter(|c| *c != '"' && *c != '\\' && !c.is_control())
        .collect();
    format!("\"{plain}\"")
}

/// Formats a rule like nft.
pub fn rule_text(rule: &Rule) -> String {
    let mut words: Vec<String> = Vec::new();
    for (index, condition) in rule.matches.iter().enumerate() {
        if !is_implied(rule, index) {
            words.push(match_text(condition, rule));
        }
    }
    words.extend(rule.meter.as_ref().map(meter_text));
    if rule.label {
        words.push(format!("ct label set {LABEL_BIT}"));
    }
    words.extend(rule.limit.map(rate_text));
    if let Some(log) = &rule.log {
        words.push(format!(
            "log prefix {} group {}",
            quoted(&log.prefix),
            log.group
        ));
    }
    if let Some(counter) = &rule.counter {
        words.push(format!("counter name {}", quoted(counter)));
    }
    words.extend(rule.action.as_ref().map(action_text));
    if let Some(comment) = &rule.comment {
        words.push(format!("comment {}", quoted(comment)));
    }
    words.join(" ")
}

/// Reports whether a later match implies this one. nft does not print such a family or protocol.
fn is_implied(rule: &Rule, index: usize) -> bool {
    let later = &rule.matches[index + 1..];
    match &rule.matches[index] {
        Match::Family(_) if later.is_empty() => rule.meter.is_some(),
        Match::Family(_) => later.iter().any(|m| {
            matches!(
                m,
                Match::Source { .. }
                    | Match::SourceNet(_)
                    | Match::Destination(_)
                    | Match::DestinationIn { .. }
                    | Match::Icmp(_)
                    | Match::HopLimit(_)
                    | Match::Ttl(_)
            )
        }),
        Match::Protocol(_) => later.first().is_some_and(|m| {
            matches!(
                m,
                Match::SourcePort(_) | Match::DestinationPort(_) | Match::Icmp(_) | Match::TcpSyn
            )
        }),
        Match::CtState(_)
        | Match::Dnat
        | Match::NotDnat
        | Match::DialledHere
        | Match::Local
        | Match::Loopback
        | Match::Interface { .. }
        | Match::OutInterface(_)
        | Match::Source { .. }
        | Match::SourceNet(_)
        | Match::SourceMac(_)
        | Match::Destination(_)
        | Match::DestinationIn { .. }
        | Match::DialledAddress { .. }
        | Match::TcpSyn
        | Match::Ttl(_)
        | Match::SourcePort(_)
        | Match::DestinationPort(_)
        | Match::DialledPort(_)
        | Match::Icmp(_)
        | Match::HopLimit(_)
        | Match::ReversePath { .. } => false,
    }
}

fn match_text(condition: &Match, rule: &Rule) -> String {
    match condition {
        Match::CtState(states) => format!("ct state {}", states.names().join(",")),
        Match::Dnat => "ct status dnat".into(),
        Match::NotDnat => "ct status ! dnat".into(),
        Match::DialledHere => format!("ct label {LABEL_BIT}"),
        Match::Local => "fib daddr type local".into(),
        Match::OutInterface(pattern) => format!("oifname \"{pattern}\""),
        Match::SourceMac(set) => format!("ether saddr @{set}"),
        Match::SourceNet(net) => {
            format!("{} saddr {}", ip(Family::of(net.addr())), addr::short(*net))
        }
        Match::DestinationIn { family, set } => format!("{} daddr @{set}", ip(*family)),
        Match::DialledAddress { family, set } => {
            format!("ct original {} daddr @{set}", ip(*family))
        }
        Match::TcpSyn => "tcp flags syn / fin,syn,rst,ack".into(),
        Match::Ttl(limit) => format!("ip ttl {limit}"),
        Match::Loopback => "iif \"lo\"".into(),
        Match::Interface { pattern, negated } => {
            let not = if *negated { "!= " } else { "" };
            format!("iifname {not}\"{pattern}\"")
        }
        Match::Family(family) => format!("meta nfproto ipv{}", family.digit()),
        Match::Source { family, set } => format!("{} saddr @{set}", ip(*family)),
        Match::Destination(net) => {
            format!("{} daddr {}", ip(Family::of(net.addr())), addr::short(*net))
        }
        Match::Protocol(number) => format!("meta l4proto {}", protocol_text(*number)),
        Match::SourcePort(ports) => format!("{} sport {}", header(rule), ports_text(ports)),
        Match::DestinationPort(ports) => format!("{} dport {}", header(rule), ports_text(ports)),
        Match::DialledPort(ports) => format!("ct original proto-dst {}", ports_text(ports)),
        Match::Icmp(kinds) => {
            let (word, family) = match rule_family(rule) {
                Some(Family::V6) => ("icmpv6", Family::V6),
                Some(Family::V4) | None => ("icmp", Family::V4),
            };
            match kinds {
                IcmpKinds::One(kind) => {
                    format!("{word} type {}", icmp_name(family, u128::from(*kind)))
                }
                IcmpKinds::Set(set) => format!("{word} type @{set}"),
            }
        }
        Match::HopLimit(limit) => format!("ip6 hoplimit {limit}"),
        Match::ReversePath { exists: true } => "fib saddr . iif oif exists".into(),
        Match::ReversePath { exists: false } => "fib saddr . iif oif missing".into(),
    }
}

fn rule_family(rule: &Rule) -> Option<Family> {
    rule.matches.iter().find_map(Match::family)
}

/// Returns the nft name of the header that contains the ports.
fn header(rule: &Rule) -> &'static str {
    let number = rule.matches.iter().find_map(Match::protocol);
    let known = number.and_then(protocol::known);
    known
        .filter(|each| each.has_ports)
        .map_or("th", |each| each.name)
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Formats a protocol: by name if every system's `/etc/protocols` has the same name, else by
/// number.
fn protocol_text(number: u8) -> String {
    let is_named = matches!(number, TCP | UDP | ICMP | ICMPV6);
    let known = protocol::known(number).filter(|_| is_named);
    known.map_or_else(|| number.to_string(), |each| each.name.to_owned())
}

fn ports_text(ports: &Ports) -> String {
    match ports {
        Ports::Range(range) => range.to_string(),
        Ports::Set(set) => format!("@{set}"),
    }
}

fn meter_text(meter: &Meter) -> String {
    format!(
        "update @{} {{ {} saddr {} }}",
        meter.set,
        ip(meter.family),
        rate_text(meter.rate)
    )
}

fn rate_text(rate: Rate) -> String {
    let (unit, _) = rate.unit.describe();
    format!(
        "limit rate {}/{unit} burst {} packets",
        rate.count, rate.burst
    )
}

fn action_text(action: &Action) -> String {
    match action {
        Action::Accept => "accept".into(),
        Action::Drop => "drop".into(),
        Action::RejectTcpReset => "reject with tcp reset".into(),
        Action::RejectAdminProhibited => "reject with icmpx admin-prohibited".into(),
        Action::Jump(chain) => format!("jump {chain}"),
        Action::Goto(chain) => format!("goto {chain}"),
    }
}
