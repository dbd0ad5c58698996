//! Walks a packet through a ruleset, as nf_tables would (`nft_do_chain()`).

use crate::net::addr::{self, Family};
use crate::net::packet::{CtState, Decision, Packet, Transport, Verdict};
use crate::net::port::TCP;
use crate::policy::reason::Reason;
use crate::ruleset::{
    Action, Chain, ChainHook, ChainPolicy, IcmpKinds, KeyType, Match, Ports, Rule, Ruleset,
    counter_reason,
};

/// Deepest nesting of jumps (`NFT_JUMP_STACK_SIZE`).
const JUMPS_MAX: usize = 16;

/// Result of a packet, and its way through the chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// Its verdict.
    pub verdict: Verdict,
    /// The last counter that counted it.
    pub counter: Option<String>,
    /// Rules that matched, as chain and position.
    pub path: Vec<(String, usize)>,
    /// Whether a rule has labelled the connection ([`Rule::label`]).
    pub labelled: bool,
}

impl Walk {
    /// Verdict and reason; `None` if no counter of peerwall counted it.
    pub fn decision(&self) -> Option<Decision> {
        let (_, reason) = counter_reason(self.counter.as_deref()?)?;
        Some(Decision {
            verdict: self.verdict,
            reason,
        })
    }

    /// The reason alone.
    pub fn reason(&self) -> Option<Reason> {
        self.decision().map(|decision| decision.reason)
    }
}

impl Ruleset {
    /// What the table does with this packet.
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

    /// Through the chains of one hook; where there is none, nothing happens.
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

    /// A verdict, or `None` at the end of the chain.
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
            // What is not tracked has no status to ask for.
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
    /// On to the next rule.
    Next,
    /// Out of this chain, with a verdict or back to where it was jumped from.
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

/// `ct original proto-dst`: there is none for what is not tracked.
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
