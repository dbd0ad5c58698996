//! Members of sources: reads what the sources write, and loads what core accepts of it.
//!
//! The files of sources are watched apart from those of the policy: they are replaced by a rename,
//! so that they need not settle, and a source may write them all the time.

mod config;
mod patch;
mod source;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use peerwall_core::agent::reconcile::Input;
use peerwall_core::policy::load::{Files as _, Member, ReadError};
use peerwall_core::policy::{MemberSource, Policy};
use peerwall_core::ruleset::members::Patched;
use peerwall_core::sources::{Change, Forget, Members, Saved};

use super::metrics::Delays;
use super::watch::Watch;
use super::{Agent, notify};
use crate::control::{Answer, Reply};
use crate::host::names::printable;
use crate::json::{ErrorCode, Failure, MemberStatus, SourceList, SourceStatus};
use crate::policy_file::files::FileSystem;
use crate::store::{self, State};
use crate::system::cpu;
use sd_notify::NotifyState;
use source::Source;

/// Time after an event before the files are read, so that a burst is read once.
const SETTLE: Duration = Duration::from_millis(20);
/// Share of a processor that the agent uses for sources at most: one part of this number.
const REST: u32 = 3;
/// Time after a change before the members and the ruleset are saved, so that a steady stream of
/// changes does not wait for the disk each time.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// The same for very many members, which take long to save: a multiple of the time of the last
/// save, up to a limit.
const SAVE_REST: u32 = 100;
const SAVE_AFTER_MAX: Duration = Duration::from_secs(10);
/// Number of changes that are logged one by one.
const LOGGED_MAX: usize = 4;

/// The sources of the policy in force.
pub(super) struct MemberSources {
    sources: BTreeMap<String, Source>,
    watch: Watch,
    /// When to read the files, and the event that this is for.
    due: Option<(Instant, Instant)>,
    /// The files are not read before this.
    rest_until: Instant,
    save_due: Option<Instant>,
    /// Time of the last save.
    save_took: Duration,
    /// When to compile the policy again, after members were changed without it.
    pub(super) compile_due: Option<Instant>,
    /// Whether other limits of a policy changed the members, after it was compiled.
    is_outdated: bool,
    /// Whether the ruleset is saved together with the members, instead of right after a load.
    pub(super) saves_later: bool,
    /// Times from an event to the load of a change.
    pub(super) delays: Delays,
}

impl MemberSources {
    /// Creates the state without sources.
    ///
    /// # Errors
    /// [`nix::Error`] if inotify is not available.
    pub(super) fn new() -> nix::Result<Self> {
        Ok(Self {
            sources: BTreeMap::new(),
            watch: Watch::new()?,
            due: None,
            rest_until: Instant::now(),
            save_due: None,
            save_took: Duration::ZERO,
            compile_due: None,
            is_outdated: false,
            saves_later: false,
            delays: Delays::default(),
        })
    }

    /// Returns the members of a source; `None` if the policy in force does not have it.
    pub(super) fn of(&self, source: &str) -> Option<Vec<Member>> {
        Some(self.sources.get(source)?.list())
    }

    /// Finds the members of a source by its name.
    fn named(&self, source: &str) -> Option<&Members> {
        Some(&self.sources.get(source)?.members)
    }

    /// Returns the time of the next turn without events.
    pub(super) fn deadline(&self, clock: Instant) -> Option<Instant> {
        let now = store::uptime();
        let members = self.sources.values().filter_map(|source| {
            let stale = source.members.proven();
            let stale = stale.map(|at| at + source.spec.limits.stale_after);
            let stale = stale.filter(|at| *at >= now);
            let stale = stale.map(|at| at + Duration::from_millis(1));
            source.members.deadline(now).into_iter().chain(stale).min()
        });
        let members = members.min().map(|at| clock + at.saturating_sub(now));
        let read = self.due.map(|(due, _)| due);
        let work = members.into_iter().chain(read).chain(self.compile_due);
        let work = work.min();
        let work = work.map(|at| at.max(self.rest_until));
        work.into_iter().chain(self.save_due).min()
    }

