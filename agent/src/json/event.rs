//! Events of the history.

use peerwall_core::agent::keep::Kind;
use schemars::JsonSchema;
use serde::Serialize;

use crate::store::audit::{self, Who};

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A policy came into force.
    Applied,
    /// A policy came into force on trial.
    Tried,
    /// A trial was confirmed.
    Confirmed,
    /// A trial was not confirmed in time and was rolled back.
    RanOut,
    /// A trial was rolled back because its agent or guard was stopped.
    Stopped,
    /// Somebody rolled back.
    RolledBack,
    /// A ruleset was loaded at boot.
    Booted,
    /// The rules were removed.
    Removed,
    /// The host was blocked.
    Blocked,
    /// The block ended.
    Unblocked,
}

impl From<Kind> for EventKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Applied => Self::Applied,
            Kind::Tried => Self::Tried,
            Kind::Confirmed => Self::Confirmed,
            Kind::RanOut => Self::RanOut,
            Kind::Stopped => Self::Stopped,
            Kind::RolledBack => Self::RolledBack,
            Kind::Booted => Self::Booted,
            Kind::Removed => Self::Removed,
            Kind::Blocked => Self::Blocked,
            Kind::Unblocked => Self::Unblocked,
        }
    }
}

/// An event of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Event {
    /// When, as RFC 3339.
    pub time: String,
    /// What happened.
    pub kind: EventKind,
    /// Number of the ruleset in the history; absent for a trial and for the closed ruleset.
    pub number: Option<u64>,
    /// Path of the policy.
    pub policy: Option<String>,
    /// SHA-256 of its text.
    pub digest: Option<String>,
    /// How long a trial has, or had, in seconds.
    pub seconds: Option<u64>,
    /// What was changed, in words.
    pub summary: Option<String>,
    /// The program and caller.
    pub by: Who,
}

impl From<&audit::AuditEvent> for Event {
    fn from(event: &audit::AuditEvent) -> Self {
        Self {
            time: event.time.clone(),
            kind: event.kind.into(),
            number: event.number,
            policy: event.policy.clone(),
            digest: event.digest.clone(),
            seconds: event.seconds,
            summary: event.change.clone(),
            by: event.by.clone(),
        }
    }
}
