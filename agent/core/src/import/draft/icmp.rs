//! Writes ICMP beyond the safe core, and whether denied packets are rejected.

use super::allows::{Refused, Wanted, merge};
use super::{From, PolicyWriter};
use crate::import::space::diagram::PacketSet;
use crate::import::view::{View, stranger};
use crate::net::addr::{self, Family};
use crate::net::packet::{CtState, Hook};
use crate::policy::icmp;

impl PolicyWriter<'_> {
    /// Writes ICMP types beyond the safe core.
    pub(super) fn icmp(&mut self, view: &mut View<'_, '_>) {
        let family = view.family;
        let mine = match family {
            Family::V4 => 0,
            Family::V6 => 1,
        };
        let open = self
            .draft
            .allows
            .iter()
            .any(|a| a.ports.is_none() && a.from == From::Any && a.to.is_empty());
        if open {
            return; // every protocol is, so this is
        }
        let number = view.space.axes.icmp_protocol();
        let messages = view
            .space
            .axes
            .protocols(&mut view.space.d, |each| each == number);
        // All of ICMPv6 is usually accepted for neighbour discovery, which the core includes.
        if view.accepts_rest(messages) && view.hears(messages) {
            if family == Family::V4 && view.accepts_always(messages) {
                self.draft.icmp[mine].all = true;
                return;
            }
            if family == Family::V6 {
                if view.names_ping() {
                    self.ping(view);
                }
                return;
            }
        }
        for kind in 0..=u8::MAX {
            let core = icmp::errors(family).contains(&kind)
                || (family == Family::V6
                    && (icmp::NEIGHBOUR_DISCOVERY.contains(&kind)
                        || icmp::LISTENER_DISCOVERY.contains(&kind)));
            if core || is_reply(family, kind) || !is_named(view, kind) {
                continue;
            }
            let these = view.space.axes.icmp(&mut view.space.d, &[(kind, None)]);
            if kind == icmp::echo_request(family) {
                self.ping(view);
            } else if view.accepts_always(these)
                && view.accepts_rest(these)
                && view.hears(these)
                && view.is_heard(these)
                && let Some(types) = self.draft.icmp.get_mut(mine)
                && !types.some.contains(&kind)
            {
                types.some.push(kind);
            }
        }
    }

    fn ping(&mut self, view: &mut View<'_, '_>) {
        // Programs send code 0 only.
        let request = [(icmp::echo_request(view.family), Some(0))];
        let pings = view.space.axes.icmp(&mut view.space.d, &request);
        let mut refused = view.space.d.and(view.refused, pings);
        refused = view.space.d.without(refused, view.covered);
        let axis = view.space.axes.source;
        let bad = view.space.d.project(refused, &[axis]);
        let uncovered = view.space.d.and(view.requests, pings);
        let uncovered = view.space.d.without(uncovered, view.covered);
        let mut wanted = None;
        for (at, packets) in view.lines.clone() {
            let mut packets = view.space.d.and(packets, uncovered);
            if view.space.d.meets(packets, bad) {
                self.add_inexpressible(
                    at,
                    "a policy accepts echo requests of a source on every interface, and to every \
                     address of this host",
                );
            }
            packets = view.space.d.without(packets, bad);
            if !packets.is_none() {
                self.draft.ping_lines.push(at);
                let (_, all) = wanted.get_or_insert((at, PacketSet::NONE));
                *all = view.space.d.or(*all, packets);
            }
        }
        let Some((at, packets)) = wanted else {
            return;
        };
        let sources = view.space.d.project(packets, &[axis]);
        let wanted = Wanted {
            at,
            sources,
            interfaces: PacketSet::ALL,
            services: PacketSet::ALL,
            refused: Refused::new(view, refused),
            ports: None,
            from_ports: None,
            to: Vec::new(),
        };
        let Some(from) = self.from(view, &wanted) else {
            return;
        };
        self.draft.ping = match self.draft.ping.take() {
            None => Some(from),
            Some(old) => merge(&old, &from).or(Some(old)),
        };
    }

    /// Determines whether packets from other sources are rejected rather than dropped.
    pub(super) fn reject(&mut self, view: &mut View<'_, '_>) {
        let stranger = addr::number(stranger(view.family));
        let from = view.from((stranger, stranger));
        let on = view.unnamed_interface();
        let parts = [view.requests, from, on];
        let mut packets = parts
            .into_iter()
            .fold(PacketSet::ALL, |all, part| view.space.d.and(all, part));
        packets = view.space.d.without(packets, view.covered);
        let with_ports = view.space.axes.with_ports(&mut view.space.d);
        packets = view.space.d.and(packets, with_ports);
        let walked = view.space.site(Hook::Input).walked.clone();
        let rejected = view.space.d.and(packets, walked.rejected);
        let dropped = view.space.d.without(packets, walked.accepted);
        let dropped = view.space.d.without(dropped, walked.rejected);
        self.draft.reject |= ports(view, rejected) > ports(view, dropped);
    }
}

