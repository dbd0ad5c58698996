//! Every match, verdict and statement: as a rule, as nft text, and as nf_tables expressions.
//!
//! The expressions are those of `nft --debug=netlink`: numbers are those of
//! `include/uapi/linux/netfilter/nf_tables.h`, bytes are in hexadecimal.

use peerwall_proto::nf_tables::Nested;
use peerwall_proto::nf_tables::expr::{Data, Expr};

use super::{read_rule, rule_exprs};
use crate::net::addr::Family::{V4, V6};
use crate::net::interface::InterfacePattern;
use crate::net::port::PortRange;
use crate::policy::{Rate, RateUnit};
use crate::ruleset::render::rule_text;
use crate::ruleset::{Action, CtStates, IcmpKinds, LogTo, Match, Meter, Ports, Rule};

/// Lists the variants of an enum, and names the variant of a value. A new variant does not compile
/// until it is listed, and then fails until the table has a row for it.
macro_rules! variants {
    ($list:ident, $name:ident, $kind:ident: $($variant:ident)*) => {
        const $list: &[&str] = &[$(stringify!($variant)),*];
        fn $name(value: &$kind) -> &'static str {
            match value {
                $($kind::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants!(
    MATCHES, match_name, Match:
    CtState Dnat NotDnat DialledHere Local Loopback Interface Family Source SourceNet Destination
    DestinationIn DialledAddress SourceMac OutInterface TcpSyn Protocol SourcePort DestinationPort
    DialledPort Icmp HopLimit Ttl ReversePath
);
variants!(
    ACTIONS, action_name, Action:
    Accept Drop RejectTcpReset RejectAdminProhibited Jump Goto
);

fn hex(data: Option<&Nested<Data>>) -> String {
    let value = data.and_then(|data| data.0.value.as_ref());
    let bytes = value.map(|value| value.iter().map(|byte| format!("{byte:02x}")).collect());
    bytes.unwrap_or_else(|| "-".to_owned())
}

/// Spells an expression: its name, and the attributes that tell what it does.
fn spell(expr: &Expr) -> String {
    let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    if let Expr::Meta(meta) = expr {
        return format!("meta {}", number(meta.key));
    }
    if let Expr::Ct(ct) = expr {
        let set = if ct.sreg.is_some() { "set " } else { "" };
        let original = if ct.direction == Some(0) {
            " original"
        } else {
            ""
        };
        return format!("ct {set}{}{original}", number(ct.key));
    }
    if let Expr::Cmp(cmp) = expr {
        return format!("cmp {} {}", number(cmp.op), hex(cmp.data.as_ref()));
    }
    if let Expr::Bitwise(bitwise) = expr {
        return format!("bitwise {}", hex(bitwise.mask.as_ref()));
    }
    if let Expr::Payload(payload) = expr {
        let (offset, len) = (number(payload.offset_bytes), number(payload.len_bytes));
        return format!("payload {} {offset} {len}", number(payload.base));
    }
    if let Expr::Lookup(lookup) = expr {
        return format!("lookup {}", text(&lookup.set));
    }
    if let Expr::Fib(fib) = expr {
        return format!("fib {} {}", number(fib.flags), number(fib.result));
    }
    if let Expr::Reject(reject) = expr {
        let code = reject.icmp_code.map(u32::from);
        return format!("reject {} {}", number(reject.kind), number(code));
    }
    if let Expr::Immediate(immediate) = expr {
        let data = immediate.data.as_ref();
        return match data.and_then(|data| data.0.verdict.as_ref()) {
            Some(Nested(verdict)) => {
                let code = verdict.code.unwrap().cast_signed();
                format!("verdict {code} {}", text(&verdict.chain))
            }
            None => format!("immediate {}", hex(data)),
        };
    }
    if let Expr::Limit(limit) = expr {
        let rate = (limit.rate.unwrap(), limit.unit.unwrap());
        return format!("limit {} {} {}", rate.0, rate.1, number(limit.burst));
    }
    if let Expr::Log(log) = expr {
        return format!(
            "log {} {}",
            number(log.group.map(u32::from)),
            text(&log.prefix)
        );
    }
    if let Expr::Objref(objref) = expr {
        return format!(
            "objref {} {}",
            number(objref.imm_type),
            text(&objref.imm_name)
        );
    }
    if let Expr::Dynset(dynset) = expr {
        let inner = dynset.expr.as_ref().map(|expr| spell(&expr.0)).unwrap();
        return format!(
            "dynset {} {} ({inner})",
            number(dynset.op),
            text(&dynset.set)
        );
    }
    expr.name().to_owned()
}

/// Checks that a rule prints as `text`, is written as `exprs`, and is read back.
fn check(rule: &Rule, text: &str, exprs: &str) {
    assert_eq!(rule_text(rule), text);
    let written = rule_exprs(rule);
    let spelled: Vec<String> = written.iter().map(spell).collect();
    assert_eq!(spelled.join(", "), exprs, "{text}");
    assert_eq!(read_rule(&written).as_ref(), Ok(rule), "{text}");
}

fn range(first: u16, last: u16) -> Ports {
    Ports::Range(PortRange { first, last })
}

fn set(name: &str) -> String {
    name.to_owned()
}

#[test]
fn every_match_has_its_text_and_its_expressions() {
    let tcp = || Match::Protocol(6);
    let (v4, v6) = (|| Match::Family(V4), || Match::Family(V6));
    let exact = |name: &str| InterfacePattern::Exact(name.to_owned());
    let table: [(&[Match], &str, &str); 33] = [
        (
            &[Match::CtState(CtStates::KNOWN)],
            "ct state established,related",
            "ct 0, bitwise 06000000, cmp 1 00000000",
        ),
        (
            &[Match::Dnat],
            "ct status dnat",
            "ct 2, bitwise 20000000, cmp 1 00000000",
        ),
        (
            &[Match::NotDnat],
            "ct status ! dnat",
            "ct 2, bitwise 20000000, cmp 0 00000000",
        ),
        (
            &[Match::DialledHere],
            "ct label 127",
            "ct 13, bitwise 00000000000000000000000000000080, \
             cmp 1 00000000000000000000000000000000",
        ),
        (
            &[Match::Local],
            "fib daddr type local",
            "fib 2 3, cmp 0 02000000",
        ),
        (&[Match::Loopback], "iif \"lo\"", "meta 4, cmp 0 01000000"),
        (
            &[Match::Interface {
                pattern: exact("eth0"),
                negated: false,
            }],
            "iifname \"eth0\"",
            "meta 6, cmp 0 65746830000000000000000000000000",
        ),
        (
            &[Match::Interface {
                pattern: InterfacePattern::Prefix("cali".to_owned()),
                negated: true,
            }],
            "iifname != \"cali*\"",
            "meta 6, cmp 1 63616c69",
        ),
        (
            &[Match::OutInterface(exact("wg0"))],
            "oifname \"wg0\"",
            "meta 7, cmp 0 77673000000000000000000000000000",
        ),
        (&[v4()], "meta nfproto ipv4", "meta 15, cmp 0 02"),
        (&[v6()], "meta nfproto ipv6", "meta 15, cmp 0 0a"),
        (
            &[
                v4(),
                Match::Source {
                    family: V4,
                    set: set("peers4"),
                },
            ],
            "ip saddr @peers4",
            "meta 15, cmp 0 02, payload 1 12 4, lookup peers4",
        ),
        (
            &[
                v6(),
                Match::Source {
                    family: V6,
                    set: set("peers6"),
                },
            ],
            "ip6 saddr @peers6",
            "meta 15, cmp 0 0a, payload 1 8 16, lookup peers6",
        ),
        (
            &[v4(), Match::SourceNet("127.0.0.0/8".parse().unwrap())],
            "ip saddr 127.0.0.0/8",
            "meta 15, cmp 0 02, payload 1 12 1, cmp 0 7f",
        ),
        (
            &[v6(), Match::Destination("fe80::/10".parse().unwrap())],
            "ip6 daddr fe80::/10",
            "meta 15, cmp 0 0a, payload 1 24 16, bitwise ffc00000000000000000000000000000, \
             cmp 0 fe800000000000000000000000000000",
        ),
        (
            &[
                v4(),
                Match::DestinationIn {
                    family: V4,
                    set: set("own"),
                },
            ],
            "ip daddr @own",
            "meta 15, cmp 0 02, payload 1 16 4, lookup own",
        ),
        (
            &[
                v4(),
                Match::DialledAddress {
                    family: V4,
                    set: set("to"),
                },
            ],
            "meta nfproto ipv4 ct original ip daddr @to",
            "meta 15, cmp 0 02, ct 20 original, lookup to",
        ),
        (
            &[
                v6(),
                Match::DialledAddress {
                    family: V6,
                    set: set("to"),
                },
            ],
            "meta nfproto ipv6 ct original ip6 daddr @to",
            "meta 15, cmp 0 0a, ct 22 original, lookup to",
        ),
        (
            &[Match::SourceMac(set("macs"))],
            "ether saddr @macs",
            "meta 8, cmp 0 0100, payload 0 6 6, lookup macs",
        ),
        (
            &[tcp(), Match::TcpSyn],
            "tcp flags syn / fin,syn,rst,ack",
            "meta 16, cmp 0 06, payload 2 13 1, bitwise 17, cmp 0 02",
        ),
        (
            &[Match::Protocol(50)],
            "meta l4proto 50",
            "meta 16, cmp 0 32",
        ),
        (
            &[tcp(), Match::SourcePort(range(123, 123))],
            "tcp sport 123",
            "meta 16, cmp 0 06, payload 2 0 2, cmp 0 007b",
        ),
        (
            &[tcp(), Match::DestinationPort(range(8000, 8100))],
            "tcp dport 8000-8100",
            "meta 16, cmp 0 06, payload 2 2 2, cmp 5 1f40, cmp 3 1fa4",
        ),
        (
            &[
                Match::Protocol(17),
                Match::DestinationPort(Ports::Set(set("web"))),
            ],
            "udp dport @web",
            "meta 16, cmp 0 11, payload 2 2 2, lookup web",
        ),
        (
            &[tcp(), Match::DialledPort(range(443, 443))],
            "meta l4proto tcp ct original proto-dst 443",
            "meta 16, cmp 0 06, ct 12 original, cmp 0 01bb",
        ),
        (
            &[tcp(), Match::DialledPort(Ports::Set(set("web")))],
            "meta l4proto tcp ct original proto-dst @web",
            "meta 16, cmp 0 06, ct 12 original, lookup web",
        ),
        (
            &[v4(), Match::Protocol(1), Match::Icmp(IcmpKinds::One(8))],
            "icmp type echo-request",
            "meta 15, cmp 0 02, meta 16, cmp 0 01, payload 2 0 1, cmp 0 08",
        ),
        (
            &[
                v6(),
                Match::Protocol(58),
                Match::Icmp(IcmpKinds::Set(set("core"))),
            ],
            "icmpv6 type @core",
            "meta 15, cmp 0 0a, meta 16, cmp 0 3a, payload 2 0 1, lookup core",
        ),
        (
            &[v6(), Match::HopLimit(255)],
            "ip6 hoplimit 255",
            "meta 15, cmp 0 0a, payload 1 7 1, cmp 0 ff",
        ),
        (
            &[v4(), Match::Ttl(1)],
            "ip ttl 1",
            "meta 15, cmp 0 02, payload 1 8 1, cmp 0 01",
        ),
        (
            &[Match::ReversePath { exists: true }],
            "fib saddr . iif oif exists",
            "fib 41 1, cmp 0 01000000",
        ),
        (
            &[Match::ReversePath { exists: false }],
            "fib saddr . iif oif missing",
            "fib 41 1, cmp 0 00000000",
        ),
        (
            &[
                tcp(),
                Match::SourcePort(range(53, 53)),
                Match::DestinationPort(range(80, 80)),
            ],
            "tcp sport 53 tcp dport 80",
            "meta 16, cmp 0 06, payload 2 0 2, cmp 0 0035, payload 2 2 2, cmp 0 0050",
        ),
    ];
    for (matches, text, exprs) in table {
        let rule = Rule {
            matches: matches.to_vec(),
            ..Rule::default()
        };
        check(&rule, text, exprs);
    }
    for name in MATCHES {
        let mut shown = table.iter().flat_map(|(matches, _, _)| *matches);
        assert!(
            shown.any(|each| match_name(each) == *name),
            "{name} is in no row"
        );
    }
}

#[test]
fn every_verdict_has_its_text_and_its_expressions() {
    let table = [
        (Action::Accept, "accept", "verdict 1 -"),
        (Action::Drop, "drop", "verdict 0 -"),
        (
            Action::RejectTcpReset,
            "reject with tcp reset",
            "reject 1 0",
        ),
        (
            Action::RejectAdminProhibited,
            "reject with icmpx admin-prohibited",
            "reject 2 3",
        ),
        (
            Action::Jump(set("published")),
            "jump published",
            "verdict -3 published",
        ),
        (
            Action::Goto(set("published")),
            "goto published",
            "verdict -4 published",
        ),
    ];
    for (action, text, exprs) in &table {
        let rule = Rule {
            action: Some(action.clone()),
            ..Rule::default()
        };
        check(&rule, text, exprs);
    }
    for name in ACTIONS {
        let mut shown = table.iter().map(|(action, _, _)| action);
        assert!(
            shown.any(|each| action_name(each) == *name),
            "{name} is in no row"
        );
    }
}

#[test]
fn every_statement_has_its_text_and_its_expressions_in_the_order_of_a_rule() {
    let rate = Rate {
        count: 10,
        unit: RateUnit::Second,
        burst: 5,
    };
    // Without `..Rule::default()`: a new field does not compile until it is here.
    let metered = Rule {
        matches: vec![Match::Family(V4)],
        meter: Some(Meter {
            set: set("meter"),
            family: V4,
            rate,
        }),
        label: false,
        limit: None,
        log: Some(LogTo {
            group: 5,
            prefix: "denied ".to_owned(),
        }),
        counter: Some(set("allow.ssh")),
        action: Some(Action::Accept),
        comment: None,
    };
    // A rule has one of these: a meter, a label, a limit.
    let labelled = Rule {
        label: true,
        ..Rule::default()
    };
    let limited = Rule {
        limit: Some(rate),
        ..Rule::default()
    };
    for (rule, text, exprs) in [
        (
            metered,
            "update @meter { ip saddr limit rate 10/second burst 5 packets } \
             log prefix \"denied \" group 5 counter name \"allow.ssh\" accept",
            "meta 15, cmp 0 02, payload 1 12 4, dynset 1 meter (limit 10 1 5), \
             log 5 denied , objref 1 allow.ssh, verdict 1 -",
        ),
        (
            labelled,
            "ct label set 127",
            "immediate 00000000000000000000000000000080, ct set 13",
        ),
        (
            limited,
            "limit rate 10/second burst 5 packets",
            "limit 10 1 5",
        ),
    ] {
        check(&rule, text, exprs);
    }
}
