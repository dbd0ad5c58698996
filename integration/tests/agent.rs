//! The agent: follows its files, repairs what others do, waits for confirmation, dies at any time.
//!
//! `PEERWALL_ROUNDS` sets how often the rules are destroyed, and the agent killed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

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

/// What has to come comes by then, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(15);

fn rounds(usual: u32) -> u32 {
    std::env::var("PEERWALL_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
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

#[test]
fn files_are_followed_however_they_are_changed() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        fs::create_dir(base.join("..one")).unwrap();
        fs::create_dir(base.join("policy.d")).unwrap();
        write(
            base,
            "..one/policy.toml",
            &format!(
                "include = [\"{}/policy.d/*.toml\"]\n{}",
                base.display(),
                policy(&["192.0.2.1"])
            ),
        );
        symlink("..one", base.join("..data")).unwrap();
        symlink("..data/policy.toml", base.join("policy.toml")).unwrap();
        let path = base.join("policy.toml");
        let agent = Agent::start(&host, &path, &[]);
        let has = |address: &str| agent.wait_for(|| peers(&host).contains(address), address);
        has("192.0.2.1");
        // In place, behind the link.
        write(
            base,
            "..one/policy.toml",
            &format!(
                "include = [\"{}/policy.d/*.toml\"]\n{}",
                base.display(),
                policy(&["192.0.2.2"])
            ),
        );
        has("192.0.2.2");
        // A new file that an include means.
        write(
            base,
            "policy.d/more.toml",
            "[peers]\nmore = \"192.0.2.30\"\n",
        );
        has("192.0.2.30");
        // As the kubelet swaps a ConfigMap.
        fs::create_dir(base.join("..two")).unwrap();
        write(base, "..two/policy.toml", &policy(&["192.0.2.4"]));
        symlink("..two", base.join("..tmp")).unwrap();
        fs::rename(base.join("..tmp"), base.join("..data")).unwrap();
        has("192.0.2.4");
        // As an editor does it.
        write(base, "..two/.policy.toml.swp", "half");
        write(base, "..two/new", &policy(&["192.0.2.5"]));
        fs::rename(base.join("..two/new"), base.join("..two/policy.toml")).unwrap();
        has("192.0.2.5");
        // What is wrong changes nothing, and is told with its line.
        let generation = host.sh("nft -j list ruleset").len();
        write(base, "..two/policy.toml", "version = 1\nnonsense = 1\n");
        agent.wait_for(
            || {
                agent.status().is_some_and(|s| {
                    s["policy_error"]
                        .as_str()
                        .is_some_and(|e| e.contains("policy.toml:2"))
                })
            },
            "the error",
        );
        assert_eq!(host.sh("nft -j list ruleset").len(), generation);
        let reload = host.peerwall(&["reload"]);
        assert!(
            reload.status.code() == Some(2) && said(&reload).contains("nonsense"),
            "{}",
            said(&reload)
        );
        // Read anew when it changes, and by a signal.
        write(base, "..two/policy.toml", &policy(&["192.0.2.6"]));
        has("192.0.2.6");
        assert!(agent.status().unwrap()["policy_error"].is_null());
        agent.signal("HUP");
        let reload = host.peerwall(&["reload"]);
        assert!(
            reload.status.success() && said(&reload).contains("no changes"),
            "{}",
            said(&reload)
        );
        // A second agent, and an apply of another policy, find this one.
        let second = host
            .command(peerwall_bin())
            .arg("run")
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            second.status.code() == Some(2) && said(&second).contains("another agent"),
            "{}",
            said(&second)
        );
        let other = write(base, "other.toml", &policy(&["192.0.2.99"]));
        let apply = host.peerwall(&["apply", other.to_str().unwrap()]);
        assert!(
            apply.status.code() == Some(2) && said(&apply).contains("the agent manages"),
            "{}",
            said(&apply)
        );
        // SIGTERM leaves the rules.
        agent.end();
        assert!(peers(&host).contains("192.0.2.6"));
    });
}

#[test]
fn what_is_left_to_be_discovered_is_waited_for_followed_and_kept() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let env = folder.path().join("run/flannel/subnet.env");
        let text = format!(
            r#"
                {}
                [overlay.flannel]
                backend = "vxlan"
                discover = "{}"
                [[expect]]
                from = "flannel"
                port = "53/udp"
                verdict = "accept"
            "#,
            policy(&["192.0.2.1"]),
            env.display()
        );
        let path = write(folder.path(), "policy.toml", &text);
        let policy = path.to_str().unwrap();
        // By hand nobody would look again.
        let apply = host.peerwall(&["apply", policy]);
        assert!(
            apply.status.code() == Some(2) && said(&apply).contains("cannot read"),
            "{}",
            said(&apply)
        );
        let agent = Agent::start(&host, &path, &[]);
        let overlay = || agent.status().unwrap()["counts"]["overlays"][0].clone();
        assert_eq!(overlay()["discovery"], "awaited");
        let status = said(&host.peerwall(&["status", policy]));
        assert!(
            status.contains("in sync with") && status.contains("waits for"),
            "{status}"
        );
        assert!(peers(&host).contains("192.0.2.1"), "the rest is in force");

        // flannel starts: the folder, the file, the tunnel.
        fs::create_dir_all(env.parent().unwrap()).unwrap();
        let lease = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n";
        fs::write(&env, lease).unwrap();
        let pods = || said(&host.try_sh("nft list set inet peerwall overlay-flannel-ip4-nets"));
        agent.wait_for(|| pods().contains("10.244.0.0/16"), "the pods");
        let tunnel = || said(&host.try_sh("nft list chain inet peerwall input"));
        assert!(tunnel().contains("udp dport 8472"), "{}", tunnel());
        host.sh("ip link add flannel.1 type vxlan id 7 dstport 4789 local 192.0.2.9 nolearning");
        agent.wait_for(|| tunnel().contains("udp dport 4789"), "the tunnel's port");
        assert!(
            overlay()["interface"]
                .as_str()
                .unwrap()
                .contains("vxlan, UDP port 4789, VNI 7, from 192.0.2.9"),
            "{}",
            overlay()
        );
        // Made anew, as flannel does when its configuration changed.
        host.sh(
            "ip link del flannel.1; ip link add flannel.1 type vxlan id 7 dstport 8473 nolearning",
        );
        agent.wait_for(|| tunnel().contains("udp dport 8473"), "the other port");

        // It says something else, then nonsense, then nothing.
        fs::write(&env, lease.replace("10.244", "10.42")).unwrap();
        agent.wait_for(|| pods().contains("10.42.0.0/16"), "the other pods");
        fs::write(&env, "FLANNEL_NETWORK=10.43\n").unwrap();
        agent.wait_for(|| overlay()["discovery"] == "kept", "what was good");
        fs::remove_dir_all(env.parent().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(400));
        assert!(
            pods().contains("10.42.0.0/16") && overlay()["discovery"] == "kept",
            "{}",
            overlay()
        );
        // Other changes are taken meanwhile, also after a restart, also by hand.
        write(
            folder.path(),
            "policy.toml",
            &text.replace("192.0.2.1", "192.0.2.3"),
        );
        agent.wait_for(|| peers(&host).contains("192.0.2.3"), "the change");
        agent.end();
        let apply = host.peerwall(&["apply", policy]);
        assert!(
            apply.status.success() && said(&apply).contains("still used: 10.42.0.0/16"),
            "{}",
            said(&apply)
        );
        let agent = Agent::start(&host, &path, &[]);
        assert!(pods().contains("10.42.0.0/16"));
        fs::create_dir_all(env.parent().unwrap()).unwrap();
        fs::write(&env, lease).unwrap();
        agent.wait_for(|| pods().contains("10.244.0.0/16"), "the pods again");
    });
}

