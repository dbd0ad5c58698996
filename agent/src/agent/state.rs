//! What outlives the agent and the machine: rulesets that were confirmed, and one that waits for it.
//!
//! Under `/var/lib/peerwall` (`PEERWALL_STATE`): `confirmed.json` tells of the last ones, the newest last;
//! `ruleset-NUMBER.json` has the ruleset of each; `pending.json` has what waits; `discovered.json` what
//! flannel's files said last. Each is replaced as a whole, so that a death leaves the old or the new.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::Flock;
use peerwall_core::policy::{Discovery, Policy};
use peerwall_core::ruleset::Ruleset;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::caller::Caller;
use crate::detached;
use crate::secure_file::named;
use crate::secure_file::private::Private;

/// How many confirmed rulesets are told of.
pub const TOLD: usize = 5;
/// How many are kept: one more, to compare the oldest with.
const KEPT: usize = TOLD + 1;
const FOLDER: &str = "/var/lib/peerwall";
const CONFIRMED: &str = "confirmed.json";
const PENDING: &str = "pending.json";
const LOCK: &str = "lock";
const DISCOVERED: &str = "discovered.json";

/// What is told of a ruleset that was in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts on from 1.
    pub number: u64,
    /// When it was confirmed, as RFC 3339 in UTC.
    pub time: String,
    /// The policy's path.
    pub policy: String,
    /// SHA-256 of the policy's files.
    pub digest: String,
    /// Whether iptables held it, and not nf_tables.
    #[serde(default)]
    pub by_iptables: bool,
    /// Whether its policy says that open connections end which it refuses and the one before admitted.
    #[serde(default = "yes")]
    pub cut: bool,
}

fn yes() -> bool {
    true
}

/// A ruleset that was in force, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What is told of it.
    pub entry: Entry,
    /// The ruleset.
    pub ruleset: Ruleset,
}

/// The history, and what is in force of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The last ones that were confirmed, the newest last.
    pub kept: Vec<Entry>,
    /// A policy that was rolled back from: it is not taken again until it changes.
    pub refused: Option<String>,
}

/// A ruleset in force that goes away by itself unless it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What it is.
    pub new: Kept,
    /// What to go back to; nothing if there was no table.
    pub before: Option<Ruleset>,
    /// Whether iptables held that, and not nf_tables.
    #[serde(default)]
    pub before_by_iptables: bool,
    /// Whether connections end that only the trial admitted, when that comes back.
    #[serde(default = "yes")]
    pub before_cut: bool,
    /// Whether open connections that it refuses end when it is confirmed.
    pub cut: bool,
    /// Milliseconds since 1970 (`CLOCK_REALTIME`) at which it goes away.
    pub until: i64,
    /// The boot it was made in (`/proc/sys/kernel/random/boot_id`): it does not survive another.
    pub boot: String,
    /// From where it was applied: a connection and a terminal, which are not proof of a new one.
    pub from: Caller,
}

impl Entry {
    /// What is told of a policy that is put in force now.
    pub fn new(policy: &Path, digest: &str, by_iptables: bool, cut: bool) -> Self {
        Self {
            number: 0,
            time: time(),
            policy: policy.display().to_string(),
            digest: digest.to_owned(),
            by_iptables,
            cut,
        }
    }
}

/// What a trial goes back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// What was loaded; nothing if there was no table.
    pub ruleset: Option<Ruleset>,
    /// Whether iptables held it.
    pub by_iptables: bool,
    /// Whether connections end that only the trial admitted.
    pub cut: bool,
}

impl Pending {
    /// One that goes back to `before` in so many seconds.
    pub fn new(new: Kept, before: Before, seconds: u64, from: Caller) -> Self {
        Self {
            cut: new.entry.cut,
            new,
            before: before.ruleset,
            before_by_iptables: before.by_iptables,
            before_cut: before.cut,
            until: now()
                .saturating_add(i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)),
            boot: boot(),
            from,
        }
    }

    /// What it goes back to.
    pub fn goes_back_to(&self) -> Before {
        Before {
            ruleset: self.before.clone(),
            by_iptables: self.before_by_iptables,
            cut: self.before_cut,
        }
    }

    /// How long it has yet, as of now.
    pub fn left(&self) -> Duration {
        let left = self.until.saturating_sub(now());
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }

    /// The same in seconds, each begun one a whole one, for people.
    pub fn seconds_left(&self) -> u64 {
        self.left()
            .as_millis()
            .div_ceil(1000)
            .try_into()
            .unwrap_or(u64::MAX)
    }

    /// Whether it goes away by now.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}

/// The folder with all of it.
#[derive(Debug, Clone)]
pub struct State {
    folder: Private,
}

impl State {
    /// The one that the environment names, or the usual one.
    pub fn open() -> Self {
        let folder =
            std::env::var_os("PEERWALL_STATE").map_or_else(|| PathBuf::from(FOLDER), PathBuf::from);
        Self {
            folder: Private::secret(folder),
        }
    }

