//! What statements mean: the conditions and targets that come of them.

use peerwall_core::import::judge::{Effort, judge};
use peerwall_core::import::nft::NftRuleset;
use peerwall_core::import::rule::{ImportedRule, Verb};
use peerwall_core::import::{Facts, import};
use peerwall_core::net::addr::Family;
use serde_json::{Value, json};

use super::matches::matches;
use super::{chain, ct, field, matched, meta, rule, ruleset};

fn named() -> Vec<Value> {
    let set = |kind: &str, name: &str, more: &Value| {
        let mut body = json!({"family": "inet", "table": "t", "name": name, "handle": 3});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        json!({ kind: body })
    };
    vec![
        chain("inet", "t", "other", None),
        set(
            "set",
            "lan",
            &json!({"elem": ["10.1.2.3", {"prefix": {"addr": "10.9.0.0", "len": 16}}]}),
        ),
        set(
            "set",
            "ports",
            &json!({"elem": [{"elem": {"val": 22, "comment": "ssh"}}, {"range": [80, 90]}]}),
        ),
        set("set", "banned", &json!({"flags": ["timeout"], "elem": []})),
        set(
            "set",
            "frozen",
            &json!({"elem": [{"elem": {"val": "10.1.2.3", "expires": 9}}]}),
        ),
        set(
            "set",
            "limited",
            &json!({"elem": [{"elem": {"val": "10.1.2.3", "limit": {"rate": 1}}}]}),
        ),
        set("set", "seen", &json!({"elem": []})),
        set(
            "map",
            "verdicts",
            &json!({"map": "verdict", "elem": [[22, {"accept": null}], [25, {"jump": {"target": "other"}}]]}),
        ),
        json!({"limit": {
            "family": "inet", "table": "t", "name": "over", "handle": 4,
            "rate": 1, "per": "second", "inv": true
        }}),
    ]
}

fn in_input(statements: &Value) -> NftRuleset {
    let mut objects = named();
    objects.push(chain("inet", "t", "input", Some(("filter", "input", 0))));
    objects.push(rule("inet", "t", "input", statements));
    ruleset(&objects).unwrap()
}

/// The rules of a family that come of one rule, each with its conditions, in a short form.
fn short(ruleset: &NftRuleset, family: Family) -> Vec<String> {
    let of_family = ruleset.rules.iter().find(|rules| rules.family == family);
    let chain = &of_family.unwrap().filter["inet t input"];
    chain.rules.iter().map(short_rule).collect()
}

fn short_rule(rule: &ImportedRule) -> String {
    let conditions = rule.conditions.iter().map(|condition| {
        let not = if condition.negated { "!" } else { "" };
        format!("{not}{:?} ", condition.test)
    });
    conditions.collect::<String>() + &format!("{:?}", rule.target)
}

/// Statements, and the rules of IPv4 and IPv6 that come of them.
pub(super) type Case = (
    &'static str,
    Vec<Value>,
    &'static [&'static str],
    &'static [&'static str],
);

fn statements() -> Vec<Case> {
    let accept = json!({"accept": null});
    let limit =
        |over: bool| json!({"limit": {"rate": 5, "burst": 5, "per": "second", "inv": over}});
    let dport = field("tcp", "dport");
    let vmap = |data: Value| vec![json!({"vmap": {"key": dport, "data": data}})];
    vec![
        (
            "a verdict map is one rule for each verdict",
            vmap(json!("@verdicts")),
            &[
                "Protocol([6]) DestinationPorts([(22, 22)]) Accept",
                "Protocol([6]) DestinationPorts([(25, 25)]) Jump(\"inet t other\")",
            ],
            &[
                "Protocol([6]) DestinationPorts([(22, 22)]) Accept",
                "Protocol([6]) DestinationPorts([(25, 25)]) Jump(\"inet t other\")",
            ],
        ),
        (
            "the rest of a verdict map",
            vmap(
                json!({"set": [["*", {"drop": null}], [22, {"return": null}], [23, {"return": null}]]}),
            ),
            &[
                "Protocol([6]) DestinationPorts([(22, 22), (23, 23)]) Return",
                "Protocol([6]) !DestinationPorts([(22, 22), (23, 23)]) Drop",
            ],
            &[
                "Protocol([6]) DestinationPorts([(22, 22), (23, 23)]) Return",
                "Protocol([6]) !DestinationPorts([(22, 22), (23, 23)]) Drop",
            ],
        ),
        (
            "limit rate",
            vec![limit(false), accept.clone()],
            &["Rate(true, \"limit rate 5/second\") Accept"],
            &["Rate(true, \"limit rate 5/second\") Accept"],
        ),
        (
            "limit rate over",
            vec![limit(true), json!({"drop": null})],
            &["Rate(false, \"limit rate over 5/second\") Drop"],
            &["Rate(false, \"limit rate over 5/second\") Drop"],
        ),
        (
            "a named limit has its object's direction",
            vec![json!({"limit": "over"}), json!({"drop": null})],
            &["Rate(false, \"limit name over\") Drop"],
            &["Rate(false, \"limit name over\") Drop"],
        ),
        (
            "a limit for each source, of IPv4 only",
            vec![
                json!({"set": {
                    "op": "add", "set": "@seen", "elem": field("ip", "saddr"), "stmt": [limit(true)]
                }}),
                json!({"reject": {"type": "tcp reset"}}),
            ],
            &["Rate(false, \"limit rate over 5/second\") Protocol([6]) Reject"],
            &[],
        ),
        (
            "counting and logging decide nothing",
            vec![
                json!({"counter": {"packets": 1, "bytes": 2}}),
                json!({"log": {"prefix": "x"}}),
            ],
            &["Continue(\"count, log\")"],
            &["Continue(\"count, log\")"],
        ),
        (
            "a changed address is not evaluated further",
            vec![
                json!({"mangle": {"key": field("ip", "daddr"), "value": "10.1.1.1"}}),
                accept.clone(),
            ],
            &["Unknown(\"ip daddr set 10.1.1.1\")"],
            &[],
        ),
        (
            "a changed mark decides nothing",
            vec![
                json!({"mangle": {"key": meta("mark"), "value": 1}}),
                accept.clone(),
            ],
            &[
                "Mark(MarkChange { value: 1, mask: 4294967295, is_known: true }, \"meta mark set 1\")",
                "Accept",
            ],
            &[
                "Mark(MarkChange { value: 1, mask: 4294967295, is_known: true }, \"meta mark set 1\")",
                "Accept",
            ],
        ),
        (
            "queue",
            vec![json!({"queue": {"num": 1}})],
            &["Unknown(\"queue num 1\")"],
            &["Unknown(\"queue num 1\")"],
        ),
        (
            "reject with icmp is of IPv4",
            vec![json!({"reject": {"type": "icmp", "expr": "port-unreachable"}})],
            &["Reject"],
            &[],
        ),
        (
            "a jump to a chain that is not listed",
            vec![json!({"jump": {"target": "nowhere"}})],
            &["Unknown(\"jump inet t nowhere, which is not listed\")"],
            &["Unknown(\"jump inet t nowhere, which is not listed\")"],
        ),
    ]
}

