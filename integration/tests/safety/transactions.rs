//! What one apply sends, and what it leaves alone.

use super::*;

#[test]
fn foreign_tables_are_untouched_byte_for_byte() {
    world(|| {
        let host = Host::new("host");
        foreign_rules(&host);
        let before = foreign(&host);
        let example = Path::new(EXAMPLE);
        apply(&host, example);
        assert_eq!(foreign(&host), before, "after apply");
        apply(&host, example);
        assert_eq!(foreign(&host), before, "after a second apply");
        // What others use still works beside our table.
        host.sh(
            "iptables-nft-save >/dev/null && ip6tables-nft-save > /dev/null && \
            nft -j list ruleset > /dev/null",
        );
        host.peerwall_ok(&["remove"]);
        assert_eq!(foreign(&host), before, "after remove");
        assert!(!host.sh("nft list tables").contains("peerwall"));
    });
}

#[test]
fn a_second_apply_sends_nothing() {
    world(|| {
        let host = Host::new("host");
        apply(&host, Path::new(EXAMPLE));
        // The kernel counts every commit, also one that changes nothing. How long ago the apply was
        // is left out.
        let generation = || {
            let status = status(&host, EXAMPLE);
            assert!(status.contains("in sync"), "{status}");
            let line = status.lines().find(|line| line.starts_with("generation:"));
            line.map(str::to_owned)
        };
        let before = generation();
        let said = host.peerwall_ok(&["apply", EXAMPLE]);
        assert!(said.contains("no changes"), "{said}");
        assert!(before.is_some(), "no generation is shown");
        assert_eq!(generation(), before, "the generation moved on");
    });
}

#[test]
fn what_is_held_stays_and_what_is_not_can_be_claimed() {
    world(|| {
        let host = Host::new("host");
        let mut holder = hold(&host, EXAMPLE);
        let loaded = listing(&host);
        let said = status(&host, EXAMPLE);
        assert!(
            said.contains("in sync") && said.contains("nobody else can change the table"),
            "{said}"
        );
        // Another process's flush leaves it in place, and its changes are refused.
        host.sh("nft flush ruleset");
        assert_eq!(listing(&host), loaded);
        for attempt in [
            "nft delete table inet peerwall",
            "nft add rule inet peerwall input accept",
            "nft flush chain inet peerwall input",
            "nft add element inet peerwall peers4 '{ 203.0.113.66 }'",
        ] {
            assert!(!host.try_sh(attempt).status.success(), "{attempt}");
        }
        assert_eq!(listing(&host), loaded);
        // Ours say who has it.
        let more = write(
            tempfile::tempdir().unwrap().keep().as_path(),
            "p.toml",
            r#"
                version = 1
                [peers]
                a = "192.0.2.9"
            "#,
        );
        let refused = host.peerwall(&["apply", &more.display().to_string()]);
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2));
        assert!(why.contains("owned by another process"), "{why}");
        let refused = host.peerwall(&["remove"]);
        assert_eq!(refused.status.code(), Some(2));
        assert_eq!(listing(&host), loaded);
        // Killed, it leaves the rules and lets go of the table.
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(listing(&host), loaded);
        let said = status(&host, EXAMPLE);
        assert!(
            said.contains("in sync") && said.contains("owner:      not locked"),
            "{said}"
        );
        // The next one claims it without touching a rule.
        let handles = host
            .sh("nft --handle list table inet peerwall")
            .lines()
            .filter(|l| l.contains("# handle"))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let mut next = hold(&host, EXAMPLE);
        // nft writes the owner's name behind the table's handle.
        let again = host
            .sh("nft --handle list table inet peerwall | sed 's/ progname.*//'")
            .lines()
            .filter(|l| l.contains("# handle"))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        assert_eq!(handles, again);
        assert!(
            !host
                .try_sh("nft delete table inet peerwall")
                .status
                .success()
        );
        // An end that was asked for leaves the rules too.
        let pid = next.id();
        host.sh(&format!("kill -TERM {pid}"));
        assert!(next.wait().unwrap().success());
        assert_eq!(listing(&host), loaded);
        // A table that nft made without persist is recreated to be owned.
        host.sh("nft delete table inet peerwall");
        host.sh(&format!(
            "{} render {EXAMPLE} | nft -f -",
            peerwall_bin().display()
        ));
        let mut last = hold(&host, EXAMPLE);
        host.sh("nft flush ruleset");
        assert_eq!(listing(&host), loaded);
        last.kill().unwrap();
        last.wait().unwrap();
    });
}

