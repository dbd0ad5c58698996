//! Other programs, errors, missing rights, kills and races.

use super::*;

#[test]
fn whatever_others_did_to_the_table_is_mended() {
    world(|| {
        let host = Host::new("host");
        apply(&host, Path::new(EXAMPLE));
        let want = listing(&host);
        for mischief in [
            "nft insert rule inet peerwall input accept",
            "nft add rule inet peerwall forward-default ip saddr 203.0.113.7 log level info accept",
            "nft flush chain inet peerwall input",
            "nft flush chain inet peerwall forward",
            "nft add element inet peerwall peers4 '{ 203.0.113.66 }'",
            "nft delete element inet peerwall peers4 '{ 129.21.49.48 }'",
            "nft 'add chain inet peerwall input { policy accept; }'",
            "nft 'add chain inet peerwall other { type filter hook input priority -300; }' && \
             nft add rule inet peerwall other accept",
            "nft 'add set inet peerwall other { type mark; }'",
            "nft 'add map inet peerwall other \
             { type ipv4_addr : verdict; elements = { 1.2.3.4 : jump published }; }'",
            "nft 'add set inet peerwall other \
             { type ipv4_addr . inet_service; flags interval; elements = { 1.2.3.0/24 . 80-90 } }'",
            "nft add counter inet peerwall other",
            "nft 'add quota inet peerwall other { over 10 mbytes }'",
            "nft 'add rule inet peerwall input tcp dport { 1-5, 80 } \
             ct state vmap { new : accept, invalid : drop }'",
            "nft delete table inet peerwall && nft 'add table inet peerwall \
             { chain input { type filter hook input priority 0; policy accept; }; }'",
            "nft delete table inet peerwall && nft 'add table inet peerwall \
             { set peers4 { type ipv6_addr; }; }'",
            "nft 'add table inet peerwall { flags dormant; }' 2>/dev/null || nft flush ruleset",
            "nft delete table inet peerwall",
        ] {
            host.sh(mischief);
            let found = host.peerwall(&["status", EXAMPLE]);
            assert_eq!(found.status.code(), Some(1), "status after `{mischief}`");
            let planned = host.peerwall(&["plan", EXAMPLE]);
            assert_eq!(
                planned.status.code(),
                Some(1),
                "plan after `{mischief}`: {}",
                String::from_utf8_lossy(&planned.stderr)
            );
            apply(&host, Path::new(EXAMPLE));
            assert!(
                host.peerwall(&["plan", EXAMPLE]).status.success(),
                "after `{mischief}`"
            );
            let mut got: Vec<String> = listing(&host)
                .split("\n\n")
                .map(|s| s.trim().to_owned())
                .collect();
            let mut should: Vec<String> = want.split("\n\n").map(|s| s.trim().to_owned()).collect();
            got.sort();
            should.sort();
            // The order of chains and sets is the order they were made in.
            assert_eq!(
                got.len(),
                should.len(),
                "after `{mischief}`:\n{}",
                listing(&host)
            );
        }
    });
}

#[test]
fn no_malformed_policy_changes_the_kernel() {
    world(|| {
        let host = Host::new("host");
        apply(&host, Path::new(EXAMPLE));
        let before = host.sh("nft --handle list ruleset");
        let mut tried = 0;
        let mut files: Vec<PathBuf> = fs::read_dir(MALFORMED)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        for file in files
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        {
            for command in ["apply", "plan", "check", "render"] {
                // What is discovered on another host is unknown here, and no error.
                if command == "check" && file.ends_with("65-overlay-discover-missing.toml") {
                    continue;
                }
                let output = host.peerwall(&[command, &file.display().to_string()]);
                assert_eq!(
                    output.status.code(),
                    Some(2),
                    "{command} {}",
                    file.display()
                );
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                assert!(
                    said.contains(&format!("{name}:")) && said.contains("help:"),
                    "{command} {name}: {said}"
                );
                assert!(!said.contains("panicked"), "{said}");
            }
            tried += 1;
        }
        for not_a_policy in ["/nowhere/policy.toml", "/", "/dev/null", "/bin/sh"] {
            assert_eq!(
                host.peerwall(&["apply", not_a_policy]).status.code(),
                Some(2),
                "{not_a_policy}"
            );
        }
        assert!(tried >= 60);
        assert_eq!(host.sh("nft --handle list ruleset"), before);
    });
}