#[test]
fn statements_mean_what_nft_does() {
    for (name, statements, v4, v6) in matches().into_iter().chain(statements()) {
        let ruleset = in_input(&json!(statements));
        assert_eq!(short(&ruleset, Family::V4), v4, "{name}");
        assert_eq!(short(&ruleset, Family::V6), v6, "{name}");
    }
}

fn is_unknown(rule: &ImportedRule) -> bool {
    rule.unknown().next().is_some() || matches!(rule.target, Verb::Unknown(_))
}

#[test]
fn what_packets_do_not_decide_is_unknown() {
    let accept = json!({"accept": null});
    let one = |left: Value, right: Value| matched("==", &left, &right);
    for (name, statement) in [
        (
            "elements that expire",
            one(field("ip", "saddr"), json!("@banned")),
        ),
        (
            "elements that expire, later",
            one(field("ip", "saddr"), json!("@frozen")),
        ),
        (
            "elements with a limit",
            one(field("ip", "saddr"), json!("@limited")),
        ),
        ("no such set", one(field("ip", "saddr"), json!("@nowhere"))),
        ("several marks", one(meta("mark"), json!({"set": [1, 2]}))),
        (
            "a name that is not known",
            one(field("ip", "saddr"), json!("host.example")),
        ),
        (
            "an address of the other family",
            one(field("ip", "saddr"), json!("::1")),
        ),
        ("a prefix of an interface index", one(meta("iif"), json!(7))),
        (
            "scattered bits",
            one(
                json!({"&": [field("ip", "saddr"), "255.0.255.0"]}),
                json!("10.0.1.0"),
            ),
        ),
        (
            "another status",
            matched("in", &ct("status"), &json!(["dnat", "snat"])),
        ),
        ("a header of a tunnel", one(field("vxlan", "vni"), json!(1))),
        (
            "an operator",
            matched("~", &field("ip", "saddr"), &json!("10.1.2.3")),
        ),
        ("a statement", json!({"verify": {"rate": 1}})),
        (
            "of iptables",
            json!({"xt": {"type": "match", "name": "recent"}}),
        ),
    ] {
        let ruleset = in_input(&json!([statement, accept]));
        let rules = &ruleset.rules[0].filter["inet t input"].rules;
        assert_eq!(rules.len(), 1, "{name}");
        assert!(is_unknown(&rules[0]), "{name}: {rules:?}");
    }
}

/// Adds a key to each object in turn, and returns all results.
fn with_strange_keys(value: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    if let Some(fields) = value.as_object() {
        let mut one = fields.clone();
        one.insert("strange".to_owned(), json!(1));
        found.push(Value::Object(one));
        for (key, inner) in fields {
            for changed in with_strange_keys(inner) {
                let mut one = fields.clone();
                one.insert(key.clone(), changed);
                found.push(Value::Object(one));
            }
        }
    }
    for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
        for changed in with_strange_keys(inner) {
            let mut all = value.as_array().unwrap().clone();
            all[index] = changed;
            found.push(Value::Array(all));
        }
    }
    found
}

