//! Sets of addresses in canonical form.
//!
//! A list of addresses becomes single hosts (for hash sets) and disjoint prefixes (for interval
//! sets). The kernel refuses overlapping intervals and cannot delete a contained one.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Family, bounds, number};

/// Consecutive addresses of one family, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub first: u128,
    /// Last address.
    pub last: u128,
    /// Name of the owner.
    pub name: Option<Arc<str>>,
}

/// Addresses of one family in canonical form: hosts and disjoint prefixes, both ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FamilySet {
    /// Single addresses.
    pub hosts: Vec<Span>,
    /// Prefixes of more than one address.
    pub nets: Vec<Span>,
}

/// Addresses of both families in canonical form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddrSet {
    /// IPv4.
    pub v4: FamilySet,
    /// IPv6.
    pub v6: FamilySet,
}

impl AddrSet {
    /// Returns the part of one family.
    pub fn family(&self, family: Family) -> &FamilySet {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Returns whether the set contains this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family(Family::of(address)).contains(number(address))
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        Family::BOTH.iter().all(|f| {
            let set = self.family(*f);
            set.hosts.is_empty() && set.nets.is_empty()
        })
    }
}

/// Collects prefixes with their owners. Of equal prefixes, the first owner counts; a prefix within
/// another one is omitted.
impl<'n> FromIterator<(IpNet, Option<&'n str>)> for AddrSet {
    fn from_iter<I: IntoIterator<Item = (IpNet, Option<&'n str>)>>(prefixes: I) -> Self {
        let mut set = Self::default();
        for (net, name) in prefixes {
            let part = match net {
                IpNet::V4(_) => &mut set.v4,
                IpNet::V6(_) => &mut set.v6,
            };
            let (first, last) = bounds(net);
            let span = Span {
                first,
                last,
                name: name.map(Arc::from),
            };
            match first == last {
                true => part.hosts.push(span),
                false => part.nets.push(span),
            }
        }
        for part in [&mut set.v4, &mut set.v6] {
            canonical(&mut part.hosts);
            canonical(&mut part.nets);
        }
        set
    }
}

/// Sorts spans that are nested or disjoint, and removes nested ones.
fn canonical(spans: &mut Vec<Span>) {
    // Spans with the same start: the largest first; equal ones in their order.
    spans.sort_by_key(|span| (span.first, u128::MAX - span.last));
    spans.dedup_by(|next, kept| {
        if (next.first, next.last) == (kept.first, kept.last) && kept.name.is_none() {
            kept.name = next.name.take();
        }
        next.last <= kept.last
    });
}

impl FamilySet {
    fn contains(&self, number: u128) -> bool {
        [&self.hosts, &self.nets].iter().any(|spans| {
            let after = spans.partition_point(|span| span.first <= number);
            spans[..after]
                .last()
                .is_some_and(|span| span.last >= number)
        })
    }
}
