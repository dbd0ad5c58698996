//! Judges every line.

use std::collections::BTreeMap;

use super::accepting::{PeerIndex, accepting, is_for_some, never, why_not};
use super::blocks::{self, Block, WHY_LOST};
use super::denying::denying;
use super::finding::{ACCEPT_POLICY, ACCEPT_POLICY_THROUGH, DNAT_ELSEWHERE, Finding};
use super::other_tables::other_table;
use super::places::{FoundLine, Places};
use super::{Fate, Line};
use crate::import::draft::Inexpressible;
use crate::import::proof::{LinePackets, Proof};
use crate::import::rule::{At, ImportedRule, Test, Verb};
use crate::import::{ParsedFiles, managed};
use crate::iptables::is_our_chain;
use crate::net::addr::Family;
use crate::net::port::{ICMP, ICMPV6};
use crate::policy::Policy;

/// Returns the lines of all files with their fates and explanations. Takes the packets of each line
/// out of the proof: of large files, not everything is in memory at once.
pub(in crate::import) fn lines(
    parsed: &ParsedFiles,
    policy: &Policy,
    proof: &mut Proof,
    inexpressible: &[Inexpressible],
) -> Vec<Line> {
    let mut why = BTreeMap::new();
    for each in inexpressible {
        why.entry(each.at).or_insert(each);
    }
    let mut report = Reporter {
        parsed,
        policy,
        fates: std::mem::take(&mut proof.fates),
        proof,
        why,
        places: Places::new(parsed),
        peers: PeerIndex::new(policy),
        nothing: LinePackets::default(),
        blocks: blocks::Blocks::new(),
    };
    for input in &parsed.rulesets {
        if let Some(file) = parsed.files.get(*input) {
            let is_read = |at: At| report.places.lines.contains_key(&at);
            let blocks = blocks::of_listing(*input, &file.text, is_read);
            report.blocks.extend(blocks);
        }
    }
    let count = parsed.files.iter().map(|file| file.text.lines().count());
    let mut out = Vec::with_capacity(count.sum());
    for (index, file) in parsed.files.iter().enumerate() {
        for (number, text) in file.text.lines().enumerate() {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let at = At {
                input: index,
                line: number + 1,
            };
            let (fate, words) = report.fate(at, text);
            report.fates.remove(&at);
            out.push(Line {
                file: file.name.clone(),
                line: at.line,
                text: text.to_owned(),
                fate,
                words,
            });
        }
    }
    out
}

/// Everything that a line is judged by.
struct Reporter<'p> {
    parsed: &'p ParsedFiles,
    policy: &'p Policy,
    /// Packets of the lines that are not judged yet.
    fates: BTreeMap<At, LinePackets>,
    /// The comparison, without these packets.
    proof: &'p Proof,
    /// Parts of lines that a policy cannot express.
    why: BTreeMap<At, &'p Inexpressible>,
    places: Places<'p>,
    peers: PeerIndex<'p>,
    nothing: LinePackets,
    /// What lines of nft's listings without rules are.
    blocks: blocks::Blocks,
}

impl<'p> Reporter<'p> {
    /// Reports whether a line, which cannot be read, has a rule that can.
    fn is_partly_read(&self, at: At) -> bool {
        let rule = self.places.lines.get(&at).and_then(|found| found.rule);
        rule.is_some_and(|rule| rule.unknown().next().is_none())
    }

