//! Denied packets as they come, from the agent's record or from the log itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use peerwall_core::denied::{Entry, LONGEST_SECONDS, Stream};

use crate::command::denied::Known;
use crate::command::denied::rows::{Row, rows};
use crate::command::denied::source::Source;
use crate::command::given::Given;
use crate::command::status::Status;
use crate::json::{DenialsAsked, Failure, LogReader};

/// Maximum number of rows that are kept.
const ROWS_MAX: usize = 200;
/// Interval between attempts to read a log that cannot be read.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// What an agent does with the log of denied packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AgentLog {
    /// No agent runs, or it leaves the log to others.
    Left,
    /// It reads the log if it can, and is asked for its record.
    Kept,
    /// It does not answer.
    Silent,
}

impl AgentLog {
    pub(super) fn of(status: &Status) -> Self {
        match (&status.agent, &status.agent_error) {
            (_, Some(_)) => Self::Silent,
            (None, None) => Self::Left,
            (Some(agent), None) => match agent.log_reader {
                Some(LogReader::Left) => Self::Left,
                Some(_) | None => Self::Kept,
            },
        }
    }
}

/// Denied packets since the start, and some from before.
#[derive(Default)]
pub(super) struct Feed {
    source: Option<Source>,
    stream: Stream,
    /// The newest first.
    rows: VecDeque<Row>,
    trouble: Option<String>,
    /// Time of the next attempt to become the reader of the log.
    retry: Option<Instant>,
}

impl Feed {
    /// Rows of denied packets, the newest first.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// Why no packets are recorded now.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Adds what came since the last call.
    pub(super) fn read(&mut self, log: AgentLog, given: &Given) {
        if let Err(failure) = self.try_read(log, given) {
            self.source = None;
            self.trouble = Some(failure.error.message);
        }
    }

    fn try_read(&mut self, log: AgentLog, given: &Given) -> Result<(), Failure> {
        let is_own = self.source.as_ref().map(Source::is_own);
        let source = match (log, is_own) {
            (AgentLog::Silent, _) => return Ok(()),
            (AgentLog::Kept, Some(false)) | (AgentLog::Left, Some(true)) => self.source.take(),
            (AgentLog::Kept, _) => Some(Source::agent()),
            (AgentLog::Left, _) => self.own(given)?,
        };
        // An own log that an agent wants is closed here.
        self.source = source;
        let Some(source) = &mut self.source else {
            return Ok(());
        };
        source.drain();
        let mut ask = |stream: &Stream| {
            source.denials(DenialsAsked {
                seconds: LONGEST_SECONDS,
                after: stream.stamp(),
                counters: false,
            })
        };
        let mut denials = ask(&self.stream)?;
        let entries = std::mem::take(&mut denials.entries);
        let new = match self.stream.update(&denials.started, denials.stamp, entries) {
            Some(new) => new,
            None => {
                denials = ask(&self.stream)?;
                let entries = std::mem::take(&mut denials.entries);
                let new = self.stream.update(&denials.started, denials.stamp, entries);
                new.unwrap_or_default()
            }
        };
        self.trouble = match denials.reader == LogReader::Off {
            true => Some("the policy turns the log of denied packets off".to_owned()),
            false => denials.reader.trouble(),
        };
        self.add(new, given);
        Ok(())
    }

    /// Becomes the reader of the log; `None` until the next attempt.
    fn own(&mut self, given: &Given) -> Result<Option<Source>, Failure> {
        if self.retry.is_some_and(|at| Instant::now() < at) {
            return Ok(None);
        }
        self.retry = Some(Instant::now() + RETRY_AFTER);
        Source::own(&Some(given.path.clone())).map(Some)
    }

    fn add(&mut self, mut new: Vec<Entry>, given: &Given) {
        if new.is_empty() {
            return;
        }
        new.sort_by_key(|entry| std::cmp::Reverse(entry.last));
        new.truncate(ROWS_MAX);
        let policy = given.read.as_ref().map(|ready| ready.policy.clone());
        let known = Known::new(policy.unwrap_or_default());
        for row in rows(&new, &known, None).into_iter().rev() {
            self.rows.push_front(row);
        }
        self.rows.truncate(ROWS_MAX);
    }
}
