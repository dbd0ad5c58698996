//! Describes differences in sentences.

use std::collections::{BTreeMap, BTreeSet};

use super::{DiffGroup, DiffKey, Direction};
use crate::import::classes::ServiceKind;
use crate::import::view::AcceptTable;
use crate::net::addr::{self, Family};
use crate::net::packet::Hook;
use crate::policy::Policy;
use crate::policy::reason::Reason;

/// Describes a group of differing packets.
pub(super) fn sentence(
    view: &AcceptTable<'_>,
    policy: &Policy,
    key: &DiffKey,
    pile: &DiffGroup,
) -> String {
    let change = match key.change {
        Direction::Closed => "closed",
        Direction::New => "new",
    };
    let family = match view.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let who = who(view, &pile.sources);
    let what = what(view, pile);
    let on = on(view, &pile.interfaces);
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

/// Describes sources by prefixes in the files, or by those that are excluded.
fn who(view: &AcceptTable<'_>, sources: &BTreeSet<usize>) -> String {
    if sources.len() == view.sources.len() {
        return "any source".into();
    }
    let (mut names, others) = named(view, sources);
    if !others {
        return few(names);
    }
    let rest: BTreeSet<usize> = (0..view.sources.len())
        .filter(|s| !sources.contains(s))
        .collect();
    let (but, unnamed) = named(view, &rest);
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

/// Returns names for the sources, and whether some remain without a name.
fn named(view: &AcceptTable<'_>, sources: &BTreeSet<usize>) -> (Vec<String>, bool) {
    let mut left = sources.clone();
    let mut spans = view.literals.clone();
    spans.extend(
        view.masqueraded
            .iter()
            .map(|(net, _, _)| addr::bounds(*net)),
    );
    // The widest first, so that a network is not listed by hosts.
    spans.sort_by_key(|(first, last)| std::cmp::Reverse(last - first));
    spans.dedup();
    let mut names: Vec<String> = Vec::new();
    for span in spans {
        let inside = view.within(span);
        let fits = !inside.is_empty() && inside.iter().all(|s| sources.contains(s));
        if fits && inside.iter().any(|s| left.contains(s)) {
            left.retain(|s| !inside.contains(s));
            names.push(match addr::prefix(view.family, span.0, span.1) {
                Some(net) => addr::short(net),
                None => format!(
                    "{}-{}",
                    addr::address(view.family, span.0),
                    addr::address(view.family, span.1)
                ),
            });
        }
    }
    (names, !left.is_empty())
}

fn few(mut names: Vec<String>) -> String {
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

fn what(view: &AcceptTable<'_>, pile: &DiffGroup) -> String {
    let mut names: Vec<String> = pile
        .dialled
        .iter()
        .map(|(protocol, port)| {
            format!(
                "published port {port}/{}",
                crate::net::port::protocol_name(*protocol)
            )
        })
        .collect();
    let with_first_packet = |v: &usize| {
        !matches!(
            view.services.get(*v).map(|s| &s.kind),
            Some(ServiceKind::Icmp(..)) | None
        )
    };
    let countable = (0..view.services.len()).filter(with_first_packet).count();
    if countable > 0
        && pile
            .services
            .iter()
            .filter(|v| with_first_packet(v))
            .count()
            == countable
    {
        return "everything".into();
    }
    let mut ports: BTreeMap<u8, Vec<(u16, u16)>> = BTreeMap::new();
    let mut icmp: Vec<String> = Vec::new();
    for kind in pile
        .services
        .iter()
        .filter_map(|v| view.services.get(*v))
        .map(|s| &s.kind)
    {
        match kind {
            ServiceKind::Ports(protocol, list) => ports.entry(*protocol).or_default().extend(list),
            ServiceKind::Icmp(kind, _) => {
                let name = crate::policy::icmp::name(view.family, *kind);
                let name = name.map_or_else(|| format!("type {kind}"), str::to_owned);
                if !icmp.contains(&name) {
                    icmp.push(name);
                }
            }
            ServiceKind::Protocol(number) => names.push(crate::net::port::protocol_name(*number)),
            ServiceKind::OtherProtocols => names.push("other protocols".into()),
        }
    }
    for (protocol, list) in ports {
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
    if !icmp.is_empty() {
        let family = if view.family == Family::V4 {
            "ICMP"
        } else {
            "ICMPv6"
        };
        names.push(format!("{family} ({})", few(icmp)));
    }
    few(names)
}

/// Formats interfaces like ` on eth0`; empty for all of them.
fn on(view: &AcceptTable<'_>, interfaces: &BTreeSet<String>) -> String {
    if view.interfaces.iter().all(|name| interfaces.contains(name)) {
        return String::new();
    }
    format!(" on {}", few(interfaces.iter().cloned().collect()))
}
