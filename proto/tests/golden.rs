//! What the kernel holds after commands of nft and iptables-nft is read, all of it, and written
//! back as what it was.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

use std::collections::BTreeSet;

use peerwall_proto::netlink::attr::{AttrWriter, Attrs};
use peerwall_proto::nf_tables::expr::{
    Bitwise, Cmp, CounterExpr, Ct, Data, Expr, Immediate, Log, Lookup, Meta, Payload, Reject,
    Verdict,
};
use peerwall_proto::nf_tables::{
    Attributes, Chain, ElementList, Nested, Object, Rule, Set, Table, bridge,
};

/// Made by `scripts/goldens`.
const CAPTURED: &str = include_str!("golden/captured.txt");

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
    hex.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

/// Poisoned, so that nothing is right because it was zero by chance.
fn encode(object: &impl Attributes) -> Vec<u8> {
    let mut w = AttrWriter::after(vec![0xa5; 8]);
    object.encode(&mut w);
    w.finish().unwrap().split_off(8)
}

/// Types of the outermost attributes, sorted: their order means nothing to the kernel.
fn kinds(attrs: &[u8]) -> Vec<u16> {
    let mut kinds: Vec<u16> = Attrs::new(attrs)
        .map(|attr| attr.unwrap().attribute)
        .collect();
    kinds.sort_unstable();
    kinds
}

fn round_trip<T: Attributes + PartialEq + std::fmt::Debug>(command: &str, captured: &[u8]) -> T {
    let object = T::decode(Attrs::new(captured)).unwrap();
    let again = encode(&object);
    let back = T::decode(Attrs::new(&again)).unwrap();
    assert_eq!(back, object, "{command}");
    assert_eq!(
        kinds(captured),
        kinds(&again),
        "{command}: an attribute was lost or made up"
    );
    object
}

#[test]
fn everything_nft_and_iptables_nft_write_is_read_and_written_back() {
    let mut command = "";
    let mut names = BTreeSet::new();
    let mut strangers = Vec::new();
    let mut rules = 0;
    for line in CAPTURED
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        if let Some(next) = line.strip_prefix("> ") {
            command = next;
            continue;
        }
        let (kind, hex) = line.split_once(' ').unwrap();
        let captured = bytes(hex);
        let unknown = match kind {
            "table" => round_trip::<Table>(command, &captured).other,
            "chain" => round_trip::<Chain>(command, &captured).other,
            "set" => round_trip::<Set>(command, &captured).other,
            "object" => round_trip::<Object>(command, &captured).other,
            "elements" => {
                let list: ElementList = round_trip(command, &captured);
                list.elements
                    .unwrap()
                    .into_iter()
                    .flat_map(|element| element.other)
                    .collect()
            }
            "rule" => {
                rules += 1;
                let rule: Rule = round_trip(command, &captured);
                for expr in rule.exprs.unwrap() {
                    names.insert(expr.name().to_owned());
                    if matches!(expr, Expr::Other { .. }) {
                        strangers.push(format!("{command}: {}", expr.name()));
                    }
                }
                rule.other
            }
            other => panic!("{other} is no kind of golden"),
        };
        // The kernel pads 64-bit attributes with empty ones of their own type (`NFTA_*_PAD`).
        let unknown: Vec<_> = unknown
            .into_iter()
            .filter(|u| !u.payload.is_empty())
            .collect();
        if !unknown.is_empty() {
            strangers.push(format!("{command}: {kind} has {unknown:?}"));
        }
    }
    assert!(strangers.is_empty(), "{strangers:#?}");
    assert!(rules >= 70, "only {rules} rules were captured");
    // What this kernel or this nft cannot be made to write; the same table reads it.
    let not_here = [
        "last",
        "osf",
        "fwd",
        "synproxy",
        "flow_offload",
        "inner",
        "xfrm",
        "tunnel",
        "queue",
    ];
    let missing: Vec<_> = Expr::NAMES
        .iter()
        .filter(|name| !names.contains(**name) && !not_here.contains(name))
        .collect();
    assert!(missing.is_empty(), "no golden has {missing:?}");
}

#[test]
fn an_unknown_expression_survives_as_bytes() {
    // NFTA_EXPR_NAME "newer", NFTA_EXPR_DATA with one attribute of four bytes.
    let captured = bytes("0a0001006e65776572000000".to_owned().as_str());
    let mut w = AttrWriter::after(captured);
    w.nest(2, |w| w.bytes(7, &[1, 2, 3, 4]));
    let captured = w.finish().unwrap();
    let expr = Expr::decode(Attrs::new(&captured)).unwrap();
    assert!(
        matches!(&expr, Expr::Other { name, data: Some(data) } if name == "newer" && data.len() == 8)
    );
    assert_eq!(encode(&expr), captured);
}

fn one() -> Option<u32> {
    Some(1)
}

fn verdict(code: i32, chain: Option<&str>) -> Expr {
    let verdict = Verdict {
        code: Some(code.cast_unsigned()),
        chain: chain.map(str::to_owned),
        ..Verdict::default()
    };
    let data = Data {
        verdict: Some(Nested(verdict)),
        ..Data::default()
    };
    Immediate {
        dreg: Some(0),
        data: Some(Nested(data)),
        ..Immediate::default()
    }
    .into()
}

