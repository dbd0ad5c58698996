//! Conversion of the kernel's objects to [`observed`](crate::nft::observed) state.
//!
//! Objects in the table that peerwall cannot represent are reported, never skipped, so that the
//! plan removes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use peerwall_proto::nf_tables as nft;
use peerwall_proto::nf_tables::userdata;

use crate::nft::expr;
use crate::nft::lower::key_value;
use crate::nft::observed::{
    ObservedChain, ObservedCounter, ObservedRule, ObservedSet, ObservedTable, Ownership,
    Unrecognized,
};
use crate::ruleset::{
    Base, ChainHook, ChainPolicy, Element, Elements, KeyType, METER_SIZE, METER_TIMEOUT_SECONDS,
    Set,
};

/// Dump of peerwall's table.
#[derive(Debug, Clone, Default)]
pub struct Dump {
    /// Table.
    pub table: nft::Table,
    /// Chains, in the kernel's order.
    pub chains: Vec<nft::Chain>,
    /// Rules, in order within each chain.
    pub rules: Vec<nft::Rule>,
    /// Sets.
    pub sets: Vec<nft::Set>,
    /// Elements by set; `None` if peerwall never creates such an element.
    pub elements: BTreeMap<String, Option<Vec<Point>>>,
    /// Stateful objects.
    pub objects: Vec<nft::Object>,
}

/// Element in the kernel's form: a value, or the end of an interval. Compact, because there can be
/// a hundred thousand elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    bytes: [u8; 16],
    len_bytes: u8,
    end: bool,
    timed: bool,
    comment: Option<Arc<str>>,
}

impl Point {
    /// Converts an element; `None` if it has attributes other than key, comment and
    /// timeout.
    pub fn read(element: &nft::Element) -> Option<Self> {
        let plain = element.data.is_none()
            && element.expr.is_none()
            && element.exprs.is_none()
            && element.objref.is_none()
            && element.key_end.is_none();
        let key = element.key.as_ref()?.0.value.as_deref()?;
        let mut bytes = [0; 16];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        let comment = element.userdata.as_deref().and_then(userdata::find_comment);
        plain.then_some(Self {
            bytes,
            len_bytes: u8::try_from(key.len()).ok()?,
            timed: element.timeout.unwrap_or(0) != 0,
            end: element.flags.unwrap_or(0) & nft::NFT_SET_ELEM_INTERVAL_END != 0,
            comment: comment.map(Arc::from),
        })
    }

    fn value(&self, key: KeyType) -> Option<u128> {
        key_value(key, self.bytes.get(..usize::from(self.len_bytes))?)
    }
}

/// Converts a dump.
pub fn lift(dump: &Dump) -> ObservedTable {
    let flags = dump.table.flags.unwrap_or(0);
    let mut table = ObservedTable {
        hold: Ownership {
            owner: dump
                .table
                .owner
                .filter(|_| flags & nft::NFT_TABLE_F_OWNER != 0),
            persist: flags & nft::NFT_TABLE_F_PERSIST != 0,
        },
        ..ObservedTable::default()
    };
    if flags & nft::NFT_TABLE_F_DORMANT != 0 {
        table.foreign.push("the flag dormant".into());
    }
    for object in &dump.objects {
        lift_object(object, &mut table);
    }
    for set in &dump.sets {
        lift_set(set, &dump.elements, &mut table);
    }
    table.chains = dump
        .chains
        .iter()
        .map(|chain| lift_chain(chain, &dump.rules))
        .collect();
    table
}

fn lift_object(object: &nft::Object, table: &mut ObservedTable) {
    let name = object.name.clone().unwrap_or_default();
    match object.counter() {
        Ok(Some(counter)) => {
            let counter = ObservedCounter {
                packets: counter.packets.unwrap_or(0),
                bytes: counter.bytes.unwrap_or(0),
            };
            table.counters.insert(name, counter);
        }
        Ok(None) | Err(_) => table.foreign.push(format!("object {name}")),
    }
}

fn lift_set(
    set: &nft::Set,
    elements: &BTreeMap<String, Option<Vec<Point>>>,
    table: &mut ObservedTable,
) {
    let name = set.name.clone().unwrap_or_default();
    // An anonymous set belongs to a foreign rule and is deleted with it.
    if set.flags.unwrap_or(0) & nft::NFT_SET_ANONYMOUS != 0 {
        return;
    }
    let known = match elements.get(&name) {
        None => known_set(set, &[]),
        Some(points) => {
            let points = points.as_deref().or_else(|| is_meter(set).then_some(&[]));
            points.and_then(|points| known_set(set, points))
        }
    };
    let seen = known.map_or(ObservedSet::Unrecognized, |known| ObservedSet::Known {
        set: known,
        capacity: set.desc.as_ref().and_then(|desc| desc.0.size),
    });
    table.sets.insert(name, seen);
}

/// Returns whether a set is a meter: rules add its elements, each with a rate.
pub fn is_meter(set: &nft::Set) -> bool {
    set.flags.unwrap_or(0) == nft::NFT_SET_TIMEOUT | nft::NFT_SET_EVAL
}

