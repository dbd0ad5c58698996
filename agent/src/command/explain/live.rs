//! `peerwall explain --live`: the packet's way through all rules that this host has loaded.

use peerwall_core::explain::live::{Decider, Journey, Journeys, Passage, said};
use peerwall_core::explain::{Outcome, described, explain};
use peerwall_core::iptables::{is_our_chain, observed};
use peerwall_core::net::packet::Verdict;
use peerwall_core::nft::foreign::{Engine, ForeignDrop};
use peerwall_core::policy::reason::Reason;
use peerwall_core::ruleset::{TABLE, counter_reason};
use schemars::JsonSchema;
use serde::Serialize;

use super::Explained;
use crate::color::{Meaning, paint};
use crate::enforce::foreign;
use crate::host::names::printable;
use crate::policy_file::LoadedPolicy;

/// One possible way of a packet.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LiveWay {
    /// Whether the packet is accepted.
    outcome: Outcome,
    /// Description of the packet at its hook.
    subject: String,
    /// Base chains in order; the last one decides.
    passages: Vec<Passage>,
    /// Why the kernel drops the packet, besides all rules.
    dropped_by_kernel: Option<String>,
    /// What decides between this way and another one, and what it is on this way.
    conditions: Vec<String>,
    /// Place in the policy of peerwall's verdict, as `file:line`.
    place: Option<String>,
    /// Command that ends the drop of another firewall, or shows it.
    clear: Option<String>,
}

impl Explained {
    /// Replaces the policy's verdict with that of all loaded rules.
    pub(super) fn add_live(&mut self, ready: &LoadedPolicy, journeys: &Journeys) {
        let drops = foreign::find();
        let ways = journeys.ways.iter();
        self.ways = ways
            .map(|(questions, journey)| {
                let conditions = questions.iter().map(|each| {
                    let how = if each.answer == 0 {
                        "does not match"
                    } else {
                        "matches"
                    };
                    format!("{} {how}", each.about)
                });
                LiveWay::new(ready, journey, conditions.collect(), &drops)
            })
            .collect();
        let questions = journeys.ways.iter().flat_map(|(questions, _)| questions);
        let mut about: Vec<String> = questions.map(|each| each.about.clone()).collect();
        about.sort();
        about.dedup();
        self.outcome = match &journeys.ways[..] {
            [(_, journey)] if journeys.is_complete => outcome(journey),
            _ => Outcome::Undecided,
        };
        if self.outcome == Outcome::Undecided {
            self.undecided_by = about;
        }
        let Some((_, last)) = journeys.ways.last() else {
            return;
        };
        self.assumed.extend(last.assumed.iter().cloned());
        self.subject = described(&last.packet);
        if last.hook.is_some() {
            let found = explain(&ready.policy, &ready.ruleset, &ready.origins, &last.packet);
            self.reason = found.reason;
            self.fixes = found.fixes;
        }
        let is_ours = last.passages.last().is_some_and(is_ours);
        if last.verdict == Verdict::Accept || !is_ours {
            self.fixes.clear();
        }
    }

    pub(super) fn live_text(&self) -> String {
        let mut text = match self.outcome {
            Outcome::Accepted => {
                let word = paint(Meaning::Good, "accepted");
                format!("{word}: no chain on the packet's way drops it\n")
            }
            Outcome::Denied => format!("{}: {}\n", paint(Meaning::Bad, "denied"), self.by()),
            Outcome::Undecided => {
                let word = paint(Meaning::Attention, "undecided");
                format!(
                    "{word}: it depends on {}\n",
                    self.undecided_by.join(", and on ")
                )
            }
        };
        text.push_str(&format!("  packet  {}\n", self.subject));
        for assumed in &self.assumed {
            text.push_str(&format!("  assumed {assumed}\n"));
        }
        for way in &self.ways {
            if self.ways.len() > 1 {
                let word = match way.outcome {
                    Outcome::Accepted => "Accepted",
                    Outcome::Denied | Outcome::Undecided => "Denied",
                };
                let conditions = way.conditions.join(", ");
                text.push_str(&format!("{word}, if {}:\n", printable(&conditions)));
            }
            text.push_str(&way.text());
        }
        text.push_str(&self.fixes_text());
        text
    }

    /// Says who denies the packet.
    fn by(&self) -> String {
        let Some(way) = self.ways.first() else {
            return String::new();
        };
        if let Some(why) = &way.dropped_by_kernel {
            return why.clone();
        }
        let Some(last) = way.passages.last() else {
            return String::new();
        };
        let who = printable(&said(last));
        if is_ours(last) {
            let reason = last.by.as_ref().and_then(reason);
            return reason.map_or(who, |reason| format!("{} ({reason})", reason.sentence()));
        }
        let mut before = way.passages.iter().rev();
        let ours = before.find(|each| is_ours(each) && each.hook == last.hook);
        let Some(ours) = ours else {
            return who;
        };
        let by = ours.by.as_ref();
        let words = match ours.engine {
            Engine::Nft => by.and_then(|by| by.text.clone()),
            Engine::IptablesNft | Engine::IptablesLegacy => {
                by.and_then(reason).map(|reason| reason.sentence())
            }
        };
        let reason = printable(&words.unwrap_or_default());
        let place = way.place.as_ref();
        let place = place.map_or_else(String::new, |place| format!(", {place}"));
        format!("accepted by peerwall ({reason}{place}), then dropped by {who}")
    }
}

