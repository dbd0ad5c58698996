//! What the agent answers about denied packets.

use peerwall_core::denied::{Entry, Total};
use peerwall_core::policy::reason::Reason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which denied packets are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialsAsked {
    /// Those of this number of seconds until now.
    pub seconds: u64,
    /// Flows that changed after this stamp.
    pub after: u64,
    /// Whether the counters of the rules are read.
    pub counters: bool,
}

/// The reader of the log group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogReader {
    /// The agent.
    Agent,
    /// The command, while it listens.
    Command,
    /// Nobody: the policy turns the log off.
    Off,
    /// Nobody: the agent runs with `--no-denied`.
    Left,
    /// Another process, or nobody because of an error, as a sentence.
    Other(String),
}

impl LogReader {
    /// Says why the agent records no denied packets; `None` if it does, or if the policy turns the
    /// log off.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Agent | Self::Command | Self::Off => None,
            Self::Left => {
                Some("the agent leaves the log to other programs (--no-denied)".to_owned())
            }
            Self::Other(why) => Some(why.clone()),
        }
    }
}

/// Recorded packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denials {
    /// The reader of the log group.
    pub reader: LogReader,
    /// When the record began, as RFC 3339.
    pub started: String,
    /// Start of the time of which packets were asked for, in seconds since the Unix epoch.
    pub window_start: u64,
    /// Number of the last change.
    pub stamp: u64,
    /// Flows, the most frequent first.
    pub entries: Vec<Entry>,
    /// Recorded packets by reason.
    pub totals: Vec<Total>,
    /// Denied packets by reason since the record began, by the counters of the rules; `None` if
    /// they could not be read.
    pub denied: Option<Vec<(Reason, u64)>>,
    /// Packets that were logged, and not read in time.
    pub lost: u64,
    /// Packets that other programs logged to the group.
    pub foreign: u64,
    /// Logged packets that could not be read.
    pub malformed: u64,
}
