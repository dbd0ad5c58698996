//! Assigns rules to policy items by the reason in their counters.

use std::collections::BTreeMap;

use super::delta::Item;
use super::{Part, What};
use crate::net::addr::Family;
use crate::net::port::{self, PortRange};
use crate::net::protocol::{ICMP, ICMPV6};
use crate::policy::Mode;
use crate::policy::Rate;
use crate::policy::reason::Reason;
use crate::ruleset::{
    Action, ChainHook, FORWARD, INPUT, Match, Ports, Rule, Ruleset, counter_reason,
};

/// Parts of items found in rules. Set elements are not included.
pub(super) type FoundItems = BTreeMap<Item, BTreeMap<Part, Vec<String>>>;

/// Returns the names of a ruleset's overlays.
pub(super) fn overlays(ruleset: &Ruleset) -> Vec<String> {
    let counters = ruleset.counters.iter();
    let reasons = counters.filter_map(|name| counter_reason(name));
    let of_counters = reasons.filter_map(|(_, reason)| overlay_of(reason));
    let chains = ruleset.chains.iter().filter_map(|chain| {
        let name = chain.name.strip_prefix("input-overlay-")?;
        Some(name.to_owned())
    });
    let mut all: Vec<String> = of_counters.chain(chains).collect();
    all.sort();
    all.dedup();
    all
}

fn overlay_of(reason: Reason) -> Option<String> {
    if let Reason::Overlay(name) = reason {
        return Some(name);
    }
    None
}

/// Returns the parts of all items.
pub(super) fn found(ruleset: &Ruleset, overlays: &[String]) -> FoundItems {
    let mut found = FoundItems::new();
    for name in overlays {
        found.entry(Item::new(What::Overlay, name)).or_default();
    }
    for chain in &ruleset.chains {
        for rule in &chain.rules {
            of_rule(&mut found, &chain.name, rule);
        }
    }
    options(&mut found, ruleset);
    found
}

fn add(found: &mut FoundItems, item: Item, part: Part, value: impl Into<String>) {
    let values = found.entry(item).or_default().entry(part).or_default();
    let value = value.into();
    if !values.contains(&value) {
        values.push(value);
    }
}

fn of_rule(found: &mut FoundItems, chain: &str, rule: &Rule) {
    let counted = rule.counter.as_deref().and_then(counter_reason);
    if let Some((_, reason)) = counted {
        of_reason(found, reason, chain, rule);
    }
    if let Some(name) = guarded(rule) {
        for value in ports(rule, destination_ports) {
            let item = Item::new(What::Overlay, name);
            add(found, item, Part::Tunnel, value);
        }
    }
    let item = match &rule.action {
        Some(Action::Goto(to) | Action::Jump(to)) => match to.as_str() {
            "guests" | "bridged" => Item::new(What::Interfaces, to),
            "switched" => Item::new(What::Host, "bridges"),
            _ => return,
        },
        Some(
            Action::Accept | Action::Drop | Action::RejectTcpReset | Action::RejectAdminProhibited,
        )
        | None => return,
    };
    for name in incoming(rule) {
        add(found, item.clone(), Part::Value, name);
    }
}

fn of_reason(found: &mut FoundItems, reason: Reason, chain: &str, rule: &Rule) {
    match reason {
        Reason::Allow(name) => allow(found, Item::new(What::Allow, name), chain, rule),
        Reason::Overlay(name) => overlay(found, Item::new(What::Overlay, name), chain, rule),
        Reason::Trusted => {
            for name in incoming(rule) {
                add(
                    found,
                    Item::new(What::Interfaces, "trusted"),
                    Part::Value,
                    name,
                );
            }
        }
        Reason::Ping => sources(found, &Item::new(What::Icmp, "ping"), Part::Value, rule),
        Reason::Icmp => every_icmp(found, chain, rule),
        Reason::Established
        | Reason::Loopback
        | Reason::Bridged
        | Reason::LoopbackSpoof
        | Reason::Redirect
        | Reason::RouterAdvert
        | Reason::PeerSpoof
        | Reason::OverlaySpoof
        | Reason::Peers
        | Reason::OverlayInject
        | Reason::Dhcp
        | Reason::Guests
        | Reason::GuestBlocked
        | Reason::Invalid
        | Reason::ServiceAddress
        | Reason::InputDefault
        | Reason::ForwardDefault => {}
    }
}

