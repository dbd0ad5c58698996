//! Formats rulesets as input for `nft -j -f`.

use serde_json::{Value, json};

use super::{header, icmp_name, ip, is_implied, mac, policy_text, protocol_text, rule_family};
use crate::net::addr::{self, Family};
use crate::policy::Rate;
use crate::ruleset::{
    Action, Chain, Element, IcmpKinds, KeyType, LABEL_BIT, METER_SIZE, METER_TIMEOUT_SECONDS,
    Match, Ports, Rule, Ruleset, Set, TABLE,
};

/// Formats the ruleset as input for `nft -j -f` (libnftables-json(5)).
pub fn json(ruleset: &Ruleset) -> Value {
    let table = json!({"family": "inet", "name": TABLE});
    let mut list = vec![
        json!({"metainfo": {"json_schema_version": 1}}),
        json!({"add": {"table": table}}),
        json!({"delete": {"table": table}}),
        json!({"add": {"table": table}}),
    ];
    for name in &ruleset.counters {
        list.push(json!({"add": {"counter": {"family": "inet", "table": TABLE, "name": name}}}));
    }
    for (name, set) in &ruleset.sets {
        list.push(json!({"add": {"set": json_set(name, set)}}));
    }
    for chain in &ruleset.chains {
        list.push(json!({"add": {"chain": json_chain(chain)}}));
    }
    for chain in &ruleset.chains {
        for rule in &chain.rules {
            list.push(json!({"add": {"rule": json_rule(&chain.name, rule)}}));
        }
    }
    json!({"nftables": list})
}

fn json_set(name: &str, set: &Set) -> Value {
    let elements: Vec<Value> = set
        .elements
        .iter()
        .map(|e| json_element(set.key, e))
        .collect();
    let mut value = json!({
        "family": "inet", "table": TABLE, "name": name, "type": set.key.name(),
    });
    // nft refuses an empty list. Elements with an end are not written.
    if !elements.is_empty() && !set.timed {
        value["elem"] = json!(elements);
    }
    if set.interval {
        value["flags"] = json!(["interval"]);
    }
    if set.timed {
        value["flags"] = json!(["timeout"]);
    }
    if set.meter {
        value["flags"] = json!(["dynamic", "timeout"]);
        value["timeout"] = json!(METER_TIMEOUT_SECONDS);
        value["size"] = json!(METER_SIZE);
    }
    value
}

fn json_element(key: KeyType, element: &Element) -> Value {
    let (family, is_address) = match key {
        KeyType::Ipv4 | KeyType::IcmpType | KeyType::Port | KeyType::Ether => {
            (Family::V4, key == KeyType::Ipv4)
        }
        KeyType::Ipv6 | KeyType::Icmpv6Type => (Family::V6, key == KeyType::Ipv6),
    };
    let one = |value: u128| match (is_address, key) {
        (true, _) => json!(addr::address(family, value).to_string()),
        (false, KeyType::IcmpType | KeyType::Icmpv6Type) => json!(icmp_name(family, value)),
        (false, KeyType::Ether) => json!(mac(value)),
        (false, KeyType::Port | KeyType::Ipv4 | KeyType::Ipv6) => json!(value),
    };
    let net = addr::prefix(family, element.first, element.last).filter(|_| is_address);
    let value = match net {
        _ if element.first == element.last => one(element.first),
        Some(net) => json!({"prefix": {"addr": net.addr().to_string(), "len": net.prefix_len()}}),
        None => json!({"range": [one(element.first), one(element.last)]}),
    };
    match &element.comment {
        None => value,
        Some(comment) => json!({"elem": {"val": value, "comment": **comment}}),
    }
}

fn json_chain(chain: &Chain) -> Value {
    let mut value = json!({"family": "inet", "table": TABLE, "name": chain.name});
    if let Some(base) = &chain.base {
        value["type"] = json!("filter");
        value["hook"] = json!(base.hook.name());
        value["prio"] = json!(base.priority);
        value["policy"] = json!(policy_text(base.policy));
    }
    value
}

fn json_rule(chain: &str, rule: &Rule) -> Value {
    let mut exprs: Vec<Value> = Vec::new();
    for (index, condition) in rule.matches.iter().enumerate() {
        if !is_implied(rule, index) {
            exprs.extend(json_match(condition, rule));
        }
    }
    if let Some(meter) = &rule.meter {
        let source = json!({"payload": {"protocol": ip(meter.family), "field": "saddr"}});
        exprs.push(json!({"set": {
            "op": "update", "elem": source, "set": format!("@{}", meter.set),
            "stmt": [json_rate(meter.rate)],
        }}));
    }
    if rule.label {
        exprs.push(json!({"mangle": {"key": {"ct": {"key": "label"}}, "value": LABEL_BIT}}));
    }
    exprs.extend(rule.limit.map(json_rate));
    if let Some(log) = &rule.log {
        exprs.push(json!({"log": {"prefix": log.prefix, "group": log.group}}));
    }
    if let Some(counter) = &rule.counter {
        exprs.push(json!({"counter": counter}));
    }
    exprs.extend(rule.action.as_ref().map(json_action));
    let mut value = json!({"family": "inet", "table": TABLE, "chain": chain, "expr": exprs});
    if let Some(comment) = &rule.comment {
        value["comment"] = json!(comment);
    }
    value
}

