//! `peerwall doctor`: what it finds is there, and what it tells to do ends it.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;

use peerwall_integration::ns::{Host, world};
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