    /// Describes all sources.
    pub(super) fn status(&self) -> Vec<SourceStatus> {
        let now = store::uptime();
        let sources = self.sources.values();
        sources.map(|source| source.status(now)).collect()
    }

    fn watch_files(&mut self) {
        let files: Vec<PathBuf> = self.sources.values().flat_map(Source::files).collect();
        for file in files {
            self.watch.add(&file);
        }
        self.watch.drop_others();
    }

    /// Reads the files that changed, and lets time pass.
    fn read(&mut self) -> bool {
        let now = store::uptime();
        let mut is_changed = false;
        for source in self.sources.values_mut() {
            let mut change = source.read(now);
            let later = source.members.tick(now);
            change.joined.extend(later.joined);
            change.left.extend(later.left);
            report(source, &change, now);
            is_changed |= !change.is_empty();
        }
        is_changed
    }
}

impl AsFd for MemberSources {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl Agent {
    /// Follows the sources of a policy that is accepted.
    pub(super) fn follow_sources(&mut self, policy: &Policy) {
        let now = store::uptime();
        let members = &mut self.members;
        let is_wanted = |name: &str| policy.sources.iter().any(|spec| spec.name == name);
        members.sources.retain(|name, _| is_wanted(name));
        let mut is_changed = false;
        for spec in &policy.sources {
            match members.sources.get_mut(&spec.name) {
                Some(source) if source.spec == *spec => {}
                Some(source) => {
                    is_changed = true;
                    let change = source.follow(spec, now);
                    // The policy was compiled with the members under the old limits.
                    members.is_outdated |= !change.is_empty();
                    report(source, &change, now);
                    members.save_due.get_or_insert_with(Instant::now);
                }
                None => {
                    is_changed = true;
                    let saved = self.state.members(&spec.name).unwrap_or_else(|err| {
                        log::warn!("{err}");
                        None
                    });
                    let mut source = Source::new(spec.clone(), saved.unwrap_or_default(), now);
                    let change = source.read(now);
                    report(&mut source, &change, now);
                    members.save_due.get_or_insert_with(Instant::now);
                    members.sources.insert(spec.name.clone(), source);
                }
            }
        }
        if is_changed {
            members.watch_files();
            let event = Instant::now();
            members.due.get_or_insert((event, event));
        }
        config::configure(&policy.sources);
    }

    /// Reads the sources if they changed, and loads the difference.
    pub(super) fn follow_members(&mut self) {
        let members = &mut self.members;
        if members.watch.drain() {
            let event = Instant::now();
            // The first event of a burst decides, so that a steady stream delays nothing.
            members.due.get_or_insert((event + SETTLE, event));
        }
        let begun = Instant::now();
        let is_due = members.deadline(begun).is_some_and(|at| at <= begun);
        if !is_due {
            return;
        }
        if members.save_due.is_some_and(|at| at <= begun) {
            self.save_members();
            self.members.save_took = begun.elapsed();
        }
        let (begun, used) = (Instant::now(), cpu::time());
        let members = &mut self.members;
        if members.due.is_some_and(|(due, _)| due > begun) || members.rest_until > begun {
            return;
        }
        let event = members.due.take().map(|(_, event)| event);
        // Directories may have appeared.
        members.watch_files();
        let is_over = members.compile_due.take_if(|due| *due <= begun).is_some();
        if is_over && let Some(wanted) = &mut self.belief.wanted {
            wanted.basis = None;
        }
        if members.read() | std::mem::take(&mut members.is_outdated) | is_over {
            let after = (members.save_took * SAVE_REST).clamp(SAVE_AFTER, SAVE_AFTER_MAX);
            members.save_due.get_or_insert(begun + after);
            members.saves_later = true;
            self.load_members();
            self.members.saves_later = false;
            if let Some(event) = event {
                self.members.delays.observe(event.elapsed());
            }
        }
        let used = cpu::time().saturating_sub(used);
        self.members.rest_until = Instant::now() + used * (REST - 1);
    }

