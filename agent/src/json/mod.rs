//! The JSON that commands print and the agent answers: one struct each, whichever backend is
//! used and whether the agent or the command does the work. `docs/json.md` documents it.

mod agent;
mod denied;
mod event;
mod failure;
mod outcome;
mod peers;
mod sources;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::agent::{
    AgentStatus, Counts, DeletedTables, Discovered, Interface, OverlayStatus, Process, Repair,
};
pub use self::denied::{Denials, DenialsAsked, LogReader};
pub use self::event::{Event, EventKind};
pub use self::failure::{Error, ErrorCode, Failure};
pub use self::outcome::{
    Applied, ApplyOutcome, BlockOutcome, Blocked, ConfirmOutcome, Confirmed, EndedConnections,
    RollbackOutcome, RolledBack, Unblocked,
};
pub use self::peers::{TemporaryPeerStatus, TemporaryPeers};
pub use self::sources::{
    HeldReason, HeldStatus, MemberStatus, SourceError, SourceList, SourceStatus,
};

/// Version of the JSON. Fields are added within a version, and neither removed nor changed in
/// meaning.
pub const VERSION: u32 = 1;

/// What a command prints: its result, with the version of the JSON.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Versioned{T}")]
pub struct Versioned<T> {
    /// Version of the JSON.
    #[schemars(extend("const" = VERSION))]
    version: u32,
    /// The result.
    #[serde(flatten)]
    result: T,
}

impl<T> Versioned<T> {
    /// Adds the version to a result.
    pub fn new(result: T) -> Self {
        Self {
            version: VERSION,
            result,
        }
    }
}

/// A backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// nf_tables.
    Nft,
    /// iptables.
    Iptables,
}

impl Backend {
    /// The backend of a ruleset that was loaded by iptables, or not.
    pub fn of(by_iptables: bool) -> Self {
        match by_iptables {
            true => Self::Iptables,
            false => Self::Nft,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }
}

/// The iptables that the backend uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IptablesInfo {
    /// Name of the program for IPv4.
    pub program: String,
    /// Why this one, as a sentence.
    pub why: String,
    /// Whether ipset is available.
    pub has_ipset: bool,
}

impl fmt::Display for IptablesInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sets = if self.has_ipset {
            "with ipset"
        } else {
            "without ipset"
        };
        write!(f, "{} ({}; {sets})", self.program, self.why)
    }
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FileLine {
    /// The file.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
}

impl fmt::Display for FileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Something that has a JSON schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaOf {
    /// peerwall apply
    Apply,
    /// peerwall block
    Block,
    /// peerwall boot
    Boot,
    /// peerwall check
    Check,
    /// peerwall confirm
    Confirm,
    /// peerwall denied
    Denied,
    /// peerwall diff
    Diff,
    /// peerwall doctor
    Doctor,
    /// peerwall explain
    Explain,
    /// peerwall exposed
    Exposed,
    /// peerwall history
    History,
    /// peerwall import
    Import,
    /// peerwall init
    Init,
    /// peerwall peer
    Peer,
    /// peerwall plan
    Plan,
    /// The policy
    Policy,
    /// peerwall reload
    Reload,
    /// peerwall remove
    Remove,
    /// peerwall rollback
    Rollback,
    /// peerwall sources
    Sources,
    /// peerwall status
    Status,
    /// peerwall test
    Test,
    /// peerwall trace
    Trace,
    /// peerwall unblock
    Unblock,
}
