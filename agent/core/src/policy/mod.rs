//! The policy: who may do what. Everything that exists as a [`Policy`] means something.
//!
//! [`load`](load::load) makes one from files; [`Policy::verdict`] says what it means for a packet.
//! The reference for users is `docs/policy.md`.

pub mod flannel;
pub mod host_check;
pub mod icmp;
pub mod load;
mod on_link;
mod overlay;
pub mod reason;
pub mod suspicious;
mod verdict;

pub use overlay::{Discovery, Found, Overlay, OverlayBackend, Tunnel};

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::diagnostic::Place;
use crate::net::addr::AddrSet;
use crate::net::interface::InterfacePattern;
use crate::net::packet::{Hook, Verdict};
use crate::net::port::PortSpec;

/// A policy that parsed and makes sense.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Machines that may reach this host and go through it.
    pub peers: Vec<Peer>,
    /// Named addresses for use in `from`.
    pub groups: Vec<Group>,
    /// Pod networks.
    pub overlays: Vec<Overlay>,
    /// What is open to more than the peers, in the order of the file.
    pub allows: Vec<Allow>,
    /// Interfaces from which everything is accepted.
    pub trusted: Vec<InterfacePattern>,
    /// Interfaces of networks that may go through this host, but not to it, to peers or to pods.
    pub guests: Vec<InterfacePattern>,
    /// Bridges; frames that only cross one of them are not judged.
    pub bridged: Vec<InterfacePattern>,
    /// Bridges of this host, between a LAN and machines beside this one; frames that only cross one of them go
    /// on, except to peers and pods.
    pub switches: Vec<InterfacePattern>,
    /// Addresses of cluster services that this host has on an interface (kube-proxy's IPVS mode); they are
    /// not the host's own.
    pub services: Vec<IpNet>,
    /// `[icmp]`
    pub icmp: Icmp,
    /// `[options]`
    pub options: Options,
    /// `[log] denied`; `None` for `false`.
    pub log: Option<Log>,
    /// Tests of this policy.
    pub expects: Vec<Expect>,
}

/// An address with where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host or prefix.
    pub net: IpNet,
    /// Where it stands.
    pub place: Place,
}

/// One entry of `[peers]`, or all of a peers file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name; what is in a file has none.
    pub name: Option<String>,
    /// Its addresses, at least one.
    pub addresses: Vec<Address>,
}

/// One entry of `[groups]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// Its addresses, at least one.
    pub addresses: Vec<Address>,
}

/// Who an `[[allow]]` is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Everybody.
    Any,
    /// The group of this name.
    Group(String),
    /// These addresses.
    Net(IpNet),
    /// A peer; it may do everything anyway.
    Peer(String),
    /// An overlay; it may do everything anyway.
    Overlay(String),
}

/// What an `[[allow]]` opens: the address that was dialled, before any DNAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// This host's own addresses.
    Host,
    /// These addresses.
    Net(IpNet),
    /// The addresses of the group of this name.
    Group(String),
    /// The pods of the overlay of this name.
    Overlay(String),
}

/// One `[[allow]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// Its name.
    pub name: String,
    /// Where its name is written.
    pub place: Place,
    /// What may be reached; `None` for every port and protocol.
    pub ports: Option<Vec<PortSpec>>,
    /// From these source ports; `None` for any.
    pub from_ports: Option<Vec<PortSpec>>,
    /// By whom, at least one.
    pub from: Vec<Source>,
    /// At which addresses, at least one.
    pub to: Vec<Target>,
    /// New connections of each source address.
    pub limit: Option<Rate>,
    /// Arriving by one of these; empty for any.
    pub interfaces: Vec<InterfacePattern>,
}

/// `[icmp]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Icmp {
    /// Whether the safe core is on.
    pub core: bool,
    /// ICMP types to accept besides the core.
    pub v4: IcmpTypes,
    /// ICMPv6 types to accept besides the core.
    pub v6: IcmpTypes,
    /// Who may ping this host besides peers and overlays.
    pub ping: Vec<Source>,
    /// Where `[icmp]` is written, if it is.
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

