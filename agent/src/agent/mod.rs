//! The agent: keeps a host as its policy says.
//!
//! One thread around one `poll`: rules that others change, files, questions, signals, time. What to do
//! is decided by [`peerwall_core::agent::reconcile`]; here it is done.

pub mod exporter;
mod metrics;
mod open;
mod trial;
mod watch;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use peerwall_core::agent::keep::{self, Reading, Situation};
use peerwall_core::agent::reconcile::{Action, Failure, Input, Reconcile, Why};
use peerwall_core::backend::BackendError;
use peerwall_core::net::host::Host;
use peerwall_core::net::link::Link;
use peerwall_core::policy::load::{Files, ReadError, Text};
use peerwall_core::policy::{Discovery, HeldBy, Overlay, Policy};
use sd_notify::NotifyState;
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::{BackendName, RunArgs};
use crate::connections::revocation;
use crate::connections::{Connections, Older};
use crate::control::{self, Answer, Command, Control, Wish};
use crate::enforce::foreign;
use crate::enforce::nft::lacks;
use crate::enforce::{Holder, switch};
use crate::host::caller::{Caller, Ssh};
use crate::host::lockout;
use crate::kernel::events::Change;
use crate::kernel::links::{self, Links};
use crate::policy_file::files::{FileSystem, beside};
use crate::policy_file::{NotReady, Ready, prepare, prepare_stored};
use crate::secure_file;
use crate::store::since;
use crate::store::{self, Kept, Pending, State};
use crate::system::passing;
use crate::system::watchdog;
use exporter::Exporter;
use open::introduce;
use watch::Watch;

/// Where there are no events, rules are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Metrics are written so often, where they are wanted at all.
const METRICS_EVERY: Duration = Duration::from_secs(15);
/// Connections that came in while rules were not there are ended when there was nothing to repair for so
/// long: in a storm there is no time for it.
const SWEEP_AFTER: Duration = Duration::from_secs(1);
/// Tables of others that went away are told of, so many of them.
const GONE_MAX: usize = 8;
/// How soon going back is tried again.
const RETRY_TRIAL: Duration = Duration::from_millis(100);
/// How often a policy is read when something passing keeps it from being read.
const READ_TRIES: u32 = 10;

/// Runs the agent until SIGTERM or SIGINT, which leave the rules in place, but for those of a trial.
///
/// # Errors
/// A sentence, if it cannot start. A bad policy is no such reason.
pub fn run(args: &RunArgs) -> Result<(), String> {
    let mut agent = Agent::start(args)?;
    agent.begin();
    agent.ready();
    while agent.turn()? {}
    notify(&[NotifyState::Stopping]);
    agent.end_trial_at_stop();
    log::info!("ends; the rules stay");
    Ok(())
}

/// What is to be in force.
struct Wanted {
    kept: Kept,
    /// Whether open connections that it refuses end.
    cut: bool,
    /// Peers, overlays and allows, for telling.
    counts: Value,
    /// What the state directory does not have yet.
    unsaved: Unsaved,
    /// Why it could not be written.
    unsaved_error: Option<String>,
}

/// What of a ruleset in force has yet to be written to the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsaved {
    Nothing,
    /// The policy: it is new in the history.
    Policy,
    /// Only the ruleset: members of lists, addresses or routes changed.
    Ruleset,
}

/// What became of reading and converging, for who asked for it.
#[derive(Default)]
struct Outcome {
    read: Option<Result<(), String>>,
    warnings: Vec<String>,
    converged: Option<Result<Option<String>, String>>,
    /// The ssh connections of the client that stay, whatever the policy says.
    spare: Vec<Ssh>,
    /// Whether every open connection ends that the policy refuses.
    end_refused: bool,
    /// Whether a client waits for the answer.
    is_asked: bool,
    /// What happened to open connections, in words and for machines.
    connections: (String, Value),
}

impl Outcome {
    fn of(wish: &Wish) -> Self {
        Self {
            spare: revocation::spared(&wish.caller, wish.force),
            end_refused: wish.end_refused,
            is_asked: true,
            ..Self::default()
        }
    }
}

