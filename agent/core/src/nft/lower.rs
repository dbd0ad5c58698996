//! Conversion of plans to netlink messages.

use std::fmt;
use std::time::Duration;

use peerwall_proto::netlink::attr::{AttrWriter, TooLong};
use peerwall_proto::netlink::message::{NLM_F_APPEND, NLM_F_CREATE};
use peerwall_proto::nf_tables::batch::Batch;
use peerwall_proto::nf_tables::expr::Data;
use peerwall_proto::nf_tables::userdata::{self, KeyByteOrder};
use peerwall_proto::nf_tables::{
    self as nft, Attributes, Chain, Counter, Nested, Object, Rule, Set, SetDesc, Table,
    element_lists, msg,
};

use crate::net::addr::{self, Family};
use crate::nft::expr;
use crate::nft::observed::ObservedCounter;
use crate::nft::plan::{Op, Plan, SetKind};
use crate::ruleset::{
    self, Base, ChainHook, ChainPolicy, Element, Ends, KeyType, METER_SIZE, METER_TIMEOUT_SECONDS,
    TABLE,
};

/// Time after which the kernel removes an element that should have ended. Usually the agent has
/// removed it then, and ended its connections.
const KERNEL_LATER: Duration = Duration::from_secs(2);

/// Index of a step in its plan.
pub type OpIndex = usize;

/// Error: the plan does not fit into messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerError {
    /// Index of the step.
    pub op: OpIndex,
    /// Cause.
    pub why: TooLong,
}

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} of the plan: {}", self.op + 1, self.why)
    }
}

impl std::error::Error for LowerError {}

/// Builds the messages of a plan, each with the index of its step. `table_flags` are the flags
/// (`NFT_TABLE_F_*`) for adding or claiming the table, and `now` is the time since boot.
///
/// # Errors
/// [`LowerError`] if a name or a rule is too long for a netlink attribute.
pub fn lower(plan: &Plan, table_flags: u32, now: Duration) -> Result<Batch<OpIndex>, LowerError> {
    let mut batch = Batch::new();
    let mut next_set_id = 1;
    for (index, op) in plan.ops.iter().enumerate() {
        let mut out = Out {
            batch: &mut batch,
            index,
            ends: &plan.ends,
            now,
        };
        out.op(op, table_flags, &mut next_set_id)
            .map_err(|why| LowerError { op: index, why })?;
    }
    Ok(batch)
}

struct Out<'b> {
    batch: &'b mut Batch<OpIndex>,
    index: OpIndex,
    ends: &'b Ends,
    now: Duration,
}

