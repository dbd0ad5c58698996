//! Evaluates a packet against a ruleset, like `nft_do_chain()` of nf_tables.

use crate::net::addr::{self, Family};
use crate::net::packet::{CtState, Decision, Packet, Transport, Verdict};
use crate::net::port::TCP;
use crate::policy::reason::Reason;
use crate::ruleset::{
    Action, Chain, ChainHook, ChainPolicy, IcmpKinds, KeyType, Match, Ports, Rule, Ruleset,
    counter_reason,
};

/// Maximum nesting of jumps (`NFT_JUMP_STACK_SIZE`).
const JUMPS_MAX: usize = 16;

/// Verdict for a packet and the rules that it matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// Verdict.
    pub verdict: Verdict,
    /// Last counter that the packet incremented.
    pub counter: Option<String>,
    /// Matching rules in order, as chain and position.
    pub path: Vec<(String, usize)>,
    /// Whether a rule labelled the connection ([`Rule::label`]).
    pub labelled: bool,
}

impl Walk {
    /// Returns verdict and reason; `None` if no counter of peerwall was incremented.
    pub fn decision(&self) -> Option<Decision> {
        let (_, reason) = counter_reason(self.counter.as_deref()?)?;
        Some(Decision {
            verdict: self.verdict,
            reason,
        })
    }

    /// Returns the reason of the verdict.
    pub fn reason(&self) -> Option<Reason> {
        self.decision().map(|decision| decision.reason)
    }
}

impl Ruleset {
    /// Evaluates a packet through prerouting and then its own hook.
    pub fn eval(&self, packet: &Packet) -> Walk {
        let mut walk = Walk {
            verdict: Verdict::Accept,
            counter: None,
            path: Vec::new(),
            labelled: false,
        };
        self.pass(ChainHook::Prerouting, &packet.before_dnat(), &mut walk);
        if walk.verdict == Verdict::Accept {
            self.pass(packet.hook.into(), packet, &mut walk);
        }
        walk
    }

    /// Runs the base chain of a hook. Without such a chain the verdict does not change.
    fn pass(&self, hook: ChainHook, packet: &Packet, walk: &mut Walk) {
        let base = |chain: &&Chain| chain.base.is_some_and(|base| base.hook == hook);
        let Some(chain) = self.chains.iter().find(base) else {
            return;
        };
        let policy = chain.base.map(|base| base.policy);
        walk.verdict = self.run(chain, packet, walk, 0).unwrap_or(match policy {
            Some(ChainPolicy::Accept) | None => Verdict::Accept,
            Some(ChainPolicy::Drop) => Verdict::Drop,
        });
    }

    /// Runs a chain; returns `None` if the packet reaches its end without a verdict.
    fn run(
        &self,
        chain: &Chain,
        packet: &Packet,
        walk: &mut Walk,
        depth: usize,
    ) -> Option<Verdict> {
        for (index, rule) in chain.rules.iter().enumerate() {
            if !rule.matches.iter().all(|m| self.matches(m, packet, walk)) {
                continue;
            }
            walk.path.push((chain.name.clone(), index));
            walk.labelled |= rule.label && is_tracked(packet);
            if let Some(counter) = &rule.counter {
                walk.counter = Some(counter.clone());
            }
            match self.act(rule, packet, walk, depth) {
                Step::Next => {}
                Step::End(verdict) => return verdict,
            }
        }
        None
    }

    fn act(&self, rule: &Rule, packet: &Packet, walk: &mut Walk, depth: usize) -> Step {
        let into = |name: &str, walk: &mut Walk| {
            let chain = self.chain(name).filter(|_| depth < JUMPS_MAX)?;
            self.run(chain, packet, walk, depth + 1)
        };
        match &rule.action {
            None => Step::Next,
            Some(Action::Accept) => Step::End(Some(Verdict::Accept)),
            Some(Action::Drop) => Step::End(Some(Verdict::Drop)),
            Some(Action::RejectTcpReset | Action::RejectAdminProhibited) => {
                Step::End(Some(Verdict::Reject))
            }
            Some(Action::Goto(name)) => Step::End(into(name, walk)),
            Some(Action::Jump(name)) => match into(name, walk) {
                Some(verdict) => Step::End(Some(verdict)),
                None => Step::Next,
            },
        }
    }

