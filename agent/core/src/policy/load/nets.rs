//! Sorted networks that find overlaps without comparing every pair.

use ipnet::IpNet;

use crate::policy::Overlay;

/// Index of an overlay, and of a subnet in it.
pub(super) type Which = (usize, usize);

/// Networks, sorted so that each follows those that contain it.
pub(super) struct Nets(Vec<(IpNet, Which)>);

impl Nets {
    /// Collects the subnets of overlays.
    pub(super) fn of_overlays(overlays: &[Overlay]) -> Self {
        let all = overlays.iter().enumerate().flat_map(|(at, overlay)| {
            let subnets = overlay.subnets.iter().enumerate();
            subnets.map(move |(index, subnet)| (subnet.net, (at, index)))
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(net, which)| (net.network(), net.prefix_len(), *which));
        Self(all)
    }

    /// Finds the first network inside `net` that is smaller.
    pub(super) fn inside(&self, net: IpNet) -> Option<Which> {
        let from = self.0.partition_point(|(other, _)| {
            (other.network(), other.prefix_len()) <= (net.network(), net.prefix_len())
        });
        let (other, which) = self.0.get(from)?;
        net.contains(other).then_some(*which)
    }

    /// Finds a network that contains `net`. If no networks overlap, it is the nearest one before
    /// `net`.
    pub(super) fn around(&self, net: IpNet) -> Option<Which> {
        let end = self
            .0
            .partition_point(|(other, _)| other.network() <= net.network());
        let (other, which) = self.0[..end].last()?;
        other.contains(&net).then_some(*which)
    }

    /// Returns pairs of a network and one that contains it.
    pub(super) fn overlaps(&self) -> Vec<(Which, Which)> {
        let mut found = Vec::new();
        let mut outer: Option<(IpNet, Which)> = None;
        for (net, which) in &self.0 {
            match outer {
                Some((wide, of)) if wide.contains(net) => found.push((of, *which)),
                _ => outer = Some((*net, *which)),
            }
        }
        found
    }
}
