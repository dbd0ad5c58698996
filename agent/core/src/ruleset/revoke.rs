//! Which open connections a change of policy refuses, and which of them it ends.
//!
//! Each is judged as if it were opened now, by the interface that the route to its source leaves by: nothing
//! records the interface that its first packet came in by. A connection that the new ruleset refuses and the old
//! one admitted is what the change is about. One that neither admits got in by other ways and is left alone.
//! Where the interface decides and is not known, the answer is [`Judgement::Unsure`], and nothing ends.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::net::addr::{self, Family};
use crate::net::packet::{Dialled, Hook, Packet, Transport, Verdict};
use crate::net::port;
use crate::policy::icmp;
use crate::policy::reason::Reason;
use crate::ruleset::{Action, KeyType, Match, Ruleset};

/// A connection, as connection tracking knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Who began it.
    pub source: IpAddr,
    /// What is behind the IP header of its first packet, after any rewriting.
    pub transport: Transport,
    /// The address that was dialled.
    pub dialled_address: IpAddr,
    /// The port that was dialled; 0 where a protocol has none.
    pub dialled: u16,
    /// Whether the destination was rewritten.
    pub is_dnat: bool,
    /// Who answers, after any rewriting.
    pub destination: IpAddr,
}

/// A host, as far as it matters for which hook a connection passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// Addresses of this host.
    pub addresses: Vec<IpAddr>,
    /// Names of its interfaces.
    pub interfaces: Vec<String>,
}

/// What a change of rulesets means for an open connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The new ruleset admits it, or it is not subject to the rules: this host opened it.
    Admitted,
    /// The new ruleset admits it by some interfaces and refuses it by others, and which one it uses is not
    /// known.
    Unsure(Refused),
    /// The new ruleset refuses it.
    Refused(Refused),
}

/// Connections that a new ruleset refuses, of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Refused {
    /// Whether the old ruleset admitted them: these are what revocation ends.
    pub was_admitted: bool,
    /// Who began them.
    pub source: IpAddr,
    /// Who that is, or was.
    pub name: Option<String>,
    /// Input or forward.
    pub hook: Hook,
    /// What was dialled.
    pub dialled: String,
    /// Why the new ruleset refuses them.
    pub why: String,
}

impl Connection {
    /// What was dialled: a port, a kind of ICMP, or a protocol.
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

/// Judges connections by a change of rulesets.
#[derive(Debug, Clone)]
pub struct Judge<'r> {
    old: Option<&'r Ruleset>,
    new: &'r Ruleset,
    place: HostAddresses,
}

impl<'r> Judge<'r> {
    /// One for the change from `old`, if there was any, to `new`.
    pub fn new(old: Option<&'r Ruleset>, new: &'r Ruleset, mut place: HostAddresses) -> Self {
        // A node has an interface for each of its pods; one stands for all that no rule tells apart.
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

    /// The host.
    pub fn place(&self) -> &HostAddresses {
        &self.place
    }

    /// Judges a connection. `ways` names the interfaces that its packets may arrive by, none if that is not
    /// known; it is called only if the interface decides.
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

/// How many of several packets a ruleset admits.
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

/// Whether `new` admits everything that `old` admits, as far as that can be told without asking it about
/// packets: the rules are the same, and sets have only grown that nothing but accepting depends on.
pub fn only_widens(old: &Ruleset, new: &Ruleset) -> bool {
    let rules = || new.chains.iter().flat_map(|chain| &chain.rules);
    let only_accepts = |name: &str| {
        let mut using = rules().filter(|rule| rule.matches.iter().any(|m| m.set() == Some(name)));
        using.all(|rule| match &rule.action {
            Some(Action::Accept) => true,
            // What pods send in the name of a peer comes by another way than the peer's own connections.
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

/// What a ruleset calls an address.
fn name(ruleset: &Ruleset, address: IpAddr) -> Option<String> {
    let (key, value) = (KeyType::address(Family::of(address)), addr::number(address));
    let sets = ruleset.sets.values().filter(|set| set.key == key);
    sets.filter_map(|set| set.find(value)?.comment.as_deref())
        .map(str::to_owned)
        .next()
}

impl HostAddresses {
    /// Whether an address is one of this host.
    pub fn has(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// The hook that packets of a connection pass; `None` if it is not for us to end: this host opened it.
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

/// The first packet of a connection that comes in by an interface of a host with these addresses.
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

/// First packets of a connection, one for each way: an interface, and whether the route back leaves by it.
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
