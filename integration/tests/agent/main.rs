//! The agent: follows its files, repairs what others do, waits for confirmation, dies at any time.
//!
//! `PEERWALL_ROUNDS` sets how often the rules are destroyed, and the agent killed; `PEERWALL_TRIAL`
//! the seconds of trials that are looked at by several commands before they end.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

mod backends;
mod connections;
mod files;
mod lockout;
mod metrics;
mod repair;
mod restart;
mod trial;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use peerwall::enforce::converge::converge;
use peerwall::enforce::nft::Kernel;
use peerwall_integration::net::wire;
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::wait_for;
use peerwall_integration::probe;
use peerwall_integration::traffic::{Answers, Three, Totals, Traffic};

/// What has to come comes by then, on a machine that has other things to do: beside the traffic of
/// two tests, a repair takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

fn rounds(usual: u32) -> u32 {
    std::env::var("PEERWALL_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
}

/// Seconds of a trial that nobody confirms. A slow machine needs more, to read the rules meanwhile.
fn trial_seconds() -> u64 {
    std::env::var("PEERWALL_TRIAL").map_or(2, |seconds| seconds.parse().unwrap())
}

/// A running agent; killed when it goes out of scope.
struct Agent<'h> {
    host: &'h Host,
    child: Child,
}

impl<'h> Agent<'h> {
    fn start(host: &'h Host, policy: &Path, more: &[&str]) -> Self {
        let mut command = host.command(peerwall_bin());
        command.arg("run").arg(policy).args(more);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { host, child };
        agent.wait_for(
            || {
                agent
                    .status()
                    .is_some_and(|status| !status["in_sync_seconds"].is_null())
            },
            "the first apply",
        );
        agent
    }

    fn status(&self) -> Option<serde_json::Value> {
        let output = self.host.peerwall(&["status", "--json", "/nowhere"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        status
            .get("agent")
            .filter(|agent| agent.get("pid").is_some())
            .cloned()
    }

    fn wait_for(&self, done: impl Fn() -> bool, what: &str) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "{what} did not come");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, name: &str) {
        self.host.sh(&format!("kill -{name} {}", self.child.id()));
    }

    /// Ends it as systemd does.
    fn end(mut self) {
        self.signal("TERM");
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn policy(peers: &[&str]) -> String {
    let peers: Vec<String> = peers.iter().map(|peer| format!("\"{peer}\"")).collect();
    format!(
        r#"
            version = 1
            [peers]
            friends = [{}]
            [[allow]]
            name = "ssh"
            ports = ["22/tcp"]
            from = "any"
        "#,
        peers.join(", ")
    )
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn peers(host: &Host) -> String {
    let output = host.try_sh("nft list set inet peerwall peers4");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The lines of an answer that name a change.
fn changes(answer: &str) -> Vec<&str> {
    let lines = answer.lines().filter_map(|line| line.strip_prefix("  "));
    lines
        .filter(|line| line.starts_with(['+', '-', '~']))
        .collect()
}

/// `apply` or another command from an ssh connection of its own.
fn from_connection(host: &Host, port: u16, args: &[&str]) -> Output {
    let mut command = host.command(peerwall_bin());
    command.args(args).env(
        "SSH_CONNECTION",
        format!("203.0.113.5 {port} 203.0.113.6 22"),
    );
    command.output().unwrap()
}
