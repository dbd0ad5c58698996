//! From policy to ruleset. No other code builds rules.
//!
//! The order of the rules is part of what the policy means; `docs/policy.md` explains it and says
//! what leaks if it changes. Peers come before the injection drops, which then need not say "from
//! others than peers": a peer's tunnel packet has been accepted by then.

use std::collections::BTreeMap;

use crate::addr::{AddrSet, Family, Span};
use crate::diagnostic::Place;
use crate::interface::InterfacePattern;
use crate::packet::Hook;
use crate::policy::{Allow, Denied, IcmpTypes, Overlay, Policy, Source, Tunnel, address_set, icmp};
use crate::port::{self, ICMP, ICMPV6, PortRange, TCP, UDP};
use crate::reason::Reason;
use crate::ruleset::{
    Action, Base, Chain, ChainPolicy, CtStates, Element, FORWARD, INPUT, IcmpKinds, KeyType, LogTo,
    Match, PUBLISHED, Ports, Rule, Ruleset, Set, counter_name,
};

/// What each rule is for, beside the ruleset: it is not part of its equality.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<(String, usize), Origin>);

/// What one rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The reason a packet has that it decides on.
    pub reason: Reason,
    /// Where the policy says so; `None` for what is always there.
    pub place: Option<Place>,
}

impl Origins {
    /// What the rule at this position of a chain is for.
    pub fn of(&self, chain: &str, rule: usize) -> Option<&Origin> {
        self.0.get(&(chain.to_owned(), rule))
    }
}

/// Makes the ruleset that says what the policy says.
pub fn compile(policy: &Policy) -> (Ruleset, Origins) {
    let mut compiler = Compiler {
        policy,
        ruleset: Ruleset::default(),
        origins: Origins::default(),
    };
    compiler.declare_sets();
    compiler.input();
    compiler.forward();
    compiler.published();
    compiler.denials();
    (compiler.ruleset.normalized(), compiler.origins)
}

struct Compiler<'p> {
    policy: &'p Policy,
    ruleset: Ruleset,
    origins: Origins,
}

/// A chain being written.
struct Draft {
    name: &'static str,
    base: Option<Base>,
    rules: Vec<Rule>,
    origins: Vec<Origin>,
}

impl Draft {
    fn base(hook: Hook, priority: i32) -> Self {
        let name = match hook {
            Hook::Input => INPUT,
            Hook::Forward => FORWARD,
        };
        Self {
            base: Some(Base {
                hook,
                priority,
                policy: ChainPolicy::Drop,
            }),
            ..Self::regular(name)
        }
    }

    fn regular(name: &'static str) -> Self {
        Self {
            name,
            base: None,
            rules: Vec::new(),
            origins: Vec::new(),
        }
    }

    /// Counts and accepts.
    fn accept(&mut self, matches: Vec<Match>, reason: Reason, place: Option<&Place>) {
        self.rules.push(Rule {
            matches,
            counter: Some(counter_name(self.name, &reason)),
            action: Some(Action::Accept),
            comment: Some(reason.sentence()),
            ..Rule::default()
        });
        self.origin(reason, place);
    }

    /// Hands over to the chain of a denial.
    fn deny(
        &mut self,
        matches: Vec<Match>,
        reason: Reason,
        comment: String,
        place: Option<&Place>,
    ) {
        self.rules.push(Rule {
            matches,
            action: Some(Action::Goto(reason.to_string())),
            comment: Some(comment),
            ..Rule::default()
        });
        self.origin(reason, place);
    }

    /// The end of a base chain. Its policy says the same; this also counts and logs.
    fn deny_the_rest(&mut self, reason: Reason) {
        let comment = reason.sentence();
        self.deny(Vec::new(), reason, comment, None);
    }

    fn origin(&mut self, reason: Reason, place: Option<&Place>) {
        self.origins.push(Origin {
            reason,
            place: place.cloned(),
        });
    }
}

