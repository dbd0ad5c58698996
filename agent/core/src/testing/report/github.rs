//! Workflow commands of GitHub Actions, which annotate lines of a change.
//!
//! <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>

use super::{PolicyTests, TestOutcome};
use crate::diagnostic::{JsonDiagnostic, Position, Severity};

/// Prints an annotation for each error, each warning and each test that is not decided.
pub fn github(all: &[PolicyTests]) -> String {
    let mut text = String::new();
    for policy in all {
        for each in &policy.diagnostics {
            text.push_str(&of_diagnostic(each));
        }
        let is_told = policy.errors().next().is_some();
        if let Some(error) = policy.error.as_ref().filter(|_| !is_told) {
            let file = path(&policy.policy);
            let message = data(error);
            text.push_str(&format!("::error file={file},title=peerwall::{message}\n"));
        }
        for test in &policy.tests {
            let (command, title) = match test.outcome {
                TestOutcome::Passed => continue,
                TestOutcome::Untested => ("notice", "peerwall: not tested"),
                TestOutcome::Failed => ("error", "peerwall: test failed"),
                TestOutcome::Disagreed => ("error", "peerwall: evaluator and kernel disagree"),
            };
            let place = (test.file.as_str(), test.start, test.end);
            text.push_str(&line(command, place, title, &test.sentence()));
        }
    }
    text
}

fn of_diagnostic(diagnostic: &JsonDiagnostic) -> String {
    let command = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let title = format!("peerwall: {}", diagnostic.code.name());
    let message = match &diagnostic.help {
        Some(help) => format!("{}; {help}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    let place = (diagnostic.file.as_str(), diagnostic.start, diagnostic.end);
    line(command, place, &title, &message)
}

fn line(
    command: &str,
    (file, start, end): (&str, Position, Position),
    title: &str,
    message: &str,
) -> String {
    // Columns are only accepted within one line.
    let columns = match start.line == end.line {
        true => format!(",col={},endColumn={}", start.column, end.column),
        false => String::new(),
    };
    format!(
        "::{command} file={},line={},endLine={}{columns},title={}::{}\n",
        path(file),
        start.line,
        end.line,
        property(title),
        data(message)
    )
}

/// Writes a path, which GitHub finds if it is relative to the root of the repository.
fn path(file: &str) -> String {
    property(file.strip_prefix("./").unwrap_or(file))
}

/// Escapes a message (`escapeData()` of `@actions/core`).
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// Escapes a property (`escapeProperty()` of `@actions/core`).
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
