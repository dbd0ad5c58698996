//! Imports judged packet by packet.

use peerwall_core::import::judge::{Effort, judge};

use proptest::prelude::*;

use super::random::file;
use super::{Family, File, cases, files};

/// `PEERWALL_PACKETS` sets the number of packets for each file and family.
fn effort() -> Effort {
    let packets = std::env::var("PEERWALL_PACKETS").map_or(3_000, |n| n.parse().unwrap());
    Effort { packets, seed: 1 }
}

#[test]
fn every_packet_that_is_treated_differently_is_in_a_difference() {
    for (name, folder) in cases() {
        let found = judge(&files(&folder), effort());
        let found = found.unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
        if let Some(problem) = found {
            panic!("{name}: {problem}");
        }
    }
}

#[test]
fn packets_of_found_files_are_in_a_difference() {
    for (name, nat, lines) in [
        (
            "a redirection of one source port leaves the other ones as they are",
            "-A PREROUTING -p tcp --sport 7 --dport 9 -j REDIRECT --to-ports 22\n",
            "-A INPUT -p tcp --dport 22 -j ACCEPT\n",
        ),
        (
            "networks of two overlays that contain each other become disjoint",
            "-A POSTROUTING -s 192.168.122.0/24 ! -o virbr0 -j MASQUERADE\n",
            "-A INPUT -s 192.168.122.0/24 -i virbr0 -j ACCEPT\n\
             -A FORWARD -s 192.168.122.0/24 -i virbr0 -j ACCEPT\n\
             -A FORWARD -s 192.168.0.0/16 -i cali+ -j ACCEPT\n",
        ),
        (
            "a return that cannot be read leaves later packets to the policy of the chain",
            "",
            "-A INPUT -o eth0 -s 192.0.2.0/24 -j RETURN\n-A INPUT -j ACCEPT\n",
        ),
        (
            "and those of a chain that is called to the calling chain",
            "",
            ":a -\n-A INPUT -j a\n-A a --what -j RETURN\n-A a -p tcp --dport 22 -j ACCEPT\n",
        ),
        (
            "packets without a connection are not redirected",
            "-A PREROUTING -p tcp --dport 443 -j DNAT --to-destination 198.18.0.9:8443\n",
            "-A INPUT -d 198.18.0.1 -p udp --dport 53 -j ACCEPT\n\
             -A INPUT -p tcp --dport 443 -j ACCEPT\n\
             -A INPUT -s 203.0.113.200 -j DROP\n-A INPUT -j ACCEPT\n",
        ),
        (
            "a redirection to another port of this host's address comes to INPUT",
            "-A PREROUTING ! -i docker0 -p tcp --dport 443 -j DNAT --to-destination 198.18.0.1:8443\n",
            "-A INPUT -d 198.18.0.1 -p udp --dport 53 -j ACCEPT\n\
             -A INPUT -p tcp --dport 443 -j ACCEPT\n\
             -A INPUT -s 203.0.113.200 -j DROP\n-A INPUT -j ACCEPT\n",
        ),
    ] {
        let file = File {
            name: "v4".into(),
            text: format!(
                "*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n{nat}COMMIT\n\
                 *filter\n:INPUT DROP\n:FORWARD DROP\n{lines}COMMIT\n"
            ),
            family: Some(Family::V4),
        };
        let found = judge(&[file], effort()).unwrap_or_else(|errors| panic!("{errors:?}"));
        if let Some(problem) = found {
            panic!("{name}: {problem}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_through_random_rules_are_in_a_difference(text in file(), seed in any::<u64>()) {
        let file = File { name: "v4".into(), text: text.clone(), family: Some(Family::V4) };
        let effort = Effort { packets: 500, seed };
        let found = judge(&[file], effort);
        prop_assert!(matches!(found, Ok(None)), "{}\n{}", text, found.ok().flatten().unwrap_or_default());
    }
}

/// A jump about port 0, which a policy cannot name: packets do not take it for certain.
#[test]
fn a_jump_about_port_0_is_no_difference_of_its_own() {
    let text = "\
    *filter\n\
    :INPUT DROP [0:0]\n\
    :FORWARD DROP [0:0]\n\
    :OUTPUT ACCEPT [0:0]\n\
    :office - [0:0]\n\
    :services - [0:0]\n\
    :unused - [0:0]\n\
    :web - [0:0]\n\
    -A INPUT -i lo -j ACCEPT\n\
    -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
    -A INPUT -j services\n\
    -A INPUT -s 192.0.2.0/24 -g office\n\
    -A INPUT -p tcp -m tcp --dport 9999 -j ACCEPT\n\
    -A office -s 192.0.2.200/32 -j RETURN\n\
    -A office -p tcp -m tcp --dport 22 -j ACCEPT\n\
    -A office -p tcp -m tcp --dport 5900 -j ACCEPT\n\
    -A services -s 203.0.113.0/24 -j RETURN\n\
    -A services -p tcp -m multiport --dports 8443,0 -j web\n\
    -A unused -p tcp -m tcp --dport 23 -j ACCEPT\n\
    -A web -j ACCEPT\n\
    COMMIT\n\
    ";
    for seed in 0..20 {
        let file = File {
            name: "v4".into(),
            text: text.into(),
            family: Some(Family::V4),
        };
        let effort = Effort { packets: 300, seed };
        assert_eq!(judge(&[file], effort).unwrap(), None);
    }
}
