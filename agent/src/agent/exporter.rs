//! Serves metrics over HTTP on a Unix socket or a loopback port.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use crate::cli::Listen;
use crate::control::server::Server;
use crate::secure_file::Folder;

/// Nobody's browser sends more headers to this.
const HEADERS_MAX: usize = 32;
/// Requests within this time get the same answer, because observing the rules is expensive.
const FRESH: Duration = Duration::from_secs(1);

/// Answers requests for metrics.
pub(super) struct Exporter {
    server: Server,
    at: Listen,
    text: Option<(Instant, String)>,
}

impl Exporter {
    /// Listens.
    ///
    /// # Errors
    /// If that cannot be had.
    pub(super) fn open(at: &Listen) -> io::Result<Self> {
        let named = |err: io::Error| io::Error::new(err.kind(), format!("metrics at {at}: {err}"));
        let server = match at {
            Listen::Unix(path) => {
                check_folder(path).map_err(named)?;
                // What a killed one left, unless somebody answers.
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
            text: None,
        })
    }

    /// Everything to poll, and for what.
    pub(super) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.server.fds()
    }

    /// When to look at it again, though nobody says anything.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.server.deadline()
    }

    /// Answers who asked, with the text that `make` makes.
    pub(super) fn serve(&mut self, make: impl FnOnce() -> String) {
        let questions = self.server.questions(is_whole);
        if !questions.is_empty()
            && self
                .text
                .as_ref()
                .is_none_or(|(at, _)| at.elapsed() > FRESH)
        {
            self.text = Some((Instant::now(), make()));
        }
        let text = self.text.as_ref().map_or("", |(_, text)| text);
        for (who, question) in questions {
            self.server
                .answer(who, answer(&question, text).into_bytes());
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

/// Whether nobody else can put another socket in this place, or remove it.
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

/// Whether this is a request with all of its headers, or none at all.
fn is_whole(heard: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    !heard.is_empty() && !matches!(request.parse(heard), Ok(httparse::Status::Partial))
}

/// The answer to a request (RFC 9112).
fn answer(request: &[u8], metrics: &str) -> String {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut read = httparse::Request::new(&mut headers);
    let parsed = read.parse(request);
    let path = read.path.map(|path| path.split('?').next().unwrap_or(path));
    let text = "Content-Type: text/plain; charset=utf-8";
    let (status, headers, body) = match (parsed, read.method, path) {
        (Err(_), _, _) => ("400 Bad Request", text, "this is not HTTP\n"),
        (Ok(_), Some("GET" | "HEAD"), Some("/metrics")) => (
            "200 OK",
            "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8",
            metrics,
        ),
        (Ok(_), Some("GET" | "HEAD"), _) => ("404 Not Found", text, "there is /metrics\n"),
        (Ok(_), _, _) => (
            "405 Method Not Allowed",
            "Allow: GET, HEAD\r\nContent-Type: text/plain; charset=utf-8",
            "only GET and HEAD\n",
        ),
    };
    let shown = if read.method == Some("HEAD") {
        ""
    } else {
        body
    };
    format!(
        "HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{shown}",
        body.len()
    )
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
        for (request, status, body) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200", "text"),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200", "text"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "200", ""),
            ("GET / HTTP/1.1\r\n\r\n", "404", "there is /metrics\n"),
            (
                "POST /metrics HTTP/1.1\r\n\r\n",
                "405",
                "only GET and HEAD\n",
            ),
            ("\0\0\0\r\n\r\n", "400", "this is not HTTP\n"),
        ] {
            assert!(is_whole(request.as_bytes()), "{request}");
            let answer = answer(request.as_bytes(), "text");
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {answer}"
            );
            assert_eq!(
                answer.split_once("\r\n\r\n").map(|(_, body)| body),
                Some(body),
                "{request}"
            );
        }
        for half in ["", "GET", "GET /metrics HTTP/1.1\r\nHost: x\r\n"] {
            assert!(!is_whole(half.as_bytes()), "{half}");
        }
    }
}
