//! From files to a [`Policy`]: parse, don't check. All errors at once, each with its place.

mod allow;
mod cross_check;
mod discover;
mod expect;
mod fields;
mod file;
mod files;
mod groups;
mod icmp;
mod interfaces;
mod log;
mod names;
mod nets;
mod on_host;
mod options;
mod overlay;
mod peers;
mod resolve;
mod tunnel;
mod values;

use std::collections::BTreeMap;

use toml::Spanned;

use super::{Policy, Source};
use crate::diagnostic::{Diagnostic, FileId, Place, Severity, Sources};
pub use files::{Files, NoFiles, ReadError, Text};
use nets::Nets;

/// The newest version of the language.
pub const VERSION: u32 = 1;

/// So many names, or ports, are compared for suggestions and warnings, which are worth only so much time.
const COMPARISONS_MAX: usize = 1_000_000;

/// What came of reading a policy.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The policy, if there was no error.
    pub policy: Option<Policy>,
    /// Errors and warnings in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// The files, for showing the diagnostics.
    pub sources: Sources,
    /// Sentences that say why users other than root could have written these files.
    pub doubts: Vec<String>,
    /// Why the policy is not known at the moment, although nothing may be wrong with it.
    pub passing: Option<String>,
}

impl Loaded {
    /// Whether there is an error.
    pub fn has_errors(&self) -> bool {
        has_errors(&self.diagnostics)
    }
}

fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}

/// Reads a policy from the text of its main file, and the files that one names.
pub fn load(name: &str, text: &str, files: &dyn Files) -> Loaded {
    let mut sources = Sources::default();
    let main = sources.add_policy(name, text);
    let mut loader = Loader {
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
    };
    loader.file(main, true);
    loader.finish()
}

/// What is known so far, from all files.
#[derive(Default)]
struct Draft {
    policy: Policy,
    /// Every name and section that may be there once, by kind and name, with its place.
    defined: BTreeMap<(&'static str, String), Place>,
    /// Sources as written, to be resolved when all names are known.
    froms: Vec<PendingFrom>,
    /// The same for what an allow opens: its number, and a target.
    tos: Vec<(usize, String, Place)>,
    expects: Vec<expect::PendingExpect>,
    /// Where `[interfaces]` is.
    interfaces: Option<Place>,
    log_off: bool,
}

/// Where a resolved list of sources belongs.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Allow(usize),
    Ping,
    Tunnel(usize),
}

struct PendingFrom {
    owner: Owner,
    text: String,
    place: Place,
}

struct Loader<'a> {
    files: &'a dyn Files,
    sources: Sources,
    /// The first character of the main file, for what is about the whole.
    start: Place,
    diagnostics: Vec<Diagnostic>,
    draft: Draft,
    doubts: Vec<String>,
    passing: Option<String>,
    /// What `from` and `to` can name, once all is read.
    names: Option<BTreeMap<String, Source>>,
    /// Subnets of all overlays, once all is read.
    pods: Option<Nets>,
    /// So many names are still compared for something to suggest.
    comparisons: usize,
}

impl Loader<'_> {
    fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Reads a file that `relative_to` names. A failure that passes makes the whole policy unknown for now;
    /// any other is about this file.
    fn read(&mut self, path: &str, relative_to: &str) -> Result<Text, String> {
        match self.files.read(path, relative_to) {
            Ok(mut read) => {
                self.doubts.append(&mut read.doubts);
                Ok(read)
            }
            Err(err) => Err(self.unread(err)),
        }
    }

    fn unread(&mut self, err: ReadError) -> String {
        match err {
            ReadError::Wrong(why) => why,
            ReadError::Passing(why) => {
                self.passing.get_or_insert(why.clone());
                why
            }
        }
    }

    /// What was asked of the kernel; nothing if it cannot say at the moment.
    fn known<T>(&mut self, asked: Result<Option<T>, ReadError>) -> Option<T> {
        asked.unwrap_or_else(|err| {
            self.unread(err);
            None
        })
    }

    fn finish(mut self) -> Loaded {
        self.resolve_froms();
        self.resolve_tos();
        self.apply_host();
        self.resolve_expects();
        self.cross_check();
        let order = |d: &Diagnostic| (d.place.file, d.place.span.start);
        self.diagnostics.sort_by_key(order);
        let ok = !has_errors(&self.diagnostics) && self.passing.is_none();
        self.doubts.sort();
        self.doubts.dedup();
        let mut policy = self.draft.policy;
        if policy.log.is_none() && !self.draft.log_off {
            policy.log = Some(super::Log::default());
        }
        Loaded {
            policy: ok.then_some(policy),
            diagnostics: self.diagnostics,
            sources: self.sources,
            doubts: self.doubts,
            passing: self.passing,
        }
    }
}

fn place_of<T>(file: FileId, value: &Spanned<T>) -> Place {
    Place {
        file,
        span: value.span(),
    }
}
