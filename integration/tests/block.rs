//! `block` and `unblock` with real packets: who stays, what cannot end a block, and what does.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::{Agent, echo, lives, open, wait_for};
use peerwall_integration::traffic::Three;

/// How rules are loaded: backend, and whether by an agent.
const WAYS: [(&str, bool); 4] = [
    ("nft", false),
    ("nft", true),
    ("iptables", false),
    ("iptables", true),
];
const POLICY: &str = r#"
    version = 1
    [peers]
    friend = "192.0.2.2"
    [[allow]]
    name = "web"
    ports = ["22/tcp", "80/tcp"]
    from = "any"
"#;
const SSH: &str = "198.51.100.1:22";
const WEB: &str = "198.51.100.1:80";
const PEER: &str = "192.0.2.1:9100";

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// A blocked host's world: a peer, a stranger with an ssh session, and a policy that is in force.
struct Scene {
    name: String,
    three: Three,
    _folder: tempfile::TempDir,
    policy: PathBuf,
    backend: &'static str,
    agent: Option<Agent>,
    ssh: TcpStream,
}

impl Scene {
    fn new(backend: &'static str, with_agent: bool) -> Self {
        let name = format!("{backend}{with_agent}");
        let three = Three::named(&name);
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        fs::write(&policy, POLICY).unwrap();
        for address in ["0.0.0.0:22", "0.0.0.0:80", "0.0.0.0:9100"] {
            echo(&three.host, address);
        }
        let path = policy.to_str().unwrap();
        three
            .host
            .peerwall_ok(&["apply", "--backend", backend, path]);
        let ssh = open(&three.stranger, SSH);
        let mut scene = Self {
            name,
            three,
            _folder: folder,
            policy,
            backend,
            agent: None,
            ssh,
        };
        if with_agent {
            scene.start_agent();
        }
        scene
    }

    fn host(&self) -> &Host {
        &self.three.host
    }

    fn start_agent(&mut self) {
        let more = ["--backend", self.backend];
        self.agent = Some(Agent::start(self.host(), &self.policy, &more));
    }

    /// Runs a command from the stranger's ssh session.
    fn run(&self, args: &[&str]) -> Output {
        let client = self.ssh.local_addr().unwrap();
        let session = format!("{} {} 198.51.100.1 22", client.ip(), client.port());
        let mut command = self.host().command(peerwall_bin());
        command
            .args(args)
            .env("SSH_CONNECTION", session)
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{}: {args:?}: {}",
            self.name,
            said(&output)
        );
        said(&output)
    }

    fn headline(&self) -> String {
        let output = self.run(&["status", self.policy.to_str().unwrap()]);
        said(&output).lines().next().unwrap().to_owned()
    }

    /// Which of ssh, web and the peer a new connection reaches.
    fn open_now(&self) -> [bool; 3] {
        let from = [
            &self.three.stranger,
            &self.three.stranger,
            &self.three.friend,
        ];
        let mut to = [SSH, WEB, PEER].into_iter();
        from.map(|from| reaches(from, to.next().unwrap()))
    }

    fn check_blocked(&mut self, when: &str) {
        let name = &self.name;
        let headline = self.headline();
        assert!(
            headline.starts_with("BLOCKED since"),
            "{name}, {when}: {headline}"
        );
        assert!(
            headline.contains("are allowed"),
            "{name}, {when}: {headline}"
        );
        assert_eq!(self.open_now(), [true, false, false], "{name}, {when}");
        assert!(lives(&mut self.ssh), "{name}, {when}: the session ended");
    }

    /// Starts without rules and with another boot id, as after a reboot.
    fn reboot(&mut self) {
        let had_agent = self.agent.take().is_some();
        let host = self.host();
        host.try_sh("nft delete table inet peerwall");
        host.try_sh("for v in nft legacy; do for i in iptables ip6tables; do $i-$v -F; $i-$v -X; done; done");
        host.sh(&format!(
            "PEERWALL_BOOT_ID=another {} boot {}",
            peerwall_bin().display(),
            self.policy.display()
        ));
        if had_agent {
            self.start_agent();
        }
    }
}

fn reaches(from: &Host, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    from.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(150)).is_ok())
}

