//! flannel's leases in etcd, through the JSON gateway of its version 3 API.
//!
//! Format: `rpc.proto` and `kv.proto` of etcd, in the JSON of gRPC-Gateway: keys and values are
//! base64, numbers of 64 bits are texts, and zero values are omitted. Leases: `pkg/subnet/etcd` in
//! flannel.

mod lease;

use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::json::{self, Keep};
pub use lease::{Lease, LeaseKeys};

/// Prefixes of the gateway's paths: etcd 3.4 and newer, 3.3, 3.2.
pub const GATEWAYS: [&str; 3] = ["/v3", "/v3beta", "/v3alpha"];
/// Path of a range request, after the gateway's prefix.
pub const RANGE_PATH: &str = "/kv/range";
/// Path of a watch, after the gateway's prefix.
pub const WATCH_PATH: &str = "/watch";
/// Path of an authentication, after the gateway's prefix.
pub const AUTHENTICATE_PATH: &str = "/auth/authenticate";
/// A header that makes a member without a leader refuse a watch, instead of staying silent.
pub const REQUIRE_LEADER: (&str, &str) = ("Grpc-Metadata-hasleader", "true");

const HEADER: Keep = Keep::Fields(&[("cluster_id", Keep::Leaf), ("revision", Keep::Leaf)]);
const ENTRY: Keep = Keep::Fields(&[("key", Keep::Leaf), ("value", Keep::Leaf)]);
const RANGE: Keep = Keep::Fields(&[
    ("header", HEADER),
    ("kvs", Keep::Each(&ENTRY)),
    ("more", Keep::Leaf),
    ("count", Keep::Leaf),
]);
const ERROR: Keep = Keep::Fields(&[
    ("code", Keep::Leaf),
    ("grpc_code", Keep::Leaf),
    ("message", Keep::Leaf),
]);
const WATCH: Keep = Keep::Fields(&[
    (
        "result",
        Keep::Fields(&[
            ("header", HEADER),
            ("created", Keep::Leaf),
            ("canceled", Keep::Leaf),
            ("cancel_reason", Keep::Leaf),
            ("compact_revision", Keep::Leaf),
            (
                "events",
                Keep::Each(&Keep::Fields(&[("type", Keep::Leaf), ("kv", ENTRY)])),
            ),
        ]),
    ),
    ("error", ERROR),
]);
const FAILURE: Keep = Keep::Fields(&[
    ("error", Keep::Leaf),
    ("message", Keep::Leaf),
    ("code", Keep::Leaf),
]);
const TOKEN: Keep = Keep::Fields(&[("token", Keep::Leaf)]);

/// Part of the leases to read. The answer is linearizable: a majority of the members agrees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part<'a> {
    /// Last key of the page before; its revision.
    pub after: Option<(&'a [u8], u64)>,
    /// Only keys that were modified since this revision. The count is that of all.
    pub modified_since: Option<u64>,
    /// Maximum number of leases.
    pub limit: u32,
}

/// Returns the body of a range request.
pub fn range_body(keys: &LeaseKeys, part: &Part<'_>) -> String {
    let (first, end) = keys.range();
    let first = part.after.map_or(first, |(last, _)| {
        // The smallest key after it.
        let mut next = last.to_vec();
        next.push(0);
        next
    });
    let mut body = json!({
        "key": STANDARD.encode(first),
        "range_end": STANDARD.encode(end),
        "limit": part.limit.to_string(),
    });
    if let Some((_, revision)) = part.after {
        body["revision"] = revision.to_string().into();
    }
    if let Some(revision) = part.modified_since {
        body["min_mod_revision"] = revision.to_string().into();
    }
    body.to_string()
}

/// Returns the body of a watch of changes since a revision.
pub fn watch_body(keys: &LeaseKeys, revision: u64) -> String {
    let (first, end) = keys.range();
    json!({"create_request": {
        "key": STANDARD.encode(first),
        "range_end": STANDARD.encode(end),
        "start_revision": revision.to_string(),
        "progress_notify": true,
    }})
    .to_string()
}

/// Returns the body of an authentication.
pub fn authenticate_body(user: &str, password: &str) -> String {
    json!({"name": user, "password": password}).to_string()
}

/// Reads the token in the answer to an authentication; it is the value of `Authorization`.
///
/// # Errors
/// That of `from`, or [`io::ErrorKind::InvalidData`] if there is none.
pub fn token(from: impl Read) -> io::Result<String> {
    let value = json::read(from, &TOKEN)?;
    match json::text(&value, "/token") {
        token if is_header_value(token) => Ok(token.to_owned()),
        _ => Err(invalid("the answer to an authentication has no token")),
    }
}

fn is_header_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A part of the leases, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Identity of the cluster.
    pub cluster: u64,
    /// Revision of the store when it answered.
    pub revision: u64,
    /// The leases.
    pub leases: Vec<Lease>,
    /// Last key of this answer, if there are more leases.
    pub next: Option<Vec<u8>>,
    /// Number of keys in the range, regardless of the limit and of `modified_since`.
    pub count: u64,
    /// Number of entries without a readable key.
    pub unnamed: usize,
}

