//! Conversion of nf_tables expressions to rules.
//!
//! A rule with an expression that peerwall never writes is foreign.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "expressions that are never written are foreign, including new ones"
)]

use peerwall_proto::netlink::attr::{u16_from_network, u16_register, u32_from_register};
use peerwall_proto::nf_tables::expr::{
    Ct, Data, Expr, Fib, Immediate, Limit, Log, Meta, NFT_GOTO, NFT_JUMP, Objref, Payload, Reject,
};
use peerwall_proto::nf_tables::{
    NF_ACCEPT, NF_DROP, NFPROTO_IPV4, NFPROTO_IPV6, NFT_OBJECT_COUNTER, Nested,
};

use super::write::label_bits;
use super::{
    ARPHRD_ETHER, BOTH_PORTS_FIELD, DESTINATION_PORT_FIELD, FIB_DADDR, FIB_SADDR_IIF_PRESENT,
    HOP_LIMIT_FIELD, ICMP_TYPE_FIELD, IFNAMSIZ, IP_CT_DIR_ORIGINAL, IPS_DST_NAT, LOOPBACK_IFINDEX,
    MAC_FIELD, NFT_CMP_EQ, NFT_CMP_GTE, NFT_CMP_LTE, NFT_CMP_NEQ, NFT_CT_DST_IP, NFT_CT_DST_IP6,
    NFT_CT_LABELS, NFT_CT_PROTO_DST, NFT_CT_STATE, NFT_CT_STATUS, NFT_DYNSET_OP_UPDATE,
    NFT_FIB_RESULT_ADDRTYPE, NFT_FIB_RESULT_OIF, NFT_LIMIT_PKTS, NFT_META_IIF, NFT_META_IIFNAME,
    NFT_META_IIFTYPE, NFT_META_L4PROTO, NFT_META_NFPROTO, NFT_META_OIFNAME, NFT_PAYLOAD_LL_HEADER,
    NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER, NFT_REG_VERDICT,
    NFT_REJECT_ICMPX_ADMIN_PROHIBITED, NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_TCP_RST, REG,
    RTN_LOCAL, SOURCE_PORT_FIELD, TCP_FLAGS_FIELD, TCP_FLAGS_OF_START, TCP_SYN, TTL_FIELD,
    destination_field, source_field,
};
use crate::net::addr::Family;
use crate::net::interface::InterfacePattern;
use crate::net::port::PortRange;
use crate::nft::observed::Unrecognized;
use crate::policy::{Rate, RateUnit};
use crate::ruleset::{Action, CtStates, IcmpKinds, LogTo, Match, Meter, Ports, Rule};

/// Converts the expressions of a rule.
///
/// # Errors
/// [`Unrecognized`] with the name of the first unexpected expression.
pub(crate) fn read_rule(exprs: &[Expr]) -> Result<Rule, Unrecognized> {
    let mut cursor = Cursor { rest: exprs };
    let mut rule = Rule::default();
    while !cursor.rest.is_empty() {
        let at = cursor.rest[0].name().to_owned();
        cursor
            .step(&mut rule)
            .ok_or_else(|| Unrecognized(format!("unknown expression `{at}`")))?;
    }
    Ok(rule)
}

/// Remaining expressions.
struct Cursor<'a> {
    rest: &'a [Expr],
}

