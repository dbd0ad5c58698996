//! Warnings about contradictions between a policy and this host.
//!
//! These are warnings rather than errors, because interfaces and routes come and go, and a policy
//! may be checked on a machine other than its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Discovery, Overlay, Policy};
use crate::diagnostic::{Code, Diagnostic};
use crate::net::host::{Host, Interface, RT_TABLE_MAIN, Route};
use crate::net::interface::InterfacePattern;

/// Limit on names in one warning.
const NAMES_MAX: usize = 6;
/// Prefixes of interfaces that flannel and its CNI plugin create when they start, or when the first
/// pod starts. Their absence alone is not a mistake.
const COME_LATER: [&str; 3] = ["flannel", "cni0", "cali"];
/// Prefixes of pods' interfaces, by CNI plugin.
const PER_POD: [&str; 6] = ["cali", "veth", "lxc", "tap", "eni", "azv"];

/// Compares routes, interfaces, and the addresses of this host and of `administrators` with the
/// policy, and returns warnings.
pub fn compare(policy: &Policy, host: &Host, administrators: &[IpAddr]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut reached_peers = None;
    for overlay in &policy.overlays {
        let is_ours = |name: &str| {
            let patterns = overlay.interfaces.iter().chain(&policy.trusted);
            patterns.into_iter().any(|pattern| pattern.matches(name))
        };
        found.extend(missing_interfaces(overlay, host));
        found.extend(own_addresses(overlay, host, &is_ours));
        found.extend(administrators_inside(overlay, administrators));
        let routes = strange_routes(overlay, host, &is_ours);
        let plain = match overlay.backend.is_tunnelled() {
            true => {
                let (by_router, straight) = by_router(overlay, &routes);
                found.extend(beside_tunnel(overlay, host, &straight));
                if !overlay.by_route {
                    found.extend(outside_tunnel(overlay, &by_router));
                    continue;
                }
                by_router
            }
            false => routes,
        };
        if !plain.is_empty() {
            let lan = reached_peers.get_or_insert_with(|| interfaces_to_peers(policy, host));
            found.extend(plain_routes(overlay, host, &plain, lan));
        }
    }
    for allow in &policy.allows {
        let missing = missing(&allow.interfaces, host);
        if !missing.is_empty() {
            let what = format!("allow `{}`: {}", allow.name, no_interface(&missing));
            found.push(
                Diagnostic::warning(Code::InterfaceMissing, allow.place.clone(), what).help(
                    "the allow opens nothing on missing interfaces; check the names with `ip link`",
                ),
            );
        }
    }
    found
}

fn missing<'p>(patterns: &'p [InterfacePattern], host: &Host) -> Vec<&'p InterfacePattern> {
    let is_there = |pattern: &&InterfacePattern| {
        let mut names = host.interfaces.iter().map(|each| each.name.as_str());
        names.any(|name| pattern.matches(name))
    };
    patterns.iter().filter(|each| !is_there(each)).collect()
}

fn comes_later(pattern: &InterfacePattern) -> bool {
    let (InterfacePattern::Exact(name) | InterfacePattern::Prefix(name)) = pattern;
    COME_LATER.iter().any(|start| name.starts_with(start))
}

fn no_interface(missing: &[&InterfacePattern]) -> String {
    let names: Vec<String> = missing.iter().map(|each| format!("`{each}`")).collect();
    format!("no interface {} on this host now", names.join(" or "))
}

fn missing_interfaces(overlay: &Overlay, host: &Host) -> Option<Diagnostic> {
    // flannel creates its interfaces after the file.
    if matches!(overlay.discovery, Discovery::Awaited(_)) {
        return None;
    }
    let mut missing = missing(&overlay.interfaces, host);
    if missing.len() < overlay.interfaces.len() {
        missing.retain(|each| !comes_later(each));
    }
    // Without a tunnel, packets from pods of other nodes arrive from the LAN, and this node may
    // have no pods.
    let all_late = !overlay.backend.is_tunnelled() && missing.iter().all(|each| comes_later(each));
    if missing.is_empty() || all_late {
        return None;
    }
    let what = format!("overlay `{}`: {}", overlay.name, no_interface(&missing));
    Some(
        Diagnostic::warning(Code::InterfaceMissing, overlay.place.clone(), what).help(
            "its pods are accepted only on the listed interfaces; check the names with `ip link`, \
         unless the overlay has not started yet",
        ),
    )
}

