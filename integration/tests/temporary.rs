//! Temporary peers: `peerwall peer add`, `remove` and what ends them.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use peerwall_integration::ns::{Host, world};
use peerwall_integration::open::{Agent, echo, lives, open, wait_for};
use peerwall_integration::probe::tcp_server;
use peerwall_integration::random::Random;
use peerwall_integration::situation::{Lan, reaches};

/// What the kernel holds: addresses, with the names in their comments and their timeouts.
fn loaded(host: &Host) -> BTreeMap<String, (String, Option<u64>)> {
    // Not the ruleset: nft 1.0.6 does not know the flag `persist` of a table, and prints as JSON
    // whatever lies in its memory, or nothing at all.
    let list = |set: &str| host.try_sh(&format!("nft -j list set inet peerwall {set}"));
    let listed = ["temporary4", "temporary6"].map(list).into_iter();
    let listed = listed.filter(|output| output.status.success());
    let elements = listed.flat_map(|output| {
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let objects = listed["nftables"].as_array().unwrap().iter();
        let set = objects.filter_map(|each| each.get("set")).next().unwrap();
        set["elem"].as_array().cloned().unwrap_or_default()
    });
    let read = |element: serde_json::Value| {
        let element = &element["elem"];
        let comment = element["comment"].as_str().unwrap();
        let name = comment.split(' ').next().unwrap().to_owned();
        let address = element["val"].as_str().unwrap().to_owned();
        (address, (name, element["timeout"].as_u64()))
    };
    elements.map(read).collect()
}

fn names(host: &Host) -> BTreeMap<String, String> {
    let loaded = loaded(host).into_iter();
    loaded.map(|(address, (name, _))| (address, name)).collect()
}

fn write(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("policy.toml");
    let new = folder.join("policy.new");
    fs::write(&new, format!("version = 1\n{text}")).unwrap();
    fs::rename(&new, &path).unwrap();
    path
}

