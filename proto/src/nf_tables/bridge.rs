//! The only module that uses rustables: it encodes the expressions that rustables models.
//!
//! rustables' constructors and `Batch::finalize` produce a complete batch; the expression is
//! extracted from a temporary rule. Its transport, listings and decoders are not used: the
//! transport loses the outcome of a batch of 277 rules, the others confuse families and fail on
//! common output of nft (`docs/design.md`). [`encode`] returns `None` for an expression that
//! rustables does not model; the caller then encodes it with the table in [`expr`](super::expr).

#![expect(
    clippy::disallowed_types,
    reason = "Batch::finalize() only makes bytes; nothing is sent here"
)]

use rustables::expr as theirs;
use rustables::{Batch, MsgType, Rule};

use super::expr::{
    Bitwise, Cmp, CounterExpr, Ct, Data, Expr, Immediate, Log, Lookup, Meta, NFT_BREAK,
    NFT_CONTINUE, NFT_GOTO, NFT_JUMP, NFT_RETURN, Payload, Reject,
};
use super::schema::Nested;
use crate::netlink::attr::Attrs;
use crate::netlink::message::Datagram;

const NFTA_RULE_EXPRESSIONS: u16 = 4;

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "expressions that rustables does not model, including new ones, are encoded with our own table"
)]
/// Returns the attributes `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA` of an expression that rustables
/// models.
pub fn encode(expr: &Expr) -> Option<Vec<u8>> {
    let raw: theirs::RawExpression = match expr {
        Expr::Meta(meta) => meta_load(meta)?.into(),
        Expr::Payload(payload) => payload_load(payload)?.into(),
        Expr::Cmp(cmp) => compare(cmp)?.into(),
        Expr::Bitwise(bitwise) => mask_and_xor(bitwise)?.into(),
        Expr::Ct(ct) => ct_load(ct)?.into(),
        Expr::Immediate(immediate) => verdict_or_value(immediate)?.into(),
        Expr::Lookup(lookup) => in_set(lookup)?.into(),
        Expr::Log(log) => log_to_group(log)?.into(),
        Expr::Reject(reject) => reject_with(reject)?.into(),
        Expr::CounterExpr(counter) => count(counter)?.into(),
        _ => return None,
    };
    cut_out(raw)
}

/// Encodes a rule with this one expression and extracts the expression's attributes.
fn cut_out(raw: theirs::RawExpression) -> Option<Vec<u8>> {
    let mut batch = Batch::new();
    batch.add(&Rule::default().with_expr(raw), MsgType::Add);
    let bytes = batch.finalize();
    let rule = Datagram::new(&bytes).nth(1)?.ok()?.nfnetlink().ok()?;
    let exprs = Attrs::new(&rule.attrs)
        .flatten()
        .find(|attr| attr.attribute == NFTA_RULE_EXPRESSIONS)?;
    let first = exprs.nested().next()?.ok()?;
    Some(first.payload.to_vec())
}

fn register(number: Option<u32>) -> Option<theirs::Register> {
    Some(match number? {
        0 => theirs::Register::Verdict,
        1 => theirs::Register::Reg1,
        2 => theirs::Register::Reg2,
        3 => theirs::Register::Reg3,
        4 => theirs::Register::Reg4,
        _ => return None,
    })
}

fn value(data: &Option<Nested<Data>>) -> Option<Vec<u8>> {
    match &data.as_ref()?.0 {
        Data {
            value: Some(value),
            verdict: None,
            other,
        } if other.is_empty() => Some(value.clone()),
        _ => None,
    }
}

fn meta_load(meta: &Meta) -> Option<theirs::Meta> {
    let Meta {
        dreg,
        key: Some(key),
        sreg: None,
        other,
    } = meta
    else {
        return None;
    };
    let key = theirs::MetaType::try_from(*key).ok()?;
    let load = theirs::Meta::default()
        .with_dreg(register(*dreg)?)
        .with_key(key);
    other.is_empty().then_some(load)
}

fn payload_load(payload: &Payload) -> Option<theirs::Payload> {
    let loads = Payload {
        dreg: payload.dreg,
        base: payload.base,
        offset_bytes: payload.offset_bytes,
        len_bytes: payload.len_bytes,
        ..Payload::default()
    };
    if *payload != loads {
        return None;
    }
    Some(
        theirs::Payload::default()
            .with_dreg(register(payload.dreg)?)
            .with_base(payload.base?)
            .with_offset(payload.offset_bytes?)
            .with_len(payload.len_bytes?),
    )
}

