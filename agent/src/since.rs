//! Since when the table is as it is.
//!
//! The kernel keeps no time with a table. Each apply notes generation and time under
//! `/run/peerwall`, by network namespace; a note whose generation is the kernel's own of now says
//! that nobody changed any rule since. Losing the note loses nothing but that sentence.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::secure_file::private::Private;

const FOLDER: &str = "/run/peerwall";

/// What an apply noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The generation right after the apply.
    pub generation: u32,
    /// When, as RFC 3339 in UTC.
    pub time: String,
    /// The policy's path.
    pub policy: String,
    /// Whether it was by iptables, so that a later apply by nft takes our chains away.
    #[serde(default)]
    pub by_iptables: bool,
}

fn folder() -> Private {
    Private::writable_by_root(PathBuf::from(FOLDER))
}

/// The file's name in this network namespace.
fn name() -> io::Result<String> {
    let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok(format!("applied-{namespace}.json"))
}

/// Notes an apply, if that is possible.
pub fn note(generation: u32, policy: &str, by_iptables: bool) {
    let now = jiff::Timestamp::now();
    let note = Note {
        generation,
        time: format!("{:.0}", now),
        policy: policy.to_owned(),
        by_iptables,
    };
    let written =
        name().and_then(|name| folder().write(&name, |to| Ok(serde_json::to_writer(to, &note)?)));
    if let Err(err) = written {
        log::debug!("could not note the time: {err}");
    }
}

/// Whether the last apply was by iptables, and nothing was removed since.
pub fn by_iptables() -> bool {
    last().is_some_and(|note| note.by_iptables)
}

/// The last note of this network namespace.
pub fn last() -> Option<Note> {
    let read = name().and_then(|name| folder().read(&name));
    let text = read.unwrap_or_else(|err| {
        log::warn!("{err}");
        None
    });
    serde_json::from_slice(&text?).ok()
}

/// Forgets it.
pub fn forget() {
    if let Err(err) = name().and_then(|name| folder().remove(&name)) {
        log::debug!("{err}");
    }
}
