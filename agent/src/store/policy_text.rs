//! The text of a policy, stored with its ruleset.
//!
//! After a trial or a rollback, the loaded policy may no longer be in its file, but its lists of
//! peers still change. With the stored text, it can be compiled again with the current lists.

use std::collections::BTreeMap;

use peerwall_core::diagnostic::Sources;
use serde::{Deserialize, Serialize};

/// Text of the main file of a policy and of its included files, without lists and discovered files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    /// Absolute path of the main file.
    pub main: String,
    /// Texts, by absolute path.
    texts: BTreeMap<String, String>,
    /// Files that each pattern of `include` matched, in order.
    matches: BTreeMap<String, Vec<String>>,
}

impl PolicyText {
    /// Returns the text of the main file.
    pub fn main_text(&self) -> &str {
        self.texts.get(&self.main).map_or("", String::as_str)
    }

    /// Selects the policy's own files from all files that were read.
    pub fn new(main: &str, sources: &Sources, matches: BTreeMap<String, Vec<String>>) -> Self {
        let own = sources.policy_texts();
        Self {
            main: absolute(main),
            texts: own
                .map(|(name, text)| (absolute(name), text.to_owned()))
                .collect(),
            matches,
        }
    }

    /// Returns the text of a file by its absolute path; `None` if it is not one of the policy's
    /// own.
    pub fn file(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// Returns the files that a pattern of `include` matched.
    pub fn matches(&self, pattern: &str) -> Vec<String> {
        self.matches.get(pattern).cloned().unwrap_or_default()
    }
}

/// Returns the absolute path of a file name.
pub fn absolute(name: &str) -> String {
    std::path::absolute(name).map_or_else(|_| name.to_owned(), |path| path.display().to_string())
}
