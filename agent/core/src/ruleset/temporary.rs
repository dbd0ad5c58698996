//! Sets of the peers that were added by hand.
//!
//! A temporary peer is an element with a timeout in a small set of its own, so that the sets of the
//! policy's peers, which can be very large, keep their structure, and a host without temporary
//! peers has no rule for them. The element's comment contains the end of its time: another end is
//! another element.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serializer;

use super::{Element, Elements, KeyType, Ruleset, Set};
use crate::net;
use crate::net::addr::{Family, number};
use crate::policy::{self, TemporaryPeer};
use crate::sources::{Limits, Refused};

/// Returns the name of the set of a family.
pub fn set_name(family: Family) -> String {
    format!("temporary{}", family.digit())
}

/// Serializes sets without the elements that may end by themselves: the kernel counts their time
/// down, and a stored ruleset may be loaded when it is over.
pub(super) fn without<S: Serializer>(
    sets: &BTreeMap<String, Set>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let kept = sets.iter().map(|(name, set)| match set.timed {
        false => (name, Cow::Borrowed(set)),
        true => (
            name,
            Cow::Owned(Set {
                elements: Elements::default(),
                ..*set
            }),
        ),
    });
    serializer.collect_map(kept)
}

/// Checks whether a temporary peer can have this address, with the pods and services of a compiled
/// policy. The same limits hold for members of sources.
///
/// # Errors
/// [`Refused`] with the reason.
pub fn check(ruleset: &Ruleset, address: IpAddr) -> Result<(), Refused> {
    let limits = Limits {
        within: vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
        ..Limits::default()
    };
    limits.check(address)?;
    let key = KeyType::address(Family::of(address));
    let of_cluster = ruleset.sets.iter().filter(|(name, set)| {
        let is_overlay = name.starts_with("overlay-") && !name.ends_with("-mac");
        set.key == key && (is_overlay || name.starts_with("services-ip"))
    });
    let mut of_cluster = of_cluster.map(|(_, set)| set);
    match of_cluster.any(|set| set.contains(number(address))) {
        true => Err(Refused::ClusterNetwork),
        false => Ok(()),
    }
}

/// Whether a temporary peer can have this name: the rules for the names of peers hold.
pub fn is_name(name: &str) -> bool {
    policy::is_name(name) && !["host", "any"].contains(&name)
}

/// Returns the addresses of the temporary peers in a ruleset.
pub fn addresses(ruleset: &Ruleset) -> impl Iterator<Item = IpAddr> {
    Family::BOTH.into_iter().flat_map(|family| {
        let set = ruleset.sets.get(&set_name(family));
        let elements = set.into_iter().flat_map(|set| &set.elements);
        elements.map(move |element| net::addr::address(family, element.first))
    })
}

/// Whether a ruleset was compiled with rules for temporary peers.
pub fn is_declared(ruleset: &Ruleset) -> bool {
    let mut names = Family::BOTH.map(set_name).into_iter();
    names.all(|name| ruleset.sets.contains_key(&name))
}

/// Adds the sets of both families to a ruleset.
pub(super) fn declare(ruleset: &mut Ruleset, peers: &[TemporaryPeer]) {
    for family in Family::BOTH {
        let set = Set {
            key: KeyType::address(family),
            interval: false,
            meter: false,
            timed: true,
            elements: Elements::default(),
        };
        ruleset.sets.insert(set_name(family), set);
    }
    let _ = replace(ruleset, peers);
}

/// Replaces the temporary peers of a ruleset. Returns `false`, and changes nothing, if the ruleset
/// was compiled without any: it then lacks their rules.
#[must_use]
pub fn replace(ruleset: &mut Ruleset, peers: &[TemporaryPeer]) -> bool {
    if !is_declared(ruleset) {
        return false;
    }
    for family in Family::BOTH {
        let its = peers
            .iter()
            .filter(|peer| Family::of(peer.address) == family);
        let mut elements: Vec<Element> = its.map(element).collect();
        elements.sort_by_key(|element| element.first);
        elements.dedup_by_key(|element| element.first);
        if let Some(set) = ruleset.sets.get_mut(&set_name(family)) {
            set.elements = elements.into();
        }
    }
    let end = |peer: &TemporaryPeer| (peer.address, peer.end.as_ref().map(|end| end.uptime));
    ruleset.ends.0 = peers.iter().map(end).collect();
    true
}

fn element(peer: &TemporaryPeer) -> Element {
    let comment = match &peer.end {
        Some(end) => format!("{} until {}", peer.name, end.time),
        None => peer.name.clone(),
    };
    Element {
        comment: Some(comment.into()),
        ..Element::one(number(peer.address))
    }
}
