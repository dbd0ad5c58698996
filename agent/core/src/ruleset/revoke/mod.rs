//! Selects the open connections that a new policy refuses, and those of them to end.
//!
//! Each connection is judged as if it were opened now, on the interface of the route to its source:
//! the interface of its first packet is not recorded. Revocation ends a connection if the old
//! ruleset admitted it and the new one refuses it. A connection that neither admits was established
//! by other means and stays. If the verdict depends on an unknown interface, the result is
//! [`Judgement::Unsure`] and nothing ends.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::net::addr::{self, Family};
use crate::net::packet::{Dialled, Hook, Packet, Transport, Verdict};
use crate::net::port;
use crate::policy::icmp;
use crate::policy::reason::Reason;
use crate::ruleset::{Action, KeyType, Match, Ruleset};

/// A connection as recorded by connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Address of the initiator.
    pub source: IpAddr,
    /// Transport header of the first packet, after NAT.
    pub transport: Transport,
    /// Original destination address.
    pub dialled_address: IpAddr,
    /// Original destination port; 0 if the protocol has no ports.
    pub dialled: u16,
    /// Whether the destination was translated (DNAT).
    pub is_dnat: bool,
    /// Address of the responder, after NAT.
    pub destination: IpAddr,
}

/// Addresses and interfaces of a host, which determine the hook of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// Addresses of this host.
    pub addresses: Vec<IpAddr>,
    /// Interface names.
    pub interfaces: Vec<String>,
}

/// Effect of a ruleset change on an open connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The new ruleset admits the connection, or this host opened it.
    Admitted,
    /// The new ruleset's verdict depends on the interface, which is not known.
    Unsure(Refused),
    /// The new ruleset refuses the connection.
    Refused(Refused),
}

/// Connections of one kind that a new ruleset refuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// Whether the old ruleset admitted them. Only these are revoked.
    pub was_admitted: bool,
    /// Address of the initiator.
    pub source: IpAddr,
    /// Name of the initiator in the old or new ruleset.
    pub name: Option<String>,
    /// Hook that the connections pass.
    pub hook: Hook,
    /// Original destination: port, ICMP type or protocol.
    pub dialled: String,
    /// Reason of the new ruleset to refuse them.
    pub why: String,
}

impl Connection {
    /// Describes the original destination: a port, an ICMP type or a protocol.
    fn what(&self) -> String {
        match self.transport {
            Transport::Ports { protocol, .. } => {
                format!("{}/{}", self.dialled, port::protocol_name(protocol))
            }
            Transport::Icmp { kind, .. } => {
                let family = Family::of(self.source);
                icmp::name(family, kind).map_or_else(
                    || format!("icmp type {kind}"),
                    |name| format!("icmp {name}"),
                )
            }
            Transport::Other(protocol) => match port::protocol_name(protocol) {
                number if number.starts_with(|c: char| c.is_ascii_digit()) => {
                    format!("protocol {number}")
                }
                name => name,
            },
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.hook {
            Hook::Input => "to",
            Hook::Forward => "through",
        };
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.source)?,
            None => write!(f, "{}", self.source)?,
        }
        write!(f, " {way} this host, {} ({})", self.dialled, self.why)
    }
}

/// Judges connections against a ruleset change.
#[derive(Debug, Clone)]
pub struct Judge<'r> {
    old: Option<&'r Ruleset>,
    new: &'r Ruleset,
    place: HostAddresses,
}

impl<'r> Judge<'r> {
    /// Creates a judge for a change from `old`, if any, to `new`.
    pub fn new(old: Option<&'r Ruleset>, new: &'r Ruleset, mut place: HostAddresses) -> Self {
        // A node has one interface per pod. Keep one of each group that no rule distinguishes.
        let patterns: Vec<_> = old
            .into_iter()
            .chain([new])
            .flat_map(|ruleset| &ruleset.chains)
            .flat_map(|chain| &chain.rules)
            .flat_map(|rule| &rule.matches)
            .filter_map(Match::interface)
            .collect();
        let mut seen = BTreeSet::new();
        place.interfaces.retain(|name| {
            let kind: Vec<bool> = patterns
                .iter()
                .map(|pattern| pattern.matches(name))
                .collect();
            name != "lo" && seen.insert(kind)
        });
        Self { old, new, place }
    }

    /// Returns the addresses and interfaces of the host.
    pub fn place(&self) -> &HostAddresses {
        &self.place
    }

