//! `plan` and `apply` say what changes in the words of the policy, by every backend, and what other
//! programs changed.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::path::{Path, PathBuf};

use peerwall_integration::ns::{Host, world};

const POLICY: &str = r#"version = 1

[peers]
worker-1 = "129.21.49.48"
worker-2 = "129.21.49.53"

[[allow]]
name  = "ssh"
ports = ["22/tcp"]
from  = "any"
"#;

fn written(folder: &Path, name: &str, text: &str) -> String {
    let path: PathBuf = folder.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The lines of changes in an answer.
fn changes(text: &str) -> Vec<&str> {
    let lines = text
        .lines()
        .filter(|line| line.starts_with("  "))
        .map(str::trim_start);
    lines
        .filter(|line| line.starts_with(['+', '-', '~']))
        .collect()
}

const EDITED: [&str; 2] = [
    "~ peer worker-2 129.21.49.53 → 129.21.49.99",
    "+ allow ssh 443/tcp",
];

fn edited() -> String {
    POLICY
        .replace("129.21.49.53", "129.21.49.99")
        .replace("\"22/tcp\"", "\"22/tcp\", \"443/tcp\"")
}

fn plan(host: &Host, arguments: &[&str]) -> (i32, String) {
    let output = host.peerwall(&[&["plan"], arguments].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), said)
}

#[test]
fn a_plan_is_told_in_the_words_of_the_policy_and_apply_tells_the_same() {
    world(|| {
        for backend in ["nft", "iptables"] {
            let host = Host::new(backend);
            let folder = tempfile::tempdir().unwrap();
            let old = written(folder.path(), "old.toml", POLICY);
            let new = written(folder.path(), "new.toml", &edited());
            let by = ["--backend", backend];
            let first = host.peerwall_ok(&["apply", by[0], by[1], &old]);
            assert!(
                changes(&first).contains(&"+ peer worker-1 129.21.49.48"),
                "{first}"
            );
            let (code, said) = plan(&host, &[by[0], by[1], &new]);
            assert_eq!(
                (code, changes(&said)),
                (1, EDITED.to_vec()),
                "{backend}: {said}"
            );
            assert!(
                said.starts_with("2 changes:") || backend == "iptables",
                "{said}"
            );
            assert!(
                !said.contains("handle") && !said.contains("PEERWALL-"),
                "{said}"
            );
            let (code, said) = plan(&host, &["--json", by[0], by[1], &new]);
            let json: serde_json::Value = serde_json::from_str(&said).unwrap();
            assert_eq!(
                (code, json["changes"].as_array().unwrap().len()),
                (1, 2),
                "{said}"
            );
            let said = host.peerwall_ok(&["apply", by[0], by[1], &new]);
            assert_eq!(changes(&said), EDITED, "{backend}: {said}");
            let (code, said) = plan(&host, &[by[0], by[1], &new]);
            assert_eq!((code, said.contains("no changes")), (0, true), "{said}");
        }
    });
}

#[test]
fn commands_of_nft_are_shown_when_asked_for_and_load() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let old = written(folder.path(), "old.toml", POLICY);
        let new = written(folder.path(), "new.toml", &edited());
        let (_, first) = plan(&host, &["--nft", &old]);
        assert!(first.contains("  add table inet peerwall\n"), "{first}");
        host.peerwall_ok(&["apply", &old]);
        let (_, by_flag) = plan(&host, &["--nft", &new]);
        let (_, by_verbose) = plan(&host, &["-v", &new]);
        assert_eq!(by_flag, by_verbose);
        assert_eq!(changes(&by_flag), EDITED, "{by_flag}");
        assert!(!by_flag.contains("add table"), "there is one: {by_flag}");
        let deleted = by_flag
            .lines()
            .find(|line| line.contains("delete rule inet peerwall input"));
        assert!(
            deleted.unwrap().ends_with(
                "# tcp dport 22 counter name \"input.allow.ssh\" accept comment \"allow ssh\""
            ),
            "{by_flag}"
        );
        // nft takes these commands, and then nothing is left to do.
        let commands: String = by_flag
            .lines()
            .filter(|line| line.starts_with("  ") && line.contains("inet peerwall"))
            .map(|line| format!("{}\n", line.trim()))
            .collect();
        let script = written(folder.path(), "commands.nft", &commands);
        host.sh(&format!("nft -f {script}"));
        assert_eq!(plan(&host, &[&new]).0, 0);
    });
}