fn outcome(journey: &Journey) -> Outcome {
    match journey.verdict {
        Verdict::Accept => Outcome::Accepted,
        Verdict::Drop | Verdict::Reject => Outcome::Denied,
    }
}

/// Whether the rules of peerwall decided: its table, or its chains of iptables.
fn is_ours(passage: &Passage) -> bool {
    match passage.engine {
        Engine::Nft => passage.family == "inet" && passage.table == TABLE,
        Engine::IptablesNft | Engine::IptablesLegacy => {
            let by = passage.by.as_ref();
            by.is_some_and(|by| is_our_chain(&by.chain))
        }
    }
}

/// Returns the reason of peerwall's verdict. Chains of denials in its table are named after theirs;
/// rules in its chains of iptables name their counter.
fn reason(by: &Decider) -> Option<Reason> {
    if !is_our_chain(&by.chain) {
        return Reason::parse(&by.chain);
    }
    let counter = observed::counter_of(by.text.as_deref()?)?;
    let (_, reason) = counter_reason(&counter)?;
    Some(reason)
}

impl LiveWay {
    fn new(
        ready: &LoadedPolicy,
        journey: &Journey,
        conditions: Vec<String>,
        drops: &[ForeignDrop],
    ) -> Self {
        let last = journey.passages.last();
        let denies = last.filter(|last| last.verdict != Verdict::Accept && !is_ours(last));
        Self {
            outcome: outcome(journey),
            subject: described(&journey.packet),
            passages: journey.passages.clone(),
            dropped_by_kernel: journey.dropped_by_kernel.clone(),
            conditions,
            place: place(ready, journey),
            clear: denies.map(|passage| clear(passage, drops)),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for passage in &self.passages {
            let word = match (passage.verdict, &passage.translated) {
                (Verdict::Accept, Some(_)) => "to",
                (Verdict::Accept, None) => "passes",
                (Verdict::Drop, _) => "drops",
                (Verdict::Reject, _) => "rejects",
            };
            let to = passage.translated.as_ref();
            let to = to.map_or_else(String::new, |to| format!("{to}, by "));
            let who = printable(&said(passage));
            let place = match (&self.place, is_ours(passage)) {
                (Some(place), true) if passage.hook != "prerouting" => format!(" ({place})"),
                _ => String::new(),
            };
            text.push_str(&format!("  {word:<7} {}: {to}{who}{place}\n", passage.hook));
        }
        if let Some(why) = &self.dropped_by_kernel {
            text.push_str(&format!("  drops   the kernel: {why}\n"));
        }
        if let Some(clear) = &self.clear {
            text.push_str(&format!("  do      {}\n", printable(clear)));
        }
        text
    }
}

/// Returns the place of peerwall's verdict in the policy, if the loaded rules are those of the
/// policy.
fn place(ready: &LoadedPolicy, journey: &Journey) -> Option<String> {
    let ours = journey
        .passages
        .iter()
        .rev()
        .find(|passage| is_ours(passage))?;
    let loaded = ours.by.as_ref()?;
    let found = explain(
        &ready.policy,
        &ready.ruleset,
        &ready.origins,
        &journey.packet,
    );
    let is_it = match ours.engine {
        Engine::Nft => is_rule_of(ready, ours, loaded),
        Engine::IptablesNft | Engine::IptablesLegacy => found.reason == reason(loaded),
    };
    let place = found.place.filter(|_| is_it)?;
    Some(ready.sources.line_of(&place))
}

/// Whether a rule of the loaded table is the same in the policy.
fn is_rule_of(ready: &LoadedPolicy, ours: &Passage, loaded: &Decider) -> bool {
    let Some((chain, index)) = ours.path.last() else {
        return false;
    };
    let rules = ready.ruleset.chain(chain).map(|chain| &chain.rules);
    let rule = rules.and_then(|rules| rules.get(*index));
    loaded.chain == *chain && rule.is_some_and(|rule| rule.comment == loaded.text)
}

/// Returns the command that ends a drop, or that shows the rule.
fn clear(passage: &Passage, drops: &[ForeignDrop]) -> String {
    let is_it = |drop: &&ForeignDrop| {
        let are_legacy = [drop.engine, passage.engine].map(|each| each == Engine::IptablesLegacy);
        are_legacy[0] == are_legacy[1]
            && drop.family == passage.family
            && drop.table == passage.table
            && drop.chain == passage.chain
    };
    let by_default = passage.by.as_ref().is_none_or(|by| by.number.is_some());
    if let Some(drop) = drops
        .iter()
        .find(is_it)
        .filter(|_| by_default || passage.by.is_none())
    {
        return drop.clear.clone();
    }
    let (family, table) = (passage.family, &passage.table);
    let chain = passage.by.as_ref().map_or(&passage.chain, |by| &by.chain);
    let six = if family == "ip6" { "6" } else { "" };
    match passage.engine {
        Engine::Nft => format!("nft -a list chain {family} {table} {chain}"),
        Engine::IptablesNft => format!("ip{six}tables-nft -t {table} -S {chain}"),
        Engine::IptablesLegacy => format!("ip{six}tables-legacy -t {table} -S {chain}"),
    }
}
