//! Reads, compiles and checks a policy from the file system.

pub mod files;
pub mod inputs;
pub mod sources;

use std::fmt;
use std::path::Path;

use peerwall_core::diagnostic::{Code, Diagnostic, JsonDiagnostic, Severity, Sources};
use peerwall_core::policy::load::{Files, ReadError, Text, load};
use peerwall_core::policy::{Policy, host_check, suspicious};
use peerwall_core::ruleset::Ruleset;
use peerwall_core::ruleset::compile::{Origins, compile};
use peerwall_core::ruleset::{expect, temporary};
use peerwall_core::words::count;
use sha2::{Digest as _, Sha256};

use crate::color::{self, Stream};
use crate::digest::hex;
use crate::host::caller::Caller;
use crate::host::facts;
use crate::json::{ErrorCode, Failure};
use crate::policy_file::sources::{Overlaid, Recorded};
use crate::secure_file;
use crate::store::policy_text::PolicyText;

/// Advice for files that other users can write.
const SECURE: &str = "the policy controls access to this host: chown it to root and chmod go-w, or \
    use --insecure-permissions";

/// A compiled policy that meets its own expectations.
pub struct LoadedPolicy {
    /// The parsed policy.
    pub policy: Policy,
    /// The ruleset that the policy compiles to.
    pub ruleset: Ruleset,
    /// Source of each rule in the policy.
    pub origins: Origins,
    /// Files of the policy.
    pub sources: Sources,
    /// Warnings about the policy.
    pub warnings: Vec<Diagnostic>,
    /// Warnings about differences from this host, if [compared](Self::compare_with_host).
    pub misfits: Vec<Diagnostic>,
    /// Number of expectations that depend on unknown facts of the host.
    pub untested: usize,
    /// Reasons why users other than root could have written the files when they were read, as
    /// sentences.
    pub doubts: Vec<String>,
    /// SHA-256 of the policy's text, in hexadecimal.
    pub digest: String,
    /// Text of the policy, for compiling it again after a list changed.
    pub text: PolicyText,
}

/// Why there is no [`LoadedPolicy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// Errors of the policy; empty if it could not be read.
    pub diagnostics: Vec<JsonDiagnostic>,
    /// One sentence.
    pub error: String,
    /// The same for people.
    pub text: String,
    /// Whether the error is a transient one of the system. The policy may be valid, and the same
    /// call may succeed later.
    pub is_passing: bool,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for LoadError {}

/// Error of a policy that users other than root could have written, with a sentence for each file,
/// link and directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {SECURE}", .0.join("; "))]
pub struct Insecure(Vec<String>);

impl From<Insecure> for Failure {
    fn from(why: Insecure) -> Self {
        Self::new(ErrorCode::PolicyWritableByOthers, why)
    }
}

impl From<&LoadError> for Failure {
    fn from(why: &LoadError) -> Self {
        let code = match (why.is_passing, why.diagnostics.is_empty()) {
            (true, _) => ErrorCode::PolicyUnavailable,
            (false, true) => ErrorCode::PolicyUnreadable,
            (false, false) => ErrorCode::PolicyInvalid,
        };
        Self {
            diagnostics: why.diagnostics.clone(),
            text: Some(why.text.trim_end().to_owned()),
            ..Self::new(code, &why.error)
        }
    }
}

/// What an expectation that is not met makes of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unmet {
    /// An error.
    Refused,
    /// Nothing: the caller tests the expectations.
    Left,
}

/// Reads, compiles and tests a policy.
///
/// # Errors
/// [`LoadError`] with all errors of the policy.
pub fn prepare(path: &Path, files: &dyn Files) -> Result<LoadedPolicy, Box<LoadError>> {
    let main = secure_file::text(path).map_err(|err| Box::new(unread(path, err)))?;
    build(path, main, files, Unmet::Refused)
}

/// Reads and compiles a policy whose expectations the caller tests.
///
/// # Errors
/// [`LoadError`] with all other errors of the policy.
pub fn prepare_to_test(path: &Path, files: &dyn Files) -> Result<LoadedPolicy, Box<LoadError>> {
    let main = secure_file::text(path).map_err(|err| Box::new(unread(path, err)))?;
    build(path, main, files, Unmet::Left)
}

/// Compiles the stored text of a policy with the current lists and facts of the host.
///
/// # Errors
/// [`LoadError`], for example if a list is missing.
pub fn prepare_stored(
    text: &PolicyText,
    files: &dyn Files,
) -> Result<LoadedPolicy, Box<LoadError>> {
    let main = Text {
        name: text.main.clone(),
        text: text.main_text().to_owned(),
        doubts: Vec::new(),
    };
    let files = Overlaid::new(text, files);
    build(Path::new(&text.main), main, &files, Unmet::Refused)
}

