//! Policies imported from nftables files, with the packets that were sent through the files.

use peerwall_core::import::eval::{Probe, ReadAs};
use peerwall_core::import::judge::{is_direct, is_listed};
use peerwall_core::import::rule::ImportedRules;
use peerwall_core::import::{Direction, Facts, File, Import, Options, import_with};
use peerwall_core::net::packet::Verdict;
use peerwall_core::policy::Policy;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::ruleset::compile::compile;
use peerwall_integration::target::{Filter, Sets, Target, agrees};

use super::sent;

/// An imported policy that a host applies.
pub(crate) struct Imported {
    name: String,
    import: Import,
    policy: Policy,
}

impl Imported {
    /// Imports a file, and applies the policy.
    pub(crate) fn load(target: &mut Target, name: &str, file: File) -> Self {
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
    pub(crate) fn try_packets(&self, target: &mut Target, rules: &ImportedRules, probes: &[Probe]) {
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
