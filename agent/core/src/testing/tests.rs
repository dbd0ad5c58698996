use std::collections::BTreeMap;

use super::*;
use crate::diagnostic::JsonDiagnostic;
use crate::net::packet::{CtState, Dialled, Hook};
use crate::policy::load::{NoFiles, load};
use crate::ruleset::compile::compile;

const POLICY: &str = r#"version = 1
[peers]
db = ["192.0.2.7", "2001:db8::7"]
[overlay.pods]
backend = "vxlan"
subnets = ["10.244.0.0/16"]
interfaces = ["cni0"]
[[allow]]
name = "web"
ports = ["80/tcp"]
from = "203.0.113.0/24"
[[expect]]
from = "db"
port = "22/tcp"
verdict = "accept"
[[expect]]
from = "198.51.100.0/24"
port = "22/tcp"
verdict = "accept"
"#;

fn policy(text: &str) -> (Policy, Ruleset, Sources) {
    let loaded = load("policy.toml", text, &NoFiles);
    let policy = loaded.policy.unwrap();
    let ruleset = compile(&policy).0;
    (policy, ruleset, loaded.sources)
}

fn listed(text: &str) -> Result<Vec<Case>, Vec<JsonDiagnostic>> {
    let (sources, parsed) = parse(&policy(POLICY).0, "list.txt", text);
    parsed.map_err(|errors| errors.iter().map(|each| sources.json(each)).collect())
}

#[test]
fn a_line_is_a_verdict_and_a_packet() {
    let text = "\n# nothing\n  accept from 192.0.2.7 port 22/tcp # peer\n\
        drop --from 198.51.100.1 --to 10.244.1.5 --port 80/tcp --interface eth0\n\
        reject forward from 2001:db8::9 to 2001:db8:1::5 port 53/udp source-port 53 out cni0\n\
        drop from 198.51.100.1 icmp echo-reply\n\
        accept from 198.51.100.1 port 80/tcp state established\r\n\
        accept from 192.0.2.7 to 10.244.1.5 port 8080/tcp dialled 192.0.2.10:30080 \
        mac 02:00:00:00:00:0b ttl 7\n\
        drop IN=eth0 OUT= SRC=198.51.100.1 DST=192.0.2.10 PROTO=TCP SPT=40000 DPT=6443 SYN\n";
    let cases = listed(text).unwrap();
    let packets: Vec<&Packet> = cases.iter().map(|case| &case.packets[0]).collect();
    let wanted: Vec<String> = cases.iter().map(|case| case.wanted.to_string()).collect();
    assert_eq!(
        wanted.join(" "),
        "accept drop reject drop accept accept drop"
    );
    // Without a destination, the packet is one to this host.
    assert_eq!((packets[0].hook, packets[0].to_host), (Hook::Input, true));
    // The destination is a pod.
    assert_eq!(packets[1].hook, Hook::Forward);
    assert_eq!(packets[2].out.as_deref(), Some("cni0"));
    let ports = Transport::Ports {
        protocol: UDP,
        source: 53,
        destination: 53,
    };
    assert_eq!(packets[2].transport, ports);
    // As connection tracking has it.
    assert_eq!(packets[3].state, CtState::Invalid);
    assert_eq!(
        (packets[4].state, packets[4].syn),
        (CtState::Established, false)
    );
    let dialled = Dialled {
        address: "192.0.2.10".parse().unwrap(),
        port: 30080,
    };
    assert_eq!(packets[5].dialled, Some(dialled));
    assert_eq!(
        (packets[5].hop_limit, packets[5].mac),
        (7, Some([2, 0, 0, 0, 0, 0x0b]))
    );
    assert_eq!(packets[6].interface, "eth0");
}