impl Compiler<'_> {
    /// Takes a finished chain into the ruleset, with the counters it uses.
    fn add(&mut self, draft: Draft) {
        for (index, origin) in draft.origins.into_iter().enumerate() {
            self.origins
                .0
                .insert((draft.name.to_owned(), index), origin);
        }
        let counters = draft.rules.iter().filter_map(|rule| rule.counter.clone());
        self.ruleset.counters.extend(counters);
        self.ruleset.chains.push(Chain {
            name: draft.name.to_owned(),
            base: draft.base,
            rules: draft.rules,
        });
    }

    fn declare_sets(&mut self) {
        self.address_sets("peers", self.policy.peer_addresses());
        for overlay in &self.policy.overlays {
            self.address_sets(&overlay_set(&overlay.name), address_set(&overlay.subnets));
        }
        for group in &self.policy.groups {
            if self.is_used(&group.name) {
                self.address_sets(&group_set(&group.name), address_set(&group.addresses));
            }
        }
        for allow in &self.policy.allows {
            self.address_sets(&allow_set(&allow.name), inline_addresses(&allow.from));
            for (protocol, ranges) in ports_by_protocol(allow) {
                if let Some(ranges) = ranges.filter(|ranges| ranges.len() > 1) {
                    let elements = ranges.iter().map(port_element).collect();
                    self.set(
                        port_set(&allow.name, protocol),
                        KeyType::Port,
                        true,
                        elements,
                    );
                }
            }
        }
        self.address_sets("ping", inline_addresses(&self.policy.icmp.ping));
        self.icmp_sets();
    }

    fn is_used(&self, group: &str) -> bool {
        let sources = self.policy.allows.iter().flat_map(|allow| &allow.from);
        sources
            .chain(&self.policy.icmp.ping)
            .any(|source| *source == Source::Group(group.to_owned()))
    }

    fn icmp_sets(&mut self) {
        for family in Family::BOTH {
            let digit = family.digit();
            let key = KeyType::icmp(family);
            if self.policy.icmp.core {
                self.set(
                    format!("icmp-errors{digit}"),
                    key,
                    false,
                    kinds(icmp::errors(family)),
                );
                if family == Family::V6 {
                    self.set(
                        "icmp-nd6".into(),
                        key,
                        false,
                        kinds(icmp::NEIGHBOUR_DISCOVERY),
                    );
                    self.set(
                        "icmp-mld6".into(),
                        key,
                        false,
                        kinds(icmp::LISTENER_DISCOVERY),
                    );
                }
            }
            if let IcmpTypes::Some(listed) = self.icmp_listed(family)
                && !listed.is_empty()
            {
                self.set(format!("icmp-listed{digit}"), key, false, kinds(listed));
            }
        }
    }

    fn icmp_listed(&self, family: Family) -> &IcmpTypes {
        match family {
            Family::V4 => &self.policy.icmp.v4,
            Family::V6 => &self.policy.icmp.v6,
        }
    }

    fn set(&mut self, name: String, key: KeyType, interval: bool, elements: Vec<Element>) {
        let set = Set {
            key,
            interval,
            elements,
        };
        self.ruleset.sets.insert(name, set);
    }

    /// Up to four sets: hosts and prefixes of both families, each only if it has elements. Hosts
    /// are kept apart since a hash set loads and looks up faster than an interval set
    /// (`docs/design.md` has the numbers).
    fn address_sets(&mut self, name: &str, addresses: AddrSet) {
        for (family, part) in [(Family::V4, addresses.v4), (Family::V6, addresses.v6)] {
            let key = KeyType::address(family);
            for (name, interval, spans) in [
                (hosts_set(name, family), false, part.hosts),
                (nets_set(name, family), true, part.nets),
            ] {
                if !spans.is_empty() {
                    let elements = spans.into_iter().map(element).collect();
                    self.set(name, key, interval, elements);
                }
            }
        }
    }

    /// Matches for "the source is in this set of addresses": one list of matches for each of the
    /// sets that [`address_sets`](Self::address_sets) made.
    fn source_in(&self, name: &str) -> Vec<Vec<Match>> {
        let mut found = Vec::new();
        for family in Family::BOTH {
            for set in [hosts_set(name, family), nets_set(name, family)] {
                if self.ruleset.sets.contains_key(&set) {
                    found.push(vec![Match::Family(family), Match::Source { family, set }]);
                }
            }
        }
        found
    }

    fn input(&mut self) {
        let mut chain = Draft::base(Hook::Input, self.policy.options.hook_priority);
        chain.accept(
            vec![Match::CtState(CtStates::KNOWN)],
            Reason::Established,
            None,
        );
        chain.accept(vec![Match::Loopback], Reason::Loopback, None);
        self.trusted(&mut chain);
        self.spoof(&mut chain);
        self.peers(&mut chain);
        self.inject(&mut chain);
        self.overlays(&mut chain);
        self.icmp_for_host(&mut chain);
        self.dhcp(&mut chain);
        self.invalid(&mut chain);
        if !self.policy.allows.is_empty() {
            let dnat = |action| Rule {
                matches: vec![Match::Dnat],
                action: Some(action),
                comment: Some("published ports, by the port that was dialled".into()),
                ..Rule::default()
            };
            chain.rules.push(dnat(Action::Jump(PUBLISHED.into())));
            chain.origin(Reason::InputDefault, None);
            chain
                .rules
                .push(dnat(Action::Goto(Reason::InputDefault.to_string())));
            chain.origin(Reason::InputDefault, None);
            self.allows(&mut chain, Match::DestinationPort);
        }
        chain.deny_the_rest(Reason::InputDefault);
        self.add(chain);
    }

    fn forward(&mut self) {
        let mut chain = Draft::base(Hook::Forward, self.policy.options.hook_priority);
        chain.accept(
            vec![Match::CtState(CtStates::KNOWN)],
            Reason::Established,
            None,
        );
        self.trusted(&mut chain);
        self.spoof(&mut chain);
        self.peers(&mut chain);
        self.overlays(&mut chain);
        self.icmp_errors(&mut chain);
        self.invalid(&mut chain);
        if !self.policy.allows.is_empty() {
            chain.rules.push(Rule {
                matches: vec![Match::Dnat],
                action: Some(Action::Jump(PUBLISHED.into())),
                comment: Some("published ports, by the port that was dialled".into()),
                ..Rule::default()
            });
            chain.origin(Reason::ForwardDefault, None);
        }
        chain.deny_the_rest(Reason::ForwardDefault);
        self.add(chain);
    }

    fn published(&mut self) {
        if self.policy.allows.is_empty() {
            return;
        }
        let mut chain = Draft::regular(PUBLISHED);
        self.allows(&mut chain, Match::DialledPort);
        self.add(chain);
    }

    fn trusted(&self, chain: &mut Draft) {
        for pattern in &self.policy.trusted {
            chain.accept(vec![interface(pattern)], Reason::Trusted, None);
        }
    }

    /// Before peers and overlays, so that nobody is believed an address that cannot be his; behind
    /// trusted interfaces, which are believed everything.
    fn spoof(&self, chain: &mut Draft) {
        for overlay in &self.policy.overlays {
            let elsewhere: Vec<Match> = overlay
                .interfaces
                .iter()
                .map(|pattern| Match::Interface {
                    pattern: pattern.clone(),
                    negated: true,
                })
                .collect();
            for source in self.source_in(&overlay_set(&overlay.name)) {
                let mut matches = elsewhere.clone();
                matches.extend(source);
                if !overlay.backend.is_tunnelled() {
                    matches.push(Match::ReversePath { exists: false });
                }
                let comment = format!("overlay {}, claimed where it is not", overlay.name);
                chain.deny(matches, Reason::OverlaySpoof, comment, Some(&overlay.place));
            }
        }
    }

    fn peers(&self, chain: &mut Draft) {
        for source in self.source_in("peers") {
            chain.accept(source, Reason::Peers, None);
        }
    }

    /// Behind peers, who may; before allows, which must not open a tunnel to everybody.
    fn inject(&self, chain: &mut Draft) {
        for overlay in &self.policy.overlays {
            let matches = match overlay.tunnel {
                Some(Tunnel::Udp(range)) => vec![
                    Match::Protocol(UDP),
                    Match::DestinationPort(Ports::Range(range)),
                ],
                Some(Tunnel::Protocol(number)) => vec![Match::Protocol(number)],
                None => continue,
            };
            let comment = format!("overlay {}, tunnel from others than peers", overlay.name);
            chain.deny(
                matches,
                Reason::OverlayInject,
                comment,
                Some(&overlay.place),
            );
        }
    }

    fn overlays(&self, chain: &mut Draft) {
        for overlay in &self.policy.overlays {
            let reason = Reason::Overlay(overlay.name.clone());
            for arrival in arrivals(overlay) {
                for source in self.source_in(&overlay_set(&overlay.name)) {
                    let mut matches = Vec::new();
                    match &arrival {
                        Some(pattern) => {
                            matches.push(interface(pattern));
                            matches.extend(source);
                        }
                        None => {
                            matches.extend(source);
                            matches.push(Match::ReversePath { exists: true });
                        }
                    }
                    chain.accept(matches, reason.clone(), Some(&overlay.place));
                }
            }
        }
    }

    fn icmp_errors(&self, chain: &mut Draft) {
        if !self.policy.icmp.core {
            return;
        }
        for family in Family::BOTH {
            let set = format!("icmp-errors{}", family.digit());
            chain.accept(icmp_in(family, IcmpKinds::Set(set)), Reason::Icmp, None);
        }
    }

    fn icmp_for_host(&self, chain: &mut Draft) {
        self.icmp_errors(chain);
        if self.policy.icmp.core {
            for (set, hop_limit) in [
                ("icmp-nd6", icmp::HOP_LIMIT_ON_LINK),
                ("icmp-mld6", icmp::HOP_LIMIT_LISTENER),
            ] {
                let mut matches = icmp_in(Family::V6, IcmpKinds::Set(set.into()));
                matches.push(Match::HopLimit(hop_limit));
                chain.accept(matches, Reason::Icmp, None);
            }
        }
        for family in Family::BOTH {
            let matches = match self.icmp_listed(family) {
                // In this order: the other way round nft leaves out the family when it lists the
                // rule, and then loads another one.
                IcmpTypes::All => vec![Match::Protocol(icmp_number(family)), Match::Family(family)],
                IcmpTypes::Some(listed) if listed.is_empty() => continue,
                IcmpTypes::Some(_) => {
                    let set = format!("icmp-listed{}", family.digit());
                    icmp_in(family, IcmpKinds::Set(set))
                }
            };
            chain.accept(matches, Reason::Icmp, self.policy.icmp.place.as_ref());
        }
        self.ping(chain);
    }

    fn ping(&self, chain: &mut Draft) {
        for source in self.sources(&self.policy.icmp.ping, "ping") {
            for family in Family::BOTH {
                let echo = IcmpKinds::One(icmp::echo_request(family));
                match source.first() {
                    None => chain.accept(
                        icmp_in(family, echo),
                        Reason::Ping,
                        self.policy.icmp.place.as_ref(),
                    ),
                    Some(Match::Family(of)) if *of == family => {
                        let mut matches = source.clone();
                        matches.push(Match::Protocol(icmp_number(family)));
                        matches.push(Match::Icmp(echo));
                        chain.accept(matches, Reason::Ping, self.policy.icmp.place.as_ref());
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// RFC 2131 section 4.1 and RFC 8415 section 7.2. A DHCPv6 server may answer from a global
    /// address and any port; its answer always goes to a link-local address.
    #[expect(
        clippy::unused_self,
        reason = "one method for each part of the chain, whatever it needs of the policy"
    )]
    fn dhcp(&self, chain: &mut Draft) {
        chain.accept(
            vec![
                Match::Family(Family::V4),
                Match::Protocol(UDP),
                Match::SourcePort(PortRange::one(67)),
                Match::DestinationPort(Ports::Range(PortRange::one(68))),
            ],
            Reason::Dhcp,
            None,
        );
        let link_local =
            ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
        chain.accept(
            vec![
                Match::Family(Family::V6),
                Match::Destination(link_local.into()),
                Match::Protocol(UDP),
                Match::DestinationPort(Ports::Range(PortRange::one(546))),
            ],
            Reason::Dhcp,
            None,
        );
    }

    /// Behind peers and overlays, between whom asymmetric routes are normal, and behind ICMP:
    /// conntrack calls an error about a connection it never saw invalid.
    fn invalid(&self, chain: &mut Draft) {
        if self.policy.options.drop_invalid {
            let matches = vec![Match::CtState(CtStates::INVALID)];
            let comment = Reason::Invalid.sentence();
            chain.deny(matches, Reason::Invalid, comment, None);
        }
    }

    /// The allows, with ports matched by `port`: the header's, or the dialled one.
    fn allows(&self, chain: &mut Draft, port: fn(Ports) -> Match) {
        for allow in &self.policy.allows {
            let reason = Reason::Allow(allow.name.clone());
            for arrival in any_or_each(&allow.interfaces) {
                for source in self.sources(&allow.from, &allow_set(&allow.name)) {
                    for ports in port_matches(allow, port) {
                        let mut matches: Vec<Match> =
                            arrival.iter().copied().map(interface).collect();
                        matches.extend(source.iter().cloned());
                        matches.extend(ports);
                        chain.accept(matches, reason.clone(), Some(&allow.place));
                    }
                }
            }
        }
    }

    /// Matches for a list of sources; `inline` names the set of those written as addresses.
    fn sources(&self, from: &[Source], inline: &str) -> Vec<Vec<Match>> {
        if from.contains(&Source::Any) {
            return vec![Vec::new()];
        }
        let mut found = self.source_in(inline);
        let mut groups: Vec<&str> = Vec::new();
        for source in from {
            match source {
                Source::Group(name) if !groups.contains(&name.as_str()) => {
                    groups.push(name);
                    found.extend(self.source_in(&group_set(name)));
                }
                // In the inline set, or accepted long before.
                Source::Group(_)
                | Source::Net(_)
                | Source::Peer(_)
                | Source::Overlay(_)
                | Source::Any => {}
            }
        }
        found
    }

    /// One chain for each reason to deny: log within the rate, count, and end it.
    fn denials(&mut self) {
        let mut reasons = vec![Reason::InputDefault, Reason::ForwardDefault];
        if !self.policy.overlays.is_empty() {
            reasons.push(Reason::OverlaySpoof);
        }
        if self.policy.overlays.iter().any(|o| o.tunnel.is_some()) {
            reasons.push(Reason::OverlayInject);
        }
        if self.policy.options.drop_invalid {
            reasons.push(Reason::Invalid);
        }
        for reason in &reasons {
            self.denial(reason);
        }
    }

    fn denial(&mut self, reason: &Reason) {
        let mut rules = Vec::new();
        if let Some(log) = &self.policy.log {
            rules.push(Rule {
                limit: Some(log.rate),
                log: Some(LogTo {
                    group: log.group,
                    prefix: format!("{} {reason}: ", log.prefix),
                }),
                ..Rule::default()
            });
        }
        let end = |matches, action| Rule {
            matches,
            counter: Some(reason.to_string()),
            action: Some(action),
            ..Rule::default()
        };
        // Never an answer to a forged address, nor to what fits no connection.
        let answers = matches!(reason, Reason::InputDefault | Reason::ForwardDefault)
            && self.policy.options.denied == Denied::Reject;
        match answers {
            true => {
                rules.push(end(vec![Match::Protocol(TCP)], Action::RejectTcpReset));
                rules.push(end(Vec::new(), Action::RejectAdminProhibited));
            }
            false => rules.push(end(Vec::new(), Action::Drop)),
        }
        let name = reason.to_string();
        for index in 0..rules.len() {
            let origin = Origin {
                reason: reason.clone(),
                place: None,
            };
            self.origins.0.insert((name.clone(), index), origin);
        }
        self.ruleset.counters.insert(name.clone());
        self.ruleset.chains.push(Chain {
            name,
            base: None,
            rules,
        });
    }
}

fn overlay_set(name: &str) -> String {
    format!("overlay-{name}-ip")
}

fn group_set(name: &str) -> String {
    format!("group-{name}-ip")
}

fn allow_set(name: &str) -> String {
    format!("allow-{name}-ip")
}

fn hosts_set(name: &str, family: Family) -> String {
    format!("{name}{}", family.digit())
}

fn nets_set(name: &str, family: Family) -> String {
    format!("{name}{}-nets", family.digit())
}

fn port_set(allow: &str, protocol: u8) -> String {
    format!("allow-{allow}-{}", port::protocol_name(protocol))
}

fn inline_addresses(from: &[Source]) -> AddrSet {
    if from.contains(&Source::Any) {
        return AddrSet::default();
    }
    let nets = from.iter().filter_map(|source| match source {
        Source::Net(net) => Some((*net, None)),
        Source::Any | Source::Group(_) | Source::Peer(_) | Source::Overlay(_) => None,
    });
    nets.collect()
}

fn element(span: Span) -> Element {
    Element {
        first: span.first,
        last: span.last,
        comment: span.name,
    }
}

fn port_element(range: &PortRange) -> Element {
    Element {
        first: u128::from(range.first),
        last: u128::from(range.last),
        comment: None,
    }
}

fn kinds(list: &[u8]) -> Vec<Element> {
    list.iter()
        .map(|kind| Element::one(u128::from(*kind)))
        .collect()
}

fn interface(pattern: &InterfacePattern) -> Match {
    Match::Interface {
        pattern: pattern.clone(),
        negated: false,
    }
}

/// How an overlay's packets arrive: by each of its interfaces, and without a tunnel (`None`) also
/// from wherever the way back to them leads.
fn arrivals(overlay: &Overlay) -> Vec<Option<InterfacePattern>> {
    let by_interface = overlay.interfaces.iter().cloned().map(Some);
    let by_route = (!overlay.backend.is_tunnelled()).then_some(None);
    by_interface.chain(by_route).collect()
}

fn any_or_each(patterns: &[InterfacePattern]) -> Vec<Option<&InterfacePattern>> {
    match patterns.is_empty() {
        true => vec![None],
        false => patterns.iter().map(Some).collect(),
    }
}

fn icmp_number(family: Family) -> u8 {
    match family {
        Family::V4 => ICMP,
        Family::V6 => ICMPV6,
    }
}

fn icmp_in(family: Family, kinds: IcmpKinds) -> Vec<Match> {
    vec![
        Match::Family(family),
        Match::Protocol(icmp_number(family)),
        Match::Icmp(kinds),
    ]
}

/// Ports of an allow by protocol, in canonical form; `None` for a whole protocol.
fn ports_by_protocol(allow: &Allow) -> BTreeMap<u8, Option<Vec<PortRange>>> {
    let mut found: BTreeMap<u8, Option<Vec<PortRange>>> = BTreeMap::new();
    for spec in allow.ports.iter().flatten() {
        for protocol in &spec.protocols {
            let entry = found.entry(*protocol).or_insert_with(|| Some(Vec::new()));
            match (spec.range, entry.as_mut()) {
                (Some(range), Some(ranges)) => ranges.push(range),
                (None, _) => *entry = None,
                (Some(_), None) => {}
            }
        }
    }
    found
        .into_iter()
        .map(|(protocol, ranges)| (protocol, ranges.map(port::normalize)))
        .collect()
}

fn port_matches(allow: &Allow, port: fn(Ports) -> Match) -> Vec<Vec<Match>> {
    if allow.ports.is_none() {
        return vec![Vec::new()];
    }
    ports_by_protocol(allow)
        .into_iter()
        .map(|(protocol, ranges)| {
            let mut matches = vec![Match::Protocol(protocol)];
            matches.extend(match ranges.as_deref() {
                None => None,
                Some([range]) => Some(port(Ports::Range(*range))),
                Some(_) => Some(port(Ports::Set(port_set(&allow.name, protocol)))),
            });
            matches
        })
        .collect()
}
