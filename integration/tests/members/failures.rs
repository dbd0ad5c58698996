//! Sources that are lost, lie, or write what is no listing.

use std::time::Duration;

use peerwall_integration::ns::world;
use peerwall_integration::open::{Agent, wait_for};

use super::*;

/// Nodes 1 to `count`.
fn nodes(count: u8) -> Vec<String> {
    (1..=count)
        .map(|number| format!("10.0.0.{number}"))
        .collect()
}

fn refs(nodes: &[String]) -> Vec<&str> {
    nodes.iter().map(String::as_str).collect()
}

#[test]
fn what_is_no_listing_changes_nothing_and_is_told() {
    world(|| {
        let cluster = Cluster::new("grace = \"1s\"\nhold = \"1s\"");
        let host = &cluster.host;
        let _agent = Agent::start(host, &cluster.path(), &[]);
        let all = nodes(4);
        cluster.list(5, &refs(&all));
        wait_for("the nodes", || all.iter().all(|node| cluster.has(node)));
        let whole = listing(6, &refs(&all));
        let large = "peerwall-members 1\n".to_owned() + &"x\n".repeat(3_000_000);
        let file = cluster.sources().join("cluster");
        let file = file.to_str().unwrap();
        let texts: [(&str, &[u8], &str); 8] = [
            ("empty", b"", "peerwall-members 1"),
            ("torn", &whole.as_bytes()[..whole.len() - 8], "incomplete"),
            (
                "of another source",
                b"peerwall-members 1 source=other\nend 0\n",
                "source `other`",
            ),
            (
                "of another version",
                b"peerwall-members 2\nend 0\n",
                "peerwall-members 1",
            ),
            ("not text", b"\xff\xfe\0", "not UTF-8"),
            ("huge", large.as_bytes(), "larger than"),
            (
                "a wrong revision",
                b"peerwall-members 1 revision=x\nend 0\n",
                "revision=x",
            ),
            (
                "escapes",
                b"peerwall-members 1 source=\x1b[2J\nend 0\n",
                "\\u{1b}",
            ),
        ];
        let told = |what: &str, want: &str| {
            wait_for(what, || {
                let source = cluster.source();
                source["error"]["message"]
                    .as_str()
                    .is_some_and(|text| text.contains(want))
            });
        };
        for (what, text, want) in texts {
            cluster.write(text);
            told(what, want);
        }
        for (what, make, want) in [
            ("a FIFO", format!("rm {file}; mkfifo {file}"), "FIFO"),
            (
                "a directory",
                format!("rm {file}; mkdir {file}"),
                "directory",
            ),
            (
                "a link to itself",
                format!("rmdir {file}; ln -s {file} {file}"),
                "link",
            ),
            (
                "a device",
                format!("rm {file}; ln -s /dev/zero {file}"),
                "device",
            ),
        ] {
            host.sh(&make);
            told(what, want);
        }
        host.sh(&format!("rm {file}"));
        std::thread::sleep(Duration::from_secs(3));
        assert!(
            all.iter().all(|node| cluster.has(node)),
            "{:?}",
            cluster.peers()
        );
        cluster.list(7, &refs(&nodes(5)));
        wait_for("the fifth", || cluster.has("10.0.0.5"));
        assert_eq!(cluster.source()["error"], Value::Null);
    });
}

#[test]
fn an_empty_answer_is_held_and_accepted_by_hand() {
    world(|| {
        let cluster = Cluster::new("grace = \"1s\"\nhold = \"1s\"");
        let host = &cluster.host;
        let _agent = Agent::start(host, &cluster.path(), &[]);
        let all = nodes(3);
        cluster.list(5, &refs(&all));
        wait_for("the nodes", || all.iter().all(|node| cluster.has(node)));
        cluster.list(6, &[]);
        wait_for("the hold", || cluster.source()["held"]["why"] == "empty");
        std::thread::sleep(Duration::from_secs(3));
        assert!(all.iter().all(|node| cluster.has(node)));
        let text = host.peerwall_ok(&["sources"]);
        assert!(
            text.contains("until `peerwall sources accept cluster`"),
            "{text}"
        );
        let refused = host.peerwall(&["sources", "accept", "other"]);
        assert_eq!(refused.status.code(), Some(2));
        let text = host.peerwall_ok(&["sources", "accept", "cluster"]);
        assert!(text.contains("removed 3 members"), "{text}");
        wait_for("the end of the nodes", || {
            all.iter().all(|node| !cluster.has(node))
        });
        assert!(cluster.has("198.51.100.1"));
    });
}

