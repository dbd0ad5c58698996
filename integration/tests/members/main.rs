//! Members of sources: what a program writes comes into force within the limits of the policy, and
//! nothing that it writes, or does not write, takes members out at once.
//!
//! `PEERWALL_ROUNDS` sets how often the agent is killed, `PEERWALL_ATTACK` how many seconds a
//! source attacks, `PEERWALL_JOINS` how many nodes join one after the other.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it measured"
)]

mod attack;
mod failures;
mod joins;
mod unit;

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use peerwall_integration::ns::Host;
use serde_json::Value;

/// A host whose policy has the source `cluster`.
struct Cluster {
    host: Host,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Creates a host. `limits` are more lines of the source.
    fn new(limits: &str) -> Self {
        let cluster = Self {
            host: Host::new("host"),
            folder: tempfile::tempdir().unwrap(),
        };
        cluster.policy("198.51.100.1", limits);
        fs::create_dir_all(cluster.sources()).unwrap();
        cluster
    }

    /// Directory in which sources write.
    fn sources(&self) -> PathBuf {
        Path::new("/run/hosts/host/run/sources").to_owned()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("policy.toml")
    }

    /// Writes a policy with a peer of its own.
    fn policy(&self, own: &str, limits: &str) {
        let text = format!(
            r#"
                version = 1
                [peers]
                own = "{own}"
                [peers_from.cluster]
                kind = "files"
                within = ["10.0.0.0/16", "2001:db8::/48"]
                {limits}
                [[allow]]
                name = "ssh"
                ports = ["22/tcp"]
                from = "any"
            "#
        );
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    /// Writes this as the source.
    fn write(&self, text: impl AsRef<[u8]>) {
        let new = self.sources().join(".new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.sources().join("cluster")).unwrap();
    }

    fn list(&self, revision: u64, members: &[&str]) {
        self.write(listing(revision, members));
    }

    /// Addresses in the sets of peers.
    fn peers(&self) -> BTreeSet<IpAddr> {
        let mut found = BTreeSet::new();
        for set in ["peers4", "peers6"] {
            let output = self
                .host
                .try_sh(&format!("nft -j list set inet peerwall {set}"));
            let Ok(json) = serde_json::from_slice::<Value>(&output.stdout) else {
                continue;
            };
            let sets = json["nftables"].as_array().unwrap().iter();
            let elements = sets.filter_map(|each| each["set"]["elem"].as_array());
            let elements = elements.flatten();
            found.extend(elements.filter_map(|each| {
                let plain = each.as_str().or_else(|| each["elem"]["val"].as_str());
                plain?.parse::<IpAddr>().ok()
            }));
        }
        found
    }

    fn has(&self, address: &str) -> bool {
        self.peers().contains(&address.parse().unwrap())
    }

    /// What `peerwall sources` says of the source.
    fn source(&self) -> Value {
        let text = self.host.peerwall_ok(&["sources", "--json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(list["agent"], true, "{text}");
        list["sources"][0].clone()
    }

    fn confirmed(&self) -> usize {
        let text = self.host.peerwall_ok(&["history", "--json"]);
        let history: Value = serde_json::from_str(&text).unwrap();
        history["confirmed"].as_array().unwrap().len()
    }
}

/// Returns a listing in which each member has a node of its own.
fn listing(revision: u64, members: &[&str]) -> String {
    let mut text = format!("peerwall-members 1 source=cluster identity=one revision={revision}\n");
    for (number, member) in members.iter().enumerate() {
        let _ = writeln!(text, "{member} node-{number}");
    }
    let _ = writeln!(text, "end {}", members.len());
    text
}