#[test]
fn no_key_is_skipped() {
    let mut tried = 0;
    let cases = matches().into_iter().chain(statements());
    // What counts, logs, marks or refuses may have further keys: it lets nothing through.
    let free = ["counting", "reject", "a changed mark", "queue"];
    for (name, statements, ..) in
        cases.filter(|(name, ..)| !free.iter().any(|f| name.starts_with(f)))
    {
        for changed in with_strange_keys(&json!(statements)) {
            let ruleset = in_input(&changed);
            for rules in &ruleset.rules {
                let rules = &rules.filter["inet t input"].rules;
                let refuses =
                    |rule: &ImportedRule| matches!(rule.target, Verb::Drop | Verb::Reject);
                let is_harmless = rules.iter().all(refuses);
                let any_unknown = rules.iter().any(is_unknown);
                assert!(any_unknown || is_harmless, "{name}: {changed} {rules:?}");
                tried += usize::from(any_unknown);
            }
        }
    }
    assert!(tried > 100, "{tried}");
}

/// Replaces each part of a value by others, and returns all results.
fn misshapen(value: &Value) -> Vec<Value> {
    let parts = [
        json!(null),
        json!(-1),
        json!(1e30),
        json!("x"),
        json!([]),
        json!({}),
        json!([[]]),
    ];
    let mut found = parts.to_vec();
    if let Some(fields) = value.as_object() {
        for (key, inner) in fields {
            for changed in misshapen(inner) {
                let mut one = fields.clone();
                one.insert(key.clone(), changed);
                found.push(Value::Object(one));
            }
        }
    }
    for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
        for changed in misshapen(inner) {
            let mut all = value.as_array().unwrap().clone();
            all[index] = changed;
            found.push(Value::Array(all));
        }
    }
    found
}

#[test]
fn no_shape_of_json_is_fatal_and_none_accepts_more() {
    let mut tried = 0;
    for (name, statements, ..) in matches().into_iter().chain(statements()) {
        let whole = json!(statements);
        let last = statements.len() - 1;
        for changed in misshapen(&whole)
            .iter()
            .filter(|changed| changed[last] == whole[last])
        {
            let ruleset = in_input(changed);
            for rules in &ruleset.rules {
                for rule in &rules.filter["inet t input"].rules {
                    let is_bare = rule.conditions.is_empty() && rule.target == Verb::Accept;
                    let was_bare =
                        short(&in_input(&whole), rules.family).contains(&"Accept".to_owned());
                    assert!(!is_bare || was_bare, "{name}: {changed} {rule:?}");
                }
            }
            tried += 1;
        }
    }
    assert!(tried > 1000, "{tried}");
}

/// Usual packets have a route back; a chain that drops the others stays beside the policy.
#[test]
fn a_reverse_path_check_leaves_the_usual_packets() {
    let fib = |flags: Value| json!({"fib": {"result": "oif", "flags": flags}});
    let strict = fib(json!(["saddr", "mark", "iif"]));
    let loose = fib(json!(["saddr", "mark"]));
    let other = fib(json!(["daddr", "iif"]));
    for (name, statements, policy, is_open) in [
        (
            "exists",
            json!([matched("==", &strict, &json!(true)), {"accept": null}]),
            "drop",
            true,
        ),
        (
            "not missing",
            json!([matched("!=", &strict, &json!(false)), {"accept": null}]),
            "drop",
            true,
        ),
        (
            "missing",
            json!([matched("==", &strict, &json!(false)), {"drop": null}]),
            "accept",
            true,
        ),
        (
            "loose",
            json!([matched("==", &loose, &json!(true)), {"accept": null}]),
            "drop",
            true,
        ),
        (
            "loosely missing",
            json!([matched("==", &loose, &json!(false)), {"drop": null}]),
            "accept",
            true,
        ),
        (
            "the wrong way round",
            json!([matched("==", &strict, &json!(false)), {"accept": null}]),
            "drop",
            false,
        ),
        (
            "of the destination",
            json!([matched("==", &other, &json!(true)), {"accept": null}]),
            "drop",
            false,
        ),
    ] {
        let mut early = chain(
            "inet",
            "t",
            "rpfilter",
            Some(("filter", "prerouting", -150)),
        );
        early["chain"]["policy"] = json!(policy);
        let ssh = matched("==", &field("tcp", "dport"), &json!(22));
        let objects = json!({"nftables": [
            early,
            rule("inet", "t", "rpfilter", &statements),
            chain("inet", "t", "input", Some(("filter", "input", 0))),
            rule("inet", "t", "input", &json!([ssh, {"accept": null}])),
        ]});
        let files = [super::file(objects.to_string())];
        let imported = import(&files, &Facts::default()).unwrap();
        let is_ssh = imported
            .policy
            .contains("name  = \"ssh\"\nports = [\"22/tcp\"]");
        assert_eq!(is_ssh, is_open, "{name}:\n{}\n{imported}", imported.policy);
        assert!(!imported.is_whole(), "{name}: {imported}");
        let effort = Effort {
            packets: 1000,
            seed: 1,
        };
        assert_eq!(judge(&files, effort).unwrap(), None, "{name}");
    }
}
