//! Results of tests, and the formats in which they are printed.

mod github;
mod junit;
mod sarif;
#[cfg(test)]
mod tests;

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

pub use github::github;
pub use junit::junit;
pub use sarif::sarif;

use super::Wanted;
use crate::diagnostic::{JsonDiagnostic, Position, Severity};
use crate::net::packet::Verdict;
use crate::policy::reason::Reason;
use crate::words::count;

/// Kind of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TestKind")]
pub enum Kind {
    /// `[[expect]]` of the policy.
    Expectation,
    /// Line of a packet list.
    Packet,
}

impl Kind {
    /// Its name in sentences.
    fn name(self) -> &'static str {
        match self {
            Self::Expectation => "expectation",
            Self::Packet => "packet",
        }
    }
}

/// Outcome of a test, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestOutcome {
    /// Every packet got the verdict.
    Passed,
    /// It cannot be decided here.
    Untested,
    /// A packet got another verdict.
    Failed,
    /// Policy, rules and kernel do not have the same verdict: a bug of peerwall, or of the kernel.
    Disagreed,
}

/// A verdict with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Said {
    /// Verdict.
    pub verdict: Verdict,
    /// Reason; absent if none is known.
    pub reason: Option<Reason>,
}

impl Said {
    pub(super) fn new(verdict: Verdict, reason: Option<&Reason>) -> Self {
        Self {
            verdict,
            reason: reason.cloned(),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// Result of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TestResult {
    /// Kind of the test.
    pub kind: Kind,
    /// Outcome.
    pub outcome: TestOutcome,
    /// File of the test.
    pub file: String,
    /// Start of the test in the file.
    pub start: Position,
    /// End of the test in the file.
    pub end: Position,
    /// Description of the packet: the first, or the first that failed.
    pub packet: String,
    /// Number of packets.
    pub packets: usize,
    /// Number of packets that the kernel judged.
    pub sent: usize,
    /// Verdict that the test demands.
    pub wanted: Wanted,
    /// Verdict of the evaluator on that packet; absent for a test that cannot be decided.
    pub evaluator: Option<Said>,
    /// Verdict of the kernel on that packet; absent if it was not sent.
    pub kernel: Option<Said>,
    /// Number of packets with another verdict.
    pub failures: usize,
    /// Why the test failed or was not decided, or why the kernel did not judge the packet, as a
    /// sentence.
    pub message: Option<String>,
}

impl TestResult {
    /// Reports whether the test is an error.
    pub fn is_bad(&self) -> bool {
        match self.outcome {
            TestOutcome::Failed | TestOutcome::Disagreed => true,
            TestOutcome::Passed | TestOutcome::Untested => false,
        }
    }

    /// Returns the name of the test: what it demands of which packet.
    fn name(&self) -> String {
        format!("{} {}", self.wanted, self.packet)
    }

    /// Describes the result in one line, with the place.
    pub fn line(&self) -> String {
        format!("{}:{}: {}", self.file, self.start.line, self.sentence())
    }

    /// Describes the result in one line, without the place.
    fn sentence(&self) -> String {
        let evaluator = self
            .evaluator
            .as_ref()
            .map(|said| format!("the evaluator says {said}"));
        let kernel = self
            .kernel
            .as_ref()
            .map(|said| format!("the kernel says {said}"));
        let said: Vec<String> = evaluator.into_iter().chain(kernel).collect();
        let said = match said.is_empty() {
            true => String::new(),
            false => format!(": {}", said.join(", ")),
        };
        let others = match self.failures.saturating_sub(1) {
            0 => String::new(),
            others => format!("; {} failed, too", count(others, "other packet")),
        };
        let why = self.message.as_ref();
        let why = why.map_or_else(String::new, |why| format!("; {why}"));
        let word = match self.outcome {
            TestOutcome::Passed => "met",
            TestOutcome::Untested => "not tested",
            TestOutcome::Failed => "not met",
            TestOutcome::Disagreed => "DISAGREEMENT",
        };
        let kind = self.kind.name();
        format!(
            "{kind} {word}: wanted {} for {}{said}{others}{why}",
            self.wanted, self.packet
        )
    }
}

/// Results of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PolicyTests {
    /// Path of the policy.
    pub policy: String,
    /// Why the policy or its packet lists could not be tested, as a sentence; absent if they were.
    pub error: Option<String>,
    /// Errors and warnings of the policy and of packet lists.
    pub diagnostics: Vec<JsonDiagnostic>,
    /// The tests, in the order of their files.
    pub tests: Vec<TestResult>,
    /// Time that the tests took, in milliseconds.
    pub milliseconds: u64,
}

impl PolicyTests {
    /// Counts the tests with this outcome.
    pub fn count(&self, outcome: TestOutcome) -> usize {
        let with = self.tests.iter().filter(|test| test.outcome == outcome);
        with.count()
    }

    /// Returns the errors that are about no test: those of the policy and of lists.
    fn errors(&self) -> impl Iterator<Item = &JsonDiagnostic> {
        let all = self.diagnostics.iter();
        all.filter(|each| each.severity == Severity::Error)
    }
}

/// Describes the results in lines: each bad or undecided test, and a sum for each policy.
pub fn text(all: &[PolicyTests], by: Option<&str>) -> String {
    let mut text = String::new();
    for policy in all {
        for test in &policy.tests {
            // A test that passed is only shown if the kernel could not judge it.
            let is_quiet = test.outcome == TestOutcome::Passed
                && (test.message.is_none() || test.sent == test.packets || by.is_none());
            if !is_quiet {
                text.push_str(&format!("{}\n", test.line()));
            }
        }
        text.push_str(&sum(policy, by));
    }
    text
}

/// Describes the results of one policy in a line.
fn sum(policy: &PolicyTests, by: Option<&str>) -> String {
    if let Some(error) = &policy.error {
        return format!("{}: error: {error}\n", policy.policy);
    }
    let tests = count(policy.tests.len(), "test");
    let counts = [
        (TestOutcome::Passed, "passed"),
        (TestOutcome::Failed, "failed"),
        (TestOutcome::Disagreed, "with a disagreement"),
        (TestOutcome::Untested, "not tested"),
    ];
    let counts = counts.map(|(outcome, word)| (policy.count(outcome), word));
    let shown = counts
        .iter()
        .filter(|(count, word)| *count > 0 || *word == "passed");
    let shown: Vec<String> = shown
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let sent: usize = policy.tests.iter().map(|test| test.sent).sum();
    let kernel = match by {
        Some(kernel) => format!("; {} through {kernel}", count(sent, "packet")),
        None => "; by the evaluator only".to_owned(),
    };
    let milliseconds = policy.milliseconds;
    let (shown, policy) = (shown.join(", "), &policy.policy);
    format!("{policy}: {tests}: {shown}{kernel}, {milliseconds} ms\n")
}
