//! Matches and statements as nf_tables expressions, both ways.
//!
//! Written in the very sequences that nft writes, so that nft prints our table as its own. Each
//! sequence's writer and reader stand side by side; the goldens in `proto` and the round trip in
//! `lower` hold them together.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an expression that we never write is none of ours, new ones too"
)]

use peerwall_proto::attr::{
    u16_from_network, u16_network, u16_register, u32_from_register, u32_register,
};
use peerwall_proto::nf_tables::expr::{
    Bitwise, Cmp, Ct, Data, Dynset, Expr, Fib, Immediate, Limit, Log, Lookup, Meta, NFT_GOTO,
    NFT_JUMP, Objref, Payload, Reject, Verdict,
};
use peerwall_proto::nf_tables::{
    NF_ACCEPT, NF_DROP, NFPROTO_IPV4, NFPROTO_IPV6, NFT_OBJECT_COUNTER, Nested,
};

use crate::net::addr::Family;
use crate::net::interface::{InterfacePattern, NAME_MAX_BYTES};
use crate::net::port::PortRange;
use crate::policy::{Rate, RateUnit};
use crate::ruleset::{Action, CtStates, IcmpKinds, LABEL_BIT, LogTo, Match, Meter, Ports, Rule};

const REG: u32 = 1; // NFT_REG_1
const NFT_REG_VERDICT: u32 = 0;
const NFT_META_IIF: u32 = 4;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_IIFTYPE: u32 = 8;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
const NFT_CT_PROTO_DST: u32 = 12;
const NFT_CT_LABELS: u32 = 13;
const NFT_CT_DST_IP: u32 = 20;
const NFT_CT_DST_IP6: u32 = 22;
const IP_CT_DIR_ORIGINAL: u8 = 0;
const IPS_DST_NAT: u32 = 0x20;
const NFT_PAYLOAD_LL_HEADER: u32 = 0;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_CMP_LTE: u32 = 3;
const NFT_CMP_GTE: u32 = 5;
const NFT_FIB_RESULT_OIF: u32 = 1;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DADDR: u32 = 2; // NFTA_FIB_F_DADDR
const RTN_LOCAL: u32 = 2;
const NFT_DYNSET_OP_UPDATE: u32 = 1;
/// `ARPHRD_ETHER`
const ARPHRD_ETHER: u16 = 1;
const FIB_SADDR_IIF_PRESENT: u32 = 1 | 8 | 32; // NFTA_FIB_F_SADDR, _IIF, _PRESENT
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
const NFT_REJECT_ICMPX_ADMIN_PROHIBITED: u8 = 3;
const NFT_LIMIT_PKTS: u32 = 0;
/// `lo` has this index in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
/// `IFNAMSIZ`
const IFNAMSIZ: usize = NAME_MAX_BYTES + 1;

/// Offset and length in bytes, within the network header.
const fn source_field(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    }
}

const fn destination_field(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    }
}

const HOP_LIMIT_FIELD: (u32, u32) = (7, 1);
const TTL_FIELD: (u32, u32) = (8, 1);
/// Source address of an Ethernet header.
const MAC_FIELD: (u32, u32) = (6, 6);
/// The octet of a TCP header with its flags.
const TCP_FLAGS_FIELD: (u32, u32) = (13, 1);
/// FIN, SYN, RST and ACK.
const TCP_FLAGS_OF_START: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
const SOURCE_PORT_FIELD: (u32, u32) = (0, 2);
const DESTINATION_PORT_FIELD: (u32, u32) = (2, 2);
/// What nft makes of a source and a destination port that stand side by side.
const BOTH_PORTS_FIELD: (u32, u32) = (0, 4);
const ICMP_TYPE_FIELD: (u32, u32) = (0, 1);

fn meta(key: u32) -> Expr {
    Expr::Meta(Meta {
        dreg: Some(REG),
        key: Some(key),
        ..Meta::default()
    })
}

fn ct(key: u32, direction: Option<u8>) -> Expr {
    Expr::Ct(Ct {
        dreg: Some(REG),
        key: Some(key),
        direction,
        ..Ct::default()
    })
}

fn payload(base: u32, (offset, len): (u32, u32)) -> Expr {
    Expr::Payload(Payload {
        dreg: Some(REG),
        base: Some(base),
        offset_bytes: Some(offset),
        len_bytes: Some(len),
        ..Payload::default()
    })
}

fn cmp(op: u32, bytes: impl Into<Vec<u8>>) -> Expr {
    Expr::Cmp(Cmp {
        sreg: Some(REG),
        op: Some(op),
        data: Some(Data::value(bytes)),
        ..Cmp::default()
    })
}

