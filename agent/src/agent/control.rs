//! The control socket: one line of JSON asks, one line of JSON answers.
//!
//! Root only, by the kernel's word for who is at the other end. Nobody is waited for: connections are
//! part of the agent's one poll, and who is slow or says too much is hung up on.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::caller::Caller;

/// Version of what is said over the socket.
pub const VERSION: u32 = 1;
const FOLDER: &str = "/run/peerwall";
const NAME: &str = "control.sock";
/// A question is shorter than this, in bytes.
const QUESTION_MAX_BYTES: usize = 64 * 1024;
/// An answer is shorter than this, in bytes.
const ANSWER_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Who has not asked, or not taken the answer, in this time is hung up on.
const PATIENCE: Duration = Duration::from_secs(5);
/// An apply of very many peers takes seconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
const CONNECTIONS_MAX: usize = 16;

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
    Rollback,
}

/// How to put a policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Seconds in which it must be confirmed.
    pub confirm: Option<u64>,
    /// Even if the caller would not be let in again.
    pub force: bool,
    /// From where it is wished.
    pub caller: Caller,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`]
    pub version: u32,
    /// The exit code that it means.
    pub code: u8,
    /// For people.
    pub text: String,
    /// For machines.
    pub data: Value,
}

impl Answer {
    /// An answer.
    pub fn new(code: u8, text: impl Into<String>, data: Value) -> Self {
        Self {
            version: VERSION,
            code,
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
    listener: UnixListener,
    path: PathBuf,
    connections: Vec<Connection>,
}

struct Connection {
    stream: UnixStream,
    heard: Vec<u8>,
    to_say: Vec<u8>,
    until: Instant,
}

impl Control {
    /// Listens.
    ///
    /// # Errors
    /// If another agent listens there, or the socket cannot be made.
    pub fn open() -> io::Result<Self> {
        let path = path();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
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
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path,
            connections: Vec::new(),
        })
    }

    /// Everything to poll for reading.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let streams = self.connections.iter().map(|each| each.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(streams)
    }

    /// When to look at it again, though nobody says anything.
    pub fn deadline(&self) -> Option<Instant> {
        self.connections.iter().map(|each| each.until).min()
    }

    /// Questions that are whole now, with who asked.
    pub fn questions(&mut self) -> Vec<(usize, Result<Command, Answer>)> {
        self.welcome();
        let now = Instant::now();
        self.connections
            .retain_mut(|each| each.until > now && each.hear());
        let mut found = Vec::new();
        for (index, each) in self.connections.iter_mut().enumerate() {
            if let Some(end) = each.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = each.heard.drain(..=end).collect();
                found.push((index, question(&line)));
            }
        }
        found
    }

    fn welcome(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.connections.len() >= CONNECTIONS_MAX
                || !is_root(&stream)
                || stream.set_nonblocking(true).is_err()
            {
                continue;
            }
            self.connections.push(Connection {
                stream,
                heard: Vec::new(),
                to_say: Vec::new(),
                until: Instant::now() + PATIENCE,
            });
        }
    }

    /// Answers who asked, and hangs up when it is said.
    pub fn answer(&mut self, index: usize, answer: &Answer) {
        if let (Some(each), Ok(mut text)) =
            (self.connections.get_mut(index), serde_json::to_vec(answer))
        {
            text.push(b'\n');
            each.to_say = text;
            // Short enough for the socket's buffer but for the longest; those are waited for.
            let _ = each.stream.set_nonblocking(false);
            let _ = each.stream.set_write_timeout(Some(PATIENCE));
            if let Err(err) = each.stream.write_all(&each.to_say) {
                log::debug!("an answer was not taken: {err}");
            }
            each.until = Instant::now();
        }
    }

    /// Forgets connections that are done.
    pub fn tidy(&mut self) {
        let now = Instant::now();
        self.connections.retain(|each| each.until > now);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Connection {
    /// Whether it goes on.
    fn hear(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return self.heard.contains(&b'\n'),
                Ok(len) => self.heard.extend_from_slice(&buffer[..len]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return err.kind() == io::ErrorKind::WouldBlock,
            }
            if self.heard.len() > QUESTION_MAX_BYTES {
                return false;
            }
        }
    }
}

fn is_root(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0)
}

fn question(line: &[u8]) -> Result<Command, Answer> {
    let refuse = |why: String| Answer::new(2, why, Value::Null);
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
    Some(converse(connect()?, command))
}

/// Whether an agent runs in this network namespace.
pub fn is_there() -> bool {
    connect().is_some()
}

fn connect() -> Option<UnixStream> {
    let stream = UnixStream::connect(path()).ok()?;
    // The same folder may be seen from several network namespaces.
    let agent = getsockopt(&stream, PeerCredentials).ok()?.pid();
    let namespace = |process: &str| {
        let path = Path::new("/proc").join(process).join("ns/net");
        fs::metadata(path).ok().map(|meta| meta.ino())
    };
    (namespace(&agent.to_string()) == namespace("self")).then_some(stream)
}

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
                answer.code == 2 && answer.text.contains(wanted),
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
