//! Assigns sets to policy items by the set names that `compile` generates.

use std::collections::BTreeSet;

use super::delta::{Deltas, Item};
use super::{Part, What};
use crate::net::protocol;
use crate::ruleset::render::value;
use crate::ruleset::{Element, Ruleset, Set};
use crate::words::count;

/// Maximum number of differing elements of a set that are listed; more are counted.
const LISTED_MAX: usize = 1000;

/// Suffixes of address sets.
const ADDRESSES: [&str; 4] = ["-ip4", "-ip4-nets", "-ip6", "-ip6-nets"];
/// Name of the peers that are only counted.
const MANY: &str = "addresses";
/// Sets of peer addresses.
const PEERS: [&str; 6] = [
    "peers4",
    "peers4-nets",
    "peers6",
    "peers6-nets",
    "temporary4",
    "temporary6",
];
/// Sets of addresses that may ping.
const PING: [&str; 4] = ["ping4", "ping4-nets", "ping6", "ping6-nets"];

/// Meaning of a set's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// Addresses of peers; the comment of an element is the peer's name.
    Peers,
    /// Values of a part of an item, with a suffix for each.
    Values(Item, Part, String),
}

/// Returns the role of a set; `None` if no single item determines its elements.
fn role(name: &str, overlays: &BTreeSet<&String>) -> Option<Role> {
    if PEERS.contains(&name) {
        return Some(Role::Peers);
    }
    let values = |what, name: &str, part, suffix: &str| {
        Some(Role::Values(Item::new(what, name), part, suffix.to_owned()))
    };
    let listed = name.strip_prefix("icmp-listed");
    if let Some(digit) = listed {
        return values(What::Icmp, &format!("v{digit}"), Part::Value, "");
    }
    if PING.contains(&name) {
        return values(What::Icmp, "ping", Part::Value, "");
    }
    if let Some(name) = name.strip_prefix("overlay-") {
        return overlay_role(name, overlays);
    }
    if let Some(stem) = ADDRESSES.iter().find_map(|end| name.strip_suffix(end)) {
        return match stem {
            "services" => values(What::Host, "service addresses", Part::Value, ""),
            _ => {
                let (kind, name) = stem.split_once('-')?;
                match kind {
                    "group" => values(What::Group, name, Part::Value, ""),
                    "tunnel" => values(What::Overlay, name, Part::TunnelFrom, ""),
                    "allow" => values(What::Allow, name, Part::From, ""),
                    "to" => values(What::Allow, name, Part::To, ""),
                    _ => None,
                }
            }
        };
    }
    let (stem, end) = name.rsplit_once('-')?;
    protocol::by_name(end)?;
    let suffix = format!("/{end}");
    match stem.split_once('-')? {
        ("allow", name) => values(What::Allow, name, Part::Ports, &suffix),
        ("from", name) => values(What::Allow, name, Part::FromPorts, &suffix),
        _ => None,
    }
}

/// Returns the role of the set `overlay-{rest}`. The overlay's name may itself contain a separator.
fn overlay_role(rest: &str, overlays: &BTreeSet<&String>) -> Option<Role> {
    let fits = |name: &&&String| {
        let after = rest.strip_prefix(name.as_str());
        after.is_some_and(|after| {
            after == "-mac" || ADDRESSES.contains(&after) || after.starts_with("-by-")
        })
    };
    let name = overlays.iter().filter(fits).max_by_key(|name| name.len())?;
    let after = rest.strip_prefix(name.as_str())?;
    let item = Item::new(What::Overlay, name.as_str());
    let (part, suffix) = match after {
        "-mac" => (Part::Macs, String::new()),
        _ if ADDRESSES.contains(&after) => (Part::Subnets, String::new()),
        _ => {
            let stem = ADDRESSES.iter().find_map(|end| after.strip_suffix(end));
            let interface = stem?.strip_prefix("-by-")?;
            (Part::Routes, format!(" by {interface}"))
        }
    };
    Some(Role::Values(item, part, suffix))
}

