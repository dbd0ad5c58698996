//! Persistent state: confirmed rulesets, and the trial that waits for confirmation.
//!
//! It is stored under `/var/lib/peerwall` (`PEERWALL_STATE`): `confirmed.json` lists the last
//! confirmed rulesets, the newest last; `ruleset-NUMBER.json` contains the ruleset of each,
//! `policy-DIGEST.json` the text of its policy; `pending.json` contains the trial;
//! `discovered.json` the last valid content of flannel's files; `members-SOURCE.json` the members
//! of each source. Each file is replaced atomically: a
//! crash leaves either the old or the new one.

pub mod audit;
pub mod policy_text;
pub mod since;
pub mod temporary;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use peerwall_core::agent::keep;
pub use peerwall_core::agent::keep::{Clock, Entry, History};
use peerwall_core::policy::{Discovery, Policy};
use peerwall_core::ruleset::Ruleset;
use peerwall_core::sources::Saved;
use serde::{Serialize, de::DeserializeOwned};

use crate::host::caller::Caller;

use crate::secure_file::private::{Lock, Private};
use crate::secure_file::{self, Version, named};
use crate::system::{child, detached, passing};
use policy_text::{PolicyText, absolute};
use temporary::Temporary;

/// Number of confirmed rulesets that `history` shows.
pub const TOLD: usize = 5;
const FOLDER: &str = "/var/lib/peerwall";
const CONFIRMED: &str = "confirmed.json";
const PENDING: &str = "pending.json";
const LOCK: &str = "lock";
const DISCOVERED: &str = "discovered.json";
const TEXT_PREFIX: &str = "policy-";
const TEMPORARY: &str = "temporary.json";
const MEMBERS_PREFIX: &str = "members-";

/// A compiled ruleset with its entry in the history.
pub type Kept = keep::Kept<Ruleset>;
/// A loaded ruleset that is rolled back unless it is confirmed.
pub type Pending = keep::Trial<Ruleset, Caller>;
/// The state to which a trial is rolled back.
pub type Before = keep::Before<Ruleset>;

/// Builds the entry of a policy that comes into force now.
pub fn entry(policy: &Path, digest: &str, by_iptables: bool, cut: bool) -> Entry {
    Entry {
        number: 0,
        time: time(),
        policy: policy.display().to_string(),
        digest: digest.to_owned(),
        by_iptables,
        cut,
        is_block: false,
    }
}

/// The state directory.
#[derive(Debug, Clone)]
pub struct State {
    folder: Private,
}

impl State {
    /// Opens the directory of `PEERWALL_STATE`, or the default one.
    pub fn open() -> Self {
        let folder =
            std::env::var_os("PEERWALL_STATE").map_or_else(|| PathBuf::from(FOLDER), PathBuf::from);
        Self {
            folder: Private::secret(folder),
        }
    }

    /// Returns the directory.
    pub fn folder(&self) -> &Private {
        &self.folder
    }

    /// Reads the history; it is empty before the first confirmation.
    ///
    /// # Errors
    /// [`io::Error`] if it exists and cannot be read.
    pub fn history(&self) -> io::Result<History> {
        Ok(self.read(CONFIRMED)?.unwrap_or_default())
    }

    /// Replaces the history, and deletes the rulesets that are no longer in it.
    ///
    /// # Errors
    /// [`io::Error`] if it cannot be written.
    pub fn set_history(&self, history: &History) -> io::Result<()> {
        self.write(CONFIRMED, history)?;
        let oldest = history.kept.first().map_or(0, |entry| entry.number);
        for number in oldest.saturating_sub(keep::KEPT as u64)..oldest {
            let _ = self.folder.remove(&ruleset_name(number));
        }
        self.remove_old_texts();
        Ok(())
    }