impl<'a> Cursor<'a> {
    fn next(&mut self) -> Option<&'a Expr> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn step(&mut self, rule: &mut Rule) -> Option<()> {
        if rule.action.is_some() {
            return None;
        }
        let only_matches = rule.limit.is_none()
            && rule.log.is_none()
            && rule.counter.is_none()
            && rule.meter.is_none()
            && !rule.label;
        match self.next()? {
            Expr::Limit(limit) if only_matches => rule.limit = Some(read_limit(limit)?),
            Expr::Log(log) if rule.log.is_none() && rule.counter.is_none() => {
                rule.log = Some(read_log(log)?);
            }
            Expr::Objref(objref) if rule.counter.is_none() => {
                rule.counter = Some(read_counter(objref)?);
            }
            Expr::Immediate(immediate) if immediate.dreg == Some(REG) && only_matches => {
                rule.label = self.read_label(immediate)?;
            }
            Expr::Immediate(immediate) => rule.action = Some(read_verdict(immediate)?),
            Expr::Reject(reject) => rule.action = Some(read_reject(reject)?),
            Expr::Payload(load) if only_matches && self.is_meter() => {
                rule.meter = Some(self.read_meter(load)?);
            }
            load if only_matches => self.read_match(load, &mut rule.matches)?,
            _ => return None,
        }
        Some(())
    }

    fn is_meter(&self) -> bool {
        matches!(self.rest.first(), Some(Expr::Dynset(_)))
    }

    fn read_meter(&mut self, load: &Payload) -> Option<Meter> {
        let Expr::Dynset(dynset) = self.next()? else {
            return None;
        };
        let field = (load.offset_bytes?, load.len_bytes?);
        let family = Family::BOTH
            .into_iter()
            .find(|family| source_field(*family) == field)?;
        // Newer kernels list a single expression as a list of one.
        let limit = match (&dynset.expr, dynset.exprs.as_deref()) {
            (Some(expr), None) => &expr.0,
            (None, Some([expr])) => expr,
            _ => return None,
        };
        let Expr::Limit(limit) = limit else {
            return None;
        };
        let plain = is_load(load)
            && load.base == Some(NFT_PAYLOAD_NETWORK_HEADER)
            && dynset.op == Some(NFT_DYNSET_OP_UPDATE)
            && dynset.sreg_key == Some(REG)
            && dynset.sreg_data.is_none()
            && dynset.timeout.unwrap_or(0) == 0
            && dynset.other.is_empty();
        plain.then_some(Meter {
            set: dynset.set.clone()?,
            family,
            rate: read_limit(limit)?,
        })
    }

    /// Returns whether the next expression sets peerwall's connection label from the immediate;
    /// `None` if it sets another label.
    fn read_label(&mut self, immediate: &Immediate) -> Option<bool> {
        let Expr::Ct(ct) = self.next()? else {
            return None;
        };
        let ours = data_bytes(&immediate.data)? == label_bits().as_slice()
            && ct.sreg == Some(REG)
            && ct.dreg.is_none()
            && ct.key == Some(NFT_CT_LABELS)
            && ct.other.is_empty();
        ours.then_some(true)
    }

    fn read_match(&mut self, load: &Expr, out: &mut Vec<Match>) -> Option<()> {
        let family = || out.iter().rev().find_map(Match::family);
        let found = match load {
            Expr::Ct(load) => self.read_ct(load)?,
            Expr::Meta(load) => self.read_meta(load)?,
            Expr::Fib(fib) => self.read_fib(fib)?,
            Expr::Payload(load) if is_load(load) => {
                let field = (load.offset_bytes?, load.len_bytes?);
                match load.base? {
                    NFT_PAYLOAD_LL_HEADER if field == MAC_FIELD => Match::SourceMac(self.lookup()?),
                    NFT_PAYLOAD_NETWORK_HEADER => self.read_network(field, family()?)?,
                    NFT_PAYLOAD_TRANSPORT_HEADER if field == BOTH_PORTS_FIELD => {
                        let both = self.eq()?;
                        let port = |at: usize| u16_from_network(both.get(at..at + 2)?);
                        let source = Ports::Range(PortRange::one(port(0)?));
                        out.push(Match::SourcePort(source));
                        Match::DestinationPort(Ports::Range(PortRange::one(port(2)?)))
                    }
                    NFT_PAYLOAD_TRANSPORT_HEADER => self.read_transport(field)?,
                    _ => return None,
                }
            }
            _ => return None,
        };
        out.push(found);
        Some(())
    }

    fn read_ct(&mut self, load: &Ct) -> Option<Match> {
        let plain = load.dreg == Some(REG) && load.sreg.is_none() && load.other.is_empty();
        match (load.key?, load.direction) {
            _ if !plain => None,
            (NFT_CT_STATE, None) => self.bits().map(|bits| Match::CtState(CtStates(bits))),
            (NFT_CT_STATUS, None) => self.read_status(),
            (NFT_CT_LABELS, None) => self.read_dialled_here(),
            (NFT_CT_DST_IP, Some(IP_CT_DIR_ORIGINAL)) => Some(Match::DialledAddress {
                family: Family::V4,
                set: self.lookup()?,
            }),
            (NFT_CT_DST_IP6, Some(IP_CT_DIR_ORIGINAL)) => Some(Match::DialledAddress {
                family: Family::V6,
                set: self.lookup()?,
            }),
            (NFT_CT_PROTO_DST, Some(IP_CT_DIR_ORIGINAL)) => self.ports().map(Match::DialledPort),
            _ => None,
        }
    }

    fn read_status(&mut self) -> Option<Match> {
        let bits = u32_from_register(self.mask()?)?;
        let found = match self.cmp()? {
            (NFT_CMP_NEQ, [0, 0, 0, 0]) => Match::Dnat,
            (NFT_CMP_EQ, [0, 0, 0, 0]) => Match::NotDnat,
            _ => return None,
        };
        (bits == IPS_DST_NAT).then_some(found)
    }

    fn read_dialled_here(&mut self) -> Option<Match> {
        let ours = self.mask()? == label_bits().as_slice();
        match self.cmp()? {
            (NFT_CMP_NEQ, bytes) if ours && bytes == [0; 16] => Some(Match::DialledHere),
            _ => None,
        }
    }

    fn read_meta(&mut self, load: &Meta) -> Option<Match> {
        let plain = load.dreg == Some(REG) && load.sreg.is_none() && load.other.is_empty();
        match load.key? {
            _ if !plain => None,
            NFT_META_IIF => {
                let index = u32_from_register(self.eq()?)?;
                (index == LOOPBACK_IFINDEX).then_some(Match::Loopback)
            }
            NFT_META_IIFNAME => {
                let (op, bytes) = self.cmp()?;
                let negated = match op {
                    NFT_CMP_EQ => false,
                    NFT_CMP_NEQ => true,
                    _ => return None,
                };
                let pattern = read_interface(bytes)?;
                Some(Match::Interface { pattern, negated })
            }
            NFT_META_OIFNAME => read_interface(self.eq()?).map(Match::OutInterface),
            // Part of a match on the Ethernet address, which always follows.
            NFT_META_IIFTYPE => {
                let ethernet = self.eq()? == u16_register(ARPHRD_ETHER);
                let Expr::Payload(load) = self.next().filter(|_| ethernet)? else {
                    return None;
                };
                let field = (load.offset_bytes?, load.len_bytes?);
                let ours =
                    is_load(load) && load.base == Some(NFT_PAYLOAD_LL_HEADER) && field == MAC_FIELD;
                Some(Match::SourceMac(self.lookup().filter(|_| ours)?))
            }
            NFT_META_NFPROTO => match self.eq()? {
                [NFPROTO_IPV4] => Some(Match::Family(Family::V4)),
                [NFPROTO_IPV6] => Some(Match::Family(Family::V6)),
                _ => None,
            },
            NFT_META_L4PROTO => match self.eq()? {
                [number] => Some(Match::Protocol(*number)),
                _ => None,
            },
            _ => None,
        }
    }

    fn read_fib(&mut self, fib: &Fib) -> Option<Match> {
        let plain = fib.dreg == Some(REG) && fib.other.is_empty();
        if fib.result == Some(NFT_FIB_RESULT_ADDRTYPE) {
            let local = u32_from_register(self.eq()?)? == RTN_LOCAL;
            return (plain && local && fib.flags == Some(FIB_DADDR)).then_some(Match::Local);
        }
        let ours =
            fib.result == Some(NFT_FIB_RESULT_OIF) && fib.flags == Some(FIB_SADDR_IIF_PRESENT);
        match self.eq()? {
            // The kernel stores one byte, then zeros (`nft_fib_store_result()`). nft up to 1.0
            // compares all
            // four bytes, later versions one.
            [exists @ (0 | 1)] | [exists @ (0 | 1), 0, 0, 0] if plain && ours => {
                Some(Match::ReversePath {
                    exists: *exists == 1,
                })
            }
            _ => None,
        }
    }

    fn read_network(&mut self, field: (u32, u32), family: Family) -> Option<Match> {
        let is_lookup = matches!(self.rest.first(), Some(Expr::Lookup(_)));
        if is_lookup && field == source_field(family) {
            let set = self.lookup()?;
            return Some(Match::Source { family, set });
        }
        if is_lookup && field == destination_field(family) {
            let set = self.lookup()?;
            return Some(Match::DestinationIn { family, set });
        }
        if field.0 == source_field(family).0 {
            return self.read_net(field.1, family).map(Match::SourceNet);
        }
        if field.0 == destination_field(family).0 {
            return self.read_net(field.1, family).map(Match::Destination);
        }
        match (field, family, self.eq()?) {
            (HOP_LIMIT_FIELD, Family::V6, [limit]) => Some(Match::HopLimit(*limit)),
            (TTL_FIELD, Family::V4, [limit]) => Some(Match::Ttl(*limit)),
            _ => None,
        }
    }

    fn read_net(&mut self, len_bytes: u32, family: Family) -> Option<ipnet::IpNet> {
        let len = usize::try_from(len_bytes).ok()?;
        let full = usize::try_from(source_field(family).1).ok()?;
        let mut mask = match self.rest.first() {
            Some(Expr::Bitwise(_)) => self.mask()?.to_vec(),
            _ => vec![0xff; len],
        };
        let mut address = self.eq()?.to_vec();
        (address.len() == len && mask.len() == len && len <= full).then_some(())?;
        mask.resize(full, 0);
        address.resize(full, 0);
        let (mask, address): (std::net::IpAddr, std::net::IpAddr) = match family {
            Family::V4 => (
                <[u8; 4]>::try_from(mask.as_slice()).ok()?.into(),
                <[u8; 4]>::try_from(address.as_slice()).ok()?.into(),
            ),
            Family::V6 => (
                <[u8; 16]>::try_from(mask.as_slice()).ok()?.into(),
                <[u8; 16]>::try_from(address.as_slice()).ok()?.into(),
            ),
        };
        let net = ipnet::IpNet::with_netmask(address, mask).ok()?;
        (net.network() == net.addr()).then_some(net)
    }

    fn read_transport(&mut self, field: (u32, u32)) -> Option<Match> {
        match field {
            SOURCE_PORT_FIELD => self.ports().map(Match::SourcePort),
            TCP_FLAGS_FIELD => match (self.mask()?, self.eq()?) {
                ([TCP_FLAGS_OF_START], [TCP_SYN]) => Some(Match::TcpSyn),
                _ => None,
            },
            DESTINATION_PORT_FIELD => self.ports().map(Match::DestinationPort),
            ICMP_TYPE_FIELD => match self.rest.first()? {
                Expr::Lookup(_) => self.lookup().map(|set| Match::Icmp(IcmpKinds::Set(set))),
                _ => match self.eq()? {
                    [kind] => Some(Match::Icmp(IcmpKinds::One(*kind))),
                    _ => None,
                },
            },
            _ => None,
        }
    }

    fn cmp(&mut self) -> Option<(u32, &'a [u8])> {
        match self.next()? {
            Expr::Cmp(cmp) if cmp.sreg == Some(REG) && cmp.other.is_empty() => {
                Some((cmp.op?, data_bytes(&cmp.data)?))
            }
            _ => None,
        }
    }

    fn eq(&mut self) -> Option<&'a [u8]> {
        match self.cmp()? {
            (NFT_CMP_EQ, bytes) => Some(bytes),
            _ => None,
        }
    }

    fn mask(&mut self) -> Option<&'a [u8]> {
        let Expr::Bitwise(bitwise) = self.next()? else {
            return None;
        };
        // NFT_BITWISE_MASK_XOR is 0; old kernels omit the operation.
        let plain = bitwise.op.unwrap_or(0) == 0
            && bitwise.data.is_none()
            && bitwise.sreg2.is_none()
            && bitwise.other.is_empty()
            && (bitwise.sreg, bitwise.dreg) == (Some(REG), Some(REG))
            && data_bytes(&bitwise.xor)?.iter().all(|b| *b == 0);
        data_bytes(&bitwise.mask).filter(|_| plain)
    }

    /// Reads a `bitwise` expression with a mask, followed by a comparison with 0.
    fn bits(&mut self) -> Option<u32> {
        let mask = u32_from_register(self.mask()?)?;
        match self.cmp()? {
            (NFT_CMP_NEQ, [0, 0, 0, 0]) => Some(mask),
            _ => None,
        }
    }

    fn lookup(&mut self) -> Option<String> {
        let Expr::Lookup(lookup) = self.next()? else {
            return None;
        };
        let plain = lookup.sreg == Some(REG)
            && lookup.dreg.is_none()
            && lookup.flags.unwrap_or(0) == 0
            && lookup.other.is_empty();
        lookup.set.clone().filter(|_| plain)
    }

    fn ports(&mut self) -> Option<Ports> {
        if let Some(Expr::Lookup(_)) = self.rest.first() {
            return self.lookup().map(Ports::Set);
        }
        if let Some(Expr::Range(range)) = self.rest.first() {
            self.rest = &self.rest[1..];
            let plain = range.op == Some(0) && range.sreg == Some(REG) && range.other.is_empty();
            let first = u16_from_network(data_bytes(&range.from)?)?;
            let last = u16_from_network(data_bytes(&range.to)?)?;
            return plain.then_some(Ports::Range(PortRange { first, last }));
        }
        let (op, bytes) = self.cmp()?;
        let first = u16_from_network(bytes)?;
        let last = match op {
            NFT_CMP_EQ => first,
            NFT_CMP_GTE => match self.cmp()? {
                (NFT_CMP_LTE, bytes) => u16_from_network(bytes)?,
                _ => return None,
            },
            _ => return None,
        };
        Some(Ports::Range(PortRange { first, last }))
    }
}

