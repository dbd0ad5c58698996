//! What commands that change something did.

use std::fmt;
use std::net::IpAddr;

use peerwall_core::agent::keep;
use peerwall_core::diagnostic::JsonDiagnostic;
use peerwall_core::ruleset::change::Change;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Backend, IptablesInfo};
use crate::connections::revocation::ConnectionGroup;

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApplyOutcome {
    /// The rules were changed.
    Applied,
    /// The loaded rules matched the policy already.
    Unchanged,
    /// The policy is loaded, and rolled back unless it is confirmed.
    OnTrial,
}

/// The result of `apply` and `reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// What was done.
    pub outcome: ApplyOutcome,
    /// Path of the policy.
    pub policy: String,
    /// The backend.
    pub backend: Backend,
    /// Variant of iptables; absent with nf_tables.
    pub iptables: Option<IptablesInfo>,
    /// What was changed, in words; absent if nothing was.
    pub summary: Option<String>,
    /// The same in the words of the policy.
    pub changes: Vec<Change>,
    /// How long a trial has, in seconds.
    pub confirm_seconds: Option<u64>,
    /// Open connections that the policy refuses; absent if they were not looked at: a trial ends
    /// none.
    pub connections: Option<EndedConnections>,
    /// Warnings about the policy, and mismatches with this host.
    pub diagnostics: Vec<JsonDiagnostic>,
}

/// Open connections that a policy refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndedConnections {
    /// How many ended.
    pub ended: usize,
    /// Those that did not end, by kind.
    pub left: Vec<ConnectionGroup>,
    /// Why some could not be read or ended, as a sentence.
    pub error: Option<String>,
}

/// What a block did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockOutcome {
    /// The host is blocked.
    Blocked,
    /// The host is blocked, and unblocked unless this is confirmed.
    OnTrial,
    /// The host was blocked in the same way already.
    Unchanged,
}

/// The result of `block`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blocked {
    /// What was done.
    pub outcome: BlockOutcome,
    /// Addresses from which ssh is accepted.
    pub ssh_from: Vec<IpAddr>,
    /// How many peers are accepted.
    pub peers: usize,
    /// How long until it ends unless it is confirmed, in seconds.
    pub confirm_seconds: Option<u64>,
    /// Open connections that the block refuses.
    pub connections: Option<EndedConnections>,
    /// Why the next boot does not know of the block, as a sentence.
    pub not_recorded: Option<String>,
}

/// The result of `unblock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unblocked {
    /// Path of the policy that is in force again; absent if there was none.
    pub policy: Option<String>,
    /// Number of its ruleset in the history.
    pub number: Option<u64>,
    /// Why this could not be recorded for the next boot, as a sentence.
    pub not_recorded: Option<String>,
}

impl Unblocked {
    /// The result, from the entry that is in force again.
    pub fn new(entry: Option<keep::Entry>, fault: Option<keep::Fault>) -> Self {
        let number = entry.as_ref().map(|entry| entry.number);
        Self {
            number: number.filter(|number| *number > 0),
            policy: entry.map(|entry| entry.policy),
            not_recorded: fault.map(|fault| fault.text),
        }
    }
}

/// What a confirm did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfirmOutcome {
    /// The policy stays in force.
    Confirmed,
    /// The policy stays in force until the agent's own policy changes or the agent restarts.
    ConfirmedUntilRestart,
}

/// The result of `confirm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Confirmed {
    /// What was done.
    pub outcome: ConfirmOutcome,
    /// Path of the policy that was confirmed.
    pub policy: String,
    /// Path of the agent's own policy, if an agent runs.
    pub agent_policy: Option<String>,
}

impl Confirmed {
    /// The result for a policy, where an agent manages `agent_policy`.
    pub fn new(policy: String, agent_policy: Option<String>) -> Self {
        let is_other = agent_policy.as_ref().is_some_and(|own| *own != policy);
        Self {
            outcome: match is_other {
                true => ConfirmOutcome::ConfirmedUntilRestart,
                false => ConfirmOutcome::Confirmed,
            },
            policy,
            agent_policy,
        }
    }
}

impl fmt::Display for Confirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = &self.policy;
        match &self.agent_policy {
            Some(own) if own != policy => write!(
                f,
                "confirmed, until {own} changes or the agent restarts. To keep it: mv {policy} {own}"
            ),
            _ => write!(f, "confirmed: {policy} stays"),
        }
    }
}

/// What a rollback did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RollbackOutcome {
    /// The trial is over, and the rules from before are loaded again.
    TrialEnded,
    /// The confirmed ruleset before the last is loaded again.
    RolledBack,
}

/// The result of `rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolledBack {
    /// What was done.
    pub outcome: RollbackOutcome,
    /// Number of the ruleset in the history; absent for a trial.
    pub number: Option<u64>,
    /// When that ruleset came into force, as RFC 3339.
    pub time: Option<String>,
    /// Path of its policy.
    pub policy: Option<String>,
    /// Why this could not be recorded for the next boot, as a sentence.
    pub not_recorded: Option<String>,
}

impl From<keep::RolledBack> for RolledBack {
    fn from(done: keep::RolledBack) -> Self {
        let (entry, fault) = match done {
            keep::RolledBack::Trial(fault) => (None, fault),
            keep::RolledBack::To(entry, fault) => (Some(entry), fault),
        };
        Self {
            outcome: match entry {
                None => RollbackOutcome::TrialEnded,
                Some(_) => RollbackOutcome::RolledBack,
            },
            number: entry.as_ref().map(|entry| entry.number),
            time: entry.as_ref().map(|entry| entry.time.clone()),
            policy: entry.map(|entry| entry.policy),
            not_recorded: fault.map(|fault| fault.text),
        }
    }
}
