//! Sets of addresses, as conditions on them use them.

use std::collections::BTreeMap;

use super::{Condition, Interval, Test};
use crate::net::addr::Family;
use crate::net::port::{TCP, UDP};

/// Sets of `ipset save`, by name.
pub type ImportedSets = BTreeMap<String, ImportedSet>;

/// An address and a port: the element of a `hash:ip,port` or `hash:net,port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPort {
    /// Addresses.
    pub addresses: Interval,
    /// Protocol.
    pub protocol: u8,
    /// Ports.
    pub ports: (u16, u16),
}

/// Content of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportedSet {
    /// Addresses of both families. Only a list of sets has both.
    Addresses {
        /// Family of the set, if it has one.
        family: Option<Family>,
        /// IPv4.
        v4: Vec<Interval>,
        /// IPv6.
        v6: Vec<Interval>,
    },
    /// Ports of TCP and UDP.
    Ports(Vec<(u16, u16)>),
    /// Addresses with ports, of one family.
    AddressPorts(Family, Vec<AddressPort>),
    /// Something else, for this reason.
    Unknown(String),
}

impl ImportedSet {
    /// Returns the family of the set, if it has one and that is known. iptables refuses rules of
    /// the other family.
    pub(super) fn family(&self) -> Option<Family> {
        match self {
            Self::Addresses { family, .. } => *family,
            Self::AddressPorts(family, _) => Some(*family),
            Self::Ports(_) | Self::Unknown(_) => None,
        }
    }

    /// Returns the test for a packet of this family, with these dimensions (`src`, `src,dst`).
    pub(super) fn test(&self, family: Family, dimensions: &str) -> Result<Test, String> {
        let mut sides = dimensions.split(',');
        let first = sides.next().unwrap_or_default();
        match self {
            Self::Unknown(why) => Err(why.clone()),
            Self::Addresses { v4, v6, .. } => {
                let spans = match family {
                    Family::V4 => v4,
                    Family::V6 => v6,
                };
                Ok(address(first, spans.clone()))
            }
            Self::Ports(ranges) => {
                let protocols = Test::Protocol(vec![TCP, UDP]);
                let all = vec![plain(protocols), plain(port(first, ranges.clone()))];
                Ok(Test::Any(vec![all]))
            }
            Self::AddressPorts(of, elements) => {
                let second = sides.next().ok_or("its elements have two dimensions")?;
                let elements = elements.iter().filter(|_| *of == family);
                Ok(Test::Any(
                    elements
                        .map(|each| each.conditions(first, second))
                        .collect(),
                ))
            }
        }
    }
}

fn address(side: &str, spans: Vec<Interval>) -> Test {
    match side {
        "src" => Test::Source(spans),
        _ => Test::Destination(spans),
    }
}

fn port(side: &str, ranges: Vec<(u16, u16)>) -> Test {
    match side {
        "src" => Test::SourcePorts(ranges),
        _ => Test::DestinationPorts(ranges),
    }
}

fn plain(test: Test) -> Condition {
    Condition {
        negated: false,
        test,
    }
}

impl AddressPort {
    fn conditions(&self, first: &str, second: &str) -> Vec<Condition> {
        let tests = [
            address(first, vec![self.addresses]),
            Test::Protocol(vec![self.protocol]),
            port(second, vec![self.ports]),
        ];
        tests.map(plain).into()
    }
}