    fn fate(&self, at: At, text: &str) -> (Fate, String) {
        if let Some(why) = self.parsed.problems.get(&at) {
            let may_end = self.parsed.ends_on_error.contains(&at.input);
            return match blocks::removes(text) {
                _ if may_end => Finding::MayFail(why).verdict(),
                _ if self.is_partly_read(at) => Finding::PartlyUnreadable(why).verdict(),
                true => Finding::UnreadRemoval(why).verdict(),
                false => Finding::Unreadable(why).verdict(),
            };
        }
        if self.parsed.ends.contains(&at) {
            return Finding::MayEnd.verdict();
        }
        if let Some(why) = self.parsed.left_sets.get(&at) {
            return Finding::LeftSet(why).verdict();
        }
        if text.starts_with('#') {
            return Finding::Comment.verdict();
        }
        if text.starts_with('*') || text == "COMMIT" {
            return Finding::TableEdge.verdict();
        }
        let Some(found) = self.places.lines.get(&at) else {
            return match self.parsed.is_set_line(at.input) {
                true => Finding::Set.verdict(),
                false => match self.what_is(at, text) {
                    Block::Lost => Finding::NotConverted(WHY_LOST.to_owned()).verdict(),
                    Block::Is(what) => Finding::NoRules(what).verdict(),
                },
            };
        };
        if is_our_chain(found.chain) {
            return Finding::Peerwall.verdict();
        }
        if found.table != "filter" {
            let family = self.family_of(at, found);
            return other_table(found, family, self.policy, self.proof, at).verdict();
        }
        match found.rule {
            None => self.chain(found, at).verdict(),
            Some(rule) => {
                let finding = match (self.filter_rule(found, rule), found.accepts) {
                    // Which packets enter the chain is decided elsewhere.
                    (Finding::MatchesNone, None) => Finding::NeverReached,
                    (finding, _) => finding,
                };
                let is_unsure = self.places.unsure.contains(found.chain);
                let is_behind_rate = || self.places.is_behind_rate(at, found.chain);
                match (finding, is_unsure) {
                    (Finding::NeverReached, true) => Finding::NotSureToBeReached.verdict(),
                    (Finding::NeverReached, false) if is_behind_rate() => {
                        Finding::ReachedAboveRate.verdict()
                    }
                    (finding, _) => self.with_changes(found, rule, finding),
                }
            }
        }
    }

    /// Adds to the fate of a line with a verdict what the line changes besides.
    fn with_changes(
        &self,
        found: &FoundLine<'p>,
        rule: &ImportedRule,
        finding: Finding<'p>,
    ) -> (Fate, String) {
        let changes = self.places.changes.get(&rule.at).copied();
        let changes = changes.map(|what| continuing(what, managed::by(found.chain)));
        let has_verdict = !matches!(
            rule.target,
            Verb::Continue(_) | Verb::Mark(..) | Verb::Untrack(_)
        );
        let is_done = matches!(finding, Finding::NeverReached | Finding::NoJump(_));
        let (fate, words) = finding.verdict();
        match changes {
            Some(changes @ (Finding::Changes(_) | Finding::FillsSet(_)))
                if has_verdict && !is_done && !matches!(fate, Fate::Beside | Fate::Left) =>
            {
                (Fate::Partly, format!("{words}; {}", changes.verdict().1))
            }
            _ => (fate, words),
        }
    }

    /// Returns the only family of a line; of nftables, that of its table.
    fn family_of(&self, at: At, found: &FoundLine<'_>) -> Option<Family> {
        let of_file = self.parsed.family_of(at);
        of_file.or_else(|| match found.chain.split(' ').next() {
            Some("ip") => Some(Family::V4),
            Some("ip6") => Some(Family::V6),
            Some(_) | None => None,
        })
    }

    /// Returns what a line without rules is.
    fn what_is(&self, at: At, text: &str) -> Block {
        let idle = self.parsed.idle.get(&at).copied().map(Block::Is);
        let block = idle.or_else(|| self.blocks.get(&at).copied());
        block.unwrap_or_else(|| blocks::of_line(text))
    }

    fn packets(&self, at: At) -> &LinePackets {
        self.fates.get(&at).unwrap_or(&self.nothing)
    }

    /// Reports whether a line decides about no packet.
    fn is_idle(&self, at: At) -> bool {
        let packets = self.packets(at);
        packets.kept.is_empty() && packets.closed.is_empty() && !packets.foreign
    }