fn destination_ports(condition: &Match) -> Option<&Ports> {
    if let Match::DestinationPort(ports) | Match::DialledPort(ports) = condition {
        return Some(ports);
    }
    None
}

fn source_ports(condition: &Match) -> Option<&Ports> {
    if let Match::SourcePort(ports) = condition {
        return Some(ports);
    }
    None
}

fn source(condition: &Match) -> Option<&str> {
    if let Match::Source { set, .. } = condition {
        return Some(set);
    }
    None
}

/// Returns the overlay whose tunnel the rule guards.
fn guarded(rule: &Rule) -> Option<&str> {
    let comment = rule.comment.as_deref()?.strip_prefix("overlay ")?;
    comment.strip_suffix(", tunnel packets not from peers")
}

/// Returns the input interfaces of a rule.
fn incoming(rule: &Rule) -> impl Iterator<Item = String> {
    let patterns = rule.matches.iter().filter_map(Match::interface);
    patterns.map(ToString::to_string)
}

fn allow(found: &mut FoundItems, item: Item, chain: &str, rule: &Rule) {
    let mut add = |part, value: String| add(found, item.clone(), part, value);
    for value in ports(rule, destination_ports) {
        add(Part::Ports, value);
    }
    if rule.matches.iter().any(|each| source_ports(each).is_some()) {
        for value in ports(rule, source_ports) {
            add(Part::FromPorts, value);
        }
    }
    for value in incoming(rule) {
        add(Part::Interfaces, value);
    }
    if let Some(meter) = &rule.meter {
        add(Part::Limit, rate(meter.rate));
    }
    let to: Vec<&str> = rule.matches.iter().filter_map(destination).collect();
    for set in &to {
        if let Some(name) = named(set) {
            add(Part::To, name.to_owned());
        }
    }
    let dialled_here = rule.matches.contains(&Match::DialledHere);
    if dialled_here || (to.is_empty() && chain == INPUT) {
        add(Part::To, "host".to_owned());
    }
    sources(found, &item, Part::From, rule);
}

/// Adds the sources of a rule that are not in the item's own set.
fn sources(found: &mut FoundItems, item: &Item, part: Part, rule: &Rule) {
    match rule.matches.iter().find_map(source) {
        None => add(found, item.clone(), part, "any"),
        Some(set) => match named(set) {
            Some(name) => add(found, item.clone(), part, name),
            // The addresses are elements of the item's set.
            None => drop(found.entry(item.clone()).or_default()),
        },
    }
}

fn overlay(found: &mut FoundItems, item: Item, chain: &str, rule: &Rule) {
    // Base chains accept packets to the tunnel; the overlay's chain accepts packets out of it.
    if [INPUT, FORWARD].contains(&chain) {
        return sources(found, &item, Part::TunnelFrom, rule);
    }
    let by_route = rule.matches.iter().any(|each| source(each).is_some());
    for name in incoming(rule).filter(|_| !by_route) {
        add(found, item.clone(), Part::Interfaces, name);
    }
}

/// Adds `v4 = "all"` and `v6 = "all"` of `[icmp]`.
fn every_icmp(found: &mut FoundItems, chain: &str, rule: &Rule) {
    if let (INPUT, [Match::Protocol(ICMP | ICMPV6), Match::Family(family)]) =
        (chain, rule.matches.as_slice())
    {
        let item = Item::new(What::Icmp, format!("v{}", family.digit()));
        add(found, item, Part::Value, "all");
    }
}

