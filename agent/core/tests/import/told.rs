//! Packets that rules refuse and the policy accepts are told: in a difference, or by a line that is
//! not converted. Each of these was found with packets, through both.

use serde_json::{Value, json};

use super::nft::{chain, field, file, matched, meta, rule};
use super::*;

pub(super) fn filter(lines: &str) -> String {
    format!("*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n{lines}COMMIT\n")
}

/// Also at a line of which something else is not converted.
#[test]
fn a_rate_that_a_policy_cannot_express_is_told() {
    for first in ["", "-A INPUT -i eth0 -s 10.0.0.0/8 -j DROP\n"] {
        let line = "-A INPUT -p tcp --dport 22 -m limit --limit 3/min -j ACCEPT";
        let text = filter(&format!("{first}{line}\n"));
        let found = imported(Family::V4, &text, &Facts::default());
        let told = found.lines.iter().find(|each| each.text == line).unwrap();
        assert_eq!(told.fate, Fate::Partly, "{found}");
        assert!(told.words.contains("cannot express the rate"), "{found}");
    }
    // Behind it, only packets above the rate are left.
    for (between, wanted) in [
        ("-m limit --limit 3/min ", "above the rate of a line above"),
        ("", "never reached"),
    ] {
        let line = "-A INPUT -p tcp --dport 22 -j DROP";
        let text = filter(&format!(
            "-A INPUT -p tcp --dport 22 {between}-j ACCEPT\n{line}\n"
        ));
        let found = imported(Family::V4, &text, &Facts::default());
        let told = found.lines.iter().find(|each| each.text == line).unwrap();
        assert!(told.words.contains(wanted), "{found}");
    }
}

#[test]
fn drops_of_packets_that_do_arrive_are_told() {
    const DNS: &str = "-A INPUT -p udp --dport 53 -j ACCEPT\n";
    let known = Facts {
        addresses: vec![
            "192.0.2.7/24".parse().unwrap(),
            "2001:db8:1::7/64".parse().unwrap(),
        ],
        ..Facts::default()
    };
    for (family, lines) in [
        (
            Family::V6,
            "-A INPUT -m addrtype --src-type LOCAL -j DROP\n",
        ),
        (
            Family::V4,
            "-A INPUT -s 0.0.0.0/8 ! -d 255.255.255.255 -j DROP\n",
        ),
        (Family::V4, "-A INPUT -s 0.0.0.0/8 -j DROP\n"),
        // To 0.0.0.0 from 0.0.0.0: a broadcast for Linux.
        (
            Family::V4,
            "-A INPUT -p udp -s 0.0.0.0 -d 0.0.0.0 -j DROP\n",
        ),
        (Family::V6, "-A INPUT -s ::ffff:0:0/96 -j DROP\n"),
        (Family::V6, "-A INPUT -p udp -s ::/128 -j DROP\n"),
        (
            Family::V4,
            "-A INPUT -m addrtype --src-type BROADCAST -j DROP\n",
        ),
        (Family::V4, "-A INPUT -p udp --dport 0 -j DROP\n"),
        (
            Family::V4,
            ":DOCKER-BLOCK - [0:0]\n-A INPUT -j DOCKER-BLOCK\n\
             -A DOCKER-BLOCK -s 198.51.100.0/24 -j DROP\n",
        ),
    ] {
        for facts in [&known, &Facts::default()] {
            let found = imported(family, &filter(&format!("{lines}{DNS}")), facts);
            // Or the policy says the same.
            let is_said = !found.policy.contains("from  = \"any\"");
            let is_told = found.lines.iter().any(|line| line.fate == Fate::Left);
            assert!(
                is_said || (is_told && !found.is_whole()),
                "{lines}: {}",
                found.policy
            );
        }
    }
}

#[test]
fn a_policy_drop_of_another_table_is_not_converted() {
    let rules = "*mangle\n:INPUT DROP [0:0]\nCOMMIT\n".to_owned()
        + &filter("-A INPUT -p tcp --dport 22 -j ACCEPT\n");
    let found = imported(Family::V4, &rules, &Facts::default());
    assert_eq!(found.lines[1].fate, Fate::Left, "{}", found.lines[1].words);
    assert!(!found.is_whole());
}

