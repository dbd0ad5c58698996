//! The packets of `integration/cases`, through the namespaces of `peerwall test`.

use std::collections::BTreeMap;

use peerwall::policy_file::files::FileSystem;
use peerwall::policy_file::prepare;
use peerwall_core::diagnostic::{Place, Sources};
use peerwall_core::net::packet::{CtState, Packet, Transport, Verdict};
use peerwall_core::testing::report::{Kind, TestOutcome};
use peerwall_core::testing::setup::icmp_state;
use peerwall_core::testing::{Case, Wanted, judged};
use peerwall_integration::case;
use peerwall_integration::ns::world;

/// Gives an ICMP message the state that connection tracking gives it: the lines do not say it.
fn tracked(mut packet: Packet) -> Packet {
    if let (CtState::New, Transport::Icmp { kind, .. }) = (packet.state, packet.transport) {
        packet.state = icmp_state(packet.family(), kind);
    }
    packet
}

#[test]
fn the_packets_of_the_cases_have_the_verdicts_that_are_written_there() {
    world(|| {
        let (mut sent, mut not_sent) = (0, BTreeMap::<String, usize>::new());
        for case in case::all() {
            // Policies with a `host.sh` depend on a host that this test does not build.
            if !case.host.is_empty() {
                continue;
            }
            let path = case.folder.join("policy.toml");
            let ready = prepare(&path, &FileSystem::default()).unwrap();
            let mut sources = Sources::default();
            let file = sources.add(&case.name, "x");
            let packets = case.packets.iter().map(|line| Case {
                kind: Kind::Packet,
                place: Place { file, span: 0..1 },
                packets: vec![tracked(line.packet.clone())],
                wanted: match line.want.verdict {
                    Verdict::Accept => Wanted::Accept,
                    Verdict::Drop => Wanted::Drop,
                    Verdict::Reject => Wanted::Reject,
                },
                unknown: None,
            });
            let tests: Vec<Case> = packets.collect();
            let all: Vec<&Case> = tests.iter().collect();
            let fates = peerwall::testing::run(&ready.ruleset, &all).unwrap();
            for ((line, test), fates) in case.packets.iter().zip(&tests).zip(&fates) {
                let (policy, ruleset) = (&ready.policy, &ready.ruleset);
                let result = judged(test, policy, ruleset, Some(fates), &sources);
                let at = format!("{}/packets.txt:{}: {}", case.name, line.number, line.text);
                let said = result.line();
                assert_eq!(
                    result.outcome,
                    TestOutcome::Passed,
                    "{at}\n{said}\n{fates:?}"
                );
                match &result.kernel {
                    Some(kernel) => {
                        sent += 1;
                        assert_eq!(kernel.reason.as_ref(), Some(&line.want.reason), "{at}");
                        assert!(!line.martian, "{at}: {said}");
                    }
                    None => {
                        let why = result.message.unwrap();
                        assert!(
                            line.martian || !why.contains("the kernel drops"),
                            "{at}: {why}"
                        );
                        *not_sent.entry(why).or_default() += 1;
                    }
                }
            }
        }
        println!("{sent} packets; not sent: {not_sent:#?}");
        let not_sent: usize = not_sent.values().sum();
        assert!(sent > 400 && not_sent < 10, "{sent} {not_sent}");
    });
}