#[test]
fn a_bad_line_is_an_error_at_its_place() {
    for (line, column, why, help) in [
        (
            "allow from 192.0.2.7",
            1,
            "`allow` is not a verdict",
            "accept, drop or reject",
        ),
        (
            "accept",
            1,
            "there is no packet",
            "accept from 192.0.2.7 port 22/tcp",
        ),
        (
            "accept form 192.0.2.7",
            8,
            "`form` is not a word",
            "source-port",
        ),
        (
            "accept from 192.0.2.7 prot 22/tcp",
            23,
            "`prot` is not a word",
            "source-port",
        ),
        ("accept from", 8, "`from` has no value", "from 192.0.2.7"),
        (
            "accept from 192.0.2.7 from 192.0.2.8",
            23,
            "said twice",
            "one packet on each line",
        ),
        (
            "accept input forward from 192.0.2.7",
            14,
            "said twice",
            "one packet on each line",
        ),
        (
            "accept from 192.0.2.777",
            13,
            "`192.0.2.777` is not an address",
            "2001:db8::7",
        ),
        ("accept port 22/tcp", 1, "no source", "from 192.0.2.7"),
        (
            "drop from 192.0.2.7 port 22-80/tcp",
            26,
            "more than one port",
            "",
        ),
        (
            "drop from 192.0.2.7 port 80/tcp icmp 8",
            38,
            "not both",
            "two lines",
        ),
        (
            "drop from 192.0.2.7 icmp ping",
            26,
            "`ping` is no type of ICMP",
            "",
        ),
        (
            "drop from 192.0.2.7 to 2001:db8::1",
            1,
            "different families",
            "",
        ),
        (
            "drop forward from 192.0.2.7",
            1,
            "needs its destination",
            "to 10.244.1.5",
        ),
        (
            "drop input from 192.0.2.7 out eth0",
            31,
            "leaves by no interface",
            "remove `out`",
        ),
        (
            "drop from 192.0.2.7 state open",
            27,
            "not a state",
            "established",
        ),
        (
            "drop from 192.0.2.7 mac 02:00",
            25,
            "not an Ethernet address",
            "02:00:00:00:00:0b",
        ),
        (
            "drop from 192.0.2.7 ttl 256",
            25,
            "not a number of hops",
            "64",
        ),
        (
            "drop from 192.0.2.7 dialled 192.0.2.1",
            29,
            "with a port",
            "192.0.2.10:30080",
        ),
        (
            "drop from 192.0.2.7 interface a/b",
            31,
            "not allowed in an interface name",
            "",
        ),
        (
            "drop from 192.0.2.7 interface cali*",
            31,
            "is a pattern",
            "cali0",
        ),
        (
            "drop from 192.0.2.7 source-port 68",
            33,
            "has a source port",
            "port 67/udp",
        ),
        ("drop IN=eth0 OUT= SRC=192.0.2.7 PROTO=TCP", 6, "DST=", ""),
        ("drop \u{fc}\u{fc} \u{fc}", 6, "not a word", "source-port"),
    ] {
        let text = format!("# first\n{line}\naccept from 192.0.2.7\n");
        let errors = listed(&text).unwrap_err();
        let [error] = &errors[..] else {
            panic!("{line}: {errors:?}");
        };
        assert_eq!(
            (error.start.line, error.start.column),
            (2, column),
            "{line}: {error:?}"
        );
        assert_eq!(error.file, "list.txt", "{line}");
        assert!(error.message.contains(why), "{line}: {}", error.message);
        let said = error.help.clone().unwrap_or_default();
        assert!(said.contains(help), "{line}: {said}");
    }
    // All errors are reported at once.
    assert_eq!(
        listed("x\ny\naccept from 192.0.2.7\nz\n")
            .unwrap_err()
            .len(),
        3
    );
    assert_eq!(listed("").unwrap(), []);
}

/// Judges the first packet of the case with this fate.
fn result_of(case: &Case, fate: Fate) -> TestResult {
    let (policy, ruleset, sources) = policy(POLICY);
    let fates = BTreeMap::from([(0, fate)]);
    judged(case, &policy, &ruleset, Some(&fates), &sources)
}

fn passed(reason: &str) -> Fate {
    Fate::Passed(vec![Reason::parse(reason).unwrap()])
}

