//! Commands beside an agent: they are about its policy, and say what keeps the rules loaded.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::path::PathBuf;

use peerwall_integration::ns::{Host, world};
use peerwall_integration::open::Agent;

const POLICY: &str = r#"version = 1
[peers]
friend = "192.0.2.1"
[[allow]]
name = "ssh"
ports = ["22/tcp"]
from = "any"
"#;

fn policy(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("its.toml");
    fs::write(&path, POLICY).unwrap();
    path
}

/// Exit code and everything printed.
fn run(host: &Host, args: &[&str]) -> (Option<i32>, String) {
    let output = host.peerwall(args);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn what_an_agent_keeps_loaded_is_not_removed_beneath_it() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let agent = Agent::start(&host, &policy(&folder), &[]);
        let (code, said) = run(&host, &["remove"]);
        let want = format!(
            "the agent (pid {}) would load the rules again: stop it first (`systemctl stop peerwall`)",
            agent.pid()
        );
        assert!(code == Some(2) && said.contains(&want), "{said}");
        assert!(host.sh("nft list tables").contains("peerwall"));
        drop(agent);
        let (code, said) = run(&host, &["remove"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(!host.sh("nft list tables").contains("peerwall"));
    });
}

#[test]
fn another_backend_than_the_agents_is_refused() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = policy(&folder);
        let _agent = Agent::start(&host, &path, &[]);
        let text = path.to_str().unwrap();
        for args in [
            ["apply", "--backend", "iptables", text],
            ["apply", "--hold", text, "--json"],
        ] {
            let (code, said) = run(&host, &args);
            assert!(
                code == Some(2) && said.contains("an agent runs (pid "),
                "{args:?}\n{said}"
            );
        }
        assert!(
            !host
                .sh("iptables-save; iptables-legacy-save")
                .contains("PEERWALL")
        );
        let (code, said) = run(&host, &["apply", "--backend", "nft", text]);
        assert_eq!(code, Some(0), "{said}");
    });
}

#[test]
fn commands_are_about_the_policy_of_the_agent() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = policy(&folder);
        let _agent = Agent::start(&host, &path, &[]);
        let in_sync = format!("in sync with {}", path.display());
        for (args, want) in [
            (&["status"][..], in_sync.as_str()),
            (&["plan"], "no changes"),
            (&["apply"], "no changes"),
            (&["check"], ": ok."),
            (&[], in_sync.as_str()),
        ] {
            let (code, said) = run(&host, args);
            assert!(code == Some(0) && said.contains(want), "{args:?}\n{said}");
        }
        // Alone, the state comes first, and then what there is to run.
        let (_, said) = run(&host, &[]);
        assert!(
            said.starts_with(&in_sync) && said.contains("Usage: peerwall"),
            "{said}"
        );
    });
}
