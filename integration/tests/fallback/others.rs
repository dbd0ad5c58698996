//! Rules of others stay, and changes to ours are repaired.

use super::*;

fn others_are_left_alone(flavour: Flavour) {
    let host = host_with_rules(flavour);
    let before = saved(&host, flavour);
    let ours = |line: &&str| line.contains("PEERWALL");
    let others = |text: &str| {
        let lines = text.lines().filter(|line| !ours(line));
        without_empty_tables(&lines.map(|line| format!("{line}\n")).collect::<String>())
    };
    for _ in 0..2 {
        let (code, said) = iptables(&host, "apply");
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains(&format!("iptables-{} ", flavour.suffix())),
            "{said}"
        );
        assert_eq!(others(&saved(&host, flavour)), before);
    }
    let (code, said) = iptables(&host, "status");
    assert!(
        code == Some(0) && said.contains("in sync") && said.contains("one after the other"),
        "{said}"
    );
    let (code, said) = iptables(&host, "remove");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(saved(&host, flavour), before, "after remove");
    assert!(iptables(&host, "remove").1.contains("no changes"));
}

fn drift_is_mended(flavour: Flavour) {
    let host = host_with_rules(flavour);
    let suffix = flavour.suffix();
    assert_eq!(iptables(&host, "apply").0, Some(0));
    let want = saved(&host, flavour);
    for mischief in [
        "iptables-X -D PEERWALL-INPUT 4",
        "iptables-X -I PEERWALL-INPUT -j ACCEPT",
        "iptables-X -I INPUT -j ACCEPT && iptables-X -D INPUT 2 && iptables-X -A INPUT -j PEERWALL-INPUT",
        "iptables-X -F PEERWALL-FORWARD",
        "iptables-X -R PEERWALL-INPUT 2 -i eth0 -m comment --comment input.loopback -j ACCEPT",
        "ip6tables-X -D INPUT 1",
        "ip6tables-X -N PEERWALL-OTHER",
        "iptables-X -F && iptables-X -X",
    ] {
        host.sh(&mischief
            .replace("-X ", &format!("-{suffix} "))
            .replace("tables--", "tables-"));
        let (code, said) = iptables(&host, "plan");
        assert_eq!(code, Some(1), "plan after `{mischief}`: {said}");
        let (code, said) = iptables(&host, "apply");
        assert_eq!(code, Some(0), "apply after `{mischief}`: {said}");
        assert_eq!(iptables(&host, "plan").0, Some(0), "after `{mischief}`");
        let ours = |text: &str| {
            text.lines()
                .filter(|line| line.contains("PEERWALL"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            ours(&saved(&host, flavour)),
            ours(&want),
            "after `{mischief}`"
        );
    }
}

#[test]
fn legacy_rules_of_others_are_left_alone() {
    world(|| {
        others_are_left_alone(Flavour::Legacy);
    });
}

#[test]
fn nft_rules_of_others_are_left_alone() {
    world(|| {
        others_are_left_alone(Flavour::Nft);
    });
}

#[test]
fn drift_of_iptables_legacy_is_mended() {
    world(|| {
        drift_is_mended(Flavour::Legacy);
    });
}

#[test]
fn drift_of_iptables_nft_is_mended() {
    world(|| {
        drift_is_mended(Flavour::Nft);
    });
}
