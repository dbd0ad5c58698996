//! Statements that are not known: nothing behind them is accepted.

use super::*;
use peerwall_core::import::Fate;

/// As nft 1.0.6 lists it with handles.
const LISTING: &str = "\
table inet t { # handle 1
\tchain input { # handle 1
\t\ttype filter hook input priority filter; policy drop;
\t\tudp sport 5 jump {
\t\t\ttcp dport 22 accept
\t\t\tudp dport 7 jump {
\t\t\t\tdrop
\t\t\t}
\t\t\tdrop
\t\t} # handle 2
\t\tudp dport 53 accept # handle 3
\t}
}
";

/// A table with a chain at the hook input.
fn start() -> [Value; 2] {
    let table = json!({"table": {"family": "inet", "name": "t", "handle": 1}});
    let input = chain("inet", "t", "input", Some(("filter", "input", 0)));
    [table, input]
}

fn after(strange: &Value) -> Vec<Value> {
    let from = matched("==", &field("udp", "sport"), &json!(5));
    let to = matched("==", &field("udp", "dport"), &json!(53));
    let first = rule("inet", "t", "input", &json!([from, strange]));
    let mut second = rule("inet", "t", "input", &json!([to, {"accept": null}]));
    second["rule"]["handle"] = json!(3);
    [&start()[..], &[first, second]].concat()
}

#[test]
fn a_jump_to_a_chain_without_a_name_may_drop() {
    for strange in [
        json!("jump {\n\t\t\ttcp dport 22 accept\n\t\t\tdrop\n\t\t}"),
        json!("goto {\n\t\t\tdrop\n\t\t}"),
        json!({"jump": {"chain": [{"drop": null}]}}),
    ] {
        let rules = v4(&after(&strange));
        let verdict = |from: u16| {
            judge(&rules, Hook::Input, |packet| {
                packet.transport = Transport::Ports {
                    protocol: 17,
                    source: from,
                    destination: 53,
                };
            })
        };
        assert_eq!(verdict(5), Verdict::Drop, "{strange}");
        assert_eq!(verdict(6), Verdict::Accept, "{strange}");
    }
}

/// Without a chain at a hook, the kernel accepts.
#[test]
fn a_ruleset_without_a_forward_chain_forwards_everything() {
    let [table, input] = start();
    let known = json!({"set": ["established", "related"]});
    let known = matched("in", &ct("state"), &known);
    let known = rule("inet", "t", "input", &json!([known, {"accept": null}]));
    let objects = json!({ "nftables": [table, input, known] });
    let imported = import(&[file(objects.to_string())], &Facts::default()).unwrap();
    let mut told = imported.differences.iter();
    let is_closed = told.any(|each| {
        each.hook == Hook::Forward && each.sentence.contains("everything from any source through")
    });
    assert!(is_closed, "{imported}");
}

/// It may be a condition, and it may drop.
#[test]
fn a_statement_that_is_not_known_is_left() {
    for strange in [
        json!("frobnicate 7"),
        json!({"frobnicate": 7}),
        json!({"xt": null}),
    ] {
        let objects = json!({ "nftables": after(&strange) });
        let imported = import(&[file(objects.to_string())], &Facts::default()).unwrap();
        assert_eq!(imported.lines[2].fate, Fate::Left, "{imported}");
        assert!(!imported.is_whole(), "{imported}");
    }
}

#[test]
fn a_chain_without_a_name_is_part_of_its_rule() {
    let text = json!("jump {\n\t\t\ttcp dport 22 accept\n\t\t\tdrop\n\t\t}");
    let objects = json!({ "nftables": after(&text) });
    let file = file(format!("{objects}\n{LISTING}"));
    let imported = import(&[file], &Facts::default()).unwrap();
    let said = said(&imported);
    let rest = "part of the rule above";
    assert!(
        said[3].contains("jump { tcp dport 22 accept drop }"),
        "{}",
        said[3]
    );
    assert_eq!(said[4..10], [rest; 6]);
    assert_eq!(said[11..], ["ends a block"; 2]);
    // The rule below does not accept what may be dropped above.
    let policy = imported.policy;
    let others = "from_ports = [\"1-4/udp\", \"6-65535/udp\"]";
    assert!(policy.contains(others), "{policy}");
}

