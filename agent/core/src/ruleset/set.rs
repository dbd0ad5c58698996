//! Sets, their keys and their elements.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::net::addr::Family;

/// Type of the elements of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyType {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `inet_service`: ports.
    Port,
    /// `icmp_type`
    IcmpType,
    /// `icmpv6_type`
    Icmpv6Type,
    /// `ether_addr`
    Ether,
}

impl KeyType {
    /// All key types.
    pub const ALL: [Self; 6] = [
        Self::Ipv4,
        Self::Ipv6,
        Self::Port,
        Self::IcmpType,
        Self::Icmpv6Type,
        Self::Ether,
    ];

    /// Returns the type for addresses of a family.
    pub fn address(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4,
            Family::V6 => Self::Ipv6,
        }
    }

    /// Returns the type for ICMP types of a family.
    pub fn icmp(family: Family) -> Self {
        match family {
            Family::V4 => Self::IcmpType,
            Family::V6 => Self::Icmpv6Type,
        }
    }

    /// Returns the name of the type in nft.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Port => "inet_service",
            Self::IcmpType => "icmp_type",
            Self::Icmpv6Type => "icmpv6_type",
            Self::Ether => "ether_addr",
        }
    }

    /// Returns the number of the type in nft (`enum datatypes` in nftables `include/datatype.h`).
    /// The kernel stores it for nft, which formats keys by it.
    pub fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Port => 13,
            Self::IcmpType => 14,
            Self::Icmpv6Type => 29,
            Self::Ether => 9,
        }
    }

    /// Returns the length of a key in bytes.
    pub fn len_bytes(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
            Self::Port => 2,
            Self::IcmpType | Self::Icmpv6Type => 1,
            Self::Ether => 6,
        }
    }

    /// Returns the largest value of a key.
    pub fn max(self) -> u128 {
        u128::MAX >> (128 - 8 * self.len_bytes())
    }
}

/// A named set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Type of the elements.
    pub key: KeyType,
    /// Whether the elements are intervals (`flags interval`) rather than single values.
    pub interval: bool,
    /// Whether the set is a meter. Rules add source addresses to a meter, each with its own rate
    /// ([`Rule::meter`](super::Rule::meter)); a ruleset lists no elements for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub meter: bool,
    /// Whether elements may end by themselves (`flags timeout`): see
    /// [`Ruleset::ends`](super::Ruleset::ends).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed: bool,
    /// Elements, ascending and disjoint.
    pub elements: Elements,
}

/// Capacity of a meter in source addresses. While it is full, new sources are denied.
pub const METER_SIZE: u32 = 65_535;

/// Time after which a meter forgets a source that opens no connection, in seconds.
pub const METER_TIMEOUT_SECONDS: u32 = 60;

/// An element: one value or an interval.
///
/// Serialized as `[first]`, `[first, last]` or `[first, last, comment]`, because a ruleset can have
/// very many elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// First value.
    pub first: u128,
    /// Last value.
    pub last: u128,
    /// Name of the peer or group that owns the address. Copies share it.
    pub comment: Option<Arc<str>>,
}

/// Elements of a set. Copies of a set share them, since a ruleset can have very many.
#[derive(Clone, Default, Eq)]
pub struct Elements(Arc<[Element]>);

impl PartialEq for Elements {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

/// When elements of timed sets end, as time since boot; `None` for never.
///
/// This is no part of a ruleset's content, because the kernel counts the time down: all values are
/// equal, and none is stored. An element without an entry ends as soon as it is loaded.
#[derive(Debug, Clone, Default)]
pub struct Ends(pub BTreeMap<IpAddr, Option<Duration>>);

impl PartialEq for Ends {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Ends {}

impl Deref for Elements {
    type Target = [Element];

    fn deref(&self) -> &[Element] {
        &self.0
    }
}

impl From<Vec<Element>> for Elements {
    fn from(elements: Vec<Element>) -> Self {
        Self(elements.into())
    }
}

impl FromIterator<Element> for Elements {
    fn from_iter<I: IntoIterator<Item = Element>>(elements: I) -> Self {
        Self(elements.into_iter().collect())
    }
}

impl<'e> IntoIterator for &'e Elements {
    type Item = &'e Element;
    type IntoIter = std::slice::Iter<'e, Element>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Debug for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Elements {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

impl Element {
    /// Creates an element of one value without a comment.
    pub fn one(value: u128) -> Self {
        Self {
            first: value,
            last: value,
            comment: None,
        }
    }
}

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.comment {
            None if self.first == self.last => [self.first].serialize(serializer),
            None => [self.first, self.last].serialize(serializer),
            Some(comment) => (self.first, self.last, &**comment).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;

        impl<'de> Visitor<'de> for Parts {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[first], [first, last] or [first, last, comment]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Element, A::Error> {
                let first = parts.next_element()?;
                let first = first.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                Ok(Element {
                    first,
                    last: parts.next_element()?.unwrap_or(first),
                    comment: parts.next_element::<String>()?.map(Arc::from),
                })
            }
        }

        deserializer.deserialize_seq(Parts)
    }
}

impl Set {
    /// Whether the elements change only by transactions, not by packets or time.
    pub fn is_steady(&self) -> bool {
        !self.meter && !self.timed
    }

    /// Reports whether the set contains this value.
    pub fn contains(&self, value: u128) -> bool {
        self.find(value).is_some()
    }

    /// Reports whether every element of the other set is within one element of this set. An element
    /// that only several elements together cover does not count.
    pub fn covers(&self, other: &Self) -> bool {
        let mut own = self.elements.iter().peekable();
        self.key == other.key
            && other.elements.iter().all(|element| {
                while own.next_if(|own| own.last < element.first).is_some() {}
                own.peek()
                    .is_some_and(|own| own.first <= element.first && element.last <= own.last)
            })
    }

    /// Finds the element that contains this value.
    pub fn find(&self, value: u128) -> Option<&Element> {
        let after = self.elements.partition_point(|e| e.first <= value);
        let before = self.elements[..after].last();
        before.filter(|element| element.last >= value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_kept_short_and_come_back() {
        let of = |first, last, comment: Option<&str>| Element {
            first,
            last,
            comment: comment.map(Arc::from),
        };
        for (element, text) in [
            (of(7, 7, None), "[7]"),
            (of(7, 9, None), "[7,9]"),
            (of(7, 7, Some("a")), "[7,7,\"a\"]"),
            (
                of(u128::MAX, u128::MAX, None),
                "[340282366920938463463374607431768211455]",
            ),
        ] {
            assert_eq!(serde_json::to_string(&element).ok().as_deref(), Some(text));
            assert_eq!(serde_json::from_str(text).ok(), Some(element));
        }
        for text in ["[]", "7", "[7,8,9]", "[7,8,\"a\",1]", "[-1]"] {
            assert!(serde_json::from_str::<Element>(text).is_err(), "{text}");
        }
    }
}
