//! The control socket: one line of JSON asks, one line of JSON answers.
//!
//! Root only, checked with SO_PEERCRED.

pub mod server;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use socket2::Socket;

use self::server::{PATIENCE, Server, Who};

use crate::host::caller::Caller;
use crate::secure_file::private::Private;
use crate::secure_file::{is_trusted, named};
use crate::system::passing;

/// Version of what is said over the socket.
pub const VERSION: u32 = 1;
const FOLDER: &str = "/run/peerwall";
const NAME: &str = "control.sock";
/// An answer is shorter than this, in bytes.
const ANSWER_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// An apply of very many peers takes seconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// [`VERSION`]
    pub version: u32,
    /// What is wanted.
    pub command: Command,
}

/// What can be asked of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Command {
    /// What it believes.
    Status,
    /// Read the policy and put it in force.
    Reload(Wish),
    /// The same, if it is this policy that it keeps.
    Apply(PathBuf, Wish),
    /// What waits for confirmation stays.
    Confirm(Caller),
    /// Go back to what was confirmed before.
    Rollback(Caller),
}

/// How to put a policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Seconds in which it must be confirmed.
    pub confirm: Option<u64>,
    /// Even if the caller would not be let in again.
    pub force: bool,
    /// Whether every open connection ends that the policy refuses.
    #[serde(default)]
    pub end_refused: bool,
    /// From where it is wished.
    pub caller: Caller,
}

/// How a command ended. The exit codes are made of it in [`command`](crate::command) alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", from = "u8")]
pub enum Outcome {
    /// Done, or nothing to do; 0 on the socket.
    Done,
    /// Nothing was changed, or not everything; 2 on the socket.
    Trouble,
}

impl From<Outcome> for u8 {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => 0,
            Outcome::Trouble => 2,
        }
    }
}

