//! Policies. Every [`Policy`] is valid.
//!
//! [`load`](load::load) parses one from files; [`Policy::verdict`] returns the verdict on a packet.
//! `docs/policy.md` is the reference for users.

mod facing;
pub mod flannel;
pub mod host_check;
pub mod icmp;
pub mod initial;
pub mod load;
mod member_source;
mod on_link;
mod overlay;
pub mod reason;
pub mod schema;
pub mod suspicious;
mod verdict;

pub use facing::Facing;
pub(crate) use load::is_name;
pub use member_source::{Engine, EngineKind, MemberSource};
pub use overlay::{Discovery, Found, Overlay, OverlayBackend, Tunnel};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::diagnostic::Place;
use crate::net::addr::AddrSet;
use crate::net::interface::InterfacePattern;
use crate::net::packet::{Hook, Verdict};
use crate::net::port::PortSpec;
use reason::Reason;

/// Valid policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Machines that may reach this host and send through it.
    pub peers: Vec<Peer>,
    /// Named addresses for `from` and `to`.
    pub groups: Vec<Group>,
    /// Sources of members. Their members are in `peers` and `groups`.
    pub sources: Vec<MemberSource>,
    /// Pod networks.
    pub overlays: Vec<Overlay>,
    /// Entries of `[[allow]]`, in the order of the file.
    pub allows: Vec<Allow>,
    /// Interfaces on which every packet is accepted.
    pub trusted: Vec<InterfacePattern>,
    /// Interfaces of networks that may send through this host, but not to it, to peers or to pods.
    pub guests: Vec<InterfacePattern>,
    /// Bridges; frames that only cross one of them are not filtered.
    pub bridged: Vec<InterfacePattern>,
    /// Bridges between a LAN and other machines; frames that only cross one of them are accepted,
    /// except to peers and pods.
    pub switches: Vec<InterfacePattern>,
    /// Addresses of cluster services on an interface of this host (kube-proxy's IPVS mode). They do
    /// not count as the host's own.
    pub services: Vec<IpNet>,
    /// `[icmp]`
    pub icmp: Icmp,
    /// `[options]`
    pub options: Options,
    /// `[log] denied`; `None` for `false`.
    pub log: Option<Log>,
    /// Tests of this policy.
    pub expects: Vec<Expect>,
    /// Peers that were added by hand since the policy was loaded; `None` if there never was one.
    pub temporary: Option<Vec<TemporaryPeer>>,
    /// Interfaces through which peers are reached, if the policy has sources and the host is known.
    pub facing: Facing,
}

/// A peer that was added by hand, for a time or until the policy is loaded again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemporaryPeer {
    /// Name.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// When it ends; `None` if it has none.
    pub end: Option<End>,
}

/// When a temporary peer ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Time since boot.
    pub uptime: Duration,
    /// The same as RFC 3339, for people.
    pub time: String,
}

/// Address with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host or prefix.
    pub net: IpNet,
    /// Place.
    pub place: Place,
}

/// Entry of `[peers]`, all entries of a peers file, or a node of a source of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Name; `None` for a peers file. A node of a source is named `SOURCE/NODE`.
    pub name: Option<String>,
    /// Addresses, at least one.
    pub addresses: Vec<Address>,
    /// Whether it comes from a source of members.
    pub is_member: bool,
}

/// Entry of `[groups]`, or the members of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Place.
    pub place: Place,
    /// Addresses; at least one, unless they come from a source.
    pub addresses: Vec<Address>,
}

/// Source of an `[[allow]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Every source.
    Any,
    /// Group of this name.
    Group(String),
    /// Addresses of a network.
    Net(IpNet),
    /// Peer of this name, which is accepted on every port in any case.
    Peer(String),
    /// Overlay of this name, which is accepted on every port in any case.
    Overlay(String),
}

/// Destination of an `[[allow]]`: the original destination, before any DNAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// This host's own addresses.
    Host,
    /// Addresses of a network.
    Net(IpNet),
    /// Addresses of the group of this name.
    Group(String),
    /// Pods of the overlay of this name.
    Overlay(String),
}