/// Returns what a command that must fail says.
fn refused(host: &Host, arguments: &[&str]) -> String {
    let output = host.peerwall(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn is_in_sync(host: &Host, policy: &Path) -> bool {
    let output = host.peerwall(&["status", "--json", policy.to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["in_sync"] == true
}

/// The policy's own state is the same with few and with many peers: large sets are not read again,
/// and an apply without a change reads nothing.
#[test]
fn plan_and_apply_tell_that_loading_the_policy_again_ends_temporary_peers() {
    world(|| {
        for (name, peers) in [("few", 1), ("many", 1500)] {
            let host = Host::new(name);
            let folder = tempfile::tempdir().unwrap();
            let lines = (0..peers).map(|n| format!("10.9.{}.{}\n", n / 250, n % 250 + 1));
            fs::write(folder.path().join("list.txt"), lines.collect::<String>()).unwrap();
            let policy = write(folder.path(), "peers_files = [\"list.txt\"]\n");
            let path = policy.to_str().unwrap();
            let agent = Agent::start(&host, &policy, &[]);
            let plan = || {
                let output = host.peerwall(&["plan", path]);
                let text = String::from_utf8(output.stdout).unwrap();
                (output.status.code(), text)
            };
            let add = || {
                host.peerwall_ok(&["peer", "add", "guest", "192.0.2.2", "--for", "1h"]);
                host.peerwall_ok(&["peer", "add", "admin", "192.0.2.3", "--keep"]);
            };
            let both = ["192.0.2.2", "192.0.2.3"].map(str::to_owned);
            let listed = || names(&host).into_keys().collect::<Vec<_>>();

            add();
            assert_eq!(listed(), both);
            let (code, text) = plan();
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains("- peer guest"), "{text}");
            assert!(!text.contains("admin"), "{text}");
            assert!(is_in_sync(&host, &policy));
            assert!(!host.peerwall_ok(&["render", path]).contains("guest"));
            // A second plan says the same, and nothing has changed.
            assert_eq!(plan(), (code, text));
            assert_eq!(listed(), both);
            host.peerwall_ok(&["apply"]);
            assert_eq!(listed(), both[1..]);
            assert_eq!(plan().0, Some(0));

            // Without an agent. A trial ends nothing.
            add();
            drop(agent);
            assert!(is_in_sync(&host, &policy));
            assert!(plan().1.contains("- peer guest"));
            host.peerwall_ok(&["apply", path, "--confirm", "1m"]);
            assert_eq!(listed(), both);
            host.peerwall_ok(&["confirm"]);
            assert_eq!(listed(), both);
            host.peerwall_ok(&["apply", path]);
            assert_eq!(listed(), both[1..]);
            assert!(is_in_sync(&host, &policy));
            assert_eq!(plan().0, Some(0));
            host.peerwall_ok(&["apply", path]);
            assert_eq!(listed(), both[1..]);
            let _agent = Agent::start(&host, &policy, &[]);
            assert_eq!(listed(), both[1..], "an agent brought back what ended");
        }
    });
}

#[test]
fn a_temporary_peer_is_accepted_until_it_is_removed_and_its_connections_end() {
    world(|| {
        let lan = Lan::new();
        let (host, peer, other) = (
            lan.join("host", 1),
            lan.join("peer", 2),
            lan.join("other", 3),
        );
        let folder = tempfile::tempdir().unwrap();
        let policy = write(folder.path(), "[peers]\nstatic = \"10.8.0.1\"\n");
        let _agent = Agent::start(&host, &policy, &[]);
        echo(&host, "192.0.2.1:7003");
        tcp_server(&host, "192.0.2.1:7001");
        tcp_server(&host, "[2001:db8:49::1]:7002");
        assert!(!reaches(&peer, "192.0.2.1:7001", false));

        let said = host.peerwall_ok(&["peer", "add", "laptop", "192.0.2.2", "--for", "1h"]);
        assert!(
            said.contains("added peer laptop (192.0.2.2) until 20"),
            "{said}"
        );
        host.peerwall_ok(&["peer", "add", "laptop", "2001:db8:49::2"]);
        let mut stream = open(&peer, "192.0.2.1:7003");
        assert!(reaches(&peer, "[2001:db8:49::1]:7002", true));
        assert!(!reaches(&other, "192.0.2.1:7001", false));
        let seconds = loaded(&host)["192.0.2.2"].1.unwrap();
        assert!((3595..=3602).contains(&seconds), "{seconds}");
        assert_eq!(loaded(&host)["2001:db8:49::2"].1, None);

        // The host is as it should be.
        assert!(is_in_sync(&host, &policy));
        let status = host.peerwall(&["status", policy.to_str().unwrap()]);
        let status = String::from_utf8(status.stdout).unwrap();
        assert!(
            status.contains("peer:       192.0.2.2 laptop for another"),
            "{status}"
        );
        let list = host.peerwall_ok(&["peer"]);
        assert!(list.contains("laptop for another 59 min"), "{list}");
        let why = host.peerwall_ok(&[
            "explain",
            "--live",
            "--from",
            "192.0.2.2",
            "--to",
            "192.0.2.1",
            "--port",
            "7001/tcp",
        ]);
        assert!(why.contains("accept"), "{why}");

        // Another end replaces the element, and the connection lives on.
        host.peerwall_ok(&["peer", "add", "laptop", "192.0.2.2", "--for", "10m"]);
        assert!(loaded(&host)["192.0.2.2"].1.unwrap() <= 602);
        assert!(lives(&mut stream));

        host.peerwall_ok(&["peer", "remove", "laptop"]);
        assert_eq!(names(&host), BTreeMap::new());
        assert!(!lives(&mut stream));
        assert!(!reaches(&peer, "192.0.2.1:7001", false));
        assert!(refused(&host, &["peer", "remove", "laptop"]).contains("no temporary peer"));
    });
}

#[test]
fn the_end_of_a_temporary_peer_needs_no_agent() {
    world(|| {
        let lan = Lan::new();
        let (one, two, peer) = (lan.join("one", 1), lan.join("two", 2), lan.join("peer", 3));
        let folder = tempfile::tempdir().unwrap();
        let policy = write(folder.path(), "");
        let _agent = Agent::start(&one, &policy, &[]);
        let killed = Agent::start(&two, &policy, &["--no-owner"]);
        echo(&one, "192.0.2.1:7003");
        for (host, address) in [(&one, "192.0.2.1:7001"), (&two, "192.0.2.2:7001")] {
            tcp_server(host, address);
            host.peerwall_ok(&["peer", "add", "laptop", "192.0.2.3", "--for", "10s"]);
            host.peerwall_ok(&["peer", "add", "stays", "192.0.2.99"]);
        }
        let begun = Instant::now();
        let mut stream = open(&peer, "192.0.2.1:7003");
        assert!(reaches(&peer, "192.0.2.2:7001", true));
        drop(killed);
        wait_for("both ends", || {
            [&one, &two].iter().all(|host| names(host).len() == 1) || {
                std::thread::sleep(Duration::from_millis(100));
                false
            }
        });
        assert!(begun.elapsed() > Duration::from_secs(8));
        assert!(!lives(&mut stream));
        for address in ["192.0.2.1:7001", "192.0.2.2:7001"] {
            assert!(!reaches(&peer, address, false));
        }
        let list = one.peerwall_ok(&["peer"]);
        assert!(list.contains("stays") && !list.contains("laptop"), "{list}");
        // A reload that is refused ends nothing.
        fs::write(&policy, "version = 1\nnonsense").unwrap();
        assert_eq!(one.peerwall(&["reload"]).status.code(), Some(2));
        assert_eq!(names(&one).into_values().collect::<Vec<_>>(), ["stays"]);
        assert!(one.peerwall_ok(&["peer"]).contains("stays"));
        write(folder.path(), "");
        one.peerwall_ok(&["reload"]);
        assert_eq!(names(&one), BTreeMap::new());
        assert!(one.peerwall_ok(&["peer"]).contains("no temporary peers"));
        // The next agent knows what has ended.
        let _agent = Agent::start(&two, &policy, &[]);
        assert_eq!(names(&two).into_values().collect::<Vec<_>>(), ["stays"]);
        assert!(is_in_sync(&two, &policy));
    });
}

#[test]
fn what_cannot_be_a_temporary_peer_is_refused_and_changes_nothing() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let policy = "[overlay.pods]\nsubnets = [\"10.244.0.0/16\"]\nbackend = \"vxlan\"\n\
             interfaces = [\"cni0\"]\n\
             [[expect]]\nfrom = \"10.9.0.9\"\nport = \"22/tcp\"\nverdict = \"drop\"\n";
        let policy = write(folder.path(), policy);
        assert!(refused(&host, &["peer", "add", "a", "10.9.0.2"]).contains("no agent runs"));
        let agent = Agent::start(&host, &policy, &[]);
        let before = host.sh("nft list ruleset");
        for (name, address, want) in [
            ("a", "10.244.3.7", "pods or services"),
            ("a", "0.0.0.0", "not the address of a machine"),
            ("a", "127.0.0.1", "not the address of a machine"),
            ("a", "224.0.0.1", "not the address of a machine"),
            ("a", "fe80::1", "not the address of a machine"),
            ("a", "::ffff:10.9.0.2", "not the address of a machine"),
            ("any", "10.9.0.2", "cannot be the name"),
            ("a b", "10.9.0.2", "cannot be the name"),
            ("", "10.9.0.2", "cannot be the name"),
            ("a", "10.9.0.0/24", "invalid"),
            ("a", "laptop", "invalid"),
        ] {
            let said = refused(&host, &["peer", "add", name, address]);
            assert!(said.contains(want), "{name} {address}: {said}");
        }
        for time in ["0s", "9s", "31d", "1.5h", "-1s", "soon"] {
            let time = format!("--for={time}");
            refused(&host, &["peer", "add", "a", "10.9.0.2", &time]);
        }
        assert_eq!(host.sh("nft list ruleset"), before);
        // A removed peer does not come back where its list cannot be written.
        host.peerwall_ok(&["peer", "add", "b", "10.9.0.3"]);
        let list = host.sh("echo $PEERWALL_STATE/temporary.json");
        let list = list.trim();
        host.sh(&format!("rm {list}; mkdir {list}"));
        let said = host.peerwall_ok(&["peer", "remove", "b"]);
        assert!(said.contains("are back when the agent restarts"), "{said}");
        host.sh(&format!("rmdir {list}"));
        // An expectation is about the policy.
        host.peerwall_ok(&["peer", "add", "a", "10.9.0.9"]);
        assert!(is_in_sync(&host, &policy));
        assert!(
            host.peerwall_ok(&["check", policy.to_str().unwrap()])
                .contains("1")
        );
        // Nothing gets in while the host is blocked, and nothing is told to.
        host.peerwall_ok(&["block", "--force"]);
        assert!(refused(&host, &["peer", "add", "b", "10.9.0.2"]).contains("blocked"));
        assert!(host.peerwall_ok(&["peer"]).contains("NOT in force"));
        assert_eq!(names(&host), BTreeMap::new());
        host.peerwall_ok(&["unblock"]);
        wait_for("the end of the block", || {
            let names: Vec<String> = names(&host).into_values().collect();
            names.is_empty() || names == ["a"]
        });
        drop(agent);

        let host = Host::new("old");
        let policy = write(folder.path(), "[options]\nbackend = \"iptables\"\n");
        let _agent = Agent::start(&host, &policy, &[]);
        let said = refused(&host, &["peer", "add", "a", "10.9.0.2", "--for", "1h"]);
        assert!(said.contains("without --for"), "{said}");
        host.peerwall_ok(&["peer", "add", "a", "10.9.0.2"]);
        let rules = host.sh("iptables-save; ipset save");
        assert!(rules.contains("10.9.0.2"), "{rules}");
        host.peerwall_ok(&["peer", "remove", "10.9.0.2"]);
        assert!(!host.sh("iptables-save; ipset save").contains("10.9.0.2"));
    });
}

