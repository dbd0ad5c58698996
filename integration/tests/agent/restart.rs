//! Killed agents, and the boot of a machine.

use super::*;

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
        // And the next command converges.
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
fn a_hung_agent_does_not_hold_up_status() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.2"]));
        let agent = Agent::start(&host, &path, &[]);
        agent.signal("STOP");
        let path = path.display();
        let hung = host.try_sh(&format!(
            "timeout 60 {} status {path} 2>&1",
            peerwall_bin().display()
        ));
        let said = String::from_utf8_lossy(&hung.stdout).into_owned();
        agent.signal("CONT");
        assert_ne!(hung.status.code(), Some(124), "{said}");
        assert!(said.contains("no response within 5 s"), "{said}");
        // The rules are read from the kernel all the same.
        assert!(said.contains("in sync with"), "{said}");
    });
}
