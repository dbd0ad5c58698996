//! Compiles a policy into a ruleset. No other code builds rules.
//!
//! The order of the rules is part of the policy's meaning; `docs/policy.md` explains it and what
//! leaks if it changes. Peers precede the injection drops, which therefore need not exclude peers:
//! a peer's tunnel packet has been accepted before.

mod allows;
mod chain;
mod denials;
mod icmp;
mod overlays;
mod ports;
pub(super) mod sets;

use std::collections::HashMap;

pub use chain::{Origin, Origins};

use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::Hook;
use crate::net::port::{self, ICMP, ICMPV6, PortRange, UDP};
use crate::policy::reason::Reason;
use crate::policy::{IcmpTypes, Policy};
use crate::ruleset::{Action, Chain, CtStates, IcmpKinds, Match, Ports, Rule, Ruleset};
use chain::{ChainDraft, base_name};
use sets::AddressSets;

/// Regular chain for packets from interfaces of pods or guests.
const POD_SIDE: &str = "pod-side";
/// Regular chain for packets from an overlay's tunnel interface.
const TUNNEL_SIDE: &str = "tunnel-side";
/// Regular chain for packets from interfaces that may have both pods and peers.
const ROUTE_SIDE: &str = "route-side";
/// Regular chain for packets from `lo`.
const LOOPBACK: &str = "loopback";

/// Compiles a policy.
pub fn compile(policy: &Policy) -> (Ruleset, Origins) {
    compile_for(policy, Purpose::Kernel)
}

/// Compiles a policy for evaluation, without what decides about no packet: comments, the list of
/// counters, and, if no packet is DNATed, rules for DNATed packets. A large policy has one of each
/// for each allow.
pub(crate) fn compile_bare(policy: &Policy, has_dnated: bool) -> Ruleset {
    compile_for(policy, Purpose::Evaluation { has_dnated }).0
}

fn compile_for(policy: &Policy, purpose: Purpose) -> (Ruleset, Origins) {
    let mut compiler = Compiler {
        policy,
        purpose,
        ruleset: Ruleset::default(),
        origins: Origins::default(),
        address_sets: HashMap::new(),
    };
    compiler.declare_sets();
    compiler.prerouting();
    compiler.input();
    compiler.forward();
    compiler.sides();
    compiler.published();
    compiler.denials();
    (compiler.ruleset.normalized(), compiler.origins)
}

/// What a ruleset is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Kernel,
    Evaluation { has_dnated: bool },
}

struct Compiler<'p> {
    policy: &'p Policy,
    purpose: Purpose,
    ruleset: Ruleset,
    origins: Origins,
    /// Which sets of addresses there are, by the name of the list that they are made of.
    address_sets: HashMap<String, AddressSets>,
}

