//! An ordinary user: commands that need root say so, the others work.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::process::Output;

use peerwall_integration::ns::{Host, peerwall_bin, world};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy.toml");

/// Runs commands as nobody, in a directory with a copy of the program and of the example.
struct Nobody {
    host: Host,
    folder: tempfile::TempDir,
}

impl Nobody {
    /// `None` in a user namespace, which has no other user.
    fn new() -> Option<Self> {
        let host = Host::new("host");
        let can = host.try_sh("setpriv --reuid 65534 --regid 65534 --clear-groups true");
        if !can.status.success() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::copy(peerwall_bin(), folder.path().join("peerwall")).unwrap();
        fs::copy(EXAMPLE, folder.path().join("policy.toml")).unwrap();
        fs::write(
            folder.path().join("rules.v4"),
            "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n",
        )
        .unwrap();
        host.sh(&format!(
            "chmod -R a+rX {0} && chmod a+w {0}",
            folder.path().display()
        ));
        Some(Self { host, folder })
    }

    fn peerwall(&self, command: &str) -> Output {
        self.host.try_sh(&format!(
            "cd {} && setpriv --reuid 65534 --regid 65534 --clear-groups timeout 60 ./peerwall {command}",
            self.folder.path().display()
        ))
    }
}

fn said(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{out}{}", String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_command_that_needs_root_says_so_and_fails() {
    world(|| {
        let Some(nobody) = Nobody::new() else { return };
        nobody.host.peerwall_ok(&["apply", EXAMPLE]);
        let before = nobody.host.sh("nft list ruleset");
        for command in [
            "status policy.toml",
            "status --json policy.toml",
            "status --watch policy.toml",
            "plan policy.toml",
            "plan --nft policy.toml",
            "plan --json policy.toml",
            "plan --backend iptables policy.toml",
            "apply --insecure-permissions policy.toml",
            "apply --insecure-permissions --json policy.toml",
            "apply --insecure-permissions --backend iptables policy.toml",
            "apply --insecure-permissions --confirm 60s policy.toml",
            "apply --insecure-permissions --hold policy.toml",
            "run --insecure-permissions policy.toml",
            "reload",
            "confirm",
            "rollback",
            "remove",
            "remove --backend iptables",
            "history",
            "boot policy.toml",
            "import --live",
        ] {
            let output = nobody.peerwall(command);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{command}: {said}");
            assert!(said.contains("run it as root"), "{command}: {said}");
        }
        assert_eq!(nobody.host.sh("nft list ruleset"), before);
    });
}

#[test]
fn commands_that_need_no_root_work() {
    world(|| {
        let Some(nobody) = Nobody::new() else { return };
        for command in [
            "--version",
            "--help",
            "help plan",
            "check policy.toml",
            "check --json policy.toml",
            "render policy.toml",
            "render --format json policy.toml",
            "render --format iptables policy.toml",
            "import rules.v4",
            "import --json rules.v4",
            "completions bash",
            "completions zsh",
            "completions fish",
            "man pages",
        ] {
            let output = nobody.peerwall(command);
            let said = said(&output);
            assert!(output.status.success(), "{command}: {said}");
            assert!(!said.contains("run it as root"), "{command}: {said}");
        }
        assert!(nobody.folder.path().join("pages").exists());
    });
}