/// Reads the answer to a range request.
///
/// # Errors
/// That of `from`, or [`io::ErrorKind::InvalidData`] if it is not such an answer.
pub fn range(from: impl Read, keys: &LeaseKeys) -> io::Result<Range> {
    let value = json::read(from, &RANGE)?;
    let header = value.get("header").unwrap_or(&Value::Null);
    let (cluster, revision) = header_of(header)?;
    if value.get("kvs").is_some_and(|kvs| !kvs.is_array()) {
        return Err(invalid("`kvs` is not a list"));
    }
    let entries = json::elements(value.get("kvs"));
    let leases: Vec<Lease> = entries
        .iter()
        .filter_map(|entry| keys.lease(entry))
        .collect();
    let has_more = value.get("more").and_then(Value::as_bool) == Some(true);
    let last = entries.last().map(|entry| bytes(entry, "/key"));
    let next = match (has_more, last) {
        (false, _) => None,
        (true, Some(Some(key))) if !key.is_empty() => Some(key),
        (true, _) => return Err(invalid("there are more leases, but none is in the answer")),
    };
    Ok(Range {
        cluster,
        revision,
        next,
        count: json::number(&value, "/count").unwrap_or(0),
        unnamed: entries.len() - leases.len(),
        leases,
    })
}

fn header_of(header: &Value) -> io::Result<(u64, u64)> {
    match (
        json::number(header, "/cluster_id"),
        json::number(header, "/revision"),
    ) {
        (Some(cluster), Some(revision)) => Ok((cluster, revision)),
        _ => Err(invalid("the answer has no cluster_id and revision")),
    }
}

/// One message of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The watch was created.
    Created,
    /// Changes, the oldest first.
    Changes {
        /// Revision of the store.
        revision: u64,
        /// The changes.
        changes: Vec<Change>,
    },
    /// There were no other changes up to this revision.
    Progress(u64),
    /// The watch is over, although the connection stays open.
    Canceled {
        /// Oldest revision that can be watched, if the requested one was compacted.
        compacted: Option<u64>,
        /// Reason; empty if unknown.
        reason: String,
    },
    /// The watch failed.
    Failed(Failure),
}

/// A change of one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Added or renewed.
    Put(Lease),
    /// Deleted or expired: the name of the lease.
    Deleted(String),
    /// A key that is not one of a lease.
    Unnamed,
}

/// Reads one line of a watch.
///
/// # Errors
/// [`io::Error`] if it is not a message of a watch.
pub fn message(line: &[u8], keys: &LeaseKeys) -> io::Result<Message> {
    let value = json::read(line, &WATCH)?;
    if let Some(error) = value.get("error") {
        let code = json::number(error, "/grpc_code").or_else(|| json::number(error, "/code"));
        return Ok(Message::Failed(Failure {
            code: code.unwrap_or(0),
            message: json::text(error, "/message").to_owned(),
        }));
    }
    let result = value
        .get("result")
        .filter(|result| result.is_object())
        .ok_or_else(|| invalid("the message of a watch has no result"))?;
    let is = |key: &str| result.get(key).and_then(Value::as_bool) == Some(true);
    if is("canceled") {
        return Ok(Message::Canceled {
            compacted: json::number(result, "/compact_revision").filter(|revision| *revision > 0),
            reason: json::text(result, "/cancel_reason").to_owned(),
        });
    }
    if is("created") {
        return Ok(Message::Created);
    }
    let (_, revision) = header_of(result.get("header").unwrap_or(&Value::Null))?;
    match result.get("events") {
        None => Ok(Message::Progress(revision)),
        Some(Value::Array(events)) => {
            let changes = events.iter().map(|event| change(event, keys)).collect();
            Ok(Message::Changes { revision, changes })
        }
        Some(_) => Err(invalid("`events` is not a list")),
    }
}

fn change(event: &Value, keys: &LeaseKeys) -> Change {
    let Some(lease) = event.get("kv").and_then(|entry| keys.lease(entry)) else {
        return Change::Unnamed;
    };
    match json::text(event, "/type") {
        "DELETE" => Change::Deleted(lease.name),
        // PUT is the zero value, and omitted.
        _ => Change::Put(lease),
    }
}

/// A failure, as the gateway reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Status code of gRPC; 0 if it is missing.
    pub code: u64,
    /// Text for people.
    pub message: String,
}

/// gRPC's `OutOfRange`: a compacted or future revision.
const OUT_OF_RANGE: u64 = 11;
/// gRPC's `Unauthenticated`: an invalid or expired token.
const UNAUTHENTICATED: u64 = 16;

impl Failure {
    /// Whether the revision was compacted: the leases must be listed again.
    pub fn is_compacted(&self) -> bool {
        self.code == OUT_OF_RANGE
    }

    /// Whether the token is invalid or has expired: a new one is needed.
    pub fn is_token_invalid(&self) -> bool {
        self.code == UNAUTHENTICATED || self.message.contains("invalid auth token")
    }
}

/// Reads the body of an answer with an HTTP error; `None` if it is not one of the gateway.
pub fn failure(body: &[u8]) -> Option<Failure> {
    // Trailers of gRPC may follow.
    let end = body.iter().rposition(|byte| *byte == b'}')?;
    let value = json::read(&body[..=end], &FAILURE).ok()?;
    let message = [json::text(&value, "/message"), json::text(&value, "/error")];
    let message = message.into_iter().find(|text| !text.is_empty())?;
    Some(Failure {
        code: json::number(&value, "/code").unwrap_or(0),
        message: message.to_owned(),
    })
}

/// Decodes a key or value.
fn bytes(entry: &Value, path: &str) -> Option<Vec<u8>> {
    STANDARD.decode(json::text(entry, path)).ok()
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests;
