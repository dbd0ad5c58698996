//! `peerwall test`: expectations of a policy and lists of packets, judged by the evaluator and by a
//! kernel.
//!
//! [`cases`] makes tests of the expectations, and [`parse`] of a file of packets. [`setup`] says
//! what a kernel needs to receive a packet, [`fate()`] reads from its counters what it did, and
//! [`judged`] compares that with the verdict of the evaluator and with the one that the test
//! demands. [`report`] prints the results.

mod frame;
mod list;
pub mod report;
pub mod setup;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

pub use frame::{HOST_MAC, SENDER_MAC, fence};
pub use list::parse;
use report::{Kind, Said, TestOutcome, TestResult};

use crate::diagnostic::{Place, Sources};
use crate::explain::described;
use crate::net::packet::{Packet, Transport, Verdict};
use crate::net::port::{TCP, UDP};
use crate::policy::reason::Reason;
use crate::policy::{Mode, Policy};
use crate::ruleset::{Ruleset, counter_reason, expect};

/// Maximum number of packets of one test that are sent to the kernel. The evaluator tries all.
pub const SENT_MAX: usize = 64;

/// Verdict that a test demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Accepted.
    Accept,
    /// Dropped or rejected.
    Drop,
    /// Rejected: the sender gets an answer.
    Reject,
}

impl Wanted {
    /// Every verdict with its word.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("accept", Self::Accept),
        ("drop", Self::Drop),
        ("reject", Self::Reject),
    ];

    /// Reports whether a verdict is the one that is demanded.
    pub fn is_met_by(self, verdict: Verdict) -> bool {
        match self {
            Self::Accept => verdict == Verdict::Accept,
            Self::Drop => verdict != Verdict::Accept,
            Self::Reject => verdict == Verdict::Reject,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, wanted)| wanted == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// A test: packets that must all get one verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Kind.
    pub kind: Kind,
    /// Place in its file.
    pub place: Place,
    /// The packets.
    pub packets: Vec<Packet>,
    /// The verdict.
    pub wanted: Wanted,
    /// Why the test cannot be decided here, as a sentence.
    pub unknown: Option<String>,
}

/// Returns the expectations of a policy as tests.
pub fn cases(policy: &Policy, ruleset: &Ruleset) -> Vec<Case> {
    let case = |expect: &crate::policy::Expect| Case {
        kind: Kind::Expectation,
        place: expect.place.clone(),
        packets: expect::packets(expect),
        wanted: match expect.verdict {
            Verdict::Accept => Wanted::Accept,
            Verdict::Drop | Verdict::Reject => Wanted::Drop,
        },
        unknown: expect::unknown_overlay(policy, expect, ruleset)
            .map(|overlay| format!("the pods of overlay `{overlay}` are not known here")),
    };
    policy.expects.iter().map(case).collect()
}

/// What the kernel did with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It passed all chains of its hook.
    Passed(Vec<Reason>),
    /// A rule dropped it.
    Stopped {
        /// Reasons of the counters that the packet incremented.
        reasons: Vec<Reason>,
        /// Whether the sender got an answer that only a reject sends.
        is_answered: bool,
    },
    /// It did not reach peerwall's rules.
    Lost,
    /// It was not sent: why, as a sentence that starts with `it`.
    NotSent(String),
}

/// Packet counts of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Counters of peerwall's table.
    pub own: BTreeMap<String, u64>,
    /// Counter of the fence.
    pub fence: u64,
    /// Counter of packets that passed all chains.
    pub passed: u64,
    /// Counter of rejects' answers.
    pub answered: u64,
}

/// Reads the fate of a packet from the counters before and after it.
pub fn fate(packet: &Packet, before: &Counts, after: &Counts) -> Fate {
    let changed = |(name, count): &(&String, &u64)| {
        let old = before.own.get(*name).copied().unwrap_or(0);
        // The host answers on lo to itself, and that packet of a known connection arrives there.
        **count > old && (packet.interface != "lo" || *name != "input.established")
    };
    let changed = after.own.iter().filter(changed);
    let reasons = changed.filter_map(|(name, _)| Some(counter_reason(name)?.1));
    let reasons: Vec<Reason> = reasons.collect();
    match (after.passed > before.passed, reasons.is_empty()) {
        (true, _) => Fate::Passed(reasons),
        (false, true) => Fate::Lost,
        (false, false) => Fate::Stopped {
            reasons,
            is_answered: after.answered > before.answered,
        },
    }
}

/// Returns the verdict as it will be enforced: in audit mode, denied packets pass for now.
fn enforced(verdict: Verdict, reason: Option<&Reason>, mode: Mode) -> Verdict {
    match reason {
        Some(reason) if mode.passes(reason) && verdict == Verdict::Accept => Verdict::Drop,
        Some(_) | None => verdict,
    }
}

/// Reports whether a reject of this packet is answered: an error about TCP or UDP from an address
/// that can be answered.
fn is_answerable(packet: &Packet) -> bool {
    let has_answer = match packet.transport {
        Transport::Ports { protocol, .. } => [TCP, UDP].contains(&protocol),
        Transport::Icmp { .. } | Transport::Other(_) => false,
    };
    let is_link = matches!(packet.source, IpAddr::V6(source) if source.is_unicast_link_local());
    has_answer && !is_link && !packet.source.is_unspecified()
}

/// What a packet met.
struct Met {
    outcome: TestOutcome,
    evaluator: Said,
    kernel: Option<Said>,
    /// Why the test failed, or why the kernel was not asked, as a sentence.
    why: Option<String>,
}