struct Agent {
    policy: PathBuf,
    asked: Option<BackendName>,
    /// Whether to own the table where the kernel can.
    owns: bool,
    metrics_file: Option<PathBuf>,
    /// Whether policy files that others than root can write are refused.
    secure: bool,
    /// Whether the policy is read whenever one of its files changes.
    follow: bool,
    start: Instant,
    started: String,
    reconcile: Reconcile,
    holder: Holder,
    watch: Watch,
    /// News of interfaces, if the policy depends on any.
    links: Option<Links>,
    /// Chains of other firewalls that drop, too.
    foreign: foreign::Count,
    /// Whether what was read may be another already.
    look_again: bool,
    /// Once they had to be looked at.
    connections: Option<Connections>,
    /// Connections that were there before the first policy, which it refuses; not known before that.
    older: Option<Older>,
    sweep_due: Option<Instant>,
    control: Control,
    exporter: Option<Exporter>,
    state: State,
    signals: Vec<(UnixStream, Arc<AtomicBool>, libc::c_int)>,
    wanted: Option<Wanted>,
    /// Of the policy that was read last, good or bad.
    read_digest: Option<String>,
    pending: Option<Pending>,
    /// Whether what is loaded, or is being loaded, is on trial.
    is_trial: bool,
    /// What is in the policy that is about to be put in force.
    counts: Value,
    wish: Option<Wish>,
    outcome: Outcome,
    gone: Vec<String>,
    metrics: metrics::Metrics,
    metrics_due: Option<Instant>,
    /// Repairs by the name of the process that made them necessary.
    blamed: BTreeMap<String, u64>,
}

