//! Compiles the ICMP that networks need or that the policy lists, and replies to DHCP clients.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::net::addr::Family;
use crate::net::port::{PortRange, UDP};
use crate::policy::reason::Reason;
use crate::policy::{IcmpTypes, icmp};
use crate::ruleset::{IcmpKinds, Match, Ports};

use super::chain::ChainDraft;
use super::sets::DHCP_SET;
use super::{Compiler, icmp_in, icmp_number, interface};

/// fe80::/10 (RFC 4291 section 2.5.6)
fn link_local() -> IpNet {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).into()
}

impl Compiler<'_> {
    pub(super) fn icmp_listed(&self, family: Family) -> &IcmpTypes {
        match family {
            Family::V4 => &self.policy.icmp.v4,
            Family::V6 => &self.policy.icmp.v6,
        }
    }

    fn icmp_errors(&self, chain: &mut ChainDraft) {
        for family in Family::BOTH {
            let set = format!("icmp-errors{}", family.digit());
            chain.accept(icmp_in(family, IcmpKinds::Set(set)), Reason::Icmp, None);
        }
    }

    /// Accepts errors, and neighbour and listener discovery that a bridge forwards. A router would
    /// have decremented the hop limit, and does not forward link-local sources.
    pub(super) fn icmp_through(&self, chain: &mut ChainDraft) {
        if self.policy.icmp.core {
            self.icmp_errors(chain);
            self.on_link(chain);
        }
    }

    /// Accepts neighbour discovery and multicast listener discovery from this link only. The hop
    /// limit proves the origin of the former, the source address that of the latter, because a
    /// remote host can make a packet arrive with a hop limit of 1.
    #[expect(
        clippy::unused_self,
        reason = "every part of the chain is a method, even if it does not need the policy"
    )]
    fn on_link(&self, chain: &mut ChainDraft) {
        let unspecified = IpNet::from(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        for (set, hop_limit, source) in [
            ("icmp-nd6", icmp::HOP_LIMIT_ON_LINK, None),
            ("icmp-mld6", icmp::HOP_LIMIT_LISTENER, Some(link_local())),
            ("icmp-reports6", icmp::HOP_LIMIT_LISTENER, Some(unspecified)),
        ] {
            let mut matches = icmp_in(Family::V6, IcmpKinds::Set(set.into()));
            matches.push(Match::HopLimit(hop_limit));
            matches.extend(source.map(Match::SourceNet));
            chain.accept(matches, Reason::Icmp, None);
        }
    }

    pub(super) fn icmp_for_host(&self, chain: &mut ChainDraft) {
        if self.policy.icmp.core {
            self.icmp_errors(chain);
            self.on_link(chain);
            // IGMP is the IPv4 counterpart of listener discovery (RFC 3376). Without it a snooping
            // switch stops delivering multicast. It is sent with a TTL of 1.
            let igmp = vec![
                Match::Protocol(IGMP),
                Match::Family(Family::V4),
                Match::Ttl(icmp::HOP_LIMIT_LISTENER),
            ];
            chain.accept(igmp, Reason::Icmp, None);
        }
        for family in Family::BOTH {
            let matches = match self.icmp_listed(family) {
                // The order matters: otherwise nft omits the family when it lists the rule, and the
                // listing would load as a different rule.
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

    fn ping(&self, chain: &mut ChainDraft) {
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

    /// Accepts replies to a DHCP client (RFC 2131 section 4.1, RFC 8415 section 7.2).
    ///
    /// Broadcasts and packets to a link-local address come from this link. Unicast replies from
    /// public addresses are not accepted, because they could come from anywhere. A DHCPv6 server
    /// may reply from a global address and any port.
    pub(super) fn dhcp(&self, chain: &mut ChainDraft) {
        let to_client = || {
            // The family is last: nft prints it there if an address follows.
            vec![
                Match::Protocol(UDP),
                Match::SourcePort(Ports::Range(PortRange::one(67))),
                Match::DestinationPort(Ports::Range(PortRange::one(68))),
                Match::Family(Family::V4),
            ]
        };
        let broadcast = IpNet::from(std::net::IpAddr::V4(Ipv4Addr::BROADCAST));
        let mut matches = to_client();
        matches.push(Match::Destination(broadcast));
        chain.accept(matches, Reason::Dhcp, None);
        for source in self.source_in(DHCP_SET) {
            let mut matches = to_client();
            matches.extend(source.into_iter().filter(|each| each.family().is_none()));
            chain.accept(matches, Reason::Dhcp, None);
        }
        chain.accept(
            vec![
                Match::Family(Family::V6),
                Match::Destination(link_local()),
                Match::Protocol(UDP),
                Match::DestinationPort(Ports::Range(PortRange::one(546))),
            ],
            Reason::Dhcp,
            None,
        );
    }

    /// Accepts requests to a DHCP server on this host from clients without an address (RFC 2131
    /// section 4.1, RFC 8415 section 7.2).
    pub(super) fn dhcp_requests(&self, chain: &mut ChainDraft) {
        let unspecified = IpNet::from(Ipv4Net::from(Ipv4Addr::UNSPECIFIED));
        for overlay in &self.policy.overlays {
            for pattern in overlay.dhcp_side() {
                for (family, source, port) in [
                    (Family::V4, unspecified, 67),
                    (Family::V6, link_local(), 547),
                ] {
                    let matches = vec![
                        interface(pattern),
                        Match::Family(family),
                        Match::SourceNet(source),
                        Match::Protocol(UDP),
                        Match::DestinationPort(Ports::Range(PortRange::one(port))),
                    ];
                    chain.accept(matches, Reason::Dhcp, Some(&overlay.place));
                }
            }
        }
    }
}

/// `IPPROTO_IGMP`
const IGMP: u8 = 2;