#[test]
fn what_another_program_changed_is_told_apart() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let old = written(folder.path(), "old.toml", POLICY);
        let new = written(folder.path(), "new.toml", &edited());
        host.peerwall_ok(&["apply", &old]);
        for (mischief, told) in [
            (
                "insert rule inet peerwall input tcp dport 23 accept",
                "- rule input: tcp dport 23 accept (another program added it)",
            ),
            (
                "add element inet peerwall peers4 { 6.6.6.6 }",
                "- set peers4 6.6.6.6 (another program added it)",
            ),
            (
                "flush chain inet peerwall loopback-spoof",
                "+ rule loopback-spoof: counter name \"loopback-spoof\" drop (another program removed it)",
            ),
            (
                "add chain inet peerwall odd",
                "- chain odd (another program added it)",
            ),
            (
                "add chain inet peerwall input { policy accept; }",
                "~ chain input type filter hook input priority filter - 10; policy accept; → type \
                 filter hook input priority filter - 10; policy drop; (another program changed it)",
            ),
            (
                "add rule inet peerwall input ip saddr . tcp dport { 10.9.9.9 . 24 } accept",
                "unknown to peerwall",
            ),
            (
                "add map inet peerwall odd { type ipv4_addr : verdict; }",
                "odd (another program added it)",
            ),
        ] {
            host.sh(&format!("nft '{mischief}'"));
            let (code, said) = plan(&host, &[&old]);
            assert_eq!(code, 1, "after {mischief}: {said}");
            assert!(
                changes(&said)
                    .iter()
                    .all(|line| line.contains("another program")),
                "{said}"
            );
            assert!(said.contains(told), "after {mischief}: {said}");
            let (_, said) = plan(&host, &[&new]);
            let (policy, others): (Vec<&str>, Vec<&str>) = changes(&said)
                .into_iter()
                .partition(|line| !line.contains("another program"));
            assert_eq!(policy, EDITED, "after {mischief}: {said}");
            assert!(!others.is_empty(), "after {mischief}: {said}");
            let said = host.peerwall_ok(&["apply", &old]);
            assert!(said.contains(told), "apply after {mischief}: {said}");
            assert_eq!(plan(&host, &[&old]).0, 0, "after {mischief}");
        }
        // Without the record of the last apply, it is not known who changed what.
        host.sh("nft insert rule inet peerwall input tcp dport 23 accept; rm -r /run/peerwall");
        let (code, said) = plan(&host, &[&old]);
        assert_eq!(
            (code, changes(&said)),
            (1, vec!["- rule input: tcp dport 23 accept"]),
            "{said}"
        );
    });
}

#[test]
fn what_another_program_changed_in_iptables_is_told_apart() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let old = written(folder.path(), "old.toml", POLICY);
        let by = ["--backend", "iptables"];
        host.peerwall_ok(&["apply", by[0], by[1], &old]);
        for (mischief, told) in [
            (
                "iptables -I PEERWALL-INPUT -p tcp --dport 25 -j ACCEPT",
                "- rule PEERWALL-INPUT: -p tcp -m tcp --dport 25 -j ACCEPT (another program added it)",
            ),
            (
                "iptables -D PEERWALL-INPUT 1",
                "(another program removed it)",
            ),
            (
                "ip6tables -D INPUT 1",
                "+ rule INPUT: -m comment --comment peerwall -j PEERWALL-INPUT (another program removed it)",
            ),
            (
                "ip6tables -N PEERWALL-ODD",
                "- chain PEERWALL-ODD (another program added it)",
            ),
        ] {
            host.sh(mischief);
            let (code, said) = plan(&host, &[by[0], by[1], &old]);
            assert_eq!(code, 1, "after {mischief}: {said}");
            assert!(said.contains(told), "after {mischief}: {said}");
            assert_eq!(changes(&said).len(), 1, "after {mischief}: {said}");
            host.peerwall_ok(&["apply", by[0], by[1], &old]);
        }
        // A change of backends is one change.
        let (_, said) = plan(&host, &["--backend", "nft", &old]);
        assert_eq!(
            changes(&said),
            ["~ option backend iptables → nft"],
            "{said}"
        );
    });
}

#[test]
fn an_agent_that_applies_a_policy_answers_with_the_changes() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), "policy.toml", POLICY);
        let mut agent = host
            .command(peerwall_integration::ns::peerwall_bin())
            .args(["run", "--no-follow", &path])
            .spawn()
            .unwrap();
        let is_up = || host.peerwall(&["reload"]).status.success();
        while !is_up() {
            assert!(agent.try_wait().unwrap().is_none(), "the agent ended");
            std::thread::yield_now();
        }
        fs::write(&path, edited()).unwrap();
        let said = host.peerwall_ok(&["reload"]);
        assert_eq!(changes(&said), EDITED, "{said}");
        agent.kill().unwrap();
        agent.wait().unwrap();
    });
}