impl Agent {
    fn start(args: &RunArgs) -> Result<Self, String> {
        let mut signals = Vec::new();
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            let (ours, theirs) = UnixStream::pair().map_err(|err| err.to_string())?;
            ours.set_nonblocking(true).map_err(|err| err.to_string())?;
            // The stream ends a `poll`; the flag is there even if nothing could be written to the stream.
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .and_then(|_| signal_hook::low_level::pipe::register(signal, theirs))
                .map_err(|err| err.to_string())?;
            signals.push((ours, flag, signal));
        }
        let control = Control::open().map_err(|err| format!("control socket: {err}"))?;
        let exporter = args.metrics_listen.as_ref().map(Exporter::open);
        let exporter = exporter.transpose().map_err(|err| err.to_string())?;
        let asked = args.backend.unwrap_or(BackendName::Auto);
        let holder = Holder::choose(asked, !args.no_owner)?;
        let poll = holder.is_deaf().then_some(LOOK_EVERY);
        let policy = std::path::absolute(&args.policy).map_err(|err| err.to_string())?;
        watchdog::start();
        Ok(Self {
            policy,
            asked: args.backend,
            owns: !args.no_owner,
            metrics_file: args.metrics_file.clone(),
            secure: !args.insecure_permissions,
            follow: !args.no_follow,
            start: Instant::now(),
            started: store::time(),
            reconcile: Reconcile::new(poll),
            holder,
            watch: Watch::new().map_err(|err| format!("inotify: {err}"))?,
            links: None,
            foreign: foreign::Count::default(),
            look_again: false,
            connections: None,
            older: None,
            sweep_due: None,
            control,
            exporter,
            state: State::open(),
            signals,
            wanted: None,
            read_digest: None,
            pending: None,
            is_trial: false,
            counts: Value::Null,
            wish: None,
            outcome: Outcome::default(),
            gone: Vec::new(),
            metrics: metrics::Metrics::default(),
            metrics_due: args.metrics_file.as_ref().map(|_| Instant::now()),
            blamed: BTreeMap::new(),
        })
    }

    /// Takes up what an earlier agent left, and reads the policy.
    fn begin(&mut self) {
        self.take_up();
        self.feed(Input::Start);
        if self.is_trial {
            // The policy is read when the trial is over; what is tried is held meanwhile.
            self.feed(Input::Wanted);
        }
    }

    fn ready(&self) {
        notify(&[NotifyState::Ready, NotifyState::Status(&self.headline())]);
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// One turn: waits, and does what there is to do. Whether to go on.
    fn turn(&mut self) -> Result<bool, String> {
        self.know_older();
        self.wait()?;
        let signals = self.signals();
        if signals.contains(&SIGTERM) || signals.contains(&SIGINT) {
            return Ok(false);
        }
        if signals.contains(&SIGHUP) {
            self.feed(Input::Reload);
        }
        let changes = self.holder.drain();
        self.hear(changes);
        let files = self.watch.drain();
        let links = self.links.as_mut().is_some_and(Links::drain);
        if self.follow && (files || links) {
            self.feed(Input::Files);
        }
        for (who, question) in self.control.questions() {
            let answer = question.map_or_else(|refusal| refusal, |command| self.obey(command));
            self.control.answer(who, &answer);
        }
        self.control.say();
        if let Some(mut exporter) = self.exporter.take() {
            exporter.serve(|| self.metrics_text());
            self.exporter = Some(exporter);
        }
        let clock = store::clock();
        if self
            .pending
            .as_ref()
            .is_some_and(|trial| trial.is_over(&clock))
        {
            self.end_trial();
        }
        self.feed(Input::Tick);
        self.sweep();
        watchdog::progress();
        self.write_metrics();
        Ok(true)
    }

    fn wait(&self) -> Result<(), String> {
        let timeout = self.timeout();
        let mut heard: Vec<BorrowedFd<'_>> = vec![self.watch.as_fd()];
        heard.extend(self.holder.fd());
        heard.extend(self.links.iter().map(Links::as_fd));
        heard.extend(self.signals.iter().map(|(stream, ..)| stream.as_fd()));
        let heard = heard.into_iter().map(|fd| (fd, PollFlags::POLLIN));
        let asked = self.control.fds();
        let asked = asked.chain(self.exporter.iter().flat_map(Exporter::fds));
        let mut fds: Vec<PollFd<'_>> = heard
            .chain(asked)
            .map(|(fd, flags)| PollFd::new(fd, flags))
            .collect();
        match poll(&mut fds, timeout) {
            Ok(_) => Ok(()),
            Err(err) if passing::survive(err as i32) => Ok(()),
            Err(err) => Err(format!("poll: {err}")),
        }
    }

    /// How long nothing has to be done, if nothing happens.
    fn timeout(&self) -> PollTimeout {
        let reconcile = self
            .reconcile
            .deadline()
            .map(|at| at.saturating_sub(self.now()));
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let exporter = self.exporter.as_ref().and_then(Exporter::deadline);
        let asked = [self.control.deadline(), exporter];
        let asked = asked.into_iter().flatten().min().map(until);
        let watchdog = watchdog::due().map(until);
        let sweep = self.sweep_due.map(until);
        let clock = store::clock();
        let pending = self.pending.as_ref();
        let pending = pending.map(|trial| trial.left(&clock).max(RETRY_TRIAL));
        let metrics = self.metrics_due.map(until);
        let next = [reconcile, asked, watchdog, pending, metrics, sweep]
            .into_iter()
            .flatten()
            .min();
        next.map_or(PollTimeout::NONE, |wait| {
            // A part of a millisecond is one more, or it would be asked too early, again and again.
            let ms = wait.as_micros().div_ceil(1000).min(60_000_000);
            PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX))
                .unwrap_or(PollTimeout::NONE)
        })
    }

    fn signals(&mut self) -> Vec<libc::c_int> {
        let mut found = Vec::new();
        for (stream, flag, signal) in &mut self.signals {
            let is_read = stream.read(&mut [0; 64]).is_ok_and(|len| len > 0);
            if flag.swap(false, Ordering::SeqCst) || is_read {
                found.push(*signal);
            }
        }
        found
    }

    fn write_metrics(&mut self) {
        let Some(path) = self.metrics_file.clone() else {
            return;
        };
        if self.metrics_due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.metrics_due = Some(Instant::now() + METRICS_EVERY);
        let text = self.metrics_text();
        if let Err(err) = secure_file::publish(&path, &text) {
            log::warn!("metrics are not written to {}: {err}", path.display());
        }
    }

    fn metrics_text(&mut self) -> String {
        let seen = self.holder.observe();
        self.metrics.text(&metrics::Told {
            in_sync: self.reconcile.in_sync_since.is_some(),
            policy_ok: self.reconcile.policy_error.is_none(),
            foreign_drops: self.foreign.get(),
            repairs: &self.blamed,
            table: seen.as_ref().and_then(|seen| seen.table.as_ref()),
        })
    }

    fn hear(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Ours(by) => self.feed(Input::Touched(by)),
                Change::Lost => self.feed(Input::Lost),
                Change::Gone(tables, by) => {
                    let by = by.map_or_else(String::new, |by| format!(" by {by}"));
                    let tables = tables.join(", ");
                    log::warn!(
                        "tables of others are gone{by}: {tables}; whose they were should make them again"
                    );
                    self.gone.push(format!("{}: {tables}{by}", store::time()));
                    let extra = self.gone.len().saturating_sub(GONE_MAX);
                    self.gone.drain(..extra);
                }
            }
        }
    }

    /// Tells the state machine, and does what it says until it says nothing.
    fn feed(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let mut action = self.reconcile.step(self.now(), input);
            while let Some(todo) = action {
                let came = match todo {
                    Action::Read => self.read(),
                    Action::Converge(why) => self.converge(&why),
                };
                action = self.reconcile.step(self.now(), came);
            }
            next = std::mem::take(&mut self.look_again).then_some(Input::Files);
        }
    }

    /// Reads the policy.
    fn read(&mut self) -> Input {
        self.outcome.warnings.clear();
        self.watch.add(&self.policy);
        let policy = self.policy.clone();
        let read = self.read_patiently(|files| prepare(&policy, files));
        let is_passing = read.as_ref().err().is_some_and(|why| why.is_passing);
        let result = match read {
            Ok(ready) => self.accept(ready),
            Err(why) => Err(why.text.trim_end().to_owned()),
        };
        match &result {
            Ok(_) => {}
            Err(why) => {
                if self.reconcile.policy_error.as_ref() != Some(why) {
                    log::error!("the policy is not taken, and the rules stay as they are:\n{why}");
                }
                self.metrics.reload_errors += 1;
                // Nothing tells of the end of what passes.
                self.look_again = is_passing;
            }
        }
        let is_new = self.wanted.is_none();
        if is_new && result.is_err() {
            self.fall_back_to_confirmed();
        }
        let is_changed = result == Ok(Reading::Take);
        let is_other = self.refresh_lists(&result);
        self.watch.drop_others();
        self.outcome.read = Some(result.clone().map(drop));
        match result {
            Ok(_) if is_changed || is_other => Input::Read(Ok(())),
            Ok(_) => Input::Tick, // it is what is in force
            Err(why) => {
                let read = Input::Read(Err(why));
                if !is_new && !is_other {
                    return read;
                }
                let _ = self.reconcile.step(self.now(), read);
                Input::Wanted
            }
        }
    }

    /// Reads a policy, several times if what keeps it from being read may pass. Every file that is read is watched.
    fn read_patiently(
        &mut self,
        read: impl Fn(&Watched<'_>) -> Result<Ready, Box<NotReady>>,
    ) -> Result<Ready, Box<NotReady>> {
        let files = Watched {
            files: FileSystem { waits: self.follow },
            watch: RefCell::new(&mut self.watch),
        };
        let mut tries = 1;
        loop {
            match read(&files) {
                Err(why) if why.is_passing && tries < READ_TRIES => {
                    tries += 1;
                    std::thread::sleep(passing::PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Reads the lists of what is in force where that is not the policy that was read: it is on trial, or what was
    /// gone back to, or the policy is wrong. Returns whether there is something to load.
    fn refresh_lists(&mut self, read: &Result<Reading, String>) -> bool {
        let entry = match (&self.wanted, read) {
            (_, Ok(Reading::Take | Reading::Same)) | (None, _) => return false,
            (Some(wanted), _) => wanted.kept.entry.clone(),
        };
        let Some(text) = self.state.text(&entry.digest) else {
            return false;
        };
        let ready = self.read_patiently(|files| prepare_stored(&text, files));
        let ready = ready.map_err(|why| why.text.trim_end().to_owned());
        let read_digest = self.read_digest.clone();
        let warnings = std::mem::take(&mut self.outcome.warnings);
        let changed = ready.and_then(|ready| self.accept_host(ready));
        self.outcome.warnings = warnings;
        self.read_digest = read_digest;
        changed.unwrap_or_else(|why| {
            log::warn!("{}: its lists stay as they were:\n{why}", entry.policy);
            false
        })
    }

    /// Accepts a policy that was read, or not. [`Reading::Take`] if there is something to load.
    fn accept(&mut self, ready: Ready) -> Result<Reading, String> {
        let wish = self.wish.take();
        let refused = self.state.refused();
        let situation = Situation {
            wanted: self
                .wanted
                .as_ref()
                .map(|wanted| wanted.kept.entry.digest.as_str()),
            is_trial: self.pending.is_some(),
            refused: refused.as_deref(),
            read: self.read_digest.as_deref(),
            is_asked: wish.is_some(),
            locks_out: wish.is_none()
                && lockout::check(&ready.ruleset, &Caller::anybody()).is_err(),
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
            Reading::Later => {
                if self.read_digest.as_ref() != Some(&ready.digest) {
                    self.read_digest = None; // it changed, and is taken when the trial is over
                }
                Ok(Reading::Later)
            }
            Reading::PassedOver => Ok(Reading::PassedOver),
            Reading::Refused => Err(format!(
                "{} was rolled back from; it is taken again when its text changes, or by `peerwall reload`",
                self.policy.display()
            )),
            Reading::LocksOut => {
                let why = lockout::check(&ready.ruleset, &Caller::anybody());
                Err(format!(
                    "{}; `peerwall reload --force` takes it all the same",
                    why.err().unwrap_or_default()
                ))
            }
            Reading::Take => {
                let digest = ready.digest.clone();
                self.take(&self.policy.clone(), ready, wish)?;
                self.read_digest = Some(digest);
                Ok(Reading::Take)
            }
        }
    }

    /// The policy is the same text, but means another ruleset on this host now: a list, a route, an
    /// address or a neighbour changed. It is no other policy, so it is not in the history again. Whether there is
    /// something to put in force.
    fn accept_host(&mut self, ready: Ready) -> Result<bool, String> {
        let digest = ready.digest.clone();
        let told = counts(&ready.policy);
        let is_same = |wanted: &Wanted| {
            wanted.kept.ruleset == ready.ruleset
                && (wanted.counts.is_null() || wanted.counts == told)
        };
        let is_same = self.wanted.as_ref().is_none_or(is_same);
        if is_same {
            self.follow_links(&ready.policy);
        } else {
            let ruleset = self.prepare_to_take(&self.policy.clone(), ready)?.ruleset;
            if let Some(wanted) = &mut self.wanted {
                wanted.kept.ruleset = ruleset;
                if wanted.unsaved == Unsaved::Nothing {
                    wanted.unsaved = Unsaved::Ruleset;
                }
                log::info!("lists, addresses, routes or neighbours changed");
            }
        }
        if let Some(wanted) = &mut self.wanted {
            wanted.counts = told;
        }
        self.read_digest = Some(digest);
        Ok(!is_same)
    }

    /// Wants what a policy says.
    fn take(&mut self, path: &Path, ready: Ready, wish: Option<Wish>) -> Result<(), String> {
        if let Some(wish) = wish.as_ref().filter(|wish| !wish.force) {
            lockout::check(&ready.ruleset, &wish.caller)?;
        }
        let cut = ready.policy.options.cut_revoked;
        let kept = self.prepare_to_take(path, ready)?;
        self.wanted = Some(Wanted {
            kept,
            cut,
            counts: std::mem::take(&mut self.counts),
            unsaved: Unsaved::Policy,
            unsaved_error: None,
        });
        Ok(())
    }

    /// What comes before a policy is put in force: who may have written it, what it warns of, which backend, and
    /// what to follow.
    fn prepare_to_take(&mut self, path: &Path, ready: Ready) -> Result<Kept, String> {
        if self.secure {
            ready.check_permissions()?;
        }
        for warning in &ready.warnings {
            let help = warning.help.as_ref();
            let warning = format!(
                "{}: {}{}",
                ready.sources.line_of(&warning.place),
                warning.message,
                help.map_or_else(String::new, |help| format!("; {help}"))
            );
            log::warn!("{warning}");
            self.outcome.warnings.push(warning);
        }
        self.choose_backend(ready.policy.options.backend)?;
        self.follow_links(&ready.policy);
        if let Err(err) = self.state.note_discovered(&ready.policy) {
            log::warn!("what was discovered is not known after a restart: {err}");
        }
        self.counts = counts(&ready.policy);
        self.state.store_text(&ready.digest, &ready.text);
        let cut = ready.policy.options.cut_revoked;
        Ok(Kept {
            entry: store::entry(path, &ready.digest, self.holder.is_deaf(), cut),
            ruleset: ready.ruleset,
        })
    }

    /// Listens for changes of the interfaces, addresses and routes that the policy depends on.
    fn follow_links(&mut self, policy: &Policy) {
        let interests = links::interests(policy);
        let followed = self.links.as_ref().map(Links::interests);
        if followed.unwrap_or(&links::Interests::default()) == &interests {
            return;
        }
        self.links = None;
        if interests.is_empty() {
            return;
        }
        match Links::open(interests) {
            Ok(links) => {
                self.links = Some(links);
                // They may have changed between being asked for and being listened to.
                self.look_again = self.follow;
            }
            Err(err) => log::warn!("changes of interfaces and routes are not seen: {err}"),
        }
    }

    /// What the policy says of the backend counts when the command line said nothing.
    fn choose_backend(&mut self, said: HeldBy) -> Result<(), String> {
        match said {
            HeldBy::Auto => Ok(()),
            HeldBy::Nft => self.change_backend(false),
            HeldBy::Iptables => self.change_backend(true),
        }
    }

    /// Holds the rules by the other backend from the next change on, unless one was asked for at the start.
    fn change_backend(&mut self, to_iptables: bool) -> Result<(), String> {
        if self.asked.is_some() || self.holder.is_deaf() == to_iptables {
            return Ok(());
        }
        let name = match to_iptables {
            true => BackendName::Iptables,
            false => BackendName::Nft,
        };
        self.hold_by(Holder::choose(name, self.owns)?);
        Ok(())
    }

    fn hold_by(&mut self, holder: Holder) {
        self.holder = holder;
        self.reconcile.look_every(self.look_every());
    }

    fn look_every(&self) -> Option<Duration> {
        self.holder.is_deaf().then_some(LOOK_EVERY)
    }

    /// What the other backend held goes, now that this one holds the rules.
    fn retire_other(&self, why: &Why) {
        let (was_iptables, is_iptables) = (since::by_iptables(), self.holder.is_deaf());
        if was_iptables != is_iptables || (is_iptables && matches!(why, Why::Start)) {
            switch::remove_other(is_iptables);
        }
    }

    /// Makes the rules be what is wanted.
    fn converge(&mut self, why: &Why) -> Input {
        let Some(wanted) = &self.wanted else {
            return Input::Tick;
        };
        let begun = Instant::now();
        let is_repair = matches!(why, Why::Repair(_) | Why::Resync);
        // By iptables, a look takes as long as a repair.
        let is_unknown = is_repair && self.holder.is_deaf();
        let is_first = !is_unknown && self.holder.is_loaded() == Some(false);
        // Not before a repair: rules first.
        if is_first && !is_repair {
            introduce(&mut self.connections);
        }
        let mut result = self.holder.converge(Some(&wanted.kept.ruleset));
        if let Err(err) = &result
            && self.asked.unwrap_or(BackendName::Auto) == BackendName::Auto
            && lacks(err)
        {
            log::warn!("{err}; going on with iptables");
            let ruleset = wanted.kept.ruleset.clone();
            result = match Holder::choose(BackendName::Iptables, self.owns) {
                Ok(holder) => {
                    self.hold_by(holder);
                    self.holder.converge(Some(&ruleset))
                }
                Err(err) => Err(BackendError::Transport(err)),
            };
        }
        self.metrics.observe(begun.elapsed(), why, result.is_ok());
        if let Why::Repair(culprits) = why {
            let nobody = culprits.is_empty().then(|| "unknown".to_owned());
            for name in culprits.iter().map(|who| who.process.clone()).chain(nobody) {
                *self.blamed.entry(name).or_default() += 1;
            }
        }
        match result {
            Ok(done) => {
                self.tell(why, done.change.as_deref());
                self.outcome.converged = Some(Ok(done.change.clone()));
                if is_first || is_unknown && done.change.is_some() {
                    introduce(&mut self.connections);
                }
                match why {
                    Why::Policy | Why::Start | Why::Retry => {
                        self.retire_other(why);
                        self.cut(done.before.as_ref(), is_first);
                    }
                    // Not now: whoever did it may do it again at once.
                    _ if done.change.is_some() => {
                        self.sweep_due = Some(Instant::now() + SWEEP_AFTER);
                    }
                    Why::Repair(_) | Why::Resync => {}
                }
                self.settle(done.change.is_some());
                self.hear(done.heard);
                let input = Input::Converged(Ok(true));
                if done.missed {
                    // Once more, right behind this.
                    let _ = self.reconcile.step(self.now(), input);
                    return Input::Lost;
                }
                input
            }
            Err(err) => {
                if self.reconcile.last_error.as_deref() != Some(&err.to_string()) {
                    log::error!("the rules are not what they should be: {err}");
                }
                self.outcome.converged = Some(Err(err.to_string()));
                Input::Converged(Err(Failure {
                    why: err.to_string(),
                    is_open: self.holder.is_loaded() != Some(true),
                }))
            }
        }
    }

    /// Notes what is in force.
    fn settle(&mut self, is_change: bool) {
        self.note();
        if !is_change {
            return;
        }
        let by_iptables = self.holder.is_deaf();
        if let (Some(wanted), Some(generation)) = (&self.wanted, self.holder.generation()) {
            let kept = &wanted.kept;
            since::note(generation, &kept.entry.policy, by_iptables, &kept.ruleset);
        }
    }

    fn tell(&self, why: &Why, change: Option<&str>) {
        match (why, change) {
            (Why::Repair(culprits), Some(change)) => {
                let who: Vec<String> = culprits.iter().map(ToString::to_string).collect();
                let who = if who.is_empty() {
                    "somebody".to_owned()
                } else {
                    who.join(", ")
                };
                log::warn!("repaired what {who} changed: {change}");
            }
            (_, Some(change)) => log::info!("in force: {change}"),
            (Why::Start | Why::Policy, None) => log::info!("in force already"),
            (Why::Repair(_) | Why::Resync | Why::Retry, None) => log::debug!("nothing to do"),
        }
        notify(&[NotifyState::Status(&self.headline())]);
    }

    fn headline(&self) -> String {
        match (&self.reconcile.last_error, &self.reconcile.policy_error) {
            (Some(err), _) => format!("not in sync: {err}"),
            (None, Some(err)) => format!(
                "holds the last good policy: {}",
                err.lines().next().unwrap_or_default()
            ),
            (None, None) => format!("keeps {}", self.policy.display()),
        }
    }

    fn obey(&mut self, command: Command) -> Answer {
        match command {
            Command::Status => self.status(),
            Command::Apply(policy, wish) if policy != self.policy => match wish.confirm {
                Some(seconds) => self.try_out(&policy, wish, seconds),
                None => Answer::new(
                    control::Outcome::Trouble,
                    format!(
                        "the agent keeps {0}; try {1} out with --confirm, or make it that policy: mv {1} {0}",
                        self.policy.display(),
                        policy.display()
                    ),
                    Value::Null,
                ),
            },
            Command::Apply(_, wish) | Command::Reload(wish) => match wish.confirm {
                Some(seconds) => self.try_out(&self.policy.clone(), wish, seconds),
                None => self.reload(wish),
            },
            Command::Confirm(caller) => self.confirm(&caller),
            Command::Rollback(caller) => self.rollback(&caller),
        }
    }

    fn reload(&mut self, wish: Wish) -> Answer {
        if let Some(answer) = self.refuse_during_trial() {
            return answer;
        }
        let monotonic = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Watchdog);
        notify(&[NotifyState::Reloading, monotonic]);
        self.outcome = Outcome::of(&wish);
        self.wish = Some(wish);
        self.feed(Input::Reload);
        self.wish = None;
        notify(&[NotifyState::Ready, NotifyState::Status(&self.headline())]);
        self.tell_outcome()
    }

    /// What is answered to who wished for a policy.
    fn tell_outcome(&mut self) -> Answer {
        match (self.outcome.read.take(), self.outcome.converged.take()) {
            (Some(Err(why)), _) => trial::refused(&why),
            (_, Some(Err(why))) => Answer::new(
                control::Outcome::Trouble,
                format!("error: {why}"),
                json!({"error": why}),
            ),
            (_, converged) => {
                let change = converged.and_then(Result::ok).flatten();
                let text = change.clone().map_or_else(
                    || "nothing to do: the kernel holds what the policy says".to_owned(),
                    |change| format!("applied: {change}"),
                );
                let warnings = std::mem::take(&mut self.outcome.warnings);
                let told: String = warnings
                    .iter()
                    .map(|each| format!("warning: {each}\n"))
                    .collect();
                let (connections, as_json) = std::mem::take(&mut self.outcome.connections);
                let text = format!("{told}{text}\n{connections}");
                Answer::new(
                    control::Outcome::Done,
                    text.trim_end(),
                    json!({"changes": change.is_some(), "change": change, "warnings": warnings, "connections": as_json}),
                )
            }
        }
    }

    fn status(&self) -> Answer {
        let ago = |at: Duration| self.now().saturating_sub(at).as_secs();
        let reconcile = &self.reconcile;
        let entry = self.wanted.as_ref().map(|wanted| &wanted.kept.entry);
        let data = json!({
            "pid": std::process::id(),
            "started": self.started,
            "backend": self.holder.describe(),
            "uses": if self.holder.is_deaf() { "iptables" } else { "nft" },
            "policy": self.policy,
            "follows": self.follow,
            "in_force": entry.map(|entry| &entry.policy),
            "digest": entry.map(|entry| &entry.digest),
            "unsaved": self.wanted.as_ref().and_then(|wanted| wanted.unsaved_error.as_ref()),
            "counts": self.wanted.as_ref().map(|wanted| &wanted.counts),
            "in_sync_seconds": reconcile.in_sync_since.map(ago),
            "repairs": reconcile.repairs,
            "storm": reconcile.is_storm(),
            "last_repair": reconcile.last_repair.as_ref().map(|repair| json!({
                "seconds_ago": ago(repair.at),
                "by": repair.culprits,
            })),
            "last_error": reconcile.last_error,
            "policy_error": reconcile.policy_error,
            "pending_seconds": self.pending.as_ref().map(|trial| trial.seconds_left(&store::clock())),
            "others_gone": self.gone,
        });
        Answer::new(control::Outcome::Done, self.headline(), data)
    }
}

/// What is in a policy, for telling.
fn counts(policy: &Policy) -> Value {
    let overlays: Vec<Value> = policy.overlays.iter().map(overlay).collect();
    json!({
        "peers": policy.peer_count(),
        "overlays": overlays,
        "allows": policy.allows.len(),
    })
}

/// What is told of an overlay.
fn overlay(overlay: &Overlay) -> Value {
    let (how, files) = match &overlay.discovery {
        Discovery::Written => ("written", Vec::new()),
        Discovery::Found(found) => ("found", vec![found.name.clone()]),
        Discovery::Kept(found) => ("kept", vec![found.name.clone()]),
        Discovery::Awaited(paths) => ("awaited", paths.clone()),
    };
    let subnets: Vec<String> = overlay
        .subnets
        .iter()
        .map(|each| each.net.to_string())
        .collect();
    json!({
        "name": overlay.name,
        "subnets": subnets,
        "discovery": how,
        "files": files,
        "interface": overlay.link.as_ref().map(Link::to_string),
    })
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        log::debug!("systemd was not told: {err}");
    }
}

/// The file system, of which everything is watched that is read.
struct Watched<'w> {
    files: FileSystem,
    watch: RefCell<&'w mut Watch>,
}

impl Watched<'_> {
    fn watch(&self, path: &Path, relative_to: &str) {
        self.watch.borrow_mut().add(&beside(path, relative_to));
    }
}

impl Files for Watched<'_> {
    fn read(&self, path: &str, relative_to: &str) -> Result<Text, ReadError> {
        self.watch(Path::new(path), relative_to);
        self.files.read(path, relative_to)
    }

    fn glob(&self, pattern: &str, relative_to: &str) -> Result<Vec<String>, ReadError> {
        // The folder of the pattern, as far as it is none: files may come to be in it.
        let fixed: PathBuf = Path::new(pattern)
            .components()
            .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']))
            .collect();
        self.watch(&fixed.join("any"), relative_to);
        self.files.glob(pattern, relative_to)
    }

    fn last_good(&self, path: &str, relative_to: &str) -> Result<Option<Text>, ReadError> {
        self.files.last_good(path, relative_to)
    }

    fn waits(&self) -> bool {
        self.files.waits()
    }

    fn link(&self, name: &str) -> Result<Option<Link>, ReadError> {
        self.files.link(name)
    }

    fn host(&self) -> Result<Option<Host>, ReadError> {
        self.files.host()
    }
}
