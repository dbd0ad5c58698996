//! Describes differences in sentences.

use std::collections::{BTreeMap, BTreeSet};

use super::detail::detail;
use super::{DiffKey, Direction};
use crate::import::rule::Interval;
use crate::import::space::Space;
use crate::import::space::axes::{LO, SOME_PROTOCOL};
use crate::import::space::diagram::PacketSet;
use crate::import::spans::{is_inside, subtract};
use crate::net::addr::{self, Family};
use crate::net::packet::Hook;
use crate::net::port::has_ports;
use crate::policy::Policy;
use crate::policy::reason::Reason;

/// Describes a group of differing packets.
pub(super) fn sentence(
    space: &mut Space<'_>,
    sources: &Names,
    policy: &Policy,
    key: &DiffKey,
    packets: &PacketSet,
) -> String {
    let packets = *packets;
    let change = match key.change {
        Direction::Closed => "closed",
        Direction::New => "new",
    };
    let family = match space.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let who = sources.who(space, packets);
    let detail = detail(space, key.hook, packets);
    let what = format!("{}{detail}", what(space, packets));
    let on = on(space, packets);
    let way = match key.hook {
        Hook::Input => "to this host",
        Hook::Forward => "through this host",
    };
    let said = match (&key.reason, key.change) {
        (Reason::Established, Direction::New) => {
            let whose = match (key.hook, policy.overlays.is_empty()) {
                (Hook::Input, _) => "this host's own",
                (Hook::Forward, false) => "pods' own",
                (Hook::Forward, true) => "accepted",
            };
            let hook = if key.hook == Hook::Input {
                "INPUT"
            } else {
                "FORWARD"
            };
            format!("replies to {whose} connections pass {hook} ({family})")
        }
        (Reason::Loopback, Direction::New) => {
            format!(
                "this host's own packets on lo from {who} ({})",
                entry(&key.reason)
            )
        }
        (Reason::OverlaySpoof, Direction::Closed) => {
            format!("{who}{on}: pods' addresses are accepted only on the overlay's interfaces")
        }
        (Reason::OverlayInject, Direction::Closed) => {
            format!("{what} from {who} {way}: only peers may send tunnel packets")
        }
        (Reason::Invalid, Direction::Closed) => {
            format!("packets without a known connection from {who}{on} {way} ({family})")
        }
        (reason @ (Reason::Peers | Reason::Overlay(_) | Reason::Trusted), Direction::New) => {
            let what = if what == "everything" {
                "everything"
            } else {
                "everything else"
            };
            format!("{what} from {who}{on} {way} ({})", entry(reason))
        }
        (reason, Direction::New) => {
            format!("{what} from {who}{on} {way} ({})", entry(reason))
        }
        (_, Direction::Closed) => format!("{what} from {who}{on} {way}"),
    };
    format!("{change}: {said}")
}

/// Names the policy's entry for a reason.
pub(in crate::import) fn entry(reason: &Reason) -> String {
    match reason {
        Reason::Peers => "[peers]".into(),
        Reason::Overlay(name) => format!("[overlay.{name}]"),
        Reason::Allow(name) => format!("[[allow]] {name}"),
        Reason::Trusted => "[interfaces] trusted".into(),
        Reason::Bridged => "[interfaces] bridged".into(),
        Reason::Guests => "[interfaces] guests".into(),
        Reason::Ping => "[icmp] ping".into(),
        Reason::Established
        | Reason::Loopback
        | Reason::LoopbackSpoof
        | Reason::Redirect
        | Reason::RouterAdvert
        | Reason::PeerSpoof
        | Reason::OverlaySpoof
        | Reason::OverlayInject
        | Reason::GuestBlocked
        | Reason::Icmp
        | Reason::Dhcp
        | Reason::Invalid
        | Reason::ServiceAddress
        | Reason::InputDefault
        | Reason::ForwardDefault => format!("safe core: {}", reason.sentence()),
    }
}

/// Names for sources: the prefixes in the files.
pub(super) struct Names {
    /// Sources in rules, the widest first.
    literals: Vec<Interval>,
    /// All sources that other hosts can have.
    ordinary: Vec<Interval>,
    family: Family,
}

impl Names {
    pub(super) fn new(space: &Space<'_>) -> Self {
        let rules = space.rules.filter.values().flat_map(|chain| &chain.rules);
        let mut literals: Vec<Interval> = rules.flat_map(|rule| rule.all_sources()).collect();
        let masqueraded = crate::import::networks::masqueraded(space.rules);
        literals.extend(masqueraded.iter().map(|(net, _, _)| addr::bounds(*net)));
        literals.sort_by_key(|(first, last)| (std::cmp::Reverse(last - first), *first));
        literals.dedup();
        Self {
            literals,
            ordinary: ordinary(space.family),
            family: space.family,
        }
    }

