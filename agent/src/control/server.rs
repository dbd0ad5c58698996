//! Serves clients over a stream socket without blocking. All connections are part of the agent's
//! single poll; a client that is slow or sends too much is disconnected.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::Socket;

use crate::system::passing::{self, PAUSE};

/// Maximum size of a request, in bytes.
const QUESTION_MAX_BYTES: usize = 64 * 1024;
/// Time limit for a client to send its request, and to read the response.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 16;

/// Maximum number of connections that are accepted in one turn, so that each is read before others
/// displace it.
const WELCOMED_MAX: usize = CONNECTIONS_MAX / 2;

/// A listening socket and its clients.
pub(crate) struct Server {
    listener: Socket,
    admits: fn(&Socket) -> bool,
    connections: Vec<Connection>,
    next: u64,
    /// Accepting pauses until then, after a failure for lack of file descriptors or memory.
    rests_until: Option<Instant>,
}

/// Identifies a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientId(u64);

struct Connection {
    who: ClientId,
    /// User id of the client, if the kernel knows it (Unix sockets).
    user: Option<u32>,
    stream: Socket,
    heard: Vec<u8>,
    /// Rest of the response, once there was a request.
    to_say: Option<Vec<u8>>,
    /// Time of the last read or write.
    moved: Instant,
    until: Instant,
}