#[test]
fn who_may_not_is_told_so() {
    world(|| {
        let host = Host::new("host");
        // A user namespace of its own has no power over this network.
        let output = host.try_sh(&format!(
            "unshare --user {} apply {EXAMPLE}",
            peerwall_bin().display()
        ));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("CAP_NET_ADMIN"), "{said}");
        // An ordinary user is told what would do, by every command that needs it. In a user
        // namespace there is no other.
        if !host
            .try_sh("setpriv --reuid 65534 --regid 65534 --clear-groups true")
            .status
            .success()
        {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("peerwall");
        fs::copy(peerwall_bin(), &bin).unwrap();
        fs::copy(EXAMPLE, folder.path().join("policy.toml")).unwrap();
        host.sh(&format!("chmod -R a+rX {}", folder.path().display()));
        for command in [
            "status", "plan", "apply", "confirm", "rollback", "remove", "reload",
        ] {
            let policy = if matches!(command, "status" | "plan" | "apply") {
                "policy.toml"
            } else {
                ""
            };
            let output = host.try_sh(&format!(
                "cd {} && setpriv --reuid 65534 --regid 65534 \
                --clear-groups ./peerwall {command} {policy}",
                folder.path().display()
            ));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.code() == Some(2) && said.contains("run it as root"),
                "{command}: {said}"
            );
        }
    });
}

#[test]
fn a_kill_in_the_middle_of_many_applies_leaves_old_or_new() {
    world(|| {
        let three = Three::new();
        let host = &three.host;
        let folder = tempfile::tempdir().unwrap();
        let many = |from: u32, count: u32| {
            (from..from + count).map(|i| format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255))
        };
        let a = policy_with_peers(folder.path(), "a", many(0, 600));
        let b = policy_with_peers(folder.path(), "b", many(300, 600));
        apply(host, &a);

        // The friend's requests are all answered; the stranger's never get in.
        let traffic = Traffic::start(&three, Answers::All);

        // How long an apply takes here, so that kills fall on all of it.
        let start = Instant::now();
        apply(host, &b);
        apply(host, &a);
        let whole = start.elapsed() / 2;
        let (mut killed, mut mixtures) = (0, Vec::new());
        let rounds: u32 = std::env::var("PEERWALL_ROUNDS").map_or(150, |n| n.parse().unwrap());
        for round in 0..rounds {
            let policy = if round % 2 == 0 { &b } else { &a };
            let mut child = host
                .command(peerwall_bin())
                .arg("apply")
                .arg(policy)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            // 997 is prime: every fraction of the time comes up.
            std::thread::sleep(whole * (round * 613 % 997) / 997);
            child.kill().unwrap();
            killed += u32::from(!child.wait().unwrap().success());
            if round % 25 == 0 {
                let same = |p: &Path| {
                    host.peerwall(&["plan", &p.display().to_string()])
                        .status
                        .success()
                };
                if !same(&a) && !same(&b) {
                    mixtures.push(round);
                }
            }
        }
        let Totals {
            answered: asked,
            knocked,
            got_in,
        } = traffic.end();
        println!(
            "{killed} of {rounds} applies were killed; {asked} \
             requests of a peer were answered, {knocked} of a stranger were not"
        );
        assert_eq!(mixtures, [0_u32; 0]);
        assert!(
            killed > rounds / 10 * 3,
            "only {killed} were killed in time"
        );
        assert!(asked > 1000 && knocked > 1000);
        assert_eq!(got_in, 0, "a stranger got in");
        // And what a kill leaves can be gone on from.
        apply(host, &b);
        assert!(
            host.peerwall(&["plan", &b.display().to_string()])
                .status
                .success()
        );
    });
}

#[test]
fn two_who_apply_at_once_both_end_well() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let policies: Vec<PathBuf> = (0..2u8)
            .map(|i| {
                policy_with_peers(
                    folder.path(),
                    &format!("p{i}"),
                    (0..200).map(move |n| format!("10.0.{i}.{n}")),
                )
            })
            .collect();
        for _ in 0..20 {
            let running: Vec<Child> = policies
                .iter()
                .map(|policy| {
                    host.command(peerwall_bin())
                        .arg("apply")
                        .arg(policy)
                        .stdout(Stdio::null())
                        .spawn()
                        .unwrap()
                })
                .collect();
            for mut child in running {
                assert!(child.wait().unwrap().success());
            }
            let same = |p: &PathBuf| {
                host.peerwall(&["plan", &p.display().to_string()])
                    .status
                    .success()
            };
            assert!(policies.iter().any(same), "a mixture");
        }
    });
}
