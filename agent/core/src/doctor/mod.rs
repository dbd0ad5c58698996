//! What on a host keeps a policy from doing what its author expects: settings of the kernel, and
//! other programs.

pub mod hooks;
mod unseen;

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use crate::net::addr::Family;
use crate::net::host::Interface;
use crate::net::interface::InterfacePattern;
use crate::policy::{Mode, Policy};
pub use unseen::LogTrouble;

/// Settings of a host that decide about packets, besides rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding`; `None` if they cannot be read.
    pub forwarding: [Option<bool>; 2],
    /// `net.bridge.bridge-nf-call-iptables`; `None` without `br_netfilter`.
    pub bridge_calls: Option<bool>,
    /// Networks of pods that flannel configured on this host.
    pub pod_networks: Vec<IpNet>,
    /// Interfaces of this host.
    pub interfaces: Vec<Interface>,
    /// Names of bridges.
    pub bridges: Vec<String>,
    /// Interfaces with strict reverse path filter (`rp_filter` is 1 for them or for `all`).
    pub strict_reverse_path: Vec<String>,
    /// Number of tracked connections, and the highest possible one.
    pub connections: Option<(u64, u64)>,
    /// Whether some table of iptables-legacy is loaded.
    pub has_legacy: bool,
    /// Whether rules of peerwall are loaded; `None` if that cannot be read.
    pub is_loaded: Option<bool>,
    /// Whether an agent runs.
    pub has_agent: bool,
    /// Why the agent does not read the log of denied packets; `None` if it does, or if nothing is
    /// logged.
    pub log_trouble: Option<LogTrouble>,
    /// Addresses, with the interface, that did not answer ARP or neighbour discovery.
    pub silent_neighbours: Vec<(IpAddr, String)>,
    /// Configuration with which the kernel was built, as its build writes it (`.config`); `None` if
    /// that cannot be read.
    pub kernel_config: Option<String>,
}

/// Something that a user does not expect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// Stable name.
    pub code: &'static str,
    /// Whether packets are lost or accepted against the policy, as a rule.
    pub is_problem: bool,
    /// What there is.
    pub message: String,
    /// Why it matters here.
    pub why: String,
    /// What to do.
    pub help: String,
}

/// Share of the connection table in percent from which it is nearly full.
const NEARLY_FULL: u64 = 80;

/// Examines settings of a host for a policy.
pub fn findings(policy: &Policy, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(rules(settings));
    found.extend(audit(policy));
    found.extend(pods(policy, settings));
    for (family, forwarding) in Family::BOTH.into_iter().zip(settings.forwarding) {
        found.extend(not_forwarding(policy, family, forwarding));
    }
    found.extend(tunnels(policy, settings));
    found.extend(bridges(policy, settings));
    found.extend(reverse_path(policy, settings));
    found.extend(connections(settings));
    found.extend(unseen::log(settings));
    found.extend(unseen::silent_peers(policy, settings));
    found.extend(unseen::kernel(policy, settings));
    if settings.has_legacy {
        found.push(Finding {
            code: "iptables-legacy",
            is_problem: false,
            message: "tables of iptables-legacy are loaded".to_owned(),
            why: "their rules apply beside those of nftables and do not appear in `nft list \
                  ruleset` or in iptables-nft"
                .to_owned(),
            help: "list them with iptables-legacy-save and ip6tables-legacy-save".to_owned(),
        });
    }
    found
}

fn rules(settings: &Settings) -> Option<Finding> {
    if settings.is_loaded? {
        return (!settings.has_agent).then(|| Finding {
            code: "no-agent",
            is_problem: false,
            message: "no agent runs".to_owned(),
            why: "another program can remove or change the rules, and nothing repairs them"
                .to_owned(),
            help: "systemctl enable --now peerwall".to_owned(),
        });
    }
    Some(Finding {
        code: "not-loaded",
        is_problem: true,
        message: "no rules of peerwall are loaded".to_owned(),
        why: "the policy has no effect: everything that other firewalls do not drop is open"
            .to_owned(),
        help: "peerwall apply --confirm 60s".to_owned(),
    })
}

fn audit(policy: &Policy) -> Option<Finding> {
    (policy.options.mode != Mode::Enforce).then(|| Finding {
        code: "audit",
        is_problem: true,
        message: "the policy is in audit mode".to_owned(),
        why: "nothing is enforced: what the policy denies is counted and passes".to_owned(),
        help: "peerwall denied --suggest, then remove `mode = \"audit\"` from the policy"
            .to_owned(),
    })
}

