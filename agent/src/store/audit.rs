//! The audit trail: every ruleset that came into force or ended, with the person or process
//! responsible. Each event is a line of JSON in `audit.log` of the state directory. When that file
//! is full, it is renamed to `audit.log.1`.

use std::io;

use peerwall_core::agent::keep::{Kind, Record};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host::caller::Caller;
use crate::store::{self, State};

const NAME: &str = "audit.log";
const OLD: &str = "audit.log.1";
/// Size at which a new file is started, in bytes.
const SIZE_MAX: u64 = 1024 * 1024;

/// Who did something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Who {
    /// `agent`, `guard`, `boot`, or the command.
    pub what: String,
    /// User id of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The caller's ssh connection, in the format of `SSH_CONNECTION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<String>,
    /// Whether the caller has a terminal.
    #[serde(default)]
    pub terminal: bool,
}

impl Who {
    /// Describes a process without a caller.
    pub fn process(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            ..Self::default()
        }
    }

    /// Describes the caller of a command.
    pub fn caller(what: &str, caller: &Caller) -> Self {
        Self {
            what: what.to_owned(),
            // sudo sets it to the user id before sudo.
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
            None if self.terminal => f.write_str(", from a terminal"),
            None => Ok(()),
        }
    }
}

/// An event of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Time, in RFC 3339, UTC.
    pub time: String,
    /// Kind of event.
    pub kind: Kind,
    /// Number of the ruleset in the history; absent for a trial and for the closed ruleset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The policy's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Digest of the policy's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Time limit of a trial, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Description of the change in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// The person or process responsible.
    pub by: Who,
}

/// Appends an event. A failure is only logged, so that it does not leave a host without its rules.
pub fn record(state: &State, record: Record<'_>, change: Option<String>, by: &Who) {
    let Record {
        kind,
        entry,
        seconds,
    } = record;
    let event = AuditEvent {
        time: store::time(),
        kind,
        number: entry.map(|entry| entry.number).filter(|number| *number > 0),
        policy: entry.map(|entry| entry.policy.clone()),
        digest: entry.map(|entry| entry.digest.clone()),
        seconds,
        change,
        by: by.clone(),
    };
    if let Err(err) = append(state, &event) {
        log::warn!("cannot record this event in the audit trail: {err}");
    }
}

fn append(state: &State, event: &AuditEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    state.folder().append(NAME, &line, SIZE_MAX, OLD)
}

/// Returns all events, the newest last. Unreadable lines, such as one torn by a power failure, are
/// skipped.
///
/// # Errors
/// [`io::Error`] if a file exists and cannot be read.
pub fn read(state: &State) -> io::Result<Vec<AuditEvent>> {
    let mut events = Vec::new();
    for name in [OLD, NAME] {
        let bytes = state.folder().read(name)?.unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n');
        events.extend(lines.filter_map(|line| serde_json::from_slice::<AuditEvent>(line).ok()));
    }
    Ok(events)
}

/// Returns the last event, if it can be read.
pub fn last(state: &State) -> Option<AuditEvent> {
    let events = read(state).inspect_err(|err| log::warn!("{err}"));
    events.ok()?.pop()
}