/// Warns about addresses of this host within the overlay, on interfaces that are not the overlay's.
fn own_addresses(
    overlay: &Overlay,
    host: &Host,
    is_ours: &impl Fn(&str) -> bool,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for interface in host.interfaces.iter().filter(|each| !is_ours(&each.name)) {
        let mut inside = interface.addresses.iter().filter_map(|own| {
            let subnet = overlay
                .subnets
                .iter()
                .find(|s| s.net.contains(&own.addr()))?;
            Some((own, subnet))
        });
        let Some((own, subnet)) = inside.next() else {
            continue;
        };
        let name = &interface.name;
        let what = format!(
            "this host's address {} on {name} is in overlay `{}`",
            own.addr(),
            overlay.name
        );
        found.push(
            Diagnostic::warning(Code::OwnAddressInOverlay, subnet.place.clone(), what)
                .label("contains it")
                .help(help_for_address(overlay, host, interface, own)),
        );
    }
    found
}

fn help_for_address(overlay: &Overlay, host: &Host, interface: &Interface, own: &IpNet) -> String {
    let name = &interface.name;
    match interface.kind.as_deref() {
        // Probably a bridge or tunnel of a CNI plugin that is missing in `interfaces`.
        Some("bridge" | "vxlan" | "wireguard" | "ipip" | "tun" | "geneve" | "dummy") => format!(
            "if packets from pods arrive on {name}, write {}; otherwise they are dropped as overlay-spoof",
            with_interfaces(overlay, host, std::slice::from_ref(name))
        ),
        _ => format!(
            "packets from {} that arrive on {name} are dropped as overlay-spoof; list only the \
             pods' networks in `subnets`",
            own.trunc()
        ),
    }
}

fn administrators_inside(overlay: &Overlay, administrators: &[IpAddr]) -> Vec<Diagnostic> {
    let inside = administrators.iter().filter_map(|address| {
        let subnet = overlay.subnets.iter().find(|s| s.net.contains(address))?;
        let what = format!(
            "{address}, the address of an SSH client, is in overlay `{}`",
            overlay.name
        );
        Some(
            Diagnostic::warning(Code::AdministratorInOverlay, subnet.place.clone(), what)
                .label("contains it")
                .help(
                    "its packets are dropped as overlay-spoof outside of the overlay's \
                     interfaces, before allows are checked; list only the pods' networks in `subnets`",
                ),
        )
    });
    inside.collect()
}

/// Returns routes into an overlay through interfaces that are not the overlay's. Interfaces with an
/// address in the overlay are excluded; the address has its own warning.
fn strange_routes<'h>(
    overlay: &Overlay,
    host: &'h Host,
    is_ours: &impl Fn(&str) -> bool,
) -> Vec<&'h Route> {
    let holds = |address: &IpNet| overlay.subnets.iter().any(|s| s.net.contains(address));
    let is_strange = |interface: &&Interface| {
        let inside = |own: &IpNet| holds(&IpNet::from(own.addr()));
        !is_ours(&interface.name) && !interface.addresses.iter().any(inside)
    };
    let strange: BTreeSet<&str> = host
        .interfaces
        .iter()
        .filter(is_strange)
        .map(|each| each.name.as_str())
        .collect();
    let routes = host.routes.iter();
    routes
        .filter(|route| strange.contains(route.interface.as_str()) && holds(&route.destination))
        .collect()
}

/// Splits routes into those through a router outside of the overlay, and those directly to pods or
/// through a tunnel.
fn by_router<'h>(overlay: &Overlay, routes: &[&'h Route]) -> (Vec<&'h Route>, Vec<&'h Route>) {
    let inside = |gateway: IpAddr| overlay.subnets.iter().any(|s| s.net.contains(&gateway));
    routes
        .iter()
        .partition(|route| route.gateway.is_some_and(|gateway| !inside(gateway)))
}

/// Warns about direct routes. With a tunnel, pods are accepted only on the overlay's interfaces.
fn beside_tunnel(overlay: &Overlay, host: &Host, routes: &[&Route]) -> Option<Diagnostic> {
    let first = routes.first()?;
    let names = names(routes);
    Some(warning(overlay, first, &names).help(format!(
        "packets from pods that arrive there are dropped as overlay-spoof; if this is an interface \
         of the overlay, write {}",
        with_interfaces(overlay, host, &names)
    )))
}

