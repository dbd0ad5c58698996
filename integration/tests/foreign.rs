//! Other firewalls that drop are named, by every tool that makes them, and the command that is
//! named ends it.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::process::Output;

use peerwall_integration::ns::{Host, sh, world};
use serde_json::Value;

const POLICY: &str = r#"
    version = 1
    [peers]
    w2 = "192.0.2.12"
"#;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn status(host: &Host, policy: &str, more: &[&str]) -> (String, Value) {
    let mut args = vec!["status", policy];
    args.extend(more);
    let words = text(&host.peerwall(&args));
    args.push("--json");
    let json = host.peerwall(&args);
    (words, serde_json::from_slice(&json.stdout).unwrap())
}

/// Checks that each setup is named as it should be, and that what is said to end it does.
fn name_and_clear(host: &Host, backend: &str, cases: &[(&str, &str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, POLICY).unwrap();
    let path = path.to_str().unwrap();
    let by = ["--backend", backend];
    host.peerwall_ok(&["apply", path, "--backend", backend]);
    for (setup, name, why) in cases {
        host.sh(setup);
        let (words, json) = status(host, path, &by);
        let headline = format!("in sync with {path}, but another firewall also drops: {name}\n");
        assert!(words.starts_with(&headline), "{setup}\n{words}");
        assert!(words.contains(why), "{setup}\n{words}");
        assert_eq!(json["in_sync"], true, "{setup}");
        let found = json["foreign_drops"].as_array().unwrap();
        assert_eq!(found.len(), 1, "{setup}: {found:?}");
        for command in ["plan", "apply"] {
            let output = host.peerwall(&[command, path, "--backend", backend]);
            assert!(output.status.success(), "{command}, {setup}");
            let said = text(&output);
            assert!(
                said.contains(&format!("warning: {name}")),
                "{command}, {setup}\n{said}"
            );
        }
        host.sh(found[0]["clear"].as_str().unwrap());
        let (words, json) = status(host, path, &by);
        let headline = format!("in sync with {path}\n");
        assert!(words.starts_with(&headline), "{setup}\n{words}");
        assert_eq!(json["foreign_drops"], serde_json::json!([]), "{setup}");
    }
}

#[test]
fn whatever_drops_beside_our_table_is_named_with_what_ends_it() {
    world(|| {
        let host = Host::new("host");
        name_and_clear(
            &host,
            "nft",
            &[
                (
                    "iptables-legacy -P FORWARD DROP",
                    "ip filter FORWARD (iptables-legacy)",
                    "its policy is drop",
                ),
                (
                    "ip6tables-legacy -A INPUT -i lo -j ACCEPT; ip6tables-legacy -A INPUT -j REJECT",
                    "ip6 filter INPUT (iptables-legacy)",
                    "its rule 2 drops everything",
                ),
                (
                    "iptables-legacy -t mangle -A FORWARD -m comment --comment 'old rules' -j DROP",
                    "ip mangle FORWARD (iptables-legacy)",
                    "to end that: iptables-legacy -t mangle -D FORWARD 1",
                ),
                (
                    "iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT; \
                     iptables-nft -A INPUT -m comment --comment rest -j REJECT",
                    "ip filter INPUT (iptables-nft)",
                    "its rule 2 drops everything",
                ),
                (
                    "ip6tables-nft -P INPUT DROP",
                    "ip6 filter INPUT (iptables-nft)",
                    "its policy is drop",
                ),
                (
                    "iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; \
                     iptables-nft -P FORWARD DROP",
                    "ip filter FORWARD (Docker)",
                    "to end that: iptables-nft -P FORWARD ACCEPT",
                ),
                (
                    "iptables-nft -A DOCKER-USER -s 192.0.2.0/24 -j RETURN; \
                     iptables-nft -A DOCKER-USER -j DROP",
                    "ip filter FORWARD (Docker)",
                    "rule 2 of DOCKER-USER drops everything",
                ),
                (
                    "nft 'add table inet filter; add chain inet filter input \
                     { type filter hook input priority 0; policy drop; }; \
                     add rule inet filter input ct state established accept'",
                    "inet filter input (nftables)",
                    "its policy is drop",
                ),
                (
                    "nft 'add rule inet filter input tcp dport 22 accept; \
                     add rule inet filter input counter log reject'",
                    "inet filter input (nftables)",
                    "its rule 3 drops everything",
                ),
                (
                    "ebtables-nft -P FORWARD DROP",
                    "bridge filter FORWARD (ebtables-nft)",
                    "its policy is drop",
                ),
            ],
        );
    });
}

#[test]
fn what_decides_about_single_packets_is_not_named() {
    world(|| {
        let host = Host::new("host");
        host.sh("nft -f - <<'END'
            table ip kube-proxy {
                chain firewall-check { ip daddr 192.0.2.80 drop; }
                chain filter-forward {
                    type filter hook forward priority -110; policy accept;
                    ct state new jump firewall-check
                    ct state invalid counter drop
                }
            }
            table ip docker-bridges {
                set lan { type ipv4_addr; elements = { 192.0.2.1 } }
                chain filter-FORWARD {
                    type filter hook forward priority 0; policy accept;
                    oifname vmap { \"docker0\" : drop }
                    oifname \"docker0\" ip saddr != @lan drop
                }
            }
            table inet sleeping {
                flags dormant
                chain input { type filter hook input priority 0; policy drop; }
            }
            table inet out {
                chain output { type filter hook output priority 0; policy drop; oifname \"lo\" accept; }
                chain prerouting { type filter hook prerouting priority 0; policy accept; }
            }
END");
        host.sh(
            "iptables-nft -N KUBE-FIREWALL; iptables-nft -A INPUT -j KUBE-FIREWALL
             iptables-nft -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 \
                 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
             iptables-legacy -A FORWARD -m conntrack --ctstate INVALID -j DROP
             iptables-legacy -P OUTPUT DROP",
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, POLICY).unwrap();
        let path = path.to_str().unwrap();
        host.peerwall_ok(&["apply", path, "--backend", "nft"]);
        let (words, json) = status(&host, path, &["--backend", "nft"]);
        assert_eq!(json["foreign_drops"], serde_json::json!([]), "{words}");
    });
}

#[test]
fn beside_our_iptables_chains_only_what_comes_before_them_or_is_elsewhere_counts() {
    world(|| {
        let host = Host::new("host");
        // So that it is the one that is taken.
        host.sh("iptables-nft -A OUTPUT -j ACCEPT");
        name_and_clear(
            &host,
            "iptables",
            &[
                (
                    "iptables-legacy -P FORWARD DROP",
                    "ip filter FORWARD (iptables-legacy)",
                    "its policy is drop",
                ),
                (
                    "iptables-nft -t mangle -P FORWARD DROP",
                    "ip mangle FORWARD (iptables-nft)",
                    "iptables-nft -t mangle -P FORWARD ACCEPT",
                ),
            ],
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, POLICY).unwrap();
        // Our chains decide about every packet before it comes to the policy.
        host.sh("iptables-nft -P FORWARD DROP; iptables-nft -P INPUT DROP");
        let (words, json) = status(&host, path.to_str().unwrap(), &["--backend", "iptables"]);
        assert_eq!(json["foreign_drops"], serde_json::json!([]), "{words}");
    });
}

#[test]
fn units_that_load_other_rules_are_named() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, POLICY).unwrap();
        let path = path.to_str().unwrap();
        let wants = "/etc/systemd/system/multi-user.target.wants";
        sh("mkdir -p /etc/systemd/system && mount -t tmpfs tmpfs /etc/systemd/system");
        for (setup, wanted) in [
            (format!("mkdir {wants}"), serde_json::json!([])),
            (
                format!("ln -s /lib/systemd/system/nftables.service {wants}"),
                serde_json::json!(["nftables.service"]),
            ),
        ] {
            host.sh(&setup);
            for command in ["plan", "apply", "status"] {
                let output = host.peerwall(&[command, path, "--json"]);
                let json: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(json["foreign_units"], wanted, "{command}: {json}");
                let said = text(&host.peerwall(&[command, path]));
                let is_named = said.contains("nftables.service");
                assert_eq!(is_named, wanted[0].is_string(), "{command}: {said}");
            }
        }
    });
}

#[test]
fn the_agent_counts_them() {
    world(|| {
        let host = Host::new("host");
        host.sh("iptables-legacy -P FORWARD DROP");
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = (
            folder.path().join("policy.toml"),
            folder.path().join("metrics"),
        );
        std::fs::write(&path, POLICY).unwrap();
        let mut agent = host
            .command(peerwall_integration::ns::peerwall_bin())
            .arg("run")
            .arg(&path)
            .arg("--metrics-file")
            .arg(&file)
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let is_told = || {
            std::fs::read_to_string(&file)
                .is_ok_and(|text| text.contains("\npeerwall_foreign_drop_chains 1\n"))
        };
        while !is_told() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let told = is_told();
        agent.kill().unwrap();
        agent.wait().unwrap();
        assert!(
            told,
            "{}",
            std::fs::read_to_string(&file).unwrap_or_default()
        );
    });
}
