//! Rules and policies as sets of packets.
//!
//! Everything that rules or a policy can tell apart is an axis (`axes`): state, addresses,
//! interfaces, protocol, ports, TTL, flags. A set of packets is a decision diagram over the bits of
//! these axes (`diagram`). Chains are evaluated once, on all packets (`walk`), and so is a compiled
//! policy (`ruled`). Whether a policy accepts more than the rules do is then a question about two
//! sets, and the answer is exact.

mod adopt;
pub(in crate::import) mod axes;
pub(in crate::import) mod diagram;
mod marks;
mod mentioned;
mod nat;
mod nodes;
mod own;
mod place;
pub(in crate::import) mod region;
mod ruled;
mod run;
mod search;
mod slices;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "fixtures are files")]
mod tests;
mod threads;
mod walk;
mod walked;

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use self::axes::Axes;
use self::diagram::{Diagrams, PacketSet, Run};
use self::mentioned::Mentioned;
use self::nat::Redirections;
pub(in crate::import) use self::own::{anycasts, broadcasts, own_addresses};
use self::place::Place;
pub(in crate::import) use self::place::Published;
use self::region::Sets;
use self::ruled::ruled;
pub(in crate::import) use self::ruled::{Ruled, SlicedPolicy};
use self::slices::Slice;
pub(in crate::import) use self::slices::Slicing;
use self::threads::in_order;
use self::walk::Walk;
pub(in crate::import) use self::walked::{Decided, Walked};
use super::Facts;
use super::rule::{ImportedRules, Interval};
use super::spans::subtract;
use crate::net::addr::{self, Family};
use crate::net::interface::InterfacePattern;
use crate::net::packet::Hook;
use crate::ruleset::Ruleset;

/// Source ports of the comparison's usual packets; rules are unlikely to mention it.
pub(in crate::import) const SOURCE_PORT: u16 = 40_000;

/// What the rules of one family do to all packets.
pub(in crate::import) struct Space<'r> {
    pub family: Family,
    pub rules: &'r ImportedRules,
    pub d: Diagrams,
    pub axes: Arc<Axes>,
    pub own: Vec<Interval>,
    pub broadcasts: Vec<Interval>,
    /// Addresses of routers of this host's networks.
    pub anycasts: Vec<Interval>,
    /// Addresses that rules for packets to this host name: they are its own.
    pub named: Vec<Interval>,
    pub redirections: Redirections,
    pub input: Site,
    pub forward: Site,
    /// The sources that the sites are about, with the rules for them; none for all.
    slice: Option<Arc<Slice<'r>>>,
    /// All slices, for large files; empty if the sources are not divided.
    slices: Vec<Arc<Slice<'r>>>,
}

/// What the rules do at one hook.
#[derive(Debug, Clone, Default)]
pub(in crate::import) struct Site {
    /// Packets that can arrive.
    pub valid: PacketSet,
    pub walked: Walked,
}

impl<'r> Space<'r> {
    /// Evaluates rules on all packets. The values of policies tell packets apart, too.
    pub(in crate::import) fn new(
        rules: &'r ImportedRules,
        facts: &Facts,
        policies: &[&Ruleset],
        slicing: Slicing,
    ) -> Self {
        let family = rules.family;
        let mut mentioned = Mentioned::new(rules);
        let nat = nat::redirecting(rules);
        mentioned.add_rules(&nat);
        for rule in nat.values().flat_map(|chain| &chain.rules) {
            if let super::rule::Verb::Dnat(to, port) = &rule.target {
                mentioned.ports.extend(*port);
                mentioned.destinations.extend(*to);
            }
        }
        let masqueraded = super::networks::masqueraded(rules);
        mentioned
            .sources
            .extend(masqueraded.iter().map(|(net, _, _)| addr::bounds(*net)));
        for (_, behind, _) in masqueraded {
            mentioned.interfaces.insert(behind.clone());
            mentioned.outs.insert(behind);
        }
        for ruleset in policies {
            mentioned.add_ruleset(ruleset, family);
        }
        mentioned.source_ports.push((SOURCE_PORT, SOURCE_PORT));
        mentioned.hop_limits.extend([(64, 64), (255, 255), (1, 1)]);
        let mut own = own_addresses(family, facts);
        let is_known = facts
            .addresses
            .iter()
            .any(|net| Family::of(net.addr()) == family);
        let mut named = named_destinations(rules, Hook::Input);
        if !is_known {
            let elsewhere = named_destinations(rules, Hook::Forward);
            own = subtract(&own, &elsewhere);
        } else {
            named.extend(&own);
        }
        let (broadcasts, anycasts) = (broadcasts(family, facts), anycasts(family, facts));
        let here = own.iter().chain(&broadcasts).chain(&anycasts);
        mentioned.destinations.extend(here);
        if mentioned.kinds_of_source && is_known {
            mentioned.sources.extend(own.iter().chain(&broadcasts));
        }
        let mut space = Self {
            family,
            rules,
            d: Diagrams::new(),
            axes: Arc::new(Axes::new(family, &mentioned)),
            own,
            broadcasts,
            anycasts,
            named,
            redirections: Redirections::default(),
            input: Site::default(),
            forward: Site::default(),
            slice: None,
            slices: Vec::new(),
        };
        let (mut d, axes) = (std::mem::take(&mut space.d), Arc::clone(&space.axes));
        let place = space.place(&axes, Hook::Input);
        space.redirections = nat::redirections(&mut d, &place, rules, &nat);
        Arc::make_mut(&mut space.axes).set_published(space.redirections.published.len());
        space.redirections.mark(&mut d, &space.axes);
        space.d = d;
        let mut slices = slices::slices(&space.axes, &rules.filter, slicing).into_iter();
        if slices.len() > 1 {
            space.slices = slices.map(Arc::new).collect();
        } else {
            space.slice = slices.next().map(Arc::new);
        }
        for hook in [Hook::Input, Hook::Forward] {
            space.arrive(hook, mentioned.is_untracked);
            space.walk(hook);
        }
        space
    }

