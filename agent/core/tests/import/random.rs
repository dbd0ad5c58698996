//! Rules by chance, over few enough addresses, ports and interfaces that they meet.

use super::*;
use proptest::prelude::*;

fn condition() -> impl Strategy<Value = String> {
    let not = prop_oneof![3 => Just(""), 1 => Just("! ")];
    let source = prop::sample::select(vec![
        "192.0.2.0/24",
        "192.0.2.7/32",
        "192.0.2.8/32",
        "198.51.100.0/28",
        "10.244.0.0/16",
        "10.1.0.0/16",
        "0.0.0.0/1",
    ]);
    let interface =
        prop::sample::select(vec!["eth0", "eth1", "cni0", "flannel.1", "docker0", "eth+"]);
    let ports = prop::sample::select(vec!["22", "80", "1:1023", "8000:8100", "8472"]);
    prop_oneof![
        4 => (not.clone(), source).prop_map(|(not, value)| format!("{not}-s {value}")),
        2 => (not.clone(), interface.clone()).prop_map(|(not, value)| format!("{not}-i {value}")),
        1 => (not.clone(), interface).prop_map(|(not, value)| format!("{not}-o {value}")),
        4 => (not.clone(), ports).prop_map(|(not, value)| format!("-p tcp -m tcp {not}--dport {value}")),
        2 => Just("-p udp -m multiport --dports 53,8472".to_owned()),
        1 => Just("-p udp -m udp --sport 53".to_owned()),
        1 => Just("-p icmp -m icmp --icmp-type 8".to_owned()),
        1 => Just("-d 192.0.2.254/32".to_owned()),
        1 => Just("-d 203.0.113.0/24".to_owned()),
        1 => Just("-p esp".to_owned()),
        1 => Just("-m geoip --source-country XX".to_owned()),
        1 => Just("-m limit --limit 5/sec".to_owned()),
        1 => prop::sample::select(vec!["NEW", "RELATED,ESTABLISHED", "INVALID", "DNAT"])
            .prop_map(|state| format!("-m conntrack --ctstate {state}")),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let chain = prop::sample::select(vec!["INPUT", "INPUT", "FORWARD", "a", "b"]);
    let conditions = prop::collection::vec(condition(), 0..3);
    let target = prop::sample::select(vec![
        "ACCEPT", "ACCEPT", "DROP", "REJECT", "RETURN", "a", "b", "LOG",
    ]);
    (chain, conditions, target).prop_filter_map("a circle", |(chain, conditions, target)| {
        // `a` may lead to `b`, and nothing back.
        let circle = matches!((chain, target), ("a", "a") | ("b", "a" | "b"));
        (!circle).then(|| format!("-A {chain} {} -j {target}\n", conditions.join(" ")))
    })
}

pub(crate) fn file() -> impl Strategy<Value = String> {
    let policy = || prop::sample::select(vec!["DROP", "DROP", "ACCEPT"]);
    let nat = prop::sample::select(vec![
        "",
        "*nat\n\
         :PREROUTING ACCEPT\n\
         -A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n\
         COMMIT\n",
        "*nat\n\
         :PREROUTING ACCEPT\n\
         :POSTROUTING ACCEPT\n\
         -A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 80\n\
         -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
         COMMIT\n",
    ]);
    (
        policy(),
        policy(),
        prop::collection::vec(rule(), 0..12),
        nat,
    )
        .prop_map(|(input, forward, rules, nat)| {
            format!(
                "{nat}*filter\n:INPUT {input}\n:FORWARD {forward}\n:a -\n:b -\n{}COMMIT\n",
                rules.concat()
            )
        })
}

#[test]
fn a_network_of_peers_that_contains_pods_is_the_rest_of_it() {
    let text = "*filter\n\
        :INPUT DROP\n\
        :FORWARD ACCEPT\n\
        -A INPUT -s 0.0.0.0/1 -j ACCEPT\n\
        -A INPUT -s 10.244.0.0/16 -j ACCEPT\n\
        COMMIT\n";
    let file = File {
        name: "v4".into(),
        text: text.into(),
        family: Some(Family::V4),
    };
    let import = import(&[file], &Facts::default()).unwrap();
    assert!(
        !import.policy.contains("\"0.0.0.0/1\"") && import.policy.contains("\"64.0.0.0/2\""),
        "{}",
        import.policy
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_rules_become_a_policy_that_opens_no_port_they_do_not(text in file()) {
        let file = File { name: "v4".into(), text: text.clone(), family: Some(Family::V4) };
        let import = import(&[file], &Facts::default());
        let import = match import {
            Ok(import) => import,
            Err(errors) => {
                let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
                return Err(TestCaseError::fail(format!("{text}\n{}", said.join("\n"))));
            }
        };
        prop_assert_eq!(untold(&import), None, "{}\n{}", text, import.policy);
        // Every closed difference is reported for some line.
        let closed = import.differences.iter().any(|d| {
            d.change == Direction::Closed && matches!(d.reason, Reason::InputDefault)
        });
        let told = import.lines.iter().any(|line| !line.fate.is_whole() || line.words.contains("closed"));
        prop_assert!(!closed || told, "{}\n{}", text, import);
    }
}
