//! Finds common problems in the original rules.

use super::Lint;
use crate::import::view::AcceptTable;
use crate::import::{Facts, classes};
use crate::net::addr::Family;
use crate::policy::{Policy, icmp};

/// Finds common problems.
pub(in crate::import) fn lints(
    views: &[AcceptTable<'_>],
    policy: &Policy,
    facts: &Facts,
) -> Vec<Lint> {
    let mut lints = Vec::new();
    let of = |family| views.iter().find(|view| view.family == family);
    for view in views {
        overlay_anywhere(view, policy, &mut lints);
        forward(view, policy, facts, &mut lints);
    }
    if let Some(v6) = of(Family::V6) {
        neighbours(v6, &mut lints);
    }
    alone(policy, &mut lints);
    forgotten(of(Family::V4), of(Family::V6), policy, &mut lints);
    node_ports(policy, &mut lints);
    let mut names: Vec<(&str, String)> = Vec::new();
    lints.retain(|lint| {
        let is_new = !names.contains(&(lint.name, lint.sentence.clone()));
        names.push((lint.name, lint.sentence.clone()));
        is_new
    });
    lints
}

fn overlay_anywhere(view: &AcceptTable<'_>, policy: &Policy, lints: &mut Vec<Lint>) {
    let stranger = view.interfaces.len().saturating_sub(1);
    for overlay in &policy.overlays {
        for subnet in &overlay.subnets {
            if Family::of(subnet.net.addr()) != view.family {
                continue;
            }
            let inside = view.within(crate::net::addr::bounds(subnet.net));
            let anywhere = inside
                .iter()
                .any(|s| (0..view.services.len()).all(|v| view.accepts(stranger, *s, v).is_some()));
            let through = inside.iter().any(|s| view.passes_all(stranger, *s));
            if anywhere || through {
                lints.push(Lint {
                    name: "overlay-anywhere",
                    sentence: format!(
                        "{} is accepted on every interface: packets that spoof such a source are \
                         accepted too",
                        subnet.net
                    ),
                    answer: format!(
                        "[overlay.{}] accepts it from {} only",
                        overlay.name,
                        names(&overlay.interfaces)
                    ),
                });
            }
            let interface = overlay.interfaces.first().map(|pattern| pattern.example());
            let position = view
                .interfaces
                .iter()
                .position(|name| Some(name) == interface.as_ref());
            let own = position.unwrap_or(stranger);
            let to_host = inside
                .iter()
                .any(|s| (0..view.services.len()).all(|v| view.accepts(own, *s, v).is_some()));
            if !inside.is_empty() && !to_host && overlay.tunnel.is_some() {
                lints.push(Lint {
                    name: "no-pod-network",
                    sentence: format!(
                        "pods of {} may not reach this host: kubelet, API server and host-network \
                         services are unreachable for them",
                        subnet.net
                    ),
                    answer: format!("[overlay.{}] accepts them", overlay.name),
                });
            }
        }
    }
}

fn names(patterns: &[crate::net::interface::InterfacePattern]) -> String {
    let names: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    names.join(" and ")
}

fn forward(view: &AcceptTable<'_>, policy: &Policy, facts: &Facts, lints: &mut Vec<Lint>) {
    let Some(chain) = view.rules.filter.get("FORWARD") else {
        return;
    };
    let cluster =
        !policy.overlays.is_empty() || !facts.pod_networks.is_empty() || policy.peers.len() > 1;
    let replies = view.replies_pass();
    if chain.accepts == Some(false) && !view.lets_through && cluster && !policy.peers.is_empty() {
        lints.push(Lint {
            name: "forward-empty",
            sentence: format!(
                "FORWARD accepts no new connections ({}): with pods, half of all requests hang",
                digit(view)
            ),
            answer: match policy.overlays.is_empty() {
                true => "peers are forwarded; if this host has pods, add their network as \
                    [overlay.NAME]"
                    .into(),
                false => "peers and pods are forwarded".into(),
            },
        });
    } else if view.lets_through && !replies {
        lints.push(Lint {
            name: "forward-without-replies",
            sentence: format!(
                "FORWARD drops replies ({}): a pod's own connection to the outside hangs, unless \
                 another program's rules hide it",
                digit(view)
            ),
            answer: "replies are accepted".into(),
        });
    }
}

fn digit(view: &AcceptTable<'_>) -> &'static str {
    match view.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn neighbours(view: &AcceptTable<'_>, lints: &mut Vec<Lint>) {
    let interface = view.interfaces.len().saturating_sub(1);
    let stranger = classes::stranger(Family::V6);
    let Some(source) = view.sources.iter().position(|s| s.example == stranger) else {
        return;
    };
    let refused = |kind: u8| {
        let service = view.icmp().find(|(_, k, _)| *k == kind).map(|(v, _, _)| v);
        service.is_some_and(|v| view.accepts(interface, source, v).is_none())
    };
    if refused(135) || refused(136) {
        lints.push(Lint {
            name: "no-neighbour-discovery",
            sentence: "ICMPv6 neighbour discovery is dropped: IPv6 stops when the neighbours' \
                entries expire"
                .into(),
            answer: "the safe core has it, with hop limit 255".into(),
        });
    } else if refused(icmp::errors(Family::V6)[1]) {
        lints.push(Lint {
            name: "no-packet-too-big",
            sentence: "ICMPv6 packet-too-big is dropped: large packets are lost silently".into(),
            answer: "the safe core has it".into(),
        });
    }
}

fn forgotten(
    v4: Option<&AcceptTable<'_>>,
    v6: Option<&AcceptTable<'_>>,
    policy: &Policy,
    lints: &mut Vec<Lint>,
) {
    let has = |family| {
        let mut addresses = policy.peers.iter().flat_map(|peer| &peer.addresses);
        addresses.any(|a| Family::of(a.net.addr()) == family)
    };
    match (v4, v6) {
        (Some(_), None) => lints.push(Lint {
            name: "ipv6-forgotten",
            sentence: "the files have no IPv6 rules: without rules, IPv6 is open".into(),
            answer:
                "the policy covers both families: for IPv6, it accepts allows from \"any\", and the \
                 safe core"
                    .into(),
        }),
        (None, Some(_)) => lints.push(Lint {
            name: "ipv4-forgotten",
            sentence: "the files have no IPv4 rules".into(),
            answer:
                "the policy covers both families: for IPv4, it accepts allows from \"any\", and the \
                 safe core"
                    .into(),
        }),
        (Some(_), Some(_)) if has(Family::V4) && !has(Family::V6) => lints.push(Lint {
            name: "ipv6-forgotten",
            sentence: "no peer has an IPv6 address: IPv6 between the machines is blocked".into(),
            answer: "add their IPv6 addresses to [peers]".into(),
        }),
        _ => {}
    }
}

fn alone(policy: &Policy, lints: &mut Vec<Lint>) {
    for overlay in &policy.overlays {
        if overlay.tunnel.is_some() && policy.peers.is_empty() {
            lints.push(Lint {
                name: "overlay-without-peers",
                sentence: "no rule has the other nodes' addresses: the allowed senders of tunnel \
                    packets are unknown"
                    .into(),
                answer: format!(
                    "name the other nodes under [peers], or their tunnel packets to [overlay.{}] \
                     are dropped",
                    overlay.name
                ),
            });
        }
    }
}

fn node_ports(policy: &Policy, lints: &mut Vec<Lint>) {
    for allow in &policy.allows {
        let any = allow.from.contains(&crate::policy::Source::Any) && allow.interfaces.is_empty();
        let wide = allow
            .ports
            .iter()
            .flatten()
            .filter_map(|spec| spec.range)
            .any(|range| range.first <= 30_000 && range.last >= 32_767);
        if any && wide {
            lints.push(Lint {
                name: "node-ports-open",
                sentence: "all NodePorts are open to any source".into(),
                answer: format!(
                    "[[allow]] {} still opens them; name the intended ports",
                    allow.name
                ),
            });
        }
    }
}
