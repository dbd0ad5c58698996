//! State of loading a policy, shared by the parsers of all sections.

use std::collections::BTreeMap;

use super::COMPARISONS_MAX;
use super::files::{Files, ReadError, Text};
use super::nets::Nets;
use crate::diagnostic::{Diagnostic, FileId, Place, Sources};
use crate::policy::{Expect, Policy, Source};

/// The policy as far as it is read, with names that are still to be looked up.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) policy: Policy,
    /// Names and sections that may occur once, by kind and name, with their places.
    pub(super) defined: BTreeMap<(&'static str, String), Place>,
    /// Sources as written, resolved once all names are known.
    pub(super) froms: Vec<PendingFrom>,
    /// Targets as written: index of the allow, text and place.
    pub(super) tos: Vec<(usize, String, Place)>,
    pub(super) expects: Vec<PendingExpect>,
    /// Place of `[interfaces]`.
    pub(super) interfaces: Option<Place>,
    pub(super) log_off: bool,
}

/// Owner of a list of sources, by its index.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    Allow(usize),
    Ping,
    Tunnel(usize),
}

/// A source as written.
pub(super) struct PendingFrom {
    pub(super) owner: Owner,
    pub(super) text: String,
    pub(super) place: Place,
}

/// State of loading one policy: what is read so far, and what is wrong with it.
pub(super) struct Context<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) sources: Sources,
    /// First character of the main file, for diagnostics of the whole policy.
    pub(super) start: Place,
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) draft: Draft,
    pub(super) doubts: Vec<String>,
    pub(super) passing: Option<String>,
    /// Names that `from` and `to` can use; filled once all files are read.
    pub(super) names: Option<BTreeMap<String, Source>>,
    /// Subnets of all overlays; filled once all files are read.
    pub(super) pods: Option<Nets>,
    /// Comparisons left for suggestions.
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

    /// Reads a file that `relative_to` names. A temporary failure makes the whole policy unknown
    /// for now; any other concerns this file only.
    pub(super) fn read(&mut self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        match self.files.read(path, relative_to) {
            Ok(mut read) => {
                self.doubts.append(&mut read.doubts);
                Ok(read)
            }
            Err(err) => Err(self.unread(err)),
        }
    }

    /// Returns the reason of a failed read, and records it if it is temporary.
    pub(super) fn unread(&mut self, err: ReadError) -> ReadError {
        if let ReadError::Passing(why) = &err {
            self.passing.get_or_insert_with(|| why.clone());
        }
        err
    }

    /// Unwraps an answer of the kernel; `None` if it cannot answer at the moment.
    pub(super) fn known<T>(&mut self, asked: Result<Option<T>, ReadError>) -> Option<T> {
        asked.unwrap_or_else(|err| {
            self.unread(err);
            None
        })
    }
}

/// An `[[expect]]` whose `from` is not looked up yet.
pub(super) struct PendingExpect {
    pub(super) expect: Expect,
    pub(super) from: Vec<(String, Place)>,
    pub(super) has_interface: bool,
}
