//! What a ruleset was made of, to know later without reading and compiling the policy again that
//! the same ruleset would come out.
//!
//! Core is pure: a policy's ruleset depends on its text, on the answers of [`Files`], and on this
//! program. So [`Recorder`] notes each question that core asks with a digest of the answer. Where
//! all answers are the same again, so is the ruleset.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use peerwall_core::net::host::Host;
use peerwall_core::net::link::Link;
use peerwall_core::policy::load::{Files, Member, ReadError, Text};
use peerwall_core::policy::{MemberSource, TemporaryPeer};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::LoadedPolicy;
use super::files::FileSystem;
use crate::digest::hex;
use crate::host::caller::Caller;
use crate::secure_file::{self, Version};

/// This program, while it runs.
const PROGRAM: &str = "/proc/self/exe";

/// A question about the environment of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// The policy itself.
    Policy(PathBuf),
    /// A file that the policy names, and the file that names it.
    Read(String, String),
    /// The matches of a pattern, and the file with the pattern.
    Glob(String, String),
    /// The last valid content of a file, and the file that names it.
    LastGood(String, String),
    /// The members of a source.
    Members(String),
    /// The temporary peers.
    Temporary,
    /// An interface.
    Link(String),
    /// Interfaces and routes.
    Host,
    /// Resolved neighbours, which come and go all the time.
    Neighbours,
    /// Where the caller's ssh session comes from: the policy may not admit it.
    Caller,
}

/// Everything that a ruleset depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    program: Version,
    /// Each question with the digest of its answer.
    asked: Vec<(Question, String)>,
}

impl Inputs {
    /// Returns the inputs of a policy that was read by `recorder`, if all of them are known and
    /// only root can have written it.
    pub fn of(path: &Path, ready: &LoadedPolicy, recorder: Recorder<'_>) -> Option<Self> {
        // Another working directory would be another policy.
        if !ready.doubts.is_empty() || !path.is_absolute() {
            return None;
        }
        let mut asked = recorder.asked.into_inner()?;
        if !ready.policy.depends_on_neighbours() {
            asked.remove(&Question::Neighbours);
        }
        let main = Text {
            name: path.display().to_string(),
            text: ready.text.main_text().to_owned(),
            doubts: Vec::new(),
        };
        asked.insert(Question::Policy(path.to_owned()), of_text(&Ok(main)));
        asked.insert(Question::Caller, of_caller());
        Some(Self {
            program: secure_file::version(Path::new(PROGRAM)).ok()?,
            asked: asked.into_iter().collect(),
        })
    }

    /// Whether the policy at `path` has these inputs now.
    pub fn are_those_of(&self, path: &Path) -> bool {
        let is_of_path =
            |question: &Question| matches!(question, Question::Policy(of) if of == path);
        let is_same = |(asked, known): &(Question, String)| answer(asked) == *known;
        let program = secure_file::version(Path::new(PROGRAM));
        program.is_ok_and(|program| program == self.program)
            && self.asked.iter().any(|(asked, _)| is_of_path(asked))
            && self.asked.iter().all(is_same)
    }
}

/// Returns the digest of the current answer.
fn answer(question: &Question) -> String {
    let files = FileSystem::default();
    match question {
        Question::Policy(path) => of_text(&secure_file::text(path)),
        Question::Read(path, relative_to) => of_text(&files.read(path, relative_to)),
        Question::Glob(pattern, relative_to) => of(&files.glob(pattern, relative_to)),
        Question::LastGood(path, relative_to) => of(&files.last_good(path, relative_to)),
        Question::Members(source) => of(&FileSystem::members_of(source)),
        Question::Temporary => of(&files.temporary()),
        Question::Link(name) => of(&files.link(name)),
        Question::Host => of_host(files.host()).0,
        Question::Neighbours => of_host(files.host()).1,
        Question::Caller => of_caller(),
    }
}

/// Wraps the file system, and records what is asked.
pub struct Recorder<'f> {
    files: &'f FileSystem,
    /// `None` once a question had two answers.
    asked: RefCell<Option<BTreeMap<Question, String>>>,
}

impl<'f> Recorder<'f> {
    /// Wraps `files`.
    pub fn new(files: &'f FileSystem) -> Self {
        // What may appear later is not recorded.
        let asked = (!files.waits).then(BTreeMap::new);
        Self {
            files,
            asked: RefCell::new(asked),
        }
    }

    fn note(&self, question: Question, digest: String) {
        let mut asked = self.asked.borrow_mut();
        let Some(known) = asked.as_mut() else { return };
        let before = known.insert(question, digest.clone());
        if before.is_some_and(|before| before != digest) {
            *asked = None;
        }
    }
}

impl Files for Recorder<'_> {
    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        let found = self.files.read(path, relative_to);
        let question = Question::Read(path.to_owned(), relative_to.to_owned());
        self.note(question, of_text(&found));
        found
    }

    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError> {
        let found = self.files.glob(pattern, relative_to);
        let question = Question::Glob(pattern.to_owned(), relative_to.to_owned());
        self.note(question, of(&found));
        found
    }

    fn last_good(&self, path: &str, relative_to: &str) -> Result<Option<Text>, ReadError> {
        let found = self.files.last_good(path, relative_to);
        let question = Question::LastGood(path.to_owned(), relative_to.to_owned());
        self.note(question, of(&found));
        found
    }

    fn members(&self, source: &MemberSource) -> Result<Option<Vec<Member>>, ReadError> {
        let found = self.files.members(source);
        self.note(Question::Members(source.name.clone()), of(&found));
        found
    }

    fn temporary(&self) -> Result<Option<Vec<TemporaryPeer>>, ReadError> {
        let found = self.files.temporary();
        self.note(Question::Temporary, of(&found));
        found
    }

    fn waits(&self) -> bool {
        self.files.waits()
    }

    fn is_elsewhere(&self) -> bool {
        self.files.is_elsewhere()
    }

    fn link(&self, name: &str) -> Result<Option<Link>, ReadError> {
        let found = self.files.link(name);
        self.note(Question::Link(name.to_owned()), of(&found));
        found
    }

    fn host(&self) -> Result<Option<Host>, ReadError> {
        let found = self.files.host();
        let (host, neighbours) = of_host(found.clone());
        self.note(Question::Host, host);
        self.note(Question::Neighbours, neighbours);
        found
    }
}

/// Digests what core prints of a value: every field, with quotes and escapes.
fn of(answer: &impl Debug) -> String {
    hex(Sha256::new_with_prefix(format!("{answer:?}")))
}

/// Digests a text as bytes, since lists have megabytes.
fn of_text(found: &Result<Text, ReadError>) -> String {
    let Ok(text) = found else { return of(found) };
    let mut hasher = Sha256::new();
    hasher.update(format!("{:?}", (&text.name, &text.doubts, text.text.len())));
    hasher.update(&text.text);
    hex(hasher)
}

/// Digests the host without its neighbours, and the neighbours.
fn of_host(found: Result<Option<Host>, ReadError>) -> (String, String) {
    match found {
        Ok(Some(mut host)) => {
            let neighbours = std::mem::take(&mut host.neighbours);
            (of(&host), of(&neighbours))
        }
        none => (of(&none), of(&none)),
    }
}

/// Digests the addresses of the caller's ssh session, or of all that may be it. Each session has
/// another port.
fn of_caller() -> String {
    let caller = Caller::here();
    let known = caller.ssh.iter().chain(&caller.maybe);
    let ends: BTreeSet<_> = known.map(|ssh| (ssh.client, ssh.server_end())).collect();
    of(&ends)
}
