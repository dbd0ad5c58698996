//! Judges an import packet by packet, independently of the packet sets that it compares: every
//! packet on which rules and policy disagree must belong to a difference that the report lists.

mod nat;
mod packets;

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::canonical::Readings;
use super::eval::{Probe, ReadAs};
use super::rule::{At, ImportedRules, Test};
use super::space::Slicing;
use super::{
    Direction, Facts, File, Import, ImportError, Options, import_sliced, managed, rules, undecided,
};
use crate::net::addr::{self, Family};
use crate::net::packet::{Decision, Verdict};
use crate::policy::Policy;
use crate::policy::load::{NoFiles, load};
use crate::policy::reason::Reason;
use packets::Packets;

/// Number of packets of each family, and the seed of the random ones.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Number of packets.
    pub packets: usize,
    /// Seed.
    pub seed: u64,
}

/// Imports files, and judges the result. Returns the first packet that is treated differently and
/// is in no difference of the report.
///
/// # Errors
/// All errors in the files.
pub fn judge(files: &[File], effort: Effort) -> Result<Option<String>, Vec<ImportError>> {
    let options = Options {
        assume_accept: true,
    };
    let mut families = rules(files)?;
    let facts = facts(&families);
    undecided::distrust(&mut families, &facts);
    let slicing = match effort.seed % 4 {
        0 => Slicing::ByRules,
        some => Slicing::Into(1 << some),
    };
    let readings = Readings::default();
    let import = import_sliced(files, &facts, options, &readings, slicing)?;
    let problem = compare(&families, &facts, &import, effort).or_else(|| untold(&import));
    Ok(problem.map(|problem| format!("{problem}\n{}\n{import}", import.policy)))
}

/// Returns the first packet that is treated differently and is in no difference of the report.
fn compare(
    families: &[ImportedRules],
    facts: &Facts,
    import: &Import,
    effort: Effort,
) -> Option<String> {
    let loaded = load("policy.toml", &import.policy, &NoFiles);
    let Some(policy) = loaded.policy else {
        return Some("the policy does not load".to_owned());
    };
    families.iter().find_map(|rules| {
        let judge = Judge {
            rules,
            import,
            policy: &policy,
        };
        judge.run(facts, effort)
    })
}

/// Returns an allow that is wider than the rules, if no line says so.
fn untold(import: &Import) -> Option<String> {
    let is_said = |line: &super::Line| !line.fate.is_whole();
    let wider = import.differences.iter().find(|difference| {
        difference.change == Direction::New
            && matches!(difference.reason, Reason::Allow(_) | Reason::Ping)
    });
    let wider = wider.filter(|_| !import.lines.iter().any(is_said));
    wider.map(|difference| format!("--strict succeeds, although {}", difference.sentence))
}

/// Returns addresses for the host: those that rules name, or ones that they do not.
fn facts(families: &[ImportedRules]) -> Facts {
    let of = |family: Family| {
        let default = match family {
            Family::V4 => "192.0.2.254",
            Family::V6 => "2001:db8:ffff::fe",
        };
        let rules = families.iter().find(|rules| rules.family == family);
        let named = rules.and_then(|rules| own(rules).first().copied());
        let address = named.map_or_else(|| default.parse().ok(), Some);
        let length = if family == Family::V4 { 24 } else { 64 };
        address.and_then(|address| IpNet::new(address, length).ok())
    };
    Facts {
        addresses: Family::BOTH.into_iter().filter_map(of).collect(),
        ..Facts::default()
    }
}

/// Returns the single addresses that rules name as destinations and a host can have.
fn own(rules: &ImportedRules) -> Vec<std::net::IpAddr> {
    let usable = |address: &std::net::IpAddr| match address {
        std::net::IpAddr::V4(to) => (1..224).contains(&to.octets()[0]) && !to.is_loopback(),
        std::net::IpAddr::V6(to) => (0x2000..0xfe00).contains(&to.segments()[0]),
    };
    let named = named(rules).into_iter();
    let hosts = named.filter(|number| !managed::is_service(rules.family, &[(*number, *number)]));
    let addresses = hosts.map(|number| addr::address(rules.family, number));
    addresses.filter(usable).collect()
}

/// Returns the single addresses that rules name as destinations.
fn named(rules: &ImportedRules) -> BTreeSet<u128> {
    let chains = rules.filter.values().chain(rules.nat.values());
    let conditions = chains
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.conditions);
    let spans = conditions.filter_map(|condition| condition.destinations());
    let single = spans.flatten().filter(|(first, last)| first == last);
    single.map(|(first, _)| *first).collect()
}