fn mask(mask: Vec<u8>) -> Expr {
    Expr::Bitwise(Bitwise {
        sreg: Some(REG),
        dreg: Some(REG),
        len_bytes: u32::try_from(mask.len()).ok(),
        xor: Some(Data::value(vec![0; mask.len()])),
        mask: Some(Data::value(mask)),
        ..Bitwise::default()
    })
}

fn lookup(set: &str) -> Expr {
    Expr::Lookup(Lookup {
        set: Some(set.to_owned()),
        sreg: Some(REG),
        ..Lookup::default()
    })
}

fn verdict(code: u32, chain: Option<&str>) -> Expr {
    let verdict = Verdict {
        code: Some(code),
        chain: chain.map(str::to_owned),
        ..Verdict::default()
    };
    Expr::Immediate(Immediate {
        dreg: Some(NFT_REG_VERDICT),
        data: Some(Nested(Data {
            verdict: Some(Nested(verdict)),
            ..Data::default()
        })),
        ..Immediate::default()
    })
}

/// The expressions of a rule, in order.
pub(crate) fn rule_exprs(rule: &Rule) -> Vec<Expr> {
    let mut out = Vec::new();
    for condition in &rule.matches {
        write_match(condition, &mut out);
    }
    if let Some(meter) = &rule.meter {
        write_meter(meter, &mut out);
    }
    if rule.label {
        out.extend([
            Expr::Immediate(Immediate {
                dreg: Some(REG),
                data: Some(Data::value(label_bits())),
                ..Immediate::default()
            }),
            Expr::Ct(Ct {
                sreg: Some(REG),
                key: Some(NFT_CT_LABELS),
                ..Ct::default()
            }),
        ]);
    }
    out.extend(rule.limit.map(|rate| Expr::Limit(limit(rate))));
    if let Some(log) = &rule.log {
        out.push(Expr::Log(Log {
            group: Some(log.group),
            prefix: Some(log.prefix.clone()),
            ..Log::default()
        }));
    }
    if let Some(counter) = &rule.counter {
        out.push(Expr::Objref(Objref {
            imm_type: Some(NFT_OBJECT_COUNTER),
            imm_name: Some(counter.clone()),
            ..Objref::default()
        }));
    }
    out.extend(rule.action.as_ref().map(action_expr));
    out
}

fn limit(rate: Rate) -> Limit {
    Limit {
        rate: Some(u64::from(rate.count)),
        unit: Some(rate.unit.describe().1),
        burst: Some(rate.burst),
        kind: Some(NFT_LIMIT_PKTS),
        flags: Some(0),
        ..Limit::default()
    }
}

fn write_meter(meter: &Meter, out: &mut Vec<Expr>) {
    let source = source_field(meter.family);
    out.extend([
        payload(NFT_PAYLOAD_NETWORK_HEADER, source),
        Expr::Dynset(Dynset {
            set: Some(meter.set.clone()),
            op: Some(NFT_DYNSET_OP_UPDATE),
            sreg_key: Some(REG),
            expr: Some(Box::new(Nested(Expr::Limit(limit(meter.rate))))),
            ..Dynset::default()
        }),
    ]);
}

/// The label of a connection with our bit, as it is in a register: 128 bits in words of the host's order
/// (`struct nf_conn_labels`).
fn label_bits() -> Vec<u8> {
    let word = usize::from(LABEL_BIT / 32);
    let mut bytes = vec![0; 16];
    bytes[word * 4..word * 4 + 4].copy_from_slice(&u32_register(1 << (LABEL_BIT % 32)));
    bytes
}

fn action_expr(action: &Action) -> Expr {
    let reject = |kind, code| {
        Expr::Reject(Reject {
            kind: Some(kind),
            icmp_code: Some(code),
            ..Reject::default()
        })
    };
    match action {
        Action::Accept => verdict(NF_ACCEPT, None),
        Action::Drop => verdict(NF_DROP, None),
        Action::Jump(chain) => verdict(NFT_JUMP.cast_unsigned(), Some(chain)),
        Action::Goto(chain) => verdict(NFT_GOTO.cast_unsigned(), Some(chain)),
        Action::RejectTcpReset => reject(NFT_REJECT_TCP_RST, 0),
        Action::RejectAdminProhibited => {
            reject(NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED)
        }
    }
}

