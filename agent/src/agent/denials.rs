//! Records denied packets: reads the log group of the loaded rules, and answers `peerwall denied`.

use std::time::{Duration, Instant};

use peerwall_core::denied::log_of;

use super::Agent;
use crate::control::{Answer, Reply};
use crate::denied::Recorder;
use crate::json::{DenialsAsked, LogReader};

/// Interval between attempts to read a group that another process reads.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// State of the log group.
pub(super) struct DenialLog {
    pub(super) recorder: Recorder,
    /// Whether the group is left to other programs.
    is_left: bool,
    /// Group and prefix of the loaded rules; `None` if they do not log.
    wanted: Option<(u16, String)>,
    /// Why the group is not read.
    trouble: Option<String>,
    /// Time of the next attempt.
    retry: Option<Instant>,
    /// Whether the counters of the rules were read when the record began.
    is_counted: bool,
}

impl DenialLog {
    pub(super) fn new(is_left: bool) -> Self {
        Self {
            recorder: Recorder::new(),
            is_left,
            wanted: None,
            trouble: None,
            retry: None,
            is_counted: false,
        }
    }

    /// Returns the time of the next turn without events.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.recorder.deadline().into_iter().chain(self.retry).min()
    }

    /// Returns the reader of the group.
    pub(super) fn reader(&self) -> LogReader {
        match (&self.wanted, &self.trouble) {
            _ if self.is_left => LogReader::Left,
            (None, _) => LogReader::Off,
            (Some(_), Some(why)) => LogReader::Other(why.clone()),
            (Some(_), None) => LogReader::Agent,
        }
    }
}

impl Agent {
    /// Reads the log group of the wanted rules from now on.
    pub(super) fn follow_log(&mut self) {
        let wanted = self.belief.wanted.as_ref();
        let log = wanted.and_then(|wanted| log_of(&wanted.kept.ruleset));
        if log != self.log.wanted {
            self.log.wanted = log;
            self.open_log();
        }
    }

    fn open_log(&mut self) {
        self.log.trouble = None;
        self.log.retry = None;
        let (false, Some((group, prefix))) = (self.log.is_left, &self.log.wanted) else {
            return self.log.recorder.stop();
        };
        match self.log.recorder.listen(*group, prefix) {
            Ok(()) => {
                self.reported.said.remove("log group");
                if !std::mem::replace(&mut self.log.is_counted, true) {
                    self.count_denied();
                }
            }
            Err(err) => self.lose_log(err.to_string()),
        }
    }

    /// Tries again later. Denied packets are not recorded meanwhile, which concerns nothing else.
    fn lose_log(&mut self, why: String) {
        if self.is_news("log group", &why) {
            log::warn!(
                event = "log_not_read", error = why;
                "denied packets are not recorded: {why}"
            );
        }
        self.log.trouble = Some(why);
        self.log.retry = Some(Instant::now() + RETRY_AFTER);
    }

    /// Records pending packets, a limited number in one turn.
    pub(super) fn record_denied(&mut self) {
        if self.log.retry.is_some_and(|at| at <= Instant::now()) {
            self.open_log();
        }
        if let Err(err) = self.log.recorder.drain() {
            self.lose_log(err.to_string());
        }
    }

    fn count_denied(&mut self) {
        if let Some(denied) = self.backend.denied() {
            self.log.recorder.count(&denied);
        }
    }

    pub(super) fn denied(&mut self, asked: DenialsAsked) -> Answer {
        if asked.counters && self.log.is_counted {
            self.count_denied();
        }
        let reader = self.log.reader();
        let denials = self.log.recorder.denials(asked, reader);
        Answer::new(String::new(), Reply::Denied(Box::new(denials)))
    }
}