fn is_load(load: &Payload) -> bool {
    load.dreg == Some(REG) && load.sreg.is_none() && load.other.is_empty()
}

fn data_bytes(data: &Option<Nested<Data>>) -> Option<&[u8]> {
    let data = &data.as_ref()?.0;
    data.value.as_deref().filter(|_| data.verdict.is_none())
}

fn read_interface(bytes: &[u8]) -> Option<InterfacePattern> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let name = std::str::from_utf8(&bytes[..end]).ok()?.to_owned();
    let whole = bytes.len() == IFNAMSIZ && bytes[end..].iter().all(|b| *b == 0);
    match (whole, end == bytes.len()) {
        _ if name.is_empty() => None,
        (true, false) => Some(InterfacePattern::Exact(name)),
        (_, true) if end < IFNAMSIZ => Some(InterfacePattern::Prefix(name)),
        _ => None,
    }
}

fn read_limit(limit: &Limit) -> Option<Rate> {
    let seconds = limit.unit?;
    let (unit, _, _) = RateUnit::ALL.iter().find(|(_, _, s)| *s == seconds)?;
    let plain = limit.kind.unwrap_or(0) == NFT_LIMIT_PKTS
        && limit.flags.unwrap_or(0) == 0
        && limit.other.is_empty();
    plain.then_some(Rate {
        count: u32::try_from(limit.rate?).ok()?,
        unit: *unit,
        burst: limit.burst?,
    })
}

