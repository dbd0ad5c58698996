//! The agent: enforces the policy of a host.
//!
//! A single thread runs one `poll` for rule changes, files, requests, signals and timers.
//! [`peerwall_core::agent::reconcile`] decides what to do; this module does it.

mod beliefs;
mod block;
mod denials;
mod error;
pub mod exporter;
mod exposition;
mod members;
mod metrics;
mod open;
mod policy;
mod report;
mod requests;
mod rules;
mod source_metrics;
mod start;
mod temporary;
mod trial;
mod watch;

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use peerwall_core::agent::reconcile::{Input, Reconcile, Task};
use peerwall_core::policy::BackendChoice;
use sd_notify::NotifyState;

use crate::cli::RunArgs;
use crate::connections::{Connections, Older};
use crate::control::{Control, Wish};
use crate::enforce::foreign;
use crate::enforce::{Enforcer, Watched};
use crate::kernel::events::RulesEvent;
use crate::kernel::links::Links;
use crate::store::since;
use crate::store::temporary::Temporary;
use crate::store::{self, State};
use crate::system::passing;
use crate::system::watchdog;
use beliefs::{Belief, ReloadOutcome};
use denials::DenialLog;
pub use error::AgentError;
use exporter::Exporter;
use members::MemberSources;
pub use members::saved as saved_members;
use watch::Watch;

/// Interval of checking the rules if there are no events.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Interval of writing metrics, if they are enabled.
const METRICS_EVERY: Duration = Duration::from_secs(15);
/// Delay before connections are ended that were accepted while the rules were not loaded. It
/// restarts with every repair, so that frequent repairs are not slowed down.
const SWEEP_AFTER: Duration = Duration::from_secs(1);
/// How many removals of foreign tables `status` remembers.
const GONE_MAX: usize = 8;
/// Interval between attempts to roll back.
const RETRY_TRIAL: Duration = Duration::from_millis(100);

/// Runs the agent until SIGTERM or SIGINT. The rules stay loaded, except those of a trial.
///
/// # Errors
/// [`AgentError`] if it cannot start or continue; never because of an invalid policy.
pub fn run(args: &RunArgs) -> Result<(), AgentError> {
    let mut agent = Agent::start(args)?;
    agent.begin();
    agent.ready();
    while agent.turn()? {}
    agent.save_members();
    notify(&[NotifyState::Stopping]);
    agent.end_trial_at_stop();
    log::info!(event = "agent_stopped"; "the agent stopped; the rules stay loaded");
    Ok(())
}

struct Agent {
    options: Options,
    sources: Sources,
    start: Instant,
    started: String,
    reconcile: Reconcile,
    backend: Watched,
    state: State,
    belief: Belief,
    open: Open,
    members: MemberSources,
    /// Peers that were added by hand; `None` if there never was one since the policy was loaded.
    temporary: Option<Temporary>,
    /// Whether the policy is about to be read because somebody asked for that.
    is_reload: bool,
    /// Digests of the large sets that were loaded last.
    digests: since::Digests,
    log: DenialLog,
    reported: Reported,
    /// The options of the current request.
    wish: Option<Wish>,
    outcome: ReloadOutcome,
}

/// Options of the command line.
struct Options {
    policy: PathBuf,
    asked: Option<BackendChoice>,
    /// Whether to own the table, if the kernel supports it.
    owns: bool,
    metrics_file: Option<PathBuf>,
    /// Whether policy files that users other than root can write are refused.
    secure: bool,
    /// Whether the policy is read whenever one of its files changes.
    follow: bool,
}

/// Sources of events, except those of the backend.
struct Sources {
    watch: Watch,
    /// Events of interfaces, if the policy depends on any.
    links: Option<Links>,
    control: Control,
    exporter: Option<Exporter>,
    signals: SignalFd,
}

/// State of open connections, opened on first use.
#[derive(Default)]
struct Open {
    connections: Option<Connections>,
    /// Connections older than the first policy, which it refuses; `None` before the first policy.
    older: Option<Older>,
    /// When to end connections that were accepted while the rules were not loaded.
    sweep_due: Option<Instant>,
}

