//! Marks that the table nat sets before a DNAT, and that rules of FORWARD accept.

use peerwall_core::import::judge::{Effort, judge};

use serde_json::{Value, json};

use super::nft::{chain, field, matched, meta, rule};
use super::{Facts, Family, File, import};

/// kube-proxy's own lines: marked packets pass.
const FORWARD: &str = "-A FORWARD -j KUBE-FORWARD\n\
    -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n";
/// A NodePort of kube-proxy since 1.24.
const PORT: &str = "-A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-EXT\n\
    -A KUBE-EXT -j KUBE-MARK-MASQ\n-A KUBE-EXT -j KUBE-SVC\n";
const MARK: &str = "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n";

fn file(port: &str, mark: &str, mangle: &str, forward: &str) -> File {
    let chains = ["NODEPORTS", "EXT", "SVC", "MARK-MASQ", "OTHER"];
    let chains: String = chains.map(|name| format!(":KUBE-{name} -\n")).concat();
    let text = format!(
        "*mangle\n:PREROUTING ACCEPT\n:FORWARD ACCEPT\n:POSTROUTING ACCEPT\n{mangle}COMMIT\n\
         *nat\n:PREROUTING ACCEPT\n{chains}\
         -A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n{port}{mark}\
         -A KUBE-SVC -p tcp -j DNAT --to-destination 10.244.1.5:8080\nCOMMIT\n\
         *filter\n:INPUT DROP\n:FORWARD DROP\n:KUBE-FORWARD -\n\
         -A INPUT -p tcp --dport 22 -j ACCEPT\n{forward}COMMIT\n"
    );
    File {
        name: "v4".into(),
        text,
        family: Some(Family::V4),
    }
}

#[test]
fn a_port_is_open_if_its_packets_are_certainly_marked() {
    let from = "192.0.2.0/24";
    let any = "from  = \"any\"";
    for (name, port, mark, mangle, forward, wanted) in [
        ("marked", PORT, MARK, "", FORWARD, Some(any)),
        (
            "by another spelling",
            PORT,
            "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
            "",
            FORWARD,
            Some(any),
        ),
        (
            "with other bits",
            PORT,
            "-A KUBE-MARK-MASQ -j MARK --set-mark 0x4001\n",
            "",
            FORWARD,
            Some(any),
        ),
        (
            "as kube-proxy before 1.24 does it",
            "-A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-MARK-MASQ\n\
             -A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-SVC\n",
            MARK,
            "",
            FORWARD,
            Some(any),
        ),
        (
            "of some sources",
            "-A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-EXT\n\
             -A KUBE-EXT -s 192.0.2.0/24 -j KUBE-MARK-MASQ\n-A KUBE-EXT -j KUBE-SVC\n",
            MARK,
            "",
            FORWARD,
            Some(from),
        ),
        (
            "on one of two ways",
            "-A KUBE-NODEPORTS -s 192.0.2.0/24 -p tcp --dport 30080 -j KUBE-EXT\n\
             -A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-SVC\n\
             -A KUBE-EXT -j KUBE-MARK-MASQ\n-A KUBE-EXT -j KUBE-SVC\n",
            MARK,
            "",
            FORWARD,
            Some(from),
        ),
        (
            "by goto",
            "-A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-EXT\n\
             -A KUBE-EXT -j KUBE-MARK-MASQ\n-A KUBE-EXT -g KUBE-SVC\n",
            MARK,
            "",
            FORWARD,
            Some(any),
        ),
        ("in no line", PORT, "", "", FORWARD, None),
        (
            "with another bit",
            PORT,
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x8000/0x8000\n",
            "",
            FORWARD,
            None,
        ),
        (
            "with a bit turned over",
            PORT,
            "-A KUBE-MARK-MASQ -j MARK --xor-mark 0x4000\n",
            "",
            FORWARD,
            None,
        ),
        (
            "too late",
            "-A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-EXT\n\
             -A KUBE-EXT -j KUBE-SVC\n-A KUBE-EXT -j KUBE-MARK-MASQ\n",
            MARK,
            "",
            FORWARD,
            None,
        ),
        (
            "by chance",
            PORT,
            "-A KUBE-MARK-MASQ -m statistic --mode random --probability 0.5 \
             -j MARK --set-xmark 0x4000/0x4000\n",
            "",
            FORWARD,
            None,
        ),
        (
            "after a return",
            PORT,
            "-A KUBE-MARK-MASQ -j RETURN\n\
             -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n",
            "",
            FORWARD,
            None,
        ),
        (
            "and lost again",
            PORT,
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
             -A KUBE-MARK-MASQ -j KUBE-OTHER\n-A KUBE-OTHER -j MARK --and-mark 0xffffbfff\n",
            "",
            FORWARD,
            None,
        ),
        (
            "and lost by chance",
            PORT,
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
             -A KUBE-MARK-MASQ -m statistic --mode random --probability 0.5 -j KUBE-OTHER\n\
             -A KUBE-OTHER -j MARK --set-mark 0x1\n",
            "",
            FORWARD,
            None,
        ),
        (
            "and marked otherwise in FORWARD",
            PORT,
            MARK,
            "-A FORWARD -j MARK --set-mark 0x1\n",
            FORWARD,
            None,
        ),
        (
            "and perhaps in PREROUTING",
            PORT,
            MARK,
            "-A PREROUTING -j CONNMARK --restore-mark\n",
            FORWARD,
            None,
        ),
        (
            "with other bits there",
            PORT,
            MARK,
            "-A PREROUTING -j MARK --set-xmark 0x1/0x1\n",
            FORWARD,
            Some(any),
        ),
        (
            "and only others pass",
            PORT,
            MARK,
            "",
            "-A FORWARD -m mark ! --mark 0x4000/0x4000 -j ACCEPT\n",
            None,
        ),
        (
            "and dropped before",
            PORT,
            MARK,
            "",
            "-A FORWARD -m mark --mark 0x4000/0x4000 -j DROP\n\
             -A FORWARD -p tcp --dport 8080 -j ACCEPT\n",
            None,
        ),
        (
            "and maybe returned before",
            PORT,
            MARK,
            "",
            "-A FORWARD -m mark --mark 0x8000/0x8000 -j RETURN\n\
             -A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n",
            None,
        ),
    ] {
        let file = file(port, mark, mangle, forward);
        let imported = import(std::slice::from_ref(&file), &Facts::default()).unwrap();
        let allow = imported
            .policy
            .split("[[allow]]")
            .find(|text| text.contains("30080/tcp"));
        let got = allow.map(|text| wanted.is_some_and(|from| text.contains(from)));
        assert_eq!(
            got,
            wanted.map(|_| true),
            "{name}:\n{}\n{imported}",
            imported.policy
        );
        let effort = Effort {
            packets: 2000,
            seed: 1,
        };
        let found = judge(&[file], effort).unwrap();
        assert_eq!(found, None, "{name}");
    }
}

