//! The kernel by netlink: a socket, events of nf_tables, interfaces, routes, and sockets of this host.

pub mod events;
pub mod links;
pub mod netlink;
pub mod routes;
pub mod sockets;