/// Networks of pods that no overlay has.
fn pods(policy: &Policy, settings: &Settings) -> Option<Finding> {
    let is_known = |net: &IpNet| {
        let subnets = policy.overlays.iter().flat_map(|overlay| &overlay.subnets);
        subnets.clone().any(|subnet| subnet.net.contains(net))
    };
    let missing = settings.pod_networks.iter().filter(|net| !is_known(net));
    let missing: Vec<String> = missing.map(ToString::to_string).collect();
    (!missing.is_empty()).then(|| Finding {
        code: "pods-not-in-policy",
        is_problem: true,
        message: format!(
            "no overlay of the policy has flannel's network of pods, {}",
            missing.join(" and ")
        ),
        why: "packets from pods are denied, to this host and through it: requests that reach a \
              pod hang"
            .to_owned(),
        help: "add to the policy: [overlay.flannel] and below it discover = \
               \"/run/flannel/subnet.env\""
            .to_owned(),
    })
}

/// Bytes that VXLAN adds to a packet: Ethernet, VXLAN, UDP, and the outer IP header of each family
/// (RFC 7348).
const VXLAN_BYTES: [u32; 2] = [50, 70];

/// Tunnels and bridges of pods that accept larger packets than the tunnel can carry.
fn tunnels(policy: &Policy, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    for overlay in &policy.overlays {
        let is_its = |each: &&Interface| {
            let mut patterns = overlay.interfaces.iter();
            patterns.any(|pattern| pattern.matches(&each.name))
        };
        let its: Vec<&Interface> = settings.interfaces.iter().filter(is_its).collect();
        for tunnel in its
            .iter()
            .filter(|each| each.kind.as_deref() == Some("vxlan"))
        {
            found.extend(too_large_tunnel(settings, tunnel));
            let bridges = its
                .iter()
                .filter(|each| each.kind.as_deref() == Some("bridge"));
            found.extend(bridges.filter_map(|bridge| too_large_bridge(bridge, tunnel)));
        }
    }
    found
}

fn too_large_tunnel(settings: &Settings, tunnel: &Interface) -> Option<Finding> {
    let by_index = |index| settings.interfaces.iter().find(|each| each.index == index);
    let carrier = tunnel.carrier.and_then(by_index)?;
    let v6_only = carrier.addresses.iter().all(|net| net.addr().is_ipv6());
    let added = VXLAN_BYTES[usize::from(v6_only)];
    let (mtu, most) = (tunnel.mtu_bytes?, carrier.mtu_bytes?.checked_sub(added)?);
    (mtu > most).then(|| Finding {
        code: "tunnel-mtu",
        is_problem: true,
        message: format!(
            "{} has an MTU of {mtu}, and {} can carry packets of {most} in the tunnel",
            tunnel.name, carrier.name
        ),
        why:
            "the kernel drops larger packets, and tells their senders by ICMP; where that does not \
              arrive, connections between pods open, and hang when data flows"
                .to_owned(),
        help: format!("set the overlay's MTU to {most} or less, and restart the pods"),
    })
}

fn too_large_bridge(bridge: &Interface, tunnel: &Interface) -> Option<Finding> {
    let (mtu, most) = (bridge.mtu_bytes?, tunnel.mtu_bytes?);
    (mtu > most).then(|| Finding {
        code: "pods-mtu",
        is_problem: false,
        message: format!(
            "{} has an MTU of {mtu}, the tunnel {} one of {most}",
            bridge.name, tunnel.name
        ),
        why:
            "pods with the larger MTU learn from ICMP errors what the tunnel carries; where these \
              do not arrive, connections to other nodes open, and hang when data flows"
                .to_owned(),
        help: "recreate the bridge and the pods, so that they get the tunnel's MTU".to_owned(),
    })
}