    /// The history; an empty one if there is none yet.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    pub fn history(&self) -> io::Result<History> {
        Ok(self.read(CONFIRMED)?.unwrap_or_default())
    }

    /// What waits for confirmation.
    ///
    /// # Errors
    /// If there is something that cannot be read.
    pub fn pending(&self) -> io::Result<Option<Pending>> {
        self.read(PENDING)
    }

    /// Notes something that waits for confirmation, before it is in force.
    ///
    /// # Errors
    /// If that cannot be written.
    fn set_pending(&self, pending: &Pending) -> io::Result<()> {
        self.write(PENDING, pending)
    }

    /// Notes what waits for confirmation, and starts the guard that goes back if everybody else dies.
    ///
    /// # Errors
    /// If either cannot be done.
    pub fn guard(&self, pending: &Pending) -> io::Result<()> {
        // The guard of an earlier one may be going back just now, and would clear this one.
        let lock = self.lock()?;
        self.set_pending(pending)?;
        drop(lock);
        spawn_guard()
    }

    /// What waited was not confirmed: nothing waits any more, and the policy of this digest is not taken
    /// again until it changes.
    ///
    /// # Errors
    /// If that cannot be read or written.
    pub fn give_up(&self, digest: &str) -> io::Result<()> {
        let _lock = self.lock()?;
        self.refuse(digest)?;
        self.clear_pending()
    }

    /// Goes back from what waits for confirmation, if anything does and it is `mine` where that is said;
    /// whether it did. Nobody confirms it meanwhile, and it waits until `put` has put back what was before:
    /// whoever dies in between leaves it to the next.
    ///
    /// # Errors
    /// That of `put`, or if it cannot be read or written.
    pub fn go_back(
        &self,
        mine: Option<&Pending>,
        put: impl FnOnce(&Pending) -> io::Result<()>,
    ) -> io::Result<bool> {
        let _lock = self.lock()?;
        let pending = self.pending()?;
        let Some(pending) = pending.filter(|it| mine.is_none_or(|mine| mine == it)) else {
            return Ok(false);
        };
        put(&pending)?;
        self.refuse(&pending.new.entry.digest)?;
        self.clear_pending()?;
        Ok(true)
    }

    /// Confirms what waits for it, if `check` lets it pass.
    ///
    /// # Errors
    /// That of `check`, or if nothing waits, or it cannot be read or written.
    pub fn confirm_pending(
        &self,
        check: impl FnOnce(&Pending) -> io::Result<()>,
    ) -> io::Result<Pending> {
        let _lock = self.lock()?;
        let nothing = || io::Error::other("nothing waits to be confirmed");
        let pending = self.pending()?.ok_or_else(nothing)?;
        check(&pending)?;
        self.add(&pending.new.entry, &pending.new.ruleset)?;
        self.clear_pending()?;
        Ok(pending)
    }

    /// The policy that is not taken until it changes, if there is one and it can be read.
    pub fn refused(&self) -> Option<String> {
        self.history().ok()?.refused
    }

    /// Nothing waits any more.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn clear_pending(&self) -> io::Result<()> {
        self.folder.remove(PENDING)
    }

    /// Adds a ruleset that is in force for good, unless it is the last one already.
    ///
    /// # Errors
    /// If that cannot be read or written.
    pub fn confirm(&self, entry: &Entry, ruleset: &Ruleset) -> io::Result<()> {
        let _lock = self.lock()?;
        self.add(entry, ruleset)
    }

    /// Replaces the ruleset of the last entry, if it is of this policy: what the policy means on this host has
    /// changed, and the next boot should load that.
    ///
    /// # Errors
    /// If that cannot be read or written.
    pub fn renew(&self, entry: &Entry, ruleset: &Ruleset) -> io::Result<()> {
        let _lock = self.lock()?;
        let history = self.history()?;
        match history.kept.last() {
            Some(last) if last.digest == entry.digest => {
                self.write(&ruleset_name(last.number), ruleset)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn add(&self, entry: &Entry, ruleset: &Ruleset) -> io::Result<()> {
        let mut history = self.history().unwrap_or_default();
        let last = history.kept.last();
        if last.is_some_and(|last| last.digest == entry.digest) {
            if history.refused.as_ref() != Some(&entry.digest) {
                return Ok(());
            }
            history.refused = None;
            return self.write(CONFIRMED, &history);
        }
        let number = last.map_or(1, |last| last.number + 1);
        self.write(&ruleset_name(number), ruleset)?;
        history.kept.push(Entry {
            number,
            ..entry.clone()
        });
        let extra = history.kept.len().saturating_sub(KEPT);
        let stale: Vec<Entry> = history.kept.drain(..extra).collect();
        history.refused = None;
        self.write(CONFIRMED, &history)?;
        for entry in stale {
            let _ = self.folder.remove(&ruleset_name(entry.number));
        }
        Ok(())
    }

    /// The last one that was confirmed, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn last(&self) -> io::Result<Option<Kept>> {
        match self.history()?.kept.pop() {
            None => Ok(None),
            Some(entry) => self.load(entry).map(Some),
        }
    }

    /// The ruleset of an entry of the history.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(&self, entry: Entry) -> io::Result<Kept> {
        let name = ruleset_name(entry.number);
        let ruleset = self.read(&name)?;
        let path = self.folder.path().join(&name);
        let gone = || named(&path, io::Error::other("it is not there any more"));
        Ok(Kept {
            entry,
            ruleset: ruleset.ok_or_else(gone)?,
        })
    }

    /// Does not take a policy again until it changes.
    fn refuse(&self, digest: &str) -> io::Result<()> {
        let mut history = self.history()?;
        history.refused = Some(digest.to_owned());
        self.write(CONFIRMED, &history)
    }

    /// Goes back by one in the history and returns what is the last one now.
    ///
    /// # Errors
    /// If there is none before, or the history cannot be read or written.
    pub fn back(&self) -> io::Result<Kept> {
        let _lock = self.lock()?;
        let mut history = self.history()?;
        let undone = history.kept.pop();
        let Some(last) = history.kept.last().cloned() else {
            return Err(io::Error::other(
                "there is no earlier ruleset that was confirmed",
            ));
        };
        let last = self.load(last)?;
        history.refused = undone.map(|entry| entry.digest);
        self.write(CONFIRMED, &history)?;
        Ok(last)
    }

    /// What files of `discover` said when they were right last, by their names.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn discovered(&self) -> io::Result<BTreeMap<String, String>> {
        Ok(self.read(DISCOVERED)?.unwrap_or_default())
    }

    /// Notes what the files of a policy's `discover` say.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn note_discovered(&self, policy: &Policy) -> io::Result<()> {
        let found = policy
            .overlays
            .iter()
            .filter_map(|overlay| match &overlay.discovery {
                Discovery::Found(found) | Discovery::Kept(found) => Some(found),
                Discovery::Written | Discovery::Awaited(_) => None,
            });
        let found: BTreeMap<String, String> = found
            .map(|found| (absolute(&found.name), found.text.clone()))
            .collect();
        match self.discovered() {
            Ok(known) if known == found => Ok(()),
            Ok(_) | Err(_) => self.write(DISCOVERED, &found),
        }
    }

    /// Nobody else changes what is there until this is dropped.
    fn lock(&self) -> io::Result<Flock<fs::File>> {
        self.folder.lock(LOCK)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let Some(text) = self.folder.read(name)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text).map(Some).map_err(|err| {
            let why = format!("{err}; it is damaged, move it out of the way");
            named(&self.folder.path().join(name), io::Error::other(why))
        })
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        self.folder
            .write(name, |to| Ok(serde_json::to_writer(to, value)?))
    }
}

