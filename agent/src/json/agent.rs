//! What the agent says of itself.

use std::net::IpAddr;

use peerwall_core::agent::reconcile::Culprit;
use peerwall_core::diagnostic::{JsonDiagnostic, Severity};
use peerwall_core::net::link::Link;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Backend, Error, IptablesInfo, LogReader, SourceStatus, TemporaryPeerStatus};

/// The status of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentStatus {
    /// Process id.
    pub pid: u32,
    /// When it started, as RFC 3339.
    pub started: String,
    /// The backend.
    pub backend: Backend,
    /// Variant of iptables; absent with nf_tables.
    pub iptables: Option<IptablesInfo>,
    /// Whether it owns the table, so that nobody else can change it; absent for iptables, or if
    /// it is not known.
    pub owns_table: Option<bool>,
    /// Path of its policy.
    pub policy: String,
    /// Whether it applies the policy whenever its files change.
    pub follows: bool,
    /// Path of the policy that is in force.
    pub in_force: Option<String>,
    /// SHA-256 of the text of that policy.
    pub digest: Option<String>,
    /// What is in that policy.
    pub counts: Option<Counts>,
    /// How long the rules have matched it, in seconds; absent if they do not.
    pub in_sync_seconds: Option<u64>,
    /// How many changes of others it has undone.
    pub repairs: u64,
    /// Whether others change the rules faster than they are repaired.
    pub is_storm: bool,
    /// The last repair.
    pub last_repair: Option<Repair>,
    /// Why it cannot load the rules.
    pub last_error: Option<Error>,
    /// Why it does not apply its policy.
    pub policy_error: Option<Error>,
    /// What is wrong with that policy.
    pub policy_diagnostics: Vec<JsonDiagnostic>,
    /// Why the state directory does not have the policy in force, as a sentence.
    pub unsaved: Option<String>,
    /// How long the trial has left, in seconds.
    pub trial_seconds_left: Option<u64>,
    /// Tables of others that were deleted while it ran.
    pub deleted_tables: Vec<DeletedTables>,
    /// The reader of the log of denied packets; absent from agents that do not say it.
    #[serde(default)]
    pub log_reader: Option<LogReader>,
    /// Sources of members of the policy in force.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
    /// Peers that were added by hand.
    #[serde(default)]
    pub temporary_peers: Vec<TemporaryPeerStatus>,
}

impl AgentStatus {
    /// Lines that say why it does not apply its policy.
    pub fn policy_errors(&self) -> Vec<String> {
        let Some(error) = &self.policy_error else {
            return Vec::new();
        };
        let found = self.policy_diagnostics.iter();
        let found = found.filter(|found| found.severity == Severity::Error);
        let lines: Vec<String> = found.map(ToString::to_string).collect();
        match lines.is_empty() {
            true => vec![error.message.clone()],
            false => lines,
        }
    }
}

/// What is in a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// How many peers.
    pub peers: usize,
    /// How many allows.
    pub allows: usize,
    /// Its overlays.
    pub overlays: Vec<OverlayStatus>,
}

/// An overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OverlayStatus {
    /// Its name.
    pub name: String,
    /// Its networks.
    pub subnets: Vec<String>,
    /// Where they come from.
    pub discovery: Discovered,
    /// The files with them, or that are awaited.
    pub files: Vec<String>,
    /// The tunnel's interface on this host.
    pub interface: Option<Interface>,
}

/// Where the networks of an overlay come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Discovered {
    /// The policy lists them.
    Written,
    /// flannel's file.
    Found,
    /// The last valid content of flannel's file.
    Kept,
    /// flannel's file does not exist yet.
    Awaited,
}

/// An interface of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its driver.
    pub kind: String,
    /// The tunnel's UDP port.
    pub udp_port: Option<u16>,
    /// VXLAN network identifier.
    pub vni: Option<u32>,
    /// The address that the tunnel sends from.
    pub local: Option<IpAddr>,
}

impl From<&Link> for Interface {
    fn from(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            kind: link.kind.clone(),
            udp_port: link.port,
            vni: link.vni,
            local: link.local,
        }
    }
}

impl From<&Interface> for Link {
    fn from(interface: &Interface) -> Self {
        Self {
            name: interface.name.clone(),
            kind: interface.kind.clone(),
            port: interface.udp_port,
            vni: interface.vni,
            local: interface.local,
        }
    }
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub process: String,
}

impl From<&Culprit> for Process {
    fn from(culprit: &Culprit) -> Self {
        Self {
            pid: culprit.pid,
            process: culprit.process.clone(),
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.process, self.pid)
    }
}

/// A repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Repair {
    /// How long ago, in seconds.
    pub seconds_ago: u64,
    /// Processes that changed the rules, as far as they are known.
    pub by: Vec<Process>,
}

/// Tables of others that were deleted together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeletedTables {
    /// When, as RFC 3339.
    pub time: String,
    /// The tables, as family and name.
    pub tables: Vec<String>,
    /// The process that deleted them, if it is known.
    pub by: Option<Process>,
}

impl std::fmt::Display for DeletedTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("tables were deleted")?;
        if let Some(by) = &self.by {
            write!(f, " by {by}")?;
        }
        write!(f, ": {}", self.tables.join(", "))
    }
}