struct Judge<'j> {
    rules: &'j ImportedRules,
    import: &'j Import,
    policy: &'j Policy,
}

impl Judge<'_> {
    fn run(&self, facts: &Facts, effort: Effort) -> Option<String> {
        let mut packets = Packets::new(self.rules, facts, effort.seed)?;
        let known = super::probes(self.rules, &facts.addresses);
        let step = (known.len() / (effort.packets / 2).max(1)).max(1);
        for mut probe in known.into_iter().step_by(step) {
            // What `probes` leaves open.
            probe.packet.syn = packets::opens(&probe.packet);
            if let Some(problem) = self.try_one(&packets, &probe) {
                return Some(problem);
            }
        }
        for _ in 0..effort.packets {
            let probe = packets.next();
            if let Some(problem) = self.try_one(&packets, &probe) {
                return Some(problem);
            }
        }
        None
    }

    fn try_one(&self, packets: &Packets<'_>, probe: &Probe) -> Option<String> {
        if !packets.can_arrive(probe) {
            return None;
        }
        let probe = nat::translated(self.rules, Some(packets.host), probe)?;
        let narrow = self
            .rules
            .narrow(probe.packet.source, ReadAs::BesidePeerwall);
        let outcome = narrow.judge(&probe);
        let decision = self.policy.verdict(&probe.packet);
        let change = match (outcome.verdict, decision.verdict) {
            (Verdict::Accept, Verdict::Accept) => return None,
            (Verdict::Accept, _) => Direction::Closed,
            (_, Verdict::Accept) => Direction::New,
            _ => return None,
        };
        // A port that no allow can name, or an overlay's own connection.
        if change == Direction::Closed && probe.packet.dialled.is_some() {
            return None;
        }
        if is_listed(self.import, change, &decision, outcome.by) {
            return None;
        }
        Some(format!(
            "rules: {:?} by {:?}, policy: {decision}, and no difference says so: {probe:?}",
            outcome.verdict, outcome.by
        ))
    }
}

/// Reports whether the nat table leaves a packet as it is.
pub fn is_direct(rules: &ImportedRules, probe: &Probe) -> bool {
    nat::translated(rules, None, probe).is_some_and(|translated| translated == *probe)
}

/// Reports whether the report lists a difference for packets that this line of the rules decides
/// and the policy decides otherwise, for this reason. One sentence may be about both hooks.
pub fn is_listed(import: &Import, change: Direction, decision: &Decision, by: Option<At>) -> bool {
    import.differences.iter().any(|difference| {
        difference.change == change
            && difference.reason == decision.reason
            && by.is_none_or(|at| difference.lines.contains(&at))
    })
}

/// Returns whether rules have conditions on output interfaces.
fn tests_outs(rules: &ImportedRules) -> bool {
    let chains = rules.filter.values();
    let mut conditions = chains
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.conditions);
    conditions.any(|condition| matches!(condition.test, Test::Out(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "*nat\n:PREROUTING ACCEPT\n\
        -A PREROUTING -d 198.51.100.1 -p tcp --dport 443 -j DNAT --to-destination 10.7.0.5\nCOMMIT\n\
        *filter\n:INPUT DROP\n:FORWARD DROP\n-A INPUT -p tcp --dport 22 -j ACCEPT\n\
        -A INPUT -s 192.0.2.7 -j ACCEPT\n-A FORWARD -d 10.7.0.5 -j ACCEPT\nCOMMIT\n";

    /// Policies that are wider than the rules, by a port, a peer, and a published port for every
    /// address; and one that is not.
    #[test]
    fn a_wider_policy_is_found() {
        let file = File {
            name: "v4".into(),
            text: RULES.into(),
            family: Some(Family::V4),
        };
        let files = [file];
        let families = rules(&files).unwrap();
        let facts = facts(&families);
        let effort = Effort {
            packets: 4000,
            seed: 1,
        };
        let import = super::super::import(&files, &facts).unwrap();
        for (from, to, is_wider) in [
            ("", "", false),
            ("22/tcp", "22-23/tcp", true),
            ("192.0.2.7", "192.0.2.6/31", true),
            ("from  = \"any\"", "from  = \"192.0.2.0/24\"", true),
        ] {
            let mut other = import.clone();
            other.policy = other.policy.replace(from, to);
            assert!(
                from.is_empty() || other.policy != import.policy,
                "{}",
                other.policy
            );
            let found = compare(&families, &facts, &other, effort);
            assert_eq!(
                found.is_some(),
                is_wider,
                "{from}: {found:?}\n{}",
                other.policy
            );
        }
    }
}
