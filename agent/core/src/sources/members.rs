//! The members of one source.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::change::{Change, Forget, Held, HeldWhy, Saved};
use super::limits::{Limits, PER_NODE_MAX, Refused};
use super::listing::Listing;

/// Time since a fixed moment, on a monotonic clock.
pub(super) type Time = Duration;

/// Number of refused entries that are kept as examples.
const EXAMPLES: usize = 8;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Name in the last listing.
    pub(super) name: Arc<str>,
    /// Name under which it was added. Losses are counted by these, because a source could give all
    /// members the same name before it removes them.
    pub(super) node: Arc<str>,
    /// Time since which it is a member; `None` if it was saved.
    pub(super) since: Option<Time>,
}

/// State of one source. `now` is a monotonic time in all methods.
#[derive(Debug, Clone)]
pub struct Members {
    pub(super) limits: Limits,
    pub(super) members: BTreeMap<IpAddr, Member>,
    /// Members that are missing in the listings, with the times since then. There are few.
    pub(super) missing: BTreeMap<IpAddr, Time>,
    identity: Option<String>,
    revision: Option<u64>,
    /// The last believed answer, for judging it again when the limits change.
    pub(super) listing: Option<Listing>,
    /// Whether that answer contains no possible member.
    pub(super) is_empty_answer: bool,
    /// Whether that answer is the first of another cluster, or older than the one before.
    pub(super) is_in_doubt: Option<HeldWhy>,
    /// An answer that is older than the last one, and when it came first.
    older: Option<(Time, Listing)>,
    /// Nodes that were removed recently, with the times.
    pub(super) removed: Vec<(Time, Member)>,
    pub(super) refused: BTreeMap<Refused, usize>,
    examples: Vec<(Refused, String)>,
    /// Time of the last proof of the answer.
    proven: Option<Time>,
    /// Whether the source reports that it cannot reach its engine.
    is_failing: bool,
}

impl Members {
    /// Creates the state of a source with the members that were saved. They count as proven now.
    pub fn new(limits: Limits, saved: Saved, now: Time) -> Self {
        let mut members = Self {
            limits,
            members: BTreeMap::new(),
            missing: BTreeMap::new(),
            identity: saved.identity,
            revision: saved.revision,
            listing: None,
            is_empty_answer: false,
            is_in_doubt: None,
            older: None,
            removed: Vec::new(),
            refused: BTreeMap::new(),
            examples: Vec::new(),
            proven: Some(now),
            is_failing: false,
        };
        for (address, name) in saved.members {
            members.insert(address, Some(&name.into()), None);
        }
        members.enforce_limits();
        members
    }

