//! A packet as the filter hooks see it: what a policy and a ruleset are asked about.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::net::addr::Family;
use crate::net::port::{ICMP, ICMPV6};
use crate::policy::reason::Reason;

/// A netfilter hook that peerwall filters in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// `NF_INET_LOCAL_IN`: for this host.
    Input,
    /// `NF_INET_FORWARD`: through this host.
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

/// What connection tracking says of a packet (`nft_ct_get_eval()`, key state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtState {
    /// First packet of a connection.
    New,
    /// Belongs to one that was answered.
    Established,
    /// An error about, or a child of, a known connection.
    Related,
    /// Fits no connection and starts none.
    Invalid,
    /// Exempt from tracking.
    Untracked,
}

/// What is behind the IP header.
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
    /// ICMP or ICMPv6, as the address family has it.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Anything else, by protocol number.
    Other(u8),
}

/// Where a DNATed connection was addressed to, before DNAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dialled {
    /// Address (`ct original ip daddr`).
    pub address: IpAddr,
    /// Port (`ct original proto-dst`).
    pub port: u16,
}

/// A packet at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where it is looked at.
    pub hook: Hook,
    /// Interface it came in by.
    pub interface: String,
    /// Interface it leaves by; forward hook only.
    pub out: Option<String>,
    /// Ethernet address of its sender, where it has one.
    pub mac: Option<[u8; 6]>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, after any DNAT.
    pub destination: IpAddr,
    /// What is behind the IP header.
    pub transport: Transport,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Connection tracking state.
    pub state: CtState,
    /// What was dialled, if the connection is DNATed.
    pub dialled: Option<Dialled>,
    /// Whether the dialled address is one of this host's own (`fib daddr type local`).
    pub to_host: bool,
    /// Whether a TCP packet is a SYN that opens a connection: SYN without ACK, FIN and RST.
    pub syn: bool,
    /// Whether the route back to the source leaves by `interface` (strict reverse path).
    pub reverse_path: bool,
}

impl Packet {
    /// The first packet of a connection that nothing is special about: tracked as new, not DNATed, with a
    /// hop limit of 64, routed back by the interface it came in by. At the input hook it is for this host.
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

    /// As it was in prerouting, before DNAT.
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

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// Protocol number, as `meta l4proto` has it.
    pub fn protocol(&self) -> u8 {
        match (self.transport, self.family()) {
            (Transport::Ports { protocol, .. } | Transport::Other(protocol), _) => protocol,
            (Transport::Icmp { .. }, Family::V4) => ICMP,
            (Transport::Icmp { .. }, Family::V6) => ICMPV6,
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It goes on (to other tables, which may still drop it).
    Accept,
    /// It is gone without a word.
    Drop,
    /// It is gone and its sender is told.
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

/// A verdict and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verdict, self.reason)
    }
}
