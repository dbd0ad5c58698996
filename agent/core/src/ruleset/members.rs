//! Members of sources in a compiled ruleset.
//!
//! Members are elements of the sets of peers and of the group of their source. If only members
//! changed since a policy was compiled, [`Basis::patch`] changes these elements, and the result
//! equals what the policy compiles to. Where it is not clear that nothing else depends on the
//! members, it changes nothing, and the policy has to be compiled again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::compile::sets::{PEERS, group_set, hosts_set, used_groups};
use super::{Element, Elements, Ruleset, expect, temporary};
use crate::net::addr::{Family, number};
use crate::policy::{Expect, Facing, MemberSource, Policy};
use crate::sources::{Limits, Members};

/// Maximum number of changed members of a source. A policy is compiled again for more.
const CHANGES_MAX: usize = 256;

/// What a compiled policy has to do with the members of its sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// In the order of the policy.
    sources: Vec<Followed>,
    /// Peers of the policy itself whose addresses members can have, with their names.
    written: BTreeMap<IpAddr, Option<Arc<str>>>,
    facing: Facing,
    expects: Vec<Expect>,
    peers: usize,
}

/// A source with the members that are in the ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Followed {
    name: String,
    are_peers: bool,
    limits: Limits,
    /// Whether rules use the group of this source.
    is_used: bool,
    /// Addresses with the names of their nodes; without names unless they are peers.
    members: BTreeMap<IpAddr, Arc<str>>,
    /// Number of addresses of each node, if they are peers.
    nodes: BTreeMap<Arc<str>, usize>,
}

/// Result of [`Basis::patch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patched {
    /// No member changed.
    Same,
    /// The ruleset has the current members.
    Changed,
    /// More than elements could change: the policy has to be compiled again.
    Impossible,
}

/// A member that joined, left or changed its name.
struct Moved {
    address: IpAddr,
    before: Option<Arc<str>>,
    now: Option<Arc<str>>,
}

/// A change that is not made yet.
struct Draft {
    sets: Vec<(String, Elements)>,
    counts: Vec<usize>,
    peers: usize,
}

impl Basis {
    /// Returns the basis of a policy, with the members that it was loaded with; `None` if its
    /// ruleset depends on members in other ways than by addresses: if it names single members or
    /// tests them, or knows peers by their Ethernet addresses.
    pub fn of(policy: &Policy) -> Option<Self> {
        let is_named = policy.sources.iter().any(|source| source.is_named);
        if policy.sources.is_empty() || is_named || policy.depends_on_neighbours() {
            return None;
        }
        let used = used_groups(policy);
        let sources = policy.sources.iter();
        Some(Self {
            sources: sources
                .map(|source| followed(policy, source, used.contains(&source.name)))
                .collect(),
            written: written(policy),
            facing: policy.facing.clone(),
            expects: policy.expects.clone(),
            peers: policy.peer_count(),
        })
    }

