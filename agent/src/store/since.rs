//! The record of the last apply.
//!
//! The kernel stores no time with a table. Each apply records the time and a digest of the ruleset
//! under `/run/peerwall`, separately for each network namespace. If the loaded rules have the same
//! digest, they have not changed since. Without the record, `status` only lacks that statement.
//!
//! The record also has a digest of each large set. While the kernel is in the generation of the
//! record, no transaction has changed any table, and these sets need not be read.
//!
//! The kernel reuses the numbers of namespaces. A record therefore contains the number of a socket
//! that the kernel creates with each namespace, and is ignored in a namespace with another one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::ruleset::{Element, Ruleset, Set};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::hex;
use crate::policy_file::inputs::Inputs;
use crate::secure_file::Version;
use crate::secure_file::private::Private;
use crate::system::passing;

const FOLDER: &str = "/run/peerwall";
/// Sockets of this network namespace: `netlink_native_seq_show()` in `net/netlink/af_netlink.c`.
const SOCKETS: &str = "/proc/thread-self/net/netlink";

/// The record of an apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Generation of the kernel's rules in which they were exactly as applied; 0 if unknown.
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
    pub content: Option<String>,
    /// Digests of its sets with at least [`LARGE`] elements.
    #[serde(default)]
    pub sets: BTreeMap<String, String>,
    /// Number of the namespace's rtnetlink socket, if known.
    #[serde(default)]
    pub socket: Option<u64>,
    /// What the ruleset was made of, if an apply without changes can rely on it.
    #[serde(default)]
    pub made_of: Option<MadeOf>,
}

/// What makes an apply a repetition of the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOf {
    /// Everything that the ruleset depends on.
    pub inputs: Inputs,
    /// Files of the state directory with this ruleset as the last confirmed one, by their names.
    pub files: BTreeMap<String, Version>,
    /// Warnings about the policy and this host.
    pub warnings: Vec<JsonDiagnostic>,
    /// The same for people: without and with colors.
    pub texts: [String; 2],
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

/// Number of elements from which reading a set takes longer than hashing it.
pub const LARGE: usize = 1000;

/// Hashes all bytes that are written to it.
#[derive(Default)]
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

/// Returns the SHA-256 of a ruleset, in hexadecimal.
pub fn digest(ruleset: &Ruleset) -> String {
    digest_with(ruleset, &digests(ruleset))
}

/// The same, of a ruleset with these [`digests`].
fn digest_with(ruleset: &Ruleset, sets: &BTreeMap<String, String>) -> String {
    let mut hashing = Hashing::default();
    // Neither serializing nor hashing can fail.
    let _ = serde_json::to_writer(&mut hashing, &(&ruleset.counters, &ruleset.chains, sets));
    let others = ruleset.sets.iter().filter(|(_, set)| !is_large(set));
    for (name, set) in others {
        let _ = serde_json::to_writer(&mut hashing, name);
        hash_set(&mut hashing, set);
    }
    hex(hashing.0)
}

/// Returns the SHA-256 of a set, in hexadecimal.
pub fn digest_of_set(set: &Set) -> String {
    let mut hashing = Hashing::default();
    hash_set(&mut hashing, set);
    hex(hashing.0)
}

