//! Explains the verdict of a policy on one packet: the deciding rule, its place in the policy, and
//! what would let a denied packet in.

mod fix;
mod line;
pub mod live;
#[cfg(test)]
mod tests;
mod words;

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use fix::POD_INTERFACES;
pub use fix::{Fix, fixes};
pub use line::parse;
pub use words::{SOME_SOURCE_PORT, icmp_type, transport};

use crate::diagnostic::Place;
use crate::net::packet::{CtState, Dialled, Hook, Packet, Transport, Verdict};
use crate::net::port::{self, TCP};
use crate::policy::reason::Reason;
use crate::policy::{Overlay, Policy, icmp};
use crate::ruleset::Ruleset;
use crate::ruleset::compile::Origins;
use crate::ruleset::render::rule_text;

/// What is known of a packet; `None` for what is not said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Source address.
    pub from: IpAddr,
    /// Destination address, after any DNAT.
    pub to: IpAddr,
    /// Header after the IP header.
    pub transport: Option<Transport>,
    /// Hook.
    pub hook: Option<Hook>,
    /// Incoming interface.
    pub interface: Option<String>,
    /// Outgoing interface.
    pub out: Option<String>,
    /// Destination before DNAT.
    pub dialled: Option<Dialled>,
    /// Connection tracking state.
    pub state: Option<CtState>,
    /// Whether a TCP packet opens a connection.
    pub syn: Option<bool>,
    /// Ethernet address of the sender.
    pub mac: Option<[u8; 6]>,
    /// TTL or hop limit.
    pub hop_limit: Option<u8>,
    /// Remarks on what was read, as sentences.
    pub notes: Vec<String>,
}

impl Asked {
    /// Creates a question about a packet of which only the addresses are known.
    pub fn new(from: IpAddr, to: IpAddr) -> Self {
        Self {
            from,
            to,
            transport: None,
            hook: None,
            interface: None,
            out: None,
            dialled: None,
            state: None,
            syn: None,
            mac: None,
            hop_limit: None,
            notes: Vec::new(),
        }
    }
}

/// The host that a packet arrives at.
pub trait Surroundings {
    /// Reports whether an address is the host's own; `None` if that is not known.
    fn is_own(&self, address: IpAddr) -> Option<bool>;
    /// Returns the interfaces of the route to an address; none if that is not known.
    fn ways(&mut self, address: IpAddr) -> Vec<String>;
}

/// A host of which nothing is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unknown;

impl Surroundings for Unknown {
    fn is_own(&self, _: IpAddr) -> Option<bool> {
        None
    }

    fn ways(&mut self, _: IpAddr) -> Vec<String> {
        Vec::new()
    }
}

/// Interface that policies are unlikely to name.
const SOME_INTERFACE: &str = "eth0";

/// Completes a packet, and says what was assumed.
///
/// # Errors
/// A packet that does not exist, in a sentence.
pub fn complete(
    asked: &Asked,
    policy: &Policy,
    host: &mut dyn Surroundings,
) -> Result<(Packet, Vec<String>), String> {
    if asked.from.is_ipv4() != asked.to.is_ipv4() {
        return Err("source and destination have different families".to_owned());
    }
    let mut assumed = asked.notes.clone();
    let of_overlay = |address: IpAddr| -> Option<&Overlay> {
        let has = |overlay: &&Overlay| overlay.subnets.iter().any(|net| net.net.contains(&address));
        policy.overlays.iter().find(has)
    };
    let is_to_all = match asked.to {
        IpAddr::V4(to) => to.is_multicast() || to.is_broadcast(),
        IpAddr::V6(to) => to.is_multicast(),
    };
    let hook = match (asked.hook, &asked.out, host.is_own(asked.to)) {
        (Some(hook), _, _) => hook,
        (None, None, _) if is_to_all => Hook::Input,
        (None, Some(_), _) => Hook::Forward,
        (None, None, Some(true)) => Hook::Input,
        (None, None, Some(false)) => Hook::Forward,
        (None, None, None) if of_overlay(asked.to).is_some() => {
            assumed.push(format!(
                "{} is a pod: the packet goes through this host",
                asked.to
            ));
            Hook::Forward
        }
        (None, None, None) => {
            assumed.push(format!(
                "{} is this host's own address (else use --out)",
                asked.to
            ));
            Hook::Input
        }
    };
    let ways = host.ways(asked.from);
    let interface = match (&asked.interface, ways.first(), of_overlay(asked.from)) {
        (Some(name), _, _) => name.clone(),
        (None, Some(way), _) => {
            assumed.push(format!(
                "it arrives on {way}, as the route to {} says",
                asked.from
            ));
            way.clone()
        }
        (None, None, Some(overlay)) => {
            let name = overlay.interfaces.first().map_or_else(
                || SOME_INTERFACE.to_owned(),
                crate::net::interface::InterfacePattern::example,
            );
            assumed.push(format!(
                "it arrives on {name}, like pods of {}",
                overlay.name
            ));
            name
        }
        (None, None, None) => {
            assumed.push(format!("it arrives on {SOME_INTERFACE} (--interface)"));
            SOME_INTERFACE.to_owned()
        }
    };
    let out = match (hook, &asked.out) {
        (Hook::Input, _) => None,
        (Hook::Forward, Some(name)) => Some(name.clone()),
        (Hook::Forward, None) => {
            let pods = of_overlay(asked.to).and_then(|overlay| overlay.interfaces.first());
            let way = host.ways(asked.to).into_iter().next();
            let name = way.or_else(|| pods.map(|pattern| pattern.example()));
            match &name {
                Some(name) => assumed.push(format!("it leaves by {name}")),
                None => assumed.push("where it leaves is not known (--out)".to_owned()),
            }
            name
        }
    };
    let transport = asked.transport.unwrap_or_else(|| {
        assumed.push("it is tcp, to a port that no policy names (--port)".to_owned());
        Transport::Ports {
            protocol: TCP,
            source: 40_000,
            destination: 9,
        }
    });
    let mut packet = Packet::new(hook, interface, asked.from, asked.to, transport);
    packet.reverse_path = ways.is_empty() || ways.contains(&packet.interface);
    packet.out = out;
    packet.mac = asked.mac;
    packet.dialled = asked.dialled;
    packet.to_host = match asked.dialled {
        Some(dialled) => host.is_own(dialled.address).unwrap_or_else(|| {
            assumed.push(format!("{} is an address of this host", dialled.address));
            true
        }),
        None => hook == Hook::Input,
    };
    if let Some(limit) = asked.hop_limit {
        packet.hop_limit = limit;
    }
    packet.syn = asked.syn.unwrap_or(true);
    packet.state = asked.state.unwrap_or_else(|| match asked.syn {
        Some(false) => {
            assumed.push(
                "connection tracking does not know the connection: its first packet is not SYN \
                 (--state)"
                    .to_owned(),
            );
            CtState::New
        }
        Some(true) | None => CtState::New,
    });
    Ok((packet, assumed))
}

