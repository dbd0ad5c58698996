//! What peerwall speaks: pure codecs between bytes and typed values.
//!
//! Nothing in this crate opens a socket, reads a file or knows a policy; the build enforces it
//! (`clippy.toml` beside `Cargo.toml` forbids the types and functions that could).
//!
//! - [`netlink`]: attributes, messages, and the kernel's answers; the one place where byte order is
//!   decided.
//! - [`nf_tables`]: tables, chains, sets, elements, rules, expressions, objects, events.
//! - [`conntrack`]: connections of connection tracking.
//! - [`rtnetlink`]: interfaces, their addresses, routes and neighbours.
//! - [`sock_diag`]: sockets of this host, and how to end one.
//! - [`iptables`]: the text of iptables-save and iptables-restore.
//! - [`ipset`]: the text of ipset save.

pub mod conntrack;
pub mod ipset;
pub mod iptables;
pub mod netlink;
pub mod nf_tables;
pub mod rtnetlink;
pub mod sock_diag;
