//! Sets of packets against packets one by one: every evaluated packet is in exactly the sets that
//! it should be in.

use std::fs;
use std::path::Path;

use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::*;
use crate::import::canonical::Readings;
use crate::import::eval::{Probe, ReadAs};
use crate::import::{File, Options, import_sliced, probes, rules};
use crate::net::packet::{CtState, Transport, Verdict};
use crate::net::port::TCP;
use crate::policy::load::{NoFiles, load};
use crate::ruleset::compile::compile;

impl Space<'_> {
    /// Returns the packets that a probe stands for.
    fn point(&mut self, probe: &Probe) -> PacketSet {
        let packet = &probe.packet;
        let axes = Arc::clone(&self.axes);
        let d = &mut self.d;
        let exactly = |name: &str| [InterfacePattern::Exact(name.into())];
        let number = |address| addr::number(address);
        let mut parts = vec![
            axes.states(d, &[packet.state]),
            axes.sources(d, &[(number(packet.source), number(packet.source))]),
            axes.destinations(
                d,
                &[(number(packet.destination), number(packet.destination))],
            ),
            axes.interfaces(d, &exactly(&packet.interface)),
            axes.hop_limits(d, packet.hop_limit, packet.hop_limit),
            axes.protocols(d, |each| each == packet.protocol()),
            axes.direct(d),
        ];
        let reverse_path = u64::from(packet.reverse_path);
        parts.push(d.in_runs(axes.reverse_path, &[(reverse_path, reverse_path)]));
        if let Some(out) = &probe.out {
            parts.push(axes.outs(d, &exactly(out)));
        }
        match packet.transport {
            Transport::Ports {
                source,
                destination,
                protocol,
            } => {
                parts.push(axes.sent_from(d, &[(source, source)]));
                parts.push(axes.sent_to(d, &[(destination, destination)]));
                if protocol == TCP {
                    let flags = match packet.state {
                        CtState::New | CtState::Related | CtState::Untracked => 0x02,
                        CtState::Established => 0x10,
                        CtState::Invalid => 0x06,
                    };
                    parts.push(axes.flags(d, 0x3f, flags));
                }
            }
            Transport::Icmp { kind, code } => parts.push(axes.icmp(d, &[(kind, Some(code))])),
            Transport::Other(_) => {}
        }
        parts
            .into_iter()
            .fold(PacketSet::ALL, |all, part| d.and(all, part))
    }
}

fn files(folder: &Path) -> Vec<File> {
    let read = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        let family = match name {
            "v4.rules" => Some(Family::V4),
            "v6.rules" => Some(Family::V6),
            _ => None,
        };
        Some(File {
            name: name.into(),
            text,
            family,
        })
    };
    ["sets.ipset", "v4.rules", "v6.rules"]
        .into_iter()
        .filter_map(read)
        .collect()
}

#[test]
fn sets_contain_the_packets_that_rules_and_policies_accept() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration/fixtures/import");
    let (mut checked, mut accepted) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let files = files(&folder);
        if !files.iter().any(|file| file.family.is_some()) {
            continue;
        }
        let text = fs::read_to_string(folder.join("policy.toml")).unwrap();
        let policy = load("policy.toml", &text, &NoFiles).policy.unwrap();
        let ruleset = compile(&policy).0;
        for rules in rules(&files).unwrap() {
            let mut space = Space::new(&rules, &Facts::default(), &[&ruleset], Slicing::Into(1));
            let policy_parts = SlicedPolicy::new(&space, &ruleset);
            let ruled = [Hook::Input, Hook::Forward].map(|hook| space.ruled(&policy_parts, hook));
            for probe in probes(&rules, &[]).iter().take(3000) {
                let point = space.point(probe);
                let place = folder.display();
                let site = space.site(probe.packet.hook).clone();
                if !space.d.meets(point, site.valid) {
                    continue;
                }
                let judged = rules
                    .narrow(probe.packet.source, ReadAs::BesidePeerwall)
                    .judge(probe);
                let is_accepted = judged.verdict == Verdict::Accept;
                let has = space.d.meets(point, site.walked.accepted);
                assert_eq!(has, is_accepted, "{place}: rules, {probe:?}");
                let of_policy = &ruled[usize::from(probe.packet.hook == Hook::Forward)];
                let decision = policy.verdict(&probe.packet);
                let has = space.d.meets(point, of_policy.accepted);
                assert_eq!(
                    has,
                    decision.verdict == Verdict::Accept,
                    "{place}: policy, {probe:?} {decision}"
                );
                let labels = space.d.labels_in(point, of_policy.labels);
                let reasons: Vec<_> = labels
                    .iter()
                    .filter_map(|label| of_policy.decisions.get(*label as usize))
                    .map(|(_, reason)| reason.clone())
                    .collect();
                assert_eq!(reasons, [decision.reason], "{place}: {probe:?}");
                checked += 1;
                accepted += usize::from(is_accepted);
            }
        }
    }
    assert!(checked > 5000 && accepted > 500, "{checked} {accepted}");
}

/// Imports files with a number of slices, and returns the policy and the whole report.
fn in_slices(files: &[File], count: usize) -> String {
    let options = Options {
        assume_accept: true,
    };
    let slicing = Slicing::Into(count);
    let found = import_sliced(
        files,
        &Facts::default(),
        options,
        &Readings::default(),
        slicing,
    );
    let found = found.unwrap_or_else(|errors| panic!("{errors:?}"));
    format!("{}{found}", found.policy)
}

#[test]
fn slices_change_no_result() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration/fixtures/import");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let files = files(&folder);
        if !files.iter().any(|file| file.family.is_some()) {
            continue;
        }
        let want = in_slices(&files, 1);
        for count in [2, 8, 64] {
            let got = in_slices(&files, count);
            assert_eq!(got, want, "{} in {count} slices", folder.display());
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

/// A rule, or two with a chain of their own, for some sources.
fn sourced_rule() -> impl Strategy<Value = String> {
    let source = (0u8..4, 0u8..4, 14u8..=32).prop_map(|(a, b, length)| {
        let masked = Ipv4Net::new([10, a, b, a ^ b].into(), length).unwrap();
        masked.trunc().to_string()
    });
    let target = prop::sample::select(vec!["ACCEPT", "DROP", "REJECT", "RETURN", "some", "other"]);
    let matches = prop::sample::select(vec![
        "",
        "-p tcp -m tcp --dport 22",
        "-p udp -m udp --dport 1000:2000",
        "-i eth1",
        "-m conntrack --ctstate NEW",
        "-p icmp -m icmp --icmp-type 8",
        "-m owner --uid-owner 0",
    ]);
    let chain = prop::sample::select(vec!["INPUT", "INPUT", "FORWARD", "some"]);
    (chain, source, any::<bool>(), matches, target).prop_map(
        |(chain, source, not, with, target)| {
            let target = match (chain, target) {
                ("some", "some") => "other",
                (_, target) => target,
            };
            let not = if not { "! " } else { "" };
            format!("-A {chain} {not}-s {source} {with} -j {target}\n")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn slices_change_no_result_of_random_rules(
        rules in prop::collection::vec(sourced_rule(), 1..40),
        count in 2..40usize,
    ) {
        let text = format!(
            "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:some - [0:0]\n\
             :other - [0:0]\n-A other -p tcp -m tcp --dport 443 -j ACCEPT\n{}COMMIT\n",
            rules.concat()
        );
        let files = [File { name: "rules".into(), text, family: Some(Family::V4) }];
        prop_assert_eq!(in_slices(&files, count), in_slices(&files, 1));
    }
}