fn read_log(log: &Log) -> Option<LogTo> {
    let plain = log.snaplen.unwrap_or(0) == 0
        && log.qthreshold.unwrap_or(0) == 0
        && log.level.is_none()
        && log.flags.unwrap_or(0) == 0
        && log.other.is_empty();
    plain.then_some(LogTo {
        group: log.group?,
        prefix: log.prefix.clone()?,
    })
}

fn read_counter(objref: &Objref) -> Option<String> {
    let plain = objref.imm_type == Some(NFT_OBJECT_COUNTER)
        && objref.set_sreg.is_none()
        && objref.set_name.is_none()
        && objref.other.is_empty();
    objref.imm_name.clone().filter(|_| plain)
}

fn read_verdict(immediate: &Immediate) -> Option<Action> {
    let verdict = &immediate.data.as_ref()?.0.verdict.as_ref()?.0;
    let plain = immediate.dreg == Some(NFT_REG_VERDICT) && verdict.other.is_empty();
    match (verdict.code?, &verdict.chain) {
        _ if !plain => None,
        (NF_ACCEPT, None) => Some(Action::Accept),
        (NF_DROP, None) => Some(Action::Drop),
        (code, Some(chain)) if code.cast_signed() == NFT_JUMP => Some(Action::Jump(chain.clone())),
        (code, Some(chain)) if code.cast_signed() == NFT_GOTO => Some(Action::Goto(chain.clone())),
        _ => None,
    }
}

fn read_reject(reject: &Reject) -> Option<Action> {
    match (reject.kind?, reject.icmp_code.unwrap_or(0)) {
        _ if !reject.other.is_empty() => None,
        (NFT_REJECT_TCP_RST, 0) => Some(Action::RejectTcpReset),
        (NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED) => {
            Some(Action::RejectAdminProhibited)
        }
        _ => None,
    }
}
