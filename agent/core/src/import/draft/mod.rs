//! Writes the policy from the accepted packets.

mod allows;
mod boxes;
mod by_slice;
mod forwards;
mod icmp;
mod names;
pub(super) mod prefixes;
mod published;
mod services;
mod text;
mod trusted;

use ipnet::IpNet;

use self::prefixes::usable;
use super::space::Space;
use super::space::region::Region;
use super::view::View;
use super::{At, Facts};
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;

/// Maximum number of prefixes in one list. A separate list of drops is better for more.
const PREFIXES_MAX: usize = 20_000;

/// The policy before it is formatted.
#[derive(Debug, Clone, Default)]
pub(super) struct PolicyDraft {
    peers: Vec<DraftPeer>,
    overlays: Vec<DraftOverlay>,
    groups: Vec<(String, Vec<IpNet>)>,
    allows: Vec<DraftAllow>,
    trusted: Vec<InterfacePattern>,
    /// Bridges whose containers or machines may send through this host, but not to it.
    guests: Vec<InterfacePattern>,
    ping: Option<From>,
    /// Lines that `ping` comes from.
    ping_lines: Vec<At>,
    icmp: [DraftIcmp; 2],
    reject: bool,
}

/// The lines that entries of a policy come from.
#[derive(Debug, Clone, Default)]
pub(in crate::import) struct EntryLines {
    /// Lines of each allow, in the order of the policy.
    pub allows: Vec<Box<[At]>>,
    /// Lines of `ping`.
    pub ping: Vec<At>,
}

#[derive(Debug, Clone)]
struct DraftPeer {
    name: Option<String>,
    addresses: Vec<IpNet>,
}

#[derive(Debug, Clone)]
struct DraftOverlay {
    name: String,
    backend: &'static str,
    subnets: Vec<IpNet>,
    interfaces: Vec<InterfacePattern>,
}

#[derive(Debug, Clone)]
struct DraftAllow {
    name: String,
    /// Ports; `None` for every port and protocol.
    ports: Option<Vec<String>>,
    from: From,
    /// Source ports; `None` for every one.
    from_ports: Option<Vec<String>>,
    /// Destinations; empty for this host.
    to: Vec<IpNet>,
    interfaces: Vec<InterfacePattern>,
    /// Lines that it converts.
    lines: Vec<At>,
}

/// Sources of an allow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    /// Every address of both families.
    Any,
    /// Networks. A whole family is its prefix of length 0.
    Nets(Vec<IpNet>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct DraftIcmp {
    all: bool,
    some: Vec<u8>,
}

/// A part of the rules that a policy cannot express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inexpressible {
    /// Line of the rule.
    pub at: At,
    /// Reason, and what to do.
    pub why: String,
}

/// Writes the policy for one or both families.
pub(super) fn draft(spaces: &mut [Space<'_>], facts: &Facts) -> (PolicyDraft, Vec<Inexpressible>) {
    let mut writer = PolicyWriter::new(facts, spaces.len() == 2);
    let regions: Vec<Region> = spaces.iter_mut().map(|space| space.d.open()).collect();
    let mut views: Vec<View<'_, '_>> = spaces.iter_mut().map(View::new).collect();
    for view in &mut views {
        writer.trusted(view);
        writer.overlays(view);
        writer.behind_bridges(view);
        writer.on_their_interfaces(view);
        writer.peers(view);
        writer.tunnels(view);
    }
    writer.one_role_each();
    // Allows and ICMP depend on the peers of both families.
    for view in &mut views {
        writer.allows(view);
        writer.published(view);
        writer.forwards(view);
        writer.icmp(view);
        writer.reject(view);
    }
    writer.leave_pods_out();
    for (space, region) in spaces.iter_mut().zip(regions) {
        space.d.close(region, &mut ());
    }
    writer.name_all();
    (writer.draft, writer.inexpressible)
}

struct PolicyWriter<'f> {
    facts: &'f Facts,
    draft: PolicyDraft,
    inexpressible: Vec<Inexpressible>,
    /// Whether there are rules for both families.
    both: bool,
    /// Whether a line that was read in a slice depends on other sources.
    needs_whole: bool,
    /// A hash of each allow of `draft`, of what allows that may be merged have in common.
    alike: Vec<u64>,
}

impl From {
    /// Returns the common family of all networks, if any.
    fn family(&self) -> Option<Family> {
        let nets = match self {
            Self::Any => return None,
            Self::Nets(nets) => nets,
        };
        let first = Family::of(nets.first()?.addr());
        nets.iter()
            .all(|net| Family::of(net.addr()) == first)
            .then_some(first)
    }
}

impl<'f> PolicyWriter<'f> {
    fn new(facts: &'f Facts, both: bool) -> Self {
        Self {
            facts,
            draft: PolicyDraft::default(),
            inexpressible: Vec::new(),
            both,
            needs_whole: false,
            alike: Vec::new(),
        }
    }
}

impl PolicyWriter<'_> {
    fn add_inexpressible(&mut self, at: At, why: &str) {
        let inexpressible = Inexpressible {
            at,
            why: why.to_owned(),
        };
        if !self.inexpressible.contains(&inexpressible) {
            self.inexpressible.push(inexpressible);
        }
    }

    /// Removes guests that are an overlay's interface or trusted: a policy gives one role to each.
    fn one_role_each(&mut self) {
        let draft = &mut self.draft;
        let (overlays, trusted) = (&draft.overlays, &draft.trusted);
        draft.guests.retain(|guest| {
            let mut inner = overlays.iter().flat_map(|overlay| &overlay.interfaces);
            !inner.any(|pattern| pattern == guest) && !trusted.contains(guest)
        });
    }

    /// Removes pod networks from the networks of peers, because pods are accepted only on their
    /// overlay's interfaces.
    fn leave_pods_out(&mut self) {
        let pods: Vec<IpNet> = self
            .draft
            .overlays
            .iter()
            .flat_map(|o| o.subnets.clone())
            .collect();
        for peer in &mut self.draft.peers {
            let of = |net: &IpNet| {
                let inside: Vec<IpNet> = pods
                    .iter()
                    .copied()
                    .filter(|pods| net.contains(pods))
                    .collect();
                addr::subtract(*net, &inside).into_iter().filter_map(usable)
            };
            peer.addresses = peer.addresses.iter().flat_map(of).collect();
        }
        self.draft.peers.retain(|peer| !peer.addresses.is_empty());
    }
}
