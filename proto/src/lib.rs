//! What peerwall speaks: pure codecs between bytes and typed values.
//!
//! Nothing in this crate opens a socket, reads a file or knows a policy; the build enforces it
//! (`clippy.toml` beside `Cargo.toml` forbids the types and functions that could).
//!
//! - [`attr`]: netlink attributes, and the one place where byte order is decided.
//! - [`message`]: netlink messages and datagrams.
//! - [`ack`]: the kernel's answers to requests.
//! - [`conntrack`] has connections, as connection tracking knows them.
//! - [`rtnetlink`]: lists of [`link`]s (interfaces), their [`address`]es, [`route`]s and [`neighbour`]s.
//! - [`iptables`]: the text of iptables-save and iptables-restore.
//! - [`ipset`]: the text of ipset save.
//! - [`route`]: the route to one address.
//! - [`sock_diag`]: sockets of this host, and the end of one.
//! - [`nf_tables`]: tables, chains, sets, elements, rules, expressions, objects, events.

pub mod ack;
pub mod address;
pub mod attr;
pub mod conntrack;
pub mod ipset;
pub mod iptables;
pub mod link;
pub mod message;
pub mod neighbour;
pub mod nf_tables;
pub mod route;
pub mod route_lookup;
pub mod rtnetlink;
pub mod sock_diag;
