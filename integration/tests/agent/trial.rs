//! Trials: confirmation, rollback, and the guard.

use super::*;

/// A host with a policy that was applied, on which others are tried.
struct Tried {
    name: &'static str,
    host: Host,
    folder: tempfile::TempDir,
    path: String,
}

/// The peers of the applied policy, and of the one on trial.
const OLD: &str = "192.0.2.1";
const NEW: &str = "192.0.2.2";

impl Tried {
    /// Makes the host, and applies the first policy.
    fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&[OLD]));
        let tried = Self {
            name,
            host: Host::new(name),
            path: path.to_str().unwrap().to_owned(),
            folder,
        };
        tried.host.peerwall_ok(&["apply", &tried.path]);
        tried
    }

    /// Makes a host without an agent, and one for an agent.
    fn both() -> [(Self, bool); 2] {
        [("without", false), ("with", true)].map(|(name, with_agent)| (Self::new(name), with_agent))
    }

    fn agent(&self, more: &[&str]) -> Agent<'_> {
        Agent::start(&self.host, Path::new(&self.path), more)
    }

    fn write(&self, peer: &str) {
        write(self.folder.path(), "policy.toml", &policy(&[peer]));
    }

    /// Applies the new policy on trial, from the connection with port 4000.
    fn try_out(&self, time: &str) {
        self.write(NEW);
        let apply = ["apply", "--confirm", time, &self.path];
        let output = from_connection(&self.host, 4000, &apply);
        let text = said(&output);
        assert!(
            output.status.success() && self.has(NEW),
            "{}: {text}",
            self.name
        );
    }

    fn confirm(&self, port: u16) -> (Option<i32>, String) {
        let output = from_connection(&self.host, port, &["confirm"]);
        (output.status.code(), said(&output))
    }

    fn has(&self, peer: &str) -> bool {
        peers(&self.host).contains(peer)
    }

    fn is_old(&self) -> bool {
        self.has(OLD) && !self.has(NEW)
    }

    fn soon(&self, done: impl Fn() -> bool, what: &str) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "{}: {what}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_trial_is_confirmed_from_a_new_connection_only() {
    world(|| {
        for (tried, with_agent) in Tried::both() {
            let name = tried.name;
            let _agent = with_agent.then(|| tried.agent(&["--no-follow"]));
            tried.try_out("2s");
            let (code, text) = tried.confirm(4000);
            let is_refused = code == Some(2) && text.contains("new ssh connection");
            assert!(is_refused, "{name}: {text}");
            let (code, text) = tried.confirm(4001);
            assert_eq!(code, Some(0), "{name}: {text}");
            std::thread::sleep(Duration::from_secs(3));
            assert!(tried.has(NEW), "{name}: it was confirmed");
        }
    });
}

#[test]
fn a_trial_that_nobody_confirms_is_rolled_back() {
    world(|| {
        for (tried, with_agent) in Tried::both() {
            let _agent = with_agent.then(|| tried.agent(&["--no-follow"]));
            // The command and its connection have ended by then.
            tried.try_out("2s");
            tried.soon(|| tried.is_old(), "it is rolled back automatically");
            let (code, text) = tried.confirm(4001);
            assert_eq!(code, Some(2), "{}: {text}", tried.name);
        }
    });
}

#[test]
fn a_trial_is_rolled_back_though_the_agent_dies() {
    world(|| {
        let tried = Tried::new("host");
        let agent = tried.agent(&["--no-follow"]);
        tried.try_out("2s");
        agent.kill();
        assert!(tried.has(NEW), "its time is not over");
        tried.soon(|| tried.is_old(), "the guard rolls it back");
    });
}

#[test]
fn a_reboot_during_a_trial_loads_what_was_confirmed() {
    world(|| {
        for (tried, with_agent) in Tried::both() {
            let name = tried.name;
            let agent = with_agent.then(|| tried.agent(&["--no-follow"]));
            tried.try_out("60s");
            if let Some(agent) = agent {
                agent.kill();
            }
            // A reboot: no rules, and another boot id.
            tried.host.sh("nft flush ruleset");
            let mut boot = tried.host.command(peerwall_bin());
            boot.args(["boot", &tried.path]);
            let output = boot.env("PEERWALL_BOOT_ID", "another").output().unwrap();
            let text = said(&output);
            assert!(output.status.success() && tried.is_old(), "{name}: {text}");
            // An agent that is started then does not take the policy either, until it changes.
            let _agent = tried.agent(&[]);
            std::thread::sleep(Duration::from_millis(300));
            let status = || said(&tried.host.peerwall(&["status", &tried.path]));
            assert!(tried.is_old(), "{name}: {}", status());
            tried.write("192.0.2.3");
            tried.soon(|| tried.has("192.0.2.3"), "a changed policy is taken");
        }
    });
}

