//! One source: its files, and what was made of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerwall_core::policy::load::Member;
use peerwall_core::policy::{EngineKind, MemberSource};
use peerwall_core::sources::{Change, LINE_MAX, Listing, Members, Parser, Saved};
use serde::Deserialize;

use crate::host::names::printable;
use crate::json::{HeldStatus, SourceError, SourceStatus};
use crate::secure_file::{self, Version, plain};

/// Maximum size of a status, in bytes.
const STATUS_MAX_BYTES: u64 = 16 * 1024;
/// Maximum length of a message, in characters.
const MESSAGE_MAX: usize = 300;
/// Kinds of errors that `peerwall-sources` reports.
const ERROR_KINDS: [&str; 10] = [
    "unreachable",
    "timeout",
    "tls",
    "unauthorized",
    "forbidden",
    "not_found",
    "protocol",
    "too_many",
    "credential",
    "name",
];

/// Version of a file, or the errno of a failed stat(2).
type Mark = Result<Version, i32>;

/// What `peerwall-sources` says about a source.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Report {
    state: String,
    /// Time of the last proof, in seconds since the Unix epoch.
    fresh: Option<u64>,
    error: Option<SourceError>,
    errors: BTreeMap<String, u64>,
    credential_end: Option<i64>,
}

/// A source of the policy in force.
pub(super) struct Source {
    pub(super) spec: MemberSource,
    pub(super) members: Members,
    /// Versions of the files that were read last.
    marks: Vec<Option<Mark>>,
    /// One for each file.
    parsers: Vec<Parser>,
    report_mark: Option<Mark>,
    report: Option<Report>,
    /// Why the listing cannot be read.
    error: Option<String>,
    pub(super) joined: u64,
    pub(super) left: u64,
    /// The last proof, since boot and since the Unix epoch in seconds.
    proof: Option<(Duration, u64)>,
    /// What was logged last about this source.
    pub(super) said: Option<String>,
}

impl Source {
    /// Creates a source with the members that were saved. `now` is the time since boot.
    pub(super) fn new(spec: MemberSource, saved: Saved, now: Duration) -> Self {
        Self {
            members: Members::new(spec.limits.clone(), saved, now),
            spec,
            marks: Vec::new(),
            parsers: Vec::new(),
            report_mark: None,
            report: None,
            error: None,
            joined: 0,
            left: 0,
            proof: None,
            said: None,
        }
    }

    /// Changes the source to that of another policy.
    pub(super) fn follow(&mut self, spec: &MemberSource, now: Duration) -> Change {
        let change = self.members.set_limits(spec.limits.clone(), now);
        if self.spec.engine != spec.engine {
            self.marks.clear();
            self.parsers.clear();
        }
        self.spec = spec.clone();
        change
    }

    /// Returns the members with the names of their nodes.
    pub(super) fn list(&self) -> Vec<Member> {
        let members = self.members.iter();
        members
            .map(|(address, name)| (address, name.to_owned()))
            .collect()
    }

