//! `peerwall trace`: what it tells is what the kernel did.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use peerwall_integration::ns::{Host, world};
use peerwall_integration::probe::{self, IMPATIENCE, PATIENCE};
use peerwall_integration::situation::Lan;
use serde_json::Value;

const POLICY: &str = r#"version = 1
[peers]
peer = "192.0.2.12"
[[allow]]
name = "web"
ports = ["80/tcp"]
from = "any"
"#;

/// Starts a trace, and waits until the kernel has its table.
fn start(node: &Host, args: &[&str]) -> Child {
    let mut command = node.command(peerwall_integration::ns::peerwall_bin());
    command
        .args(["trace", "--policy", "/run/policy.toml"])
        .args(args);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    while !has_table(node) {
        assert!(Instant::now() < until, "no table of the trace");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn has_table(node: &Host) -> bool {
    node.sh("nft list tables").contains("peerwall-trace-")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn each_rule_that_a_packet_meets_is_told() {
    world(|| {
        let lan = Lan::new();
        let (node, peer, stranger) = (
            lan.join("node", 11),
            lan.join("peer", 12),
            lan.join("x", 99),
        );
        for port in [80, 22] {
            probe::tcp_server(&node, &format!("0.0.0.0:{port}"));
        }
        fs::write("/run/policy.toml", POLICY).unwrap();
        node.peerwall_ok(&["apply", "/run/policy.toml"]);
        node.sh("iptables-nft -A INPUT -s 192.0.2.12 -p tcp --dport 22 -j DROP");

        // A stranger's packet, denied by the policy.
        let trace = start(&node, &["--from", "192.0.2.99", "--port", "22/tcp"]);
        assert!(probe::tcp(&stranger, "192.0.2.11:22", IMPATIENCE).is_none());
        let output = trace.wait_with_output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for wanted in [
            "packet 1 dropped: 22/tcp from 192.0.2.99 on eth0 to 192.0.2.11",
            "inet peerwall prerouting: policy accept",
            "inet peerwall input: goto input-default",
            "inet peerwall input-default: drop; counter name \"input-default\" drop",
        ] {
            assert!(said.contains(wanted), "no {wanted}\n{said}");
        }
        assert!(!said.contains("peerwall-trace-"), "{said}");
        assert!(!has_table(&node));

        // A packet that peerwall accepts, and iptables drops.
        let trace = start(
            &node,
            &["--from", "192.0.2.12", "--port", "22/tcp", "--json"],
        );
        assert!(probe::tcp(&peer, "192.0.2.11:22", IMPATIENCE).is_none());
        let output = trace.wait_with_output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["outcome"], "denied", "{found:#}");
        let steps = found["packets"][0]["steps"].as_array().unwrap();
        let ours = steps
            .iter()
            .find(|step| step["place"] == "/run/policy.toml:3");
        let ours = ours.or(steps.iter().find(|step| step["verdict"] == "accept"));
        assert_eq!(ours.unwrap()["table"], "peerwall", "{found:#}");
        let last = steps.last().unwrap();
        assert_eq!(last["verdict"], "drop", "{found:#}");
        let rule = last["rule"].as_str().unwrap();
        assert!(
            rule.starts_with("-A INPUT -s 192.0.2.12/32 -p tcp"),
            "{rule}"
        );

        // The policy's line of an accepted packet; several packets.
        let trace = start(
            &node,
            &["--port", "80/tcp", "--to", "192.0.2.11", "--count", "2"],
        );
        assert!(probe::tcp(&stranger, "192.0.2.11:80", PATIENCE).is_some());
        let output = trace.wait_with_output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("packet 2 accepted: 80/tcp"), "{said}");
        // The connection has more packets.
        assert!(!said.contains("packet 3"), "{said}");
        assert!(
            said.contains("(/run/policy.toml:5)") || said.contains("(/run/policy.toml:4)"),
            "{said}"
        );

        // A packet of this host.
        let args = [
            "trace",
            "--send",
            "--to",
            "192.0.2.12",
            "--port",
            "9/udp",
            "--policy",
            "/run/policy.toml",
        ];
        let output = node.peerwall(&args);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(
            said.contains("9/udp from 192.0.2.11 from here to 192.0.2.12 by eth0"),
            "{said}"
        );
    });
}

#[test]
fn a_trace_leaves_nothing_behind_and_says_what_it_cannot_do() {
    world(|| {
        let node = Lan::new().join("node", 11);
        fs::write("/run/policy.toml", POLICY).unwrap();
        // The kernel deletes the table of a killed process; a name of an ended one is swept.
        let mut trace = start(&node, &["--port", "80/tcp"]);
        trace.kill().unwrap();
        trace.wait().unwrap();
        let until = Instant::now() + PATIENCE;
        while has_table(&node) {
            assert!(
                Instant::now() < until,
                "the table of a killed trace is still there"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        node.sh("nft add table inet peerwall-trace-4194303; nft add table inet peerwall-trace-x");
        let none = node.peerwall(&["trace", "--port", "80/tcp", "--for", "1s"]);
        let said = String::from_utf8_lossy(&none.stderr).into_owned();
        assert_eq!(none.status.code(), Some(2), "{said}");
        assert!(said.contains("no such packet came"), "{said}");
        let tables = node.sh("nft list tables");
        assert!(
            !tables.contains("4194303") && tables.contains("peerwall-trace-x"),
            "{tables}"
        );
        for (args, wanted) in [
            (&["trace"][..], "say which packets"),
            (
                &["trace", "--from", "::1", "--to", "192.0.2.1"],
                "different families",
            ),
            (&["trace", "--port", "1-5/tcp"], "more than one port"),
            (
                &["trace", "--send", "--to", "192.0.2.1"],
                "--send needs --port",
            ),
            (&["trace", "--icmp", "nonsense"], "no type of ICMP"),
        ] {
            let output = node.peerwall(args);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{args:?} {said}");
            assert!(said.contains(wanted), "{args:?} {said}");
        }
        assert!(
            !node
                .sh("nft list tables")
                .contains(&format!("trace-{}", std::process::id()))
        );
    });
}

/// The same packets have the same lines of the policy with every backend.
#[test]
fn rules_of_the_iptables_backend_are_those_of_the_policy_too() {
    world(|| {
        let lan = Lan::new();
        let (node, stranger) = (lan.join("node", 11), lan.join("x", 99));
        probe::tcp_server(&node, "0.0.0.0:80");
        let policy = "/run/policy.toml";
        fs::write(policy, POLICY).unwrap();
        let explain = |from: &str, port: &str| -> Value {
            let to = ["--to", "192.0.2.11", "--port", port, "--interface", "eth0"];
            let args = [
                "explain", "--live", "--json", "--policy", policy, "--from", from,
            ];
            let output = node.peerwall(&[&args[..], &to[..]].concat());
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let packets = [
            ("192.0.2.99", "80/tcp"),
            ("192.0.2.12", "22/tcp"),
            ("192.0.2.99", "22/tcp"),
        ];
        let explained = || -> Vec<(Value, Value, Value)> {
            let found = packets.iter().map(|(from, port)| {
                let found = explain(from, port);
                let way = &found["ways"][0];
                assert_eq!(found["ways"].as_array().unwrap().len(), 1, "{found:#}");
                (
                    found["outcome"].clone(),
                    way["place"].clone(),
                    found["fixes"].clone(),
                )
            });
            found.collect()
        };
        node.peerwall_ok(&["apply", "--backend", "nft", policy]);
        let want = explained();
        assert!(want[0].1.is_string() && want[1].1.is_string(), "{want:?}");
        assert_eq!(want[2].0, "denied");
        node.peerwall_ok(&["remove"]);
        for suffix in ["nft", "legacy"] {
            // Rules of others in one iptables, so that it is the one that is chosen.
            node.sh(&format!(
                "iptables-{suffix} -A INPUT -p tcp --dport 7 -j DROP"
            ));
            node.peerwall_ok(&["apply", "--backend", "iptables", policy]);
            assert_eq!(explained(), want, "iptables-{suffix}");
            let args = [
                "explain",
                "--live",
                "--policy",
                policy,
                "--from",
                "192.0.2.99",
            ];
            let to = [
                "--to",
                "192.0.2.11",
                "--port",
                "22/tcp",
                "--interface",
                "eth0",
            ];
            let said = text(&node.peerwall(&[&args[..], &to[..]].concat()));
            let headline = said.lines().next().unwrap();
            assert!(headline.contains("not allowed by the policy"), "{said}");
            if suffix == "nft" {
                // The kernel traces these rules, but not those of iptables-legacy.
                let trace = start(&node, &["--from", "192.0.2.99", "--port", "80/tcp"]);
                assert!(probe::tcp(&stranger, "192.0.2.11:80", PATIENCE).is_some());
                let said = text(&trace.wait_with_output().unwrap());
                let place = want[0].1.as_str().unwrap();
                assert!(said.contains(place), "{place}: {said}");
            }
            node.peerwall_ok(&["remove"]);
            node.sh(&format!("iptables-{suffix} -F"));
        }
    });
}
