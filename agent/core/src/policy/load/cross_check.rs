//! Checks of the whole policy: overlaps, duplicates, contradictions.

use std::collections::{BTreeMap, BTreeSet};

use super::context::Context;
use super::nets::Nets;
use super::{COMPARISONS_MAX, has_errors};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::net::addr;
use crate::policy::{Address, Allow, Group, Overlay, Policy, Source};

/// Limit on warnings of one kind. A long list can have thousands of mistakes.
const WARNINGS_MAX: usize = 8;

/// Adds the diagnostics of all checks.
pub(super) fn cross_check(cx: &mut Context<'_>) {
    let policy = &cx.draft.policy;
    let interfaces = cx.draft.interfaces.as_ref().unwrap_or(&cx.start);
    for found in [
        overlay_overlaps(&policy.overlays),
        peers_in_overlays(policy),
        repeated_addresses(policy),
        shadowed_allows(&policy.allows),
        roles_of_interfaces(policy, interfaces),
    ] {
        cx.diagnostics.extend(found);
    }
    let nobody = policy.peers.is_empty()
        && !policy.sources.iter().any(|source| source.are_peers)
        && policy.allows.is_empty()
        && policy.trusted.is_empty();
    if nobody && !has_errors(&cx.diagnostics) {
        cx.diagnostics.push(
            Diagnostic::warning(
                Code::NobodyAllowed,
                cx.start.clone(),
                "this policy accepts connections from no other host",
            )
            .help("add peers under [peers], or open a port with [[allow]]"),
        );
    }
}

fn overlay_overlaps(overlays: &[Overlay]) -> Vec<Diagnostic> {
    let nets = Nets::of_overlays(overlays);
    let mut found = Vec::new();
    for (one, other) in nets.overlaps() {
        // The error is at the later one.
        let ((at, first), (again, second)) = match one < other {
            true => (one, other),
            false => (other, one),
        };
        let (name, subnet) = (&overlays[at].name, &overlays[at].subnets[first]);
        let later = &overlays[again].subnets[second];
        let message = match at == again {
            true => format!("{} and {} overlap", subnet.net, later.net),
            false => format!("overlays `{name}` and `{}` overlap", overlays[again].name),
        };
        found.push(
            Diagnostic::error(Code::OverlapsOverlay, later.place.clone(), message)
                .also(subnet.place.clone(), "with this")
                .help("each address may be in one overlay, and be listed once"),
        );
    }
    found
}

fn peers_in_overlays(policy: &Policy) -> Vec<Diagnostic> {
    let nets = Nets::of_overlays(&policy.overlays);
    let mut found = Vec::new();
    for address in policy.peers.iter().flat_map(|p| &p.addresses) {
        if let Some((at, subnet)) = nets.inside(address.net) {
            let overlay = &policy.overlays[at];
            let subnet = &overlay.subnets[subnet];
            found.push(
                Diagnostic::error(
                    Code::OverlapsOverlay,
                    address.place.clone(),
                    format!(
                        "peer {} contains {} of overlay `{}`",
                        address.net, subnet.net, overlay.name
                    ),
                )
                .also(
                    subnet.place.clone(),
                    "these would be accepted on every interface",
                )
                .help("a peer is a machine: write the addresses of the machines only"),
            );
        }
        let Some((at, subnet)) = nets.around(address.net) else {
            continue;
        };
        let overlay = &policy.overlays[at];
        if !overlay
            .carved
            .iter()
            .any(|hole| hole.contains(&address.net))
        {
            found.push(
                Diagnostic::error(
                    Code::OverlapsOverlay,
                    address.place.clone(),
                    format!("this peer's address is in overlay `{}`", overlay.name),
                )
                .also(overlay.subnets[subnet].place.clone(), "contains it")
                .help("a peer is a machine: write its address outside of the overlay"),
            );
        }
    }
    found
}

fn repeated_addresses(policy: &Policy) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let written = policy.peers.iter().filter(|peer| !peer.is_member);
    repeated(written.flat_map(|peer| &peer.addresses), &mut found);
    // Members are different addresses, and those of a source of peers are in its group, too.
    let is_written = |group: &&Group| !policy.sources.iter().any(|each| each.name == group.name);
    for group in policy.groups.iter().filter(is_written) {
        repeated(group.addresses.iter(), &mut found);
    }
    found
}

