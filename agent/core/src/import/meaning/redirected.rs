//! Who may open connections that DNAT redirects.

use std::net::SocketAddr;

use super::classes::Reduced;
use super::described::{Described, Owners};
use super::services::Admitted;
use super::{Comparison, Effect, add};
use crate::net::addr::{self, Family};
use crate::net::packet::{CtState, Hook};
use crate::ruleset::{Action, Chain, ChainHook, IcmpKinds, KeyType, Match, Ports, Rule, Ruleset};

/// A connection with a translated destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirected {
    /// IP protocol, one with ports.
    pub protocol: u8,
    /// Destination before DNAT.
    pub dialled: SocketAddr,
    /// Whether that is an address of this host.
    pub is_local: bool,
    /// Hook that the connection reaches.
    pub hook: Hook,
    /// Destination after DNAT.
    pub to: SocketAddr,
    /// Outgoing interface, if it is forwarded and the interface is known.
    pub out: Option<String>,
}

/// Finds out who may open each of these connections.
pub fn redirected_access(ruleset: &Ruleset, connections: &[Redirected]) -> Vec<Vec<Admitted>> {
    let mut found = vec![Vec::new(); connections.len()];
    for family in [Family::V4, Family::V6] {
        let mut reduced: Option<Reduced> = None;
        // Most ports are treated alike.
        let mut known: Vec<(Hook, Vec<Chain>, Vec<Admitted>)> = Vec::new();
        for (connection, admitted) in connections.iter().zip(&mut found) {
            if Family::of(connection.to.ip()) != family {
                continue;
            }
            let chains = of_connection(ruleset, connection);
            let is_same = |(hook, other, _): &&(Hook, Vec<Chain>, Vec<Admitted>)| {
                *hook == connection.hook && *other == chains
            };
            if let Some((_, _, same)) = known.iter().find(is_same) {
                admitted.clone_from(same);
                continue;
            }
            let reduced = reduced.get_or_insert_with(|| Reduced::new(ruleset, ruleset, family));
            let lines = admitted_by(
                ruleset,
                &reduced.with_chains(&chains),
                family,
                connection.hook,
            );
            admitted.clone_from(&lines);
            known.push((connection.hook, chains, lines));
        }
    }
    found
}

/// Evaluates the remaining rules on all sources and interfaces.
fn admitted_by(ruleset: &Ruleset, reduced: &Reduced, family: Family, hook: Hook) -> Vec<Admitted> {
    let owners = [ruleset, ruleset].map(|ruleset| Owners::new(ruleset, family));
    let mut comparison = Comparison::new(family, reduced);
    let accepted = comparison.ruled(&reduced.new, hook);
    let mut lines: Vec<Described> = Vec::new();
    let space = &mut comparison.space;
    for label in space.d.labels_in(accepted.accepted, accepted.labels) {
        let decision = accepted.decisions.get(usize::try_from(label).unwrap_or(0));
        let Some((_, reason)) = decision else {
            continue;
        };
        let space = &mut comparison.space;
        let of = space.d.labelled(accepted.labels, label);
        let of = space.d.and(of, accepted.accepted);
        let new = space.axes.states(&mut space.d, &[CtState::New]);
        let of = space.d.and(of, new);
        let (source, interface) = (space.axes.source, space.axes.interface);
        let wide = space.d.project(of, &[source, interface]);
        for part in comparison.parts((Effect::Opens, Hook::Input, reason), wide) {
            add(&mut lines, part.described(family, reduced, &owners), family);
        }
    }
    lines.into_iter().map(Described::admitted).collect()
}

/// Returns the chains of a ruleset without the matches that are certain for a connection, and
/// without the rules that it cannot match.
fn of_connection(ruleset: &Ruleset, connection: &Redirected) -> Vec<Chain> {
    let before = reached(ruleset, ChainHook::Prerouting);
    let after = reached(ruleset, connection.hook.into());
    let is_before = |name: &String| before.contains(name);
    let chains = ruleset.chains.iter();
    let chains = chains.filter(|chain| before.contains(&chain.name) || after.contains(&chain.name));
    chains
        .map(|chain| {
            let view = View {
                ruleset,
                connection,
                is_before: is_before(&chain.name),
                is_after: after.contains(&chain.name),
            };
            Chain {
                name: chain.name.clone(),
                base: chain.base,
                rules: chain
                    .rules
                    .iter()
                    .filter_map(|rule| view.rule(rule))
                    .collect(),
            }
        })
        .collect()
}

