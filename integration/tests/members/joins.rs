//! Nodes that join and leave, with trials, rollbacks and boots.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use peerwall_integration::net::wire;
use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::{Agent, wait_for};
use peerwall_integration::probe;

use super::*;

#[test]
fn a_node_that_joins_is_answered_and_changes_no_history() {
    world(|| {
        let cluster = Cluster::new("");
        let node = Host::new("node");
        wire(
            &cluster.host,
            "eth0",
            &["10.0.0.1/16"],
            &node,
            "eth0",
            &["10.0.0.5/16"],
        );
        let _agent = Agent::start(&cluster.host, &cluster.path(), &[]);
        assert!(!probe::ping(&node, "10.0.0.1", Duration::from_millis(300)));
        let source = cluster.source();
        assert_eq!(
            (&source["members"], &source["error"]),
            (&0.into(), &Value::Null)
        );
        cluster.list(1, &["10.0.0.5", "2001:db8::5"]);
        let start = Instant::now();
        wait_for("an answer", || {
            probe::ping(&node, "10.0.0.1", Duration::from_millis(50))
        });
        println!("answered after {:?}", start.elapsed());
        assert!(cluster.has("2001:db8::5") && cluster.has("198.51.100.1"));
        assert_eq!(cluster.confirmed(), 1);
        let text = cluster.host.peerwall_ok(&["sources", "show", "cluster"]);
        assert!(
            text.contains("10.0.0.5") && text.contains("node-0"),
            "{text}"
        );
        let status = cluster.host.peerwall_ok(&["status"]);
        assert!(
            status.contains("source:     cluster (files): 2 members"),
            "{status}"
        );
    });
}

#[test]
fn each_join_is_one_element_and_counters_stay() {
    world(|| {
        let joins: u16 = std::env::var("PEERWALL_JOINS").map_or(20, |joins| joins.parse().unwrap());
        let cluster = Cluster::new("max = 60000");
        cluster.list(1, &["10.0.0.1"]);
        let _agent = Agent::start(&cluster.host, &cluster.path(), &[]);
        wait_for("the first member", || cluster.has("10.0.0.1"));
        let handles = |cluster: &Cluster| {
            let text = cluster.host.sh("nft -a list table inet peerwall");
            let lines = text.lines().filter(|line| !line.contains("elements ="));
            lines
                .filter(|line| line.contains("# handle"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let before = handles(&cluster);
        let mut monitor = cluster
            .host
            .command("nft")
            .args(["monitor"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
        std::thread::sleep(Duration::from_millis(300));
        let mut nodes = vec!["10.0.0.1".to_owned()];
        for number in 2..2 + joins {
            nodes.push(format!("10.0.{}.{}", number / 256, number % 256));
            let list: Vec<&str> = nodes.iter().map(String::as_str).collect();
            cluster.list(u64::from(number), &list);
            let last = list.last().copied().unwrap_or_default();
            wait_for("the node", || cluster.has(last));
        }
        std::thread::sleep(Duration::from_millis(300));
        monitor.kill().unwrap();
        monitor.wait().unwrap();
        let changes: Vec<String> = lines
            .map_while(Result::ok)
            .filter(|line| !line.starts_with("# new generation"))
            .collect();
        let is_element = |line: &&String| line.starts_with("add element inet peerwall peers4");
        assert_eq!(
            changes.iter().filter(is_element).count(),
            usize::from(joins),
            "{changes:?}"
        );
        assert_eq!(changes.len(), usize::from(joins), "{changes:?}");
        assert_eq!(handles(&cluster), before);
        assert_eq!(cluster.confirmed(), 1);
    });
}

fn from_connection(host: &Host, port: u16, args: &[&str]) {
    let mut command = host.command(peerwall_bin());
    let connection = format!("203.0.113.5 {port} 203.0.113.6 22");
    command.args(args).env("SSH_CONNECTION", connection);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn members_lie_over_trials_and_rollbacks() {
    world(|| {
        let cluster = Cluster::new("");
        let host = &cluster.host;
        let _agent = Agent::start(host, &cluster.path(), &[]);
        cluster.policy("198.51.100.2", "");
        wait_for("the second policy", || cluster.has("198.51.100.2"));
        host.peerwall_ok(&["rollback"]);
        let nodes: Vec<String> = (1..=10).map(|n| format!("10.0.0.{n}")).collect();
        for count in 1..=nodes.len() {
            let list: Vec<&str> = nodes[..count].iter().map(String::as_str).collect();
            cluster.list(count as u64, &list);
        }
        wait_for("all ten", || nodes.iter().all(|node| cluster.has(node)));
        assert!(
            cluster.has("198.51.100.1") && !cluster.has("198.51.100.2"),
            "rolled back"
        );
        // A trial stays what it is, and so do the members that join meanwhile.
        cluster.policy("198.51.100.3", "");
        let path = cluster.path();
        let path = path.to_str().unwrap();
        from_connection(host, 4000, &["apply", "--confirm", "3s", path]);
        cluster.list(11, &["10.0.0.1", "10.0.0.2", "10.0.0.77"]);
        wait_for("a node during the trial", || cluster.has("10.0.0.77"));
        assert!(cluster.has("198.51.100.3"), "still on trial");
        wait_for("the rollback", || cluster.has("198.51.100.1"));
        assert!(cluster.has("10.0.0.77"), "the rollback took a node out");
        cluster.policy("198.51.100.4", "");
        from_connection(host, 4000, &["apply", "--confirm", "60s", path]);
        cluster.list(12, &["10.0.0.1", "10.0.0.78"]);
        wait_for("another node", || cluster.has("10.0.0.78"));
        from_connection(host, 4001, &["confirm"]);
        assert!(cluster.has("10.0.0.78") && cluster.has("198.51.100.4"));
        assert!(
            cluster.has("10.0.0.77"),
            "it is missing for less than the grace"
        );
    });
}

#[test]
fn the_last_members_are_there_at_boot_and_without_an_agent() {
    world(|| {
        let cluster = Cluster::new("");
        let host = &cluster.host;
        let path = cluster.path();
        let path = path.to_str().unwrap();
        let agent = Agent::start(host, &cluster.path(), &[]);
        cluster.list(1, &["10.0.0.5"]);
        wait_for("the node", || cluster.has("10.0.0.5"));
        let is_saved = || host.try_sh("grep -q 10.0.0.5 $PEERWALL_STATE/members-cluster.json");
        wait_for("the saved member", || is_saved().status.success());
        drop(agent);
        host.peerwall_ok(&["remove"]);
        host.peerwall_ok(&["boot", path]);
        assert!(cluster.has("10.0.0.5"));
        fs::remove_file(cluster.sources().join("cluster")).unwrap();
        cluster.policy("198.51.100.9", "");
        host.peerwall_ok(&["apply", path]);
        assert!(cluster.has("10.0.0.5") && cluster.has("198.51.100.9"));
        let text = host.peerwall_ok(&["sources", "show", "cluster"]);
        assert!(
            text.contains("no agent runs") && text.contains("10.0.0.5"),
            "{text}"
        );
        // The source is gone, and the members stay.
        let _agent = Agent::start(host, &cluster.path(), &[]);
        assert!(cluster.has("10.0.0.5"));
        assert_eq!(cluster.source()["members"], 1);
    });
}
