//! Names the owner of an address: a peer, a group, a pod.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::explain::POD_INTERFACES;
use crate::net::addr::is_private;
use crate::policy::initial::is_guest_bridge;
use crate::policy::{Address, Policy};

/// The probable owner of an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Resemblance {
    /// Kind of owner.
    pub kind: ResemblanceKind,
    /// Name in the policy, or of the interface.
    pub name: Option<String>,
}

/// Kind of the owner of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResemblanceKind {
    /// This host.
    Host,
    /// A peer.
    Peer,
    /// A pod of an overlay of the policy.
    Pod,
    /// A group of the policy.
    Group,
    /// A guest network of the policy, by its interface.
    Guest,
    /// A pod of an overlay that the policy does not declare, by its interface.
    UndeclaredPod,
    /// A container or virtual machine of this host, by its interface.
    UndeclaredGuest,
}

impl Resemblance {
    /// Describes the owner: `peer worker-2`, `pod of flannel`.
    pub fn text(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        let text = match self.kind {
            ResemblanceKind::Host => "this host's own address".to_owned(),
            ResemblanceKind::Peer => format!("peer {name}"),
            ResemblanceKind::Pod => format!("pod of {name}"),
            ResemblanceKind::Group => format!("group {name}"),
            ResemblanceKind::Guest => format!("guest on {name}"),
            ResemblanceKind::UndeclaredPod => "looks like a pod of no declared overlay".to_owned(),
            ResemblanceKind::UndeclaredGuest => {
                format!("looks like a container or guest on {name}")
            }
        };
        text.trim_end().to_owned()
    }
}

/// Returns the probable owner of a source address on an interface; `None` for a stranger. `is_own`
/// reports whether an address is this host's.
pub fn resembling(
    policy: &Policy,
    source: IpAddr,
    interface: &str,
    is_own: impl Fn(IpAddr) -> bool,
) -> Option<Resemblance> {
    let found = |kind, name: Option<&str>| {
        let name = name.map(str::to_owned);
        Some(Resemblance { kind, name })
    };
    let has = |list: &[Address]| list.iter().any(|each| each.net.contains(&source));
    if is_own(source) {
        return found(ResemblanceKind::Host, None);
    }
    if let Some(peer) = policy.peers.iter().find(|peer| has(&peer.addresses)) {
        return found(ResemblanceKind::Peer, peer.name.as_deref());
    }
    let mut overlays = policy.overlays.iter();
    if let Some(overlay) = overlays.find(|each| has(&each.subnets)) {
        return found(ResemblanceKind::Pod, Some(&overlay.name));
    }
    // Groups of a whole family say nothing about one address.
    let mut groups = policy.groups.iter();
    let is_named = |each: &Address| each.net.prefix_len() > 0 && each.net.contains(&source);
    if let Some(group) = groups.find(|group| group.addresses.iter().any(is_named)) {
        return found(ResemblanceKind::Group, Some(&group.name));
    }
    let mut guests = policy.guests.iter();
    if guests.any(|pattern| pattern.matches(interface)) {
        return found(ResemblanceKind::Guest, Some(interface));
    }
    let is_pods = || {
        POD_INTERFACES
            .iter()
            .any(|name| interface.starts_with(name))
    };
    if is_private(source) && is_pods() {
        return found(ResemblanceKind::UndeclaredPod, Some(interface));
    }
    if is_private(source) && is_guest_bridge(interface) {
        return found(ResemblanceKind::UndeclaredGuest, Some(interface));
    }
    None
}
