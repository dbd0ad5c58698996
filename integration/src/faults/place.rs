//! The directory of a run, and how a traced process ended.

use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

/// How a traced process ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// Its status; nothing if it had to be killed.
    pub status: Option<ExitStatus>,
    /// Both of its outputs.
    pub said: String,
    /// Its calls, as strace prints them.
    pub log: String,
    /// How long it took.
    pub took: Duration,
}

impl Ended {
    /// The exit code, if it exited.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// Names of the calls, in order.
    pub fn calls(&self) -> Vec<String> {
        names(&self.log)
    }

    /// The call that failed.
    pub fn injected(&self) -> Option<&str> {
        self.log.lines().find(|line| line.contains("(INJECTED)"))
    }

    /// Whether a write to standard output or standard error failed, so that something could not be
    /// said.
    pub fn lost_output(&self) -> bool {
        let fd = self.injected().and_then(|call| call.split_once('('));
        fd.is_some_and(|(name, rest)| {
            name.starts_with("write") && (rest.starts_with("1,") || rest.starts_with("2,"))
        })
    }
}

/// Whether the Rust runtime ended the process before `main`: it panics if it gets no alternative
/// signal stack.
pub fn is_before_main(said: &str) -> bool {
    let reasons = [
        "failed to allocate an alternative stack",
        "failed to set up alternative stack",
    ];
    reasons.iter().any(|reason| said.contains(reason))
}

/// A directory of a run: policies, state and control socket.
#[derive(Debug, Clone)]
pub struct Place {
    /// The directory.
    pub path: PathBuf,
}

impl Place {
    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// A file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Files in the state directory.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state()).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Whether a trial waits that was not settled, as the files say.
    pub fn trial_waits(&self) -> bool {
        let Some(trial) = self.read("pending.json") else {
            return false;
        };
        let history = self.read("confirmed.json");
        history.is_none_or(|history| history["settled"] != trial["id"])
    }

    /// Whether the trial that waits has a ruleset to go back to, as its file says.
    pub fn has_way_back(&self) -> bool {
        let trial = self.read("pending.json");
        trial.is_some_and(|trial| trial["before"]["ruleset"].is_object())
    }

    fn read(&self, name: &str) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.state().join(name)).ok()?).ok()
    }
}

/// Names of the calls that strace printed, in order.
pub(super) fn names(log: &str) -> Vec<String> {
    let name = |line: &str| Some(line.split_once('(')?.0.to_owned());
    let is_name = |name: &String| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    log.lines().filter_map(name).filter(is_name).collect()
}
