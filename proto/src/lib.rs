//! Protocols of peerwall: pure codecs between bytes and typed values.
//!
//! Nothing in this crate opens a socket, reads a file or depends on a policy. The build enforces
//! this: `clippy.toml` beside `Cargo.toml` forbids such types and functions.
//!
//! The feature `netlink`, on by default, enables the modules of the kernel's protocols.
//!
//! - [`netlink`]: attributes, messages and the kernel's responses; the only module that decides
//!   byte order.
//! - [`nf_tables`]: tables, chains, sets, elements, rules, expressions, objects, events.
//! - [`conntrack`]: connection tracking entries.
//! - [`nflog`]: packets that rules log to a group.
//! - [`rtnetlink`]: interfaces, addresses, routes and neighbours.
//! - [`sock_diag`]: sockets of this host, listed or destroyed.
//! - [`iptables`]: the text of iptables-save and iptables-restore.
//! - [`ipset`]: the text of ipset save.
//! - [`kubernetes`], [`etcd`], [`dns`]: answers of the engines that know the nodes of a cluster.
//! - [`credential`]: when certificates and tokens expire.

#[cfg(feature = "netlink")]
pub mod conntrack;
pub mod credential;
pub mod dns;
pub mod etcd;
pub mod ipset;
pub mod iptables;
mod json;
pub mod kubernetes;
#[cfg(feature = "netlink")]
pub mod netlink;
#[cfg(feature = "netlink")]
pub mod nf_tables;
#[cfg(feature = "netlink")]
pub mod nflog;
#[cfg(feature = "netlink")]
pub mod rtnetlink;
#[cfg(feature = "netlink")]
pub mod sock_diag;