/// Returns the set of destinations, after or before DNAT.
fn destination(condition: &Match) -> Option<&str> {
    if let Match::DestinationIn { set, .. } | Match::DialledAddress { set, .. } = condition {
        return Some(set);
    }
    None
}

/// Returns the group or overlay that owns an address set.
fn named(set: &str) -> Option<&str> {
    let stem = ["-ip4-nets", "-ip6-nets", "-ip4", "-ip6"]
        .iter()
        .find_map(|end| set.strip_suffix(end))?;
    let prefixes = ["group-", "overlay-"];
    prefixes.iter().find_map(|prefix| stem.strip_prefix(prefix))
}

/// Formats the ports of a rule as in a policy. Returns no ports if a set contains them.
fn ports(rule: &Rule, of: fn(&Match) -> Option<&Ports>) -> Vec<String> {
    let Some(protocol) = rule.matches.iter().find_map(Match::protocol) else {
        return vec!["every port".to_owned()];
    };
    let name = port::protocol_name(protocol);
    match rule.matches.iter().find_map(of) {
        None => vec![name],
        Some(Ports::Range(PortRange { first, last })) if first == last => {
            vec![format!("{first}/{name}")]
        }
        Some(Ports::Range(range)) => vec![format!("{range}/{name}")],
        Some(Ports::Set(_)) => Vec::new(),
    }
}

fn rate(rate: Rate) -> String {
    let (unit, _) = rate.unit.describe();
    format!("{}/{unit} burst {}", rate.count, rate.burst)
}

/// Adds the options, one value each.
fn options(found: &mut FoundItems, ruleset: &Ruleset) {
    let mut option = |name: &str, value: String| {
        add(found, Item::new(What::Option, name), Part::Value, value);
    };
    let base = |hook: ChainHook| {
        let mut bases = ruleset.chains.iter().filter_map(|chain| chain.base);
        bases.find(|base| base.hook == hook)
    };
    if let Some(base) = base(ChainHook::Input) {
        option("hook_priority", base.priority.to_string());
    }
    let actions = |chain: &str| {
        let rules = ruleset.chain(chain).map(|chain| chain.rules.as_slice());
        let rules = rules.unwrap_or_default().iter();
        rules
            .filter_map(|rule| rule.action.clone())
            .collect::<Vec<_>>()
    };
    let default = Reason::InputDefault.to_string();
    let denied = match actions(&default).last() {
        Some(Action::RejectAdminProhibited) => "reject",
        _ => "drop",
    };
    option("denied", denied.to_owned());
    match ruleset.mode() {
        Mode::Enforce => {}
        Mode::Audit => option("mode", "audit".to_owned()),
        Mode::AuditAll => option("mode", "audit of everything".to_owned()),
    }
    let drops = actions(INPUT).contains(&Action::Goto(Reason::Invalid.to_string()));
    option("invalid", if drops { "drop" } else { "accept" }.to_owned());
    let mut rules = ruleset
        .chain(&default)
        .into_iter()
        .flat_map(|chain| &chain.rules);
    let log = rules.find_map(|rule| Some((rule.log.as_ref()?, rule.limit?)));
    let end = format!(" {default}: ");
    option(
        "log.denied",
        match log {
            None => "false".to_owned(),
            Some((log, limit)) => format!(
                "group {}, rate {}, prefix {}",
                log.group,
                rate(limit),
                log.prefix.strip_suffix(&end).unwrap_or(&log.prefix)
            ),
        },
    );
    let core = ruleset
        .sets
        .contains_key(&format!("icmp-errors{}", Family::V4.digit()));
    if !ruleset.chains.is_empty() {
        let item = Item::new(What::Icmp, "core");
        add(
            found,
            item,
            Part::Value,
            if core { "true" } else { "false" },
        );
    }
}