#[test]
fn whatever_others_do_to_the_rules_is_repaired_and_told() {
    world(|| {
        let three = Three::new();
        let host = &three.host;
        let folder = tempfile::tempdir().unwrap();
        let many: Vec<String> = (0..100)
            .map(|i| format!("10.0.0.{i}"))
            .chain(["192.0.2.2".to_owned()])
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let path = write(folder.path(), "policy.toml", &policy(&many));
        let agent = Agent::start(host, &path, &["--no-owner"]);

        // A peer asks, a stranger knocks, both all the time.
        let traffic = Traffic::start(&three, Answers::Some);

        let path = path.to_str().unwrap();
        let in_sync = || host.peerwall(&["plan", path]).status.success();
        let rule = "nft -a list chain inet peerwall input | awk '/ct state established/ { print $NF; exit }'";
        let rounds = rounds(200);
        let mut took: Vec<Duration> = Vec::new();
        for round in 0..rounds {
            match round % 6 {
                0 => drop(host.sh("nft flush ruleset")),
                1 => drop(host.sh("nft delete table inet peerwall")),
                2 => drop(host.sh("nft 'chain inet peerwall input { policy accept; }'")),
                3 => drop(host.sh("nft delete element inet peerwall peers4 '{ 192.0.2.2 }'")),
                4 => drop(host.sh(&format!(
                    "nft delete rule inet peerwall input handle $({rule})"
                ))),
                // Another program that speaks netlink.
                _ => host.run(|| {
                    let mut kernel = Kernel::open().unwrap();
                    converge(&mut kernel, None).unwrap();
                }),
            }
            let start = Instant::now();
            agent.wait_for(in_sync, "the repair");
            took.push(start.elapsed());
        }
        let Totals {
            answered,
            knocked,
            got_in,
        } = traffic.end();
        let status = agent.status().unwrap();
        let culprits = status["last_repair"]["by"].to_string();
        assert!(
            culprits.contains("nft") || culprits.contains("agent"),
            "{status}"
        );
        assert!(
            status["repairs"].as_u64().unwrap() >= u64::from(rounds) / 2,
            "{status}"
        );
        took.sort_unstable();
        println!(
            "{rounds} destructions, each repaired; found in order again within {:?} at most; \
             {answered} requests of the peer answered; {got_in} of {knocked} \
             packets of the stranger got in while there was no table",
            took.last().unwrap(),
        );
        // Tables of others are only told of.
        host.sh("nft add table ip kube-proxy; nft delete table ip kube-proxy");
        agent.wait_for(
            || {
                agent.status().unwrap()["others_gone"]
                    .to_string()
                    .contains("ip kube-proxy")
            },
            "the notice",
        );
        assert!(!host.sh("nft list tables").contains("kube-proxy"));
    });
}

#[test]
fn what_is_owned_nobody_else_can_touch_and_no_stranger_gets_in() {
    world(|| {
        let three = Three::new();
        let host = &three.host;
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.2"]));
        let _agent = Agent::start(host, &path, &[]);
        let traffic = Traffic::start(&three, Answers::All);
        for _ in 0..rounds(200) {
            host.sh("nft flush ruleset");
            assert!(
                !host
                    .try_sh("nft delete table inet peerwall")
                    .status
                    .success(),
                "it is owned"
            );
        }
        let totals = traffic.end();
        assert!(
            totals.got_in == 0 && totals.answered > 0 && totals.knocked > 0,
            "{totals:?}"
        );
    });
}