/// State of metrics and logs.
struct Reported {
    metrics: metrics::Metrics,
    metrics_due: Option<Instant>,
    /// Number of repairs, by the name of the process that caused them.
    blamed: BTreeMap<String, u64>,
    /// The last log message about each repeated attempt.
    said: BTreeMap<&'static str, String>,
    /// Chains of other firewalls that also drop packets.
    foreign: foreign::Count,
}

impl Agent {
    fn start(args: &RunArgs) -> Result<Self, AgentError> {
        let signals = block_signals().map_err(AgentError::Signals)?;
        let control = Control::open().map_err(AgentError::Control)?;
        let exporter = args.metrics_listen.as_ref().map(Exporter::open);
        let exporter = exporter.transpose().map_err(AgentError::Metrics)?;
        let asked = args.backend.unwrap_or(BackendChoice::Auto);
        let enforcer = Enforcer::choose(asked, |err| {
            log::warn!("{err}; using iptables instead");
        });
        let backend = Watched::new(enforcer?, !args.no_owner)?;
        let poll = backend.is_iptables().then_some(LOOK_EVERY);
        let policy = std::path::absolute(&args.policy).map_err(AgentError::Path)?;
        watchdog::start();
        Ok(Self {
            options: Options {
                policy,
                asked: args.backend,
                owns: !args.no_owner,
                metrics_file: args.metrics_file.clone(),
                secure: !args.insecure_permissions,
                follow: !args.no_follow,
            },
            sources: Sources {
                watch: Watch::new().map_err(AgentError::Inotify)?,
                links: None,
                control,
                exporter,
                signals,
            },
            start: Instant::now(),
            started: store::time(),
            reconcile: Reconcile::new(poll),
            backend,
            state: State::open(),
            belief: Belief::default(),
            open: Open::default(),
            members: MemberSources::new().map_err(AgentError::Inotify)?,
            temporary: None,
            is_reload: false,
            digests: since::Digests::default(),
            log: DenialLog::new(args.no_denied),
            reported: Reported {
                metrics_due: args.metrics_file.as_ref().map(|_| Instant::now()),
                metrics: metrics::Metrics::new(),
                blamed: BTreeMap::new(),
                said: BTreeMap::new(),
                foreign: foreign::Count::default(),
            },
            wish: None,
            outcome: ReloadOutcome::default(),
        })
    }

    /// Takes over the state of an earlier agent, and reads the policy.
    fn begin(&mut self) {
        let (version, policy) = (env!("CARGO_PKG_VERSION"), self.options.policy.display());
        log::info!(
            event = "agent_started", version, policy:%;
            "peerwall {version} started with {policy}"
        );
        self.take_up_temporary();
        self.take_up();
        self.feed(Input::Start);
        if self.belief.is_trial || self.is_blocked() {
            // The policy is read after the trial or block; that ruleset stays loaded until then.
            self.feed(Input::Wanted);
        }
    }