    /// Shares the names of nodes with the members of sources, so that later comparisons take no
    /// time.
    pub fn share_names<'m>(&mut self, members: impl Fn(&str) -> Option<&'m Members>) {
        let peers = self.sources.iter_mut().filter(|source| source.are_peers);
        for source in peers {
            let now = members(&source.name);
            for (address, name) in now.into_iter().flat_map(Members::shared) {
                if let Some(same) = source.members.get_mut(&address).filter(|own| *own == name) {
                    *same = Arc::clone(name);
                }
            }
        }
    }

    /// Returns the number of peers, as [`Policy::peer_count`].
    pub fn peer_count(&self) -> usize {
        self.peers
    }

    /// Replaces the members in the ruleset that the policy was compiled to. `members` returns the
    /// current members of a source by its name.
    ///
    /// The policy has to be compiled again if
    ///
    /// - the limits of a source are not those of the policy, or very many members changed,
    /// - a set gets its first element or loses its last one, since the rules depend on that,
    /// - peers are reached through other interfaces than before, or
    /// - an expectation is not met.
    #[must_use]
    pub fn patch<'m>(
        &mut self,
        ruleset: &mut Ruleset,
        members: impl Fn(&str) -> Option<&'m Members>,
    ) -> Patched {
        let sources = self.sources.iter();
        let now: Option<Vec<&Members>> = sources.map(|source| members(&source.name)).collect();
        let Some(now) = now else {
            return Patched::Impossible;
        };
        let pairs = self.sources.iter().zip(&now);
        let moved: Option<Vec<_>> = pairs.map(|(source, now)| source.moved(now)).collect();
        let Some(moved) = moved else {
            return Patched::Impossible;
        };
        if moved.iter().all(Vec::is_empty) {
            return Patched::Same;
        }
        let Some(draft) = self.draft(ruleset, &now, &moved) else {
            return Patched::Impossible;
        };
        put(ruleset, draft.sets);
        self.facing.take(draft.counts);
        self.peers = draft.peers;
        for (source, moved) in self.sources.iter_mut().zip(moved) {
            source.take(moved);
        }
        Patched::Changed
    }

    /// Drafts the change of all sets; `None` if more than elements could change.
    fn draft(&self, ruleset: &Ruleset, now: &[&Members], moved: &[Vec<Moved>]) -> Option<Draft> {
        let mut sets = Vec::new();
        let mut peers = BTreeSet::new();
        let (mut more, mut fewer) = (0, 0);
        for (source, moved) in self.sources.iter().zip(moved) {
            if source.is_used {
                let element = |moved: &Moved| moved.now.as_ref().map(|_| of(moved.address, None));
                let changes = moved.iter().map(|moved| (moved.address, element(moved)));
                sets.extend(changed(
                    ruleset,
                    &group_set(&source.name),
                    changes.collect(),
                )?);
            }
            if source.are_peers {
                peers.extend(moved.iter().map(|moved| moved.address));
                let nodes = source.nodes_after(moved);
                let was = |name: &str| source.nodes.contains_key(name);
                more += nodes
                    .iter()
                    .filter(|(name, count)| **count > 0 && !was(name))
                    .count();
                fewer += nodes
                    .iter()
                    .filter(|(name, count)| **count == 0 && was(name))
                    .count();
            }
        }
        let changes = peers.into_iter().map(|address| {
            let name = self.peer(now, address);
            (address, name.map(|name| of(address, name)))
        });
        sets.extend(changed(ruleset, PEERS, changes.collect())?);
        let of_peers = || {
            let sources = self.sources.iter().zip(moved);
            let sources = sources.filter(|(source, _)| source.are_peers);
            sources.flat_map(|(_, moved)| moved)
        };
        let joined = of_peers().filter(|moved| moved.before.is_none());
        let left = of_peers().filter(|moved| moved.now.is_none());
        let counts = self.facing.after(
            joined.map(|moved| moved.address.into()),
            left.map(|moved| moved.address.into()),
        )?;
        self.meets(ruleset, &sets).then_some(Draft {
            sets,
            counts,
            peers: (self.peers + more).checked_sub(fewer)?,
        })
    }

    /// Returns the name of the peer with this address, which it may lack; `None` if there is none.
    fn peer(&self, now: &[&Members], address: IpAddr) -> Option<Option<Arc<str>>> {
        let written = self.written.get(&address);
        if let Some(Some(name)) = written {
            return Some(Some(name.clone()));
        }
        let mut sources = self.sources.iter().zip(now);
        let member = sources.find_map(|(source, now)| {
            let node = now.name(address).filter(|_| source.are_peers)?;
            Some(format!("{}/{node}", source.name).into())
        });
        member.map(Some).or(written.cloned())
    }

    /// Whether the ruleset with these sets meets the expectations, which do not count temporary
    /// peers.
    fn meets(&self, ruleset: &Ruleset, sets: &[(String, Elements)]) -> bool {
        if self.expects.is_empty() {
            return true;
        }
        let mut ruleset = ruleset.clone();
        put(&mut ruleset, sets.to_vec());
        let _ = temporary::replace(&mut ruleset, &[]);
        expect::are_met(&self.expects, &ruleset)
    }
}

impl Followed {
    /// Returns the members that changed, ascending; `None` if there are too many, or if other
    /// limits hold.
    fn moved(&self, now: &Members) -> Option<Vec<Moved>> {
        if *now.limits() != self.limits || now.len() > self.limits.max {
            return None;
        }
        let mut found = Vec::new();
        let mut old = self.members.iter().peekable();
        let mut new = now.shared().peekable();
        loop {
            let next = match (old.peek(), new.peek()) {
                (None, None) => return Some(found),
                (Some((address, _)), None) => **address,
                (None, Some((address, _))) => *address,
                (Some((one, _)), Some((other, _))) => **one.min(&other),
            };
            let before = old.next_if(|(address, _)| **address == next);
            let before = before.map(|(_, name)| name);
            let now = new.next_if(|(address, _)| *address == next);
            let now = now.map(|(_, name)| name);
            let is_same = match (before, now) {
                // This compares pointers first.
                (Some(before), Some(now)) => !self.are_peers || before == now,
                (Some(_), None) | (None, Some(_)) | (None, None) => false,
            };
            if is_same {
                continue;
            }
            let is_possible = now.is_none() || self.limits.check(next).is_ok();
            if !is_possible || found.len() >= CHANGES_MAX {
                return None;
            }
            found.push(Moved {
                address: next,
                before: before.cloned(),
                now: now.cloned(),
            });
        }
    }