    /// Judges a line like `:INPUT DROP [0:0]`.
    fn chain(&self, found: &FoundLine<'_>, at: At) -> Finding<'static> {
        match (self.places.is_output(found.chain), found.accepts) {
            (_, None) => Finding::UserChain,
            (true, Some(true)) => Finding::OwnTraffic,
            (true, Some(false)) => Finding::OwnTrafficFiltered,
            (false, Some(false)) => Finding::DropsRest,
            (false, Some(true))
                if self.places.is_one_of_several(found.chain) && self.is_idle(at) =>
            {
                let manager = managed::by(found.chain);
                manager.map_or(Finding::PassesOn, |by| Finding::ManagedChain(by.name))
            }
            (false, Some(true)) => {
                if self.is_idle(at) {
                    return Finding::NoneLeft;
                }
                let names = (self.policy, &self.peers);
                let why = match self.places.is_forward(found.chain) {
                    true => ACCEPT_POLICY_THROUGH,
                    false => ACCEPT_POLICY,
                };
                accepting(names, self.packets(at), false, false, || why.to_owned())
            }
        }
    }

    fn filter_rule(&self, found: &FoundLine<'p>, rule: &'p ImportedRule) -> Finding<'p> {
        let manager = managed::by(found.chain);
        if !self.places.judged.contains(&rule.at) {
            let output = self.places.output.contains(&rule.at);
            return match (&rule.target, output, manager) {
                (_, false, _) if found.accepts.is_some() => {
                    Finding::NotConverted(OTHER_HOOK.to_owned())
                }
                (_, false, _) => Finding::NoJump(found.chain),
                (Verb::Drop | Verb::Reject | Verb::Unknown(_), true, Some(manager)) => {
                    Finding::Managed(manager.name)
                }
                (Verb::Drop | Verb::Reject | Verb::Unknown(_), true, None) => {
                    Finding::OwnTrafficFiltered
                }
                (_, true, _) => Finding::OwnTraffic,
            };
        }
        if rule.unknown().next().is_some() {
            let accepts_and_drops =
                rule.target == Verb::Accept && self.places.unknown_drops.contains(&rule.at);
            return match (accepts_and_drops, manager) {
                (true, None) => Finding::UnknownVerdicts(unknown_words(rule)),
                (true, Some(_)) | (false, _) => unknown(rule, manager),
            };
        }
        let is_loose = |test: &Test| *test == Test::ReversePath(false);
        let tests = rule.conditions.iter().map(|condition| &condition.test);
        if matches!(rule.target, Verb::Drop | Verb::Reject) && tests.clone().any(is_loose) {
            return manager.map_or(Finding::UnknownDrop(LOOSE.to_owned()), |by| {
                Finding::ManagedDrop(by.name)
            });
        }
        let packets = self.packets(rule.at);
        let branches = matches!(rule.target, Verb::Return | Verb::Jump(_) | Verb::Goto(_));
        if let (true, None, Some(rate)) = (branches, manager, rule.rates().next()) {
            return Finding::BranchesByRate(rate);
        }
        match &rule.target {
            Verb::Continue(what) | Verb::Mark(_, what) => continuing(what, manager),
            Verb::Untrack(_) => manager.map_or(Finding::Untracks, |by| Finding::Managed(by.name)),
            Verb::Dnat(..) | Verb::DnatSomewhere(_) | Verb::Masquerade => Finding::NatTarget,
            Verb::Return => Finding::Return,
            Verb::Jump(to) | Verb::Goto(to) => Finding::Jump(to),
            Verb::Accept => self.accepted(rule, found, packets, manager),
            Verb::Drop | Verb::Reject | Verb::Unknown(_) => denying(rule, packets, manager),
        }
    }

