//! `peerwall explain` and what `peerwall plan` says of packets, against packets in the kernel.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use peerwall_integration::ns::{Host, world};
use peerwall_integration::probe::{self, IMPATIENCE, PATIENCE};
use peerwall_integration::situation::{Lan, cni0, pod};
use serde_json::Value;

const POLICY: &str = r#"version = 1
[peers]
peer = ["192.0.2.12", "2001:db8:49::12"]
[[allow]]
name = "web"
ports = ["80/tcp", "53/udp"]
from = "any"
[log]
denied = false
"#;

fn write(policy: &str) -> &'static str {
    let path = "/run/policy.toml";
    fs::write(path, policy).unwrap();
    path
}

/// A program that writes lines to a file until this is dropped.
struct Watching(Child, &'static str);

impl Watching {
    fn start(host: &Host, program: &str, args: &[&str], path: &'static str) -> Self {
        let mut command = host.command(program);
        command.args(args).stdout(fs::File::create(path).unwrap());
        Self(command.stderr(Stdio::null()).spawn().unwrap(), path)
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.1).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A request from a machine to the node.
struct Flow {
    /// Source, and what the lines of nft and conntrack say of the destination.
    source: &'static str,
    by_nft: &'static str,
    by_conntrack: &'static str,
    passed: bool,
}

/// Sends requests of all kinds.
fn flows(hosts: [&Host; 2]) -> Vec<Flow> {
    let mut flows = Vec::new();
    let sources = [
        ["192.0.2.12", "2001:db8:49::12"],
        ["192.0.2.99", "2001:db8:49::99"],
    ];
    for (host, sources) in hosts.into_iter().zip(sources) {
        for (source, node) in sources.into_iter().zip(["192.0.2.11", "[2001:db8:49::11]"]) {
            let mut add = |by_nft, by_conntrack, passed| {
                flows.push(Flow {
                    source,
                    by_nft,
                    by_conntrack,
                    passed,
                });
            };
            let tcp =
                |port: &str| probe::tcp(host, &format!("{node}:{port}"), IMPATIENCE).is_some();
            let udp = |port: &str| probe::udp(host, &format!("{node}:{port}"), IMPATIENCE);
            add("tcp dport 80 ", "dport=80 ", tcp("80"));
            add("tcp dport 9100 ", "dport=9100 ", tcp("9100"));
            add("udp dport 53 ", "dport=53 ", udp("53"));
            add("udp dport 9101 ", "dport=9101 ", udp("9101"));
            let name = node.trim_matches(['[', ']']);
            let ping = probe::ping(host, name, IMPATIENCE);
            add("type echo-request ", "type=", ping);
        }
    }
    flows
}

#[test]
fn lines_of_nft_and_conntrack_are_explained_as_the_kernel_decided() {
    world(|| {
        let lan = Lan::new();
        let (node, peer, stranger) = (
            lan.join("node", 11),
            lan.join("peer", 12),
            lan.join("stranger", 99),
        );
        for port in [80, 9100] {
            probe::tcp_server(&node, &format!("[::]:{port}"));
        }
        for port in [53, 9101] {
            probe::udp_server(&node, &format!("[::]:{port}"));
        }
        let policy = write(POLICY);
        node.peerwall_ok(&["apply", policy]);
        node.sh("nft add table inet traced");
        node.sh(
            "nft 'add chain inet traced first { type filter hook prerouting priority -400 ; }'",
        );
        node.sh("nft add rule inet traced first meta nftrace set 1");
        let traced = Watching::start(&node, "nft", &["monitor", "trace"], "/run/traced");
        let events = Watching::start(&node, "conntrack", &["-E", "-e", "NEW"], "/run/events");
        wait_for_a_line(&node, &peer, &traced, &events);
        let flows = flows([&peer, &stranger]);
        std::thread::sleep(Duration::from_millis(300));
        let explain = |line: &str| {
            let output = node.peerwall(&["explain", "--policy", policy, line]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code(), text)
        };
        // The drops of another firewall are named where the packet would meet them.
        node.sh("nft 'add chain inet traced last { type filter hook input priority 10 ; policy drop ; }'");
        let (code, text) = explain("IN=eth0 OUT= SRC=192.0.2.12 DST=192.0.2.11 PROTO=2");
        assert_eq!(code, Some(0), "{text}");
        assert!(
            text.contains("also    inet traced last (nftables): its policy is drop"),
            "{text}"
        );
        let (traced, events) = (traced.lines(), events.lines());
        for flow in &flows {
            let wanted = if flow.passed { 0 } else { 1 };
            let is_of = |line: &&String| {
                line.contains("inet peerwall input packet:")
                    && line.contains(&format!("saddr {} ", flow.source))
                    && format!("{line} ").contains(flow.by_nft)
            };
            let line = traced.iter().find(is_of);
            let line =
                line.unwrap_or_else(|| panic!("{} {}: {traced:#?}", flow.source, flow.by_nft));
            let (code, text) = explain(line);
            assert_eq!(code, Some(wanted), "{line}\n{text}");
            assert!(text.contains(" on eth0 to "), "{line}\n{text}");
            // Connections that are dropped are never confirmed, and cause no event.
            let is_of = |line: &&String| {
                line.contains(&format!("src={} ", flow.source)) && line.contains(flow.by_conntrack)
            };
            let event = events.iter().find(is_of);
            assert_eq!(
                event.is_some(),
                flow.passed,
                "{} {}",
                flow.source,
                flow.by_nft
            );
            if let Some(line) = event {
                assert_eq!(explain(line).0, Some(0), "{line}");
            }
        }
        let passed = flows.iter().filter(|flow| flow.passed).count();
        assert_eq!((flows.len(), passed), (20, 14));
    });
}

/// Sends packets until both programs have written a line.
fn wait_for_a_line(node: &Host, peer: &Host, traced: &Watching, events: &Watching) {
    let until = Instant::now() + PATIENCE;
    while traced.lines().is_empty() || events.lines().is_empty() {
        assert!(
            Instant::now() < until,
            "nft monitor and conntrack -E are silent on {}",
            node.name
        );
        probe::udp(peer, "192.0.2.11:9", Duration::from_millis(50));
    }
}

#[test]
fn what_plan_says_opens_and_closes_is_what_packets_meet() {
    world(|| {
        let lan = Lan::new();
        let (node, stranger) = (lan.join("node", 11), lan.join("stranger", 99));
        for port in [80, 9100] {
            probe::tcp_server(&node, &format!("0.0.0.0:{port}"));
        }
        let open =
            |port: u16| probe::tcp(&stranger, &format!("192.0.2.11:{port}"), IMPATIENCE).is_some();
        let policy = write(POLICY);
        let first = node.peerwall(&["plan", "--exit-if-wider", policy]);
        assert_eq!(
            first.status.code(),
            Some(1),
            "without rules, nothing can be opened"
        );
        node.peerwall_ok(&["apply", policy]);
        assert_eq!((open(80), open(9100)), (true, false));
        write(&POLICY.replace("80/tcp", "9100/tcp"));
        let plan = node.peerwall(&["plan", "--exit-if-wider", policy]);
        let text = String::from_utf8_lossy(&plan.stdout).into_owned();
        assert_eq!(plan.status.code(), Some(3), "{text}");
        for line in [
            "newly open: 9100/tcp from any source except peer (192.0.2.12) to this host",
            "no longer open: 80/tcp from any source except peer (192.0.2.12) to this host",
        ] {
            assert!(text.contains(line), "{text}");
        }
        node.peerwall_ok(&["apply", policy]);
        assert_eq!((open(80), open(9100)), (false, true));
        // A rule that another program added counts as loaded.
        node.sh("nft insert rule inet peerwall input tcp dport 80 accept");
        assert!(open(80));
        let plan = node.peerwall(&["plan", "--exit-if-wider", policy]);
        let text = String::from_utf8_lossy(&plan.stdout).into_owned();
        assert_eq!(plan.status.code(), Some(1), "{text}");
        assert!(text.contains("no longer open: 80/tcp from any"), "{text}");
    });
}

#[test]
fn what_is_exposed_is_what_a_stranger_reaches() {
    world(|| {
        let lan = Lan::new();
        let (node, stranger) = (lan.join("node", 11), lan.join("stranger", 99));
        let ports = [22_u16, 80, 443, 9100];
        for port in ports {
            probe::tcp_server(&node, &format!("0.0.0.0:{port}"));
        }
        let policy = write(&format!(
            "{POLICY}\n[[allow]]\nname = \"tls\"\nports = [\"443/tcp\", \"8443/tcp\"]\n\
             from = [\"192.0.2.99\"]\n[[allow]]\nname = \"ssh\"\nports = [\"22/tcp\"]\n\
             from = [\"192.0.2.98\"]\n"
        ));
        node.peerwall_ok(&["apply", policy]);
        let printed = node.peerwall_ok(&["exposed", "--json", policy]);
        let found: Value = serde_json::from_str(&printed).unwrap();
        let services = found["services"].as_array().unwrap();
        assert_eq!(services.len(), ports.len(), "{found:#}");
        for (port, wanted) in ports.into_iter().zip([false, true, true, false]) {
            let name = format!("{port}/tcp");
            let service = services
                .iter()
                .find(|each| each["port"] == name.as_str())
                .unwrap();
            let reaches = |each: &Value| {
                let message = each["message"].as_str().unwrap();
                each["is_anybody"] == true || message.contains("192.0.2.99")
            };
            let told = service["from"].as_array().unwrap().iter().any(reaches)
                || service["from"]
                    .to_string()
                    .contains("any source except peer");
            let open = probe::tcp(&stranger, &format!("192.0.2.11:{port}"), IMPATIENCE);
            assert_eq!(
                (told, open.is_some()),
                (wanted, wanted),
                "{name}: {found:#}"
            );
        }
        let unused: Vec<&str> = found["unused"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|each| each["port"].as_str())
            .collect();
        assert_eq!(unused, ["53/udp", "8443/tcp"], "{found:#}");
        let text = node.peerwall_ok(&["exposed", policy]);
        assert!(
            text.contains("9100/tcp") && text.contains("closed"),
            "{text}"
        );
    });
}

/// Ports that the policy opens, and ports beside them that the same rules publish.
const PUBLISHED: &str = r#"version = 1
[overlay.flannel]
backend = "vxlan"
subnets = ["10.244.0.0/16"]
[[allow]]
name = "published"
ports = ["8080/tcp", "30080/tcp", "9000/tcp", "7005/tcp", "5000/tcp"]
from = "any"
"#;

/// Rules as Docker, kube-proxy and administrators load them.
fn publish(node: &Host) {
    node.sh("iptables -t nat -N DOCKER; \
         iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; \
         for p in 8080 8081; do iptables -t nat -A DOCKER ! -i cni0 -p tcp --dport $p \
         -j DNAT --to-destination 10.244.1.2:80; done");
    node.sh("iptables-legacy-restore <<END
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp --dport 443 -j KUBE-SVC-A
-A KUBE-SERVICES -d 10.96.0.2/32 -p tcp --dport 443 -j KUBE-SVC-A
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-SVC-A
-A KUBE-NODEPORTS -p tcp --dport 30081 -j KUBE-SVC-A
-A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-A
-A KUBE-SVC-A -j KUBE-SEP-B
-A KUBE-SEP-A -p tcp -j DNAT --to-destination 10.244.1.2:80
-A KUBE-SEP-B -p tcp -j DNAT --to-destination 10.244.1.3:80
COMMIT
END");
    node.sh("nft -f - <<END
table ip own {
    map ports {
        type inet_service : verdict
        elements = { 9000 : goto web, 9001 : goto web }
    }
    chain pre {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local tcp dport vmap @ports
        iifname eth0 tcp dport 7000-7009 dnat to 10.244.1.2
    }
    chain web { meta l4proto tcp dnat to 10.244.1.2:80; }
}
END");
}

/// The entry of `exposed` with a published TCP port.
fn published_at(found: &Value, port: u16) -> Option<&Value> {
    let has = |each: &&Value| {
        let name = each["port"].as_str().unwrap();
        let (range, protocol) = name.split_once('/').unwrap();
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: u16 = first.parse().unwrap();
        protocol == "tcp" && (first..=last.parse().unwrap()).contains(&port)
    };
    found["published"].as_array().unwrap().iter().find(has)
}

#[test]
fn published_ports_are_reached_as_told() {
    world(|| {
        let lan = Lan::new();
        let (node, stranger) = (lan.join("node", 11), lan.join("stranger", 99));
        cni0(&node, 1);
        for number in [2, 3] {
            let pod = pod(&node, 1, number);
            probe::tcp_server(&pod, &format!("10.244.1.{number}:80"));
            for port in [7004, 7005] {
                probe::tcp_server(&pod, &format!("10.244.1.{number}:{port}"));
            }
        }
        let policy = write(PUBLISHED);
        node.peerwall_ok(&["apply", policy]);
        publish(&node);
        let examine = || -> Value {
            let printed = node.peerwall_ok(&["exposed", "--json", policy]);
            serde_json::from_str(&printed).unwrap()
        };
        let reaches =
            |port: u16, wait| probe::tcp(&stranger, &format!("192.0.2.11:{port}"), wait).is_some();
        let found = examine();
        let of = |port: u16| published_at(&found, port);
        for (port, publisher, state) in [
            (8080, "docker", "reached"),
            (8081, "docker", "closed"),
            (30080, "kube-proxy", "reached"),
            (30081, "kube-proxy", "closed"),
            (9000, "other", "reached"),
            (9001, "other", "closed"),
            (7005, "other", "reached"),
            (7004, "other", "closed"),
        ] {
            let entry = of(port).unwrap_or_else(|| panic!("{port}: {found:#}"));
            let told = (entry["publisher"].as_str(), entry["state"].as_str());
            assert_eq!(told, (Some(publisher), Some(state)), "{port}: {found:#}");
            let is_open = state == "reached";
            let wait = if is_open { PATIENCE } else { IMPATIENCE };
            assert_eq!(reaches(port, wait), is_open, "{port}: {found:#}");
        }
        assert!(of(8082).is_none() && of(7010).is_none(), "{found:#}");
        let both = of(30080).unwrap()["to"].as_array().unwrap();
        assert_eq!(both.len(), 2, "{found:#}");
        let services = found["service_addresses"].as_array().unwrap();
        assert_eq!(services.len(), 1, "{found:#}");
        assert_eq!(
            (&services[0]["count"], &services[0]["state"]),
            (&2.into(), &"closed".into())
        );
        let unused = found["unused"].as_array().unwrap();
        assert_eq!(unused.len(), 1, "{found:#}");
        assert_eq!(unused[0]["port"], "5000/tcp");
        let text = node.peerwall_ok(&["exposed", policy]);
        for line in [
            "published by Docker, closed",
            "open in the policy, nobody listens",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        // Docker drops what it does not know.
        node.sh("iptables -P FORWARD DROP");
        let found = examine();
        let states: Vec<&str> = found["published"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|each| each["port"] == "8080/tcp")
            .map(|each| each["state"].as_str().unwrap())
            .collect();
        assert_eq!(states, ["dropped"], "{found:#}");
        assert!(!reaches(8080, IMPATIENCE));
    });
}

/// The same for IPv6, with DNAT by nftables and by ip6tables.
#[test]
fn ports_published_for_ipv6_are_reached_as_told() {
    world(|| {
        let lan = Lan::new();
        let (node, stranger) = (lan.join("node", 11), lan.join("stranger", 99));
        cni0(&node, 1);
        let pod = pod(&node, 1, 2);
        probe::tcp_server(&pod, "[::]:80");
        let to = "[2001:db8:244:1::2]:80";
        node.sh(&format!(
            "nft 'table ip6 publisher {{ chain pre {{ type nat hook prerouting priority -100; \
             tcp dport {{ 8080, 9090 }} dnat to {to}; }}; }}'; \
             ip6tables-nft -t nat -A PREROUTING -p tcp --dport 8081 -j DNAT --to-destination {to}"
        ));
        let policy = write(
            "version = 1\n[[allow]]\nname = \"web\"\nports = [\"8080-8081/tcp\"]\nfrom = \"any\"\n",
        );
        for backend in ["nft", "iptables"] {
            node.peerwall_ok(&["apply", "--backend", backend, policy]);
            let printed = node.peerwall_ok(&["exposed", "--json", policy]);
            let found: Value = serde_json::from_str(&printed).unwrap();
            for (port, is_open) in [(8080, true), (8081, true), (9090, false)] {
                let entry = published_at(&found, port);
                let state = entry.map(|entry| &entry["state"]);
                let want = if is_open { "reached" } else { "closed" };
                assert_eq!(state, Some(&want.into()), "{backend} {port}: {found:#}");
                let wait = if is_open { PATIENCE } else { IMPATIENCE };
                let reached = probe::tcp(&stranger, &format!("[2001:db8:49::11]:{port}"), wait);
                assert_eq!(reached.is_some(), is_open, "{backend} {port}");
            }
            node.peerwall_ok(&["remove"]);
        }
    });
}
