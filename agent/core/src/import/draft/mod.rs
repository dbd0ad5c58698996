//! Writes the policy from the accepted packets.

mod allows;
mod icmp;
mod literals;
mod names;
mod prefixes;
mod text;
mod trusted;

use ipnet::IpNet;

use super::grid::Grid;
use super::view::AcceptTable;
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
    ping: Option<From>,
    icmp: [DraftIcmp; 2],
    reject: bool,
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
    interfaces: Vec<InterfacePattern>,
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
pub(super) fn draft(views: &[AcceptTable<'_>], facts: &Facts) -> (PolicyDraft, Vec<Inexpressible>) {
    let mut writer = PolicyWriter {
        facts,
        draft: PolicyDraft::default(),
        inexpressible: Vec::new(),
        both: views.len() == 2,
        covered: Vec::new(),
    };
    for view in views {
        let mut covered = Covered::new(view);
        writer.trusted(view, &mut covered);
        writer.overlays(view, &mut covered);
        writer.behind_bridges(view, &mut covered);
        writer.on_their_interfaces(view, &mut covered);
        writer.peers(view, &mut covered);
        writer.tunnels(view, &mut covered);
        writer.covered.push(covered);
    }
    // Allows and ICMP depend on the peers of both families.
    let all_covered = std::mem::take(&mut writer.covered);
    for (view, covered) in views.iter().zip(&all_covered) {
        writer.allows(view, covered);
        writer.published(view, covered);
        writer.icmp(view, covered);
        writer.reject(view, covered);
    }
    writer.leave_pods_out();
    writer.name_all();
    (writer.draft, writer.inexpressible)
}

/// Interfaces and sources covered by peers, overlays and trusted interfaces.
struct Covered(Grid<bool>);

impl Covered {
    fn new(view: &AcceptTable<'_>) -> Self {
        Self(Grid::new(view.interfaces.len(), view.sources.len(), false))
    }

    fn covers(&self, interface: usize, source: usize) -> bool {
        self.0.get(interface, source) == Some(&true)
    }

    fn cover(&mut self, interface: usize, source: usize) {
        self.0.set(interface, source, true);
    }
}

struct PolicyWriter<'f> {
    facts: &'f Facts,
    draft: PolicyDraft,
    inexpressible: Vec<Inexpressible>,
    /// Whether there are rules for both families.
    both: bool,
    /// Covered cells of each view.
    covered: Vec<Covered>,
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
                addr::subtract(*net, &inside)
            };
            peer.addresses = peer.addresses.iter().flat_map(of).collect();
        }
        self.draft.peers.retain(|peer| !peer.addresses.is_empty());
    }
}

fn accepts_all(view: &AcceptTable<'_>, interface: usize, source: usize) -> bool {
    (0..view.services.len()).all(|v| view.accepts(interface, source, v).is_some())
}

fn opens_all(view: &AcceptTable<'_>, interface: usize, source: usize) -> bool {
    (0..view.services.len()).all(|v| view.opens(interface, source, v).is_some())
}