fn build(
    path: &Path,
    main: Text,
    files: &dyn Files,
    unmet: Unmet,
) -> Result<LoadedPolicy, Box<LoadError>> {
    let files = Recorded::new(files);
    let loaded = load(&main.name, &main.text, &files);
    if let Some(why) = loaded.passing {
        return Err(Box::new(unread(path, ReadError::Passing(why))));
    }
    let mut doubts = main.doubts;
    doubts.extend(loaded.doubts);
    doubts.sort();
    doubts.dedup();
    let mut diagnostics = loaded.diagnostics;
    let Some(mut policy) = loaded.policy else {
        return Err(Box::new(not_ready(&loaded.sources, &diagnostics)));
    };
    diagnostics.extend(suspicious::warnings(&policy));
    in_order(&mut diagnostics);
    let (mut ruleset, mut origins) = compile(&policy);
    let mut tested = expect::test(&policy, &ruleset);
    if unmet == Unmet::Left {
        tested
            .failed
            .retain(|error| error.code != Code::ExpectationNotMet);
    }
    let untested = tested.unknown.len();
    diagnostics.extend(tested.unknown);
    in_order(&mut diagnostics);
    if !tested.failed.is_empty() {
        diagnostics.extend(tested.failed);
        return Err(Box::new(not_ready(&loaded.sources, &diagnostics)));
    }
    // Expectations are about the policy. A peer that was added by hand is not bound by them.
    let temporary = files.temporary();
    let temporary = temporary.map_err(|err| Box::new(unread(path, err)))?;
    if let Some(peers) = temporary {
        let peers = peers.into_iter();
        let possible = peers.filter(|peer| temporary::check(&ruleset, peer.address).is_ok());
        policy.temporary = Some(possible.collect());
        (ruleset, origins) = compile(&policy);
    }
    Ok(LoadedPolicy {
        digest: digest(&loaded.sources),
        text: PolicyText::new(&main.name, &loaded.sources, files.matches()),
        policy,
        ruleset,
        origins,
        sources: loaded.sources,
        warnings: diagnostics,
        misfits: Vec::new(),
        untested,
        doubts,
    })
}

/// Builds the error of a policy that could not be read.
fn unread(path: &Path, err: ReadError) -> LoadError {
    let hint = match path == Path::new(crate::cli::POLICY) {
        true => "; write one there (see docs/policy.md), or name another",
        false => "",
    };
    let (is_passing, error) = match err {
        ReadError::Passing(why) => (
            true,
            format!("{why}; this is a transient error of the system, not of the policy"),
        ),
        ReadError::Wrong(why) | ReadError::Absent(why) => (false, format!("{why}{hint}")),
    };
    LoadError {
        diagnostics: Vec::new(),
        text: format!("error: {error}\n"),
        error,
        is_passing,
    }
}

fn not_ready(sources: &Sources, diagnostics: &[Diagnostic]) -> LoadError {
    let color = color::is_on(Stream::Stderr);
    let errors = diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .count();
    let error = format!("{} in the policy", count(errors, "error"));
    LoadError {
        diagnostics: diagnostics.iter().map(|d| sources.json(d)).collect(),
        text: format!(
            "{}error: {error}; nothing was changed\n",
            sources.render(diagnostics, color)
        ),
        error,
        is_passing: false,
    }
}

fn in_order(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by_key(|d| (d.place.file, d.place.span.start));
}

/// Returns the SHA-256 of the policy's own files, without lists.
fn digest(sources: &Sources) -> String {
    let mut hasher = Sha256::new();
    for (_, text) in sources.policy_texts() {
        hasher.update(text.len().to_string());
        hasher.update(":");
        hasher.update(text);
    }
    hex(hasher)
}

impl LoadedPolicy {
    /// Checks that only root or the user of this process can have written the policy.
    ///
    /// # Errors
    /// [`Insecure`] with every file, link and directory that other users can write.
    pub fn check_permissions(&self) -> Result<(), Insecure> {
        match self.doubts[..] {
            [] => Ok(()),
            _ => Err(Insecure(self.doubts.clone())),
        }
    }

    /// Adds warnings about files that [`check_permissions`](Self::check_permissions) refuses.
    pub fn look_for_permissions(&mut self) {
        let Some(start) = self.sources.start() else {
            return;
        };
        for doubt in &self.doubts {
            let warning = Diagnostic::warning(
                Code::WritableByOthers,
                start.clone(),
                format!("{doubt}; apply refuses this"),
            );
            self.misfits.push(warning.help(SECURE));
        }
    }

    /// Adds warnings about differences between the policy and this host; none if the host cannot be
    /// read.
    pub fn compare_with_host(&mut self, files: &dyn Files) {
        let Some(host) = files.host().ok().flatten() else {
            return;
        };
        let caller = Caller::here();
        let known = caller.ssh.iter().chain(&caller.maybe);
        let administrators: Vec<_> = known.map(|ssh| ssh.client).collect();
        self.misfits = host_check::compare(&self.policy, &host, &administrators);
        in_order(&mut self.misfits);
    }

    /// Adds a warning about interfaces that route loopback addresses.
    pub fn look_for_route_localnet(&mut self) {
        let interfaces = facts::route_localnet();
        if let Some(start) = self.sources.start().filter(|_| !interfaces.is_empty()) {
            self.misfits.push(Diagnostic::warning(Code::RouteLocalnet, start, format!(
                "route_localnet is 1 for {} on this host", interfaces.join(", ")
            )).help(
                "neighbours could reach services that listen on 127.0.0.1 (CVE-2020-8558); \
                 peerwall drops packets for 127.0.0.0/8 that come from outside, so this is for \
                 information; kube-proxy sets it unless it runs with --iptables-localhost-nodeports=false",
            ));
        }
    }

    /// Everything that is suspicious, for programs.
    pub fn json_warnings(&self) -> Vec<JsonDiagnostic> {
        let all = self.warnings.iter().chain(&self.misfits);
        all.map(|d| self.sources.json(d)).collect()
    }
}
