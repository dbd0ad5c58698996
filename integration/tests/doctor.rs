//! `peerwall doctor`: what it finds is there, and what it tells to do ends it.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::probe::{self, IMPATIENCE, PATIENCE};
use peerwall_integration::situation::{Lan, cni0, pod};
use serde_json::Value;

const POLICY: &str = "version = 1
[overlay.flannel]
backend = \"vxlan\"
subnets = [\"10.244.0.0/16\"]
";

fn examine(node: &Host, policy: &str) -> (Option<i32>, Value) {
    let output = node.peerwall(&["doctor", "--json", policy]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let found = serde_json::from_str(&text).unwrap_or_else(|err| panic!("{err}: {text}{errors}"));
    (output.status.code(), found)
}

fn codes(found: &Value) -> Vec<String> {
    let list = found["findings"].as_array().unwrap().iter();
    list.map(|each| each["code"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_it_tells_to_do_ends_what_it_finds() {
    world(|| {
        let lan = Lan::new();
        let (node, outside) = (lan.join("node", 11), lan.join("outside", 99));
        cni0(&node, 1);
        let pod = pod(&node, 1, 2);
        outside.sh("ip route add 10.244.1.0/24 via 192.0.2.11");
        probe::tcp_server(&outside, "192.0.2.99:80");
        let reaches = |wait| probe::tcp(&pod, "192.0.2.99:80", wait).is_some();
        let policy = "/run/policy.toml";
        fs::write(policy, POLICY).unwrap();
        // Nothing is loaded, nothing is forwarded, and bridged frames bypass iptables or do not.
        node.sysctl("net.ipv4.ip_forward", "0");
        let calls = fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
        let (code, found) = examine(&node, policy);
        let found = codes(&found);
        assert_eq!(code, Some(1), "{found:?}");
        for wanted in ["not-loaded", "not-forwarding"] {
            assert!(found.iter().any(|code| code == wanted), "{found:?}");
        }
        assert!(!reaches(IMPATIENCE), "{calls:?}");
        // The words of the help, as they stand.
        let output = node.peerwall(&["doctor", "--json", policy]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let help = |code: &str| -> String {
            let list = found["findings"].as_array().unwrap();
            let finding = list.iter().find(|each| each["code"] == code).unwrap();
            finding["help"].as_str().unwrap().to_owned()
        };
        let sysctl = help("not-forwarding");
        node.sh(sysctl.split(", and").next().unwrap());
        node.peerwall_ok(&["apply", policy]);
        assert!(
            reaches(PATIENCE),
            "the node forwards, and the policy accepts pods"
        );
        let (_, found) = examine(&node, policy);
        let left = codes(&found);
        assert!(left.contains(&"no-agent".to_owned()), "{left:?}");
        for ended in ["not-loaded", "not-forwarding"] {
            assert!(!left.iter().any(|code| code == ended), "{left:?}");
        }
        // Another firewall that drops, which no counter of peerwall shows.
        node.sh("nft add table ip other");
        node.sh(
            "nft 'add chain ip other last { type filter hook forward priority 5 ; policy drop ; }'",
        );
        assert!(!reaches(IMPATIENCE));
        let (_, found) = examine(&node, policy);
        let drops = found["foreign_drops"].as_array().unwrap();
        assert_eq!(drops.len(), 1, "{found:#}");
        node.sh(drops[0]["clear"].as_str().unwrap());
        assert!(reaches(PATIENCE), "the command that ends the drop");
        let (_, found) = examine(&node, policy);
        assert_eq!(
            found["foreign_drops"].as_array().unwrap().len(),
            0,
            "{found:#}"
        );
    });
}

/// The kernel refuses a tunnel that is too large for its carrier, but lets the carrier shrink.
#[test]
fn a_tunnel_that_became_too_large_is_found() {
    world(|| {
        let node = Lan::new().join("node", 11);
        cni0(&node, 1);
        node.sh(
            "ip link add flannel.1 type vxlan id 1 dev eth0 local 192.0.2.11 dstport 8472; \
             ip link set flannel.1 up; ip link set cni0 mtu 1450",
        );
        let policy = "/run/policy.toml";
        fs::write(policy, POLICY).unwrap();
        let of_mtu = || -> Vec<String> {
            let codes = codes(&examine(&node, policy).1).into_iter();
            codes.filter(|code| code.ends_with("-mtu")).collect()
        };
        assert_eq!(of_mtu(), [""; 0]);
        node.sh("ip link set eth0 mtu 1400");
        assert_eq!(of_mtu(), ["tunnel-mtu"]);
        assert!(
            !node
                .try_sh("ip link set flannel.1 mtu 1351")
                .status
                .success()
        );
        node.sh("ip link set flannel.1 mtu 1350");
        assert_eq!(of_mtu(), ["pods-mtu"]);
        node.sh("ip link set cni0 mtu 1350");
        assert_eq!(of_mtu(), [""; 0]);
    });
}

/// nft is the judge of what is in nf_tables.
#[test]
fn every_base_chain_is_listed_in_its_place() {
    world(|| {
        let node = Lan::new().join("node", 11);
        let policy = "/run/policy.toml";
        fs::write(policy, POLICY).unwrap();
        node.peerwall_ok(&["apply", policy]);
        node.sh(
            "nft 'table ip other { chain late { type nat hook postrouting priority 110; }; \
             chain early { type filter hook input priority -5; policy drop; ct state established accept; \
             accept; }; chain called { accept; }; }'; \
             nft 'table arp watch { chain in { type filter hook input priority 0; }; }'; \
             nft 'table netdev edge { chain raw { type filter hook ingress device eth0 priority 7; }; }'; \
             iptables-nft -A OUTPUT -p tcp --dport 7 -j ACCEPT; \
             iptables-legacy -t mangle -A FORWARD -j ACCEPT",
        );
        let (_, found) = examine(&node, policy);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let hooks = found["hooks"].as_array().unwrap();
        let of_nft = hooks
            .iter()
            .filter(|each| each["engine"] != "iptables-legacy");
        let mut listed: Vec<(String, i64, [String; 4])> = of_nft
            .map(|each| {
                let names = ["family", "table", "chain", "policy"].map(|key| text(&each[key]));
                (
                    text(&each["hook"]),
                    each["priority"].as_i64().unwrap(),
                    names,
                )
            })
            .collect();
        listed.sort();
        let chains: Value = serde_json::from_str(&node.sh("nft -j list chains")).unwrap();
        let chains = chains["nftables"].as_array().unwrap().iter();
        let bases = chains.filter(|each| each["chain"]["hook"].is_string());
        let mut known: Vec<(String, i64, [String; 4])> = bases
            .map(|each| {
                let chain = &each["chain"];
                let names = ["family", "table", "name", "policy"].map(|key| text(&chain[key]));
                (text(&chain["hook"]), chain["prio"].as_i64().unwrap(), names)
            })
            .collect();
        known.sort();
        assert_eq!(listed, known);
        assert!(listed.len() >= 8, "{listed:?}");
        let ours = hooks.iter().filter(|each| each["is_ours"] == true);
        assert!(
            ours.clone().all(|each| each["table"] == "peerwall"),
            "{found:#}"
        );
        assert_eq!(ours.count(), 3, "prerouting, input and forward: {found:#}");
        let legacy = hooks
            .iter()
            .filter(|each| each["engine"] == "iptables-legacy");
        let legacy: Vec<String> = legacy.map(|each| text(&each["table"])).collect();
        assert_eq!(legacy, ["mangle"; 5]);
        let output = node.peerwall(&["doctor", "--hooks", policy]);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |wanted: &str| shown.lines().position(|line| line.contains(wanted));
        let order = [
            "netdev edge raw on eth0",
            "inet peerwall input",
            "ip other early",
        ]
        .map(line);
        assert!(order[0].is_some() && order.is_sorted(), "{shown}");
        node.peerwall_ok(&["remove"]);
        node.peerwall_ok(&["apply", "--backend", "iptables", policy]);
        let (_, found) = examine(&node, policy);
        let hooks = found["hooks"].as_array().unwrap().iter();
        let ours = hooks.filter(|each| each["is_ours"] == true);
        assert!(
            ours.clone().all(|each| each["engine"] != "nftables"),
            "{found:#}"
        );
        assert!(ours.count() >= 3, "{found:#}");
    });
}

#[test]
fn silent_peers_and_a_log_that_is_not_read_are_found() {
    world(|| {
        let lan = Lan::new();
        let (node, _there) = (lan.join("node", 11), lan.join("there", 12));
        let policy = "/run/policy.toml";
        let peers =
            "[peers]\nthere = \"192.0.2.12\"\naway = \"192.0.2.13\"\nlan = \"192.0.2.0/24\"\n";
        fs::write(policy, format!("version = 1\n{peers}")).unwrap();
        let found_now = |code: &str| -> Option<Value> {
            let found = examine(&node, policy).1;
            let list = found["findings"].as_array().unwrap();
            list.iter().find(|each| each["code"] == code).cloned()
        };
        assert_eq!(found_now("peer-silent"), None, "nothing was sent");
        node.sh("ping -c 1 192.0.2.12");
        node.try_sh("ping -c 1 -W 1 192.0.2.13; ping -c 1 -W 1 192.0.2.14");
        let message = found_now("peer-silent").unwrap()["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            message,
            "1 peer does not answer on the link: 192.0.2.13 (away) on eth0"
        );
        for (args, before, words) in [
            (&["--no-denied"][..], None, "--no-denied"),
            (
                &[],
                Some("denied --listen 30s --policy /run/policy.toml"),
                "peerwall (pid",
            ),
        ] {
            let other = before.map(|args| {
                let mut command = node.command(peerwall_bin());
                command
                    .args(args.split(' '))
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            });
            let readers = || node.sh("cat /proc/net/netfilter/nfnetlink_log");
            while other.is_some() && !readers().contains("    5 ") {
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut command = node.command(peerwall_bin());
            command
                .args(["run", policy])
                .args(args)
                .stderr(Stdio::null());
            let agent = command.spawn().unwrap();
            let until = Instant::now() + PATIENCE * 5;
            let found = loop {
                let found = found_now("log-not-read");
                if found.is_some() || Instant::now() > until {
                    break found;
                }
            };
            let message = found.unwrap()["message"].as_str().unwrap().to_owned();
            assert!(message.contains(words), "{message}");
            let status = node.peerwall(&["status", policy]);
            let status = String::from_utf8_lossy(&status.stdout).into_owned();
            assert!(status.contains(&message), "{status}");
            for mut child in [Some(agent), other].into_iter().flatten() {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    });
}