    /// Deletes policy texts that neither the history nor a trial needs.
    fn remove_old_texts(&self) {
        let (Ok(history), Ok(trial)) = (self.history(), self.trial()) else {
            return;
        };
        let before = trial.iter().filter_map(|trial| trial.before.entry.as_ref());
        let entries = history.kept.iter().chain(before);
        let entries = entries.chain(trial.iter().map(|trial| &trial.new.entry));
        let needed: BTreeSet<String> = entries.map(|entry| text_name(&entry.digest)).collect();
        for name in self.folder.names() {
            if name.starts_with(TEXT_PREFIX) && !needed.contains(&name) {
                let _ = self.folder.remove(&name);
            }
        }
    }

    /// Reads the text of the policy with this digest; `None` if it is not stored or cannot be read.
    pub fn text(&self, digest: &str) -> Option<PolicyText> {
        let read = self.read(&text_name(digest));
        read.unwrap_or_else(|err| {
            log::warn!("{err}");
            None
        })
    }

    /// Stores the text of a policy. Without it, changes of its lists are ignored once the policy is
    /// no longer in its file.
    pub fn store_text(&self, digest: &str, text: &PolicyText) {
        if self.text(digest).as_ref() == Some(text) {
            return;
        }
        if let Err(err) = self.write(&text_name(digest), text) {
            log::warn!("cannot store the policy's text: {err}");
        }
    }

    /// Reads the recorded trial, even if it is settled.
    ///
    /// # Errors
    /// [`io::Error`] if it exists and cannot be read.
    pub fn trial(&self) -> io::Result<Option<Pending>> {
        self.read(PENDING)
    }

    /// Records a trial, or deletes the record.
    ///
    /// # Errors
    /// [`io::Error`] if it cannot be written.
    pub fn set_trial(&self, trial: Option<&Pending>) -> io::Result<()> {
        let Some(trial) = trial else {
            return self.folder.remove(PENDING);
        };
        self.write(PENDING, trial)
    }

    /// Returns the trial that waits for confirmation; `None` also if it cannot be read.
    pub fn waiting(&self) -> Option<Pending> {
        // If the agent missed a trial, it would keep the ruleset without a confirmation.
        passing::insist(|| self.read_waiting()).ok().flatten()
    }

    /// Reads the trial that waits for confirmation.
    ///
    /// # Errors
    /// [`io::Error`] if it cannot be read; a trial may be waiting.
    pub fn read_waiting(&self) -> io::Result<Option<Pending>> {
        let Some(trial) = self.trial()? else {
            return Ok(None);
        };
        let settled = self.history()?.settled;
        Ok((settled != Some(trial.id)).then_some(trial))
    }

    /// Returns the policy that is refused until it changes; `None` also if it cannot be read.
    pub fn refused(&self) -> Option<String> {
        passing::insist(|| self.history()).ok()?.refused
    }

    /// Returns the block that was confirmed; `None` also if the history cannot be read.
    pub fn block(&self) -> Option<Entry> {
        passing::insist(|| self.history()).ok()?.block().cloned()
    }

    /// Reads the ruleset that was confirmed last.
    ///
    /// # Errors
    /// [`io::Error`] if it exists and cannot be read.
    pub fn last(&self) -> io::Result<Option<Kept>> {
        match self.history()?.kept.pop() {
            None => Ok(None),
            Some(entry) => self.load(entry).map(Some),
        }
    }

    /// Returns the ruleset that is loaded as iptables chains, if known; `None` if there are no
    /// chains of peerwall's. Rules cannot be converted back into a ruleset, so this is the stored
    /// trial or the last confirmed ruleset.
    pub fn in_force_by_iptables(&self) -> Option<Ruleset> {
        if !since::by_iptables() {
            return None;
        }
        let trial = self.waiting().filter(|trial| {
            trial.is_loaded && trial.is_of_this_boot(&clock()) && trial.new.entry.by_iptables
        });
        match trial {
            Some(pending) => Some(pending.new.ruleset),
            None => Some(self.last().ok()??.ruleset),
        }
    }

