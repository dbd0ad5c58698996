//! Rulesets of nftables, read from JSON as nft 1.0.6 and later print it.

mod matches;
mod statements;
mod strange;

use std::net::IpAddr;

use peerwall_core::import::eval::{Probe, ReadAs};
use peerwall_core::import::nft::{NftRuleset, is_listing, is_script, read};
use peerwall_core::import::rule::{ImportedRules, KnownMark, Test};
use peerwall_core::import::{Facts, File, Import, ImportError, import, managed};
use peerwall_core::net::packet::{Hook, Packet, Transport, Verdict};
use serde_json::{Value, json};

pub(super) fn file(text: String) -> File {
    File {
        name: "nftables.conf".to_owned(),
        text,
        family: None,
    }
}

pub(super) fn ruleset(objects: &[Value]) -> Result<NftRuleset, ImportError> {
    let mut all = vec![json!({"metainfo": {"json_schema_version": 1}})];
    all.extend_from_slice(objects);
    read(&file(json!({ "nftables": all }).to_string()), 0)
}

pub(super) fn chain(
    family: &str,
    table: &str,
    name: &str,
    base: Option<(&str, &str, i64)>,
) -> Value {
    let mut body = json!({"family": family, "table": table, "name": name, "handle": 1});
    if let Some((kind, hook, priority)) = base {
        body["type"] = json!(kind);
        body["hook"] = json!(hook);
        body["prio"] = json!(priority);
        body["policy"] = json!("drop");
    }
    json!({ "chain": body })
}

pub(super) fn rule(family: &str, table: &str, chain: &str, statements: &Value) -> Value {
    json!({"rule": {
        "family": family, "table": table, "chain": chain, "handle": 2, "expr": statements
    }})
}

/// The sets and the chain that the rules of the tests refer to.
pub(super) fn field(header: &str, field: &str) -> Value {
    json!({"payload": {"protocol": header, "field": field}})
}

pub(super) fn matched(op: &str, left: &Value, right: &Value) -> Value {
    json!({"match": {"op": op, "left": left, "right": right}})
}

pub(super) fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

pub(super) fn ct(key: &str) -> Value {
    json!({"ct": {"key": key}})
}

#[test]
fn lines_are_those_of_the_listing_or_of_the_objects() {
    let objects = json!({"nftables": [
        {"table": {"family": "inet", "name": "t", "handle": 1}},
        chain("inet", "t", "input", Some(("filter", "input", 0))),
        rule("inet", "t", "input", &json!([{"accept": null}])),
    ]});
    let listing = "table inet t { # handle 1\n\
                   \tset s { # handle 2\n\t\ttype ipv4_addr\n\t}\n\n\
                   \tchain input { # handle 1\n\
                   \t\ttype filter hook input priority filter; policy drop;\n\
                   \t\ttcp dport { 1,\n\
                   \t\t\t 2 } accept comment \"# handle 7\" # handle 2\n\
                   \t}\n}\n";
    for (text, chain_line, rule_line) in [
        (objects.to_string(), 2, 3),
        (serde_json::to_string_pretty(&objects).unwrap(), 2, 3),
        (format!("{objects}\n{listing}"), 6, 8),
        (format!("\u{feff}{objects}\r\n{listing}"), 6, 8),
    ] {
        let ruleset = read(&file(text), 4).unwrap();
        let chain = &ruleset.rules[0].filter["inet t input"];
        let at = chain.at.unwrap();
        assert_eq!((at.input, at.line), (4, chain_line));
        assert_eq!(chain.rules[0].at.line, rule_line);
        let line = ruleset.text.lines().nth(rule_line - 1).unwrap();
        assert!(line.contains("accept") || line.contains("dport"), "{line}");
    }
}

