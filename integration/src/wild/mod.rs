//! Packets as bytes, of kinds that neither the import nor the policy's model has a word for, sent
//! through the rules in one host, and through the imported policy in its twin.
//!
//! Nothing here knows what a rule means: each packet carries a number (IPv4 identification, IPv6
//! flow label), and the kernel writes down the numbers that come out behind all filters.
//!
//! - [`packet`]: the packets. [`named`]: what a text names, which they are near to.
//! - [`rules`]: files of rules, of a few lines.
//! - [`twins`]: the two hosts.

pub mod named;
pub mod packet;
pub mod rules;
pub mod twins;
