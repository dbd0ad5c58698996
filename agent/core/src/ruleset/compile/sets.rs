//! Named sets for the policy's lists. They keep the number of rules independent of list lengths.

use std::collections::BTreeSet;

use crate::net::addr::{AddrSet, Family, Span};
use crate::net::port::{self, PortRange};
use crate::policy::{Allow, IcmpTypes, Policy, Source, Target, address_set, icmp};
use crate::ruleset::{Element, Elements, KeyType, Match, Set};

use super::Compiler;
use super::ports::{ports_by_protocol, protocols};
use crate::ruleset::temporary;

/// Address ranges of DHCP servers whose unicast replies are accepted: private, shared and
/// link-local space (RFC 1918, RFC 6598, RFC 3927).
const DHCP_SERVERS: [&str; 5] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
];
/// Name of the set of [`DHCP_SERVERS`].
pub(super) const DHCP_SET: &str = "dhcp-servers";
/// Name of the set of the policy's service addresses.
pub(super) const SERVICES_SET: &str = "services-ip";

/// Name of the sets of the policy's peers.
pub(in crate::ruleset) const PEERS: &str = "peers";
/// Name of the sets of peers that were added by hand.
const TEMPORARY: &str = "temporary";
/// Names of all sets of peers.
pub(super) const ALL_PEERS: [&str; 2] = [PEERS, TEMPORARY];

/// Whether there is a set of the hosts, and of the prefixes, of one list, for each family.
pub(super) type AddressSets = [[bool; 2]; 2];