    /// Loads the current members into the rules.
    fn load_members(&mut self) {
        let is_changed = match self.patch_members() {
            Patched::Same => false,
            Patched::Changed => true,
            Patched::Impossible => self.recompile_wanted(),
        };
        if is_changed {
            // The members are logged already.
            self.outcome.is_logged = true;
            self.feed(Input::Wanted);
            notify(&[NotifyState::Status(&self.headline())]);
        }
    }

    /// Saves the members for the next boot and for commands, and the ruleset with them.
    pub(super) fn save_members(&mut self) {
        if self.members.save_due.take().is_none() {
            return;
        }
        self.note();
        for (name, source) in &self.members.sources {
            if let Err(err) = self.state.set_members(name, &source.members.saved()) {
                log::warn!(event = "not_saved"; "cannot save the members of source {name}: {err}");
            }
        }
    }

    /// Describes the sources, and the members of one.
    pub(super) fn source_list(&self, show: Option<&str>) -> Answer {
        let list = SourceList {
            agent: true,
            sources: self.members.status(),
            members: match show.map(|name| self.members.sources.get(name)) {
                None => Vec::new(),
                Some(Some(source)) => rows(source),
                Some(None) => return no_source(show.unwrap_or_default()),
            },
        };
        Answer::new(String::new(), Reply::Sources(Box::new(list)))
    }

    /// Believes the last answer of a source.
    pub(super) fn accept_source(&mut self, name: &str) -> Answer {
        let now = store::uptime();
        let Some(source) = self.members.sources.get_mut(name) else {
            return no_source(name);
        };
        let change = source.members.accept(now);
        self.changed_by_hand(name, &change)
    }

    /// Removes a member of a source.
    pub(super) fn forget_member(&mut self, name: &str, address: IpAddr) -> Answer {
        let Some(source) = self.members.sources.get_mut(name) else {
            return no_source(name);
        };
        match source.members.forget(address, store::uptime()) {
            Ok(change) => self.changed_by_hand(name, &change),
            Err(Forget::NoMember) => not_done(format!("{address} is no member of source {name}")),
            Err(Forget::Listed) => not_done(format!(
                "source {name} lists {address}, so it would be added again at once; remove it there"
            )),
        }
    }

