//! Words of the network: addresses, ports, interfaces, packets, and what the kernel says of a host.

pub mod addr;
pub mod host;
pub mod interface;
pub mod link;
pub mod packet;
pub mod port;
