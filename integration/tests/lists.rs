//! Lists of peers lie over whatever policy is in force: they undo no rollback and no trial, fill no
//! history, and no rollback takes a peer out that joined meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::{Agent, wait_for};

/// A policy and its list, in a directory.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        files.list(&["192.0.2.10"]);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A policy of this name: one peer of its own, and the peers in the list.
    fn policy(&self, name: &str, own: &str) -> PathBuf {
        let path = self.path(name);
        let text = format!(
            r#"
                version = 1
                peers_files = ["list"]
                [peers]
                own = "{own}"
                [[allow]]
                name = "ssh"
                ports = ["22/tcp"]
                from = "any"
            "#
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn list(&self, members: &[&str]) {
        fs::write(self.path("new"), members.join("\n")).unwrap();
        fs::rename(self.path("new"), self.path("list")).unwrap();
    }
}

fn peers(host: &Host) -> String {
    let output = host.try_sh("nft list set inet peerwall peers4");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn has(host: &Host, address: &str) -> bool {
    peers(host).contains(address)
}

fn from_connection(host: &Host, port: u16, args: &[&str]) -> Output {
    let mut command = host.command(peerwall_bin());
    let connection = format!("203.0.113.5 {port} 203.0.113.6 22");
    command.args(args).env("SSH_CONNECTION", connection);
    command.output().unwrap()
}

fn try_out(host: &Host, policy: &Path, time: &str) {
    let args = ["apply", "--confirm", time, policy.to_str().unwrap()];
    let output = from_connection(host, 4000, &args);
    assert!(output.status.success(), "{output:?}");
}

fn confirmed(host: &Host) -> usize {
    let text = host.peerwall_ok(&["history", "--json"]);
    let history: serde_json::Value = serde_json::from_str(&text).unwrap();
    history["confirmed"].as_array().unwrap().len()
}

#[test]
fn lists_of_a_policy_that_was_gone_back_to_are_followed() {
    world(|| {
        let (host, files) = (Host::new("host"), Files::new());
        let path = files.policy("policy.toml", "198.51.100.1");
        let agent = Agent::start(&host, &path, &[]);
        files.policy("policy.toml", "198.51.100.2");
        wait_for("the second policy", || has(&host, "198.51.100.2"));
        files.list(&["192.0.2.10", "192.0.2.11"]);
        wait_for("the peer that joined", || has(&host, "192.0.2.11"));
        host.peerwall_ok(&["rollback"]);
        assert!(has(&host, "198.51.100.1"), "{}", peers(&host));
        assert!(
            has(&host, "192.0.2.11"),
            "the rollback took a peer out: {}",
            peers(&host)
        );
        // The policy's file still has what was gone back from.
        files.list(&["192.0.2.12"]);
        wait_for("another list", || {
            has(&host, "192.0.2.12") && !has(&host, "192.0.2.11")
        });
        assert!(
            has(&host, "198.51.100.1") && !has(&host, "198.51.100.2"),
            "the list undid the rollback: {}",
            peers(&host)
        );
        assert_eq!(confirmed(&host), 1, "a list is no entry of the history");
        // A policy that is wrong keeps no list from being followed either.
        fs::write(&path, "version = 7\n").unwrap();
        files.list(&["192.0.2.13"]);
        wait_for("a list beside a wrong policy", || has(&host, "192.0.2.13"));
        // The next agent, and the next boot, know of it. Once it answers, it has saved what it
        // loaded.
        host.peerwall(&["status"]);
        drop(agent);
        host.peerwall_ok(&["remove"]);
        host.peerwall_ok(&["boot", path.to_str().unwrap()]);
        assert!(
            has(&host, "198.51.100.1") && has(&host, "192.0.2.13"),
            "{}",
            peers(&host)
        );
        files.list(&["192.0.2.14"]);
        let _agent = Agent::start(&host, &path, &[]);
        wait_for("the list of the last good policy", || {
            has(&host, "192.0.2.14")
        });
    });
}

#[test]
fn lists_of_a_trial_are_followed_and_end_nothing() {
    world(|| {
        let (host, files) = (Host::new("host"), Files::new());
        let path = files.policy("policy.toml", "198.51.100.1");
        let copy = files.policy("copy.toml", "198.51.100.2");
        let _agent = Agent::start(&host, &path, &[]);
        try_out(&host, &copy, "4s");
        files.list(&["192.0.2.10", "192.0.2.11"]);
        wait_for("the peer that joined", || has(&host, "192.0.2.11"));
        assert!(
            has(&host, "198.51.100.2"),
            "the list ended the trial: {}",
            peers(&host)
        );
        wait_for("what was before", || has(&host, "198.51.100.1"));
        assert!(
            has(&host, "192.0.2.11"),
            "going back took a peer out: {}",
            peers(&host)
        );
        // Confirmed, the list of that moment counts, though the file of the policy is another.
        files.policy("copy.toml", "198.51.100.3");
        try_out(&host, &copy, "60s");
        files.list(&["192.0.2.12"]);
        wait_for("another list", || has(&host, "192.0.2.12"));
        let confirm = from_connection(&host, 4001, &["confirm"]);
        assert!(confirm.status.success(), "{confirm:?}");
        assert!(
            has(&host, "198.51.100.3") && has(&host, "192.0.2.12"),
            "{}",
            peers(&host)
        );
        files.list(&["192.0.2.13"]);
        wait_for("a list after that", || {
            has(&host, "192.0.2.13") && has(&host, "198.51.100.3")
        });
        assert_eq!(confirmed(&host), 2);
    });
}

#[test]
fn without_an_agent_no_peer_is_taken_out_either() {
    world(|| {
        let (host, files) = (Host::new("host"), Files::new());
        let path = files.policy("policy.toml", "198.51.100.1");
        let text = path.to_str().unwrap().to_owned();
        host.peerwall_ok(&["apply", &text]);
        files.policy("policy.toml", "198.51.100.2");
        host.peerwall_ok(&["apply", &text]);
        files.list(&["192.0.2.10", "192.0.2.11"]);
        host.peerwall_ok(&["rollback"]);
        assert!(
            has(&host, "198.51.100.1") && has(&host, "192.0.2.11"),
            "{}",
            peers(&host)
        );
        // The guard goes back alike.
        let copy = files.policy("copy.toml", "198.51.100.3");
        try_out(&host, &copy, "1s");
        files.list(&["192.0.2.12"]);
        wait_for("what was before", || has(&host, "198.51.100.1"));
        assert!(has(&host, "192.0.2.12"), "{}", peers(&host));
        // A list that cannot be read keeps nobody from going back.
        try_out(&host, &copy, "1s");
        fs::remove_file(files.path("list")).unwrap();
        wait_for("what was before", || has(&host, "198.51.100.1"));
        assert!(has(&host, "192.0.2.12"), "{}", peers(&host));
    });
}
