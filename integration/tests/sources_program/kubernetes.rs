//! Nodes of Kubernetes: lists, watches, and what goes wrong with them.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use peerwall_integration::api_server::{ApiServer, Fault, node};
use peerwall_integration::ns::world;
use peerwall_integration::sources::Sources;
use serde_json::{Value, json};

fn source(name: &str, servers: &[&ApiServer]) -> Value {
    let servers: Vec<_> = servers.iter().map(|server| server.url()).collect();
    json!({"name": name, "kind": "kubernetes", "server": servers, "max": 4096})
}

/// A server with two nodes.
fn server(uid: &str) -> ApiServer {
    let server = ApiServer::start(uid, None);
    server.put(node("a", &["10.0.0.1"], 0));
    server.put(node("b", &["10.0.0.2", "2001:db8::2"], 0));
    server
}

const BOTH: [&str; 3] = ["10.0.0.1", "10.0.0.2", "2001:db8::2"];

#[test]
fn joins_and_leaves_arrive_at_once_and_heartbeats_write_nothing() {
    world(|| {
        let server = server("uid-1");
        let mut given = source("cluster", &[&server]);
        given["selector"] = "role=peer,x!=a b".into();
        let sources = Sources::start(&[given]);
        sources.await_addresses("cluster", &BOTH);
        let text = sources.file("cluster").unwrap();
        let first =
            "peerwall-members 1 source=cluster kind=kubernetes identity=uid-1 revision=1002\n";
        assert!(text.starts_with(first), "{text}");
        assert!(text.contains("\n2001:db8::2 b\n"), "{text}");
        sources.await_status("cluster", "fresh", "");
        assert!(server.state().selectors.contains("role=peer,x!=a b"));
        let mut longest = Duration::ZERO;
        for number in 1..=20 {
            let start = Instant::now();
            server.put(node("c", &[&format!("10.0.1.{number}")], 0));
            let wanted = [
                "10.0.0.1",
                "10.0.0.2",
                &format!("10.0.1.{number}"),
                "2001:db8::2",
            ];
            sources.await_addresses("cluster", &wanted);
            longest = longest.max(start.elapsed());
        }
        println!("from the change of a node to its file, at most: {longest:?}");
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        server.delete("c");
        sources.await_addresses("cluster", &BOTH);
        let inode = || std::fs::metadata(sources.path("cluster")).unwrap().ino();
        let before = inode();
        for _ in 0..20 {
            server.heartbeat();
        }
        // Two watches later, which the server ended regularly.
        let watches = server.state().watches;
        sources.until("more watches", || server.state().watches > watches + 1);
        assert_eq!(inode(), before);
        assert_eq!(server.state().lists, 1, "{}", sources.log());
    });
}

#[test]
fn expired_revisions_and_pages_are_listed_again_without_a_gap() {
    world(|| {
        let server = server("uid-1");
        for number in 0..1200 {
            let address = format!("10.1.{}.{}", number / 250, number % 250);
            server.put(node(&format!("many-{number}"), &[&address], 0));
        }
        server.fail(Fault::ExpiredPages);
        server.fail(Fault::ExpiredWatch);
        let sources = Sources::start(&[source("cluster", &[&server])]);
        let count = |wanted| {
            sources.until(&format!("{wanted} addresses"), || {
                sources
                    .addresses("cluster")
                    .is_some_and(|found| found.len() == wanted)
            });
        };
        count(1203);
        sources.until("another list", || server.state().lists >= 2);
        // Changes while nobody watches, which cannot be watched later.
        server.fail(Fault::Internal);
        sources.await_status("cluster", "failing", "unreachable");
        server.delete("a");
        server.put(node("late", &["10.0.0.9"], 0));
        server.put(node("later", &["10.0.0.10"], 0));
        server.compact();
        server.recover();
        count(1204);
        let found = sources.addresses("cluster").unwrap();
        assert!(!found.contains(&"10.0.0.1".to_owned()) && found.contains(&"10.0.0.9".to_owned()));
        sources.await_status("cluster", "fresh", "");
    });
}

/// Each fault of a server that worked before: what the status says, and the addresses stay.
#[test]
fn no_fault_of_a_server_changes_the_file() {
    world(|| {
        let rows = [
            ("frozen", Fault::Frozen, "timeout"),
            ("internal", Fault::Internal, "unreachable"),
            ("html", Fault::Html, "protocol"),
            ("torn", Fault::Torn, "unreachable"),
            ("forbidden", Fault::Forbidden, "forbidden"),
            ("silent", Fault::SilentWatch, "timeout"),
        ];
        let servers = rows.map(|(name, fault, kind)| (name, fault, kind, server(name)));
        let given: Vec<_> = servers
            .iter()
            .map(|(name, _, _, server)| source(name, &[server]))
            .collect();
        let sources = Sources::start(&given);
        for (name, ..) in rows {
            sources.await_addresses(name, &BOTH);
        }
        for (_, fault, _, server) in &servers {
            server.fail(*fault);
            // What the program does not get to know in this state.
            server.delete("a");
        }
        for (name, _, kind, _) in &servers {
            sources.await_status(name, "failing", kind);
            let status = sources.status(name);
            assert!(status["fresh"].is_u64(), "{status}");
        }
        // Changes that a watch brought before the fault are no concern of this test.
        for (name, fault, _, server) in &servers {
            let found = sources.addresses(name).unwrap();
            assert!(found == BOTH || found == BOTH[1..], "{name}: {found:?}");
            server.recover();
            server.put(node("c", &["10.0.0.3"], 0));
            if matches!(fault, Fault::Frozen | Fault::SilentWatch) {
                assert_eq!(found, BOTH, "{name}");
            }
        }
        for (name, ..) in rows {
            sources.await_addresses(name, &["10.0.0.2", "10.0.0.3", "2001:db8::2"]);
            sources.await_status(name, "fresh", "");
            assert!(sources.status(name)["errors"].as_object().unwrap().len() == 1);
        }
    });
}

