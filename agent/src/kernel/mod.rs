//! The kernel over netlink: sockets, nf_tables events, logged packets, interfaces, routes, and this
//! host's sockets.

pub mod events;
pub mod links;
pub mod netlink;
pub mod nflog;
pub mod routes;
pub mod sockets;
pub mod tables;
pub mod tracing;