fn stopped(reason: &str, is_answered: bool) -> Fate {
    Fate::Stopped {
        reasons: vec![Reason::parse(reason).unwrap()],
        is_answered,
    }
}

#[test]
fn evaluator_and_kernel_must_say_what_the_test_demands_and_the_same() {
    let case = |line: &str| listed(line).unwrap().remove(0);
    let peer = case("accept from 192.0.2.7 port 22/tcp");
    let stranger = case("drop from 198.51.100.1 port 22/tcp");
    let wrong = case("accept from 198.51.100.1 port 22/tcp");
    let martian = case("accept from 127.0.0.1 port 22/tcp");
    let not_sent = Fate::NotSent("it is secret".to_owned());
    for (name, case, fate, outcome) in [
        ("both", &peer, passed("peers"), TestOutcome::Passed),
        (
            "a drop",
            &stranger,
            stopped("input-default", false),
            TestOutcome::Passed,
        ),
        (
            "not met",
            &wrong,
            stopped("input-default", false),
            TestOutcome::Failed,
        ),
        (
            "another verdict",
            &peer,
            stopped("input-default", false),
            TestOutcome::Disagreed,
        ),
        (
            "another reason",
            &peer,
            passed("established"),
            TestOutcome::Disagreed,
        ),
        (
            "an answer",
            &stranger,
            stopped("input-default", true),
            TestOutcome::Disagreed,
        ),
        (
            "accepted and lost",
            &peer,
            Fate::Lost,
            TestOutcome::Disagreed,
        ),
        (
            "dropped and lost",
            &stranger,
            Fate::Lost,
            TestOutcome::Passed,
        ),
        ("martian", &martian, Fate::Lost, TestOutcome::Failed),
        ("not sent", &peer, not_sent, TestOutcome::Passed),
    ] {
        let result = result_of(case, fate);
        assert_eq!(result.outcome, outcome, "{name}: {}", result.line());
        let is_told = outcome != TestOutcome::Disagreed || result.line().contains("DISAGREEMENT");
        assert!(is_told, "{name}: {}", result.line());
    }
    let twice = Fate::Passed(
        ["peers", "established"]
            .map(|name| Reason::parse(name).unwrap())
            .to_vec(),
    );
    let result = result_of(&peer, twice);
    assert_eq!(result.outcome, TestOutcome::Disagreed);
    assert!(
        result.line().contains("counted by peers, established"),
        "{}",
        result.line()
    );
}

#[test]
fn an_expectation_has_its_place_and_its_first_failure() {
    let (policy, ruleset, sources) = policy(POLICY);
    let cases = cases(&policy, &ruleset);
    let results: Vec<TestResult> = cases
        .iter()
        .map(|case| judged(case, &policy, &ruleset, None, &sources))
        .collect();
    assert_eq!(
        (results[0].outcome, results[0].packets),
        (TestOutcome::Passed, 2)
    );
    let failed = &results[1];
    // Both ends of the network.
    assert_eq!(
        (failed.outcome, failed.packets, failed.failures),
        (TestOutcome::Failed, 2, 2)
    );
    assert_eq!(
        failed.line(),
        "policy.toml:19: expectation not met: wanted accept for 22/tcp from 198.51.100.0 on eth0 to \
         192.0.2.254, this host; first packet of a connection: the evaluator says drop \
         (input-default); 1 other packet failed, too"
    );
}

#[test]
fn a_policy_in_audit_mode_is_tested_as_it_will_be_enforced() {
    let text = format!("{POLICY}[options]\nmode = \"audit\"\n");
    let (policy, ruleset, sources) = policy(&text);
    let (_, parsed) = parse(&policy, "list.txt", "drop from 198.51.100.1 port 22/tcp");
    let case = parsed.unwrap().remove(0);
    let fates = BTreeMap::from([(0, passed("input-default"))]);
    let result = judged(&case, &policy, &ruleset, Some(&fates), &sources);
    assert_eq!(result.outcome, TestOutcome::Passed, "{}", result.line());
    // The rules pass such packets; a kernel that drops them does not do what they say, but this is
    // not visible in the verdict that will be enforced.
    assert_eq!(result.kernel.unwrap().verdict, Verdict::Drop);
}

