//! Networks behind this host, and private ones.

use super::rule::{At, ImportedRules, Test, Verb};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;

/// Finds the networks that a nat table masquerades, with their interfaces.
pub(super) fn masqueraded(rules: &ImportedRules) -> Vec<(ipnet::IpNet, InterfacePattern, At)> {
    let mut found = Vec::new();
    for rule in rules.nat.values().flat_map(|chain| &chain.rules) {
        if rule.target != Verb::Masquerade {
            continue;
        }
        let mut source = None;
        let mut behind = None;
        for condition in &rule.conditions {
            match (&condition.test, condition.negated) {
                (Test::Source(spans), false) => {
                    source = match spans[..] {
                        [(first, last)] if first != last => addr::prefix(rules.family, first, last),
                        _ => None,
                    }
                }
                (Test::Out(patterns), true) => behind = patterns.first().cloned(),
                _ => {}
            }
        }
        if let (Some(source), Some(behind)) = (source, behind) {
            found.push((source, behind, rule.at));
        }
    }
    found
}

/// Reports whether a network is private (RFC 1918, RFC 4193, RFC 6598).
pub(super) fn is_private(family: Family, net: ipnet::IpNet) -> bool {
    let private: &[&str] = match family {
        Family::V4 => &[
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
        ],
        Family::V6 => &["fc00::/7"],
    };
    private
        .iter()
        .filter_map(|text| text.parse::<ipnet::IpNet>().ok())
        .any(|range| range.contains(&net))
}

/// Returns an address of another host that rules do not mention (RFC 5737, RFC 3849).
pub(super) fn elsewhere(family: Family) -> std::net::IpAddr {
    match family {
        Family::V4 => std::net::IpAddr::from([203, 0, 113, 200]),
        Family::V6 => std::net::IpAddr::from([0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 0x200]),
    }
}