fn compare(cmp: &Cmp) -> Option<theirs::Cmp> {
    let op = theirs::CmpOp::try_from(cmp.op?).ok()?;
    let made = theirs::Cmp::new(op, value(&cmp.data)?).with_sreg(register(cmp.sreg)?);
    cmp.other.is_empty().then_some(made)
}

fn mask_and_xor(bitwise: &Bitwise) -> Option<theirs::Bitwise> {
    let plain = Bitwise {
        sreg: bitwise.sreg,
        dreg: bitwise.dreg,
        len_bytes: bitwise.len_bytes,
        mask: bitwise.mask.clone(),
        xor: bitwise.xor.clone(),
        ..Bitwise::default()
    };
    if *bitwise != plain {
        return None;
    }
    let made = theirs::Bitwise::new(value(&bitwise.mask)?, value(&bitwise.xor)?).ok()?;
    Some(
        made.with_sreg(register(bitwise.sreg)?)
            .with_dreg(register(bitwise.dreg)?)
            .with_len(bitwise.len_bytes?),
    )
}

fn ct_load(ct: &Ct) -> Option<theirs::Conntrack> {
    let Ct {
        dreg,
        key: Some(key),
        direction: None,
        sreg: None,
        other,
    } = ct
    else {
        return None;
    };
    let key = theirs::ConntrackKey::try_from(*key).ok()?;
    let load = theirs::Conntrack::new(key).with_dreg(register(*dreg)?);
    other.is_empty().then_some(load)
}

fn verdict_or_value(immediate: &Immediate) -> Option<theirs::Immediate> {
    if !immediate.other.is_empty() {
        return None;
    }
    if let Some(value) = value(&immediate.data) {
        return Some(theirs::Immediate::new_data(
            value,
            register(immediate.dreg)?,
        ));
    }
    let data = &immediate.data.as_ref()?.0;
    let verdict = &data.verdict.as_ref()?.0;
    let plain = data.value.is_none() && data.other.is_empty() && verdict.other.is_empty();
    if !plain || immediate.dreg != Some(0) || verdict.chain_id.is_some() {
        return None;
    }
    let chain = verdict.chain.clone();
    let kind = match (verdict.code?.cast_signed(), chain) {
        (0, None) => theirs::VerdictKind::Drop,
        (1, None) => theirs::VerdictKind::Accept,
        (NFT_CONTINUE, None) => theirs::VerdictKind::Continue,
        (NFT_BREAK, None) => theirs::VerdictKind::Break,
        (NFT_RETURN, None) => theirs::VerdictKind::Return,
        (NFT_JUMP, Some(chain)) => theirs::VerdictKind::Jump { chain },
        (NFT_GOTO, Some(chain)) => theirs::VerdictKind::Goto { chain },
        _ => return None,
    };
    Some(theirs::Immediate::new_verdict(kind))
}

fn in_set(lookup: &Lookup) -> Option<theirs::Lookup> {
    let Lookup {
        set: Some(set),
        sreg,
        dreg: None,
        set_id,
        flags: None,
        other,
    } = lookup
    else {
        return None;
    };
    let mut made = theirs::Lookup::default()
        .with_set(set.clone())
        .with_sreg(register(*sreg)?);
    if let Some(id) = set_id {
        made.set_set_id(*id);
    }
    other.is_empty().then_some(made)
}

fn log_to_group(log: &Log) -> Option<theirs::Log> {
    let plain = Log {
        group: log.group,
        prefix: log.prefix.clone(),
        ..Log::default()
    };
    if *log != plain {
        return None;
    }
    theirs::Log::new(Some(log.group?), log.prefix.clone()).ok()
}

fn reject_with(reject: &Reject) -> Option<theirs::Reject> {
    let kind = theirs::RejectType::try_from(reject.kind?).ok()?;
    let code = theirs::IcmpCode::try_from(reject.icmp_code?).ok()?;
    let made = theirs::Reject::default()
        .with_type(kind)
        .with_icmp_code(code);
    reject.other.is_empty().then_some(made)
}

fn count(counter: &CounterExpr) -> Option<theirs::Counter> {
    let made = theirs::Counter::default()
        .with_nb_bytes(counter.bytes?)
        .with_nb_packets(counter.packets?);
    counter.other.is_empty().then_some(made)
}