fn known_set(set: &nft::Set, elements: &[Point]) -> Option<Set> {
    let key = KeyType::ALL
        .into_iter()
        .find(|key| Some(key.number()) == set.key_type)?;
    let same_len = set.key_len == u32::try_from(key.len_bytes()).ok();
    let flags = set.flags.unwrap_or(0);
    let is_meter = is_meter(set);
    let timeout = match is_meter {
        true => u64::from(METER_TIMEOUT_SECONDS) * 1000,
        false => 0,
    };
    let plain = set.data_type.is_none()
        && set.timeout.unwrap_or(0) == timeout
        && set.expr.is_none()
        && set.exprs.is_none()
        && set.desc.as_ref().is_none_or(|desc| desc.0.concat.is_none());
    (same_len && plain).then_some(())?;
    if is_meter {
        let size = set.desc.as_ref().and_then(|desc| desc.0.size);
        // The elements are sources of packets, not part of the ruleset.
        return (size == Some(METER_SIZE)).then_some(Set {
            key,
            interval: false,
            meter: true,
            timed: false,
            elements: Elements::default(),
        });
    }
    let (interval, timed) = match flags {
        0 => (false, false),
        nft::NFT_SET_INTERVAL => (true, false),
        nft::NFT_SET_TIMEOUT => (false, true),
        _ => return None,
    };
    if !timed && elements.iter().any(|element| element.timed) {
        return None;
    }
    let elements = match interval {
        true => intervals(key, elements)?,
        false => singles(key, elements)?,
    };
    Some(Set {
        key,
        interval,
        meter: false,
        timed,
        elements: elements.into(),
    })
}

fn singles(key: KeyType, elements: &[Point]) -> Option<Vec<Element>> {
    let mut found = Vec::with_capacity(elements.len());
    for element in elements {
        if element.end {
            return None;
        }
        found.push(Element {
            comment: element.comment.clone(),
            ..Element::one(element.value(key)?)
        });
    }
    found.sort_unstable_by_key(|element| element.first);
    Some(found)
}

/// Pairs starts with ends. At the same key, an end belongs to the interval before, so it sorts
/// first. An end without a start is the "null element", which nft writes before all other elements.
fn intervals(key: KeyType, elements: &[Point]) -> Option<Vec<Element>> {
    let mut points = elements
        .iter()
        .map(|e| Some((e.value(key)?, e.end, e.comment.clone())))
        .collect::<Option<Vec<_>>>()?;
    points.sort_unstable_by_key(|(value, end, _)| (*value, !*end));
    let mut found: Vec<Element> = Vec::new();
    let mut open: Option<(u128, Option<Arc<str>>)> = None;
    for (value, end, comment) in points {
        match (end, open.take()) {
            (true, Some((first, comment))) => found.push(Element {
                first,
                last: value.checked_sub(1)?,
                comment,
            }),
            (true, None) => {}
            (false, None) => open = Some((value, comment)),
            (false, Some(_)) => return None,
        }
    }
    if let Some((first, comment)) = open {
        found.push(Element {
            first,
            last: key.max(),
            comment,
        });
    }
    Some(found)
}

fn lift_chain(chain: &nft::Chain, rules: &[nft::Rule]) -> ObservedChain {
    let name = chain.name.clone().unwrap_or_default();
    let of_chain = rules.iter().filter(|rule| rule.chain == chain.name);
    ObservedChain {
        base: lift_base(chain),
        rules: of_chain.map(lift_rule).collect(),
        name,
    }
}

fn lift_base(chain: &nft::Chain) -> Result<Option<Base>, Unrecognized> {
    let Some(hook) = &chain.hook else {
        return Ok(None);
    };
    let kind = chain.kind.as_deref().unwrap_or_default();
    if kind != "filter" {
        return Err(Unrecognized(format!("chain of type {kind}")));
    }
    let number = hook.0.hooknum;
    let hook_known = match number {
        Some(nft::NF_INET_PRE_ROUTING) => ChainHook::Prerouting,
        Some(nft::NF_INET_LOCAL_IN) => ChainHook::Input,
        Some(nft::NF_INET_FORWARD) => ChainHook::Forward,
        _ => {
            let number = number.unwrap_or(u32::MAX);
            return Err(Unrecognized(format!("hook number {number}")));
        }
    };
    let policy = match chain.policy {
        Some(nft::NF_DROP) => ChainPolicy::Drop,
        _ => ChainPolicy::Accept,
    };
    Ok(Some(Base {
        hook: hook_known,
        priority: hook.0.priority().unwrap_or(0),
        policy,
    }))
}

fn lift_rule(rule: &nft::Rule) -> ObservedRule {
    let exprs = rule.exprs.as_deref().unwrap_or_default();
    let lifted = match rule.compat {
        Some(_) => Err(Unrecognized("an xtables rule".to_owned())),
        None => expr::read_rule(exprs).map(|mut lifted| {
            lifted.comment = rule.userdata.as_deref().and_then(userdata::find_comment);
            lifted
        }),
    };
    ObservedRule {
        handle: rule.handle.unwrap_or(0),
        rule: lifted,
    }
}