fn outside_tunnel(overlay: &Overlay, routes: &[&Route]) -> Option<Diagnostic> {
    let first = routes.first()?;
    let names = names(routes);
    Some(warning(overlay, first, &names).help(format!(
        "packets from these pods arrive outside of the tunnel and are dropped as overlay-spoof; if \
         nodes on one LAN route without the tunnel (flannel's DirectRouting), write `direct = \
         true`; otherwise check which program added the route to {}",
        first.destination
    )))
}

/// Warns about routes through untrusted interfaces. Without a tunnel, packets from pods of other
/// nodes arrive by the route to the nodes.
fn plain_routes(
    overlay: &Overlay,
    host: &Host,
    routes: &[&Route],
    lan: &BTreeSet<&str>,
) -> Option<Diagnostic> {
    let is_believed = |name: &str| {
        let named = overlay.underlay.iter().any(|pattern| pattern.matches(name));
        overlay.by_route && (named || (overlay.underlay.is_empty() && lan.contains(name)))
    };
    let strange: Vec<&Route> = routes
        .iter()
        .copied()
        .filter(|route| !is_believed(&route.interface))
        .collect();
    let first = strange.first()?;
    let names = names(&strange);
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    Some(warning(overlay, first, &names).help(format!(
        "packets from pods that arrive there are dropped as overlay-spoof; write {} if only pods \
         are there, or `underlay = [{}]` if other nodes are reached through it",
        with_interfaces(overlay, host, &names),
        quoted.join(", ")
    )))
}

fn warning(overlay: &Overlay, first: &Route, names: &[String]) -> Diagnostic {
    let via = first
        .gateway
        .map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let listed = match names.len() > NAMES_MAX {
        true => format!(
            "{} and {} more",
            names[..NAMES_MAX].join(", "),
            names.len() - NAMES_MAX
        ),
        false => names.join(", "),
    };
    let what = format!(
        "routes into overlay `{}` leave by {listed}, which its `interfaces` do not list (the first \
         is {}{via})",
        overlay.name, first.destination
    );
    Diagnostic::warning(Code::RoutesOutsideOverlay, overlay.place.clone(), what)
}

/// Returns the interfaces of routes, with pods' interfaces as one pattern.
fn names(routes: &[&Route]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for route in routes {
        let prefix = PER_POD
            .iter()
            .find(|prefix| route.interface.starts_with(**prefix));
        let name = prefix.map_or_else(|| route.interface.clone(), |prefix| format!("{prefix}*"));
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Returns the line of the policy that adds these interfaces to the overlay. Missing interfaces are
/// removed unless they may appear later.
fn with_interfaces(overlay: &Overlay, host: &Host, more: &[String]) -> String {
    let missing = missing(&overlay.interfaces, host);
    // An existing flannel device replaces listed ones that are missing.
    let names_device = more.iter().any(|name| name.starts_with("flannel"));
    let stays = |each: &&InterfacePattern| {
        let is_device = each.to_string().starts_with("flannel");
        !missing.contains(each) || (comes_later(each) && !(is_device && names_device))
    };
    let old = overlay.interfaces.iter().filter(stays);
    let old = old.map(ToString::to_string);
    let quoted: Vec<String> = old
        .chain(more.iter().cloned())
        .map(|name| format!("\"{name}\""))
        .collect();
    format!("`interfaces = [{}]`", quoted.join(", "))
}

/// Returns the interfaces through which peers are reached.
fn interfaces_to_peers<'h>(policy: &Policy, host: &'h Host) -> BTreeSet<&'h str> {
    // By prefix, not `Host::route_to`: both lists can be long.
    let mut main: BTreeMap<IpNet, &str> = BTreeMap::new();
    for route in host
        .routes
        .iter()
        .filter(|route| route.table == RT_TABLE_MAIN)
    {
        main.entry(route.destination).or_insert(&route.interface);
    }
    let lookup = |address: IpNet| {
        let lens = (0..=address.max_prefix_len()).rev();
        let mut prefixes = lens.filter_map(|len| IpNet::new(address.addr(), len).ok());
        prefixes.find_map(|prefix| main.get(&prefix.trunc()).copied())
    };
    let addresses = policy.peers.iter().flat_map(|peer| &peer.addresses);
    addresses
        .filter_map(|address| lookup(address.net))
        .collect()
}

#[cfg(test)]
mod tests;
