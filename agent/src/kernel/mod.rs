//! The kernel over netlink: sockets, nf_tables events, interfaces, routes, and this host's sockets.

pub mod events;
pub mod links;
pub mod netlink;
pub mod routes;
pub mod sockets;