impl Out<'_> {
    fn raw(&mut self, kind: u16, flags: u16, attrs: Vec<u8>) {
        self.batch
            .push(self.index, nft::NFPROTO_INET, kind, flags, attrs);
    }

    fn send(&mut self, kind: u16, flags: u16, object: &impl Attributes) -> Result<(), TooLong> {
        let mut w = AttrWriter::new();
        object.encode(&mut w);
        self.raw(kind, flags, w.finish()?);
        Ok(())
    }

    fn op(&mut self, op: &Op, table_flags: u32, next_set_id: &mut u32) -> Result<(), TooLong> {
        match op {
            Op::AddTable | Op::ClaimTable => self.send(
                msg::NFT_MSG_NEWTABLE,
                NLM_F_CREATE,
                &table(Some(table_flags)),
            ),
            Op::DeleteTable => self.send(msg::NFT_MSG_DELTABLE, 0, &table(None)),
            Op::AddCounter(name, start) => {
                let object = counter(name, Some(start))?;
                self.send(msg::NFT_MSG_NEWOBJ, NLM_F_CREATE, &object)
            }
            Op::DeleteCounter(name) => self.send(msg::NFT_MSG_DELOBJ, 0, &counter(name, None)?),
            Op::AddSet(name, key, kind, capacity) => {
                let id = *next_set_id;
                *next_set_id += 1;
                self.send(
                    msg::NFT_MSG_NEWSET,
                    NLM_F_CREATE,
                    &set(name, *key, *kind, *capacity, id),
                )
            }
            Op::DeleteSet(name) => {
                let set = Set {
                    table: Some(TABLE.into()),
                    name: Some(name.clone()),
                    ..Set::default()
                };
                self.send(msg::NFT_MSG_DELSET, 0, &set)
            }
            Op::AddElements(name, key, kind, list) => {
                self.elements(msg::NFT_MSG_NEWSETELEM, name, *key, *kind, list)
            }
            Op::DeleteElements(name, key, kind, list) => {
                self.elements(msg::NFT_MSG_DELSETELEM, name, *key, *kind, list)
            }
            Op::AddChain(name, base) => self.send(
                msg::NFT_MSG_NEWCHAIN,
                NLM_F_CREATE,
                &chain(name, base.as_ref()),
            ),
            Op::SetPolicy(name, policy) => {
                let update = Chain {
                    policy: Some(policy_number(*policy)),
                    ..chain(name, None)
                };
                self.send(msg::NFT_MSG_NEWCHAIN, 0, &update)
            }
            Op::FlushChain(name) => self.send(msg::NFT_MSG_DELRULE, 0, &rule_of(name)),
            Op::DeleteChain(name) => self.send(msg::NFT_MSG_DELCHAIN, 0, &chain(name, None)),
            Op::AddRule(chain, before, rule) => self.add_rule(chain, *before, rule),
            Op::DeleteRule(chain, handle, _) => {
                let rule = Rule {
                    handle: Some(*handle),
                    ..rule_of(chain)
                };
                self.send(msg::NFT_MSG_DELRULE, 0, &rule)
            }
        }
    }

    fn add_rule(
        &mut self,
        chain: &str,
        before: Option<u64>,
        rule: &ruleset::Rule,
    ) -> Result<(), TooLong> {
        let message = Rule {
            position: before,
            exprs: Some(expr::rule_exprs(rule)),
            userdata: rule.comment.as_deref().map(userdata::comment),
            ..rule_of(chain)
        };
        // With a position, the kernel adds the rule after that rule if NLM_F_APPEND is set, else
        // before it.
        let flags = match before {
            Some(_) => NLM_F_CREATE,
            None => NLM_F_CREATE | NLM_F_APPEND,
        };
        self.send(msg::NFT_MSG_NEWRULE, flags, &message)
    }

    fn elements(
        &mut self,
        kind: u16,
        set: &str,
        key: KeyType,
        of: SetKind,
        list: &[Element],
    ) -> Result<(), TooLong> {
        let flags = if kind == msg::NFT_MSG_NEWSETELEM {
            NLM_F_CREATE
        } else {
            0
        };
        let mut next = list.iter();
        let lists = element_lists(TABLE, set, |w| match next.next() {
            Some(element) => {
                let timeout = self.timeout(key, of, element);
                write_element(w, key, of, element, timeout);
                true
            }
            None => false,
        })?;
        for attrs in lists {
            self.raw(kind, flags, attrs);
        }
        Ok(())
    }

    /// Returns the timeout of an element in milliseconds; `None` if it never ends.
    fn timeout(&self, key: KeyType, of: SetKind, element: &Element) -> Option<u64> {
        let family = match (of, key) {
            (SetKind::Timed, KeyType::Ipv4) => Family::V4,
            (SetKind::Timed, KeyType::Ipv6) => Family::V6,
            _ => return None,
        };
        let end = self.ends.0.get(&addr::address(family, element.first));
        let end = end.copied().unwrap_or(Some(Duration::ZERO))?;
        let left = end.saturating_sub(self.now) + KERNEL_LATER;
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Writes an element. An interval has two: its first value, and the first value after it with
/// `NFT_SET_ELEM_INTERVAL_END`, unless it extends to the end of the key space.
fn write_element(
    w: &mut AttrWriter,
    key: KeyType,
    kind: SetKind,
    element: &Element,
    timeout: Option<u64>,
) {
    let comment = element.comment.as_deref().map(userdata::comment);
    nft::Element {
        key: Some(Data::value(key_bytes(key, element.first))),
        userdata: comment,
        timeout,
        ..nft::Element::default()
    }
    .write(w);
    if kind == SetKind::Intervals && element.last < key.max() {
        nft::Element {
            key: Some(Data::value(key_bytes(key, element.last + 1))),
            flags: Some(nft::NFT_SET_ELEM_INTERVAL_END),
            ..nft::Element::default()
        }
        .write(w);
    }
}

/// Returns a key in network byte order, with the width of its type.
#[expect(
    clippy::big_endian_bytes,
    reason = "keys are big-endian numbers of different widths"
)]
pub(crate) fn key_bytes(key: KeyType, value: u128) -> Vec<u8> {
    value.to_be_bytes()[16 - key.len_bytes()..].to_vec()
}

