//! Large sets are not read from the kernel while it proves that nothing has changed, and are read
//! whenever it does not.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;

use peerwall_integration::ns::{Host, peerwall_bin, world};
use peerwall_integration::open::wait_for;
use peerwall_integration::random::Random;

/// Enough for the record of the last load to have a digest of the set.
const PEERS: u32 = 1200;

fn address(number: u32) -> String {
    format!("10.{}.{}.1", number / 250, number % 250)
}

/// The addresses in the set, by nft.
fn loaded(host: &Host) -> BTreeSet<String> {
    let text = host.sh("nft -j list set inet peerwall peers4");
    let listed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let objects = listed["nftables"].as_array().unwrap();
    let set = objects.iter().find_map(|each| each.get("set")).unwrap();
    let elements = set["elem"].as_array().unwrap().iter();
    let address = |element: &serde_json::Value| {
        let value = element.get("elem").map_or(element, |with| &with["val"]);
        value.as_str().unwrap().to_owned()
    };
    elements.map(address).collect()
}

/// Whether a command says that it did not read sets.
fn is_spared(host: &Host, arguments: &[&str]) -> (bool, i32) {
    let output = host.peerwall(&[&["-vv"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    let spared =
        said.contains("1 sets were not read") || said.contains("are those of the last apply");
    (spared, output.status.code().unwrap())
}

#[test]
fn after_any_sequence_of_changes_an_apply_loads_the_policy_and_status_tells_the_truth() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        let list = folder.path().join("peers.txt");
        fs::write(&policy, "version = 1\npeers_files = [\"peers.txt\"]\n").unwrap();
        let path = policy.to_str().unwrap();
        let mut wanted: BTreeSet<String> = (0..PEERS).map(address).collect();
        let write = |wanted: &BTreeSet<String>| {
            let lines: Vec<&str> = wanted.iter().map(String::as_str).collect();
            fs::write(&list, lines.join("\n")).unwrap();
        };
        write(&wanted);
        assert_eq!(is_spared(&host, &["apply", path]), (false, 0));

        // The same policy and the same generation: nothing is read, and the answers are right.
        assert_eq!(is_spared(&host, &["apply", path]), (true, 0));
        assert_eq!(is_spared(&host, &["status", path]), (true, 0));
        assert_eq!(is_spared(&host, &["plan", path]), (true, 0));
        assert_eq!(is_spared(&host, &["status", "--deep", path]), (false, 0));

        // One more peer: the set is as it was stored.
        wanted.insert("192.0.2.200".to_owned());
        write(&wanted);
        assert_eq!(is_spared(&host, &["plan", path]), (true, 1));
        assert_eq!(is_spared(&host, &["apply", path]), (true, 0));
        assert_eq!(loaded(&host), wanted);

        // One less, and what was stored is lost, or 10.0.7.1 was changed in it.
        for damage in ["rm $ruleset", "sed -i s/167773953/167773954/ $ruleset"] {
            let one = wanted.pop_first().unwrap();
            write(&wanted);
            host.sh(&format!(
                "for ruleset in $PEERWALL_STATE/ruleset-*.json; do {damage}; done"
            ));
            assert_eq!(is_spared(&host, &["plan", path]), (false, 1), "{damage}");
            assert_eq!(is_spared(&host, &["apply", path]), (false, 0), "{damage}");
            assert_eq!(loaded(&host), wanted, "{damage}: {one}");
        }

        let mut chance: u32 = 2_463_534_242;
        let mut next = |below: u32| {
            chance ^= chance << 13;
            chance ^= chance >> 17;
            chance ^= chance << 5;
            chance % below
        };
        let mut spared = 0;
        let is_loaded = || host.try_sh("nft list table inet peerwall").status.success();
        for step in 0..40 {
            let number = next(PEERS);
            let one = address(number);
            match next(6) {
                // The set keeps its count.
                0 if is_loaded() => drop(host.sh(&format!(
                    "nft 'delete element inet peerwall peers4 {{ {} }}; \
                     add element inet peerwall peers4 {{ 192.0.2.{} }}'",
                    loaded(&host).first().unwrap(),
                    step + 1
                ))),
                1 if is_loaded() => drop(host.sh(&format!(
                    "nft add element inet peerwall peers4 '{{ 198.51.100.{} }}'",
                    step + 1
                ))),
                2 => drop(host.sh("nft 'add table ip other; delete table ip other'")),
                3 => {
                    if !wanted.remove(&one) {
                        wanted.insert(one);
                    }
                    write(&wanted);
                }
                4 if is_loaded() => drop(host.sh("nft delete table inet peerwall")),
                _ => {}
            }
            let is_same = is_loaded() && loaded(&host) == wanted;
            let (_, code) = is_spared(&host, &["status", path]);
            assert_eq!(code == 0, is_same, "step {step}: status {code}");
            let (_, code) = is_spared(&host, &["plan", path]);
            assert_eq!(code == 0, is_same, "step {step}: plan {code}");
            if next(3) > 0 {
                let (was_spared, code) = is_spared(&host, &["apply", path]);
                spared += u32::from(was_spared);
                assert_eq!(code, 0, "step {step}");
                assert_eq!(loaded(&host), wanted, "step {step}");
            }
        }
        assert!(spared > 0, "no apply was spared");
    });
}

