//! Conversion of rules to nf_tables expressions.

use peerwall_proto::netlink::attr::{u16_network, u16_register, u32_register};
use peerwall_proto::nf_tables::expr::{
    Bitwise, Cmp, Ct, Data, Dynset, Expr, Fib, Immediate, Limit, Log, Lookup, Meta, NFT_GOTO,
    NFT_JUMP, Objref, Payload, Reject, Verdict,
};
use peerwall_proto::nf_tables::{
    NF_ACCEPT, NF_DROP, NFPROTO_IPV4, NFPROTO_IPV6, NFT_OBJECT_COUNTER, Nested,
};

use super::{
    ARPHRD_ETHER, DESTINATION_PORT_FIELD, FIB_DADDR, FIB_SADDR_IIF_PRESENT, HOP_LIMIT_FIELD,
    ICMP_TYPE_FIELD, IFNAMSIZ, IP_CT_DIR_ORIGINAL, IPS_DST_NAT, LOOPBACK_IFINDEX, MAC_FIELD,
    NFT_CMP_EQ, NFT_CMP_GTE, NFT_CMP_LTE, NFT_CMP_NEQ, NFT_CT_DST_IP, NFT_CT_DST_IP6,
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
use crate::policy::Rate;
use crate::ruleset::{Action, IcmpKinds, LABEL_BIT, Match, Meter, Ports, Rule};

/// Returns the expressions of a rule, in order.
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

/// Writes a match on a prefix like nft: only the bytes of the prefix, with a mask only if the
/// prefix ends within a byte.
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

fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

/// Returns the connection label with peerwall's bit, as in a register: 128 bits in words of host
/// byte order (`struct nf_conn_labels`).
pub(super) fn label_bits() -> Vec<u8> {
    let word = usize::from(LABEL_BIT / 32);
    let mut bytes = vec![0; 16];
    bytes[word * 4..word * 4 + 4].copy_from_slice(&u32_register(1 << (LABEL_BIT % 32)));
    bytes
}

/// Returns the bytes of an interface pattern. An exact name is padded to `IFNAMSIZ` with NULs; a
/// prefix is not.
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
