//! HTTP/1.1 (RFC 9112), as far as the engines need it: one request after the other on a connection,
//! bodies of bounded size, and lines of an endless body.

use std::io::{self, Read};
use std::time::Instant;

use crate::connection::{Connection, Endpoint, Filled};
use crate::error::{Ended, Kind, Step};

/// Maximum size of the head of a response in bytes, and number of its headers.
const HEAD_MAX_BYTES: usize = 32 * 1024;
const HEADERS_MAX: usize = 64;
/// Maximum size of a body in bytes: 500 nodes of 128 KiB.
const BODY_MAX_BYTES: u64 = 64 << 20;
/// Maximum length of a line in bytes: the largest object of Kubernetes, in JSON.
const LINE_MAX_BYTES: usize = 8 << 20;
/// Maximum length of a line between chunks.
const CHUNK_LINE_MAX_BYTES: usize = 4096;
/// How much of an answer with an error is read.
const ERROR_MAX_BYTES: u64 = 64 * 1024;

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Request<'r> {
    /// Path with a query, after that of the URL.
    pub path: &'r str,
    /// Body, in JSON; the method is POST then, and GET otherwise.
    pub body: Option<&'r str>,
    /// Further headers.
    pub headers: Vec<(&'r str, &'r str)>,
}

/// A connection for requests, which is opened again when needed.
pub struct Client<'e> {
    connection: Connection<'e>,
    is_reusable: bool,
    /// Whether there was an answer on this connection.
    is_used: bool,
}

/// A response whose head was read.
pub struct Response<'c, 'e> {
    /// Status code.
    pub status: u16,
    /// The body.
    pub body: Body<'c, 'e>,
}

impl<'e> Client<'e> {
    /// Connects.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn open(endpoint: &'e Endpoint<'e>) -> Step<Self> {
        Ok(Self {
            connection: Connection::open(endpoint)?,
            is_reusable: true,
            is_used: false,
        })
    }

    /// Sends a request and reads the head of the response. Connects again if the answer before was
    /// not read to its end, or the server closed the connection.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn exchange(&mut self, request: &Request<'_>) -> Step<Response<'_, 'e>> {
        let endpoint = self.connection.endpoint();
        if !self.is_reusable || self.connection.is_closed()? {
            self.connection = Connection::open(endpoint)?;
            self.is_used = false;
        }
        self.is_reusable = false;
        let bytes = encode(request, endpoint.url);
        let head = match self.attempt(&bytes) {
            // The server closed the connection while the request was on its way. All requests can
            // be repeated.
            Err(Ended::Failed(err)) if err.kind == Kind::Unreachable && self.is_used => {
                self.connection = Connection::open(endpoint)?;
                self.attempt(&bytes)
            }
            other => other,
        }?;
        self.is_used = true;
        Ok(self.response(&head))
    }

    /// Sends a request and reads the head of its response.
    fn attempt(&mut self, bytes: &[u8]) -> Step<Head> {
        self.connection.send(bytes)?;
        let until = Instant::now() + self.connection.endpoint().times.answer;
        loop {
            let head = head(self.connection.received());
            match head.map_err(|why| self.broken(&why))? {
                Some((len, head)) => {
                    self.connection.consume(len);
                    // Informational responses precede the real one.
                    if head.status >= 200 {
                        return Ok(head);
                    }
                }
                None => match self.connection.fill(Some(until))? {
                    Filled::Bytes | Filled::Nothing => {}
                    Filled::End => {
                        return Err(self.broken("it closed the connection without an answer"));
                    }
                },
            }
        }
    }

    fn response(&mut self, head: &Head) -> Response<'_, 'e> {
        let framing = match head.framing == Framing::Length(0) {
            true => Framing::Done,
            false => head.framing,
        };
        self.is_reusable = framing == Framing::Done && head.is_kept;
        Response {
            status: head.status,
            body: Body {
                framing,
                is_kept: head.is_kept,
                left_bytes: BODY_MAX_BYTES,
                client: self,
            },
        }
    }

    fn broken(&self, why: &str) -> Ended {
        broken(&self.connection, why)
    }
}

fn broken(connection: &Connection<'_>, why: &str) -> Ended {
    let url = connection.endpoint().url;
    // A server that restarts closes its connections.
    let kind = match why.contains("closed") {
        true => Kind::Unreachable,
        false => Kind::Protocol,
    };
    Ended::failed(kind, format!("{url}: {why}"))
}