#[test]
fn a_killed_agent_leaves_the_rules_and_the_next_one_takes_them_over() {
    world(|| {
        let Three {
            host,
            friend,
            stranger,
        } = Three::new();
        let folder = tempfile::tempdir().unwrap();
        let path = write(
            folder.path(),
            "policy.toml",
            &policy(&["192.0.2.2", "10.0.0.1"]),
        );
        let _echo = probe::udp_server(&host, "192.0.2.1:9000");
        let got_in = probe::udp_server(&host, "198.51.100.1:9000");
        Agent::start(&host, &path, &[]).kill();
        let accepted = || {
            let text = host.sh("nft list counter inet peerwall input.peers");
            let words: Vec<&str> = text.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "packets").unwrap();
            words[at + 1].parse::<u64>().unwrap()
        };
        let mut last = 0;
        let rounds = rounds(100);
        let mut command = host.command(peerwall_bin());
        command
            .arg("run")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        for round in 0..rounds {
            let mut child = command.spawn().unwrap();
            // Half of the time it has something to do when it dies.
            if round % 2 == 0 {
                let peer = format!("10.0.0.{}", 1 + round % 7);
                write(folder.path(), "policy.toml", &policy(&["192.0.2.2", &peer]));
            }
            std::thread::sleep(Duration::from_millis(u64::from(round * 37 % 200)));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(
                probe::udp(&friend, "192.0.2.1:9000", Duration::from_secs(5)),
                "round {round}"
            );
            probe::udp(&stranger, "198.51.100.1:9000", Duration::from_millis(1));
            let now = accepted();
            assert!(now >= last, "the counter went back from {last} to {now}");
            last = now;
        }
        assert_eq!(got_in.load(Ordering::Relaxed), 0, "a stranger got in");
        // Who does not want to own what was owned takes it over as well, and changes it.
        write(
            folder.path(),
            "policy.toml",
            &policy(&["192.0.2.2", "10.0.0.77"]),
        );
        let agent = Agent::start(&host, &path, &["--no-owner"]);
        agent.wait_for(
            || peers(&host).contains("10.0.0.77"),
            "the policy, without an owner",
        );
        agent.kill();
        // And whoever comes next converges.
        let agent = Agent::start(&host, &path, &[]);
        agent.wait_for(
            || {
                host.peerwall(&["plan", path.to_str().unwrap()])
                    .status
                    .success()
            },
            "the policy",
        );
        println!("{rounds} agents killed");
    });
}

#[test]
fn an_agent_that_is_killed_while_it_repairs_is_no_hindrance_to_the_next() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let many: Vec<String> = (0..100).map(|i| format!("10.0.0.{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let path = write(folder.path(), "policy.toml", &policy(&many));
        let whole = || {
            host.peerwall(&["plan", path.to_str().unwrap()])
                .status
                .success()
        };
        let mut repaired = 0;
        let rounds = rounds(40);
        for round in 0..rounds {
            let agent = Agent::start(&host, &path, &["--no-owner"]);
            let mut nft = host.command("nft");
            let mut nft = nft
                .args(["delete", "table", "inet", "peerwall"])
                .spawn()
                .unwrap();
            // Before, within and behind its transaction.
            std::thread::sleep(Duration::from_micros(u64::from(round * 3_791 % 40_000)));
            agent.kill();
            assert!(nft.wait().unwrap().success());
            // All of it or nothing.
            let tables = host.sh("nft list tables");
            assert_eq!(
                tables.contains("inet peerwall"),
                whole(),
                "round {round}: {tables}"
            );
            repaired += u32::from(whole());
            let agent = Agent::start(&host, &path, &["--no-owner"]);
            agent.wait_for(whole, "the rules");
            agent.kill();
        }
        println!("{rounds} agents killed in a repair, {repaired} of them when it was made");
    });
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

#[test]
fn what_is_not_confirmed_goes_away_whoever_dies() {
    world(|| {
        for with_agent in [false, true] {
            let name = if with_agent { "with" } else { "without" };
            let host = Host::new(name);
            let folder = tempfile::tempdir().unwrap();
            let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
            let text = path.to_str().unwrap().to_owned();
            let has = |address: &str| peers(&host).contains(address);
            let soon = |done: &dyn Fn() -> bool, what: &str| {
                let start = Instant::now();
                while !done() {
                    assert!(start.elapsed() < PATIENCE, "{name}: {what}");
                    std::thread::sleep(Duration::from_millis(20));
                }
            };
            host.peerwall_ok(&["apply", &text]);
            let mut agent = with_agent.then(|| Agent::start(&host, &path, &["--no-follow"]));
            let try_out = |peer: &str| {
                write(folder.path(), "policy.toml", &policy(&[peer]));
                let output = from_connection(&host, 4000, &["apply", "--confirm", "2s", &text]);
                assert!(output.status.success(), "{name}: {}", said(&output));
                assert!(has(peer), "{name}: {}", said(&output));
            };
            // Confirmed from where it was applied: that shows nothing.
            try_out("192.0.2.2");
            let same = from_connection(&host, 4000, &["confirm"]);
            assert!(
                same.status.code() == Some(2) && said(&same).contains("new ssh connection"),
                "{}",
                said(&same)
            );
            let other = from_connection(&host, 4001, &["confirm"]);
            assert!(other.status.success(), "{}", said(&other));
            std::thread::sleep(Duration::from_secs(3));
            assert!(has("192.0.2.2"), "{name}: it was confirmed");
            // Nobody confirms: terminal and caller are long gone.
            try_out("192.0.2.3");
            soon(
                &|| has("192.0.2.2") && !has("192.0.2.3"),
                "it goes back by itself",
            );
            let late = from_connection(&host, 4001, &["confirm"]);
            assert_eq!(late.status.code(), Some(2), "{}", said(&late));
            // The agent dies.
            try_out("192.0.2.4");
            if let Some(agent) = agent.take() {
                agent.kill();
            }
            soon(
                &|| has("192.0.2.2") && !has("192.0.2.4"),
                "it goes back though the agent is dead",
            );
            // The machine starts anew: no rules, another boot, and what was confirmed last is
            // loaded.
            try_out("192.0.2.5");
            host.sh("nft flush ruleset");
            let mut boot = host.command(peerwall_bin());
            let output = boot
                .args(["boot", &text])
                .env("PEERWALL_BOOT_ID", "another")
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", said(&output));
            assert!(
                has("192.0.2.2") && !has("192.0.2.5"),
                "{name}: {}",
                said(&output)
            );
            // An agent that is started then does not take it either, until it changes.
            let agent = Agent::start(&host, &path, &[]);
            std::thread::sleep(Duration::from_millis(300));
            assert!(
                has("192.0.2.2") && !has("192.0.2.5"),
                "{name}: {} {}",
                peers(&host),
                said(&host.peerwall(&["status", &text]))
            );
            write(folder.path(), "policy.toml", &policy(&["192.0.2.6"]));
            soon(&|| has("192.0.2.6"), "a changed policy is taken");
            // What each of them changed is known.
            let change =
                "- element peers4 192.0.2.2 comment \"friends\"\n      + element peers4 192.0.2.6";
            soon(
                &|| said(&host.peerwall(&["history"])).contains(change),
                "the change in the history",
            );
            let one: serde_json::Value =
                serde_json::from_str(&host.peerwall_ok(&["history", "--json"])).unwrap();
            let last = one["confirmed"].as_array().unwrap().last().unwrap();
            assert!(
                last["change"]["added"].as_array().unwrap().len() == 1,
                "{one}"
            );
            let number = last["number"].to_string();
            assert!(
                host.peerwall_ok(&["history", &number])
                    .contains("192.0.2.6")
            );
            assert_eq!(host.peerwall(&["history", "99"]).status.code(), Some(2));
            // And at any time one can go back.
            host.peerwall_ok(&["rollback"]);
            assert!(has("192.0.2.2") && !has("192.0.2.6"), "{name}");
            drop(agent);
        }
    });
}

