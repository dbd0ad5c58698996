//! The text of a policy, stored with its ruleset.
//!
//! After a trial or a rollback, the loaded policy may no longer be in its file, but its lists of
//! peers still change. With the stored text, it can be compiled again with the current lists.

use std::cell::RefCell;
use std::collections::BTreeMap;

use peerwall_core::diagnostic::Sources;
use peerwall_core::policy::load::{Files, ReadError, Text};
use serde::{Deserialize, Serialize};

use crate::policy_file::files::beside;
use crate::store::absolute;

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

    /// Returns files that take the policy's own files from this text, and all others from `files`.
    pub fn over<'f>(&'f self, files: &'f dyn Files) -> Overlaid<'f> {
        Overlaid { text: self, files }
    }
}

/// Wraps [`Files`] and records the matches of patterns.
pub struct Recorded<'f> {
    files: &'f dyn Files,
    matches: RefCell<BTreeMap<String, Vec<String>>>,
}

impl<'f> Recorded<'f> {
    /// Wraps `files`.
    pub fn new(files: &'f dyn Files) -> Self {
        Self {
            files,
            matches: RefCell::default(),
        }
    }

    /// Returns the matches of each pattern.
    pub fn matches(self) -> BTreeMap<String, Vec<String>> {
        self.matches.into_inner()
    }
}

impl Files for Recorded<'_> {
    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError> {
        let names = self.files.glob(pattern, relative_to)?;
        let key = pattern.to_owned();
        self.matches.borrow_mut().insert(key, names.clone());
        Ok(names)
    }

    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        self.files.read(path, relative_to)
    }

    fn beneath(&self) -> Option<&dyn Files> {
        Some(self.files)
    }
}

/// A stored text over the current files.
pub struct Overlaid<'f> {
    text: &'f PolicyText,
    files: &'f dyn Files,
}

impl Files for Overlaid<'_> {
    /// Only the main file can include others, so the pattern alone identifies its matches.
    fn glob(&self, pattern: &str, _relative_to: &str) -> Result<Vec<String>, ReadError> {
        Ok(self.text.matches.get(pattern).cloned().unwrap_or_default())
    }

    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        let name = beside(path, relative_to).display().to_string();
        match self.text.texts.get(&absolute(&name)) {
            Some(text) => Ok(Text {
                name,
                text: text.clone(),
                doubts: Vec::new(),
            }),
            None => self.files.read(path, relative_to),
        }
    }

    fn beneath(&self) -> Option<&dyn Files> {
        Some(self.files)
    }
}
