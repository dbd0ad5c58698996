//! What else is special about differing packets: where they go, and fields of their headers.

use super::sentence::few;
use crate::import::rule::Interval;
use crate::import::space::diagram::PacketSet;
use crate::import::space::{SOURCE_PORT, Space};
use crate::net::addr;
use crate::net::packet::Hook;
use crate::net::port::TCP;

/// Describes fields in which none of the packets is usual; empty if some packet is.
pub(in crate::import) fn detail(space: &mut Space<'_>, hook: Hook, packets: PacketSet) -> String {
    let mut words = String::new();
    let direct = space.axes.direct(&mut space.d);
    if space.d.and(packets, direct).is_none() {
        return words;
    }
    let packets = space.d.and(packets, direct);
    if let Some(ports) = from_ports(space, packets) {
        words.push_str(&ports);
    }
    if let Some(to) = destinations(space, hook, packets) {
        words.push_str(&to);
    }
    if let Some(limits) = hop_limits(space, packets) {
        words.push_str(&limits);
    }
    let tcp = space.axes.protocols(&mut space.d, |number| number == TCP);
    let of_tcp = space.d.and(packets, tcp);
    let syn = space.axes.flags(&mut space.d, 0x3f, 0x02);
    if of_tcp == packets && !space.d.meets(packets, syn) {
        words.push_str(" without SYN, or with other flags beside it");
    }
    let route = space.d.in_runs(space.axes.reverse_path, &[(1, 1)]);
    if !space.d.meets(packets, route) {
        words.push_str(" without a route back through their interface");
    }
    words
}

fn from_ports(space: &mut Space<'_>, packets: PacketSet) -> Option<String> {
    let with_ports = space.axes.with_ports(&mut space.d);
    let usual = space
        .axes
        .sent_from(&mut space.d, &[(SOURCE_PORT, SOURCE_PORT)]);
    if !space.d.is_within(packets, with_ports) || space.d.meets(packets, usual) {
        return None;
    }
    let runs = space.d.values(packets, space.axes.from_port);
    let spans = runs.into_iter().map(|run| space.axes.from_ports.span(run));
    let names = spans.map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    Some(format!(" from port {}", few(names.collect())))
}

fn destinations(space: &mut Space<'_>, hook: Hook, packets: PacketSet) -> Option<String> {
    let valid = space.site(hook).valid;
    let own = space.own.clone();
    let usual = match hook {
        Hook::Input => space.axes.destinations(&mut space.d, &own),
        Hook::Forward => PacketSet::ALL,
    };
    let usual = space.d.and(usual, valid);
    let to = space.d.project(packets, &[space.axes.destination]);
    let all = space.d.project(usual, &[space.axes.destination]);
    if space.d.is_within(all, to) {
        return None;
    }
    let missing = space.d.without(all, to);
    let spans = |space: &mut Space<'_>, set: PacketSet| -> Vec<Interval> {
        let runs = space.d.values(set, space.axes.destination);
        runs.iter()
            .map(|run| space.axes.destinations.span(*run))
            .collect()
    };
    let (spans, missing) = (spans(space, to), spans(space, missing));
    let (word, spans) = match missing.len() < spans.len() {
        true => ("not for", missing),
        false => ("for", spans),
    };
    let names = spans.iter().map(
        |(first, last)| match addr::prefix(space.family, *first, *last) {
            Some(net) => addr::short(net),
            None => format!(
                "{}-{}",
                addr::address(space.family, *first),
                addr::address(space.family, *last)
            ),
        },
    );
    Some(format!(" {word} {}", few(names.collect())))
}

fn hop_limits(space: &mut Space<'_>, packets: PacketSet) -> Option<String> {
    for usual in [64, 255] {
        let usual = space.axes.hop_limits(&mut space.d, usual, usual);
        if space.d.meets(packets, usual) {
            return None;
        }
    }
    let runs = space.d.values(packets, space.axes.hop_limit);
    let spans = runs.into_iter().map(|run| space.axes.hop_limits.span(run));
    let names = spans.map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    Some(format!(" with TTL or hop limit {}", few(names.collect())))
}
