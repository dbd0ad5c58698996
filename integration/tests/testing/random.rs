//! Random policies and packets: the evaluator and the kernel must agree.
//!
//! `PEERWALL_SEED` chooses the run (it is printed), `PEERWALL_PACKETS` how many packets are sent.

use std::collections::BTreeMap;

use peerwall_core::diagnostic::{Place, Sources};
use peerwall_core::generate;
use peerwall_core::net::packet::{CtState, Hook, Packet, Transport, Verdict};
use peerwall_core::net::port::UDP;
use peerwall_core::policy::Policy;
use peerwall_core::ruleset::compile::compile;
use peerwall_core::testing::report::{Kind, TestOutcome};
use peerwall_core::testing::setup::{icmp_state, real};
use peerwall_core::testing::{Case, Wanted, judged};
use peerwall_integration::ns::world;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// How many packets are drawn for each policy, and how many of a hook and reason are sent.
const DRAWN_PER_POLICY: usize = 300;
const PACKETS_PER_REASON: usize = 3;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Gives a packet a state that it can have, so that few are drawn for nothing.
fn likely(mut packet: Packet) -> Packet {
    match packet.transport {
        Transport::Ports { .. } => {
            if packet.dialled.is_some() {
                packet.state = CtState::New;
            }
        }
        Transport::Icmp { kind, .. } => {
            packet.dialled = None;
            if packet.state != CtState::Related {
                packet.state = icmp_state(packet.family(), kind);
            }
        }
        Transport::Other(_) => {
            packet.dialled = None;
            packet.state = CtState::New;
        }
    }
    packet.syn &= matches!(packet.state, CtState::New | CtState::Untracked);
    if packet.dialled.is_none() {
        packet.to_host = packet.hook == Hook::Input;
    }
    if packet.interface == "lo" {
        packet.mac = None;
        packet.reverse_path = false;
    }
    packet
}

/// Tests for a policy: not many that are decided at the same place, since few reasons decide most.
fn cases(runner: &mut TestRunner, policy: &Policy, place: &Place) -> Vec<Case> {
    let mut met: BTreeMap<(Hook, String), usize> = BTreeMap::new();
    let ruleset = compile(policy).0;
    let drawn = (0..DRAWN_PER_POLICY).map(|_| {
        let packet = generate::packet().new_tree(runner).unwrap().current();
        likely(packet)
    });
    drawn
        .filter(|packet| real(packet, &ruleset).is_ok())
        .filter(|packet| {
            let reason = policy.verdict(packet).reason.to_string();
            let count = met.entry((packet.hook, reason)).or_default();
            *count += 1;
            *count <= PACKETS_PER_REASON
        })
        .map(|packet| Case {
            kind: Kind::Packet,
            place: place.clone(),
            packets: vec![packet],
            wanted: Wanted::Drop,
            unknown: None,
        })
        .collect()
}

#[test]
fn evaluator_and_kernel_agree_on_random_policies() {
    world(|| {
        let seed = setting("PEERWALL_SEED", 7);
        let wanted = setting("PEERWALL_PACKETS", 400);
        let mut runner = TestRunner::new(Config {
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            ..Config::default()
        });
        let mut sources = Sources::default();
        let file = sources.add("random", "x");
        let place = Place { file, span: 0..1 };
        let (mut sent, mut policies, mut lost) = (0, 0, 0);
        let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
        while sent < wanted {
            let policy = generate::policy().new_tree(&mut runner).unwrap().current();
            let ruleset = compile(&policy).0;
            let cases = cases(&mut runner, &policy, &place);
            let all: Vec<&Case> = cases.iter().collect();
            let fates = peerwall::testing::run(&ruleset, &all).unwrap();
            policies += 1;
            for (case, fates) in cases.iter().zip(&fates) {
                let result = judged(case, &policy, &ruleset, Some(fates), &sources);
                let packet = &case.packets[0];
                assert_ne!(
                    result.outcome,
                    TestOutcome::Disagreed,
                    "seed {seed}, policy {policies}: {packet:?}\n{fates:?}\n{}\n{policy:?}",
                    result.line()
                );
                let Some(kernel) = result.kernel else {
                    lost += 1;
                    continue;
                };
                sent += 1;
                let kind = match packet.transport {
                    Transport::Ports { protocol: UDP, .. } => "udp",
                    Transport::Ports { .. } => "tcp",
                    Transport::Icmp { .. } => "icmp",
                    Transport::Other(_) => "other",
                };
                *verdicts
                    .entry(format!("{} {:?} {kind}", kernel.verdict, packet.state))
                    .or_default() += 1;
            }
        }
        println!("seed {seed}: {policies} policies, {sent} packets, {lost} lost: {verdicts:?}");
        assert!(lost * 5 < sent, "{lost} of {sent} packets were lost");
        for verdict in [Verdict::Accept, Verdict::Drop, Verdict::Reject] {
            let start = verdict.to_string();
            assert!(
                verdicts.keys().any(|key| key.starts_with(&start)),
                "{verdict}"
            );
        }
    });
}