/// Adds the differences between set elements.
pub(super) fn deltas(
    from: &Ruleset,
    to: &Ruleset,
    overlays: &BTreeSet<&String>,
    deltas: &mut Deltas,
) {
    let names: BTreeSet<&String> = from.sets.keys().chain(to.sets.keys()).collect();
    for name in names {
        let (old, new) = (from.sets.get(name), to.sets.get(name));
        if old == new {
            continue;
        }
        let Some(role) = role(name, overlays) else {
            continue;
        };
        let (removed, added) = difference(old, new);
        for (set, elements, is_new) in [(old, removed, false), (new, added, true)] {
            let Some(set) = set else { continue };
            if elements.len() > LISTED_MAX {
                let (item, part) = match &role {
                    Role::Peers => (Item::new(What::Peer, MANY), Part::Value),
                    Role::Values(item, part, _) => (item.clone(), *part),
                };
                let delta = deltas.entry(item).or_default().entry(part).or_default();
                let side = if is_new {
                    &mut delta.added
                } else {
                    &mut delta.removed
                };
                side.push(format!("{} of {name}", count(elements.len(), "element")));
                continue;
            }
            for element in elements {
                let text = value(set.key, element);
                let (item, part, text) = match &role {
                    Role::Peers => (peer(element, &text), Part::Value, text),
                    Role::Values(item, part, suffix) => {
                        (item.clone(), *part, format!("{text}{suffix}"))
                    }
                };
                let delta = deltas.entry(item).or_default().entry(part).or_default();
                match is_new {
                    true => delta.added.push(text),
                    false => delta.removed.push(text),
                }
            }
        }
    }
}

/// Returns the peer of an element. An address without a name is a peer of its own.
fn peer(element: &Element, text: &str) -> Item {
    Item::new(What::Peer, element.comment.as_deref().unwrap_or(text))
}

/// Returns the elements that only one set has. Both sets must be ascending and disjoint.
pub(super) fn difference<'s>(
    old: Option<&'s Set>,
    new: Option<&'s Set>,
) -> (Vec<&'s Element>, Vec<&'s Element>) {
    let elements = |set: Option<&'s Set>| set.map_or(&[][..], |set| &*set.elements);
    let (mut old, mut new) = (elements(old), elements(new));
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    loop {
        match (old, new) {
            ([], []) => return (removed, added),
            ([a, rest @ ..], [b, after @ ..]) if a == b => (old, new) = (rest, after),
            ([a, rest @ ..], [b, ..]) if a.first <= b.first => {
                removed.push(a);
                old = rest;
            }
            ([a, rest @ ..], []) => {
                removed.push(a);
                old = rest;
            }
            (_, [b, rest @ ..]) => {
                added.push(b);
                new = rest;
            }
        }
    }
}

/// Returns the items, out of those given, that a ruleset's sets belong to.
pub(super) fn present(
    ruleset: &Ruleset,
    items: &BTreeSet<&Item>,
    overlays: &BTreeSet<&String>,
) -> BTreeSet<Item> {
    let mut found = BTreeSet::new();
    let peers = items.iter().filter(|item| item.what == What::Peer);
    let peers: BTreeSet<&str> = peers.map(|item| item.name.as_str()).collect();
    for (name, set) in &ruleset.sets {
        match role(name, overlays) {
            Some(Role::Peers) if !peers.is_empty() => {
                // A peer without a name is present where its address was removed or added.
                let names = set.elements.iter().filter_map(|e| e.comment.as_deref());
                let named = names.filter(|name| peers.contains(name));
                found.extend(named.map(|name| Item::new(What::Peer, name)));
            }
            Some(Role::Values(item, ..)) => {
                found.insert(item);
            }
            Some(Role::Peers) | None => {}
        }
    }
    found
}