#[test]
fn files_are_recognized() {
    for (text, listing, script) in [
        ("{\"nftables\": []}", true, false),
        (" \u{a}{ \"nftables\":[]}", true, false),
        ("{\"ignition\": {}}", false, false),
        ("#!/usr/sbin/nft -f\n", false, true),
        ("#!/usr/bin/env nft -f\n", false, true),
        ("#!/bin/sh\ntable x\n", false, false),
        ("# firewall\n\nflush ruleset\n", false, true),
        ("flush ruleset;\n", false, true),
        ("table inet filter {\n", false, true),
        ("table filter {\n", false, true),
        ("define WAN = eth0\n", false, true),
        ("include \"/etc/nftables.d/*.nft\"\n", false, true),
        ("add rule inet filter input accept\n", false, true),
        ("*filter\n:INPUT ACCEPT\nCOMMIT\n", false, false),
        ("-A INPUT -j ACCEPT\n", false, false),
        ("create nodes hash:ip\nadd nodes 10.0.0.1\n", false, false),
        ("#cloud-config\nwrite_files:\n", false, false),
        ("", false, false),
    ] {
        assert_eq!(
            (is_listing(text), is_script(text)),
            (listing, script),
            "{text}"
        );
    }
}

fn judge(rules: &ImportedRules, hook: Hook, change: impl Fn(&mut Packet)) -> Verdict {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let transport = Transport::Ports {
        protocol: 6,
        source: 40_000,
        destination: 22,
    };
    let (source, to) = (address("198.51.100.1"), address("192.0.2.1"));
    let mut packet = Packet::new(hook, "eth0", source, to, transport);
    change(&mut packet);
    let probe = Probe {
        out: packet.out.clone(),
        to_this_host: hook == Hook::Input,
        mark: KnownMark::default(),
        packet,
    };
    rules.narrow(source, ReadAs::Kernel).judge(&probe).verdict
}

fn v4(objects: &[Value]) -> ImportedRules {
    ruleset(objects).unwrap().rules.remove(0)
}

#[test]
fn every_base_chain_must_accept() {
    let accept = json!([{"accept": null}]);
    let from = |hook: &str, priority| {
        vec![
            chain("inet", "t", "input", Some(("filter", "input", 0))),
            rule("inet", "t", "input", &accept),
            chain("ip", "x", "second", Some(("filter", hook, priority))),
            rule(
                "ip",
                "x",
                "second",
                &json!([matched("==", &field("tcp", "dport"), &json!(80)), {"accept": null}]),
            ),
        ]
    };
    for (name, objects, want) in [
        ("another table", from("input", 5), Verdict::Drop),
        ("an earlier one", from("input", -5), Verdict::Drop),
        ("prerouting", from("prerouting", -300), Verdict::Drop),
        ("another hook", from("forward", 0), Verdict::Accept),
        ("output", from("output", 0), Verdict::Accept),
    ] {
        assert_eq!(judge(&v4(&objects), Hook::Input, |_| {}), want, "{name}");
    }
}

#[test]
fn prerouting_sees_packets_before_dnat_routing_and_conntrack() {
    let port = matched("==", &field("tcp", "dport"), &json!(22));
    let state = |name: &str| matched("in", &ct("state"), &json!(name));
    let out = matched("==", &meta("oifname"), &json!("eth1"));
    let to_80 = json!([{"dnat": {"addr": "192.0.2.9", "port": 22}}]);
    let nat = [
        chain("ip", "n", "pre", Some(("nat", "prerouting", -100))),
        rule("ip", "n", "pre", &to_80),
    ];
    for (name, priority, statement, has_nat, dnat, want) in [
        (
            "the dialled port",
            -150,
            &port,
            true,
            Some(80),
            Verdict::Accept,
        ),
        (
            "a port that nobody changed",
            -150,
            &port,
            true,
            None,
            Verdict::Drop,
        ),
        ("after DNAT", -50, &port, true, Some(80), Verdict::Drop),
        ("without DNAT", -150, &port, false, None, Verdict::Drop),
        (
            "no output interface",
            -150,
            &out,
            false,
            None,
            Verdict::Accept,
        ),
        (
            "invalid before conntrack",
            -300,
            &state("invalid"),
            false,
            None,
            Verdict::Drop,
        ),
        (
            "not new before conntrack",
            -300,
            &state("new"),
            false,
            None,
            Verdict::Accept,
        ),
        (
            "new after conntrack",
            -150,
            &state("new"),
            false,
            None,
            Verdict::Drop,
        ),
    ] {
        let mut objects = vec![
            chain("ip", "t", "input", Some(("filter", "input", 0))),
            rule("ip", "t", "input", &json!([{"accept": null}])),
            chain("ip", "t", "pre", Some(("filter", "prerouting", priority))),
            rule("ip", "t", "pre", &json!([statement, {"drop": null}])),
            rule("ip", "t", "pre", &json!([{"accept": null}])),
        ];
        objects.extend(nat.iter().filter(|_| has_nat).cloned());
        let verdict = judge(&v4(&objects), Hook::Input, |packet| {
            packet.dialled = dnat.map(|port| peerwall_core::net::packet::Dialled {
                address: "192.0.2.1".parse().unwrap(),
                port,
            });
        });
        assert_eq!(verdict, want, "{name}");
    }
}

