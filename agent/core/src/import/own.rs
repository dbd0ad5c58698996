//! Conditions about this host's own addresses, which a file does not say.

use super::Facts;
use super::input::ParsedFiles;
use super::rule::{AddressKind, Condition, ImportedRules, Test};
use crate::net::addr::Family;

/// Marks conditions as unknown that need addresses of this host, if none is known.
pub(super) fn distrust(parsed: &mut ParsedFiles, facts: &Facts) {
    for rules in &mut parsed.rules {
        // Broadcast addresses follow from the length of the prefix.
        let most = match rules.family {
            Family::V4 => 30,
            Family::V6 => 128,
        };
        let is_enough =
            |net: &ipnet::IpNet| Family::of(net.addr()) == rules.family && net.prefix_len() <= most;
        if !facts.addresses.iter().any(is_enough) {
            distrust_rules(rules);
        }
    }
}

fn distrust_rules(rules: &mut ImportedRules) {
    let family = rules.family;
    let chains = rules.filter.values_mut().chain(rules.nat.values_mut());
    for rule in chains.flat_map(|chain| &mut chain.rules) {
        for condition in &mut rule.conditions {
            if needs_addresses(condition, family) {
                condition.test = Test::Unknown(
                    "the type of the source, without this host's addresses".to_owned(),
                );
            }
        }
    }
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