    fn matches(&self, condition: &Match, packet: &Packet, walk: &Walk) -> bool {
        match condition {
            Match::CtState(states) => states.0 & state_bit(packet.state) != 0,
            Match::Dnat => packet.dialled.is_some(),
            // Untracked packets have no conntrack status.
            Match::NotDnat => is_tracked(packet) && packet.dialled.is_none(),
            Match::DialledHere => walk.labelled,
            Match::Local => packet.to_host,
            Match::Loopback => packet.interface == "lo",
            Match::OutInterface(pattern) => packet
                .out
                .as_ref()
                .is_some_and(|name| pattern.matches(name)),
            Match::SourceMac(set) => packet.mac.is_some_and(|mac| {
                let number = mac.iter().fold(0, |n, byte| n << 8 | u128::from(*byte));
                self.in_set(set, KeyType::Ether, number)
            }),
            Match::SourceNet(net) => net.contains(&packet.source),
            Match::DestinationIn { family, set } => {
                packet.family() == *family
                    && self.in_set(
                        set,
                        KeyType::address(*family),
                        addr::number(packet.destination),
                    )
            }
            Match::DialledAddress { family, set } => {
                let dialled = packet
                    .dialled
                    .map_or(packet.destination, |dialled| dialled.address);
                is_tracked(packet)
                    && packet.family() == *family
                    && self.in_set(set, KeyType::address(*family), addr::number(dialled))
            }
            Match::TcpSyn => packet.protocol() == TCP && packet.syn,
            Match::Interface { pattern, negated } => pattern.matches(&packet.interface) != *negated,
            Match::Family(family) => packet.family() == *family,
            Match::Source { family, set } => {
                packet.family() == *family
                    && self.in_set(set, KeyType::address(*family), addr::number(packet.source))
            }
            Match::Destination(net) => net.contains(&packet.destination),
            Match::Protocol(number) => packet.protocol() == *number,
            Match::SourcePort(wanted) => {
                ports(packet).is_some_and(|(port, _)| self.port_in(wanted, port))
            }
            Match::DestinationPort(wanted) => {
                ports(packet).is_some_and(|(_, port)| self.port_in(wanted, port))
            }
            Match::DialledPort(wanted) => {
                dialled(packet).is_some_and(|port| self.port_in(wanted, port))
            }
            Match::Icmp(kinds) => {
                icmp(packet).is_some_and(|kind| self.icmp_in(kinds, packet.family(), kind))
            }
            Match::HopLimit(limit) | Match::Ttl(limit) => packet.hop_limit == *limit,
            Match::ReversePath { exists } => packet.reverse_path == *exists,
        }
    }

    fn in_set(&self, name: &str, key: KeyType, value: u128) -> bool {
        let set = self.sets.get(name);
        set.is_some_and(|set| set.key == key && set.contains(value))
    }

    fn port_in(&self, wanted: &Ports, port: u16) -> bool {
        match wanted {
            Ports::Range(range) => range.contains(port),
            Ports::Set(name) => self.in_set(name, KeyType::Port, u128::from(port)),
        }
    }

    fn icmp_in(&self, wanted: &IcmpKinds, family: Family, kind: u8) -> bool {
        match wanted {
            IcmpKinds::One(one) => *one == kind,
            IcmpKinds::Set(name) => self.in_set(name, KeyType::icmp(family), u128::from(kind)),
        }
    }
}

enum Step {
    /// Continue with the next rule.
    Next,
    /// Leave the chain: with a verdict, or back to the jumping rule.
    End(Option<Verdict>),
}

fn state_bit(state: CtState) -> u32 {
    match state {
        CtState::Invalid => 1,
        CtState::Established => 2,
        CtState::Related => 4,
        CtState::New => 8,
        CtState::Untracked => 64,
    }
}

fn ports(packet: &Packet) -> Option<(u16, u16)> {
    match packet.transport {
        Transport::Ports {
            source,
            destination,
            ..
        } => Some((source, destination)),
        Transport::Icmp { .. } | Transport::Other(_) => None,
    }
}

/// Returns `ct original proto-dst`; `None` for untracked packets.
fn dialled(packet: &Packet) -> Option<u16> {
    match packet.state {
        CtState::Invalid | CtState::Untracked => None,
        CtState::New | CtState::Established | CtState::Related => packet
            .dialled
            .map(|dialled| dialled.port)
            .or(ports(packet).map(|(_, port)| port)),
    }
}

fn is_tracked(packet: &Packet) -> bool {
    match packet.state {
        CtState::Invalid | CtState::Untracked => false,
        CtState::New | CtState::Established | CtState::Related => true,
    }
}

fn icmp(packet: &Packet) -> Option<u8> {
    match packet.transport {
        Transport::Icmp { kind, .. } => Some(kind),
        Transport::Ports { .. } | Transport::Other(_) => None,
    }
}