/// Returns the chains that packets of a hook can reach.
fn reached(ruleset: &Ruleset, hook: ChainHook) -> Vec<String> {
    let is_base = |chain: &&Chain| chain.base.is_some_and(|base| base.hook == hook);
    let base = ruleset.chains.iter().filter(is_base);
    let mut found: Vec<String> = base.map(|chain| chain.name.clone()).collect();
    let mut at = 0;
    while let Some(chain) = found.get(at).and_then(|name| ruleset.chain(name)) {
        for rule in &chain.rules {
            if let Some(Action::Jump(to) | Action::Goto(to)) = &rule.action
                && !found.contains(to)
            {
                found.push(to.clone());
            }
        }
        at += 1;
    }
    found
}

/// A connection in one chain.
struct View<'r> {
    ruleset: &'r Ruleset,
    connection: &'r Redirected,
    /// Whether packets reach the chain before DNAT.
    is_before: bool,
    /// Whether packets reach the chain after DNAT.
    is_after: bool,
}

impl View<'_> {
    /// Returns the rule without certain matches; `None` if one of them fails.
    fn rule(&self, rule: &Rule) -> Option<Rule> {
        let mut left = rule.clone();
        left.matches.clear();
        for each in &rule.matches {
            match self.answer(each) {
                Some(true) => {}
                Some(false) => return None,
                None => left.matches.push(each.clone()),
            }
        }
        Some(left)
    }

    /// Answers a match; `None` if other properties of a packet decide.
    fn answer(&self, each: &Match) -> Option<bool> {
        let connection = self.connection;
        let family = Family::of(connection.to.ip());
        let dialled = connection.dialled;
        match each {
            Match::Dnat => self.at(false, true),
            Match::NotDnat => self.at(true, false),
            Match::Local => Some(connection.is_local),
            Match::Family(wanted) => Some(*wanted == family),
            Match::Protocol(wanted) => Some(*wanted == connection.protocol),
            Match::DestinationPort(ports) => {
                let is_in = |to: SocketAddr| self.has_port(ports, to.port());
                self.at(is_in(dialled), is_in(connection.to))
            }
            Match::DialledPort(ports) => Some(self.has_port(ports, dialled.port())),
            Match::Destination(net) => {
                let is_in = |to: SocketAddr| net.contains(&to.ip());
                self.at(is_in(dialled), is_in(connection.to))
            }
            Match::DestinationIn { set, .. } => {
                let is_in = |to: SocketAddr| self.has_address(set, to);
                self.at(is_in(dialled), is_in(connection.to))
            }
            Match::DialledAddress { set, .. } => Some(self.has_address(set, dialled)),
            Match::OutInterface(pattern) => match (&connection.out, connection.hook) {
                (_, Hook::Input) => Some(false),
                (Some(out), Hook::Forward) => Some(pattern.matches(out)),
                (None, Hook::Forward) => None,
            },
            Match::Icmp(IcmpKinds::One(_) | IcmpKinds::Set(_)) => Some(false),
            Match::CtState(_)
            | Match::DialledHere
            | Match::Loopback
            | Match::Interface { .. }
            | Match::Source { .. }
            | Match::SourceNet(_)
            | Match::SourceMac(_)
            | Match::TcpSyn
            | Match::SourcePort(_)
            | Match::HopLimit(_)
            | Match::Ttl(_)
            | Match::ReversePath { .. } => None,
        }
    }

    /// Chooses between the answers before and after DNAT; `None` if both can be asked for.
    fn at(&self, before: bool, after: bool) -> Option<bool> {
        match (self.is_before, self.is_after) {
            (true, false) => Some(before),
            (false, _) => Some(after),
            (true, true) => (before == after).then_some(before),
        }
    }

    fn has_port(&self, ports: &Ports, port: u16) -> bool {
        match ports {
            Ports::Range(range) => range.contains(port),
            Ports::Set(name) => self.has(name, KeyType::Port, u128::from(port)),
        }
    }

    fn has_address(&self, set: &str, to: SocketAddr) -> bool {
        let key = KeyType::address(Family::of(to.ip()));
        self.has(set, key, addr::number(to.ip()))
    }

    fn has(&self, name: &str, key: KeyType, value: u128) -> bool {
        let set = self.ruleset.sets.get(name);
        set.is_some_and(|set| set.key == key && set.contains(value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::generate::{packet, policy};
    use crate::net::packet::Transport;
    use crate::net::port::{TCP, UDP};
    use crate::policy::load::{NoFiles, load};
    use crate::ruleset::compile::compile;

    const POLICY: &str = "version = 1
[peers]
a = \"10.0.0.1\"
[[allow]]
name = \"web\"
ports = [\"8080/tcp\"]
from = \"any\"
[[allow]]
name = \"db\"
ports = [\"5432/tcp\"]
from = [\"10.7.0.0/16\"]
[[allow]]
name = \"api\"
ports = [\"443/tcp\"]
from = \"any\"
to = [\"10.96.0.1\"]
";

    #[test]
    fn published_ports_have_the_sources_that_can_reach_them() {
        let policy = load("policy.toml", POLICY, &NoFiles).policy.unwrap();
        let (ruleset, _) = compile(&policy);
        let peers = "a (10.0.0.1) ([peers])";
        for (name, protocol, dialled, is_local, wanted) in [
            (
                "open to everybody",
                TCP,
                "192.0.2.1:8080",
                true,
                &[peers, "any source except a (10.0.0.1) ([[allow]] web)"][..],
            ),
            ("other protocol", UDP, "192.0.2.1:8080", true, &[peers]),
            ("the port behind it", TCP, "192.0.2.1:80", true, &[peers]),
            (
                "open to a network",
                TCP,
                "192.0.2.1:5432",
                true,
                &[peers, "10.7.0.0/16 ([[allow]] db)"],
            ),
            (
                "no address of this host",
                TCP,
                "10.96.0.9:8080",
                false,
                &[peers],
            ),
            (
                "named address",
                TCP,
                "10.96.0.1:443",
                false,
                &[peers, "any source except a (10.0.0.1) ([[allow]] api)"],
            ),
        ] {
            for hook in [Hook::Input, Hook::Forward] {
                let connection = Redirected {
                    protocol,
                    dialled: dialled.parse().unwrap(),
                    is_local,
                    hook,
                    to: "172.17.0.2:80".parse().unwrap(),
                    out: (hook == Hook::Forward).then(|| "docker0".to_owned()),
                };
                let found = redirected_access(&ruleset, &[connection]);
                let found: Vec<&str> = found[0].iter().map(|each| each.message.as_str()).collect();
                assert_eq!(found, wanted, "{name}, {hook}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn rules_of_a_connection_have_its_verdict(
            policy in policy(),
            packets in prop::collection::vec(packet(), 256),
        ) {
            let (ruleset, _) = compile(&policy);
            for packet in packets {
                let (Some(dialled), Transport::Ports { destination, .. }) =
                    (packet.dialled, packet.transport)
                else {
                    continue;
                };
                let connection = Redirected {
                    protocol: packet.protocol(),
                    dialled: SocketAddr::new(dialled.address, dialled.port),
                    is_local: packet.to_host,
                    hook: packet.hook,
                    to: SocketAddr::new(packet.destination, destination),
                    out: packet.out.clone(),
                };
                let left = Ruleset {
                    chains: of_connection(&ruleset, &connection),
                    ..ruleset.clone()
                };
                let [left, whole] = [&left, &ruleset].map(|each| each.eval(&packet).decision());
                prop_assert_eq!(left, whole, "{:?}", packet);
            }
        }
    }
}