/// Parses a key of [`key_bytes`].
#[expect(
    clippy::big_endian_bytes,
    reason = "keys are big-endian numbers of different widths"
)]
pub(crate) fn key_value(key: KeyType, bytes: &[u8]) -> Option<u128> {
    let mut wide = [0; 16];
    (bytes.len() == key.len_bytes()).then_some(())?;
    wide[16 - bytes.len()..].copy_from_slice(bytes);
    Some(u128::from_be_bytes(wide))
}

fn table(flags: Option<u32>) -> Table {
    Table {
        name: Some(TABLE.into()),
        flags,
        ..Table::default()
    }
}

fn counter(name: &str, start: Option<&ObservedCounter>) -> Result<Object, TooLong> {
    let data = match start {
        None => None,
        Some(start) => {
            let mut w = AttrWriter::new();
            Counter {
                bytes: Some(start.bytes),
                packets: Some(start.packets),
                ..Counter::default()
            }
            .encode(&mut w);
            Some(w.finish()?)
        }
    };
    Ok(Object {
        table: Some(TABLE.into()),
        name: Some(name.to_owned()),
        kind: Some(nft::NFT_OBJECT_COUNTER),
        data,
        ..Object::default()
    })
}

fn set(name: &str, key: KeyType, kind: SetKind, capacity: Option<u32>, id: u32) -> Set {
    let size = match kind {
        SetKind::Meter => Some(METER_SIZE),
        SetKind::Values | SetKind::Intervals | SetKind::Timed => capacity,
    };
    Set {
        table: Some(TABLE.into()),
        name: Some(name.to_owned()),
        flags: Some(match kind {
            SetKind::Intervals => nft::NFT_SET_INTERVAL,
            SetKind::Values => 0,
            SetKind::Timed => nft::NFT_SET_TIMEOUT,
            SetKind::Meter => nft::NFT_SET_TIMEOUT | nft::NFT_SET_EVAL,
        }),
        timeout: (kind == SetKind::Meter).then(|| u64::from(METER_TIMEOUT_SECONDS) * 1000),
        key_type: Some(key.number()),
        key_len: u32::try_from(key.len_bytes()).ok(),
        desc: size.map(|size| {
            Nested(SetDesc {
                size: Some(size),
                ..SetDesc::default()
            })
        }),
        id: Some(id),
        userdata: Some(userdata::set(KeyByteOrder::Network, None)),
        ..Set::default()
    }
}

fn chain(name: &str, base: Option<&Base>) -> Chain {
    let hook = base.map(|base| {
        Nested(nft::Hook {
            hooknum: Some(hook_number(base.hook)),
            priority: Some(base.priority.cast_unsigned()),
            ..nft::Hook::default()
        })
    });
    Chain {
        table: Some(TABLE.into()),
        name: Some(name.to_owned()),
        kind: hook.is_some().then(|| "filter".to_owned()),
        hook,
        policy: base.map(|base| policy_number(base.policy)),
        ..Chain::default()
    }
}

fn rule_of(chain: &str) -> Rule {
    Rule {
        table: Some(TABLE.into()),
        chain: Some(chain.to_owned()),
        ..Rule::default()
    }
}

fn hook_number(hook: ChainHook) -> u32 {
    match hook {
        ChainHook::Prerouting => nft::NF_INET_PRE_ROUTING,
        ChainHook::Input => nft::NF_INET_LOCAL_IN,
        ChainHook::Forward => nft::NF_INET_FORWARD,
    }
}

fn policy_number(policy: ChainPolicy) -> u32 {
    match policy {
        ChainPolicy::Accept => nft::NF_ACCEPT,
        ChainPolicy::Drop => nft::NF_DROP,
    }
}