fn write_match(condition: &Match, out: &mut Vec<Expr>) {
    match condition {
        Match::CtState(states) => write_bits(NFT_CT_STATE, states.0, out),
        Match::Dnat => write_bits(NFT_CT_STATUS, IPS_DST_NAT, out),
        Match::NotDnat => out.extend([
            ct(NFT_CT_STATUS, None),
            mask(u32_register(IPS_DST_NAT).to_vec()),
            cmp(NFT_CMP_EQ, u32_register(0)),
        ]),
        Match::DialledHere => out.extend([
            ct(NFT_CT_LABELS, None),
            mask(label_bits()),
            cmp(NFT_CMP_NEQ, vec![0; 16]),
        ]),
        Match::Local => out.extend([
            Expr::Fib(Fib {
                dreg: Some(REG),
                result: Some(NFT_FIB_RESULT_ADDRTYPE),
                flags: Some(FIB_DADDR),
                ..Fib::default()
            }),
            cmp(NFT_CMP_EQ, u32_register(RTN_LOCAL)),
        ]),
        Match::Loopback => {
            out.extend([
                meta(NFT_META_IIF),
                cmp(NFT_CMP_EQ, u32_register(LOOPBACK_IFINDEX)),
            ]);
        }
        Match::Interface { pattern, negated } => {
            let op = if *negated { NFT_CMP_NEQ } else { NFT_CMP_EQ };
            out.extend([meta(NFT_META_IIFNAME), cmp(op, interface_bytes(pattern))]);
        }
        Match::OutInterface(pattern) => {
            out.extend([
                meta(NFT_META_OIFNAME),
                cmp(NFT_CMP_EQ, interface_bytes(pattern)),
            ]);
        }
        Match::SourceMac(set) => out.extend([
            meta(NFT_META_IIFTYPE),
            cmp(NFT_CMP_EQ, u16_register(ARPHRD_ETHER)),
            payload(NFT_PAYLOAD_LL_HEADER, MAC_FIELD),
            lookup(set),
        ]),
        Match::TcpSyn => out.extend([
            payload(NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS_FIELD),
            mask(vec![TCP_FLAGS_OF_START]),
            cmp(NFT_CMP_EQ, [TCP_SYN]),
        ]),
        Match::Family(family) => {
            out.extend([meta(NFT_META_NFPROTO), cmp(NFT_CMP_EQ, [nfproto(*family)])]);
        }
        Match::Source { family, set } => {
            let field = source_field(*family);
            out.extend([payload(NFT_PAYLOAD_NETWORK_HEADER, field), lookup(set)]);
        }
        Match::DestinationIn { family, set } => {
            let field = destination_field(*family);
            out.extend([payload(NFT_PAYLOAD_NETWORK_HEADER, field), lookup(set)]);
        }
        Match::DialledAddress { family, set } => {
            let key = match family {
                Family::V4 => NFT_CT_DST_IP,
                Family::V6 => NFT_CT_DST_IP6,
            };
            out.extend([ct(key, Some(IP_CT_DIR_ORIGINAL)), lookup(set)]);
        }
        Match::SourceNet(net) => write_net(net, source_field(Family::of(net.addr())), out),
        Match::Destination(net) => {
            write_net(net, destination_field(Family::of(net.addr())), out);
        }
        Match::Protocol(number) => {
            out.extend([meta(NFT_META_L4PROTO), cmp(NFT_CMP_EQ, [*number])]);
        }
        Match::SourcePort(ports) => {
            out.push(payload(NFT_PAYLOAD_TRANSPORT_HEADER, SOURCE_PORT_FIELD));
            write_ports(ports, out);
        }
        Match::DestinationPort(ports) => {
            out.push(payload(
                NFT_PAYLOAD_TRANSPORT_HEADER,
                DESTINATION_PORT_FIELD,
            ));
            write_ports(ports, out);
        }
        Match::DialledPort(ports) => {
            out.push(ct(NFT_CT_PROTO_DST, Some(IP_CT_DIR_ORIGINAL)));
            write_ports(ports, out);
        }
        Match::Icmp(kinds) => {
            out.push(payload(NFT_PAYLOAD_TRANSPORT_HEADER, ICMP_TYPE_FIELD));
            out.push(match kinds {
                IcmpKinds::One(kind) => cmp(NFT_CMP_EQ, [*kind]),
                IcmpKinds::Set(set) => lookup(set),
            });
        }
        Match::HopLimit(limit) => {
            let load = payload(NFT_PAYLOAD_NETWORK_HEADER, HOP_LIMIT_FIELD);
            out.extend([load, cmp(NFT_CMP_EQ, [*limit])]);
        }
        Match::Ttl(limit) => {
            let load = payload(NFT_PAYLOAD_NETWORK_HEADER, TTL_FIELD);
            out.extend([load, cmp(NFT_CMP_EQ, [*limit])]);
        }
        Match::ReversePath { exists } => {
            let fib = Fib {
                dreg: Some(REG),
                result: Some(NFT_FIB_RESULT_OIF),
                flags: Some(FIB_SADDR_IIF_PRESENT),
                ..Fib::default()
            };
            out.extend([
                Expr::Fib(fib),
                cmp(NFT_CMP_EQ, [u8::from(*exists), 0, 0, 0]),
            ]);
        }
    }
}

