//! Serves metrics over HTTP, on a Unix socket or a loopback port.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::exposition::{Family, Format};
use crate::cli::Listen;
use crate::control::server::Server;
use crate::secure_file::Folder;

/// Maximum number of headers in a request; no scraper or browser sends more.
const HEADERS_MAX: usize = 32;
/// Maximum age of a cached response, because reading the rules is expensive.
const FRESH: Duration = Duration::from_secs(1);

/// A server of metrics over HTTP.
pub(super) struct Exporter {
    server: Server,
    at: Listen,
    /// The last collected metrics, with their time.
    collected: Option<(Instant, Vec<Family>)>,
}

impl Exporter {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`io::Error`] if the address cannot be bound, or other users could replace the socket.
    pub(super) fn open(at: &Listen) -> io::Result<Self> {
        let named = |err: io::Error| io::Error::new(err.kind(), format!("metrics at {at}: {err}"));
        let server = match at {
            Listen::Unix(path) => {
                check_folder(path).map_err(named)?;
                // A killed agent left its socket; a running one answers.
                if UnixStream::connect(path).is_err() && is_socket(path) {
                    fs::remove_file(path).map_err(named)?;
                }
                Server::new(UnixListener::bind(path).map_err(named)?, |_| true)
            }
            Listen::Loopback(address) => {
                Server::new(TcpListener::bind(address).map_err(named)?, |_| true)
            }
        };
        Ok(Self {
            server: server.map_err(named)?,
            at: at.clone(),
            collected: None,
        })
    }

    /// Returns the file descriptors to poll, with their events.
    pub(super) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.server.fds()
    }

    /// Returns when the next client times out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.server.deadline()
    }

    /// Answers the clients that have sent a request. `collect` is called at most once.
    pub(super) fn serve(&mut self, collect: impl FnOnce() -> Vec<Family>) {
        let questions = self.server.questions(is_whole);
        let is_fresh = |(at, _): &(Instant, _)| at.elapsed() <= FRESH;
        if !questions.is_empty() && !self.collected.as_ref().is_some_and(is_fresh) {
            self.collected = Some((Instant::now(), collect()));
        }
        let families = self.collected.as_ref().map_or(&[][..], |(_, list)| list);
        for (who, question) in questions {
            self.server
                .answer(who, answer(&question, families).into_bytes());
        }
        self.server.say();
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Listen::Unix(path) = &self.at {
            let _ = fs::remove_file(path);
        }
    }
}

/// Rejects a directory in which other users could replace or delete the socket.
fn check_folder(path: &Path) -> io::Result<()> {
    let folder = Folder::open(path.parent().unwrap_or(Path::new("/")), None)?;
    let mut doubts = folder.doubts_above.iter().chain(&folder.doubts);
    let why = match (doubts.next(), folder.is_shared()) {
        (Some(doubt), _) => doubt.clone(),
        (None, true) => "others can write this directory".to_owned(),
        (None, false) => return Ok(()),
    };
    let why = format!("{why}; use a directory that only root can write, such as /run/peerwall");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// Whether the request is complete, or is not HTTP.
fn is_whole(heard: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    !heard.is_empty() && !matches!(request.parse(heard), Ok(httparse::Status::Partial))
}

/// Returns the response to a request (RFC 9112).
fn answer(request: &[u8], families: &[Family]) -> String {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut read = httparse::Request::new(&mut headers);
    let parsed = read.parse(request);
    let path = read.path.map(|path| path.split('?').next().unwrap_or(path));
    let is_known = matches!(read.method, Some("GET" | "HEAD"));
    let format = Format::accepted(&accept(read.headers));
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = match (parsed, path) {
        (Err(_), _) => ("400 Bad Request", plain, "not an HTTP request\n".to_owned()),
        (Ok(_), _) if !is_known => (
            "405 Method Not Allowed\r\nAllow: GET, HEAD",
            plain,
            "only GET and HEAD are supported\n".to_owned(),
        ),
        (Ok(_), Some("/metrics")) => ("200 OK", format.content_type(), format.encode(families)),
        (Ok(_), _) => (
            "404 Not Found",
            plain,
            "not found; try /metrics\n".to_owned(),
        ),
    };
    let shown = match read.method {
        Some("HEAD") => "",
        Some(_) | None => &body,
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nVary: Accept\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{shown}",
        body.len()
    )
}

/// Joins the values of `Accept`, which may be sent in several headers.
fn accept(headers: &[httparse::Header<'_>]) -> String {
    let values = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("accept"));
    let values: Vec<_> = values
        .map(|header| String::from_utf8_lossy(header.value))
        .collect();
    values.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_and_sockets_are_listened_at() {
        for text in [
            "127.0.0.1:9469",
            "[::1]:9469",
            "unix:/run/peerwall/metrics.sock",
        ] {
            assert_eq!(
                text.parse::<Listen>()
                    .map(|listen| listen.to_string())
                    .as_deref(),
                Ok(text)
            );
        }
        for (text, wanted) in [
            ("0.0.0.0:9469", "loopback"),
            ("192.0.2.1:9469", "loopback"),
            ("[::]:9469", "loopback"),
            ("9469", "like"),
            ("localhost:9469", "like"),
            ("unix:metrics.sock", "absolute"),
        ] {
            let why = text.parse::<Listen>().expect_err(text);
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }

    #[test]
    fn requests_are_answered_as_http_has_it() {
        use super::super::exposition::MetricKind;
        let families = [Family::new("x", MetricKind::Gauge, "X.").value(1)];
        let (classic, open) = (
            Format::Classic.encode(&families),
            Format::OpenMetrics.encode(&families),
        );
        for (request, status, kind, body) in [
            (
                "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                "200",
                "text/plain; version=0.0.4",
                &*classic,
            ),
            (
                "GET /metrics?x=1 HTTP/1.0\r\n\r\n",
                "200",
                "text/plain; version=0.0.4",
                &classic,
            ),
            (
                "GET /metrics HTTP/1.1\r\naccept: text/plain;q=0.5\r\n\
                 Accept: application/openmetrics-text\r\n\r\n",
                "200",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                &open,
            ),
            (
                "HEAD /metrics HTTP/1.1\r\n\r\n",
                "200",
                "text/plain; version=0.0.4",
                "",
            ),
            (
                "GET / HTTP/1.1\r\n\r\n",
                "404",
                "text/plain",
                "not found; try /metrics\n",
            ),
            (
                "POST /metrics HTTP/1.1\r\n\r\n",
                "405",
                "text/plain",
                "only GET and HEAD are supported\n",
            ),
            (
                "\0\0\0\r\n\r\n",
                "400",
                "text/plain",
                "not an HTTP request\n",
            ),
        ] {
            assert!(is_whole(request.as_bytes()), "{request}");
            let answer = answer(request.as_bytes(), &families);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {answer}"
            );
            let (head, sent) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(sent, body, "{request}");
            assert!(
                head.contains(&format!("\r\nContent-Type: {kind}")),
                "{head}"
            );
            assert_eq!(head.contains("\r\nAllow: GET, HEAD\r\n"), status == "405");
        }
        for half in ["", "GET", "GET /metrics HTTP/1.1\r\nHost: x\r\n"] {
            assert!(!is_whole(half.as_bytes()), "{half}");
        }
    }
}
