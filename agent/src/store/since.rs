//! The record of the last apply.
//!
//! The kernel stores no time with a table. Each apply records the time and a digest of the ruleset
//! under `/run/peerwall`, separately for each network namespace. If the loaded rules have the same
//! digest, they have not changed since. Without the record, `status` only lacks that statement.
//!
//! The kernel reuses the numbers of namespaces. A record therefore contains the number of a socket
//! that the kernel creates with each namespace, and is ignored in a namespace with another one.

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
/// Sockets of this network namespace: `netlink_native_seq_show()` in `net/netlink/af_netlink.c`.
const SOCKETS: &str = "/proc/thread-self/net/netlink";

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
    /// Number of the namespace's rtnetlink socket, if known.
    #[serde(default)]
    pub socket: Option<u64>,
}

impl Note {
    /// Whether the namespace with this socket may have written it. Unknown numbers do not count.
    fn is_of(&self, socket: Option<u64>) -> bool {
        self.socket.is_none() || socket.is_none() || self.socket == socket
    }

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

/// Returns the number of the kernel's rtnetlink socket in the content of `SOCKETS`. The kernel
/// creates it with the namespace (`rtnetlink_net_init()`). Its number repeats after 2³² sockets
/// and pipes (`get_next_ino()`), that of a namespace at once.
fn rtnetlink_socket(sockets: &str) -> Option<u64> {
    let is_it = |fields: &Vec<&str>| fields.get(1..3) == Some(&["0", "0"]);
    let mut lines = sockets
        .lines()
        .map(|line| line.split_whitespace().collect());
    lines.find(is_it)?.last()?.parse().ok()
}

/// Identifies this network namespace; `None` if the kernel does not list its sockets.
fn socket() -> io::Result<Option<u64>> {
    match fs::read_to_string(SOCKETS) {
        Ok(sockets) => Ok(rtnetlink_socket(&sockets)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
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
        socket: passing::insist(socket).ok().flatten(),
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
    let read = passing::insist(|| Ok((folder().read(&name()?)?, socket()?)));
    let (text, socket) = read.unwrap_or_else(|err| {
        log::warn!("{err}");
        (None, None)
    });
    let note: Note = serde_json::from_slice(&text?).ok()?;
    note.is_of(socket).then_some(note)
}

/// Deletes the record.
pub fn forget() {
    if let Err(err) = name().and_then(|name| folder().remove(&name)) {
        log::debug!("{err}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_identified_by_its_rtnetlink_socket() {
        const HEAD: &str = "sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode\n";
        for (name, lines, want) in [
            (
                "of the kernel",
                "00000000c22cc9a6 0   812  00000010 0  0  0     2  0   4711    \n\
                 00000000c22cc9a7 15  0    00000000 0  0  0     2  0   39      \n\
                 0000000000000000 0   0    00000000 0  0  0     2  0   40      \n",
                Some(40),
            ),
            (
                "only of processes",
                "00000000c22cc9a6 0   812  00000010 0  0  0     2  0   4711    \n",
                None,
            ),
            ("none", "", None),
        ] {
            assert_eq!(rtnetlink_socket(&format!("{HEAD}{lines}")), want, "{name}");
        }
    }

    #[test]
    fn a_record_is_ignored_only_in_a_namespace_that_is_known_to_be_another() {
        for (name, record, here, want) in [
            ("the same", Some(40), Some(40), true),
            ("another", Some(40), Some(41), false),
            ("a record of an older version", None, Some(41), true),
            ("an unknown namespace", Some(40), None, true),
            ("both unknown", None, None, true),
        ] {
            let text = r#"{"generation": 2, "time": "2026-11-26T10:00:00Z", "policy": "p"}"#;
            let note: Note = serde_json::from_str(text).unwrap();
            let note = Note {
                socket: record,
                ..note
            };
            assert_eq!(note.is_of(here), want, "{name}");
        }
    }
}
