//! Formats services as entries of `ports`.

use super::PolicyWriter;
use crate::import::rule::At;
use crate::import::space::axes::SOME_PROTOCOL;
use crate::import::space::diagram::{PacketSet, Run};
use crate::import::view::View;
use crate::net::port::{self, TCP, UDP};

impl PolicyWriter<'_> {
    /// Returns requests as entries of `ports`, without ICMP.
    pub(super) fn ports(
        &mut self,
        view: &mut View<'_, '_>,
        at: At,
        packets: PacketSet,
    ) -> Vec<String> {
        let services = view.space.services_of(packets);
        let mut words = Vec::new();
        for number in services.protocols {
            let name = port::protocol_name(number);
            // A bare number would mean a port.
            let is_name = port::parse(&name).is_ok_and(|spec| spec.range.is_none());
            match (number, is_name) {
                (SOME_PROTOCOL, _) => self.add_inexpressible(
                    at,
                    "the policy names protocols one by one, or takes all of them",
                ),
                (_, true) => words.push(name),
                (_, false) => {
                    self.add_inexpressible(at, &format!("a policy cannot name protocol {number}"));
                }
            }
        }
        let is_all = all_ports(view);
        let mut entries = port_words(services.ports.into_iter().collect(), is_all);
        entries.extend(words);
        entries
    }

    /// Returns source ports as entries of `from_ports`, for the protocols of these requests.
    pub(super) fn from_ports(
        view: &mut View<'_, '_>,
        packets: PacketSet,
        runs: &[Run],
    ) -> Vec<String> {
        let services = view.space.services_of(packets);
        let narrow = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
        let spans: Vec<(u16, u16)> = runs
            .iter()
            .map(|run| view.space.axes.from_ports.span(*run))
            .map(|(first, last)| (narrow(first), narrow(last)))
            .collect();
        let protocols = services.ports.into_keys();
        let ranges = protocols.map(|number| (number, spans.clone())).collect();
        port_words(ranges, all_ports(view))
    }
}

/// Reports whether ports from 1 are all ports. A protocol's name includes port 0, which the
/// comparison leaves out, so that rules about ports from 1 become as many ports.
fn all_ports(view: &View<'_, '_>) -> bool {
    !view.space.axes.leaves_out_port_0
}

/// Formats ports as entries of `ports`: `"53"` for both tcp and udp. All ports are the protocol's
/// name, if `is_all`.
pub(super) fn port_words(ranges: Vec<(u8, Vec<(u16, u16)>)>, is_all: bool) -> Vec<String> {
    let mut by_protocol: Vec<(u8, Vec<port::PortRange>)> = Vec::new();
    for (protocol, list) in ranges {
        // A policy does not name port 0.
        let named = list.into_iter().filter(|(_, last)| *last > 0);
        let list = named.map(|(first, last)| port::PortRange {
            first: first.max(1),
            last,
        });
        by_protocol.push((protocol, port::normalize(list.collect())));
    }
    let of = |wanted: u8| {
        by_protocol
            .iter()
            .find(|(p, _)| *p == wanted)
            .map(|(_, list)| list.clone())
    };
    let (tcp, udp) = (of(TCP).unwrap_or_default(), of(UDP).unwrap_or_default());
    let mut words = Vec::new();
    for (protocol, list) in &by_protocol {
        for range in list {
            let whole = is_all && range.first == 1 && range.last == u16::MAX;
            let in_both =
                tcp.contains(range) && udp.contains(range) && [TCP, UDP].contains(protocol);
            let name = port::protocol_name(*protocol);
            let word = match (whole, in_both) {
                (true, _) => name,
                (false, true) => range.to_string(),
                (false, false) => format!("{range}/{name}"),
            };
            if !words.contains(&word) {
                words.push(word);
            }
        }
    }
    words
}
