//! The addresses of a node.

use std::net::IpAddr;

use serde_json::Value;

use crate::json::{self, Keep};

/// Maximum number of addresses of one node. Real nodes have up to eight.
const ADDRESSES_MAX: usize = 64;
/// Maximum length of a name in bytes: that of a DNS subdomain (RFC 1123).
const NAME_MAX_BYTES: usize = 253;

/// Flannel's annotations with addresses: those that it sets, and those that override them
/// (`pkg/subnet/kube/annotations.go` in flannel).
const ANNOTATIONS: [&str; 4] = [
    "flannel.alpha.coreos.com/public-ip",
    "flannel.alpha.coreos.com/public-ipv6",
    "flannel.alpha.coreos.com/public-ip-overwrite",
    "flannel.alpha.coreos.com/public-ipv6-overwrite",
];

const METADATA: Keep = Keep::Fields(&[
    ("name", Keep::Leaf),
    ("resourceVersion", Keep::Leaf),
    (
        "annotations",
        Keep::Fields(&[
            (ANNOTATIONS[0], Keep::Leaf),
            (ANNOTATIONS[1], Keep::Leaf),
            (ANNOTATIONS[2], Keep::Leaf),
            (ANNOTATIONS[3], Keep::Leaf),
        ]),
    ),
]);
const STATUS: Keep = Keep::Fields(&[(
    "addresses",
    Keep::Each(&Keep::Fields(&[
        ("type", Keep::Leaf),
        ("address", Keep::Leaf),
    ])),
)]);
/// The parts of a `Node`.
pub(super) const KEEP: Keep = Keep::Fields(&[("metadata", METADATA), ("status", STATUS)]);
/// The parts of a `Node` or `Status`.
pub(super) const KEEP_OR_STATUS: Keep = Keep::Fields(&[
    ("metadata", METADATA),
    ("status", STATUS),
    ("code", Keep::Leaf),
    ("reason", Keep::Leaf),
    ("message", Keep::Leaf),
]);

/// Origin of a node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// `InternalIP` of `status.addresses`.
    InternalIp,
    /// `ExternalIP` of `status.addresses`.
    ExternalIp,
    /// An annotation of flannel.
    Flannel,
}

/// An address of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAddress {
    /// Origin.
    pub kind: AddressKind,
    /// The address; IPv4 if it was an IPv4-mapped IPv6 address.
    pub address: IpAddr,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`, not empty.
    pub name: String,
    /// `metadata.resourceVersion`; empty if it is missing.
    pub revision: String,
    /// Usable addresses, in the order of the object.
    pub addresses: Vec<NodeAddress>,
    /// Reasons why other addresses of the node were refused.
    pub refused: Vec<String>,
}

impl Node {
    /// Reads a node; `None` if it has no name.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let name = json::text(object, "/metadata/name");
        if name.is_empty() || name.len() > NAME_MAX_BYTES {
            return None;
        }
        let mut node = Self {
            name: name.to_owned(),
            revision: json::text(object, "/metadata/resourceVersion").to_owned(),
            addresses: Vec::new(),
            refused: Vec::new(),
        };
        for entry in json::elements(object.pointer("/status/addresses")) {
            node.add_status_address(entry);
        }
        node.add_annotations(object);
        if node.addresses.len() > ADDRESSES_MAX {
            let count = node.addresses.len();
            node.addresses.clear();
            node.refused = vec![format!("{count} addresses, of at most {ADDRESSES_MAX}")];
        }
        Some(node)
    }

    fn add_status_address(&mut self, entry: &Value) {
        let kind = match json::text(entry, "/type") {
            "InternalIP" => AddressKind::InternalIp,
            "ExternalIP" => AddressKind::ExternalIp,
            // Hostname, InternalDNS, ExternalDNS and others.
            _ => return,
        };
        self.add(kind, "status.addresses", json::text(entry, "/address"));
    }

    fn add_annotations(&mut self, object: &Value) {
        let Some(annotations) = object.pointer("/metadata/annotations") else {
            return;
        };
        for name in ANNOTATIONS {
            let Some(value) = annotations.get(name) else {
                continue;
            };
            self.add(
                AddressKind::Flannel,
                name,
                value.as_str().unwrap_or_default(),
            );
        }
        self.drop_placeholder();
    }

    /// Without IPv4, flannel writes 0.0.0.0 as the IPv4 address.
    fn drop_placeholder(&mut self) {
        let is_flannel = |each: &NodeAddress| each.kind == AddressKind::Flannel;
        let mut flannel = self.addresses.iter().filter(|each| is_flannel(each));
        if flannel.any(|each| !each.address.is_unspecified()) {
            let is_placeholder =
                |each: &NodeAddress| is_flannel(each) && each.address.is_unspecified();
            self.addresses.retain(|each| !is_placeholder(each));
        }
    }

    fn add(&mut self, kind: AddressKind, place: &str, text: &str) {
        match text.parse::<IpAddr>() {
            Ok(address) => self.addresses.push(NodeAddress {
                kind,
                address: address.to_canonical(),
            }),
            Err(_) if self.refused.len() < ADDRESSES_MAX => {
                self.refused
                    .push(format!("{place}: {}", not_an_address(text)));
            }
            Err(_) => {}
        }
    }
}

/// Says that a text is not an address; quotes its beginning.
pub(crate) fn not_an_address(text: &str) -> String {
    let shown: String = text.chars().take(64).collect();
    format!("{shown:?} is not an IP address")
}