impl Compiler<'_> {
    pub(super) fn declare_sets(&mut self) {
        let policy = self.policy;
        self.address_sets(PEERS, policy.peer_addresses());
        if let Some(peers) = &policy.temporary {
            temporary::declare(&mut self.ruleset, peers);
            let made = [[true, false]; 2];
            self.address_sets.insert(TEMPORARY.to_owned(), made);
        }
        for overlay in &policy.overlays {
            let pods = overlay.pods().into_iter().map(|net| (net, None));
            self.address_sets(&overlay_set(&overlay.name), pods.collect());
            for interface in overlay.routed_interfaces() {
                let nets = overlay.routed.iter().filter(|(name, _)| *name == interface);
                let nets = nets.map(|(_, net)| (*net, None)).collect();
                self.address_sets(&routed_set(&overlay.name, &interface), nets);
            }
            self.mac_set(&overlay.name, &overlay.peer_macs);
            let inline = inline_addresses(&overlay.tunnel_from);
            self.address_sets(&tunnel_set(&overlay.name), inline);
        }
        let used = used_groups(policy);
        for group in &policy.groups {
            if used.contains(group.name.as_str()) {
                self.address_sets(&group_set(&group.name), address_set(&group.addresses));
            }
        }
        for allow in &policy.allows {
            self.allow_sets(allow);
        }
        self.address_sets("ping", inline_addresses(&policy.icmp.ping));
        let services = policy.services.iter().map(|net| (*net, None));
        self.address_sets(SERVICES_SET, services.collect());
        let servers = DHCP_SERVERS.iter().filter_map(|net| net.parse().ok());
        self.address_sets(DHCP_SET, servers.map(|net| (net, None)).collect());
        self.icmp_sets();
    }

    fn allow_sets(&mut self, allow: &Allow) {
        self.address_sets(&allow_set(&allow.name), inline_addresses(&allow.from));
        let to = allow.to.iter().filter_map(|target| match target {
            Target::Net(net) => Some((*net, None)),
            Target::Host | Target::Group(_) | Target::Overlay(_) => None,
        });
        self.address_sets(&to_set(&allow.name), to.collect());
        let protocols = protocols(allow);
        for (specs, name) in [
            (&allow.ports, port_set as fn(&str, u8) -> String),
            (&allow.from_ports, from_port_set),
        ] {
            for (protocol, ranges) in ports_by_protocol(specs.as_deref()) {
                if let Some(ranges) = ranges.filter(|ranges| ranges.len() > 1)
                    && protocols.contains(&protocol)
                {
                    let elements = ranges.iter().map(port_element).collect();
                    self.set(name(&allow.name, protocol), KeyType::Port, true, elements);
                }
            }
        }
        if allow.limit.is_some() {
            for family in Family::BOTH {
                let meter = Set {
                    key: KeyType::address(family),
                    interval: false,
                    meter: true,
                    timed: false,
                    elements: Elements::default(),
                };
                let name = limit_set(&allow.name, family);
                self.ruleset.sets.insert(name, meter);
            }
        }
    }

    fn icmp_sets(&mut self) {
        for family in Family::BOTH {
            let digit = family.digit();
            let key = KeyType::icmp(family);
            let core: &[(&str, &[u8])] = match (self.policy.icmp.core, family) {
                (false, _) => &[],
                (true, Family::V4) => &[("icmp-errors4", icmp::errors(Family::V4))],
                (true, Family::V6) => &[
                    ("icmp-errors6", icmp::errors(Family::V6)),
                    ("icmp-nd6", icmp::NEIGHBOUR_DISCOVERY),
                    ("icmp-mld6", icmp::LISTENER_DISCOVERY),
                    ("icmp-reports6", icmp::LISTENER_REPORTS),
                ],
            };
            for (name, list) in core {
                self.set((*name).to_owned(), key, false, kinds(list));
            }
            if let IcmpTypes::Some(listed) = self.icmp_listed(family)
                && !listed.is_empty()
            {
                self.set(format!("icmp-listed{digit}"), key, false, kinds(listed));
            }
        }
    }

    fn set(&mut self, name: String, key: KeyType, interval: bool, elements: Elements) {
        let set = Set {
            key,
            interval,
            meter: false,
            timed: false,
            elements,
        };
        self.ruleset.sets.insert(name, set);
    }

    fn mac_set(&mut self, overlay: &str, macs: &[[u8; 6]]) {
        if macs.is_empty() {
            return;
        }
        let number = |mac: &[u8; 6]| mac.iter().fold(0, |n, byte| n << 8 | u128::from(*byte));
        let mut elements: Vec<Element> = macs.iter().map(|mac| Element::one(number(mac))).collect();
        elements.sort_by_key(|element| element.first);
        elements.dedup();
        self.set(mac_set(overlay), KeyType::Ether, false, elements.into());
    }

    /// Adds up to four sets: hosts and prefixes of both families, each only if it has elements.
    /// Hosts have their own sets because a hash set is faster to load and look up than an interval
    /// set (see the numbers in `docs/design.md`).
    fn address_sets(&mut self, name: &str, addresses: AddrSet) {
        let mut made = AddressSets::default();
        let parts = [addresses.v4, addresses.v6].into_iter().zip(&mut made);
        for (family, (part, made)) in Family::BOTH.into_iter().zip(parts) {
            let key = KeyType::address(family);
            *made = [!part.hosts.is_empty(), !part.nets.is_empty()];
            for (set_name, interval, spans) in [
                (hosts_set as fn(&str, Family) -> String, false, part.hosts),
                (nets_set, true, part.nets),
            ] {
                if !spans.is_empty() {
                    let elements = spans.into_iter().map(element).collect();
                    self.set(set_name(name, family), key, interval, elements);
                }
            }
        }
        if made != AddressSets::default() {
            self.address_sets.insert(name.to_owned(), made);
        }
    }

    /// Returns the sets that [`address_sets`](Self::address_sets) created for these addresses.
    fn sets_of(&self, name: &str) -> impl Iterator<Item = (Family, String)> {
        let made = self.address_sets.get(name).copied().unwrap_or_default();
        let families = Family::BOTH.into_iter().zip(made);
        families.flat_map(move |(family, [hosts, nets])| {
            let hosts = hosts.then(|| (family, hosts_set(name, family)));
            let nets = nets.then(|| (family, nets_set(name, family)));
            hosts.into_iter().chain(nets)
        })
    }

    /// Returns matches for these source addresses: one list of matches for each set.
    pub(super) fn source_in(&self, name: &str) -> Vec<Vec<Match>> {
        let of = |(family, set)| vec![Match::Family(family), Match::Source { family, set }];
        self.sets_of(name).map(of).collect()
    }

    /// Returns matches for the source addresses of all peers.
    pub(super) fn sources_of_peers(&self) -> Vec<Vec<Match>> {
        let lists = ALL_PEERS.into_iter().map(|name| self.source_in(name));
        lists.flatten().collect()
    }

    /// Returns matches for these destination addresses.
    pub(super) fn destination_in(&self, name: &str) -> Vec<Vec<Match>> {
        let of = |(family, set)| vec![Match::Family(family), Match::DestinationIn { family, set }];
        self.sets_of(name).map(of).collect()
    }

    /// Returns matches for these original destination addresses, before DNAT.
    pub(super) fn dialled_in(&self, name: &str) -> Vec<Vec<Match>> {
        let of = |(family, set)| vec![Match::Family(family), Match::DialledAddress { family, set }];
        self.sets_of(name).map(of).collect()
    }

    /// Returns matches for a list of sources. `inline` names the set of the sources written as
    /// addresses.
    pub(super) fn sources(&self, from: &[Source], inline: &str) -> Vec<Vec<Match>> {
        if from.contains(&Source::Any) {
            return vec![Vec::new()];
        }
        let mut found = self.source_in(inline);
        let mut groups = BTreeSet::new();
        for source in from {
            match source {
                Source::Group(name) if groups.insert(name.as_str()) => {
                    found.extend(self.source_in(&group_set(name)));
                }
                // Elements of the inline set, or accepted by an earlier rule.
                Source::Group(_)
                | Source::Net(_)
                | Source::Peer(_)
                | Source::Overlay(_)
                | Source::Any => {}
            }
        }
        found
    }
}