impl View<'_, '_> {
    /// Reports whether a line that accepts names echo requests.
    fn names_ping(&self) -> bool {
        let lines = self.lines.keys().filter_map(|at| self.by_line.get(at));
        lines.into_iter().any(|rule| rule.names_echo_request())
    }

    /// Reports whether the rules accept these messages with every TTL, where nothing else covers
    /// them.
    fn accepts_always(&mut self, messages: PacketSet) -> bool {
        let usual = self.space.d.or(self.requests, self.unheard);
        let axes = &self.space.axes;
        let fields = [axes.source, axes.interface, axes.icmp, axes.destination];
        let site = self.space.site(Hook::Input).clone();
        let d = &mut self.space.d;
        let usual = d.and(usual, messages);
        let with_any = d.project(usual, &fields);
        let direct = self.space.axes.direct(d);
        let states = [CtState::New, CtState::Invalid, CtState::Untracked];
        let states = self.space.axes.states(d, &states);
        // A check of the reverse path can stay beside the policy.
        let back = d.in_runs(self.space.axes.reverse_path, &[(1, 1)]);
        let parts = [with_any, messages, direct, states, back, site.valid];
        let all = parts
            .into_iter()
            .fold(PacketSet::ALL, |all, part| d.and(all, part));
        let all = d.without(all, self.covered);
        d.is_within(all, site.walked.accepted)
    }

    /// Reports whether the rules accept these messages without a connection, where nothing else
    /// covers them.
    fn hears(&mut self, packets: PacketSet) -> bool {
        let unheard = self.space.d.without(self.unheard, self.covered);
        !self.space.d.meets(packets, unheard)
    }

    /// Reports whether the rules accept some of these messages that nothing else covers.
    fn is_heard(&mut self, packets: PacketSet) -> bool {
        let accepted = self.space.input.walked.accepted;
        let packets = self.space.d.without(packets, self.covered);
        self.space.d.meets(packets, accepted)
    }
}

/// Number of ports of a set.
fn ports(view: &mut View<'_, '_>, packets: PacketSet) -> u32 {
    let services = view.space.services_of(packets);
    let ranges = services.ports.into_values().flatten();
    ranges
        .map(|(first, last)| u32::from(last - first) + 1)
        .sum()
}

/// Reports whether rules or the language name this ICMP type.
fn is_named(view: &View<'_, '_>, kind: u8) -> bool {
    let first = u128::from(kind) << 8;
    let run = view.space.axes.icmps.run((first, first));
    let (start, _) = view.space.axes.icmps.span(run);
    start == first || icmp::name(view.family, kind).is_some()
}

/// Reports whether an ICMP type is always a reply.
fn is_reply(family: Family, kind: u8) -> bool {
    matches!(
        (family, kind),
        (Family::V4, 0 | 14 | 16 | 18) | (Family::V6, 129)
    )
}
