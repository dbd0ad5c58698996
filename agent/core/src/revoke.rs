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

use crate::addr::{self, Family};
use crate::packet::{Dialled, Hook, Packet, Transport, Verdict};
use crate::port;
use crate::reason::Reason;
use crate::ruleset::{Action, KeyType, Match, Ruleset};

/// A connection, as connection tracking knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Who began it.
    pub source: IpAddr,
    /// From this port.
    pub source_port: u16,
    /// Protocol number.
    pub protocol: u8,
    /// The address that was dialled.
    pub dialled_address: IpAddr,
    /// The port that was dialled.
    pub dialled: u16,
    /// Whether the destination was rewritten.
    pub is_dnat: bool,
    /// Who answers, after any rewriting.
    pub destination: IpAddr,
    /// At this port.
    pub destination_port: u16,
}

/// A host, as far as it matters for which hook a connection passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Addresses of this host.
    pub addresses: Vec<IpAddr>,
    /// Names of its interfaces.
    pub interfaces: Vec<String>,
}

/// What a change of rulesets means for an open connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The new ruleset admits it, or it is not subject to the rules: this host opened it, or its protocol has
    /// no ports.
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
    place: Place,
}

impl<'r> Judge<'r> {
    /// One for the change from `old`, if there was any, to `new`.
    pub fn new(old: Option<&'r Ruleset>, new: &'r Ruleset, mut place: Place) -> Self {
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
    pub fn place(&self) -> &Place {
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
            dialled: format!(
                "{}/{}",
                connection.dialled,
                port::protocol_name(connection.protocol)
            ),
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

impl Place {
    /// Whether an address is one of this host.
    pub fn has(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// The hook that packets of a connection pass; `None` if it is not for us to end: this host opened it, or
    /// there are no ports to tell it by.
    pub fn hook(&self, connection: &Connection) -> Option<Hook> {
        if self.has(connection.source) || !port::has_ports(connection.protocol) {
            return None;
        }
        Some(match self.has(connection.destination) {
            true => Hook::Input,
            false => Hook::Forward,
        })
    }
}

/// The first packet of a connection that comes in by an interface of a host with these addresses.
pub fn first_packet(place: &Place, hook: Hook, interface: &str, connection: &Connection) -> Packet {
    let transport = Transport::Ports {
        protocol: connection.protocol,
        source: connection.source_port,
        destination: connection.destination_port,
    };
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
            transport,
        )
    }
}

/// First packets of a connection, one for each way: an interface, and whether the route back leaves by it.
fn packets<'w>(
    place: &Place,
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
mod tests {
    use super::*;
    use crate::compile::compile;
    use crate::policy::load::{NoFiles, load};

    fn ruleset(text: &str) -> Ruleset {
        let text = format!("version = 1\n{text}");
        compile(
            &load("policy.toml", &text, &NoFiles)
                .policy
                .expect("it is right"),
        )
        .0
    }

    fn connection(source: &str, destination: &str, dialled: u16, port: u16) -> Connection {
        Connection {
            source: source.parse().expect("an address"),
            source_port: 40_000,
            protocol: port::TCP,
            dialled,
            dialled_address: match dialled == port {
                true => destination.parse().expect("an address"),
                false => "198.51.100.1".parse().expect("an address"),
            },
            is_dnat: dialled != port,
            destination: destination.parse().expect("an address"),
            destination_port: port,
        }
    }

    fn refused_of(judgement: Judgement) -> Option<Refused> {
        match judgement {
            Judgement::Refused(refused) => Some(refused),
            Judgement::Admitted | Judgement::Unsure(_) => None,
        }
    }

    #[test]
    fn the_interface_that_is_used_decides_and_none_other() {
        let trusted = "[interfaces]\ntrusted = [\"lan0\", \"lan1\"]\n";
        let bound = "[[allow]]\nname = \"web\"\nports = [\"80/tcp\"]\nfrom = \"any\"\ninterfaces = [\"lan0\"]\n";
        let open = "[[allow]]\nname = \"web\"\nports = [\"80/tcp\"]\nfrom = \"any\"\n";
        let place = Place {
            addresses: vec!["198.51.100.1".parse().expect("an address")],
            interfaces: ["lo", "eth0", "lan0", "lan1"].map(String::from).to_vec(),
        };
        let web = connection("203.0.113.9", "198.51.100.1", 80, 80);
        for (name, old, new, ways, want) in [
            (
                "a trusted interface elsewhere",
                format!("{trusted}{open}"),
                trusted.to_owned(),
                vec!["eth0"],
                "ends",
            ),
            (
                "an allow of another interface",
                open.to_owned(),
                bound.to_owned(),
                vec!["eth0"],
                "ends",
            ),
            (
                "by the trusted one",
                format!("{trusted}{open}"),
                trusted.to_owned(),
                vec!["lan1"],
                "stays",
            ),
            (
                "by the allowed one",
                open.to_owned(),
                bound.to_owned(),
                vec!["lan0"],
                "stays",
            ),
            (
                "no longer trusted",
                trusted.to_owned(),
                bound.to_owned(),
                vec!["lan1"],
                "ends",
            ),
            (
                "of several, all refused",
                open.to_owned(),
                bound.to_owned(),
                vec!["eth0", "lan1"],
                "ends",
            ),
            (
                "of several, one admitted",
                open.to_owned(),
                bound.to_owned(),
                vec!["eth0", "lan0"],
                "unsure",
            ),
            (
                "not known",
                open.to_owned(),
                bound.to_owned(),
                vec![],
                "unsure",
            ),
            (
                "not known, and no matter",
                open.to_owned(),
                String::new(),
                vec![],
                "ends",
            ),
            (
                "neither admits it there",
                trusted.to_owned(),
                trusted.to_owned(),
                vec!["eth0"],
                "refused",
            ),
        ] {
            let (old, new) = (ruleset(&old), ruleset(&new));
            let judge = Judge::new(Some(&old), &new, place.clone());
            let ways = || ways.into_iter().map(str::to_owned).collect();
            let found = match judge.judge(&web, ways) {
                Judgement::Admitted => "stays",
                Judgement::Unsure(_) => "unsure",
                Judgement::Refused(refused) if refused.was_admitted => "ends",
                Judgement::Refused(_) => "refused",
            };
            assert_eq!(found, want, "{name}");
        }
        // Nobody is asked where the interface does not matter.
        let (old, new) = (ruleset(open), ruleset(""));
        let judge = Judge::new(Some(&old), &new, place);
        judge.judge(&web, || panic!("the route was asked for"));
    }

    #[test]
    fn what_only_widens_is_known_without_asking() {
        let base = "[peers]\na = [\"192.0.2.1\", \"192.0.2.2\", \"2001:db8::/64\", \"198.51.100.0/24\"]\n[overlay.f]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n";
        let with = |from: &str, to: &str| ruleset(&base.replace(from, to));
        let old = ruleset(base);
        for (new, widens) in [
            (old.clone(), true),
            (with("\"192.0.2.2\"", "\"192.0.2.2\", \"192.0.2.3\""), true),
            (with("198.51.100.0/24", "198.51.0.0/16"), true),
            (with("198.51.100.0/24", "198.51.100.0/25"), false),
            (with("\"192.0.2.2\", ", ""), false),
            (with("192.0.2.2", "192.0.2.3"), false),
            (with("2001:db8::/64", "2001:db9::/64"), false),
            // More pods: their addresses are dropped elsewhere now.
            (
                with("\"10.244.0.0/16\"", "\"10.244.0.0/16\", \"10.245.0.0/16\""),
                false,
            ),
            (
                ruleset(&format!(
                    "{base}[[allow]]\nname = \"ssh\"\nports = [\"22/tcp\"]\nfrom = \"any\"\n"
                )),
                false,
            ),
        ] {
            assert_eq!(only_widens(&old, &new), widens);
        }
    }

    #[test]
    fn just_what_the_old_admitted_and_the_new_refuses_ends() {
        let old = ruleset(
            "[peers]\na = \"192.0.2.1\"\nb = \"192.0.2.2\"\n[overlay.f]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n[[allow]]\nname = \"ssh\"\nports = [\"22/tcp\"]\nfrom = \"any\"\n[[allow]]\nname = \"web\"\nports = [\"8080/tcp\"]\nfrom = \"any\"\n",
        );
        let new = ruleset(
            "[peers]\na = \"192.0.2.1\"\n[overlay.f]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n[[allow]]\nname = \"ssh\"\nports = [\"22/tcp\"]\nfrom = \"any\"\n",
        );
        let place = Place {
            addresses: vec!["198.51.100.1".parse().expect("an address")],
            interfaces: ["lo", "eth0", "flannel.1", "veth1", "veth2"]
                .map(String::from)
                .to_vec(),
        };
        let host = "198.51.100.1";
        let judge = Judge::new(Some(&old), &new, place.clone());
        let by = |name: &str| vec![name.to_owned()];
        let refused = judge.judge(&connection("192.0.2.2", host, 9100, 9100), || by("eth0"));
        assert_eq!(
            refused_of(refused).map(|r| r.to_string()).as_deref(),
            Some("b (192.0.2.2) to this host, 9100/tcp (input-default)")
        );
        for (name, connection, ends) in [
            (
                "of a peer that is none any more",
                connection("192.0.2.2", host, 9100, 9100),
                true,
            ),
            (
                "of one, through this host",
                connection("192.0.2.2", "10.244.1.2", 9100, 9100),
                true,
            ),
            (
                "of one, to what is open to all",
                connection("192.0.2.2", host, 22, 22),
                false,
            ),
            (
                "of a peer that stays",
                connection("192.0.2.1", host, 9100, 9100),
                false,
            ),
            (
                "of a pod",
                connection("10.244.1.2", host, 10250, 10250),
                false,
            ),
            (
                "to a published port that is closed",
                connection("203.0.113.9", "10.244.1.2", 8080, 80),
                true,
            ),
            (
                "that neither admits",
                connection("203.0.113.9", host, 25, 25),
                false,
            ),
            (
                "that this host began",
                connection(host, "192.0.2.2", 443, 443),
                false,
            ),
        ] {
            let way = match connection.source.to_string().starts_with("10.244.") {
                true => "flannel.1",
                false => "eth0",
            };
            let found = refused_of(judge.judge(&connection, || by(way)));
            assert_eq!(
                found.as_ref().is_some_and(|r| r.was_admitted),
                ends,
                "{name}: {found:?}"
            );
            let listed = ends || name == "that neither admits";
            assert_eq!(found.is_some(), listed, "{name}: {found:?}");
            // Without an old one, nothing was admitted by us.
            let first = Judge::new(None, &new, place.clone()).judge(&connection, || by(way));
            let first = refused_of(first);
            assert_eq!(first.is_some(), listed, "{name}");
            assert!(first.is_none_or(|refused| !refused.was_admitted), "{name}");
        }
    }
}
