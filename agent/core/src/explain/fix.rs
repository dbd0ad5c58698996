//! Suggestions: what would let a denied packet in, as lines of a policy.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::{Hook, Packet, Transport};
use crate::net::port::protocol_name;
use crate::policy::initial::is_guest_bridge;
use crate::policy::reason::Reason;
use crate::policy::{Overlay, Policy, icmp};

/// A change of the policy that lets a packet in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Fix {
    /// Situation in which it is right, as a sentence.
    pub when: String,
    /// Lines of the policy; empty if the cause is not in the policy.
    pub toml: String,
}

impl Fix {
    fn new(when: impl Into<String>, toml: impl Into<String>) -> Self {
        Self {
            when: when.into(),
            toml: toml.into(),
        }
    }

    fn note(when: impl Into<String>) -> Self {
        Self::new(when, "")
    }
}

/// Names of interfaces on which pods arrive, by common overlays.
pub(crate) const POD_INTERFACES: [&str; 7] = [
    "cni0",
    "flannel",
    "cali",
    "vxlan.calico",
    "kube-",
    "veth",
    "cbr0",
];

/// Returns what would let a packet in that was denied for this reason, the likeliest first.
pub fn fixes(policy: &Policy, packet: &Packet, reason: &Reason) -> Vec<Fix> {
    match reason {
        Reason::InputDefault | Reason::ForwardDefault => missing(policy, packet),
        Reason::OverlaySpoof => spoofed(policy, packet),
        Reason::OverlayInject => vec![Fix::new(
            format!("{} is another node of the cluster", packet.source),
            peer(packet.source),
        )],
        Reason::Invalid => vec![Fix::note(
            "connection tracking knows no such connection: the request took another way (an \
             asymmetric route), or the connection is older than the firewall, or has timed out",
        )],
        Reason::LoopbackSpoof => vec![Fix::note(
            "loopback addresses never arrive from other machines; a local proxy or DNAT that \
             sends from 127.0.0.1 needs a source address of this host",
        )],
        Reason::Redirect => vec![Fix::note(
            "ICMP redirects let others change this host's routes; set the right route instead",
        )],
        Reason::RouterAdvert => vec![Fix::note(
            "pods and guests are no routers; if this interface leads to one, it is not the \
             overlay's: see `interfaces` of the overlay",
        )],
        Reason::PeerSpoof => vec![Fix::note(format!(
            "{} is a peer, but the packet arrived on {}, where pods or guests are: the peer is \
             behind another interface, or another machine uses its address",
            packet.source, packet.interface
        ))],
        Reason::GuestBlocked => vec![Fix::note(
            "guests may send to the Internet, but not to peers and pods; make their bridge an \
             overlay, or trusted, if they are part of the cluster",
        )],
        Reason::ServiceAddress => {
            let pods = is_pod_like(packet).then(|| overlay(policy, packet));
            pods.into_iter().chain([service(packet)]).collect()
        }
        Reason::Established
        | Reason::Loopback
        | Reason::Trusted
        | Reason::Bridged
        | Reason::Peers
        | Reason::Overlay(_)
        | Reason::Icmp
        | Reason::Dhcp
        | Reason::Ping
        | Reason::Guests
        | Reason::Allow(_) => Vec::new(),
    }
}

/// Reports whether a packet looks like one of a pod, by its source and interface.
fn is_pod_like(packet: &Packet) -> bool {
    let mut names = POD_INTERFACES.iter();
    addr::is_private(packet.source) && names.any(|name| packet.interface.starts_with(name))
}

/// Nothing in the policy accepts the packet.
fn missing(policy: &Policy, packet: &Packet) -> Vec<Fix> {
    let mut found = Vec::new();
    if is_pod_like(packet) {
        found.push(overlay(policy, packet));
    }
    if packet.hook == Hook::Forward && is_guest_bridge(&packet.interface) {
        found.push(Fix::new(
            format!(
                "{} leads to containers or virtual machines of this host",
                packet.interface
            ),
            format!("[interfaces]\nguests = [\"{}\"]\n", packet.interface),
        ));
    }
    found.extend(allow(packet));
    // Peers are not accepted where pods and guests are.
    let sides = policy.sides();
    if !sides
        .keys()
        .any(|pattern| pattern.matches(&packet.interface))
    {
        found.push(Fix::new(
            format!("{} is another machine of the cluster", packet.source),
            peer(packet.source),
        ));
    }
    found
}