/// After any sequence of changes, the kernel has the peers that the sequence leaves.
#[test]
fn the_kernel_has_the_temporary_peers_that_any_sequence_leaves() {
    world(|| {
        for seed in [1, 2] {
            sequence(seed);
        }
    });
}

fn sequence(seed: u64) {
    let host = Host::new(&format!("host{seed}"));
    let folder = tempfile::tempdir().unwrap();
    let mut version = 0;
    let mut policy = |folder: &Path| {
        version += 1;
        write(folder, &format!("[peers]\nstatic = \"10.8.0.{version}\"\n"))
    };
    let path = policy(folder.path());
    let mut agent = Some(Agent::start(&host, &path, &["--no-owner"]));
    let mut random = Random::new(seed);
    let mut model: BTreeMap<String, (String, bool)> = BTreeMap::new();
    let mut told = Vec::new();
    for _ in 0..40 {
        let name = random.of(&["a", "b", "c"]);
        let address = random.of(&["10.9.0.2", "10.9.0.3", "fd09::2", "fd09::3"]);
        let step = random.below(10);
        match step {
            0..4 => {
                let keep = random.chance(50);
                let mut arguments = vec!["peer", "add", name, address];
                arguments.extend(keep.then_some("--keep"));
                arguments.extend(random.chance(50).then_some("--for=1h"));
                host.peerwall_ok(&arguments);
                model.insert(address.to_owned(), (name.to_owned(), keep));
                told.push(format!("{arguments:?}"));
            }
            4 => {
                let had = model.len();
                model.retain(|_, (each, _)| each != name);
                let code = host.peerwall(&["peer", "remove", name]).status.code();
                assert_eq!(
                    code,
                    Some(if model.len() < had { 0 } else { 2 }),
                    "{told:?}"
                );
                told.push(format!("remove {name}"));
            }
            5 => {
                host.peerwall_ok(&["reload"]);
                model.retain(|_, (_, keep)| *keep);
                told.push("reload".to_owned());
            }
            6 => {
                policy(folder.path());
                host.peerwall_ok(&["reload"]);
                model.retain(|_, (_, keep)| *keep);
                told.push("another policy".to_owned());
            }
            7 => {
                drop(agent.take());
                if random.chance(50) {
                    host.sh("nft flush ruleset");
                }
                agent = Some(Agent::start(&host, &path, &["--no-owner"]));
                told.push("restart".to_owned());
            }
            8 => {
                host.sh("nft flush ruleset");
                told.push("flush".to_owned());
            }
            _ => {
                let trial = folder.path().join("trial.toml");
                fs::write(&trial, "version = 1\n").unwrap();
                let trial = trial.to_str().unwrap();
                host.peerwall_ok(&["apply", "--force", "--confirm", "60s", trial]);
                host.peerwall_ok(&["peer", "add", name, address, "--keep"]);
                model.insert(address.to_owned(), (name.to_owned(), true));
                host.peerwall_ok(&["rollback"]);
                told.push(format!("trial, and {name} {address}"));
            }
        }
        let want: BTreeMap<String, String> = model
            .iter()
            .map(|(address, (name, _))| (address.clone(), name.clone()))
            .collect();
        let since = Instant::now();
        while names(&host) != want {
            assert!(
                since.elapsed() < Duration::from_secs(10),
                "seed {seed}: {:?} instead of {want:?} after {told:?}\n{}",
                names(&host),
                host.peerwall_ok(&["peer"])
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