#[test]
fn the_history_names_each_change_and_rollback_undoes_it() {
    world(|| {
        for (tried, with_agent) in Tried::both() {
            let (name, host) = (tried.name, &tried.host);
            let _agent = with_agent.then(|| tried.agent(&["--no-follow"]));
            tried.write(NEW);
            host.peerwall_ok(&["apply", &tried.path]);
            let change =
                format!("- element peers4 {OLD} comment \"friends\"\n      + element peers4 {NEW}");
            let history = host.peerwall_ok(&["history"]);
            assert!(history.contains(&change), "{name}: {history}");
            let json = host.peerwall_ok(&["history", "--json"]);
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            let last = json["confirmed"].as_array().unwrap().last().unwrap();
            let added = last["change"]["added"].as_array().unwrap();
            assert_eq!(added.len(), 1, "{name}: {json}");
            let number = last["number"].to_string();
            assert!(
                host.peerwall_ok(&["history", &number]).contains(NEW),
                "{name}"
            );
            assert_eq!(
                host.peerwall(&["history", "99"]).status.code(),
                Some(2),
                "{name}"
            );
            host.peerwall_ok(&["rollback"]);
            assert!(tried.is_old(), "{name}");
        }
    });
}

#[test]
fn a_trial_is_loaded_though_the_policy_changed_just_before() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        let _agent = Agent::start(&host, &path, &[]);
        // The agent reads a changed policy 150 ms later, which is while it loads the trial in some
        // of these rounds.
        for delay in (100..180).step_by(4) {
            let text = |peer| format!("# {delay}\n{}", policy(&[peer]));
            write(folder.path(), "policy.toml", &text("192.0.2.1"));
            let copy = write(folder.path(), "copy.toml", &text("192.0.2.2"));
            std::thread::sleep(Duration::from_millis(delay));
            let copy = copy.to_str().unwrap();
            host.peerwall_ok(&["apply", "--force", "--confirm", "60s", copy]);
            assert!(peers(&host).contains("192.0.2.2"), "after {delay} ms");
            host.peerwall_ok(&["rollback"]);
            assert!(peers(&host).contains("192.0.2.1"), "after {delay} ms");
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
            // A guard that is not needed any more ends on its own.
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
            assert!(said(&late).contains("no trial"), "{name}: {}", said(&late));
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
        // Many at once, since each has to wait for its time to be over. Few if few rounds are asked
        // for, because a slow machine needs longer than a trial to read the rules of many.
        let trial = trial_seconds();
        let hosts = rounds(24).clamp(1, 12);
        let each = rounds(24).div_ceil(hosts);
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for number in 0..hosts {
                let host = Host::new(&format!("host{number}"));
                let base = folder.path().join(number.to_string());
                fs::create_dir(&base).unwrap();
                threads.spawn(move || {
                    for round in 0..each {
                        let (old, new) = ("192.0.2.1", format!("192.0.2.{}", 2 + round % 200));
                        let path = write(&base, "policy.toml", &policy(&[old]));
                        let agent = Agent::start(&host, &path, &["--no-follow"]);
                        write(&base, "policy.toml", &policy(&[old, &new]));
                        host.peerwall_ok(&["reload", "--confirm", &format!("{trial}s")]);
                        assert!(peers(&host).contains(&new));
                        let chance = u64::from(number * 97 + round * 131);
                        std::thread::sleep(Duration::from_millis(chance % (trial * 1000 - 100)));
                        agent.kill();
                        // Another comes before or after the time is over.
                        std::thread::sleep(Duration::from_millis(
                            chance * 7 % (trial * 1000 + 600),
                        ));
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
            each * hosts
        );
    });
}
