//! DNAT to several addresses and ports, and of several ports.

use peerwall_core::import::canonical::Readings;
use peerwall_core::import::judge::{Effort, judge};
use peerwall_core::import::{Options, import_read};
use serde_json::{Value, json};

use super::nft::{chain, field, matched, rule};
use super::{Facts, Family, File, import};

const TO: &str = "-A FORWARD -d 10.7.0.0/29 -p tcp --dport";

#[test]
fn a_port_is_open_if_every_new_destination_is_accepted() {
    for (name, dnat, forward, wanted) in [
        (
            "several addresses",
            "--dport 80 -j DNAT --to-destination 10.7.0.1-10.7.0.4",
            format!("{TO} 80 -j ACCEPT"),
            Some("80/tcp"),
        ),
        (
            "with a port",
            "--dport 80 -j DNAT --to-destination 10.7.0.1-10.7.0.4:8080",
            format!("{TO} 8080 -j ACCEPT"),
            Some("80/tcp"),
        ),
        (
            "more addresses than are accepted",
            "--dport 80 -j DNAT --to-destination 10.7.0.1-10.7.0.9",
            format!("{TO} 80 -j ACCEPT"),
            None,
        ),
        (
            "several new ports",
            "--dport 80 -j DNAT --to-destination 10.7.0.1:8080-8090",
            format!("{TO} 8080:8090 -j ACCEPT"),
            Some("80/tcp"),
        ),
        (
            "more new ports than are accepted",
            "--dport 80 -j DNAT --to-destination 10.7.0.1:8080-8090",
            format!("{TO} 8080:8089 -j ACCEPT"),
            None,
        ),
        (
            "the port alone",
            "--dport 80 -j DNAT --to-destination :8080",
            "-A INPUT -p tcp --dport 8080 -j ACCEPT".to_owned(),
            Some("80/tcp"),
        ),
        (
            "the port of this host",
            "--dport 80 -j REDIRECT --to-ports 8080-8090",
            "-A INPUT -p tcp --dport 8080:8090 -j ACCEPT".to_owned(),
            Some("80/tcp"),
        ),
        (
            "some ports of this host",
            "--dport 80 -j REDIRECT --to-ports 8080-8090",
            "-A INPUT -p tcp --dport 8081:8090 -j ACCEPT".to_owned(),
            None,
        ),
        (
            "several ports",
            "-m multiport --dports 80,443,6000:7000 -j DNAT --to-destination 10.7.0.1",
            format!("{TO} 1:65535 -j ACCEPT"),
            Some("\"80/tcp\", \"443/tcp\", \"6000-7000/tcp\""),
        ),
        (
            "several ports, of which one is dropped",
            "--dport 6000:7000 -j DNAT --to-destination 10.7.0.1",
            format!("{TO} 6500 -j DROP\n{TO} 1:65535 -j ACCEPT"),
            Some("\"6000-6499/tcp\", \"6501-7000/tcp\""),
        ),
        (
            "of shifted ports, each may be the new one",
            "--dport 80 -j DNAT --to-destination 10.7.0.1:8080-8090/80",
            format!("{TO} 8080:8090 -j ACCEPT"),
            Some("\"80/tcp\""),
        ),
        (
            "and each must be accepted",
            "--dport 80 -j DNAT --to-destination 10.7.0.1:8080-8090/80",
            format!("{TO} 8080:8089 -j ACCEPT"),
            None,
        ),
    ] {
        let text = format!(
            "*nat\n:PREROUTING ACCEPT\n-A PREROUTING -p tcp {dnat}\nCOMMIT\n\
             *filter\n:INPUT DROP\n:FORWARD DROP\n-A INPUT -p udp --dport 53 -j ACCEPT\n\
             {forward}\nCOMMIT\n"
        );
        let family = Some(Family::V4);
        let file = File {
            name: "v4".into(),
            text,
            family,
        };
        let imported = import(std::slice::from_ref(&file), &Facts::default()).unwrap();
        let policy: String = imported.policy.split_whitespace().collect();
        let published = wanted.map(|ports| ports.replace(' ', ""));
        match published {
            Some(ports) => assert!(policy.contains(&ports), "{name}:\n{}", imported.policy),
            None => {
                let opens = policy.contains("80/tcp") || policy.contains("7000/tcp");
                assert!(!opens, "{name}:\n{}", imported.policy);
            }
        }
        let effort = Effort {
            packets: 2000,
            seed: 1,
        };
        assert_eq!(judge(&[file], effort).unwrap(), None, "{name}");
    }
}

