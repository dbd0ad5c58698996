//! Facts of the host that become part of a policy: the interfaces of routes to peers and pods, the
//! host's own networks, and the Ethernet addresses of peers.
//!
//! Without a [`Host`], as in `check` on another machine, these facts are unknown and produce no
//! rules.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::context::Context;
use crate::diagnostic::{Code, Diagnostic};
use crate::net::addr;
use crate::net::host::{Host, Interface};
use crate::net::interface::InterfacePattern;
use crate::policy::{Facing, Overlay, Policy};

/// Interfaces to which service addresses are added: by kube-proxy in IPVS mode, and by kube-router.
const SERVICE_INTERFACES: [&str; 2] = ["kube-ipvs0", "kube-dummy-if"];
/// Drivers of tunnel interfaces (`IFLA_INFO_KIND`).
const TUNNEL_KINDS: [&str; 9] = [
    "vxlan",
    "wireguard",
    "ipip",
    "ip6tnl",
    "tun",
    "gre",
    "ip6gre",
    "geneve",
    "sit",
];
/// Prefixes of tunnel names, for interfaces that do not exist yet.
const TUNNEL_NAMES: [&str; 9] = [
    "flannel",
    "vxlan",
    "wireguard",
    "wg",
    "tunl",
    "tun",
    "ipip",
    "gre",
    "geneve",
];

pub(super) fn apply_host(cx: &mut Context<'_>) {
    let host = cx.files.host();
    let host = cx.known(host);
    let policy = &mut cx.draft.policy;
    for overlay in &mut policy.overlays {
        overlay.tunnel_side = tunnels(overlay, host.as_ref());
    }
    let Some(host) = host else { return };
    let peers = policy.peers.iter().flat_map(|peer| &peer.addresses);
    let found = Facing::new(&host, peers.map(|address| address.net));
    let facing = found.names();
    if !policy.sources.is_empty() {
        policy.facing = found;
    }
    if !policy.allows.is_empty() {
        policy.services = services(&host);
    }
    let peer_macs = peer_macs(policy, &host);
    for overlay in &mut policy.overlays {
        overlay.lan_side = lan_side(overlay, &facing);
        overlay.routed = routed(overlay, &host, &facing);
        overlay.by_route |= overlay
            .interfaces
            .iter()
            .any(|own| overlay.is_by_route_only(own));
        overlay.carved = carved(overlay, &host);
        if overlay.unmasqueraded {
            overlay.peer_macs.clone_from(&peer_macs);
        }
    }
    policy.switches = switches(policy, &host, &facing);
    warn_of_carved(cx);
}

fn warn_of_carved(cx: &mut Context<'_>) {
    for overlay in &cx.draft.policy.overlays {
        for net in &overlay.carved {
            let subnet = overlay.subnets.iter().find(|s| s.net.contains(net));
            let place = subnet.map_or(&overlay.place, |subnet| &subnet.place);
            let left: Vec<String> = addr::subtract(subnet.map_or(*net, |s| s.net), &[*net])
                .into_iter()
                .take(9)
                .map(|net| format!("\"{net}\""))
                .collect();
            let help = match left.len() {
                0 | 9 => "give the pods a separate network, and write that one".to_owned(),
                _ => format!("write subnets = [{}]", left.join(", ")),
            };
            cx.diagnostics.push(
                Diagnostic::warning(
                    Code::HostNetworkInOverlay,
                    place.clone(),
                    format!(
                        "{net} is a network of this host inside overlay `{}`; its addresses are \
                         not treated as pods",
                        overlay.name
                    ),
                )
                .help(help),
            );
        }
    }
}

/// Returns the addresses of cluster services on this host.
fn services(host: &Host) -> Vec<IpNet> {
    let names = SERVICE_INTERFACES.iter();
    let interfaces = names.filter_map(|name| host.interface(name));
    let addresses = interfaces.flat_map(|each| &each.addresses);
    let mut found: Vec<IpNet> = addresses
        .map(|net| IpNet::from(net.addr()))
        .filter(|net| !is_link_local(*net))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn is_link_local(net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }
}

/// Returns the tunnels among an overlay's interfaces: by driver, or by name if the interface does
/// not exist.
fn tunnels(overlay: &Overlay, host: Option<&Host>) -> Vec<InterfacePattern> {
    if overlay.tunnel.is_none() {
        return Vec::new();
    }
    let is_tunnel = |pattern: &&InterfacePattern| {
        let there: Vec<&Interface> = host
            .into_iter()
            .flat_map(|host| &host.interfaces)
            .filter(|each| pattern.matches(&each.name))
            .collect();
        let by_kind = |each: &&Interface| {
            let kind = each.kind.as_deref();
            kind.is_some_and(|kind| TUNNEL_KINDS.contains(&kind))
        };
        match (there.is_empty(), pattern) {
            (false, _) => there.iter().all(by_kind),
            (true, InterfacePattern::Exact(name) | InterfacePattern::Prefix(name)) => {
                TUNNEL_NAMES.iter().any(|start| name.starts_with(start))
            }
        }
    };
    overlay
        .interfaces
        .iter()
        .filter(is_tunnel)
        .cloned()
        .collect()
}