#[test]
fn a_block_stays_until_it_is_ended() {
    world(|| {
        for (backend, with_agent) in WAYS {
            let mut scene = Scene::new(backend, with_agent);
            let name = scene.name.clone();
            let mut others = [
                open(&scene.three.stranger, WEB),
                open(&scene.three.friend, PEER),
            ];
            assert!(others.iter_mut().all(lives), "{name}");
            let text = scene.ok(&["block", "--no-confirm"]);
            assert!(text.contains("ssh from 198.51.100.2"), "{name}: {text}");
            assert!(text.contains("ended 2 open connections"), "{name}: {text}");
            assert!(!others.iter_mut().any(lives), "{name}: they go on");
            scene.check_blocked("at once");
            let text = scene.ok(&["block", "--no-confirm"]);
            assert!(text.contains("already"), "{name}: {text}");

            let path = scene.policy.to_str().unwrap().to_owned();
            let refused: [&[&str]; 4] = [
                &["apply", "--backend", backend, &path],
                &["apply", "--confirm", "60s", "--backend", backend, &path],
                &["rollback"],
                &["remove", "--backend", backend],
            ];
            for args in refused {
                let output = scene.run(args);
                assert_eq!(output.status.code(), Some(2), "{name}: {args:?}");
                let is_remove_by_agent = with_agent && args[0] == "remove";
                let text = said(&output);
                assert!(
                    is_remove_by_agent || text.contains("peerwall unblock"),
                    "{text}"
                );
            }
            fs::write(&scene.policy, format!("{POLICY}# changed\n")).unwrap();
            if with_agent {
                let output = scene.run(&["reload"]);
                assert!(
                    said(&output).contains("peerwall unblock"),
                    "{}",
                    said(&output)
                );
            }
            scene.check_blocked("after a change of the policy");
            if with_agent {
                scene.agent = None;
                scene.check_blocked("without its agent");
                scene.start_agent();
                scene.check_blocked("with a new agent");
            }
            scene.reboot();
            scene.check_blocked("after a reboot");

            fs::write(&scene.policy, POLICY).unwrap();
            let text = scene.ok(&["unblock"]);
            assert!(text.contains(&format!("back to {path}")), "{name}: {text}");
            assert_eq!(scene.open_now(), [true; 3], "{name}");
            assert!(!scene.headline().contains("BLOCKED"), "{name}");
            let output = scene.run(&["unblock"]);
            assert!(said(&output).contains("not blocked"), "{name}");
            let history = scene.ok(&["history"]);
            for word in ["  blocked ", "  unblocked "] {
                assert_eq!(history.matches(word).count(), 1, "{name}: {history}");
            }
        }
    });
}

#[test]
fn a_block_that_nobody_confirms_ends() {
    world(|| {
        for (backend, with_agent) in WAYS {
            let scene = Scene::new(backend, with_agent);
            let name = &scene.name;
            let mut web = open(&scene.three.stranger, WEB);
            let mut peer = open(&scene.three.friend, PEER);
            let text = scene.ok(&["block", "--keep-peers", "--confirm", "2s"]);
            assert!(
                text.contains(", 1 peer\n") && text.contains("2 seconds"),
                "{text}"
            );
            assert!(!lives(&mut web), "{name}: it goes on");
            assert!(lives(&mut peer), "{name}: a peer is kept");
            assert_eq!(scene.open_now(), [true, false, true], "{name}");
            let headline = scene.headline();
            assert!(headline.starts_with("BLOCKED since"), "{name}: {headline}");
            wait_for("the end of the block", || scene.open_now() == [true; 3]);
            wait_for("the record of it", || !scene.headline().contains("BLOCKED"));

            scene.ok(&["block", "--confirm", "60s"]);
            let same = scene.run(&["confirm"]);
            assert_eq!(same.status.code(), Some(2), "{name}: the same session");
            let other = scene.host().peerwall(&["confirm"]);
            assert!(other.status.success(), "{name}: {}", said(&other));
            assert_eq!(scene.open_now(), [true, false, false], "{name}");
            scene.ok(&["unblock"]);
            assert_eq!(scene.open_now(), [true; 3], "{name}");
            // A block on trial ends with `unblock`, too.
            scene.ok(&["block"]);
            scene.ok(&["unblock"]);
            assert_eq!(scene.open_now(), [true; 3], "{name}");
        }
    });
}

#[test]
fn what_a_block_needs_is_checked_first() {
    world(|| {
        let scene = Scene::new("nft", false);
        let before = scene.host().sh("nft -s list ruleset");
        let path = scene.policy.to_str().unwrap();
        let copy = Path::new(path).with_file_name("copy.toml");
        fs::write(&copy, format!("{POLICY}# another\n")).unwrap();
        scene.ok(&["apply", "--confirm", "60s", copy.to_str().unwrap()]);
        for command in [["block", "--no-confirm"], ["unblock", "--force"]] {
            let output = scene.run(&command);
            assert!(said(&output).contains("on trial"), "{}", said(&output));
        }
        scene.ok(&["rollback"]);
        assert_eq!(scene.host().sh("nft -s list ruleset"), before);
        // An audit lets packets pass; a block does not.
        fs::write(path, format!("{POLICY}[options]\nmode = \"audit\"\n")).unwrap();
        scene.ok(&["apply", path]);
        let audited = "198.51.100.1:9100";
        assert!(reaches(&scene.three.stranger, audited));
        scene.ok(&["block", "--no-confirm"]);
        assert!(
            !reaches(&scene.three.stranger, audited),
            "the block is enforced"
        );
        // Without rules, there are no peers to keep, and nothing to go back to.
        let fresh = Host::new("fresh");
        let output = fresh.peerwall(&["block", "--keep-peers"]);
        assert!(said(&output).contains("peers"), "{}", said(&output));
        assert_eq!(output.status.code(), Some(2));
        let json = fresh.peerwall_ok(&["block", "--no-confirm", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["outcome"], "blocked");
        let text = fresh.peerwall_ok(&["unblock"]);
        assert!(text.contains("no policy was in force"), "{text}");
        assert!(!fresh.sh("nft list tables").contains("peerwall"));
    });
}
