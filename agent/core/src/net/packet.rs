//! Packets, as the filter hooks see them.

use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::net::addr::Family;
use crate::net::port::{ICMP, ICMPV6};
use crate::policy::reason::Reason;

/// Netfilter hook in which peerwall filters.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// `NF_INET_LOCAL_IN`: packets to this host.
    Input,
    /// `NF_INET_FORWARD`: packets through this host.
    Forward,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Forward => "forward",
        })
    }
}

/// Connection tracking state of a packet (`nft_ct_get_eval()`, key state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtState {
    /// First packet of a connection.
    New,
    /// Packet of an answered connection.
    Established,
    /// ICMP error about a known connection, or first packet of a connection that it expects.
    Related,
    /// Packet that neither belongs to a connection nor can start one.
    Invalid,
    /// Packet exempt from tracking.
    Untracked,
}

/// Header after the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, UDP, SCTP, DCCP: a protocol with ports.
    Ports {
        /// Protocol number.
        protocol: u8,
        /// Source port.
        source: u16,
        /// Destination port, after any DNAT.
        destination: u16,
    },
    /// ICMP or ICMPv6, depending on the address family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Other protocol, by number.
    Other(u8),
}

/// Destination of a DNATed connection before DNAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dialled {
    /// Address (`ct original ip daddr`).
    pub address: IpAddr,
    /// Port (`ct original proto-dst`).
    pub port: u16,
}

/// Packet at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Hook.
    pub hook: Hook,
    /// Incoming interface.
    pub interface: String,
    /// Outgoing interface; forward hook only.
    pub out: Option<String>,
    /// Ethernet address of the sender, if there is one.
    pub mac: Option<[u8; 6]>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, after any DNAT.
    pub destination: IpAddr,
    /// Header after the IP header.
    pub transport: Transport,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Connection tracking state.
    pub state: CtState,
    /// Destination before DNAT; `None` without DNAT.
    pub dialled: Option<Dialled>,
    /// Whether the destination before DNAT is one of this host's own addresses (`fib daddr type
    /// local`).
    pub to_host: bool,
    /// Whether a TCP packet opens a connection: SYN without ACK, FIN and RST.
    pub syn: bool,
    /// Whether the route to the source leaves through `interface` (strict reverse path).
    pub reverse_path: bool,
}

impl Packet {
    /// Creates the first packet of an ordinary connection: tracked as new, not DNATed, with a hop
    /// limit of 64, and with a route to the source through the incoming interface. In the input
    /// hook, its destination is this host.
    pub fn new(
        hook: Hook,
        interface: impl Into<String>,
        source: IpAddr,
        destination: IpAddr,
        transport: Transport,
    ) -> Self {
        Self {
            hook,
            interface: interface.into(),
            out: None,
            mac: None,
            source,
            destination,
            transport,
            hop_limit: 64,
            state: CtState::New,
            dialled: None,
            to_host: hook == Hook::Input,
            syn: true,
            reverse_path: true,
        }
    }

    /// Returns the packet as it was in prerouting, before DNAT.
    #[must_use]
    pub fn before_dnat(&self) -> Self {
        let Some(dialled) = self.dialled else {
            return self.clone();
        };
        let mut before = self.clone();
        before.destination = dialled.address;
        before.dialled = None;
        if let Transport::Ports { destination, .. } = &mut before.transport {
            *destination = dialled.port;
        }
        before
    }

    /// Returns the address family of the source.
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// Returns the protocol number (`meta l4proto`).
    pub fn protocol(&self) -> u8 {
        match (self.transport, self.family()) {
            (Transport::Ports { protocol, .. } | Transport::Other(protocol), _) => protocol,
            (Transport::Icmp { .. }, Family::V4) => ICMP,
            (Transport::Icmp { .. }, Family::V6) => ICMPV6,
        }
    }
}

/// Verdict on a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Accepted; other tables may still drop the packet.
    Accept,
    /// Dropped silently.
    Drop,
    /// Dropped, with a TCP reset or an ICMP error to the sender.
    Reject,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Reject => "reject",
        })
    }
}

/// Verdict with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Verdict.
    pub verdict: Verdict,
    /// Reason.
    pub reason: Reason,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verdict, self.reason)
    }
}
