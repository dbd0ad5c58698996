//! Which open connections a change of policy ends.
//!
//! Just those that the new ruleset refuses and the old one admitted: asked as if each were begun now.
//! By which interface it came in is not known any more, so a connection that the new ruleset admits by
//! any interface goes on.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::packet::{CtState, Hook, Packet, Transport, Verdict};
use crate::port;
use crate::ruleset::Ruleset;

/// A connection, as connection tracking knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Who began it.
    pub source: IpAddr,
    /// From this port.
    pub source_port: u16,
    /// Protocol number.
    pub protocol: u8,
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

/// A connection that ends, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// Who began it.
    pub source: IpAddr,
    /// What was dialled.
    pub dialled: String,
    /// Input or forward.
    pub hook: Hook,
    /// Why the new ruleset refuses it.
    pub why: String,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.hook {
            Hook::Input => "to",
            Hook::Forward => "through",
        };
        write!(
            f,
            "{} {way} this host, {} ({})",
            self.source, self.dialled, self.why
        )
    }
}

/// Whether a connection ends when `new` takes the place of `old`, and why.
pub fn cut(old: &Ruleset, new: &Ruleset, place: &Place, connection: &Connection) -> Option<Cut> {
    let packets = packets(place, connection);
    let accepts =
        |ruleset: &Ruleset, packet: &Packet| ruleset.eval(packet).verdict == Verdict::Accept;
    let was = packets.iter().any(|packet| accepts(old, packet));
    let is = packets.iter().any(|packet| accepts(new, packet));
    let first = packets.first().filter(|_| was && !is)?;
    let why = new.eval(first).reason();
    Some(Cut {
        source: connection.source,
        dialled: format!(
            "{}/{}",
            connection.dialled,
            port::protocol_name(connection.protocol)
        ),
        hook: first.hook,
        why: why.map_or_else(|| "denied".to_owned(), |reason| reason.to_string()),
    })
}

/// First packets of the connection, by every way that it can have come; none if it is not for us to end.
fn packets(place: &Place, connection: &Connection) -> Vec<Packet> {
    let here = |address: IpAddr| address.is_loopback() || place.addresses.contains(&address);
    // What this host began is not ours, nor is what has no ports to tell it by.
    if here(connection.source) || !port::has_ports(connection.protocol) {
        return Vec::new();
    }
    let hook = match here(connection.destination) {
        true => Hook::Input,
        false => Hook::Forward,
    };
    let interfaces = place.interfaces.iter().filter(|name| name.as_str() != "lo");
    let ways = interfaces.flat_map(|name| [(name, true), (name, false)]);
    ways.map(|(interface, reverse_path)| Packet {
        hook,
        interface: interface.clone(),
        source: connection.source,
        destination: connection.destination,
        transport: Transport::Ports {
            protocol: connection.protocol,
            source: connection.source_port,
            destination: connection.destination_port,
        },
        hop_limit: 64,
        state: CtState::New,
        dialled: connection.is_dnat.then_some(connection.dialled),
        reverse_path,
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
            is_dnat: dialled != port,
            destination: destination.parse().expect("an address"),
            destination_port: port,
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
            interfaces: vec!["lo".into(), "eth0".into(), "flannel.1".into()],
        };
        let host = "198.51.100.1";
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
            let found = cut(&old, &new, &place, &connection);
            assert_eq!(found.is_some(), ends, "{name}: {found:?}");
        }
    }
}
