//! Keys and values of flannel's leases.

use std::net::IpAddr;

use serde_json::Value;

use super::bytes;
use crate::json::{self, Keep};
use crate::kubernetes::not_an_address;

const LEASE: Keep = Keep::Fields(&[("PublicIP", Keep::Leaf), ("PublicIPv6", Keep::Leaf)]);

/// The keys of all leases of one flannel network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseKeys {
    /// `PREFIX/subnets/`.
    start: String,
}

impl LeaseKeys {
    /// Returns the keys below a prefix, such as `/coreos.com/network` (`--etcd-prefix`).
    pub fn new(prefix: &str) -> Self {
        Self {
            start: format!("{}/subnets/", prefix.trim_end_matches('/')),
        }
    }

    /// Returns the first key, and the first one after all.
    pub(super) fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let first = self.start.as_bytes().to_vec();
        let mut end = first.clone();
        if let Some(last) = end.last_mut() {
            // It is a slash.
            *last += 1;
        }
        (first, end)
    }

    /// Reads a lease; `None` if the key is not one of these keys.
    pub(super) fn lease(&self, entry: &Value) -> Option<Lease> {
        let key = String::from_utf8(bytes(entry, "/key")?).ok()?;
        let name = key.strip_prefix(&self.start)?;
        if name.is_empty() {
            return None;
        }
        let mut lease = Lease {
            name: name.to_owned(),
            addresses: Vec::new(),
            refused: Vec::new(),
        };
        let value = bytes(entry, "/value").and_then(|bytes| json::read(&bytes[..], &LEASE).ok());
        match value {
            Some(value) => lease.read(&value),
            None => lease.refused.push("the value is not JSON".to_owned()),
        }
        Some(lease)
    }
}

/// A lease: the subnet of one node, and the node's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Name: the subnet or subnets, as flannel writes them in the key: `10.5.52.0-24`.
    pub name: String,
    /// Addresses of the node.
    pub addresses: Vec<IpAddr>,
    /// Reasons why other addresses were refused.
    pub refused: Vec<String>,
}

impl Lease {
    fn read(&mut self, value: &Value) {
        for key in ["PublicIP", "PublicIPv6"] {
            let text = match value.get(key) {
                None | Some(Value::Null) => continue,
                Some(text) => text.as_str().unwrap_or_default(),
            };
            match text.parse::<IpAddr>() {
                Ok(address) => self.addresses.push(address.to_canonical()),
                Err(_) => self
                    .refused
                    .push(format!("{key}: {}", not_an_address(text))),
            }
        }
        // Without IPv4, flannel writes 0.0.0.0 as the IPv4 address.
        if self.addresses.iter().any(|each| !each.is_unspecified()) {
            self.addresses.retain(|each| !each.is_unspecified());
        }
    }
}
