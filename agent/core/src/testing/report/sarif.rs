//! SARIF 2.1.0, which code scanning of GitHub and other forges reads.
//!
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{PolicyTests, TestOutcome};
use crate::diagnostic::{Position, Severity};

/// Rules of tests, besides those of diagnostics: identifier, description.
const RULES: [(&str, &str); 4] = [
    (
        "test-failed",
        "A packet does not get the verdict that a test demands.",
    ),
    (
        "test-disagreement",
        "The policy, its rules and the kernel do not have the same verdict.",
    ),
    ("not-tested", "A test cannot be decided here."),
    ("policy-error", "The policy cannot be tested."),
];

/// Builds a log with one run, whose results are the errors, warnings and undecided tests.
pub fn sarif(all: &[PolicyTests], version: &str) -> Value {
    let mut results = Vec::new();
    let mut rules: BTreeMap<String, String> = BTreeMap::new();
    let mut add = |rule: &str, level: &str, message: &str, place: Value| {
        let own = RULES.iter().find(|(id, _)| *id == rule);
        let description = own.map_or_else(
            || format!("Diagnostic {rule} of `peerwall check`."),
            |(_, text)| (*text).to_owned(),
        );
        rules.insert(rule.to_owned(), description);
        results.push(json!({
            "ruleId": rule,
            "level": level,
            "message": {"text": message},
            "locations": [{"physicalLocation": place}],
        }));
    };
    for policy in all {
        for each in &policy.diagnostics {
            let level = match each.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            let message = match &each.help {
                Some(help) => format!("{}; {help}", each.message),
                None => each.message.clone(),
            };
            let place = place(&each.file, Some((each.start, each.end)));
            add(each.code.name(), level, &message, place);
        }
        let is_told = policy.errors().next().is_some();
        if let Some(error) = policy.error.as_ref().filter(|_| !is_told) {
            add("policy-error", "error", error, place(&policy.policy, None));
        }
        for test in &policy.tests {
            let (rule, level) = match test.outcome {
                TestOutcome::Passed => continue,
                TestOutcome::Untested => ("not-tested", "note"),
                TestOutcome::Failed => ("test-failed", "error"),
                TestOutcome::Disagreed => ("test-disagreement", "error"),
            };
            let place = place(&test.file, Some((test.start, test.end)));
            add(rule, level, &test.sentence(), place);
        }
    }
    let rules = rules
        .into_iter()
        .map(|(id, text)| json!({"id": id, "shortDescription": {"text": text}}));
    let driver = json!({
        "name": "peerwall",
        "version": version,
        "rules": rules.collect::<Vec<Value>>(),
    });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": driver},
            // Columns of diagnostics are counted in characters.
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn place(file: &str, region: Option<(Position, Position)>) -> Value {
    let mut place = json!({"artifactLocation": {"uri": uri(file)}});
    if let (Some((start, end)), Some(place)) = (region, place.as_object_mut()) {
        let region = json!({
            "startLine": start.line,
            "startColumn": start.column,
            "endLine": end.line,
            "endColumn": end.column,
        });
        place.insert("region".to_owned(), region);
    }
    place
}

/// Writes a path as a URI (RFC 3986): relative paths stay relative, to the root of the repository.
fn uri(path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    let mut uri = match path.starts_with('/') {
        true => "file://".to_owned(),
        false => String::new(),
    };
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}