/// The name by which a file is known wherever one stands.
pub fn absolute(name: &str) -> String {
    std::path::absolute(name).map_or_else(|_| name.to_owned(), |path| path.display().to_string())
}

fn ruleset_name(number: u64) -> String {
    format!("ruleset-{number}.json")
}

/// Milliseconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The time, as RFC 3339 in UTC.
pub fn time() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

/// The boot this is.
pub fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // Tests make another machine of this one.
    std::env::var("PEERWALL_BOOT_ID").unwrap_or_else(|_| id.trim().to_owned())
}

/// Starts the guard in a session of its own, so that it outlives terminal and caller.
///
/// # Errors
/// If it cannot be started.
fn spawn_guard() -> io::Result<()> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    if let Some(folder) = crate::tools::asked() {
        command.arg("--iptables").arg(folder);
    }
    command
        .arg("guard")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    detached::spawn(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(digest: &str) -> Kept {
        Kept {
            entry: Entry {
                number: 0,
                time: time(),
                policy: "policy.toml".into(),
                digest: digest.into(),
                by_iptables: false,
                cut: true,
            },
            ruleset: Ruleset::default(),
        }
    }

    #[test]
    fn the_last_are_kept_and_one_can_go_back_through_them() {
        let folder = std::env::temp_dir().join(format!("peerwall-state-{}", std::process::id()));
        let state = State {
            folder: Private::secret(folder.clone()),
        };
        assert_eq!(state.history().unwrap(), History::default());
        assert!(state.back().is_err());
        for digest in ["z", "a", "b", "c", "d", "e", "f", "f"] {
            let kept = kept(digest);
            state.confirm(&kept.entry, &kept.ruleset).unwrap();
        }
        let history = state.history().unwrap();
        let found: Vec<(u64, &str)> = history
            .kept
            .iter()
            .map(|k| (k.number, k.digest.as_str()))
            .collect();
        assert_eq!(
            found,
            [(2, "a"), (3, "b"), (4, "c"), (5, "d"), (6, "e"), (7, "f")]
        );
        assert_eq!(state.back().unwrap().entry.digest, "e");
        assert_eq!(state.last().unwrap().unwrap().entry.number, 6);
        assert_eq!(state.history().unwrap().refused.as_deref(), Some("f"));
        // What is confirmed later is refused no more.
        let kept = kept("f");
        state.confirm(&kept.entry, &kept.ruleset).unwrap();
        assert_eq!(state.history().unwrap().refused, None);
        fs::write(folder.join(CONFIRMED), "{").unwrap();
        assert!(state.history().unwrap_err().to_string().contains(CONFIRMED));
        fs::remove_dir_all(folder).unwrap();
    }
}
