//! State that the parsers of all sections share.

use std::collections::{BTreeMap, HashMap};

use super::COMPARISONS_MAX;
use super::files::{Files, ReadError, Text};
use super::nets::Nets;
use crate::diagnostic::{Diagnostic, FileId, Place, Sources};
use crate::policy::{Expect, Policy, Source};

/// Partially parsed policy, with unresolved names.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) policy: Policy,
    /// Places of names and sections that may occur once, by kind and name.
    pub(super) defined: HashMap<(&'static str, String), Place>,
    /// Sources as written, resolved after all files are read.
    pub(super) froms: Vec<PendingFrom>,
    /// Targets as written: index of the allow, text and place.
    pub(super) tos: Vec<(usize, String, Place)>,
    pub(super) expects: Vec<PendingExpect>,
    /// Place of `[interfaces]`.
    pub(super) interfaces: Option<Place>,
    pub(super) log_off: bool,
}

/// Owner of a list of sources, by index.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    Allow(usize),
    Ping,
    Tunnel(usize),
}

/// Source as written.
pub(super) struct PendingFrom {
    pub(super) owner: Owner,
    pub(super) text: String,
    pub(super) place: Place,
}

/// State of loading one policy.
pub(super) struct Context<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) sources: Sources,
    /// First character of the main file, for diagnostics of the whole policy.
    pub(super) start: Place,
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) draft: Draft,
    pub(super) doubts: Vec<String>,
    pub(super) passing: Option<String>,
    /// Names for `from` and `to`; filled after all files are read.
    pub(super) names: Option<BTreeMap<String, Source>>,
    /// Subnets of all overlays; filled after all files are read.
    pub(super) pods: Option<Nets>,
    /// Remaining comparisons for suggestions.
    pub(super) comparisons: usize,
}

impl<'a> Context<'a> {
    pub(super) fn new(files: &'a dyn Files, sources: Sources, main: FileId, text: &str) -> Self {
        Self {
            files,
            sources,
            start: Place {
                file: main,
                span: 0..text.len().min(1),
            },
            diagnostics: Vec::new(),
            draft: Draft::default(),
            doubts: Vec::new(),
            passing: None,
            names: None,
            pods: None,
            comparisons: COMPARISONS_MAX,
        }
    }

    pub(super) fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Reads a file that `relative_to` refers to. A temporary failure makes the whole policy
    /// unknown for now; other failures concern only this file.
    pub(super) fn read(&mut self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        match self.files.read(path, relative_to) {
            Ok(mut read) => {
                self.doubts.append(&mut read.doubts);
                Ok(read)
            }
            Err(err) => Err(self.unread(err)),
        }
    }

    /// Records the reason of a failed read if it is temporary, and returns it.
    pub(super) fn unread(&mut self, err: ReadError) -> ReadError {
        if let ReadError::Passing(why) = &err {
            self.passing.get_or_insert_with(|| why.clone());
        }
        err
    }

    /// Unwraps a response of the kernel; `None` after a temporary failure.
    pub(super) fn known<T>(&mut self, asked: Result<Option<T>, ReadError>) -> Option<T> {
        asked.unwrap_or_else(|err| {
            self.unread(err);
            None
        })
    }
}

/// `[[expect]]` whose `from` is not resolved yet.
pub(super) struct PendingExpect {
    pub(super) expect: Expect,
    pub(super) from: Vec<(String, Place)>,
    pub(super) has_interface: bool,
}
