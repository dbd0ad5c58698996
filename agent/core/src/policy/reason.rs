//! Reasons for verdicts, shared by policy, ruleset, counters and log.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Reason for a verdict. The text form is stable: counter names, log prefixes and `--json` contain
/// it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Packet of a known connection, or related to one.
    Established,
    /// Packet from `lo`.
    Loopback,
    /// Packet from an interface of `[interfaces] trusted`.
    Trusted,
    /// Frame that only crosses a bridge of `[interfaces] bridged`.
    Bridged,
    /// Loopback address on an interface other than `lo`.
    LoopbackSpoof,
    /// ICMP redirect.
    Redirect,
    /// Router advertisement from pods or guests.
    RouterAdvert,
    /// Peer's address from pods or guests.
    PeerSpoof,
    /// Overlay's address on an interface that is not the overlay's.
    OverlaySpoof,
    /// Packet from a peer.
    Peers,
    /// Tunnel packet of an overlay from a source that may not send one.
    OverlayInject,
    /// Packet from this overlay.
    Overlay(String),
    /// ICMP of the safe core, or listed under `[icmp]`.
    Icmp,
    /// Reply to a DHCP client.
    Dhcp,
    /// Echo request that `[icmp] ping` accepts.
    Ping,
    /// Packet from a guest network to an allowed destination.
    Guests,
    /// Packet from a guest network to peers or pods.
    GuestBlocked,
    /// Packet that connection tracking classifies as invalid.
    Invalid,
    /// DNATed connection to an address that is neither this host's nor in an allow.
    ServiceAddress,
    /// Packet that this `[[allow]]` accepts.
    Allow(String),
    /// Packet to this host that the policy does not allow.
    InputDefault,
    /// Packet through this host that the policy does not allow.
    ForwardDefault,
}

impl Reason {
    /// Reports whether every policy has this reason: the safe core, and the verdicts on packets
    /// that nothing accepts.
    pub fn is_of_every_policy(&self) -> bool {
        match self {
            Self::Trusted
            | Self::Bridged
            | Self::Peers
            | Self::Overlay(_)
            | Self::Ping
            | Self::Guests
            | Self::Allow(_) => false,
            Self::Established
            | Self::Loopback
            | Self::LoopbackSpoof
            | Self::Redirect
            | Self::RouterAdvert
            | Self::PeerSpoof
            | Self::OverlaySpoof
            | Self::OverlayInject
            | Self::Icmp
            | Self::Dhcp
            | Self::GuestBlocked
            | Self::Invalid
            | Self::ServiceAddress
            | Self::InputDefault
            | Self::ForwardDefault => true,
        }
    }

    /// Parses the text form.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "established" => Self::Established,
            "loopback" => Self::Loopback,
            "trusted" => Self::Trusted,
            "bridged" => Self::Bridged,
            "loopback-spoof" => Self::LoopbackSpoof,
            "icmp-redirect" => Self::Redirect,
            "router-advert" => Self::RouterAdvert,
            "peer-spoof" => Self::PeerSpoof,
            "guests" => Self::Guests,
            "guest-blocked" => Self::GuestBlocked,
            "service-address" => Self::ServiceAddress,
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

    /// Returns whether packets with this reason are denied.
    pub fn is_denial(&self) -> bool {
        match self {
            Self::LoopbackSpoof
            | Self::Redirect
            | Self::RouterAdvert
            | Self::PeerSpoof
            | Self::OverlaySpoof
            | Self::OverlayInject
            | Self::GuestBlocked
            | Self::Invalid
            | Self::ServiceAddress
            | Self::InputDefault
            | Self::ForwardDefault => true,
            Self::Established
            | Self::Loopback
            | Self::Trusted
            | Self::Bridged
            | Self::Peers
            | Self::Overlay(_)
            | Self::Icmp
            | Self::Dhcp
            | Self::Ping
            | Self::Guests
            | Self::Allow(_) => false,
        }
    }

    /// Describes the reason in text output.
    pub fn sentence(&self) -> String {
        match self {
            Self::Established => "replies and errors of known connections".into(),
            Self::Loopback => "loopback".into(),
            Self::Trusted => "trusted interfaces".into(),
            Self::Bridged => "frames that only cross a bridge".into(),
            Self::LoopbackSpoof => "loopback addresses from outside".into(),
            Self::Redirect => "ICMP redirects".into(),
            Self::RouterAdvert => "router advertisements from pods or guests".into(),
            Self::PeerSpoof => "spoofed peer address from pods or guests".into(),
            Self::Guests => "guest networks".into(),
            Self::GuestBlocked => "from guests to peers or pods".into(),
            Self::ServiceAddress => "DNATed, original destination is not this host".into(),
            Self::OverlaySpoof => "spoofed overlay address".into(),
            Self::Peers => "peers".into(),
            Self::OverlayInject => "tunnel packets not from peers".into(),
            Self::Overlay(name) => format!("overlay {name}"),
            Self::Icmp => "ICMP that networks need".into(),
            Self::Dhcp => "answers to this host's DHCP client".into(),
            Self::Ping => "ping".into(),
            Self::Invalid => "invalid packets (conntrack INVALID)".into(),
            Self::Allow(name) => format!("allow {name}"),
            Self::InputDefault => "to this host, not allowed by the policy".into(),
            Self::ForwardDefault => "forwarded, not allowed by the policy".into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Established => f.write_str("established"),
            Self::Loopback => f.write_str("loopback"),
            Self::Trusted => f.write_str("trusted"),
            Self::Bridged => f.write_str("bridged"),
            Self::LoopbackSpoof => f.write_str("loopback-spoof"),
            Self::Redirect => f.write_str("icmp-redirect"),
            Self::RouterAdvert => f.write_str("router-advert"),
            Self::PeerSpoof => f.write_str("peer-spoof"),
            Self::Guests => f.write_str("guests"),
            Self::GuestBlocked => f.write_str("guest-blocked"),
            Self::ServiceAddress => f.write_str("service-address"),
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

impl JsonSchema for Reason {
    fn schema_name() -> Cow<'static, str> {
        "Reason".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "Why packets are accepted or denied, as in counter names and log prefixes.",
        })
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("`{text}` is not a reason"));
        Self::parse(&text).ok_or_else(wrong)
    }
}
