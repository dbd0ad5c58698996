//! The agent by iptables, and changes of backend.

use super::*;

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
                let time = format!("{}s", trial_seconds());
                let apply = ["apply", "--confirm", &time, copy_text];
                let tried = from_connection(&host, 4000, &apply);
                assert!(
                    tried.status.success() && is_by(other),
                    "{other}, agent: {with_agent}: {}",
                    said(&tried)
                );
                std::thread::sleep(Duration::from_secs(trial_seconds()));
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

#[test]
fn a_reload_by_iptables_names_what_another_program_changed() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        let options = ["--backend", "iptables", "--no-follow"];
        let _agent = Agent::start(&host, &path, &options);
        // The agent looks for changes of iptables rules every ten seconds, so a reload finds them.
        let added =
            "- rule PEERWALL-INPUT: -p tcp -m tcp --dport 25 -j ACCEPT (another program added it)";
        for (name, peer, want) in [
            ("the same policy", "192.0.2.1", vec![added]),
            (
                "another policy",
                "192.0.2.2",
                vec!["~ peer friends 192.0.2.1 → 192.0.2.2", added],
            ),
        ] {
            host.sh("iptables -I PEERWALL-INPUT -p tcp --dport 25 -j ACCEPT");
            write(folder.path(), "policy.toml", &policy(&[peer]));
            let answer = host.peerwall_ok(&["reload"]);
            assert_eq!(changes(&answer), want, "{name}: {answer}");
        }
    });
}
