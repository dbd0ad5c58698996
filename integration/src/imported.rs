//! Imported rules and their policies, with packets for both.

use std::collections::BTreeSet;

use peerwall_core::import::eval::{Probe, ReadAs};
use peerwall_core::import::judge::{is_direct, is_listed};
use peerwall_core::import::rule::{Condition, ImportedRules, Test};
use peerwall_core::import::{Direction, Facts, File, Import, Options, import_with};
use peerwall_core::net::packet::{Hook, Packet, Verdict};
use peerwall_core::policy::Policy;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::ruleset::compile::compile;

use crate::target::{Filter, Sets, Target, agrees};

/// An imported policy that a host applies.
#[derive(Debug)]
pub struct Imported {
    name: String,
    import: Import,
    policy: Policy,
}

impl Imported {
    /// Imports a file, and applies the policy.
    ///
    /// # Panics
    /// If one of the two fails.
    pub fn load(target: &mut Target, name: &str, file: File) -> Self {
        let options = Options {
            assume_accept: true,
        };
        let import = import_with(&[file], &Facts::default(), options);
        let import = import.unwrap_or_else(|err| panic!("{name}: {err:?}"));
        let loaded = load("policy.toml", &import.policy, &NoFiles);
        let policy = loaded
            .policy
            .unwrap_or_else(|| panic!("{name}: {}", import.policy));
        target.hold(&compile(&policy).0, Filter::Nft, Sets::Rules);
        Self {
            name: name.to_owned(),
            import,
            policy,
        }
    }

    /// Sends packets through the policy. It accepts none that the rules refuse, unless the report
    /// says so.
    ///
    /// # Panics
    /// If it does.
    pub fn try_packets(&self, target: &mut Target, rules: &ImportedRules, probes: &[Probe]) {
        // There is no nat table here.
        let direct = |probe: &&Probe| probe.packet.dialled.is_none() && is_direct(rules, probe);
        for probe in probes.iter().filter(direct) {
            let packet = sent(probe);
            let wanted = self.policy.verdict(&probe.packet);
            let got = target.judge(&packet, &wanted);
            let at = || {
                format!(
                    "{}: {probe:?}\n{}\n{}",
                    self.name, self.import.policy, self.import
                )
            };
            assert!(
                agrees(&probe.packet, &wanted, &got),
                "policy {wanted}, kernel {got}, {}",
                at()
            );
            let narrow = rules.narrow(probe.packet.source, ReadAs::BesidePeerwall);
            let outcome = narrow.judge(probe);
            let is_wider = got.verdict == Verdict::Accept && outcome.verdict != Verdict::Accept;
            assert!(
                !is_wider || is_listed(&self.import, Direction::New, &got, outcome.by),
                "not in the report: rules {outcome:?}, policy {got}, {}",
                at()
            );
        }
    }
}

/// Unknown conditions that are true or false independently of each other, at most.
const UNKNOWN_MAX: usize = 5;

/// The conditions of all rules.
fn conditions(rules: &mut ImportedRules) -> impl Iterator<Item = &mut Condition> {
    let chains = rules.filter.values_mut();
    chains
        .flat_map(|chain| &mut chain.rules)
        .flat_map(|rule| &mut rule.conditions)
}

/// The words of a test that packets do not always decide.
fn unknown(test: &Test) -> Option<String> {
    if let Test::Unknown(words) | Test::Mark(_, words) = test {
        return Some(words.clone());
    }
    (*test == Test::ReversePath(false)).then(|| "reverse path".to_owned())
}

/// The same rules, with the unknown conditions true or false, in every combination.
fn supposing(rules: &ImportedRules) -> Vec<ImportedRules> {
    let mut rules = rules.clone();
    let words = conditions(&mut rules).filter_map(|condition| unknown(&condition.test));
    let words: BTreeSet<String> = words.collect();
    let combinations = 1_usize << words.len().min(UNKNOWN_MAX);
    let one = |bits: usize| {
        let mut rules = rules.clone();
        for condition in conditions(&mut rules) {
            let Some(text) = unknown(&condition.test) else {
                continue;
            };
            let index = words.iter().position(|each| *each == text).unwrap_or(0);
            *condition = Condition {
                negated: false,
                test: Test::Always(bits >> (index % UNKNOWN_MAX) & 1 == 1),
            };
        }
        rules
    };
    (0..combinations).map(one).collect()
}

/// Reports whether rules accept a packet, as in a kernel.
pub fn accepts(rules: &ImportedRules, probe: &Probe) -> bool {
    let narrow = rules.narrow(probe.packet.source, ReadAs::Kernel);
    narrow.judge(probe).verdict == Verdict::Accept
}

/// Returns a test of whether packets are decided without unknown conditions.
pub fn is_decided(rules: &ImportedRules) -> impl Fn(&Probe) -> bool {
    let all = supposing(rules);
    move |probe| {
        let wanted = accepts(rules, probe);
        all.iter().all(|other| accepts(other, probe) == wanted)
    }
}

/// Returns the packet to send, so that it comes to the hook as the probe.
#[must_use]
pub fn sent(probe: &Probe) -> Packet {
    let mut packet = probe.packet.clone();
    packet.out.clone_from(&probe.out);
    if packet.hook == Hook::Forward {
        packet.hop_limit += 1;
    }
    packet
}