    /// Returns the stored ruleset of the last load. Other programs may have changed the loaded
    /// rules since.
    pub fn as_loaded(&self) -> Option<Ruleset> {
        let digest = since::last()?.content?;
        let is_it = |ruleset: &Ruleset| since::digest(ruleset) == digest;
        let trial = self.waiting().map(|trial| trial.new.ruleset);
        trial.filter(is_it).or_else(|| {
            let last = self.last().ok()??;
            Some(last.ruleset).filter(is_it)
        })
    }

    /// Reads the ruleset of an entry of the history.
    ///
    /// # Errors
    /// [`io::Error`] if it cannot be read, or has no base chain.
    pub fn load(&self, entry: Entry) -> io::Result<Kept> {
        let name = ruleset_name(entry.number);
        let path = self.folder.path().join(&name);
        let wrong = |why: &str| named(&path, io::Error::other(why));
        let ruleset: Option<Ruleset> = self.read(&name)?;
        let ruleset = ruleset.ok_or_else(|| wrong("the file no longer exists"))?;
        if !ruleset.chains.iter().any(|chain| chain.base.is_some()) {
            return Err(wrong("the file is damaged: it has no base chain"));
        }
        Ok(Kept { entry, ruleset })
    }

    /// Returns whether the file of an entry contains exactly what [`store`](Self::store) would
    /// write; `false` also if it cannot be read. Compares bytes, which is faster than reading the
    /// ruleset.
    pub fn is_stored(&self, number: u64, ruleset: &Ruleset) -> bool {
        let Ok(Some(stored)) = self.folder.read(&ruleset_name(number)) else {
            return false;
        };
        let mut rest = Expecting(&stored);
        serde_json::to_writer(&mut rest, ruleset).is_ok() && rest.0.is_empty()
    }

    /// Returns the files with an entry, if it is the last confirmed one.
    pub fn files_of(&self, entry: &Entry) -> Option<BTreeMap<String, Version>> {
        let last = self.history().ok()?.kept.pop()?;
        let is_it = (&last.policy, &last.digest) == (&entry.policy, &entry.digest)
            && !last.is_block
            && last.by_iptables == entry.by_iptables;
        let names = [
            CONFIRMED.to_owned(),
            ruleset_name(last.number),
            text_name(&last.digest),
        ];
        let versions = names.into_iter().map(|name| {
            let version = self.version_of(&name)?;
            Some((name, version))
        });
        let files: Option<BTreeMap<_, _>> = versions.collect();
        files.filter(|_| is_it)
    }

    /// Whether these files are what they were.
    pub fn has(&self, files: &BTreeMap<String, Version>) -> bool {
        let is_same = |(name, version): (&String, &Version)| {
            self.version_of(name).is_some_and(|now| now == *version)
        };
        files.iter().all(is_same)
    }

    fn version_of(&self, name: &str) -> Option<Version> {
        secure_file::version(&self.folder.path().join(name)).ok()
    }

    /// Stores the ruleset of an entry.
    ///
    /// # Errors
    /// [`io::Error`] if it cannot be written.
    pub fn store(&self, number: u64, ruleset: &Ruleset) -> io::Result<()> {
        self.write(&ruleset_name(number), ruleset)
    }

    /// Reads the last valid contents of `discover` files, by their names.
    ///
    /// # Errors
    /// [`io::Error`] if they cannot be read.
    pub fn discovered(&self) -> io::Result<BTreeMap<String, String>> {
        Ok(self.read(DISCOVERED)?.unwrap_or_default())
    }

    /// Stores the contents of the policy's `discover` files.
    ///
    /// # Errors
    /// [`io::Error`] if they cannot be written.
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

    /// Reads the members of a source that the agent saved.
    ///
    /// # Errors
    /// [`io::Error`] if they cannot be read.
    pub fn members(&self, source: &str) -> io::Result<Option<Saved>> {
        self.read(&members_name(source))
    }

    /// Saves the members of a source.
    ///
    /// # Errors
    /// [`io::Error`] if they cannot be written.
    pub fn set_members(&self, source: &str, members: &Saved) -> io::Result<()> {
        self.write(&members_name(source), members)
    }