/// Returns the names of the groups that rules use.
pub(in crate::ruleset) fn used_groups(policy: &Policy) -> BTreeSet<String> {
    let overlays = policy.overlays.iter().flat_map(|o| &o.tunnel_from);
    let allows = || policy.allows.iter();
    let sources = allows()
        .flat_map(|allow| &allow.from)
        .chain(&policy.icmp.ping)
        .chain(overlays);
    let sources = sources.filter_map(|source| match source {
        Source::Group(name) => Some(name.clone()),
        Source::Any | Source::Net(_) | Source::Peer(_) | Source::Overlay(_) => None,
    });
    let targets = allows().flat_map(|allow| &allow.to);
    let targets = targets.filter_map(|target| match target {
        Target::Group(name) => Some(name.clone()),
        Target::Host | Target::Net(_) | Target::Overlay(_) => None,
    });
    sources.chain(targets).collect()
}

pub(super) fn overlay_set(name: &str) -> String {
    format!("overlay-{name}-ip")
}

pub(super) fn routed_set(overlay: &str, interface: &str) -> String {
    format!("overlay-{overlay}-by-{interface}-ip")
}

pub(super) fn mac_set(overlay: &str) -> String {
    format!("overlay-{overlay}-mac")
}

pub(super) fn tunnel_set(overlay: &str) -> String {
    format!("tunnel-{overlay}-ip")
}

pub(in crate::ruleset) fn group_set(name: &str) -> String {
    format!("group-{name}-ip")
}

pub(super) fn allow_set(name: &str) -> String {
    format!("allow-{name}-ip")
}

pub(super) fn to_set(allow: &str) -> String {
    format!("to-{allow}-ip")
}

pub(super) fn limit_set(allow: &str, family: Family) -> String {
    format!("limit-{allow}-ip{}", family.digit())
}

pub(super) fn port_set(allow: &str, protocol: u8) -> String {
    format!("allow-{allow}-{}", port::protocol_name(protocol))
}

pub(super) fn from_port_set(allow: &str, protocol: u8) -> String {
    format!("from-{allow}-{}", port::protocol_name(protocol))
}

pub(in crate::ruleset) fn hosts_set(name: &str, family: Family) -> String {
    format!("{name}{}", family.digit())
}

fn nets_set(name: &str, family: Family) -> String {
    format!("{name}{}-nets", family.digit())
}

fn inline_addresses(from: &[Source]) -> AddrSet {
    if from.contains(&Source::Any) {
        return AddrSet::default();
    }
    let nets = from.iter().filter_map(|source| match source {
        Source::Net(net) => Some((*net, None)),
        Source::Any | Source::Group(_) | Source::Peer(_) | Source::Overlay(_) => None,
    });
    nets.collect()
}

fn element(span: Span) -> Element {
    Element {
        first: span.first,
        last: span.last,
        comment: span.name,
    }
}

fn port_element(range: &PortRange) -> Element {
    Element {
        first: u128::from(range.first),
        last: u128::from(range.last),
        comment: None,
    }
}

fn kinds(list: &[u8]) -> Elements {
    list.iter()
        .map(|kind| Element::one(u128::from(*kind)))
        .collect()
}