    /// Finds the packets that can arrive at a hook.
    fn arrive(&mut self, hook: Hook, is_untracked: bool) {
        let mut d = std::mem::take(&mut self.d);
        let valid = self.place(&self.axes, hook).valid(&mut d, is_untracked);
        self.d = d;
        self.site_mut(hook).valid = valid;
    }

    /// Evaluates the rules at a hook.
    fn walk(&mut self, hook: Hook) {
        let mut walked = Walked::default();
        let seed = self.seed(hook);
        let walk = |slice: &Arc<Slice<'r>>| {
            let mut part = seed.part(hook, slice);
            (std::mem::take(&mut part.site_mut(hook).walked), part.d)
        };
        in_order(&self.slices, walk, |(mut found, d)| {
            self.d.adopt(&d, &mut found);
            walked.add(&mut self.d, found);
        });
        if let Some(slice) = self.slice.clone() {
            let mut d = std::mem::take(&mut self.d);
            let place = self.place(&self.axes, hook);
            let path = match hook {
                Hook::Input => &self.rules.paths.input,
                Hook::Forward => &self.rules.paths.forward,
            };
            let walk = Walk::new(&mut d, &place, &slice.chains);
            walked = walk.through(path, self.site(hook).valid);
            self.d = d;
        }
        walked.join(&mut self.d);
        self.site_mut(hook).walked = walked;
    }

    /// Returns the same with diagrams of its own, which are empty.
    fn without_sets(&self) -> Self {
        Self {
            family: self.family,
            rules: self.rules,
            d: Diagrams::small(),
            axes: Arc::clone(&self.axes),
            own: self.own.clone(),
            broadcasts: self.broadcasts.clone(),
            anycasts: self.anycasts.clone(),
            named: self.named.clone(),
            redirections: Redirections::default(),
            input: Site::default(),
            forward: Site::default(),
            slice: None,
            slices: Vec::new(),
        }
    }

    /// Returns the packets that can arrive at a hook, in diagrams of their own.
    fn seed(&self, hook: Hook) -> Self {
        let mut seed = self.without_sets();
        seed.redirections = self.redirections.clone();
        let mut valid = self.site(hook).valid;
        let mut sets = (&mut valid, &mut seed.redirections);
        seed.d.adopt(&self.d, &mut sets);
        seed.site_mut(hook).valid = valid;
        seed
    }

    /// Evaluates the rules on packets from one slice, in diagrams of their own.
    fn part(&self, hook: Hook, slice: &Arc<Slice<'r>>) -> Self {
        let mut part = self.seed(hook);
        let here = part.d.in_runs(part.axes.source, slice.run.as_slice());
        let valid = part.site(hook).valid;
        part.site_mut(hook).valid = part.d.and(valid, here);
        part.slice = Some(Arc::clone(slice));
        part.walk(hook);
        part
    }

    /// Calls `work` for the packets of each slice, in several threads, and `take` with each result
    /// after its sets were adopted, in order; or `work` once, for all packets.
    pub(in crate::import) fn each_part<R: Sets + Send>(
        &mut self,
        hook: Hook,
        work: impl Fn(&mut Self) -> R + Sync,
        mut take: impl FnMut(&mut Diagrams, R),
    ) {
        if self.slices.is_empty() {
            let result = work(self);
            return take(&mut self.d, result);
        }
        let seed = self.seed(hook);
        let work = |slice: &Arc<Slice<'r>>| {
            let mut part = seed.part(hook, slice);
            (work(&mut part), part.d)
        };
        in_order(&self.slices, work, |(mut result, d)| {
            self.d.adopt(&d, &mut result);
            take(&mut self.d, result);
        });
    }

    /// Returns the values on the source axis of each slice; none if the sources are not divided.
    pub(in crate::import) fn slice_runs(&self) -> Vec<Run> {
        self.slices.iter().filter_map(|slice| slice.run).collect()
    }

    /// Calls `work` for each slice with copies of its sets, in several threads and in diagrams of
    /// their own, and `take` with each result, in order. `of_slices` are as many as slices.
    pub(in crate::import) fn with_sets<S: Sets + Clone + Sync, R: Send>(
        &self,
        of_slices: &[S],
        work: impl Fn(&mut Self, S) -> R + Sync,
        take: impl FnMut(R),
    ) {
        let slices: Vec<_> = self.slices.iter().zip(of_slices).collect();
        let work = |(slice, sets): &(&Arc<Slice<'r>>, &S)| {
            let mut part = self.without_sets();
            let mut copied = ((*sets).clone(), self.redirections.clone());
            part.d.adopt(&self.d, &mut copied);
            let (sets, redirections) = copied;
            part.redirections = redirections;
            part.slice = Some(Arc::clone(slice));
            work(&mut part, sets)
        };
        in_order(&slices, work, take);
    }

    /// Reports whether the packets from these sources are all evaluated here. In a slice, others
    /// are evaluated elsewhere.
    pub(in crate::import) fn has_sources(&self, sources: Interval) -> bool {
        let Some((start, end)) = self.slice.as_ref().and_then(|slice| slice.run) else {
            return true;
        };
        let runs = self.axes.source_runs(&[sources]);
        runs.iter()
            .all(|(first, last)| start <= *first && *last <= end)
    }

    /// Reports whether packets from some sources are evaluated elsewhere.
    pub(in crate::import) fn is_part(&self) -> bool {
        self.slice.as_ref().is_some_and(|slice| slice.run.is_some())
    }

    /// Frees the packets of each line, and all other sets. They are evaluated again for each slice
    /// of the sources, if there are slices; else nothing is freed.
    pub(in crate::import) fn forget_lines(&mut self) {
        if self.slices.is_empty() {
            return;
        }
        let whole = std::mem::take(&mut self.d);
        self.d = Diagrams::new();
        for site in [&mut self.input, &mut self.forward] {
            site.walked.decided = Vec::new();
            site.walked.translated = Vec::new();
            let mut kept = (&mut site.valid, &mut site.walked);
            self.d.adopt(&whole, &mut kept);
        }
        self.d.adopt(&whole, &mut self.redirections);
    }

    /// Reports whether rules redirect packets. If not, no packet matches `ct status dnat`.
    pub(in crate::import) fn has_dnated(&mut self) -> bool {
        self.axes.direct(&mut self.d) != PacketSet::ALL
    }

    /// Reports whether the axes tell apart everything that a policy does.
    pub(in crate::import) fn knows(&self, ruleset: &Ruleset) -> bool {
        let mut mentioned = Mentioned::default();
        mentioned.add_ruleset(ruleset, self.family);
        self.axes.know(&mentioned)
    }

    fn place<'a>(&'a self, axes: &'a Axes, hook: Hook) -> Place<'a> {
        Place {
            axes,
            hook,
            own: self.own.clone(),
            broadcasts: self.broadcasts.clone(),
            anycasts: self.anycasts.clone(),
            named: self.named.clone(),
            published: &self.redirections.published,
            guards: self.redirections.guards.clone(),
            marked: &self.redirections.marked,
            untracked: &self.rules.untracked,
            diverted: match hook {
                Hook::Input => self.redirections.diverted,
                Hook::Forward => PacketSet::NONE,
            },
            slice: self.slice.as_ref().and_then(|slice| slice.run),
        }
    }

    /// Evaluates a policy on the packets that can arrive at a hook.
    pub(in crate::import) fn ruled(&mut self, policy: &SlicedPolicy<'_>, hook: Hook) -> Ruled {
        let mut d = std::mem::take(&mut self.d);
        let valid = self.site(hook).valid;
        let place = self.place(&self.axes, hook);
        let ruled = ruled(&mut d, &place, policy, valid);
        self.d = d;
        ruled
    }

    pub(in crate::import) fn site(&self, hook: Hook) -> &Site {
        match hook {
            Hook::Input => &self.input,
            Hook::Forward => &self.forward,
        }
    }

    fn site_mut(&mut self, hook: Hook) -> &mut Site {
        match hook {
            Hook::Input => &mut self.input,
            Hook::Forward => &mut self.forward,
        }
    }

    /// Returns the packets that meet a condition; `None` if that cannot be told.
    pub(in crate::import) fn condition(
        &mut self,
        hook: Hook,
        condition: &super::rule::Condition,
    ) -> Option<PacketSet> {
        let mut d = std::mem::take(&mut self.d);
        let met = self.place(&self.axes, hook).condition(&mut d, condition);
        self.d = d;
        met
    }

    /// Returns packets to the ports between the lowest and the highest of a set, for each protocol.
    pub(in crate::import) fn surroundings(&mut self, packets: PacketSet) -> PacketSet {
        let mut found = PacketSet::NONE;
        for (protocol, ports) in self.services_of(packets).ports {
            if let (Some((first, _)), Some((_, last))) = (ports.first(), ports.last()) {
                let ports = self.axes.sent_to(&mut self.d, &[(*first, *last)]);
                let these = self
                    .axes
                    .protocols(&mut self.d, |number| number == protocol);
                let ports = self.d.and(ports, these);
                found = self.d.or(found, ports);
            }
        }
        found
    }

    /// Returns packets from these networks.
    pub(in crate::import) fn sent_by(&mut self, nets: &[IpNet]) -> PacketSet {
        let spans: Vec<Interval> = nets
            .iter()
            .filter(|net| Family::of(net.addr()) == self.family)
            .map(|net| addr::bounds(*net))
            .collect();
        self.axes.sources(&mut self.d, &spans)
    }

    /// Returns packets on interfaces of these patterns.
    pub(in crate::import) fn on(&mut self, patterns: &[InterfacePattern]) -> PacketSet {
        self.axes.interfaces(&mut self.d, patterns)
    }

    /// Returns the source addresses of a set, as ascending spans.
    pub(in crate::import) fn sources_of(&mut self, packets: PacketSet) -> Vec<Interval> {
        let runs = self.d.values(packets, self.axes.source);
        runs.into_iter()
            .map(|run| self.axes.sources.span(run))
            .collect()
    }

    /// Returns the input interfaces of a set.
    pub(in crate::import) fn interfaces_of(&mut self, packets: PacketSet) -> Vec<String> {
        let runs = self.d.values(packets, self.axes.interface);
        names(&self.axes.interfaces, &runs)
    }
}

