//! Ports of an allow, by protocol.

use std::collections::BTreeMap;

use crate::net::port::{self, PortRange, PortSpec};
use crate::policy::Allow;

/// Port ranges by protocol number; `None` for the whole protocol.
pub(super) type Ranges = BTreeMap<u8, Option<Vec<PortRange>>>;

/// Returns the ports by protocol, in canonical form.
pub(super) fn ports_by_protocol(specs: Option<&[PortSpec]>) -> Ranges {
    let mut found = Ranges::new();
    for spec in specs.into_iter().flatten() {
        for protocol in &spec.protocols {
            let entry = found.entry(*protocol).or_insert_with(|| Some(Vec::new()));
            match (spec.range, entry.as_mut()) {
                (Some(range), Some(ranges)) => ranges.push(range),
                (None, _) => *entry = None,
                (Some(_), None) => {}
            }
        }
    }
    found
        .into_iter()
        .map(|(protocol, ranges)| (protocol, ranges.map(port::normalize)))
        .collect()
}

/// Returns the protocols that an allow opens: those common to its port lists.
pub(super) fn protocols(allow: &Allow) -> Vec<u8> {
    let to = ports_by_protocol(allow.ports.as_deref());
    let from = ports_by_protocol(allow.from_ports.as_deref());
    let is_in = |given: &Option<_>, ranges: &Ranges, protocol: &u8| {
        given.is_none() || ranges.contains_key(protocol)
    };
    let mut all: Vec<u8> = to.keys().chain(from.keys()).copied().collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|protocol| {
        is_in(&allow.ports, &to, protocol) && is_in(&allow.from_ports, &from, protocol)
    });
    all
}
