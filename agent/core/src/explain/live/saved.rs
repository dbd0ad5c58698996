//! Evaluates tables of iptables on a packet, like `ipt_do_table()` in
//! `net/ipv4/netfilter/ip_tables.c`.

use crate::import::eval::{self, Probe};
use crate::import::rule::{
    At, Condition, ImportedChain, ImportedChains, ImportedRule, Interval, KnownMark, Test, Verb,
};
use crate::net::addr::{self, Family};
use crate::net::packet::{CtState, Packet, Transport, Verdict};
use crate::nft::machine::{Frame, RouteKind, Way};

/// Maximum nesting of jumps that is followed. The kernel refuses loops when they are loaded.
const DEPTH_MAX: usize = 256;

/// How a chain treats a packet.
pub(super) struct SavedTreatment {
    pub verdict: Verdict,
    pub is_translated: bool,
    /// Line of the deciding rule; `None` for the chain's policy.
    pub by: Option<At>,
}

/// End of a rule.
enum Action {
    Verdict(Verdict),
    Translated,
    Return,
}

struct Run<'r, 'w> {
    chains: &'r ImportedChains,
    /// The packet as it was described.
    packet: &'r Packet,
    frame: &'r mut Frame,
    way: &'r mut Way<'w>,
    probe: Probe,
}

/// Evaluates a built-in chain. `has_out` tells whether packets have an outgoing interface there.
pub(super) fn treat(
    chains: &ImportedChains,
    name: &str,
    packet: &Packet,
    has_out: bool,
    frame: &mut Frame,
    way: &mut Way<'_>,
) -> SavedTreatment {
    let probe = probe(packet, has_out, frame, way);
    let mut run = Run {
        chains,
        packet,
        frame,
        way,
        probe,
    };
    let found = run.chain(name, 0);
    let accepts = chains.get(name).and_then(|chain| chain.accepts);
    let policy = match accepts {
        Some(false) => Verdict::Drop,
        Some(true) | None => Verdict::Accept,
    };
    let (verdict, is_translated) = match &found {
        Some((_, Action::Verdict(verdict))) => (*verdict, false),
        Some((_, Action::Translated)) => (Verdict::Accept, true),
        Some((_, Action::Return)) | None => (policy, false),
    };
    SavedTreatment {
        verdict,
        is_translated,
        by: found.map(|(at, _)| at),
    }
}

impl Run<'_, '_> {
    /// Evaluates a chain; `None` at its end.
    fn chain(&mut self, name: &str, depth: usize) -> Option<(At, Action)> {
        let chains = self.chains;
        let chain: &ImportedChain = chains.get(name)?;
        for rule in &chain.rules {
            if !self.matches(rule) {
                continue;
            }
            if let Some(to) = rule.target.chain().filter(|_| depth < DEPTH_MAX) {
                let found = self.chain(to, depth + 1);
                if found.is_some() || matches!(rule.target, Verb::Goto(_)) {
                    return found;
                }
                continue;
            }
            match self.act(&rule.target) {
                Some(Action::Return) => return None,
                Some(action) => return Some((rule.at, action)),
                None => {}
            }
        }
        None
    }

    fn matches(&mut self, rule: &ImportedRule) -> bool {
        let answers = rule.conditions.iter();
        let answers = answers.map(|condition| meets(condition, &self.probe));
        let answers: Vec<Option<bool>> = answers.collect();
        // Known conditions first: if one of them fails, unknown ones do not matter.
        if answers.contains(&Some(false)) {
            return false;
        }
        for condition in &rule.conditions {
            if let Test::Rate(..) = condition.test {
                let assumed = "no rate limit is exceeded".to_owned();
                self.way.assumed.insert(assumed);
            }
        }
        let unknown = rule.conditions.iter().zip(answers);
        let unknown = unknown.filter(|(_, answer)| answer.is_none());
        for (condition, _) in unknown {
            let about = || {
                if let Test::Unknown(words) | Test::Mark(_, words) = &condition.test {
                    return format!("`{words}`");
                }
                "a condition of iptables".to_owned()
            };
            if !self.way.choices.is_so(about) {
                return false;
            }
        }
        true
    }

