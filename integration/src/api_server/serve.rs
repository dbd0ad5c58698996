//! Connections and requests of the API server's double.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::{Fault, Shared, State};

/// How often a watch looks for the end of its time.
const TICK: Duration = Duration::from_millis(50);
/// Longer than any client waits.
const FOREVER: Duration = Duration::from_secs(600);

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Serves one connection until the client leaves.
pub(super) fn connection(
    socket: TcpStream,
    config: Option<Arc<ServerConfig>>,
    shared: &Shared,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(Duration::from_secs(10)))?;
    if lock(shared).has(Fault::Frozen) {
        thread::sleep(FOREVER);
    }
    let mut stream: Box<dyn Stream> = match config {
        None => Box::new(socket),
        Some(config) => {
            let session = ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(session, socket))
        }
    };
    while let Some(request) = read(&mut stream)? {
        answer(&request, &mut *stream, shared)?;
    }
    Ok(())
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Request {
    path: String,
    query: BTreeMap<String, String>,
    token: Option<String>,
    is_metadata: bool,
}

/// Reads a request; `None` at the end of the connection.
fn read(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let target = head.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let header = |name: &str| {
        let mut lines = head.lines();
        lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    Ok(Some(Request {
        path: path.to_owned(),
        query: pairs
            .map(|(key, value)| (key.to_owned(), unescape(value)))
            .collect(),
        token: header("Authorization: Bearer "),
        is_metadata: header("Accept: ").is_some_and(|kinds| kinds.contains("PartialObject")),
    }))
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let escaped = (*byte == b'%').then(|| after.get(..2)).flatten();
        let escaped = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn answer(request: &Request, stream: &mut dyn Stream, shared: &Shared) -> io::Result<()> {
    let mut state = lock(shared);
    if state.has(Fault::Frozen) {
        drop(state);
        thread::sleep(FOREVER);
        return Ok(());
    }
    let token = request.token.as_deref().unwrap_or_default();
    if !state.tokens.is_empty() && !state.tokens.contains(token) {
        state.refused += 1;
        drop(state);
        return status(stream, 401, "Unauthorized", "Unauthorized");
    }
    if state.has(Fault::Internal) {
        drop(state);
        return status(stream, 500, "InternalError", "etcdserver: leader changed");
    }
    if state.has(Fault::Html) {
        drop(state);
        return body(stream, 200, "<html>please log in</html>");
    }
    if request.path == "/api/v1/namespaces/kube-system" {
        let (uid, is_denied) = (state.uid.clone(), state.has(Fault::NoIdentity));
        drop(state);
        return match is_denied {
            true => status(stream, 403, "Forbidden", "namespaces is forbidden"),
            false => body(stream, 200, &json!({"metadata": {"uid": uid}}).to_string()),
        };
    }
    if request.path != "/api/v1/nodes" {
        drop(state);
        return status(
            stream,
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
    }
    if state.has(Fault::Forbidden) {
        state.refused += 1;
        drop(state);
        return status(stream, 403, "Forbidden", "nodes is forbidden");
    }
    if let Some(selector) = request.query.get("labelSelector") {
        state.selectors.insert(selector.clone());
    }
    match request.query.contains_key("watch") {
        true => {
            drop(state);
            watch(request, stream, shared)
        }
        false => list(request, stream, state),
    }
}

/// Sends one page, in chunks of odd sizes.
fn list(
    request: &Request,
    stream: &mut dyn Stream,
    mut state: MutexGuard<'_, State>,
) -> io::Result<()> {
    let limit = request
        .query
        .get("limit")
        .and_then(|limit| limit.parse().ok());
    let limit: usize = limit.unwrap_or(usize::MAX);
    let (revision, mut items) = match request.query.get("continue") {
        None => (state.revision, state.nodes.values().cloned().collect()),
        Some(_) if state.once(Fault::ExpiredPages) => {
            drop(state);
            return status(
                stream,
                410,
                "Expired",
                "The provided continue parameter is too old",
            );
        }
        Some(token) => match state.pages.remove(token) {
            Some(page) => page,
            None => {
                drop(state);
                return status(stream, 400, "BadRequest", "continue key is not valid");
            }
        },
    };
    if state.has(Fault::Empty) {
        items = Vec::new();
    }
    let rest = items.split_off(limit.min(items.len()));
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if rest.is_empty() {
        state.lists += 1;
    } else {
        let token = format!("{revision}+{}/=", state.pages.len());
        metadata["continue"] = token.as_str().into();
        if !request.query.contains_key("labelSelector") {
            metadata["remainingItemCount"] = rest.len().into();
        }
        if !request.is_metadata {
            state.pages.insert(token, (revision, rest));
        }
    }
    let is_torn = state.has(Fault::Torn);
    drop(state);
    if request.is_metadata {
        for item in &mut items {
            item["status"] = Value::Null;
        }
    }
    let text = json!({"kind": "NodeList", "metadata": metadata, "items": items}).to_string();
    head(stream, 200)?;
    let sent = if is_torn { text.len() / 2 } else { text.len() };
    for part in text.as_bytes()[..sent].chunks(10_007) {
        chunk(stream, part)?;
    }
    match is_torn {
        true => Err(io::Error::other("the connection ends here")),
        false => chunk(stream, b""),
    }
}

/// Sends changes after a revision until the time of the watch is over.
fn watch(request: &Request, stream: &mut dyn Stream, shared: &Shared) -> io::Result<()> {
    let number = |key: &str| {
        request
            .query
            .get(key)
            .and_then(|text| text.parse::<u64>().ok())
    };
    let mut revision = number("resourceVersion").unwrap_or(0);
    let seconds = number("timeoutSeconds").unwrap_or(300);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut state = lock(shared);
    state.watches += 1;
    head(stream, 200)?;
    if revision < state.compacted || state.once(Fault::ExpiredWatch) {
        drop(state);
        let failed = json!({"kind": "Status", "code": 410, "reason": "Expired",
            "message": format!("too old resource version: {revision}")});
        event(stream, "ERROR", &failed)?;
        return chunk(stream, b"");
    }
    while Instant::now() < end {
        if state.has(Fault::Frozen) || state.has(Fault::SilentWatch) {
            drop(state);
            thread::sleep(FOREVER);
            return Ok(());
        }
        // Newer than what was sent; all others were compacted.
        let is_new = |(at, ..): &&(u64, &'static str, Value)| *at > revision;
        let new: Vec<_> = state
            .changes
            .iter()
            .rev()
            .take_while(is_new)
            .cloned()
            .collect();
        if new.is_empty() {
            let waited = shared.1.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        drop(state);
        for (at, kind, node) in new.into_iter().rev() {
            event(stream, kind, &node)?;
            revision = at;
        }
        state = lock(shared);
    }
    drop(state);
    chunk(stream, b"")
}

fn event(stream: &mut dyn Stream, kind: &str, object: &Value) -> io::Result<()> {
    chunk(
        stream,
        format!("{}\n", json!({"type": kind, "object": object})).as_bytes(),
    )
}

fn head(stream: &mut dyn Stream, status: u16) -> io::Result<()> {
    let text = format!("HTTP/1.1 {status} x\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(text.as_bytes())
}

/// Sends a chunk; an empty one is the last.
fn chunk(stream: &mut dyn Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
    stream.write_all(bytes)?;
    stream.write_all(b"\r\n")?;
    stream.flush()
}

fn status(stream: &mut dyn Stream, code: u16, reason: &str, message: &str) -> io::Result<()> {
    let status = json!({"kind": "Status", "code": code, "reason": reason, "message": message});
    body(stream, code, &status.to_string())
}

fn body(stream: &mut dyn Stream, code: u16, text: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code} x\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(format!("{head}{text}").as_bytes())?;
    stream.flush()
}