#[test]
fn a_dash_declares_no_policy_of_a_base_chain() {
    let file = File {
        name: "rules".into(),
        text: "*filter\n:INPUT - [0:0]\n-A INPUT -p tcp --dport 80 -j ACCEPT\nCOMMIT\n".into(),
        family: Some(Family::V4),
    };
    let errors = import(&[file], &Facts::default()).unwrap_err();
    assert!(errors[0].why.contains("no line declares"), "{errors:?}");
}

#[test]
fn names_with_a_meaning_of_their_own_are_no_names_of_peers() {
    for name in ["any", "host"] {
        let line = format!("-A INPUT -s 198.51.100.1 -m comment --comment {name} -j ACCEPT\n");
        let found = imported(Family::V4, &filter(&line), &Facts::default());
        assert!(found.policy.contains("198.51.100.1"), "{}", found.policy);
    }
}

#[test]
fn fragments_that_nobody_reassembles_are_told() {
    let rest = "-A FORWARD -s 198.51.100.0/24 -j ACCEPT\n";
    let drop = "-A FORWARD -f -j DROP\n";
    let found = imported(
        Family::V4,
        &filter(&format!("{drop}{rest}")),
        &Facts::default(),
    );
    assert_eq!(found.lines[3].fate, Fate::Left, "{}", found.lines[3].words);
    let tracked = "-A FORWARD -m state --state ESTABLISHED -j ACCEPT\n";
    let rules = filter(&format!("{drop}{tracked}{rest}"));
    let found = imported(Family::V4, &rules, &Facts::default());
    assert_eq!(found.lines[3].fate, Fate::Core, "{}", found.lines[3].words);
}

#[test]
fn fragments_that_nft_sees_are_told() {
    let offset = json!({"&": [field("ip", "frag-off"), 0x1fff]});
    let frag = json!([matched("!=", &offset, &json!(0)), {"drop": null}]);
    let state = json!({"ct": {"key": "state"}});
    let known = json!([matched("in", &state, &json!("established")), {"accept": null}]);
    let early = |priority: i64| {
        vec![
            json!({"table": {"family": "inet", "name": "f", "handle": 1}}),
            chain(
                "inet",
                "f",
                "early",
                Some(("filter", "prerouting", priority)),
            ),
            chain("inet", "f", "input", Some(("filter", "input", 0))),
            rule("inet", "f", "early", &frag),
            rule("inet", "f", "early", &json!([{"accept": null}])),
        ]
    };
    for (priority, tracks, is_told) in
        [(-450, true, true), (-300, false, true), (-300, true, false)]
    {
        let mut objects = early(priority);
        objects.extend(tracks.then(|| rule("inet", "f", "input", &known)));
        let text = json!({ "nftables": objects }).to_string();
        let found = import(&[file(text)], &Facts::default()).unwrap();
        let line = found
            .lines
            .iter()
            .find(|line| line.text.contains("frag-off"))
            .unwrap();
        assert_eq!(
            line.fate == Fate::Left,
            is_told,
            "{priority} {tracks}: {}",
            line.words
        );
    }
}

#[test]
fn peers_around_a_pod_network_have_no_multicast_source() {
    let rules = "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n\
                 -A FORWARD -s 192.168.0.0/16 -i virbr0\n-A FORWARD -s 128.0.0.0/1\nCOMMIT\n";
    // It loads, or the import would be an error.
    imported(Family::V4, rules, &Facts::default());
}