    fn ready(&self) {
        notify(&[NotifyState::Ready, NotifyState::Status(&self.headline())]);
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Runs one turn: waits for events and handles them. Returns whether to continue.
    fn turn(&mut self) -> Result<bool, AgentError> {
        self.know_older();
        self.wait()?;
        let signals = self.signals();
        if signals.contains(&Signal::SIGTERM) || signals.contains(&Signal::SIGINT) {
            return Ok(false);
        }
        if signals.contains(&Signal::SIGHUP) {
            self.is_reload = true;
            self.feed(Input::Reload);
        }
        let changes = self.backend.drain();
        self.hear(changes);
        let files = self.sources.watch.drain();
        let links = self.sources.links.as_mut().is_some_and(Links::drain);
        if self.options.follow && (files || links) {
            self.feed(Input::Files);
        }
        for (who, question) in self.sources.control.questions() {
            let answer = question.map_or_else(|refusal| *refusal, |command| self.obey(command));
            self.sources.control.answer(who, &answer);
        }
        self.sources.control.say();
        if let Some(mut exporter) = self.sources.exporter.take() {
            exporter.serve(|| self.metrics());
            self.sources.exporter = Some(exporter);
        }
        let clock = store::clock();
        if self
            .belief
            .pending
            .as_ref()
            .is_some_and(|trial| trial.is_over(&clock))
        {
            self.end_trial();
        }
        self.end_temporary();
        self.feed(Input::Tick);
        self.follow_members();
        self.sweep();
        self.record_denied();
        watchdog::progress();
        self.write_metrics();
        Ok(true)
    }

    fn wait(&self) -> Result<(), AgentError> {
        let timeout = self.timeout();
        let mut heard: Vec<BorrowedFd<'_>> = vec![self.sources.watch.as_fd(), self.members.as_fd()];
        heard.extend(self.backend.fd());
        heard.extend(self.sources.links.iter().map(Links::as_fd));
        heard.push(self.sources.signals.as_fd());
        heard.extend(self.log.recorder.fd());
        let heard = heard.into_iter().map(|fd| (fd, PollFlags::POLLIN));
        let asked = self.sources.control.fds();
        let asked = asked.chain(self.sources.exporter.iter().flat_map(Exporter::fds));
        let mut fds: Vec<PollFd<'_>> = heard
            .chain(asked)
            .map(|(fd, flags)| PollFd::new(fd, flags))
            .collect();
        match poll(&mut fds, timeout) {
            Ok(_) => Ok(()),
            Err(err) if passing::survive(err as i32) => Ok(()),
            Err(err) => Err(AgentError::Poll(err)),
        }
    }

    /// Returns how long the agent can sleep without events.
    fn timeout(&self) -> PollTimeout {
        let reconcile = self
            .reconcile
            .deadline()
            .map(|at| at.saturating_sub(self.now()));
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let exporter = self.sources.exporter.as_ref().and_then(Exporter::deadline);
        let asked = [self.sources.control.deadline(), exporter];
        let asked = asked.into_iter().flatten().min().map(until);
        let watchdog = watchdog::due().map(until);
        let sweep = self.open.sweep_due.map(until);
        let log = self.log.deadline().map(until);
        let members = self.members.deadline(Instant::now()).map(until);
        let clock = store::clock();
        let pending = self.belief.pending.as_ref();
        let pending = pending.map(|trial| trial.left(&clock).max(RETRY_TRIAL));
        let metrics = self.reported.metrics_due.map(until);
        let temporary = self.temporary_deadline().map(until);
        let next = [
            reconcile, asked, watchdog, pending, metrics, sweep, log, members, temporary,
        ]
        .into_iter()
        .flatten()
        .min();
        next.map_or(PollTimeout::NONE, |wait| {
            // Rounded up, because waking up early would poll repeatedly.
            let ms = wait.as_micros().div_ceil(1000).min(60_000_000);
            PollTimeout::try_from(i32::try_from(ms).unwrap_or(i32::MAX))
                .unwrap_or(PollTimeout::NONE)
        })
    }

    /// Returns the pending signals.
    fn signals(&mut self) -> Vec<Signal> {
        let next = || self.sources.signals.read_signal().ok().flatten();
        let numbers = std::iter::from_fn(next).map(|info| info.ssi_signo);
        let signals = numbers.filter_map(|number| i32::try_from(number).ok()?.try_into().ok());
        signals.collect()
    }

    fn hear(&mut self, changes: Vec<RulesEvent>) {
        for change in changes {
            match change {
                RulesEvent::Ours(by) => self.feed(Input::Touched(by)),
                RulesEvent::Lost => self.feed(Input::Lost),
                RulesEvent::Gone(tables, by) => self.report_deleted(&tables, by.as_ref()),
            }
        }
    }

    /// Feeds the state machine, and runs its actions until there are none.
    fn feed(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let mut action = self.reconcile.step(self.now(), input);
            while let Some(todo) = action {
                let came = match todo {
                    Task::Read => self.read(),
                    Task::Converge(why) => self.converge(&why),
                };
                action = self.reconcile.step(self.now(), came);
            }
            next = std::mem::take(&mut self.belief.look_again).then_some(Input::Files);
        }
    }
}

/// Blocks the signals that end or reload the agent, and returns the descriptor that reports them: a
/// signal that arrives at any moment ends the next `poll` at once, without a handler that could
/// fail.
fn block_signals() -> nix::Result<SignalFd> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        log::debug!("cannot notify systemd: {err}");
    }
}