#[test]
fn a_copy_can_be_tried_out_while_the_agent_keeps_its_policy() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        let copy = write(folder.path(), "copy.toml", &policy(&["192.0.2.2"]));
        let (text, copied) = (path.to_str().unwrap(), copy.to_str().unwrap());
        let agent = Agent::start(&host, &path, &[]);
        let has = |address: &str| peers(&host).contains(address);
        let apply = |args: &[&str]| from_connection(&host, 4000, &[&["apply"], args].concat());
        // What is followed is in force before anybody can ask for a confirmation, which is said.
        let late = apply(&["--confirm", "60s", text]);
        assert!(
            late.status.code() == Some(2) && said(&late).contains("in force already"),
            "{}",
            said(&late)
        );
        // A copy that is wrong changes nothing, and the policy is none the worse for it.
        let wrong = write(folder.path(), "wrong.toml", "version = 7\n");
        let output = apply(&["--confirm", "60s", wrong.to_str().unwrap()]);
        assert!(
            output.status.code() == Some(2) && said(&output).contains("version 7"),
            "{}",
            said(&output)
        );
        assert!(agent.status().unwrap()["policy_error"].is_null() && has("192.0.2.1"));
        // Not confirmed, it goes; an event in its folder does not end it before.
        let output = apply(&["--confirm", "2s", copied]);
        assert!(
            output.status.success() && has("192.0.2.2"),
            "{}",
            said(&output)
        );
        write(folder.path(), "unrelated.txt", "");
        std::thread::sleep(Duration::from_millis(500));
        assert!(has("192.0.2.2"), "it is tried out");
        agent.wait_for(|| has("192.0.2.1"), "the policy");
        // Nor does the agent's death.
        let output = apply(&["--confirm", "3s", copied]);
        assert!(output.status.success(), "{}", said(&output));
        agent.kill();
        let agent = Agent::start(&host, &path, &[]);
        assert!(has("192.0.2.2"), "it is tried out still");
        agent.wait_for(|| has("192.0.2.1"), "the policy");
        // Confirmed, it stays, and becomes the policy by being moved there.
        assert!(apply(&["--confirm", "60s", copied]).status.success());
        let confirm = from_connection(&host, 4001, &["confirm"]);
        assert!(
            confirm.status.success() && said(&confirm).contains(&format!("mv {copied} {text}")),
            "{}",
            said(&confirm)
        );
        std::thread::sleep(Duration::from_millis(500));
        assert!(has("192.0.2.2"));
        fs::rename(&copy, &path).unwrap();
        agent.wait_for(
            || host.peerwall(&["plan", text]).status.success(),
            "the policy that was moved there",
        );
        // The policy changes during a trial: it waits until that is over.
        fs::write(&copy, policy(&["192.0.2.8"])).unwrap();
        assert!(apply(&["--confirm", "60s", copied]).status.success());
        write(folder.path(), "policy.toml", &policy(&["192.0.2.9"]));
        std::thread::sleep(Duration::from_millis(500));
        assert!(has("192.0.2.8") && !has("192.0.2.9"));
        host.peerwall_ok(&["rollback"]);
        agent.wait_for(|| has("192.0.2.9"), "the policy that changed meanwhile");
        write(folder.path(), "policy.toml", &policy(&["192.0.2.2"]));
        agent.wait_for(|| has("192.0.2.2"), "the policy");
        // Moved there before it was confirmed: that is no confirmation either.
        fs::write(&copy, policy(&["192.0.2.3"])).unwrap();
        assert!(apply(&["--confirm", "2s", copied]).status.success());
        fs::rename(&copy, &path).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert!(has("192.0.2.3"));
        agent.wait_for(
            || has("192.0.2.2") && !has("192.0.2.3"),
            "what was confirmed",
        );
        agent.kill();
        let _agent = Agent::start(&host, &path, &[]);
        std::thread::sleep(Duration::from_millis(500));
        assert!(
            has("192.0.2.2") && !has("192.0.2.3"),
            "a restart does not take it either"
        );
    });
}

