//! JUnit XML, as GitLab, Jenkins and most other CI systems read it.
//!
//! The format has no specification; these are the elements and attributes of
//! <https://github.com/testmoapp/junitxml> that all of them understand.

use super::{PolicyTests, TestOutcome, TestResult};

/// Prints the results as JUnit XML: a suite for each policy.
pub fn junit(all: &[PolicyTests]) -> String {
    let counts: Vec<Counts> = all.iter().map(Counts::of).collect();
    let total = counts.iter().fold(Counts::default(), Counts::plus);
    let milliseconds = all.iter().map(|policy| policy.milliseconds).sum();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"peerwall\" {} \
         time=\"{}\">\n",
        total.attributes(),
        seconds(milliseconds)
    );
    for (policy, counts) in all.iter().zip(&counts) {
        xml.push_str(&format!(
            "  <testsuite name=\"{}\" {} time=\"{}\">\n",
            escaped(&policy.policy),
            counts.attributes(),
            seconds(policy.milliseconds)
        ));
        xml.push_str(&errors(policy));
        policy
            .tests
            .iter()
            .for_each(|test| xml.push_str(&case(test, policy)));
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// Numbers of test cases.
#[derive(Default)]
struct Counts {
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
}

impl Counts {
    fn of(policy: &PolicyTests) -> Self {
        let errors = match (&policy.error, policy.errors().count()) {
            (None, _) => 0,
            (Some(_), count) => count.max(1),
        };
        Self {
            tests: policy.tests.len() + errors,
            failures: policy.count(TestOutcome::Failed),
            errors: errors + policy.count(TestOutcome::Disagreed),
            skipped: policy.count(TestOutcome::Untested),
        }
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            tests: self.tests + other.tests,
            failures: self.failures + other.failures,
            errors: self.errors + other.errors,
            skipped: self.skipped + other.skipped,
        }
    }

    fn attributes(&self) -> String {
        format!(
            "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"",
            self.tests, self.failures, self.errors, self.skipped
        )
    }
}

/// The errors of a policy that could not be tested, as test cases.
fn errors(policy: &PolicyTests) -> String {
    let Some(error) = &policy.error else {
        return String::new();
    };
    let mut xml = String::new();
    let name = escaped(&policy.policy);
    for each in policy.errors() {
        let (file, line) = (escaped(&each.file), each.start.line);
        xml.push_str(&format!(
            "    <testcase classname=\"{name}\" name=\"check: {file}:{line}:{}\" file=\"{file}\" \
             line=\"{line}\" time=\"0\">\n      <error type=\"{}\" message=\"{}\">{}</error>\n    \
             </testcase>\n",
            each.start.column,
            each.code.name(),
            escaped(&each.message),
            escaped(&each.to_string())
        ));
    }
    if xml.is_empty() {
        let message = escaped(error);
        xml = format!(
            "    <testcase classname=\"{name}\" name=\"check\" file=\"{name}\" time=\"0\">\n      \
             <error type=\"error\" message=\"{message}\">{message}</error>\n    </testcase>\n"
        );
    }
    xml
}

fn case(test: &TestResult, policy: &PolicyTests) -> String {
    let (file, line) = (escaped(&test.file), test.start.line);
    let head = format!(
        "    <testcase classname=\"{}\" name=\"{}:{line}: {}\" file=\"{file}\" line=\"{line}\" \
         time=\"0\"",
        escaped(&policy.policy),
        file,
        escaped(&test.name())
    );
    let message = escaped(&test.sentence());
    let (element, kind) = match test.outcome {
        TestOutcome::Passed => return format!("{head}/>\n"),
        TestOutcome::Untested => {
            return format!("{head}>\n      <skipped message=\"{message}\"/>\n    </testcase>\n");
        }
        TestOutcome::Failed => ("failure", "not-met"),
        TestOutcome::Disagreed => ("error", "disagreement"),
    };
    format!(
        "{head}>\n      <{element} type=\"{kind}\" message=\"{message}\">{file}:{line}: \
         {message}</{element}>\n    </testcase>\n"
    )
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// Escapes text for attributes and content. Characters that XML 1.0 cannot contain, not even
/// escaped, become U+FFFD (section 2.2).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // A reader would turn them into spaces.
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", u32::from(letter))),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(letter),
        }
    }
    out
}