/// Returns bridges that are not in the policy and that belong to a LAN: those through which peers
/// are reached, and those without an address or route of this host, which can only be switches.
fn switches(policy: &Policy, host: &Host, facing: &BTreeSet<String>) -> Vec<InterfacePattern> {
    let has = |patterns: &[InterfacePattern], name: &str| patterns.iter().any(|p| p.matches(name));
    let is_pods = |name: &str| {
        let mut overlays = policy.overlays.iter();
        overlays.any(|o| has(&o.interfaces, name) && !has(&o.lan_side, name))
    };
    let is_named = |name: &str| {
        let lists = [&policy.trusted, &policy.guests, &policy.bridged];
        lists.into_iter().any(|list| has(list, name)) || is_pods(name)
    };
    let is_switch = |each: &&Interface| {
        let mut addresses = each.addresses.iter();
        let has_routes = || {
            host.routes
                .iter()
                .any(|route| route.interface == each.name && !is_link_local(route.destination))
        };
        let is_unused = addresses.all(|net| is_link_local(*net)) && !has_routes();
        each.kind.as_deref() == Some("bridge")
            && (is_unused || facing.contains(&each.name))
            && !is_named(&each.name)
    };
    let found = host.interfaces.iter().filter(is_switch);
    let mut found: Vec<InterfacePattern> = found
        .map(|each| InterfacePattern::Exact(each.name.clone()))
        .collect();
    found.sort();
    found
}

fn lan_side(overlay: &Overlay, facing: &BTreeSet<String>) -> Vec<InterfacePattern> {
    let tunnels = &overlay.tunnel_side;
    let is_lan = |pattern: &&InterfacePattern| {
        !tunnels.contains(pattern) && facing.iter().any(|name| pattern.matches(name))
    };
    overlay.interfaces.iter().filter(is_lan).cloned().collect()
}

/// Returns the routes to pods of other nodes, on the interfaces where routes are trusted, without
/// default routes.
fn routed(overlay: &Overlay, host: &Host, facing: &BTreeSet<String>) -> Vec<(String, IpNet)> {
    let is_pods = |net: IpNet| {
        let mut subnets = overlay.subnets.iter();
        net.prefix_len() > 0 && subnets.any(|subnet| subnet.net.contains(&net))
    };
    let believed = |name: &str| {
        let mut own = overlay.interfaces.iter().filter(|own| own.matches(name));
        let named = overlay.underlay.iter().any(|pattern| pattern.matches(name));
        let underlay = named || (overlay.underlay.is_empty() && facing.contains(name));
        match own.next() {
            Some(first) => {
                overlay.is_by_route_only(first) || own.any(|o| overlay.is_by_route_only(o))
            }
            None => overlay.by_route && underlay,
        }
    };
    let found: BTreeSet<(String, IpNet)> = host
        .routes
        .iter()
        .filter(|route| is_pods(route.destination) && believed(&route.interface))
        .map(|route| (route.interface.clone(), route.destination))
        .collect();
    found.into_iter().collect()
}

/// Returns the networks within an overlay's subnets in which this host has an address on another
/// interface. The kernel treats their addresses as neighbours, not as pods.
fn carved(overlay: &Overlay, host: &Host) -> Vec<IpNet> {
    let elsewhere = host.interfaces.iter().filter(|each| {
        let own = overlay.interfaces.iter().any(|own| own.matches(&each.name));
        !SERVICE_INTERFACES.contains(&each.name.as_str()) && each.name != "lo" && !own
    });
    let within = |net: &IpNet| {
        let mut subnets = overlay.subnets.iter();
        // A packet from outside cannot have a host's own address as its source.
        net.prefix_len() < net.max_prefix_len()
            && subnets.any(|subnet| subnet.net.contains(net) && subnet.net != *net)
    };
    let nets = elsewhere.flat_map(|each| &each.addresses).map(IpNet::trunc);
    let found: BTreeSet<IpNet> = nets.filter(within).collect();
    found.into_iter().collect()
}

/// Returns the Ethernet addresses of neighbours that are peers.
fn peer_macs(policy: &Policy, host: &Host) -> Vec<[u8; 6]> {
    if !policy.depends_on_neighbours() {
        return Vec::new();
    }
    let peers = policy.peer_addresses();
    let of_peers = host
        .neighbours
        .iter()
        .filter(|each| peers.contains(each.address));
    let found: BTreeSet<[u8; 6]> = of_peers.map(|each| each.mac).collect();
    found.into_iter().collect()
}