    /// Describes sources by prefixes in the files, or by those that are excluded.
    fn who(&self, space: &mut Space<'_>, packets: PacketSet) -> String {
        let spans = space.sources_of(packets);
        let missing = subtract(&self.ordinary, &spans);
        if missing.is_empty() {
            return "any source".into();
        }
        let (mut names, others) = self.named(&spans);
        if !others {
            return few(names);
        }
        let (but, unnamed) = self.named(&missing);
        if !unnamed && !but.is_empty() {
            return format!("any source except {}", few(but));
        }
        names.push(if names.is_empty() {
            "others".into()
        } else {
            "all others".into()
        });
        few(names)
    }

    /// Returns names for sources, and whether some remain without a name.
    fn named(&self, spans: &[Interval]) -> (Vec<String>, bool) {
        let name = |span: Interval| match addr::prefix(self.family, span.0, span.1) {
            Some(net) => addr::short(net),
            None => format!(
                "{}-{}",
                addr::address(self.family, span.0),
                addr::address(self.family, span.1)
            ),
        };
        // The widest come first: a literal within one that was chosen is not named again.
        let mut chosen: BTreeMap<u128, u128> = BTreeMap::new();
        let mut names = Vec::new();
        for (first, last) in &self.literals {
            let before = chosen.range(..=first).next_back();
            let is_named = before.is_some_and(|(_, end)| last <= end);
            if !is_named && is_inside(spans, (*first, *last)) {
                chosen.insert(*first, *last);
                names.push(name((*first, *last)));
            }
        }
        let chosen: Vec<Interval> = chosen.into_iter().collect();
        let mut left = subtract(spans, &chosen);
        // Addresses that only the kernel tells apart, such as link-local ones.
        for special in special(self.family) {
            if is_inside(&left, special) {
                left = subtract(&left, &[special]);
                names.push(name(special));
            }
            // Such as 0.0.0.0, which is of the type broadcast.
            let is_one = |span: &Interval| span.0 == span.1 && is_inside(&[special], *span);
            let parts: Vec<Interval> = left.iter().copied().filter(is_one).collect();
            left = subtract(&left, &parts);
            names.extend(parts.into_iter().map(name));
        }
        (names, !left.is_empty())
    }
}

/// Returns all sources that hosts on the Internet or on private networks have.
pub(in crate::import) fn ordinary(family: Family) -> Vec<Interval> {
    let all = [(0, crate::import::space::axes::highest(family))];
    subtract(&all, &special(family))
}

/// Returns the networks that are no ordinary sources.
pub(in crate::import) fn special(family: Family) -> Vec<Interval> {
    let nets: &[&str] = match family {
        Family::V4 => &[
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ],
        Family::V6 => &["::/127", "::ffff:0.0.0.0/96", "fe80::/10", "ff00::/8"],
    };
    let nets = nets.iter().filter_map(|text| text.parse().ok());
    nets.map(addr::bounds).collect()
}