/// Returns the addresses that rules name as destinations at one hook only: to this host, they are
/// its own; through it, and behind published ports, they are not.
fn named_destinations(rules: &ImportedRules, hook: Hook) -> Vec<Interval> {
    let of = |path: &[String]| -> BTreeSet<String> {
        let reached = path
            .iter()
            .flat_map(|name| super::rule::reached(&rules.filter, name));
        reached.map(str::to_owned).collect()
    };
    let (input, forward) = (of(&rules.paths.input), of(&rules.paths.forward));
    let (here, there) = match hook {
        Hook::Input => (input, forward),
        Hook::Forward => (forward, input),
    };
    let chains = here
        .difference(&there)
        .filter_map(|name| rules.filter.get(name));
    let conditions = chains
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.conditions);
    let to = conditions.filter(|condition| !condition.negated);
    let spans = to
        .filter_map(super::rule::Condition::destinations)
        .flatten();
    let mut found: Vec<Interval> = spans
        .filter(|(first, last)| first == last)
        .copied()
        .collect();
    if hook == Hook::Input {
        // Connections are redirected from addresses of this host.
        let nat = nat::redirecting(rules);
        let conditions = nat.values().flat_map(|chain| &chain.rules);
        let conditions = conditions.flat_map(|rule| &rule.conditions);
        let to = conditions.filter(|condition| !condition.negated);
        let spans = to
            .filter_map(super::rule::Condition::destinations)
            .flatten();
        found.extend(spans.filter(|(first, last)| first == last));
    }
    if hook == Hook::Forward {
        let targets = rules.nat.values().flat_map(|chain| &chain.rules);
        found.extend(targets.filter_map(|rule| {
            if let super::rule::Verb::Dnat(Some(to), _) = &rule.target {
                return Some(*to);
            }
            None
        }));
    }
    found
}

fn names(all: &[String], runs: &[Run]) -> Vec<String> {
    let indices = runs.iter().flat_map(|(first, last)| *first..=*last);
    let names = indices.filter_map(|index| all.get(usize::try_from(index).ok()?));
    names.cloned().collect()
}
