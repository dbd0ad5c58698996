//! Changes to the rules made by others, and edits under traffic.

use super::*;

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
        let rounds = rounds(30);
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
            culprits.contains("nft") || culprits.contains("repair"),
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
        // Foreign tables are only reported.
        host.sh("nft add table ip kube-proxy; nft delete table ip kube-proxy");
        agent.wait_for(
            || {
                agent.status().unwrap()["deleted_tables"]
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
            // The flood beside it can overflow the backlog and lose a request.
            let (tries, wait) = match let_in {
                true => (5, Duration::from_secs(1)),
                false => (1, Duration::from_millis(3)),
            };
            let answered = (0..tries).any(|_| probe::udp(&other, "203.0.113.1:9000", wait));
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

#[test]
fn a_reload_names_its_change_while_other_programs_change_rules() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
        let _agent = Agent::start(&host, &path, &["--no-owner", "--no-follow"]);
        let added = "- set peers4 198.51.100.1 (another program added it)";
        for (name, command, theirs) in [
            (
                "other tables",
                "add table ip other; delete table ip other",
                None,
            ),
            (
                "our table",
                "add element inet peerwall peers4 { 198.51.100.1 }",
                Some(added),
            ),
        ] {
            // The rounds before may have ended with either policy.
            write(folder.path(), "policy.toml", &policy(&["192.0.2.1"]));
            host.peerwall_ok(&["reload"]);
            let mut other = host
                .command("sh")
                .args(["-c", &format!("while :; do nft '{command}'; done")])
                .spawn()
                .unwrap();
            let mut seen = None;
            for round in 0..rounds(40) {
                let (old, new) = match round % 2 {
                    0 => ("192.0.2.1", "192.0.2.2"),
                    _ => ("192.0.2.2", "192.0.2.1"),
                };
                write(folder.path(), "policy.toml", &policy(&[new]));
                let answer = host.peerwall_ok(&["reload"]);
                let edit = format!("~ peer friends {old} → {new}");
                let (edits, others): (Vec<&str>, Vec<&str>) =
                    changes(&answer).into_iter().partition(|line| *line == edit);
                assert_eq!(edits, [&edit], "{name}, {round}: {answer}");
                let is_theirs = others.iter().all(|line| Some(*line) == theirs);
                assert!(is_theirs, "{name}, {round}: {answer}");
                seen = seen.or(others.first().map(|line| (*line).to_owned()));
            }
            other.kill().unwrap();
            other.wait().unwrap();
            assert_eq!(seen.as_deref(), theirs, "{name}");
        }
    });
}