/// The agent decides what these mean.
#[test]
fn an_empty_answer_and_a_new_cluster_are_written_but_no_older_answer() {
    world(|| {
        let (empty, old, new) = (server("uid-1"), server("uid-1"), server("uid-2"));
        let lagging = ApiServer::start("uid-1", None);
        empty.put(node("c", &["10.0.0.3"], 0));
        old.put(node("c", &["10.0.0.3"], 0));
        lagging.put(node("a", &["10.0.0.1"], 0));
        let sources = Sources::start(&[
            source("empty", &[&empty]),
            source("lagging", &[&old, &lagging]),
            source("rebuilt", &[&old, &new]),
        ]);
        let three = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::2"];
        for name in ["empty", "lagging", "rebuilt"] {
            sources.await_addresses(name, &three);
        }
        empty.fail(Fault::Empty);
        old.fail(Fault::Internal);
        sources.await_addresses("empty", &[]);
        // Another cluster, whose revisions are lower.
        sources.await_addresses("rebuilt", &BOTH);
        assert!(sources.file("rebuilt").unwrap().contains("identity=uid-2"));
        sources.await_status("rebuilt", "fresh", "");
        sources.until("the refusal", || sources.log().contains("older than"));
        assert_eq!(sources.addresses("lagging").unwrap(), three);
        // It is accepted once it has caught up.
        for _ in 0..3 {
            lagging.put(node("z", &["10.0.0.26"], 0));
        }
        sources.await_addresses("lagging", &["10.0.0.1", "10.0.0.26"]);
    });
}

#[test]
fn garbage_of_one_node_is_refused_and_named() {
    world(|| {
        let server = server("uid-1");
        server.put(node("bad", &["10.0.0.300", "10.0.0.4"], 0));
        server.put(json!({"metadata": {"name": "worse"}, "status": 7}));
        server.put(json!({"metadata": {"name": "", "labels": []}}));
        server.fail(Fault::NoIdentity);
        let sources = Sources::start(&[source("cluster", &[&server])]);
        let wanted = ["10.0.0.1", "10.0.0.2", "10.0.0.4", "2001:db8::2"];
        sources.await_addresses("cluster", &wanted);
        let log = sources.log();
        assert!(
            log.contains(r#"node "bad" refused: status.addresses: "10.0.0.300""#),
            "{log}"
        );
        assert!(log.contains("1 nodes without a usable name"), "{log}");
        assert!(sources.file("cluster").unwrap().contains("identity=- "));
        // Deleted and registered again.
        server.delete("a");
        server.put(node("a", &["10.0.0.1"], 0));
        sources.await_addresses("cluster", &wanted);
    });
}

/// `PEERWALL_NODES` sets the number of nodes, `PEERWALL_NODE_BYTES` the size of each.
#[test]
fn thousands_of_nodes_need_little_memory_and_their_heartbeats_no_write() {
    world(|| {
        let number = |name: &str, or: usize| {
            std::env::var(name).map_or(or, |text| text.parse().expect("a number"))
        };
        let (count, bytes) = (
            number("PEERWALL_NODES", 1500),
            number("PEERWALL_NODE_BYTES", 1000),
        );
        let server = ApiServer::start("uid-1", None);
        for number in 0..count {
            let (high, low) = (number / 250, number % 250);
            let v4 = format!("10.{}.{}.{low}", high / 250, high % 250);
            let addresses = [v4, format!("2001:db8::{high:x}:{low:x}")];
            server.put(node(
                &format!("node-{number}"),
                &[&addresses[0], &addresses[1]],
                bytes,
            ));
        }
        server.compact();
        let start = Instant::now();
        let sources = Sources::start(&[source("cluster", &[&server])]);
        sources.until("all addresses", || {
            sources
                .addresses("cluster")
                .is_some_and(|found| found.len() == 2 * count)
        });
        println!("the first list took {:?}", start.elapsed());
        let inode = || std::fs::metadata(sources.path("cluster")).unwrap().ino();
        let before = inode();
        let start = Instant::now();
        server.heartbeat();
        server.put(node("last", &["192.0.2.1"], 0));
        sources.until("the node after the heartbeats", || inode() != before);
        println!("its heartbeats and a join took {:?}", start.elapsed());
        let status = std::fs::read_to_string(format!("/proc/{}/status", sources.pid())).unwrap();
        let kibibytes = |key: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        // Pages of the program's file differ between builds, and are shared.
        println!(
            "memory at {count} nodes: {} KiB, {} KiB of them not of files; peak {} KiB",
            kibibytes("VmRSS"),
            kibibytes("RssAnon"),
            kibibytes("VmHWM")
        );
        assert!(kibibytes("RssAnon") < 8 * 1024, "{status}");
    });
}