    fn changed_by_hand(&mut self, name: &str, change: &Change) -> Answer {
        if let Some(source) = self.members.sources.get_mut(name) {
            report(source, change, store::uptime());
        }
        if !change.is_empty() {
            self.members.save_due = Some(Instant::now());
            self.save_members();
            self.load_members();
        }
        let mut answer = self.source_list(Some(name));
        answer.text = match change.left.len() {
            0 => format!("no member of source {name} was removed"),
            1 => format!("removed 1 member of source {name}"),
            count => format!("removed {count} members of source {name}"),
        };
        answer
    }
}

fn no_source(name: &str) -> Answer {
    not_done(format!(
        "the policy in force has no source `{}`; see `peerwall sources`",
        printable(name)
    ))
}

fn not_done(why: String) -> Answer {
    Answer::failed(
        format!("{why}\nnothing was changed"),
        Failure::new(ErrorCode::SourceUnchanged, why),
    )
}

fn rows(source: &Source) -> Vec<MemberStatus> {
    let now = store::uptime();
    let missing: BTreeMap<IpAddr, Duration> = source.members.missing_since().collect();
    let row = |(address, name): (IpAddr, &str)| MemberStatus {
        address,
        name: name.to_owned(),
        missing_seconds: missing
            .get(&address)
            .map(|since| now.saturating_sub(*since).as_secs()),
    };
    source.members.iter().map(row).collect()
}

/// Counts and logs a change of the members, and whatever keeps members.
fn report(source: &mut Source, change: &Change, now: Duration) {
    let name = source.spec.name.clone();
    source.joined += change.joined.len() as u64;
    source.left += change.left.len() as u64;
    let total = source.members.len();
    match change.joined.len() + change.left.len() {
        0 => {}
        1..=LOGGED_MAX => {
            for (address, node) in &change.joined {
                log::info!(
                    event = "member_joined", source = name, address:%, node;
                    "{node} ({address}) joined by source {name}"
                );
            }
            for (address, node) in &change.left {
                log::info!(
                    event = "member_left", source = name, address:%, node;
                    "{node} ({address}) left source {name}"
                );
            }
        }
        _ => log::info!(
            event = "members_changed", source = name, members = total;
            "source {name}: {} joined, {} left, {total} members",
            change.joined.len(), change.left.len()
        ),
    }
    let trouble = trouble(&source.status(now));
    if source.said != trouble {
        match &trouble {
            Some(trouble) => log::warn!(
                event = "source_trouble", source = name, members = total;
                "source {name}: {trouble}"
            ),
            None => log::info!(
                event = "source_fresh", source = name, members = total;
                "source {name} is fresh again, with {total} members"
            ),
        }
        source.said = trouble;
    }
}

/// Returns what is wrong with a source, without counts of time.
fn trouble(status: &SourceStatus) -> Option<String> {
    let held = status.held.as_ref().map(|held| {
        let end = match held.seconds_left {
            Some(_) => "kept for now",
            None => "kept until `peerwall sources accept`",
        };
        format!(
            "{}: {} missing addresses are {end}",
            held.why.sentence(),
            held.addresses
        )
    });
    let stale = status
        .is_stale
        .then(|| "stale: its members are kept, and nothing is removed".to_owned());
    let error = status.error.as_ref().map(|error| error.message.clone());
    let refused = (!status.refused.is_empty()).then(|| {
        let counts = status.refused.iter();
        let counts: Vec<String> = counts
            .map(|(why, count)| format!("{count} {}", why.sentence()))
            .collect();
        let first = status.refused_examples.first();
        format!(
            "refused entries: {}, such as {}",
            counts.join(", "),
            first.map_or("", |example| example)
        )
    });
    let all: Vec<String> = [held, stale, error, refused]
        .into_iter()
        .flatten()
        .collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Returns the members of a source that no policy had so far: the saved ones, and those that it
/// lists now. A policy that is loaded without them would cut off nodes that are accepted already.
///
/// # Errors
/// [`ReadError::Passing`] after a temporary failure.
pub(super) fn of_new(spec: &MemberSource, files: &FileSystem) -> Result<Vec<Member>, ReadError> {
    let saved = Saved {
        members: files.members(spec)?.unwrap_or_default(),
        ..Saved::default()
    };
    let now = store::uptime();
    let mut source = Source::new(spec.clone(), saved, now);
    let _ = source.read(now);
    Ok(source.list())
}

/// Returns the members that the last agent saved.
///
/// # Errors
/// [`std::io::Error`] if they cannot be read.
pub fn saved(state: &State) -> std::io::Result<SourceList> {
    let mut list = SourceList {
        agent: false,
        sources: Vec::new(),
        members: Vec::new(),
    };
    for name in state.sources() {
        let members = state.members(&name)?.unwrap_or_default().members;
        list.sources.push(SourceStatus {
            name,
            kind: None,
            are_peers: None,
            members: members.len(),
            fresh: None,
            fresh_seconds: None,
            is_stale: true,
            error: None,
            held: None,
            refused: BTreeMap::new(),
            refused_examples: Vec::new(),
            joined: 0,
            left: 0,
            errors: BTreeMap::new(),
            credential_end: None,
        });
    }
    Ok(list)
}
