//! Sources of a policy's files: recorded for the store, and overlaid with a stored text.

use std::cell::RefCell;
use std::collections::BTreeMap;

use peerwall_core::policy::load::{Files, ReadError, Text};

use crate::policy_file::files::beside;
use crate::store::policy_text::{PolicyText, absolute};

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

impl<'f> Overlaid<'f> {
    /// Takes the policy's own files from `text`, and all others from `files`.
    pub fn new(text: &'f PolicyText, files: &'f dyn Files) -> Self {
        Self { text, files }
    }
}

impl Files for Overlaid<'_> {
    /// Only the main file can include others, so the pattern alone identifies its matches.
    fn glob(&self, pattern: &str, _relative_to: &str) -> Result<Vec<String>, ReadError> {
        Ok(self.text.matches(pattern))
    }

    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        let name = beside(path, relative_to).display().to_string();
        match self.text.file(&absolute(&name)) {
            Some(text) => Ok(Text {
                name,
                text: text.to_owned(),
                doubts: Vec::new(),
            }),
            None => self.files.read(path, relative_to),
        }
    }

    fn beneath(&self) -> Option<&dyn Files> {
        Some(self.files)
    }
}
