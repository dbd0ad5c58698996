//! Conditions that the comparison cannot decide: about this host's own addresses, which a file does
//! not say, and about port 0, which a policy cannot name.

use super::Facts;
use super::rule::{AddressKind, Condition, ImportedRules, Test};
use crate::net::addr::Family;

/// Marks these conditions as unknown. Without an address of this host, types of sources are.
pub(super) fn distrust(families: &mut [ImportedRules], facts: &Facts) {
    for rules in families {
        let family = rules.family;
        // Broadcast addresses follow from the length of the prefix.
        let most = match family {
            Family::V4 => 30,
            Family::V6 => 128,
        };
        let is_enough =
            |net: &ipnet::IpNet| Family::of(net.addr()) == family && net.prefix_len() <= most;
        let is_known = facts.addresses.iter().any(is_enough);
        let chains = rules.filter.values_mut().chain(rules.nat.values_mut());
        let rules = chains.flat_map(|chain| &mut chain.rules);
        for condition in rules.flat_map(|rule| &mut rule.conditions) {
            if let Some(what) = undecided(condition, family, is_known) {
                condition.test = Test::Unknown(what.to_owned());
            }
        }
    }
}

/// Returns what of a condition cannot be decided.
fn undecided(condition: &Condition, family: Family, is_known: bool) -> Option<&'static str> {
    if let Test::Any(lists) = &condition.test {
        let mut each = lists.iter().flatten();
        return each.find_map(|each| undecided(each, family, is_known));
    }
    let names_port_0 = matches!(
        &condition.test,
        Test::SourcePorts(ranges) | Test::DestinationPorts(ranges) | Test::EitherPort(ranges)
            if ranges.contains(&(0, 0))
    );
    let needs_addresses = matches!(
        (&condition.test, family),
        (Test::From(AddressKind::Local), Family::V6)
            | (Test::From(AddressKind::Broadcast), Family::V4)
    );
    match (names_port_0, needs_addresses && !is_known) {
        (true, _) => Some("port 0"),
        (false, true) => Some("the type of the source, without this host's addresses"),
        (false, false) => None,
    }
}
