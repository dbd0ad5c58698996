//! Why a packet is accepted or not: the one vocabulary of policy, ruleset, counters and log.

use std::fmt;

use serde::{Serialize, Serializer};

/// Why. Its text form is stable: it is in counter names, log prefixes and `--json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Belongs or relates to a known connection.
    Established,
    /// Came in by `lo`.
    Loopback,
    /// Came in by an interface under `[interfaces] trusted`.
    Trusted,
    /// Claims an overlay's address where the overlay is not.
    OverlaySpoof,
    /// From a peer.
    Peers,
    /// For a tunnel of an overlay, from somebody who is no peer.
    OverlayInject,
    /// From this overlay.
    Overlay(String),
    /// ICMP without which networks break, or listed under `[icmp]`.
    Icmp,
    /// An answer to a DHCP client.
    Dhcp,
    /// Under `[icmp] ping`.
    Ping,
    /// Connection tracking says it is invalid.
    Invalid,
    /// Under this `[[allow]]`.
    Allow(String),
    /// Nothing in the policy is for it; it was for this host.
    InputDefault,
    /// Nothing in the policy is for it; it was to go through this host.
    ForwardDefault,
}

impl Reason {
    /// Reads the text form back.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "established" => Self::Established,
            "loopback" => Self::Loopback,
            "trusted" => Self::Trusted,
            "overlay-spoof" => Self::OverlaySpoof,
            "peers" => Self::Peers,
            "overlay-inject" => Self::OverlayInject,
            "icmp" => Self::Icmp,
            "dhcp" => Self::Dhcp,
            "ping" => Self::Ping,
            "invalid" => Self::Invalid,
            "input-default" => Self::InputDefault,
            "forward-default" => Self::ForwardDefault,
            _ => match text.split_once('.')? {
                ("overlay", name) => Self::Overlay(name.to_owned()),
                ("allow", name) => Self::Allow(name.to_owned()),
                _ => return None,
            },
        })
    }

    /// One sentence for people.
    pub fn sentence(&self) -> String {
        match self {
            Self::Established => "replies and errors of known connections".into(),
            Self::Loopback => "loopback".into(),
            Self::Trusted => "trusted interfaces".into(),
            Self::OverlaySpoof => {
                "an overlay's address on an interface that is not the overlay's".into()
            }
            Self::Peers => "peers".into(),
            Self::OverlayInject => "tunnel packets from others than peers".into(),
            Self::Overlay(name) => format!("overlay {name}"),
            Self::Icmp => "ICMP that networks need".into(),
            Self::Dhcp => "answers to this host's DHCP client".into(),
            Self::Ping => "ping".into(),
            Self::Invalid => "packets of no connection".into(),
            Self::Allow(name) => format!("allow {name}"),
            Self::InputDefault => "to this host, and the policy does not say so".into(),
            Self::ForwardDefault => "through this host, and the policy does not say so".into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Established => f.write_str("established"),
            Self::Loopback => f.write_str("loopback"),
            Self::Trusted => f.write_str("trusted"),
            Self::OverlaySpoof => f.write_str("overlay-spoof"),
            Self::Peers => f.write_str("peers"),
            Self::OverlayInject => f.write_str("overlay-inject"),
            Self::Overlay(name) => write!(f, "overlay.{name}"),
            Self::Icmp => f.write_str("icmp"),
            Self::Dhcp => f.write_str("dhcp"),
            Self::Ping => f.write_str("ping"),
            Self::Invalid => f.write_str("invalid"),
            Self::Allow(name) => write!(f, "allow.{name}"),
            Self::InputDefault => f.write_str("input-default"),
            Self::ForwardDefault => f.write_str("forward-default"),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