/// A rule that a packet matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Chain.
    pub chain: String,
    /// The rule, in the words of nft.
    pub rule: String,
    /// Place in the policy; `None` for a rule that every policy has.
    pub place: Option<Place>,
    /// Whether the rule has no effect on the verdict: it logs, or marks the connection.
    pub is_aside: bool,
}

/// A verdict with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Verdict.
    pub verdict: Verdict,
    /// Reason; `None` if no rule of peerwall counts the packet.
    pub reason: Option<Reason>,
    /// Matching rules, in order.
    pub path: Vec<Step>,
    /// Place of the deciding entry of the policy; `None` for the safe core, and where no entry
    /// accepts the packet.
    pub place: Option<Place>,
    /// What would let a denied packet in.
    pub fixes: Vec<Fix>,
}

/// Explains the verdict on a packet.
pub fn explain(
    policy: &Policy,
    ruleset: &Ruleset,
    origins: &Origins,
    packet: &Packet,
) -> Explanation {
    let walk = ruleset.eval(packet);
    let reason = walk.reason();
    let step = |(chain, index): &(String, usize)| {
        let rule = ruleset.chain(chain)?.rules.get(*index)?;
        let origin = origins.of(chain, *index);
        Some(Step {
            chain: chain.clone(),
            rule: rule_text(rule),
            is_aside: rule.only_logs() || (rule.label && packet.dialled.is_none()),
            place: origin.and_then(|origin| origin.place.clone()),
        })
    };
    let fixes = match (walk.verdict, &reason) {
        (Verdict::Drop | Verdict::Reject, Some(reason)) => fixes(policy, packet, reason),
        _ => Vec::new(),
    };
    let path: Vec<Step> = walk.path.iter().filter_map(step).collect();
    // All peers have one rule.
    let peers = policy.peers.iter().flat_map(|peer| &peer.addresses);
    let mut peers = peers.filter(|address| address.net.contains(&packet.source));
    let place = match reason {
        Some(Reason::Peers) => peers.next().map(|address| &address.place),
        _ => path.iter().rev().find_map(|step| step.place.as_ref()),
    };
    Explanation {
        verdict: walk.verdict,
        place: place.cloned(),
        reason,
        path,
        fixes,
    }
}

/// Kind of a packet's verdict, in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The packet is accepted.
    Accepted,
    /// The packet is dropped or rejected.
    Denied,
    /// The loaded rules ask for more than is known of the packet.
    Undecided,
}

/// Describes a packet in one line.
pub fn described(packet: &Packet) -> String {
    let what = match packet.transport {
        Transport::Ports {
            protocol,
            destination,
            ..
        } => format!("{destination}/{}", port::protocol_name(protocol)),
        Transport::Icmp { kind, .. } => {
            let name = icmp::name(packet.family(), kind);
            name.map_or_else(
                || format!("ICMP type {kind}"),
                |name| format!("ICMP {name}"),
            )
        }
        Transport::Other(protocol) => format!("protocol {}", port::protocol_name(protocol)),
    };
    let dialled = packet.dialled.map_or_else(String::new, |dialled| {
        format!(" (sent to {} port {})", dialled.address, dialled.port)
    });
    let way = match (packet.hook, &packet.out) {
        (Hook::Input, _) => ", this host".to_owned(),
        (Hook::Forward, Some(out)) => format!(" by {out}, through this host"),
        (Hook::Forward, None) => ", through this host".to_owned(),
    };
    let state = match packet.state {
        CtState::New => "first packet of a connection",
        CtState::Established => "of a known connection",
        CtState::Related => "related to a known connection",
        CtState::Invalid => "without a connection (INVALID)",
        CtState::Untracked => "not tracked",
    };
    format!(
        "{what} from {} on {} to {}{dialled}{way}; {state}",
        packet.source, packet.interface, packet.destination
    )
}