/// Finds interfaces with two roles.
fn roles_of_interfaces(policy: &Policy, place: &Place) -> Vec<Diagnostic> {
    let overlays = policy.overlays.iter().flat_map(|overlay| {
        overlay
            .interfaces
            .iter()
            .map(|p| (p, overlay.name.as_str()))
    });
    let overlays: BTreeMap<_, _> = overlays.collect();
    let trusted: BTreeSet<_> = policy.trusted.iter().collect();
    let mut found = Vec::new();
    for pattern in &policy.guests {
        if trusted.contains(pattern) {
            found.push(format!("`{pattern}` is both trusted and a guest network"));
        }
        if let Some(name) = overlays.get(pattern) {
            found.push(format!(
                "`{pattern}` is both an interface of overlay `{name}` and a guest network"
            ));
        }
    }
    let as_error = |message| {
        Diagnostic::error(Code::InterfaceRoles, place.clone(), message)
            .help("list it in one place only")
    };
    found.into_iter().map(as_error).collect()
}

/// Finds allows that an earlier allow without conditions covers.
fn shadowed_allows(allows: &[Allow]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut open: Vec<&Allow> = Vec::new();
    let mut comparisons = COMPARISONS_MAX;
    for allow in allows {
        let covers = |earlier: &&&Allow| {
            let ports = match (&earlier.ports, &allow.ports) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(all), Some(some)) => some.iter().all(|spec| spec_covered(spec, all)),
            };
            let same = earlier.limit.is_none()
                && earlier.from_ports.is_none()
                && allow.to.iter().all(|target| earlier.to.contains(target));
            ports && same
        };
        let count = |allow: &Allow| allow.ports.as_ref().map_or(1, Vec::len);
        let affordable = open.iter().take_while(|earlier| {
            let cost = count(allow).saturating_mul(count(earlier)).max(1);
            let is_affordable = cost <= comparisons;
            comparisons = comparisons.saturating_sub(cost);
            is_affordable
        });
        if let Some(earlier) = affordable.into_iter().find(covers) {
            found.push(
                Diagnostic::warning(
                    Code::AllowUnreachable,
                    allow.place.clone(),
                    format!("allow `{}` can never match", allow.name),
                )
                .also(
                    earlier.place.clone(),
                    format!("`{}` accepts every source on the same ports", earlier.name),
                )
                .help("remove one of them"),
            );
        }
        if allow.interfaces.is_empty() && allow.from.contains(&Source::Any) {
            open.push(allow);
        }
    }
    found
}

fn spec_covered(spec: &crate::net::port::PortSpec, by: &[crate::net::port::PortSpec]) -> bool {
    spec.protocols.iter().all(|protocol| {
        by.iter().any(|wide| {
            wide.protocols.contains(protocol)
                && match (wide.range, spec.range) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(w), Some(s)) => w.first <= s.first && s.last <= w.last,
                }
        })
    })
}

fn repeated<'a>(addresses: impl Iterator<Item = &'a Address>, found: &mut Vec<Diagnostic>) {
    // Sorted because a list can have a hundred thousand entries; reported in the order of the file.
    let mut sorted: Vec<(u128, u8, &Address)> = addresses
        .map(|address| {
            (
                addr::number(address.net.addr()),
                address.net.prefix_len(),
                address,
            )
        })
        .collect();
    let order = |a: &(u128, u8, &Address)| (a.0, a.1, a.2.net.max_prefix_len());
    sorted.sort_by_key(order);
    let same = |pair: &[(u128, u8, &'a Address)]| match pair {
        [(.., first), (.., again)] if first.net == again.net => Some((*first, *again)),
        _ => None,
    };
    let mut pairs: Vec<(&Address, &Address)> = sorted.windows(2).filter_map(same).collect();
    pairs.sort_by_key(|(_, again)| (again.place.file, again.place.span.start));
    for (first, again) in pairs.into_iter().take(WARNINGS_MAX) {
        let text = addr::short(again.net);
        found.push(
            Diagnostic::warning(
                Code::ListedTwice,
                again.place.clone(),
                format!("`{text}` is listed twice"),
            )
            .label("again here")
            .also(first.place.clone(), "first here")
            .help("remove one of them"),
        );
    }
}