fn json_rate(rate: Rate) -> Value {
    let (unit, _) = rate.unit.describe();
    json!({"limit": {"rate": rate.count, "per": unit, "burst": rate.burst}})
}

fn json_net(net: ipnet::IpNet) -> Value {
    if net.prefix_len() == net.max_prefix_len() {
        return json!(net.addr().to_string());
    }
    json!({"prefix": {"addr": net.addr().to_string(), "len": net.prefix_len()}})
}

fn json_match(condition: &Match, rule: &Rule) -> Vec<Value> {
    let equal =
        |left: Value, right: Value| json!({"match": {"op": "==", "left": left, "right": right}});
    let within =
        |left: Value, right: Value| json!({"match": {"op": "in", "left": left, "right": right}});
    let meta = |key: &str| json!({"meta": {"key": key}});
    let field = |header: &str, name: &str| json!({"payload": {"protocol": header, "field": name}});
    let ports = |ports: &Ports| match ports {
        Ports::Set(set) => json!(format!("@{set}")),
        Ports::Range(range) if range.first == range.last => json!(range.first),
        Ports::Range(range) => json!({"range": [range.first, range.last]}),
    };
    vec![match condition {
        Match::CtState(states) => within(json!({"ct": {"key": "state"}}), json!(states.names())),
        Match::Dnat => within(json!({"ct": {"key": "status"}}), json!("dnat")),
        Match::NotDnat => {
            let status = json!({"&": [{"ct": {"key": "status"}}, "dnat"]});
            equal(status, json!(0))
        }
        Match::DialledHere => within(json!({"ct": {"key": "label"}}), json!(LABEL_BIT)),
        Match::Local => equal(
            json!({"fib": {"result": "type", "flags": ["daddr"]}}),
            json!("local"),
        ),
        Match::OutInterface(pattern) => equal(meta("oifname"), json!(pattern.to_string())),
        Match::SourceMac(set) => equal(field("ether", "saddr"), json!(format!("@{set}"))),
        Match::SourceNet(net) => equal(field(ip(Family::of(net.addr())), "saddr"), json_net(*net)),
        Match::DestinationIn { family, set } => {
            equal(field(ip(*family), "daddr"), json!(format!("@{set}")))
        }
        Match::DialledAddress { family, set } => equal(
            json!({"ct": {"key": format!("{} daddr", ip(*family)), "dir": "original"}}),
            json!(format!("@{set}")),
        ),
        Match::TcpSyn => {
            let flags = json!({"&": [field("tcp", "flags"), ["fin", "syn", "rst", "ack"]]});
            equal(flags, json!("syn"))
        }
        Match::Ttl(limit) => equal(field("ip", "ttl"), json!(limit)),
        Match::Loopback => equal(meta("iif"), json!("lo")),
        Match::Interface { pattern, negated } => {
            let op = if *negated { "!=" } else { "==" };
            let name = pattern.to_string();
            json!({"match": {"op": op, "left": meta("iifname"), "right": name}})
        }
        Match::Family(family) => equal(meta("nfproto"), json!(format!("ipv{}", family.digit()))),
        Match::Source { family, set } => {
            equal(field(ip(*family), "saddr"), json!(format!("@{set}")))
        }
        Match::Destination(net) => {
            equal(field(ip(Family::of(net.addr())), "daddr"), json_net(*net))
        }
        Match::Protocol(number) => equal(meta("l4proto"), json!(protocol_text(*number))),
        Match::SourcePort(wanted) => equal(field(header(rule), "sport"), ports(wanted)),
        Match::DestinationPort(wanted) => equal(field(header(rule), "dport"), ports(wanted)),
        Match::DialledPort(wanted) => equal(
            json!({"ct": {"key": "proto-dst", "dir": "original"}}),
            ports(wanted),
        ),
        Match::Icmp(kinds) => {
            let family = rule_family(rule).unwrap_or(Family::V4);
            let word = match family {
                Family::V4 => "icmp",
                Family::V6 => "icmpv6",
            };
            let right = match kinds {
                IcmpKinds::One(kind) => json!(icmp_name(family, u128::from(*kind))),
                IcmpKinds::Set(set) => json!(format!("@{set}")),
            };
            equal(field(word, "type"), right)
        }
        Match::HopLimit(limit) => equal(field("ip6", "hoplimit"), json!(limit)),
        Match::ReversePath { exists } => equal(
            json!({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}),
            json!(exists),
        ),
    }]
}

fn json_action(action: &Action) -> Value {
    match action {
        Action::Accept => json!({"accept": null}),
        Action::Drop => json!({"drop": null}),
        Action::RejectTcpReset => json!({"reject": {"type": "tcp reset"}}),
        Action::RejectAdminProhibited => {
            json!({"reject": {"type": "icmpx", "expr": "admin-prohibited"}})
        }
        Action::Jump(chain) => json!({"jump": {"target": chain}}),
        Action::Goto(chain) => json!({"goto": {"target": chain}}),
    }
}