#[test]
fn a_half_answer_is_held_then_believed_and_one_node_may_leave() {
    world(|| {
        let cluster = Cluster::new("grace = \"1s\"\nhold = \"3s\"");
        let host = &cluster.host;
        let _agent = Agent::start(host, &cluster.path(), &[]);
        let all = nodes(6);
        cluster.list(5, &refs(&all));
        wait_for("the nodes", || all.iter().all(|node| cluster.has(node)));
        cluster.list(6, &refs(&nodes(5)));
        wait_for("the end of the sixth", || !cluster.has("10.0.0.6"));
        cluster.list(7, &refs(&nodes(2)));
        wait_for("the hold", || cluster.source()["held"]["why"] == "loss");
        std::thread::sleep(Duration::from_millis(1500));
        assert!(
            refs(&nodes(5)).iter().all(|node| cluster.has(node)),
            "removed too early"
        );
        let still = host.peerwall(&["sources", "forget", "cluster", "10.0.0.1"]);
        let text = String::from_utf8_lossy(&still.stderr).into_owned();
        assert!(
            still.status.code() == Some(2) && text.contains("lists 10.0.0.1"),
            "{text}"
        );
        host.peerwall_ok(&["sources", "forget", "cluster", "10.0.0.3"]);
        assert!(!cluster.has("10.0.0.3") && cluster.has("10.0.0.4"));
        wait_for("the end of the others", || !cluster.has("10.0.0.4"));
        assert!(cluster.has("10.0.0.1") && cluster.has("10.0.0.2"));
    });
}

#[test]
fn bad_entries_are_refused_with_node_and_reason() {
    world(|| {
        let cluster = Cluster::new("max = 20");
        let _agent = Agent::start(&cluster.host, &cluster.path(), &[]);
        let mut members: Vec<String> = [
            "10.0.0.1",
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "192.0.2.1",
            "10.0.0.0/8",
            "nonsense",
        ]
        .map(str::to_owned)
        .to_vec();
        members.extend((1..=100).map(|number| format!("10.0.1.{number}")));
        cluster.list(1, &refs(&members));
        wait_for("the good one", || cluster.has("10.0.0.1"));
        let source = cluster.source();
        let refused = &source["refused"];
        assert_eq!(
            (
                &refused["garbage"],
                &refused["not_unicast"],
                &refused["outside"],
                &refused["max"]
            ),
            (&2.into(), &3.into(), &1.into(), &81.into()),
            "{source}"
        );
        assert_eq!(cluster.peers().len(), 21);
        // An older answer comes from a server that lags.
        cluster.list(0, &["10.0.2.9"]);
        wait_for("the hold", || cluster.source()["held"]["why"] == "older");
        assert!(!cluster.has("10.0.2.9") && cluster.has("10.0.0.1"));
        let all = cluster.host.peerwall_ok(&["sources"]);
        assert!(
            all.contains("not in `within`") && all.contains("192.0.2.1"),
            "{all}"
        );
    });
}

#[test]
fn other_limits_of_a_policy_hold_at_once() {
    world(|| {
        let cluster = Cluster::new("");
        let _agent = Agent::start(&cluster.host, &cluster.path(), &[]);
        cluster.list(1, &["10.0.0.5", "10.0.9.5"]);
        wait_for("the nodes", || {
            cluster.has("10.0.0.5") && cluster.has("10.0.9.5")
        });
        let text = fs::read_to_string(cluster.path()).unwrap();
        let within = |net: &str| {
            fs::write(cluster.path(), text.replace("10.0.0.0/16", net)).unwrap();
            cluster.host.peerwall_ok(&["reload"]);
        };
        within("10.0.0.0/24");
        wait_for("the removal", || !cluster.has("10.0.9.5"));
        assert!(cluster.has("10.0.0.5"));
        assert_eq!(cluster.source()["members"], 1);
        // The source says nothing new, and was refused before.
        within("10.0.0.0/16");
        wait_for("the other node", || cluster.has("10.0.9.5"));
    });
}