pub(in crate::import) fn few(mut names: Vec<String>) -> String {
    const FEW: usize = 6;
    if names.len() > FEW {
        let more = names.len() - FEW + 1;
        names.truncate(FEW - 1);
        names.push(format!("{more} more"));
    }
    match names.split_last() {
        None => String::new(),
        Some((one, [])) => one.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

fn what(space: &mut Space<'_>, packets: PacketSet) -> String {
    let direct = space.axes.direct(&mut space.d);
    let redirected = space.d.without(packets, direct);
    let mut all = published(space, redirected);
    let packets = space.d.and(packets, direct);
    if space.services_of(packets).is_everything {
        return "everything".into();
    }
    all.extend(names(space, packets));
    few(all)
}

/// Names protocols, ports and ICMP types.
pub(in crate::import) fn names(space: &mut Space<'_>, packets: PacketSet) -> Vec<String> {
    let services = space.services_of(packets);
    let mut names = Vec::new();
    for number in services.protocols {
        names.push(match number {
            SOME_PROTOCOL => "other protocols".into(),
            number => crate::net::port::protocol_name(number),
        });
    }
    for (protocol, list) in services.ports {
        let ranges = list
            .iter()
            .map(|(first, last)| crate::net::port::PortRange {
                first: *first,
                last: *last,
            });
        let name = crate::net::port::protocol_name(protocol);
        for range in crate::net::port::normalize(ranges.collect()) {
            names.push(match (range.first, range.last) {
                (1, u16::MAX) => name.clone(),
                _ => format!("{range}/{name}"),
            });
        }
    }
    let icmp = kinds(space.family, &services.icmp);
    if !icmp.is_empty() {
        let family = match space.family {
            Family::V4 => "ICMP",
            Family::V6 => "ICMPv6",
        };
        names.push(match services.icmp[..] {
            [(0, u8::MAX)] => family.to_owned(),
            _ => format!("{family} ({})", few(icmp)),
        });
    }
    names
}

/// Names ICMP types; all that have no name are one.
fn kinds(family: Family, ranges: &[(u8, u8)]) -> Vec<String> {
    let all = ranges.iter().flat_map(|(first, last)| *first..=*last);
    let mut names: Vec<String> = Vec::new();
    let mut unnamed: Vec<u8> = Vec::new();
    for kind in all {
        match crate::policy::icmp::name(family, kind) {
            Some(name) => names.push(name.to_owned()),
            None => unnamed.push(kind),
        }
    }
    match unnamed[..] {
        [] => {}
        [one] => names.push(format!("type {one}")),
        _ => names.push("other types".into()),
    }
    names.dedup();
    names
}

fn published(space: &mut Space<'_>, redirected: PacketSet) -> Vec<String> {
    let runs = match redirected.is_none() {
        true => Vec::new(),
        false => space.d.values(redirected, space.axes.published),
    };
    let indices = runs.iter().flat_map(|(first, last)| *first..=*last);
    let mut ports: BTreeSet<(u8, (u16, u16))> = BTreeSet::new();
    for index in indices.filter(|index| *index > 0) {
        let at = usize::try_from(index - 1).unwrap_or(usize::MAX);
        if let Some(port) = space.redirections.published.get(at) {
            ports.insert((port.protocol, port.dialled));
        }
    }
    let name = |(protocol, (first, last)): &(u8, (u16, u16))| {
        let protocol = crate::net::port::protocol_name(*protocol);
        match first == last {
            true => format!("published port {first}/{protocol}"),
            false => format!("published ports {first}-{last}/{protocol}"),
        }
    };
    ports.iter().map(name).collect()
}

/// Formats interfaces like ` on eth0`; empty for all of them.
fn on(space: &mut Space<'_>, packets: PacketSet) -> String {
    let found = space.interfaces_of(packets);
    let all = space.axes.interfaces.iter().filter(|name| *name != LO);
    if all.clone().all(|name| found.contains(name)) {
        return String::new();
    }
    format!(" on {}", few(found))
}

/// Services of a set of packets.
#[derive(Debug, Clone, Default)]
pub(in crate::import) struct Services {
    /// Whether they are all first packets of connections.
    pub is_everything: bool,
    /// Ports by protocol.
    pub ports: BTreeMap<u8, Vec<(u16, u16)>>,
    /// Ranges of ICMP types.
    pub icmp: Vec<(u8, u8)>,
    /// Protocols without ports.
    pub protocols: Vec<u8>,
}

impl Space<'_> {
    /// Returns the services of a set.
    pub(in crate::import) fn services_of(&mut self, packets: PacketSet) -> Services {
        let axes = std::sync::Arc::clone(&self.axes);
        let packets = self
            .d
            .project(packets, &[axes.protocol, axes.port, axes.icmp]);
        let mut found = Services {
            is_everything: true,
            ..Services::default()
        };
        for number in &axes.protocols {
            let of = axes.protocols(&mut self.d, |each| each == *number);
            let of = self.d.and(packets, of);
            if *number == axes.icmp_protocol() {
                let runs = self.d.values(of, axes.icmp);
                let spans = runs.into_iter().map(|run| axes.icmps.span(run));
                let kind = |number: u128| u8::try_from(number >> 8).unwrap_or(u8::MAX);
                found.icmp = spans
                    .map(|(first, last)| (kind(first), kind(last)))
                    .collect();
            } else if has_ports(*number) {
                let runs = self.d.values(of, axes.port);
                let spans = runs.into_iter().map(|run| axes.ports.span(run));
                let narrow = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
                let ports: Vec<_> = spans.map(|(a, b)| (narrow(a).max(1), narrow(b))).collect();
                found.is_everything &= ports == [(1, u16::MAX)];
                if !ports.is_empty() {
                    found.ports.insert(*number, ports);
                }
            } else {
                found.is_everything &= !of.is_none();
                if !of.is_none() {
                    found.protocols.push(*number);
                }
            }
        }
        found
    }
}
