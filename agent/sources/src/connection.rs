//! One TCP connection, with or without TLS, whose waits are bounded and can be ended.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::credentials::Vigil;
use crate::error::{Ended, Error, Kind, Step};
use crate::tls;
use crate::url::Url;

/// How long one read waits, before the end is checked for.
const TICK: Duration = Duration::from_millis(500);
/// How long to wait for a connection to one address.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Maximum number of addresses of a name to try.
const ADDRESSES_MAX: usize = 4;
/// How many bytes to read at once: a record of TLS.
const READ_BYTES: usize = 16 * 1024;

/// Time limits of a source.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long a server has for an answer, and for each further part of it.
    pub answer: Duration,
    /// How long one watch lasts, before there must be a new proof that it is alive.
    pub watch: Duration,
}

/// How a server is reached.
pub struct Endpoint<'e> {
    /// Its URL.
    pub url: &'e Url,
    /// TLS, if the URL is for it.
    pub tls: Option<&'e tls::Client>,
    /// Name in the server's certificate, if it is not that of the URL.
    pub server_name: Option<&'e str>,
    /// Time limits.
    pub times: Times,
    /// What ends it early.
    pub vigil: &'e Vigil,
}

/// What reading brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// More bytes.
    Bytes,
    /// Nothing within a moment.
    Nothing,
    /// The end of the stream.
    End,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// An open connection, with the bytes that were received and not used yet.
pub struct Connection<'e> {
    stream: Stream,
    endpoint: &'e Endpoint<'e>,
    received: Vec<u8>,
}

impl<'e> Connection<'e> {
    /// Connects, and negotiates TLS.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn open(endpoint: &'e Endpoint<'e>) -> Step<Self> {
        let socket = connect(endpoint)?;
        let prepared = socket
            .set_nodelay(true)
            .and_then(|()| socket.set_read_timeout(Some(TICK)))
            .and_then(|()| socket.set_write_timeout(Some(endpoint.times.answer)));
        prepared.map_err(|err| unreachable(endpoint.url, &err))?;
        let stream = match endpoint.tls {
            None => Stream::Plain(socket),
            Some(client) => Stream::Tls(Box::new(negotiate(endpoint, client, socket)?)),
        };
        Ok(Self {
            stream,
            endpoint,
            received: Vec::new(),
        })
    }

    /// Returns how the server is reached.
    pub fn endpoint(&self) -> &'e Endpoint<'e> {
        self.endpoint
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn send(&mut self, bytes: &[u8]) -> Step<()> {
        let sent = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
        sent.map_err(|err| self.explain(&err))
    }

    /// Returns the bytes that were received and not used yet.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Whether the server closed the connection, or sent what was not asked for.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn is_closed(&mut self) -> Step<bool> {
        let socket = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        };
        let mut byte = [0];
        let looked = socket.set_nonblocking(true).and_then(|()| {
            let is_closed = match socket.peek(&mut byte) {
                // TLS 1.3 sends tickets for later sessions after the handshake.
                Ok(count) => count == 0,
                Err(err) => !is_passing(&err),
            };
            socket.set_nonblocking(false).map(|()| is_closed)
        });
        Ok(looked.map_err(|err| self.explain(&err))? || !self.received.is_empty())
    }

    /// Marks received bytes as used.
    pub fn consume(&mut self, count: usize) {
        self.received.drain(..count);
    }

    /// Waits for more bytes until a time, or for a moment if there is none.
    ///
    /// # Errors
    /// [`Ended`]; [`Kind::Timeout`] if nothing comes until that time.
    pub fn fill(&mut self, until: Option<Instant>) -> Step<Filled> {
        let mut bytes = [0; READ_BYTES];
        loop {
            self.endpoint.vigil.check()?;
            let read = match &mut self.stream {
                Stream::Plain(stream) => stream.read(&mut bytes),
                Stream::Tls(stream) => stream.read(&mut bytes),
            };
            match read {
                Ok(0) => return Ok(Filled::End),
                Ok(count) => {
                    self.received.extend_from_slice(&bytes[..count]);
                    return Ok(Filled::Bytes);
                }
                Err(err) if is_passing(&err) => match until {
                    None => return Ok(Filled::Nothing),
                    Some(until) if until <= Instant::now() => return Err(silent(self.endpoint)),
                    Some(_) => {}
                },
                // A server that ends TLS without saying so; what is missing then is noticed by HTTP.
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(Filled::End),
                Err(err) => return Err(self.explain(&err)),
            }
        }
    }

    fn explain(&self, err: &io::Error) -> Ended {
        explain(self.endpoint, err)
    }
}

fn connect(endpoint: &Endpoint<'_>) -> Step<TcpStream> {
    let url = endpoint.url;
    let addresses = (url.host.as_str(), url.port).to_socket_addrs();
    let addresses: Vec<SocketAddr> = match addresses {
        Ok(addresses) => addresses.take(ADDRESSES_MAX).collect(),
        Err(err) => {
            let text = format!("{url}: the name {} cannot be resolved: {err}", url.host);
            return Err(Ended::failed(Kind::Name, text));
        }
    };
    let mut failed = Ended::failed(Kind::Name, format!("{url}: the name has no address"));
    for address in addresses {
        endpoint.vigil.check()?;
        match TcpStream::connect_timeout(&address, CONNECT_MAX.min(endpoint.times.answer)) {
            Ok(socket) => return Ok(socket),
            Err(err) => failed = unreachable(url, &err),
        }
    }
    Err(failed)
}

fn negotiate(
    endpoint: &Endpoint<'_>,
    client: &tls::Client,
    mut socket: TcpStream,
) -> Step<StreamOwned<ClientConnection, TcpStream>> {
    let url = endpoint.url;
    let name = endpoint.server_name.unwrap_or(&url.host).to_owned();
    let name = ServerName::try_from(name)
        .map_err(|err| Ended::failed(Kind::Tls, format!("{url}: {err}")))?;
    let mut session = ClientConnection::new(Arc::clone(&client.config), name)
        .map_err(|err| Ended::failed(Kind::Tls, format!("{url}: {err}")))?;
    let until = Instant::now() + endpoint.times.answer;
    while session.is_handshaking() {
        endpoint.vigil.check()?;
        match session.complete_io(&mut socket) {
            Ok(_) => {}
            Err(err) if is_passing(&err) && Instant::now() < until => {}
            Err(err) if is_passing(&err) => return Err(silent(endpoint)),
            Err(err) => return Err(explain(endpoint, &err)),
        }
    }
    Ok(StreamOwned::new(session, socket))
}

/// Whether it only means that nothing happened within a moment.
fn is_passing(err: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(err.kind(), WouldBlock | TimedOut | Interrupted)
}

fn explain(endpoint: &Endpoint<'_>, err: &io::Error) -> Ended {
    let by_tls = endpoint.tls.and_then(|client| client.explain(err));
    match by_tls {
        Some(cause) => cause.at(&endpoint.url.to_string()).into(),
        None => unreachable(endpoint.url, err),
    }
}

fn unreachable(url: &Url, err: &io::Error) -> Ended {
    let kind = match is_passing(err) {
        true => Kind::Timeout,
        false => Kind::Unreachable,
    };
    Error::new(kind, format!("{url}: {err}")).into()
}

fn silent(endpoint: &Endpoint<'_>) -> Ended {
    let seconds = endpoint.times.answer.as_secs_f32();
    let text = format!("{}: no answer for {seconds} s", endpoint.url);
    Ended::failed(Kind::Timeout, text)
}