    /// Returns the files that this source reads.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match &self.spec.engine.files[..] {
            [] => vec![folder().join(&self.spec.name)],
            files => files.iter().map(PathBuf::from).collect(),
        }
    }

    /// Reads the files that changed.
    pub(super) fn read(&mut self, now: Duration) -> Change {
        let change = self.read_listing(now);
        self.read_report(now);
        if let Some(at) = self.members.proven()
            && self.proof.is_none_or(|(known, _)| known != at)
        {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH);
            self.proof = Some((at, unix.unwrap_or_default().as_secs()));
        }
        change
    }

    fn read_listing(&mut self, now: Duration) -> Change {
        let files = self.files();
        let marks: Vec<Option<Mark>> = files.iter().map(|file| mark(file)).collect();
        if marks == self.marks {
            return Change::default();
        }
        self.marks = marks;
        let max_lines = self.spec.limits.max.saturating_add(1024);
        let max_bytes = u64::try_from(max_lines.saturating_mul(LINE_MAX)).unwrap_or(u64::MAX);
        let mut all = Vec::new();
        self.parsers.resize_with(files.len(), Parser::default);
        for (file, parser) in files.iter().zip(&mut self.parsers) {
            match listing(file, &self.spec.name, max_bytes, parser) {
                Ok(listing) => all.push(listing),
                Err(why) => {
                    // The source may not run yet.
                    let is_awaited = self.marks.iter().all(Option::is_none);
                    self.error = (!is_awaited).then(|| format!("{}: {why}", file.display()));
                    return Change::default();
                }
            }
        }
        self.error = None;
        match union(all) {
            Some(listing) => self.members.observe(listing, now),
            None => Change::default(),
        }
    }

    fn read_report(&mut self, now: Duration) {
        if self.spec.engine.kind == EngineKind::Files {
            return;
        }
        let path = folder().join(format!("{}.status", self.spec.name));
        let found = mark(&path);
        if found == self.report_mark {
            return;
        }
        self.report_mark = found;
        let Some(report) = report(&path) else {
            return;
        };
        let before = self.report.as_ref().and_then(|report| report.fresh);
        if report.state == "fresh" && report.fresh > before {
            self.members.prove(now);
        }
        self.members.set_failing(report.state == "failing");
        self.report = Some(report);
    }

    /// Returns why there is no newer answer.
    pub(super) fn error(&self) -> Option<SourceError> {
        let file = self.error.as_ref().map(|why| SourceError {
            kind: "file".to_owned(),
            message: why.clone(),
        });
        file.or_else(|| self.report.as_ref()?.error.clone())
    }

    /// Describes the source.
    pub(super) fn status(&self, now: Duration) -> SourceStatus {
        let seconds = |at: Duration| now.saturating_sub(at).as_secs();
        let held = self.members.held(now).map(|held| HeldStatus {
            why: held.why.into(),
            addresses: held.addresses,
            seconds_left: held.until.map(|at| at.saturating_sub(now).as_secs()),
        });
        let examples = self.members.examples().iter();
        let report = self.report.clone().unwrap_or_default();
        SourceStatus {
            name: self.spec.name.clone(),
            kind: Some(self.spec.engine.kind.name().to_owned()),
            are_peers: Some(self.spec.are_peers),
            members: self.members.len(),
            fresh: self.proof.map(|(_, unix)| unix),
            fresh_seconds: self.members.proven().map(seconds),
            is_stale: self.members.is_stale(now),
            error: self.error(),
            held,
            refused: self.members.refused().clone(),
            refused_examples: examples
                .map(|(why, entry)| format!("{entry}: {}", why.sentence()))
                .collect(),
            joined: self.joined,
            left: self.left,
            errors: report.errors,
            credential_end: report.credential_end,
        }
    }
}

/// Returns the directory in which sources write.
fn folder() -> PathBuf {
    crate::control::path().with_file_name("sources")
}

/// Returns the version of a file; `None` if it does not exist.
fn mark(path: &Path) -> Option<Mark> {
    match secure_file::version(path) {
        Ok(version) => Some(Ok(version)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
        Err(err) => Some(Err(err.raw_os_error().unwrap_or_default())),
    }
}

fn listing(
    path: &Path,
    source: &str,
    max_bytes: u64,
    parser: &mut Parser,
) -> Result<Listing, String> {
    let file: File = secure_file::open(path).map_err(|err| plain(&err))?.file;
    let bytes = secure_file::read_all(file, max_bytes).map_err(|err| plain(&err))?;
    let text = String::from_utf8(bytes).map_err(|err| {
        let at = err.utf8_error().valid_up_to();
        format!("byte {at} is not UTF-8 text")
    })?;
    parser.parse(text, source).map_err(|err| err.to_string())
}

/// Joins the listings of several files. Only a single one has a revision.
fn union(mut all: Vec<Listing>) -> Option<Listing> {
    let first = all.pop()?;
    if all.is_empty() {
        return Some(first);
    }
    let start = Listing {
        identity: None,
        revision: None,
        ..first
    };
    Some(all.into_iter().fold(start, |mut sum, each| {
        sum.entries.extend(each.entries);
        sum.garbage += each.garbage;
        sum.garbage_texts.extend(each.garbage_texts);
        sum
    }))
}

/// Reads what `peerwall-sources` says; `None` if it cannot be read. Everything in it is bounded,
/// and safe to print.
fn report(path: &Path) -> Option<Report> {
    let read = || -> io::Result<Report> {
        let file = secure_file::open(path)?.file;
        let bytes = secure_file::read_all(file, STATUS_MAX_BYTES)?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let report = read().inspect_err(|err| log::debug!("{}: {err}", path.display()));
    let mut report = report.ok()?;
    let is_known = |kind: &str| ERROR_KINDS.contains(&kind);
    report.errors.retain(|kind, _| is_known(kind));
    report.error = report.error.map(|error| SourceError {
        kind: match is_known(&error.kind) {
            true => error.kind,
            false => "protocol".to_owned(),
        },
        message: printable(&error.message.chars().take(MESSAGE_MAX).collect::<String>()),
    });
    Some(report)
}
