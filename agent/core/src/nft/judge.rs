//! Tables beside peerwall's that count test packets, and that translate a packet or exempt it from
//! connection tracking. Only for namespaces without other rules.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use peerwall_proto::netlink::attr::{AttrWriter, TooLong, u16_network};
use peerwall_proto::netlink::message::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use peerwall_proto::nf_tables::batch::Batch;
use peerwall_proto::nf_tables::expr::{Data, Expr, Immediate, Nat};
use peerwall_proto::nf_tables::{
    Attributes, Chain, Hook, NF_ACCEPT, NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_PRE_ROUTING,
    NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFT_OBJECT_COUNTER, Nested, Object, Rule, Table, msg,
};

use super::expr::rule_exprs;
use crate::net::addr::Family;
use crate::net::port::{ICMP, ICMPV6, PortRange, TCP};
use crate::ruleset::{self, Action, IcmpKinds, Match, Ports};
use crate::testing::setup::Translation;

/// Name of the table that counts.
pub const TABLE: &str = "peerwall-test";
/// Name of the table with the DNAT or the exemption of one packet.
const HELPER: &str = "peerwall-test-packet";
/// Counter of the fence, which ends a test.
pub const FENCE: &str = "fence";
/// Counter of packets that passed every chain of their hook.
pub const PASSED: &str = "passed";
/// Counter of what only a reject sends: a TCP reset, or an ICMP error that says so.
pub const ANSWERED: &str = "answered";

/// Source of the fence, of a reserved network (RFC 1112 section 4) that no policy names.
pub const FENCE_FROM: Ipv4Addr = Ipv4Addr::new(240, 0, 7, 78);
/// Destination of the fence.
pub const FENCE_TO: Ipv4Addr = Ipv4Addr::new(240, 0, 7, 77);
/// Protocol of the fence, for experiments (RFC 3692).
pub const FENCE_PROTOCOL: u8 = 253;

/// Before every other chain, and after every other.
const FIRST: i32 = -1_000_000;
const LAST: i32 = 1_000_000;
/// `NF_IP_PRI_RAW`: before connection tracking.
const RAW: i32 = -300;
/// `NF_IP_PRI_NAT_DST`
const DNAT: i32 = -100;
/// `NF_INET_LOCAL_OUT`
const NF_INET_LOCAL_OUT: u32 = 3;
/// `NFT_NAT_DNAT`
const NFT_NAT_DNAT: u32 = 1;
/// TCP reset: RST is set, whatever else.
const TCP_RST: u8 = 0x04;
/// Code "communication administratively prohibited" of "destination unreachable" (RFC 1812, RFC
/// 4443).
const PROHIBITED: [(Family, u8, u8, u8); 2] =
    [(Family::V4, ICMP, 3, 13), (Family::V6, ICMPV6, 1, 1)];

/// Builds the messages of a table.
struct Builder {
    batch: Batch<()>,
    table: &'static str,
    family: u8,
}

impl Builder {
    fn new(table: &'static str, family: u8) -> Result<Self, TooLong> {
        let mut builder = Self {
            batch: Batch::new(),
            table,
            family,
        };
        let new = Table {
            name: Some(table.to_owned()),
            ..Table::default()
        };
        builder.push(msg::NFT_MSG_NEWTABLE, NLM_F_EXCL, &new)?;
        Ok(builder)
    }

    fn push(&mut self, kind: u16, flags: u16, object: &impl Attributes) -> Result<(), TooLong> {
        let mut w = AttrWriter::new();
        object.encode(&mut w);
        let flags = NLM_F_CREATE | flags;
        self.batch.push((), self.family, kind, flags, w.finish()?);
        Ok(())
    }

    fn counter(&mut self, name: &str) -> Result<(), TooLong> {
        let counter = Object {
            table: Some(self.table.to_owned()),
            name: Some(name.to_owned()),
            kind: Some(NFT_OBJECT_COUNTER),
            data: Some(Vec::new()),
            ..Object::default()
        };
        self.push(msg::NFT_MSG_NEWOBJ, NLM_F_EXCL, &counter)
    }

    fn chain(&mut self, name: &str, kind: &str, at: (u32, i32)) -> Result<(), TooLong> {
        let (hook, priority) = at;
        let chain = Chain {
            table: Some(self.table.to_owned()),
            name: Some(name.to_owned()),
            hook: Some(Nested(Hook {
                hooknum: Some(hook),
                priority: Some(priority.cast_unsigned()),
                ..Hook::default()
            })),
            policy: Some(NF_ACCEPT),
            kind: Some(kind.to_owned()),
            ..Chain::default()
        };
        self.push(msg::NFT_MSG_NEWCHAIN, NLM_F_EXCL, &chain)
    }

    fn rule(&mut self, chain: &str, exprs: Vec<Expr>) -> Result<(), TooLong> {
        let rule = Rule {
            table: Some(self.table.to_owned()),
            chain: Some(chain.to_owned()),
            exprs: Some(exprs),
            ..Rule::default()
        };
        self.push(msg::NFT_MSG_NEWRULE, NLM_F_APPEND, &rule)
    }
}

