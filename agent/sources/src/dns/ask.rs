//! One question to one name server: over UDP, and over TCP if the answer is truncated.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use peerwall_proto::dns::{Answer, DnsError, Records, UDP_MAX_BYTES, answer, query};

use crate::connection::Times;
use crate::credentials::Vigil;
use crate::error::{Ended, Error, Kind, Step};
use crate::follow::random_u16;

/// How often a question is sent, and how long an answer is waited for each time.
const TRIES: u32 = 3;
const TRY_MAX: Duration = Duration::from_secs(3);
/// Maximum number of aliases that the server does not follow itself.
const ALIASES_MAX: usize = 8;

/// The addresses of a name.
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    /// Time to live; zero without addresses.
    pub(super) ttl: Duration,
}

/// Asks for the addresses of a name.
///
/// # Errors
/// [`Ended`]; [`Kind::Name`] if the name does not exist, or the server failed.
pub(super) fn ask(
    server: SocketAddr,
    name: &str,
    records: Records,
    times: Times,
    vigil: &Vigil,
) -> Step<Found> {
    let mut target = name.to_owned();
    for _ in 0..ALIASES_MAX {
        let question = Question {
            server,
            name: &target,
            records,
            wait: TRY_MAX.min(times.answer),
        };
        let mut said = question.over_udp(vigil)?;
        if said == Answer::Truncated {
            said = question.over_tcp()?;
        }
        let failed =
            |kind: Kind, why: &str| Ended::failed(kind, format!("{name}: {why} ({server})"));
        match said {
            Answer::Addresses { addresses, ttl } => {
                let ttl = Duration::from_secs(ttl.unwrap_or(0).into());
                return Ok(Found { addresses, ttl });
            }
            Answer::Alias(next) => target = next,
            Answer::NoSuchName => return Err(failed(Kind::Name, "the name does not exist")),
            Answer::Failed(code) => {
                return Err(failed(
                    Kind::Name,
                    &format!("the name server failed: {code}"),
                ));
            }
            Answer::Truncated => {
                return Err(failed(Kind::Protocol, "the answer over TCP is truncated"));
            }
        }
    }
    Err(Ended::failed(
        Kind::Name,
        format!("{name}: too many aliases (CNAME)"),
    ))
}

struct Question<'q> {
    server: SocketAddr,
    name: &'q str,
    records: Records,
    /// How long to wait for an answer.
    wait: Duration,
}

impl Question<'_> {
    /// Asks over UDP. Each try has its own port, which the kernel chooses at random, and id.
    fn over_udp(&self, vigil: &Vigil) -> Step<Answer> {
        for _ in 0..TRIES {
            vigil.check()?;
            let (id, bytes) = self.query()?;
            let said = self.once(id, &bytes);
            if let Some(said) = said.map_err(|err| self.explain(&err))? {
                return said.map_err(|err| self.wrong(&err).into());
            }
        }
        let seconds = (self.wait * TRIES).as_secs();
        let text = format!(
            "{}: no answer from {} for {seconds} s",
            self.name, self.server
        );
        Err(Ended::failed(Kind::Timeout, text))
    }

    fn query(&self) -> Result<(u16, Vec<u8>), Error> {
        let id = random_u16();
        let bytes = query(id, self.name, self.records);
        let bytes = bytes.map_err(|err| Error::new(Kind::Name, err.to_string()))?;
        Ok((id, bytes))
    }

    /// Sends one datagram and waits for its answer; `None` if none came.
    fn once(&self, id: u16, bytes: &[u8]) -> io::Result<Option<Result<Answer, DnsError>>> {
        let any: IpAddr = match self.server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        // The kernel drops datagrams of others.
        socket.connect(self.server)?;
        socket.send(bytes)?;
        let until = Instant::now() + self.wait;
        let mut buffer = [0; UDP_MAX_BYTES];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            socket.set_read_timeout(Some(left))?;
            let count = match socket.recv(&mut buffer) {
                Ok(count) => count,
                Err(err) if is_passing(&err) => continue,
                Err(err) => return Err(err),
            };
            match answer(&buffer[..count], id, self.name, self.records) {
                // A forged or late answer; the real one may still come.
                Err(DnsError::Other) => {}
                said => return Ok(Some(said)),
            }
        }
    }

    fn over_tcp(&self) -> Step<Answer> {
        let (id, bytes) = self.query()?;
        let said = self.exchange(&bytes).map_err(|err| self.explain(&err))?;
        let said = answer(&said, id, self.name, self.records);
        said.map_err(|err| self.wrong(&err).into())
    }

    /// Sends a message after its length, and reads one (RFC 1035, section 4.2.2).
    fn exchange(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.server, self.wait)?;
        stream.set_read_timeout(Some(self.wait))?;
        stream.set_write_timeout(Some(self.wait))?;
        let len = bytes.len();
        let mut message = vec![(len >> 8) as u8, (len & 0xff) as u8];
        message.extend(bytes);
        stream.write_all(&message)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut said = vec![0; usize::from(length[0]) << 8 | usize::from(length[1])];
        stream.read_exact(&mut said)?;
        Ok(said)
    }

    fn explain(&self, err: &io::Error) -> Ended {
        let kind = match is_passing(err) {
            true => Kind::Timeout,
            false => Kind::Unreachable,
        };
        Ended::failed(
            kind,
            format!("{}: name server {}: {err}", self.name, self.server),
        )
    }

    fn wrong(&self, err: &DnsError) -> Error {
        let text = format!("{}: name server {}: {err}", self.name, self.server);
        Error::new(Kind::Protocol, text)
    }
}

/// Whether it only means that nothing came in time.
fn is_passing(err: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(err.kind(), WouldBlock | TimedOut | Interrupted)
}
