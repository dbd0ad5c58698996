use super::*;
use crate::diagnostic::Code;

fn at(line: usize, column: usize) -> Position {
    Position {
        line,
        column,
        offset: 0,
    }
}

fn result(outcome: TestOutcome) -> TestResult {
    let said = |verdict| {
        Some(Said {
            verdict,
            reason: Some(Reason::InputDefault),
        })
    };
    TestResult {
        kind: Kind::Expectation,
        outcome,
        file: "a,b:<c>.toml".to_owned(),
        start: at(14, 1),
        end: at(14, 9),
        packet: "22/tcp from \"x\" & 100%".to_owned(),
        packets: 2,
        sent: 2,
        wanted: Wanted::Accept,
        evaluator: said(Verdict::Drop),
        kernel: said(Verdict::Drop),
        failures: 1,
        message: Some("first\nsecond\u{1b}".to_owned()),
    }
}

fn all() -> Vec<PolicyTests> {
    let diagnostic = |code, severity| JsonDiagnostic {
        code,
        severity,
        message: "`x` is wrong".to_owned(),
        help: Some("write y".to_owned()),
        file: "dir/p q.toml".to_owned(),
        start: at(3, 5),
        end: at(4, 1),
        related: Vec::new(),
    };
    vec![
        PolicyTests {
            policy: "a,b:<c>.toml".to_owned(),
            error: None,
            diagnostics: vec![diagnostic(Code::NobodyAllowed, Severity::Warning)],
            tests: [
                TestOutcome::Passed,
                TestOutcome::Untested,
                TestOutcome::Failed,
                TestOutcome::Disagreed,
            ]
            .map(result)
            .to_vec(),
            milliseconds: 1234,
        },
        PolicyTests {
            policy: "/etc/broken.toml".to_owned(),
            error: Some("1 error in the policy".to_owned()),
            diagnostics: vec![diagnostic(Code::InvalidPort, Severity::Error)],
            tests: Vec::new(),
            milliseconds: 0,
        },
        PolicyTests {
            policy: "missing.toml".to_owned(),
            error: Some("missing.toml: no such file".to_owned()),
            diagnostics: Vec::new(),
            tests: Vec::new(),
            milliseconds: 0,
        },
    ]
}

#[test]
fn annotations_of_github_are_one_line_each_and_escaped() {
    let text = github(&all());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    // A place of several lines has no columns.
    assert_eq!(
        lines[0],
        "::warning file=dir/p q.toml,line=3,endLine=4,title=peerwall%3A nobody-allowed::`x` is wrong; \
         write y"
    );
    let start = "file=a%2Cb%3A<c>.toml,line=14,endLine=14,col=1,endColumn=9,title=peerwall%3A ";
    assert!(
        lines[1].starts_with(&format!("::notice {start}not tested::")),
        "{text}"
    );
    assert!(
        lines[2].starts_with(&format!("::error {start}test failed::")),
        "{text}"
    );
    assert!(lines[2].contains("& 100%25"), "{text}");
    assert!(lines[2].ends_with("first%0Asecond\u{1b}"), "{text}");
    assert!(lines[3].contains("evaluator and kernel disagree"), "{text}");
    assert!(
        lines[4].starts_with("::error file=dir/p q.toml,line=3"),
        "{text}"
    );
    assert_eq!(
        lines[5],
        "::error file=missing.toml,title=peerwall::missing.toml: no such file"
    );
}

#[test]
fn junit_counts_each_case_once_and_is_escaped() {
    let xml = junit(&all());
    for wanted in [
        "<testsuites name=\"peerwall\" tests=\"6\" failures=\"1\" errors=\"3\" skipped=\"1\" \
         time=\"1.234\">",
        "<testsuite name=\"a,b:&lt;c&gt;.toml\" tests=\"4\" failures=\"1\" errors=\"1\" \
         skipped=\"1\" time=\"1.234\">",
        "name=\"a,b:&lt;c&gt;.toml:14: accept 22/tcp from &quot;x&quot; &amp; 100%\"",
        "first&#10;second\u{fffd}",
        "<error type=\"invalid-port\" message=\"`x` is wrong\">dir/p q.toml:3: `x` is wrong; write \
         y</error>",
        "<error type=\"error\" message=\"missing.toml: no such file\">",
    ] {
        assert!(xml.contains(wanted), "no {wanted} in\n{xml}");
    }
    assert_eq!(xml.matches("<testcase ").count(), 6, "{xml}");
    assert_eq!(xml.matches("<failure ").count(), 1, "{xml}");
    assert_eq!(xml.matches("<error ").count(), 3, "{xml}");
    assert_eq!(xml.matches("<skipped ").count(), 1, "{xml}");
    let is_allowed = |letter: char| letter >= ' ' || letter == '\n';
    assert!(xml.chars().all(is_allowed), "{xml}");
}

#[test]
fn a_sarif_log_has_what_the_specification_requires() {
    let log = sarif(&all(), "1.2.3");
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let driver = &run["tool"]["driver"];
    assert_eq!(
        (&driver["name"], &driver["version"]),
        (&"peerwall".into(), &"1.2.3".into())
    );
    let results = run["results"].as_array().unwrap();
    let short: Vec<(&str, &str)> = results
        .iter()
        .map(|each| {
            (
                each["ruleId"].as_str().unwrap(),
                each["level"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        short,
        [
            ("nobody-allowed", "warning"),
            ("not-tested", "note"),
            ("test-failed", "error"),
            ("test-disagreement", "error"),
            ("invalid-port", "error"),
            ("policy-error", "error"),
        ]
    );
    // Every rule that a result names is described.
    let rules = driver["rules"].as_array().unwrap();
    for (id, _) in short {
        let described = rules.iter().any(|rule| {
            rule["id"] == id
                && !rule["shortDescription"]["text"]
                    .as_str()
                    .unwrap()
                    .is_empty()
        });
        assert!(described, "{id}");
    }
    for each in results {
        assert!(!each["message"]["text"].as_str().unwrap().is_empty());
    }
    let place = &results[2]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "a%2Cb%3A%3Cc%3E.toml");
    assert_eq!(place["region"]["startLine"], 14);
    assert_eq!(place["region"]["endColumn"], 9);
    let uri = |at: usize| {
        let place = &results[at]["locations"][0]["physicalLocation"];
        place["artifactLocation"]["uri"].clone()
    };
    assert_eq!(uri(0), "dir/p%20q.toml");
    let absolute = sarif(
        &[PolicyTests {
            diagnostics: Vec::new(),
            ..all()[1].clone()
        }],
        "1",
    );
    let result = &absolute["runs"][0]["results"][0];
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "file:///etc/broken.toml");
}

#[test]
fn the_text_shows_failures_and_a_sum() {
    let shown = text(&all(), Some("Linux 6.12"));
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].contains("expectation not tested"), "{shown}");
    assert!(
        shown.contains(
            "a,b:<c>.toml: 4 tests: 1 passed, 1 failed, 1 with a disagreement, 1 not tested; 8 \
             packets through Linux 6.12, 1234 ms\n"
        ),
        "{shown}"
    );
    assert!(
        shown.contains("/etc/broken.toml: error: 1 error in the policy\n"),
        "{shown}"
    );
    assert!(text(&all(), None).contains("; by the evaluator only, "));
}