#[test]
fn what_another_program_changed_right_after_the_load_is_not_taken_for_the_load() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        let lines: Vec<String> = (0..PEERS).map(address).collect();
        fs::write(folder.path().join("peers.txt"), lines.join("\n")).unwrap();
        fs::write(&policy, "version = 1\npeers_files = [\"peers.txt\"]\n").unwrap();
        let path = policy.to_str().unwrap();
        // Removes a peer again and again, also between a load and its record.
        let swap =
            "while :; do nft delete element inet peerwall peers4 '{ 10.0.7.1 }'; done 2>/dev/null";
        let mut other = host.command("sh").args(["-c", swap]).spawn().unwrap();
        for _ in 0..30 {
            host.peerwall(&["apply", path]);
        }
        other.kill().unwrap();
        other.wait().unwrap();
        let (_, code) = is_spared(&host, &["status", path]);
        assert_eq!(code == 0, loaded(&host).contains("10.0.7.1"));
        assert_eq!(is_spared(&host, &["apply", path]).1, 0);
        assert!(loaded(&host).contains("10.0.7.1"));
    });
}

/// An agent that does not own its table, and what it logs.
struct LoggedAgent {
    child: Child,
    log: PathBuf,
}

impl LoggedAgent {
    fn start(host: &Host, policy: &str, log: PathBuf) -> Self {
        let mut command = host.command(peerwall_bin());
        command.args(["-vv", "run", "--no-owner", policy]);
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    /// How often it did not read sets that it knew.
    fn spared(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap();
        log.matches("sets were not read").count()
    }
}

impl Drop for LoggedAgent {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn an_agent_without_an_owned_table_knows_its_sets_while_it_hears_only_of_other_tables() {
    world(|| {
        let host = Host::new("host");
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        let list = folder.path().join("peers.txt");
        fs::write(&policy, "version = 1\npeers_files = [\"peers.txt\"]\n").unwrap();
        let mut wanted: BTreeSet<String> = (0..PEERS).map(address).collect();
        let write = |wanted: &BTreeSet<String>| {
            let lines: Vec<&str> = wanted.iter().map(String::as_str).collect();
            let new = folder.path().join("peers.new");
            fs::write(&new, lines.join("\n")).unwrap();
            fs::rename(&new, &list).unwrap();
        };
        write(&wanted);
        let log = folder.path().join("log");
        let agent = LoggedAgent::start(&host, policy.to_str().unwrap(), log);
        let is_loaded = || host.try_sh("nft list table inet peerwall").status.success();
        let has = |wanted: &BTreeSet<String>| is_loaded() && loaded(&host) == *wanted;
        wait_for("the first load", || has(&wanted));
        host.peerwall_ok(&["peer", "add", "first", "192.0.2.1"]);

        // Transactions of others between two loads.
        host.sh("nft add table ip other; nft add set ip other s '{ type ipv4_addr; }'");
        host.sh("nft add element ip other s '{ 192.0.2.1, 192.0.2.2 }'");
        let before = agent.spared();
        host.peerwall_ok(&["peer", "add", "second", "192.0.2.2"]);
        assert_eq!(agent.spared(), before + 1, "the set was read");

        // Each change alone or with others, before the agent has seen the one before.
        let mut random = Random::new(7);
        let mut spared = 0;
        for step in 0..60 {
            let before = agent.spared();
            let mut is_touched = false;
            for _ in 0..=random.below(2) {
                match random.below(7) {
                    0 | 1 => drop(host.sh("nft add table ip6 more; nft delete table ip6 more")),
                    2 => {
                        is_touched = true;
                        let add = "nft add element inet peerwall peers4 '{ 198.51.100.7 }'";
                        host.try_sh(add);
                    }
                    3 => {
                        is_touched = true;
                        host.try_sh(
                            "nft 'delete element inet peerwall peers4 { 10.0.7.1 }; \
                             add element inet peerwall peers4 { 198.51.100.8 }; \
                             add table ip6 more; delete table ip6 more'",
                        );
                    }
                    4 => {
                        is_touched = true;
                        host.try_sh("nft delete table inet peerwall");
                    }
                    5 => {
                        let one = address(8 + u32::try_from(random.below(200)).unwrap());
                        if !wanted.remove(&one) {
                            wanted.insert(one);
                        }
                        write(&wanted);
                    }
                    _ => drop(host.peerwall(&["peer", "add", "more", "192.0.2.3"])),
                }
            }
            host.sh("nft add element ip other s '{ 192.0.2.9 }'");
            host.peerwall(&["peer", "add", "last", &format!("192.0.2.{}", 10 + step)]);
            wait_for(&format!("what the policy says, in step {step}"), || {
                has(&wanted)
            });
            if !is_touched {
                spared += agent.spared() - before;
            }
        }
        assert!(spared >= 20, "only {spared} loads were spared");
    });
}