fn encode(request: &Request<'_>, url: &crate::url::Url) -> Vec<u8> {
    let method = if request.body.is_some() {
        "POST"
    } else {
        "GET"
    };
    let mut text = format!(
        "{method} {}{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: peerwall-sources/{}\r\n",
        url.path,
        request.path,
        url.authority(),
        env!("CARGO_PKG_VERSION"),
    );
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = request.body {
        text.push_str("Content-Type: application/json\r\n");
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(request.body.unwrap_or_default());
    text.into_bytes()
}

/// What the head of a response says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    status: u16,
    framing: Framing,
    /// Whether the connection stays open afterwards.
    is_kept: bool,
}

/// Where a body ends, and how far it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// It was read to its end.
    Done,
    /// After this number of bytes.
    Length(u64),
    /// With the connection.
    Close,
    /// A line with the size of a chunk follows.
    ChunkSize,
    /// This number of bytes of a chunk follows.
    Chunk(u64),
    /// The end of line after a chunk follows.
    ChunkEnd,
    /// Trailers and an empty line follow.
    Trailers,
}

/// Parses the head of a response, if it is complete: its length, and what it says.
fn head(bytes: &[u8]) -> Result<Option<(usize, Head)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes);
    let len = match parsed.map_err(|err| format!("the answer is not HTTP: {err}"))? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial if bytes.len() > HEAD_MAX_BYTES => {
            return Err("the head of the answer is too large".to_owned());
        }
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.unwrap_or(0);
    let mut head = Head {
        status,
        framing: Framing::Close,
        is_kept: response.version == Some(1),
    };
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value).to_ascii_lowercase();
        let value = value.trim();
        if header.name.eq_ignore_ascii_case("connection") && value.contains("close") {
            head.is_kept = false;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if value != "chunked" {
                return Err(format!("the transfer encoding {value:?} is not supported"));
            }
            head.framing = Framing::ChunkSize;
        } else if header.name.eq_ignore_ascii_case("content-length")
            && head.framing != Framing::ChunkSize
        {
            let length = value.parse().ok();
            let length = length.ok_or_else(|| format!("no length of a body: {value:?}"))?;
            head.framing = Framing::Length(length);
        }
    }
    if status < 200 || matches!(status, 204 | 304) {
        head.framing = Framing::Length(0);
    }
    Ok(Some((len, head)))
}

/// The body of a response.
pub struct Body<'c, 'e> {
    client: &'c mut Client<'e>,
    framing: Framing,
    is_kept: bool,
    left_bytes: u64,
}

/// What reading a body brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    /// This number of bytes.
    Bytes(usize),
    /// Nothing within a moment.
    Nothing,
    /// The end of the body.
    End,
}

impl Body<'_, '_> {
    /// Reads some bytes. Waits until a time, or for a moment.
    fn some(&mut self, to: &mut [u8], until: Option<Instant>) -> Step<Got> {
        loop {
            match self.framing {
                Framing::Done => {
                    self.client.is_reusable = self.is_kept;
                    return Ok(Got::End);
                }
                Framing::Length(0) => {
                    self.framing = Framing::Done;
                    continue;
                }
                Framing::Chunk(0) => {
                    self.framing = Framing::ChunkEnd;
                    continue;
                }
                Framing::Length(left) => {
                    let count = self.copy(to, left);
                    if count > 0 {
                        self.framing = Framing::Length(left - count as u64);
                        return Ok(Got::Bytes(count));
                    }
                }
                Framing::Chunk(left) => {
                    let count = self.copy(to, left);
                    if count > 0 {
                        self.framing = Framing::Chunk(left - count as u64);
                        return Ok(Got::Bytes(count));
                    }
                }
                Framing::Close => {
                    let count = self.copy(to, u64::MAX);
                    if count > 0 {
                        return Ok(Got::Bytes(count));
                    }
                }
                Framing::ChunkSize | Framing::ChunkEnd | Framing::Trailers => {
                    if self.between_chunks()? {
                        continue;
                    }
                }
            }
            match self.client.connection.fill(until)? {
                Filled::Bytes => {}
                Filled::Nothing => return Ok(Got::Nothing),
                Filled::End if self.framing == Framing::Close => self.framing = Framing::Done,
                Filled::End => {
                    return Err(self
                        .client
                        .broken("it closed the connection within an answer"));
                }
            }
        }
    }