/// A rule with these statements.
fn in_chain(name: &str, statements: Value) -> Value {
    rule("ip", "t", name, &statements)
}

#[test]
fn marks_of_nftables_are_followed() {
    let mark = meta("mark");
    let masked = json!({"&": [mark, 0x4000]});
    let set = |value: Value| json!({"mangle": {"key": meta("mark"), "value": value}});
    let or = set(json!({"|": [mark, 0x4000]}));
    let tests = matched("==", &masked, &json!(0x4000));
    for (name, set, test, hook, is_open) in [
        ("or", or.clone(), tests.clone(), ("forward", 0), true),
        (
            "a number",
            set(json!(0x4001)),
            tests.clone(),
            ("forward", 0),
            true,
        ),
        (
            "with other bits kept",
            set(json!({"|": [{"&": [mark, 0xffff_bfff_u32]}, 0x4000]})),
            tests.clone(),
            ("forward", 0),
            true,
        ),
        (
            "not 0",
            or.clone(),
            matched("!=", &masked, &json!(0)),
            ("forward", 0),
            true,
        ),
        (
            "and",
            set(json!({"&": [mark, 0x4000]})),
            tests.clone(),
            ("forward", 0),
            false,
        ),
        (
            "of a map",
            set(json!({"map": {"key": mark, "data": "@m"}})),
            tests.clone(),
            ("forward", 0),
            false,
        ),
        (
            "of the connection",
            set(json!({"ct": {"key": "mark"}})),
            tests.clone(),
            ("forward", 0),
            false,
        ),
        (
            "0",
            or.clone(),
            matched("==", &masked, &json!(0)),
            ("forward", 0),
            false,
        ),
        (
            "more bits",
            or.clone(),
            matched("==", &mark, &json!(0x4000)),
            ("forward", 0),
            false,
        ),
        (
            "before DNAT",
            or.clone(),
            tests.clone(),
            ("prerouting", -150),
            false,
        ),
    ] {
        let dport = matched("==", &field("tcp", "dport"), &json!(30080));
        let dnat = json!({"dnat": {"addr": "10.244.1.5", "port": 8080}});
        let mut all = vec![
            chain("ip", "t", "dnat", Some(("nat", "prerouting", -100))),
            in_chain("dnat", json!([dport, set])),
            in_chain("dnat", json!([dport, dnat])),
            chain("ip", "t", "here", Some(("filter", "input", 0))),
            chain("ip", "t", "on", Some(("filter", hook.0, hook.1))),
            in_chain("on", json!([test, {"accept": null}])),
        ];
        if hook.0 != "forward" {
            all.push(chain("ip", "t", "last", Some(("filter", "forward", 0))));
            all.push(in_chain("last", json!([{"accept": null}])));
        }
        let text = json!({ "nftables": all }).to_string();
        let file = File {
            name: "nft".into(),
            text,
            family: None,
        };
        let imported = import(&[file], &Facts::default()).unwrap();
        assert_eq!(
            imported.policy.contains("30080/tcp"),
            is_open,
            "{name}:\n{imported}"
        );
    }
}
