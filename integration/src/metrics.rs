//! Reads metrics with the parsers of Prometheus's own client for Python.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde::Deserialize;

/// Debian's Python, for which `scripts/deps` installs the parsers.
const PYTHON: &str = "/usr/bin/python3";
/// Prints every family as JSON; `argv[1]` is the module of the parser.
const PROGRAM: &str = "
import importlib, json, sys
parser = importlib.import_module('prometheus_client.' + sys.argv[1])
families = parser.text_string_to_metric_families(sys.stdin.read())
print(json.dumps([{'name': f.name, 'kind': f.type, 'help': f.documentation,
    'samples': [{'name': s.name, 'labels': s.labels, 'value': str(float(s.value))} for s in f.samples]}
    for f in families]))
";

/// A format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    Classic,
    /// OpenMetrics text.
    OpenMetrics,
}

/// A metric as the parser understands it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Family {
    /// Its name, without `_total`.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// Its help text.
    pub help: String,
    /// Its samples.
    pub samples: Vec<Sample>,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Sample {
    /// Its name, with `_total` and the like.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value, as Python prints it.
    pub value: String,
}

/// Reads metrics.
///
/// # Panics
/// With the parser's words if the text is not in this format, or if Python or its module is
/// missing.
pub fn parse(format: Format, text: &str) -> Vec<Family> {
    let module = match format {
        Format::Classic => "parser",
        Format::OpenMetrics => "openmetrics.parser",
    };
    let mut python = Command::new(PYTHON)
        .args(["-c", PROGRAM, module])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is Debian's Python");
    let mut stdin = python.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).expect("it is read");
    drop(stdin);
    let output = python.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{format:?}: {said}\n{text}");
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}