#[test]
fn nft_matches_that_no_policy_has_are_told() {
    let drop = json!({"drop": null});
    let accept = json!({"accept": null});
    let flags = |names: &[&str]| json!({"|": names});
    let ecn = matched(
        "!=",
        &json!({"&": [field("tcp", "flags"), flags(&["ecn", "cwr"])]}),
        &json!(0),
    );
    let port = |protocol: &str, port: u16| matched("==", &field(protocol, "dport"), &json!(port));
    let broadcast = matched("==", &meta("pkttype"), &json!("broadcast"));
    let udp_next = matched("==", &field("ip6", "nexthdr"), &json!("udp"));
    for (name, rules) in [
        (
            "ECN",
            [json!([ecn, drop]), json!([port("tcp", 22), accept])],
        ),
        (
            "frames",
            [json!([broadcast, drop]), json!([port("udp", 53), accept])],
        ),
        (
            "headers",
            [
                json!([udp_next, port("udp", 53), accept]),
                json!([port("tcp", 22), accept]),
            ],
        ),
    ] {
        let found = listing(&[("input", "input")], &rules.map(|each| ("input", each)));
        assert!(!found.is_whole(), "{name}: {}", found.policy);
    }
    let any_port = json!([matched("==", &field("th", "dport"), &json!(53)), accept]);
    let found = listing(&[("input", "input")], &[("input", any_port.clone())]);
    assert!(!found.is_whole(), "{}", found.policy);
    let protocols = matched("==", &meta("l4proto"), &json!({"set": ["tcp", "udp"]}));
    let both = json!([protocols, any_port[0], accept]);
    let found = listing(&[("input", "input")], &[("input", both)]);
    assert!(found.policy.contains("\"53\""), "{}", found.policy);

    let ingress = [
        (
            "early",
            json!([
                matched("==", &field("ip", "saddr"), &json!("198.51.100.7")),
                drop
            ]),
        ),
        ("input", json!([port("tcp", 22), accept])),
    ];
    let found = listing(&[("early", "ingress"), ("input", "input")], &ingress);
    assert!(!found.is_whole(), "{}", found.policy);
}

fn listing(chains: &[(&str, &str)], rules: &[(&str, Value)]) -> Import {
    let mut objects = vec![json!({"table": {"family": "inet", "name": "f", "handle": 1}})];
    for (name, hook) in chains {
        objects.push(chain("inet", "f", name, Some(("filter", hook, 0))));
    }
    for (chain, statements) in rules {
        objects.push(rule("inet", "f", chain, statements));
    }
    let text = json!({ "nftables": objects }).to_string();
    import(&[file(text)], &Facts::default()).unwrap()
}

#[test]
fn ports_from_1_do_not_become_a_whole_protocol() {
    for (range, entry) in [
        ("--dport 1:65535", "\"1-65535/tcp\""),
        ("--dport 0:65535", "\"tcp\""),
        ("", "\"tcp\""),
    ] {
        let text = filter(&format!("-A INPUT -p tcp {range} -j ACCEPT\n"));
        let found = imported(Family::V4, &text, &Facts::default());
        assert!(found.policy.contains(entry), "{range}: {}", found.policy);
        assert!(!found.opens_more(), "{found}");
    }
}

#[test]
fn a_map_of_verdicts_that_is_not_converted_says_that_its_drops_are_not() {
    let port = json!({"payload": {"protocol": "tcp", "field": "dport"}});
    let map = json!({"set": [[22, {"accept": null}], [80, {"drop": null}]]});
    let long = matched(">", &meta("length"), &json!(60));
    let verdicts = json!([long, {"vmap": {"key": port, "data": map}}]);
    let found = listing(&[("input", "input")], &[("input", verdicts)]);
    let told =
        |line: &peerwall_core::import::Line| line.words.contains("none of this line's verdicts");
    assert!(found.lines.iter().any(told), "{found}");
}

#[test]
fn an_address_of_a_host_is_not_the_one_of_its_routers() {
    let facts = Facts {
        addresses: vec!["2001:db8:1::7/64".parse().unwrap()],
        ..Facts::default()
    };
    let line = "-A INPUT -d 2001:db8:1::7 -p tcp --dport 443 -j ACCEPT\n";
    let found = imported(Family::V6, &filter(line), &facts);
    let is_told = found.policy.contains("2001:db8:1::7") || found.opens_more();
    assert!(is_told, "{}{found}", found.policy);
    let line = "-A INPUT -d 2001:db8:1:: -j DROP\n-A INPUT -p tcp --dport 443 -j ACCEPT\n";
    let found = imported(Family::V6, &filter(line), &facts);
    let is_told = found.policy.contains("2001:db8:1::7") || found.opens_more();
    assert!(is_told, "{}{found}", found.policy);
}