#[test]
fn a_chain_of_both_sides_of_dnat_is_read_twice() {
    let port = matched("==", &field("tcp", "dport"), &json!(22));
    let call = json!([{"jump": {"target": "common"}}]);
    let rules = v4(&[
        chain("ip", "t", "common", None),
        rule("ip", "t", "common", &json!([port, {"accept": null}])),
        chain("ip", "t", "input", Some(("filter", "input", 0))),
        rule("ip", "t", "input", &call),
        chain("ip", "t", "pre", Some(("filter", "prerouting", -150))),
        rule("ip", "t", "pre", &call),
        chain("ip", "n", "pre", Some(("nat", "prerouting", -100))),
        rule("ip", "n", "pre", &json!([{"redirect": {"port": 22}}])),
    ]);
    let of = |name: &str| rules.filter[name].rules[0].conditions[1].test.clone();
    assert_eq!(of("ip t common"), Test::DestinationPorts(vec![(22, 22)]));
    assert_eq!(of("ip t common (before DNAT)"), Test::Dialled(22, 22));
    assert_eq!(rules.paths.input, ["ip t pre", "ip t input"]);
    assert_eq!(rules.paths.prerouting, [["ip n pre"]]);
}

#[test]
fn other_tables_are_named_and_part_of_a_firewall_is_an_error() {
    let table = |family: &str, name: &str, flags: Option<&str>| {
        let mut body = json!({"family": family, "name": name, "handle": 1});
        if let Some(flags) = flags {
            body["flags"] = json!(flags);
        }
        json!({ "table": body })
    };
    let input = chain("inet", "t", "input", Some(("filter", "input", 0)));
    let drops = |family: &str, name: &str| chain(family, name, "c", Some(("filter", "input", 0)));
    for (name, of_table, base, want) in [
        (
            "ours",
            table("inet", "peerwall", None),
            drops("inet", "peerwall"),
            "nft-table",
        ),
        (
            "frames",
            table("bridge", "b", None),
            drops("bridge", "b"),
            "nft-table",
        ),
        (
            "dormant",
            table("ip", "d", Some("dormant")),
            drops("ip", "d"),
            "nft-table",
        ),
        // nft 1.0.6 prints the name instead of the flags.
        (
            "dormant, as 1.0.6 prints it",
            table("ip", "d", Some("d")),
            drops("ip", "d"),
            "nft-table",
        ),
        (
            "frames of a device",
            table("inet", "t", None),
            chain("inet", "t", "i", Some(("filter", "ingress", 0))),
            "nft-ingress",
        ),
        (
            "drops in nat",
            table("ip", "n", None),
            chain("ip", "n", "pre", Some(("nat", "prerouting", -100))),
            "nft-nat-drop",
        ),
    ] {
        let accepts = rule("inet", "t", "input", &json!([{"accept": null}]));
        let all = [of_table.clone(), base.clone(), input.clone(), accepts];
        let found = ruleset(&all).unwrap();
        assert_eq!(
            found.notes.iter().map(|note| note.name).collect::<Vec<_>>(),
            [want],
            "{name}"
        );
        assert_eq!(
            judge(&found.rules[0], Hook::Input, |_| {}),
            Verdict::Accept,
            "{name}"
        );
        let alone = ruleset(&[of_table, base]).unwrap_err();
        assert!(alone.why.contains("hook input"), "{name}: {alone}");
    }
    let managed = ruleset(&[table("ip", "kube-proxy", None), drops("ip", "kube-proxy")]);
    assert!(managed.is_err(), "only a table of kube-proxy");
    for (chain, by) in [
        ("ip kube-proxy filter-input", Some("kube-proxy")),
        ("inet netavark FORWARD", Some("Podman")),
        ("inet f2b-table f2b-chain", Some("fail2ban")),
        ("ip filter DOCKER", Some("Docker")),
        ("ip filter DOCKER-USER", None),
        ("inet filter input", None),
        ("f2b-sshd", Some("fail2ban")),
    ] {
        assert_eq!(
            managed::by(chain).map(|manager| manager.name),
            by,
            "{chain}"
        );
    }
}

