//! Follows a packet through all rules that a host has loaded, peerwall's and others': every base
//! chain on its way in the order of priorities, with DNAT and the routing decision.

mod published;
mod saved;
mod travel;
mod turn;

use std::collections::BTreeSet;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::import::saved::SavedTable;
use crate::net::addr::Family;
use crate::net::packet::{Hook, Packet, Verdict};
use crate::nft::foreign::Engine;
use crate::nft::machine::{Host, KernelTables, Question, explore};
pub use published::{Publication, Publications, Publisher, packet, publications};
use travel::Travel;

/// What the kernel of a host does besides its rules.
pub trait LiveHost: Host {
    /// Reports whether the host forwards packets of a family; `None` if that is not known.
    fn forwards(&self, family: Family) -> Option<bool>;
    /// Returns why the kernel drops packets from the source on the interface before any rule of a
    /// filter, such as a strict reverse path.
    fn refuses(&mut self, packet: &Packet) -> Option<String>;
    /// Reports whether an interface is a bridge.
    fn is_bridge(&self, interface: &str) -> bool;
    /// Reports whether frames that only cross a bridge pass the rules for IP (`br_netfilter`).
    fn bridge_calls(&self) -> bool;
}

/// A table that iptables prints, with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// `IptablesNft` or `IptablesLegacy`.
    pub engine: Engine,
    /// The table.
    pub table: SavedTable,
    /// Lines of the file that it is from.
    pub lines: Arc<[String]>,
}

impl Printed {
    /// Returns the lines of a table.
    pub fn lines_of(&self, table: &str) -> impl Iterator<Item = &str> {
        let start = format!("*{table}");
        let lines = self.lines.iter().map(String::as_str);
        lines
            .skip_while(move |line| *line != start)
            .take_while(|line| *line != "COMMIT")
    }
}

/// All rules of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Tables of nf_tables, without those of `printed`.
    pub tables: KernelTables,
    /// Tables of iptables.
    pub printed: Vec<Printed>,
}

impl Rules {
    /// Returns only the chains that translate addresses.
    #[must_use]
    pub fn only_nat(mut self) -> Self {
        self.tables.keep_nat();
        self.printed.retain(|printed| printed.table.name == "nat");
        self
    }
}

/// The rule that decided about a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Decider {
    /// Its chain.
    pub chain: String,
    /// Its number in that chain, from 1; absent for lines of iptables.
    pub number: Option<usize>,
    /// Its handle in nf_tables.
    pub handle: Option<u64>,
    /// Its line in the output of iptables-save, or its comment.
    pub text: Option<String>,
}

/// A base chain that a packet passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Passage {
    /// Engine.
    pub engine: Engine,
    /// `prerouting`, `input`, `forward`, `postrouting` or `ingress`.
    pub hook: &'static str,
    /// Family of the table.
    pub family: &'static str,
    /// Name of the table.
    pub table: String,
    /// Name of the base chain.
    pub chain: String,
    /// Verdict of the chain.
    pub verdict: Verdict,
    /// New destination, if a rule translated it.
    pub translated: Option<String>,
    /// The deciding rule; absent for the chain's policy.
    pub by: Option<Decider>,
    /// Matching rules of peerwall's table, as chain and index.
    #[serde(skip)]
    pub path: Vec<(String, usize)>,
}

/// The way of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journey {
    /// Verdict.
    pub verdict: Verdict,
    /// Base chains in order.
    pub passages: Vec<Passage>,
    /// Why the kernel itself drops the packet.
    pub dropped_by_kernel: Option<String>,
    /// Hook at which the packet arrives; `None` if it is dropped before.
    pub hook: Option<Hook>,
    /// The packet at that hook.
    pub packet: Packet,
    /// What was assumed, as clauses.
    pub assumed: BTreeSet<String>,
}

/// All possible ways of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journeys {
    /// One way for each verdict, accepted first, with what must be so for it.
    pub ways: Vec<(Vec<Question>, Journey)>,
    /// Whether all possibilities were tried.
    pub is_complete: bool,
}

/// Limit on combinations of answers to what cannot be known.
const COMBINATIONS_MAX: usize = 256;

/// Follows a packet. Its destination is the one before DNAT, unless `dialled` is set.
pub fn follow(rules: &Rules, packet: &Packet, host: &mut dyn LiveHost) -> Journeys {
    let found = explore(COMBINATIONS_MAX, |choices| {
        let mut travel = Travel::new(rules, packet, host, choices);
        let verdict = travel.run();
        travel.journey(verdict)
    });
    let mut ways: Vec<(Vec<Question>, Journey)> = Vec::new();
    for (questions, journey) in found.branches {
        let is_accepted = journey.verdict == Verdict::Accept;
        let is_same = |(_, other): &(_, Journey)| (other.verdict == Verdict::Accept) == is_accepted;
        match ways.iter_mut().find(|way| is_same(way)) {
            // The way with the fewest conditions says most.
            Some(way) if way.0.len() <= questions.len() => {}
            Some(way) => *way = (questions, journey),
            None => ways.push((questions, journey)),
        }
    }
    ways.sort_by_key(|(_, journey)| journey.verdict != Verdict::Accept);
    Journeys {
        ways,
        is_complete: found.is_complete,
    }
}

/// Returns what the last chain says, in a sentence.
pub fn said(passage: &Passage) -> String {
    let engine = match passage.engine {
        Engine::Nft => "nftables",
        Engine::IptablesNft => "iptables-nft",
        Engine::IptablesLegacy => "iptables-legacy",
    };
    let (family, table, chain) = (passage.family, &passage.table, &passage.chain);
    let by = match &passage.by {
        None => format!("policy {}", passage.verdict),
        Some(by) => by.text.clone().unwrap_or_else(|| match by.number {
            Some(number) => format!("rule {number} of {}", by.chain),
            None => by.chain.clone(),
        }),
    };
    format!("{family} {table} {chain} ({engine}), {by}")
}
