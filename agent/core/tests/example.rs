//! The example policy is what it says, wherever it is quoted.
#![expect(clippy::disallowed_methods, reason = "the files are what is tested")]

use std::fs;
use std::path::Path;

use peerwall_core::policy::load::{NoFiles, load};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// Fenced blocks of TOML.
fn blocks(text: &str) -> Vec<&str> {
    let fenced = text.split("```toml\n").skip(1);
    fenced
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .collect()
}

#[test]
fn the_readme_quotes_the_example_policy_as_it_is() {
    let policy = read("policy.toml");
    assert!(blocks(&read("README.md")).contains(&policy.as_str()));
}

#[test]
fn every_policy_in_the_docs_loads_without_a_warning() {
    let mut tried = 0;
    for name in ["README.md", "docs/policy.md", "docs/cookbook.md"] {
        for block in blocks(&read(name))
            .iter()
            .filter(|block| block.contains("version = 1"))
        {
            let loaded = load(name, block, &NoFiles);
            let shown = loaded.sources.render(&loaded.diagnostics, false);
            assert!(
                loaded.policy.is_some() && loaded.diagnostics.is_empty(),
                "{name}: {shown}"
            );
            tried += 1;
        }
    }
    assert!(tried >= 12);
}