/// Entry of `[[allow]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// Name.
    pub name: String,
    /// Place of the name.
    pub place: Place,
    /// Destination ports; `None` for every port and protocol.
    pub ports: Option<Vec<PortSpec>>,
    /// Source ports; `None` for any.
    pub from_ports: Option<Vec<PortSpec>>,
    /// Sources, at least one.
    pub from: Vec<Source>,
    /// Destinations, at least one.
    pub to: Vec<Target>,
    /// Limit on new connections of each source address.
    pub limit: Option<Rate>,
    /// Incoming interfaces; empty for any.
    pub interfaces: Vec<InterfacePattern>,
}

/// `[icmp]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Icmp {
    /// Whether the safe core is enabled.
    pub core: bool,
    /// ICMP types accepted in addition to the core.
    pub v4: IcmpTypes,
    /// ICMPv6 types accepted in addition to the core.
    pub v6: IcmpTypes,
    /// Sources besides peers and overlays that may ping this host.
    pub ping: Vec<Source>,
    /// Place of `[icmp]`, if it exists.
    pub place: Option<Place>,
}

impl Default for Icmp {
    fn default() -> Self {
        Self {
            core: true,
            v4: IcmpTypes::Some(Vec::new()),
            v6: IcmpTypes::Some(Vec::new()),
            ping: Vec::new(),
            place: None,
        }
    }
}

/// Accepted ICMP types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IcmpTypes {
    /// All types.
    All,
    /// Some types, in ascending order.
    Some(Vec<u8>),
}

/// Treatment of packets that are not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Denied {
    /// Drop silently.
    #[default]
    Drop,
    /// Reject with a TCP reset, or ICMP admin-prohibited.
    Reject,
}

/// `[options] mode` and `audit`: what happens to denied packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They are denied.
    #[default]
    Enforce,
    /// They are counted and logged, and pass, unless they claim to be somebody else.
    Audit,
    /// All of them pass, except loopback addresses from outside.
    AuditAll,
}

impl Mode {
    /// Reports whether packets pass that are denied for this reason. Spoofed addresses, injected
    /// tunnel packets and service addresses stay denied, unless everything passes: no policy would
    /// allow them. Loopback addresses from outside are always denied: the kernel itself drops them,
    /// unless kube-proxy tells it not to.
    pub fn passes(self, reason: &Reason) -> bool {
        match self {
            Self::Enforce => false,
            Self::Audit => matches!(
                reason,
                Reason::GuestBlocked
                    | Reason::Invalid
                    | Reason::InputDefault
                    | Reason::ForwardDefault
            ),
            Self::AuditAll => reason.is_denial() && *reason != Reason::LoopbackSpoof,
        }
    }
}

/// Backend requested by `[options] backend` or the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// nf_tables; iptables if the kernel lacks nf_tables or a feature that the policy needs.
    #[default]
    Auto,
    /// nf_tables.
    Nft,
    /// iptables.
    Iptables,
}

impl BackendChoice {
    /// All choices with their names.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("nft", Self::Nft),
        ("iptables", Self::Iptables),
    ];
}

/// `[options]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Backend, unless the command line selects one.
    pub backend: BackendChoice,
    /// Priority of the base chains.
    pub hook_priority: i32,
    /// Treatment of packets that are not allowed.
    pub denied: Denied,
    /// Whether denied packets are denied.
    pub mode: Mode,
    /// Whether applying a policy ends open connections that it refuses.
    pub cut_revoked: bool,
    /// Whether conntrack-invalid packets from sources other than peers and overlays are dropped. If
    /// not, they are judged like any other packet.
    pub drop_invalid: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: BackendChoice::Auto,
            hook_priority: -10,
            denied: Denied::Drop,
            mode: Mode::Enforce,
            cut_revoked: true,
            drop_invalid: true,
        }
    }
}

/// Unit of a [`Rate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RateUnit {
    /// Per second.
    Second,
    /// Per minute.
    Minute,
    /// Per hour.
    Hour,
    /// Per day.
    Day,
}