    /// Reads the temporary peers; `None` if there never was one since this boot and since the
    /// policy was loaded.
    ///
    /// # Errors
    /// [`io::Error`] if they cannot be read.
    pub fn temporary(&self) -> io::Result<Option<Temporary>> {
        let saved: Option<Temporary> = self.read(TEMPORARY)?;
        Ok(saved.filter(Temporary::is_of_this_boot))
    }

    /// Saves the temporary peers; `None` for that there never was one.
    ///
    /// # Errors
    /// [`io::Error`] if they cannot be written.
    pub fn set_temporary(&self, peers: Option<&Temporary>) -> io::Result<()> {
        match peers {
            Some(peers) => self.write(TEMPORARY, peers),
            None => self.folder.remove(TEMPORARY),
        }
    }

    /// Saves which temporary peers stay, after the policy was loaded again.
    ///
    /// # Errors
    /// [`io::Error`] if the list cannot be read or written.
    pub fn end_temporary(&self) -> io::Result<()> {
        let Some(before) = self.temporary()? else {
            return Ok(());
        };
        let kept = before.clone().kept();
        match kept.as_ref() == Some(&before) {
            true => Ok(()),
            false => self.set_temporary(kept.as_ref()),
        }
    }

    /// Returns the names of the sources whose members are saved.
    pub fn sources(&self) -> Vec<String> {
        let names = self.folder.names().into_iter();
        let names = names.filter_map(|name| {
            let source = name.strip_prefix(MEMBERS_PREFIX)?.strip_suffix(".json")?;
            Some(source.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Locks the state against changes by other processes until the lock is dropped.
    ///
    /// # Errors
    /// [`io::Error`] if the lock cannot be acquired.
    pub fn lock(&self) -> io::Result<Lock> {
        self.folder.lock(LOCK)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let Some(text) = self.folder.read(name)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text).map(Some).map_err(|err| {
            let why = format!("{err}; the file is damaged, move it away");
            named(&self.folder.path().join(name), io::Error::other(why))
        })
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        self.folder
            .write(name, |to| Ok(serde_json::to_writer(to, value)?))
    }
}

/// Accepts only writes of the expected bytes, in order.
struct Expecting<'b>(&'b [u8]);

impl io::Write for Expecting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let rest = self.0.strip_prefix(bytes);
        self.0 = rest.ok_or_else(|| io::Error::other("other bytes"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn text_name(digest: &str) -> String {
    format!("{TEXT_PREFIX}{digest}.json")
}

fn members_name(source: &str) -> String {
    format!("{MEMBERS_PREFIX}{source}.json")
}

fn ruleset_name(number: u64) -> String {
    format!("ruleset-{number}.json")
}

/// Returns the id of this boot and the time since it, which cannot be set.
pub fn clock() -> Clock {
    Clock {
        boot: boot(),
        millis: u64::try_from(uptime().as_millis()).unwrap_or(u64::MAX),
    }
}

/// Returns the time since boot, with the time that the machine was suspended.
pub fn uptime() -> Duration {
    // The call cannot fail: the clock exists since Linux 2.6.39.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map(Duration::from).unwrap_or_default()
}

/// Returns the current time as RFC 3339 in UTC.
pub fn time() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

/// Returns the id of this boot; empty if it cannot be read.
pub fn boot() -> String {
    // Tests simulate a reboot with this variable.
    std::env::var("PEERWALL_BOOT_ID").unwrap_or_else(|_| {
        let id = passing::insist(|| fs::read_to_string("/proc/sys/kernel/random/boot_id"));
        id.unwrap_or_default().trim().to_owned()
    })
}

/// Starts the guard in its own session, so that it outlives the terminal and the caller.
///
/// # Errors
/// [`io::Error`] if it cannot be started.
pub fn spawn_guard() -> io::Result<()> {
    let mut command = child::command(std::env::current_exe()?);
    if let Some(folder) = crate::enforce::iptables::tools::asked() {
        command.arg("--iptables").arg(folder);
    }
    command
        .arg("guard")
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    detached::spawn(command)
}