    fn accepted(
        &self,
        rule: &ImportedRule,
        found: &FoundLine<'_>,
        packets: &LinePackets,
        manager: Option<managed::Manager>,
    ) -> Finding<'static> {
        let why = self.why.get(&rule.at).copied();
        let mut conditions = rule.conditions.iter();
        let family = self.family_of(rule.at, found);
        let is_icmp = conditions.any(|c| match c.protocol() {
            Some(ICMP) => family != Some(Family::V6),
            Some(ICMPV6) => family != Some(Family::V4),
            Some(_) | None => false,
        });
        let is_icmp = is_icmp && !rule.names_echo_request();
        let names = (self.policy, &self.peers);
        let is_through = self.places.through.contains(&rule.at);
        let why_not = || why_not(rule, why, is_through);
        let finding = accepting(names, packets, is_icmp, is_for_some(rule), why_not);
        let (fate, words) = finding.verdict();
        if let Some(manager) = manager.filter(|_| !fate.is_whole()) {
            return Finding::ManagedAccept(manager.name);
        }
        if fate == Fate::Nothing && packets.kept.is_empty() && (why.is_some() || never(rule)) {
            return Finding::NotConverted(why_not());
        }
        if manager.is_none() && self.places.dnat_elsewhere.contains(&rule.at) {
            let why = DNAT_ELSEWHERE.to_owned();
            match fate {
                Fate::Nothing => return Finding::NotConverted(why),
                Fate::Taken | Fate::Core if rule.accepts_dnat() => {
                    return Finding::PartlyConverted(words, why);
                }
                Fate::Taken | Fate::Core | Fate::Beside | Fate::Partly | Fate::Left => {}
            }
        }
        if packets.is_perhaps {
            match fate {
                Fate::Nothing => return Finding::NotConverted(PERHAPS_GONE.to_owned()),
                Fate::Taken | Fate::Core => {
                    return Finding::PartlyConverted(words, PERHAPS_GONE.to_owned());
                }
                Fate::Beside | Fate::Partly | Fate::Left => {}
            }
        }
        let is_base = found.accepts.is_some();
        let is_unmet = is_base && matches!(finding, Finding::MatchesNone);
        if is_unmet && is_through && self.places.is_nat_unsure {
            return Finding::NotConverted(DNAT_UNSURE.to_owned());
        }
        if fate == Fate::Nothing && self.places.is_behind_unread(rule.at, found.chain) {
            return Finding::NotConverted(BEHIND_UNREAD.to_owned());
        }
        let rates: Vec<&str> = rule.rates().collect();
        let is_converted = fate == Fate::Partly || fate.is_whole() && fate != Fate::Nothing;
        if !rates.is_empty() && is_converted {
            return Finding::WithoutRates(words, rates.join(", "));
        }
        finding
    }
}

/// A test that only the routes of the host decide.
const LOOSE: &str = "a test for any route to the source";

/// Explain why the packets of an accept are lost.
const DNAT_UNSURE: &str = "a rule of table nat that is not converted may redirect packets to it";
const BEHIND_UNREAD: &str = "lines above decide these packets, or one that is not converted may \
     drop them";
const PERHAPS_GONE: &str = "a line above that is not converted may take packets out of this chain";

/// Explains why a rule of a base chain of another hook is not converted.
const OTHER_HOOK: &str = "peerwall filters packets to this host and through it, and not at this \
     hook: keep the chain in a separate file, loaded by nft";

fn unknown_words(rule: &ImportedRule) -> String {
    let words: Vec<&str> = rule.unknown().collect();
    words.join(" ")
}

fn unknown(rule: &ImportedRule, manager: Option<managed::Manager>) -> Finding<'static> {
    if let Some(manager) = manager {
        let drops = matches!(rule.target, Verb::Drop | Verb::Reject);
        return match drops && manager.keeps_drops {
            true => Finding::ManagedDrop(manager.name),
            false => Finding::Restored(manager.name),
        };
    }
    let words = unknown_words(rule);
    match rule.target {
        Verb::Accept => Finding::UnknownAccept(words),
        Verb::Drop | Verb::Reject | Verb::Unknown(_) => Finding::UnknownDrop(words),
        Verb::Untrack(_) => Finding::Untracks,
        Verb::Continue(_) | Verb::Mark(..) => Finding::UnknownContinue,
        Verb::Return
        | Verb::Jump(_)
        | Verb::Goto(_)
        | Verb::Dnat(..)
        | Verb::DnatSomewhere(_)
        | Verb::Masquerade => Finding::UnknownJump(words),
    }
}

fn continuing(what: &str, manager: Option<managed::Manager>) -> Finding<'_> {
    let mut rest = what;
    let mut logs = false;
    while let Some((first, next)) = rest.split_once(", ").filter(|(first, _)| is_told(first)) {
        logs |= first != "count";
        rest = next;
    }
    let first = rest.split(' ').next().unwrap_or_default();
    match (first, manager) {
        (first, _) if is_told(first) && (logs || first != "count") => Finding::Logs,
        ("count", _) => Finding::Counts,
        (_, Some(manager)) => Finding::Managed(manager.name),
        ("SET" | "add" | "update" | "delete" | "meter", None) => Finding::FillsSet(rest),
        // Options of iptables' targets are in the line itself.
        (name, None) if name.starts_with(|c: char| c.is_ascii_uppercase()) => {
            Finding::Changes(name)
        }
        (_, None) => Finding::Changes(rest),
    }
}

/// Whether a statement only counts or logs.
fn is_told(first: &str) -> bool {
    matches!(first, "count" | "log" | "LOG" | "NFLOG" | "ULOG" | "AUDIT")
}