/// An overlay that is not declared, or one whose interfaces or subnets are incomplete.
fn overlay(policy: &Policy, packet: &Packet) -> Fix {
    let matches = |overlay: &&Overlay| {
        let mut patterns = overlay.interfaces.iter();
        patterns.any(|pattern| pattern.matches(&packet.interface))
    };
    let net = pod_network(packet.source);
    if let Some(known) = policy.overlays.iter().find(matches) {
        return Fix::new(
            format!(
                "{} is a pod of overlay {}, whose subnets lack it",
                packet.source, known.name
            ),
            format!(
                "# under [overlay.{}], besides the present ones:\nsubnets = [\"{net}\"]\n",
                known.name
            ),
        );
    }
    let (name, backend) =
        match packet.interface.starts_with("flannel") || packet.interface == "cni0" {
            true => ("flannel", "vxlan"),
            false => ("pods", "none"),
        };
    Fix::new(
        format!(
            "{} is a pod of an overlay that the policy does not declare",
            packet.source
        ),
        format!("[overlay.{name}]\nbackend = \"{backend}\"\nsubnets = [\"{net}\"]\n"),
    )
}

/// The network that pods of a cluster usually share: a /16, or a /56 of IPv6.
fn pod_network(address: IpAddr) -> IpNet {
    let len = match Family::of(address) {
        Family::V4 => 16,
        Family::V6 => 56,
    };
    IpNet::new_assert(address, len).trunc()
}

/// A pod's address on an interface that is not the overlay's.
fn spoofed(policy: &Policy, packet: &Packet) -> Vec<Fix> {
    let has = |overlay: &&Overlay| {
        let mut nets = overlay.subnets.iter();
        nets.any(|net| net.net.contains(&packet.source))
    };
    let Some(overlay) = policy.overlays.iter().find(has) else {
        return Vec::new();
    };
    let mut names: Vec<String> = overlay
        .interfaces
        .iter()
        .map(InterfacePattern::to_string)
        .collect();
    names.push(packet.interface.clone());
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    vec![Fix::new(
        format!(
            "pods of overlay {} arrive on {}, too",
            overlay.name, packet.interface
        ),
        format!(
            "# under [overlay.{}]:\ninterfaces = [{}]\n",
            overlay.name,
            names.join(", ")
        ),
    )]
}

/// An allow for the packet's service and source.
fn allow(packet: &Packet) -> Option<Fix> {
    let before = packet.before_dnat();
    let (ports, name) = match before.transport {
        Transport::Ports {
            protocol,
            destination,
            ..
        } => {
            let protocol = protocol_name(protocol);
            (
                format!("{destination}/{protocol}"),
                format!("{protocol}-{destination}"),
            )
        }
        Transport::Icmp { kind, .. } => {
            let is_ping = kind == icmp::echo_request(packet.family());
            return Some(match is_ping {
                true => Fix::new(
                    format!("{} may ping this host", packet.source),
                    format!("[icmp]\nping = [\"{}\"]\n", packet.source),
                ),
                false => {
                    let key = match packet.family() {
                        Family::V4 => "v4",
                        Family::V6 => "v6",
                    };
                    let kind = icmp::name(packet.family(), kind)
                        .map_or_else(|| kind.to_string(), |name| format!("\"{name}\""));
                    Fix::new(
                        "this type of ICMP is wanted",
                        format!("[icmp]\n{key} = [{kind}]\n"),
                    )
                }
            });
        }
        Transport::Other(protocol) => {
            let protocol = protocol_name(protocol);
            (protocol.clone(), format!("protocol-{protocol}"))
        }
    };
    let is_routed = packet.hook == Hook::Forward && packet.dialled.is_none();
    let to = match is_routed || (packet.dialled.is_some() && !packet.to_host) {
        true => format!("to = [\"{}\"]\n", before.destination),
        false => String::new(),
    };
    Some(Fix::new(
        format!("{} may use this service", packet.source),
        format!(
            "[[allow]]\nname = \"{name}\"\nports = [\"{ports}\"]\nfrom = [\"{}\"]\n{to}",
            packet.source
        ),
    ))
}

fn service(packet: &Packet) -> Fix {
    let address = packet.before_dnat().destination;
    Fix::new(
        format!("{address} is an address of a service that others may use"),
        allow(packet).map_or_else(String::new, |fix| fix.toml),
    )
}

fn peer(address: IpAddr) -> String {
    let name = address.to_string().replace(['.', ':'], "-");
    format!("# under [peers]:\nnode-{name} = \"{address}\"\n")
}