    /// Acts by a target; `None` if the next rule follows.
    fn act(&mut self, target: &Verb) -> Option<Action> {
        match target {
            Verb::Accept | Verb::Masquerade => Some(Action::Verdict(Verdict::Accept)),
            Verb::Drop | Verb::Jump(_) | Verb::Goto(_) => Some(Action::Verdict(Verdict::Drop)),
            Verb::Reject => Some(Action::Verdict(Verdict::Reject)),
            Verb::Return => Some(Action::Return),
            Verb::Mark(change, _) => {
                let (value, mask) = self.frame.mark_bits();
                self.probe.mark = KnownMark::of(value, mask).after(*change);
                let (value, mask) = self.probe.mark.parts();
                self.frame.set_mark_bits(value, mask);
                None
            }
            Verb::Untrack(_) => {
                self.frame.untrack();
                self.probe.packet.state = CtState::Untracked;
                None
            }
            Verb::Continue(_) => None,
            Verb::Dnat(to, ports) => {
                self.translate(*to, *ports);
                Some(Action::Translated)
            }
            Verb::Unknown(words) | Verb::DnatSomewhere(words) => {
                let about = || format!("the target `{words}`");
                match self.way.choices.choose(3, about) {
                    0 => None,
                    1 => Some(Action::Verdict(Verdict::Accept)),
                    _ => Some(Action::Verdict(Verdict::Drop)),
                }
            }
        }
    }

    fn translate(&mut self, to: Option<Interval>, ports: Option<(u16, u16)>) {
        let family = Family::of(self.packet.source);
        let address = match to {
            Some((first, last)) => {
                if first != last {
                    let assumed = "of several destinations of a DNAT, the first one";
                    self.way.assumed.insert(assumed.to_owned());
                }
                Some(addr::address(family, first))
            }
            None => {
                let interface = &self.packet.interface;
                self.way.host.redirect_address(interface, family)
            }
        };
        self.frame.translate(address, ports.map(|(first, _)| first));
    }
}

/// Describes the packet as it is now.
fn probe(described: &Packet, has_out: bool, frame: &Frame, way: &mut Way<'_>) -> Probe {
    let mut packet = described.clone();
    packet.destination = frame.destination();
    packet.dialled = frame.dialled();
    packet.state = frame.state();
    let port = frame.destination_port();
    if let (Transport::Ports { destination, .. }, Some(port)) = (&mut packet.transport, port) {
        *destination = port;
    }
    let kind = way.host.kind(packet.destination);
    let (value, mask) = frame.mark_bits();
    Probe {
        out: frame.out().filter(|_| has_out).map(str::to_owned),
        to_this_host: kind == Some(RouteKind::Local),
        mark: KnownMark::of(value, mask),
        packet,
    }
}

/// Reports whether a packet meets a condition; `None` if that is not known.
fn meets(condition: &Condition, probe: &Probe) -> Option<bool> {
    let Test::Any(lists) = &condition.test else {
        let is_known = eval::is_known(condition, probe);
        return is_known.then(|| eval::holds(condition, probe));
    };
    let lists = lists.iter().map(|list| all(list, probe));
    let lists: Vec<Option<bool>> = lists.collect();
    let found = match (lists.contains(&Some(true)), lists.contains(&None)) {
        (true, _) => Some(true),
        (false, true) => None,
        (false, false) => Some(false),
    };
    found.map(|found| found != condition.negated)
}

fn all(conditions: &[Condition], probe: &Probe) -> Option<bool> {
    let answers = conditions.iter().map(|each| meets(each, probe));
    let answers: Vec<Option<bool>> = answers.collect();
    match (answers.contains(&Some(false)), answers.contains(&None)) {
        (true, _) => Some(false),
        (false, true) => None,
        (false, false) => Some(true),
    }
}
