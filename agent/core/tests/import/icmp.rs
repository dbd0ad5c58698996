//! ICMP that a policy can only accept with any TTL, code and interface.

use super::{Facts, Family, Fate, File, import};

#[test]
fn icmp_of_a_policy_is_exact_or_the_line_says_so() {
    let covered = Fate::Core;
    for (rule, policy, fate, words) in [
        (
            "-p icmp --icmp-type 8 -j ACCEPT",
            "ping = \"any\"",
            Fate::Taken,
            "[icmp] ping",
        ),
        (
            "-p icmp --icmp-type 8 -m ttl --ttl-eq 64 -j ACCEPT",
            "ping = \"any\"",
            Fate::Partly,
            "it also accepts ICMP (echo-request)",
        ),
        (
            "-p icmp --icmp-type 8/0 -j ACCEPT",
            "ping = \"any\"",
            Fate::Partly,
            "it also accepts ICMP (echo-request)",
        ),
        (
            "-s 192.0.2.0/24 -i eth1 -p icmp --icmp-type 8 -j ACCEPT",
            "",
            Fate::Partly,
            "on every interface, and to every address of this host",
        ),
        ("-p icmp -j ACCEPT", "v4 = \"all\"", covered, "[icmp] v4"),
        (
            "-p icmp -m ttl --ttl-gt 5 -j ACCEPT",
            "ping = \"any\"",
            Fate::Partly,
            "it also accepts ICMP (echo-request)",
        ),
        (
            "-p icmp --icmp-type 13 -m ttl --ttl-gt 5 -j ACCEPT",
            "",
            covered,
            "ICMP types outside the core are closed",
        ),
        (
            "-p icmp --icmp-type 13 -j ACCEPT",
            "timestamp-request",
            covered,
            "",
        ),
    ] {
        let text = format!("*filter\n:INPUT DROP\n:FORWARD DROP\n-A INPUT {rule}\nCOMMIT\n");
        let family = Some(Family::V4);
        let name = "v4".to_owned();
        let imported = import(&[File { name, text, family }], &Facts::default()).unwrap();
        let has_icmp = imported.policy.contains("[icmp]");
        assert!(
            imported.policy.contains(policy) && has_icmp != policy.is_empty(),
            "{rule}:\n{}",
            imported.policy
        );
        let line = &imported.lines[3];
        assert!(
            line.fate == fate && line.words.contains(words),
            "{rule}: {:?} {}",
            line.fate,
            line.words
        );
        let is_wide = line.words.contains("it also accepts");
        assert_eq!(imported.opens_more(), is_wide, "{rule}:\n{imported}");
    }
}
