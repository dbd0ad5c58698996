//! Sources of members.

use std::collections::BTreeMap;
use std::net::IpAddr;

use peerwall_core::sources::{HeldWhy, Refused};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The sources of the policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceList {
    /// Whether an agent answered. If not, the members are those of the last agent.
    pub agent: bool,
    /// The sources.
    pub sources: Vec<SourceStatus>,
    /// Members of the source that was asked for.
    pub members: Vec<MemberStatus>,
}

/// A source of members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Its kind; absent without an agent.
    pub kind: Option<String>,
    /// Whether its members are peers.
    pub are_peers: Option<bool>,
    /// Number of addresses that are members.
    pub members: usize,
    /// When they were last proven to be current, in seconds since the Unix epoch.
    pub fresh: Option<u64>,
    /// How long ago they were last proven to be current, in seconds.
    pub fresh_seconds: Option<u64>,
    /// Whether this is longer ago than `stale_after`.
    pub is_stale: bool,
    /// Why there is no newer answer.
    pub error: Option<SourceError>,
    /// Members that are kept although the source does not list them any more.
    pub held: Option<HeldStatus>,
    /// Number of refused entries, by reason.
    pub refused: BTreeMap<Refused, usize>,
    /// Some refused entries, as sentences.
    pub refused_examples: Vec<String>,
    /// Number of members that joined since the agent started.
    pub joined: u64,
    /// Number of members that left since the agent started.
    pub left: u64,
    /// Number of errors of the program that asks the source, by kind.
    pub errors: BTreeMap<String, u64>,
    /// End of the credential, in seconds since the Unix epoch.
    pub credential_end: Option<i64>,
}

/// Why there is no newer answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceError {
    /// Kind of the error; `file` if the listing cannot be read.
    pub kind: String,
    /// One sentence.
    pub message: String,
}

/// Members that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldStatus {
    /// Reason.
    pub why: HeldReason,
    /// Number of addresses.
    pub addresses: usize,
    /// When the first of them is removed, in seconds from now; absent if this needs `peerwall
    /// sources accept`.
    pub seconds_left: Option<u64>,
}

/// Why members are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeldReason {
    /// The answer is empty.
    Empty,
    /// More nodes are missing than may leave at once.
    Loss,
    /// The answer is of another cluster.
    OtherCluster,
    /// The answer is older than the last one.
    Older,
}

impl From<HeldWhy> for HeldReason {
    fn from(why: HeldWhy) -> Self {
        match why {
            HeldWhy::Empty => Self::Empty,
            HeldWhy::Loss => Self::Loss,
            HeldWhy::OtherCluster => Self::OtherCluster,
            HeldWhy::Older => Self::Older,
        }
    }
}

impl HeldReason {
    /// Returns the reason in words.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Empty => "the answer is empty",
            Self::Loss => "more nodes are missing than `max_loss` permits",
            Self::OtherCluster => "the answer is of another cluster",
            Self::Older => "the answer is older than the last one",
        }
    }
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberStatus {
    /// Its address.
    pub address: IpAddr,
    /// Name of its node.
    pub name: String,
    /// How long it has been missing, in seconds; absent if the source lists it.
    pub missing_seconds: Option<u64>,
}