#[test]
fn stopping_is_no_confirmation() {
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        for (name, with_agent, stopped, signal) in [
            ("agent-term", true, "run", "TERM"),
            ("agent-int", true, "run", "INT"),
            ("guard-term", false, "guard", "TERM"),
            ("guard-int", false, "guard", "INT"),
            // At logout systemd sends this along.
            ("guard-hup", false, "guard", "HUP"),
            // As a unit with both is stopped.
            ("both", true, "run|guard", "TERM"),
        ] {
            let host = Host::new(name);
            let base = folder.path().join(name);
            fs::create_dir(&base).unwrap();
            let path = write(&base, "policy.toml", &policy(&["192.0.2.1"]));
            let copy = write(&base, "copy.toml", &policy(&["192.0.2.2"]));
            host.peerwall_ok(&["apply", path.to_str().unwrap()]);
            let agent = with_agent.then(|| Agent::start(&host, &path, &[]));
            host.peerwall_ok(&["apply", "--confirm", "60s", copy.to_str().unwrap()]);
            assert!(peers(&host).contains("192.0.2.2"), "{name}");
            // Once it has run for a moment, and listens to signals.
            std::thread::sleep(Duration::from_millis(300));
            host.sh(&format!(
                "pkill -{signal} --full 'peerwall ({stopped})( |$)'"
            ));
            let start = Instant::now();
            while peers(&host).contains("192.0.2.2") {
                assert!(
                    start.elapsed() < PATIENCE,
                    "{name}: the trial is still in force"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(peers(&host).contains("192.0.2.1"), "{name}");
            if let Some(mut agent) = agent {
                assert!(agent.child.wait().unwrap().success(), "{name}");
            }
            // A guard that is not needed any more goes by itself.
            let start = Instant::now();
            while host
                .try_sh("pgrep --full 'peerwall guard$'")
                .status
                .success()
            {
                assert!(
                    start.elapsed() < PATIENCE,
                    "{name}: the guard is still there"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            let trail = host.sh("tail -n 1 $PEERWALL_STATE/audit.log");
            assert!(
                trail.contains("\"stopped\"") && trail.contains("copy.toml"),
                "{name}: {trail}"
            );
            let late = host.peerwall(&["confirm"]);
            assert!(
                said(&late).contains("nothing waits"),
                "{name}: {}",
                said(&late)
            );
        }
    });
}

#[test]
fn a_guard_does_without_a_systemd_that_refuses_or_is_silent() {
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        let copy = write(folder.path(), "copy.toml", &policy(&["192.0.2.2"]));
        fs::create_dir_all("/run/systemd").unwrap();
        let systemd = UnixListener::bind("/run/systemd/private").unwrap();
        for (name, answer) in [
            ("silent", &b""[..]),
            ("refuses", b"REJECTED EXTERNAL\r\n"),
            ("strange", &[b'\n'; 4096]),
        ] {
            let host = Host::new(name);
            host.peerwall_ok(&["apply", path.to_str().unwrap()]);
            host.peerwall_ok(&["apply", "--confirm", "3s", copy.to_str().unwrap()]);
            let (mut guard, _) = systemd.accept().unwrap();
            let _ = guard.write_all(answer);
            let start = Instant::now();
            while peers(&host).contains("192.0.2.2") {
                assert!(
                    start.elapsed() < PATIENCE,
                    "{name}: the trial is still in force"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(peers(&host).contains("192.0.2.1"), "{name}");
        }
    });
}

#[test]
fn whenever_the_agent_is_killed_what_is_not_confirmed_goes() {
    world(|| {
        // Many at once, since each has to wait for its time to be over.
        const HOSTS: u32 = 12;
        let each = rounds(24).div_ceil(HOSTS);
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for number in 0..HOSTS {
                let host = Host::new(&format!("host{number}"));
                let base = folder.path().join(number.to_string());
                fs::create_dir(&base).unwrap();
                threads.spawn(move || {
                    for round in 0..each {
                        let (old, new) = ("192.0.2.1", format!("192.0.2.{}", 2 + round % 200));
                        let path = write(&base, "policy.toml", &policy(&[old]));
                        let agent = Agent::start(&host, &path, &["--no-follow"]);
                        write(&base, "policy.toml", &policy(&[old, &new]));
                        host.peerwall_ok(&["reload", "--confirm", "2s"]);
                        assert!(peers(&host).contains(&new));
                        let chance = u64::from(number * 97 + round * 131);
                        std::thread::sleep(Duration::from_millis(chance % 1900));
                        agent.kill();
                        // Another comes before or after the time is over.
                        std::thread::sleep(Duration::from_millis(chance * 7 % 2600));
                        let chain = host.sh("nft list chain inet peerwall input");
                        assert!(chain.contains("policy drop"), "never open: {chain}");
                        let agent = Agent::start(&host, &path, &["--no-follow"]);
                        agent.wait_for(|| !peers(&host).contains(&new), "the way back");
                        assert!(peers(&host).contains(old));
                        // Nor does it come back later.
                        std::thread::sleep(Duration::from_millis(1200));
                        assert!(!peers(&host).contains(&new), "round {round}");
                        agent.kill();
                    }
                });
            }
        });
        println!(
            "{} agents killed while something waited to be confirmed",
            each * HOSTS
        );
    });
}

#[test]
fn a_machine_that_starts_is_never_open() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", "version = 1\nnonsense = 1\n");
        let text = path.to_str().unwrap();
        // Nothing was ever confirmed, and the policy is wrong.
        let output = host.peerwall(&["boot", text]);
        assert!(
            output.status.code() == Some(2) && said(&output).contains("closed now"),
            "{}",
            said(&output)
        );
        let chain = host.sh("nft list chain inet peerwall input");
        assert!(
            chain.contains("policy drop") && chain.contains("dport 22"),
            "{chain}"
        );
        // The policy is right: it is applied.
        write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        host.peerwall_ok(&["boot", text]);
        assert!(peers(&host).contains("192.0.2.1"));
        host.peerwall_ok(&["apply", text]);
        // It is wrong again, and what was confirmed does not need it.
        write(folder.path(), "policy.toml", "nonsense");
        host.sh("nft flush ruleset");
        host.peerwall_ok(&["boot", text]);
        assert!(peers(&host).contains("192.0.2.1"));
    });
}