/// Each expression that rustables encodes for us, with the bytes. They were captured from it and
/// taken by a live kernel, which listed the rules back as meant.
#[test]
fn what_is_bridged_to_rustables_has_these_very_bytes() {
    let cases: Vec<(Expr, &str)> = vec![
        (
            Meta {
                dreg: one(),
                key: Some(15),
                ..Meta::default()
            }
            .into(),
            GOLDEN_META,
        ),
        (
            Payload {
                dreg: one(),
                base: one(),
                offset_bytes: Some(12),
                len_bytes: Some(4),
                ..Payload::default()
            }
            .into(),
            GOLDEN_PAYLOAD,
        ),
        (
            Cmp {
                sreg: one(),
                op: Some(0),
                data: Some(Data::value([2])),
                ..Cmp::default()
            }
            .into(),
            GOLDEN_CMP,
        ),
        (
            Bitwise {
                sreg: one(),
                dreg: one(),
                len_bytes: Some(4),
                mask: Some(Data::value([6, 0, 0, 0])),
                xor: Some(Data::value([0; 4])),
                ..Bitwise::default()
            }
            .into(),
            GOLDEN_BITWISE,
        ),
        (
            Ct {
                dreg: one(),
                key: Some(0),
                ..Ct::default()
            }
            .into(),
            GOLDEN_CT,
        ),
        (verdict(1, None), GOLDEN_ACCEPT),
        (verdict(-4, Some("input-default")), GOLDEN_GOTO),
        (
            Lookup {
                set: Some("peers4".into()),
                sreg: one(),
                ..Lookup::default()
            }
            .into(),
            GOLDEN_LOOKUP,
        ),
        (
            Log {
                group: Some(5),
                prefix: Some("peerwall ".into()),
                ..Log::default()
            }
            .into(),
            GOLDEN_LOG,
        ),
        (
            Reject {
                kind: one(),
                icmp_code: Some(0),
                ..Reject::default()
            }
            .into(),
            GOLDEN_REJECT,
        ),
        (
            CounterExpr {
                bytes: Some(3),
                packets: Some(1),
                ..CounterExpr::default()
            }
            .into(),
            GOLDEN_COUNTER,
        ),
    ];
    for (expr, want) in cases {
        let made =
            bridge::encode(&expr).unwrap_or_else(|| panic!("{} is not bridged", expr.name()));
        let hex: String = made.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, want, "{}", expr.name());
        assert_eq!(
            Expr::decode(Attrs::new(&made)).unwrap(),
            expr,
            "{}",
            expr.name()
        );
    }
}

/// What rustables has no word for is written from our own table, never cut down to what it has.
#[test]
fn what_rustables_cannot_say_is_not_bridged() {
    for expr in [
        Meta {
            sreg: one(),
            key: Some(3),
            ..Meta::default()
        }
        .into(),
        Ct {
            dreg: one(),
            key: Some(12),
            direction: Some(0),
            ..Ct::default()
        }
        .into(),
        Ct {
            dreg: one(),
            key: Some(2),
            ..Ct::default()
        }
        .into(),
        Lookup {
            set: Some("s".into()),
            sreg: one(),
            flags: one(),
            ..Lookup::default()
        }
        .into(),
        Cmp {
            sreg: Some(9),
            op: Some(0),
            data: Some(Data::value([2])),
            ..Cmp::default()
        }
        .into(),
        Log {
            group: Some(5),
            snaplen: Some(9),
            ..Log::default()
        }
        .into(),
        Expr::Notrack,
    ] {
        assert_eq!(bridge::encode(&expr), None, "{expr:?}");
        assert_eq!(Expr::decode(Attrs::new(&encode(&expr))).unwrap(), expr);
    }
}

const GOLDEN_META: &str = "080001006d657461140002800800010000000001080002000000000f";
const GOLDEN_PAYLOAD: &str = "\
    0b0001007061796c6f6164002400028008000100000000010800020000000001080003000000000c\
    0800040000000004";
const GOLDEN_CMP: &str =
    "07000100636d700020000280080001000000000108000200000000000c0003800500010002000000";
const GOLDEN_BITWISE: &str = "\
    0b000100626974776973650034000280080001000000000108000200000000010800030000000004\
    0c00048008000100060000000c0005800800010000000000";
const GOLDEN_CT: &str = "06000100637400001400028008000100000000010800020000000000";
const GOLDEN_ACCEPT: &str =
    "0d000100696d6d6564696174650000001c0002800800010000000000100002800c0002800800010000000001";
const GOLDEN_GOTO: &str = "0d000100696d6d656469617465000000300002800800010000000000240002802000028008000100\
    fffffffc11000200696e7075742d64656661756c74000000";
const GOLDEN_LOOKUP: &str =
    "0a0001006c6f6f6b75700000180002800a00010070656572733400000800020000000001";
const GOLDEN_LOG: &str = "070001006c6f67001c00028006000100000500000d0002007065657277616c6c20000000";
const GOLDEN_REJECT: &str = "0a00010072656a65637400001400028008000100000000010500020000000000";
const GOLDEN_COUNTER: &str =
    "0b000100636f756e746572001c0002800c00010000000000000000030c0002000000000000000001";