#[test]
fn nftables_has_ranges_too() {
    let dnat = |address: Value, port: Value| {
        json!({"dnat": match port.is_null() {
            true => json!({"addr": address}),
            false => json!({"addr": address, "port": port}),
        }})
    };
    let range = json!({"range": ["10.7.0.1", "10.7.0.4"]});
    let prefix = |len: u8| json!({"prefix": {"addr": "10.7.0.0", "len": len}});
    for (name, dnat, is_open) in [
        ("addresses", dnat(range.clone(), json!(null)), true),
        ("and a port", dnat(range.clone(), json!(80)), true),
        ("and ports", dnat(range, json!({"range": [80, 90]})), false),
        ("a network", dnat(prefix(29), json!(null)), true),
        ("a larger network", dnat(prefix(28), json!(null)), false),
    ] {
        let net = matched("==", &field("ip", "daddr"), &prefix(29));
        let port = matched("==", &field("tcp", "dport"), &json!(80));
        let all = vec![
            chain("ip", "t", "dnat", Some(("nat", "prerouting", -100))),
            rule("ip", "t", "dnat", &json!([port, dnat])),
            chain("ip", "t", "here", Some(("filter", "input", 0))),
            chain("ip", "t", "on", Some(("filter", "forward", 0))),
            rule("ip", "t", "on", &json!([net, port, {"accept": null}])),
        ];
        let file = File {
            name: "nft".into(),
            text: json!({ "nftables": all }).to_string(),
            family: None,
        };
        let imported = import(&[file], &Facts::default()).unwrap();
        assert_eq!(
            imported.policy.contains("80/tcp"),
            is_open,
            "{name}:\n{imported}"
        );
    }
}

/// Of two programs that translate the same port, the kernel takes the one with the lower priority,
/// which iptables-save does not print.
#[test]
fn a_port_of_two_nat_tables_is_open_if_both_destinations_are() {
    let nat = |to: &str| {
        format!(
            "*nat\n:PREROUTING ACCEPT\n-A PREROUTING -p tcp --dport 80 -j DNAT \
             --to-destination {to}\nCOMMIT\n"
        )
    };
    let filter =
        "*filter\n:INPUT DROP\n:FORWARD DROP\n-A FORWARD -d 10.7.0.0/29 -j ACCEPT\nCOMMIT\n";
    let nft = |to: &str| {
        let port = matched("==", &field("tcp", "dport"), &json!(80));
        let dnat = json!([port, {"dnat": {"addr": to}}]);
        let all = vec![
            chain("ip", "t", "dnat", Some(("nat", "prerouting", -101))),
            rule("ip", "t", "dnat", &dnat),
        ];
        json!({ "nftables": all }).to_string()
    };
    let (open, closed) = ("10.7.0.1", "10.9.0.1");
    for (name, first, second, is_open) in [
        ("both open", nat(open), nat("10.7.0.2"), true),
        ("the second one closed", nat(open), nat(closed), false),
        ("the first one closed", nat(closed), nat(open), false),
        ("nftables, open", nat(open), nft(open), true),
        ("nftables, closed", nat(open), nft(closed), false),
        ("beside nftables, closed", nat(closed), nft(open), false),
    ] {
        let of = |name: &str, text: String| File {
            name: name.into(),
            family: Some(Family::V4).filter(|_| !text.starts_with('{')),
            text,
        };
        let files = [of("first", first + filter), of("second", second)];
        let mut readings = Readings::default();
        readings.is_live = true;
        let options = Options::default();
        let imported = import_read(&files, &Facts::default(), options, &readings).unwrap();
        let policy = &imported.policy;
        assert_eq!(policy.contains("80/tcp"), is_open, "{name}:\n{policy}");
    }
}
