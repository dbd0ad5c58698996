//! Others change their own tables all the time: what is ours is read, changed and repaired
//! nevertheless, in bounded time, and never from half a picture.
//!
//! `PEERWALL_PEERS=100000` sets how many peers there are.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use peerwall::enforce::nft::Kernel;
use peerwall_core::backend::Backend as _;
use peerwall_core::net::addr;
use peerwall_core::ruleset::Ruleset;
use peerwall_integration::ns::{Host, world};
use peerwall_integration::open::{Agent, wait_for};

/// What takes longer has no bound.
const PATIENCE: Duration = Duration::from_secs(60);

fn peers() -> usize {
    std::env::var("PEERWALL_PEERS").map_or(5_000, |count| count.parse().unwrap())
}

fn policy(path: &Path, count: usize, first: &str) {
    let mut text = format!(
        r#"
            version = 1
            [[allow]]
            name = "ssh"
            ports = ["22/tcp"]
            from = "any"
            [peers]
            first = "{first}"
        "#
    );
    for index in 0..count {
        let net = Ipv4Addr::new(10, 0, 0, 0).to_bits();
        let peer = Ipv4Addr::from_bits(net + u32::try_from(index).unwrap());
        let _ = writeln!(text, "p{index} = \"{peer}\"");
    }
    fs::write(path, text).unwrap();
}

/// Changes a table of its own again and again, until it is dropped.
struct Others {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
    writer: Option<JoinHandle<()>>,
    nft: Child,
}

impl Others {
    fn start(host: &Host, per_second: u32) -> Self {
        host.sh("nft add table ip other; nft add set ip other s '{ type ipv4_addr; }'");
        let mut command = host.command("nft");
        let mut nft = command
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut into = nft.stdin.take().unwrap();
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let (stops, counts) = (Arc::clone(&stop), Arc::clone(&count));
        let writer = std::thread::spawn(move || {
            use std::io::Write as _;
            let begin = Instant::now();
            for number in 0_u32.. {
                if stops.load(Ordering::Relaxed) {
                    break;
                }
                let what = if number.is_multiple_of(2) {
                    "add"
                } else {
                    "delete"
                };
                if writeln!(into, "{what} element ip other s {{ 192.0.2.1 }}").is_err() {
                    break;
                }
                counts.store(number, Ordering::Relaxed);
                let due = begin + Duration::from_secs(1) * number / per_second;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        Self {
            stop,
            count,
            writer: Some(writer),
            nft,
        }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.writer.take().map(JoinHandle::join);
        let _ = self.nft.kill();
        let _ = self.nft.wait();
        println!(
            "others changed their table {} times",
            self.count.load(Ordering::Relaxed)
        );
    }
}

fn timed(what: &str, act: impl FnOnce()) {
    let start = Instant::now();
    act();
    println!("{what}: {:?}", start.elapsed());
    assert!(start.elapsed() < PATIENCE, "{what}: {:?}", start.elapsed());
}

fn ruleset(host: &Host) -> Ruleset {
    // nft restarts whenever another program changes anything, and takes as long as that continues.
    let seen = host.run(|| Kernel::open().and_then(|mut kernel| kernel.observe()));
    seen.unwrap()
        .table
        .and_then(|table| table.ruleset())
        .unwrap_or_default()
}

fn has(host: &Host, address: &str) -> bool {
    let number = addr::number(address.parse().unwrap());
    let ruleset = ruleset(host);
    let peers = ruleset.sets.get("peers4");
    peers.is_some_and(|set| set.find(number).is_some())
}

#[test]
fn apply_and_remove_end_while_others_change_theirs_all_the_time() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let text = path.to_str().unwrap();
        policy(&path, peers(), "192.0.2.9");
        let _others = Others::start(&host, 200);
        timed("the first apply", || {
            drop(host.peerwall_ok(&["apply", text]))
        });
        assert!(has(&host, "192.0.2.9"));
        policy(&path, peers(), "192.0.2.10");
        timed("one peer more", || drop(host.peerwall_ok(&["apply", text])));
        assert!(has(&host, "192.0.2.10") && !has(&host, "192.0.2.9"));
        timed("the same again", || {
            drop(host.peerwall_ok(&["apply", text]))
        });
        timed("plan", || {
            assert_eq!(host.peerwall(&["plan", text]).status.code(), Some(0))
        });
        host.sh("nft delete element inet peerwall peers4 '{ 192.0.2.10 }'");
        timed("a repair by apply", || {
            drop(host.peerwall_ok(&["apply", text]))
        });
        assert!(has(&host, "192.0.2.10"));
        timed("remove", || drop(host.peerwall_ok(&["remove"])));
        assert!(!host.try_sh("nft list table inet peerwall").status.success());
    });
}

#[test]
fn an_agent_repairs_while_others_change_theirs_all_the_time() {
    world(|| {
        for owner in [true, false] {
            let host = Host::new(if owner { "owner" } else { "none" });
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("policy.toml");
            policy(&path, peers(), "192.0.2.9");
            let others = Others::start(&host, 200);
            let more: &[&str] = if owner { &[] } else { &["--no-owner"] };
            let _agent = Agent::start(&host, &path, more);
            policy(&path, peers(), "192.0.2.10");
            timed(
                &format!("the agent follows its policy, owner {owner}"),
                || wait_for("it", || has(&host, "192.0.2.10")),
            );
            if !owner {
                host.sh("nft flush chain inet peerwall input");
                host.sh("nft delete element inet peerwall peers4 '{ 192.0.2.10 }'");
                let whole = || {
                    has(&host, "192.0.2.10")
                        && ruleset(&host)
                            .chain("input")
                            .is_some_and(|chain| !chain.rules.is_empty())
                };
                timed(&format!("a repair, owner {owner}"), || {
                    wait_for("it", whole)
                });
            }
            drop(others);
        }
    });
}

#[test]
fn a_guard_goes_back_while_others_change_theirs_all_the_time() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let text = path.to_str().unwrap();
        policy(&path, peers(), "192.0.2.9");
        let _others = Others::start(&host, 50);
        host.peerwall_ok(&["apply", text]);
        policy(&path, peers(), "192.0.2.10");
        // Looking takes long, where there are many.
        let time = format!("{}s", 5 + peers() / 10_000);
        host.peerwall_ok(&["apply", "--confirm", &time, text]);
        assert!(has(&host, "192.0.2.10"));
        timed("going back", || {
            wait_for("it", || {
                has(&host, "192.0.2.9") && !has(&host, "192.0.2.10")
            })
        });
    });
}
