//! The pages of `docs/quickstart`: their sections, and the expectations of their policies.
#![expect(clippy::disallowed_methods, reason = "the files are what is tested")]

use std::fs;
use std::path::Path;

use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::policy::suspicious;
use peerwall_core::ruleset::compile::compile;
use peerwall_core::ruleset::expect;

/// Names and texts of the pages.
fn pages() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/quickstart");
    let entries = fs::read_dir(directory).expect("the pages are there");
    let pages = entries.flatten().map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, fs::read_to_string(entry.path()).expect("a text"))
    });
    let pages: Vec<_> = pages.filter(|(name, _)| name != "README.md").collect();
    assert!(!pages.is_empty());
    pages
}

/// Fenced blocks of TOML that are whole policies.
fn policies(text: &str) -> Vec<&str> {
    let blocks = text.split("```toml\n").skip(1);
    blocks
        .filter_map(|rest| rest.split("```").next())
        .filter(|block| block.starts_with("version = 1\n"))
        .collect()
}

#[test]
fn every_page_has_the_same_sections() {
    for (name, text) in pages() {
        let headings = text.lines().filter(|line| line.starts_with("## "));
        let headings: Vec<&str> = headings.collect();
        let first = ["## Ports", "## Policy", "## After `apply --confirm`"];
        assert_eq!(headings.get(..3), Some(&first[..]), "{name}");
        assert!(headings[3].contains("of host firewalls"), "{name}");
    }
}

#[test]
fn every_policy_meets_its_expectations() {
    for (name, text) in pages() {
        let found = policies(&text);
        assert_eq!(found.len(), 1, "{name} has one policy");
        let loaded = load(&name, found[0], &NoFiles);
        let shown = loaded.sources.render(&loaded.diagnostics, false);
        assert!(loaded.diagnostics.is_empty(), "{shown}");
        let policy = loaded.policy.expect("it has no errors");
        let warnings = suspicious::warnings(&policy);
        assert!(warnings.is_empty(), "{name}");
        let tested = expect::test(&policy, &compile(&policy).0);
        let failed = loaded.sources.render(&tested.failed, false);
        assert!(tested.failed.is_empty(), "{failed}");
        assert!(tested.unknown.is_empty(), "{name}");
        for verdict in ["accept", "drop"] {
            let line = format!("verdict = \"{verdict}\"");
            let is_stated = found[0].lines().any(|each| {
                let words: Vec<&str> = each.split_whitespace().collect();
                words.join(" ") == line
            });
            assert!(is_stated, "{name} expects no {verdict}");
        }
    }
}