#[test]
fn one_more_peer_is_one_element_and_no_counter_starts_anew() {
    world(|| {
        let Three { host, friend, .. } = Three::new();
        let folder = tempfile::tempdir().unwrap();
        let many = |count: u32| {
            (0..count).map(|i| format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255))
        };
        let before = policy_with_peers(folder.path(), "before", many(3000));
        let after = policy_with_peers(folder.path(), "after", many(3001));
        apply(&host, &before);
        assert!(probe::ping(&friend, "192.0.2.1", probe::PATIENCE));
        let rules = |host: &Host| -> Vec<String> {
            let text = host.sh("nft --handle list table inet peerwall");
            text.lines()
                .filter(|line| line.contains("# handle"))
                .map(str::to_owned)
                .collect()
        };
        // Counters in a fixed order; those of other sources than the peers may increase on their
        // own.
        let packets = |host: &Host| -> Vec<u64> {
            let text = host.sh("nft list counters table inet peerwall");
            let counts = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("packets "));
            counts
                .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
                .collect()
        };
        let counted = |host: &Host| host.sh("nft list counter inet peerwall input.peers");
        assert!(!counted(&host).contains("packets 0"), "{}", counted(&host));
        let (old_rules, old_count, old_packets) = (rules(&host), counted(&host), packets(&host));
        let plan = host.peerwall(&["plan", "--json", &after.display().to_string()]);
        let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
        let steps: Vec<&str> = plan
            .lines()
            .filter(|line| line.contains("inet peerwall"))
            .map(str::trim)
            .collect();
        assert_eq!(
            steps,
            ["\"add element inet peerwall peers4 { 10.0.11.184 }\""]
        );
        apply(&host, &after);
        assert_eq!(counted(&host), old_count, "the counter went on");
        assert_eq!(rules(&host), old_rules, "no rule changed");
        let went_back = old_packets
            .iter()
            .zip(packets(&host))
            .any(|(old, now)| now < *old);
        assert!(!went_back, "a counter was reset");
        // Twice as many and one more do not fit the set: it is rebuilt, and the counters continue.
        let grown = policy_with_peers(folder.path(), "grown", many(9000));
        apply(&host, &grown);
        assert_eq!(
            counted(&host),
            old_count,
            "the counter went on through a rebuild"
        );
        assert!(
            host.peerwall(&["plan", &grown.display().to_string()])
                .status
                .success()
        );
    });
}

#[test]
fn a_hundred_thousand_peers_load_in_one_transaction() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let hosts =
            (0..50_000u32).map(|i| format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255));
        let nets = (0..10_000u32).map(|i| {
            format!(
                "{}.{}.{}.0/24",
                100 + (i >> 14),
                (i >> 6) & 255,
                (i & 63) * 4
            )
        });
        let six = (0..40_000u32).map(|i| format!("2001:db8:{:x}::{i:x}", i >> 8));
        let policy = policy_with_peers(folder.path(), "many", hosts.chain(nets).chain(six));
        let generation = || {
            let said = host.peerwall(&["status", "--json", &policy.display().to_string()]);
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            let line = said
                .lines()
                .find(|line| line.contains("\"generation\""))
                .unwrap_or_default()
                .to_owned();
            line.chars()
                .filter(char::is_ascii_digit)
                .collect::<String>()
                .parse::<u32>()
                .unwrap()
        };
        let before = generation();
        apply(&host, &policy);
        assert_eq!(generation(), before + 1, "it was more than one transaction");
        let elements =
            host.sh("nft list table inet peerwall | grep -oE '[0-9a-f:.]+(/24)?,| }$' | wc -l");
        assert!(
            elements.trim().parse::<u32>().unwrap() >= 100_000,
            "{elements}"
        );
        assert!(
            host.peerwall_ok(&["apply", &policy.display().to_string()])
                .contains("no changes")
        );
        assert_eq!(generation(), before + 1);
    });
}
