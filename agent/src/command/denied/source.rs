//! Where denied packets come from: the agent, or the log group itself.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use peerwall_core::denied::log_of;
use peerwall_core::policy::BackendChoice;

use super::super::{policy_path, unreachable_agent};
use crate::cli::DeniedArgs;
use crate::control::{self, Reply, Request};
use crate::denied::Recorder;
use crate::enforce::Enforcer;
use crate::json::{Denials, DenialsAsked, ErrorCode, Failure, LogReader};
use crate::kernel::nflog::GroupError;
use crate::output::{Output, complain};
use crate::policy_file::files::FileSystem;
use crate::policy_file::prepare;
use crate::system::signals;

/// Interval of asking the agent.
const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for an event, after which signals are looked at.
const STEP: Duration = Duration::from_millis(250);

const OFF: &str = "the policy turns the log of denied packets off; set `denied = true` under \
                   `[log]` and apply the policy";

/// The source of denied packets.
pub(in crate::command) struct Source {
    origin: Origin,
    /// Whether an agent runs that leaves the group to other programs.
    is_left: bool,
    /// Set by a signal that ends the command.
    is_over: Arc<AtomicBool>,
}

enum Origin {
    Agent,
    /// This process reads the group, and the counters of the rules by a backend.
    Own(Box<Recorder>, Option<Box<Enforcer>>),
}

impl Source {
    /// Finds the source: the agent, or the group if there is no agent or it leaves the group.
    pub(super) fn open(args: &DeniedArgs) -> Result<Self, Failure> {
        let asked = DenialsAsked {
            seconds: 0,
            after: u64::MAX,
            counters: false,
        };
        let mut source =
            match ask(asked)?.map(|denials| (denials.reader, denials.totals.is_empty())) {
                Some((LogReader::Off, true)) => return Err(Failure::new(ErrorCode::LogOff, OFF)),
                // The agent may not see the name of the process.
                Some((LogReader::Other(_), true)) | None => Self::own(&args.policy)?,
                Some((LogReader::Left, _)) => Self {
                    is_left: true,
                    ..Self::own(&args.policy)?
                },
                Some(_) => Self::agent(),
            };
        source.is_over = signals::ending().map_err(|err| Failure::io(&err))?;
        Ok(source)
    }

    /// The record of the agent, which runs.
    pub(in crate::command) fn agent() -> Self {
        Self::of(Origin::Agent)
    }

    /// Becomes the reader of the log group of a policy.
    ///
    /// # Errors
    /// [`Failure`] if the policy cannot be read, does not log, or the group has a reader.
    pub(in crate::command) fn own(policy: &Option<PathBuf>) -> Result<Self, Failure> {
        own(policy).map(Self::of)
    }

    fn of(origin: Origin) -> Self {
        Self {
            origin,
            is_left: false,
            is_over: Arc::default(),
        }
    }

    /// Whether this process reads the group.
    pub(in crate::command) fn is_own(&self) -> bool {
        matches!(self.origin, Origin::Own(..))
    }

    /// Listens for a time, if no agent has recorded anything.
    pub(super) fn listen(&mut self, time: u64, output: &Output) {
        if !self.is_own() {
            return;
        }
        if !output.is_json() {
            let why = match self.is_left {
                true => "the agent leaves the log to other programs (--no-denied)",
                false => "no agent records denied packets",
            };
            complain(&format!(
                "{why}: listening for {time} s (--listen); Ctrl-C ends it\n"
            ));
        }
        let until = Instant::now() + Duration::from_secs(time);
        while Instant::now() < until && !self.is_over() {
            self.step(until);
        }
    }

    /// Waits until it is time to ask again. Returns whether a signal ended the command.
    pub(super) fn wait(&mut self) -> bool {
        let until = Instant::now() + EVERY;
        while Instant::now() < until && !self.is_over() {
            self.step(until);
        }
        self.is_over()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits for a packet, or a moment.
    fn step(&mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now()).min(STEP);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let fd = match &self.origin {
            Origin::Own(recorder, _) => recorder.fd(),
            Origin::Agent => None,
        };
        let mut fds: Vec<PollFd<'_>> = fd
            .into_iter()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut fds, timeout);
        self.drain();
    }

    /// Records pending packets, if this process reads the group.
    pub(in crate::command) fn drain(&mut self) {
        if let Origin::Own(recorder, _) = &mut self.origin
            && let Err(err) = recorder.drain()
        {
            complain(&format!(
                "warning: denied packets are not recorded: {err}\n"
            ));
        }
    }

    /// Returns the packets that were recorded.
    ///
    /// # Errors
    /// [`Failure`] if the agent ended, or does not answer.
    pub(in crate::command) fn denials(&mut self, asked: DenialsAsked) -> Result<Denials, Failure> {
        match &mut self.origin {
            Origin::Agent => ask(asked)?.ok_or_else(|| {
                let ended = io::Error::other("it ended");
                unreachable_agent(&ended)
            }),
            Origin::Own(recorder, enforcer) => {
                if asked.counters {
                    count(recorder, enforcer.as_deref_mut());
                }
                Ok(recorder.denials(asked, LogReader::Command))
            }
        }
    }
}

/// Asks the agent; `None` if there is none.
fn ask(asked: DenialsAsked) -> Result<Option<Denials>, Failure> {
    let Some(answer) = control::ask(Request::Denied(asked)) else {
        return Ok(None);
    };
    let answer = answer.map_err(|err| unreachable_agent(&err))?;
    match answer.reply {
        Reply::Denied(denials) => Ok(Some(*denials)),
        Reply::Failed(failure) => Err(failure),
        Reply::Status(_)
        | Reply::Applied(_)
        | Reply::Confirmed(_)
        | Reply::RolledBack(_)
        | Reply::Blocked(_)
        | Reply::Unblocked(_)
        | Reply::Sources(_)
        | Reply::Peers(_) => {
            let why = "the agent answered another question";
            Err(Failure::new(ErrorCode::Protocol, why))
        }
    }
}

/// Reads the group of the policy.
fn own(policy: &Option<PathBuf>) -> Result<Origin, Failure> {
    let path = policy_path(policy);
    let ready = prepare(&path, &FileSystem::default()).map_err(|why| Failure::from(&*why))?;
    let off = || Failure::new(ErrorCode::LogOff, OFF);
    let (group, prefix) = log_of(&ready.ruleset).ok_or_else(off)?;
    let mut recorder = Box::new(Recorder::new());
    recorder
        .listen(group, &prefix)
        .map_err(|err| refused(&err))?;
    let enforcer = Enforcer::choose(BackendChoice::Auto, |_| {}).ok();
    let mut enforcer = enforcer.map(Box::new);
    count(&mut recorder, enforcer.as_deref_mut());
    Ok(Origin::Own(recorder, enforcer))
}

fn refused(err: &GroupError) -> Failure {
    match err {
        GroupError::Taken { .. } => Failure::new(ErrorCode::LogTaken, err).help(
            "stop that program, or set another group for one of them (`[log] denied = { group = \
             6 }`)",
        ),
        GroupError::Refused { .. } => Failure::new(ErrorCode::Io, err),
    }
}

fn count(recorder: &mut Recorder, enforcer: Option<&mut Enforcer>) {
    if let Some(Ok(denied)) = enforcer.map(Enforcer::denied) {
        recorder.count(&denied);
    }
}