fn not_forwarding(policy: &Policy, family: Family, forwarding: Option<bool>) -> Option<Finding> {
    let pods = policy.overlays.iter().find(|overlay| {
        let mut nets = overlay.subnets.iter();
        nets.any(|net| Family::of(net.net.addr()) == family)
    });
    let guests = policy.guests.first().filter(|_| family == Family::V4);
    if forwarding != Some(false) || (pods.is_none() && guests.is_none()) {
        return None;
    }
    let (name, key) = match family {
        Family::V4 => ("IPv4", "net.ipv4.ip_forward"),
        Family::V6 => ("IPv6", "net.ipv6.conf.all.forwarding"),
    };
    let who = match (pods, guests) {
        (Some(overlay), _) => format!("pods of overlay {}", overlay.name),
        (None, Some(guests)) => format!("guests on {guests}"),
        (None, None) => return None,
    };
    Some(Finding {
        code: "not-forwarding",
        is_problem: true,
        message: format!("this host does not forward {name}: {key} is 0"),
        why: format!("{who} reach nobody through this host, whatever the policy says"),
        help: format!("sysctl -w {key}=1, and the same in /etc/sysctl.d"),
    })
}

fn bridges(policy: &Policy, settings: &Settings) -> Vec<Finding> {
    let matches = |patterns: &[InterfacePattern], name: &str| {
        patterns.iter().any(|pattern| pattern.matches(name))
    };
    let is_overlay = |name: &str| {
        let mut overlays = policy.overlays.iter();
        overlays.any(|overlay| matches(&overlay.interfaces, name))
    };
    let is_known = |name: &str| {
        let lists = [
            &policy.trusted,
            &policy.guests,
            &policy.bridged,
            &policy.switches,
        ];
        is_overlay(name) || lists.iter().any(|list| matches(list, name))
    };
    let names = |keep: &dyn Fn(&str) -> bool| -> Vec<&str> {
        let names = settings.bridges.iter().map(String::as_str);
        names.filter(|name| keep(name)).collect()
    };
    let pods = names(&is_overlay);
    let others = names(&|name| !is_known(name));
    match (settings.bridge_calls, pods.as_slice(), others.as_slice()) {
        (Some(true), _, [_, ..]) => vec![Finding {
            code: "bridge-filtered",
            is_problem: false,
            message: format!(
                "frames that cross {} pass the forward hook: bridge-nf-call-iptables is 1",
                others.join(", ")
            ),
            why: "machines on such a bridge reach each other only as the policy allows".to_owned(),
            help: format!(
                "if that is not wanted: [interfaces] bridged = [\"{}\"]",
                others.join("\", \"")
            ),
        }],
        (None | Some(false), [_, ..], _) => vec![Finding {
            code: "bridge-not-filtered",
            is_problem: false,
            message: format!(
                "frames that cross {} do not pass iptables: bridge-nf-call-iptables is not 1",
                pods.join(", ")
            ),
            why: "with kube-proxy, replies between pods of one node bypass the translation of \
                  service addresses, and such connections hang"
                .to_owned(),
            help: "modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1"
                .to_owned(),
        }],
        _ => Vec::new(),
    }
}

fn reverse_path(policy: &Policy, settings: &Settings) -> Option<Finding> {
    let is_overlay = |name: &&String| {
        let mut overlays = policy.overlays.iter();
        overlays.any(|overlay| overlay.interfaces.iter().any(|own| own.matches(name)))
    };
    let names: Vec<&str> = settings
        .strict_reverse_path
        .iter()
        .filter(is_overlay)
        .map(String::as_str)
        .collect();
    (!names.is_empty()).then(|| Finding {
        code: "strict-reverse-path",
        is_problem: false,
        message: format!("rp_filter is 1 for {}", names.join(", ")),
        why: "the kernel silently drops packets whose reply would leave by another interface, as \
              with NodePorts of services on other nodes; no counter of peerwall shows them"
            .to_owned(),
        help: "sysctl -w net.ipv4.conf.all.rp_filter=0, and 2 or 0 for these interfaces; see \
               `nstat -az TcpExtIPReversePathFilter`"
            .to_owned(),
    })
}

fn connections(settings: &Settings) -> Option<Finding> {
    let (count, max) = settings.connections?;
    let is_nearly_full = max > 0 && count.saturating_mul(100) >= max.saturating_mul(NEARLY_FULL);
    is_nearly_full.then(|| Finding {
        code: "connection-table-full",
        is_problem: true,
        message: format!("the kernel tracks {count} connections, of at most {max}"),
        why: "when the table is full, the kernel drops every new connection, also of peers"
            .to_owned(),
        help: "sysctl -w net.netfilter.nf_conntrack_max=…, and look for the cause with `conntrack \
               -L`"
        .to_owned(),
    })
}

#[cfg(test)]
mod tests;