impl Compiler<'_> {
    /// Adds a finished chain and its counters to the ruleset.
    fn add(&mut self, mut draft: ChainDraft) {
        // Large policies have a rule for each allow.
        draft.origins.shrink_to_fit();
        draft.rules.shrink_to_fit();
        for rule in &mut draft.rules {
            rule.matches.shrink_to_fit();
        }
        if self.purpose == Purpose::Kernel {
            self.origins.0.insert(draft.name.clone(), draft.origins);
            let counters = draft.rules.iter().filter_map(|rule| rule.counter.clone());
            self.ruleset.counters.extend(counters);
        } else {
            draft.rules.iter_mut().for_each(|rule| rule.comment = None);
        }
        self.ruleset.chains.push(Chain {
            name: draft.name,
            base: draft.base,
            rules: draft.rules,
        });
    }

    /// Adds the prerouting chain, which runs before DNAT and the routing decision.
    ///
    /// Spoofed loopback addresses are dropped here, because later hooks do not see the original
    /// destination. Connections to this host's own addresses get a label, because later hooks
    /// cannot look up the original destination in the routing table. Only the first packet of a
    /// connection is examined.
    fn prerouting(&mut self) {
        let mut chain = ChainDraft::prerouting();
        let has_allows = !self.policy.allows.is_empty();
        let mut pass = |condition| {
            chain.go(
                vec![condition],
                Action::Accept,
                None,
                Reason::Established,
                None,
            );
        };
        pass(Match::CtState(CtStates::KNOWN));
        if has_allows {
            pass(Match::DialledHere);
        }
        pass(Match::Loopback);
        for (family, net) in [(Family::V4, "127.0.0.0/8"), (Family::V6, "::1/128")] {
            let net: ipnet::IpNet = net.parse().unwrap_or_default();
            for address in [Match::SourceNet(net), Match::Destination(net)] {
                chain.deny_as(vec![Match::Family(family), address], Reason::LoopbackSpoof);
            }
        }
        if has_allows {
            // With kube-proxy in IPVS mode these are local too, but they are not addresses of this
            // host.
            for service in self.destination_in(sets::SERVICES_SET) {
                chain.go(
                    service,
                    Action::Accept,
                    Some("cluster service addresses".into()),
                    Reason::ServiceAddress,
                    None,
                );
            }
            let rule = Rule {
                matches: vec![Match::Local],
                label: true,
                comment: Some("original destination is this host".into()),
                ..Rule::default()
            };
            chain.push(rule, Reason::InputDefault, None);
        }
        self.add(chain);
    }

    fn input(&mut self) {
        let mut chain = ChainDraft::base(Hook::Input, self.policy.options.hook_priority);
        self.known(&mut chain, Hook::Input);
        self.loopback(&mut chain);
        self.trusted(&mut chain);
        self.hand_to_sides(&mut chain);
        self.hand_to_overlays(&mut chain, Hook::Input);
        self.peers(&mut chain);
        self.inject(&mut chain);
        self.icmp_for_host(&mut chain);
        self.dhcp(&mut chain);
        self.dhcp_requests(&mut chain);
        self.guest_services(&mut chain);
        self.hand_to_published(&mut chain, Hook::Input);
        self.invalid(&mut chain);
        self.hand_to_services(&mut chain);
        self.allows_for_host(&mut chain);
        chain.deny_as(Vec::new(), Reason::InputDefault);
        self.add(chain);
    }

    fn forward(&mut self) {
        let mut chain = ChainDraft::base(Hook::Forward, self.policy.options.hook_priority);
        self.known(&mut chain, Hook::Forward);
        self.bridged(&mut chain);
        self.trusted(&mut chain);
        self.hand_to_sides(&mut chain);
        self.hand_to_overlays(&mut chain, Hook::Forward);
        self.peers(&mut chain);
        self.inject_through(&mut chain);
        self.icmp_through(&mut chain);
        self.hand_to_published(&mut chain, Hook::Forward);
        self.allows_to_overlays(&mut chain);
        self.invalid(&mut chain);
        self.allows_through(&mut chain);
        self.guests(&mut chain);
        self.switches(&mut chain);
        chain.deny_as(Vec::new(), Reason::ForwardDefault);
        self.add(chain);
    }

    /// Accepts known connections. Established packets come first, because they are nearly all
    /// packets. Related packets get a chain of their own: an ICMP redirect about a known connection
    /// is related to it (`icmp_error_message()` in `nf_conntrack_proto_icmp.c`) and would change a
    /// route.
    fn known(&mut self, chain: &mut ChainDraft, hook: Hook) {
        let refused: Vec<Family> = Family::BOTH
            .into_iter()
            .filter(|family| !self.takes_redirects(*family))
            .collect();
        let reason = Reason::Established;
        if refused.is_empty() {
            let states = vec![Match::CtState(CtStates::KNOWN)];
            return chain.accept(states, reason, None);
        }
        let established = vec![Match::CtState(CtStates::ESTABLISHED)];
        chain.accept(established, reason.clone(), None);
        let name = format!("related-{hook}");
        let related = vec![Match::CtState(CtStates::RELATED)];
        let comment = Some("related to known connections".into());
        let to_related = Action::Goto(name.clone());
        chain.go(related, to_related, comment, reason.clone(), None);
        let mut inside = ChainDraft::regular(name, base_name(hook));
        for family in refused {
            let kind = IcmpKinds::One(crate::policy::icmp::redirect(family));
            inside.deny_as(icmp_in(family, kind), Reason::Redirect);
        }
        inside.accept(Vec::new(), reason, None);
        self.add(inside);
    }

    fn takes_redirects(&self, family: Family) -> bool {
        match self.icmp_listed(family) {
            IcmpTypes::All => true,
            IcmpTypes::Some(kinds) => kinds.contains(&crate::policy::icmp::redirect(family)),
        }
    }

    /// Accepts loopback packets except those to a tunnel. A tunnel treats every packet that reaches
    /// its port as a peer's, so an unprivileged local user could inject packets through `lo`.
    fn loopback(&mut self, chain: &mut ChainDraft) {
        if !self.policy.overlays.iter().any(|o| o.guards_tunnel()) {
            return chain.accept(vec![Match::Loopback], Reason::Loopback, None);
        }
        let to_chain = Action::Goto(LOOPBACK.into());
        chain.go(
            vec![Match::Loopback],
            to_chain,
            None,
            Reason::Loopback,
            None,
        );
        let mut inside = ChainDraft::regular(LOOPBACK, base_name(Hook::Input));
        self.guard_tunnels(&mut inside);
        inside.accept(Vec::new(), Reason::Loopback, None);
        self.add(inside);
    }

    fn trusted(&self, chain: &mut ChainDraft) {
        for pattern in &self.policy.trusted {
            chain.accept(vec![interface(pattern)], Reason::Trusted, None);
        }
    }

    /// Accepts frames that only cross a bridge, which pass the forward hook because of
    /// `br_netfilter`. DNATed frames had another original destination and are judged by the policy.
    fn bridged(&mut self, chain: &mut ChainDraft) {
        if self.policy.bridged.is_empty() {
            return;
        }
        const BRIDGED: &str = "bridged";
        for pattern in &self.policy.bridged {
            let matches = vec![interface(pattern), Match::OutInterface(pattern.clone())];
            let jump = Action::Jump(BRIDGED.into());
            chain.go(matches, jump, None, Reason::Bridged, None);
        }
        let mut inside = ChainDraft::regular(BRIDGED, base_name(Hook::Forward));
        // Untracked packets have no conntrack status, so the second rule does not match them.
        let untracked = Match::CtState(CtStates::WITHOUT_CONNECTION);
        inside.accept(vec![untracked], Reason::Bridged, None);
        inside.accept(vec![Match::NotDnat], Reason::Bridged, None);
        self.add(inside);
    }

    /// Accepts frames between other hosts on a bridge of this host, which pass this hook only
    /// because of `br_netfilter`. Traffic that a router forwards out of its input interface looks
    /// the same and may be masqueraded, so peers and pods, which trust this host fully, are
    /// excluded.
    fn switches(&mut self, chain: &mut ChainDraft) {
        if self.policy.switches.is_empty() {
            return;
        }
        const SWITCHED: &str = "switched";
        for pattern in &self.policy.switches {
            let matches = vec![interface(pattern), Match::OutInterface(pattern.clone())];
            let to_chain = Action::Goto(SWITCHED.into());
            chain.go(matches, to_chain, None, Reason::Bridged, None);
        }
        let mut inside = ChainDraft::regular(SWITCHED, base_name(Hook::Forward));
        inside.deny_as(vec![Match::Dnat], Reason::ForwardDefault);
        let overlays = self.policy.overlays.iter().filter(|o| !o.is_on_lan());
        let names = overlays.map(|overlay| sets::overlay_set(&overlay.name));
        for set in sets::ALL_PEERS.map(str::to_owned).into_iter().chain(names) {
            for matches in self.destination_in(&set) {
                inside.deny_as(matches, Reason::ForwardDefault);
            }
        }
        inside.accept(Vec::new(), Reason::Bridged, None);
        self.add(inside);
    }

    fn peers(&self, chain: &mut ChainDraft) {
        for source in self.sources_of_peers() {
            chain.accept(source, Reason::Peers, None);
        }
    }

    /// Drops invalid packets. This comes after peers and overlays, between which asymmetric routes
    /// are normal, and after ICMP, because conntrack marks an error about an unknown connection
    /// invalid.
    fn invalid(&self, chain: &mut ChainDraft) {
        if self.policy.options.drop_invalid {
            chain.deny_as(vec![Match::CtState(CtStates::INVALID)], Reason::Invalid);
        }
    }

    /// Accepts DHCP and DNS requests of guests to this host.
    fn guest_services(&self, chain: &mut ChainDraft) {
        for pattern in &self.policy.guests {
            for (protocol, ports) in [
                (
                    UDP,
                    vec![PortRange::one(53), PortRange::one(67), PortRange::one(547)],
                ),
                (port::TCP, vec![PortRange::one(53)]),
            ] {
                for range in ports {
                    let matches = vec![
                        interface(pattern),
                        Match::Protocol(protocol),
                        Match::DestinationPort(Ports::Range(range)),
                    ];
                    chain.accept(matches, Reason::Guests, None);
                }
            }
        }
    }

    /// Accepts guest traffic except to peers and pods. Masquerading would make it look like traffic
    /// of this host, which they trust fully.
    fn guests(&mut self, chain: &mut ChainDraft) {
        if self.policy.guests.is_empty() {
            return;
        }
        const GUESTS: &str = "guests";
        for pattern in &self.policy.guests {
            let to_chain = Action::Goto(GUESTS.into());
            chain.go(
                vec![interface(pattern)],
                to_chain,
                None,
                Reason::Guests,
                None,
            );
        }
        let mut inside = ChainDraft::regular(GUESTS, base_name(Hook::Forward));
        let overlays = self.policy.overlays.iter();
        let names = overlays.map(|overlay| sets::overlay_set(&overlay.name));
        for set in sets::ALL_PEERS.map(str::to_owned).into_iter().chain(names) {
            for matches in self.destination_in(&set) {
                inside.deny_as(matches, Reason::GuestBlocked);
            }
        }
        inside.accept(Vec::new(), Reason::Guests, None);
        self.add(inside);
    }
}

fn interface(pattern: &InterfacePattern) -> Match {
    Match::Interface {
        pattern: pattern.clone(),
        negated: false,
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
