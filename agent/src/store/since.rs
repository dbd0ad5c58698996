//! The record of the last apply.
//!
//! The kernel stores no time with a table. Each apply records the time and a digest of the ruleset
//! under `/run/peerwall`, separately for each network namespace. If the loaded rules have the same
//! digest, they have not changed since. Without the record, `status` only lacks that statement.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use peerwall_core::ruleset::Ruleset;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::secure_file::private::Private;
use crate::system::passing;

const FOLDER: &str = "/run/peerwall";

/// The record of an apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Generation right after the apply.
    pub generation: u32,
    /// Time of the apply, as RFC 3339 in UTC.
    pub time: String,
    /// Path of the policy.
    pub policy: String,
    /// Whether it was applied by iptables, so that a later apply by nft deletes the chains.
    #[serde(default)]
    pub by_iptables: bool,
    /// Digest of the ruleset.
    #[serde(default)]
    pub ruleset: Option<String>,
}

impl Note {
    /// The time in seconds since the Unix epoch; `None` if it cannot be read.
    pub fn unix_seconds(&self) -> Option<i64> {
        let time: jiff::Timestamp = self.time.parse().ok()?;
        Some(time.as_second())
    }
}

/// Returns the SHA-256 of a ruleset, in hexadecimal.
pub fn digest(ruleset: &Ruleset) -> String {
    /// Hashes all bytes that are written to it.
    struct Hashing(Sha256);

    impl io::Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut hashing = Hashing(Sha256::new());
    // Neither serializing nor hashing a ruleset can fail.
    let _ = serde_json::to_writer(&mut hashing, ruleset);
    let bytes = hashing.0.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn folder() -> Private {
    Private::writable_by_root(PathBuf::from(FOLDER))
}

/// Returns the file name for this network namespace.
fn name() -> io::Result<String> {
    let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok(format!("applied-{namespace}.json"))
}

/// Records an apply. A failure is only logged.
pub fn note(generation: u32, policy: &str, by_iptables: bool, ruleset: &Ruleset) {
    let now = jiff::Timestamp::now();
    let note = Note {
        generation,
        time: format!("{:.0}", now),
        policy: policy.to_owned(),
        by_iptables,
        ruleset: Some(digest(ruleset)),
    };
    let written =
        name().and_then(|name| folder().write(&name, |to| Ok(serde_json::to_writer(to, &note)?)));
    if let Err(err) = written {
        log::debug!("cannot record the apply: {err}");
    }
}

/// Whether the last apply was by iptables, and the rules were not removed since.
pub fn by_iptables() -> bool {
    last().is_some_and(|note| note.by_iptables)
}

/// Reads the last record of this network namespace.
pub fn last() -> Option<Note> {
    // It decides which backend the rules belong to.
    let read = passing::insist(|| name().and_then(|name| folder().read(&name)));
    let text = read.unwrap_or_else(|err| {
        log::warn!("{err}");
        None
    });
    serde_json::from_slice(&text?).ok()
}

/// Deletes the record.
pub fn forget() {
    if let Err(err) = name().and_then(|name| folder().remove(&name)) {
        log::debug!("{err}");
    }
}
