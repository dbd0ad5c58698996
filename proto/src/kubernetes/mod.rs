//! The part of the Kubernetes API that lists and watches nodes.
//!
//! Format: `k8s.io/api/core/v1` (`Node`, `NodeAddress`), `k8s.io/apimachinery/pkg/apis/meta/v1`
//! (`ListMeta`, `Status`, `WatchEvent`); protocol: "Kubernetes API Concepts", sections "Efficient
//! detection of changes" and "Retrieving large results sets in chunks".

mod kubeconfig;
mod node;

use std::io::{self, Read};

use serde_json::Value;

use crate::json::{self, Keep};
pub use kubeconfig::{Cluster, Kubeconfig, KubeconfigError, Secret};
pub(crate) use node::not_an_address;
pub use node::{AddressKind, Node, NodeAddress};

/// Path of the object whose UID identifies a cluster.
pub const IDENTITY_PATH: &str = "/api/v1/namespaces/kube-system";
/// Value of `Accept` for metadata only. Servers older than 1.15 send the complete objects.
pub const ACCEPT_METADATA: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

const NODES_PATH: &str = "/api/v1/nodes";
const LIST: Keep = Keep::Fields(&[
    (
        "metadata",
        Keep::Fields(&[
            ("resourceVersion", Keep::Leaf),
            ("continue", Keep::Leaf),
            ("remainingItemCount", Keep::Leaf),
        ]),
    ),
    ("items", Keep::Each(&node::KEEP)),
]);
const UID: Keep = Keep::Fields(&[("metadata", Keep::Fields(&[("uid", Keep::Leaf)]))]);
const STATUS: Keep = Keep::Fields(&[
    ("kind", Keep::Leaf),
    ("code", Keep::Leaf),
    ("reason", Keep::Leaf),
    ("message", Keep::Leaf),
]);
/// An event. Its object is a node, or a `Status` if the watch failed.
const EVENT: Keep = Keep::Fields(&[("type", Keep::Leaf), ("object", node::KEEP_OR_STATUS)]);

/// Returns the path of one page of the list of nodes. `limit` is the number of nodes a page, and
/// `next` is [`Page::next`] of the page before.
pub fn list_path(selector: Option<&str>, limit: u32, next: Option<&str>) -> String {
    let limit = limit.to_string();
    path(&[
        ("limit", Some(&limit)),
        ("labelSelector", selector),
        ("continue", next),
    ])
}

/// Returns the path of a watch that the server ends after `seconds`. It begins after `revision`.
pub fn watch_path(selector: Option<&str>, revision: &str, seconds: u64) -> String {
    let seconds = seconds.to_string();
    path(&[
        ("watch", Some("1")),
        ("allowWatchBookmarks", Some("true")),
        ("resourceVersion", Some(revision)),
        ("timeoutSeconds", Some(&seconds)),
        ("labelSelector", selector),
    ])
}

fn path(query: &[(&str, Option<&str>)]) -> String {
    let given = query
        .iter()
        .filter_map(|(key, value)| Some((key, value.as_ref()?)));
    let pairs: Vec<_> = given
        .map(|(key, value)| format!("{key}={}", escape(value)))
        .collect();
    format!("{NODES_PATH}?{}", pairs.join("&"))
}

/// Escapes all bytes but the unreserved characters of RFC 3986, section 2.3.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// One page of a list of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// `resourceVersion` of the list, the same on all pages.
    pub revision: String,
    /// Token of the next page; `None` on the last one.
    pub next: Option<String>,
    /// Number of nodes on the pages after this one. Unknown if a selector is used.
    pub remaining: Option<u64>,
    /// Nodes of this page that have a name.
    pub nodes: Vec<Node>,
    /// Number of entries without a usable name.
    pub unnamed: usize,
}

/// Reads one page of a list.
///
/// # Errors
/// That of `from`, or [`io::ErrorKind::InvalidData`] if it is not a list of nodes.
pub fn list(from: impl Read) -> io::Result<Page> {
    let mut value = json::read(from, &LIST)?;
    let revision = json::text(&value, "/metadata/resourceVersion").to_owned();
    let next = json::text(&value, "/metadata/continue").to_owned();
    let remaining = json::number(&value, "/metadata/remainingItemCount");
    let items = match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        // Go writes an empty list as null.
        Some(Value::Null) => Vec::new(),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) | None => {
            return Err(invalid("the answer is not a list of nodes"));
        }
    };
    if revision.is_empty() {
        return Err(invalid("the list of nodes has no resourceVersion"));
    }
    let nodes: Vec<Node> = items.iter().filter_map(Node::of).collect();
    Ok(Page {
        revision,
        next: Some(next).filter(|next| !next.is_empty()),
        remaining,
        unnamed: items.len() - nodes.len(),
        nodes,
    })
}

/// Reads the UID of the object at [`IDENTITY_PATH`]: printable ASCII without blanks.
///
/// # Errors
/// That of `from`, or [`io::ErrorKind::InvalidData`] if it has none.
pub fn uid(from: impl Read) -> io::Result<String> {
    let value = json::read(from, &UID)?;
    match json::text(&value, "/metadata/uid") {
        uid if is_word(uid) => Ok(uid.to_owned()),
        _ => Err(invalid("the namespace has no UID")),
    }
}

fn is_word(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node was added or modified.
    Put(Node),
    /// A node was deleted, or no longer matches the selector.
    Deleted(Node),
    /// The server has sent all changes up to this revision.
    Bookmark(String),
    /// An object without a usable name.
    Unnamed,
    /// The watch failed and ends.
    Failed(Failure),
}

/// Reads one line of a watch.
///
/// # Errors
/// [`io::Error`] if it is not an event of nodes.
pub fn event(line: &[u8]) -> io::Result<Event> {
    let value = json::read(line, &EVENT)?;
    let object = value.get("object").unwrap_or(&Value::Null);
    match json::text(&value, "/type") {
        "ADDED" | "MODIFIED" => Ok(Node::of(object).map_or(Event::Unnamed, Event::Put)),
        "DELETED" => Ok(Node::of(object).map_or(Event::Unnamed, Event::Deleted)),
        "BOOKMARK" => match json::text(object, "/metadata/resourceVersion") {
            "" => Err(invalid("a bookmark has no resourceVersion")),
            revision => Ok(Event::Bookmark(revision.to_owned())),
        },
        "ERROR" => Ok(Event::Failed(failure_of(object))),
        other => Err(invalid(&format!("unknown event {other:?}"))),
    }
}

/// A `Status` that reports a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status code; 0 if it is missing.
    pub code: u64,
    /// Reason, such as `Expired`; empty if unknown.
    pub reason: String,
    /// Text for people.
    pub message: String,
}

impl Failure {
    /// Whether the requested revision, or a page token, is too old: the nodes must be listed again.
    pub fn is_gone(&self) -> bool {
        self.code == 410 || matches!(self.reason.as_str(), "Gone" | "Expired")
    }
}

/// Reads the body of an answer with an HTTP error; `None` if it is not a `Status`.
pub fn failure(body: &[u8]) -> Option<Failure> {
    let value = json::read(body, &STATUS).ok()?;
    (json::text(&value, "/kind") == "Status").then(|| failure_of(&value))
}

fn failure_of(value: &Value) -> Failure {
    Failure {
        code: json::number(value, "/code").unwrap_or(0),
        reason: json::text(value, "/reason").to_owned(),
        message: json::text(value, "/message").to_owned(),
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests;
