//! Reads the policy, and decides with core whether to apply it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use peerwall_core::agent::keep::{self, Reading, Situation};
use peerwall_core::agent::reconcile::Input;
use peerwall_core::policy::load::{Files, Member, ReadError, Text};
use peerwall_core::policy::{Discovery, MemberSource, Overlay, Policy, TemporaryPeer};

use super::Agent;
use super::beliefs::{Unsaved, Wanted};
use super::error::Rejection;
use super::members::{self, MemberSources};
use super::watch::Watch;
use crate::control::Wish;
use crate::host::caller::Caller;
use crate::host::lockout::{self, LockedOut};
use crate::json::{Counts, Discovered, OverlayStatus};
use crate::kernel::links::{self, Links};
use crate::policy_file::files::{FileSystem, beside};
use crate::policy_file::{LoadError, LoadedPolicy, prepare, prepare_stored};
use crate::store::temporary::Temporary;
use crate::store::{self, Kept};
use crate::system::passing;
use crate::trial::words;

impl Agent {
    /// Reads the policy.
    pub(super) fn read(&mut self) -> Input {
        self.outcome.warnings.clear();
        self.sources.watch.add(&self.options.policy);
        let policy = self.options.policy.clone();
        // If the policy is not accepted, they stay.
        let temporary = std::mem::take(&mut self.is_reload).then(|| self.without_temporary());
        let read = self.read_patiently(|files| prepare(&policy, files));
        let is_passing = read.as_ref().err().is_some_and(|why| why.is_passing);
        let result = match read {
            Ok(ready) => self.accept(ready),
            Err(why) => Err(Rejection::Unloadable(why)),
        };
        match &result {
            Ok(_) => {}
            Err(why) => {
                self.belief.rejection = Some(why.clone().into());
                let why = why.to_string();
                if self.reconcile.policy_error.as_ref() != Some(&why) {
                    let policy = policy.display();
                    log::error!(
                        event = "policy_rejected", policy:%, error = why;
                        "rejected {policy}; the loaded rules stay:\n{why}"
                    );
                }
                self.reported.metrics.reload_errors += 1;
                // No event reports the end of a transient error.
                self.belief.look_again = is_passing;
            }
        }
        if let Some(before) = temporary {
            match result {
                Ok(Reading::Take | Reading::Same) => self.note_dropped(before),
                Ok(_) | Err(_) => self.temporary = before,
            }
        }
        let is_new = self.belief.wanted.is_none();
        if is_new && result.is_err() {
            self.fall_back_to_confirmed();
        }
        let is_changed = result == Ok(Reading::Take);
        let is_other = self.refresh_lists(&result);
        self.sources.watch.drop_others();
        self.outcome.read = Some(result.clone().map(drop));
        match result {
            Ok(_) if is_changed || is_other => Input::Accepted,
            Ok(_) => Input::Tick, // in force already
            Err(why) => {
                let read = Input::Rejected(why.to_string());
                if !is_new && !is_other {
                    return read;
                }
                let _ = self.reconcile.step(self.now(), read);
                Input::Wanted
            }
        }
    }

