//! Events of the kernel as ways of packets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::net::if_::if_indextoname;
use peerwall_core::denied::{Service, head};
use peerwall_core::explain::Outcome;
use peerwall_core::explain::live::Rules;
use peerwall_core::iptables::{is_our_chain, observed};
use peerwall_core::net::packet::Transport;
use peerwall_core::nft::machine::KernelTables;
use peerwall_core::ruleset::TABLE;
use peerwall_core::ruleset::render::rule_text;
use peerwall_proto::nf_tables::expr::{
    NFT_BREAK, NFT_CONTINUE, NFT_GOTO, NFT_JUMP, NFT_RETURN, Verdict,
};
use peerwall_proto::nf_tables::trace::{NFT_TRACETYPE_POLICY, NFT_TRACETYPE_RULE, Trace};
use peerwall_proto::nf_tables::{NF_DROP, family_name};
use schemars::JsonSchema;
use serde::Serialize;

use crate::color::{Meaning, paint};
use crate::command::status::counters::places;
use crate::host::names::printable;
use crate::json::FileLine;
use crate::policy_file::LoadedPolicy;

/// A packet is at its end if no event came for this time.
const QUIET: Duration = Duration::from_millis(300);
/// Limit on packets that are followed at the same time.
const OPEN_MAX: usize = 1024;

/// A traced packet.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TracedPacket {
    /// Whether a rule or policy dropped it.
    outcome: Outcome,
    /// Description of the packet.
    subject: String,
    /// What rules and policies did, in order.
    steps: Vec<TracedStep>,
}

/// What a rule or a policy did with a packet.
#[derive(Debug, Serialize, JsonSchema)]
struct TracedStep {
    /// Family of the table.
    family: &'static str,
    /// Name of the table.
    table: String,
    /// Name of the chain.
    chain: String,
    /// Handle of the rule; absent for the policy.
    handle: Option<u64>,
    /// The rule, in the words of nft or iptables, or its comment.
    rule: Option<String>,
    /// Place in the policy, as `file:line`.
    place: Option<String>,
    /// Verdict, in the words of nft.
    verdict: String,
}

/// The rules that events name.
pub(super) struct Names<'p> {
    tables: KernelTables,
    printed: Rules,
    policy: Option<&'p LoadedPolicy>,
    /// Places in the policy by the name of the counter, which rules of iptables have as comment.
    places: BTreeMap<&'p str, FileLine>,
    /// The table of this trace, whose rules are not shown.
    own: String,
}

impl<'p> Names<'p> {
    pub(super) fn new(
        (tables, printed): (KernelTables, Rules),
        policy: Option<&'p LoadedPolicy>,
        own: &str,
    ) -> Self {
        Self {
            tables,
            printed,
            policy,
            places: policy.map(places).unwrap_or_default(),
            own: own.to_owned(),
        }
    }

    fn step(&self, family: u8, event: &Trace) -> TracedStep {
        let mut step = TracedStep {
            family: family_name(family).unwrap_or_default(),
            table: event.table.clone().unwrap_or_default(),
            chain: event.chain.clone().unwrap_or_default(),
            handle: event
                .rule_handle
                .filter(|_| event.kind == Some(NFT_TRACETYPE_RULE)),
            rule: None,
            place: None,
            verdict: verdict(event),
        };
        let table = self.tables.find(family, &step.table);
        let chain = table.and_then(|table| table.chains.get(&step.chain));
        let index = step.handle.zip(chain).and_then(|(handle, chain)| {
            let mut rules = chain.rules.iter();
            rules.position(|rule| rule.handle == handle)
        });
        let (Some(index), Some(chain)) = (index, chain) else {
            return step;
        };
        let comment = chain.rules.get(index).and_then(|rule| rule.comment.clone());
        step.rule = self.line(&step, index).or_else(|| comment.clone());
        if step.family == "inet" && step.table == TABLE {
            self.add_policy(&mut step, index, comment.as_ref());
        }
        if is_our_chain(&step.chain) {
            let counter = step.rule.as_deref().and_then(observed::counter_of);
            let place = counter.and_then(|counter| self.places.get(counter.as_str()));
            step.place = place.map(ToString::to_string);
        }
        step
    }