impl RateUnit {
    /// All units with their names and their lengths in seconds.
    pub const ALL: [(Self, &'static str, u64); 4] = [
        (Self::Second, "second", 1),
        (Self::Minute, "minute", 60),
        (Self::Hour, "hour", 3600),
        (Self::Day, "day", 86400),
    ];

    /// Returns the name, and the length in seconds.
    pub fn describe(self) -> (&'static str, u64) {
        let found = Self::ALL.iter().find(|(unit, _, _)| *unit == self);
        found.map_or(("second", 1), |(_, name, seconds)| (name, *seconds))
    }
}

/// Rate with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Events per unit.
    pub count: u32,
    /// Unit.
    pub unit: RateUnit,
    /// Events accepted at once before the rate applies.
    pub burst: u32,
}

/// `[log] denied`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// NFLOG group.
    pub group: u16,
    /// Limit on messages for each reason.
    pub rate: Rate,
    /// Prefix of each message.
    pub prefix: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            group: 5,
            rate: Rate {
                count: 10,
                unit: RateUnit::Second,
                burst: 5,
            },
            prefix: "peerwall".to_owned(),
        }
    }
}

/// Entry of `[[expect]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// Place of the verdict.
    pub place: Place,
    /// Hook.
    pub hook: Hook,
    /// Sources; each of them must get the verdict.
    pub from: Vec<IpNet>,
    /// Destination. In the forward hook, `None` stands for a published port of this host.
    pub to: Option<IpNet>,
    /// Incoming interface.
    pub interface: String,
    /// Destination port or protocol; `None` for the default, TCP and UDP port 9.
    pub port: Option<PortSpec>,
    /// Required verdict. [`Verdict::Drop`] stands for dropped or rejected.
    pub verdict: Verdict,
    /// Overlays of `from` whose pods are not known yet.
    pub awaits: Vec<String>,
}

/// Kind of network on an interface of pods or guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Only pods or guests.
    Pods,
    /// Other nodes, through a tunnel.
    Tunnel,
    /// Pods and possibly peers: the overlay has no tunnel, and the routes to peers are unknown.
    Route,
}

impl Policy {
    /// Returns the interfaces on which peers' addresses may be spoofed, with their kinds. LANs
    /// through which peers are reached are excluded.
    pub fn sides(&self) -> BTreeMap<InterfacePattern, Side> {
        let mut sides = BTreeMap::new();
        for overlay in &self.overlays {
            for pattern in &overlay.interfaces {
                if overlay.lan_side.contains(pattern) {
                    continue;
                }
                let side = match overlay.tunnel_side.contains(pattern) {
                    true => Side::Tunnel,
                    false if overlay.backend.is_tunnelled() => Side::Pods,
                    false => Side::Route,
                };
                let known = sides.entry(pattern.clone()).or_insert(side);
                *known = side.min(*known);
            }
        }
        sides.extend(
            self.guests
                .iter()
                .map(|pattern| (pattern.clone(), Side::Pods)),
        );
        sides
    }

    /// Returns the number of peers: names, and addresses without a name.
    pub fn peer_count(&self) -> usize {
        let count = |peer: &Peer| match peer.name {
            Some(_) => 1,
            None => peer.addresses.len(),
        };
        self.peers.iter().map(count).sum()
    }

    /// Whether it depends on the neighbours of the host, and not only on interfaces and routes.
    pub fn depends_on_neighbours(&self) -> bool {
        self.overlays.iter().any(|overlay| overlay.unmasqueraded)
    }

    /// Returns the addresses of all peers in canonical form, with the peers' names.
    pub fn peer_addresses(&self) -> AddrSet {
        let addresses = self.peers.iter().flat_map(|peer| {
            let name = peer.name.as_deref();
            peer.addresses
                .iter()
                .map(move |address| (address.net, name))
        });
        addresses.collect()
    }

    /// Finds a group by its name.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }
}

/// Converts addresses to canonical form.
pub fn address_set(addresses: &[Address]) -> AddrSet {
    addresses
        .iter()
        .map(|address| (address.net, None))
        .collect()
}
