//! Writes what a source knows: its addresses, and its state.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Ended, Error, Kind, Step};
use crate::members::{self, ADDRESSES_MAX, Answer};
use crate::status::{self, LastError, State, Status};

/// Minimum time between two status files that only differ in the time of the last proof.
const FRESH_EVERY: Duration = Duration::from_secs(30);
/// How long before its end a credential is warned about, and how often.
const WARN_AHEAD: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The files of one source.
#[derive(Debug)]
pub struct Report {
    source: String,
    kind: &'static str,
    /// Number of addresses that the agent accepts.
    max: usize,
    directory: PathBuf,
    /// What the file with the addresses says; `None` if it was not written yet.
    written: Option<Answer>,
    /// Identity and revision of the newest answer.
    newest: Option<(String, u64)>,
    status: Status,
    status_written: Option<(Status, Instant)>,
    proofs: u64,
    warned: Option<Instant>,
}

impl Report {
    /// Returns the report of a source, with what an earlier process wrote.
    pub fn open(directory: &Path, source: &str, kind: &'static str, max: usize) -> Self {
        let mut report = Self {
            source: source.to_owned(),
            kind,
            max,
            directory: directory.to_owned(),
            written: None,
            newest: None,
            status: Status::default(),
            status_written: None,
            proofs: 0,
            warned: None,
        };
        report.read();
        report.write_status();
        report
    }

    /// Reads what an earlier process wrote, so that nothing is written again, and no older answer.
    fn read(&mut self) {
        let text = fs::read_to_string(self.directory.join(&self.source));
        let answer = text
            .ok()
            .and_then(|text| members::decode(&text, &self.source, self.kind));
        let Some(answer) = answer else { return };
        self.newest = answer
            .revision
            .map(|revision| (answer.identity.clone(), revision));
        self.status.members = answer.members.len();
        self.written = Some(answer);
        let status = fs::read_to_string(self.directory.join(status_name(&self.source)));
        self.status.fresh = status.ok().and_then(|text| status::fresh_of(&text));
    }

    /// Name of the source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Number of proofs so far.
    pub fn proofs(&self) -> u64 {
        self.proofs
    }

    /// Reports a complete answer. It is written if its addresses or its identity are new.
    ///
    /// # Errors
    /// [`Ended::Failed`] if it is older than the newest one of the same cluster, or has too many
    /// addresses.
    pub fn answered(&mut self, answer: Answer) -> Step<()> {
        let count = answer.members.len();
        if count > ADDRESSES_MAX {
            let text = format!("{count} addresses, of at most {ADDRESSES_MAX}; use a selector");
            return Err(Ended::failed(Kind::TooMany, text));
        }
        if let Some(revision) = answer.revision {
            self.check_revision(&answer.identity, revision)?;
            self.newest = Some((answer.identity.clone(), revision));
        }
        let is_same = |written: &Answer| {
            written.members == answer.members && written.identity == answer.identity
        };
        if !self.written.as_ref().is_some_and(is_same) {
            self.write_members(answer);
        }
        self.proven();
        Ok(())
    }

