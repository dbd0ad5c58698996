//! What outlives the agent and the machine: rulesets that were confirmed, and one that waits for
//! it.
//!
//! Under `/var/lib/peerwall` (`PEERWALL_STATE`): `confirmed.json` lists the last ones, the newest
//! last; `ruleset-NUMBER.json` has the ruleset of each, `policy-DIGEST.json` the text of its
//! policy; `pending.json` has the trial that waits; `discovered.json` what flannel's files said
//! last. Each file is replaced atomically, so that a crash leaves the old or the new.

pub mod audit;
pub mod since;

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
use serde::{Serialize, de::DeserializeOwned};

use crate::host::caller::Caller;
use crate::system::detached;

use crate::policy_file::text::PolicyText;
use crate::secure_file::named;
use crate::secure_file::private::{Lock, Private};
use crate::system::passing;

/// Number of confirmed rulesets that the history keeps.
pub const TOLD: usize = 5;
const FOLDER: &str = "/var/lib/peerwall";
const CONFIRMED: &str = "confirmed.json";
const PENDING: &str = "pending.json";
const LOCK: &str = "lock";
const DISCOVERED: &str = "discovered.json";
const TEXT_PREFIX: &str = "policy-";

/// A compiled ruleset with what is known of it.
pub type Kept = keep::Kept<Ruleset>;
/// A ruleset in force that is rolled back unless it is confirmed.
pub type Pending = keep::Trial<Ruleset, Caller>;
/// What a trial goes back to.
pub type Before = keep::Before<Ruleset>;

/// What is known of a policy that is put in force now.
pub fn entry(policy: &Path, digest: &str, by_iptables: bool, cut: bool) -> Entry {
    Entry {
        number: 0,
        time: time(),
        policy: policy.display().to_string(),
        digest: digest.to_owned(),
        by_iptables,
        cut,
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

    /// The directory.
    pub fn folder(&self) -> &Private {
        &self.folder
    }

    /// The history; an empty one if there is none yet.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    pub fn history(&self) -> io::Result<History> {
        Ok(self.read(CONFIRMED)?.unwrap_or_default())
    }

    /// Replaces the history; rulesets of entries that are no longer in it are deleted.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn set_history(&self, history: &History) -> io::Result<()> {
        self.write(CONFIRMED, history)?;
        let oldest = history.kept.first().map_or(0, |entry| entry.number);
        for number in oldest.saturating_sub(keep::KEPT as u64)..oldest {
            let _ = self.folder.remove(&ruleset_name(number));
        }
        self.remove_old_texts();
        Ok(())
    }

    /// Removes texts of policies that neither the history nor a trial needs.
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

    /// The text of the policy with this digest; `None` if it is not stored or cannot be read.
    pub fn text(&self, digest: &str) -> Option<PolicyText> {
        let read = self.read(&text_name(digest));
        read.unwrap_or_else(|err| {
            log::warn!("{err}");
            None
        })
    }

    /// Stores the text of a policy. Without it, its lists are not followed once it is no longer in
    /// its file.
    pub fn store_text(&self, digest: &str, text: &PolicyText) {
        if self.text(digest).as_ref() == Some(text) {
            return;
        }
        if let Err(err) = self.write(&text_name(digest), text) {
            log::warn!("the policy's text is not stored: {err}");
        }
    }

    /// The trial that is noted, settled ones included.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    pub fn trial(&self) -> io::Result<Option<Pending>> {
        self.read(PENDING)
    }

    /// Notes a trial, or that there is none.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn set_trial(&self, trial: Option<&Pending>) -> io::Result<()> {
        let Some(trial) = trial else {
            return self.folder.remove(PENDING);
        };
        self.write(PENDING, trial)
    }

    /// The trial that waits to be confirmed, if there is one and it can be read.
    pub fn waiting(&self) -> Option<Pending> {
        // An agent that does not know of a trial would keep it for good.
        passing::insist(|| self.read_waiting()).ok().flatten()
    }

    /// The trial that waits to be confirmed, if there is one.
    ///
    /// # Errors
    /// If that cannot be read: one may wait.
    pub fn read_waiting(&self) -> io::Result<Option<Pending>> {
        let Some(trial) = self.trial()? else {
            return Ok(None);
        };
        let settled = self.history()?.settled;
        Ok((settled != Some(trial.id)).then_some(trial))
    }

    /// The policy that is not taken until it changes, if there is one and it can be read.
    pub fn refused(&self) -> Option<String> {
        passing::insist(|| self.history()).ok()?.refused
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

    /// What our chains say, as far as it is known; `None` if iptables has no rules of peerwall.
    /// Rules cannot be read back into a ruleset, but the trial that waits and the last confirmed
    /// ruleset are stored.
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

    /// The ruleset that was loaded last, as it was then, if it is stored. Other programs may have
    /// changed what is loaded.
    pub fn as_loaded(&self) -> Option<Ruleset> {
        let digest = since::last()?.ruleset?;
        let is_it = |ruleset: &Ruleset| since::digest(ruleset) == digest;
        let trial = self.waiting().map(|trial| trial.new.ruleset);
        trial.filter(is_it).or_else(|| {
            let last = self.last().ok()??;
            Some(last.ruleset).filter(is_it)
        })
    }

    /// The ruleset of an entry of the history.
    ///
    /// # Errors
    /// If it cannot be read, or has no chains.
    pub fn load(&self, entry: Entry) -> io::Result<Kept> {
        let name = ruleset_name(entry.number);
        let path = self.folder.path().join(&name);
        let wrong = |why: &str| named(&path, io::Error::other(why));
        let ruleset: Option<Ruleset> = self.read(&name)?;
        let ruleset = ruleset.ok_or_else(|| wrong("it is not there any more"))?;
        if !ruleset.chains.iter().any(|chain| chain.base.is_some()) {
            return Err(wrong("it is damaged: it has no base chain"));
        }
        Ok(Kept { entry, ruleset })
    }

    /// Stores the ruleset of an entry.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn store(&self, number: u64, ruleset: &Ruleset) -> io::Result<()> {
        self.write(&ruleset_name(number), ruleset)
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
    ///
    /// # Errors
    /// If the lock cannot be had.
    pub fn lock(&self) -> io::Result<Lock> {
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

fn text_name(digest: &str) -> String {
    format!("{TEXT_PREFIX}{digest}.json")
}

fn ruleset_name(number: u64) -> String {
    format!("ruleset-{number}.json")
}

/// The time of this boot, which nobody can set, and which boot it is.
pub fn clock() -> Clock {
    // It cannot fail: the clock has been there since Linux 2.6.39.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    let now = now.map(Duration::from).unwrap_or_default();
    Clock {
        boot: boot(),
        millis: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The time, as RFC 3339 in UTC.
pub fn time() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

/// The boot this is; empty if that cannot be read.
pub fn boot() -> String {
    // Tests make another machine of this one.
    std::env::var("PEERWALL_BOOT_ID").unwrap_or_else(|_| {
        let id = passing::insist(|| fs::read_to_string("/proc/sys/kernel/random/boot_id"));
        id.unwrap_or_default().trim().to_owned()
    })
}

/// Starts the guard in a session of its own, so that it outlives terminal and caller.
///
/// # Errors
/// If it cannot be started.
pub fn spawn_guard() -> io::Result<()> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
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
