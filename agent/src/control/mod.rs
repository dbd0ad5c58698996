//! The control socket of the agent. Each request and each response is one line of JSON.
//!
//! Only root may connect, which is checked with SO_PEERCRED.

pub mod server;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
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

use self::server::{ClientId, PATIENCE, Server};

use crate::host::caller::Caller;
use crate::json::{
    AgentStatus, Applied, Blocked, Confirmed, Denials, DenialsAsked, ErrorCode, Failure,
    RolledBack, SourceList, TemporaryPeers, Unblocked,
};
use crate::secure_file::private::Private;
use crate::secure_file::{is_trusted, named};
use crate::system::passing;

/// Version of the protocol.
pub const VERSION: u32 = 2;
const FOLDER: &str = "/run/peerwall";
const NAME: &str = "control.sock";
/// Maximum size of a response, in bytes.
const ANSWER_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Time limit for a response; an apply with very many peers takes seconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// Time limit for the status: a hung agent must delay neither `peerwall status` nor a rollback.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// [`VERSION`]
    pub version: u32,
    /// The requested command.
    pub command: Request,
}

/// Commands of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Report the state.
    Status,
    /// Report denied packets.
    Denied(DenialsAsked),
    /// Read the policy and apply it.
    Reload(Wish),
    /// Like `Reload`, if the agent manages this policy.
    Apply(PathBuf, Wish),
    /// Confirm the waiting trial.
    Confirm(Caller),
    /// Roll back to the ruleset that was confirmed before.
    Rollback(Caller),
    /// Block the host.
    Block(BlockWish),
    /// End the block.
    Unblock(Wish),
    /// Report or change sources of members.
    Sources(SourcesAsked),
    /// Report or change temporary peers.
    Peer(PeerAsked),
}

/// What to do with temporary peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PeerAsked {
    /// Report all of them.
    List,
    /// Add one, or change its name and end.
    Add(PeerWish),
    /// Remove those with this name or address.
    Remove(String),
}

/// A temporary peer to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerWish {
    /// Name.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Time until its end; `None` if it has none.
    pub seconds: Option<u64>,
    /// Whether it stays when the policy is loaded again.
    pub keep: bool,
}

/// What to do with sources of members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SourcesAsked {
    /// Report all of them.
    List,
    /// Report them, and the members of one.
    Show(String),
    /// Believe the last answer of one.
    Accept(String),
    /// Remove a member of one.
    Forget(String, IpAddr),
}

/// Options for applying a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Time limit for the confirmation, in seconds; `None` to apply without a trial.
    pub confirm: Option<u64>,
    /// Apply even if it would lock out the caller.
    pub force: bool,
    /// Whether to end all open connections that the policy refuses.
    #[serde(default)]
    pub end_refused: bool,
    /// The caller of the command.
    pub caller: Caller,
}