    /// Checks that an answer is not older than the newest one.
    ///
    /// # Errors
    /// [`Kind::Protocol`] if it is.
    pub fn check_revision(&self, identity: &str, revision: u64) -> Step<()> {
        match &self.newest {
            Some((known, newest)) if known == identity && revision < *newest => {
                let file = self.directory.join(&self.source);
                let text = format!(
                    "the answer has revision {revision}, older than {newest} before: a server lags, or the \
                     cluster was restored from a backup; if it was restored, stop this program, remove {}, \
                     and start it again",
                    file.display()
                );
                Err(Ended::failed(Kind::Protocol, text))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Reports that the file's addresses are complete at this moment.
    pub fn proven(&mut self) {
        self.proofs += 1;
        self.status.fresh = now();
        self.status.state = State::Fresh;
        self.status.error = None;
        if self.status.members > self.max {
            let text = format!("{} addresses, of at most {}", self.status.members, self.max);
            self.status.error = Some((&Error::new(Kind::TooMany, text)).into());
        }
        self.warn_of_end();
        self.write_status();
    }

    /// Reports an error. `is_final` if no other server remains to be tried at once.
    pub fn failed(&mut self, err: &Error, is_final: bool) {
        *self.status.errors.entry(err.kind).or_default() += 1;
        let source = &self.source;
        let is_failing = self.status.state == State::Failing;
        let is_known =
            is_failing && self.status.error.as_ref().map(LastError::kind) == Some(err.kind);
        match (is_final, is_known) {
            (true, false) => log::warn!("{source}: {err}"),
            // An outage of hours is one line.
            (true, true) => log::debug!("{source}: {err}"),
            (false, _) => log::info!("{source}: {err}; trying the next server"),
        }
        if is_final {
            self.status.state = State::Failing;
            self.status.error = Some(err.into());
        }
        self.warn_of_end();
        self.write_status();
    }

    /// Records when the first of the credentials expires, in seconds since 1970.
    pub fn credential_ends(&mut self, end: Option<u64>) {
        self.status.credential_end = end;
    }

    fn warn_of_end(&mut self) {
        let (Some(end), Some(now)) = (self.status.credential_end, now()) else {
            return;
        };
        let left = Duration::from_secs(end.saturating_sub(now));
        if left > WARN_AHEAD || self.warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        self.warned = Some(Instant::now());
        let source = &self.source;
        match left.as_secs() {
            0 => log::warn!("{source}: the credential has expired; renew it"),
            seconds => {
                let days = seconds / (24 * 60 * 60);
                log::warn!("{source}: the credential expires in {days} days; renew it");
            }
        }
    }

    fn write_members(&mut self, answer: Answer) {
        let before = self.written.as_ref().map(|answer| &answer.members);
        let is_new = |address| before.is_none_or(|before| !before.contains_key(address));
        let added = answer
            .members
            .keys()
            .filter(|address| is_new(address))
            .count();
        let is_gone = |address| !answer.members.contains_key(address);
        let removed = before.map_or(0, |before| {
            before.keys().filter(|each| is_gone(each)).count()
        });
        let text = members::encode(&self.source, self.kind, &answer);
        match self.replace(&self.source, &text) {
            Ok(()) => {
                let (source, count) = (&self.source, answer.members.len());
                log::info!("{source}: {count} addresses, {added} added, {removed} removed");
                self.status.members = count;
                self.written = Some(answer);
            }
            // The next proof tries again.
            Err(err) => {
                log::error!("{}: {err}", self.directory.join(&self.source).display());
                self.written = None;
            }
        }
    }

    fn write_status(&mut self) {
        if let Some((before, at)) = &self.status_written {
            let is_same = self.status.differs_in_time_only(before);
            if is_same && at.elapsed() < FRESH_EVERY {
                return;
            }
        }
        let name = status_name(&self.source);
        match self.replace(&name, &self.status.encode()) {
            Ok(()) => self.status_written = Some((self.status.clone(), Instant::now())),
            Err(err) => log::error!("{}: {err}", self.directory.join(name).display()),
        }
    }

    /// Replaces a file by a rename: a reader sees the old or the new contents.
    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let temporary = self.directory.join(format!(".{name}.new"));
        fs::write(&temporary, text)?;
        fs::rename(&temporary, self.directory.join(name))
    }
}

/// Removes the files of a source that is no longer configured.
pub fn remove(directory: &Path, source: &str) {
    for name in [source.to_owned(), status_name(source)] {
        match fs::remove_file(directory.join(&name)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                log::error!("{}: {err}", directory.join(name).display());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

fn status_name(source: &str) -> String {
    format!("{source}.status")
}

fn now() -> Option<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Members;
    use std::os::unix::fs::MetadataExt as _;

    fn answer(identity: &str, revision: u64, addresses: &[&str]) -> Answer {
        let pair = |text: &&str| (text.parse().unwrap(), "node".to_owned());
        Answer {
            identity: identity.to_owned(),
            revision: Some(revision),
            members: addresses.iter().map(pair).collect(),
        }
    }

    fn open(folder: &tempfile::TempDir) -> Report {
        Report::open(folder.path(), "cluster", "kubernetes", 2)
    }

    fn status(folder: &tempfile::TempDir) -> serde_json::Value {
        let text = fs::read_to_string(folder.path().join("cluster.status")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_file_is_only_written_if_addresses_or_identity_change() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = open(&folder);
        let inode = || fs::metadata(folder.path().join("cluster")).unwrap().ino();
        report.answered(answer("a", 1, &["10.0.0.1"])).unwrap();
        let first = inode();
        report.answered(answer("a", 2, &["10.0.0.1"])).unwrap();
        report.proven();
        assert_eq!(inode(), first, "a heartbeat");
        drop(report);
        let mut report = open(&folder);
        report.answered(answer("a", 3, &["10.0.0.1"])).unwrap();
        assert_eq!(inode(), first, "another process");
        report.answered(answer("a", 4, &["10.0.0.2"])).unwrap();
        let second = inode();
        assert_ne!(second, first);
        report.answered(answer("b", 1, &["10.0.0.2"])).unwrap();
        let text = fs::read_to_string(folder.path().join("cluster")).unwrap();
        assert!(text.contains("identity=b revision=1\n"), "{text}");
        report.answered(answer("b", 2, &[])).unwrap();
        let text = fs::read_to_string(folder.path().join("cluster")).unwrap();
        assert!(text.ends_with("end 0\n"), "{text}");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "no temporary file remains");
    }

    #[test]
    fn an_older_answer_of_the_same_cluster_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = open(&folder);
        report.answered(answer("a", 7, &["10.0.0.1"])).unwrap();
        let older = answer("a", 6, &[]);
        let refused = |report: &mut Report| {
            let err = report.answered(older.clone()).unwrap_err();
            matches!(err, Ended::Failed(err) if err.kind == Kind::Protocol && err.message.contains("older"))
        };
        assert!(refused(&mut report));
        assert!(refused(&mut open(&folder)), "another process");
        let text = fs::read_to_string(folder.path().join("cluster")).unwrap();
        assert!(text.contains("10.0.0.1 node\n"), "{text}");
    }

    #[test]
    fn the_status_follows_at_once_but_not_the_time_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = open(&folder);
        assert_eq!(status(&folder)["state"], "starting");
        assert_eq!(status(&folder)["fresh"], serde_json::Value::Null);
        report.failed(&Error::new(Kind::Timeout, "no answer"), false);
        assert_eq!(status(&folder)["errors"]["timeout"], 1);
        assert_eq!(status(&folder)["state"], "starting");
        report.failed(&Error::new(Kind::Timeout, "no answer"), true);
        assert_eq!(status(&folder)["state"], "failing");
        assert_eq!(status(&folder)["error"]["kind"], "timeout");
        report.answered(answer("a", 1, &["10.0.0.1"])).unwrap();
        let fresh = status(&folder);
        assert_eq!(
            (&fresh["state"], &fresh["members"]),
            (&"fresh".into(), &1.into())
        );
        let inode = || {
            fs::metadata(folder.path().join("cluster.status"))
                .unwrap()
                .ino()
        };
        let before = inode();
        report.status.fresh = Some(1);
        report.write_status();
        assert_eq!(inode(), before, "only the time differs");
        // More than the agent accepts is written, and said.
        report
            .answered(answer("a", 2, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]))
            .unwrap();
        assert_eq!(status(&folder)["error"]["kind"], "too_many");
        let text = fs::read_to_string(folder.path().join("cluster")).unwrap();
        assert!(text.ends_with("end 3\n"), "{text}");
    }

    #[test]
    fn too_many_addresses_are_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = open(&folder);
        let many = (0..=u32::try_from(ADDRESSES_MAX).unwrap()).map(std::net::Ipv4Addr::from);
        let members: Members = many.map(|each| (each.into(), String::new())).collect();
        let answer = Answer {
            members,
            ..answer("a", 1, &[])
        };
        assert!(report.answered(answer).is_err());
        assert!(!folder.path().join("cluster").exists());
    }

    #[test]
    fn the_last_proof_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = open(&folder);
        report.answered(answer("a", 1, &["10.0.0.1"])).unwrap();
        let fresh = status(&folder)["fresh"].clone();
        drop(report);
        drop(open(&folder));
        let after = status(&folder);
        assert_eq!(
            (&after["fresh"], &after["state"]),
            (&fresh, &"starting".into())
        );
        remove(folder.path(), "cluster");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