    /// Takes received bytes, at most `max`.
    fn copy(&mut self, to: &mut [u8], max: u64) -> usize {
        let received = self.client.connection.received();
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let count = received.len().min(to.len()).min(max);
        to[..count].copy_from_slice(&received[..count]);
        self.client.connection.consume(count);
        count
    }

    /// Reads a line between chunks. Returns whether it was there.
    fn between_chunks(&mut self) -> Step<bool> {
        let received = self.client.connection.received();
        let Some(end) = received.iter().position(|byte| *byte == b'\n') else {
            return match received.len() > CHUNK_LINE_MAX_BYTES {
                true => Err(self.client.broken("a line between chunks is too long")),
                false => Ok(false),
            };
        };
        let line = String::from_utf8_lossy(&received[..end]).into_owned();
        let line = line.trim();
        self.client.connection.consume(end + 1);
        self.framing = match self.framing {
            Framing::ChunkEnd if line.is_empty() => Framing::ChunkSize,
            Framing::Trailers if line.is_empty() => Framing::Done,
            Framing::Trailers => Framing::Trailers,
            Framing::ChunkSize => match chunk_size(line) {
                Some(0) => Framing::Trailers,
                Some(size) => Framing::Chunk(size),
                None => return Err(self.client.broken("no size of a chunk where one must be")),
            },
            Framing::ChunkEnd
            | Framing::Done
            | Framing::Length(_)
            | Framing::Close
            | Framing::Chunk(_) => {
                return Err(self.client.broken("a chunk does not end where it must"));
            }
        };
        Ok(true)
    }

    /// Reads the beginning of an answer with an error.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn beginning(mut self) -> Step<Vec<u8>> {
        let mut bytes = Vec::new();
        self.by_ref()
            .take(ERROR_MAX_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Parses the size of a chunk; extensions are ignored.
fn chunk_size(line: &str) -> Option<u64> {
    let size = line.split(';').next().unwrap_or_default().trim();
    let is_number = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number
        .then(|| u64::from_str_radix(size, 16).ok())
        .flatten()
}

/// Waits for each part as long as a server has for an answer. The errors contain an [`Ended`].
impl Read for Body<'_, '_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let endpoint = self.client.connection.endpoint();
        let until = Instant::now() + endpoint.times.answer;
        match self.some(to, Some(until))? {
            Got::Bytes(count) => {
                self.left_bytes = self.left_bytes.saturating_sub(count as u64);
                match self.left_bytes {
                    0 => Err(self.client.broken("the answer is too large").into()),
                    _ => Ok(count),
                }
            }
            Got::Nothing | Got::End => Ok(0),
        }
    }
}

/// The lines of an endless body.
pub struct Lines<'c, 'e> {
    body: Body<'c, 'e>,
    received: Vec<u8>,
    /// Number of received bytes without an end of line.
    searched: usize,
}

/// What an endless body brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line, without its end.
    Text(Vec<u8>),
    /// Nothing within a moment.
    Quiet,
    /// The regular end of the body.
    End,
}

impl<'c, 'e> Lines<'c, 'e> {
    /// Returns the lines of a body.
    pub fn new(body: Body<'c, 'e>) -> Self {
        Self {
            body,
            received: Vec::new(),
            searched: 0,
        }
    }

    /// Whether a complete line was already received.
    pub fn has_line(&self) -> bool {
        self.received[self.searched..].contains(&b'\n')
    }

    /// Returns the next line. Waits for a moment.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn following(&mut self) -> Step<Line> {
        let mut bytes = [0; 16 * 1024];
        loop {
            let end = self.received[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| end + self.searched) {
                let rest = self.received.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                self.searched = 0;
                line.truncate(end);
                match line.trim_ascii().is_empty() {
                    true => continue,
                    false => return Ok(Line::Text(line)),
                }
            }
            self.searched = self.received.len();
            if self.received.len() > LINE_MAX_BYTES {
                return Err(self.body.client.broken("a line of the answer is too long"));
            }
            match self.body.some(&mut bytes, None)? {
                Got::Bytes(count) => self.received.extend_from_slice(&bytes[..count]),
                Got::Nothing => return Ok(Line::Quiet),
                Got::End if self.received.trim_ascii().is_empty() => return Ok(Line::End),
                Got::End => {
                    self.searched = 0;
                    return Ok(Line::Text(std::mem::take(&mut self.received)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