    /// Judges a connection.
    ///
    /// `ways` returns the interfaces on which its packets may arrive, or an empty list if they are
    /// not known. It is called only if the verdict depends on the interface.
    pub fn judge(&self, connection: &Connection, ways: impl FnOnce() -> Vec<String>) -> Judgement {
        let Some(hook) = self.place.hook(connection) else {
            return Judgement::Admitted;
        };
        let anywhere = self.place.interfaces.iter();
        let anywhere = anywhere.flat_map(|name| [(name.as_str(), true), (name.as_str(), false)]);
        let mut packets = packets(&self.place, hook, connection, anywhere);
        let by_interface = |ruleset: &Ruleset| admits(ruleset, &packets) == Admits::Some;
        if by_interface(self.new) || self.old.is_some_and(by_interface) {
            let ways = ways();
            if !ways.is_empty() {
                let ways = ways.iter().map(|name| (name.as_str(), true));
                packets = self::packets(&self.place, hook, connection, ways);
            }
        }
        let is_refused = |packet: &&Packet| self.new.eval(packet).verdict != Verdict::Accept;
        let Some(refused) = packets.iter().find(is_refused) else {
            return Judgement::Admitted;
        };
        let refused = self.refused(connection, refused, &packets);
        match admits(self.new, &packets) {
            Admits::None => Judgement::Refused(refused),
            Admits::Some | Admits::All => Judgement::Unsure(refused),
        }
    }

    fn refused(&self, connection: &Connection, packet: &Packet, packets: &[Packet]) -> Refused {
        let why = self.new.eval(packet).reason();
        let rulesets = [self.old, Some(self.new)].into_iter().flatten();
        Refused {
            was_admitted: self
                .old
                .is_some_and(|old| admits(old, packets) != Admits::None),
            source: connection.source,
            name: rulesets
                .into_iter()
                .find_map(|ruleset| name(ruleset, connection.source)),
            hook: packet.hook,
            dialled: connection.what(),
            why: why.map_or_else(|| "denied".to_owned(), |reason| reason.to_string()),
        }
    }
}

/// Share of several packets that a ruleset admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admits {
    All,
    Some,
    None,
}

fn admits(ruleset: &Ruleset, packets: &[Packet]) -> Admits {
    let accepts = |packet: &&Packet| ruleset.eval(packet).verdict == Verdict::Accept;
    match packets.iter().filter(accepts).count() {
        0 => Admits::None,
        count if count == packets.len() => Admits::All,
        _ => Admits::Some,
    }
}

/// Reports whether `new` certainly admits everything that `old` admits, without evaluating packets:
/// the rules are equal, and only sets that accept rules use have grown.
pub fn only_widens(old: &Ruleset, new: &Ruleset) -> bool {
    let rules = || new.chains.iter().flat_map(|chain| &chain.rules);
    let only_accepts = |name: &str| {
        let mut using = rules().filter(|rule| rule.matches.iter().any(|m| m.set() == Some(name)));
        using.all(|rule| match &rule.action {
            Some(Action::Accept) => true,
            // Spoofed packets from pods arrive on another interface than the peer's own
            // connections.
            Some(Action::Goto(chain)) => *chain == Reason::PeerSpoof.to_string(),
            Some(
                Action::Drop
                | Action::RejectTcpReset
                | Action::RejectAdminProhibited
                | Action::Jump(_),
            )
            | None => false,
        })
    };
    old.chains == new.chains
        && old.sets.keys().eq(new.sets.keys())
        && old
            .sets
            .iter()
            .zip(&new.sets)
            .all(|((name, old), (_, new))| old == new || (new.covers(old) && only_accepts(name)))
}

/// Returns the name of an address in a ruleset.
fn name(ruleset: &Ruleset, address: IpAddr) -> Option<String> {
    let (key, value) = (KeyType::address(Family::of(address)), addr::number(address));
    let sets = ruleset.sets.values().filter(|set| set.key == key);
    sets.filter_map(|set| set.find(value)?.comment.as_deref())
        .map(str::to_owned)
        .next()
}

impl HostAddresses {
    /// Reports whether an address belongs to this host.
    pub fn has(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// Returns the hook that a connection passes; `None` if this host opened it.
    pub fn hook(&self, connection: &Connection) -> Option<Hook> {
        if self.has(connection.source) {
            return None;
        }
        let destination = connection.destination;
        Some(match self.has(destination) || destination.is_multicast() {
            true => Hook::Input,
            false => Hook::Forward,
        })
    }
}

/// Builds the first packet of a connection that arrives on an interface of this host.
pub fn first_packet(
    place: &HostAddresses,
    hook: Hook,
    interface: &str,
    connection: &Connection,
) -> Packet {
    let dialled = Dialled {
        address: connection.dialled_address,
        port: connection.dialled,
    };
    Packet {
        dialled: connection.is_dnat.then_some(dialled),
        to_host: place.has(connection.dialled_address),
        ..Packet::new(
            hook,
            interface,
            connection.source,
            connection.destination,
            connection.transport,
        )
    }
}

/// Builds a first packet for each way: an interface, and whether the route to the source uses it.
fn packets<'w>(
    place: &HostAddresses,
    hook: Hook,
    connection: &Connection,
    ways: impl Iterator<Item = (&'w str, bool)>,
) -> Vec<Packet> {
    ways.map(|(interface, reverse_path)| Packet {
        reverse_path,
        ..first_packet(place, hook, interface, connection)
    })
    .collect()
}

#[cfg(test)]
mod tests;