/// A packet whose key is not in the map leaves the rule.
#[test]
fn a_statement_with_a_map_is_for_its_keys() {
    let map = |data: &Value| json!({"map": {"key": field("ip", "daddr"), "data": data}});
    let listed = map(&json!({"set": [["10.1.2.3", 1]]}));
    let mangle = |map: &Value| json!({"mangle": {"key": {"ct": {"key": "mark"}}, "value": map}});
    for (statement, is_known) in [
        (mangle(&listed), true),
        (json!({ "counter": listed }), true),
        (json!({ "ct helper": listed }), true),
        (mangle(&json!({"|": [listed, 1]})), true),
        (mangle(&map(&json!("@missing"))), false),
    ] {
        for (verdict, default) in [("accept", Verdict::Drop), ("drop", Verdict::Accept)] {
            let from = rule("inet", "t", "input", &json!([statement, {verdict: null}]));
            let mut rest = rule("inet", "t", "input", &json!([{"accept": null}]));
            rest["rule"]["handle"] = json!(3);
            let mut all = [&start()[..], &[from]].concat();
            if default == Verdict::Accept {
                all.push(rest);
            }
            let rules = v4(&all);
            let got = |to: &str| {
                judge(&rules, Hook::Input, |packet| {
                    packet.destination = to.parse().unwrap()
                })
            };
            assert_eq!(got("10.9.9.9"), default, "{statement} {verdict}");
            let decides = got("10.1.2.3") != default;
            assert_eq!(decides, is_known, "{statement} {verdict}");
        }
    }
}

/// Filters at the hook postrouting decide about packets through this host.
#[test]
fn packets_through_this_host_pass_postrouting() {
    for (priority, want) in [(0, Verdict::Drop), (100, Verdict::Accept)] {
        let base = |name: &str, hook: &str, priority| {
            chain("inet", "t", name, Some(("filter", hook, priority)))
        };
        let drop = |chain: &str| rule("inet", "t", chain, &json!([{"drop": null}]));
        let [table, input] = start();
        let forward = base("forward", "forward", 0);
        let accept = rule("inet", "t", "forward", &json!([{"accept": null}]));
        let late = base("late", "postrouting", priority);
        let all = [table, input, forward, accept, late, drop("late")];
        assert_eq!(judge(&v4(&all), Hook::Forward, |_| {}), want, "{priority}");
    }
}

/// A rule ends where a packet lacks the value.
#[test]
fn statements_that_need_a_value_accept_nothing() {
    let set = |value: &Value| json!({"mangle": {"key": {"ct": {"key": "mark"}}, "value": value}});
    for (statement, accepts) in [
        (
            set(&json!({"tcp option": {"name": "maxseg", "field": "size"}})),
            false,
        ),
        (set(&json!({"socket": {"key": "mark"}})), false),
        (
            set(&json!({"|": [{"payload": {"base": "th", "offset": 900, "len": 32}}, 1]})),
            false,
        ),
        (
            set(&json!({"exthdr": {"name": "frag", "field": "id"}})),
            false,
        ),
        (json!({"flow": {"op": "add", "flowtable": "@ft"}}), false),
        (set(&json!({"|": [{"meta": {"key": "mark"}}, 1]})), true),
    ] {
        let line = rule("inet", "t", "input", &json!([statement, {"accept": null}]));
        let rules = v4(&[&start()[..], &[line]].concat());
        let verdict = judge(&rules, Hook::Input, |_| {});
        assert_eq!(verdict == Verdict::Accept, accepts, "{statement}");
    }
}

/// Also one that only IPv6 packets may meet.
#[test]
fn drops_by_routes_and_own_addresses_are_left() {
    let fib = |result: &str| json!({"fib": {"result": result, "flags": "saddr"}});
    let missing = matched("==", &fib("oif"), &json!(false));
    let own = matched("==", &fib("type"), &json!("local"));
    for dropped in [missing, own] {
        is_left(&dropped);
    }
}