    /// Returns the line of iptables-save for a rule.
    fn line(&self, step: &TracedStep, index: usize) -> Option<String> {
        let is_its = |family: &str| family == step.family;
        let printed = self.printed.printed.iter().find(|printed| {
            let digit = printed.table.family.digit();
            printed.table.name == step.table && is_its(if digit == '4' { "ip" } else { "ip6" })
        })?;
        let start = format!("-A {} ", step.chain);
        let mut lines = printed.lines_of(&step.table);
        let mut of_chain = lines.by_ref().filter(|line| line.starts_with(&start));
        of_chain.nth(index).map(str::to_owned)
    }

    /// Adds what the policy says of a rule of peerwall, if the loaded rule is that of the policy.
    fn add_policy(&self, step: &mut TracedStep, index: usize, comment: Option<&String>) {
        let Some(ready) = self.policy else { return };
        let chain = ready.ruleset.chain(&step.chain);
        let rule = chain.and_then(|chain| chain.rules.get(index));
        if let Some(rule) = rule.filter(|rule| rule.comment.as_ref() == comment) {
            step.rule = Some(rule_text(rule));
            let origin = ready.origins.of(&step.chain, index);
            let place = origin.and_then(|origin| origin.place.as_ref());
            step.place = place.map(|place| ready.sources.line_of(place));
        }
    }
}

fn verdict(event: &Trace) -> String {
    if event.kind == Some(NFT_TRACETYPE_POLICY) {
        let drops = event.policy == Some(NF_DROP);
        return format!("policy {}", if drops { "drop" } else { "accept" });
    }
    let default = Verdict::default();
    let verdict = event
        .verdict
        .as_ref()
        .map_or(&default, |verdict| &verdict.0);
    let code = verdict.code.unwrap_or_default();
    let chain = verdict.chain.as_deref().unwrap_or_default();
    match code.cast_signed() {
        NFT_CONTINUE | NFT_BREAK => "continue".to_owned(),
        NFT_JUMP => format!("jump {chain}"),
        NFT_GOTO => format!("goto {chain}"),
        NFT_RETURN => "return".to_owned(),
        _ => match code & 0xff {
            0 => "drop".to_owned(),
            1 => "accept".to_owned(),
            2 => "stolen".to_owned(),
            3 => "queue".to_owned(),
            other => format!("verdict {other}"),
        },
    }
}

/// A packet whose events come in.
struct Open {
    /// The kernel's number of the packet: a hash of its place in memory and of its flow, so that
    /// later packets of the flow can have the same.
    id: u32,
    /// When the last event came.
    last: Instant,
    events: Vec<(u8, Trace)>,
    /// Whether another packet with its number came.
    is_replaced: bool,
}

impl Open {
    /// Reports whether an event is of another packet with the same number. Each packet passes each
    /// chain of the trace's own table once, and that before all other tables.
    fn is_replaced_by(&self, event: &Trace, own: &str) -> bool {
        let is_own =
            |other: &Trace| other.table.as_deref() == Some(own) && other.chain == event.chain;
        let passed =
            |(_, other): &(u8, Trace)| is_own(other) && other.kind == Some(NFT_TRACETYPE_POLICY);
        is_own(event) && self.events.iter().any(passed)
    }

    fn is_over(&self) -> bool {
        let is_dropped = self.events.last().is_some_and(|(_, event)| drops(event));
        self.is_replaced || is_dropped || self.last.elapsed() >= QUIET
    }
}

/// Packets, as far as their events came.
#[derive(Default)]
pub(super) struct Packets {
    /// In the order of their first events.
    open: Vec<Open>,
    /// Finished packets.
    pub(super) done: Vec<TracedPacket>,
    /// Whether events were lost.
    pub(super) is_incomplete: bool,
}