    /// Returns the members with the names of their nodes, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.members
            .iter()
            .map(|(address, member)| (*address, &*member.name))
    }

    /// Returns the members that are missing in the last answer, with the times since then.
    pub fn missing_since(&self) -> impl Iterator<Item = (IpAddr, Time)> {
        let missing = self.missing.iter();
        missing.map(|(address, since)| (*address, *since))
    }

    /// Returns the number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the number of refused entries of the last answer, by reason.
    pub fn refused(&self) -> &BTreeMap<Refused, usize> {
        &self.refused
    }

    /// Returns some refused entries of the last answer.
    pub fn examples(&self) -> &[(Refused, String)] {
        &self.examples
    }

    /// Returns the time of the last proof that the members are current.
    pub fn proven(&self) -> Option<Time> {
        self.proven
    }

    /// Returns the members as they are saved for the next boot.
    pub fn saved(&self) -> Saved {
        Saved {
            members: self
                .iter()
                .map(|(address, name)| (address, name.to_owned()))
                .collect(),
            identity: self.identity.clone(),
            revision: self.revision,
        }
    }

    /// Returns whether the last proof is older than [`Limits::stale_after`].
    pub fn is_stale(&self, now: Time) -> bool {
        self.proven
            .is_none_or(|at| now.saturating_sub(at) > self.limits.stale_after)
    }

    /// Changes the limits. Members that do not meet them are removed at once.
    pub fn set_limits(&mut self, limits: Limits, now: Time) -> Change {
        if self.limits == limits {
            return Change::default();
        }
        let before = self.names();
        self.limits = limits;
        self.enforce_limits();
        if let Some(listing) = self.listing.take() {
            self.judge(listing, now);
        }
        self.change_since(&before)
    }

    /// Takes a complete answer.
    pub fn observe(&mut self, listing: Listing, now: Time) -> Change {
        let is_same_cluster = match (&self.identity, &listing.identity) {
            (Some(old), Some(new)) => old == new,
            (None, _) | (_, None) => true,
        };
        let is_older = match (self.revision, listing.revision) {
            (Some(old), Some(new)) => new < old,
            (None, _) | (_, None) => false,
        };
        if is_same_cluster && is_older {
            // It proves nothing, but what it lists is not missing without interruption.
            for (address, _) in &listing.entries {
                self.missing.remove(address);
            }
            let since = self.older.take().map_or(now, |(since, _)| since);
            self.older = Some((since, listing));
            return self.tick(now);
        }
        self.prove(now);
        self.older = None;
        if !is_same_cluster {
            self.is_in_doubt = Some(HeldWhy::OtherCluster);
        }
        self.believe(listing, now)
    }

    /// Notes that the last answer is still current.
    pub fn prove(&mut self, now: Time) {
        if self.is_stale(now) {
            // Nobody knows what was missing meanwhile.
            self.missing.values_mut().for_each(|since| *since = now);
        }
        self.proven = Some(now);
    }

    /// Notes whether the source can reach its engine. If not, nothing is removed.
    pub fn set_failing(&mut self, is_failing: bool) {
        self.is_failing = is_failing;
    }

    /// Removes the members whose time is over.
    pub fn tick(&mut self, now: Time) -> Change {
        if let Some(drop) = self.limits.stale_drop
            && self.proven.is_none_or(|at| now.saturating_sub(at) > drop)
        {
            let before = self.names();
            self.members.clear();
            self.missing.clear();
            return self.change_since(&before);
        }
        if self.is_suspended(now) {
            return Change::default();
        }
        let is_believed = |(since, _): &mut (Time, Listing)| now >= *since + self.limits.hold;
        if let Some((_, listing)) = self.older.take_if(is_believed) {
            self.is_in_doubt = Some(HeldWhy::Older);
            return self.believe(listing, now);
        }
        match self.older {
            // Which answer is right is open.
            Some(_) => Change::default(),
            None => self.remove_missing(now),
        }
    }

    /// Returns when [`tick`](Self::tick) has something to do.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let drop = match self.members.is_empty() {
            true => None,
            false => self.limits.stale_drop.zip(self.proven),
        };
        let drop = drop.map(|(drop, at)| at + drop + Duration::from_millis(1));
        if self.is_suspended(now) {
            return drop;
        }
        let next = match &self.older {
            Some((since, _)) => Some(*since + self.limits.hold),
            None => self
                .first_missing()
                .and_then(|at| Some(at + self.wait(now)?)),
        };
        [drop, next].into_iter().flatten().min()
    }

    /// Believes the last answer, whatever is missing in it: the missing members are removed.
    pub fn accept(&mut self, now: Time) -> Change {
        let before = self.names();
        if let Some((_, listing)) = self.older.take() {
            let _ = self.believe(listing, now);
        }
        self.is_in_doubt = None;
        for address in std::mem::take(&mut self.missing).into_keys() {
            self.members.remove(&address);
        }
        self.fill(now);
        self.change_since(&before)
    }

    /// Removes a missing member at once.
    ///
    /// # Errors
    /// [`Forget`] if it is no member, or not missing.
    pub fn forget(&mut self, address: IpAddr, now: Time) -> Result<Change, Forget> {
        self.members.get(&address).ok_or(Forget::NoMember)?;
        let is_listed = match &self.listing {
            Some(_) => !self.missing.contains_key(&address),
            // No answer since the start: nothing lists it.
            None => false,
        };
        if is_listed {
            return Err(Forget::Listed);
        }
        let before = self.names();
        self.members.remove(&address);
        self.missing.remove(&address);
        self.fill(now);
        Ok(self.change_since(&before))
    }

    /// Returns the members that are kept although they are missing.
    pub fn held(&self, now: Time) -> Option<Held> {
        let addresses = self.missing.len();
        if let Some((since, _)) = &self.older {
            return Some(Held {
                why: HeldWhy::Older,
                addresses,
                until: Some(*since + self.limits.hold),
            });
        }
        let first = self.first_missing()?;
        let why = match (self.is_empty_answer, self.is_in_doubt) {
            (true, _) => HeldWhy::Empty,
            (false, Some(why)) => why,
            (false, None) if self.is_large_loss(now) => HeldWhy::Loss,
            (false, None) => return None,
        };
        Some(Held {
            why,
            addresses,
            until: self.wait(now).map(|wait| first + wait),
        })
    }

    fn is_suspended(&self, now: Time) -> bool {
        self.is_failing || self.is_stale(now)
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = &Member> {
        let addresses = self.missing.keys();
        addresses.filter_map(|address| self.members.get(address))
    }

    fn first_missing(&self) -> Option<Time> {
        self.missing.values().min().copied()
    }

    /// Makes an answer the current one.
    fn believe(&mut self, listing: Listing, now: Time) -> Change {
        self.identity = listing.identity.clone().or(self.identity.take());
        self.revision = listing.revision;
        let mut joined = match self.judge_joins(listing, now) {
            Ok(joined) => joined,
            Err(listing) => self.judge(listing, now),
        };
        let later = self.tick(now);
        joined.retain(|(address, _)| self.members.contains_key(address));
        joined.extend(later.joined);
        Change {
            joined,
            left: later.left,
        }
    }

    /// Adds what the last answer lists and [`Limits::max`] refused, if members have left. Returns
    /// what was added.
    fn fill(&mut self, now: Time) -> Vec<(IpAddr, String)> {
        let has_place = self.members.len() < self.limits.max;
        let is_wanted = has_place && self.refused.contains_key(&Refused::Max);
        match self.listing.take_if(|_| is_wanted) {
            Some(listing) => self.judge(listing, now),
            None => Vec::new(),
        }
    }

    /// Adds the possible members of an answer, and notes which members are missing in it. Returns
    /// those that were added.
    fn judge(&mut self, listing: Listing, now: Time) -> Vec<(IpAddr, String)> {
        self.refused.clear();
        self.examples.clear();
        if listing.garbage > 0 {
            self.refused.insert(Refused::Garbage, listing.garbage);
            let texts = listing.garbage_texts.iter().cloned();
            self.examples
                .extend(texts.map(|text| (Refused::Garbage, text)));
        }
        let mut joined = Vec::new();
        let mut present = HashSet::new();
        let mut of_node: HashMap<&str, usize> = HashMap::new();
        let (known, new): (Vec<_>, Vec<_>) = listing
            .entries
            .iter()
            .partition(|(address, _)| self.members.contains_key(address));
        // Known members come first, so that new ones do not displace them.
        let known = known.into_iter().map(|entry| (entry, true));
        let new = new.into_iter().map(|entry| (entry, false));
        for ((address, name), is_known) in known.chain(new) {
            if present.contains(address) {
                continue;
            }
            let count = match name {
                Some(name) if self.limits.has_nodes => of_node.entry(name).or_default(),
                Some(_) | None => &mut 0,
            };
            let allowed = self.limits.check(*address).and(match *count {
                PER_NODE_MAX.. => Err(Refused::PerNode),
                _ if !is_known && self.members.len() >= self.limits.max => Err(Refused::Max),
                _ => Ok(()),
            });
            match allowed {
                Ok(()) => {
                    *count += 1;
                    present.insert(*address);
                    let member = self.insert(*address, name.as_ref(), Some(now));
                    if !is_known {
                        joined.push((*address, member.name.to_string()));
                    }
                }
                Err(why) => {
                    *self.refused.entry(why).or_default() += 1;
                    if self.examples.len() < EXAMPLES {
                        let name = name.as_deref().unwrap_or("-");
                        self.examples.push((why, format!("{address} {name}")));
                    }
                }
            }
        }
        // An empty answer says nothing about single members.
        let is_news = self.is_empty_answer && !present.is_empty();
        let before = match is_news {
            true => BTreeMap::new(),
            false => std::mem::take(&mut self.missing),
        };
        // Everything present is a member by now.
        self.missing = match present.len() == self.members.len() {
            true => BTreeMap::new(),
            false => {
                let members = self.members.keys();
                let missing = members.filter(|address| !present.contains(*address));
                let since = |address| before.get(address).copied().unwrap_or(now);
                missing.map(|address| (*address, since(address))).collect()
            }
        };
        self.is_empty_answer = present.is_empty();
        if self.first_missing().is_none() {
            self.is_in_doubt = None;
        }
        self.listing = Some(listing);
        joined
    }

    pub(super) fn insert(
        &mut self,
        address: IpAddr,
        name: Option<&Arc<str>>,
        since: Option<Time>,
    ) -> &Member {
        let text =
            |name: Option<&Arc<str>>| name.map_or_else(|| address.to_string().into(), Arc::clone);
        match self.members.entry(address) {
            Entry::Occupied(member) => {
                let member = member.into_mut();
                if name != Some(&member.name) {
                    member.name = text(name);
                }
                member
            }
            Entry::Vacant(place) => {
                let name = text(name);
                let node = match self.limits.has_nodes {
                    true => name.clone(),
                    false => text(None),
                };
                place.insert(Member { name, node, since })
            }
        }
    }

    fn remove_missing(&mut self, now: Time) -> Change {
        if self.first_missing().is_none() {
            return Change::default();
        }
        let hold = self.limits.hold;
        self.removed
            .retain(|(at, _)| now.saturating_sub(*at) < hold);
        let Some(wait) = self.wait(now) else {
            return Change::default();
        };
        let missing = self.missing.iter();
        let over = missing.filter(|(_, since)| now >= **since + wait);
        let over: Vec<IpAddr> = over.map(|(address, _)| *address).collect();
        let mut left = Vec::new();
        for address in over {
            self.missing.remove(&address);
            if let Some(member) = self.members.remove(&address) {
                left.push((address, member.name.to_string()));
                self.removed.push((now, member));
            }
        }
        if self.first_missing().is_none() {
            self.is_in_doubt = None;
        }
        let joined = match left.is_empty() {
            true => Vec::new(),
            false => self.fill(now),
        };
        Change { joined, left }
    }

    /// Removes members that do not meet the limits.
    fn enforce_limits(&mut self) {
        let limits = &self.limits;
        self.members
            .retain(|address, _| limits.check(*address).is_ok());
        let surplus = self.members.len().saturating_sub(self.limits.max);
        if surplus > 0 {
            let members = self.members.keys();
            let order = members.map(|address| (!self.missing.contains_key(address), *address));
            let mut order: Vec<(bool, IpAddr)> = order.collect();
            // Missing ones are removed first.
            order.sort_unstable_by_key(|(is_listed, address)| (*is_listed, Reverse(*address)));
            for (_, address) in &order[..surplus] {
                self.members.remove(address);
            }
        }
        let members = &self.members;
        self.missing
            .retain(|address, _| members.contains_key(address));
    }
}
