//! The audit trail: what came into force, by whom, and what ended. One line of JSON an event, in `audit.log` of the
//! state directory; when that is full it becomes `audit.log.1`.

use std::io;

use peerwall_core::keep::{Entry, Kind};
use serde::{Deserialize, Serialize};

use crate::agent::state::{self, State};
use crate::caller::Caller;

const NAME: &str = "audit.log";
const OLD: &str = "audit.log.1";
/// Size at which a new file begins, in bytes.
const SIZE_MAX: u64 = 1024 * 1024;

/// Who did something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// `agent`, `guard`, `boot`, or the command.
    pub what: String,
    /// User id of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The caller's ssh connection, as `SSH_CONNECTION` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<String>,
    /// Whether the caller has a terminal.
    #[serde(default)]
    pub terminal: bool,
}

impl Who {
    /// A process that nobody called.
    pub fn process(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            ..Self::default()
        }
    }

    /// Somebody who called a command.
    pub fn caller(what: &str, caller: &Caller) -> Self {
        Self {
            what: what.to_owned(),
            // sudo keeps the first user's id in the environment.
            uid: std::env::var("SUDO_UID")
                .ok()
                .and_then(|uid| uid.parse().ok())
                .or_else(|| Some(nix::unistd::getuid().as_raw())),
            ssh: caller.ssh.as_ref().map(ToString::to_string),
            terminal: caller.terminal.is_some(),
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        if let Some(uid) = self.uid {
            write!(f, ", uid {uid}")?;
        }
        match self.ssh.as_deref().and_then(|ssh| ssh.split(' ').next()) {
            Some(client) => write!(f, ", ssh from {client}"),
            None => Ok(()),
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// RFC 3339, UTC.
    pub time: String,
    /// What happened.
    pub kind: Kind,
    /// The policy's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Digest of its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// By whom.
    pub by: Who,
}

/// Adds an event. What cannot be written is logged: it is no reason to leave a host without its rules.
pub fn record(state: &State, kind: Kind, entry: Option<&Entry>, by: &Who) {
    let event = Event {
        time: state::time(),
        kind,
        policy: entry.map(|entry| entry.policy.clone()),
        digest: entry.map(|entry| entry.digest.clone()),
        by: by.clone(),
    };
    if let Err(err) = append(state, &event) {
        log::warn!("the audit trail has no entry of this: {err}");
    }
}

fn append(state: &State, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    state.folder().append(NAME, &line, SIZE_MAX, OLD)
}
