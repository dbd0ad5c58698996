//! `peerwall denied`: what it lists was denied by the kernel, with an agent and without, by both
//! backends, during a flood, and beside ulogd.
//!
//! `PEERWALL_FLOOD` sets for how many seconds packets are sent in the flood.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

mod flood;
mod ulogd;

use std::fs;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use peerwall_integration::net::{bridge, enslave, wire};
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::probe::{self, IMPATIENCE};
use peerwall_integration::situation::{Lan, cni0, datagram, mac, pod, send};
use serde_json::Value;

/// What has to come comes by then.
const PATIENCE: Duration = Duration::from_secs(15);
/// Path of the policy of each world.
const POLICY: &str = "/run/policy.toml";

const RULES: &str = "version = 1
[peers]
worker = \"192.0.2.12\"
[groups]
office = [\"192.0.2.99\"]
[overlay.flannel]
backend = \"vxlan\"
subnets = [\"10.244.0.0/16\"]
";

/// A running program; killed when it goes out of scope.
struct Running(Child);

impl Running {
    /// Starts an agent, and waits until it has loaded the rules.
    fn agent(host: &Host, args: &[&str]) -> Self {
        let mut command = host.command(peerwall_bin());
        command.args(["run", POLICY]).args(args);
        let agent = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let agent = Self(agent.unwrap());
        let is_in_sync = || {
            let status = host.peerwall(&["status", "--json", "/nowhere"]);
            let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
            !status["agent"]["in_sync_seconds"].is_null()
        };
        wait_for(is_in_sync, "the first apply");
        agent
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(done: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}{errors}"))
}

fn denied(host: &Host, args: &[&str]) -> Value {
    let output = host.peerwall(&[&["denied", "--json"], args].concat());
    assert!(output.status.success(), "{:?}", json(&output));
    json(&output)
}

fn text(host: &Host, args: &[&str]) -> String {
    host.peerwall_ok(&[&["denied"], args].concat())
}

/// The row with these values.
fn row(found: &Value, values: &[(&str, &str)]) -> Option<Value> {
    let mut rows = found["rows"].as_array().unwrap().iter();
    let has = |row: &&Value| values.iter().all(|(key, value)| row[*key] == *value);
    rows.find(has).cloned()
}

/// A node with the pods of two overlays, only one of which is declared, and a stranger.
struct Site {
    node: Host,
    stranger: Host,
    pod: Host,
    undeclared: Host,
}

impl Site {
    fn new() -> Self {
        let lan = Lan::new();
        let (node, stranger) = (lan.join("node", 11), lan.join("stranger", 99));
        cni0(&node, 1);
        let pod = pod(&node, 1, 2);
        bridge(&node, "cbr0", &["10.99.0.1/24"]);
        let undeclared = Host::new("undeclared");
        wire(&undeclared, "eth0", &["10.99.0.7/24"], &node, "v99", &[]);
        enslave(&node, "v99", "cbr0");
        undeclared.sh("ip route add default via 10.99.0.1");
        stranger.sh("ip route add 10.244.1.0/24 via 192.0.2.11");
        probe::tcp_server(&node, "0.0.0.0:9100");
        fs::write(POLICY, RULES).unwrap();
        Self {
            node,
            stranger,
            pod,
            undeclared,
        }
    }

    /// Sends packets of every kind that the node denies.
    fn send(&self) {
        let refused = |from: &Host, to: &str| {
            let answer = probe::tcp(from, to, Duration::from_millis(30));
            assert_eq!(answer, None, "{} to {to}", from.name);
        };
        refused(&self.stranger, "192.0.2.11:9100");
        refused(&self.stranger, "10.244.1.2:5432");
        refused(&self.stranger, "192.0.2.11:8080");
        refused(&self.undeclared, "10.99.0.1:9100");
        let spoofed = datagram("10.244.1.9", "192.0.2.11", 53, b"x");
        send(&self.stranger, "eth0", mac(11), &spoofed);
    }
}

/// Values of rows, by the name of the case.
const SEEN: [(&str, &[(&str, &str)]); 5] = [
    (
        "a closed port",
        &[
            ("reason", "input-default"),
            ("source", "192.0.2.99"),
            ("port", "9100/tcp"),
            ("interface", "eth0"),
            ("hook", "input"),
        ],
    ),
    (
        "a forwarded packet",
        &[
            ("reason", "forward-default"),
            ("source", "192.0.2.99"),
            ("port", "5432/tcp"),
            ("out", "cni0"),
            ("destination", "10.244.1.2"),
        ],
    ),
    (
        "a published port",
        &[
            ("reason", "forward-default"),
            ("port", "80/tcp"),
            ("destination", "10.244.1.2"),
        ],
    ),
    (
        "a pod of an undeclared overlay",
        &[
            ("reason", "input-default"),
            ("source", "10.99.0.7"),
            ("interface", "cbr0"),
        ],
    ),
    (
        "a spoofed source",
        &[
            ("reason", "overlay-spoof"),
            ("source", "10.244.1.9"),
            ("port", "53/udp"),
        ],
    ),
];

#[test]
fn what_the_kernel_denied_is_listed_by_both_backends() {
    world(|| {
        let site = Site::new();
        let node = &site.node;
        node.sh("nft add table ip published");
        node.sh("nft 'add chain ip published first { type nat hook prerouting priority -100 ; }'");
        node.sh("nft add rule ip published first tcp dport 8080 dnat to 10.244.1.2:80");
        for backend in ["nft", "iptables"] {
            let agent = Running::agent(node, &["--backend", backend]);
            site.send();
            // The kernel keeps packets for a moment, and others may come.
            let ask = || denied(node, &["--since", "1m", "--limit", "0"]);
            let is_complete = |found: &Value| {
                let reasons = found["reasons"].as_array().unwrap();
                let is_recorded = |each: &Value| each["recorded"] == each["denied_in_all"];
                let is_listed = |values| row(found, values).is_some();
                reasons.iter().all(is_recorded) && SEEN.iter().all(|each| is_listed(each.1))
            };
            let (start, mut found) = (Instant::now(), ask());
            while !is_complete(&found) && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(20));
                found = ask();
            }
            for (case, values) in SEEN {
                let is_listed = row(&found, values).is_some();
                assert!(is_listed, "{backend}: {case}: {found:#}");
            }
            assert_eq!(found["reader"], "agent", "{found:#}");
            // Everything was logged, and the counters of the rules agree.
            assert!(is_complete(&found), "{backend}: {found:#}");
            names_and_suggestions(node, &found);
            groups(node);
            is_as_described(node, &found);
            drop(agent);
            node.peerwall_ok(&["remove", "--backend", backend]);
        }
        assert!(probe::ping(&site.pod, "10.244.1.1", PATIENCE));
    });
}

fn names_and_suggestions(node: &Host, found: &Value) {
    let stranger = row(found, SEEN[0].1).unwrap();
    let office = (
        &stranger["resembles"]["kind"],
        &stranger["resembles"]["name"],
    );
    assert_eq!(office, (&"group".into(), &"office".into()));
    let me = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(stranger["process"], me.trim(), "this test listens");
    let pod = row(found, SEEN[3].1).unwrap();
    assert_eq!(pod["resembles"]["kind"], "undeclared_pod");
    let toml = pod["fixes"][0]["toml"].as_str().unwrap();
    assert!(toml.contains("10.99.0.0/16"), "{toml}");
    let published = row(found, SEEN[2].1).unwrap();
    // Kernels without CONFIG_NETFILTER_NETLINK_GLUE_CT do not send the original destination.
    let (dialled, port) = match published["dialled"].as_str() {
        Some(dialled) => (dialled, "8080/tcp"),
        None => ("of 10.244.1.2", "80/tcp"),
    };
    let toml = published["fixes"][0]["toml"].as_str().unwrap();
    assert!(toml.contains(&format!("ports = [\"{port}\"]")), "{toml}");
    let spoofed = row(found, SEEN[4].1).unwrap();
    assert_eq!(spoofed["resembles"]["name"], "flannel");
    let printed = text(node, &[]);
    for part in [
        "10.99.0.7 on cbr0",
        "looks like a pod of no declared overlay",
        dialled,
        "add to the policy:\n    [overlay.pods]",
    ] {
        assert!(printed.contains(part), "{part}\n{printed}");
    }
}

/// Checks JSON against its schema, in which every field is described.
fn is_as_described(node: &Host, found: &Value) {
    let mut schema: Value = serde_json::from_str(&node.peerwall_ok(&["schema", "denied"])).unwrap();
    strict(&mut schema);
    let validator = jsonschema::validator_for(&schema).unwrap();
    if let Err(err) = validator.validate(found) {
        panic!("{err}\n{found:#}");
    }
}

fn strict(schema: &mut Value) {
    if let Value::Object(table) = schema {
        if table.contains_key("properties") {
            table.insert("additionalProperties".to_owned(), false.into());
        }
        table.values_mut().for_each(strict);
    } else if let Value::Array(list) = schema {
        list.iter_mut().for_each(strict);
    }
}

fn groups(node: &Host) {
    for (by, values, sources) in [
        ("source", vec![("source", "192.0.2.99")], 1),
        ("port", vec![("port", "9100/tcp")], 2),
        ("reason", vec![("reason", "input-default")], 2),
        ("interface", vec![("interface", "cbr0")], 1),
    ] {
        let found = denied(node, &["--by", by]);
        let row = row(&found, &values).unwrap_or_else(|| panic!("{by}: {found:#}"));
        assert_eq!(row["sources"], sources, "{by}: {found:#}");
    }
    let found = denied(node, &["--limit", "1"]);
    let rows = found["rows"].as_array().unwrap().len();
    assert!(
        rows == 1 && found["left_off"].as_u64().unwrap() >= 4,
        "{found:#}"
    );
}

#[test]
fn packets_are_followed_and_old_ones_are_not_repeated() {
    world(|| {
        let site = Site::new();
        let node = &site.node;
        let agent = Running::agent(node, &[]);
        let knock =
            |port: u16| probe::tcp(&site.stranger, &format!("192.0.2.11:{port}"), IMPATIENCE);
        knock(1001);
        wait_for(|| text(node, &[]).contains("1001/tcp"), "the record");
        let log = fs::File::create("/run/followed").unwrap();
        let mut command = node.command(peerwall_bin());
        command.args(["denied", "--follow"]).stdout(log);
        let mut follower = Running(command.spawn().unwrap());
        let lines = || fs::read_to_string("/run/followed").unwrap();
        let start = Instant::now();
        while !lines().contains("1002/tcp") {
            assert!(start.elapsed() < PATIENCE, "{}", lines());
            knock(1002);
        }
        assert!(!lines().contains("1001/tcp"), "{}", lines());
        node.sh(&format!("kill -INT {}", follower.0.id()));
        assert!(follower.0.wait().unwrap().success());
        // The record survives a changed policy, and another group.
        fs::write(
            POLICY,
            format!("{RULES}[log]\ndenied = {{ group = 6, prefix = \"other\" }}\n"),
        )
        .unwrap();
        node.peerwall_ok(&["reload"]);
        knock(1003);
        wait_for(|| text(node, &[]).contains("1003/tcp"), "the record");
        assert!(text(node, &[]).contains("1001/tcp"));
        fs::write(POLICY, format!("{RULES}[log]\ndenied = false\n")).unwrap();
        node.peerwall_ok(&["reload"]);
        let groups = node.sh("cat /proc/net/netfilter/nfnetlink_log");
        assert_eq!(groups, "", "no group is read if none is logged to");
        assert_eq!(denied(node, &[])["reader"], "off");
        drop(agent);
    });
}

#[test]
fn without_an_agent_the_command_listens_or_says_why_it_cannot() {
    world(|| {
        let site = Site::new();
        let node = &site.node;
        node.peerwall_ok(&["apply", POLICY]);
        let listen = |time| ["denied", "--json", "--policy", POLICY, "--listen", time];
        let mut command = node.command(peerwall_bin());
        command.args(listen("1s")).stdout(Stdio::piped());
        let listening = command.spawn().unwrap();
        let group = "cat /proc/net/netfilter/nfnetlink_log";
        wait_for(|| node.sh(group).contains("    5 "), "the reader");
        // A second reader is told who the first one is.
        let output = node.peerwall(&listen("1s"));
        let error = json(&output)["error"].clone();
        assert_eq!(
            (output.status.code(), &error["code"]),
            (Some(2), &"log-taken".into())
        );
        let holder = format!("(pid {})", listening.id());
        assert!(
            error["message"].as_str().unwrap().contains(&holder),
            "{error}"
        );
        site.send();
        let found = json(&listening.wait_with_output().unwrap());
        assert_eq!(found["reader"], "command");
        assert!(row(&found, SEEN[0].1).is_some(), "{found:#}");
        assert_eq!(found["reasons"][0]["not_recorded"], 0, "{found:#}");
        // An agent that leaves the group to others.
        let agent = Running::agent(node, &["--no-denied"]);
        assert_eq!(node.sh(group), "");
        let output = node.peerwall(&["denied", "--json", "--listen", "1s"]);
        assert_eq!(json(&output)["reader"], "command");
        drop(agent);
        fs::write(POLICY, format!("{RULES}[log]\ndenied = false\n")).unwrap();
        let output = node.peerwall(&listen("1s"));
        let error = json(&output)["error"].clone();
        assert_eq!(
            (output.status.code(), &error["code"]),
            (Some(2), &"log-off".into())
        );
    });
}
