//! Addresses, ports, protocols, interfaces, packets, and facts of a host.

pub mod addr;
pub mod host;
pub mod interface;
pub mod link;
pub mod packet;
pub mod port;
pub mod protocol;
