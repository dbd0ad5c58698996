//! Records the denied packets that the rules log, for `peerwall denied`.
//!
//! The agent has a [`Recorder`] as long as it runs. Without an agent, the command has one while it
//! listens.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::net::if_::if_indextoname;
use peerwall_core::denied::{Counted, REASONS, Tally, Unread, Window, read};
use peerwall_core::policy::reason::Reason;

use crate::json::{Denials, DenialsAsked, LogReader};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::nflog::{GroupError, LogGroup};
use crate::store;

/// Interval of removing old flows.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// How long names of interfaces are kept: an index can get another name.
const NAMES_FOR: Duration = Duration::from_secs(10);
/// Maximum number of names of interfaces that are kept.
const NAMES_MAX: usize = 1024;

/// Denied packets since it began, in bounded memory.
pub struct Recorder {
    group: Option<LogGroup>,
    prefix: String,
    tally: Tally,
    counted: Counted,
    names: Names,
    started: String,
    /// Packets that other programs logged to the group.
    foreign: u64,
    /// Packets that could not be read.
    malformed: u64,
    /// Packets that were lost in groups that are no longer read.
    lost_before: u64,
    expire_due: Instant,
}

impl Recorder {
    /// Begins without a group.
    pub fn new() -> Self {
        Self {
            group: None,
            prefix: String::new(),
            tally: Tally::default(),
            counted: Counted::default(),
            names: Names::default(),
            started: store::time(),
            foreign: 0,
            malformed: 0,
            lost_before: 0,
            expire_due: Instant::now() + EXPIRE_EVERY,
        }
    }

    /// Reads a group from now on, instead of the one before.
    ///
    /// # Errors
    /// [`GroupError`] if it cannot be read; then none is.
    pub fn listen(&mut self, group: u16, prefix: &str) -> Result<(), GroupError> {
        self.prefix = prefix.to_owned();
        if self.group.as_ref().map(LogGroup::number) != Some(group) {
            self.stop();
            self.group = Some(LogGroup::bind(group)?);
        }
        Ok(())
    }

    /// Gives the group up. What was recorded stays.
    pub fn stop(&mut self) {
        self.lost_before = self.lost();
        self.group = None;
    }

    /// Whether a group is read.
    pub fn is_listening(&self) -> bool {
        self.group.is_some()
    }

    /// Returns the descriptor to poll.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.group.as_ref().and_then(LogGroup::fd)
    }

    /// Returns the time of the next turn without events.
    pub fn deadline(&self) -> Option<Instant> {
        self.group.as_ref().and_then(LogGroup::rest)
    }

    /// Records pending packets, a limited number in one turn.
    ///
    /// # Errors
    /// [`NetlinkError`] if the group can no longer be read; then none is.
    pub fn drain(&mut self) -> Result<(), NetlinkError> {
        let now = unix_now();
        if self.expire_due <= Instant::now() {
            self.expire_due = Instant::now() + EXPIRE_EVERY;
            self.tally.expire(now);
        }
        let Some(mut group) = self.group.take() else {
            return Ok(());
        };
        let drained =
            group.drain(
                |packet| match read(&packet, &self.prefix, |index| self.names.of(index)) {
                    Ok(seen) => self
                        .tally
                        .add(seen, packet.seconds().unwrap_or(now).min(now)),
                    Err(Unread::Foreign) => self.foreign += 1,
                    Err(Unread::Malformed) => self.malformed += 1,
                },
            );
        self.group = Some(group);
        if drained.is_err() {
            self.stop();
        }
        drained
    }

    /// Adds a reading of the rules' counters.
    pub fn count(&mut self, denied: &BTreeMap<Reason, u64>) {
        self.counted.update(denied);
    }

    /// Returns how many packets were lost because they were not read in time.
    pub fn lost(&self) -> u64 {
        self.lost_before + self.group.as_ref().map_or(0, LogGroup::lost)
    }

    /// Returns the number of recorded packets of each reason.
    pub fn recorded(&self) -> Vec<(Reason, u64)> {
        let totals = self.tally.totals(Window::last(0, unix_now()));
        let recorded = |reason: &Reason| {
            let total = totals.iter().find(|total| total.reason == *reason);
            total.map_or(0, |total| total.since_start)
        };
        let counts = REASONS
            .iter()
            .map(|reason| (reason.clone(), recorded(reason)));
        counts.collect()
    }

    /// Returns what was recorded.
    pub fn denials(&self, asked: DenialsAsked, reader: LogReader) -> Denials {
        let window = Window::last(asked.seconds, unix_now());
        let denied = self.counted.denied();
        Denials {
            reader,
            started: self.started.clone(),
            window_start: window.start,
            stamp: self.tally.stamp(),
            entries: self.tally.entries(window, asked.after),
            totals: self.tally.totals(window),
            denied: denied.map(|denied| denied.clone().into_iter().collect()),
            lost: self.lost(),
            foreign: self.foreign,
            malformed: self.malformed,
        }
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the time in seconds since the Unix epoch.
pub fn unix_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

/// Names of interfaces by their indices.
#[derive(Default)]
struct Names {
    known: BTreeMap<u32, String>,
    until: Option<Instant>,
}

impl Names {
    fn of(&mut self, index: u32) -> String {
        let now = Instant::now();
        if self.until.is_none_or(|until| until <= now) || self.known.len() >= NAMES_MAX {
            self.known.clear();
            self.until = Some(now + NAMES_FOR);
        }
        let name = self.known.entry(index).or_insert_with(|| {
            let name = if_indextoname(index);
            // It was deleted meanwhile.
            name.map_or_else(
                |_| format!("if{index}"),
                |name| name.to_string_lossy().into_owned(),
            )
        });
        name.clone()
    }
}