/// Hashes elements as bytes: as JSON, a million of them take ten times as long.
#[expect(
    clippy::host_endian_bytes,
    reason = "digests are only compared on the host that made them"
)]
fn hash_set(hashing: &mut Hashing, set: &Set) {
    let Set {
        key,
        interval,
        meter,
        timed,
        elements,
    } = set;
    // Elements that end by themselves are no part of what was applied.
    let elements: &[Element] = match timed {
        true => &[],
        false => elements,
    };
    let _ = serde_json::to_writer(
        &mut *hashing,
        &(key, interval, meter, timed, elements.len()),
    );
    let mut bytes = Vec::with_capacity(64);
    for element in elements {
        let comment = element.comment.as_deref();
        bytes.clear();
        bytes.extend(element.first.to_ne_bytes());
        bytes.extend(element.last.to_ne_bytes());
        // The length separates comments, and no comment from an empty one.
        bytes.extend(comment.map_or(usize::MAX, str::len).to_ne_bytes());
        bytes.extend(comment.unwrap_or_default().bytes());
        hashing.0.update(&bytes);
    }
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

/// Returns the SHA-256 of each large set, which can take long.
fn digests(ruleset: &Ruleset) -> BTreeMap<String, String> {
    Digests::default().of(ruleset)
}

/// The digests of the large sets of the last ruleset, so that those that did not change are not
/// hashed again.
#[derive(Default)]
pub struct Digests(BTreeMap<String, (Set, String)>);

impl Digests {
    fn of(&mut self, ruleset: &Ruleset) -> BTreeMap<String, String> {
        let large = ruleset.sets.iter().filter(|(_, set)| is_large(set));
        let digests = large.map(|(name, set)| {
            let known = self.0.get(name).filter(|(before, _)| before == set);
            let digest = known.map_or_else(|| digest_of_set(set), |(_, digest)| digest.clone());
            (name.clone(), (set.clone(), digest))
        });
        self.0 = digests.collect();
        let digests = self.0.iter();
        digests
            .map(|(name, (_, digest))| (name.clone(), digest.clone()))
            .collect()
    }
}

fn is_large(set: &Set) -> bool {
    set.is_steady() && set.elements.len() >= LARGE
}

impl Note {
    /// Returns the large sets of a ruleset that are as recorded.
    pub fn same_sets(&self, ruleset: &Ruleset) -> BTreeMap<String, Set> {
        let same = |name: &String, set: &Set| {
            let recorded = self.sets.get(name);
            is_large(set) && recorded.is_some_and(|digest| *digest == digest_of_set(set))
        };
        let sets = ruleset.sets.iter().filter(|(name, set)| same(name, set));
        sets.map(|(name, set)| (name.clone(), set.clone()))
            .collect()
    }
}

/// Whether a ruleset has sets whose digests are recorded.
pub fn has_large_sets(ruleset: &Ruleset) -> bool {
    ruleset.sets.values().any(is_large)
}

/// Records an apply; `known` has the digests of the last one. A failure is only logged.
pub fn note(
    generation: u32,
    policy: &str,
    by_iptables: bool,
    ruleset: &Ruleset,
    known: &mut Digests,
) {
    let sets = known.of(ruleset);
    write(&Note {
        generation,
        time: format!("{:.0}", jiff::Timestamp::now()),
        policy: policy.to_owned(),
        by_iptables,
        content: Some(digest_with(ruleset, &sets)),
        sets,
        socket: passing::insist(socket).ok().flatten(),
        made_of: None,
    });
}

/// Adds to the record what the ruleset was made of, unless it is of another generation.
pub fn add_inputs(generation: u32, made_of: MadeOf) {
    let is_new = |note: &Note| note.generation == generation && !note.sets.is_empty();
    if let Some(note) = last().filter(|note| generation != 0 && is_new(note))
        && note.made_of.as_ref() != Some(&made_of)
    {
        write(&Note {
            made_of: Some(made_of),
            ..note
        });
    }
}

/// Records that the loaded rules are still those of the record in a later generation, so that the
/// next command does not have to read large sets again.
pub fn unchanged(generation: u32, ruleset: &Ruleset) {
    let known = generation != 0 && has_large_sets(ruleset);
    let Some(note) = last().filter(|note| known && note.generation != generation) else {
        return;
    };
    let sets = digests(ruleset);
    if note.content.as_ref() == Some(&digest_with(ruleset, &sets)) {
        write(&Note {
            generation,
            sets,
            ..note
        });
    }
}

fn write(note: &Note) {
    let written =
        name().and_then(|name| folder().write(&name, |to| Ok(serde_json::to_writer(to, note)?)));
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
    use std::collections::BTreeSet;

    use peerwall_core::ruleset::{Element, KeyType};

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
    fn different_sets_have_different_digests_and_equal_ones_are_recognized() {
        let element = |first, last, comment: Option<&str>| Element {
            first,
            last,
            comment: comment.map(Into::into),
        };
        let many = |first: u128| (first..first + LARGE as u128).map(Element::one).collect();
        let set = |elements: Vec<Element>| Set {
            key: KeyType::Ipv4,
            interval: false,
            meter: false,
            timed: false,
            elements: elements.into(),
        };
        let sets = [
            set(vec![]),
            set(vec![Element::one(1)]),
            set(vec![element(1, 2, None)]),
            set(vec![element(1, 1, Some(""))]),
            set(vec![element(1, 1, Some("a"))]),
            set(vec![Element::one(1), Element::one(2)]),
            set(many(1)),
            set(many(2)),
            Set {
                key: KeyType::Ipv6,
                ..set(many(2))
            },
            Set {
                interval: true,
                ..set(many(2))
            },
        ];
        let digests: BTreeSet<String> = sets.iter().map(digest_of_set).collect();
        assert_eq!(digests.len(), sets.len());
        let ruleset = |set: &Set| Ruleset {
            sets: [("peers4".to_owned(), set.clone())].into(),
            ..Ruleset::default()
        };
        let whole: BTreeSet<String> = sets.iter().map(|set| digest(&ruleset(set))).collect();
        assert_eq!(whole.len(), sets.len());
        for (recorded, wanted) in sets.iter().flat_map(|a| sets.iter().map(move |b| (a, b))) {
            let note = Note {
                sets: super::digests(&ruleset(recorded)),
                ..note()
            };
            let is_same = recorded == wanted && wanted.elements.len() >= LARGE;
            assert_eq!(note.same_sets(&ruleset(wanted)).len(), usize::from(is_same));
        }
    }

    fn note() -> Note {
        let text = r#"{"generation": 2, "time": "2026-11-26T10:00:00Z", "policy": "p"}"#;
        serde_json::from_str(text).unwrap()
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
            let note = Note {
                socket: record,
                ..note()
            };
            assert_eq!(note.is_of(here), want, "{name}");
        }
    }
}