/// Builds the messages that create the table that counts.
///
/// # Errors
/// [`TooLong`]; never, because all names are short.
pub fn create() -> Result<Batch<()>, TooLong> {
    let mut builder = Builder::new(TABLE, NFPROTO_INET)?;
    for name in [FENCE, PASSED, ANSWERED] {
        builder.counter(name)?;
    }
    builder.chain("first", "filter", (NF_INET_PRE_ROUTING, FIRST))?;
    let fence = ruleset::Rule {
        matches: vec![
            Match::Family(Family::V4),
            Match::SourceNet(IpNet::from(std::net::IpAddr::V4(FENCE_FROM))),
            Match::Destination(IpNet::from(std::net::IpAddr::V4(FENCE_TO))),
            Match::Protocol(FENCE_PROTOCOL),
        ],
        counter: Some(FENCE.to_owned()),
        action: Some(Action::Drop),
        ..ruleset::Rule::default()
    };
    builder.rule("first", rule_exprs(&fence))?;
    let passed = ruleset::Rule {
        counter: Some(PASSED.to_owned()),
        ..ruleset::Rule::default()
    };
    for (name, hook) in [("input", NF_INET_LOCAL_IN), ("forward", NF_INET_FORWARD)] {
        builder.chain(name, "filter", (hook, LAST))?;
        builder.rule(name, rule_exprs(&passed))?;
    }
    builder.chain("output", "filter", (NF_INET_LOCAL_OUT, LAST))?;
    builder.rule("output", reset())?;
    for (family, protocol, kind, code) in PROHIBITED {
        let rule = ruleset::Rule {
            matches: vec![
                Match::Family(family),
                Match::Protocol(protocol),
                Match::Icmp(IcmpKinds::One(kind)),
            ],
            counter: Some(ANSWERED.to_owned()),
            ..ruleset::Rule::default()
        };
        let mut exprs = rule_exprs(&rule);
        let at = exprs.len() - 1;
        exprs.splice(at..at, byte_is(1, u8::MAX, code));
        builder.rule("output", exprs)?;
    }
    Ok(builder.batch)
}

/// Counts TCP resets.
fn reset() -> Vec<Expr> {
    let rule = ruleset::Rule {
        matches: vec![Match::Protocol(TCP)],
        counter: Some(ANSWERED.to_owned()),
        ..ruleset::Rule::default()
    };
    let mut exprs = rule_exprs(&rule);
    let at = exprs.len() - 1;
    exprs.splice(at..at, byte_is(13, TCP_RST, TCP_RST));
    exprs
}

/// Compares the bits of `mask` in a byte of the transport header.
fn byte_is(offset_bytes: u32, mask: u8, value: u8) -> [Expr; 3] {
    use peerwall_proto::nf_tables::expr::{Bitwise, Cmp, Payload};
    const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
    const NFT_CMP_EQ: u32 = 0;
    let register = Some(1);
    [
        Payload {
            dreg: register,
            base: Some(NFT_PAYLOAD_TRANSPORT_HEADER),
            offset_bytes: Some(offset_bytes),
            len_bytes: Some(1),
            ..Payload::default()
        }
        .into(),
        Bitwise {
            sreg: register,
            dreg: register,
            len_bytes: Some(1),
            mask: Some(Data::value([mask])),
            xor: Some(Data::value([0])),
            ..Bitwise::default()
        }
        .into(),
        Cmp {
            sreg: register,
            op: Some(NFT_CMP_EQ),
            data: Some(Data::value([value])),
            ..Cmp::default()
        }
        .into(),
    ]
}

/// Builds the messages that create the DNAT of one packet.
///
/// # Errors
/// [`TooLong`]; never, because all names are short.
pub fn translate(translation: &Translation) -> Result<Batch<()>, TooLong> {
    let dialled = translation.dialled;
    let family = Family::of(dialled.address);
    let mut builder = Builder::new(HELPER, family_number(family))?;
    builder.chain("pre", "nat", (NF_INET_PRE_ROUTING, DNAT))?;
    let range = PortRange::one(dialled.port);
    let rule = ruleset::Rule {
        matches: vec![
            Match::Family(family),
            Match::Destination(IpNet::from(dialled.address)),
            Match::Protocol(translation.protocol),
            Match::DestinationPort(Ports::Range(range)),
        ],
        ..ruleset::Rule::default()
    };
    let mut exprs = rule_exprs(&rule);
    let address = match translation.to.ip() {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    let port = u16_network(translation.to.port()).to_vec();
    for (register, value) in [(1, address), (2, port)] {
        exprs.push(
            Immediate {
                dreg: Some(register),
                data: Some(Data::value(value)),
                ..Immediate::default()
            }
            .into(),
        );
    }
    exprs.push(
        Nat {
            kind: Some(NFT_NAT_DNAT),
            family: Some(u32::from(family_number(family))),
            reg_addr_min: Some(1),
            reg_proto_min: Some(2),
            ..Nat::default()
        }
        .into(),
    );
    builder.rule("pre", exprs)?;
    Ok(builder.batch)
}

/// Builds the messages that exempt packets from connection tracking.
///
/// # Errors
/// [`TooLong`]; never, because all names are short.
pub fn exempt(family: Family) -> Result<Batch<()>, TooLong> {
    let mut builder = Builder::new(HELPER, family_number(family))?;
    builder.chain("pre", "filter", (NF_INET_PRE_ROUTING, RAW))?;
    builder.rule("pre", vec![Expr::Notrack])?;
    Ok(builder.batch)
}

/// Builds the message that deletes the table of [`translate`] or [`exempt`].
///
/// # Errors
/// [`TooLong`]; never, because the name is short.
pub fn delete(family: Family) -> Result<Batch<()>, TooLong> {
    let table = Table {
        name: Some(HELPER.to_owned()),
        ..Table::default()
    };
    let mut w = AttrWriter::new();
    table.encode(&mut w);
    let mut batch = Batch::new();
    let family = family_number(family);
    batch.push((), family, msg::NFT_MSG_DELTABLE, 0, w.finish()?);
    Ok(batch)
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}