#[test]
fn who_would_lock_himself_out_is_told_before() {
    world(|| {
        let Three { host, stranger, .. } = Three::new();
        let listener = host.run(|| TcpListener::bind("198.51.100.1:22").unwrap());
        let _client = stranger.run(|| TcpStream::connect("198.51.100.1:22").unwrap());
        let (accepted, _) = listener.accept().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let closed = write(
            folder.path(),
            "policy.toml",
            r#"
                version = 1
                [peers]
                friend = "192.0.2.2"
                [options]
                revoke = "keep"
            "#,
        );
        let apply = |ssh: &str, more: &[&str]| {
            let mut command = host.command(peerwall_bin());
            command
                .arg("apply")
                .args(more)
                .arg(&closed)
                .env("SSH_CONNECTION", ssh)
                .output()
                .unwrap()
        };
        let output = apply("198.51.100.2 4000 198.51.100.1 22", &[]);
        assert!(
            output.status.code() == Some(2) && said(&output).contains("would not let you in again"),
            "{}",
            said(&output)
        );
        assert!(
            !host.sh("nft list tables").contains("peerwall"),
            "nothing was changed"
        );
        // sudo takes the variable away; the shell above has it.
        let shell = format!(
            "SSH_CONNECTION='198.51.100.2 4000 198.51.100.1 22' sh -c 'env -u SSH_CONNECTION {} \
             apply {}; exit $?'",
            peerwall_bin().display(),
            closed.display()
        );
        let output = host.try_sh(&shell);
        assert!(
            !output.status.success() && said(&output).contains("would not let you in again"),
            "{}",
            said(&output)
        );
        assert!(
            apply("192.0.2.2 4000 192.0.2.1 22", &[]).status.success(),
            "a peer is let in"
        );
        assert!(
            apply("198.51.100.2 4000 198.51.100.1 22", &["--force"])
                .status
                .success()
        );
        // By the agent as well.
        let _agent = Agent::start(&host, &closed, &[]);
        let output = apply("198.51.100.2 4000 198.51.100.1 22", &[]);
        assert!(
            output.status.code() == Some(2) && said(&output).contains("would not let you in again"),
            "{}",
            said(&output)
        );

        // An ssh server that has the connection; nothing in any environment.
        let server = folder.path().join("sshd");
        fs::copy("/bin/sh", &server).unwrap();
        let beneath = |shell: &str| {
            let mut command = host.command(&server);
            let stream = std::os::fd::OwnedFd::from(accepted.try_clone().unwrap());
            command
                .args(["-c", &format!("{shell}; exit $?")])
                .stdin(Stdio::from(stream));
            command.env_remove("SSH_CONNECTION");
            command
        };
        let (bin, closed) = (
            peerwall_bin().display().to_string(),
            closed.display().to_string(),
        );
        let apply = beneath(&format!("{bin} apply {closed} </dev/null"))
            .output()
            .unwrap();
        assert!(
            apply.status.code() == Some(2)
                && said(&apply)
                    .contains("let you in again: a new connection from 198.51.100.2 to port 22"),
            "{}",
            said(&apply)
        );

        // In tmux the server is not above: whoever is here by ssh may be the caller.
        let mut session = beneath("sleep 60").spawn().unwrap();
        let at_terminal = |more: &str| {
            let shell = format!("script -qec 'exec {bin} apply {more} {closed}' /dev/null");
            host.command("sh")
                .args(["-c", &shell])
                .env_remove("SSH_CONNECTION")
                .output()
                .unwrap()
        };
        let apply = at_terminal("");
        assert!(
            apply.status.code() == Some(2)
                && said(&apply).contains("block every current ssh session"),
            "{}",
            said(&apply)
        );
        // A script that nobody sits at is not asked, and who insists gets it.
        host.peerwall_ok(&["apply", &closed]);
        assert!(at_terminal("--force").status.success());
        session.kill().unwrap();
        session.wait().unwrap();
    });
}

#[test]
fn by_iptables_too() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "{}[options]\nbackend = \"iptables\"\n",
            policy(&["192.0.2.1"])
        );
        let path = write(folder.path(), "policy.toml", &text);
        let agent = Agent::start(&host, &path, &["--backend", "iptables"]);
        let rules = || host.sh("iptables-save");
        assert!(rules().contains("-s 192.0.2.1/32"), "{}", rules());
        write(
            folder.path(),
            "policy.toml",
            &text.replace("192.0.2.1", "192.0.2.2"),
        );
        // Read back and confirmed, too: both come after the rules can be seen.
        let confirmed = || said(&host.peerwall(&["history"])).contains("   2  ");
        agent.wait_for(
            || rules().contains("-s 192.0.2.2/32") && confirmed(),
            "the change",
        );
        host.sh("iptables -F PEERWALL-INPUT");
        agent.wait_for(
            || rules().contains("-A PEERWALL-INPUT -s 192.0.2.2/32"),
            "the repair",
        );
        let no_table = || !host.sh("nft list tables").contains("inet peerwall");
        assert!(no_table());
        // Without the agent as well: what is not confirmed goes, and the start of the machine and
        // the way back take the same backend.
        agent.end();
        let apply = |peer: &str, more: &[&str]| {
            write(
                folder.path(),
                "policy.toml",
                &text.replace("192.0.2.1", peer),
            );
            let output = from_connection(
                &host,
                4000,
                &[&["apply"], more, &[path.to_str().unwrap()]].concat(),
            );
            assert!(
                output.status.success() && rules().contains(&format!("-s {peer}/32")),
                "{}",
                said(&output)
            );
        };
        let soon = |peer: &str| {
            let start = Instant::now();
            while !rules().contains(&format!("-s {peer}/32")) {
                assert!(start.elapsed() < PATIENCE, "{}", rules());
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        apply("192.0.2.3", &["--confirm", "2s"]);
        soon("192.0.2.2");
        apply("192.0.2.4", &["--confirm", "60s"]);
        let confirm = from_connection(&host, 4001, &["confirm"]);
        assert!(confirm.status.success(), "{}", said(&confirm));
        host.sh("iptables -F; iptables -X; ip6tables -F; ip6tables -X");
        host.peerwall_ok(&["boot", path.to_str().unwrap()]);
        soon("192.0.2.4");
        host.peerwall_ok(&["rollback"]);
        soon("192.0.2.2");
        assert!(no_table());
    });
}