impl From<u8> for Outcome {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Done,
            _ => Self::Trouble,
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`]
    pub version: u32,
    /// How it ended.
    #[serde(rename = "code")]
    pub outcome: Outcome,
    /// For people.
    pub text: String,
    /// For machines.
    pub data: Value,
}

impl Answer {
    /// An answer.
    pub fn new(outcome: Outcome, text: impl Into<String>, data: Value) -> Self {
        Self {
            version: VERSION,
            outcome,
            text: text.into(),
            data,
        }
    }
}

/// Where the socket is.
pub fn path() -> PathBuf {
    let folder =
        std::env::var_os("PEERWALL_RUN").map_or_else(|| PathBuf::from(FOLDER), PathBuf::from);
    folder.join(NAME)
}

/// The agent's end.
pub struct Control {
    server: Server,
    path: PathBuf,
}

impl Control {
    /// Listens.
    ///
    /// # Errors
    /// If another agent listens there, or the socket cannot be made.
    pub fn open() -> io::Result<Self> {
        let path = path();
        // Where nobody else can put another in its place.
        if let Some(folder) = path.parent() {
            Private::writable_by_root(folder.to_owned()).make()?;
        }
        if UnixStream::connect(&path).is_ok() {
            return Err(io::Error::other(format!(
                "another agent runs: {} answers",
                path.display()
            )));
        }
        // What a killed one left.
        match fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            server: Server::new(listener, is_root)?,
            path,
        })
    }

    /// Everything to poll, and for what.
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.server.fds()
    }

    /// When to look at it again, though nobody says anything.
    pub fn deadline(&self) -> Option<Instant> {
        self.server.deadline()
    }

    /// Questions that are whole now, with who asked.
    pub(super) fn questions(&mut self) -> Vec<(Who, Result<Command, Answer>)> {
        let heard = self.server.questions(|heard| heard.contains(&b'\n'));
        let read =
            |text: Vec<u8>| question(text.split(|byte| *byte == b'\n').next().unwrap_or(&[]));
        heard
            .into_iter()
            .map(|(who, text)| (who, read(text)))
            .collect()
    }

    /// Answers who asked, and hangs up when it is said.
    pub(super) fn answer(&mut self, who: Who, answer: &Answer) {
        let mut text = serde_json::to_vec(answer).unwrap_or_default();
        text.push(b'\n');
        self.server.answer(who, text);
    }

    /// Says what there is to say, as far as it is taken.
    pub fn say(&mut self) {
        self.server.say();
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_root(stream: &Socket) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

fn question(line: &[u8]) -> Result<Command, Answer> {
    let refuse = |why: String| Answer::new(Outcome::Trouble, why, Value::Null);
    let value: Value = serde_json::from_slice(line)
        .map_err(|err| refuse(format!("the question is not JSON: {err}")))?;
    match value.get("version").and_then(Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        found => {
            let found = found.map_or_else(|| "none".to_owned(), |version| version.to_string());
            return Err(refuse(format!(
                "this agent speaks version {VERSION}, and the question is of version {found}; are agent and command of one release?"
            )));
        }
    }
    serde_json::from_value(value)
        .map(|question: Question| question.command)
        .map_err(|err| refuse(format!("the question cannot be read: {err}")))
}

/// Asks the agent of this network namespace; `None` if there is none.
///
/// # Errors
/// If it does not answer, or not so that it can be read.
pub fn ask(command: Command) -> Option<io::Result<Answer>> {
    let stream = match connect() {
        Ok(stream) => stream?,
        Err(err) => return Some(Err(err)),
    };
    Some(converse(stream, command))
}

/// The agent's status; `None` if there is no agent or it does not answer.
pub fn status() -> Option<Value> {
    Some(ask(Command::Status)?.ok()?.data)
}

/// Process id of the agent of this network namespace; `None` if there is none.
///
/// # Errors
/// If that cannot be told.
pub fn pid() -> io::Result<Option<i32>> {
    let Some(stream) = connect()? else {
        return Ok(None);
    };
    Ok(Some(getsockopt(&stream, PeerCredentials)?.pid()))
}

/// Whether an agent runs in this network namespace.
pub fn is_there() -> bool {
    connect().is_ok_and(|stream| stream.is_some())
}

/// Connects to the agent; `None` if there is none.
///
/// # Errors
/// If that cannot be told: a command that went on alone would change rules behind an agent's back.
fn connect() -> io::Result<Option<UnixStream>> {
    let stream = match passing::repeat(|| UnixStream::connect(path())) {
        Ok(stream) => stream,
        Err(err) if is_nobody(&err) => return Ok(None),
        Err(err) => return Err(named(&path(), err)),
    };
    // The same folder may be seen from several network namespaces.
    let peer = passing::repeat(|| Ok(getsockopt(&stream, PeerCredentials)?))?;
    if !is_trusted(peer.uid()) {
        log::warn!(
            "{} is not the agent's: process {} of user {} answers there",
            path().display(),
            peer.pid(),
            peer.uid()
        );
        return Ok(None);
    }
    let agent = peer.pid();
    let namespace = |process: &str| -> io::Result<u64> {
        let path = Path::new("/proc").join(process).join("ns/net");
        Ok(passing::repeat(|| fs::metadata(&path))?.ino())
    };
    let own = namespace("self")?;
    match namespace(&agent.to_string()) {
        Ok(of_agent) => Ok((of_agent == own).then_some(stream)),
        // It ended, or is of another PID namespace.
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Whether an error of connecting says that nobody listens. Users who may not ask count as if nobody did.
fn is_nobody(err: &io::Error) -> bool {
    let is_user = !nix::unistd::geteuid().is_root();
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    ) || err.kind() == io::ErrorKind::PermissionDenied && is_user
}

/// Asks; what fails after that does not tell whether the agent has done it.
fn converse(mut stream: UnixStream, command: Command) -> io::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let question = Question {
        version: VERSION,
        command,
    };
    let mut text = serde_json::to_vec(&question)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    hear(stream).map_err(|err| {
        let why = format!("{err}; the agent may have done it all the same, see `peerwall status`");
        io::Error::new(err.kind(), why)
    })
}

fn hear(stream: UnixStream) -> io::Result<Answer> {
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_MAX_BYTES)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::other("the agent hung up without an answer"));
    }
    serde_json::from_str(&line)
        .map_err(|err| io::Error::other(format!("the agent's answer cannot be read: {err}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_that_cannot_be_read_are_told_so() {
        for (line, wanted) in [
            ("", "not JSON"),
            ("hello", "not JSON"),
            ("{}", "version none"),
            ("{\"version\":2,\"command\":\"status\"}", "version 2"),
            ("{\"version\":1,\"command\":\"dance\"}", "cannot be read"),
            ("{\"version\":1}", "cannot be read"),
        ] {
            let answer = question(line.as_bytes()).expect_err(line);
            assert!(
                answer.outcome == Outcome::Trouble && answer.text.contains(wanted),
                "{line}: {}",
                answer.text
            );
        }
        assert_eq!(
            question(b"{\"version\":1,\"command\":\"status\"}\n"),
            Ok(Command::Status)
        );
    }
}