impl Packets {
    /// Adds events; `own` is the table of this trace.
    pub(super) fn add(&mut self, events: Vec<(u8, Trace)>, own: &str) {
        for (family, event) in events {
            let id = event.id.unwrap_or_default();
            let known = self.open.iter_mut().rfind(|packet| packet.id == id);
            match known {
                Some(packet) if packet.is_replaced_by(&event, own) => packet.is_replaced = true,
                Some(packet) => {
                    packet.last = Instant::now();
                    packet.events.push((family, event));
                    continue;
                }
                None => {}
            }
            if self.open.len() >= OPEN_MAX {
                self.is_incomplete = true;
                continue;
            }
            self.open.push(Open {
                id,
                last: Instant::now(),
                events: vec![(family, event)],
                is_replaced: false,
            });
        }
    }

    /// Takes out the packets at their end, or all of them, but not more than `max`.
    pub(super) fn finished(
        &mut self,
        all: bool,
        max: usize,
        names: &Names<'_>,
    ) -> Vec<TracedPacket> {
        let mut left = max;
        let over = self.open.extract_if(.., |packet| {
            let is_taken = left > 0 && (all || packet.is_over());
            left -= usize::from(is_taken);
            is_taken
        });
        over.map(|packet| TracedPacket::new(&packet.events, names))
            .collect()
    }
}

fn drops(event: &Trace) -> bool {
    matches!(verdict(event).as_str(), "drop" | "policy drop")
}

impl TracedPacket {
    fn new(events: &[(u8, Trace)], names: &Names<'_>) -> Self {
        let is_dropped = events.iter().any(|(_, event)| drops(event));
        let shown = events
            .iter()
            .filter(|(_, event)| event.table.as_deref() != Some(&names.own));
        Self {
            outcome: match is_dropped {
                true => Outcome::Denied,
                false => Outcome::Accepted,
            },
            subject: subject(events),
            steps: shown
                .map(|(family, event)| names.step(*family, event))
                .collect(),
        }
    }

    pub(super) fn is_denied(&self) -> bool {
        self.outcome == Outcome::Denied
    }

    pub(super) fn text(&self, number: usize) -> String {
        let (kind, word) = match self.outcome {
            Outcome::Accepted => (Meaning::Good, "accepted"),
            Outcome::Denied | Outcome::Undecided => (Meaning::Bad, "dropped"),
        };
        let mut text = format!("packet {number} {}: {}\n", paint(kind, word), self.subject);
        for step in &self.steps {
            let (family, table, chain) = (step.family, &step.table, &step.chain);
            let rule = match (&step.rule, step.handle) {
                (Some(rule), _) => format!("; {rule}"),
                (None, Some(handle)) => format!("; rule with handle {handle}"),
                (None, None) => String::new(),
            };
            let place = step.place.as_ref();
            let place = place.map_or_else(String::new, |place| format!(" ({place})"));
            let line = format!("{family} {table} {chain}: {}{rule}{place}", step.verdict);
            text.push_str(&format!("  {}\n", printable(&line)));
        }
        text
    }
}

