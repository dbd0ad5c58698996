//! Finds common problems in the original rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Lint;
use crate::import::Facts;
use crate::import::rule::{ImportedRule, Test, Verb};
use crate::import::space::Space;
use crate::import::space::diagram::PacketSet;
use crate::import::view::View;
use crate::net::addr::{self, Family};
use crate::net::packet::{CtState, Hook};
use crate::net::port::TCP;
use crate::policy::{Policy, Target, icmp};
use crate::words::count;

/// Finds common problems.
pub(in crate::import) fn lints(
    spaces: &mut [Space<'_>],
    policy: &Policy,
    facts: &Facts,
) -> Vec<Lint> {
    let mut lints = Vec::new();
    let families: Vec<Family> = spaces.iter().map(|space| space.family).collect();
    for space in spaces {
        let mut view = View::new(space);
        overlay_anywhere(&mut view, policy, &mut lints);
        forward(&mut view, policy, facts, &mut lints);
        private_peers(&view, policy, &mut lints);
        redirects_others(&view, &mut lints);
        own_addresses(&view, policy, facts, &mut lints);
        if view.family == Family::V6 {
            neighbours(&mut view, &mut lints);
        }
    }
    alone(policy, &mut lints);
    forgotten(&families, policy, &mut lints);
    node_ports(policy, &mut lints);
    let mut names: Vec<(&str, String)> = Vec::new();
    lints.retain(|lint| {
        let is_new = !names.contains(&(lint.name, lint.sentence.clone()));
        names.push((lint.name, lint.sentence.clone()));
        is_new
    });
    lints
}

fn overlay_anywhere(view: &mut View<'_, '_>, policy: &Policy, lints: &mut Vec<Lint>) {
    let stranger = view.unnamed_interface();
    for overlay in &policy.overlays {
        let own = view.space.on(&overlay.interfaces);
        for subnet in &overlay.subnets {
            if Family::of(subnet.net.addr()) != view.family {
                continue;
            }
            let from = view.from(addr::bounds(subnet.net));
            let anywhere = view.is_some_source_open(from, stranger);
            let through = view.is_some_source_passed(from, stranger);
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
            if !view.is_some_source_open(from, own) && overlay.tunnel.is_some() {
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

impl View<'_, '_> {
    /// Reports whether the rules accept every request of some of these sources there.
    fn is_some_source_open(&mut self, from: PacketSet, on: PacketSet) -> bool {
        let axis = self.space.axes.source;
        let d = &mut self.space.d;
        let refused = d.and(self.refused, on);
        let refused = d.project(refused, &[axis]);
        let there = d.and(self.requests, on);
        let there = d.and(there, from);
        !d.is_within(there, refused)
    }

    /// Reports whether the rules forward every first packet of some of these sources from there.
    fn is_some_source_passed(&mut self, from: PacketSet, on: PacketSet) -> bool {
        let axis = self.space.axes.source;
        let d = &mut self.space.d;
        let stopped = d.and(self.stopped, on);
        let stopped = d.project(stopped, &[axis]);
        let there = d.and(self.transit, on);
        let there = d.and(there, from);
        !d.is_within(there, stopped)
    }

    /// Reports whether some connection through this host is accepted.
    fn lets_through(&mut self) -> bool {
        !self.space.d.is_within(self.transit, self.stopped)
    }

    /// Reports whether replies to hosts behind this one are forwarded.
    fn replies_pass(&mut self) -> bool {
        let site = self.space.site(Hook::Forward).clone();
        let on = self.unnamed_interface();
        let stranger = addr::number(crate::import::view::stranger(self.family));
        let from = self.from((stranger, stranger));
        let (axes, d) = (&self.space.axes, &mut self.space.d);
        let known = axes.states(d, &[CtState::Established]);
        let tcp = axes.protocols(d, |number| number == TCP);
        let parts = [known, tcp, on, from, site.walked.accepted];
        let replies = parts
            .into_iter()
            .fold(PacketSet::ALL, |all, part| d.and(all, part));
        !replies.is_none()
    }
}

fn names(patterns: &[crate::net::interface::InterfacePattern]) -> String {
    let names: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    names.join(" and ")
}

fn forward(view: &mut View<'_, '_>, policy: &Policy, facts: &Facts, lints: &mut Vec<Lint>) {
    let rules = view.space.rules;
    let mut chains = rules
        .paths
        .forward
        .iter()
        .filter_map(|name| rules.filter.get(name));
    let Some(chain) = chains.next() else {
        return;
    };
    let cluster =
        !policy.overlays.is_empty() || !facts.pod_networks.is_empty() || policy.peers.len() > 1;
    let replies = view.replies_pass();
    let lets_through = view.lets_through();
    if chain.accepts == Some(false) && !lets_through && cluster && !policy.peers.is_empty() {
        lints.push(Lint {
            name: "forward-empty",
            sentence: format!(
                "FORWARD accepts no new connections ({}): with pods, half of all requests hang",
                digit(view.family)
            ),
            answer: match policy.overlays.is_empty() {
                true => "peers are forwarded; if this host has pods, add their network as \
                    [overlay.NAME]"
                    .into(),
                false => "peers and pods are forwarded".into(),
            },
        });
    } else if lets_through && !replies {
        lints.push(Lint {
            name: "forward-without-replies",
            sentence: format!(
                "FORWARD drops replies ({}): a pod's own connection to the outside hangs, unless \
                 another program's rules hide it",
                digit(view.family)
            ),
            answer: "replies are accepted".into(),
        });
    }
}

/// Asks about private networks that became peers beside public addresses: they may be pods.
fn private_peers(view: &View<'_, '_>, policy: &Policy, lints: &mut Vec<Lint>) {
    let peers = policy.peers.iter().flat_map(|peer| &peer.addresses);
    let nets: Vec<ipnet::IpNet> = peers
        .map(|address| address.net)
        .filter(|net| Family::of(net.addr()) == view.family)
        .collect();
    let is_private = |net: &ipnet::IpNet| crate::import::networks::is_private(view.family, *net);
    let is_host = |net: &ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
    if !nets.iter().any(|net| is_host(net) && !is_private(net)) {
        return;
    }
    for net in nets.iter().filter(|net| !is_host(net) && is_private(net)) {
        lints.push(Lint {
            name: "private-peers",
            sentence: format!(
                "{net} is private, beside peers with public addresses: are these machines, or pods?"
            ),
            answer: "they are peers, accepted on every interface; if they are pods, write their \
                network as [overlay.NAME] instead"
                .into(),
        });
    }
}

fn digit(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn neighbours(view: &mut View<'_, '_>, lints: &mut Vec<Lint>) {
    let on = view.unnamed_interface();
    let mut refused = |kind: u8| {
        let these = view.space.axes.icmp(&mut view.space.d, &[(kind, None)]);
        let these = view.space.d.and(these, on);
        let refused = view.space.d.or(view.refused, view.unheard);
        view.space.d.meets(these, refused)
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

fn forgotten(families: &[Family], policy: &Policy, lints: &mut Vec<Lint>) {
    let has = |family| {
        let mut addresses = policy.peers.iter().flat_map(|peer| &peer.addresses);
        addresses.any(|a| Family::of(a.net.addr()) == family)
    };
    match (families.contains(&Family::V4), families.contains(&Family::V6)) {
        (true, false) => lints.push(Lint {
            name: "ipv6-forgotten",
            sentence: "the files have no IPv6 rules: without rules, IPv6 is open".into(),
            answer:
                "the policy covers both families: for IPv6, it accepts allows from \"any\", and the \
                 safe core"
                    .into(),
        }),
        (false, true) => lints.push(Lint {
            name: "ipv4-forgotten",
            sentence: "the files have no IPv4 rules".into(),
            answer:
                "the policy covers both families: for IPv4, it accepts allows from \"any\", and the \
                 safe core"
                    .into(),
        }),
        (true, true) if has(Family::V4) && !has(Family::V6) => lints.push(Lint {
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

/// Finds redirections that are not only for connections to this host.
fn redirects_others(view: &View<'_, '_>, lints: &mut Vec<Lint>) {
    let rules = view.space.rules;
    let bases = rules.paths.prerouting.iter().flatten();
    let mut all = bases
        .filter_map(|name| rules.nat.get(name))
        .flat_map(|chain| &chain.rules);
    let names_host = |rule: &ImportedRule| {
        let is_named = |test: &Test| matches!(test, Test::Destination(_) | Test::To(_));
        rule.conditions.iter().any(|each| is_named(&each.test))
    };
    if all.any(|rule| matches!(rule.target, Verb::Dnat(None, _)) && !names_host(rule)) {
        lints.push(Lint {
            name: "redirects-others",
            sentence: "a REDIRECT without a destination also takes connections through this host, \
                       as a transparent proxy does"
                .into(),
            answer: "the policy accepts redirected connections to this host's addresses only; \
                     those to others are closed, which the differences do not list"
                .into(),
        });
    }
}

/// Finds addresses that only the rules say are this host's.
fn own_addresses(view: &View<'_, '_>, policy: &Policy, facts: &Facts, lints: &mut Vec<Lint>) {
    let is_alone = |net: &IpNet| {
        let (address, known) = (net.addr(), &facts.addresses);
        let is_of_host = known.iter().any(|own| own.addr() == address);
        let is_one = net.prefix_len() == net.max_prefix_len() && !address.is_multicast();
        is_one && Family::of(address) == view.family && !is_of_host && is_named(view, address)
    };
    let targets = policy.allows.iter().flat_map(|allow| &allow.to);
    let nets = targets.filter_map(|target| match target {
        Target::Net(net) => Some(*net),
        Target::Host | Target::Group(_) | Target::Overlay(_) => None,
    });
    let found: BTreeSet<IpAddr> = nets.filter(is_alone).map(|net| net.addr()).collect();
    let names: Vec<String> = found.iter().map(IpAddr::to_string).collect();
    let Some((first, more)) = names.split_first() else {
        return;
    };
    let list = match more.len() {
        0 => first.clone(),
        more => format!("{first} and {}", count(more, "other address")),
    };
    lints.push(Lint {
        name: "addresses-by-rules",
        sentence: format!("{list}: taken as this host's, because INPUT names them"),
        answer: "if another host has one of them, as with a floating address, its allow also \
                 accepts packets through this host"
            .into(),
    });
}

fn is_named(view: &View<'_, '_>, address: IpAddr) -> bool {
    let number = addr::number(address);
    let mut named = view.space.named.iter();
    named.any(|(first, last)| *first == number && *last == number)
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
