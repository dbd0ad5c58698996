//! Lines that accept.

use std::collections::BTreeSet;

use super::finding::{Finding, NO_ENTRY, ONLY_ENTRIES, obstacle};
use crate::import::draft::Inexpressible;
use crate::import::proof::{self, LinePackets};
use crate::import::rule::{ImportedRule, Interval, Test};
use crate::net::addr::{self, Family};
use crate::policy::Policy;
use crate::policy::reason::Reason;

/// Judges a line that accepts. `why_not` explains why a policy does not accept all its packets.
pub(super) fn accepting(
    names: (&Policy, &PeerIndex<'_>),
    packets: &LinePackets,
    is_icmp: bool,
    is_for_some: bool,
    why_not: impl Fn() -> String,
) -> Finding<'static> {
    let entries = entries(names, packets, is_icmp, is_for_some);
    // Spoofed and invalid packets are no loss.
    let lost = packets.closed.iter().any(|reason| {
        !matches!(
            reason,
            Reason::OverlaySpoof | Reason::OverlayInject | Reason::Invalid
        )
    });
    let core = packets.kept.iter().all(is_core);
    let icmp = is_icmp
        && packets
            .kept
            .iter()
            .all(|r| is_core(r) || *r == Reason::Ping);
    match (packets.kept.is_empty(), lost) {
        (true, false) if packets.closed.is_empty() && !packets.foreign => match packets.is_behind {
            true => Finding::NeverReached,
            false => Finding::MatchesNone,
        },
        (true, false) if packets.closed.contains(&Reason::Invalid) && packets.closed.len() == 1 => {
            Finding::Replies
        }
        (true, _) => Finding::NotConverted(why_not()),
        (false, true) if icmp => Finding::IcmpCovered(entries),
        (false, true) => Finding::PartlyConverted(entries, why_not()),
        (false, false) if core => Finding::Covered(entries),
        (false, false) => Finding::Converted(entries),
    }
}

pub(super) fn is_core(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Established | Reason::Loopback | Reason::Icmp | Reason::Dhcp
    )
}

/// Names the policy's entries that accept a line's packets.
fn entries(
    (policy, peers): (&Policy, &PeerIndex<'_>),
    packets: &LinePackets,
    is_icmp: bool,
    is_for_some: bool,
) -> String {
    let mut names: BTreeSet<String> = BTreeSet::new();
    // Replies, the safe core, peers and pods are accepted along with nearly every line, so they are
    // named only where nothing else is.
    let rank = |reason: &Reason| match reason {
        Reason::Established => 0,
        Reason::Icmp if is_icmp => 3,
        Reason::Icmp | Reason::Dhcp | Reason::Loopback => 1,
        Reason::Peers | Reason::Overlay(_) => 2,
        Reason::Allow(_) | Reason::Ping | Reason::Trusted | Reason::Bridged | Reason::Guests => 3,
        // No packet is accepted for these.
        Reason::OverlaySpoof
        | Reason::OverlayInject
        | Reason::LoopbackSpoof
        | Reason::Redirect
        | Reason::RouterAdvert
        | Reason::PeerSpoof
        | Reason::GuestBlocked
        | Reason::ServiceAddress
        | Reason::Invalid
        | Reason::InputDefault
        | Reason::ForwardDefault => 0,
    };
    let highest = packets.kept.iter().map(rank).max().unwrap_or(0);
    let lowest = if is_for_some { highest.min(2) } else { highest };
    for reason in packets.kept.iter().filter(|reason| rank(reason) >= lowest) {
        if *reason == Reason::Peers {
            names.extend(peers.names(packets));
        } else if *reason == Reason::Icmp && policy.icmp.v4 == crate::policy::IcmpTypes::All {
            names.insert("[icmp] v4".into());
        } else {
            names.insert(proof::entry(reason));
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    match names.is_empty() {
        true => "[peers]".into(),
        false => names.join(", "),
    }
}

/// Reports whether a line is limited to some sources or interfaces.
pub(super) fn is_for_some(rule: &ImportedRule) -> bool {
    rule.conditions
        .iter()
        .any(|c| !c.negated && matches!(c.test, Test::Source(_) | Test::In(_)))
}

/// The peers of a policy by their addresses.
pub(super) struct PeerIndex<'p> {
    /// First and last address, ascending, with the peer's name.
    addresses: Vec<(Family, Interval, Option<&'p str>)>,
}

impl<'p> PeerIndex<'p> {
    pub(super) fn new(policy: &'p Policy) -> Self {
        let of = |peer: &'p crate::policy::Peer| {
            peer.addresses.iter().map(|address| {
                let family = Family::of(address.net.addr());
                (family, addr::bounds(address.net), peer.name.as_deref())
            })
        };
        let mut addresses: Vec<_> = policy.peers.iter().flat_map(of).collect();
        addresses.sort_unstable();
        Self { addresses }
    }

    /// Returns the peers among the sources of a line's packets; none if there are too many to name.
    fn names(&self, packets: &LinePackets) -> BTreeSet<String> {
        const FEW: usize = 4;
        let mut names = BTreeSet::new();
        for (family, (first, last)) in &packets.sources {
            let end = self
                .addresses
                .partition_point(|(of, (start, _), _)| (of, start) <= (family, last));
            // Networks of peers rarely contain each other.
            let near = self.addresses.get(..end).unwrap_or_default().iter().rev();
            let inside = near.take_while(|(of, (_, stop), _)| of == family && stop >= first);
            for (_, _, name) in inside.take(FEW + 1) {
                names.extend(name.map(|name| format!("[peers] {name}")));
            }
            if names.len() > FEW {
                return BTreeSet::new();
            }
        }
        names
    }
}

/// Explains why the policy does not accept a line's packets, and what to do.
pub(super) fn why_not(
    rule: &ImportedRule,
    inexpressible: Option<&Inexpressible>,
    is_through: bool,
) -> String {
    if let Some(why) = inexpressible {
        return why.why.clone();
    }
    let conditions = rule.conditions.iter();
    let mut why: Vec<&str> = conditions
        .filter_map(|condition| obstacle(&condition.test, condition.negated))
        .collect();
    why.dedup();
    match (why.is_empty(), is_through) {
        (true, true) => ONLY_ENTRIES.to_owned(),
        (true, false) => NO_ENTRY.to_owned(),
        (false, _) => why.join("; "),
    }
}

/// Reports whether some condition matches no compared packet.
pub(super) fn never(rule: &ImportedRule) -> bool {
    rule.conditions
        .iter()
        .any(|c| matches!(c.test, Test::Always(holds) | Test::Rate(holds, _) if holds == c.negated))
}
