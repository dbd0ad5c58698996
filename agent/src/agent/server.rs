//! Those who ask the agent something over a stream socket. None of them is waited for: their connections
//! are part of the agent's one poll, and who is slow or says too much is hung up on.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use socket2::Socket;

/// A question is shorter than this, in bytes.
const QUESTION_MAX_BYTES: usize = 64 * 1024;
/// Who has not asked, or not taken the answer, in this time is hung up on.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 16;

/// A listening socket, and who is connected.
pub(super) struct Server {
    listener: Socket,
    admits: fn(&Socket) -> bool,
    connections: Vec<Connection>,
    next: u64,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who(u64);

struct Connection {
    who: Who,
    stream: Socket,
    heard: Vec<u8>,
    /// What is yet to be said, once there was a question.
    to_say: Option<Vec<u8>>,
    until: Instant,
}

impl Server {
    /// Serves a socket that listens, for those that `admits` lets in.
    ///
    /// # Errors
    /// If the socket cannot be made not to block.
    pub(super) fn new(
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
        })
    }

    /// Everything to poll, and for what.
    pub(super) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let connections = self.connections.iter().map(|each| {
            let flags = match each.to_say {
                Some(_) => PollFlags::POLLOUT,
                None => PollFlags::POLLIN,
            };
            (each.stream.as_fd(), flags)
        });
        std::iter::once((self.listener.as_fd(), PollFlags::POLLIN)).chain(connections)
    }

    /// When to look at it again, though nobody says anything.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.connections.iter().map(|each| each.until).min()
    }

    /// Questions that are whole now, with who asked. `whole` says whether what was heard is a question;
    /// who asked has to be answered.
    pub(super) fn questions(&mut self, whole: impl Fn(&[u8]) -> bool) -> Vec<(Who, Vec<u8>)> {
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

    fn welcome(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.connections.len() >= CONNECTIONS_MAX
                || !(self.admits)(&stream)
                || stream.set_nonblocking(true).is_err()
            {
                continue;
            }
            self.next += 1;
            self.connections.push(Connection {
                who: Who(self.next),
                stream,
                heard: Vec::new(),
                to_say: None,
                until: Instant::now() + PATIENCE,
            });
        }
    }

    /// Answers who asked.
    pub(super) fn answer(&mut self, who: Who, answer: Vec<u8>) {
        if let Some(each) = self.connections.iter_mut().find(|each| each.who == who) {
            each.to_say = Some(answer);
            each.until = Instant::now() + PATIENCE;
        }
    }

    /// Says what there is to say, as far as it is taken, and hangs up on who has heard it.
    pub(super) fn say(&mut self) {
        let now = Instant::now();
        self.connections
            .retain_mut(|each| each.until > now && each.say());
    }
}

impl Connection {
    /// Whether it goes on.
    fn hear(&mut self, whole: impl Fn(&[u8]) -> bool) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return whole(&self.heard),
                Ok(len) => self.heard.extend_from_slice(&buffer[..len]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return err.kind() == io::ErrorKind::WouldBlock,
            }
            if self.heard.len() > QUESTION_MAX_BYTES {
                return false;
            }
        }
    }

    /// Whether it goes on.
    fn say(&mut self) -> bool {
        let Some(rest) = &mut self.to_say else {
            return true;
        };
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(len) => drop(rest.drain(..len)),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return err.kind() == io::ErrorKind::WouldBlock,
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
        // More than any socket takes at once, by who does not take it.
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
        // Who says too much is hung up on.
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
}
