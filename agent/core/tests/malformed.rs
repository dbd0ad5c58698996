//! Every malformed policy is refused with file, line, column, and what would do.
#![expect(
    clippy::disallowed_methods,
    reason = "the corpus is in files; what is tested is pure"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use peerwall_core::diagnostic::{Diagnostic, Severity, Sources};
use peerwall_core::policy::load::{Files, ReadError, Text, load};
use peerwall_core::ruleset::compile::compile;
use peerwall_core::ruleset::expect;
use proptest::prelude::*;

/// Files that are not there.
struct Nowhere;

impl Files for Nowhere {
    fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
        Err(ReadError::Wrong(format!(
            "cannot read {path}: No such file or directory"
        )))
    }
    fn glob(&self, _: &str, _: &str) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }
}

fn errors(name: &str, text: &str) -> (Sources, Vec<Diagnostic>) {
    let loaded = load(name, text, &Nowhere);
    let mut diagnostics = loaded.diagnostics;
    if let Some(policy) = &loaded.policy {
        diagnostics.extend(expect::check(policy, &compile(policy).0));
    }
    diagnostics.retain(|d| d.severity == Severity::Error);
    (loaded.sources, diagnostics)
}

#[test]
fn every_malformed_policy_is_refused_at_its_place_with_what_would_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed");
    let expected = fs::read_to_string(folder.join("expected.txt")).unwrap();
    let mut listed = BTreeSet::new();
    let mut wrong = Vec::new();
    for line in expected.lines().filter(|line| !line.starts_with('#')) {
        let (file, rest) = line.split_once(": ").unwrap();
        let (place, rest) = rest.split_once(": ").unwrap();
        let (message, help) = rest.split_once(" | ").unwrap();
        listed.insert(file.to_owned());
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let (sources, found) = errors(file, &text);
        let meets = |d: &Diagnostic| {
            let json = sources.json(d);
            let at = format!("{}:{}", json.start.line, json.start.column);
            let said = json.help.unwrap_or_default();
            at == place && json.message.contains(message) && said.contains(help.trim())
        };
        if !found.iter().any(meets) {
            wrong.push(format!("{line}\n{}", sources.render(&found, false)));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        listed.len(),
        wrong.join("\n")
    );
    let there: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    assert_eq!(
        there, listed,
        "files without an expectation, or the other way round"
    );
    assert!(listed.len() >= 60);
}

#[test]
fn all_errors_come_at_once() {
    let text = "version = 1\n\
        [peers]\n\
        a = \"10.0.0.1/24\"\n\
        b = \"x\"\n\
        [[allow]]\n\
        name = \"w\"\n\
        ports = [\"0/tcp\", \"ssh\"]\n\
        from = \"nobody\"\n";
    let (sources, found) = errors("policy.toml", text);
    let lines: Vec<usize> = found.iter().map(|d| sources.json(d).start.line).collect();
    assert_eq!(lines, [3, 4, 7, 7, 8]);
}

#[test]
fn an_error_shows_the_offending_text_underlined() {
    let (sources, found) = errors("policy.toml", "version = 1\n[peers]\na = \"10.0.0.1/24\"\n");
    let want = "\
error: `10.0.0.1/24` has host bits set
 --> policy.toml:3:5
  |
3 | a = \"10.0.0.1/24\"
  |     ^^^^^^^^^^^^^
  |
  = help: write 10.0.0.0/24 for the whole network, or 10.0.0.1 for one host

";
    assert_eq!(sources.render(&found, false), want);
}

#[test]
fn a_name_in_two_files_names_both_places() {
    struct Two;
    impl Files for Two {
        fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
            Ok(Text {
                name: path.to_owned(),
                text: "[peers]\nother = \"192.0.2.3\"\na = \"192.0.2.2\"\n".to_owned(),
                doubts: Vec::new(),
            })
        }
        fn glob(&self, _: &str, _: &str) -> Result<Vec<String>, ReadError> {
            Ok(vec!["more.toml".to_owned()])
        }
    }
    let text = "version = 1\ninclude = [\"more.toml\"]\n[peers]\na = \"192.0.2.1\"\n";
    let loaded = load("policy.toml", text, &Two);
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    assert!(
        shown.contains("policy.toml:4:1") && shown.contains("more.toml:3:1"),
        "{shown}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Mutations of a good policy: none may panic, whatever they come to mean.
    #[test]
    fn no_text_makes_it_panic(
        at in any::<prop::sample::Index>(),
        len in 0usize..12,
        put in "[\\x00-\\x7fäß\\[\\]\"=.,/:0-9a-z\n-]{0,8}",
    ) {
        let good = include_str!("../../../policy.toml");
        let start = at.index(good.len());
        let end = (start + len).min(good.len());
        if good.is_char_boundary(start) && good.is_char_boundary(end) {
            let text = format!("{}{put}{}", &good[..start], &good[end..]);
            let (sources, found) = errors("policy.toml", &text);
            let _ = sources.render(&found, false);
            for d in &found { let _ = sources.json(d); }
        }
    }
}