fn is_left(dropped: &Value) {
    let line = rule("inet", "t", "input", &json!([dropped, {"drop": null}]));
    let mut accept = rule("inet", "t", "input", &json!([{"accept": null}]));
    accept["rule"]["handle"] = json!(3);
    let all = [&start()[..], &[line, accept]].concat();
    let file = File {
        name: "rules".into(),
        text: json!({ "nftables": all }).to_string(),
        family: None,
    };
    let import = import(&[file], &Facts::default()).unwrap();
    let left = import.lines.iter().filter(|line| line.fate == Fate::Left);
    assert_eq!(left.count(), 1, "{import}");
}

/// Elements of a concatenation may overlap, and the first one decides.
#[test]
fn maps_whose_order_matters_accept_nothing() {
    let key = json!({"concat": [field("ip", "daddr"), field("tcp", "dport")]});
    let one =
        |to: Value, port: Value, verdict: &str| json!([{"concat": [to, port]}, {verdict: null}]);
    let prefix = |addr: &str, len: u8| json!({"prefix": {"addr": addr, "len": len}});
    let ports = json!({"range": [20, 30]});
    let narrow = one(prefix("192.0.2.0", 24), json!(22), "drop");
    for (elements, accepts) in [
        (
            vec![
                narrow.clone(),
                one(prefix("192.0.0.0", 8), ports.clone(), "accept"),
            ],
            false,
        ),
        (
            vec![
                narrow.clone(),
                one(prefix("192.0.2.0", 25), json!(23), "accept"),
            ],
            false,
        ),
        (
            vec![narrow, one(prefix("10.0.0.0", 8), ports.clone(), "accept")],
            false,
        ),
        (
            vec![
                one(prefix("10.0.0.0", 8), json!(22), "drop"),
                one(prefix("192.0.0.0", 8), ports, "accept"),
            ],
            true,
        ),
    ] {
        let map = json!({"vmap": {"key": key, "data": {"set": elements}}});
        let rules = v4(&[&start()[..], &[rule("inet", "t", "input", &json!([map]))]].concat());
        let verdict = judge(&rules, Hook::Input, |_| {});
        assert_eq!(verdict == Verdict::Accept, accepts, "{map}");
    }
}

/// nft lists a star in a set without its backslash.
#[test]
fn stars_are_patterns_only_in_sets_of_intervals() {
    for (flags, accepts) in [(json!(null), false), (json!(["interval"]), true)] {
        let mut names = json!({"set": {"family": "inet", "table": "t", "name": "names", "handle": 9,
            "type": "ifname", "elem": ["eth*", "x"]}});
        if !flags.is_null() {
            names["set"]["flags"] = flags;
        }
        let is_in = matched("==", &meta("iifname"), &json!("@names"));
        let line = rule("inet", "t", "input", &json!([is_in, {"accept": null}]));
        let rules = v4(&[&start()[..], &[names, line]].concat());
        let verdict = judge(&rules, Hook::Input, |_| {});
        assert_eq!(verdict == Verdict::Accept, accepts);
    }
}

/// Each verdict of a map with an unknown key may apply.
#[test]
fn chains_of_an_unknown_map_may_be_entered_for_good() {
    for (verdict, accepts) in [("goto", false), ("jump", true)] {
        let numgen = json!({"numgen": {"mode": "random", "mod": 2, "offset": 0}});
        let elements = json!({"set": [[0, {verdict: {"target": "empty"}}]]});
        let map = json!([{"vmap": {"key": numgen, "data": elements}}]);
        let empty = chain("inet", "t", "empty", None);
        let mut accept = rule("inet", "t", "input", &json!([{"accept": null}]));
        accept["rule"]["handle"] = json!(3);
        let line = rule("inet", "t", "input", &map);
        let rules = v4(&[&start()[..], &[empty, line, accept]].concat());
        let got = judge(&rules, Hook::Input, |_| {});
        assert_eq!(got == Verdict::Accept, accepts, "{verdict}");
    }
}