    /// Returns the number of addresses of each node that gets or loses any.
    fn nodes_after<'n>(&self, moved: &'n [Moved]) -> BTreeMap<&'n Arc<str>, usize> {
        let names = moved.iter().flat_map(|moved| [&moved.before, &moved.now]);
        let before = |name| (name, self.nodes.get(name).copied().unwrap_or_default());
        let mut nodes: BTreeMap<&Arc<str>, usize> = names.flatten().map(before).collect();
        // What joins is counted first, so that no number is negative in between.
        for name in moved.iter().filter_map(|moved| moved.now.as_ref()) {
            nodes.entry(name).and_modify(|count| *count += 1);
        }
        for name in moved.iter().filter_map(|moved| moved.before.as_ref()) {
            let count = nodes.entry(name);
            count.and_modify(|count| *count = count.saturating_sub(1));
        }
        nodes
    }

    fn take(&mut self, moved: Vec<Moved>) {
        if self.are_peers {
            for (name, count) in self.nodes_after(&moved) {
                match count {
                    0 => self.nodes.remove(name),
                    _ => self.nodes.insert(Arc::clone(name), count),
                };
            }
        }
        for Moved { address, now, .. } in moved {
            match now {
                Some(_) if !self.are_peers => self.members.insert(address, Arc::default()),
                Some(name) => self.members.insert(address, name),
                None => self.members.remove(&address),
            };
        }
    }
}

/// Returns a source with the members that a policy has.
fn followed(policy: &Policy, source: &MemberSource, is_used: bool) -> Followed {
    let of_node = |name: &str| -> Option<Arc<str>> {
        let node = name.strip_prefix(source.name.as_str())?.strip_prefix('/')?;
        Some(node.into())
    };
    let members: BTreeMap<IpAddr, Arc<str>> = match source.are_peers {
        true => {
            let peers = policy.peers.iter().filter(|peer| peer.is_member);
            let nodes = peers.filter_map(|peer| Some((of_node(peer.name.as_deref()?)?, peer)));
            let addresses = nodes.flat_map(|(node, peer)| {
                let addresses = peer.addresses.iter();
                addresses.map(move |address| (address.net.addr(), Arc::clone(&node)))
            });
            addresses.collect()
        }
        false => {
            let none: Arc<str> = Arc::from("");
            let group = policy.group(&source.name).into_iter();
            let addresses = group.flat_map(|group| &group.addresses);
            addresses
                .map(|address| (address.net.addr(), Arc::clone(&none)))
                .collect()
        }
    };
    let mut nodes = BTreeMap::new();
    for name in members.values().filter(|_| source.are_peers) {
        *nodes.entry(Arc::clone(name)).or_default() += 1;
    }
    Followed {
        name: source.name.clone(),
        are_peers: source.are_peers,
        limits: source.limits.clone(),
        is_used,
        members,
        nodes,
    }
}

/// Returns the peers of the policy itself whose addresses members can have. Of several names of an
/// address, the first one counts.
fn written(policy: &Policy) -> BTreeMap<IpAddr, Option<Arc<str>>> {
    let mut found: BTreeMap<IpAddr, Option<Arc<str>>> = BTreeMap::new();
    let sources = policy.sources.iter().filter(|source| source.are_peers);
    let sources: Vec<&MemberSource> = sources.collect();
    for peer in policy.peers.iter().filter(|peer| !peer.is_member) {
        let nets = peer.addresses.iter().map(|address| address.net);
        for address in nets.filter(|net| net.prefix_len() == net.max_prefix_len()) {
            let address = address.addr();
            let mut sources = sources.iter();
            if sources.any(|source| source.limits.check(address).is_ok()) {
                let name = found.entry(address).or_default();
                *name = name.take().or(peer.name.as_deref().map(Arc::from));
            }
        }
    }
    found
}

fn of(address: IpAddr, comment: Option<Arc<str>>) -> Element {
    Element {
        comment,
        ..Element::one(number(address))
    }
}

/// Returns the sets of hosts of one list after its elements changed, where `None` deletes one;
/// `None` if a set has to be added or deleted, since rules have to be then, too.
fn changed(
    ruleset: &Ruleset,
    name: &str,
    changes: BTreeMap<IpAddr, Option<Element>>,
) -> Option<Vec<(String, Elements)>> {
    let mut sets = Vec::new();
    for family in Family::BOTH {
        let changes = changes.iter().filter(|(at, _)| Family::of(**at) == family);
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            continue;
        }
        let name = hosts_set(name, family);
        let mut rest: &[Element] = &ruleset.sets.get(&name)?.elements;
        let mut elements = Vec::with_capacity(rest.len() + changes.size_hint().0);
        for (address, element) in changes {
            let at = rest.partition_point(|element| element.first < number(*address));
            let (before, after) = rest.split_at_checked(at)?;
            elements.extend_from_slice(before);
            elements.extend(element.clone());
            rest = match after {
                [first, after @ ..] if first.first == number(*address) => after,
                after => after,
            };
        }
        elements.extend_from_slice(rest);
        if elements.is_empty() {
            return None;
        }
        sets.push((name, elements.into()));
    }
    Some(sets)
}

fn put(ruleset: &mut Ruleset, sets: Vec<(String, Elements)>) {
    for (name, elements) in sets {
        if let Some(set) = ruleset.sets.get_mut(&name) {
            set.elements = elements;
        }
    }
}