impl Server {
    /// Serves a listening socket. Clients that `admits` rejects are disconnected.
    ///
    /// # Errors
    /// [`io::Error`] if the socket cannot be made non-blocking.
    pub(crate) fn new(
        listener: impl Into<OwnedFd>,
        admits: fn(&Socket) -> bool,
    ) -> io::Result<Self> {
        let listener = Socket::from(listener.into());
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            admits,
            connections: Vec::new(),
            next: 0,
            rests_until: None,
        })
    }

    /// Returns the file descriptors to poll, with their events.
    pub(crate) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let connections = self.connections.iter().map(|each| {
            let flags = match each.to_say {
                Some(_) => PollFlags::POLLOUT,
                None => PollFlags::POLLIN,
            };
            (each.stream.as_fd(), flags)
        });
        let listener = (self.listener.as_fd(), PollFlags::POLLIN);
        let listener = (!self.rests()).then_some(listener);
        listener.into_iter().chain(connections)
    }

    /// Returns the time of the next turn without events.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let until = self.connections.iter().map(|each| each.until);
        until.chain(self.rests_until).min()
    }

    /// Returns the requests that are complete, with their clients. `whole` decides whether the
    /// received bytes are a request. Each client must be answered.
    pub(crate) fn questions(&mut self, whole: impl Fn(&[u8]) -> bool) -> Vec<(ClientId, Vec<u8>)> {
        self.welcome();
        let now = Instant::now();
        self.connections
            .retain_mut(|each| each.until > now && (each.to_say.is_some() || each.hear(&whole)));
        let waiting = self
            .connections
            .iter_mut()
            .filter(|each| each.to_say.is_none());
        waiting
            .filter(|each| whole(&each.heard))
            .map(|each| (each.who, std::mem::take(&mut each.heard)))
            .collect()
    }

    fn rests(&self) -> bool {
        self.rests_until.is_some_and(|until| until > Instant::now())
    }

    fn welcome(&mut self) {
        if self.rests() {
            return;
        }
        self.rests_until = None;
        for _ in 0..WELCOMED_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                // `poll` would report the socket as readable again immediately.
                Err(err) => {
                    log::warn!("a connection was not accepted: {err}");
                    self.rests_until = Some(Instant::now() + PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: Socket) {
        if !(self.admits)(&stream) || stream.set_nonblocking(true).is_err() {
            return;
        }
        let now = Instant::now();
        self.next += 1;
        self.connections.push(Connection {
            who: ClientId(self.next),
            user: getsockopt(&stream, PeerCredentials)
                .ok()
                .map(|peer| peer.uid()),
            stream,
            heard: Vec::new(),
            to_say: None,
            moved: now,
            until: now + PATIENCE,
        });
        if self.connections.len() > CONNECTIONS_MAX {
            self.make_room();
        }
    }

    /// Disconnects one client: the most idle one of the user with the most connections, so that no
    /// user displaces another.
    fn make_room(&mut self) {
        let mut count: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        for each in &self.connections {
            *count.entry(each.user).or_default() += 1;
        }
        let rank = |each: &Connection| (Reverse(count[&each.user]), each.moved, each.who.0);
        let idlest = self.connections.iter().enumerate();
        let idlest = idlest.min_by_key(|(_, each)| rank(each));
        if let Some((index, _)) = idlest {
            self.connections.remove(index);
        }
    }

    /// Sends a response to a client.
    pub(crate) fn answer(&mut self, who: ClientId, answer: Vec<u8>) {
        if let Some(each) = self.connections.iter_mut().find(|each| each.who == who) {
            each.to_say = Some(answer);
            each.moved = Instant::now();
            each.until = each.moved + PATIENCE;
        }
    }

    /// Writes pending responses as far as the clients read them, and disconnects the clients that
    /// have read theirs.
    pub(crate) fn say(&mut self) {
        let now = Instant::now();
        self.connections
            .retain_mut(|each| each.until > now && each.say());
    }
}

impl Connection {
    /// Reads the request. Returns whether the connection stays open.
    fn hear(&mut self, whole: impl Fn(&[u8]) -> bool) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return whole(&self.heard),
                Ok(len) => {
                    self.heard.extend_from_slice(&buffer[..len]);
                    self.moved = Instant::now();
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return passing::is_passing_io(&err),
            }
            if self.heard.len() > QUESTION_MAX_BYTES {
                return false;
            }
        }
    }

    /// Writes the response. Returns whether the connection stays open.
    fn say(&mut self) -> bool {
        let Some(rest) = &mut self.to_say else {
            return true;
        };
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(len) => {
                    rest.drain(..len);
                    self.moved = Instant::now();
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return passing::is_passing_io(&err),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn line(heard: &[u8]) -> bool {
        heard.ends_with(b"\n")
    }

    #[test]
    fn who_asks_is_answered_and_who_does_not_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("peerwall-server-{}", std::process::id()));
        let mut server = Server::new(UnixListener::bind(&path).unwrap(), |_| true).unwrap();
        let mut slow = UnixStream::connect(&path).unwrap();
        let mut asks = UnixStream::connect(&path).unwrap();
        slow.write_all(b"half").unwrap();
        asks.write_all(b"whole\n").unwrap();
        let questions = server.questions(line);
        assert_eq!(questions.len(), 1);
        assert_eq!(questions[0].1, b"whole\n");
        // More than a socket buffers, to a client that does not read.
        server.answer(questions[0].0, vec![b'x'; 8 << 20]);
        server.say();
        assert!(server.questions(line).is_empty());
        assert!(server.fds().any(|(_, flags)| flags == PollFlags::POLLOUT));
        let taker = std::thread::spawn(move || {
            let mut answer = Vec::new();
            asks.read_to_end(&mut answer).map(|_| answer.len())
        });
        while server.fds().any(|(_, flags)| flags == PollFlags::POLLOUT) {
            server.say();
        }
        assert_eq!(taker.join().unwrap().unwrap(), 8 << 20);
        // A client that sends too much is disconnected.
        let mut loud = UnixStream::connect(&path).unwrap();
        loud.write_all(&vec![b'x'; QUESTION_MAX_BYTES]).unwrap();
        server.questions(line);
        assert_eq!(server.fds().count(), 3);
        loud.write_all(b"xx").unwrap();
        server.questions(line);
        assert_eq!(
            server.fds().count(),
            2,
            "the slow one is left, and the listener"
        );
        let many = (0..2 * CONNECTIONS_MAX).map(|_| {
            let stream = UnixStream::connect(&path).unwrap();
            server.questions(line);
            stream
        });
        assert_eq!(many.collect::<Vec<_>>().len(), 2 * CONNECTIONS_MAX);
        assert_eq!(server.fds().count(), CONNECTIONS_MAX + 1);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn who_is_not_admitted_is_hung_up_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mut server = Server::new(listener, |_| false).unwrap();
        let mut stream = std::net::TcpStream::connect(to).unwrap();
        assert!(server.questions(line).is_empty());
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn sixteen_who_are_silent_do_not_keep_out_the_seventeenth() {
        let path = std::env::temp_dir().join(format!("peerwall-silent-{}", std::process::id()));
        let mut server = Server::new(UnixListener::bind(&path).unwrap(), |_| true).unwrap();
        let connect = |server: &mut Server, says: &[u8]| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(says).unwrap();
            let questions = server.questions(line);
            (stream, questions)
        };
        for says in [&b""[..], b"half", b"whole\n"] {
            // Clients with a request do not read the response.
            let mut others = Vec::new();
            for _ in 0..3 * CONNECTIONS_MAX {
                let (stream, questions) = connect(&mut server, says);
                for (who, _) in questions {
                    server.answer(who, vec![b'x'; 8 << 20]);
                    server.say();
                }
                others.push(stream);
            }
            assert_eq!(server.connections.len(), CONNECTIONS_MAX);
            let (mut asks, questions) = connect(&mut server, b"whole\n");
            assert_eq!(questions.len(), 1, "{says:?}");
            server.answer(questions[0].0, b"answer".to_vec());
            server.say();
            let mut answer = String::new();
            asks.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "answer", "{says:?}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn who_has_most_connections_makes_room() {
        let path = std::env::temp_dir().join(format!("peerwall-room-{}", std::process::id()));
        let mut server = Server::new(UnixListener::bind(&path).unwrap(), |_| true).unwrap();
        let streams: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| {
                let stream = UnixStream::connect(&path).unwrap();
                server.questions(line);
                stream
            })
            .collect();
        // The first client, which is also the most idle one, belongs to another user.
        let first = server.connections[0].who;
        server.connections[0].user = Some(u32::MAX);
        let second = server.connections[1].who;
        let late = UnixStream::connect(&path).unwrap();
        server.questions(line);
        let left: Vec<ClientId> = server.connections.iter().map(|each| each.who).collect();
        assert_eq!(left.len(), CONNECTIONS_MAX);
        assert!(left.contains(&first) && !left.contains(&second));
        drop((streams, late));
        std::fs::remove_file(path).unwrap();
    }
}
