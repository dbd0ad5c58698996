//! Parsing of files to a [`Policy`]. Reports all errors at once, each with its place.

mod allow;
mod context;
mod cross_check;
mod discover;
mod document;
mod elsewhere;
mod expect;
mod fields;
mod file;
mod files;
mod groups;
mod icmp;
mod interfaces;
mod log;
mod member_sources;
mod names;
mod nets;
mod on_host;
mod options;
mod overlay;
mod peers;
mod resolve;
mod tunnel;
mod values;

use super::{Log, Policy};
use crate::diagnostic::{Diagnostic, Severity, Sources};
use context::Context;
pub use elsewhere::{Discovered, Elsewhere};
pub use files::{Files, Member, NoFiles, ReadError, Text};
pub(crate) use names::is_name;

/// Supported version of the policy language.
pub const VERSION: u32 = 1;

/// Limit on comparisons for suggestions and warnings, which bounds the time for long lists.
const COMPARISONS_MAX: usize = 1_000_000;

/// Result of loading a policy.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The policy, if there was no error.
    pub policy: Option<Policy>,
    /// Errors and warnings in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// The files, for showing the diagnostics.
    pub sources: Sources,
    /// Reasons why users other than root could have written these files.
    pub doubts: Vec<String>,
    /// Temporary failure; the policy may be valid.
    pub passing: Option<String>,
}

impl Loaded {
    /// Returns whether there is an error.
    pub fn has_errors(&self) -> bool {
        has_errors(&self.diagnostics)
    }
}

fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}

/// Loads a policy from the text of its main file and the files that it refers to.
pub fn load(name: &str, text: &str, files: &dyn Files) -> Loaded {
    let mut sources = Sources::default();
    let main = sources.add_policy(name, text);
    let mut cx = Context::new(files, sources, main, text);
    file::read_file(&mut cx, main, true);
    // The order matters: names resolve after all files are read, facts of the host apply to the
    // resolved policy, and the checks need both.
    member_sources::add_members(&mut cx);
    resolve::resolve_froms(&mut cx);
    resolve::resolve_tos(&mut cx);
    on_host::apply_host(&mut cx);
    expect::resolve_expects(&mut cx);
    cross_check::cross_check(&mut cx);
    finish(cx)
}

fn finish(mut cx: Context<'_>) -> Loaded {
    let order = |d: &Diagnostic| (d.place.file, d.place.span.start);
    cx.diagnostics.sort_by_key(order);
    let is_valid = !has_errors(&cx.diagnostics) && cx.passing.is_none();
    cx.doubts.sort();
    cx.doubts.dedup();
    let mut policy = cx.draft.policy;
    if policy.log.is_none() && !cx.draft.log_off {
        policy.log = Some(Log::default());
    }
    Loaded {
        policy: is_valid.then_some(policy),
        diagnostics: cx.diagnostics,
        sources: cx.sources,
        doubts: cx.doubts,
        passing: cx.passing,
    }
}
