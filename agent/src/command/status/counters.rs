//! Packets by reason, from the counters of the loaded rules.

use std::collections::BTreeMap;

use peerwall_core::iptables::observed;
use peerwall_core::nft::observed::ObservedTable;
use peerwall_core::ruleset::{FORWARD, INPUT, PUBLISHED, counter_reason};
use schemars::JsonSchema;
use serde::Serialize;

use super::watch::CounterKey;
use crate::enforce::iptables::IptablesObserved;
use crate::json::FileLine;
use crate::policy_file::LoadedPolicy;

/// A counter.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Counter")]
pub(in crate::command) struct Line {
    /// `input`, `forward`, `published`; absent for denied packets.
    pub(in crate::command) chain: Option<String>,
    /// Reason why these packets were accepted or denied.
    pub(in crate::command) reason: String,
    /// The reason as a phrase.
    pub(in crate::command) subject: String,
    /// Line of the policy with the counted entry.
    pub(in crate::command) place: Option<FileLine>,
    /// Number of packets.
    pub(in crate::command) packets: u64,
    /// Number of bytes.
    pub(in crate::command) bytes: u64,
}

impl Line {
    /// Returns what identifies the counter among those of all readings.
    pub(in crate::command) fn key(&self) -> CounterKey {
        (self.chain.clone(), self.reason.clone())
    }
}

/// Sums the counters of both families.
pub(super) fn counters_of_both(seen: &IptablesObserved) -> Vec<(String, u64, u64)> {
    let mut counted = observed::counters(&seen.v4);
    for (name, (packets, bytes)) in observed::counters(&seen.v6) {
        let entry = counted.entry(name).or_default();
        entry.0 += packets;
        entry.1 += bytes;
    }
    let counted = counted.into_iter();
    in_order(counted.map(|(name, (packets, bytes))| (name, packets, bytes)))
}

/// Returns the counters in the order in which a packet meets them: hooks first, denials last.
pub(super) fn counters(table: &ObservedTable) -> Vec<(String, u64, u64)> {
    let rules = table.chains.iter().flat_map(|chain| &chain.rules);
    let met = rules.filter_map(|seen| seen.rule.as_ref().ok()?.counter.as_ref());
    let mut names: Vec<&String> = Vec::new();
    for name in met.chain(table.counters.keys()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    in_order(names.into_iter().map(|name| {
        let counter = table.counters.get(name).copied().unwrap_or_default();
        (name.clone(), counter.packets, counter.bytes)
    }))
}

fn in_order(counters: impl Iterator<Item = (String, u64, u64)>) -> Vec<(String, u64, u64)> {
    let rank = |name: &str| {
        let chain = counter_reason(name).and_then(|(chain, _)| chain);
        [Some(INPUT), Some(FORWARD), Some(PUBLISHED), None]
            .iter()
            .position(|each| *each == chain)
    };
    let mut counters: Vec<_> = counters.collect();
    counters.sort_by_key(|(name, ..)| rank(name));
    counters
}

pub(super) fn lines(counters: Vec<(String, u64, u64)>, ready: Option<&LoadedPolicy>) -> Vec<Line> {
    let places = ready.map(places).unwrap_or_default();
    let line = |(name, packets, bytes): (String, u64, u64)| {
        let (chain, reason, subject) = match counter_reason(&name) {
            Some((chain, reason)) => (chain, reason.to_string(), reason.sentence()),
            None => (None, name.clone(), name.clone()),
        };
        Line {
            chain: chain.map(str::to_owned),
            reason,
            subject,
            place: places.get(name.as_str()).cloned(),
            packets,
            bytes,
        }
    };
    counters.into_iter().map(line).collect()
}

/// Returns the places in the policy of the counted entries, by the name of the counter.
pub(in crate::command) fn places(ready: &LoadedPolicy) -> BTreeMap<&str, FileLine> {
    let mut places = BTreeMap::new();
    for chain in &ready.ruleset.chains {
        for (at, rule) in chain.rules.iter().enumerate() {
            let origin = ready.origins.of(&chain.name, at);
            let place = origin.and_then(|origin| origin.place.as_ref());
            if let (Some(name), Some(place)) = (&rule.counter, place) {
                places.entry(name.as_str()).or_insert_with(|| FileLine {
                    file: ready.sources.name(place.file).to_owned(),
                    line: ready.sources.line_column(place).0,
                });
            }
        }
    }
    places
}
