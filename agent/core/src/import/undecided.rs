//! Conditions that the comparison cannot decide: about this host's own addresses, which a file does
//! not say, and about port 0, which a policy cannot name.

use super::Facts;
use super::input::ParsedFiles;
use super::rule::{AddressKind, Condition, ImportedRules, Test};
use crate::net::addr::Family;

/// Marks these conditions as unknown. Without an address of this host, types of sources are.
pub(super) fn distrust(parsed: &mut ParsedFiles, facts: &Facts) {
    for rules in &mut parsed.rules {
        // Broadcast addresses follow from the length of the prefix.
        let most = match rules.family {
            Family::V4 => 30,
            Family::V6 => 128,
        };
        let is_enough =
            |net: &ipnet::IpNet| Family::of(net.addr()) == rules.family && net.prefix_len() <= most;
        let is_known = facts.addresses.iter().any(is_enough);
        distrust_rules(rules, is_known);
    }
}

fn distrust_rules(rules: &mut ImportedRules, is_known: bool) {
    let family = rules.family;
    let chains = rules.filter.values_mut().chain(rules.nat.values_mut());
    for rule in chains.flat_map(|chain| &mut chain.rules) {
        for condition in &mut rule.conditions {
            if names_port_0(condition) {
                condition.test = Test::Unknown("port 0".to_owned());
            } else if !is_known && needs_addresses(condition, family) {
                condition.test = Test::Unknown(
                    "the type of the source, without this host's addresses".to_owned(),
                );
            }
        }
    }
}

fn names_port_0(condition: &Condition) -> bool {
    matches!(
        &condition.test,
        Test::SourcePorts(ranges) | Test::DestinationPorts(ranges) | Test::EitherPort(ranges)
            if ranges.contains(&(0, 0))
    )
}

fn needs_addresses(condition: &Condition, family: Family) -> bool {
    match &condition.test {
        Test::From(kind) => matches!(
            (kind, family),
            (AddressKind::Local, Family::V6) | (AddressKind::Broadcast, Family::V4)
        ),
        Test::Any(lists) => {
            let mut each = lists.iter().flatten();
            each.any(|condition| needs_addresses(condition, family))
        }
        Test::Source(_)
        | Test::Destination(_)
        | Test::In(_)
        | Test::Out(_)
        | Test::Protocol(_)
        | Test::SourcePorts(_)
        | Test::DestinationPorts(_)
        | Test::EitherPort(_)
        | Test::TcpFlags(..)
        | Test::State { .. }
        | Test::Dialled(..)
        | Test::DialledAddress(_)
        | Test::Icmp(_)
        | Test::HopLimit(..)
        | Test::To(_)
        | Test::Rate(..)
        | Test::Always(_)
        | Test::Mark(..)
        | Test::ReversePath(_)
        | Test::Unknown(_) => false,
    }
}