/// ICMP types to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IcmpTypes {
    /// All of them.
    All,
    /// These, in ascending order.
    Some(Vec<u8>),
}

/// What happens to what is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Denied {
    /// Nothing comes back.
    #[default]
    Drop,
    /// The sender is told (TCP reset, else ICMP admin-prohibited).
    Reject,
}

/// Which backend is asked for, by `[options] backend` or the command line.
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
    /// Every choice, by its name.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("nft", Self::Nft),
        ("iptables", Self::Iptables),
    ];
}

/// `[options]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The backend to use, unless the command line names one.
    pub backend: BackendChoice,
    /// Priority of the base chains.
    pub hook_priority: i32,
    /// What happens to what is not allowed.
    pub denied: Denied,
    /// Whether open connections that a new policy refuses end with it.
    pub cut_revoked: bool,
    /// Whether conntrack-invalid packets, except from peers and overlays, are dropped. If not,
    /// they are judged as any other packet.
    pub drop_invalid: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: BackendChoice::Auto,
            hook_priority: -10,
            denied: Denied::Drop,
            cut_revoked: true,
            drop_invalid: true,
        }
    }
}

/// Units of a log rate.
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
    /// Every unit with its name.
    pub const ALL: [(Self, &'static str, u64); 4] = [
        (Self::Second, "second", 1),
        (Self::Minute, "minute", 60),
        (Self::Hour, "hour", 3600),
        (Self::Day, "day", 86400),
    ];

    /// Its name and its length in seconds.
    pub fn describe(self) -> (&'static str, u64) {
        let found = Self::ALL.iter().find(|(unit, _, _)| *unit == self);
        found.map_or(("second", 1), |(_, name, seconds)| (name, *seconds))
    }
}

/// Rate per unit, and burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// How many per unit.
    pub count: u32,
    /// The unit.
    pub unit: RateUnit,
    /// How many at once before the rate counts.
    pub burst: u32,
}

/// `[log] denied`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// NFLOG group.
    pub group: u16,
    /// Maximum rate of messages per reason.
    pub rate: Rate,
    /// What each message starts with.
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

/// One `[[expect]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// Where its verdict is written.
    pub place: Place,
    /// At which hook.
    pub hook: Hook,
    /// From where: each of these must meet the verdict.
    pub from: Vec<IpNet>,
    /// To where. In the forward hook: absent means that a published port of this host was dialled.
    pub to: Option<IpNet>,
    /// Arriving by this interface.
    pub interface: String,
    /// To this port; `None` for a protocol without one.
    pub port: Option<PortSpec>,
    /// What must become of it: accepted, or not (dropped or rejected).
    pub verdict: Verdict,
    /// Overlays of `from` whose pods are not known yet.
    pub awaits: Vec<String>,
}

/// What is behind an interface of pods or guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Pods or guests: nobody else can send there.
    Pods,
    /// Other nodes, through a tunnel.
    Tunnel,
    /// Pods, and perhaps peers: there is no tunnel, and which way peers are is not known here.
    Route,
}

impl Policy {
    /// The interfaces where packets are not to be believed a peer's address, or not all of them, with what is
    /// behind them. A LAN by which peers are reached is none.
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

    /// How many peers there are: names, and addresses without a name.
    pub fn peer_count(&self) -> usize {
        let count = |peer: &Peer| match peer.name {
            Some(_) => 1,
            None => peer.addresses.len(),
        };
        self.peers.iter().map(count).sum()
    }

    /// All addresses of all peers, in canonical form, with the peers' names.
    pub fn peer_addresses(&self) -> AddrSet {
        let addresses = self.peers.iter().flat_map(|peer| {
            let name = peer.name.as_deref();
            peer.addresses
                .iter()
                .map(move |address| (address.net, name))
        });
        addresses.collect()
    }

    /// The group of this name.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }
}

/// Addresses in canonical form.
pub fn address_set(addresses: &[Address]) -> AddrSet {
    addresses
        .iter()
        .map(|address| (address.net, None))
        .collect()
}