#[test]
fn a_listing_as_json_tells_drops_in_tables_of_other_families() {
    let source = field("ip", "saddr");
    let rule_of =
        |family: &str, table: &str, statements: Value| rule(family, table, "in", &statements);
    let drop = json!([matched("==", &source, &json!("198.51.100.7")), {"drop": null}]);
    let mut early = chain("netdev", "early", "in", Some(("filter", "ingress", 0)));
    early["chain"]["dev"] = json!("eth0");
    let ssh = json!({"payload": {"protocol": "tcp", "field": "dport"}});
    let objects = json!({"nftables": [
        {"table": {"family": "netdev", "name": "early", "handle": 1}},
        early,
        rule_of("netdev", "early", drop),
        {"table": {"family": "inet", "name": "f", "handle": 1}},
        chain("inet", "f", "in", Some(("filter", "input", 0))),
        rule_of("inet", "f", json!([matched("==", &ssh, &json!(22)), {"accept": null}])),
    ]});
    let found = import(&[file(objects.to_string())], &Facts::default()).unwrap();
    assert!(!found.is_whole(), "{found}");
}

#[test]
fn a_pattern_of_interfaces_is_not_the_one_interface_that_is_also_named() {
    for (lines, is_wrong) in [
        (
            "-A FORWARD -p udp -i eth+ -j DROP\n-A INPUT -i eth0 -j ACCEPT\n",
            "eth*",
        ),
        (
            "-A FORWARD -p udp -i eth+ -j DROP\n-A INPUT -i eth0 -p tcp --dport 22 -j ACCEPT\n",
            "eth*",
        ),
        (
            "-A INPUT -i eth0 -j DROP\n-A INPUT -i eth+ -p tcp --dport 22 -j ACCEPT\n",
            "\"eth*\"",
        ),
    ] {
        let found = imported(Family::V4, &filter(lines), &Facts::default());
        let is_said = found.lines.iter().any(|line| line.fate == Fate::Left);
        assert!(
            !found.policy.contains(is_wrong) || is_said || found.opens_more(),
            "{}{found}",
            found.policy
        );
    }
}

#[test]
fn ipv4_mapped_sources_are_named_by_no_entry() {
    for lines in [
        "-A INPUT -s ::ffff:0:0/96 -p 112 -j ACCEPT\n-A INPUT -p udp -j ACCEPT\n",
        "-A INPUT -s ::ffff:0:0/96 -j ACCEPT\n-A INPUT -p 112 -j ACCEPT\n",
        "-A INPUT -s ::ffff:10.0.0.0/104 -p tcp --dport 22 -j ACCEPT\n",
    ] {
        let found = imported(Family::V6, &filter(lines), &Facts::default());
        assert!(!found.policy.contains("\"::ffff"), "{}", found.policy);
        let policy = load("policy.toml", &found.policy, &NoFiles).policy;
        assert!(policy.is_some(), "{}", found.policy);
    }
}

#[test]
fn what_a_line_with_a_verdict_changes_besides_is_told() {
    let tcp = |number| {
        let port = json!({"payload": {"protocol": "tcp", "field": "dport"}});
        matched("==", &port, &json!(number))
    };
    let mark = json!({"mangle": {"key": meta("mark"), "value": 1}});
    let priority = json!({"mangle": {"key": meta("priority"), "value": 1}});
    let elem = json!({"payload": {"protocol": "ip", "field": "saddr"}});
    let add = json!({"set": {"op": "add", "elem": elem, "set": "@seen"}});
    let untrack = json!({ "notrack": null });
    let log = json!({"log": {"prefix": "x"}});
    for (statement, words) in [
        (mark, "does not mark or change packets"),
        (priority, "does not mark or change packets"),
        (add, "do not change sets"),
        (untrack, "notrack"),
        (log, ""),
    ] {
        for verdict in ["accept", "drop"] {
            let verdict = json!({ verdict: null });
            let found = listing(
                &[("input", "input")],
                &[
                    ("input", json!([tcp(98), statement, verdict])),
                    ("input", json!([tcp(22), {"accept": null}])),
                ],
            );
            let is_told = found.lines.iter().any(|line| line.words.contains(words));
            assert!(is_told, "{found}");
            assert_eq!(found.is_whole(), words.is_empty(), "{found}");
        }
        let found = listing(
            &[("input", "input")],
            &[("input", json!([tcp(98), statement]))],
        );
        assert_eq!(found.is_whole(), words.is_empty(), "{found}");
    }
}