/// As nft does: as many bytes as the prefix has, and a mask only for one that ends within a byte.
fn write_net(net: &ipnet::IpNet, (offset, len): (u32, u32), out: &mut Vec<Expr>) {
    let (address, bits) = match net {
        ipnet::IpNet::V4(n) => (n.network().octets().to_vec(), n.netmask().octets().to_vec()),
        ipnet::IpNet::V6(n) => (n.network().octets().to_vec(), n.netmask().octets().to_vec()),
    };
    let whole = u32::from(net.prefix_len()) / 8;
    if net.prefix_len().is_multiple_of(8) && net.prefix_len() > 0 {
        let start = address
            .into_iter()
            .take(whole as usize)
            .collect::<Vec<u8>>();
        out.push(payload(NFT_PAYLOAD_NETWORK_HEADER, (offset, whole)));
        return out.push(cmp(NFT_CMP_EQ, start));
    }
    out.extend([
        payload(NFT_PAYLOAD_NETWORK_HEADER, (offset, len)),
        mask(bits),
        cmp(NFT_CMP_EQ, address),
    ]);
}

fn write_bits(key: u32, bits: u32, out: &mut Vec<Expr>) {
    out.extend([
        ct(key, None),
        mask(u32_register(bits).to_vec()),
        cmp(NFT_CMP_NEQ, u32_register(0)),
    ]);
}

fn write_ports(ports: &Ports, out: &mut Vec<Expr>) {
    match ports {
        Ports::Range(range) => write_range(*range, out),
        Ports::Set(set) => out.push(lookup(set)),
    }
}

fn write_range(range: PortRange, out: &mut Vec<Expr>) {
    if range.first == range.last {
        return out.push(cmp(NFT_CMP_EQ, u16_network(range.first)));
    }
    out.push(cmp(NFT_CMP_GTE, u16_network(range.first)));
    out.push(cmp(NFT_CMP_LTE, u16_network(range.last)));
}

fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

/// A whole name fills `IFNAMSIZ` with NULs; a prefix is compared as far as it goes.
fn interface_bytes(pattern: &InterfacePattern) -> Vec<u8> {
    match pattern {
        InterfacePattern::Exact(name) => {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(IFNAMSIZ, 0);
            bytes
        }
        InterfacePattern::Prefix(prefix) => prefix.as_bytes().to_vec(),
    }
}

/// Reads expressions one after the other.
struct Cursor<'a> {
    rest: &'a [Expr],
}

/// Reads a rule's expressions back.
///
/// # Errors
/// The name of the expression at which they stop being a rule that we make.
pub(crate) fn read_rule(exprs: &[Expr]) -> Result<Rule, String> {
    let mut cursor = Cursor { rest: exprs };
    let mut rule = Rule::default();
    while !cursor.rest.is_empty() {
        let at = cursor.rest[0].name().to_owned();
        cursor
            .step(&mut rule)
            .ok_or_else(|| format!("its `{at}` is none of ours"))?;
    }
    Ok(rule)
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
        // Newer kernels give one expression as a list of one.
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

    /// Whether the next expression makes our label of what was loaded; `None` if it is another label.
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
            // Always before the Ethernet address, and part of asking for it.
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
            // The kernel stores one byte and zeros behind it (`nft_fib_store_result()`); nft compares
            // all four up to 1.0, and one of them since.
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
        // NFT_BITWISE_MASK_XOR is 0; old kernels do not say which operation it is.
        let plain = bitwise.op.unwrap_or(0) == 0
            && bitwise.data.is_none()
            && bitwise.sreg2.is_none()
            && bitwise.other.is_empty()
            && (bitwise.sreg, bitwise.dreg) == (Some(REG), Some(REG))
            && data_bytes(&bitwise.xor)?.iter().all(|b| *b == 0);
        data_bytes(&bitwise.mask).filter(|_| plain)
    }

    /// `bitwise` with a mask, then "is not 0".
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