#[test]
fn broken_json_has_a_place() {
    let text = "{\"nftables\": [\n{\"table\": }]}";
    let err = read(&file(text.to_owned()), 0).unwrap_err();
    assert_eq!(err.line, 2);
}

#[test]
fn one_listing_is_imported_at_a_time() {
    let input = chain("inet", "t", "input", Some(("filter", "input", 0)));
    let listing = file(json!({ "nftables": [input] }).to_string());
    let errors = peerwall_core::import::rules(&[listing.clone(), listing]).unwrap_err();
    assert!(errors[0].why.contains("second ruleset"), "{errors:?}");
    let commands = json!({"nftables": [{"flush": {"ruleset": null}}]}).to_string();
    let err = read(&file(commands), 0).unwrap_err();
    assert!(err.why.contains("commands"), "{err}");
}

/// A listing with every kind of line that has no rule.
const BLOCKS: &str = "\
table inet t { # handle 1
\tcomment \"mine\"
\tset s { # handle 3
\t\ttype ipv4_addr
\t\telements = { 10.1.2.3,
\t\t\t     10.1.2.4 }
\t}

\tchain input { # handle 1
\t\ttype filter hook input priority filter; policy drop;
\t\tip saddr { 10.1.2.5,
\t\t\t   10.1.2.6 } accept # handle 2
\t\tmeta nfproto ipv4 ip6 saddr ::1 accept # handle 3
\t}
}
table arp x { # handle 2
\tchain input { # handle 1
\t\ttype filter hook input priority filter; policy accept;
\t\tarp operation request drop # handle 2
\t}
}
table inet f2b-table { # handle 3
\tset bans { # handle 1
\t}
}
";

/// Returns what the report says of each line.
pub(super) fn said(imported: &Import) -> Vec<&str> {
    let lines = imported.lines.iter();
    lines.map(|line| line.words.as_str()).collect()
}

#[test]
fn lines_without_rules_say_what_they_are() {
    let of = |family: &str, table: &str| json!({"table": {"family": family, "name": table}});
    let family = matched("==", &meta("nfproto"), &json!("ipv4"));
    let loopback = matched("==", &field("ip6", "saddr"), &json!("::1"));
    let mut never = rule(
        "inet",
        "t",
        "input",
        &json!([family, loopback, {"accept": null}]),
    );
    never["rule"]["handle"] = json!(3);
    let from = json!({"set": ["10.1.2.5", "10.1.2.6"]});
    let accept = json!([matched("==", &field("ip", "saddr"), &from), {"accept": null}]);
    let objects = json!({"nftables": [
        of("inet", "t"),
        chain("inet", "t", "input", Some(("filter", "input", 0))),
        rule("inet", "t", "input", &accept),
        never,
        of("arp", "x"),
        chain("arp", "x", "input", Some(("filter", "input", 0))),
        rule("arp", "x", "input", &json!([{"drop": null}])),
        of("inet", "f2b-table"),
    ]});
    let file = file(format!("{objects}\n{BLOCKS}"));
    let imported = import(&[file], &Facts::default()).unwrap();
    let said = said(&imported);
    let object = "part of the set, map or other object above";
    let hook = "the hook and the policy of the chain above";
    let skipped = "in a table that peerwall does not replace: keep it in a separate file, loaded \
         by nft";
    assert_eq!(
        said,
        [
            "starts a table",
            "comment",
            "starts a set, map or other object that rules name",
            object,
            object,
            object,
            "ends a block",
            said[7],
            hook,
            "[peers] host-10-1-2-5, [peers] host-10-1-2-6",
            "part of the rule above",
            "no packet can match this line",
            "ends a block",
            "ends a block",
            "starts a table",
            "starts a chain",
            hook,
            skipped,
            "ends a block",
            "ends a block",
            "starts a table",
            "starts a set, map or other object of a table that another program maintains: its entries, \
         such as bans, stay where they are",
            "ends a block",
            "ends a block",
        ]
    );
}