/// Describes a packet by the headers in its first event.
fn subject(events: &[(u8, Trace)]) -> String {
    let headers = events.iter().find_map(|(_, event)| {
        let mut bytes = event.network_header.clone()?;
        bytes.extend(event.transport_header.iter().flatten());
        head::parse(&bytes)
    });
    let name = |index: Option<u32>| {
        let name = if_indextoname(index?).ok()?;
        Some(name.to_string_lossy().into_owned())
    };
    let iif = events.iter().find_map(|(_, event)| name(event.iif));
    let oif = events.iter().rev().find_map(|(_, event)| name(event.oif));
    let arrival = iif.map_or_else(|| " from here".to_owned(), |name| format!(" on {name}"));
    let departure = oif.map_or_else(String::new, |name| format!(" by {name}"));
    let Some(head) = headers else {
        return format!("a packet{arrival}{departure}");
    };
    let service = match head.transport {
        Some(Transport::Ports {
            protocol,
            destination,
            ..
        }) => Service::Port {
            protocol,
            port: destination,
        },
        Some(Transport::Icmp { kind, code }) => Service::Icmp { kind, code },
        Some(Transport::Other(protocol)) => Service::Protocol(protocol),
        None => Service::Fragment(head.protocol),
    };
    let (from, to) = (head.source, head.destination);
    format!(
        "{} from {from}{arrival} to {to}{departure}",
        service.text(from)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "peerwall-trace-1";

    fn event(id: u32, table: &str, chain: &str, kind: u32) -> (u8, Trace) {
        let event = Trace {
            id: Some(id),
            table: Some(table.to_owned()),
            chain: Some(chain.to_owned()),
            kind: Some(kind),
            ..Trace::default()
        };
        (1, event)
    }

    /// The events of the trace's own chain, and of one of another table.
    fn pass(id: u32, chain: &str) -> Vec<(u8, Trace)> {
        vec![
            event(id, OWN, chain, NFT_TRACETYPE_RULE),
            event(id, OWN, chain, NFT_TRACETYPE_POLICY),
            event(id, "t", chain, NFT_TRACETYPE_RULE),
            event(id, "t", chain, NFT_TRACETYPE_POLICY),
        ]
    }

    fn names() -> Names<'static> {
        Names::new((KernelTables::default(), Rules::default()), None, OWN)
    }

    /// The chains of the steps of each packet.
    fn chains(packets: &[TracedPacket]) -> Vec<Vec<&str>> {
        let mut all = Vec::new();
        for packet in packets {
            all.push(
                packet
                    .steps
                    .iter()
                    .map(|step| step.chain.as_str())
                    .collect(),
            );
        }
        all
    }

    #[test]
    fn packets_come_in_the_order_of_their_first_events() {
        let mut packets = Packets::default();
        for id in [9, 3, 7] {
            packets.add(pass(id, "prerouting"), OWN);
        }
        for (id, chain) in [(7, "c"), (9, "a"), (3, "b")] {
            packets.add(vec![event(id, "t", chain, NFT_TRACETYPE_POLICY)], OWN);
        }
        assert!(packets.finished(false, 9, &names()).is_empty());
        let found = packets.finished(true, 9, &names());
        let last: Vec<&str> = chains(&found).iter().map(|chains| chains[2]).collect();
        assert_eq!(last, ["a", "b", "c"]);
    }

    #[test]
    fn a_later_packet_with_the_same_number_is_another_one() {
        let mut packets = Packets::default();
        for _ in 0..3 {
            packets.add(pass(5, "prerouting"), OWN);
            packets.add(pass(5, "input")[2..].to_vec(), OWN);
        }
        let found = packets.finished(false, 9, &names());
        assert_eq!(found.len(), 2, "the last one may go on");
        for chains in chains(&found) {
            assert_eq!(chains, ["prerouting", "prerouting", "input", "input"]);
        }
        assert_eq!(packets.finished(true, 9, &names()).len(), 1);
    }

    #[test]
    fn a_packet_from_this_host_to_itself_is_one() {
        let mut packets = Packets::default();
        for chain in ["output", "prerouting"] {
            packets.add(pass(5, chain), OWN);
        }
        assert_eq!(chains(&packets.finished(true, 9, &names()))[0].len(), 4);
    }

    #[test]
    fn not_more_packets_are_taken_than_wanted() {
        let mut packets = Packets::default();
        for id in 0..5 {
            packets.add(pass(id, "prerouting"), OWN);
        }
        assert_eq!(packets.finished(true, 2, &names()).len(), 2);
        assert_eq!(packets.finished(true, 9, &names()).len(), 3);
    }
}