#[test]
fn metrics_are_written_and_served_where_they_are_wanted() {
    world(|| {
        let host = Host::new("host");
        host.sh("ip link set lo up");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        let file = folder.path().join("peerwall.prom");
        let socket = folder.path().join("metrics.sock");
        let check = |text: &str| {
            for line in [
                "peerwall_in_sync 1",
                "peerwall_applies_total 1",
                "peerwall_set_elements{set=\"peers4\"} 1",
                "# EOF",
            ] {
                assert!(text.contains(line), "{line}\n{text}");
            }
        };
        let ask = |stream: &mut dyn ReadWrite| {
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        let port = "127.0.0.1:9469";
        let agent = Agent::start(
            &host,
            &path,
            &[
                "--metrics-file",
                file.to_str().unwrap(),
                "--metrics-listen",
                port,
            ],
        );
        agent.wait_for(|| file.exists(), "the file");
        check(&fs::read_to_string(&file).unwrap());
        let mut stream = host.run(|| TcpStream::connect(port).unwrap());
        check(&ask(&mut stream));
        // Killed, it leaves its socket, and takes it again.
        agent.kill();
        let listen = format!("unix:{}", socket.display());
        Agent::start(&host, &path, &["--metrics-listen", &listen]).kill();
        assert!(socket.exists());
        let agent = Agent::start(&host, &path, &["--metrics-listen", &listen]);
        check(&ask(
            &mut std::os::unix::net::UnixStream::connect(&socket).unwrap()
        ));
        agent.end();
        assert!(!socket.exists());
        // What is not for everybody is not offered to everybody.
        let output = host.peerwall(&[
            "run",
            path.to_str().unwrap(),
            "--metrics-listen",
            "0.0.0.0:9469",
        ]);
        assert!(
            output.status.code() == Some(2) && said(&output).contains("loopback"),
            "{}",
            said(&output)
        );
    });
}

/// A stream of either kind.
trait ReadWrite: std::io::Read + std::io::Write {}
impl<T: std::io::Read + std::io::Write> ReadWrite for T {}

#[test]
fn edits_under_traffic_are_old_or_new_and_nothing_between() {
    world(|| {
        let three = Three::new();
        let host = &three.host;
        let other = Host::new("other");
        wire(
            host,
            "eth2",
            &["203.0.113.1/24"],
            &other,
            "eth0",
            &["203.0.113.9/24"],
        );
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.2"]));
        let _agent = Agent::start(host, &path, &[]);
        let _echo_other = probe::udp_server(host, "203.0.113.1:9000");
        // A peer in every policy is answered always; who is in none never gets in.
        let traffic = Traffic::start(&three, Answers::All);
        let rounds = rounds(60);
        // Which edits is by chance, and the same each time.
        let mut chance: u32 = 2_463_534_242;
        for round in 0..rounds {
            chance ^= chance << 13;
            chance ^= chance >> 17;
            chance ^= chance << 5;
            let let_in = chance.is_multiple_of(2);
            let mut peers = vec!["192.0.2.2".to_owned()];
            peers.extend(let_in.then(|| "203.0.113.9".to_owned()));
            peers.extend((0..chance >> 3 & 31).map(|i| format!("10.{}.0.{i}", chance & 63)));
            let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
            write(folder.path(), "policy.toml", &policy(&peers));
            host.peerwall_ok(&["reload"]);
            let wait = if let_in {
                Duration::from_secs(5)
            } else {
                Duration::from_millis(3)
            };
            let answered = probe::udp(&other, "203.0.113.1:9000", wait);
            assert_eq!(
                answered, let_in,
                "round {round}: what is acknowledged is in force"
            );
        }
        let totals = traffic.end();
        assert_eq!(totals.got_in, 0);
        println!(
            "{rounds} edits, {} requests of the peer, all answered",
            totals.answered
        );
    });
}

/// Sends back what it is sent, over TCP.
fn echo(host: &Host, addresses: &[&str]) {
    for address in addresses {
        let listener = host.run(|| TcpListener::bind(address).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut buffer = [0; 16];
                    while let Ok(len) = stream.read(&mut buffer) {
                        if len == 0 || stream.write_all(&buffer[..len]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }
}

fn open(from: &Host, to: &str) -> TcpStream {
    let stream = from.run(|| TcpStream::connect(to).unwrap());
    let wait = Some(Duration::from_millis(500));
    stream.set_read_timeout(wait).unwrap();
    stream
}

/// Whether what is sent comes back.
fn lives(stream: &mut TcpStream) -> bool {
    stream.write_all(b"?").is_ok() && stream.read(&mut [0; 16]).is_ok_and(|len| len > 0)
}

#[test]
fn open_connections_of_who_is_no_peer_any_more_end_and_no_others() {
    world(|| {
        let Three {
            host,
            friend,
            stranger,
        } = Three::new();
        let folder = tempfile::tempdir().unwrap();
        let both = policy(&["192.0.2.2", "198.51.100.2"]);
        let path = write(folder.path(), "policy.toml", &both);
        let text = path.to_str().unwrap().to_owned();
        echo(
            &host,
            &["192.0.2.1:9100", "198.51.100.1:9100", "198.51.100.1:22"],
        );
        for (with_agent, backend) in [
            (false, "nft"),
            (true, "nft"),
            (false, "iptables"),
            (true, "iptables"),
        ] {
            write(folder.path(), "policy.toml", &both);
            let by = ["--backend", backend];
            host.peerwall_ok(&["apply", by[0], by[1], &text]);
            let agent = with_agent.then(|| Agent::start(&host, &path, &by));
            let mut of_peer = open(&friend, "192.0.2.1:9100");
            let mut of_revoked = open(&stranger, "198.51.100.1:9100");
            let mut to_ssh = open(&stranger, "198.51.100.1:22");
            for stream in [&mut of_peer, &mut of_revoked, &mut to_ssh] {
                assert!(lives(stream));
            }
            // Said before it is done, and not done where the policy says so.
            let fewer = policy(&["192.0.2.2"]);
            let keeping = write(
                folder.path(),
                "keeping.toml",
                &format!("{fewer}[options]\nrevoke = \"keep\"\n"),
            );
            let fewer = write(folder.path(), "fewer.toml", &fewer);
            let plan = said(&host.peerwall(&["plan", by[0], by[1], fewer.to_str().unwrap()]));
            // Those of the last round may still try.
            let named = " of friends (198.51.100.2) to this host, 9100/tcp (input-default)";
            assert!(
                plan.contains("would end:\n")
                    && plan.contains(named)
                    && !plan.contains("would stay open"),
                "{plan}"
            );
            let plan = said(&host.peerwall(&["plan", by[0], by[1], keeping.to_str().unwrap()]));
            assert!(
                !plan.contains("would end")
                    && plan.contains(named)
                    && plan.contains(
                        "would stay open, although the policy refuses new connections like this:\n"
                    ),
                "{plan}"
            );
            assert!(lives(&mut of_revoked));
            fs::copy(&fewer, &path).unwrap();
            let output = host.peerwall(&["apply", by[0], by[1], &text]);
            assert!(output.status.success(), "{}", said(&output));
            assert!(lives(&mut of_peer) && lives(&mut to_ssh), "others go on");
            assert!(!lives(&mut of_revoked), "{}", said(&output));
            drop(agent);
        }
    });
}

#[test]
fn what_came_in_while_the_rules_were_not_there_ends() {
    world(|| {
        let three = Three::new();
        let Three {
            host,
            friend,
            stranger,
        } = &three;
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.2"]));
        echo(host, &["192.0.2.1:9100", "198.51.100.1:9100"]);
        // The kernel tracks connections once somebody wants that.
        host.sh("nft add table ip tracking; nft 'add chain ip tracking in \
            { type filter hook input priority 0; }'; \
            nft add rule ip tracking in ct state new accept");
        // Admitted by no policy: the first load ends it.
        let mut older = open(stranger, "198.51.100.1:9100");
        assert!(lives(&mut older));
        let agent = Agent::start(host, &path, &["--no-owner"]);
        assert!(
            !lives(&mut older),
            "what was there before any rules ends with the first load"
        );
        let mut of_peer = open(friend, "192.0.2.1:9100");
        assert!(lives(&mut of_peer));
        // It cannot repair anything, and somebody takes the table away.
        agent.signal("STOP");
        host.sh("nft delete table inet peerwall");
        let mut got_in = open(stranger, "198.51.100.1:9100");
        assert!(lives(&mut got_in));
        agent.signal("CONT");
        // Though both ends keep talking.
        agent.wait_for(|| !lives(&mut got_in.try_clone().unwrap()), "the end of it");
        assert!(lives(&mut of_peer), "a peer's goes on");
    });
}

#[test]
fn a_policy_that_others_can_write_is_not_taken() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        let text = path.to_str().unwrap();
        let mode =
            |mode: u32| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o664);
        let apply = host.peerwall(&["apply", text]);
        assert!(
            apply.status.code() == Some(2) && said(&apply).contains("can be written by others"),
            "{}",
            said(&apply)
        );
        assert!(!host.sh("nft list tables").contains("peerwall"));
        host.peerwall_ok(&["check", text]);
        host.peerwall_ok(&["apply", "--insecure-permissions", text]);
        mode(0o644);
        let agent = Agent::start(&host, &path, &[]);
        mode(0o666);
        write(folder.path(), "policy.toml", &policy(&["192.0.2.2"]));
        agent.wait_for(
            || {
                agent
                    .status()
                    .is_some_and(|s| s["policy_error"].to_string().contains("written by others"))
            },
            "the refusal",
        );
        assert!(!peers(&host).contains("192.0.2.2"));
        mode(0o600);
        agent.wait_for(|| peers(&host).contains("192.0.2.2"), "the change");
    });
}