#[test]
fn a_test_of_many_packets_sends_some_of_them_and_both_ends() {
    let (_, _, sources) = policy(POLICY);
    let mut case = listed("accept from 192.0.2.7").unwrap().remove(0);
    let packet = case.packets[0].clone();
    for (count, sent_count) in [(0, 0), (1, 1), (64, 64), (65, 64), (10_000, 64)] {
        case.packets = vec![packet.clone(); count];
        let found = sent(&case);
        assert_eq!(found.len(), sent_count, "{count}");
        assert!(
            found.windows(2).all(|pair| pair[0] < pair[1]),
            "{count}: {found:?}"
        );
        assert_eq!(found.last().copied(), count.checked_sub(1), "{count}");
    }
    case.unknown = Some("it is not known".to_owned());
    assert!(sent(&case).is_empty());
    drop(sources);
}

#[test]
fn what_no_kernel_can_receive_is_said() {
    let ruleset = policy(POLICY).1;
    let why = |line: &str| {
        let case = listed(line).unwrap().remove(0);
        setup::real(&case.packets[0], &ruleset)
            .err()
            .unwrap_or_default()
    };
    for (line, wanted) in [
        ("accept from 192.0.2.7 port 22/tcp", ""),
        (
            "accept from 192.0.2.7 port gre state established",
            "protocol 47",
        ),
        (
            "accept from 192.0.2.7 port 22/udp state invalid",
            "state invalid",
        ),
        (
            "accept from 192.0.2.7 icmp echo-reply state new",
            "the state invalid, not new",
        ),
        ("accept from 192.0.2.7 icmp 3 state related", ""),
        (
            "accept from 2001:db8::7 icmp 137 state related",
            "state invalid, not related",
        ),
        ("accept from fe80::7 icmp 137 ttl 255 state related", ""),
        ("accept from 2001:db8::7 port ah", "extension header"),
        (
            "accept forward from 192.0.2.7 to 10.244.1.5 ttl 255",
            "hop limit",
        ),
        ("accept forward from fe80::1 to 2001:db8::1", "link-local"),
        (
            "accept from 192.0.2.7 to 192.0.2.7",
            "its source is its destination",
        ),
        (
            "accept from 192.0.2.7 interface lo mac 02:00:00:00:00:0b",
            "lo",
        ),
        (
            "accept from 192.0.2.7 to 192.0.2.1 port 80/tcp dialled 192.0.2.1:80",
            "the same",
        ),
        (
            "accept from 192.0.2.7 to 192.0.2.1 port 9/sctp dialled 192.0.2.1:80",
            "TCP and UDP",
        ),
        (
            "accept from 192.0.2.7 to 192.0.2.1 port 9/tcp dialled [2001:db8::1]:80",
            "families",
        ),
    ] {
        let found = why(line);
        assert!(found.contains(wanted), "{line}: {found}");
        assert_eq!(found.is_empty(), wanted.is_empty(), "{line}: {found}");
    }
}

#[test]
fn a_published_port_gets_a_destination_that_decides_nothing() {
    let text = r#"version = 1
[[allow]]
name = "web"
ports = ["80/tcp"]
from = "any"
[[expect]]
hook = "forward"
from = "203.0.113.9"
port = "80/tcp"
verdict = "accept"
"#;
    let (policy, ruleset, _) = policy(text);
    let case = cases(&policy, &ruleset).remove(0);
    let real = setup::real(&case.packets[0], &ruleset).unwrap();
    assert_ne!(real.destination, case.packets[0].destination);
    assert_eq!(real.out.as_deref(), Some("sink0"));
    assert_eq!(policy.verdict(&real), policy.verdict(&case.packets[0]));
    let setup = setup::Setup::of(&real).unwrap();
    let translation = setup.translation.unwrap();
    assert_eq!(translation.to.ip(), real.destination);
    assert_eq!(setup.own, [translation.dialled.address]);
}
