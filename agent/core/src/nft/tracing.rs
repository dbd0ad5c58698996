//! A temporary table that makes the kernel trace packets.

use std::net::IpAddr;

use ipnet::IpNet;
use peerwall_proto::netlink::attr::{AttrWriter, TooLong};
use peerwall_proto::netlink::message::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use peerwall_proto::nf_tables::batch::Batch;
use peerwall_proto::nf_tables::expr::{Data, Immediate, Meta};
use peerwall_proto::nf_tables::{
    Attributes, Chain, Hook, NF_ACCEPT, NF_INET_PRE_ROUTING, NFPROTO_INET, Nested, Rule, Table, msg,
};

use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::packet::Transport;
use crate::net::port::PortRange;
use crate::policy::{Rate, RateUnit};
use crate::ruleset::{self, IcmpKinds, Match, Ports};

/// Beginning of the table's name; the number of the process follows.
pub const NAME: &str = "peerwall-trace-";
/// Priority of the chains: before every other chain and before connection tracking.
const PRIORITY: i32 = -1_000_000;
/// `NF_INET_LOCAL_OUT`
const NF_INET_LOCAL_OUT: u32 = 3;
/// `NFT_META_NFTRACE`
const NFT_META_NFTRACE: u32 = 12;
/// Number of packets that are traced in a second, so that a flood does not fill the socket.
const PER_SECOND: u32 = 20;

/// Which packets are traced. What is not said is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Source address.
    pub from: Option<IpAddr>,
    /// Destination address, before any DNAT.
    pub to: Option<IpAddr>,
    /// Destination port or type of ICMP, before any DNAT.
    pub transport: Option<Transport>,
    /// Incoming interface.
    pub interface: Option<String>,
}

impl Filter {
    /// Reports whether the filter names nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn matches(&self) -> Vec<Match> {
        let mut all = Vec::new();
        if let Some(name) = &self.interface
            && let Ok(pattern) = InterfacePattern::parse(name)
        {
            all.push(Match::Interface {
                pattern,
                negated: false,
            });
        }
        let address = self.from.or(self.to);
        if let Some(address) = address {
            all.push(Match::Family(Family::of(address)));
        }
        all.extend(self.from.map(|from| Match::SourceNet(IpNet::from(from))));
        all.extend(self.to.map(|to| Match::Destination(IpNet::from(to))));
        match self.transport {
            Some(Transport::Ports {
                protocol,
                destination,
                ..
            }) => {
                all.push(Match::Protocol(protocol));
                all.push(Match::DestinationPort(Ports::Range(PortRange {
                    first: destination,
                    last: destination,
                })));
            }
            Some(Transport::Icmp { kind, .. }) => {
                let family = address.map_or(Family::V4, Family::of);
                let protocol = match family {
                    Family::V4 => crate::net::port::ICMP,
                    Family::V6 => crate::net::port::ICMPV6,
                };
                if address.is_none() {
                    all.push(Match::Family(family));
                }
                all.push(Match::Protocol(protocol));
                all.push(Match::Icmp(IcmpKinds::One(kind)));
            }
            Some(Transport::Other(protocol)) => all.push(Match::Protocol(protocol)),
            None => {}
        }
        all
    }
}

/// Builds the messages that create the table. `flags` are those of the table (`NFT_TABLE_F_*`).
///
/// # Errors
/// [`TooLong`] if the name is too long for an attribute.
pub fn create(name: &str, flags: u32, filter: &Filter) -> Result<Batch<()>, TooLong> {
    let mut batch = Batch::new();
    let mut push = |kind, flags, object: AttrWriter| -> Result<(), TooLong> {
        batch.push((), NFPROTO_INET, kind, flags, object.finish()?);
        Ok(())
    };
    let new = NLM_F_CREATE | NLM_F_EXCL;
    let table = Table {
        name: Some(name.to_owned()),
        flags: Some(flags),
        ..Table::default()
    };
    push(msg::NFT_MSG_NEWTABLE, new, encoded(&table))?;
    for (chain, hook) in [
        ("prerouting", NF_INET_PRE_ROUTING),
        ("output", NF_INET_LOCAL_OUT),
    ] {
        let base = Chain {
            table: Some(name.to_owned()),
            name: Some(chain.to_owned()),
            hook: Some(Nested(Hook {
                hooknum: Some(hook),
                priority: Some(PRIORITY.cast_unsigned()),
                ..Hook::default()
            })),
            policy: Some(NF_ACCEPT),
            kind: Some("filter".to_owned()),
            ..Chain::default()
        };
        push(msg::NFT_MSG_NEWCHAIN, new, encoded(&base))?;
        let rule = ruleset::Rule {
            matches: filter.matches(),
            limit: Some(Rate {
                count: PER_SECOND,
                unit: RateUnit::Second,
                burst: PER_SECOND,
            }),
            ..ruleset::Rule::default()
        };
        let mut exprs = super::expr::rule_exprs(&rule);
        exprs.push(
            Immediate {
                dreg: Some(1),
                data: Some(Data::value([1])),
                ..Immediate::default()
            }
            .into(),
        );
        exprs.push(
            Meta {
                key: Some(NFT_META_NFTRACE),
                sreg: Some(1),
                ..Meta::default()
            }
            .into(),
        );
        let rule = Rule {
            table: Some(name.to_owned()),
            chain: Some(chain.to_owned()),
            exprs: Some(exprs),
            ..Rule::default()
        };
        push(
            msg::NFT_MSG_NEWRULE,
            NLM_F_CREATE | NLM_F_APPEND,
            encoded(&rule),
        )?;
    }
    Ok(batch)
}

/// Builds the message that deletes the table.
///
/// # Errors
/// [`TooLong`] if the name is too long for an attribute.
pub fn delete(name: &str) -> Result<Batch<()>, TooLong> {
    let mut batch = Batch::new();
    let table = Table {
        name: Some(name.to_owned()),
        ..Table::default()
    };
    let attrs = encoded(&table).finish()?;
    batch.push((), NFPROTO_INET, msg::NFT_MSG_DELTABLE, 0, attrs);
    Ok(batch)
}

fn encoded(object: &impl Attributes) -> AttrWriter {
    let mut w = AttrWriter::new();
    object.encode(&mut w);
    w
}