#[test]
fn a_changed_backend_leaves_nothing_of_the_other() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let text = |backend: &str| {
            format!(
                "{}[options]\nbackend = \"{backend}\"\n",
                policy(&["192.0.2.1"])
            )
        };
        let path = write(folder.path(), "policy.toml", &text("nft"));
        let agent = Agent::start(&host, &path, &[]);
        let has_table = || host.try_sh("nft list table inet peerwall").status.success();
        let has_chains =
            || said(&host.try_sh("iptables-nft -S; iptables-legacy -S")).contains("PEERWALL");
        assert!(has_table() && !has_chains());
        for (backend, by_nft) in [("iptables", false), ("nft", true)] {
            write(folder.path(), "policy.toml", &text(backend));
            agent.wait_for(|| has_table() == by_nft && has_chains() != by_nft, backend);
        }
    });
}

#[test]
fn a_trial_by_the_other_backend_goes_back_to_the_first() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let text = |backend: &str, peer: &str| {
            format!("{}[options]\nbackend = \"{backend}\"\n", policy(&[peer]))
        };
        let has_table = || host.try_sh("nft list table inet peerwall").status.success();
        let has_chains =
            || said(&host.try_sh("iptables-nft -S; iptables-legacy -S")).contains("PEERWALL");
        for (first, other) in [("nft", "iptables"), ("iptables", "nft")] {
            let path = write(folder.path(), "policy.toml", &text(first, "192.0.2.1"));
            let copy = write(folder.path(), "copy.toml", &text(other, "192.0.2.2"));
            let (path_text, copy_text) = (path.to_str().unwrap(), copy.to_str().unwrap());
            for with_agent in [false, true] {
                let agent = with_agent.then(|| Agent::start(&host, &path, &[]));
                if agent.is_none() {
                    host.peerwall_ok(&["apply", path_text]);
                }
                let is_by = |backend: &str| {
                    has_table() == (backend == "nft") && has_chains() == (backend == "iptables")
                };
                assert!(is_by(first), "{first}, agent: {with_agent}");
                let tried = from_connection(&host, 4000, &["apply", "--confirm", "2s", copy_text]);
                assert!(
                    tried.status.success() && is_by(other),
                    "{other}, agent: {with_agent}: {}",
                    said(&tried)
                );
                wait_for("the first backend", || is_by(first));
                // Confirmed, it stays where it was tried.
                let copy = write(
                    folder.path(),
                    "copy.toml",
                    &text(other, if with_agent { "192.0.2.4" } else { "192.0.2.3" }),
                );
                let tried = from_connection(
                    &host,
                    4000,
                    &["apply", "--confirm", "60s", copy.to_str().unwrap()],
                );
                assert!(tried.status.success(), "{}", said(&tried));
                assert!(from_connection(&host, 4001, &["confirm"]).status.success());
                assert!(is_by(other), "{other}, agent: {with_agent}");
                host.peerwall_ok(&["rollback"]);
                assert!(
                    is_by(first),
                    "{first} after the rollback, agent: {with_agent}"
                );
            }
            host.peerwall_ok(&["remove"]);
        }
    });
}