    /// Reads a policy, and retries after transient errors. Watches every file that is read.
    fn read_patiently(
        &mut self,
        read: impl Fn(&WatchedFiles<'_>) -> Result<LoadedPolicy, Box<LoadError>>,
    ) -> Result<LoadedPolicy, Box<LoadError>> {
        let files = WatchedFiles {
            files: FileSystem {
                waits: self.options.follow,
                ..FileSystem::default()
            },
            watch: RefCell::new(&mut self.sources.watch),
            members: &self.members,
            temporary: self.temporary.as_ref(),
        };
        passing::retry(|| read(&files), |why| why.is_passing)
    }

    /// Reads the lists of the loaded ruleset again, if it does not come from the policy that was
    /// read: it is on trial, a rollback restored it, or the policy has errors. Returns whether
    /// there is something to load.
    fn refresh_lists(&mut self, read: &Result<Reading, Rejection>) -> bool {
        match read {
            Ok(Reading::Take | Reading::Same) => false,
            Ok(_) | Err(_) => self.recompile_wanted(),
        }
    }

    /// Compiles the stored text of the wanted policy again. Returns whether there is something to
    /// load.
    pub(super) fn recompile_wanted(&mut self) -> bool {
        let Some(entry) = self
            .belief
            .wanted
            .as_ref()
            .map(|wanted| wanted.kept.entry.clone())
        else {
            return false;
        };
        // A block has no text.
        let Some(text) = self.state.text(&entry.digest) else {
            return false;
        };
        let ready = self.read_patiently(|files| prepare_stored(&text, files));
        let ready = ready.map_err(Rejection::Unloadable);
        let read_digest = self.belief.read_digest.clone();
        let warnings = std::mem::take(&mut self.outcome.warnings);
        let changed = ready.and_then(|mut ready| {
            // They were logged when the policy was read.
            ready.warnings.clear();
            self.accept_host(ready)
        });
        self.outcome.warnings = warnings;
        self.belief.read_digest = read_digest;
        changed.unwrap_or_else(|why| {
            // Members do not change either, while the policy cannot be compiled.
            if let Some(wanted) = &mut self.belief.wanted {
                wanted.basis = None;
            }
            words::lists_kept(&entry, &why);
            false
        })
    }

    /// Accepts or rejects a policy that was read. Returns [`Reading::Take`] if there is something
    /// to load.
    fn accept(&mut self, ready: LoadedPolicy) -> Result<Reading, Rejection> {
        let wish = self.wish.take();
        let refused = self.state.refused();
        let locked_out = match wish {
            Some(_) => None,
            None => lockout::check(&ready.ruleset, &Caller::anybody()).err(),
        };
        let situation = Situation {
            wanted: self
                .belief
                .wanted
                .as_ref()
                .map(|wanted| wanted.kept.entry.digest.as_str()),
            is_blocked: self.is_blocked(),
            // Also while a trial is being loaded.
            is_trial: self.belief.is_trial || self.belief.pending.is_some(),
            refused: refused.as_deref(),
            read: self.belief.read_digest.as_deref(),
            is_asked: wish.is_some(),
            locks_out: locked_out.is_some(),
        };
        let was_wrong = self.reconcile.policy_error.is_some();
        match keep::judge(situation, &ready.digest) {
            Reading::Same => {
                let is_changed = self.accept_host(ready)?;
                Ok(match is_changed || was_wrong {
                    true => Reading::Take,
                    false => Reading::Same,
                })
            }
            reading @ (Reading::Later | Reading::Blocked) => {
                // A policy that changed during the trial or block is applied after it.
                if self.belief.read_digest.as_ref() != Some(&ready.digest) {
                    self.belief.read_digest = None;
                }
                Ok(reading)
            }
            Reading::PassedOver => Ok(Reading::PassedOver),
            Reading::Refused => Err(Rejection::RolledBack(self.options.policy.clone())),
            Reading::LocksOut => {
                let why = locked_out.unwrap_or(LockedOut::Everybody(Vec::new()));
                Err(Rejection::LocksOutEverybody(why))
            }
            Reading::Take => {
                // The policy changed. It was compiled with the temporary peers, so it is read
                // again without them.
                if self.belief.wanted.is_some() {
                    let before = self.without_temporary();
                    self.belief.look_again |= before != self.temporary;
                    self.note_dropped(before);
                }
                let digest = ready.digest.clone();
                self.take(&self.options.policy.clone(), ready, wish)?;
                self.belief.read_digest = Some(digest);
                Ok(Reading::Take)
            }
        }
    }

    /// Accepts a policy with the same text that compiles to another ruleset, because a list, a
    /// route, an address or a neighbour changed. It gets no new entry in the history. Returns
    /// whether there is something to load.
    fn accept_host(&mut self, mut ready: LoadedPolicy) -> Result<bool, Rejection> {
        if let Some(wanted) = &self.belief.wanted {
            ready.ruleset.share_elements(&wanted.kept.ruleset);
        }
        let digest = ready.digest.clone();
        let told = Some(counts(&ready.policy));
        let basis = self.basis(&ready.policy);
        let is_same = |wanted: &Wanted| {
            wanted.kept.ruleset == ready.ruleset
                && (wanted.counts.is_none() || wanted.counts == told)
        };
        let is_same = self.belief.wanted.as_ref().is_none_or(is_same);
        if is_same {
            self.follow_links(&ready.policy);
        } else {
            let ruleset = self
                .prepare_to_take(&self.options.policy.clone(), ready)?
                .ruleset;
            if let Some(wanted) = &mut self.belief.wanted {
                wanted.kept.ruleset = ruleset;
                if wanted.unsaved == Unsaved::Nothing {
                    wanted.unsaved = Unsaved::Ruleset;
                }
                log::debug!("lists, addresses, routes or neighbors changed");
            }
        }
        if let Some(wanted) = &mut self.belief.wanted {
            wanted.counts = told;
            wanted.basis = basis;
            self.members.compile_due = None;
        }
        self.belief.read_digest = Some(digest);
        Ok(!is_same)
    }

    /// Makes the ruleset of a policy the wanted one.
    fn take(
        &mut self,
        path: &Path,
        ready: LoadedPolicy,
        wish: Option<Wish>,
    ) -> Result<(), Rejection> {
        if let Some(wish) = wish.as_ref().filter(|wish| !wish.force) {
            lockout::check(&ready.ruleset, &wish.caller)?;
        }
        let cut = ready.policy.options.cut_revoked;
        let basis = self.basis(&ready.policy);
        let kept = self.prepare_to_take(path, ready)?;
        self.members.compile_due = None;
        self.belief.wanted = Some(Wanted {
            kept,
            cut,
            counts: std::mem::take(&mut self.belief.counts),
            basis,
            unsaved: Unsaved::Policy,
            unsaved_error: None,
        });
        Ok(())
    }

    /// Prepares to apply a policy: checks its permissions, logs its warnings, selects the backend,
    /// and follows the facts that it depends on.
    pub(super) fn prepare_to_take(
        &mut self,
        path: &Path,
        ready: LoadedPolicy,
    ) -> Result<Kept, Rejection> {
        if self.options.secure {
            ready.check_permissions()?;
        }
        for warning in &ready.warnings {
            let warning = ready.sources.json(warning);
            log::warn!(event = "policy_warning", policy:% = path.display(); "{warning}");
            self.outcome.warnings.push(warning);
        }
        self.choose_backend(ready.policy.options.backend)?;
        self.follow_sources(&ready.policy);
        self.follow_links(&ready.policy);
        if let Err(err) = self.state.note_discovered(&ready.policy) {
            log::warn!(
                "cannot save the discovered overlays, so they are unknown after a restart: {err}"
            );
        }
        self.belief.counts = Some(counts(&ready.policy));
        self.state.store_text(&ready.digest, &ready.text);
        let cut = ready.policy.options.cut_revoked;
        Ok(Kept {
            entry: store::entry(path, &ready.digest, self.backend.is_iptables(), cut),
            ruleset: ready.ruleset,
        })
    }

    /// Listens for changes of the interfaces, addresses and routes that the policy depends on.
    pub(super) fn follow_links(&mut self, policy: &Policy) {
        let interests = links::interests(policy);
        let followed = self.sources.links.as_ref().map(Links::interests);
        if followed.unwrap_or(&links::Interests::default()) == &interests {
            return;
        }
        self.sources.links = None;
        if interests.is_empty() {
            return;
        }
        match Links::open(interests) {
            Ok(links) => {
                self.sources.links = Some(links);
                // They may have changed between the read and the start of the watch.
                self.belief.look_again = self.options.follow;
            }
            Err(err) => {
                log::warn!("cannot watch interfaces and routes, so their changes are missed: {err}")
            }
        }
    }
}

/// Counts the peers and allows of a policy, and describes its overlays.
pub(super) fn counts(policy: &Policy) -> Counts {
    Counts {
        peers: policy.peer_count(),
        allows: policy.allows.len(),
        overlays: policy.overlays.iter().map(overlay).collect(),
    }
}

/// Describes an overlay.
pub(super) fn overlay(overlay: &Overlay) -> OverlayStatus {
    let (discovery, files) = match &overlay.discovery {
        Discovery::Written => (Discovered::Written, Vec::new()),
        Discovery::Found(found) => (Discovered::Found, vec![found.name.clone()]),
        Discovery::Kept(found) => (Discovered::Kept, vec![found.name.clone()]),
        Discovery::Awaited(paths) => (Discovered::Awaited, paths.clone()),
    };
    let subnets = overlay.subnets.iter().map(|each| each.net.to_string());
    OverlayStatus {
        name: overlay.name.clone(),
        subnets: subnets.collect(),
        discovery,
        files,
        interface: overlay.link.as_ref().map(Into::into),
    }
}

/// A file system that watches every file that it reads.
struct WatchedFiles<'w> {
    files: FileSystem,
    watch: RefCell<&'w mut Watch>,
    members: &'w MemberSources,
    temporary: Option<&'w Temporary>,
}

impl WatchedFiles<'_> {
    fn watch(&self, path: &Path, relative_to: &str) {
        self.watch.borrow_mut().add(&beside(path, relative_to));
    }
}

impl Files for WatchedFiles<'_> {
    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        self.watch(Path::new(path), relative_to);
        self.files.read(path, relative_to)
    }

    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError> {
        // The fixed directory of the pattern, in which files may appear.
        let fixed: PathBuf = Path::new(pattern)
            .components()
            .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']))
            .collect();
        self.watch(&fixed.join("any"), relative_to);
        self.files.glob(pattern, relative_to)
    }

    fn beneath(&self) -> Option<&dyn Files> {
        Some(&self.files)
    }

    fn temporary(&self) -> Result<Option<Vec<TemporaryPeer>>, ReadError> {
        Ok(self.temporary.map(|list| list.at(store::uptime())))
    }

    fn members(&self, source: &MemberSource) -> Result<Option<Vec<Member>>, ReadError> {
        match self.members.of(&source.name) {
            Some(members) => Ok(Some(members)),
            None => members::of_new(source, &self.files).map(Some),
        }
    }
}