/// Judges one packet. `fate` is `None` if no kernel was asked.
fn met(case: &Case, policy: &Policy, ruleset: &Ruleset, of: (&Packet, Option<&Fate>)) -> Met {
    let (packet, fate) = of;
    let mode = ruleset.mode();
    let walk = ruleset.eval(packet);
    let by_ruleset = walk.decision();
    let reason = by_ruleset.as_ref().map(|decision| &decision.reason);
    let verdict = enforced(walk.verdict, reason, mode);
    let evaluator = Said::new(verdict, reason);
    let by_policy = policy.verdict(packet);
    let mut met = Met {
        outcome: TestOutcome::Passed,
        evaluator: evaluator.clone(),
        kernel: None,
        why: None,
    };
    if !case.wanted.is_met_by(verdict) {
        met.outcome = TestOutcome::Failed;
    }
    if by_ruleset.as_ref() != Some(&by_policy) {
        met.outcome = TestOutcome::Disagreed;
        met.why = Some(format!(
            "the policy's words mean {by_policy}, its rules mean {evaluator}"
        ));
    }
    let (kernel, reasons, is_answered) = match fate {
        None => return met,
        Some(Fate::NotSent(why)) => {
            let why = || format!("not sent to the kernel: {why}");
            met.why = met.why.or_else(|| Some(why()));
            return met;
        }
        Some(Fate::Lost) => {
            lost(&mut met, packet, verdict);
            return met;
        }
        Some(Fate::Passed(reasons)) => (Verdict::Accept, reasons, false),
        Some(Fate::Stopped {
            reasons,
            is_answered: true,
        }) => (Verdict::Reject, reasons, true),
        Some(Fate::Stopped { reasons, .. }) => (Verdict::Drop, reasons, false),
    };
    let kernel_reason = match &reasons[..] {
        [one] => Some(one),
        _ => None,
    };
    let kernel = enforced(kernel, kernel_reason, mode);
    let said = Said::new(kernel, kernel_reason);
    met.kernel = Some(said.clone());
    // A reject without an answer is a drop.
    let is_quiet_reject = verdict == Verdict::Reject
        && kernel == Verdict::Drop
        && !is_answered
        && !is_answerable(packet);
    let is_same = kernel == verdict || is_quiet_reject;
    if !is_same || (!reasons.is_empty() && kernel_reason != reason) {
        met.outcome = TestOutcome::Disagreed;
        let several = match reasons.len() {
            0 | 1 => String::new(),
            _ => format!(" (counted by {})", names(reasons)),
        };
        met.why = Some(format!(
            "evaluator and kernel disagree: {evaluator} and {said}{several}"
        ));
    }
    met
}

fn names(reasons: &[Reason]) -> String {
    let names: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Judges a packet that did not reach peerwall's rules.
fn lost(met: &mut Met, packet: &Packet, verdict: Verdict) {
    let is_martian = setup::is_martian(packet);
    let why = match is_martian {
        true => "the kernel drops such a packet before peerwall's rules",
        false => "the packet did not reach peerwall's rules in the kernel",
    };
    met.why.get_or_insert_with(|| why.to_owned());
    if !is_martian && verdict == Verdict::Accept && met.outcome == TestOutcome::Passed {
        met.outcome = TestOutcome::Disagreed;
    }
}

/// Returns the packets of a test that are sent to the kernel: all, or as many as [`SENT_MAX`] of
/// them, spread evenly.
pub fn sent(case: &Case) -> Vec<usize> {
    let count = case.packets.len();
    match (&case.unknown, count) {
        (Some(_), _) => Vec::new(),
        (None, 0..=SENT_MAX) => (0..count).collect(),
        (None, _) => (0..SENT_MAX)
            .map(|number| number * (count - 1) / (SENT_MAX - 1))
            .collect(),
    }
}

/// Judges a test. `fates` are those of the packets that were sent, by their position; `None` if no
/// kernel was asked.
pub fn judged(
    case: &Case,
    policy: &Policy,
    ruleset: &Ruleset,
    fates: Option<&BTreeMap<usize, Fate>>,
    sources: &Sources,
) -> TestResult {
    let (file, start, end) = sources.positions(&case.place);
    let first = case.packets.first();
    let mut result = TestResult {
        kind: case.kind,
        outcome: TestOutcome::Untested,
        file,
        start,
        end,
        packet: first.map_or_else(|| "no packet".to_owned(), described),
        packets: case.packets.len(),
        sent: 0,
        wanted: case.wanted,
        evaluator: None,
        kernel: None,
        failures: 0,
        message: case.unknown.clone(),
    };
    if case.unknown.is_some() {
        return result;
    }
    result.outcome = TestOutcome::Passed;
    for (at, packet) in case.packets.iter().enumerate() {
        let fate = fates.and_then(|fates| fates.get(&at));
        let met = met(case, policy, ruleset, (packet, fate));
        result.sent += usize::from(met.kernel.is_some());
        let is_bad = met.outcome != TestOutcome::Passed;
        result.failures += usize::from(is_bad);
        // The first packet is shown, or the first of the worst.
        if result.evaluator.is_none() || met.outcome > result.outcome {
            result.packet = described(packet);
            result.evaluator = Some(met.evaluator);
            result.kernel = met.kernel;
        }
        if met.outcome > result.outcome
            || (met.outcome == result.outcome && result.message.is_none())
        {
            result.message = met.why;
        }
        result.outcome = result.outcome.max(met.outcome);
    }
    result
}