#[test]
fn a_line_of_several_verdicts_is_told_by_the_strongest() {
    let map = json!({"set": [["eth0", {"drop": null}], ["cni0", {"accept": null}]]});
    let verdicts = json!([{"vmap": {"key": meta("iifname"), "data": map}}]);
    let found = listing(&[("input", "input")], &[("input", verdicts)]);
    let told = |line: &peerwall_core::import::Line| line.words.contains("[interfaces] trusted");
    assert!(found.lines.iter().any(told), "{found}");
}

#[test]
fn an_unnamed_source_is_of_the_type_broadcast() {
    let facts = Facts {
        addresses: vec!["203.0.113.10/24".parse().unwrap()],
        ..Facts::default()
    };
    let accept = "-A INPUT -p udp --dport 67 -j ACCEPT\n";
    let drop = "-A INPUT -m addrtype --src-type BROADCAST -j DROP\n";
    let found = imported(Family::V4, &filter(&format!("{drop}{accept}")), &facts);
    let told = found.to_string();
    assert!(
        told.contains("from 0.0.0.0 to this host ([[allow]] udp-67)"),
        "{told}"
    );
}

#[test]
fn an_allow_that_is_wider_is_told_at_a_line_of_which_the_rest_is_closed() {
    let text = "*nat\n:PREROUTING ACCEPT\n\
        -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n\
        *filter\n:INPUT DROP\n:FORWARD DROP\n\
        -A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -p udp --dport 53 -j ACCEPT\n\
        -A FORWARD -s 10.244.0.0/16 -j ACCEPT\n-A FORWARD ! -i cni0 -j ACCEPT\nCOMMIT\n";
    let found = imported(Family::V4, text, &Facts::default());
    assert!(found.opens_more(), "{found}");
    let wider = found
        .lines
        .iter()
        .filter(|line| line.words.contains("it also accepts"));
    let wider: Vec<&str> = wider.map(|line| line.text.as_str()).collect();
    let accepts = |text: &&str| text.starts_with("-A FORWARD");
    assert!(!wider.is_empty() && wider.iter().all(accepts), "{found}");
}

#[test]
fn packets_that_are_not_tracked_are_not_new() {
    let accept = "-A INPUT -p udp -m conntrack --ctstate NEW -j ACCEPT\n\
        -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\n";
    for (line, is_open) in [
        ("", true),
        ("-A PREROUTING -p udp --dport 53 -j NOTRACK\n", false),
        ("-A PREROUTING -p udp --dport 53 -j CT --notrack\n", false),
        (
            "-A PREROUTING -p udp --dport 53 -j other\n-A other -j CT --notrack\n",
            false,
        ),
        ("-A OUTPUT -p udp --dport 53 -j CT --notrack\n", true),
    ] {
        let raw = format!("*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:other -\n{line}COMMIT\n");
        let text = raw + &filter(accept);
        let found = imported(Family::V4, &text, &Facts::default());
        assert_eq!(
            found.policy.contains("ports = [\"udp\""),
            is_open,
            "{line}{found}"
        );
        assert_eq!(
            found.policy.contains("22/tcp"),
            !line.contains("other"),
            "{line}{found}"
        );
        assert!(!found.opens_more(), "{line}{found}");
    }
    // So does what nft does before connection tracking.
    for (priority, is_open) in [(-300, false), (-100, true)] {
        let mut objects = vec![json!({"table": {"family": "inet", "name": "f", "handle": 1}})];
        let base = Some(("filter", "prerouting", priority));
        let mut early = chain("inet", "f", "early", base);
        early["chain"]["policy"] = json!("accept");
        objects.push(early);
        objects.push(chain("inet", "f", "input", Some(("filter", "input", 0))));
        let port = json!({"payload": {"protocol": "udp", "field": "dport"}});
        let early = json!([matched("==", &port, &json!(53)), {"notrack": null}]);
        objects.push(rule("inet", "f", "early", &early));
        let new = matched("in", &json!({"ct": {"key": "state"}}), &json!("new"));
        let udp = matched("==", &meta("l4proto"), &json!("udp"));
        objects.push(rule(
            "inet",
            "f",
            "input",
            &json!([udp, new, {"accept": null}]),
        ));
        let text = json!({ "nftables": objects }).to_string();
        let found = import(&[file(text)], &Facts::default()).unwrap();
        assert_eq!(
            found.policy.contains("ports = [\"udp\""),
            is_open,
            "{found}"
        );
    }
}
