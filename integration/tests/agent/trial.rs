//! Trials: confirmation, rollback, and the guard.

use super::*;

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
                "it is rolled back automatically",
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
            // The machine reboots: no rules, another boot, and what was confirmed last is
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
