//! Interfaces through which peers are reached.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::net::addr::{self, Family};
use crate::net::host::{Host, RT_TABLE_MAIN};

/// Interfaces of the routes to peers, with the number of addresses behind each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facing {
    /// Routes of the `main` table by prefix length, for fast lookups of many peers: the positions
    /// of their interfaces.
    routes: BTreeMap<(u8, Family), BTreeMap<u128, usize>>,
    interfaces: Vec<String>,
    /// Number of peers' addresses behind each interface.
    counts: Counts,
}

/// Numbers of addresses behind the interfaces of [`Facing`].
pub(crate) type Counts = Vec<usize>;

impl Facing {
    /// Finds the interfaces of the routes to peers.
    pub(crate) fn new(host: &Host, peers: impl Iterator<Item = IpNet>) -> Self {
        let mut facing = Self::default();
        let mut positions = BTreeMap::new();
        for route in host
            .routes
            .iter()
            .filter(|route| route.table == RT_TABLE_MAIN)
        {
            let position = *positions.entry(&route.interface).or_insert_with(|| {
                facing.interfaces.push(route.interface.clone());
                facing.interfaces.len() - 1
            });
            let net = route.destination;
            let key = (net.prefix_len(), Family::of(net.addr()));
            let routes = facing.routes.entry(key).or_default();
            routes
                .entry(addr::number(net.network()))
                .or_insert(position);
        }
        facing.counts = vec![0; facing.interfaces.len()];
        for position in peers
            .filter_map(|net| facing.position(net))
            .collect::<Vec<_>>()
        {
            if let Some(count) = facing.counts.get_mut(position) {
                *count += 1;
            }
        }
        facing
    }

    /// Returns the names of the interfaces.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let interfaces = self.interfaces.iter().zip(&self.counts);
        let facing = interfaces.filter(|(_, count)| **count > 0);
        facing.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the counts after peers joined and left; `None` if that makes other interfaces.
    pub(crate) fn after(
        &self,
        joined: impl Iterator<Item = IpNet>,
        left: impl Iterator<Item = IpNet>,
    ) -> Option<Counts> {
        let mut counts = self.counts.clone();
        for position in joined.filter_map(|net| self.position(net)) {
            *counts.get_mut(position)? += 1;
        }
        for position in left.filter_map(|net| self.position(net)) {
            let count = counts.get_mut(position)?;
            *count = count.checked_sub(1)?;
        }
        let mut both = counts.iter().zip(&self.counts);
        both.all(|(new, old)| (*new > 0) == (*old > 0))
            .then_some(counts)
    }

    /// Takes the result of [`after`](Self::after).
    pub(crate) fn take(&mut self, counts: Counts) {
        self.counts = counts;
    }

    /// Returns the position of the interface of the most specific route to a network.
    fn position(&self, net: IpNet) -> Option<usize> {
        let family = Family::of(net.addr());
        let of_family = self
            .routes
            .iter()
            .rev()
            .filter(|((_, of), _)| *of == family);
        of_family.into_iter().find_map(|((len, _), routes)| {
            let start = IpNet::new(net.addr(), *len).ok()?.network();
            routes.get(&addr::number(start)).copied()
        })
    }
}