/// Options of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockWish {
    /// Whether to keep the peers of the policy in force.
    pub keep_peers: bool,
    /// How it is applied.
    pub wish: Wish,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The agent's status.
    Status(Box<AgentStatus>),
    /// Denied packets.
    Denied(Box<Denials>),
    /// An apply or reload.
    Applied(Applied),
    /// A confirm.
    Confirmed(Confirmed),
    /// A rollback.
    RolledBack(RolledBack),
    /// A block.
    Blocked(Blocked),
    /// The end of a block.
    Unblocked(Unblocked),
    /// Sources of members.
    Sources(Box<SourceList>),
    /// Temporary peers.
    Peers(TemporaryPeers),
    /// Nothing was done, or not everything.
    Failed(Failure),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`]
    pub version: u32,
    /// The result for people.
    pub text: String,
    /// The result.
    pub reply: Reply,
}

impl Answer {
    /// Creates an answer.
    pub fn new(text: impl Into<String>, reply: Reply) -> Self {
        Self {
            version: VERSION,
            text: text.into(),
            reply,
        }
    }

    /// Creates the answer of a command that failed.
    pub fn failed(text: impl Into<String>, failure: Failure) -> Self {
        Self::new(text, Reply::Failed(failure))
    }
}

/// Returns the path of the socket.
pub fn path() -> PathBuf {
    let folder =
        std::env::var_os("PEERWALL_RUN").map_or_else(|| PathBuf::from(FOLDER), PathBuf::from);
    folder.join(NAME)
}

/// The agent's end of the control socket.
pub struct Control {
    server: Server,
    path: PathBuf,
}

impl Control {
    /// Creates the socket and listens.
    ///
    /// # Errors
    /// [`io::Error`] if another agent listens there, or the socket cannot be created.
    pub fn open() -> io::Result<Self> {
        let path = path();
        // In a directory where only root can replace the socket.
        if let Some(folder) = path.parent() {
            Private::writable_by_root(folder.to_owned()).make()?;
        }
        if UnixStream::connect(&path).is_ok() {
            return Err(io::Error::other(format!(
                "another agent is running: it listens at {}",
                path.display()
            )));
        }
        // A killed agent leaves its socket.
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

    /// Returns the file descriptors to poll, with their events.
    pub fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.server.fds()
    }

    /// Returns the time of the next turn without events.
    pub fn deadline(&self) -> Option<Instant> {
        self.server.deadline()
    }

    /// Questions that are whole now, with who asked.
    pub(super) fn questions(&mut self) -> Vec<(ClientId, Result<Request, Box<Answer>>)> {
        let heard = self.server.questions(|heard| heard.contains(&b'\n'));
        let read =
            |text: Vec<u8>| question(text.split(|byte| *byte == b'\n').next().unwrap_or(&[]));
        heard
            .into_iter()
            .map(|(who, text)| (who, read(text)))
            .collect()
    }

    /// Sends a response, and disconnects the client after it.
    pub(super) fn answer(&mut self, who: ClientId, answer: &Answer) {
        let mut text = serde_json::to_vec(answer).unwrap_or_default();
        text.push(b'\n');
        self.server.answer(who, text);
    }

    /// Writes pending responses as far as the clients read them.
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

fn question(line: &[u8]) -> Result<Request, Box<Answer>> {
    let refuse = |why: String| {
        let failure = Failure::new(ErrorCode::Protocol, &why);
        Box::new(Answer::failed(why, failure))
    };
    let value: Value = serde_json::from_slice(line)
        .map_err(|err| refuse(format!("the request is not JSON: {err}")))?;
    match value.get("version").and_then(Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        found => {
            let found = found.map_or_else(|| "none".to_owned(), |version| version.to_string());
            return Err(refuse(format!(
                "this agent speaks version {VERSION}, but the request has version {found}; are \
                 agent and command of the same release?"
            )));
        }
    }
    serde_json::from_value(value)
        .map(|question: Question| question.command)
        .map_err(|err| refuse(format!("the request cannot be read: {err}")))
}

/// Sends a request to the agent of this network namespace; `None` if there is none.
///
/// # Errors
/// [`io::Error`] if the agent does not answer, or the response cannot be read.
pub fn ask(command: Request) -> Option<io::Result<Answer>> {
    let stream = match connect() {
        Ok(stream) => stream?,
        Err(err) => return Some(Err(err)),
    };
    Some(converse(stream, command))
}

/// The agent's status; `None` if there is no agent or it does not answer.
pub fn status() -> Option<AgentStatus> {
    match ask(Request::Status)?.ok()?.reply {
        Reply::Status(status) => Some(*status),
        Reply::Denied(_)
        | Reply::Applied(_)
        | Reply::Confirmed(_)
        | Reply::RolledBack(_)
        | Reply::Blocked(_)
        | Reply::Unblocked(_)
        | Reply::Sources(_)
        | Reply::Peers(_)
        | Reply::Failed(_) => None,
    }
}

/// Returns the process id of the agent of this network namespace; `None` if there is none.
///
/// # Errors
/// [`io::Error`] if it cannot be determined.
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
/// [`io::Error`] if it cannot be determined. A command must then stop, so that it does not change
/// rules without the agent.
fn connect() -> io::Result<Option<UnixStream>> {
    let stream = match passing::repeat(|| UnixStream::connect(path())) {
        Ok(stream) => stream,
        Err(err) if is_nobody(&err) => return Ok(None),
        Err(err) => return Err(named(&path(), err)),
    };
    // Several network namespaces may share the directory.
    let peer = passing::repeat(|| Ok(getsockopt(&stream, PeerCredentials)?))?;
    if !is_trusted(peer.uid()) {
        log::warn!(
            "{} does not belong to the agent: process {} of user {} listens there",
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
        // The agent has ended, or is in another PID namespace.
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Whether an error of connect(2) means that no agent listens. Users without permission continue as
/// without an agent.
fn is_nobody(err: &io::Error) -> bool {
    let is_user = !nix::unistd::geteuid().is_root();
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    ) || err.kind() == io::ErrorKind::PermissionDenied && is_user
}

/// Sends a request and reads the response. After an error, the agent may or may not have run the
/// command.
fn converse(mut stream: UnixStream, command: Request) -> io::Result<Answer> {
    let is_status = matches!(command, Request::Status | Request::Denied(_));
    let patience = match is_status {
        true => STATUS_PATIENCE,
        false => ANSWER_PATIENCE,
    };
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let question = Question {
        version: VERSION,
        command,
    };
    let mut text = serde_json::to_vec(&question)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    hear(stream).map_err(|err| {
        // A read that ran out of time.
        let why = match err.kind() == io::ErrorKind::WouldBlock {
            true => format!("no response within {} s", patience.as_secs()),
            false => err.to_string(),
        };
        let why = match is_status {
            true => format!("{why}; it is busy, or it hangs"),
            false => {
                format!("{why}; the agent may still have run the command, see `peerwall status`")
            }
        };
        io::Error::new(err.kind(), why)
    })
}

fn hear(stream: UnixStream) -> io::Result<Answer> {
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_MAX_BYTES)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::other(
            "the agent disconnected without a response",
        ));
    }
    serde_json::from_str(&line).map_err(|err| {
        io::Error::other(format!(
            "the agent's response cannot be read: {err}; are agent and command of one release?"
        ))
    })
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
            ("{\"version\":1,\"command\":\"status\"}", "version 1"),
            ("{\"version\":2,\"command\":\"dance\"}", "cannot be read"),
            ("{\"version\":2}", "cannot be read"),
        ] {
            let answer = question(line.as_bytes()).expect_err(line);
            assert!(
                matches!(answer.reply, Reply::Failed(_)) && answer.text.contains(wanted),
                "{line}: {}",
                answer.text
            );
        }
        assert_eq!(
            question(b"{\"version\":2,\"command\":\"status\"}\n"),
            Ok(Request::Status)
        );
    }
}
